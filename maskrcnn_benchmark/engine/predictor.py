"""`Predictor`: detections of a trained model in images of any kind, in the pixels of each image."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.build import padding_multiple
from maskrcnn_benchmark.data.datasets.coco_categories import COCO_CATEGORIES
from maskrcnn_benchmark.data.datasets.image_files import read_image, to_rgb
from maskrcnn_benchmark.data.evaluation.coco.run_lengths import resize_drawn_masks
from maskrcnn_benchmark.data.transforms import build_test_transforms
from maskrcnn_benchmark.layers.boxes import HALF_OPEN
from maskrcnn_benchmark.modeling.detector import AugmentedDetector, build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list
from maskrcnn_benchmark.structures.image_views import ImageViews, ViewSize
from maskrcnn_benchmark.structures.named_masks import predicted_masks
from maskrcnn_benchmark.utils.detector_kind import num_classes

from .keypoints import KEYPOINT_SPEC, categories_of_file, spec_of_files, tell_keypoints
from .run.processes import select_device
from .run.weights import load_trained_weights
from .train_loop import PRECISIONS, autocast, bare_model

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

BACKGROUND = "__background__"
AnyImage = str | os.PathLike[str] | Image.Image | np.ndarray


@dataclass(frozen=True)
class PreparedImage:
    """An image that is ready for the network.

    Attributes:
        pixels: (3, h, w) float32, scaled and normalised.
        size_wh: (width, height) of the image as it was given.
        more_sizes: the image in the other sizes of a test-time augmentation.
    """

    pixels: Tensor
    size_wh: tuple[int, int]
    more_sizes: tuple[Tensor, ...] = ()


class PendingDetections:
    """The detections in a batch, which a GPU may still be computing.

    Args:
        detections: BoxLists on the CPU, in pixels of the network's input; valid after `ready`.
        sizes_wh: sizes of the images as they were given.
        ready: recorded after the copies to the CPU; None if the detections are valid already.
    """

    def __init__(
        self, detections: Sequence[BoxList], sizes_wh: Sequence[tuple[int, int]], ready: torch.cuda.Event | None
    ) -> None:
        self._detections, self._sizes_wh, self._ready = detections, sizes_wh, ready

    def wait(self) -> list[BoxList]:
        """Wait for the GPU and return the detections of each image, in its own pixels, on the CPU."""
        if self._ready is not None:
            self._ready.synchronize()
        pairs = zip(self._detections, self._sizes_wh, strict=True)
        return [detections_in_image(detections, size_wh) for detections, size_wh in pairs]


class Predictor:
    """Runs a trained model on images, prepared exactly as in the test loop.

    An image is a path, a PIL image, or an array (H, W, 3) of uint8. For an array, `channel_order` says whether its
    channels are "RGB" or "BGR" (OpenCV's); gray arrays (H, W) need no order. Files are rotated by their Exif data.

    Results are BoxLists on the CPU, in pixels of the given image, best scores first, with SCORES, LABELS and the fields
    of the heads. MASK holds probabilities that span MASK_BOXES; `drawing.image_masks` pastes them into the image.
    `prepare` may run in other threads than the model.

    Args:
        cfg: the config of the model; MODEL.DEVICE, DTYPE, INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST are used as in a test.
        weights: a file, a URL or a catalog:// name; None: the last checkpoint in OUTPUT_DIR, else MODEL.WEIGHT.
        model: a model with its weights; `weights` is then not read.
        categories: {label: name}; None: taken from the checkpoint, else from the config's data sets.
    Attributes:
        cfg: as given.
        device: the device of the model.
        model: the model, in evaluation mode.
        categories: {label: name}, 0 is the background; empty if no names are known.
        is_augmented: whether TEST.BBOX_AUG, TEST.MULTI_SCALE or a flip test is on; results are then merged from several
            views.
    Raises: StartupError, CheckpointError, FileNotFoundError.
    """

    def __init__(
        self,
        cfg: CfgNode,
        weights: str | os.PathLike[str] | None = None,
        *,
        model: nn.Module | None = None,
        categories: Mapping[int, str] | None = None,
    ) -> None:
        self.cfg = cfg
        self.device = select_device(cfg.MODEL.DEVICE)
        loaded: dict[str, Any] = {}
        if model is None:
            model = build_detection_model(cfg)
            loaded = load_trained_weights(cfg, model, weights, flag="--weights", purpose="run")
            tell_keypoints(cfg, model, loaded, {} if loaded.get(KEYPOINT_SPEC) else spec_of_files(cfg))
        self.model = model.to(self.device).eval()
        self.categories = dict(categories or loaded.get("categories") or find_category_names(cfg))
        self._transforms = build_test_transforms(cfg)
        self._sizes = ViewSize.from_cfg(cfg)
        self._augmented = AugmentedDetector(bare_model(self.model)) if self._sizes else None
        self._dtype = PRECISIONS[cfg.DTYPE]

    @property
    def is_augmented(self) -> bool:
        return self._augmented is not None

    @classmethod
    def from_config_file(
        cls,
        config_file: str | os.PathLike[str],
        opts: Sequence[Any] = (),
        weights: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> Predictor:
        """Create a predictor from a YAML file, such as the config.yml of a training.

        Args:
            opts: KEY, VALUE, ... that override the file.
            kwargs: further arguments of the constructor.
        Raises: ConfigError, and the errors of the constructor.
        """
        cfg = load_config(config_file, opts)
        cfg.freeze()
        return cls(cfg, weights, **kwargs)

    def __call__(self, image: AnyImage, channel_order: str | None = None) -> BoxList:
        """Return the detections in one image; `channel_order` is "RGB" or "BGR" for an array."""
        return self.predict_batch([image], channel_order)[0]

    def predict_batch(self, images: Sequence[AnyImage], channel_order: str | None = None) -> list[BoxList]:
        """Return the detections in several images, which the network processes as one batch; may be empty."""
        return self.start([self.prepare(image, channel_order) for image in images]).wait()

    def prepare(self, image: AnyImage, channel_order: str | None = None) -> PreparedImage:
        """Read, scale and normalise an image. Raises: FileNotFoundError, OSError, TypeError, ValueError."""
        picture = as_picture(image, channel_order)
        pixels: Any = self._transforms(picture)[0]
        if not self.is_augmented:
            return PreparedImage(pixels, picture.size)
        return PreparedImage(pixels[0], picture.size, pixels[1:])

    def start(self, images: Sequence[PreparedImage]) -> PendingDetections:
        """Run the model. On a GPU this returns before the work is done."""
        if not images:
            return PendingDetections([], [], None)
        batch = self._collate(images)
        sizes_wh = [image.size_wh for image in images]
        if self.device.type != "cuda":
            return PendingDetections([found.to("cpu") for found in self._forward(batch)], sizes_wh, None)
        with torch.cuda.device(self.device):  # each thread has its own current device
            found = [detections.to("cpu", non_blocking=True) for detections in self._forward(batch.pin_memory())]
            ready = torch.cuda.Event()
            ready.record()
        return PendingDetections(found, sizes_wh, ready)

    def _collate(self, images: Sequence[PreparedImage]) -> ImageList | ImageViews:
        multiple = padding_multiple(self.cfg)
        first = to_image_list([image.pixels for image in images], multiple)
        if not self.is_augmented:
            return first
        others = zip(*(image.more_sizes for image in images), strict=True)
        batches = (first, *(to_image_list(list(batch), multiple) for batch in others))
        return ImageViews.of(batches, self._sizes)

    def _forward(self, batch: ImageList | ImageViews) -> list[BoxList]:
        with torch.no_grad(), autocast(self.device, self._dtype):
            if isinstance(batch, ImageViews):
                assert self._augmented is not None
                return self._augmented(batch, self.device)
            detections: list[BoxList] = self.model(batch.to(self.device, non_blocking=True))
            return detections


def as_picture(image: AnyImage, channel_order: str | None = None) -> Image.Image:
    """Convert a path, PIL image or array to an 8-bit RGB picture. Raises: as `Predictor.prepare`."""
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
    """Scale detections from the network's input to the image of `size_wh`.

    Boxes are scaled by their corners, as in results. The extent of a mask is scaled as a half-open box and stored in
    the field of its boxes, such as MASK_BOXES: scaling an inclusive corner would move the far side of the mask by up to
    a pixel.
    """
    resized = detections.resize(size_wh)
    for names in predicted_masks(detections):
        masks = detections.get_field(names.mask)
        if not masks.is_floating_point():  # already pasted into the input
            drawn = resize_drawn_masks(masks[:, 0], (size_wh[1], size_wh[0]))[:, None]
            resized.add_field(names.mask, drawn)
        elif not (detections.has_field(names.boxes) or detections.has_field(names.in_pixels)):
            ratios = detections.bbox.new_tensor([size_wh[0] / detections.size[0], size_wh[1] / detections.size[1]] * 2)
            spanned = BoxList(detections.extents() * ratios, size_wh, offset=HALF_OPEN)
            resized.add_field(names.boxes, spanned)
    return resized


def find_category_names(cfg: CfgNode) -> dict[int, str]:
    """Return {label: name}, 0 is the background, for a checkpoint without names.

    Takes the names from an annotation file of the config, else COCO's names, if their number fits the model.
    """
    count = num_classes(cfg)[1] - 1
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        names = [str(category["name"]) for category in categories_of_file(cfg, name)]
        if len(names) == count:
            return dict(enumerate([BACKGROUND, *names]))
    if count == len(COCO_CATEGORIES):
        return dict(enumerate([BACKGROUND, *COCO_CATEGORIES]))
    if count == 1 and cfg.MODEL.KEYPOINT_ON:
        return {0: BACKGROUND, 1: "person"}
    logger.warning("the names of the %d categories are not known: labels are shown as numbers", count)
    return {}
