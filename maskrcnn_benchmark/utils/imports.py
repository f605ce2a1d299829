"""A Python file by its path: how a config names a catalog of the user's own."""

from __future__ import annotations

import importlib.util
import os
import sys
from types import ModuleType


def import_file(module_name: str, file_path: str | os.PathLike[str], make_importable: bool = False) -> ModuleType:
    """The Python file at `file_path` as a module.

    A file that some import has already brought into `sys.modules` is not run a second time, so that what was added to
    it since (a dataset registered in the catalog, say) is there.

    Args:
        module_name: its `__name__`.
        make_importable: let later `import module_name` find it.
    Raises: FileNotFoundError; whatever the file raises.
    """
    path = os.path.abspath(file_path)
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == path:
            return module
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None or not os.path.isfile(path):
        raise FileNotFoundError(f"no Python file at {os.fspath(file_path)} (wanted as {module_name}).")
    module = importlib.util.module_from_spec(spec)
    if make_importable:
        sys.modules[module_name] = module
    spec.loader.exec_module(module)
    return module
