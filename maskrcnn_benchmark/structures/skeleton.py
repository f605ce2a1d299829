"""`KeypointSpec`: what the keypoints of a data set are, for flips, evaluation and pictures."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

Colour = tuple[int, int, int]  # red, green, blue, 0 .. 255
Pair = tuple[int, int]  # indices of two keypoints, from 0

# For skeletons without sigmas: the mean of COCO's 17, rounded.
UNIFORM_SIGMA = 0.067

# The word of a name, in lower case, that says the side; "l1" is a vertebra.
_SIDE = re.compile(r"(?<![a-z0-9])(?:(?:left|right)(?![a-z])|[lr](?![a-z0-9]))")


@dataclass(frozen=True, init=False)
class KeypointSpec:
    """The keypoints of an instance, in the order in which annotations list them.

    Args:
        names: one for each of the K keypoints, all different.
        flip_pairs: keypoints that change places in a mirrored image, each a name or an index from 0; () if none do.
            None takes the pairs from names such as "left_eye" and "right_eye"; without any, images cannot be mirrored.
        skeleton: limbs to draw, pairs as in `flip_pairs`.
        sigmas: standard deviation of the annotations of each keypoint relative to the square root of the instance's
            area, for OKS; () if they are not known.
        colors: (red, green, blue) of each keypoint, 0 to 255; () lets drawing choose.
        source: where the specification comes from, for messages.
    Attributes:
        names: (K,) as given.
        flip_pairs: as indices; None if it is not known which keypoints change places.
        skeleton: as indices.
        sigmas, colors: (K,) as given, or ().
        source: as given. Not compared.
    Raises: ValueError, with the names, if the arguments do not fit together.
    """

    names: tuple[str, ...]
    flip_pairs: tuple[Pair, ...] | None
    skeleton: tuple[Pair, ...]
    sigmas: tuple[float, ...]
    colors: tuple[Colour, ...]
    source: str = field(compare=False)

    def __init__(
        self,
        names: Sequence[str],
        flip_pairs: Sequence[Sequence[int | str]] | None = None,
        skeleton: Sequence[Sequence[int | str]] = (),
        sigmas: Sequence[float] = (),
        colors: Sequence[Sequence[int]] = (),
        source: str = "",
    ) -> None:
        self.__dict__.update(source=str(source), names=_checked_names(names))  # the dataclass is frozen
        self.__dict__.update(
            flip_pairs=_pairs_by_name(self.names) if flip_pairs is None else self._checked_flip_pairs(flip_pairs),
            skeleton=self._checked_pairs("skeleton", skeleton),
            sigmas=self._checked_sigmas(sigmas),
            colors=self._checked_colors(colors),
        )

    @staticmethod
    @functools.lru_cache(maxsize=16)
    def unnamed(count: int) -> KeypointSpec:
        """Keypoints of which only the number is known."""
        return KeypointSpec(_numbered(count))

    @classmethod
    def from_plain(cls, plain: Any, source: str = "") -> KeypointSpec:
        """From what `to_plain` returned. Raises: ValueError if it is something else."""
        known = {entry.name for entry in fields(cls)}
        if not isinstance(plain, Mapping) or "names" not in plain or not set(plain) <= known:
            raise ValueError(f"{source or 'a file'} has no usable specification of keypoints, but {plain!r:.200}")
        return cls(**{"source": source, **plain})

    def to_plain(self) -> dict[str, Any]:
        """Lists, text and numbers, which JSON and checkpoints store."""
        pairs = None if self.flip_pairs is None else [list(pair) for pair in self.flip_pairs]
        return {
            "names": list(self.names),
            "flip_pairs": pairs,
            "skeleton": [list(pair) for pair in self.skeleton],
            "sigmas": list(self.sigmas),
            "colors": [list(colour) for colour in self.colors],
            "source": self.source,
        }

    def __len__(self) -> int:
        """K."""
        return len(self.names)

    @property
    def is_named(self) -> bool:
        """Are the names known, and not only the number of keypoints?"""
        return self.names != _numbered(len(self.names))

    @functools.cached_property
    def flip_inds(self) -> tuple[int, ...] | None:
        """For each keypoint, the index of the one that takes its place in a mirrored image; None if not known."""
        if self.flip_pairs is None:
            return None
        partner = {first: second for pair in self.flip_pairs for first, second in (pair, pair[::-1])}
        return tuple(partner.get(index, index) for index in range(len(self.names)))

    @property
    def flip_problem(self) -> str | None:
        """Why images with these keypoints cannot be mirrored, and what to do; None if they can."""
        if self.flip_pairs is not None:
            return None
        whose = f" of {self.source}" if self.source else ""
        return (
            f"it is not known which of the {self}{whose} change places in a mirrored image. Give `flip_pairs`, in the "
            "category of the annotation file or in the KeypointSpec: pairs such as ['left_wing', 'right_wing'], or []"
        )

    @property
    def oks_sigmas(self) -> tuple[float, ...]:
        """`sigmas`, or `UNIFORM_SIGMA` for every keypoint if they are not known."""
        return self.sigmas or (UNIFORM_SIGMA,) * len(self.names)

    @functools.cached_property
    def sides(self) -> tuple[str, ...]:
        """ "left", "right" or "middle" for each keypoint: by its name, else by its place in a flip pair."""
        by_pair = {
            index: side for pair in self.flip_pairs or () for index, side in zip(pair, ("left", "right"), strict=True)
        }
        return tuple(_side(name) or by_pair.get(index, "middle") for index, name in enumerate(self.names))

    def agrees_with(self, other: KeypointSpec) -> bool:
        """Are these the same keypoints in the same order, as far as their names are known?"""
        if self.is_named and other.is_named:
            return self.names == other.names
        return len(self) == len(other)

    def completed_by(self, other: KeypointSpec) -> tuple[KeypointSpec, tuple[str, ...]]:
        """Fill in what is not known here from another specification of the same names.

        Returns: the complete specification, and the names of what was filled in.
        """
        missing = [name for name in ("flip_pairs", "skeleton", "sigmas", "colors") if getattr(self, name) in (None, ())]
        if self.flip_pairs == ():  # known: none change places
            missing.remove("flip_pairs")
        filled = {name: getattr(other, name) for name in missing if getattr(other, name)}
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)} | filled
        return KeypointSpec(**values), tuple(filled)

    def __str__(self) -> str:
        return f"{len(self)} keypoints ({', '.join(self.names)})" if self.is_named else f"{len(self)} unnamed keypoints"

    def _problem(self, text: str) -> ValueError:
        where = f" of {self.source}" if self.source else ""
        return ValueError(f"the keypoints{where}: {text}. Their names are {', '.join(self.names)}")

    def _checked_flip_pairs(self, flip_pairs: Any) -> tuple[Pair, ...]:
        pairs = self._checked_pairs("flip_pairs", flip_pairs)
        members = [index for pair in pairs for index in pair]
        twice = [name for index, name in enumerate(self.names) if members.count(index) > 1]
        if twice:
            raise self._problem(f"{', '.join(twice)} is in more than one of the flip_pairs")
        return pairs

    def _checked_pairs(self, what: str, pairs: Any) -> tuple[Pair, ...]:
        return tuple(self._checked_pair(what, pair) for pair in self._checked_list(what, pairs))

    def _checked_pair(self, what: str, pair: Any) -> Pair:
        ends = [self._index(end) for end in pair] if isinstance(pair, (list, tuple)) else []
        indices = [index for index in ends if index is not None]
        if len(ends) != 2 or len(set(indices)) != 2:
            raise self._problem(
                f"{what} has {pair!r:.80}; expected two different keypoints, each a name or an index from 0 to "
                f"{len(self.names) - 1}"
            )
        return indices[0], indices[1]

    def _index(self, keypoint: Any) -> int | None:
        if isinstance(keypoint, str):
            return self.names.index(keypoint) if keypoint in self.names else None
        return keypoint if type(keypoint) is int and 0 <= keypoint < len(self.names) else None

    def _checked_sigmas(self, sigmas: Any) -> tuple[float, ...]:
        values = self._checked_list("sigmas", sigmas, one_each=True)
        wrong = [value for value in values if type(value) not in (int, float) or not 0 < value < math.inf]
        if wrong:
            raise self._problem(f"one of the sigmas is {wrong[0]!r:.80}; expected numbers above 0")
        return tuple(map(float, values))

    def _checked_colors(self, colors: Any) -> tuple[Colour, ...]:
        values = self._checked_list("colors", colors, one_each=True)
        wrong = [value for value in values if not _is_colour(value)]
        if wrong:
            raise self._problem(
                f"one of the colors is {wrong[0]!r:.80}; expected [red, green, blue], integers 0 to 255"
            )
        return tuple((red, green, blue) for red, green, blue in values)

    def _checked_list(self, what: str, values: Any, one_each: bool = False) -> list[Any]:
        if not isinstance(values, (list, tuple)):
            raise self._problem(f"{what} is {values!r:.80}; expected a list")
        if one_each and len(values) not in (0, len(self.names)):
            raise self._problem(f"there are {len(values)} {what} for {len(self.names)} keypoints")
        return list(values)


def _checked_names(names: Any) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"the names of keypoints must be a list of texts, not {names!r:.200}")
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise ValueError(f"{', '.join(twice)} is more than once among the names of keypoints: {', '.join(names)}")
    return tuple(names)


def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"keypoint_{number}" for number in range(1, count + 1))


def _side(name: str) -> str | None:
    """The side that a name says, as in "left_eye", "LeftEye", "L_Eye" and "eye right"; None if it says none."""
    found = _SIDE.search(_words(name))
    return {"l": "left", "r": "right"}[found[0][0]] if found else None


def _words(name: str) -> str:
    """The name in lower case, with words in CamelCase set apart: "LeftEye" becomes "left_eye"."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _pairs_by_name(names: Sequence[str]) -> tuple[Pair, ...] | None:
    """The pairs of names that differ only in their side; None unless every name with a side has its partner."""
    sided = {_words(name): index for index, name in enumerate(names) if _side(name)}
    if len(sided) != sum(_side(name) is not None for name in names):
        return None
    swap = {"left": "right", "right": "left", "l": "r", "r": "l"}
    pairs = []
    for words, index in sided.items():
        partner = sided.get(_SIDE.sub(lambda found: swap[found[0]], words, count=1))
        if partner is None:
            return None
        if _side(names[index]) == "left":
            pairs.append((index, partner))
    return tuple(pairs) or None


def _is_colour(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and len(value) == 3
        and all(type(channel) is int and 0 <= channel <= 255 for channel in value)
    )
