"""Losses of the refine head: the losses of its outputs, over the enlarged region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from maskrcnn_benchmark.modeling.roi_heads.outputs import MapKind
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList


def refine_losses(
    outputs: Mapping[str, MapKind[Any]],
    logits: Sequence[Mapping[str, Tensor]],
    extents: Tensor,
    positives: SampledProposals,
    targets: Sequence[BoxList],
    host_extents: Tensor,
) -> dict[str, Tensor]:
    """Losses of every output, after the last stack and after those before it that are supervised.

    A mask that continues beyond the coarse RoI continues in its target, and a keypoint outside the coarse RoI but
    inside the enlarged one has a target.

    Args:
        outputs: name -> kind of output.
        logits: a mapping per supervised stack, the last stack last: name -> (R, num_own_maps, S, S).
        extents: (R, 4) half-open rectangles in pixels that the maps span.
        host_extents: the same on the CPU.
    Returns: a loss per output. The names of losses of stacks before the last one end in "_stack1", "_stack2", ...
    """
    suffixes = [f"_stack{number}" for number in range(1, len(logits))] + [""]
    losses = {}
    for name, output in outputs.items():
        matched = output.match_targets(positives, targets, host_extents, logits[-1][name].shape[-1])
        for suffix, of_stack in zip(suffixes, logits, strict=True):
            losses[output.loss_name + suffix] = output.frame_loss(of_stack[name], matched, extents)
    return losses
