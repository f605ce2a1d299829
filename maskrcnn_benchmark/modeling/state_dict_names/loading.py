"""Load weights of any family: recognise it by its names, convert names and values, copy, and report."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.layers.deformable import DFConv2d
from maskrcnn_benchmark.layers.norm import FrozenBatchNorm2d
from maskrcnn_benchmark.modeling.backbone.blocks import Bottleneck
from maskrcnn_benchmark.modeling.roi_heads.multi_mask_head.multi_mask_head import MultiMaskHead
from maskrcnn_benchmark.utils.model_serialization import (
    LoadReport,
    NameRules,
    PrefixRule,
    load_weights,
    strip_wrappers,
)
from maskrcnn_benchmark.utils.registry import Registry

from .family import Conventions, Converted, WeightFamily

if TYPE_CHECKING:
    from yacs.config import CfgNode

WEIGHT_FAMILIES = Registry()
"""Families of weights by name. An entry is called without arguments and returns a `WeightFamily`."""

_HEADS_WITH_LAST_STAGE = ("box", "mask", "multi_mask")  # C4 models hold the last stage of the body in these heads
_MASK_HEAD = "roi_heads.mask."
_STEMS = ("backbone.body.stem.conv1.weight", "backbone.body.conv1.weight", "stem.conv1.weight", "conv1.weight")
_MOST_OF_A_CLASSIFIER = 8  # tensors of a file that belong to its classifier rather than to the body
_MAX_LISTED = 5  # names in a message

NAME_RULES = NameRules(
    prefixes=(
        # Bodies trained on ImageNet: HRNet's own files, timm's, and Caffe2's after `rename_c2_blobs`.
        PrefixRule("", "backbone.body."),
        # torchvision's ResNets have no module around the stem.
        PrefixRule("conv1.", "backbone.body.stem.conv1."),
        PrefixRule("bn1.", "backbone.body.stem.bn1."),
        *(PrefixRule("layer4.", f"roi_heads.{head}.feature_extractor.head.layer4.") for head in _HEADS_WITH_LAST_STAGE),
    ),
    # In deformable convolution the kernel is one module deeper.
    inner=(PrefixRule(".conv2.", ".conv2.conv."),),
    # Files of the HRNet fork have an epsilon in every frozen batch norm; other norms do not read it.
    ignored=(".eps",),
)


def recognise(state: Mapping[str, Tensor]) -> WeightFamily | None:
    """The family whose names fit best; None if no family recognises them."""
    families: list[WeightFamily] = [build() for build in WEIGHT_FAMILIES.values()]
    scores = [family.recognise(state) for family in families]
    best = max(scores, default=0.0)
    return families[scores.index(best)] if best > 0 else None


def load_state_dict(
    model: nn.Module, state: Mapping[str, Tensor], cfg: CfgNode | None = None, *, pixel_order: str = ""
) -> LoadReport:
    """Copy weights of any known family into a model of this project.

    Args:
        state: name -> tensor, as the file has them.
        cfg: config of the model. It says which images the model gets (INPUT.FORMAT, PIXEL_STD); without it the first
            convolution is not converted.
        pixel_order: "RGB" or "BGR", of the images that the weights were trained with; "" = what their family says.
    Returns: the report, with the family, what was converted, and warnings. Names of unused tensors are the file's.
    """
    if not state.keys() & model.state_dict().keys():
        state = strip_wrappers(state)
    state = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    family = recognise(state)
    own = conventions_of(model, cfg)
    converted = Converted(dict(state)) if family is None else family.convert(state, own)
    if pixel_order:
        converted.conventions = replace(converted.conventions, pixel_order=pixel_order)
    _adapt(converted, own)
    _start_masks_from_mask_head(converted, model)
    report = load_weights(model, converted.weights, NAME_RULES)
    report.use_names_of_file(converted.sources)
    report.family = "" if family is None else family.name
    report.notes += converted.notes
    report.warnings += _warnings_of_norms(report)
    if own.stride_in_1x1 is not None and converted.conventions.stride_in_1x1 is (not own.stride_in_1x1):
        report.warnings.append(_stride_warning(own.stride_in_1x1))
    if family is None and len(report.unused) > _MOST_OF_A_CLASSIFIER and report.missing:
        report.warnings.append(
            f"its names belong to no known family, and it fits only in part: {len(report.unused)} of its tensors have "
            f"no place ({_listed(report.unused)}), {len(report.missing)} of the model's are not in it "
            f"({_listed(report.missing)}). See docs/WEIGHTS.md."
        )
    if family is not None and converted.unknown and report.missing:
        report.warnings.append(
            f"{family.name} has no name like {_listed(converted.unknown)}, and the model needs {len(report.missing)} "
            "tensors that the file does not have: the config describes another architecture. `python "
            "tools/inspect_weights.py FILE` says which config fits."
        )
    return report


def refusal(model: nn.Module, report: LoadReport, least_share: float) -> str | None:
    """Why weights of no known family must not be used; None if they may.

    They have to fit this share of the parameters of the model, or of its body if the rest of the file is small.
    """
    if report.family != "":
        return None
    loaded = {name for name in report.loaded if not name.endswith(".num_batches_tracked")}
    parameters = {name: value.numel() for name, value in model.named_parameters()}
    body = {name: size for name, size in parameters.items() if name.startswith("backbone.body.")}
    share, share_of_body = _share(loaded, parameters), _share(loaded, body)
    is_body = len(report.unused) <= max(_MOST_OF_A_CLASSIFIER, len(loaded) // 10)
    if share >= least_share or (is_body and share_of_body >= least_share):
        return None
    return (
        f"its names belong to no known family ({', '.join(WEIGHT_FAMILIES)}), and only {share:.0%} of the parameters "
        f"of the model were found in it. In the file, without a place: {_listed(report.unused)}. In the model, without "
        f"weights: {_listed([*report.missing, *report.mis_shaped])}. `python tools/inspect_weights.py FILE` shows what "
        "it holds; docs/WEIGHTS.md says how to add a family. MODEL.WEIGHT_LEAST_SHARE 0 loads what fits."
    )


def _share(loaded: Collection[str], sizes: Mapping[str, int]) -> float:
    return sum(size for name, size in sizes.items() if name in loaded) / max(sum(sizes.values()), 1)


def conventions_of(model: nn.Module, cfg: CfgNode | None = None) -> Conventions:
    """What a model assumes, read from its modules, and from the config for the images."""
    own = Conventions()
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d) and own.norm_eps is None:
            own = replace(own, norm_eps=module.eps)
        if isinstance(module, Bottleneck) and own.stride_in_1x1 is None:
            own = replace(own, stride_in_1x1=_strides_in_1x1(module))
    if cfg is not None:
        image_format = cfg.INPUT.FORMAT or ("BGR255" if cfg.INPUT.TO_BGR255 else "RGB")
        top = 1.0 if image_format.endswith("255") else 255.0
        first, second, third = (number * top for number in cfg.INPUT.PIXEL_STD)
        ratios = len(cfg.MODEL.RPN.ASPECT_RATIOS)
        own = replace(own, pixel_order=image_format[:3], pixel_std=(first, second, third), aspect_ratios=ratios)
    return own


def _strides_in_1x1(block: Bottleneck) -> bool | None:
    conv2 = block.conv2.conv if isinstance(block.conv2, DFConv2d) else block.conv2
    strides = block.conv1.stride[0], conv2.stride[0]  # type: ignore[index]
    return None if max(strides) == 1 else strides[0] > 1


def _stride_warning(stride_in_1x1: bool) -> str:
    layers = "3x3" if stride_in_1x1 else "first 1x1"
    return (
        f"MODEL.RESNETS.STRIDE_IN_1X1 is {stride_in_1x1}, but these weights were trained with the stride in the "
        f"{layers} convolutions. This cannot be converted: set STRIDE_IN_1X1 to {not stride_in_1x1}."
    )


# ---- heads ----


def _start_masks_from_mask_head(converted: Converted, model: nn.Module) -> None:
    """Give a multi-mask head the weights of the file's mask head, if the file has none of a multi-mask head.

    Both heads get them if the model has both.
    """
    head = next((module for module in model.modules() if isinstance(module, MultiMaskHead)), None)
    weights, prefix = converted.weights, f"roi_heads.{MultiMaskHead.NAME}."
    given = [name for name in weights if name.startswith(_MASK_HEAD)]
    if head is None or not given or any(name.startswith(prefix) for name in weights):
        return
    has_mask_head = any(name.startswith(_MASK_HEAD) for name in model.state_dict())
    for name in given:
        own_name, value = prefix + name.removeprefix(_MASK_HEAD), weights[name]
        weights[own_name] = head.rows_of_mask_head(value) if ".mask_fcn_logits." in name else value
        converted.sources[own_name] = converted.sources.get(name, name)
        if not has_mask_head:
            del weights[name]
    masks = ", ".join(kind.name for kind in head.kinds)
    converted.notes.append(f"the masks of the multi-mask head ({masks}) each start from the mask head of the file")


# ---- values ----


def _adapt(converted: Converted, own: Conventions) -> None:
    """Convert what depends on conventions in which the file and the model differ."""
    _add_epsilon(converted, own)
    convert_stem(converted, own)


def _add_epsilon(converted: Converted, own: Conventions) -> None:
    """Give frozen norms the epsilon of the file. They add the difference to `running_var`."""
    eps = converted.conventions.norm_eps
    if eps is None or own.norm_eps is None or eps == own.norm_eps:
        return
    variances = [name for name in converted.weights if name.endswith(".running_var")]
    for name in variances:
        module = name.removesuffix("running_var")
        converted.weights.setdefault(f"{module}eps", torch.full_like(converted.weights[name], eps))
    if variances:
        converted.notes.append(
            f"running_var of {len(variances)} frozen batch norms: {eps - own.norm_eps:+g}, because epsilon is {eps:g} "
            f"in the file and {own.norm_eps:g} in the model"
        )


def convert_stem(converted: Converted, own: Conventions) -> None:
    """Make the first convolution read the images of the model."""
    name = next((name for name in _STEMS if name in converted.weights), None)
    theirs = converted.conventions
    if name is None or theirs.pixel_order is None or own.pixel_order is None:
        return
    weight, std = converted.weights[name], theirs.pixel_std
    if weight.dim() != 4 or weight.shape[1] != 3:
        return
    if theirs.pixel_order != own.pixel_order:
        weight, std = weight.flip(1), std and (std[2], std[1], std[0])
        converted.notes.append(
            f"input channels of {name} reversed: {theirs.pixel_order} in the file, {own.pixel_order} in the model "
            "(INPUT.FORMAT, TO_BGR255)"
        )
    if std is not None and own.pixel_std is not None:
        factors = [ours / file for ours, file in zip(own.pixel_std, std, strict=True)]
        if any(abs(factor - 1) > 1e-3 for factor in factors):
            weight = weight * torch.tensor(factors, dtype=weight.dtype)[:, None, None]
            converted.notes.append(
                f"input channels of {name} multiplied by {_numbers(factors)}, because images are divided by "
                f"{_numbers(std)} in the file, by {_numbers(own.pixel_std)} in the model (INPUT.PIXEL_STD)"
            )
    converted.weights[name] = weight


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


# ---- norms ----


def _warnings_of_norms(report: LoadReport) -> list[str]:
    warnings = []
    if report.statistics_unused:
        warnings.append(
            f"weights of batch norms were loaded into {len(report.statistics_unused)} norms without running statistics "
            f"({_listed(report.statistics_unused)}). With group or layer norm the network computes something else than "
            "it was trained for; it has to be trained again. Set MODEL.HRNET.NORM (or MODEL.RESNETS.NORM) to SyncBN or "
            "FrozenBN to use these weights as they are, or start without them."
        )
    if report.statistics_missing:
        warnings.append(
            f"{len(report.statistics_missing)} batch norms got scale and shift, but the file has no running statistics "
            f"for them ({_listed(report.statistics_missing)}). The file probably has group norms: set "
            "MODEL.HRNET.NORM (or MODEL.RESNETS.NORM) to GN."
        )
    return warnings


def _listed(names: list[str]) -> str:
    more = ", ..." if len(names) > _MAX_LISTED else ""
    return ", ".join(islice(names, _MAX_LISTED)) + more
