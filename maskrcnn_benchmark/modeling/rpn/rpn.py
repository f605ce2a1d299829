"""Region proposal network: anchors, head, loss and selection of proposals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.batching import image_sizes_wh
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator
from maskrcnn_benchmark.modeling.rpn.inference import RPNPostProcessor
from maskrcnn_benchmark.modeling.rpn.loss import RPNLossComputation
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.utils.problems import ConfigError, check_choice, check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode


class RPNHead(nn.Module):
    """A 3x3 convolution, then objectness and four deltas per anchor. All levels share the weights.

    Args:
        in_channels: channels of every feature level.
        num_anchors: A, anchors per cell.
    Inputs: L maps (N, in_channels, H_l, W_l).
    Returns: L maps of logits (N, A, H_l, W_l) and L maps of deltas (N, A * 4, H_l, W_l).
    """

    def __init__(self, in_channels: int, num_anchors: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors, 1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 1)
        for layer in (self.conv, self.cls_logits, self.bbox_pred):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int, num_anchors: int) -> RPNHead:
        return cls(in_channels, num_anchors)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        hidden = [F.relu(self.conv(feature)) for feature in features]
        return [self.cls_logits(x) for x in hidden], [self.bbox_pred(x) for x in hidden]


registry.RPN_HEADS.register("SingleConvRPNHead", RPNHead.from_cfg)


class RPNModule(nn.Module):
    """Features to proposals.

    Args:
        anchor_generator: the boxes to start from.
        head: features -> objectness and deltas.
        selector_train, selector_test: objectness and deltas -> proposals.
        loss: None if the RPN is frozen.
        rpn_only: the detector has no heads, so training needs no proposals.
        add_ground_truth: in training the proposals include the ground truth.
    """

    def __init__(
        self,
        anchor_generator: AnchorGenerator,
        head: nn.Module,
        *,
        selector_train: RPNPostProcessor,
        selector_test: RPNPostProcessor,
        loss: RPNLossComputation | None,
        rpn_only: bool = False,
        add_ground_truth: bool = True,
    ) -> None:
        super().__init__()
        self.anchor_generator = anchor_generator
        self.head = head
        self.selector_train = selector_train
        self.selector_test = selector_test
        self.loss = loss
        self.rpn_only = rpn_only
        self.add_ground_truth = add_ground_truth

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, in_channels: int, *, learns: bool = True, backbone_strides: Sequence[int] | None = None
    ) -> RPNModule:
        """The RPN as configured.

        Args:
            in_channels: channels of the feature levels.
            learns: compute losses; False if the detector is frozen.
            backbone_strides: see `AnchorGenerator.from_cfg`.
        """
        node = cfg.MODEL.RPN
        check_choice("MODEL.RPN.RPN_HEAD", node.RPN_HEAD, registry.RPN_HEADS)
        check_range("MODEL.RPN.NMS_THRESH", node.NMS_THRESH, 0, 1)
        check_range("MODEL.RPN.POSITIVE_FRACTION", node.POSITIVE_FRACTION, 0, 1)
        box_coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0), offset=cfg.MODEL.BOX_OFFSET)
        loss = RPNLossComputation.from_cfg(cfg, box_coder) if learns else None
        anchor_generator = AnchorGenerator.from_cfg(cfg, backbone_strides)
        counts = anchor_generator.num_anchors_per_location()
        if len(set(counts)) != 1:
            raise ConfigError(
                f"MODEL.RPN.ANCHOR_SIZES gives the feature levels {counts} anchors per cell; all levels share the "
                "RPN's head, so each needs the same number of sizes."
            )
        return cls(
            anchor_generator,
            registry.RPN_HEADS[node.RPN_HEAD](cfg, in_channels, counts[0]),
            selector_train=RPNPostProcessor.from_cfg(cfg, box_coder, is_train=True),
            selector_test=RPNPostProcessor.from_cfg(cfg, box_coder, is_train=False),
            loss=loss,
            rpn_only=cfg.MODEL.RPN_ONLY,
            add_ground_truth=node.ADD_GT_PROPOSALS,
        )

    def forward(
        self, images: ImageList, features: Sequence[Tensor], targets: Sequence[BoxList] | None = None
    ) -> tuple[list[BoxList], dict[str, Tensor]]:
        """
        Args:
            images: N images; only their sizes are read.
            features: L maps (N, C, H_l, W_l).
            targets: N BoxLists of ground truth; training only.
        Returns: N BoxLists with `objectness`, and in training the losses `loss_objectness` and `loss_rpn_box_reg`.
            In training the proposals include the ground truth, if wanted; with `rpn_only` there are none.
        Raises: ValueError in training without targets.
        """
        objectness, box_regression = self.head(features)
        height, width = images.tensors.shape[-2:]
        anchors = self.anchor_generator(
            [(feature.shape[-2], feature.shape[-1]) for feature in features], (height, width)
        )
        sizes = [(width, height) for height, width in images.image_sizes]
        if not self.training:
            return self.selector_test(anchors, objectness, box_regression, sizes), {}
        if targets is None:
            raise ValueError("in training the RPN needs `targets`, one BoxList per image")
        losses = self._losses(anchors, objectness, box_regression, sizes, targets)
        if self.rpn_only:
            return [], losses
        added = targets if self.add_ground_truth else None
        return self.selector_train(anchors, objectness, box_regression, sizes, added), losses

    def _losses(
        self,
        anchors: Sequence[Tensor],
        objectness: Sequence[Tensor],
        box_regression: Sequence[Tensor],
        sizes: Sequence[tuple[int, int]],
        targets: Sequence[BoxList],
    ) -> dict[str, Tensor]:
        if self.loss is None:
            return {}
        all_anchors = torch.cat(list(anchors))
        visible = self.anchor_generator.visible(all_anchors, image_sizes_wh(sizes, all_anchors))
        loss_objectness, loss_box = self.loss(all_anchors, visible, objectness, box_regression, targets)
        return {"loss_objectness": loss_objectness, "loss_rpn_box_reg": loss_box}
