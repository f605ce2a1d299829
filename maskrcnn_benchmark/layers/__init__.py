"""Layers and operators: tensors in, tensors out. The names that maskrcnn-benchmark exports, and the package's own."""

from torch.nn import BatchNorm2d, Conv2d, ConvTranspose2d
from torch.nn.functional import interpolate

from maskrcnn_benchmark.layers._extension import extension_status
from maskrcnn_benchmark.layers.deformable import (
    DeformConv,
    DFConv2d,
    ModulatedDeformConv,
    ModulatedDeformConvPack,
    deform_conv,
    modulated_deform_conv,
)
from maskrcnn_benchmark.layers.nms import batched_nms, nms, nms_padded
from maskrcnn_benchmark.layers.norm import NORMS, FrozenBatchNorm2d, make_norm
from maskrcnn_benchmark.layers.roi_align import ROIAlign, multi_level_roi_align, roi_align
from maskrcnn_benchmark.layers.roi_pool import ROIPool, roi_pool
from maskrcnn_benchmark.layers.sigmoid_focal_loss import SigmoidFocalLoss
from maskrcnn_benchmark.layers.smooth_l1_loss import smooth_l1_loss

__all__ = [
    "BatchNorm2d",
    "Conv2d",
    "ConvTranspose2d",
    "DFConv2d",
    "DeformConv",
    "FrozenBatchNorm2d",
    "ModulatedDeformConv",
    "ModulatedDeformConvPack",
    "NORMS",
    "ROIAlign",
    "ROIPool",
    "SigmoidFocalLoss",
    "batched_nms",
    "deform_conv",
    "extension_status",
    "interpolate",
    "make_norm",
    "modulated_deform_conv",
    "multi_level_roi_align",
    "nms",
    "nms_padded",
    "roi_align",
    "roi_pool",
    "smooth_l1_loss",
]
