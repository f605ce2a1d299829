"""Tell a model what its keypoints are: a config does not know, but the data and the checkpoint do."""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from maskrcnn_benchmark.data.catalog import dataset_catalog
from maskrcnn_benchmark.data.datasets.keypoint_specs import find_spec, merge_specs
from maskrcnn_benchmark.modeling.detector import find_augmentation_problems
from maskrcnn_benchmark.structures.image_views import ViewSize
from maskrcnn_benchmark.structures.known_skeletons import assumed_skeleton
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

from .run.errors import StartupError

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

KEYPOINT_SPEC = "keypoint_spec"  # key in checkpoints, beside "categories"
_PERSON = "person"


def tell_keypoints(
    cfg: CfgNode, model: nn.Module, loaded: Mapping[str, Any], data: Mapping[str, KeypointSpec | None]
) -> KeypointSpec | None:
    """Give a model of keypoints their specification: of the checkpoint, completed by the data, else what is assumed.

    Upstream's models have 17 keypoints of a person. Weights without a specification are taken for such a model if they
    have 17 keypoints, and if they do not name classes of which none is a person.

    Args:
        loaded: content of the checkpoint that the weights come from, or {}.
        data: specification of each data set, by its name.
    Returns: the specification; None for a model without keypoints.
    Raises: StartupError if the checkpoint, the data and the model are of different keypoints, or if mirrored images are
        to be used and it is not known which keypoints change places.
    """
    tell: Callable[[KeypointSpec], None] | None = getattr(model, "use_keypoint_spec", None)
    if not cfg.MODEL.KEYPOINT_ON or tell is None:
        return None
    of_weights, of_data = spec_of_checkpoint(loaded), [spec for spec in data.values() if spec is not None]
    for name, found in data.items():
        if found is not None and of_weights is not None and not of_weights.agrees_with(found):
            raise StartupError(
                f"the weights were trained on {of_weights}, but {name} has {found}: choose other data or other weights"
            )
    known = [spec for spec in (of_weights, *of_data[:1]) if spec is not None]
    known.sort(key=lambda spec: not spec.is_named)
    spec = functools.reduce(merge_specs, known) if known else _assumed(cfg, loaded)
    try:
        tell(spec)
    except ValueError as error:
        raise StartupError(str(error)) from error
    sizes = ViewSize.from_cfg(cfg)
    problems = find_augmentation_problems(model, sizes) if sizes else []
    if problems:
        raise StartupError("\n".join(problems))
    return spec


def spec_of_checkpoint(content: Mapping[str, Any]) -> KeypointSpec | None:
    """The specification in the content of a checkpoint, if there is one. Raises: StartupError if it is damaged."""
    plain = content.get(KEYPOINT_SPEC)
    try:
        return None if plain is None else KeypointSpec.from_plain(plain, "the checkpoint")
    except ValueError as error:
        raise StartupError(str(error)) from error


def spec_of_files(cfg: CfgNode) -> dict[str, KeypointSpec | None]:
    """What the annotation files of the config say, for a checkpoint that says nothing; {} if none can be read."""
    count = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES
    for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN):
        try:
            arguments = dataset_catalog(cfg).get(name)["args"]
            categories = categories_of_file(cfg, name)
            spec = find_spec(categories, arguments["ann_file"], count, arguments.get("keypoints"))
        except (KeyError, TypeError, ValueError):  # the specification is optional
            continue
        if len(spec) == count and spec.is_named:
            return {name: spec}
    return {}


def categories_of_file(cfg: CfgNode, name: str) -> list[Any]:
    """The entries of "categories" in the annotation file of a data set; [] if there is no such file."""
    try:
        with open(dataset_catalog(cfg).get(name)["args"]["ann_file"], encoding="utf-8") as file:
            return list(json.load(file)["categories"])
    except (KeyError, OSError, TypeError, ValueError):
        return []


def _assumed(cfg: CfgNode, loaded: Mapping[str, Any]) -> KeypointSpec:
    count, names = cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES, loaded.get("categories") or {}
    of_persons = not names or any(_PERSON in str(name).split() for name in names.values())
    spec = assumed_skeleton(count) if of_persons else KeypointSpec.unnamed(count)
    if spec.is_named:
        logger.info("neither weights nor data describe the %d keypoints: they are taken for %s", count, spec.source)
    else:
        logger.warning("neither weights nor data describe the %d keypoints: no limbs are drawn", count)
    return spec
