"""Build the data loaders of a config."""

from __future__ import annotations

import logging
import math
import multiprocessing
import os
import random
import signal
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from maskrcnn_benchmark.data.catalog import Catalog, check_names, dataset_catalog
from maskrcnn_benchmark.data.collate_batch import BatchCollator, ViewCollator
from maskrcnn_benchmark.data.copy_paste import CopyPaste
from maskrcnn_benchmark.data.datasets import DATASETS, ConcatDataset
from maskrcnn_benchmark.data.datasets.annotations import NAMED_MASKS
from maskrcnn_benchmark.data.datasets.base import DetectionDataset, Sample, as_detection_dataset, check_minimal
from maskrcnn_benchmark.data.datasets.coco import keypoint_files_of, mask_keys_of
from maskrcnn_benchmark.data.datasets.keypoint_specs import disagreement
from maskrcnn_benchmark.data.samplers import (
    DistributedSampler,
    GroupedBatchSampler,
    IterationBasedBatchSampler,
    RoundRobinBatchSampler,
)
from maskrcnn_benchmark.data.seeding import PositionedBatchSampler, SeededBatches, SeededDataset
from maskrcnn_benchmark.data.transforms import build_test_transforms, build_transforms
from maskrcnn_benchmark.data.transforms.build import resize_from_cfg
from maskrcnn_benchmark.structures.image_views import ViewSize
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON, assumed_skeleton
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.detector_kind import finds_only_proposals, num_classes

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

