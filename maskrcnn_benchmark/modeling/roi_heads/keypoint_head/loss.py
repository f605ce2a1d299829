"""Targets and losses of keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from maskrcnn_benchmark.layers.keypoint_ops import RELU, SOFTMAX, encode_gaussians, encode_keypoints
from maskrcnn_benchmark.modeling.batching import to_device
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS
from maskrcnn_benchmark.utils.problems import check_choice, check_range, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

ONEHOT, GAUSSIAN = "onehot", "gaussian"
TARGETS = (ONEHOT, GAUSSIAN)
CROSS_ENTROPY, MSE = "cross_entropy", "mse"
LOSSES = (CROSS_ENTROPY, MSE)

_IGNORE = -100  # cell index of a keypoint without a target
_SECTION = "ROI_KEYPOINT_HEAD"
# values in other sections that stand for the value of the keypoint head
_INHERIT = {"TARGET": "", "LOSS": "", "SIGMA": 0.0, "JOINT_WEIGHTS": (), "OHKM_TOP": -1}


def matched_keypoints(positives: SampledProposals, targets: Sequence[BoxList]) -> Tensor:
    """(R, K, 3) keypoints in image pixels of the instance that each RoI matched, on the device of the RoIs."""
    return positives.matched([target.get_field(KEYPOINTS).keypoints for target in targets])


@dataclass(frozen=True)
class KeypointLoss:
    """The target of each heat map, and the loss against it.

    Args:
        target: "onehot", the cell that contains the keypoint; or "gaussian" around the keypoint.
        loss: "cross_entropy" of the softmax over the cells, against a target with a sum of 1; or "mse", half of the
            squared differences from a Gaussian of height 1, summed over the cells of a map.
        sigma: standard deviation of the Gaussian, in cells.
        joint_weights: factor on the loss of each keypoint; () for 1.
        num_hardest: only this many keypoints of each RoI count, those with the largest weighted losses; 0 for all.
    Source: "onehot" He et al. 2017, Mask R-CNN; "mse" Xiao et al. 2018, Simple Baselines, and HRNet, whose loss is this
        one divided by the number of cells; hard keypoints Chen et al. 2018, Cascaded Pyramid Network.
    """

    target: str = ONEHOT
    loss: str = CROSS_ENTROPY
    sigma: float = 2.0
    joint_weights: Sequence[float] = ()
    num_hardest: int = 0

    @classmethod
    def from_cfg(cls, cfg: CfgNode, section: str = _SECTION) -> KeypointLoss:
        """With TARGET, LOSS, SIGMA, JOINT_WEIGHTS and OHKM_TOP of MODEL.<section>.

        In other sections than the keypoint head's, "", 0, () and -1 stand for its values.
        """

        def read(key: str) -> tuple[str, Any]:
            value = cfg.MODEL[section][key]
            owner = _SECTION if section != _SECTION and value == _INHERIT[key] else section
            return f"MODEL.{owner}.{key}", cfg.MODEL[owner][key]

        (target_key, target), (loss_key, loss) = read("TARGET"), read("LOSS")
        check_choice(target_key, target, TARGETS)
        check_choice(loss_key, loss, LOSSES)
        if (target, loss) == (ONEHOT, MSE):
            config_problem(
                f"{loss_key} is {MSE!r}, but {target_key} is {ONEHOT!r}: the squared error is of Gaussians. Set TARGET "
                f"to {GAUSSIAN!r}, or LOSS to {CROSS_ENTROPY!r}."
            )
        sigma_key, sigma = read("SIGMA")
        if sigma <= 0:
            config_problem(f"{sigma_key} is {sigma}; expected a number of cells above 0.")
        weights_key, weights = read("JOINT_WEIGHTS")
        num_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES
        if weights and len(weights) != num_keypoints:
            config_problem(
                f"{weights_key} has {len(weights)} numbers, MODEL.{_SECTION}.NUM_CLASSES is {num_keypoints}; expected "
                "a number for each keypoint, or () for equal weights."
            )
        if any(weight < 0 for weight in weights):
            config_problem(f"{weights_key} is {tuple(weights)}; expected weights of at least 0.")
        top_key, top = read("OHKM_TOP")
        check_range(top_key, top, 0, num_keypoints)
        return cls(target, loss, sigma, tuple(weights), top)

    @property
    def activation(self) -> str:
        """What the maps that learn from this loss are, see `cell_probabilities`."""
        return RELU if self.loss == MSE else SOFTMAX

    def __call__(self, maps: Tensor, keypoints: Tensor, frames: Tensor, divisor: float | None = None) -> Tensor:
        """The sum over keypoints, divided by the number of those that count.

        A keypoint counts if it is labelled, its weight is above 0, it is among the hardest of its RoI, and it is where
        its target says: inside the frame, or for a Gaussian at most 3 sigma outside. Others are ignored.

        Args:
            maps: (R, K, S, S) as predicted.
            keypoints: (R, K, 3) in image pixels.
            frames: (R, 4) rectangles in pixels that the maps span.
            divisor: of the sum; None for the number of keypoints that count.
        Returns: scalar float32; zero and attached to the graph if no keypoint counts.
        """
        if self.target == ONEHOT and not self.joint_weights and not self.num_hardest:
            return keypoint_loss(maps, keypoints, frames, divisor)
        losses, counts = self._each(maps.float(), keypoints, frames)
        if self.joint_weights:
            weights = to_device(self.joint_weights, losses.device)
            losses, counts = losses * weights, counts & (weights > 0)
        if self.num_hardest:
            counts = counts & _are_largest(torch.where(counts, losses, -1.0), self.num_hardest)
        total = torch.where(counts, losses, 0.0).sum()
        return total / (counts.sum().clamp(min=1) if divisor is None else divisor)

    def _each(self, maps: Tensor, keypoints: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(R, K) losses of all keypoints, and (R, K) bool: is there a target?"""
        size = maps.shape[-1]
        if self.target == ONEHOT:
            targets, valid = encode_keypoints(keypoints, frames, size)
            losses = F.cross_entropy(maps.flatten(2).flatten(0, 1), targets.flatten(), reduction="none")
            return losses.view_as(valid), valid
        normalize = self.loss == CROSS_ENTROPY
        gaussians, valid = encode_gaussians(keypoints, frames, size, self.sigma, normalize=normalize)
        if not normalize:
            return 0.5 * (maps - gaussians).square().sum(dim=(2, 3)), valid
        losses = F.cross_entropy(maps.flatten(2).flatten(0, 1), gaussians.flatten(2).flatten(0, 1), reduction="none")
        return losses.view_as(valid), valid


