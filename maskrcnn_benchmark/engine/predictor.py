"""`Predictor`: a config and its weights in, images in, detections in the images' own pixels out."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.build import padding_multiple
from maskrcnn_benchmark.data.catalog import dataset_catalog
from maskrcnn_benchmark.data.datasets.coco_categories import COCO_CATEGORIES
from maskrcnn_benchmark.data.datasets.image_files import read_image, to_rgb
from maskrcnn_benchmark.data.evaluation.coco.run_lengths import resize_drawn_masks
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.layers.boxes import HALF_OPEN
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list

from .run.checks import check_evaluation
from .run.processes import select_device
from .run.weights import load_trained_weights
from .train_loop import PRECISIONS, autocast

logger = logging.getLogger(__name__)

BACKGROUND = "__background__"
AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray


@dataclass(frozen=True)
class PreparedImage:
    """An image as the network takes it, (3, h, w) float32, and the size (width, height) that it had before."""

    pixels: Tensor
    size_wh: tuple[int, int]


class PendingDetections:
    """What the model is finding in a batch, perhaps still at work on a GPU.

    Args:
        detections: BoxLists on the CPU, in the pixels of the network's input, which are complete once `ready` is.
        sizes_wh: of the images as they were given.
        ready: None where they are complete already.
    """

    def __init__(
        self, detections: Sequence[BoxList], sizes_wh: Sequence[tuple[int, int]], ready: torch.cuda.Event | None
    ) -> None:
        self._detections, self._sizes_wh, self._ready = detections, sizes_wh, ready

    def wait(self) -> list[BoxList]:
        """The detections of each image, in its own pixels, on the CPU."""
        if self._ready is not None:
            self._ready.synchronize()
        pairs = zip(self._detections, self._sizes_wh, strict=True)
        return [detections_in_image(detections, size_wh) for detections, size_wh in pairs]


class Predictor:
    """Runs a trained model on images of any kind, prepared exactly as the test loop prepares them.

    An image is a path, a PIL image, or an array (H, W, 3) of uint8, of which must be said whether its channels are in
    the order "RGB" or "BGR" (OpenCV's); grey arrays (H, W) need not. Files are turned upright as their Exif data says.

    Results are BoxLists on the CPU, in pixels of the image as it was given, best scores first: SCORES, LABELS, and what
    the model's heads add. MASK holds probabilities spanning MASK_BOXES; `drawing.image_masks` lays them on
    the image. `prepare` may run in other threads than the model.

    Args:
        cfg: the model's config; DEVICE, DTYPE, INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST count as in a test.
        weights: a file, a URL or a catalog:// name; None takes the last checkpoint in OUTPUT_DIR, or MODEL.WEIGHT.
        model: a model that has its weights, instead of those.
        categories: {label: name}; by default those of the checkpoint, else those of the config's datasets.
    Attributes:
        categories: {label: name}, with 0 for the background; empty where no names are known. device, cfg, model.
    Raises: StartupError, CheckpointError, FileNotFoundError.
    """

    def __init__(
        self,
        cfg: Any,
        weights: str | os.PathLike[str] | None = None,
        *,
        model: nn.Module | None = None,
        categories: Mapping[int, str] | None = None,
    ) -> None:
        check_evaluation(cfg)
        self.cfg = cfg
        self.device = select_device(cfg.MODEL.DEVICE)
        loaded: dict[str, Any] = {}
        if model is None:
            model = build_detection_model(cfg)
            loaded = load_trained_weights(cfg, model, weights, flag="--weights", purpose="run")
        self.model = model.to(self.device).eval()
        self.categories = dict(categories or loaded.get("categories") or find_category_names(cfg))
        self._transforms = build_transforms(cfg, is_train=False)
        self._dtype = PRECISIONS[cfg.DTYPE]

    @classmethod
    def from_config_file(
        cls,
        config_file: str | os.PathLike[str],
        opts: Sequence[Any] = (),
        weights: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Predictor:
        """Of a YAML file, such as the config.yml that a training left, with KEY, VALUE, ... on top.

        Raises: ConfigError, and what the constructor raises.
        """
        cfg = load_config(config_file, opts)
        cfg.freeze()
        return cls(cfg, weights, **kwargs)

    def __call__(self, image: AnyImage, channel_order: str | None = None) -> BoxList:
        """The detections in one image; `channel_order` "RGB" or "BGR" for arrays."""
        return self.predict_batch([image], channel_order)[0]

    def predict_batch(self, images: Sequence[AnyImage], channel_order: str | None = None) -> list[BoxList]:
        """The detections in several images, which go through the network together; the list may be empty."""
        return self.start([self.prepare(image, channel_order) for image in images]).wait()

    def prepare(self, image: AnyImage, channel_order: str | None = None) -> PreparedImage:
        """Read, scale and normalise an image. Raises: FileNotFoundError, OSError, TypeError, ValueError."""
        picture = as_picture(image, channel_order)
        pixels, _ = self._transforms(picture)
        return PreparedImage(pixels, picture.size)

    def start(self, images: Sequence[PreparedImage]) -> PendingDetections:
        """Run the model; on a GPU, return as soon as the work has been handed over."""
        if not images:
            return PendingDetections([], [], None)
        batch = to_image_list([image.pixels for image in images], padding_multiple(self.cfg))
        sizes_wh = [image.size_wh for image in images]
        if self.device.type != "cuda":
            return PendingDetections([found.to("cpu") for found in self._forward(batch)], sizes_wh, None)
        with torch.cuda.device(self.device):  # the current device is each thread's own
            found = [detections.to("cpu", non_blocking=True) for detections in self._forward(batch.pin_memory())]
            ready = torch.cuda.Event()
            ready.record()
        return PendingDetections(found, sizes_wh, ready)

    def _forward(self, batch: ImageList) -> list[BoxList]:
        with torch.no_grad(), autocast(self.device, self._dtype):
            return self.model(batch.to(self.device, non_blocking=True))


def as_picture(image: AnyImage, channel_order: str | None = None) -> Image.Image:
    """A path, PIL image or array as an 8-bit RGB picture. Raises as `Predictor.prepare`."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image, upright=True)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image is a path, a PIL image or an array (H, W, 3) of uint8, not {type(image).__name__}")
    grey = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 1)
    if image.dtype != np.uint8 or not (grey or (image.ndim == 3 and image.shape[2] in (3, 4))) or 0 in image.shape:
        raise ValueError(
            f"an array {image.shape} of {image.dtype} was given as an image; expected (H, W, 3) of uint8, 0 to 255"
        )
    if grey:
        return Image.fromarray(image.reshape(image.shape[:2])).convert("RGB")
    if channel_order not in ("RGB", "BGR"):
        raise ValueError(
            f"channel_order is {channel_order!r}: say whether the channels of an array are 'RGB' or 'BGR' "
            "(what cv2.imread and cv2.VideoCapture give)"
        )
    channels = image[..., :3] if channel_order == "RGB" else image[..., 2::-1]
    return Image.fromarray(np.ascontiguousarray(channels))


