"""What the refine head is worth: train every variant of it with every seed, and tabulate.

    python tools/ablate_refine.py --iterations 600 --seeds 1,2,3 --jobs 2 --output output/ablate_refine [KEY VALUE ...]

Each run is a process of its own: `tools/train_net.py` into OUTPUT/VARIANT/seed_N, or `tools/test_net.py` for a variant
that differs from another in the test alone and takes its weights. Started again with the same arguments, the tool
leaves finished runs alone and continues the others, so it can be stopped at any time. After every run it writes
OUTPUT/table.md and OUTPUT/results.json from what is there.

What differs between two variants is the refine head alone: data, schedule, seeds and start weights are the same, and
coarse keypoints are decoded as refined ones are, so that no gain is that of a decoder.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.engine.run import StartupError, friendly_errors
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS, SCORES

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = ROOT / "configs" / "quick" / "hrnet_refine_people.yaml"
PLAIN, PRIVATE = "none", "private"
HEAD = "MODEL.ROI_REFINE_HEAD."


def _refined(indicators: Sequence[str], outputs: Sequence[str], shared: bool = True) -> list[str]:
    return [
        *("MODEL.REFINE_ON", "True", HEAD + "SHARED", str(shared)),
        *(HEAD + "INDICATORS", str(tuple(indicators)), HEAD + "OUTPUTS", str(tuple(outputs))),
    ]


BOTH = ("mask", "keypoint")
VARIANTS = {  # name -> config keys and values
    PLAIN: ["MODEL.REFINE_ON", "False"],
    "no-indicators": _refined((), BOTH),
    "mask-to-mask": _refined(("mask",), ("mask",)),
    "keypoint-to-keypoint": _refined(("keypoint",), ("keypoint",)),
    "both-to-both": _refined(BOTH, BOTH),
    PRIVATE: _refined(BOTH, BOTH, shared=False),  # and the width that makes it cost what both-to-both costs
    "none-rescored": [
        *("MODEL.REFINE_ON", "False", "MODEL.ROI_MASK_HEAD.RESCORE", "True"),
        *("MODEL.ROI_KEYPOINT_HEAD.RESCORE", "True"),
    ],
    "both-by-box-score": [*_refined(BOTH, BOTH), HEAD + "RESCORE", "False"],
}
RETESTED = {"none-rescored": PLAIN, "both-by-box-score": "both-to-both"}  # variant -> the one whose weights it tests
COLUMNS = {  # title -> task and metric of coco_results.json
    "mask AP": ("segm", "AP"),
    "mask AP75": ("segm", "AP75"),
    "boundary AP": ("boundary", "AP"),
    "keypoint AP": ("keypoints", "AP"),
    "keypoint AP75": ("keypoints", "AP75"),
    "box AP": ("bbox", "AP"),
}
# Keys that leave the results alone, or that differ from seed to seed.
NO_MATTER = {
    *("SEED", "OUTPUT_DIR", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.KEEP_LAST", "SOLVER.LOG_PERIOD", "SOLVER.TEST_PERIOD"),
    *("DATALOADER.NUM_WORKERS", "TEST.PICTURES"),
}
# An even width lets group norm make several groups, as of the usual widths; it is preferred where it brings the cost
# this near.
COST_TOLERANCE = 0.06


@dataclass(frozen=True)
class Run:
    """One training with its test, or a test alone."""

    variant: str
    seed: int
    folder: Path
    yaml: str  # the whole config, so that a file that is edited between two runs does not change the second
    config: dict[str, str]  # every key that bears on the results, and its value
    results_file: Path
    weights_of: str = ""  # variant whose weights are tested; "" for a training

    @property
    def record(self) -> Path:
        """Keeps what the run was started with, and how long it took."""
        return self.folder / "ablation.json"

    def metrics(self) -> dict[str, dict[str, float]] | None:
        """What coco_results.json says; None for a run that is not finished."""
        if not self.results_file.is_file():
            return None
        return json.loads(self.results_file.read_text(encoding="utf-8"))["metrics"]


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 when a run failed or after an error that was explained."""
    args = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    runs = plan(args)
    failed = [] if args.report else run_all(runs, args)
    print(write_tables(runs, args))
    for run in failed:
        print(f"failed: {run.variant}, seed {run.seed}; see {run.folder / 'console.txt'}")
    return 1 if failed else 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train variants of the refine head with several seeds, and tabulate.")
    parser.add_argument(
        "--config-file", default=str(DEFAULT_CONFIG), metavar="FILE", help="what all variants start from"
    )
    parser.add_argument("--iterations", type=int, metavar="N", help="SOLVER.MAX_ITER; without it, the config's")
    parser.add_argument("--seeds", type=_seeds, default=[1, 2, 3], metavar="SEED,...", help="1,2,3 without it")
    parser.add_argument(
        "--variants",
        type=_variants,
        default=list(VARIANTS),
        metavar="VARIANT,...",
        help=f"of {','.join(VARIANTS)}; all without it",
    )
    parser.add_argument("--output", default="output/ablate_refine", metavar="FOLDER")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each run")
    parser.add_argument("--report", action="store_true", help="train nothing, write the tables of what is finished")
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys, for all variants")
    return parser.parse_args(argv)


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected whole numbers with commas between, such as 1,2,3"
        ) from None


