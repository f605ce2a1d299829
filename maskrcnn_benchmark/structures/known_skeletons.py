"""Skeletons of public data sets: the facts about their keypoints, by name."""

from __future__ import annotations

import logging

from maskrcnn_benchmark.structures.skeleton import KeypointSpec

logger = logging.getLogger(__name__)

# Names, order, limbs and sigmas: cocodataset.org, and `COCOeval` of its cocoapi. Sigmas are standard deviations of
# annotators relative to the scale of the person.
COCO_PERSON = KeypointSpec(
    names=(
        "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
        "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
        "right_ankle",
    ),
    skeleton=(
        (0, 1), (0, 2), (1, 2), (1, 3), (2, 4),  # face
        (5, 6), (5, 7), (7, 9), (6, 8), (8, 10),  # arms
        (5, 11), (6, 12), (11, 12),  # trunk
        (11, 13), (13, 15), (12, 14), (14, 16),  # legs
    ),
    sigmas=(
        0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
        0.089,
    ),
    source="COCO's person",
)  # fmt: skip

_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_HAND_PARTS = tuple(f"{finger}{joint}" for finger in _FINGERS for joint in (1, 2, 3, 4))
# COCO-WholeBody's (its evaluation code), for each hand, from the wrist over the thumb to the little finger.
_HAND_SIGMAS = (
    0.029, 0.022, 0.035, 0.037, 0.047, 0.026, 0.025, 0.024, 0.035, 0.018, 0.024, 0.022, 0.026, 0.017, 0.021, 0.021,
    0.032, 0.02, 0.019, 0.022, 0.031,
)  # fmt: skip
_FINGER_COLORS = ((255, 128, 0), (255, 102, 204), (77, 163, 255), (255, 64, 64), (64, 200, 64))


def _finger_limbs(wrist: str, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """From the wrist along each finger to its tip."""
    limbs = []
    for finger in _FINGERS:
        chain = [wrist, *(f"{prefix}{finger}{joint}" for joint in (1, 2, 3, 4))]
        limbs += list(zip(chain[:-1], chain[1:], strict=True))
    return tuple(limbs)


# Order and names as OpenPose, OneHand10K and mmpose have them. A mirrored left hand is a right hand: no point changes
# places. The data sets publish no sigmas; these are COCO-WholeBody's.
HAND = KeypointSpec(
    names=("wrist", *_HAND_PARTS),
    flip_pairs=(),
    skeleton=_finger_limbs("wrist"),
    sigmas=_HAND_SIGMAS,
    colors=((230, 230, 230), *(color for color in _FINGER_COLORS for _ in range(4))),
    source="the hand of OneHand10K",
)

# Jin et al. 2020, Whole-Body Human Pose Estimation in the Wild: COCO's person, feet, 300-W's 68 face points, hands.
# Sigmas: the data set's evaluation code.
_FEET = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("big_toe", "small_toe", "heel"))
_FACE_PAIRS = (
    *((n, 16 - n) for n in range(8)),  # jaw, from ear to ear
    *((n, 43 - n) for n in range(17, 22)),  # brows
    (31, 35), (32, 34),  # nostrils
    (36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46),  # eyes
    (48, 54), (49, 53), (50, 52), (55, 59), (56, 58),  # outer lips
    (60, 64), (61, 63), (65, 67),  # inner lips
)  # fmt: skip
_HANDS = tuple(f"{side}_{part}" for side in ("left", "right") for part in ("hand_root", *_HAND_PARTS))
COCO_WHOLEBODY = KeypointSpec(
    names=(*COCO_PERSON.names, *_FEET, *(f"face-{n}" for n in range(68)), *_HANDS),
    flip_pairs=(
        *(COCO_PERSON.flip_pairs or ()),
        *((f"left_{name}", f"right_{name}") for name in ("big_toe", "small_toe", "heel", "hand_root", *_HAND_PARTS)),
        *((f"face-{one}", f"face-{other}") for one, other in _FACE_PAIRS),
    ),
    skeleton=(
        *COCO_PERSON.skeleton,
        *((f"{name.split('_')[0]}_ankle", name) for name in _FEET),
        *_finger_limbs("left_wrist", "left_"),
        *_finger_limbs("right_wrist", "right_"),
    ),
    sigmas=(
        *COCO_PERSON.sigmas,
        0.068, 0.066, 0.066, 0.092, 0.094, 0.094,
        0.042, 0.043, 0.044, 0.043, 0.040, 0.035, 0.031, 0.025, 0.020, 0.023, 0.029, 0.032, 0.037, 0.038, 0.043, 0.041,
        0.045, 0.013, 0.012, 0.011, 0.011, 0.012, 0.012, 0.011, 0.011, 0.013, 0.015, 0.009, 0.007, 0.007, 0.007, 0.012,
        0.009, 0.008, 0.016, 0.010, 0.017, 0.011, 0.009, 0.011, 0.009, 0.007, 0.013, 0.008, 0.011, 0.012, 0.010, 0.034,
        0.008, 0.008, 0.009, 0.008, 0.008, 0.007, 0.010, 0.008, 0.009, 0.009, 0.009, 0.007, 0.007, 0.008, 0.011, 0.008,
        0.008, 0.008, 0.01, 0.008,
        *_HAND_SIGMAS,
        *_HAND_SIGMAS,
    ),
    source="COCO-WholeBody",
)  # fmt: skip

