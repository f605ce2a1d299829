"""The images and targets of a data loader: a data set as the model sees it."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.datasets.base import as_detection_dataset
from maskrcnn_benchmark.data.transforms import Normalize
from maskrcnn_benchmark.drawing import draw_panels
from maskrcnn_benchmark.drawing.marks import TARGET, Mark, Panel
from maskrcnn_benchmark.engine.run import choose_seed
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_views import turn_views_off

from .files import ReportError, ReportFolder
from .page import Card, Filters, card_html, page_html, table

if TYPE_CHECKING:
    from yacs.config import CfgNode


class Sample(NamedTuple):
    """One image of a batch.

    Attributes:
        pixels: (H, W, 3) uint8 RGB, padded to the size of the batch.
        target: its annotations.
        title: its place in the batch, file name and id.
    """

    pixels: NDArray[np.uint8]
    target: BoxList
    title: str


def report_dataset(
    cfg: CfgNode,
    output: str | os.PathLike[str],
    *,
    is_train: bool = True,
    count: int = 24,
    start_iter: int = 0,
    thumbnail: int = 640,
    mask: str = "",
) -> Path:
    """Write the report of the first images that training (or testing) with this config loads.

    With the SEED of a training run, these are the images of its batches.

    Args:
        is_train: DATASETS.TRAIN with augmentation if True, else DATASETS.TEST.
        count: number of images.
        start_iter: number of training iterations to skip.
        thumbnail: longest side of the images in the page, in pixels.
        mask: name of the mask that is drawn filled; "" for the first.
    Returns: the page. Raises: FileNotFoundError, OSError, ReportError if no loader can be built from the config.
    """
    cfg = cfg.clone()
    cfg.defrost()
    turn_views_off(cfg)
    cfg.DATALOADER.NUM_WORKERS = 0  # same data; starting processes does not pay for a few images
    if cfg.SEED < 0:
        cfg.SEED = choose_seed(cfg.SEED)
    try:
        loaders: Any = make_data_loader(cfg, is_train=is_train, start_iter=start_iter)
    except ValueError as error:
        raise ReportError(str(error)) from error
    loaders = [loaders] if is_train else loaders
    names = max((as_detection_dataset(loader.dataset).class_names for loader in loaders), key=len, default=())
    normalize = Normalize(cfg.INPUT.PIXEL_MEAN, cfg.INPUT.PIXEL_STD, cfg.INPUT.TO_BGR255, cfg.INPUT.FORMAT)
    folder = ReportFolder(output)
    filters = Filters(categories=list(names[1:]) if len(names) > 2 else ())
    cards: list[str] = []
    instances: Counter[str] = Counter()
    batch_names = _training_batch_names(start_iter, cfg.SOLVER.ACCUMULATE) if is_train else _test_batch_names()
    for sample in _samples(loaders, normalize, batch_names, count):
        card = _card(sample, names, len(cards), mask or None)
        instances.update(mark.category for mark in card.panels[0].marks)
        folder.save_picture(draw_panels(card.image, card.panels), sample.title)
        cards.append(card_html(card, len(cards), filters, thumbnail))
    which = cfg.DATASETS.TRAIN if is_train else cfg.DATASETS.TEST
    steps = "augmentation, scaling" if is_train else "scaling"
    lead = [f"{', '.join(which)}: {len(cards)} images after {steps} and padding, as the model gets them."]
    if is_train:
        lead.append(f"SEED {cfg.SEED}, starting at iteration {start_iter + 1}.")
    lead.append(
        "The padding, outside the dashed line, is zero after normalisation and shows as the mean colour here. White "
        "points are keypoints that are labelled but hidden."
    )
    rows = [[name, str(number)] for name, number in instances.most_common()]
    tables = [table("Shown", ["class", "instances"], rows)]
    return folder.write_page(page_html("Dataset", lead, cards, tables=tables, filters=filters))


def restore_pixels(image: Tensor, normalize: Normalize) -> NDArray[np.uint8]:
    """Invert `Normalize`: (3, H, W) -> (H, W, 3) uint8 RGB."""
    scale, shift = (torch.tensor(values)[:, None, None] for values in (normalize.std, normalize.mean))
    values = image.cpu() * scale + shift
    if not normalize.image_format.endswith("255"):
        values = values * 255
    if normalize.image_format.startswith("BGR"):
        values = values.flip(0)
    return values.round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def _training_batch_names(start_iter: int, accumulate: int) -> Iterator[str]:
    """Names of the batches: the iteration, and the part of it if an iteration consists of several batches."""
    for number in itertools.count():
        iteration, part = divmod(number, accumulate)
        yield f"iteration {start_iter + iteration + 1}" + (f", part {part + 1}" if accumulate > 1 else "")


def _test_batch_names() -> Iterator[str]:
    return (f"batch {number}" for number in itertools.count(1))


def _samples(loaders: Iterable[Any], normalize: Normalize, batch_names: Iterator[str], count: int) -> Iterator[Sample]:
    """The first `count` images of the loaders, one batch after the other."""
    left = count
    for loader in loaders:
        for images, targets, indices in loader:
            batch = next(batch_names)
            for position, (tensor, target, index) in enumerate(zip(images.tensors, targets, indices, strict=True)):
                info = loader.dataset.get_img_info(index)
                title = f"{batch}, image {position + 1} of {len(targets)}: {info['file_name']} (id {info['id']})"
                yield Sample(restore_pixels(tensor, normalize), target, title)
                left -= 1
                if left <= 0:
                    return


def _card(sample: Sample, names: Sequence[str], number: int, mask: str | None) -> Card:
    height, width = sample.pixels.shape[:2]
    target = sample.target
    labels = target.get_field(fields.LABELS).tolist()
    classes = [str(names[label]) if label < len(names) else str(label) for label in labels]
    marks = [Mark(TARGET, name, name, _details(target, row)) for row, name in enumerate(classes)]
    size = f"{target.size[0]} x {target.size[1]} pixels"
    size += f", padded to {width} x {height}" if (width, height) != tuple(target.size) else ""
    frame = (int(target.size[0]), int(target.size[1]))
    return Card(
        title=sample.title,
        measure=f"{len(target)} {'instance' if len(target) == 1 else 'instances'}",
        image=sample.pixels,
        panels=[Panel(size, target, marks, (width, height), frame, mask)],
        index=number,
    )


def _details(target: BoxList, row: int) -> str:
    x1, y1, x2, y2 = target.extents()[row].tolist()
    identity = int(target.get_field(fields.ANNOTATION_IDS)[row]) if target.has_field(fields.ANNOTATION_IDS) else row
    return f"annotation {identity}: {x2 - x1:.0f} x {y2 - y1:.0f} pixels"