def _variants(text: str) -> list[str]:
    names = text.split(",")
    if alone := [name for name in names if RETESTED.get(name, name) not in names]:
        raise argparse.ArgumentTypeError(
            "; ".join(f"{name} tests the weights of {RETESTED[name]}, which is not named" for name in alone)
        )
    if unknown := [name for name in names if name not in VARIANTS]:
        raise argparse.ArgumentTypeError(f"{', '.join(map(repr, unknown))}; expected some of {','.join(VARIANTS)}")
    return names


def plan(args: argparse.Namespace) -> list[Run]:
    """All runs, seed by seed, so that a comparison of all variants is there as early as possible.

    Raises: StartupError for a folder that holds a run with another config.
    """
    common = common_options(args)
    options = {name: [*common, *VARIANTS[name]] for name in args.variants}
    if PRIVATE in options:
        options[PRIVATE] += private_width(args.config_file, common)
    configs = {name: load_config(args.config_file, opts) for name, opts in options.items()}  # a mistake shows now
    runs = []
    for seed in args.seeds:
        for name in options:
            folder = Path(args.output) / name / f"seed_{seed}"
            results = folder / "inference" / configs[name].DATASETS.TEST[0] / "coco_results.json"
            config = dict(_flat(configs[name]))
            runs.append(Run(name, seed, folder, configs[name].dump(), config, results, RETESTED.get(name, "")))
    for run in runs:
        _refuse_another_config(run)
    return runs


def common_options(args: argparse.Namespace) -> list[str]:
    """Keys and values of every variant; those of the command line count for more than those set here."""
    decode = load_config(args.config_file, args.opts).MODEL.ROI_REFINE_HEAD.DECODE
    iterations = [] if args.iterations is None else ["SOLVER.MAX_ITER", str(args.iterations)]
    return [
        *("TEST.BOUNDARY_AP", "True", "TEST.PICTURES", "0", "SOLVER.KEEP_LAST", "1"),
        *("MODEL.ROI_KEYPOINT_HEAD.DECODE", decode),
        *iterations,
        *args.opts,
    ]


def private_width(config_file: str, common: Sequence[str]) -> list[str]:
    """CONV_DIM with which two private heads cost what the shared one costs; said aloud."""

    def cost(variant: str, *opts: str) -> int:
        return refine_operations(load_config(config_file, [*common, *VARIANTS[variant], *opts]))

    shared = cost("both-to-both")
    width = load_config(config_file, common).MODEL.ROI_REFINE_HEAD.CONV_DIM
    chosen, ratio = width_of_equal_cost(lambda own: cost(PRIVATE, HEAD + "CONV_DIM", str(own)), shared, width)
    print(
        f"private: two heads of CONV_DIM {chosen} cost {ratio:.1%} of the shared one of CONV_DIM {width} "
        f"({shared / 1e6:.1f} MFLOP per region)"
    )
    return [HEAD + "CONV_DIM", str(chosen)]


