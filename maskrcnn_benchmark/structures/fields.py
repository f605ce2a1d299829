"""Names of the fields of a `BoxList` of R boxes.

All images of a batch have the same fields, including images without boxes.
"""

LABELS = "labels"  # (R,) int64: 0 is background, contiguous ids from 1
SCORES = "scores"  # (R,) float: probability of the label
OBJECTNESS = "objectness"  # (R,) float: probability of an object, from the RPN
MASKS = "masks"  # SegmentationMask: ground truth
KEYPOINTS = "keypoints"  # Keypoints: ground truth, or predictions with a field LOGITS
MASK = "mask"  # (R, 1, M, M) float: predicted probabilities over MASK_BOXES if present, otherwise over the boxes
MASK_BOXES = "mask_boxes"  # BoxList of R boxes: the regions of MASK if they are not the boxes
MASK_IN_PIXELS = "mask_in_pixels"  # (R,) bool, if present: MASK is pasted in whole pixels, see `pixel_extents`
COARSE_MASK = "coarse_mask"  # (R, 1, m, m) float: the mask before refinement, over the box
COARSE_KEYPOINTS = "coarse_keypoints"  # Keypoints before refinement
# (R,) float: SCORES times the expected quality of the mask or the keypoints; results are ranked by it if present
MASK_SCORES, KEYPOINT_SCORES = "mask_scores", "keypoint_scores"
COARSE_MASK_SCORES, COARSE_KEYPOINT_SCORES = (
    "coarse_mask_scores",
    "coarse_keypoint_scores",
)  # the same, coarse
ANNOTATION_IDS = "annotation_ids"  # (R,) int64: ids of the annotations in the dataset
DIFFICULT = "difficult"  # (R,) bool: ground truth that evaluation ignores, as Pascal VOC marks it
IDENTITIES = "identities"  # (R,) int64: in a video, the id of a tracked instance

LOGITS = "logits"  # field of predicted Keypoints, (R, K) float: score of each point
