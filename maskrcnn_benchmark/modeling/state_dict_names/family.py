"""What a family of weights is: a project's names, its order of classes, and its conventions.

A family recognises its files by their names, converts them to the names and the row order of this package, and, where
`export` is defined, writes them back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)  # RGB, of pixels from 0 to 255


@dataclass(frozen=True)
class Conventions:
    """What weights assume of the network and of the images. None: not known, or the config decides.

    Attributes:
        norm_eps: epsilon of the frozen batch norms.
        stride_in_1x1: do ResNet bottlenecks stride in the first 1x1 convolution? (MODEL.RESNETS.STRIDE_IN_1X1)
        pixel_order: "RGB" or "BGR".
        pixel_std: pixel values of 0 to 255 are divided by these, channel by channel in the order of `pixel_order`.
        aspect_ratios: number of aspect ratios of the anchors.
    """

    norm_eps: float | None = None
    stride_in_1x1: bool | None = None
    pixel_order: str | None = None
    pixel_std: tuple[float, float, float] | None = None
    aspect_ratios: int = 3


@dataclass
class Converted:
    """Weights under the names of this package, with the rows in the order of this package.

    Attributes:
        weights: name here -> tensor. Names that the family does not know are kept.
        sources: name here -> name in the file, for every tensor of `weights`.
        conventions: those of the file.
        unknown: names in the file that the family does not know.
        ignored: names in the file that hold nothing that the models here need.
        notes: what was converted, for the log.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    conventions: Conventions = Conventions()
    unknown: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str | None, source: str, tensor: Tensor) -> None:
        """Add a tensor of the file; `name` is None if the family does not know it."""
        if name is None:
            self.unknown.append(source)
        self.weights[name or source], self.sources[name or source] = tensor, source


class UnsupportedExportError(ValueError):
    """Weights that a family has no names for. The text says which."""


class WeightFamily:
    """Base class of the entries of `WEIGHT_FAMILIES`.

    Attributes:
        name: as the log says it.
        signature: a pattern that names of this family contain, and those of other families do not.
        conventions: those of the weights that `export` writes.
    """

    name: ClassVar[str]
    conventions: ClassVar[Conventions] = Conventions()
    signature: ClassVar[re.Pattern[str]]

    def recognise(self, state: Mapping[str, Tensor]) -> float:
        """How well do the names fit the family? 0: not at all; 1: all of them are known."""
        if not state or not any(self.signature.search(name) for name in state):
            return 0.0
        return sum(self.knows(name) for name in state) / len(state)

    def knows(self, name: str) -> bool:
        """Does the family have this name?"""
        raise NotImplementedError(f"{type(self).__name__} must define knows")

    def convert(self, state: Mapping[str, Tensor], model: Conventions) -> Converted:
        """Convert the weights of a file.

        Args:
            state: name in the file -> tensor. Not changed; tensors that need no conversion are shared.
            model: conventions of the model that will load the weights.
        """
        raise NotImplementedError(f"{type(self).__name__} must define convert")

    def export(self, state: Mapping[str, Tensor], model: Conventions) -> dict[str, Tensor]:
        """The opposite of `convert`: weights of this package under the names, and in the order, of the family.

        Raises: UnsupportedExportError if the family has no name for one of them.
        """
        raise UnsupportedExportError(f"weights are not written in the format of {self.name}.")


class NameTable:
    """Pairs of module names: in the files of a family, and here. The longest module that is in the table decides.

    A layer with a norm is a Sequential here: `fc` becomes `fc.0`, and `fc.norm` becomes `fc.1`. The table holds only
    {"fc": "here.fc", "fc.norm": "here.fc.1"}; whether it is `here.fc.0` depends on the other names of the file.
    """

    def __init__(self, pairs: Mapping[str, str]) -> None:
        self.to_ours = dict(pairs)
        self.to_theirs = {ours: theirs for theirs, ours in pairs.items()}
        self._with_norm = {ours[: -len(".1")] for ours in pairs.values() if ours[: -len(".1")] in self.to_theirs}

    def ours(self, name: str, state: Mapping[str, object]) -> str | None:
        """The name here of a tensor of the file `state`; None if the table has none."""
        renamed = _rename(name, self.to_ours)
        if renamed is None:
            return None
        module, _, last = renamed.rpartition(".")
        norm = self.to_theirs.get(f"{module}.1") if module in self._with_norm else None
        return f"{module}.0.{last}" if norm is not None and f"{norm}.weight" in state else renamed

    def theirs(self, name: str) -> str | None:
        """The name of a tensor of this package in files of the family; None if the table has none."""
        module, _, last = name.rpartition(".")
        if module.endswith(".0") and module[: -len(".0")] in self._with_norm:
            name = f"{module[: -len('.0')]}.{last}"
        return _rename(name, self.to_theirs)


def _rename(name: str, modules: Mapping[str, str]) -> str | None:
    module = name.rpartition(".")[0]
    while module:
        if module in modules:
            return modules[module] + name[len(module) :]
        module = module.rpartition(".")[0]
    return None
