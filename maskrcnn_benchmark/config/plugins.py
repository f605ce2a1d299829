"""A user's own modules (`IMPORTS`) and the config keys that they declare (`CUSTOM`)."""

from __future__ import annotations

import copy
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from maskrcnn_benchmark.utils.problems import ConfigError

_declared: dict[str, Mapping[str, Any]] = {}


def declare_custom(section: str, defaults: Mapping[str, Any]) -> None:
    """Add the section CUSTOM.<section> to every config that is made or loaded from now on.

    Call it in a module that the config names in IMPORTS. A config file, or the command line, can then set these keys;
    unknown names and wrong types are refused as for any other key.

        declare_custom("AGE_HEAD", {"LOSS_WEIGHT": 1.0, "CONV_LAYERS": (256, 256)})
        weight = cfg.CUSTOM.AGE_HEAD.LOSS_WEIGHT

    Args:
        section: an identifier, by convention in capitals.
        defaults: {key: default value}; a value may be a mapping with further keys. The type of a default is the
            type of the key.
    Raises: ValueError for a name that is not an identifier, or a section that was declared with different defaults.
    """
    if not section.isidentifier():
        raise ValueError(f"a section of CUSTOM is named {section!r}; expected an identifier such as 'AGE_HEAD'.")
    if section in _declared and _declared[section] != defaults:
        raise ValueError(
            f"CUSTOM.{section} is declared already, with the defaults {dict(_declared[section])}; "
            f"give the section with {dict(defaults)} a different name."
        )
    _declared[section] = copy.deepcopy(defaults)


def declared_sections() -> dict[str, Mapping[str, Any]]:
    """{section of CUSTOM: its defaults}, as copies."""
    return copy.deepcopy(_declared)


def import_modules(names: Sequence[str], source: str) -> None:
    """Import the modules that IMPORTS names. The working directory is searched too, after the installed packages.

    This runs the code of these modules: load only config files that you trust as you trust a program.

    Args:
        names: dotted names, such as "my_project.heads".
        source: where IMPORTS was set, for messages.
    Raises: ConfigError for a module that cannot be found, or that imports something that cannot be found. Other
        errors of a module are not caught.
    """
    folder = os.getcwd()
    if names and folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)
    for name in names:
        if not isinstance(name, str):
            raise ConfigError(
                f"IMPORTS ({source}) has {name!r}; expected names of modules, such as 'my_project.heads'."
            )
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"IMPORTS ({source}) names {name!r}, which cannot be imported: {error}. "
                f"Install it, or start the program in the folder that holds it (this one is {folder})."
            ) from error
