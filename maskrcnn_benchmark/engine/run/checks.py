"""Checks, at the start of a run, for problems that would make it fail later."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from maskrcnn_benchmark.data.datasets.base import DetectionDataset, as_detection_dataset
from maskrcnn_benchmark.data.evaluation import build_evaluator
from maskrcnn_benchmark.data.evaluation.results import check_expected_entries
from maskrcnn_benchmark.utils.detector_kind import finds_only_proposals

from .errors import StartupError
from .processes import Process

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)


def check_evaluation(cfg: CfgNode) -> None:
    """Check the TEST section. Raises: ConfigError."""
    check_expected_entries(cfg.TEST.EXPECTED_RESULTS, may_be_own=bool(cfg.TEST.EVALUATORS))


def check_test_data(cfg: CfgNode, training: Any | None, tests: Sequence[Any], tasks: Sequence[str]) -> None:
    """Check that the test sets can be evaluated and have the categories and keypoints of the training set.

    Args:
        training: the training dataset, or None if nothing is trained.
        tests: the datasets of DATASETS.TEST, or none if nothing is tested.
        tasks: what the model is evaluated for.
    Raises: StartupError, or what building the evaluators raises.
    """
    for name, dataset in zip(cfg.DATASETS.TEST if tests else (), tests, strict=True):
        build_evaluator(
            dataset,
            iou_types=tasks,
            box_only=finds_only_proposals(cfg),
            keypoint_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
            evaluators=cfg.TEST.EVALUATORS,
        )
        if training is not None and cfg.MODEL.KEYPOINT_ON:
            _check_same_keypoints(cfg, as_detection_dataset(training), as_detection_dataset(dataset), name)
        trained = as_detection_dataset(training).class_names if training is not None else ()
        tested = as_detection_dataset(dataset).class_names
        for label, (ours, theirs) in enumerate(zip(trained, tested, strict=False)):
            if ours != theirs:
                raise StartupError(
                    f"label {label} is {ours!r} in {', '.join(cfg.DATASETS.TRAIN)}, but {theirs!r} in {name}: "
                    "a model trained on one would be scored wrongly on the other. Labels follow the order of "
                    '"categories" in the annotation file.'
                )


def _check_same_keypoints(cfg: CfgNode, training: DetectionDataset, test: DetectionDataset, name: str) -> None:
    trained, tested = training.keypoint_spec, test.keypoint_spec
    if trained is not None and tested is not None and not trained.agrees_with(tested):
        raise StartupError(
            f"{', '.join(cfg.DATASETS.TRAIN)} has {trained}, but {name} has {tested}: a model trained on one would be "
            'scored wrongly on the other. They are named under "categories" in the annotation files.'
        )


def check_model(model: nn.Module, process: Process) -> None:
    """Raises: StartupError if the model has layers that do not work with these processes."""
    if process.distributed and process.device.type == "cpu":
        synchronised = [name for name, module in model.named_modules() if isinstance(module, nn.SyncBatchNorm)]
        if synchronised:
            raise StartupError(
                f"PyTorch's SyncBatchNorm works on GPUs only when several processes train, and the model has "
                f"{len(synchronised)} of them ({synchronised[0]}, ...). Choose GN or FrozenBN (the *.NORM keys), "
                "or one process."
            )


def warn_about_disk_space(cfg: CfgNode, model: nn.Module) -> None:
    """Warn if the checkpoints may not fit on the disk; the optimizer state takes about as much as the weights."""
    folder = cfg.OUTPUT_DIR or "."
    size = 2 * sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    checkpoints = 1 + cfg.SOLVER.MAX_ITER // max(1, cfg.SOLVER.CHECKPOINT_PERIOD or cfg.SOLVER.MAX_ITER)
    if cfg.SOLVER.KEEP_LAST > 0:
        checkpoints = min(checkpoints, cfg.SOLVER.KEEP_LAST + 2)
    free = shutil.disk_usage(folder).free
    if free < size * checkpoints:
        logger.warning(
            "The disk of %s has %.1f GB left; %d checkpoints of about %.1f GB each may not fit. "
            "SOLVER.KEEP_LAST keeps only the newest; a larger SOLVER.CHECKPOINT_PERIOD writes fewer.",
            folder, free / 1e9, checkpoints, size / 1e9,
        )  # fmt: skip
