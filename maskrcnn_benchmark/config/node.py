"""`CfgNode`: the node of yacs with `_BASE_` files, flexible types and helpful messages."""

from __future__ import annotations

import difflib
import logging
import os
from ast import literal_eval
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from yacs.config import CfgNode as YacsNode

from maskrcnn_benchmark.utils.problems import ConfigError
from maskrcnn_benchmark.utils.registry import UnknownNameError

from .plugins import declared_sections, import_modules
from .yaml_files import Setting, flatten, read_config_file

logger = logging.getLogger(__name__)

_ACCEPTED = "__accepted_types__"  # {leaf name: types accepted besides the default's own}
_SINGLE = "__single_values__"  # leaf names whose one value may be written without a sequence around it
_IMPLIED = "__implied_keys__"  # {full key: (full key that it sets too, {value: value there}; None: the same value)}
_PYTHON_SUFFIX = ".py"
IMPORTS, CUSTOM = "IMPORTS", "CUSTOM"  # the user's modules, and the section with the keys that they declare


class UnknownKeyError(ConfigError, UnknownNameError):
    """A key that the tree does not have; also a KeyError, which is what yacs raises."""


class CfgNode(YacsNode):  # type: ignore[misc]  # yacs has no types
    """A section of the config. Attribute access, freezing, cloning and dumping are inherited from yacs.

    A merge checks all settings before it changes any, so a refused file leaves the values as they were. The error
    lists every bad key.
    """

    def __init__(
        self, init_dict: Mapping[str, Any] | None = None, key_list: list[str] | None = None, new_allowed: bool = False
    ) -> None:
        super().__init__(init_dict, key_list, new_allowed)
        self.__dict__[_ACCEPTED] = {}
        self.__dict__[_SINGLE] = set()
        self.__dict__[_IMPLIED] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        if name.startswith("__"):  # copy and pickle ask for these
            raise AttributeError(name)
        raise AttributeError(f"the config has no {name!r} here{_did_you_mean(name, [str(key) for key in self])}")

    # ---- values that need not have the default's type ----

    def also_accept(self, name: str, *types: type) -> None:
        """Also accept values of `types` for the key `name` of this section."""
        self.__dict__[_ACCEPTED][name] = types

    def accept_single(self, *names: str) -> None:
        """Accept one value instead of a sequence for the keys `names` of this section."""
        self.__dict__[_SINGLE].update(names)

    def twin_keys(self, first: str, second: str) -> None:
        """Declare two full keys as names of the same setting: setting one sets the other."""
        self.__dict__[_IMPLIED].update({first: (second, None), second: (first, None)})

    def imply(self, key: str, other: str, values: Mapping[Any, Any]) -> None:
        """Declare that setting the full key `key` to a value in `values` also sets `other`, to `values[value]`."""
        self.__dict__[_IMPLIED][key] = (other, dict(values))

    # ---- merging ----

    def merge_from_file(self, cfg_filename: str | os.PathLike[str], *, lenient: bool = False) -> None:
        """Merge a YAML file with everything that it inherits from, or a Python file that defines `cfg`.

        Raises: ConfigError; with `lenient`, unknown keys are only warned about.
        """
        self.merge_settings(self.read_file(cfg_filename), lenient=lenient)

    def read_file(self, cfg_filename: str | os.PathLike[str]) -> dict[str, Setting]:
        """The settings that `merge_from_file` merges. Raises: ConfigError."""
        if not os.fspath(cfg_filename).endswith(_PYTHON_SUFFIX):
            return read_config_file(cfg_filename)
        with open(cfg_filename, encoding="utf-8") as file:
            return flatten(self.load_cfg(file), os.fspath(cfg_filename))

    def merge_from_other_cfg(self, cfg_other: Mapping[str, Any]) -> None:
        """Merge another tree. Raises: ConfigError."""
        self.merge_settings(flatten(cfg_other, "the config tree that was merged"))

    def merge_from_list(self, cfg_list: Sequence[Any], *, lenient: bool = False) -> None:
        """Merge ["KEY", value, "KEY", value, ...], as left over on a command line.

        Raises: ConfigError; with `lenient`, unknown keys are only warned about.
        """
        self.merge_settings(read_pairs(cfg_list), lenient=lenient)

    def add_declared_sections(self) -> None:
        """Add the sections of CUSTOM that modules have declared since this tree was made, with their defaults."""
        for name, defaults in declared_sections().items():
            if name not in self[CUSTOM]:
                self[CUSTOM][name] = type(self)(dict(defaults))

    def merge_settings(self, settings: Mapping[str, Setting], *, lenient: bool = False) -> None:
        """Merge settings by their full keys; the modules of IMPORTS are imported first, as they declare keys.

        Raises: ConfigError; with `lenient`, unknown keys are only warned about.
        """
        if IMPORTS in self:
            self._import_modules(settings.get(IMPORTS), lenient)
        problems: list[str] = []
        any_unknown = False
        accepted: dict[str, Any] = {}
        for key, setting in settings.items():
            if self.key_is_deprecated(key):
                continue
            if self.key_is_renamed(key):
                self.raise_key_rename_error(key)
            try:
                accepted.update(self._checked(key, setting))
            except UnknownKeyError as error:
                if lenient:
                    logger.warning("ignored: %s", error)
                    continue
                any_unknown = True
                problems.append(str(error))
            except ConfigError as error:
                problems.append(str(error))
        if problems:
            raise (UnknownKeyError if any_unknown else ConfigError)("\n".join(problems))

        for key, value in self._with_implied(accepted).items():
            *sections, name = key.split(".")
            node = self
            for section in sections:
                if section not in node:
                    node[section] = type(self)(new_allowed=True)
                node = node[section]
            node[name] = value

    def _import_modules(self, setting: Setting | None, lenient: bool) -> None:
        if setting is not None:
            names = self._checked(IMPORTS, setting)[IMPORTS]
            try:
                import_modules(names, setting.source)
            except ConfigError as error:
                if not lenient:
                    raise
                logger.warning("ignored: %s", error)
        self.add_declared_sections()

    def _with_implied(self, accepted: dict[str, Any]) -> dict[str, Any]:
        """Add the settings that others imply, unless they are set explicitly."""
        completed = dict(accepted)
        for key, value in accepted.items():
            other, values = self.__dict__[_IMPLIED].get(key, (None, None))
            if other is not None and (values is None or value in values):
                completed.setdefault(other, value if values is None else values[value])
        return completed

    def _checked(self, key: str, setting: Setting) -> dict[str, Any]:
        """Return {key: converted value}, or {} if there is nothing to set. Raises: ConfigError."""
        *sections, name = key.split(".")
        node: Any = self
        for section in sections:
            if not isinstance(node, YacsNode):
                break
            if section not in node and node.is_new_allowed():
                return {key: _decode(setting.value)}
            node = node.get(section)
        if not isinstance(node, YacsNode) or (name not in node and not node.is_new_allowed()):
            known = [leaf for leaf, _ in self._leaves()]
            hint = _did_you_mean(key, known)
            if sections[:1] == [CUSTOM] and "did you mean" not in hint:
                hint = f"; keys of CUSTOM are declared by modules (`declare_custom`), which {IMPORTS} has to name."
            raise UnknownKeyError(f"unknown config key {key} ({setting.source}){hint}")
        if name not in node:
            return {key: _decode(setting.value)}

        default = node[name]
        if isinstance(default, YacsNode):
            if setting.value is None:  # `MODEL:` with nothing below it
                return {}
            raise ConfigError(
                f"{key} ({setting.source}) is a section, with keys such as {key}.{next(iter(default), '...')}; "
                f"got the value {setting.value!r}."
            )
        extra = node.__dict__.get(_ACCEPTED, {}).get(name, ())
        single = name in node.__dict__.get(_SINGLE, ())
        return {key: _coerce(key, setting, default, extra, single)}

    def _leaves(self, prefix: str = "") -> Iterator[tuple[str, Any]]:
        for name, value in self.items():
            if isinstance(value, CfgNode):
                yield from value._leaves(f"{prefix}{name}.")
            else:
                yield f"{prefix}{name}", value


