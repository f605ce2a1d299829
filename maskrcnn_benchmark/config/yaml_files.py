"""Read YAML config files with `_BASE_` inheritance into flat settings that know their file and line."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml

from maskrcnn_benchmark.utils.problems import ConfigError

BASE_KEY = "_BASE_"  # a path or a list of paths, each relative to the file that names it; later ones win


class Setting(NamedTuple):
    """A value to be merged into the config tree.

    Attributes:
        value: as parsed from YAML, or as given by the caller (a string if from the command line).
        source: where it was written, for messages: "configs/a.yaml, line 12" or "the command line".
    """

    value: Any
    source: str


def flatten(tree: Mapping[str, Any], source: str, prefix: str = "") -> dict[str, Setting]:
    """Turn a nested mapping into {"MODEL.RPN.NMS_THRESH": Setting, ...}. Empty sections are dropped."""
    settings: dict[str, Setting] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            settings.update(flatten(value, source, f"{key}."))
        else:
            settings[key] = Setting(value, source)
    return settings


def read_config_file(path: str | os.PathLike[str]) -> dict[str, Setting]:
    """Read a YAML file and all files that it inherits from; the file overrides its bases.

    Raises: ConfigError for a missing file, text that is not YAML, a key written twice, or `_BASE_` files in a circle.
    """
    return _read(os.fspath(path), chain=())


def _read(path: str, chain: tuple[str, ...]) -> dict[str, Setting]:
    identity = os.path.realpath(path)
    if identity in (os.path.realpath(parent) for parent in chain):
        raise ConfigError(f"{BASE_KEY} goes in a circle: {' -> '.join((*chain, path))}. Remove one of the links.")
    tree, lines = _parse(path, chain)

    bases = tree.pop(BASE_KEY, None) or ()
    if isinstance(bases, str):
        bases = (bases,)
    if not isinstance(bases, (list, tuple)) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: {BASE_KEY} is {bases!r}; expected the path of a YAML file or a list of such paths.")

    settings: dict[str, Setting] = {}
    for base in bases:
        base_path = os.path.join(os.path.dirname(path), os.path.expanduser(base))
        settings.update(_read(os.path.normpath(base_path), (*chain, path)))
    for key, setting in flatten(tree, path).items():
        settings[key] = Setting(setting.value, f"{path}, line {lines[key]}" if key in lines else path)
    return settings


def _parse(path: str, chain: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, int]]:
    """Parse one file. Returns: its tree, and {key: line}, counted from 1."""
    try:
        with open(path, encoding="utf-8") as file:
            loader = yaml.SafeLoader(file)
            try:
                root = loader.get_single_node()
                lines: dict[str, int] = {}
                if root is not None:
                    _collect_lines(root, path, "", lines)
                tree = loader.construct_document(root) if root is not None else {}
            finally:
                loader.dispose()
    except OSError as error:
        named_by = f" ({BASE_KEY} of {chain[-1]})" if chain else ""
        raise ConfigError(f"cannot read the config file {path}{named_by}: {error.strerror or error}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds a {type(tree).__name__}; expected sections such as 'MODEL:' at its top level.")
    return tree, lines


def _collect_lines(node: yaml.Node, path: str, prefix: str, lines: dict[str, int]) -> None:
    """Collect the lines of all keys below `node`. Raises: ConfigError for a key written twice, which YAML allows."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key_node, value_node in node.value:
        key, line = f"{prefix}{key_node.value}", key_node.start_mark.line + 1
        if key in lines and not key.endswith("<<"):
            raise ConfigError(f"{path}: {key} is written twice, in lines {lines[key]} and {line}. Keep one of them.")
        lines[key] = line
        _collect_lines(value_node, path, f"{key}.", lines)