def width_of_equal_cost(cost: Callable[[int], int], target: int, largest: int) -> tuple[int, float]:
    """The width of 1..largest whose cost comes nearest to `target`, and cost / target.

    Args:
        cost: rises with the width.
    """
    low, high = 1, largest  # cost(low) <= target, or there is no such width
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= target else (low, middle)
    ratios = {width: cost(width) / target for width in range(max(1, low - 2), min(largest, high + 2) + 1)}
    near = [width for width, ratio in ratios.items() if width % 2 == 0 and abs(ratio - 1) <= COST_TOLERANCE]
    chosen = min(near or ratios, key=lambda width: abs(ratios[width] - 1))
    return chosen, ratios[chosen]


def refine_operations(cfg: Any) -> int:
    """Operations of the refine head's convolutions for one region, a multiply-add as two."""
    model: Any = build_detection_model(cfg).eval()
    refine = model.roi_heads["refine"]
    inputs: dict[nn.Module, tuple[Any, ...]] = {}
    heads: list[Any] = list(refine.values()) if isinstance(refine, nn.ModuleDict) else [refine]
    for head in heads:
        for module in (head.feature_extractor, head.predictor, *head.projections.values()):
            module.register_forward_pre_hook(inputs.__setitem__)
    box = BoxList([[8, 8, 40, 40]], (64, 64), offset=cfg.MODEL.BOX_OFFSET)
    box.add_field(LABELS, torch.ones(1, dtype=torch.int64))
    box.add_field(SCORES, torch.ones(1))
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, 64, 64))
        mask = model.roi_heads["mask"](features, [box])
        keypoint = model.roi_heads["keypoint"](features, mask.detections)
        refine(features, keypoint.detections, branches={"mask": mask, "keypoint": keypoint})
        with FlopCounterMode(display=False) as counter:
            for module, arguments in list(inputs.items()):
                module(*arguments)
    return counter.get_total_flops()


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif prefix + key not in NO_MATTER:
            yield f"{prefix}{key}", str(value)


def _refuse_another_config(run: Run) -> None:
    """A key that only one of both has is new, or gone, since then: its default left things as they were."""
    if not run.record.is_file():
        return
    before = json.loads(run.record.read_text(encoding="utf-8"))["config"]
    changed = [
        f"{key} was {value}, is {run.config[key]}"
        for key, value in before.items()
        if key in run.config and run.config[key] != value
    ]
    if changed:
        raise StartupError(
            f"{run.folder} holds a run with another config: {'; '.join(changed)}. "
            "Give another --output, or remove the folder."
        )


def run_all(runs: Sequence[Run], args: argparse.Namespace) -> list[Run]:
    """Train what is not finished, `args.jobs` at a time. Returns the runs that failed."""
    waiting = [run for run in runs if run.metrics() is None]
    logging.info("%d of %d runs are finished, %d to go", len(runs) - len(waiting), len(runs), len(waiting))
    processes: list[subprocess.Popen[bytes]] = []
    failed = []
    with ThreadPoolExecutor(max_workers=args.jobs) as pool:
        futures: dict[Future[float], Run] = {}
        try:
            for run in sorted(waiting, key=lambda run: bool(run.weights_of)):  # (stable) tests wait behind trainings
                training = [
                    future
                    for future, other in futures.items()
                    if (run.weights_of, run.seed) == (other.variant, other.seed)
                ]
                futures[pool.submit(_perform, run, args.threads, processes, training)] = run
            for number, future in enumerate(as_completed(futures), 1):
                run, seconds = futures[future], future.result()
                succeeded = run.metrics() is not None
                if not succeeded:
                    failed.append(run)
                logging.info(
                    "%d/%d: %s, seed %d %s after %.0f s",
                    number, len(waiting), run.variant, run.seed, "is done" if succeeded else "FAILED", seconds,
                )  # fmt: skip
                write_tables(runs, args)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()  # train_net saves a checkpoint, from which a later call continues
            raise
    return failed


