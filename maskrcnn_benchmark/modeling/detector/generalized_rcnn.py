"""Faster, Mask and Keypoint R-CNN: a backbone, a region proposal network and RoI heads. RetinaNet has no RoI heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.boxes import box_sizes
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.batching import HostCopy
from maskrcnn_benchmark.modeling.poolers import fit_poolers
from maskrcnn_benchmark.modeling.roi_heads.refine_head.freeze import freeze_detector, hold_frozen_norms
from maskrcnn_benchmark.modeling.roi_heads.roi_head import BOX_TASK
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads
from maskrcnn_benchmark.modeling.rpn.anchor_generator import check_anchor_strides
from maskrcnn_benchmark.modeling.rpn.build import build_rpn
from maskrcnn_benchmark.modeling.rpn.retinanet.retinanet import RetinaNetModule
from maskrcnn_benchmark.modeling.rpn.rpn import RPNModule
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from maskrcnn_benchmark.utils.detector_kind import has_roi_heads
from maskrcnn_benchmark.utils.problems import ConfigError, config_problem, skip_after_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode


class GeneralizedRCNN(nn.Module):
    """Images to losses in training, to detections at inference.

    Args:
        backbone: a module (N, 3, H, W) -> L maps. Its attribute `strides`, pixels per cell of each map, if it has
            one, is compared with the anchors and the poolers.
        rpn: maps -> proposals; a RetinaNet: maps -> detections.
        roi_heads: proposals -> detections; None for a detector of proposals, and for RetinaNet.
        size_divisible: pad batches of single images to multiples of this.
        only_refine_learns: train the refine head on a frozen detector.
    Raises: ConfigError if the strides of the anchors or the scales of the poolers differ from the backbone's.
    """

    def __init__(
        self,
        backbone: nn.Module,
        rpn: RPNModule | RetinaNetModule,
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
        strides = _strides(backbone)
        if strides is not None:
            check_anchor_strides(rpn.anchor_generator.strides, strides, rpn.anchor_generator.strides_key)
        if roi_heads is not None:
            fit_poolers(roi_heads, strides)
        if only_refine_learns:
            freeze_detector(self)

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> GeneralizedRCNN:
        only_refine_learns = _only_refine_learns(cfg)
        backbone = build_backbone(cfg)
        channels, learns = _channels(backbone, cfg.MODEL.BACKBONE.CONV_BODY), not only_refine_learns
        rpn: RPNModule | RetinaNetModule | None = None
        with skip_after_problem():
            rpn = build_rpn(cfg, channels, learns=learns, backbone_strides=_strides(backbone))
        roi_heads = CombinedROIHeads.from_cfg(cfg, channels, learns=learns) if has_roi_heads(cfg) else None
        assert rpn is not None, "its problem was reported"
        return cls(
            backbone,
            rpn,
            roi_heads,
            size_divisible=cfg.DATALOADER.SIZE_DIVISIBILITY,
            only_refine_learns=only_refine_learns,
        )

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the evaluations of the model's results, as "bbox" and "segm"; "bbox" comes first."""
        return (BOX_TASK,) if self.roi_heads is None else self.roi_heads.tasks

    def use_keypoint_spec(self, spec: KeypointSpec) -> None:
        """Tell the heads what the keypoints of the data are: names, flip pairs, limbs, sigmas.

        Configs have none of this: it comes from the data set, or from the checkpoint. Without it, 17 keypoints are
        taken for those of a person, and others have no names.

        Raises: ValueError for another number of keypoints than the model predicts.
        """
        if self.roi_heads is not None:
            self.roi_heads.use_keypoint_spec(spec)

    def forward(
        self, images: ImageList | Tensor | Sequence[Tensor], targets: Sequence[BoxList] | None = None
    ) -> dict[str, Tensor] | list[BoxList]:
        """
        Args:
            images: an ImageList, N tensors (3, H_n, W_n) of any sizes, or one tensor (N, 3, H, W).
            targets: N BoxLists of ground truth, each of which may be empty, with `labels` and the fields that the heads
                learn from; training only.
        Returns: in training the losses, scalars by name. At inference N BoxLists in pixels of the images, with
            `scores`, `labels` and the fields of the heads; of a detector of proposals, with `objectness`.
        Raises: ValueError in training: without targets, for targets whose number, sizes or box convention do not fit,
            and for boxes without area.
        """
        images = to_image_list(images, self.size_divisible)
        proposals: list[BoxList]
        losses: dict[str, Tensor]
        if not self.training:
            features = self.backbone(images.tensors)
            proposals, _ = self.rpn(images, features)
            if self.roi_heads is not None:
                proposals = self.roi_heads(features, proposals).detections
            return proposals

        targets = self._check_targets(images, targets)
        flawed = _flawed_boxes(targets)
        # reading a value of the device synchronises; start the copy before the device gets more work
        any_flawed = HostCopy(torch.cat(flawed).any())
        features = self.backbone(images.tensors)
        proposals, losses = self.rpn(images, features, targets)
        if any_flawed.wait():
            raise ValueError(_describe_flaw(flawed, targets))
        if self.roi_heads is not None:
            losses = {**losses, **self.roi_heads(features, proposals, targets).losses}
        return losses

    @torch.no_grad()
    def predict_on_boxes(
        self, images: ImageList | Tensor | Sequence[Tensor], boxes: Sequence[BoxList]
    ) -> list[BoxList]:
        """Run the heads after the box head on given boxes, such as ground truth or merged detections.

        Args:
            images: as in `forward`.
            boxes: N BoxLists in pixels of the images, each of which may be empty, with `labels`, and with `scores` if
                a head writes scores of its own.
        Returns: N BoxLists on the device of the images: the given ones, with the fields of the heads.
        Raises: ValueError in training mode, without RoI heads, and for boxes whose number, sizes or box convention
            do not fit the images.
        """
        if self.training:
            raise ValueError("`predict_on_boxes` is for inference; call model.eval() first")
        if self.roi_heads is None:
            raise ValueError(
                "MODEL.RPN_ONLY or RETINANET_ON is True: there are no heads that predict something on given boxes"
            )
        images = to_image_list(images, self.size_divisible)
        boxes = self._check_boxes(images, boxes, "BoxList")
        features = self.backbone(images.tensors)
        return self.roi_heads.predict_on_boxes(features, [given.convert("xyxy") for given in boxes])

    def train(self, mode: bool = True) -> GeneralizedRCNN:
        super().train(mode)
        if self.only_refine_learns:
            hold_frozen_norms(self)
        return self

    def _check_targets(self, images: ImageList, targets: Sequence[BoxList] | None) -> list[BoxList]:
        """Compare the targets with the images, and move them to the images' device."""
        if targets is None:
            raise ValueError(
                "in training the detector needs `targets`, one BoxList of ground truth per image; "
                "call model.eval() for inference"
            )
        return self._check_boxes(images, targets, "target")

    def _check_boxes(self, images: ImageList, given: Sequence[BoxList], name: str) -> list[BoxList]:
        """Compare BoxLists with the images, and move them to the images' device. `name` is for messages."""
        if len(given) != len(images.image_sizes):
            raise ValueError(f"{len(given)} {name}s for {len(images.image_sizes)} images; expected one for each")
        offset = self.rpn.anchor_generator.offset
        for index, (boxes, (height, width)) in enumerate(zip(given, images.image_sizes, strict=True)):
            if tuple(boxes.size) != (width, height):
                raise ValueError(
                    f"image {index} of the batch is {width} x {height} pixels (width x height), its {name} is for "
                    f"{boxes.size[0]} x {boxes.size[1]}; resize the {name} with its image"
                )
            if boxes.offset != offset:
                raise ValueError(
                    f"the boxes of image {index} of the batch have offset {boxes.offset}, the model's "
                    f"MODEL.BOX_OFFSET is {offset}; create the BoxLists with this offset"
                )
        device = images.tensors.device
        return [boxes if boxes.bbox.device == device else boxes.to(device, non_blocking=True) for boxes in given]


