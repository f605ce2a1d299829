"""The runs of an ablation: a training with its test, or only a test, for each variant and seed."""

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
from .variants import Ablation

logger = logging.getLogger(__name__)

WIDTH_KEY = "MODEL.ROI_REFINE_HEAD.CONV_DIM"
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
        variant: name of the variant.
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
    ablation: Ablation,
    variants: Sequence[str],
    seeds: Sequence[int],
    output: str | os.PathLike[str],
    *,
    iterations: int | None = None,
    opts: Sequence[Any] = (),
) -> list[Run]:
    """All runs of an ablation, one seed after the other, so that all variants can be compared as early as possible.

    Loads all configs, so that errors in them are raised before anything runs.

    Args:
        variants: names of those to run.
        output: folder of the runs.
        iterations: SOLVER.MAX_ITER; None keeps the config's.
        opts: config keys and values for all variants; they override those of the ablation.
    Raises: StartupError if a folder contains a run with another config, or for an impossible selection; ConfigError.
    """
    ablation.check_selection(variants)
    options = {name: variant_options(ablation, name, iterations, opts) for name in variants}
    checks = (find_config_problems, find_solver_problems)
    configs = {name: load_config(ablation.config_file, words, checks=checks) for name, words in options.items()}
    runs = []
    for seed in seeds:
        for name in variants:
            folder = Path(output) / name / f"seed_{seed}"
            results = folder / "inference" / configs[name].DATASETS.TEST[0] / "coco_results.json"
            config = dict(flat_config(configs[name]))
            runs.append(
                Run(name, seed, folder, configs[name].dump(), config, results, ablation.variants[name].weights_of)
            )
    for run in runs:
        _check_config_of_run(run)
    return runs


def variant_options(
    ablation: Ablation, name: str, iterations: int | None = None, opts: Sequence[Any] = ()
) -> list[Any]:
    """Config keys and values of a variant; later ones override earlier ones."""
    max_iter = [] if iterations is None else ["SOLVER.MAX_ITER", iterations]
    common = ["TEST.PICTURES", 0, "SOLVER.KEEP_LAST", 1, *ablation.settings, *max_iter, *opts]
    variant = ablation.variants[name]
    options = [*common, *variant.settings]
    if variant.refine_cost_of:
        reference = [*common, *ablation.variants[variant.refine_cost_of].settings]
        options += refine_width(ablation.config_file, options, reference, name)
    return options


def refine_width(config_file: str, options: Sequence[Any], reference: Sequence[Any], name: str) -> list[Any]:
    """Key and value of the CONV_DIM at which the refine heads of two variants cost the same. Logs the width.

    Args:
        options: config keys and values of the variant whose width is chosen.
        reference: those of the other variant.
        name: of the variant, for the log.
    """

    def cost(words: Sequence[Any]) -> int:
        return refine_operations(load_config(config_file, words))

    target = cost(reference)
    largest = load_config(config_file, reference).MODEL.ROI_REFINE_HEAD.CONV_DIM
    chosen, ratio = width_of_equal_cost(lambda width: cost([*options, WIDTH_KEY, width]), target, largest)
    logger.info(
        "%s: refine heads of CONV_DIM %d cost %.1f%% of the shared one of CONV_DIM %d (%.1f MFLOP per RoI)",
        name, chosen, 100 * ratio, largest, target / 1e6,
    )  # fmt: skip
    return [WIDTH_KEY, chosen]


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
