"""Times the compiled ops against torchvision's, side by side in one process.

Each case runs both contenders in turn, many times; the table gives the median and the minimum of each, and the median
of the paired ratios. "Fresh" is how the ops run by default: large outputs come from pages that the system has to map
and clear first. "Warm" starts a second process in which the C library keeps freed memory, so outputs reuse pages (CPU
only).

    python benchmarks/ops.py                      all cases on the CPU, fresh and warm
    python benchmarks/ops.py --device cuda --filter nms
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor

from maskrcnn_benchmark.layers import batched_nms, extension_status, multi_level_roi_align, nms, roi_align

KEEP_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**36)}
SCALES = (0.25, 0.125, 0.0625, 0.03125)
IMAGE_HW = (800, 1088)
CHANNELS = 256


@dataclass(frozen=True)
class Case:
    """Two ways to the same result. Results are compared before anything is timed."""

    name: str
    ours: Callable[[], object]
    theirs: Callable[[], object]


def feature_map(images: int, level: int, device: str, layout: torch.memory_format) -> Tensor:
    sides = [-(-side // 2 ** (level + 2)) for side in IMAGE_HW]
    return torch.randn(images, CHANNELS, *sides, device=device).contiguous(memory_format=layout)


def random_rois(count: int, images: int, device: str, small: float = 16.0, large: float = 600.0) -> Tensor:
    """(count, 5) rois on the image, their sides spread evenly over the octaves."""
    sides = torch.exp(torch.empty(count, 2).uniform_(torch.log(torch.tensor(small)), torch.log(torch.tensor(large))))
    limit = torch.tensor([IMAGE_HW[1], IMAGE_HW[0]], dtype=torch.float32)
    sides = torch.minimum(sides, limit - 1)
    corners = torch.rand(count, 2) * (limit - sides)
    image = torch.arange(count).remainder(images).sort().values
    return torch.cat([image[:, None], corners, corners + sides], dim=1).to(device)


def crowd(count: int, device: str) -> tuple[Tensor, Tensor]:
    """Boxes as a detector gives them: clusters about objects, each box a jittered copy."""
    objects = random_rois(max(count // 40, 1), 1, "cpu")[:, 1:]
    boxes = objects[torch.randint(len(objects), (count,))]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return (boxes + torch.randn(count, 4) * 0.15 * sides).to(device), torch.rand(count).to(device)


def roi_align_cases(device: str) -> Iterator[Case]:
    for layout in (torch.contiguous_format, torch.channels_last):
        name = "channels-last" if layout is torch.channels_last else "contiguous"
        maps = feature_map(1, 0, device, layout)
        rois = random_rois(1000, 1, device, large=112 * 2)
        for size, samples in ((7, 2), (7, 0), (14, 2)):
            yield Case(
                f"roi_align forward, 1000 rois, {size}x{size}, sampling {samples}, {name}",
                lambda m=maps, r=rois, s=size, n=samples: roi_align(m, r, s, 0.25, n),
                lambda m=maps, r=rois, s=size, n=samples: torchvision.ops.roi_align(m, r, s, 0.25, n or -1),
            )
        grad_rois = rois[:512].contiguous()
        grad = torch.randn(512, CHANNELS, 7, 7, device=device).contiguous(memory_format=layout)
        sizes = list(maps.shape)
        yield Case(
            f"roi_align backward, 512 rois, 7x7, sampling 2, {name}",
            lambda g=grad, r=grad_rois, s=sizes, c=layout is torch.channels_last: (
                torch.ops.maskrcnn_benchmark.roi_align_backward(g, r, s, 0.25, 2, False, c)
            ),
            lambda g=grad, r=grad_rois, s=sizes: torch.ops.torchvision._roi_align_backward(
                g, r, 0.25, 7, 7, *s, 2, False
            ),
        )


def multi_level_cases(device: str) -> Iterator[Case]:
    for layout in (torch.contiguous_format, torch.channels_last):
        name = "channels-last" if layout is torch.channels_last else "contiguous"
        maps = [feature_map(2, level, device, layout).requires_grad_() for level in range(4)]
        rois = random_rois(1024, 2, device)
        boxes = [rois[rois[:, 0] == image, 1:].contiguous() for image in range(2)]
        pooler = torchvision.ops.MultiScaleRoIAlign([str(level) for level in range(4)], 7, 2)
        named = {str(level): maps[level] for level in range(4)}
        grad = torch.randn(1024, CHANNELS, 7, 7, device=device).contiguous(memory_format=layout)

        def ours(maps=maps, rois=rois, grad=grad) -> object:
            return torch.autograd.grad(multi_level_roi_align(maps, rois, 7, SCALES, 2, offset=0), maps, grad)

        def theirs(pooler=pooler, named=named, boxes=boxes, maps=maps, grad=grad) -> object:
            return torch.autograd.grad(pooler(named, boxes, [IMAGE_HW] * 2), maps, grad)

        yield Case(f"multi-level forward + backward, 2 x 512 rois, {name}", ours, theirs)


def nms_cases(device: str) -> Iterator[Case]:
    for count in (1000, 5000, 20000):
        boxes, scores = crowd(count, device)
        yield Case(
            f"nms, {count} boxes",
            lambda b=boxes, s=scores: nms(b, s, 0.7, 0),
            lambda b=boxes, s=scores: torchvision.ops.nms(b, s, 0.7),
        )
    for count, groups in ((24000, 5), (2000, 80), (20000, 80)):
        boxes, scores = crowd(count, device)
        ids = torch.randint(groups, (count,), device=device)
        yield Case(
            f"batched nms, {count} boxes in {groups} groups",
            lambda b=boxes, s=scores, i=ids: batched_nms(b, s, i, 0.7, 0),
            lambda b=boxes, s=scores, i=ids: torchvision.ops.batched_nms(b, s, i, 0.7),
        )


def check(case: Case) -> None:
    ours, theirs = case.ours(), case.theirs()
    if isinstance(ours, Tensor) and ours.dtype == torch.int64:  # indices; near-ties may fall either way
        differing = len(set(ours.tolist()) ^ set(theirs.tolist()))
        assert differing <= 2 + len(ours) // 1000, f"{case.name}: {differing} survivors differ"
    else:
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-3)


def measure(case: Case, device: str, seconds: float) -> tuple[list[float], list[float]]:
    """Alternating times of both contenders, in seconds."""
    times: tuple[list[float], list[float]] = ([], [])
    deadline = time.perf_counter() + seconds
    while len(times[0]) < 5 or (time.perf_counter() < deadline and len(times[0]) < 200):
        for contender, taken in zip((case.ours, case.theirs), times, strict=True):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            result = contender()
            if device == "cuda":
                torch.cuda.synchronize()
            taken.append(time.perf_counter() - start)
            del result
    return times


def median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--filter", default="", help="regular expression; cases whose names match are run")
    parser.add_argument("--seconds", type=float, default=3.0, help="time for one case (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: PyTorch's)")
    parser.add_argument("--memory", choices=("fresh", "warm", "both"), default="both", help="see above; CPU only")
    arguments = parser.parse_args(argv)
    if arguments.device == "cpu" and arguments.memory != "fresh" and "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        own_arguments = sys.argv[1:] if argv is None else list(argv)
        if arguments.memory == "both":
            main([*own_arguments, "--memory", "fresh"])
        command = [sys.executable, __file__, *own_arguments, "--memory", "warm"]
        return subprocess.run(command, env=os.environ | KEEP_FREED_MEMORY, check=False).returncode
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    print(
        f"\ntorch {torch.__version__}, torchvision {torchvision.__version__}, {arguments.device}, "
        f"{torch.get_num_threads()} threads, {arguments.memory} memory, kernels {extension_status()}\n"
    )
    print("| case | ours, median (min) ms | torchvision, median (min) ms | times faster |\n|---|---|---|---|")
    for cases in (roi_align_cases, multi_level_cases, nms_cases):
        for case in cases(arguments.device):
            if not re.search(arguments.filter, case.name):
                continue
            check(case)
            ours, theirs = measure(case, arguments.device, arguments.seconds)
            ratio = median([their / our for our, their in zip(ours, theirs, strict=True)])
            columns = [f"{median(times) * 1e3:.2f} ({min(times) * 1e3:.2f})" for times in (ours, theirs)]
            print(f"| {case.name} | {columns[0]} | {columns[1]} | {ratio:.1f} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
