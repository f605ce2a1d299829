"""Deformable convolution, with the layer that predicts its offsets, on torchvision's operator."""

from torch import Tensor, nn


class DFConv2d(nn.Module):
    """Convolution at positions that are moved by offsets, which a second convolution predicts from the same input.

    Offsets are zero at first, so the layer starts as a plain convolution (times sigmoid(0) = 1/2 if modulated).

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: as `torch.nn.Conv2d`; the padding keeps
            the size at stride 1.
        modulated: also predict a factor in [0, 1] per sample.
        deformable_groups: number of sets of offsets; each serves in_channels / deformable_groups channels.
    Inputs: (N, in_channels, H, W). Returns: (N, out_channels, ceil(H / stride), ceil(W / stride)) for odd kernels.
    Source: Dai et al. 2017, Deformable Convolutional Networks; Zhu et al. 2019, Deformable ConvNets v2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        modulated: bool = True,
        deformable_groups: int = 1,
        bias: bool = False,
    ) -> None:
        from torchvision.ops import DeformConv2d  # imported here, since the rest of `layers` works without torchvision

        super().__init__()
        if in_channels % deformable_groups:
            raise ValueError(
                f"{deformable_groups} deformable groups do not divide {in_channels} input channels; "
                "MODEL.RESNETS.DEFORMABLE_GROUPS has to be a divisor."
            )
        self.modulated = modulated
        self.samples = deformable_groups * kernel_size * kernel_size
        padding = dilation * (kernel_size - 1) // 2
        self.offset = nn.Conv2d(
            in_channels, self.samples * (3 if modulated else 2), kernel_size, stride, padding, dilation
        )
        self.conv = DeformConv2d(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups=groups, bias=bias
        )
        self.reset_offsets()

    def reset_offsets(self) -> None:
        """Set the offsets to zero, and so sample on the plain grid."""
        nn.init.zeros_(self.offset.weight)
        if self.offset.bias is not None:
            nn.init.zeros_(self.offset.bias)

    def forward(self, features: Tensor) -> Tensor:
        predicted = self.offset(features)
        if not self.modulated:
            convolved: Tensor = self.conv(features, predicted)
        else:
            offsets, factors = predicted.split([2 * self.samples, self.samples], dim=1)
            convolved = self.conv(features, offsets, factors.sigmoid())
        return convolved
