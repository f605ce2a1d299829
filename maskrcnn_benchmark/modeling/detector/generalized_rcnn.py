"""Faster, Mask and Keypoint R-CNN: a backbone, a region proposal network and heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import box_sizes
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.batching import HostCopy
from maskrcnn_benchmark.modeling.poolers import Pooler
from maskrcnn_benchmark.modeling.roi_heads.refine_head.freeze import freeze_detector, hold_frozen_norms
from maskrcnn_benchmark.modeling.roi_heads.roi_head import BOX_TASK
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads, build_roi_heads
from maskrcnn_benchmark.modeling.rpn.rpn import RPNModule, build_rpn
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list

if TYPE_CHECKING:
    from yacs.config import CfgNode


class GeneralizedRCNN(nn.Module):
    """Images to losses in training, to detections at inference.

    Args:
        backbone: a module (N, 3, H, W) -> L maps; has `strides`, one per map, in pixels per cell.
        rpn: maps -> proposals.
        roi_heads: proposals -> detections; None for a detector of proposals alone.
        size_divisible: images that come one by one are padded to multiples of this.
        only_refine_learns: the refine head is trained on a detector that stays as it is.
    Raises: ValueError when the strides of the RPN's anchors, or the scales of the heads' poolers, are not those of the
        backbone.
    """

    def __init__(
        self,
        backbone: Any,
        rpn: RPNModule,
        roi_heads: CombinedROIHeads | None,
        *,
        size_divisible: int = 0,
        only_refine_learns: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.size_divisible = size_divisible
        self.only_refine_learns = only_refine_learns
        _check_strides(backbone, rpn, roi_heads)
        if only_refine_learns:
            freeze_detector(self)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> GeneralizedRCNN:
        if cfg.MODEL.RETINANET_ON:
            raise ValueError(
                "MODEL.RETINANET_ON is True; RetinaNet is not among the detectors here. Set it to False, and choose an "
                "RPN with heads, as in configs/hrnet_refine.yaml"
            )
        backbone: Any = build_backbone(cfg)
        if not isinstance(backbone.out_channels, int):
            raise ValueError(
                f"MODEL.BACKBONE.CONV_BODY {cfg.MODEL.BACKBONE.CONV_BODY} hands out maps of {backbone.out_channels} "
                "channels, and the heads need one width on all levels; choose HRNET-HR, whose neck gives them that, or "
                "set MODEL.HRNET.STAGE4.MULTI_OUTPUT to False for a single map."
            )
        only_refine_learns = cfg.MODEL.REFINE_ON and cfg.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR
        channels, learns = backbone.out_channels, not only_refine_learns
        return cls(
            backbone,
            build_rpn(cfg, channels, learns=learns),
            None if cfg.MODEL.RPN_ONLY else build_roi_heads(cfg, channels, learns=learns),
            size_divisible=cfg.DATALOADER.SIZE_DIVISIBILITY,
            only_refine_learns=only_refine_learns,
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the evaluations of the model's results, as "bbox" and "segm"; "bbox" comes first."""
        return (BOX_TASK,) if self.roi_heads is None else self.roi_heads.tasks

    def forward(
        self, images: ImageList | Tensor | Sequence[Tensor], targets: Sequence[BoxList] | None = None
    ) -> dict[str, Tensor] | list[BoxList]:
        """
        Args:
            images: an ImageList; or N tensors (3, H_n, W_n), of any sizes; or one (N, 3, H, W).
            targets: N BoxLists of ground truth, with `labels` and what else the heads learn from; training alone. One
                may be empty.
        Returns: in training the losses, scalars by name. Else N BoxLists in the images' own pixels, with `scores`,
            `labels` and what the heads add, or, without heads, with `objectness`.
        Raises: ValueError in training: without targets; for as many as there are images, of their sizes and the
            model's box convention, being expected; and for a box without area, with the image that it is on.
        """
        images = to_image_list(images, self.size_divisible)
        if not self.training:
            features = self.backbone(images.tensors)
            proposals, _ = self.rpn(images, features)
            return proposals if self.roi_heads is None else self.roi_heads(features, proposals).detections

        targets = self._check_targets(images, targets)
        flawed = _flawed_boxes(targets)
        # a look at the device's data makes the host wait; this one is asked for before the device gets its work
        any_flawed = HostCopy(torch.cat(flawed).any())
        features = self.backbone(images.tensors)
        proposals, losses = self.rpn(images, features, targets)
        if any_flawed.wait():
            raise ValueError(_describe_flaw(flawed, targets))
        if self.roi_heads is not None:
            losses = {**losses, **self.roi_heads(features, proposals, targets).losses}
        return losses

    def train(self, mode: bool = True) -> GeneralizedRCNN:
        super().train(mode)
        if self.only_refine_learns:
            hold_frozen_norms(self)
        return self

    def _check_targets(self, images: ImageList, targets: Sequence[BoxList] | None) -> list[BoxList]:
        """The targets on the images' device."""
        if targets is None:
            raise ValueError(
                "in training the detector needs `targets`, one BoxList of ground truth per image; "
                "call model.eval() to detect without"
            )
        if len(targets) != len(images.image_sizes):
            raise ValueError(f"{len(targets)} targets for {len(images.image_sizes)} images; expected one for each")
        offset = self.rpn.anchor_generator.offset
        for index, (target, (height, width)) in enumerate(zip(targets, images.image_sizes, strict=True)):
            if tuple(target.size) != (width, height):
                raise ValueError(
                    f"image {index} of the batch is {width} x {height} pixels (width x height), its target is for "
                    f"{target.size[0]} x {target.size[1]}; resize the target with its image"
                )
            if target.offset != offset:
                raise ValueError(
                    f"the boxes of image {index} of the batch have offset {target.offset}, the model's "
                    f"MODEL.BOX_OFFSET is {offset}; make the BoxLists with that offset"
                )
        device = images.tensors.device
        return [target if target.bbox.device == device else target.to(device, non_blocking=True) for target in targets]


