"""RetinaNet: anchors, head, loss and selection of detections."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.candidates import ClassCandidates
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.roi_heads.roi_head import heads_of
from maskrcnn_benchmark.modeling.rpn.anchor_generator import AnchorGenerator, anchor_conventions, check_anchor_strides
from maskrcnn_benchmark.modeling.rpn.retinanet.inference import RetinaNetPostProcessor
from maskrcnn_benchmark.modeling.rpn.retinanet.loss import RetinaNetLossComputation
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList
from maskrcnn_benchmark.utils.problems import check_range, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

SMALLEST_PRIOR = 1e-6  # MODEL.RETINANET.PRIOR_PROB; the logit of 0 is infinite


class RetinaNetHead(nn.Module):
    """Two towers of 3x3 convolutions, for classes and for boxes. All levels share the weights.

    Args:
        in_channels: channels of every feature level, and of the towers.
        num_anchors: A, anchors per cell.
        num_classes: J, without the background.
        num_convs: convolutions per tower.
        prior_prob: probability of each class before training. With a small one the many background anchors do not
            dominate the first losses.
    Inputs: L maps (N, in_channels, H_l, W_l).
    Returns: L maps of logits (N, A * J, H_l, W_l), the classes of an anchor together, and L maps of deltas
        (N, A * 4, H_l, W_l).
    Source: Lin et al. 2017, Focal Loss for Dense Object Detection, section 4.
    """

    def __init__(
        self, in_channels: int, num_anchors: int, num_classes: int, *, num_convs: int = 4, prior_prob: float = 0.01
    ) -> None:
        super().__init__()
        self.cls_tower = _make_tower(in_channels, num_convs)
        self.bbox_tower = _make_tower(in_channels, num_convs)
        self.cls_logits = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        assert self.cls_logits.bias is not None
        nn.init.constant_(self.cls_logits.bias, math.log(prior_prob / (1 - prior_prob)))

    @classmethod
    def from_cfg(cls, cfg: CfgNode, in_channels: int, num_anchors: int) -> RetinaNetHead:
        node = cfg.MODEL.RETINANET
        check_range("MODEL.RETINANET.NUM_CLASSES", node.NUM_CLASSES, 2)
        check_range("MODEL.RETINANET.NUM_CONVS", node.NUM_CONVS, 0)
        check_range("MODEL.RETINANET.PRIOR_PROB", node.PRIOR_PROB, SMALLEST_PRIOR, 1 - SMALLEST_PRIOR)
        return cls(
            in_channels,
            num_anchors,
            node.NUM_CLASSES - 1,
            num_convs=node.NUM_CONVS,
            prior_prob=min(max(node.PRIOR_PROB, SMALLEST_PRIOR), 1 - SMALLEST_PRIOR),
        )

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        class_logits = [self.cls_logits(self.cls_tower(feature)) for feature in features]
        return class_logits, [self.bbox_pred(self.bbox_tower(feature)) for feature in features]


class RetinaNetModule(nn.Module):
    """Features to detections.

    Args:
        anchor_generator: the boxes to start from; all of them are trained on, also those that leave the image.
        head: features -> class logits and deltas.
        selector_test: logits and deltas -> detections.
        loss: logits and deltas -> losses.
    """

    def __init__(
        self,
        anchor_generator: AnchorGenerator,
        head: nn.Module,
        *,
        selector_test: RetinaNetPostProcessor,
        loss: RetinaNetLossComputation,
    ) -> None:
        super().__init__()
        self.anchor_generator = anchor_generator
        self.head = head
        self.selector_test = selector_test
        self.loss = loss

    @classmethod
    def from_cfg(
        cls, cfg: CfgNode, in_channels: int, *, backbone_strides: Sequence[int] | None = None
    ) -> RetinaNetModule:
        """RetinaNet as configured.

        Args:
            in_channels: channels of the feature levels.
            backbone_strides: strides of the feature levels. MODEL.RETINANET.ANCHOR_STRIDES must be equal to them, or
                empty. None if they are unknown: ANCHOR_STRIDES is not checked.
        """
        _check_heads(cfg)
        box_coder = BoxCoder(cfg.MODEL.RETINANET.BBOX_REG_WEIGHTS, offset=cfg.MODEL.BOX_OFFSET)
        anchor_generator = make_retinanet_anchors(cfg, backbone_strides)
        return cls(
            anchor_generator,
            RetinaNetHead.from_cfg(cfg, in_channels, anchor_generator.num_anchors_per_location()[0]),
            selector_test=RetinaNetPostProcessor.from_cfg(cfg, box_coder),
            loss=RetinaNetLossComputation.from_cfg(cfg, box_coder),
        )

    def forward(
        self, images: ImageList, features: Sequence[Tensor], targets: Sequence[BoxList] | None = None
    ) -> tuple[list[BoxList], dict[str, Tensor]]:
        """
        Args:
            images: N images; only their sizes are read.
            features: L maps (N, C, H_l, W_l).
            targets: N BoxLists of ground truth with `labels`; training only.
        Returns: in training an empty list and the losses `loss_retina_cls` and `loss_retina_reg`; at inference N
            BoxLists with `scores` and `labels`, and no losses.
        Raises: ValueError in training without targets.
        """
        anchors, class_logits, box_regression, sizes = self._predict(images, features)
        if not self.training:
            return self.selector_test(anchors, class_logits, box_regression, sizes), {}
        if targets is None:
            raise ValueError("in training RetinaNet needs `targets`, one BoxList per image")
        loss_cls, loss_reg = self.loss(torch.cat(anchors), class_logits, box_regression, targets)
        return [], {"loss_retina_cls": loss_cls, "loss_retina_reg": loss_reg}

    def find_candidates(self, images: ImageList, features: Sequence[Tensor]) -> ClassCandidates:
        """Inference up to non-maximum suppression; `selector_test.select` is the rest."""
        return self.selector_test.find_candidates(*self._predict(images, features))

    def _predict(
        self, images: ImageList, features: Sequence[Tensor]
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[tuple[int, int]]]:
        """Anchors, class logits and deltas of each level, and the (width, height) of each image."""
        class_logits, box_regression = self.head(features)
        height, width = images.tensors.shape[-2:]
        anchors = self.anchor_generator(
            [(feature.shape[-2], feature.shape[-1]) for feature in features], (height, width)
        )
        return anchors, class_logits, box_regression, [(width, height) for height, width in images.image_sizes]


def make_retinanet_anchors(cfg: CfgNode, backbone_strides: Sequence[int] | None = None) -> AnchorGenerator:
    """The anchors of MODEL.RETINANET: SCALES_PER_OCTAVE sizes per level, the smallest is its ANCHOR_SIZES."""
    node = cfg.MODEL.RETINANET
    sizes_key, strides_key = "MODEL.RETINANET.ANCHOR_SIZES", "MODEL.RETINANET.ANCHOR_STRIDES"
    strides = tuple(node.ANCHOR_STRIDES) or tuple(backbone_strides or ())
    if not strides:
        config_problem(
            f"{strides_key} is (), which means the strides of the backbone, but the backbone has no attribute "
            "`strides` (pixels per cell of each map, finest first); add it, or set ANCHOR_STRIDES."
        )
    elif backbone_strides is not None:
        check_anchor_strides(strides, backbone_strides, strides_key)
    check_range("MODEL.RETINANET.SCALES_PER_OCTAVE", node.SCALES_PER_OCTAVE, 1)
    check_range("MODEL.RETINANET.OCTAVE", node.OCTAVE, 1)
    factors = [node.OCTAVE ** (scale / node.SCALES_PER_OCTAVE) for scale in range(node.SCALES_PER_OCTAVE)]
    bases = [size if isinstance(size, (tuple, list)) else (size,) for size in node.ANCHOR_SIZES]
    return AnchorGenerator(
        [tuple(size * factor for size in sizes for factor in factors) for sizes in bases],
        node.ASPECT_RATIOS,
        strides,
        straddle_thresh=-1,
        sizes_key=sizes_key,
        strides_key=strides_key,
        **anchor_conventions(cfg),
    )


def _make_tower(channels: int, num_convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(num_convs):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _check_heads(cfg: CfgNode) -> None:
    heads = [f"{head} head" for head in heads_of(cfg)] + ["refine head"] * cfg.MODEL.REFINE_ON
    if heads:
        config_problem(
            f"MODEL.RETINANET_ON is True, but the config also turns on the {', '.join(heads)}: RetinaNet has no RoI "
            "heads. Set RETINANET_ON to False, or MASK_ON, MULTI_MASK_ON, KEYPOINT_ON, REFINE_ON to False and "
            "ROI_HEADS.EXTRA to ()."
        )
