"""Reads the imports of a Python file: statements of every form, and imports by string."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "maskrcnn_benchmark"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))
SCRIPTS = sorted(path for folder in ("tools", "demo", "benchmarks") for path in (ROOT / folder).rglob("*.py"))

_IMPORTING_CALLS = {"import_module", "__import__", "import_file"}  # the first argument names a module


def module_of(path: Path) -> str:
    """tools/x.py -> tools.x; a package's __init__.py -> the package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path) for path in FILES}


@dataclass(frozen=True)
class Import:
    """One import in a file.

    Attributes:
        target: the dotted name of a module or of an object in it; "" if it is known only at run time.
        by_string: an importing call, or a string that is the name of one of the package's modules.
        at_module_level: not inside a function; imports for type checkers count as well.
    """

    target: str
    by_string: bool = False
    at_module_level: bool = True

    @property
    def module(self) -> str:
        """The module of the package that is imported, or the target itself if it is not one of the package's."""
        parent = self.target.rpartition(".")[0]
        return parent if self.target not in MODULES and parent in MODULES else self.target

    @property
    def floor(self) -> str:
        """layers.boxes -> layers; "" outside the package and for the package itself."""
        package, _, below = self.target.partition(".")
        return below.partition(".")[0] if package == PACKAGE else ""


def read_imports(source: str, module: str, *, is_package: bool = False) -> list[Import]:
    """All imports of a file with this text and module name."""
    found: list[Import] = []
    _visit(ast.parse(source), module if is_package else module.rpartition(".")[0], True, found)
    return found


@cache
def imports_of(path: Path) -> list[Import]:
    return read_imports(path.read_text(), module_of(path), is_package=path.name == "__init__.py")


def _visit(node: ast.AST, package: str, at_module_level: bool, found: list[Import]) -> None:
    if isinstance(node, ast.Import):
        found += [Import(alias.name, False, at_module_level) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        base = _base(node, package)
        found += [Import(f"{base}.{alias.name}", False, at_module_level) for alias in node.names]
    elif isinstance(node, ast.Call) and _name(node.func) in _IMPORTING_CALLS and node.args:
        target = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
        if not target or (target.startswith(f"{PACKAGE}.") and target not in MODULES):  # modules are found below
            found.append(Import(target, True, at_module_level))
    elif isinstance(node, ast.Constant) and node.value in MODULES - {PACKAGE}:
        found.append(Import(node.value, True, at_module_level))
    inside = at_module_level and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    for child in ast.iter_child_nodes(node):
        _visit(child, package, inside, found)


def _base(node: ast.ImportFrom, package: str) -> str:
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def import_graph() -> dict[str, set[str]]:
    """Module of the package -> modules of the package that it imports outside of functions."""
    return {module_of(path): set(_imported_modules(path)) for path in FILES}


def _imported_modules(path: Path) -> Iterator[str]:
    for imported in imports_of(path):
        if imported.at_module_level and imported.module in MODULES:
            yield imported.module