registry.META_ARCHITECTURES.register("GeneralizedRCNN", GeneralizedRCNN.from_cfg)


def _check_strides(backbone: Any, rpn: RPNModule, roi_heads: nn.Module | None) -> None:
    strides = tuple(backbone.strides)
    if tuple(rpn.anchor_generator.strides) != strides:
        raise ValueError(
            f"MODEL.RPN.ANCHOR_STRIDE is {tuple(rpn.anchor_generator.strides)}, the backbone's levels have the strides "
            f"{strides}; set ANCHOR_STRIDE to these, with a size in ANCHOR_SIZES for each where RPN.USE_FPN is on"
        )
    for name, module in roi_heads.named_modules() if roi_heads is not None else ():
        if isinstance(module, Pooler):
            expected = tuple(1 / stride for stride in strides)
            if module.scales != expected[: len(module.scales)]:
                raise ValueError(
                    f"the {name.split('.')[0]} head's POOLER_SCALES are {module.scales}, the backbone's levels have "
                    f"the scales {expected} (1 / stride); name these, or the first of them, in this order"
                )


def _flawed_boxes(targets: Sequence[BoxList]) -> list[Tensor]:
    """Per image (G,) bool: is the ground-truth box without area, or not a number?"""
    flawed = []
    for target in targets:
        widths, heights = box_sizes(target.convert("xyxy").bbox, target.offset)
        flawed.append(~((widths > 0) & (heights > 0) & (widths * heights).isfinite()))
    return flawed


def _describe_flaw(flawed: Sequence[Tensor], targets: Sequence[BoxList]) -> str:
    image, index = next((image, int(flags.nonzero()[0])) for image, flags in enumerate(flawed) if flags.any())
    corners = ", ".join(f"{corner:g}" for corner in targets[image].convert("xyxy").bbox[index].tolist())
    return (
        f"image {image} of the batch: ground-truth box {index} is (x1, y1, x2, y2) = ({corners}), which has no area; "
        "drop such annotations when the data is read"
    )
