"""What an ablation compares: variants of a config, read from a YAML file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from maskrcnn_benchmark.config.yaml_files import flatten
from maskrcnn_benchmark.engine.run import StartupError

Metric = tuple[str, str]  # task and metric in coco_results.json, such as ("segm", "AP")
EXAMPLE = "segm AP"


@dataclass(frozen=True)
class Variant:
    """A config that differs from the others of an ablation in some keys.

    Attributes:
        settings: config keys and values: KEY, VALUE, KEY, VALUE, ...
        weights_of: variant whose weights are tested; "" for a variant that is trained.
        metrics: column of the table -> metric, for columns that show another metric than `Ablation.metrics` says.
        refine_cost_of: variant whose refine head costs as much. The ablation then chooses
            MODEL.ROI_REFINE_HEAD.CONV_DIM; "" to keep the config's.
    """

    settings: tuple[Any, ...] = ()
    weights_of: str = ""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    refine_cost_of: str = ""


@dataclass(frozen=True)
class Ablation:
    """A comparison of variants.

    Attributes:
        config_file: config that all variants change.
        settings: config keys and values for all variants: KEY, VALUE, ...
        metrics: column of the table -> metric.
        variants: by name, in the order of the table. Gains are those over the first.
    """

    config_file: str
    settings: tuple[Any, ...]
    metrics: Mapping[str, Metric]
    variants: Mapping[str, Variant]

    def check_selection(self, names: Sequence[str]) -> None:
        """Raise StartupError if one is unknown, or tests the weights of one that is missing."""
        if unknown := [name for name in names if name not in self.variants]:
            raise StartupError(
                f"there is no variant {', '.join(map(repr, unknown))}; expected some of {','.join(self.variants)}."
            )
        for name in names:
            trained = self.variants[name].weights_of
            if trained and trained not in names:
                raise StartupError(f"{name} tests the weights of {trained}, which is not among the variants to run.")


def read_ablation(path: str | os.PathLike[str]) -> Ablation:
    """Read a file of variants, see CONTRIBUTING.md.

    Raises: StartupError for a file that is not such a YAML file; OSError.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StartupError(f"{path} is not valid YAML: {error}") from error
    content = _mapping(content, str(path), ("config", "common", "metrics", "variants"))
    config_file, variants = content.get("config"), content.get("variants")
    if not isinstance(config_file, str) or not isinstance(variants, dict) or not variants:
        raise StartupError(f"{path}: an ablation needs `config`, the path of a config, and `variants` by name.")
    ablation = Ablation(
        config_file=str(path.parent / config_file),
        settings=_settings(content.get("common"), f"{path}, common"),
        metrics=_metrics(content.get("metrics"), f"{path}, metrics"),
        variants={str(name): _variant(entry, f"{path}, variant {name}") for name, entry in variants.items()},
    )
    if not ablation.metrics:
        raise StartupError(f"{path}: an ablation needs `metrics`: column of the table -> task and metric ({EXAMPLE}).")
    _check_references(ablation, path)
    return ablation


def _variant(entry: Any, where: str) -> Variant:
    entry = _mapping(entry, where, ("set", "weights_of", "metrics", "refine_cost_of"))
    return Variant(
        settings=_settings(entry.get("set"), where),
        weights_of=str(entry.get("weights_of", "")),
        metrics=_metrics(entry.get("metrics"), where),
        refine_cost_of=str(entry.get("refine_cost_of", "")),
    )


def _settings(tree: Any, where: str) -> tuple[Any, ...]:
    """Sections, or keys with dots, as in config files -> KEY, VALUE, ..."""
    settings = flatten(_mapping(tree, where), where)
    return tuple(word for key, setting in settings.items() for word in (key, setting.value))


def _metrics(entries: Any, where: str) -> dict[str, Metric]:
    metrics = {}
    for column, text in _mapping(entries, where).items():
        task, _, metric = str(text).partition(" ")
        if not task or not metric:
            raise StartupError(f"{where}: {column!r} is {text!r}; expected a task and its metric, such as {EXAMPLE}.")
        metrics[str(column)] = (task, metric)
    return metrics


def _mapping(value: Any, where: str, allowed: tuple[str, ...] = ()) -> dict[str, Any]:
    """The value; {} for an empty one. Raises: StartupError for another type, and for a key that is not allowed."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise StartupError(f"{where}: got {value!r}; expected keys with values.")
    if allowed and (unknown := [key for key in value if key not in allowed]):
        raise StartupError(
            f"{where}: unknown {', '.join(map(repr, unknown))}; expected some of {', '.join(allowed)}. "
            "The config keys of a variant are in its `set`."
        )
    return value


def _check_references(ablation: Ablation, path: Path) -> None:
    for name, variant in ablation.variants.items():
        for other in filter(None, (variant.weights_of, variant.refine_cost_of)):
            if other == name or other not in ablation.variants:
                raise StartupError(f"{path}: variant {name} refers to {other!r}, which is not another variant.")
        trained = ablation.variants.get(variant.weights_of)
        if trained is not None and trained.weights_of:
            raise StartupError(
                f"{path}: variant {name} tests the weights of {variant.weights_of}, which has no weights of its own. "
                f"Write weights_of: {trained.weights_of}."
            )
        if unknown := variant.metrics.keys() - ablation.metrics.keys():
            raise StartupError(
                f"{path}: variant {name} has metrics for the columns {', '.join(sorted(unknown))}; "
                f"the columns are {', '.join(ablation.metrics)}."
            )