def detections_in_image(detections: BoxList, size_wh: tuple[int, int]) -> BoxList:
    """Detections in the network's input -> the same in the image of `size_wh` that the input was scaled from.

    Boxes are scaled corner by corner, as results are; what a mask spans is scaled as a whole, and MASK_BOXES says so:
    an inclusive corner that is scaled moves a mask's far side by up to a pixel.
    """
    resized = detections.resize(size_wh)
    if not detections.has_field(fields.MASK):
        return resized
    masks = detections.get_field(fields.MASK)
    if not masks.is_floating_point():  # drawn over the input already
        drawn = resize_drawn_masks(masks[:, 0], (size_wh[1], size_wh[0]))[:, None]
        resized.add_field(fields.MASK, drawn)
    elif not detections.has_field(fields.MASK_BOXES):
        ratios = detections.bbox.new_tensor([size_wh[0] / detections.size[0], size_wh[1] / detections.size[1]] * 2)
        spanned = BoxList(detections.extents() * ratios, size_wh, offset=HALF_OPEN)
        resized.add_field(fields.MASK_BOXES, spanned)
    return resized


def find_category_names(cfg: Any) -> dict[int, str]:
    """{label: name}, 0 being the background, for a checkpoint that has none: from the annotation files that the config
    names, where one is there and fits; else COCO's where their number fits; else none."""
    count = cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES - 1
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = _names_of_dataset(cfg, name)
        if len(names) == count:
            return dict(enumerate([BACKGROUND, *names]))
    if count == len(COCO_CATEGORIES):
        return dict(enumerate([BACKGROUND, *COCO_CATEGORIES]))
    if count == 1 and cfg.MODEL.KEYPOINT_ON:
        return {0: BACKGROUND, 1: "person"}
    logger.warning("the names of the %d categories are not known: labels are shown as numbers", count)
    return {}


def _names_of_dataset(cfg: Any, name: str) -> list[str]:
    """Category names in the annotation file of a dataset of the catalog; empty where there is no such file."""
    try:
        with open(dataset_catalog(cfg).get(name)["args"]["ann_file"], encoding="utf-8") as file:
            return [str(category["name"]) for category in json.load(file)["categories"]]
    except (KeyError, OSError, TypeError, ValueError):  # names are a nicety: any reason not to have them will do
        return []
