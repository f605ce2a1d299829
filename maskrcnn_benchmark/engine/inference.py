"""The test loop: run a model on a data set, on all ranks, and evaluate its detections on the main rank."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from maskrcnn_benchmark.data.evaluation import EvaluationResults, Evaluator, build_evaluator, check_expected_results
from maskrcnn_benchmark.modeling.detector import AugmentedDetector
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.structures.image_views import ImageViews, ViewSize
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.detector_kind import finds_only_proposals
from maskrcnn_benchmark.utils.timer import Timer, get_time_str

from .train_loop import PRECISIONS, autocast, bare_model

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)


def tasks_of_model(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the tasks that the model's results are evaluated for; "bbox" comes first."""
    return tuple(getattr(bare_model(model), "tasks", ("bbox",)))


def compute_on_dataset(
    model: nn.Module,
    data_loader: DataLoader[Any],
    device: torch.device | str,
    bbox_aug: bool = False,
    timer: Timer | None = None,
    *,
    evaluator: Evaluator | None = None,
    dtype: str = "float32",
) -> dict[int, BoxList]:
    """Run the model on the batches of this rank.

    Args:
        bbox_aug: the loader has to give several views of each image.
        timer: adds up the time of the model.
        evaluator: receives the detections of each batch, on the model's device. If None, they are returned.
        dtype: DTYPE, the precision of the forward pass.
    Returns: {dataset index: detections on the CPU, in pixels of the resized image}; empty if there is an evaluator.
    """
    model.eval()
    device = torch.device(device)
    kept: dict[int, BoxList] = {}
    for images, _, indices in _progress(data_loader):
        start = time.perf_counter()
        with torch.no_grad(), autocast(device, PRECISIONS[dtype]):
            detections = _detect(model, images, device, bbox_aug)
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
    data_loader: DataLoader[Any],
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
    per_keypoint: bool = True,
    evaluators: Sequence[str] = (),
    dtype: str = "float32",
    pictures: int = 0,
) -> EvaluationResults | None:
    """Evaluate a model on a data set. Each rank runs it on its batches, the main rank scores the results. Collective.

    The evaluator compresses the detections of each batch (masks become run lengths), so that the detections of
    thousands of images fit into memory. They are gathered through CPU memory.

    Args:
        iou_types: the tasks to score, see `tasks_of_model`.
        box_only: score the recall of proposals instead.
        bbox_aug: the loader has to give several views of each image, as that of TEST.BBOX_AUG.ENABLED does.
        output_folder: for predictions.pth, bbox.json, segm.json, keypoints.json, results.txt, ... and pictures/.
        keypoint_oks_sigmas: TEST.KEYPOINT_OKS_SIGMAS.
        boundary_ap: also score masks by their boundaries.
        per_keypoint: also score each keypoint.
        evaluators: TEST.EVALUATORS; empty for the evaluator that the data set names.
        dtype: DTYPE, the precision of the forward pass.
        pictures: number of images to draw, ground truth beside prediction.
    Returns: the results on the main rank, None on the others. The model keeps its training or evaluation mode.
    """
    dataset: Any = data_loader.dataset
    evaluator = build_evaluator(
        dataset,
        iou_types=iou_types,
        box_only=box_only,
        keypoint_oks_sigmas=keypoint_oks_sigmas,
        boundary_ap=boundary_ap,
        per_keypoint=per_keypoint,
        evaluators=evaluators,
    )
    devices = comm.get_world_size()
    logger.info("Start evaluation on %s dataset (%d images)", dataset_name, len(dataset))
    was_training, timer, start = model.training, Timer(), time.perf_counter()
    try:
        compute_on_dataset(model, data_loader, device, bbox_aug, timer, evaluator=evaluator, dtype=dtype)
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
    for table in results.per_keypoint_tables():
        logger.info("By keypoint:\n%s", table)
    for note in results.notes:
        logger.info("%s", note)
    if output_folder and pictures > 0:
        folder = evaluator.write_pictures(Path(output_folder) / "pictures", pictures)
        if folder is not None:
            logger.info("Pictures, ground truth beside prediction: %s", folder)
    check_expected_results(results, expected_results, expected_results_sigma_tol)
    return results


def run_tests(
    cfg: CfgNode, model: nn.Module, data_loaders: Sequence[DataLoader[Any]], device: torch.device | str
) -> dict[str, EvaluationResults]:
    """Evaluate on each data set of DATASETS.TEST; results are written to OUTPUT_DIR/inference/<data set>.

    Args:
        data_loaders: one per name in DATASETS.TEST.
    Returns: {data set name: results} on the main rank, {} on the others.
    """
    results: dict[str, EvaluationResults] = {}
    for name, data_loader in zip(cfg.DATASETS.TEST, data_loaders, strict=True):
        found = inference(
            model,
            data_loader,
            dataset_name=name,
            iou_types=tasks_of_model(model),
            box_only=finds_only_proposals(cfg),
            bbox_aug=bool(ViewSize.from_cfg(cfg)),
            device=device,
            expected_results=cfg.TEST.EXPECTED_RESULTS,
            expected_results_sigma_tol=cfg.TEST.EXPECTED_RESULTS_SIGMA_TOL,
            output_folder=os.path.join(cfg.OUTPUT_DIR, "inference", name) if cfg.OUTPUT_DIR else None,
            keypoint_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
            boundary_ap=cfg.TEST.BOUNDARY_AP,
            per_keypoint=cfg.TEST.PER_KEYPOINT,
            evaluators=cfg.TEST.EVALUATORS,
            dtype=cfg.DTYPE,
            pictures=cfg.TEST.PICTURES,
        )
        comm.synchronize()
        if found is not None:
            results[name] = found
    return results


def _progress(data_loader: DataLoader[Any]) -> Iterable[Any]:
    """Show a progress bar on the main rank; if the output is a file, update it only twice a minute."""
    bar: Iterable[Any] = tqdm(
        data_loader,
        desc="inference",
        unit="batch",
        disable=not comm.is_main_process(),
        mininterval=0.5 if sys.stderr.isatty() else 30,
        dynamic_ncols=True,
    )
    return bar


def _detect(
    model: nn.Module, images: ImageList | ImageViews, device: torch.device, bbox_aug: bool
) -> Sequence[BoxList]:
    """Detections in a batch of the loader, whose views are merged if it has several."""
    if isinstance(images, ImageViews):
        return AugmentedDetector(bare_model(model))(images, device)
    if bbox_aug:
        raise ValueError(
            "bbox_aug is True, but the loader gives one view of each image; make it by make_data_loader from a config "
            "with TEST.BBOX_AUG.ENABLED True"
        )
    detections: Sequence[BoxList] = model(images.to(device, non_blocking=True))
    return detections