# Li et al. 2019, CrowdPose. Sigmas: the evaluation code of the data set.
CROWDPOSE = KeypointSpec(
    names=(
        "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "left_hip",
        "right_hip", "left_knee", "right_knee", "left_ankle", "right_ankle", "head", "neck",
    ),
    skeleton=(
        (12, 13), (13, 0), (13, 1), (0, 2), (2, 4), (1, 3), (3, 5), (0, 6), (1, 7), (6, 7), (6, 8), (8, 10), (7, 9),
        (9, 11),
    ),
    sigmas=(0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079),
    source="CrowdPose",
)  # fmt: skip

# Andriluka et al. 2014, MPII Human Pose. It is scored by PCKh; there are no sigmas.
MPII = KeypointSpec(
    names=(
        "right_ankle", "right_knee", "right_hip", "left_hip", "left_knee", "left_ankle", "pelvis", "thorax",
        "upper_neck", "head_top", "right_wrist", "right_elbow", "right_shoulder", "left_shoulder", "left_elbow",
        "left_wrist",
    ),
    skeleton=(
        (9, 8), (8, 7), (7, 6),  # head and trunk
        (8, 13), (13, 14), (14, 15), (8, 12), (12, 11), (11, 10),  # arms
        (6, 3), (3, 4), (4, 5), (6, 2), (2, 1), (1, 0),  # legs
    ),
    source="MPII",
)  # fmt: skip

# Yu et al. 2021, AP-10K, whose paper has no sigmas: these are the ones that mmpose scores AP-10K with.
AP10K = KeypointSpec(
    names=(
        "left_eye", "right_eye", "nose", "neck", "root_of_tail", "left_shoulder", "left_elbow", "left_front_paw",
        "right_shoulder", "right_elbow", "right_front_paw", "left_hip", "left_knee", "left_back_paw", "right_hip",
        "right_knee", "right_back_paw",
    ),
    skeleton=(
        (0, 1), (0, 2), (1, 2), (2, 3), (3, 4),  # face and back
        (3, 5), (5, 6), (6, 7), (3, 8), (8, 9), (9, 10),  # front legs
        (4, 11), (11, 12), (12, 13), (4, 14), (14, 15), (15, 16),  # hind legs
    ),
    sigmas=(
        0.025, 0.025, 0.026, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
        0.089,
    ),
    source="AP-10K",
)  # fmt: skip

# Name -> specification. The names work in a catalog entry too.
KNOWN_SKELETONS = {
    "coco_person": COCO_PERSON,
    "coco_wholebody": COCO_WHOLEBODY,
    "crowdpose": CROWDPOSE,
    "mpii": MPII,
    "ap10k": AP10K,
    "hand": HAND,
}


def assumed_skeleton(count: int) -> KeypointSpec:
    """For keypoints of which only the number is known: 17 are a person's, as in upstream; others have no names."""
    return COCO_PERSON if count == len(COCO_PERSON) else KeypointSpec.unnamed(count)


def complete_from_known(spec: KeypointSpec) -> KeypointSpec:
    """Fill in what a specification lacks from the known one with the same names, if there is one, and log it."""
    known = next((known for known in KNOWN_SKELETONS.values() if known.names == spec.names), None)
    if known is None:
        return spec
    complete, filled = spec.completed_by(known)
    if filled:
        logger.info(
            "the keypoints of %s have the names of %s: %s are taken from there",
            spec.source, known.source, ", ".join(filled),
        )  # fmt: skip
    return complete
