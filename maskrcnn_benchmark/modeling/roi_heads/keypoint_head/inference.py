"""From heat maps to keypoints on detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.keypoint_ops import decode_heatmaps
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LOGITS
from maskrcnn_benchmark.structures.keypoint import Keypoints, PersonKeypoints

if TYPE_CHECKING:
    from yacs.config import CfgNode


class KeypointPostProcessor(nn.Module):
    """Give each detection its keypoints.

    Args:
        method: how `decode_heatmaps` finds the point: "bicubic", "argmax", "quarter" or "dark".
    """

    def __init__(self, method: str = "bicubic") -> None:
        super().__init__()
        self.method = method

    def forward(self, logits: Tensor, detections: Sequence[BoxList], frames: Tensor | None = None) -> list[BoxList]:
        """
        Args:
            logits: (R, K, S, S), rows in the order of the detections of all images.
            detections: one BoxList per image.
            frames: (R, 4) rectangles in pixels that the maps span; None for the detections' own boxes.
        Returns: new BoxLists with the field `keypoints` besides theirs: (x, y, 1) in pixels, and for each keypoint
            its score in the keypoints' own field `logits`, (R, K).
        """
        if frames is None:
            frames = torch.cat([detections_per_image.convert("xyxy").bbox for detections_per_image in detections])
        points, scores = decode_heatmaps(logits.float(), frames, self.method)
        points = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
        lengths = [len(detections_per_image) for detections_per_image in detections]
        results = []
        for detections_per_image, points_per_image, scores_per_image in zip(
            detections, points.split(lengths), scores.split(lengths), strict=True
        ):
            result = detections_per_image.copy_with_fields(detections_per_image.fields())
            result.add_field(KEYPOINTS, _predicted_keypoints(points_per_image, scores_per_image, result.size))
            results.append(result)
        return results


def _predicted_keypoints(points: Tensor, scores: Tensor, size_wh: Sequence[float]) -> Keypoints:
    """(R, K, 3) and (R, K) -> the structure; 17 points are a person's, any other number is nameless."""
    skeleton = PersonKeypoints if points.shape[1] == len(PersonKeypoints.NAMES) else Keypoints
    keypoints = skeleton(points, size_wh)
    keypoints.add_field(LOGITS, scores)
    return keypoints


def make_roi_keypoint_post_processor(cfg: CfgNode) -> KeypointPostProcessor:
    """The post-processor as configured under `MODEL.ROI_KEYPOINT_HEAD`."""
    return KeypointPostProcessor(cfg.MODEL.ROI_KEYPOINT_HEAD.DECODE)
