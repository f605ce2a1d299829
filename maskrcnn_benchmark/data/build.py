"""The data loaders that a config asks for."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from maskrcnn_benchmark.data.catalog import Catalog, check_names, dataset_catalog
from maskrcnn_benchmark.data.collate_batch import BatchCollator
from maskrcnn_benchmark.data.datasets import DATASETS, ConcatDataset
from maskrcnn_benchmark.data.datasets.base import DetectionDataset, Sample, as_detection_dataset, check_minimal
from maskrcnn_benchmark.data.samplers import (
    DistributedSampler,
    GroupedBatchSampler,
    IterationBasedBatchSampler,
    RoundRobinBatchSampler,
)
from maskrcnn_benchmark.data.seeding import PositionedBatchSampler, SeededDataset
from maskrcnn_benchmark.data.transforms import Resize, build_transforms
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.utils import comm

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

ASPECT_RATIO_BINS = (1.0,)  # height / width below and from 1: landscape, and portrait with square

_OPEN_FILES = 65536


@overload
def make_data_loader(
    cfg: CfgNode,
    is_train: Literal[True] = True,
    is_distributed: bool = False,
    start_iter: int = 0,
    *,
    catalog: Catalog | None = None,
) -> DataLoader[Sample]: ...


@overload
def make_data_loader(
    cfg: CfgNode,
    is_train: Literal[False],
    is_distributed: bool = False,
    start_iter: int = 0,
    *,
    catalog: Catalog | None = None,
) -> list[DataLoader[Sample]]: ...


@overload
def make_data_loader(
    cfg: CfgNode,
    is_train: bool,
    is_distributed: bool = False,
    start_iter: int = 0,
    *,
    catalog: Catalog | None = None,
) -> DataLoader[Sample] | list[DataLoader[Sample]]: ...


def make_data_loader(
    cfg: CfgNode,
    is_train: bool = True,
    is_distributed: bool = False,
    start_iter: int = 0,
    *,
    catalog: Catalog | None = None,
) -> DataLoader[Sample] | list[DataLoader[Sample]]:
    """The loader of DATASETS.TRAIN, or a list with one for each of DATASETS.TEST.

    A batch is (`ImageList`, tuple of targets, tuple of indices into the loader's dataset).

    Training: the batches of iterations `start_iter` to SOLVER.MAX_ITER (times SOLVER.ACCUMULATE), which depend on SEED,
    the number of processes and the iteration alone, not on DATALOADER.NUM_WORKERS nor on where a run was interrupted.
    Epochs follow each other; each has every image once, and a few twice where that fills the last batch.

    Testing: every image once over all processes, in batches of TEST.IMS_PER_BATCH consecutive images that are dealt in
    turn to the processes. Sums in convolutions and products of matrices come out differently, in the last digits, for
    another number of images; batches that do not depend on the number of processes give the same result from any.

    Args:
        is_distributed: deal the images to all processes of the run; False gives all of them to this one.
        catalog: where the names of the data sets are looked up; None for the one of PATHS_CATALOG.
    Raises: ValueError for a batch size that the processes cannot share, no dataset, and a dataset that does not go
        with the model; FileNotFoundError for a dataset that is not there.
    """
    replicas, rank = (comm.get_world_size(), comm.get_rank()) if is_distributed else (1, 0)
    names = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
    if not names and is_train:
        raise ValueError("DATASETS.TRAIN is empty: name at least one dataset of the catalog to train on")
    if isinstance(names, str):
        raise ValueError(f"DATASETS names datasets in a tuple: write ('{names}',), with the comma, not '{names}'")
    if is_train:
        _batch_size("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, replicas)
    datasets = build_dataset(cfg, names, is_train, catalog)
    check_datasets(cfg, datasets, names, is_train)
    if is_train:
        dataset = datasets[0] if len(datasets) == 1 else ConcatDataset(datasets)
        return _train_loader(cfg, dataset, start_iter, replicas, rank)
    return [_test_loader(cfg, dataset, replicas, rank) for dataset in datasets]


def build_dataset(
    cfg: CfgNode, names: Sequence[str], is_train: bool, catalog: Catalog | None = None
) -> list[DetectionDataset]:
    """The data sets of these names in the catalog, or in the one of PATHS_CATALOG if there is none."""
    catalog = dataset_catalog(cfg) if catalog is None else catalog
    check_names(catalog, names)
    transforms = build_transforms(cfg, is_train)
    datasets = []
    for name in names:
        entry = catalog.get(name)
        factory = DATASETS[entry["factory"]]
        if hasattr(factory, "from_cfg"):
            dataset = factory.from_cfg(cfg, is_train=is_train, transforms=transforms, **entry["args"])
        else:
            dataset = factory(transforms=transforms, **entry["args"])
        check_minimal(dataset, name)
        datasets.append(as_detection_dataset(dataset))
    return datasets


def check_datasets(cfg: CfgNode, datasets: Sequence[DetectionDataset], names: Sequence[str], is_train: bool) -> None:
    """Raise ValueError where categories or keypoints do not go with the model, for datasets that tell theirs."""
    named = zip(names, datasets, strict=True)
    told = [(name, dataset.class_names) for name, dataset in named if dataset.class_names]
    if not cfg.MODEL.RPN_ONLY:
        groups = [told] if is_train else [[entry] for entry in told]  # trained on together, tested one by one
        for group in filter(None, groups):
            _check_categories(group, cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES)
    flips = is_train and max(cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN, cfg.INPUT.VERTICAL_FLIP_PROB_TRAIN) > 0
    num_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES
    named_keypoints = all(len(dataset.keypoint_names) == num_keypoints for dataset in datasets)
    if cfg.MODEL.KEYPOINT_ON and flips and num_keypoints != len(PersonKeypoints.NAMES) and not named_keypoints:
        raise ValueError(
            f"MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is {num_keypoints}, not COCO's {len(PersonKeypoints.NAMES)}: it is "
            "not known which keypoints change sides in a mirrored image. Set INPUT.HORIZONTAL_FLIP_PROB_TRAIN and "
            "INPUT.VERTICAL_FLIP_PROB_TRAIN to 0."
        )


def _check_categories(told: Sequence[tuple[str, Sequence[str]]], num_classes: int) -> None:
    largest_name, largest = max(told, key=lambda entry: len(entry[1]))
    for name, class_names in told:
        for label, (ours, theirs) in enumerate(zip(class_names, largest, strict=False)):
            if ours != theirs:
                raise ValueError(
                    f"datasets that are trained on together must number their categories alike, but label {label} "
                    f"is {ours!r} in {name} and {theirs!r} in {largest_name}"
                )
    if len(largest) != num_classes:
        shown = ", ".join(largest[1:6]) + (", ..." if len(largest) > 6 else "")
        raise ValueError(
            f"MODEL.ROI_BOX_HEAD.NUM_CLASSES is {num_classes}, but {largest_name} has {len(largest) - 1} categories "
            f"({shown}), which with the background makes {len(largest)}: set NUM_CLASSES to {len(largest)}, "
            "or take another dataset"
        )


def _train_loader(
    cfg: CfgNode, dataset: DetectionDataset, start_iter: int, replicas: int, rank: int
) -> DataLoader[Sample]:
    batch_size = _batch_size("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, replicas)
    seed = cfg.SEED
    if seed < 0:  # entry points draw one and put it into the cfg; this is for those who call us directly
        seed = comm.broadcast(random.SystemRandom().randrange(2**31)) if replicas > 1 else torch.seed() % 2**31
        logger.info("SEED is %d: the order of the images is drawn with seed %d", cfg.SEED, seed)
    sampler = DistributedSampler(dataset, replicas, rank, shuffle=True, seed=seed, multiple=batch_size)
    groups = np.zeros(len(dataset), dtype=np.int64)
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        groups = aspect_ratio_groups(dataset.sizes_wh)
    steps = cfg.SOLVER.ACCUMULATE
    batches = IterationBasedBatchSampler(
        GroupedBatchSampler(sampler, groups.tolist(), batch_size), cfg.SOLVER.MAX_ITER * steps, start_iter * steps
    )
    return DataLoader(
        SeededDataset(dataset, seed),
        batch_sampler=PositionedBatchSampler(batches, batch_size, start_iter * steps, replicas, rank),
        collate_fn=BatchCollator(padding_multiple(cfg)),
        **_loading(cfg, seed),
    )


def _test_loader(cfg: CfgNode, dataset: DetectionDataset, replicas: int, rank: int) -> DataLoader[Sample]:
    group_size = cfg.TEST.IMS_PER_BATCH
    if group_size < 1:
        raise ValueError(f"TEST.IMS_PER_BATCH is {group_size}; it must be 1 or more")
    resize = Resize(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST)
    sizes = np.array([resize.get_size((w, h)) for w, h in dataset.sizes_wh.tolist()], dtype=np.int64).reshape(-1, 2)
    canvas = np.maximum.reduceat(sizes, np.arange(0, len(sizes), group_size)) if len(sizes) else sizes
    return DataLoader(
        dataset,
        batch_sampler=RoundRobinBatchSampler(len(dataset), group_size, group_size, replicas, rank),
        collate_fn=BatchCollator(padding_multiple(cfg), np.repeat(canvas, group_size, axis=0)),
        **_loading(cfg, 0),
    )


def aspect_ratio_groups(sizes_wh: NDArray[np.int64], bins: Sequence[float] = ASPECT_RATIO_BINS) -> NDArray[np.int64]:
    """(R, 2) widths and heights -> (R,): which interval between `bins` height / width falls into."""
    return np.searchsorted(np.asarray(bins), sizes_wh[:, 1] / sizes_wh[:, 0], side="right")


def _batch_size(key: str, images: int, replicas: int) -> int:
    """Images per process."""
    if images < 1 or images % replicas:
        raise ValueError(
            f"{key} is {images}, but must be a positive multiple of the number of processes, {replicas}: "
            "it counts the images of all processes together"
        )
    return images // replicas


def padding_multiple(cfg: CfgNode) -> int:
    """What height and width of a padded batch are multiples of, in pixels: two keys ask for it, and both get it."""
    return math.lcm(max(1, cfg.DATALOADER.SIZE_DIVISIBILITY), max(1, cfg.INPUT.ALIGN_IMAGE_FACTOR))


def _loading(cfg: CfgNode, seed: int) -> dict[str, Any]:
    """How a loader works, apart from what it loads."""
    workers = cfg.DATALOADER.NUM_WORKERS
    if workers > 0:
        _allow_open_files()
        # A worker that is forked while OpenCV has threads (it starts them when it first resizes or draws) waits for
        # them for ever: it has a copy of their locks, but not of them.
        cv2.setNumThreads(1)
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "worker_init_fn": _start_worker,
        "pin_memory": torch.cuda.is_available() and str(cfg.MODEL.DEVICE).startswith("cuda"),
        # a loader draws a number whenever it starts: not from the global generator, whose numbers training counts on
        "generator": torch.Generator().manual_seed(seed),
    }


def _start_worker(worker_id: int) -> None:
    cv2.setNumThreads(1)  # workers share the cores; PyTorch limits itself in a worker
    _heed_parent_alone()


def _heed_parent_alone() -> None:
    """Let no SIGTERM end this worker but that of the process that loads through it.

    Launchers and schedulers send it to every process of a group. The training process answers it, by saving, and needs
    its workers for the step that it is in; it ends them itself.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):  # only this tells who has sent a signal; not on macOS
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
            pass
        os._exit(0)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


def _allow_open_files() -> None:
    """Every tensor that a worker hands over keeps a file open: raise this process's limit, often 1024, if it may."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
