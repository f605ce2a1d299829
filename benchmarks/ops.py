"""Times the package's ops and the code around them against their peers', side by side in one process.

The results of all contenders are compared. Then the contenders run in turn, many times. The table gives the median and
the minimum of ours and of the fastest peer, and the median of their paired ratios. "Fresh" is the default: the system
has to map and clear new pages for large outputs. "Warm" is a second process in which the C library keeps freed memory,
so that outputs reuse pages (CPU only). "Times the floor" is the ratio of our time to the time of reading and writing
once the bytes that the op has to touch; this copy takes its turn like a peer.

    python benchmarks/ops.py                                    all cases on the CPU, fresh and warm
    python benchmarks/ops.py --device cuda --filter NMS         some of them on a GPU
    python benchmarks/ops.py --markdown docs/BENCHMARKS.md      writes the table into that page
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torchvision
from op_cases import kernels, keypoints, masks, selection
from op_cases.case import Contenders, Traffic
from op_cases.matching import extra_memory

from maskrcnn_benchmark.layers import extension_status

KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**36)}
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
BEGIN, END = "<!-- begin: benchmarks/ops.py -->", "<!-- end: benchmarks/ops.py -->"


@dataclass(frozen=True)
class Row:
    """One case measured: the baseline's name, (median, minimum) in ms of ours and of it, and the paired ratio.

    floor: the paired ratio with reading and writing the bytes that have to be touched; 0 if unknown.
    """

    case: str
    peer: str
    ours: tuple[float, float]
    theirs: tuple[float, float]
    ratio: float
    floor: float

    def columns(self) -> list[str]:
        times = [f"{middle:.2f} ({least:.2f})" for middle, least in (self.ours, self.theirs)]
        return [*times, f"{self.ratio:.1f}", f"{self.floor:.1f}" if self.floor else ""]


def touch(traffic: Traffic, device: str) -> Callable[[], torch.Tensor]:
    """Reads and writes these numbers of bytes with all threads, into memory allocated as for results."""
    source = torch.ones(traffic.read // 4, device=device)
    written = traffic.written // 4

    def run() -> torch.Tensor:
        # NumPy asks for huge pages, as the kernels do for their results
        result = torch.from_numpy(np.empty(written, np.float32)) if device == "cpu" else source.new_empty(written)
        return result.fill_(source.sum()) if device == "cuda" else result.fill_(source.sum().item())

    return run


def once(run: Callable[[], Any], device: str, clock: Callable[[], float]) -> float:
    """Seconds of one run; its result is freed outside of them."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    result = run()
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = clock() - start
    del result
    return seconds


def measure(contenders: Contenders, device: str, seconds: float, clock: Callable[[], float]) -> list[list[float]]:
    """Alternating times, in seconds, of ours, of each peer, and of touching memory if the case has its traffic."""
    runs = [contenders.ours, *(peer.run for peer in contenders.peers)]
    if contenders.traffic is not None:
        runs.append(touch(contenders.traffic, device))
    times: list[list[float]] = [[] for _ in runs]
    deadline = time.perf_counter() + seconds
    while len(times[0]) < 5 or (time.perf_counter() < deadline and len(times[0]) < 200):
        for run, taken in zip(runs, times, strict=True):
            taken.append(once(run, device, clock))
    return times


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def run_case(name: str, contenders: Contenders, arguments: argparse.Namespace) -> Row:
    result = contenders.ours()
    for peer in contenders.peers:
        try:
            peer.compare(result, peer.run())
        except AssertionError as error:
            raise AssertionError(f"{name}: ours and {peer.name} differ: {error}") from error
    ours, *others = measure(contenders, arguments.device, arguments.seconds, CLOCKS[arguments.clock])
    floor = 0.0
    if contenders.traffic is not None:
        floor = median([our / least for our, least in zip(ours, others.pop(), strict=True)])
    fastest = min(range(len(others)), key=lambda index: median(others[index]))
    ratio = median([their / our for our, their in zip(ours, others[fastest], strict=True)])
    summary = [(median(times) * 1e3, min(times) * 1e3) for times in (ours, others[fastest])]
    return Row(name, contenders.peers[fastest].name, summary[0], summary[1], ratio, floor)