registry.META_ARCHITECTURES.register("GeneralizedRCNN", GeneralizedRCNN.from_cfg)


def _strides(backbone: nn.Module) -> tuple[int, ...] | None:
    """Pixels per cell of each map; None for a backbone of the user's own that does not declare them."""
    strides: Any = getattr(backbone, "strides", None)
    return None if strides is None else tuple(strides)


def _channels(backbone: nn.Module, name: str) -> int:
    """Channels of every map. Raises: ConfigError if the backbone does not declare one number."""
    channels: Any = getattr(backbone, "out_channels", None)
    if channels is None:
        raise ConfigError(
            f"MODEL.BACKBONE.CONV_BODY {name} has no attribute `out_channels`, the number of channels of its maps; add "
            "it, and `strides`, pixels per cell of each map."
        )
    if not isinstance(channels, int):
        raise ConfigError(
            f"MODEL.BACKBONE.CONV_BODY {name} returns maps of {channels} channels, and the heads need one width on all "
            "levels; choose HRNET-HR, which has a neck, or set MODEL.HRNET.STAGE4.MULTI_OUTPUT to False for a single "
            "map."
        )
    return channels


def _only_refine_learns(cfg: CfgNode) -> bool:
    frozen: bool = cfg.MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR
    if frozen and not cfg.MODEL.REFINE_ON:
        config_problem(
            "MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR is True, but MODEL.REFINE_ON is False: nothing would learn; set "
            "REFINE_ON to True, or FREEZE_DETECTOR to False."
        )
        return False
    return frozen


def _flawed_boxes(targets: Sequence[BoxList]) -> list[Tensor]:
    """Per image (G,) bool: does the ground-truth box have no area, or a coordinate that is not finite?"""
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