def _are_largest(losses: Tensor, count: int) -> Tensor:
    """(R, K) bool: are these among the `count` largest of their row?"""
    hardest = losses.detach().topk(count, dim=1).indices
    return torch.zeros_like(losses, dtype=torch.bool).scatter_(1, hardest, True)


def keypoint_loss(logits: Tensor, keypoints: Tensor, frames: Tensor, divisor: float | None = None) -> Tensor:
    """Softmax cross-entropy over the cells of each heat map, mean over the keypoints that have a target.

    A keypoint has a target if it is labelled and lies inside its RoI's frame. Others are ignored.

    Args:
        logits: (R, K, S, S).
        keypoints: (R, K, 3) in image pixels.
        frames: (R, 4) rectangles in pixels that the maps span.
        divisor: of the sum; None for the number of keypoints that have a target.
    Returns: scalar float32; zero and attached to the graph if no keypoint has a target.
    """
    cells, valid = encode_keypoints(keypoints, frames, logits.shape[-1])
    cells = torch.where(valid, cells, _IGNORE)
    total = F.cross_entropy(
        logits.float().flatten(2).flatten(0, 1), cells.flatten(), ignore_index=_IGNORE, reduction="sum"
    )
    return total / (valid.sum().clamp(min=1) if divisor is None else divisor)
