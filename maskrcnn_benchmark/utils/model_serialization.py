"""Load weights into a model: by equal names first, then by declared prefix rules, never by guessing.

A report lists the tensors that were not loaded: missing in the file or in the model, or of a different shape. They are
skipped, so that a detector of 80 classes can start one of 2.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")

_WRAPPER = "module."  # prefix that DataParallel and DistributedDataParallel add
_WRAPPERS = (_WRAPPER, "_orig_mod.", "model.", "state_dict.", "ema.")  # what `strip_wrappers` removes
_LOSS = "loss."  # HRNet's segmentation files hold the model and its loss as one module
_COUNTER = ".num_batches_tracked"  # of PyTorch's batch norm; other norms have none, and no result depends on it
_VARIANCE = ".running_var"
_MAX_LISTED = 10  # names or lines in a log message


class PrefixRule(NamedTuple):
    """Replaces the prefix `source` of names in a file by `target`, the prefix in the model."""

    source: str
    target: str


@dataclass(frozen=True)
class NameRules:
    """How names in files may differ from names in the model.

    Attributes:
        prefixes: tried for names that the model does not have; each rule whose target the model has applies.
        inner: rules for a part in the middle of a name, tried after the prefixes.
        ignored: endings of names in files that are not reported if the model does not read them.
    """

    prefixes: tuple[PrefixRule, ...] = ()
    inner: tuple[PrefixRule, ...] = ()
    ignored: tuple[str, ...] = ()


NO_RULES = NameRules()


@dataclass
class LoadReport:
    """What a load did. Names are the model's, except in `unused`.

    Attributes:
        loaded: set from the file.
        renamed: {name in the model: name in the file} of the loaded tensors whose names differ.
        missing: not in the file.
        mis_shaped: {name: (shape in the model, shape in the file)}; these tensors were skipped.
        unused: names in the file that the model did not read.
        statistics_unused: norms of the model without running statistics, which got weights of batch norms.
        statistics_missing: batch norms of the model that got weights, but no running statistics.
        family: which project's file it is; "" if it is not known, None if it was not determined.
        notes: what was converted.
        warnings: what the user should know.
    """

    loaded: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    mis_shaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    statistics_unused: list[str] = field(default_factory=list)
    statistics_missing: list[str] = field(default_factory=list)
    family: str | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Did every tensor of the model come from the file?"""
        return not self.missing and not self.mis_shaped

    def fresh_parts(self) -> dict[str, int]:
        """{name: number of tensors} of the largest modules without any loaded tensor, and of single tensors."""
        touched = {prefix for name in self.loaded if not name.endswith(_COUNTER) for prefix in _prefixes(name)}
        parts: dict[str, int] = {}
        for name in (*self.missing, *self.mis_shaped):
            part = next((prefix for prefix in _prefixes(name) if prefix not in touched), name)
            parts[part] = parts.get(part, 0) + 1
        return parts

    def use_names_of_file(self, sources: Mapping[str, str]) -> None:
        """Use names of the file where tensors had been renamed before they were loaded.

        Args:
            sources: name that was loaded -> name in the file.
        """
        for name in self.loaded:
            given = self.renamed.get(name, name)
            source = sources.get(given, given)
            if source != name:
                self.renamed[name] = source
        self.unused = [sources.get(name, name) for name in self.unused]

    def log(self, logger: logging.Logger, source: str) -> None:
        """Log one line for what was loaded, one for what keeps its initial values, and more only for what is odd."""
        if self.family is not None:
            logger.info("%s: %s", source, f"weights of {self.family}" if self.family else "weights of no known family")
        for note in self.notes:
            logger.info("%s: %s", source, note)
        for warning in self.warnings:
            logger.warning("%s: %s", source, warning)
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
            logger.warning("different shape, skipped: %s is %s here and %s in the file", name, shape, shape_in_file)
        if self.unused:
            more = ", ..." if len(self.unused) > _MAX_LISTED else ""
            names = ", ".join(_first(self.unused)) + more
            logger.info("%d tensors of the file fit nothing in the model: %s", len(self.unused), names)


def strip_prefix_if_present(state: Mapping[str, T], prefix: str = _WRAPPER) -> dict[str, T]:
    """Remove the prefix from all names, if all of them have it."""
    if state and all(name.startswith(prefix) for name in state):
        return {name[len(prefix) :]: value for name, value in state.items()}
    return dict(state)


