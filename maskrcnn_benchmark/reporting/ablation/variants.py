"""The variants of the refine head that an ablation compares, and the runs that train and test them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.engine.run import StartupError
from maskrcnn_benchmark.modeling.detector import find_config_problems
from maskrcnn_benchmark.solver import find_solver_problems

from .cost import refine_operations, width_of_equal_cost

logger = logging.getLogger(__name__)

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
    PRIVATE: _refined(BOTH, BOTH, shared=False),  # plan_runs() adds the width for the cost of both-to-both
    "none-rescored": [
        *("MODEL.REFINE_ON", "False", "MODEL.ROI_MASK_HEAD.RESCORE", "True"),
        *("MODEL.ROI_KEYPOINT_HEAD.RESCORE", "True"),
    ],
    "both-by-box-score": [*_refined(BOTH, BOTH), HEAD + "RESCORE", "False"],
}
# variant -> the variant whose weights it tests
RETESTED = {"none-rescored": PLAIN, "both-by-box-score": "both-to-both"}
# Keys that do not affect the results, or that differ between seeds.
IGNORED_KEYS = {
    *("SEED", "OUTPUT_DIR", "SOLVER.CHECKPOINT_PERIOD", "SOLVER.KEEP_LAST", "SOLVER.LOG_PERIOD", "SOLVER.TEST_PERIOD"),
    *("DATALOADER.NUM_WORKERS", "TEST.PICTURES"),
}
Metrics = dict[str, dict[str, float]]  # task -> metric -> value, as in coco_results.json


@dataclass(frozen=True)
class Run:
    """A training with its test, or only a test.

    Attributes:
        variant: a key of VARIANTS.
        seed: SEED of the run.
        folder: OUTPUT_DIR of the run.
        yaml: the whole config; editing a config file during an ablation does not affect later runs.
        config: every key that affects the results -> its value.
        results_file: coco_results.json of the run.
        weights_of: variant whose weights are tested; "" for a training.
    """

    variant: str
    seed: int
    folder: Path
    yaml: str
    config: dict[str, str]
    results_file: Path
    weights_of: str = ""

    @property
    def record(self) -> Path:
        """File with the config of the run and the time it took."""
        return self.folder / "ablation.json"

    def metrics(self) -> Metrics | None:
        """The metrics in coco_results.json; None if the run is not finished."""
        if not self.results_file.is_file():
            return None
        try:
            metrics: Metrics = json.loads(self.results_file.read_text(encoding="utf-8"))["metrics"]
        except json.JSONDecodeError:  # the run is writing it
            return None
        return metrics


def plan_runs(
    config_file: str,
    variants: Sequence[str],
    seeds: Sequence[int],
    output: str | os.PathLike[str],
    *,
    iterations: int | None = None,
    opts: Sequence[str] = (),
) -> list[Run]:
    """All runs of an ablation, one seed after the other, so that all variants can be compared as early as possible.

    Loads all configs, so that errors in them are raised before anything runs.

    Args:
        config_file: config that all variants change.
        variants: keys of VARIANTS.
        output: folder of the runs.
        iterations: SOLVER.MAX_ITER; None keeps the config's.
        opts: config keys and values for all variants.
    Raises: StartupError if a folder contains a run with another config; ConfigError.
    """
    common = common_options(config_file, iterations, opts)
    options = {name: [*common, *VARIANTS[name]] for name in variants}
    if PRIVATE in options:
        options[PRIVATE] += private_width(config_file, common)
    checks = (find_config_problems, find_solver_problems)
    configs = {name: load_config(config_file, changes, checks=checks) for name, changes in options.items()}
    runs = []
    for seed in seeds:
        for name in options:
            folder = Path(output) / name / f"seed_{seed}"
            results = folder / "inference" / configs[name].DATASETS.TEST[0] / "coco_results.json"
            config = dict(flat_config(configs[name]))
            runs.append(Run(name, seed, folder, configs[name].dump(), config, results, RETESTED.get(name, "")))
    for run in runs:
        _check_config_of_run(run)
    return runs


def common_options(config_file: str, iterations: int | None = None, opts: Sequence[str] = ()) -> list[str]:
    """Keys and values for every variant; `opts` override the others.

    Coarse and refined keypoints use the same decoder, so that a gain is not due to the decoder.
    """
    decode = load_config(config_file, opts).MODEL.ROI_REFINE_HEAD.DECODE
    max_iter = [] if iterations is None else ["SOLVER.MAX_ITER", str(iterations)]
    return [
        *("TEST.BOUNDARY_AP", "True", "TEST.PICTURES", "0", "SOLVER.KEEP_LAST", "1"),
        *("MODEL.ROI_KEYPOINT_HEAD.DECODE", decode),
        *max_iter,
        *opts,
    ]


def private_width(config_file: str, common: Sequence[str]) -> list[str]:
    """Key and value of the CONV_DIM at which two private heads cost as much as the shared one. Logs the width."""

    def cost(variant: str, *opts: str) -> int:
        return refine_operations(load_config(config_file, [*common, *VARIANTS[variant], *opts]))

    shared = cost("both-to-both")
    width = load_config(config_file, common).MODEL.ROI_REFINE_HEAD.CONV_DIM
    chosen, ratio = width_of_equal_cost(lambda own: cost(PRIVATE, HEAD + "CONV_DIM", str(own)), shared, width)
    logger.info(
        "private: two heads of CONV_DIM %d cost %.1f%% of the shared one of CONV_DIM %d (%.1f MFLOP per RoI)",
        chosen, 100 * ratio, width, shared / 1e6,
    )  # fmt: skip
    return [HEAD + "CONV_DIM", str(chosen)]


def flat_config(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every key that affects the results, and its value as text."""
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from flat_config(value, f"{prefix}{key}.")
        elif prefix + key not in IGNORED_KEYS:
            yield f"{prefix}{key}", str(value)


def _check_config_of_run(run: Run) -> None:
    """Raise StartupError if the folder has a run with a different value of a key. New and removed keys are ignored."""
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
            f"{run.folder} contains a run with a different config: {'; '.join(changed)}. "
            "Give another --output, or remove the folder."
        )