ASPECT_RATIO_BINS = (1.0,)  # two groups by height / width: landscape, and portrait or square

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
    """Build the loader of DATASETS.TRAIN, or a list with one loader for each name in DATASETS.TEST.

    A batch is (`ImageList`, tuple of targets, tuple of indices into the loader's data set). With test-time augmentation
    (TEST.BBOX_AUG, TEST.MULTI_SCALE) a test batch has `ImageViews` in place of the `ImageList`.

    Training: the loader has the batches of iterations `start_iter` to SOLVER.MAX_ITER (times SOLVER.ACCUMULATE). They
    depend only on SEED, the number of processes and the iteration, not on DATALOADER.NUM_WORKERS, and not on where a
    run was interrupted. In each epoch every image comes once, and a few come twice to fill the last batch.

    Testing: every image comes once over all processes, in batches of TEST.IMS_PER_BATCH consecutive images that are
    dealt to the processes in turn. A batch does not depend on the number of processes, so the results do not either.
    (Convolutions and matrix products differ in the last digits between batch sizes.)

    Args:
        is_distributed: deal the images to all processes of the run; False gives all images to this process.
        catalog: where the names of the data sets are looked up; None for the one of PATHS_CATALOG.
    Raises: ValueError for a batch size that the processes cannot share, no data set, or a data set that does not fit
        the model; FileNotFoundError for missing files.
    """
    replicas, rank = (comm.get_world_size(), comm.get_rank()) if is_distributed else (1, 0)
    names = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
    if not names and is_train:
        raise ValueError("DATASETS.TRAIN is empty: name at least one data set of the catalog to train on")
    if isinstance(names, str):
        raise ValueError(f"DATASETS takes a tuple of names: write ('{names}',), with the comma, not '{names}'")
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
    transforms = build_transforms(cfg) if is_train else build_test_transforms(cfg)
    keypoint_files = keypoint_files_of(cfg.DATASETS.KEYPOINT_FILES, (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    folder = catalog.data_dir() if hasattr(catalog, "data_dir") else ""
    datasets = []
    for name in names:
        entry = catalog.get(name)
        factory, arguments = DATASETS[entry["factory"]], dict(entry["args"])
        if name in keypoint_files:
            arguments["keypoints_file"] = os.path.join(folder, keypoint_files[name])
        if hasattr(factory, "from_cfg"):
            dataset = factory.from_cfg(cfg, is_train=is_train, transforms=transforms, **arguments)
        else:
            dataset = factory(transforms=transforms, **arguments)
        check_minimal(dataset, name)
        datasets.append(as_detection_dataset(dataset))
    return datasets


def check_datasets(cfg: CfgNode, datasets: Sequence[DetectionDataset], names: Sequence[str], is_train: bool) -> None:
    """Raise ValueError if categories, masks or keypoints of a data set do not fit the model, as far as they are known.

    A mask that only some of the training sets have, or that a test set does not have, gives a warning.
    """
    named = zip(names, datasets, strict=True)
    known = [(name, dataset.class_names) for name, dataset in named if dataset.class_names]
    if not finds_only_proposals(cfg):
        groups = [known] if is_train else [[entry] for entry in known]  # trained on as one set, tested one by one
        for group in filter(None, groups):
            _check_categories(group, *num_classes(cfg))
    if cfg.MODEL.MULTI_MASK_ON:
        _check_masks(cfg, datasets, names, is_train)
    if cfg.MODEL.KEYPOINT_ON:
        _check_keypoints(cfg, dict(zip(names, datasets, strict=True)), is_train)
        _check_keypoint_classes(cfg, dict(zip(names, datasets, strict=True)), is_train)


def _check_keypoints(cfg: CfgNode, datasets: Mapping[str, DetectionDataset], is_train: bool) -> None:
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES
    known = {name: dataset.keypoint_spec for name, dataset in datasets.items() if dataset.keypoint_spec is not None}
    for name, spec in known.items():
        if len(spec) != count:
            raise ValueError(
                f"MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES is {count}, but {name} has {spec}: set it to {len(spec)}, or "
                "choose another data set"
            )
    problem = disagreement(known) if is_train else None  # trained on as one set, tested one by one
    if problem:
        raise ValueError(f"data sets that are trained on together must have the same keypoints, but {problem}")
    if not is_train:
        return
    for name, spec in known.items():
        if cfg.INPUT.HALF_BODY.PROB > 0 and not cfg.INPUT.HALF_BODY.UPPER and spec.names != COCO_PERSON.names:
            raise ValueError(
                f"INPUT.HALF_BODY.UPPER is (), which is known for COCO's person only, but {name} has {spec}: list the "
                "indices of the upper half, counted from 0"
            )
    if max(cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN, cfg.INPUT.VERTICAL_FLIP_PROB_TRAIN) == 0:
        return
    for name in datasets:
        spec = known.get(name, assumed_skeleton(count))
        if spec.flip_problem:
            raise ValueError(
                f"{name}: {spec.flip_problem}. Or set INPUT.HORIZONTAL_FLIP_PROB_TRAIN and "
                "INPUT.VERTICAL_FLIP_PROB_TRAIN to 0."
            )


def _check_keypoint_classes(cfg: CfgNode, datasets: Mapping[str, DetectionDataset], is_train: bool) -> None:
    """Compare MODEL.ROI_KEYPOINT_HEAD.CLASSES with the classes that have keypoints in the data."""
    key, classes = "MODEL.ROI_KEYPOINT_HEAD.CLASSES", tuple(cfg.MODEL.ROI_KEYPOINT_HEAD.CLASSES)
    known = {name: dataset for name, dataset in datasets.items() if dataset.keypoint_labels}
    for name, dataset in known.items():
        labels = tuple(dataset.keypoint_labels)
        found = ", ".join(f"{label} ({dataset.class_names[label]})" for label in labels)
        if classes and not set(labels) <= set(classes):
            raise ValueError(
                f"{key} is {classes}, but in {name} the labels with keypoints are {found}: set it to {labels}"
            )
        if is_train and not classes and len(labels) < len(dataset.class_names) - 1:
            logger.warning(
                "only some classes of %s have keypoints: %s. Set %s to %s, so that the keypoint head leaves out the "
                "others; images without keypoints are then kept in training too",
                name, found, key, labels,
            )  # fmt: skip
    absent = set(classes) - {label for dataset in known.values() for label in dataset.keypoint_labels}
    if is_train and absent and len(known) == len(datasets):
        raise ValueError(
            f"{key} has the labels {sorted(absent)}, which have no keypoints in {', '.join(datasets)}: take them out"
        )


def _check_categories(known: Sequence[tuple[str, Sequence[str]]], key: str, count: int) -> None:
    largest_name, largest = max(known, key=lambda entry: len(entry[1]))
    for name, class_names in known:
        for label, (ours, theirs) in enumerate(zip(class_names, largest, strict=False)):
            if ours != theirs:
                raise ValueError(
                    f"data sets that are trained on together must number their categories equally, but label {label} "
                    f"is {ours!r} in {name} and {theirs!r} in {largest_name}"
                )
    if len(largest) != count:
        shown = ", ".join(largest[1:6]) + (", ..." if len(largest) > 6 else "")
        raise ValueError(
            f"{key} is {count}, but {largest_name} has {len(largest) - 1} categories "
            f"({shown}), {len(largest)} with the background: set NUM_CLASSES to {len(largest)}, "
            "or choose another data set"
        )


def _check_masks(cfg: CfgNode, datasets: Sequence[DetectionDataset], names: Sequence[str], is_train: bool) -> None:
    """Report masks that no annotation of a data set has. Raises: ValueError if training could not learn one."""
    keys = mask_keys_of(cfg.DATASETS.MASK_KEYS)
    for mask in cfg.MODEL.ROI_MULTI_MASK_HEAD.MASKS:
        lacking = [
            f"{name}, which has {dataset.masks_described}"
            for name, dataset in zip(names, datasets, strict=True)
            if mask not in dataset.mask_names and dataset.masks_described
        ]
        if not lacking:
            continue
        place = f'"{NAMED_MASKS}": {{"{mask}": ...}}; DATASETS.MASK_KEYS can name another key'
        if mask in keys:
            place = f"the key {keys[mask]!r}, as DATASETS.MASK_KEYS says"
        text = (
            f"MODEL.ROI_MULTI_MASK_HEAD.MASKS has {mask!r}, but no annotation has a usable mask of this name in "
            f"{'; nor in '.join(lacking)}. It is read from {place}."
        )
        if is_train and len(lacking) == len(datasets):
            raise ValueError(text)
        logger.warning("%s", text)


def _train_loader(
    cfg: CfgNode, dataset: DetectionDataset, start_iter: int, replicas: int, rank: int
) -> DataLoader[Sample]:
    batch_size = _batch_size("SOLVER.IMS_PER_BATCH", cfg.SOLVER.IMS_PER_BATCH, replicas)
    seed = cfg.SEED
    if seed < 0:  # tools/train_net.py has drawn a seed; other callers may not have
        seed = comm.broadcast(random.SystemRandom().randrange(2**31)) if replicas > 1 else torch.seed() % 2**31
        logger.info("SEED is %d: the order of the images uses seed %d", cfg.SEED, seed)
    sampler = DistributedSampler(dataset, replicas, rank, shuffle=True, seed=seed, multiple=batch_size)
    groups = np.zeros(len(dataset), dtype=np.int64)
    if cfg.DATALOADER.ASPECT_RATIO_GROUPING:
        groups = aspect_ratio_groups(dataset.sizes_wh)
    steps = cfg.SOLVER.ACCUMULATE
    batches = IterationBasedBatchSampler(
        GroupedBatchSampler(sampler, groups.tolist(), batch_size), cfg.SOLVER.MAX_ITER * steps, start_iter * steps
    )
    return DataLoader(
        _seeded(cfg, dataset, seed, batch_size),
        batch_sampler=PositionedBatchSampler(batches, batch_size, start_iter * steps, replicas, rank),
        collate_fn=BatchCollator(padding_multiple(cfg)),
        **_loading(cfg, seed),
    )


def _seeded(cfg: CfgNode, dataset: DetectionDataset, seed: int, batch_size: int) -> SeededDataset:
    copy_paste = CopyPaste.from_cfg(cfg)
    if copy_paste is None:
        return SeededDataset(dataset, seed)
    if batch_size < 2:
        raise ValueError(
            f"INPUT.COPY_PASTE.PROB is {cfg.INPUT.COPY_PASTE.PROB}, but a process loads one image at a time: instances "
            "are pasted from another image of the batch. Increase SOLVER.IMS_PER_BATCH, or set PROB to 0."
        )
    return SeededBatches(dataset, seed, copy_paste)


def _test_loader(cfg: CfgNode, dataset: DetectionDataset, replicas: int, rank: int) -> DataLoader[Sample]:
    group_size = cfg.TEST.IMS_PER_BATCH
    if group_size < 1:
        raise ValueError(f"TEST.IMS_PER_BATCH is {group_size}; it must be 1 or more")
    views = ViewSize.from_cfg(cfg)
    collate: BatchCollator | ViewCollator = _test_collator(cfg, dataset)
    loading = _loading(cfg, 0)
    if views:
        collate = ViewCollator([_test_collator(size.applied_to(cfg), dataset) for size in views], views)
        if loading["num_workers"] > 0:
            loading["prefetch_factor"] = 1  # a batch has all views, and may take gigabytes
    return DataLoader(
        dataset,
        batch_sampler=RoundRobinBatchSampler(len(dataset), group_size, group_size, replicas, rank),
        collate_fn=collate,
        **loading,
    )


def _test_collator(cfg: CfgNode, dataset: DetectionDataset) -> BatchCollator:
    """Pads an image to the largest one of its batch, which does not depend on the number of processes."""
    group_size = cfg.TEST.IMS_PER_BATCH
    resize = resize_from_cfg(cfg, is_train=False)
    sizes = np.array([resize.get_size((w, h)) for w, h in dataset.sizes_wh.tolist()], dtype=np.int64).reshape(-1, 2)
    canvas = np.maximum.reduceat(sizes, np.arange(0, len(sizes), group_size)) if len(sizes) else sizes
    return BatchCollator(padding_multiple(cfg), np.repeat(canvas, group_size, axis=0))


def aspect_ratio_groups(sizes_wh: NDArray[np.int64], bins: Sequence[float] = ASPECT_RATIO_BINS) -> NDArray[np.int64]:
    """(R, 2) widths and heights -> (R,): the number of the interval between `bins` that has height / width."""
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
    """The height and width of a padded batch are multiples of this, in pixels; it satisfies both keys for it."""
    return math.lcm(max(1, cfg.DATALOADER.SIZE_DIVISIBILITY), max(1, cfg.INPUT.ALIGN_IMAGE_FACTOR))


def _loading(cfg: CfgNode, seed: int) -> dict[str, Any]:
    """The keyword arguments that training and test loaders share."""
    workers = cfg.DATALOADER.NUM_WORKERS
    if workers > 0:
        _allow_open_files()
        # OpenCV starts threads when it first resizes or draws. A worker forked after that would wait for them forever,
        # because fork copies their locks but not the threads.
        cv2.setNumThreads(1)
    return {
        "num_workers": workers,
        "persistent_workers": workers > 0,
        "worker_init_fn": _start_worker,
        "pin_memory": torch.cuda.is_available() and str(cfg.MODEL.DEVICE).startswith("cuda"),
        # A loader draws a number each time it starts; it must not change the global generator, which training uses.
        "generator": torch.Generator().manual_seed(seed),
    }


def _start_worker(worker_id: int) -> None:
    cv2.setNumThreads(1)  # the workers share the cores; PyTorch uses one thread in a worker by itself
    _ignore_foreign_sigterm()


def _ignore_foreign_sigterm() -> None:
    """Let SIGTERM end this worker only if the parent process has sent it.

    Launchers and schedulers send SIGTERM to every process of a group. The training process then saves a checkpoint,
    needs its workers to finish the current step, and ends them itself.
    """
    parent = multiprocessing.parent_process()
    if parent is None or not hasattr(signal, "sigwaitinfo"):  # macOS cannot tell who has sent a signal
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
            pass
        os._exit(0)

    threading.Thread(target=wait, name="sigterm", daemon=True).start()


def _allow_open_files() -> None:
    """Raise this process's limit of open files, often 1024: every tensor from a worker keeps a file open."""
    try:
        import resource
    except ImportError:  # not a Unix
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
