"""Weights from a file into a model: by equal names first, then by declared prefix rules, never by guessing.

Whatever a load does not do, its report says: which tensors of the model the file lacks, which of the file nothing took,
and which have another shape. Tensors of another shape are skipped, so a detector of 80 classes starts one of 2.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn


class PrefixRule(NamedTuple):
    """Names in a file that begin with `source` stand for names in the model that begin with `target` instead."""

    source: str
    target: str


PREFIX_RULES = (
    PrefixRule(
        "", "backbone.body."
    ),  # bodies trained on ImageNet: HRNet's own files, timm's, and Caffe2's once renamed
    PrefixRule("conv1.", "backbone.body.stem.conv1."),  # torchvision's ResNets have no module around the stem
    PrefixRule("bn1.", "backbone.body.stem.bn1."),
    PrefixRule(
        "layer4.", "roi_heads.box.feature_extractor.head.layer4."
    ),  # C4 models hold the last stage in their heads
    PrefixRule("layer4.", "roi_heads.mask.feature_extractor.head.layer4."),
    PrefixRule("backbone.", "backbone.body."),  # detectors of the mmdetection family
    PrefixRule("neck.reduction_conv.conv.", "backbone.neck.reduction_conv.0."),
    *(PrefixRule(f"neck.fpn_convs.{level}.conv.", f"backbone.neck.fpn_conv.{level}.") for level in range(5)),
)

_WRAPPER = "module."  # DataParallel's and DistributedDataParallel's
_INCIDENTAL = (".num_batches_tracked", ".eps")  # a norm layer of another kind neither has nor misses them
_MOST_LINES = 10


@dataclass
class LoadReport:
    """What a load did. Names are the model's; those of `unused` are the file's.

    loaded: set from the file. renamed: of these, {model's name: file's name} where they differ.
    missing: not in the file. mis_shaped: name -> (shape in the model, shape in the file); skipped.
    unused: what nothing in the model took.
    """

    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mis_shaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Did every tensor of the model come from the file?"""
        return not self.missing and not self.mis_shaped

    def fresh_parts(self) -> dict[str, int]:
        """The largest modules of which nothing was loaded, and the single tensors beside them -> number of tensors."""
        filled = [name for name in self.loaded if not name.endswith(_INCIDENTAL)]
        touched = {prefix for name in filled for prefix in _prefixes(name)}
        parts: dict[str, int] = {}
        for name in (*self.missing, *self.mis_shaped):
            part = next((prefix for prefix in _prefixes(name) if prefix not in touched), name)
            parts[part] = parts.get(part, 0) + 1
        return parts

    def log(self, logger: logging.Logger, source: str) -> None:
        """Tell it: a line for what was loaded, one for what starts fresh, and more only where something is odd."""
        total = len(self.loaded) + len(self.missing) + len(self.mis_shaped)
        text = f"{source}: {len(self.loaded)} of {total} tensors of the model loaded"
        if self.renamed:
            name, name_in_file = next(iter(self.renamed.items()))
            text += f", {len(self.renamed)} of them under other names ({name_in_file} -> {name}, ...)"
        logger.info("%s", text)
        if not self.complete:
            parts = ", ".join(f"{part} ({count})" for part, count in self.fresh_parts().items())
            logger.warning("parts that start fresh, with their number of tensors: %s", parts)
        for name, (shape, shape_in_file) in _first(self.mis_shaped.items()):
            logger.warning("another shape, skipped: %s is %s here and %s in the file", name, shape, shape_in_file)
        if self.unused:
            names = ", ".join(name for name in self.unused[:_MOST_LINES])
            more = ", ..." if len(self.unused) > _MOST_LINES else ""
            logger.info("%d tensors of the file fit nothing in the model: %s%s", len(self.unused), names, more)


def strip_prefix_if_present(state: Mapping[str, Tensor], prefix: str = _WRAPPER) -> dict[str, Tensor]:
    """Names without the prefix, if all of them have it."""
    if state and all(name.startswith(prefix) for name in state):
        return {name[len(prefix) :]: value for name, value in state.items()}
    return dict(state)


@torch.no_grad()
def load_state_dict(
    model: nn.Module, state: Mapping[str, Tensor], rules: Iterable[PrefixRule] = PREFIX_RULES
) -> LoadReport:
    """Copy the tensors of `state` into the model, as far as names and shapes fit.

    A module may read older names of its own in `_load_from_state_dict`; what it takes counts as loaded. A module with
    the attribute `keeps_buffers` keeps its buffers, and gets the file's, of any shape, to compare them.

    Args:
        state: name -> tensor; DistributedDataParallel's prefix is taken off.
        rules: other names to try for tensors of the file that the model does not know; a rule applies where its target
            is in the model, and several may apply to one tensor.
    """
    state = {name: value for name, value in strip_prefix_if_present(state).items() if isinstance(value, Tensor)}
    own = model.state_dict()
    report = LoadReport()
    sources = _match(state, own, tuple(rules))
    kept = tuple(f"{name}." for name, module in model.named_modules() if getattr(module, "keeps_buffers", False))

    chosen: dict[str, Tensor] = {}
    for name, source in sources.items():
        value = state[source]
        if name not in own:  # an epsilon beside the statistics of a norm
            chosen[name] = value
        elif own[name].shape != value.shape and not name.startswith(kept):
            report.mis_shaped[name] = (tuple(own[name].shape), tuple(value.shape))
        else:
            chosen[name] = value
            if name != source:
                report.renamed[name] = source
    taken = set(sources.values())
    leftovers = {name: value for name, value in state.items() if name not in taken}
    result = model.load_state_dict({**leftovers, **chosen}, strict=False)

    absent = set(result.missing_keys)
    for name in own:
        if name not in chosen and (name in report.mis_shaped or name.endswith(_INCIDENTAL) or name.startswith(kept)):
            continue  # PyTorch's batch norm fills in a count of its own where a file has none
        if name not in absent:
            report.loaded.append(name)
        else:
            report.missing.append(name)
    report.unused = [name for name in result.unexpected_keys if name in leftovers and not name.endswith(_INCIDENTAL)]
    return report


def _match(state: Mapping[str, Tensor], own: Mapping[str, Tensor], rules: tuple[PrefixRule, ...]) -> dict[str, str]:
    """Model's name -> file's name. Equal names win; a tensor of the file that has found its equal goes nowhere else."""
    sources = {name: name for name in state if name in own or _is_epsilon(name, own)}
    for source in state:
        if source in sources:
            continue
        for rule in rules:
            if source.startswith(rule.source):
                target = rule.target + source[len(rule.source) :]
                if target in own or _is_epsilon(target, own):
                    sources.setdefault(target, source)
    return sources


def _is_epsilon(name: str, own: Mapping[str, Tensor]) -> bool:
    """The HRNet fork's files carry an epsilon in every frozen batch norm; the layer reads it, though it keeps none."""
    return name.endswith(".eps") and name[: -len("eps")] + "running_var" in own


def _prefixes(name: str) -> list[str]:
    """a.b.c -> [a, a.b, a.b.c]."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _first(items: Iterable) -> list:
    return [item for _, item in zip(range(_MOST_LINES), items, strict=False)]