def _perform(run: Run, threads: int, processes: list[subprocess.Popen[bytes]], after: Sequence[Future[float]]) -> float:
    """Train, or test, when the runs `after` are done.

    Returns the seconds it took, with those of earlier calls that were stopped.
    """
    wait(after)
    run.folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"config": run.config, "seconds": 0.0}
    if run.record.is_file():
        record = json.loads(run.record.read_text(encoding="utf-8"))
    run.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
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
    record["seconds"] += time.monotonic() - start
    run.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record["seconds"]


def write_tables(runs: Sequence[Run], args: argparse.Namespace) -> str:
    """OUTPUT/table.md, whose text is returned, and OUTPUT/results.json, of what is finished."""
    finished: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
    for run in runs:
        if metrics := run.metrics():
            finished.setdefault(run.variant, {})[run.seed] = metrics
    table = format_tables(finished)
    output = Path(args.output)
    output.mkdir(parents=True, exist_ok=True)
    (output / "table.md").write_text(table + "\n", encoding="utf-8")
    seconds = {
        str(run.folder): json.loads(run.record.read_text(encoding="utf-8"))["seconds"]
        for run in runs
        if run.metrics() is not None
    }
    content = {
        "config_file": str(args.config_file),
        "iterations": args.iterations,
        "opts": args.opts,
        "metrics": finished,
        "summary": {name: {title: summarize(values) for title, values in columns_of(of_seeds).items()}
                    for name, of_seeds in finished.items()},
        "seconds": seconds,
    }  # fmt: skip
    (output / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return table


def columns_of(of_seeds: dict[int, dict[str, dict[str, float]]]) -> dict[str, dict[int, float]]:
    """Metrics of a variant by seed -> column title -> seed -> percent, as far as they were evaluated."""
    return {
        title: {seed: 100 * metrics[task][metric] for seed, metrics in of_seeds.items() if task in metrics}
        for title, (task, metric) in COLUMNS.items()
    }


def summarize(values: dict[int, float]) -> dict[str, float]:
    """Mean over seeds and, from two seeds on, the standard deviation of a single run."""
    summary = {"mean": statistics.fmean(values.values())} if values else {}
    if len(values) > 1:
        summary["spread"] = statistics.stdev(values.values())
    return summary


def format_tables(finished: dict[str, dict[int, dict[str, dict[str, float]]]]) -> str:
    """Markdown: the figures of every variant and, where the plain model is there, gains over it seed by seed."""
    columns = {name: columns_of(of_seeds) for name, of_seeds in finished.items()}
    text = ["In percent, mean ± standard deviation over seeds.", "", *_table(columns, finished)]
    if PLAIN in columns:
        gains = {
            name: {
                title: {seed: value - columns[PLAIN][title][seed]
                        for seed, value in values.items() if seed in columns[PLAIN][title]}
                for title, values in of_variant.items()
            }
            for name, of_variant in columns.items()
            if name != PLAIN
        }  # fmt: skip
        text += ["", f"Gains over `{PLAIN}` with the same seed.", "", *_table(gains, finished, sign="+")]
    return "\n".join(text)


def _table(columns: dict[str, dict[str, dict[int, float]]], finished: dict[str, Any], sign: str = "") -> list[str]:
    rows = [["variant", "seeds", *COLUMNS], ["---", *["---:"] * (len(COLUMNS) + 1)]]
    for name in VARIANTS:
        if name in columns:
            cells = [_cell(columns[name][title], sign) for title in COLUMNS]
            rows.append([name, str(len(finished[name])), *cells])
    return [f"| {' | '.join(row)} |" for row in rows]


def _cell(values: dict[int, float], sign: str) -> str:
    summary = summarize(values)
    if not summary:
        return "-"
    mean = f"{summary['mean']:{sign}.1f}"
    return f"{mean} ± {summary['spread']:.1f}" if "spread" in summary else mean


if __name__ == "__main__":
    raise SystemExit(main())
