"""Compare variants of a config: train each with several seeds, and tabulate their results.

    python tools/ablate.py --ablation tools/ablations/refine.yaml --iterations 600 --seeds 1,2,3 --jobs 2 \
        --output output/ablate_refine [KEY VALUE ...]

The file names the config, the variants (what each of them changes) and the metrics. Each run is a process:
`tools/train_net.py` into OUTPUT/VARIANT/seed_N, or `tools/test_net.py` for a variant that only tests the weights of
another one in a different way. The tool can be stopped at any time: started again with the same arguments, it keeps
finished runs and continues the others. After every run it writes OUTPUT/table.md and OUTPUT/results.json.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.engine.run import friendly_errors
from maskrcnn_benchmark.reporting.ablation import Run, plan_runs, read_ablation, write_tables
from maskrcnn_benchmark.utils.argument_types import int_list, positive_int

ROOT = Path(__file__).resolve().parents[1]


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after an error or if a run failed."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    ablation = read_ablation(args.ablation)
    if args.config_file:
        ablation = replace(ablation, config_file=args.config_file)
    variants = args.variants.split(",") if args.variants else list(ablation.variants)
    runs = plan_runs(ablation, variants, args.seeds, args.output, iterations=args.iterations, opts=args.opts)
    settings = {"config_file": ablation.config_file, "iterations": args.iterations, "opts": args.opts}

    def tabulate() -> str:
        return write_tables(ablation, runs, args.output, settings)

    failed = [] if args.report else run_all(runs, args.jobs, args.threads, tabulate)
    print(tabulate())
    for run in failed:
        print(f"failed: {run.variant}, seed {run.seed}; see {run.folder / 'console.txt'}")
    return 1 if failed else 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train variants of a config with several seeds, and tabulate.")
    parser.add_argument(
        "--ablation",
        required=True,
        metavar="FILE",
        help="YAML file of the variants, such as tools/ablations/refine.yaml",
    )
    parser.add_argument("--config-file", metavar="FILE", help="config of all variants (default: the ablation's)")
    parser.add_argument("--iterations", type=int, metavar="N", help="SOLVER.MAX_ITER (default: the config's)")
    parser.add_argument("--seeds", type=int_list, default=[1, 2, 3], metavar="SEED,...", help="(default: 1,2,3)")
    parser.add_argument("--variants", metavar="VARIANT,...", help="some of the ablation's variants (default: all)")
    parser.add_argument("--output", default="output/ablation", metavar="FOLDER", help="(%(default)s)")
    parser.add_argument("--jobs", type=positive_int, default=1, metavar="N", help="parallel runs (%(default)s)")
    parser.add_argument("--threads", type=positive_int, default=1, metavar="N", help="threads per run (%(default)s)")
    parser.add_argument("--report", action="store_true", help="train nothing; write the tables of the finished runs")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, for all variants")
    return parser.parse_args(argv)


def run_all(runs: Sequence[Run], jobs: int, threads: int, tabulate: Callable[[], str]) -> list[Run]:
    """Perform the unfinished runs.

    Args:
        jobs: number of parallel runs.
        threads: of each run.
        tabulate: called after every run.
    Returns: the runs that failed.
    """
    waiting = [run for run in runs if run.metrics() is None]
    logging.info("%d of %d runs are finished, %d to go", len(runs) - len(waiting), len(runs), len(waiting))
    processes: list[subprocess.Popen[bytes]] = []
    failed = []
    # as Ctrl-C, so that the trainings end too: a later call would start others in the same folders
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        futures: dict[Future[float], Run] = {}
        try:
            for run in sorted(waiting, key=lambda run: bool(run.weights_of)):  # a stable sort: tests after trainings
                training = [
                    future
                    for future, other in futures.items()
                    if (run.weights_of, run.seed) == (other.variant, other.seed)
                ]
                futures[pool.submit(_perform, run, threads, processes, training)] = run
            for number, future in enumerate(as_completed(futures), 1):
                run, seconds = futures[future], future.result()
                succeeded = run.metrics() is not None
                if not succeeded:
                    failed.append(run)
                logging.info(
                    "%d/%d: %s, seed %d %s after %.0f s",
                    number, len(waiting), run.variant, run.seed, "is done" if succeeded else "FAILED", seconds,
                )  # fmt: skip
                tabulate()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()  # train_net saves a checkpoint; a later call continues from it
            raise
        finally:
            signal.signal(signal.SIGTERM, previous)
    return failed


def _perform(run: Run, threads: int, processes: list[subprocess.Popen[bytes]], after: Sequence[Future[float]]) -> float:
    """Train or test, after the runs `after` are done.

    Returns: the time in seconds, including earlier calls that were stopped.
    """
    wait(after)
    run.folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"config": run.config, "seconds": 0.0}
    if run.record.is_file():
        record = json.loads(run.record.read_text(encoding="utf-8"))
    _write_record(run, record)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    config_file = run.folder / "ablation.yaml"
    config_file.write_text(run.yaml, encoding="utf-8")
    tool = "test_net.py" if run.weights_of else "train_net.py"
    command = [sys.executable, str(ROOT / "tools" / tool), "--config-file", str(config_file)]
    if run.weights_of:
        command += ["--ckpt", str(run.folder.parents[1] / run.weights_of / run.folder.name / "model_final.pth")]
    command += ["SEED", str(run.seed), "OUTPUT_DIR", str(run.folder)]
    start = time.monotonic()
    with open(run.folder / "console.txt", "ab") as console:
        process = subprocess.Popen(command, env=environment, stdout=console, stderr=subprocess.STDOUT)
        processes.append(process)
        process.wait()
    seconds = float(record["seconds"]) + time.monotonic() - start
    _write_record(run, {**record, "seconds": seconds})
    return seconds


def _write_record(run: Run, record: dict[str, Any]) -> None:
    """Replace the file in one step: the main thread reads it for the tables while other runs go on."""
    partial = run.record.with_suffix(".part")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(run.record)


if __name__ == "__main__":
    sys.exit(main())
