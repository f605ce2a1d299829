"""RoI max pooling, by torchvision."""

from __future__ import annotations

from torch import Tensor, nn


def roi_pool(features: Tensor, rois: Tensor, output_size: int | tuple[int, int], spatial_scale: float = 1.0) -> Tensor:
    """Largest value of each bin: features (N, C, H, W), rois (R, 5) -> (R, C, *output_size). See `roi_align`."""
    from torchvision.ops import roi_pool as pool  # the rest of `layers` works without torchvision

    pooled: Tensor = pool(features, rois, output_size, spatial_scale)
    return pooled


class ROIPool(nn.Module):
    """`roi_pool` with its settings."""

    def __init__(self, output_size: int | tuple[int, int], spatial_scale: float) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(self, features: Tensor, rois: Tensor) -> Tensor:
        return roi_pool(features, rois, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"
