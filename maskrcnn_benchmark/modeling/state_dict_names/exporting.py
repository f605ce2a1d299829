"""Write weights in the format of another project: names, rows, and the values that its conventions ask for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from maskrcnn_benchmark.layers.norm import fold_epsilon
from maskrcnn_benchmark.utils.model_serialization import strip_wrappers

from .family import Conventions, Converted, UnsupportedExportError, WeightFamily
from .loading import WEIGHT_FAMILIES, convert_stem, recognise

EXPORT_FAMILIES = ("torchvision", "detectron2", "maskrcnn_benchmark")
"""Names in WEIGHT_FAMILIES of the families that can be written."""

_HEAD_OF_C4 = "roi_heads.box.feature_extractor.head."


@dataclass
class Exported:
    """Weights in the format of a family.

    Attributes:
        weights: name in that format -> tensor.
        source: name of the family that the file was taken for.
        conventions: what the weights assume, as far as it is known.
        notes: what was converted.
        left_out: names in the file that are not written.
    """

    weights: dict[str, Tensor]
    source: str
    conventions: Conventions
    notes: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def convert_file(state: Mapping[str, Tensor], to: str, model: Conventions | None = None) -> Exported:
    """Convert the weights of a file to the format of the family `to`.

    Args:
        state: name -> tensor, as the file has them. Tensors that need no conversion are shared with the result.
        to: one of EXPORT_FAMILIES.
        model: conventions of the model that the weights belong to, if its config is known. What a family's files
            always assume is known without it.
    Raises: UnsupportedExportError if the file is of no known family, or if `to` has no name for one of its tensors.
    """
    family = recognise(strip_wrappers(state))
    if family is None:
        raise UnsupportedExportError(
            f"its names belong to no known family ({', '.join(WEIGHT_FAMILIES)}); the first is {next(iter(state), '')}."
        )
    given = model or Conventions()
    converted = family.convert(strip_wrappers(state), given)
    own = _known(converted, given)
    target: WeightFamily = WEIGHT_FAMILIES[to]()
    weights = {_placed(name, converted.weights): tensor for name, tensor in converted.weights.items()}
    for name in converted.unknown:
        weights.pop(name, None)
    if to == "maskrcnn_benchmark" and family.name != target.name:
        _write_epsilon(weights, own)
    elif to != "maskrcnn_benchmark":
        _fold_epsilon(weights, own, target.conventions, converted.notes)
    written = Converted(weights, conventions=own)
    convert_stem(written, target.conventions)
    if target.conventions.pixel_order is not None and own.pixel_order is not None:
        own = replace(own, pixel_order=target.conventions.pixel_order, pixel_std=target.conventions.pixel_std)
    exported = target.export(written.weights, given)
    return Exported(exported, family.name, own, [*converted.notes, *written.notes], converted.unknown)


def _known(converted: Converted, model: Conventions) -> Conventions:
    """What the file says, else what the config of its model says, else what ResNets and HRNets have here."""
    file = converted.conventions
    counts = any(name.endswith(".num_batches_tracked") for name in converted.weights)
    is_hrnet = any(".stage2." in f".{name}" for name in converted.weights)
    eps = next((eps for eps in (file.norm_eps, model.norm_eps) if eps is not None), 1e-5 if counts or is_hrnet else 0.0)
    return Conventions(
        eps,
        file.stride_in_1x1 if file.stride_in_1x1 is not None else model.stride_in_1x1,
        file.pixel_order or model.pixel_order,
        file.pixel_std if file.pixel_order else model.pixel_std,
        model.aspect_ratios,
    )


def _placed(name: str, weights: Mapping[str, Tensor]) -> str:
    """The last stage of a C4 detector belongs to the box head; bodies alone keep their names."""
    is_detector = any(other.startswith("roi_heads.") for other in weights)
    return f"{_HEAD_OF_C4}{name}" if is_detector and name.startswith("layer4.") else name


def _write_epsilon(weights: dict[str, Tensor], own: Conventions) -> None:
    """Keep `running_var` as it is, and say the epsilon beside it, as the HRNet fork does: nothing is rounded."""
    for name in [name for name in weights if name.endswith(".running_var")]:
        if own.norm_eps:
            weights.setdefault(f"{name.removesuffix('running_var')}eps", weights[name].new_full((), own.norm_eps))


def _fold_epsilon(weights: dict[str, Tensor], own: Conventions, target: Conventions, notes: list[str]) -> None:
    """Give `running_var` the value that gives the same output with the epsilon of the target."""
    assert own.norm_eps is not None and target.norm_eps is not None
    changed = 0
    for name in [name for name in weights if name.endswith(".running_var")]:
        variance = weights[name]
        eps = weights.pop(f"{name.removesuffix('running_var')}eps", variance.new_tensor(own.norm_eps))
        weights[name] = fold_epsilon(variance, eps, target.norm_eps)
        changed += not weights[name].equal(variance)
    if changed:
        notes.append(f"running_var of {changed} batch norms was changed for an epsilon of {target.norm_eps:g}")
