"""The specification of a data set's keypoints, from the categories of a COCO file and from the catalog."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON, KNOWN_SKELETONS, complete_from_known
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

logger = logging.getLogger(__name__)

_PERSON = "person"


def find_spec(
    categories: Sequence[Any], path: str, count: int, given: KeypointSpec | str | None = None
) -> KeypointSpec:
    """What is known about the keypoints of an annotation file.

    The specification that was given with the data set comes first, then that of the file. If the names are those of a
    known skeleton, what is still missing comes from there.

    Args:
        categories: of the file. Those with "keypoints", a list of names, describe them.
        path: of the file, for messages.
        count: number of keypoints of an instance, if nothing names them.
        given: of the catalog entry: a specification, or the name of a known one.
    Raises: ValueError, with the names, if the categories contradict each other or what was given.
    """
    specs = {str(category["name"]): spec for category in categories if (spec := _of_category(category, path))}
    described = _agreed(specs, path)
    if given is not None:
        given = _known(given) if isinstance(given, str) else given
        if described is not None and not given.agrees_with(described):
            raise ValueError(
                f"the catalog gives {given} for {path}, but its categories have {described}: they must be the same "
                "names in the same order"
            )
        described = given if described is None else merge_specs(given, described)
    if described is not None:
        return complete_from_known(described)
    if count == len(COCO_PERSON) and any(category["name"] == _PERSON for category in categories):
        logger.info("%s does not name its %d keypoints of persons: they are taken for COCO's", path, count)
        return COCO_PERSON
    return KeypointSpec(KeypointSpec.unnamed(count).names, source=path)


def merge_specs(first: KeypointSpec, other: KeypointSpec) -> KeypointSpec:
    """`first`, with what it lacks taken from `other`, a specification of the same keypoints."""
    return first.completed_by(other)[0]


def disagreement(specs: Mapping[str, KeypointSpec]) -> str | None:
    """Say which two of these specifications, by the name of what has them, are of different keypoints; None if none."""
    named = sorted(specs.items(), key=lambda item: not item[1].is_named)
    for name, spec in named[1:]:
        first, expected = named[0]
        if not expected.agrees_with(spec):
            return f"{first} has {expected}, {name} has {spec}"
        if None not in (expected.flip_pairs, spec.flip_pairs) and expected.flip_inds != spec.flip_inds:
            return f"the flip_pairs of {first} are {_pairs(expected)}, those of {name} {_pairs(spec)}"
        if expected.sigmas and spec.sigmas and expected.sigmas != spec.sigmas:
            return f"the sigmas of {first} are {expected.sigmas}, those of {name} {spec.sigmas}"
    return None


def _of_category(category: Any, path: str) -> KeypointSpec | None:
    """None for a category without keypoints."""
    names = category.get("keypoints")
    source = f"category {category['name']!r} of {path}"
    if not names:
        described = [key for key in ("flip_pairs", "sigmas", "colors") if category.get(key)]
        if described:
            raise ValueError(f'{source} has {" and ".join(described)}, but no "keypoints", the list of their names')
        return None
    return KeypointSpec(
        names,
        _from_zero(category.get("flip_pairs")),
        _limbs(category.get("skeleton") or [], names, source),
        category.get("sigmas") or (),
        category.get("colors") or (),
        source=source,
    )


def _limbs(skeleton: Any, names: Sequence[str], source: str) -> Any:
    """The limbs, counted from 0. Those of another skeleton are no reason to refuse a file: they only serve pictures."""
    try:
        return KeypointSpec(names, (), _from_zero(skeleton), source=source).skeleton
    except ValueError as error:
        logger.warning("no limbs are drawn: %s (COCO counts from 1)", error)
        return ()


def _from_zero(pairs: Any) -> Any:
    """COCO's files count keypoints from 1, `KeypointSpec` from 0. Names stay."""
    if not isinstance(pairs, list):
        return pairs
    return [
        [end - 1 if type(end) is int else end for end in pair] if isinstance(pair, list) else pair for pair in pairs
    ]


def _agreed(specs: Mapping[str, KeypointSpec], path: str) -> KeypointSpec | None:
    """The specification of all categories that have keypoints. Raises: ValueError if they differ."""
    if not specs:
        return None
    problem = disagreement({f"category {name!r}": spec for name, spec in specs.items()})
    if problem:
        raise ValueError(
            f"the categories of {path} have different keypoints, and a model has one skeleton: {problem}. Train on "
            "files with one skeleton each, or remove the keypoints of the others."
        )
    return functools.reduce(merge_specs, specs.values())


def _known(name: str) -> KeypointSpec:
    if name not in KNOWN_SKELETONS:
        raise ValueError(
            f"the catalog gives keypoints={name!r}; known: {', '.join(KNOWN_SKELETONS)}, or a KeypointSpec"
        )
    return KNOWN_SKELETONS[name]


def _pairs(spec: KeypointSpec) -> list[list[str]]:
    return [[spec.names[end] for end in pair] for pair in spec.flip_pairs or ()]
