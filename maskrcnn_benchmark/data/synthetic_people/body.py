"""A jointed body in three dimensions: sample a pose, rotate it, project it.

The body's own frame has X to the person's left, Y up and Z forward, in units of the body's height. The ground is Y = 0
for a person who stands straight. The projection is orthographic. At a yaw of 0 the person faces the camera, so the
person's left is on the image's right, as in a photograph.
"""

from dataclasses import dataclass

import numpy as np

# Proportions of an adult, as fractions of the height (Drillis and Contini 1966, rounded).
HIP_HEIGHT, HIP_HALF_WIDTH = 0.52, 0.062
TORSO_LENGTH, SHOULDER_HALF_WIDTH = 0.29, 0.118
UPPER_ARM, FOREARM, HAND = 0.175, 0.15, 0.055
THIGH, SHIN, FOOT = 0.24, 0.235, 0.075
NECK_LENGTH, HEAD_RADIUS = 0.05, 0.062
# Points of the face: position relative to the head's centre, and outward direction.
FACE_POINTS = {
    "nose": ((0.0, -0.008, 0.066), (0.0, 0.0, 1.0)),
    "left_eye": ((0.024, 0.016, 0.054), (0.3, 0.0, 0.95)),
    "right_eye": ((-0.024, 0.016, 0.054), (-0.3, 0.0, 0.95)),
    "left_ear": ((0.056, 0.0, 0.0), (0.97, 0.0, 0.25)),
    "right_ear": ((-0.056, 0.0, 0.0), (-0.97, 0.0, 0.25)),
}
FACING_AWAY = -0.15  # a face point is not labelled if the depth of its outward direction is less than this

# Ranges of angles in degrees. A row is a way to stand; one is drawn per person, and the angles for each side.
ARM_POSES = {  # abduction, flexion, twist about the upper arm, bend of the elbow
    "hanging": ((4, 22), (-15, 20), (-40, 40), (0, 35)),
    "raised": ((110, 170), (-15, 25), (-60, 60), (0, 70)),
    "spread": ((60, 100), (-15, 25), (-70, 70), (0, 60)),
    "forward": ((5, 30), (40, 100), (-40, 40), (10, 90)),
    "akimbo": ((35, 60), (-25, -5), (70, 110), (80, 115)),
    "bent": ((5, 40), (-10, 40), (-60, 60), (70, 135)),
}
LEG_POSES = {  # abduction, flexion, bend of the knee
    "standing": ((1, 9), (-6, 8), (0, 10)),
    "straddling": ((12, 30), (-8, 10), (0, 12)),
    "walking": ((1, 8), (-28, 35), (2, 45)),
    "sitting": ((4, 22), (70, 95), (65, 95)),
    "kicking": ((2, 20), (-15, 75), (5, 70)),
}


@dataclass(frozen=True)
class Pose:
    """A projected body, in units of its height: x right, y down, depth towards the camera.

    Attributes:
        joints: name -> (x, y, depth), for COCO's 17 points and for hands, toes, neck and head.
        labelled: whether a face point is on the side of the head that the camera sees; True for all other joints.
        head_axes: the head's own X, Y and Z axes in (x, y, depth), to draw the face.
    """

    joints: dict[str, np.ndarray]
    labelled: dict[str, bool]
    head_axes: np.ndarray


def sample_pose(rng: np.random.Generator) -> Pose:
    """Sample a plausible pose and view: most people face the camera, some are seen from the side or from behind."""
    joints, head_rotation = _forward_kinematics(rng)
    yaw = rng.normal(0.0, 35.0) if rng.random() < 0.8 else rng.uniform(-180.0, 180.0)
    view = _rotation_y(-yaw) @ _rotation_z(rng.normal(0.0, 7.0))
    to_image = np.diag([1.0, -1.0, 1.0])  # image y grows downwards
    head_axes = (to_image @ view @ head_rotation).T
    projected = {name: to_image @ view @ point for name, point in joints.items()}
    labelled = dict.fromkeys(projected, True)
    for name, (_, outward) in FACE_POINTS.items():
        depth = (np.asarray(outward) @ head_axes)[2]
        labelled[name] = bool(depth > FACING_AWAY)
    return Pose(projected, labelled, head_axes)


def _forward_kinematics(rng: np.random.Generator) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Sample joint angles; returns joints in the body's frame and the head's rotation."""
    torso = _rotation_x(rng.normal(-4.0, 10.0)) @ _rotation_z(rng.normal(0.0, 8.0)) @ _rotation_y(rng.normal(0.0, 10.0))
    head = torso @ _rotation_y(rng.normal(0, 22.0)) @ _rotation_x(rng.normal(0, 12.0)) @ _rotation_z(rng.normal(0, 7.0))
    pelvis = np.array([0.0, HIP_HEIGHT, 0.0])
    neck = pelvis + torso @ np.array([0.0, TORSO_LENGTH, 0.0])
    head_centre = neck + torso @ np.array([0, NECK_LENGTH * 0.5, 0]) + head @ np.array([0, HEAD_RADIUS * 1.2, 0.01])
    joints = {"pelvis": pelvis, "neck": neck, "head": head_centre}
    for name, (offset, _) in FACE_POINTS.items():
        joints[name] = head_centre + head @ np.asarray(offset)

    arm_pose, leg_pose = rng.choice(list(ARM_POSES)), rng.choice(list(LEG_POSES), p=[0.35, 0.15, 0.25, 0.1, 0.15])
    for side, sign in (("left", 1.0), ("right", -1.0)):
        if rng.random() < 0.35:  # the arms often have different poses
            arm_pose = rng.choice(list(ARM_POSES))
        abduction, flexion, twist, elbow = (rng.uniform(*angles) for angles in ARM_POSES[arm_pose])
        shoulder = neck + torso @ np.array([sign * SHOULDER_HALF_WIDTH, -0.025, 0.0])
        upper = torso @ _rotation_x(-flexion) @ _rotation_z(sign * abduction) @ _rotation_y(-sign * twist)
        lower = upper @ _rotation_x(-elbow)
        joints[f"{side}_shoulder"] = shoulder
        joints[f"{side}_elbow"] = shoulder + upper @ np.array([0.0, -UPPER_ARM, 0.0])
        joints[f"{side}_wrist"] = joints[f"{side}_elbow"] + lower @ np.array([0.0, -FOREARM, 0.0])
        joints[f"{side}_hand"] = joints[f"{side}_wrist"] + lower @ np.array([0.0, -HAND, 0.0])

        abduction, flexion, knee = (rng.uniform(*angles) for angles in LEG_POSES[leg_pose])
        hip = pelvis + np.array([sign * HIP_HALF_WIDTH, 0.0, 0.0])
        thigh = _rotation_x(-flexion) @ _rotation_z(sign * abduction)
        shin = thigh @ _rotation_x(knee)
        joints[f"{side}_hip"] = hip
        joints[f"{side}_knee"] = hip + thigh @ np.array([0.0, -THIGH, 0.0])
        joints[f"{side}_ankle"] = joints[f"{side}_knee"] + shin @ np.array([0.0, -SHIN, 0.0])
        joints[f"{side}_toe"] = joints[f"{side}_ankle"] + shin @ np.array([sign * 0.012, -0.025, FOOT])
    return joints, head


def _rotation_x(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])


def _rotation_y(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])


def _rotation_z(degrees: float) -> np.ndarray:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
