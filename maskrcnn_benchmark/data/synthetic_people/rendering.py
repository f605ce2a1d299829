"""Draw one posed body: tapered limbs in depth order, with clothes, skin, hair and a face."""

from dataclasses import dataclass

import cv2
import numpy as np

from .body import FACE_POINTS, HEAD_RADIUS, Pose

SUBPIXEL_BITS = 4  # OpenCV draws polygons with this many binary digits of sub-pixel precision

# Half-thickness of the body at its joints, as fractions of the height.
RADII = {
    "neck": 0.026, "shoulder": 0.036, "elbow": 0.027, "wrist": 0.02, "hand": 0.022, "pelvis": 0.055, "hip": 0.054,
    "knee": 0.036, "ankle": 0.024, "toe": 0.02,
}  # fmt: skip
SKIN_TONES = np.array([[255, 219, 188], [232, 190, 152], [198, 145, 104], [150, 99, 66], [101, 64, 42]], np.float32)
HAIR_TONES = np.array([[28, 22, 20], [72, 46, 30], [132, 88, 46], [196, 164, 96], [120, 120, 120]], np.float32)
# A keypoint is visible if the topmost part at its pixel is one of these: a joint belongs to the limbs that meet there.
PARTS_AT_KEYPOINT = {
    "shoulder": ("{side}_upper_arm", "torso"),
    "elbow": ("{side}_upper_arm", "{side}_forearm"),
    "wrist": ("{side}_forearm", "{side}_hand"),
    "hip": ("{side}_thigh", "torso"),
    "knee": ("{side}_thigh", "{side}_shin"),
    "ankle": ("{side}_shin", "{side}_foot"),
}
FACE_PARTS = ("head", "hair", "face")


@dataclass(frozen=True)
class Outfit:
    """Colours and cut of one person's clothes."""

    skin: np.ndarray
    hair: np.ndarray
    shirt: "Texture"
    trousers: "Texture"
    shoes: np.ndarray
    long_sleeves: bool
    long_trousers: bool
    long_hair: bool


