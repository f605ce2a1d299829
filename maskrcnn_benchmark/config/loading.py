"""Load a config from a file and command-line overrides, and check it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .checks import check_config
from .defaults import get_cfg
from .node import IMPORTS, CfgNode, read_pairs


def load_config(
    config_file: str | os.PathLike[str] | None = None,
    opts: Sequence[Any] = (),
    *,
    lenient: bool = False,
    checks: Sequence[Callable[[CfgNode], Iterable[str]]] = (),
) -> CfgNode:
    """Defaults, then the file (with its `_BASE_` files), then the overrides.

    The modules of IMPORTS are imported first, so this runs their code: load only files that you trust.

    Args:
        config_file: YAML; None or "" for the defaults only.
        opts: KEY, VALUE, KEY, VALUE, ... as left over on a command line.
        lenient: warn about unknown keys instead of refusing them, for files of other forks.
        checks: additional checks for `check_config`; all problems are reported together.
    Returns: a tree that is not frozen.
    Raises: ConfigError, with one line per bad key or impossible combination.
    """
    cfg = get_cfg()
    overrides = read_pairs(opts)
    if config_file:
        settings = cfg.read_file(config_file)
        if IMPORTS in overrides:  # before the file is merged: the modules declare keys that the file may set
            settings[IMPORTS] = overrides[IMPORTS]
        cfg.merge_settings(settings, lenient=lenient)
    cfg.merge_settings(overrides, lenient=lenient)
    check_config(cfg, *checks)
    return cfg
