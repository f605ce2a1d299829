"""The test loop: run a model over a dataset on all ranks, and evaluate what it found on the main one."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from maskrcnn_benchmark.data.evaluation import EvaluationResults, build_evaluator, check_expected_results
from maskrcnn_benchmark.modeling.roi_heads.roi_head import tasks_of
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.timer import Timer, get_time_str

from .train_loop import PRECISIONS, autocast

logger = logging.getLogger(__name__)


def iou_types_of(cfg: Any) -> tuple[str, ...]:
    """What a model of this config predicts, in COCO's words."""
    return tasks_of(cfg)


def compute_on_dataset(
    model: nn.Module,
    data_loader: DataLoader,
    device: torch.device | str,
    bbox_aug: bool = False,
    timer: Timer | None = None,
    *,
    evaluator: Any = None,
    dtype: str = "float32",
) -> dict[int, BoxList]:
    """Run this rank's batches through the model.

    Args:
        evaluator: takes each batch's detections, on the model's device, and nothing is kept; without one they are
        returned. timer: counts the time of the model.
    Returns: {dataset index: detections on the CPU, in resized-image coordinates}; empty when there is an evaluator.
    """
    _refuse_bbox_aug(bbox_aug)
    model.eval()
    device = torch.device(device)
    kept: dict[int, BoxList] = {}
    for images, _, indices in _progress(data_loader):
        start = time.perf_counter()
        with torch.no_grad(), autocast(device, PRECISIONS[dtype]):
            detections = model(images.to(device, non_blocking=True))
        if timer:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            timer.add(time.perf_counter() - start)
        if evaluator is not None:
            evaluator.process(indices, detections)
        else:
            kept.update(zip(map(int, indices), (found.to("cpu") for found in detections), strict=True))
    return kept


def inference(
    model: nn.Module,
    data_loader: DataLoader,
    dataset_name: str,
    iou_types: Sequence[str] = ("bbox",),
    box_only: bool = False,
    bbox_aug: bool = False,
    device: torch.device | str = "cuda",
    expected_results: Sequence[Any] = (),
    expected_results_sigma_tol: float = 4,
    output_folder: str | os.PathLike[str] | None = None,
    *,
    keypoint_oks_sigmas: Sequence[float] = (),
    boundary_ap: bool = False,
    evaluators: Sequence[str] = (),
    dtype: str = "float32",
    pictures: int = 0,
) -> EvaluationResults | None:
    """Detect on a whole dataset, each rank in its share of the loader's batches, and evaluate on the main rank.

    Detections become COCO results (masks as run lengths) as soon as they are there, so memory does not grow with
    masks of thousands of images, and travel between ranks through CPU memory.

    Args:
        output_folder: where predictions.pth, bbox.json, segm.json, keypoints.json, results.txt, ... and pictures/ go.
        boundary_ap: score masks by their boundaries too.
        evaluators: TEST.EVALUATORS; empty for the evaluator that the data set names.
        dtype: DTYPE, precision of the forward pass.
        pictures: images to draw, ground truth beside prediction; 0 for none.
    Returns: the results on the main rank, None on the others. Leaves the model in the mode in which it was.
    """
    _refuse_bbox_aug(bbox_aug)
    dataset: Any = data_loader.dataset
    evaluator = build_evaluator(
        dataset,
        iou_types=iou_types,
        box_only=box_only,
        keypoint_oks_sigmas=keypoint_oks_sigmas,
        boundary_ap=boundary_ap,
        evaluators=evaluators,
    )
    devices = comm.get_world_size()
    logger.info("Start evaluation on %s dataset (%d images)", dataset_name, len(dataset))
    was_training, timer, start = model.training, Timer(), time.perf_counter()
    try:
        compute_on_dataset(model, data_loader, device, timer=timer, evaluator=evaluator, dtype=dtype)
    finally:
        model.train(was_training)
    comm.synchronize()
    total = time.perf_counter() - start
    for title, seconds in (("Total run time", total), ("Model inference time", timer.total_time)):
        per_image = seconds * devices / max(1, len(dataset))
        logger.info("%s: %s (%.4f s / img per device, on %d devices)", title, get_time_str(seconds), per_image, devices)

    gathered = comm.gather(evaluator.results)
    if not comm.is_main_process():
        return None
    evaluator.merge(gathered)
    results = evaluator.evaluate(output_folder)
    logger.info("Results on %s (%d images):\n%s", dataset_name, results.num_images, results.table())
    if results.per_class:
        logger.info("By category:\n%s", results.per_class_table())
    if output_folder and pictures > 0:
        folder = evaluator.write_pictures(Path(output_folder) / "pictures", pictures)
        if folder is not None:
            logger.info("Pictures, ground truth beside prediction: %s", folder)
    check_expected_results(results, expected_results, expected_results_sigma_tol)
    return results


def run_tests(
    cfg: Any, model: nn.Module, data_loaders: Sequence[DataLoader], device: torch.device | str
) -> dict[str, Any]:
    """Evaluate on every dataset of DATASETS.TEST, into OUTPUT_DIR/inference/<dataset>.

    Args:
        data_loaders: one per name in DATASETS.TEST.
    Returns: {dataset name: results} on the main rank, {} on the others.
    """
    results: dict[str, Any] = {}
    for name, data_loader in zip(cfg.DATASETS.TEST, data_loaders, strict=True):
        found = inference(
            model,
            data_loader,
            dataset_name=name,
            iou_types=iou_types_of(cfg),
            box_only=cfg.MODEL.RPN_ONLY and not cfg.MODEL.RETINANET_ON,
            bbox_aug=cfg.TEST.BBOX_AUG.ENABLED,
            device=device,
            expected_results=cfg.TEST.EXPECTED_RESULTS,
            expected_results_sigma_tol=cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL,
            output_folder=os.path.join(cfg.OUTPUT_DIR, "inference", name) if cfg.OUTPUT_DIR else None,
            keypoint_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
            boundary_ap=cfg.TEST.BOUNDARY_AP,
            evaluators=cfg.TEST.EVALUATORS,
            dtype=cfg.DTYPE,
            pictures=cfg.TEST.PICTURES,
        )
        comm.synchronize()
        if found is not None:
            results[name] = found
    return results


def _progress(data_loader: DataLoader) -> Any:
    """A bar on the main rank's screen; where that is a file, a line every half minute."""
    return tqdm(
        data_loader,
        desc="inference",
        unit="batch",
        disable=not comm.is_main_process(),
        mininterval=0.5 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
    )


def _refuse_bbox_aug(bbox_aug: bool) -> None:
    if bbox_aug:
        raise NotImplementedError(
            "test-time augmentation (TEST.BBOX_AUG.ENABLED) is not part of this version; set it False"
        )
