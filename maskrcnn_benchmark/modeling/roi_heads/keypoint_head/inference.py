"""From heat maps to keypoints on detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.keypoint_ops import DECODE_METHODS, RELU, SOFTMAX, decode_heatmaps, expected_oks
from maskrcnn_benchmark.modeling.batching import to_device
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import KeypointLoss
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINT_SCORES, KEYPOINT_VISIBILITY, KEYPOINTS, LOGITS, SCORES
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.known_skeletons import assumed_skeleton
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from maskrcnn_benchmark.utils.problems import check_choice

if TYPE_CHECKING:
    from yacs.config import CfgNode

# OKS measures a person's area by the mask, which fills about half of the box.
_AREA_OVER_BOX = 0.5
_LEAST_HEIGHT = 1e-4  # of a peak, and of what it lacks to 1; keeps logits finite


class KeypointPostProcessor(nn.Module):
    """Give each detection its keypoints.

    Args:
        method: how `decode_heatmaps` finds the point: "bicubic", "argmax", "quarter" or "dark".
        rescore: write `keypoint_scores`.
        sigmas: one number per keypoint, as `expected_oks` takes them, to rescore with; () for those of the keypoints'
            specification.
        activation: what the maps are, see `cell_probabilities`.
    """

    def __init__(
        self,
        method: str = "bicubic",
        rescore: bool = False,
        sigmas: Sequence[float] = (),
        activation: str = SOFTMAX,
    ) -> None:
        super().__init__()
        self.method = method
        self.rescore = rescore
        self.sigmas = tuple(sigmas)
        self.activation = activation

    @classmethod
    def from_cfg(cls, cfg: CfgNode, section: str = "ROI_KEYPOINT_HEAD") -> KeypointPostProcessor:
        """With DECODE and RESCORE of MODEL.<section>, for maps that learn from its TARGET and LOSS."""
        node = cfg.MODEL[section]
        check_choice(f"MODEL.{section}.DECODE", node.DECODE, DECODE_METHODS)
        activation = KeypointLoss.from_cfg(cfg, section).activation
        return cls(node.DECODE, node.RESCORE, cfg.TEST.KEYPOINT_OKS_SIGMAS, activation)

    def forward(
        self,
        logits: Tensor,
        detections: Sequence[BoxList],
        frames: Tensor | None = None,
        spec: KeypointSpec | None = None,
    ) -> list[BoxList]:
        """
        Args:
            logits: (R, K, S, S), rows in the order of the detections of all images.
            detections: one BoxList per image, with the field `scores` to rescore.
            frames: (R, 4) rectangles in pixels that the maps span; None for the detections' own boxes.
            spec: of the K keypoints; None if only their number is known.
        Returns: new BoxLists with the field `keypoints` besides theirs: x and y in pixels, and the probability that the
            keypoint is labelled, which is 1 unless the detections have `keypoint_visibility`; and the score of each
            keypoint in the keypoints' own field `logits`, (R, K): the largest logit of its map; if maps are heights,
            the logit of the largest. With `rescore` also `keypoint_scores`, the box score times the skeleton's expected
            OKS.
        """
        spec = assumed_skeleton(logits.shape[1]) if spec is None else spec
        if frames is None:
            frames = torch.cat([detections_per_image.convert("xyxy").bbox for detections_per_image in detections])
        points, scores = decode_heatmaps(logits.float(), frames, self.method, self.activation)
        if self.activation == RELU:  # the height of a peak is between 0 and 1, as a probability
            scores = scores.logit(_LEAST_HEIGHT)
        lengths = [len(detections_per_image) for detections_per_image in detections]
        labelled = torch.cat([points, _visibility(detections, points)], dim=-1)
        results = []
        for detections_per_image, points_per_image, scores_per_image in zip(
            detections, labelled.split(lengths), scores.split(lengths), strict=True
        ):
            result = detections_per_image.copy_with_fields(detections_per_image.fields())
            result.add_field(KEYPOINTS, _predicted_keypoints(points_per_image, scores_per_image, result.size, spec))
            results.append(result)
        if self.rescore:
            areas = _AREA_OVER_BOX * torch.cat([result.area() for result in results])
            sigmas = to_device(self.sigmas or spec.oks_sigmas, points.device)
            oks = expected_oks(logits, frames, points, areas.clamp(min=1), sigmas, self.activation)
            for result, oks_per_image in zip(results, oks.split(lengths), strict=True):
                result.add_field(KEYPOINT_SCORES, result.get_field(SCORES) * oks_per_image)
        return results


def _visibility(detections: Sequence[BoxList], points: Tensor) -> Tensor:
    """(R, K, 1): the probability that a keypoint is labelled, where it was predicted; else 1."""
    if not all(boxes.has_field(KEYPOINT_VISIBILITY) for boxes in detections):
        return torch.ones_like(points[..., :1])
    return torch.cat([boxes.get_field(KEYPOINT_VISIBILITY) for boxes in detections])[..., None]


def _predicted_keypoints(points: Tensor, scores: Tensor, size_wh: Sequence[float], spec: KeypointSpec) -> Keypoints:
    """(R, K, 3) and (R, K) -> the structure."""
    keypoints = Keypoints(points, size_wh, spec=spec)
    keypoints.add_field(LOGITS, scores)
    return keypoints