def read_pairs(words: Sequence[Any]) -> dict[str, Setting]:
    """["KEY", value, "KEY", value, ...], as left over on a command line -> settings. Raises: ConfigError."""
    pairs = list(words[1:] if words and words[0] == "--" else words)
    if len(pairs) % 2:
        raise ConfigError(
            f"overrides come in pairs, KEY VALUE; got {len(pairs)} words: {' '.join(map(str, pairs))}. "
            "Put a value that holds spaces into quotes, and a space (not '=') between key and value."
        )
    return {str(key): Setting(value, "the command line") for key, value in zip(pairs[::2], pairs[1::2], strict=True)}


def _decode(value: Any) -> Any:
    """Parse text that is a Python literal, as yacs does: for YAML, (4, 8) and 1e-4 are strings."""
    if not isinstance(value, str):
        return value
    try:
        return literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value


def _coerce(key: str, setting: Setting, default: Any, extra: tuple[type, ...], single: bool) -> Any:
    """Convert the value of a setting to the type of `default` or one of `extra`. Raises: ConfigError."""
    value = _decode(setting.value)
    if default is None:
        return value
    types = (type(default), *extra)
    if str in types and isinstance(setting.value, str) and not isinstance(value, str):
        value = setting.value  # OUTPUT_DIR 2024 on a command line is a name, not a number
    if single and not isinstance(value, (list, tuple)) and value is not None:
        value = (value,)

    converted = _convert(value, types)
    if converted is None or not _elements_fit(converted, default):
        names = " or ".join(dict.fromkeys(kind.__name__ for kind in types))
        raise ConfigError(
            f"{key} ({setting.source}) is {value!r}, a {type(value).__name__}; expected {names}, such as {default!r}."
        )
    return converted


