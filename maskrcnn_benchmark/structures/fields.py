"""Names of the fields that this package keeps on a `BoxList`; R is the number of boxes.

Every image of a batch has the same fields, also an image without any box.
"""

LABELS = "labels"  # (R,) int64: 0 is background, contiguous ids from 1
SCORES = "scores"  # (R,) float: probability of the label
OBJECTNESS = "objectness"  # (R,) float: the RPN's probability that a proposal holds an object
MASKS = "masks"  # SegmentationMask: ground truth
KEYPOINTS = "keypoints"  # Keypoints: ground truth, or predictions with their own field `logits`
MASK = "mask"  # (R, 1, M, M) float: predicted probabilities, spanning MASK_BOXES where present, else the box itself
MASK_BOXES = "mask_boxes"  # BoxList of R boxes: what MASK spans when that is not the detection box
COARSE_MASK = "coarse_mask"  # (R, 1, m, m) float: the mask before refinement; spans the detection box
COARSE_KEYPOINTS = "coarse_keypoints"  # Keypoints before refinement
# (R,) float: SCORES times how good the mask or the skeleton probably is; what masks or keypoints are then ranked by
MASK_SCORES, KEYPOINT_SCORES = "mask_scores", "keypoint_scores"
COARSE_MASK_SCORES, COARSE_KEYPOINT_SCORES = "coarse_mask_scores", "coarse_keypoint_scores"  # before refinement
ANNOTATION_IDS = "annotation_ids"  # (R,) int64: the dataset's own id of each ground-truth instance
IDENTITIES = "identities"  # (R,) int64: in a video, the same number for what is probably the same instance

LOGITS = "logits"  # field of Keypoints, (R, K) float: score of each predicted keypoint
