"""The second stage: heads that predict something for each region of interest (RoI).

Importing the package registers its own heads first, in the order in which they run; heads of users follow.
"""

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.keypoint_head import KeypointHead
from maskrcnn_benchmark.modeling.roi_heads.mask_head.mask_head import MaskHead
from maskrcnn_benchmark.modeling.roi_heads.multi_mask_head.multi_mask_head import MultiMaskHead

for _head in (MaskHead, MultiMaskHead, KeypointHead):
    registry.ROI_HEADS.register(_head.NAME, _head)
