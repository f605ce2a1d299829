"""`Keypoints`: the keypoints of the instances of one image."""

import copy
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from maskrcnn_benchmark.structures.geometry import (
    FLIP_LEFT_RIGHT,
    FLIP_TOP_BOTTOM,
    check_affine,
    check_crop,
    check_flip,
    check_size,
    index_to_list,
    map_points,
    resize_ratios,
)
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

__all__ = ["FLIP_LEFT_RIGHT", "FLIP_TOP_BOTTOM", "Keypoints", "PersonKeypoints"]


# Probabilities from which a predicted keypoint is drawn solid, and hollow.
VISIBLE_FROM, UNCERTAIN_FROM = 0.5, 0.2


class Keypoints:
    """K keypoints of each of R instances, and fields with one entry per instance.

    A subclass with NAMES, and with FLIP_MAP, CONNECTIONS and OKS_SIGMAS if it has any, is upstream's way to give the
    specification of a skeleton.

    Args:
        keypoints: (R, K, 3) or (R, K * 3): x and y in pixels, and the visibility: 0 not labelled (x = y = 0),
            1 labelled but hidden, 2 visible; of predicted points, the probability that they are labelled.
        size: (width, height) of the image, in pixels.
        mode: not used; upstream's signature has it.
        spec: names, flip pairs, limbs and sigmas of the K points; None for those of the class, or if only their number
            is known.
    Attributes:
        keypoints: (R, K, 3) float32.
        size: (width, height) of the image, in pixels.
        mode: as given.
        spec: of the K points.
        extra_fields: the fields by name.
        NAMES: names of the K points.
        FLIP_MAP: the right name of each left name; {} if no point has a side.
        CONNECTIONS: limbs, as pairs of indices into NAMES.
        OKS_SIGMAS: standard deviation per point, for COCO's OKS.
        FLIP_INDS: for each point, the index of its mirror image; computed from FLIP_MAP.
    Raises: ValueError for a wrong shape or a number of points that differs from the specification.
    """

    NAMES: ClassVar[Sequence[str]] = ()
    FLIP_MAP: ClassVar[dict[str, str] | None] = None
    CONNECTIONS: ClassVar[Sequence[tuple[int, int]]] = ()
    OKS_SIGMAS: ClassVar[Sequence[float]] = ()
    FLIP_INDS: ClassVar[Sequence[int]] = ()
    SPEC: ClassVar[KeypointSpec | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not cls.NAMES:
            return
        pairs = None if cls.FLIP_MAP is None else tuple(cls.FLIP_MAP.items())
        cls.SPEC = KeypointSpec(cls.NAMES, pairs, cls.CONNECTIONS, cls.OKS_SIGMAS, source=cls.__name__)
        cls.FLIP_INDS = cls.SPEC.flip_inds or ()

    def __init__(
        self,
        keypoints: Tensor | Sequence[Any],
        size: Sequence[float],
        mode: str | None = None,
        spec: KeypointSpec | None = None,
    ) -> None:
        spec = self.SPEC if spec is None else spec
        points = torch.as_tensor(keypoints, dtype=torch.float32)
        if points.numel() == 0 and points.dim() < 3:
            points = points.reshape(0, 0 if spec is None else len(spec), 3)
        elif points.dim() == 2 and points.shape[1] % 3 == 0:
            points = points.reshape(points.shape[0], -1, 3)
        if points.dim() != 3 or points.shape[2] != 3:
            raise ValueError(f"{type(self).__name__} takes (R, K, 3) or (R, K * 3), not {tuple(points.shape)}")
        if spec is not None and points.shape[1] != len(spec):
            raise ValueError(
                f"{type(self).__name__} takes {spec}, {points.shape[1]} points were given; for others use Keypoints "
                "with their `spec`, a KeypointSpec"
            )
        self.spec = KeypointSpec.unnamed(points.shape[1]) if spec is None else spec
        self.keypoints = points
        self.size = check_size(size, type(self).__name__)
        self.mode = mode
        self.extra_fields: dict[str, Any] = {}

    # Fields

    def add_field(self, field: str, field_data: Any) -> None:
        """Add or replace a field."""
        self.extra_fields[field] = field_data

    def get_field(self, field: str) -> Any:
        """The field's value. Raises: KeyError with the names of the fields if there is no such field."""
        if field not in self.extra_fields:
            present = ", ".join(sorted(self.extra_fields)) or "none"
            raise KeyError(f"these {type(self).__name__} have no field {field!r}; fields present: {present}")
        return self.extra_fields[field]

    def has_field(self, field: str) -> bool:
        """Is there a field of this name?"""
        return field in self.extra_fields

    # Geometry

    def resize(self, size: Sequence[float], *args: Any, **kwargs: Any) -> "Keypoints":
        """The keypoints after the image is resized to `size` (width, height)."""
        ratios = resize_ratios(self.size, size, f"{type(self).__name__}.resize")
        x, y, visibility = self.keypoints.unbind(-1)
        scaled = torch.stack((x * ratios[0], y * ratios[1], visibility), dim=-1)
        return self._like(scaled, size, self.extra_fields)

    def transpose(self, method: int, offset: int = 1) -> "Keypoints":
        """The keypoints after a flip of the image: x becomes width - offset - x, and left and right points are swapped.

        Points that are not labelled stay (0, 0, 0). Tensor fields (R, K, ...) are swapped in the same way.

        Args:
            method: FLIP_LEFT_RIGHT, or FLIP_TOP_BOTTOM, which changes y instead of x and swaps the sides as well.
            offset: offset of the BoxList of these keypoints: 1 if a coordinate names a pixel, 0 if it is continuous.
        Raises: ValueError if it is not known which points change places.
        """
        check_flip(method)
        if self.spec.flip_inds is None:
            raise ValueError(f"{type(self).__name__} cannot be flipped: {self.spec.flip_problem}")
        axis = 0 if method == FLIP_LEFT_RIGHT else 1
        order = list(self.spec.flip_inds)
        flipped = self.keypoints[:, order]
        flipped[..., axis] = self.size[axis] - offset - flipped[..., axis]
        flipped = torch.where(flipped[..., 2:] == 0, 0.0, flipped)
        fields = {
            name: value[:, order] if self._is_per_point(value) else value for name, value in self.extra_fields.items()
        }
        return self._like(flipped, self.size, fields)

    def crop(self, box: Sequence[float] | Tensor) -> "Keypoints":
        """The keypoints after the image is cropped to [x1, x2) x [y1, y2); points outside become (0, 0, 0)."""
        left, top, right, bottom = check_crop(box, f"{type(self).__name__}.crop")
        size = (right - left, bottom - top)
        x, y, visibility = self.keypoints.unbind(-1)
        x, y = x - left, y - top
        inside = (x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1]) & (visibility != 0)
        moved = torch.where(inside[..., None], torch.stack((x, y, visibility), dim=-1), 0.0)
        return self._like(moved, size, self.extra_fields)

    def affine(self, matrix: Any, size: Sequence[float], offset: int = 1) -> "Keypoints":
        """The keypoints after an affine map of the image; points that leave the image become (0, 0, 0).

        Args:
            matrix: (2, 3), of continuous coordinates, in which pixel p covers [p, p + 1); see `check_affine`.
            size: (width, height) of the mapped image, in pixels.
            offset: offset of the BoxList of these keypoints: 1 if a coordinate names a pixel, whose centre is half a
                pixel further, 0 if it is continuous.
        """
        owner = f"{type(self).__name__}.affine"
        values, (width, height) = check_affine(matrix, owner), check_size(size, owner)
        mapped = map_points(self.keypoints[..., :2].double() + offset / 2, values)
        visibility = self.keypoints[..., 2]
        x, y = mapped.unbind(-1)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (visibility != 0)
        moved = torch.cat([(mapped - offset / 2).to(visibility), visibility[..., None]], dim=-1)
        return self._like(torch.where(inside[..., None], moved, 0.0), size, self.extra_fields)

    # Devices and indexing

    def to(self, *args: Any, **kwargs: Any) -> "Keypoints":
        """Copy to a device or dtype, as `Tensor.to`."""
        fields = {
            name: value.to(*args, **kwargs) if hasattr(value, "to") else value
            for name, value in self.extra_fields.items()
        }
        return self._like(self.keypoints.to(*args, **kwargs), self.size, fields)

    def pin_memory(self) -> "Keypoints":
        """Copy to page-locked memory."""
        fields = {
            name: value.pin_memory() if hasattr(value, "pin_memory") else value
            for name, value in self.extra_fields.items()
        }
        return self._like(self.keypoints.pin_memory(), self.size, fields)

    @classmethod
    def cat(cls, parts: Sequence["Keypoints"]) -> "Keypoints":
        """Concatenate the instances of all parts, with the fields that all parts have."""
        first = parts[0]
        joined = first._like(torch.cat([part.keypoints for part in parts]), first.size, {})
        for name in first.extra_fields:
            if all(part.has_field(name) for part in parts):
                joined.add_field(name, torch.cat([part.get_field(name) for part in parts]))
        return joined

    def __getitem__(self, item: Any) -> "Keypoints":
        if not isinstance(item, slice) and not isinstance(item, Tensor):
            item = torch.tensor(index_to_list(item, len(self)), dtype=torch.int64)
        item = item.reshape(1) if isinstance(item, Tensor) and item.dim() == 0 else item
        fields = {name: value[item] for name, value in self.extra_fields.items()}
        return self._like(self.keypoints[item], self.size, fields)

    def __len__(self) -> int:
        return self.keypoints.shape[0]

    def __repr__(self) -> str:
        width, height = self.size
        return (
            f"{type(self).__name__}(num_instances={len(self)}, num_keypoints={self.keypoints.shape[1]}, "
            f"image_width={width}, image_height={height}, fields=[{', '.join(self.extra_fields)}])"
        )

    def _is_per_point(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.dim() >= 2 and value.shape[:2] == self.keypoints.shape[:2]

    def _like(self, points: Tensor, size: Sequence[float], fields: dict[str, Any]) -> "Keypoints":
        other = copy.copy(self)
        other.keypoints, other.size, other.extra_fields = points, check_size(size, type(self).__name__), dict(fields)
        return other


def visibility_of(probabilities: Tensor) -> Tensor:
    """COCO's visibility of predicted points, for pictures: 2 visible, 1 uncertain, 0 absent.

    Args:
        probabilities: (...) that a point is labelled.
    Returns: (...) in the same dtype.
    """
    return ((probabilities >= VISIBLE_FROM).int() + (probabilities >= UNCERTAIN_FROM).int()).to(probabilities.dtype)


class PersonKeypoints(Keypoints):
    """COCO's 17 keypoints of a person, in COCO's order."""

    NAMES = COCO_PERSON.names
    FLIP_MAP = {COCO_PERSON.names[left]: COCO_PERSON.names[right] for left, right in COCO_PERSON.flip_pairs or ()}
    CONNECTIONS = COCO_PERSON.skeleton
    OKS_SIGMAS = COCO_PERSON.sigmas
