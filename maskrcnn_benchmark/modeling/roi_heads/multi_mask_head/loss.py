"""Losses of the masks of an instance: of each against its target, and of a mask that leaves another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from maskrcnn_benchmark.modeling.batching import to_device
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import matched_presence, matched_targets_of_masks
from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList


def select_masks(logits: Tensor, labels: Tensor, kinds: Sequence[MaskKind]) -> Tensor:
    """The maps of each RoI's own class, of all masks in one pass: (R, T * J, M, M) by labels (R,) -> (R, T, M, M)."""
    if all(kind.num_maps == 1 for kind in kinds):
        return logits
    first_maps = to_device([kind.first_map for kind in kinds], logits.device)
    index = (labels[:, None] + first_maps)[:, :, None, None]
    return logits.gather(1, index.expand(-1, -1, *logits.shape[-2:]))


def mask_losses(
    own: Tensor, kinds: Sequence[MaskKind], positives: SampledProposals, targets: Sequence[BoxList]
) -> dict[str, Tensor]:
    """The loss of each mask. The targets of all masks are drawn together.

    Args:
        own: (R, T, M, M) from `select_masks`.
        kinds: T masks that differ in their fields and weights only.
        positives: R RoIs that matched an instance.
        targets: ground truth with the fields of all masks, one BoxList per image.
    Raises: ValueError if the logits' resolution is not the configured one.
    """
    kinds[0].check_resolution(own)
    frames = kinds[0].target_frames(positives.on_host().boxes)
    truths = [kind.fields.truth for kind in kinds]
    soft = kinds[0].soft_targets
    drawn = matched_targets_of_masks(positives, targets, frames, own.shape[-1], truths, soft)
    losses = {}
    for position, kind in enumerate(kinds):
        present = matched_presence(positives, targets, kind.fields.present)
        matched = kind.weigh(drawn[:, position], present)
        losses[kind.loss_name] = kind.frame_loss(own[:, position : position + 1], matched, positives.boxes)
    return losses


def inside_loss(own: Tensor, pairs: Sequence[tuple[int, int]]) -> Tensor:
    """How far masks leave the masks that contain them: mean over RoIs, cells and pairs of max(p_inner - p_outer, 0).

    No target is needed, so the mean is over all positive RoIs, whichever of the two masks their instances have. A mask
    that is annotated then also teaches the one that is not.

    Args:
        own: (R, T, M, M) logits of each RoI's own class.
        pairs: positions (inner, outer) among the T masks; at least one.
    Returns: scalar float32 in [0, 1]; zero and attached to the graph for R = 0. The gradient lowers the inner mask and
        raises the outer one, in cells where the inner one is more probable.
    """
    probabilities = own.float().sigmoid()
    outside = torch.stack([(probabilities[:, i] - probabilities[:, o]).relu().sum() for i, o in pairs]).sum()
    return outside / max(probabilities[:, 0].numel() * len(pairs), 1)
