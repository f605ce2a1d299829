"""Losses of the box head."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.layers.smooth_l1_loss import smooth_l1_loss
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals


def fast_rcnn_loss(
    class_logits: Tensor,
    box_regression: Tensor,
    samples: SampledProposals,
    *,
    class_agnostic: bool = False,
    beta: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Cross-entropy over all regions, smooth L1 over the foreground; both sums divided by the number of regions.

    Args:
        class_logits: (R, J).
        box_regression: (R, 4 * J), or (R, 8) if `class_agnostic`: deltas of the background, which are not read, and
            deltas shared by all other classes.
        samples: the R regions.
        beta: difference at which smooth L1 changes from quadratic to linear.
    Returns: classification loss and box regression loss, float32 scalars. Without regions, or without foreground, they
        are zero and attached to the graph.
    Source: Girshick 2015, Fast R-CNN, section 2.3.
    """
    num_regions = max(len(samples), 1)
    classification_loss = F.cross_entropy(class_logits.float(), samples.labels, reduction="sum") / num_regions

    foreground = samples.positives()
    sets = foreground.labels.clamp(max=1) if class_agnostic else foreground.labels
    deltas = box_regression[: samples.num_positives].unflatten(1, (-1, 4))  # (P, sets, 4)
    deltas = deltas.gather(1, sets[:, None, None].expand(-1, 1, 4))[:, 0].float()
    box_loss = smooth_l1_loss(deltas, foreground.regression_targets, beta=beta, size_average=False) / num_regions
    return classification_loss, box_loss
