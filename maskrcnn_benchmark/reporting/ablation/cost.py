"""The cost of refine heads, and the width at which two private heads cost as much as the shared one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS, SCORES

if TYPE_CHECKING:
    from yacs.config import CfgNode

# Even widths are preferred if their cost is within this fraction of the target: group norm can divide them into groups.
COST_TOLERANCE = 0.06


def width_of_equal_cost(cost: Callable[[int], int], target: int, largest: int) -> tuple[int, float]:
    """Find the width whose cost is closest to a target.

    Args:
        cost: width -> cost, increasing.
        target: the cost to match.
        largest: the widths 1 .. largest are considered.
    Returns: the width, and its cost divided by the target.
    """
    low, high = 1, largest  # cost(low) <= target, unless all widths cost more
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) <= target else (low, middle)
    ratios = {width: cost(width) / target for width in range(max(1, low - 2), min(largest, high + 2) + 1)}
    near = [width for width, ratio in ratios.items() if width % 2 == 0 and abs(ratio - 1) <= COST_TOLERANCE]
    chosen = min(near or ratios, key=lambda width: abs(ratios[width] - 1))
    return chosen, ratios[chosen]


def refine_operations(cfg: CfgNode) -> int:
    """Operations of the refine head's convolutions for one RoI; a multiply-add counts as two."""
    model: Any = build_detection_model(cfg).eval()
    refine: Any = model.roi_heads["refine"]
    inputs: dict[nn.Module, tuple[Any, ...]] = {}
    heads: list[Any] = list(refine.values()) if isinstance(refine, nn.ModuleDict) else [refine]
    for head in heads:
        for module in (head.feature_extractor, head.predictor, *head.projections.values()):
            module.register_forward_pre_hook(inputs.__setitem__)
    box = BoxList([[8, 8, 40, 40]], (64, 64), offset=cfg.MODEL.BOX_OFFSET)
    box.add_field(LABELS, torch.ones(1, dtype=torch.int64))
    box.add_field(SCORES, torch.ones(1))
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, 64, 64))
        mask = model.roi_heads["mask"](features, [box])
        keypoint = model.roi_heads["keypoint"](features, mask.detections)
        refine(features, keypoint.detections, branches={"mask": mask, "keypoint": keypoint})
        with FlopCounterMode(display=False) as counter:
            for module, arguments in list(inputs.items()):
                module(*arguments)
    return int(counter.get_total_flops())
