"""Which regions the heads train on, and what each of them should find."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class SampledProposals:
    """R regions of all images of a batch with their targets; the foreground comes first."""

    rois: Tensor  # (R, 5) float32: (index of the image, x1, y1, x2, y2), in pixels
    image_ids: Tensor  # (R,) int64: index of the image in the batch
    boxes: Tensor  # (R, 4) float32 xyxy in pixels
    labels: Tensor  # (R,) int64: 0 is background
    matched_idxs: Tensor  # (R,) int64: which ground-truth box of its image; of background too, 0 where there is none
    regression_targets: Tensor  # (R, 4) float32: encoded; zeros for background
    sizes: list[tuple[int, int]]  # N times (width, height) of an image
    num_positives: int  # rows [0, num_positives) are foreground

    def __len__(self) -> int:
        return self.rois.shape[0]

    def positives(self) -> SampledProposals:
        """The same, restricted to foreground; a view of the first rows, for which nothing waits."""
        return SampledProposals(
            rois=self.rois[: self.num_positives],
            image_ids=self.image_ids[: self.num_positives],
            boxes=self.boxes[: self.num_positives],
            labels=self.labels[: self.num_positives],
            matched_idxs=self.matched_idxs[: self.num_positives],
            regression_targets=self.regression_targets[: self.num_positives],
            sizes=self.sizes,
            num_positives=self.num_positives,
        )
