"""Import a Python file by its path, such as a catalog that a config names."""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType


def import_file(module_name: str, file_path: str | os.PathLike[str], make_importable: bool = False) -> ModuleType:
    """Import the Python file at `file_path`.

    A file that is in `sys.modules` already, under any path or name, is not executed again. So later additions to it
    are kept, such as a dataset registered in a catalog.

    Args:
        module_name: the module's `__name__`.
        make_importable: add the module to `sys.modules`.
    Raises: FileNotFoundError; the errors of the file itself.
    """
    path = os.path.abspath(file_path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no Python file at {os.fspath(file_path)} (wanted as {module_name}).")
    status = os.stat(path)
    for module in list(sys.modules.values()):
        if _is_file(getattr(module, "__file__", None), status):
            return module
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"{os.fspath(file_path)} is no Python file: its name must end in .py.")
    module = importlib.util.module_from_spec(spec)
    if make_importable:
        sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module


def import_catalog(path: str | os.PathLike[str]) -> ModuleType:
    """Import the file of the config key PATHS_CATALOG, which has `DatasetCatalog` and, for weights, `ModelCatalog`."""
    return import_file("paths_catalog", path)


def _is_file(path: object, status: os.stat_result) -> bool:
    try:
        return isinstance(path, str) and os.path.samestat(os.stat(path), status)
    except OSError:  # modules inside archives, and files that are gone
        return False
