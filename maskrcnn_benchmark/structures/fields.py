"""Names of the fields of a `BoxList` of R boxes.

All images of a batch have the same fields, including images without boxes. An instance may have several masks, each
with a name: `mask_fields` gives the fields of one of them.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

LABELS = "labels"  # (R,) int64: 0 is background, contiguous ids from 1
SCORES = "scores"  # (R,) float: probability of the label
OBJECTNESS = "objectness"  # (R,) float: probability of an object, from the RPN
IS_GROUND_TRUTH = "is_ground_truth"  # (R,) bool: proposals that are boxes of the ground truth; training only
MASKS = "masks"  # SegmentationMask: ground truth
MASKS_PRESENT = "masks_present"  # (R,) bool: the instance has a mask in MASKS; all have if there is no such field
KEYPOINTS = "keypoints"  # Keypoints: ground truth, or predictions with a field LOGITS
KEYPOINT_VISIBILITY = "keypoint_visibility"  # (R, K) float: predicted probability that a keypoint is labelled
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


@dataclass(frozen=True)
class MaskFields:
    """Fields of one mask of the instances.

    Attributes:
        name: of the mask, such as "visible"; empty for the plain mask, whose fields are the constants above.
        truth: ground truth, like `MASKS`; the row of an instance without this mask is an empty mask.
        present: which instances have this mask, like `MASKS_PRESENT`.
        mask: predicted probabilities, like `MASK`.
        scores: like `MASK_SCORES`.
        boxes: like `MASK_BOXES`.
        in_pixels: like `MASK_IN_PIXELS`.
        coarse: like `COARSE_MASK`.
        coarse_scores: like `COARSE_MASK_SCORES`.
    """

    name: str
    truth: str
    present: str
    mask: str
    scores: str
    boxes: str
    in_pixels: str
    coarse: str
    coarse_scores: str


_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
# Of fields and of evaluation tasks: a mask whose name ends so could have the field or the task of another mask.
_ENDINGS = ("present", "scores", "boxes", "in_pixels", "coarse")


@lru_cache
def mask_fields(name: str = "") -> MaskFields:
    """Fields of the mask with a name.

    Args:
        name: letters, digits and underscores, a letter first; empty for the plain mask.
    Raises: ValueError for another name, or one that ends like a field of a mask ("visible_scores").
    """
    if not name:
        return MaskFields(
            "",
            MASKS,
            MASKS_PRESENT,
            MASK,
            MASK_SCORES,
            MASK_BOXES,
            MASK_IN_PIXELS,
            COARSE_MASK,
            COARSE_MASK_SCORES,
        )
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"The name of a mask is {name!r}; names have letters, digits and underscores, and begin with a letter."
        )
    if name in _ENDINGS or name.endswith(tuple(f"_{ending}" for ending in _ENDINGS)):
        raise ValueError(
            f"The name of a mask is {name!r}; it must not end in {', '.join(_ENDINGS)}, as fields and tasks do."
        )
    mask, truth, coarse = f"{MASK}_{name}", f"{MASKS}_{name}", f"{COARSE_MASK}_{name}"
    return MaskFields(
        name,
        truth,
        f"{truth}_present",
        mask,
        f"{mask}_scores",
        f"{mask}_boxes",
        f"{mask}_in_pixels",
        coarse,
        f"{coarse}_scores",
    )
