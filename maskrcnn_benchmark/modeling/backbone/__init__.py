"""Bodies and necks. Importing this package registers them."""

from maskrcnn_benchmark.modeling.backbone import timm_backbone  # noqa: F401  (registers itself)
from maskrcnn_benchmark.modeling.backbone.backbone import Backbone, build_backbone

__all__ = ["Backbone", "build_backbone"]