@dataclass(frozen=True)
class Texture:
    """A repeating cloth pattern: plain, stripes, checks or dots of two colours."""

    pattern: str
    colours: np.ndarray  # (2, 3) RGB
    period: float  # pixels
    angle: float  # radians

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Colours (H, W, 3) at pixel positions x, y (H, W)."""
        along = (x * np.cos(self.angle) + y * np.sin(self.angle)) / self.period
        across = (y * np.cos(self.angle) - x * np.sin(self.angle)) / self.period
        if self.pattern == "stripes":
            second = along % 1.0 < 0.5
        elif self.pattern == "checks":
            second = (along % 1.0 < 0.5) ^ (across % 1.0 < 0.5)
        elif self.pattern == "dots":
            second = (along % 1.0 - 0.5) ** 2 + (across % 1.0 - 0.5) ** 2 < 0.07
        else:
            second = np.zeros(x.shape, bool)
        colours: np.ndarray = self.colours[second.astype(np.intp)]
        return colours


@dataclass(frozen=True)
class Person:
    """One person, drawn on a canvas of the scene's size.

    Attributes:
        colour: (H, W, 3) float32.
        part_ids: (H, W) uint8, 1 + index into `part_names`; 0 outside the person.
        part_names: names of the body parts.
        keypoints: (K, 2) float, in pixels of the canvas.
        labelled: (K,) bool.
    """

    colour: np.ndarray
    part_ids: np.ndarray
    part_names: tuple[str, ...]
    keypoints: np.ndarray
    labelled: np.ndarray

    def shows_keypoint(self, keypoint_names: tuple[str, ...], visible: np.ndarray) -> np.ndarray:
        """Which keypoints (K,) are visible: on a part that they belong to, at a pixel with `visible` (H, W) set."""
        height, width = self.part_ids.shape
        columns, rows = np.floor(self.keypoints).astype(int).T
        shown: np.ndarray = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        for index in np.flatnonzero(shown):
            row, column = rows[index], columns[index]
            part = self.part_ids[row, column]
            owners = parts_at_keypoint(keypoint_names[index])
            shown[index] = visible[row, column] and part > 0 and self.part_names[part - 1] in owners
        return shown


def parts_at_keypoint(name: str) -> tuple[str, ...]:
    """Names of the body parts that a COCO keypoint belongs to."""
    if name in FACE_POINTS:
        return FACE_PARTS
    side, joint = name.split("_")
    return tuple(part.format(side=side) for part in PARTS_AT_KEYPOINT[joint])


def sample_outfit(rng: np.random.Generator, height: float) -> Outfit:
    """Sample clothes for a person who is `height` pixels tall."""
    skin = SKIN_TONES[rng.integers(len(SKIN_TONES))] + rng.normal(0, 6, 3)
    hair = HAIR_TONES[rng.integers(len(HAIR_TONES))] + rng.normal(0, 6, 3)
    return Outfit(
        skin=skin, hair=hair, shirt=_sample_texture(rng, height), trousers=_sample_texture(rng, height),
        shoes=rng.uniform(10, 230, 3), long_sleeves=rng.random() < 0.5, long_trousers=rng.random() < 0.7,
        long_hair=rng.random() < 0.4,
    )  # fmt: skip


def _sample_texture(rng: np.random.Generator, height: float) -> Texture:
    pattern = str(rng.choice(["plain", "stripes", "checks", "dots"], p=[0.5, 0.2, 0.15, 0.15]))
    period = max(4.0, height * rng.uniform(0.025, 0.06))
    return Texture(pattern, rng.uniform(15, 240, (2, 3)), period, rng.uniform(0, np.pi))


def draw_person(
    pose: Pose, outfit: Outfit, keypoint_names: tuple[str, ...], *, centre: tuple[float, float], height: float,
    canvas_hw: tuple[int, int], light: float,
) -> Person:  # fmt: skip
    """Draw a body whose pelvis is at `centre` and whose standing height is `height`, in pixels of the canvas."""
    points = {name: np.array([centre[0] + xyz[0] * height, centre[1] + xyz[1] * height]) for name, xyz in
              pose.joints.items()}  # fmt: skip
    # Move the pelvis to the centre.
    shift = points["pelvis"] - np.asarray(centre)
    points = {name: point - shift for name, point in points.items()}
    colour = np.zeros((*canvas_hw, 3), np.float32)
    part_ids = np.zeros(canvas_hw, np.uint8)
    parts = sorted(_body_parts(pose, points, outfit, height), key=lambda part: part.depth)
    names = tuple(dict.fromkeys(part.name for part in parts))
    for part in parts:
        _paint(part, colour, part_ids, names.index(part.name) + 1, light)
    keypoints = np.stack([points[name] for name in keypoint_names])
    return Person(colour, part_ids, names, keypoints, np.array([pose.labelled[name] for name in keypoint_names]))


@dataclass(frozen=True)
class _Part:
    """A convex outline (P, 2) with a colour or texture; `axis` is the direction across which light falls off."""

    name: str
    depth: float
    outline: np.ndarray
    fill: "np.ndarray | Texture"
    axis: np.ndarray
    middle: np.ndarray
    radius: float


def _body_parts(pose: Pose, points: dict[str, np.ndarray], outfit: Outfit, height: float) -> list[_Part]:
    depths = {name: float(xyz[2]) for name, xyz in pose.joints.items()}

    def limb(name: str, start: str, end: str, fill: "np.ndarray | Texture", lift: float = 0.0) -> _Part:
        radii = [RADII[joint.split("_")[-1]] * height for joint in (start, end)]
        depth = (depths[start] + depths[end]) / 2 + lift
        return _capsule(name, depth, points[start], points[end], radii[0], radii[1], fill)

    parts = [limb("torso", "pelvis", "neck", outfit.skin, -0.002), _torso(points, depths, outfit, height)]
    for side in ("left", "right"):
        sleeve = outfit.shirt if outfit.long_sleeves else outfit.skin
        leg = outfit.trousers if outfit.long_trousers else outfit.skin
        parts += [
            limb(f"{side}_thigh", f"{side}_hip", f"{side}_knee", outfit.trousers, 0.001),
            limb(f"{side}_shin", f"{side}_knee", f"{side}_ankle", leg),
            limb(f"{side}_foot", f"{side}_ankle", f"{side}_toe", outfit.shoes, 0.005),
            limb(f"{side}_upper_arm", f"{side}_shoulder", f"{side}_elbow", outfit.shirt, 0.004),
            limb(f"{side}_forearm", f"{side}_elbow", f"{side}_wrist", sleeve, 0.006),
            limb(f"{side}_hand", f"{side}_wrist", f"{side}_hand", outfit.skin, 0.008),
        ]
    return parts + _head(pose, points, depths, outfit, height)


def _torso(points: dict[str, np.ndarray], depths: dict[str, float], outfit: Outfit, height: float) -> _Part:
    circles = [(points[name], RADII[name.split("_")[-1]] * height) for name in
               ("left_shoulder", "right_shoulder", "left_hip", "right_hip", "pelvis", "neck")]  # fmt: skip
    middle = (points["pelvis"] + points["neck"]) / 2
    width = np.linalg.norm(points["left_shoulder"] - points["right_shoulder"]) / 2 + RADII["shoulder"] * height
    return _Part("torso", (depths["pelvis"] + depths["neck"]) / 2, _hull(circles), outfit.shirt,
                 _across(points["neck"] - points["pelvis"]), middle, width)  # fmt: skip


def _head(
    pose: Pose, points: dict[str, np.ndarray], depths: dict[str, float], outfit: Outfit, height: float
) -> list[_Part]:
    radius = HEAD_RADIUS * height
    centre, depth = points["head"], depths["head"]
    up, forward = pose.head_axes[1], pose.head_axes[2]
    across = _across(up[:2])

    def disc(name: str, offset: np.ndarray, lift: float, size: float, fill: np.ndarray, stretch: float = 1.0) -> _Part:
        middle = centre + offset[:2] * height
        half = up[:2] * size * (stretch - 1.0)
        return _capsule(name, depth + lift, middle - half, middle + half, size, size, fill)

    # Hair is a cap, shifted up and to the back of the head, so it hides the face if the person is seen from behind.
    parts = [
        disc("head", np.zeros(3), 0.02, radius * 0.88, outfit.skin, 1.25),
        disc("hair", up * 0.022 - forward * 0.028, 0.02 - forward[2] * 0.02, radius * 0.92, outfit.hair, 1.1),
    ]
    if outfit.long_hair:
        lift = 0.01 - forward[2] * 0.03
        parts.append(disc("hair", -up * 0.03 - forward * 0.035, lift, radius * 0.85, outfit.hair, 1.5))
    features = {"nose": (0.010, outfit.skin * 0.72), "left_eye": (0.009, np.full(3, 25.0)),
                "right_eye": (0.009, np.full(3, 25.0)), "left_ear": (0.016, outfit.skin * 0.85),
                "right_ear": (0.016, outfit.skin * 0.85)}  # fmt: skip
    for name, (size, fill) in features.items():
        offset, outward = (np.asarray(value) @ pose.head_axes for value in FACE_POINTS[name])
        if outward[2] > 0.0:
            parts.append(disc("face", offset, 0.03 + offset[2], size * height, fill))
    if forward[2] > 0.2:
        mouth = (np.array([0.0, -0.034, 0.055]) @ pose.head_axes)[:2] * height + centre
        half = across * 0.016 * height
        parts.append(_capsule("face", depth + 0.09, mouth - half, mouth + half, 0.006 * height, 0.006 * height,
                              np.array([150.0, 50.0, 50.0])))  # fmt: skip
    return parts


def _capsule(
    name: str, depth: float, start: np.ndarray, end: np.ndarray, start_radius: float, end_radius: float,
    fill: "np.ndarray | Texture",
) -> _Part:  # fmt: skip
    return _Part(name, depth, _hull([(start, start_radius), (end, end_radius)]), fill, _across(end - start),
                 (start + end) / 2, max(start_radius, end_radius))  # fmt: skip


def _across(direction: np.ndarray) -> np.ndarray:
    """Unit vector perpendicular to a direction in the image."""
    length = max(float(np.linalg.norm(direction)), 1e-6)
    return np.array([-direction[1], direction[0]]) / length


_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 24, False)), np.sin(np.linspace(0, 2 * np.pi, 24, False))], 1)


def _hull(circles: list[tuple[np.ndarray, float]]) -> np.ndarray:
    points = np.concatenate([centre + _CIRCLE * radius for centre, radius in circles]).astype(np.float32)
    return cv2.convexHull(points)[:, 0]


def _paint(part: _Part, colour: np.ndarray, part_ids: np.ndarray, part_id: int, light: float) -> None:
    """Fill the outline in both canvases, in place; darker on the side away from the light."""
    height, width = part_ids.shape
    left, top = np.maximum(np.floor(part.outline.min(0)).astype(int) - 1, 0)
    right, bottom = np.minimum(np.ceil(part.outline.max(0)).astype(int) + 2, (width, height))
    if left >= right or top >= bottom:
        return
    # In OpenCV the centre of the first pixel is 0, here it is 0.5.
    corners = np.round((part.outline - (left + 0.5, top + 0.5)) * (1 << SUBPIXEL_BITS)).astype(np.int32)
    inside = np.zeros((bottom - top, right - left), np.uint8)
    cv2.fillConvexPoly(inside, corners, 1, lineType=cv2.LINE_8, shift=SUBPIXEL_BITS)
    chosen = inside.astype(bool)
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32) + 0.5
    base = part.fill(x, y) if isinstance(part.fill, Texture) else np.broadcast_to(part.fill, (*x.shape, 3))
    offset = ((x - part.middle[0]) * part.axis[0] + (y - part.middle[1]) * part.axis[1]) / max(part.radius, 1.0)
    shade = (1.0 - 0.22 * np.clip(offset * np.sign(part.axis[0] * np.cos(light) + part.axis[1] * np.sin(light)), -1, 1)
             - 0.12 * np.clip(np.abs(offset), 0, 1) ** 2)  # fmt: skip
    colour[top:bottom, left:right][chosen] = (base * shade[..., None])[chosen]
    part_ids[top:bottom, left:right][chosen] = part_id
