"""Registries of the names that a config can use. Add your own entries in a module that `IMPORTS` lists.

An entry is a callable that returns a module. Backbones and detectors are called with (cfg), the other parts with
(cfg, in_channels), refine predictors with (cfg, in_channels, maps). Extractors and backbones have `out_channels`.
An entry of ROI_HEADS is a subclass of `roi_heads.roi_head.ROIHead`. An entry of ROI_MASK_FEATURE_EXTRACTORS serves the
multi-mask head too if it has a parameter `section`, the name of the section of MODEL to read: "ROI_MULTI_MASK_HEAD".
"""

from maskrcnn_benchmark.utils.registry import Registry

META_ARCHITECTURES = Registry()
BACKBONES = Registry()
RPN_HEADS = Registry()
ROI_HEADS = Registry()
ROI_BOX_FEATURE_EXTRACTORS = Registry()
ROI_BOX_PREDICTOR = Registry()
ROI_MASK_FEATURE_EXTRACTORS = Registry()
ROI_MASK_PREDICTOR = Registry()
ROI_MULTI_MASK_PREDICTOR = Registry()
ROI_KEYPOINT_FEATURE_EXTRACTORS = Registry()
ROI_KEYPOINT_PREDICTOR = Registry()
ROI_REFINE_FEATURE_EXTRACTORS = Registry()
ROI_REFINE_PREDICTOR = Registry()
