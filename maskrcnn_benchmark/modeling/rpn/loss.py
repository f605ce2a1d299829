"""Loss of the RPN: which anchors contain an object, and where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.layers.smooth_l1_loss import smooth_l1_loss
from maskrcnn_benchmark.modeling.balanced_positive_negative_sampler import BalancedPositiveNegativeSampler
from maskrcnn_benchmark.modeling.batching import pad_boxes
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.matcher import Matcher
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.problems import check_choice, check_range

if TYPE_CHECKING:
    from yacs.config import CfgNode

NORMALIZERS = ("sampled", "batch_size")


@dataclass(eq=False)
class RPNLossComputation:
    """Binary cross-entropy of the sampled anchors, smooth L1 of the foreground among them.

    Args:
        matcher: matches anchors with ground truth.
        sampler: samples anchors.
        box_coder: encodes deltas.
        beta: difference at which smooth L1 changes from quadratic to linear.
        normalizer: what both sums are divided by: "sampled", the number of sampled anchors, or "batch_size", the
            sampler's batch size for each image, as in Detectron2.
    Source: Ren et al. 2015, Faster R-CNN, section 3.1.2.
    """

    matcher: Matcher
    sampler: BalancedPositiveNegativeSampler
    box_coder: BoxCoder
    _: KW_ONLY
    beta: float = 1.0 / 9
    normalizer: str = "sampled"

    @classmethod
    def from_cfg(cls, cfg: CfgNode, box_coder: BoxCoder) -> RPNLossComputation:
        node = cfg.MODEL.RPN
        check_range("MODEL.RPN.SMOOTH_L1_BETA", node.SMOOTH_L1_BETA, 0)
        check_choice("MODEL.RPN.LOSS_NORMALIZER", node.LOSS_NORMALIZER, NORMALIZERS)
        return cls(
            Matcher.from_cfg(cfg, "RPN", allow_low_quality_matches=True),
            BalancedPositiveNegativeSampler(node.BATCH_SIZE_PER_IMAGE, node.POSITIVE_FRACTION),
            box_coder,
            beta=node.SMOOTH_L1_BETA,
            normalizer=node.LOSS_NORMALIZER,
        )

    def __call__(
        self,
        anchors: Tensor,
        visible: Tensor,
        objectness: Sequence[Tensor],
        box_regression: Sequence[Tensor],
        targets: Sequence[BoxList],
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            anchors: (A, 4) xyxy, all levels in order.
            visible: (N, A) bool: False for anchors that are not trained on.
            objectness: per level (N, A_l, H_l, W_l) logits.
            box_regression: per level (N, A_l * 4, H_l, W_l).
            targets: N BoxLists of ground truth; they may be empty.
        Returns: objectness loss and box regression loss: float32 scalars, attached to both predictions even if they
            are zero.
        """
        gt_boxes, gt_filled = pad_boxes(targets)
        with torch.no_grad():
            matches = self.matcher.match_boxes(gt_boxes, gt_filled, anchors, self.box_coder.offset)
            sample = self.sampler(torch.where(visible, matches.labels, -1))
            matched_idxs = matches.matched_idxs.gather(1, sample.idxs)
            matched_boxes = gt_boxes.gather(1, matched_idxs[..., None].expand(-1, -1, 4))
            regression_targets = self.box_coder.encode(matched_boxes, anchors[sample.idxs])
            if self.normalizer == "sampled":
                divisor: Tensor | int = sample.filled.sum().clamp(min=1)
            else:
                divisor = self.sampler.batch_size_per_image * len(targets)

        logits = flatten_predictions(objectness, 1)[..., 0].gather(1, sample.idxs).float()
        per_anchor = F.binary_cross_entropy_with_logits(logits, sample.is_positive.to(logits.dtype), reduction="none")
        objectness_loss = torch.where(sample.filled, per_anchor, 0).sum() / divisor

        deltas = flatten_predictions(box_regression, 4).gather(1, sample.idxs[..., None].expand(-1, -1, 4)).float()
        foreground = sample.is_positive[..., None]
        box_loss = smooth_l1_loss(
            torch.where(foreground, deltas, 0),
            torch.where(foreground, regression_targets, 0),
            beta=self.beta,
            size_average=False,
        )
        return objectness_loss, box_loss / divisor


def flatten_predictions(maps: Sequence[Tensor], columns: int) -> Tensor:
    """Per level (N, A * columns, H, W) -> (N, sum of H * W * A, columns), in the order of the anchors."""
    flat = []
    for level in maps:
        per_anchor: Tensor = level.unflatten(1, (-1, columns))
        flat.append(per_anchor.permute(0, 3, 4, 1, 2).reshape(level.shape[0], -1, columns))
    return torch.cat(flat, dim=1)
