"""Test-time augmentation: detections from several views of each image.

Boxes of all views are suppressed together, as in maskrcnn-benchmark. Then the other heads run on the boxes that are
left, in every view, and their results are averaged. In a flip test, some outputs are also predicted in mirrored images,
in which no boxes are searched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import mirror_boxes
from maskrcnn_benchmark.layers.candidates import ClassCandidates
from maskrcnn_benchmark.modeling.batching import image_sizes_wh
from maskrcnn_benchmark.modeling.detector.generalized_rcnn import GeneralizedRCNN
from maskrcnn_benchmark.modeling.roi_heads.box_head.box_head import BoxHead
from maskrcnn_benchmark.modeling.roi_heads.box_head.inference import PostProcessor
from maskrcnn_benchmark.modeling.roi_heads.outputs import OutputKind, OutputLogits
from maskrcnn_benchmark.modeling.roi_heads.roi_head import ROIHead
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import BOX, CombinedROIHeads
from maskrcnn_benchmark.modeling.rpn.retinanet.inference import RetinaNetPostProcessor
from maskrcnn_benchmark.modeling.rpn.retinanet.retinanet import RetinaNetModule
from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.structures.image_views import FLIP_TESTS, ImageViews, ViewSize, mirror_images
from maskrcnn_benchmark.utils.problems import ConfigError


class AugmentedDetector:
    """Runs a detector on all views of a batch of images and merges what it finds.

    The views of one size are a batch. Only one view is on the device at a time: the first pass keeps its candidate
    boxes, the second pass computes its features again, except those of the last view. A detector without other heads
    needs no second pass. A flip test adds one pass for each size.

    Args:
        model: a detector in evaluation mode.
    Raises: ConfigError if it cannot be augmented, see `find_augmentation_problems`.
    """

    def __init__(self, model: nn.Module) -> None:
        problems = find_augmentation_problems(model)
        if problems:
            raise ConfigError("\n".join(problems))
        assert isinstance(model, GeneralizedRCNN)
        self.model = model
        self.heads = model.roi_heads

    @torch.no_grad()
    def __call__(self, images: ImageViews, device: torch.device | str) -> list[BoxList]:
        """
        Args:
            images: N images in several views, on the CPU or on the device.
            device: the device of the model.
        Returns: N BoxLists as from the model, in pixels of the first size.
        """
        views = [_View(batch, mirrored, torch.device(device)) for batch, mirrored in images.views]
        first, last, offset = views[0], views[-1], self._selector.box_coder.offset
        features: Sequence[Tensor] = ()
        found: list[ClassCandidates] = []
        for view in views:
            features = ()  # free the memory before the next features are computed
            features, candidates = self._find_candidates(view)
            found.append(view.restore(candidates, first, offset))
        merged = ClassCandidates(*map(torch.cat, zip(*found, strict=True)))
        boxes = self._selector.select(merged, first.sizes_wh)
        if self.heads is None or not self.heads.branches:
            return boxes

        only = _names_in(self.heads, images.flip_tests)
        mirrored = [_View(batch, True, torch.device(device)) for batch in images.unmirrored] if only else []
        average = _Average()
        for view in (*reversed(views), *mirrored):
            if view is not last:
                features = ()
                features = self.model.backbone(view.load().tensors)
            is_extra = view in mirrored
            outputs = _predict(self.heads, view, features, boxes, only if is_extra else None)
            average.add(outputs, keep_frames=is_extra)
            if not any(len(boxes_per_image) for boxes_per_image in boxes):
                break  # one view gives the fields without rows
        return self.heads.attach(average.outputs(), boxes)

    def _find_candidates(self, view: _View) -> tuple[Sequence[Tensor], ClassCandidates]:
        """Features of a view, and its boxes before suppression."""
        images, rpn = view.load(), self.model.rpn
        features: Sequence[Tensor] = self.model.backbone(images.tensors)
        if isinstance(rpn, RetinaNetModule):
            return features, rpn.find_candidates(images, features)
        proposals, _ = rpn(images, features)
        return features, self._box_head.find_candidates(features, proposals)

    @property
    def _selector(self) -> PostProcessor | RetinaNetPostProcessor:
        rpn = self.model.rpn
        return rpn.selector_test if isinstance(rpn, RetinaNetModule) else self._box_head.post_processor

    @property
    def _box_head(self) -> BoxHead:
        assert self.heads is not None
        head = self.heads[BOX]
        assert isinstance(head, BoxHead)
        return head


def _names_in(heads: CombinedROIHeads, flip_tests: Collection[str]) -> set[str]:
    """Names of the outputs that these flip tests average."""
    return {output.name for output in _outputs_of(heads) if output.flip_test in flip_tests}


def _predict(
    heads: CombinedROIHeads,
    view: _View,
    features: Sequence[Tensor],
    boxes: Sequence[BoxList],
    only: Collection[str] | None,
) -> list[OutputLogits]:
    """Outputs on boxes of the first view, as predicted in another view and mirrored back; `only` some if given."""
    outputs = heads.predict_logits(features, view.place(boxes), only)
    if not view.mirrored:
        return outputs
    return [replace(output, logits=output.kind.mirror(output.logits)) for output in outputs]


class _View:
    """A batch of images in one view.

    Attributes:
        sizes_wh: (width, height) of each image, in pixels.
        mirrored: whether the images are mirrored.
    """

    def __init__(self, images: ImageList, mirrored: bool, device: torch.device) -> None:
        self._images, self._device = images, device
        self.sizes_wh: list[tuple[float, float]] = [(width, height) for height, width in images.image_sizes]
        self.mirrored = mirrored

    def load(self) -> ImageList:
        """The images on the device."""
        images = self._images.to(self._device, non_blocking=True)
        return mirror_images(images) if self.mirrored else images

    def restore(self, candidates: ClassCandidates, first: _View, offset: int) -> ClassCandidates:
        """Candidates of this view, in pixels of the first view."""
        boxes, image_ids = candidates.boxes, candidates.image_ids
        sizes = image_sizes_wh(self.sizes_wh, boxes)
        if self.mirrored:
            boxes = mirror_boxes(boxes, sizes[image_ids, 0], offset)
        ratios = (image_sizes_wh(first.sizes_wh, boxes) / sizes).repeat(1, 2)
        return candidates._replace(boxes=boxes * ratios[image_ids])

    def place(self, boxes: Sequence[BoxList]) -> list[BoxList]:
        """Boxes of the first view, in pixels of this view."""
        placed = [given.resize(size_wh) for given, size_wh in zip(boxes, self.sizes_wh, strict=True)]
        return [given.transpose(FLIP_LEFT_RIGHT) for given in placed] if self.mirrored else placed


class _Average:
    """The running average of each output over the views that predict it."""

    def __init__(self) -> None:
        self._sums: dict[OutputKind, OutputLogits] = {}  # of one view the logits, of several sums of `averaged_values`
        self._views: Counter[OutputKind] = Counter()

    def add(self, outputs: Sequence[OutputLogits], keep_frames: bool = False) -> None:
        """Add the outputs of a view.

        Args:
            keep_frames: keep the frames of refined maps; else they become those of this view.
        """
        for output in outputs:
            kind, views = output.kind, self._views[output.kind]
            if views > 0:
                before = self._sums[kind]
                total = kind.averaged_values(before.logits) if views == 1 else before.logits
                total = total + kind.averaged_values(output.logits)
                output = replace(before if keep_frames else output, logits=total)
            self._sums[kind] = output
            self._views[kind] += 1

    def outputs(self) -> list[OutputLogits]:
        """The averages. Those of a single view are exactly its outputs."""
        return [self._mean(total, self._views[kind]) for kind, total in self._sums.items()]

    @staticmethod
    def _mean(total: OutputLogits, views: int) -> OutputLogits:
        return total if views == 1 else replace(total, logits=total.kind.logits_of_average(total.logits / views))


def find_augmentation_problems(model: nn.Module, sizes: Sequence[ViewSize] = ()) -> list[str]:
    """Why test-time augmentation or a flip test cannot be used with a detector, one problem per line.

    Args:
        sizes: the views; outputs have to say what mirrored images mean for them if they are predicted in any.
    """
    key = f"TEST.BBOX_AUG.ENABLED, MULTI_SCALE, {' or '.join(FLIP_TESTS)} is True, but"
    if not isinstance(model, GeneralizedRCNN) or type(model).forward is not GeneralizedRCNN.forward:
        return [
            f"{key} {type(model).__name__} has a `forward` of its own, and the views would bypass it; set them to "
            "False, or MODEL.META_ARCHITECTURE to GeneralizedRCNN."
        ]
    if model.roi_heads is None and not isinstance(model.rpn, RetinaNetModule):
        return [f"{key} the model predicts only proposals: RPN_ONLY is True. Set these TEST keys to False."]
    heads = model.roi_heads
    problems = [
        f"{key} the head {head.NAME!r} has a `forward` of its own, and the views call `predict`; override "
        f"`predict` in {type(head).__name__} instead."
        for head in (() if heads is None else heads.branches.values())
        if type(head).forward is not ROIHead.forward and type(head).predict is ROIHead.predict
    ]
    outputs = [] if heads is None else _outputs_of(heads)
    if any(True in size.flips for size in sizes):
        problems += [
            f"TEST.BBOX_AUG mirrors images, but {output.mirror_problem}; or set H_FLIP and SCALE_H_FLIP to False."
            for output in outputs
            if output.mirror_problem
        ]
    for flip_test in sizes[0].flip_tests if sizes else ():
        flipped = [output for output in outputs if output.flip_test == flip_test]
        problems += [
            f"TEST.{flip_test} is True, but {output.mirror_problem}; or set it to False."
            for output in flipped
            if output.mirror_problem
        ]
        if not flipped:
            names = ", ".join(repr(output.name) for output in outputs) or "boxes only"
            problems.append(
                f"TEST.{flip_test} is True, but the model has no such output, it predicts {names}; set it to False."
            )
    return problems


def _outputs_of(heads: CombinedROIHeads) -> list[OutputKind]:
    return [output for head in heads.branches.values() for output in head.outputs.values()]
