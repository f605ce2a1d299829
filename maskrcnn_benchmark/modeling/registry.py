"""What a configuration can name. An entry is a callable that returns a module: (cfg) for backbones and detectors,
(cfg, in_channels) for the rest. Extractors and backbones have `out_channels`. User code adds its own entries."""

from maskrcnn_benchmark.utils.registry import Registry

META_ARCHITECTURES = Registry()
BACKBONES = Registry()
RPN_HEADS = Registry()
ROI_BOX_FEATURE_EXTRACTORS = Registry()
ROI_BOX_PREDICTOR = Registry()
ROI_MASK_FEATURE_EXTRACTORS = Registry()
ROI_MASK_PREDICTOR = Registry()
ROI_KEYPOINT_FEATURE_EXTRACTORS = Registry()
ROI_KEYPOINT_PREDICTOR = Registry()
ROI_REFINE_FEATURE_EXTRACTORS = Registry()
ROI_REFINE_PREDICTOR = Registry()
