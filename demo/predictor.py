"""`COCODemo` draws the detections of a model; the class of maskrcnn-benchmark, based on this project's `Predictor`.

from maskrcnn_benchmark.config import load_config
from predictor import COCODemo

demo = COCODemo(load_config("config.yml", ["MODEL.WEIGHT", "model_final.pth"]), min_image_size=800)
picture = demo.run_on_opencv_image(cv2.imread("people.jpg"))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.data.datasets.coco_categories import COCO_CATEGORIES
from maskrcnn_benchmark.engine.predictor import BACKGROUND, Predictor, PreparedImage
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import Masker
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.named_masks import mask_names, predicted_masks, with_mask
from maskrcnn_benchmark.utils.detector_kind import finds_only_proposals

if TYPE_CHECKING:
    from yacs.config import CfgNode

BGRImage = NDArray[np.uint8]  # (H, W, 3), as OpenCV reads them


class COCODemo:
    """Detects and draws the instances in an image.

    Each `overlay_*` method returns a copy of the image with boxes, masks, keypoints or names drawn on it; `draw` calls
    them in turn. A subclass can override them, and `build_transform`, `compute_prediction` and
    `compute_colors_for_labels`.

    Args:
        cfg: the model's config; it is not changed.
        confidence_threshold: detections with a lower score are not shown.
        show_mask_heatmaps: draw the probabilities of the best masks instead of the instances.
        masks_per_dim: heat maps per row and per column.
        min_image_size: short side of the image in the model, in pixels, instead of INPUT.MIN_SIZE_TEST. The size of the
            training images gives the best results.
        weight_loading: weights to load; None for the last checkpoint in OUTPUT_DIR, or MODEL.WEIGHT.
        mask: name of the mask to fill if instances have several; the others are outlines. None for the first.
    Attributes:
        predictor: runs the model.
        model: the predictor's model.
        device: the model's device.
        categories: {label: name}; the subclass's CATEGORIES if it has any, else from the checkpoint or data set.
        transforms: the result of `build_transform`.
        masker: pastes masks into the image.
        mask: as the argument.
        keypoint_threshold: keypoints with a lower logit are not shown.
    Raises: ValueError for heat maps of a model without masks, and for a model that only makes proposals; and what
        `Predictor` raises.
    """

    CATEGORIES: Sequence[str] = (BACKGROUND, *COCO_CATEGORIES)

    def __init__(
        self,
        cfg: CfgNode,
        confidence_threshold: float = 0.7,
        show_mask_heatmaps: bool = False,
        masks_per_dim: int = 2,
        min_image_size: int = 224,
        weight_loading: str | os.PathLike[str] | None = None,
        mask: str | None = None,
    ) -> None:
        if finds_only_proposals(cfg):
            raise ValueError("MODEL.RPN_ONLY is True: the model makes only proposals, but the demo shows detections")
        if show_mask_heatmaps and (not (cfg.MODEL.MASK_ON or cfg.MODEL.MULTI_MASK_ON) or masks_per_dim < 1):
            raise ValueError(
                "heat maps of masks need a model with masks and masks_per_dim of at least 1; MODEL.MASK_ON is "
                f"{cfg.MODEL.MASK_ON}, masks_per_dim is {masks_per_dim}"
            )
        names = cfg.MODEL.ROI_MULTI_MASK_HEAD.MASKS if cfg.MODEL.MULTI_MASK_ON else ()
        if mask is not None and mask not in names:
            raise ValueError(
                f"the mask to fill is {mask!r}; the named masks of the model are {', '.join(names) or 'none'}"
            )
        self.cfg = cfg.clone()
        self.cfg.defrost()
        self.cfg.INPUT.MIN_SIZE_TEST = int(min_image_size)
        self.cfg.freeze()
        own_names = None if self.CATEGORIES is COCODemo.CATEGORIES else dict(enumerate(self.CATEGORIES))
        self.predictor = Predictor(self.cfg, weight_loading, categories=own_names)
        self.categories: Mapping[int, str] = self.predictor.categories
        self.model, self.device, self.cpu_device = self.predictor.model, self.predictor.device, torch.device("cpu")
        self.transforms = self.build_transform()
        self.masker = Masker(threshold=-1 if show_mask_heatmaps else 0.5)
        self.confidence_threshold = confidence_threshold
        self.show_mask_heatmaps = show_mask_heatmaps
        self.masks_per_dim = masks_per_dim
        self.min_image_size = min_image_size
        self.mask = mask
        self.keypoint_threshold = 0.0

    def run_on_opencv_image(self, image: BGRImage) -> BGRImage:
        """(H, W, 3) uint8, BGR -> the same with the detections drawn on it."""
        return self.draw(image, self.select_top_predictions(self.compute_prediction(image)))

    def build_transform(self) -> Callable[[BGRImage], Tensor]:
        """A function: BGR image -> network input (3, h, w), scaled and normalised, in the config's channel order."""
        return lambda image: self.predictor.prepare(image, "BGR").pixels

    def compute_prediction(self, original_image: BGRImage) -> BoxList:
        """All detections in a BGR image, in its pixels, on the CPU.

        The field `mask`, and those of named masks, are (R, 1, H, W) uint8: 0 or 1, or the probability * 255 if heat
        maps are shown.
        """
        height, width = original_image.shape[:2]
        if self.predictor.is_augmented:
            prepared = self.predictor.prepare(original_image, "BGR")
        else:
            prepared = PreparedImage(self.transforms(original_image), (width, height))
        predictions = self.predictor.start([prepared]).wait()[0]
        found = predicted_masks(predictions)
        spans = {names.boxes for names in found}
        pasted = predictions.copy_with_fields([name for name in predictions.fields() if name not in spans])
        for names in found:
            masks = predictions.get_field(names.mask)
            if masks.is_floating_point():
                drawn = self.masker([masks], [with_mask(predictions, names.name)])[0]
                pasted.add_field(names.mask, drawn.to(torch.uint8))
        return pasted

    def select_top_predictions(self, predictions: BoxList) -> BoxList:
        """The detections that score above the threshold, best first."""
        scores = predictions.get_field(fields.SCORES)
        order = scores.argsort(descending=True, stable=True)
        return predictions[order[scores[order] > self.confidence_threshold]]

    def draw(self, image: BGRImage, predictions: BoxList) -> BGRImage:
        """Draw all these detections on a copy of the image."""
        if self.show_mask_heatmaps:
            return self.create_mask_montage(image, predictions)
        if mask_names(predictions):
            image = self.overlay_mask(image, predictions)
        image = self.overlay_boxes(image, predictions)
        if predictions.has_field(fields.KEYPOINTS):
            image = self.overlay_keypoints(image, predictions)
        return self.overlay_class_names(image, predictions)

    def compute_colors_for_labels(self, labels: Tensor) -> NDArray[np.uint8]:
        """A colour for each category: (R,) labels -> (R, 3) BGR.

        It is used only if a subclass overrides it. By default each instance has its own colour, so that overlapping
        people can be told apart.
        """
        return np.array(drawing.numbered_colours(labels.tolist(), "BGR"), dtype=np.uint8).reshape(-1, 3)

    def overlay_boxes(self, image: BGRImage, predictions: BoxList) -> BGRImage:
        canvas, ordered, colours = self._prepare(image, predictions)
        drawing.draw_boxes(canvas, ordered, colours)
        return canvas

    def overlay_mask(self, image: BGRImage, predictions: BoxList) -> BGRImage:
        """Draw masks as a tint with an outline, and further masks of the same instances as outlines."""
        canvas, ordered, colours = self._prepare(image, predictions)
        drawing.draw_masks(canvas, ordered, colours, mask=self.mask)
        return canvas

    def overlay_keypoints(self, image: BGRImage, predictions: BoxList) -> BGRImage:
        """Draw skeletons; uncertain limbs and points are grey and thin."""
        canvas, ordered, _ = self._prepare(image, predictions)
        keypoints = ordered.get_field(fields.KEYPOINTS)
        drawing.draw_skeletons(canvas, keypoints, threshold=self.keypoint_threshold, channel_order="BGR")
        return canvas

    def overlay_class_names(self, image: BGRImage, predictions: BoxList) -> BGRImage:
        """Write category and score of each detection."""
        canvas, ordered, colours = self._prepare(image, predictions)
        drawing.draw_labels(canvas, ordered, drawing.label_texts(ordered, self.categories), colours)
        return canvas

    def create_mask_montage(self, image: BGRImage, predictions: BoxList) -> BGRImage:
        """Heat maps of the best masks, each over the dimmed image, in a picture of the size of the image."""
        chosen = with_mask(predictions, self.mask or mask_names(predictions)[0])
        return drawing.mask_montage(image, chosen, self.masks_per_dim, self.categories, channel_order="BGR")

    def _prepare(self, image: BGRImage, predictions: BoxList) -> tuple[BGRImage, BoxList, list[drawing.Colour]]:
        """A copy of the image, the detections in drawing order, and their colours."""
        ordered = drawing.best_last(predictions.convert("xyxy"))
        return drawing.as_canvas(image, predictions), ordered, self._colours(ordered)

    def _colours(self, predictions: BoxList) -> list[drawing.Colour]:
        if type(self).compute_colors_for_labels is COCODemo.compute_colors_for_labels:
            return drawing.instance_colours(predictions, "BGR")
        chosen = np.asarray(self.compute_colors_for_labels(predictions.get_field(fields.LABELS)))
        return [(int(blue), int(green), int(red)) for blue, green, red in chosen]