def strip_wrappers(state: Mapping[str, T]) -> dict[str, T]:
    """Remove the prefixes that training scripts add to all names except the names of their losses."""
    names = [name for name in state if not name.startswith(_LOSS)]
    prefix = next((prefix for prefix in _WRAPPERS if names and all(name.startswith(prefix) for name in names)), None)
    if prefix is None:
        return dict(state)
    return strip_wrappers({name.removeprefix(prefix): state[name] for name in names})


@torch.no_grad()
def load_weights(model: nn.Module, state: Mapping[str, Tensor], rules: NameRules = NO_RULES) -> LoadReport:
    """Copy the tensors of `state` into the model, as far as names and shapes fit.

    A module may read other names than its own in `_load_from_state_dict`, such as names in older files. It gets every
    tensor whose name, before or after a rule, lies directly below the module's; what it takes counts as used.
    A module with the attribute `keeps_buffers` keeps its buffers. It gets the buffers of the file, of any shape, and
    may compare them.

    Args:
        state: name -> tensor. The prefix of DistributedDataParallel is removed; entries without a tensor are skipped.
        rules: how names in the file may differ from the model's.
    """
    state = {name: value for name, value in strip_prefix_if_present(state).items() if isinstance(value, Tensor)}
    own = model.state_dict()
    sources = _match(state, own, {name for name, _ in model.named_modules()}, rules)
    kept = tuple(f"{name}." for name, module in model.named_modules() if getattr(module, "keeps_buffers", False))
    report = LoadReport()
    for name, source in sources.items():
        if name in own and own[name].shape != state[source].shape and not name.startswith(kept):
            report.mis_shaped[name] = (tuple(own[name].shape), tuple(state[source].shape))
    given = {name: state[source] for name, source in sources.items() if name not in report.mis_shaped}
    result = model.load_state_dict(given, strict=False)

    missing, unexpected = set(result.missing_keys), set(result.unexpected_keys)
    for name in own:
        if name not in given and (name in report.mis_shaped or name.endswith(_COUNTER) or name.startswith(kept)):
            continue  # already reported, or not needed in the file
        if name in missing:
            report.missing.append(name)
            continue
        report.loaded.append(name)
        if sources.get(name, name) != name:
            report.renamed[name] = sources[name]
    report.statistics_unused = _norms_without_statistics(unexpected, own, model)
    with_weight = {name.removesuffix(".weight") for name in report.loaded if name.endswith(".weight")}
    without = [name.removesuffix(_VARIANCE) for name in report.missing if name.endswith(_VARIANCE)]
    report.statistics_missing = [norm for norm in without if norm in with_weight]
    used = {source for name, source in sources.items() if name not in unexpected}
    report.unused = [name for name in state if name not in used and not name.endswith((_COUNTER, *rules.ignored))]
    return report


def _norms_without_statistics(unexpected: Collection[str], own: Mapping[str, Tensor], model: nn.Module) -> list[str]:
    """Modules for which the file has a running variance, but which do not have one."""
    norms = (name.removesuffix(_VARIANCE) for name in unexpected if name.endswith(_VARIANCE))
    with_affine = {name for name in norms if f"{name}.weight" in own}
    return [name for name, _ in model.named_modules() if name in with_affine]


def _match(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], modules: Collection[str], rules: NameRules
) -> dict[str, str]:
    """Name in the model -> name in the file. No rule applies to a name that the model has."""
    sources = {name: name for name in state if name in own}
    for source in state:
        if source not in sources:
            for target in _targets(source, own, modules, rules):
                sources.setdefault(target, source)
    return sources


def _targets(source: str, own: Mapping[str, Tensor], modules: Collection[str], rules: NameRules) -> list[str]:
    """Names in the model for a name in the file that the model does not have."""
    renamed = [rule.target + source[len(rule.source) :] for rule in rules.prefixes if source.startswith(rule.source)]
    for rule in rules.inner:
        renamed += [name.replace(rule.source, rule.target) for name in (source, *renamed) if rule.source in name]
    known = [name for name in renamed if name in own]
    if known:
        return known
    for candidates in ([source], renamed):
        in_a_module = [name for name in candidates if "." in name and name.rpartition(".")[0] in modules]
        if in_a_module:
            return in_a_module
    return [source]


def _prefixes(name: str) -> list[str]:
    """a.b.c -> [a, a.b, a.b.c]."""
    parts = name.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))]


def _first(items: Iterable[T]) -> list[T]:
    return list(islice(items, _MAX_LISTED))
