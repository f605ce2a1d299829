"""Losses of RetinaNet: the class of every anchor, and the box of the foreground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from maskrcnn_benchmark.layers.sigmoid_focal_loss import sigmoid_focal_loss
from maskrcnn_benchmark.layers.smooth_l1_loss import smooth_l1_loss
from maskrcnn_benchmark.modeling.batching import pad_boxes, pad_labels
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.matcher import Matcher
from maskrcnn_benchmark.modeling.rpn.loss import flatten_predictions
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS
from maskrcnn_benchmark.utils.problems import check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode


@dataclass(eq=False)
class RetinaNetLossComputation:
    """Focal loss of all anchors, smooth L1 of the foreground.

    The focal loss is divided by the number of foreground anchors plus the number of images, as upstream; smooth L1 by
    the number of foreground anchors times `box_divisor`.

    Args:
        matcher: matches anchors with ground truth. Anchors that it labels neither way have no loss.
        box_coder: encodes deltas.
        alpha: weight of the foreground in the focal loss; that of the background is 1 - alpha.
        gamma: exponent of the focal loss; 0 gives cross-entropy.
        beta: difference at which smooth L1 changes from quadratic to linear.
        box_divisor: see above.
    Source: Lin et al. 2017, Focal Loss for Dense Object Detection.
    """

    matcher: Matcher
    box_coder: BoxCoder
    _: KW_ONLY
    alpha: float = 0.25
    gamma: float = 2.0
    beta: float = 0.11
    box_divisor: float = 4.0

    @classmethod
    def from_cfg(cls, cfg: CfgNode, box_coder: BoxCoder) -> RetinaNetLossComputation:
        node = cfg.MODEL.RETINANET
        check_range("MODEL.RETINANET.LOSS_ALPHA", node.LOSS_ALPHA, 0, 1)
        check_range("MODEL.RETINANET.LOSS_GAMMA", node.LOSS_GAMMA, 0)
        check_range("MODEL.RETINANET.BBOX_REG_BETA", node.BBOX_REG_BETA, 0)
        check_range("MODEL.RETINANET.BBOX_REG_WEIGHT", node.BBOX_REG_WEIGHT, 0)
        return cls(
            Matcher.from_cfg(cfg, "RETINANET", allow_low_quality_matches=True),
            box_coder,
            alpha=node.LOSS_ALPHA,
            gamma=node.LOSS_GAMMA,
            beta=node.BBOX_REG_BETA,
            box_divisor=node.BBOX_REG_WEIGHT,
        )

    def __call__(
        self,
        anchors: Tensor,
        class_logits: Sequence[Tensor],
        box_regression: Sequence[Tensor],
        targets: Sequence[BoxList],
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            anchors: (A, 4) xyxy, all levels in order.
            class_logits: per level (N, A_l * J, H_l, W_l), the J classes of an anchor together; no background.
            box_regression: per level (N, A_l * 4, H_l, W_l).
            targets: N BoxLists of ground truth with `labels`, each of which may be empty.
        Returns: classification loss and box regression loss: float32 scalars, attached to both predictions even if they
            are zero.
        """
        gt_boxes, gt_filled = pad_boxes(targets)
        gt_labels = pad_labels([target.get_field(LABELS) for target in targets], gt_boxes.shape[1])
        with torch.no_grad():
            matches = self.matcher.match_boxes(gt_boxes, gt_filled, anchors, self.box_coder.offset)
            is_foreground = matches.labels == 1
            labels = torch.where(is_foreground, gt_labels.gather(1, matches.matched_idxs), matches.labels)
            matched_boxes = gt_boxes.gather(1, matches.matched_idxs[..., None].expand(-1, -1, 4))
            regression_targets = self.box_coder.encode(matched_boxes, anchors)
            num_foreground = is_foreground.sum()

        sizes = [level.shape[-2] * level.shape[-1] * (level.shape[1] // 4) for level in box_regression]
        focal_sums = [
            focal_loss_sum(logits, regression.shape[1] // 4, labels_of_level, alpha=self.alpha, gamma=self.gamma)
            for logits, regression, labels_of_level in zip(
                class_logits, box_regression, labels.split(sizes, dim=1), strict=True
            )
        ]
        class_loss = torch.stack(focal_sums).sum() / (num_foreground + len(targets))

        deltas = flatten_predictions(box_regression, 4).float()
        box_sum = smooth_l1_loss(
            torch.where(is_foreground[..., None], deltas, 0),
            torch.where(is_foreground[..., None], regression_targets, 0),
            beta=self.beta,
            size_average=False,
        )
        return class_loss, box_sum / (num_foreground * self.box_divisor).clamp(min=1)


def focal_loss_sum(logits: Tensor, num_anchors: int, labels: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Focal loss of one level, summed over images, anchors and classes.

    Args:
        logits: (N, A * J, H, W).
        num_anchors: A.
        labels: (N, H * W * A) int64 in the order of the anchors: class from 1, 0 background, -1 no loss.
        alpha, gamma: see `RetinaNetLossComputation`.
    """
    per_class = logits.unflatten(1, (num_anchors, -1)).float()  # (N, A, J, H, W)
    # reorder the labels to the layout of the logits, which are larger
    labels = labels.unflatten(1, (*logits.shape[-2:], num_anchors)).permute(0, 3, 1, 2)  # (N, A, H, W)
    return sigmoid_focal_loss(per_class, labels, gamma, alpha, dim=2).sum()