def _convert(value: Any, types: tuple[type, ...]) -> Any:
    """Convert `value` to one of `types` if that loses nothing; else return None."""
    if isinstance(value, (list, tuple)):
        kind = type(value) if type(value) in types else next((kind for kind in types if kind in (list, tuple)), None)
        return kind(_as_tuples(entry) for entry in value) if kind is not None else None
    if type(value) in types:
        return value
    if type(value) is int and float in types:
        return float(value)
    if type(value) is float and int in types and value.is_integer():
        return int(value)  # 9e4 iterations
    if value is None:  # `WEIGHT:` without a value
        return next((kind() for kind in types if kind in (str, list, tuple)), None)
    return None


def _as_tuples(value: Any) -> Any:
    """Convert nested sequences to tuples: YAML has only lists, and a saved config must load as an equal one."""
    return tuple(_as_tuples(entry) for entry in value) if isinstance(value, (list, tuple)) else value


def _elements_fit(value: Any, default: Any) -> bool:
    """Return whether the elements are of the same kind (text, bool, number) as the default's, at any nesting."""
    if not isinstance(value, (list, tuple)) or not isinstance(default, (list, tuple)) or not default:
        return True
    kind = _element_kind(default[0])
    return all(_element_kind(element) is kind for element in value)


def _element_kind(element: Any) -> type:
    while isinstance(element, (list, tuple)) and element:
        element = element[0]
    if isinstance(element, (bool, str)):
        return type(element)
    return float if isinstance(element, (int, float)) else object


def _did_you_mean(key: str, known: Sequence[str]) -> str:
    """Return '; did you mean X?' if a known key is similar, in whole or in its last part; else '.'."""
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if not near:
        last = key.rsplit(".", 1)[-1]
        by_last: dict[str, str] = {}
        for candidate in known:
            by_last.setdefault(candidate.rsplit(".", 1)[-1], candidate)
        near = [by_last[name] for name in difflib.get_close_matches(last, list(by_last), n=1, cutoff=0.75)]
    return f"; did you mean {near[0]}?" if near else "."
