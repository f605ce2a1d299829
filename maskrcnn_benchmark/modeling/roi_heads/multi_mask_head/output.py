"""The masks of MODEL.ROI_MULTI_MASK_HEAD as kinds of output, one for each name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind, settings_from_cfg
from maskrcnn_benchmark.modeling.roi_heads.multi_mask_head.roi_multi_mask_predictors import maps_per_mask
from maskrcnn_benchmark.structures.fields import MASK, mask_fields
from maskrcnn_benchmark.utils.problems import check_range, config_problem

if TYPE_CHECKING:
    from yacs.config import CfgNode

SECTION = "ROI_MULTI_MASK_HEAD"
KEY = f"MODEL.{SECTION}"


def mask_kinds(cfg: CfgNode) -> list[MaskKind]:
    """A kind of output for each of MASKS, in their order; the first also stands for the plain mask if that is asked."""
    node, maps = cfg.MODEL[SECTION], maps_per_mask(cfg)
    names = _checked_names(node.MASKS)
    weights = _checked_weights(cfg, len(names))
    settings = settings_from_cfg(cfg, SECTION)
    return [
        MaskKind(
            maps,
            fields=mask_fields(name),
            as_mask=position == 0 and node.FIRST_IS_MASK and not cfg.MODEL.MASK_ON,
            first_map=position * maps,
            loss_weight=weight,
            **settings,
        )
        for position, (name, weight) in enumerate(zip(names, weights, strict=True))
    ]


def inside_pairs(cfg: CfgNode) -> list[tuple[int, int]]:
    """INSIDE as positions in MASKS: (inner, outer)."""
    node = cfg.MODEL[SECTION]
    check_range(f"{KEY}.LOSS_WEIGHT_INSIDE", node.LOSS_WEIGHT_INSIDE, 0)
    if node.LOSS_WEIGHT_INSIDE > 0 and not node.INSIDE:
        config_problem(
            f"{KEY}.LOSS_WEIGHT_INSIDE is {node.LOSS_WEIGHT_INSIDE}, but INSIDE is empty; name the masks that lie "
            "inside others, such as (('visible', 'amodal'),), or set the weight to 0."
        )
    pairs, names = [], list(node.MASKS)
    for pair in node.INSIDE:
        if isinstance(pair, str) or len(pair) != 2:
            config_problem(
                f"an entry of {KEY}.INSIDE is {pair!r}; expected (inner mask, outer mask). One entry is written with a "
                "comma: (('visible', 'amodal'),)."
            )
            continue
        unknown = [name for name in pair if name not in names]
        if unknown or pair[0] == pair[1]:
            wrong = f"{unknown[0]!r}, which is not in MASKS" if unknown else f"{pair[0]!r} twice"
            config_problem(
                f"{KEY}.INSIDE has {tuple(pair)!r} with {wrong}; expected two of {', '.join(map(repr, names))}."
            )
            continue
        pairs.append((names.index(pair[0]), names.index(pair[1])))
    return pairs


def _checked_names(names: Sequence[str]) -> list[str]:
    """MASKS without the names that cannot be used, each of which is reported."""
    if isinstance(names, str) or not names:
        config_problem(
            f"{KEY}.MASKS is {names!r}; expected one or more names, such as ('visible', 'amodal'). A single one is "
            "written with a comma: ('visible',)."
        )
        return []
    usable: list[str] = []
    for name in names:
        problem = _problem_of_name(name)
        if problem is None and name in usable:
            problem = "it is there twice; every mask has a name of its own."
        if problem is not None:
            config_problem(f"{KEY}.MASKS has {name!r}: {problem}")
        else:
            usable.append(name)
    return usable


def _problem_of_name(name: object) -> str | None:
    if name == MASK:
        return "that is the name of the mask head's only mask; choose another."
    if not isinstance(name, str) or not name:
        return "a name is a text that is not empty."
    try:
        mask_fields(name)
    except ValueError as error:
        return str(error)
    return None


def _checked_weights(cfg: CfgNode, count: int) -> list[float]:
    weights = cfg.MODEL[SECTION].LOSS_WEIGHTS
    if weights and len(weights) != len(cfg.MODEL[SECTION].MASKS):
        config_problem(
            f"{KEY}.LOSS_WEIGHTS has {len(weights)} numbers, MASKS {len(cfg.MODEL[SECTION].MASKS)} names; expected a "
            "number for each, or () for 1 each."
        )
    for weight in weights:
        check_range(f"a number of {KEY}.LOSS_WEIGHTS", weight, 0)
    return list(weights) if len(weights) == count else [1.0] * count