def run_all(arguments: argparse.Namespace) -> list[Row]:
    """The cases that the filter admits, each printed when it is done."""
    print(f"\n{machine(arguments)}, {arguments.memory} memory\n", flush=True)
    print("| case | ours, median (min) ms | peer, median (min) ms | times faster | times the floor | peer |")
    print("|---|---|---|---|---|---|")
    rows = []
    families = (module.cases(arguments.device) for module in (kernels, selection, masks, keypoints))
    for case in chain.from_iterable(families):
        if re.search(arguments.filter, case.name):
            torch.manual_seed(0)
            rows.append(run_case(case.name, case.build(), arguments))
            print(f"| {case.name} | {' | '.join(rows[-1].columns())} | {rows[-1].peer} |", flush=True)
    return rows


def machine(arguments: argparse.Namespace) -> str:
    if arguments.device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        model = re.search(r"model name\s*: (.*)", read("/proc/cpuinfo"))
        name = f"{model[1] if model else platform.processor()}, {torch.get_num_threads()} threads"
    return (
        f"{name}; {platform.system()} {platform.release()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, torchvision {torchvision.__version__}, OpenCV {cv2.__version__}; kernels "
        f"{extension_status()}; {arguments.clock} time"
    )


def read(path: str) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def run_in_process(own_arguments: Sequence[str], memory: str) -> list[Row]:
    """All cases in a separate process, whose C library keeps freed memory or gives it back."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        environment = os.environ | (KEEP_FREED_MEMORY if memory == "warm" else {})
        command = [sys.executable, __file__, *own_arguments, "--memory", memory, "--rows", str(rows)]
        subprocess.run(command, env=environment, check=True)
        return [Row(**row) for row in json.loads(rows.read_text())]


def markdown_table(fresh: Sequence[Row], warm: Sequence[Row], arguments: argparse.Namespace) -> str:
    lines = [f"{date.today()}; {machine(arguments)}.", ""]
    header = ["case", "fastest peer"]
    for memory in ("fresh", "warm") if warm else ("fresh",):
        header += [f"{memory}: ours, ms", "peer, ms", "times faster", "times the floor"]
    lines += ["| " + " | ".join(header) + " |", "|---|---" + "|--:" * (len(header) - 2) + "|"]
    again = {row.case: row.columns() for row in warm}
    for row in fresh:
        lines.append("| " + " | ".join([row.case, row.peer, *row.columns(), *again.get(row.case, [])]) + " |")
    return "\n".join(lines)


def write_between_marks(page: Path, text: str) -> None:
    """Replaces what stands between the two marks of a page."""
    old = page.read_text()
    if old.count(BEGIN) != 1 or old.count(END) != 1:
        raise SystemExit(f"{page} needs the lines {BEGIN} and {END}, once each; the table goes between them")
    before, after = old.split(BEGIN)[0], old.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--filter", default="", help="regular expression; cases whose names match are run")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for one case (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: PyTorch's)")
    parser.add_argument("--memory", choices=("fresh", "warm", "both"), default="both", help="see above; CPU only")
    parser.add_argument(
        "--clock",
        choices=tuple(CLOCKS),
        default="wall",
        help="cpu: the processor time that a contender takes, for machines with other work (default: %(default)s)",
    )
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help=f"write the table between {BEGIN} and {END}")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="write the figures as JSON")
    arguments = parser.parse_args(argv)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
        cv2.setNumThreads(arguments.threads)
    own_arguments = sys.argv[1:] if argv is None else list(argv)
    warm: list[Row] = []
    if arguments.device == "cpu" and (
        arguments.memory == "both" or (arguments.memory == "warm" and not keeps_memory())
    ):
        fresh = run_in_process(own_arguments, "fresh") if arguments.memory == "both" else []
        warm = run_in_process(own_arguments, "warm")
    else:
        fresh = run_all(arguments)
    text = markdown_table(fresh or warm, warm if fresh else [], arguments)
    if arguments.device == "cpu" and re.search(arguments.filter, "matching") and arguments.memory == "both":
        text += f"\n\n{extra_memory()}"
        print(f"\n{extra_memory()}")
    if arguments.rows:
        arguments.rows.write_text(json.dumps([asdict(row) for row in fresh]))
    elif arguments.markdown:
        write_between_marks(arguments.markdown, text)
    return 0


def keeps_memory() -> bool:
    return all(os.environ.get(name) == value for name, value in KEEP_FREED_MEMORY.items())


if __name__ == "__main__":
    raise SystemExit(main())
