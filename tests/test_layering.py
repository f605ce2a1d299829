"""Imports point down and form no circle: this reads every import of the package, the tools, the demo and benchmarks."""

from graphlib import CycleError, TopologicalSorter

import pytest

from maskrcnn_benchmark import compat
from tests.import_reader import FILES, MODULES, PACKAGE, ROOT, SCRIPTS, Import, import_graph, imports_of, read_imports

# What each floor may import besides itself. Floors below the engine are handed a `cfg` and do not import `config`.
BELOW_MODELS = {"drawing", "structures", "layers", "utils"}
BELOW_ENGINE = {"modeling", "data", "solver", "config", *BELOW_MODELS}
ALLOWED: dict[str, set[str]] = {
    "utils": set(),
    "config": {"utils"},
    "layers": {"_C", "utils"},  # _C is the extension module that csrc is compiled to
    "structures": {"layers", "utils"},
    "drawing": {"structures", "layers", "utils"},
    "modeling": BELOW_MODELS,  # modeling, data and solver do not import each other
    "data": BELOW_MODELS,
    "solver": BELOW_MODELS,
    "engine": BELOW_ENGINE,
    "reporting": {"engine", *BELOW_ENGINE},
    "streams": {"engine", *BELOW_ENGINE},
    "__init__": {"compat"},
    "compat": {"reporting", "streams", "engine", *BELOW_ENGINE},
    "compat_parts": BELOW_ENGINE,
}
IMPORTS_BY_STRING = {
    "compat": "upstream's import paths are looked up when they are used",
    "config.plugins": "the user's own modules, which the config names",
    "layers._extension": "the extension module, which may be missing",
}


def floor_of(module: str) -> str:
    return module.partition(".")[2].partition(".")[0] or "__init__"


def name_of(path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_point_down(path):
    floor = floor_of(module_of_file(path))
    assert floor in ALLOWED, f"{floor} is a new floor: say here what it may import"
    floors = {imported.floor for imported in imports_of(path) if imported.floor}
    known = {floor for floor in floors if floor in ALLOWED or floor == "_C"}
    forbidden = known - ALLOWED[floor] - {floor}
    assert not forbidden, f"{path} imports {sorted(forbidden)}, which are not below {floor}"
    scripts = {imported.target for imported in imports_of(path)} & {"tools", "demo", "benchmarks", "tests"}
    assert not scripts, f"{path} imports {sorted(scripts)}, which are not part of the package"


def module_of_file(path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_nothing_is_imported_by_string(path):
    if module_of_file(path).partition(".")[2] in IMPORTS_BY_STRING:
        return
    by_string = [imported.target or "a name known at run time" for imported in imports_of(path) if imported.by_string]
    assert not by_string, f"{path} imports {by_string} by string: import it, or let the caller hand it in"


@pytest.mark.parametrize("path", [*FILES, *SCRIPTS], ids=name_of)
def test_import_paths_of_upstream_are_for_users(path):
    upstream = {f"{PACKAGE}.{module}.{name}" for module, names in compat.NAMES.items() for name in names}
    moved = tuple(f"{PACKAGE}.{module}" for module in compat.MOVED_MODULES)
    for imported in imports_of(path):
        is_upstream = imported.target in upstream and not defines(imported)
        assert not is_upstream and not f"{imported.target}.".startswith(tuple(f"{old}." for old in moved)), (
            f"{path} imports {imported.target}, which exists only for code written for maskrcnn-benchmark (compat.py)"
        )


def defines(imported: Import) -> bool:
    module, _, name = imported.target.rpartition(".")
    return name in vars(__import__(module, fromlist=["_"]))


def test_no_imports_form_a_circle():
    sorter = TopologicalSorter({module: targets - {module} for module, targets in import_graph().items()})
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(f"imports form a circle: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("source", "floor", "by_string"),
    [
        ("from maskrcnn_benchmark.engine import trainer", "engine", False),
        ("from maskrcnn_benchmark import solver", "solver", False),
        ("import maskrcnn_benchmark.data.build", "data", False),
        ("from ..modeling import matcher", "modeling", False),
        ("from .boxes import box_sizes", "layers", False),
        ("from .. import data", "data", False),
        ("def f():\n    from ..data.build import x", "data", False),
        ("import importlib\nimportlib.import_module('maskrcnn_benchmark.solver.build')", "solver", True),
        ("import_module('maskrcnn_benchmark._C')", "_C", True),
        ("__import__('maskrcnn_benchmark.data')", "data", True),
        ("import_file('maskrcnn_benchmark.config.paths_catalog', path)", "config", True),
        ("NAME = 'maskrcnn_benchmark.config.paths_catalog'\nsys.modules.get(NAME)", "config", True),
    ],
)
def test_the_reader_sees_imports_of_every_form(source, floor, by_string):
    found = read_imports(source, f"{PACKAGE}.layers.imaginary")
    assert [(entry.floor, entry.by_string) for entry in found if entry.floor] == [(floor, by_string)]


def test_the_reader_sees_calls_whose_module_is_known_at_run_time_only():
    (found,) = read_imports("importlib.import_module(name)", f"{PACKAGE}.layers.imaginary")
    assert found.by_string and not found.target


def test_the_reader_tells_functions_from_the_module_and_names_from_modules():
    source = (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from maskrcnn_benchmark.layers.boxes import box_sizes\n"
        "def f():\n    from maskrcnn_benchmark.layers import nms\n"
    )
    _, boxes, nms = read_imports(source, f"{PACKAGE}.structures.imaginary")
    assert (boxes.module, boxes.at_module_level) == (f"{PACKAGE}.layers.boxes", True)
    assert (nms.module, nms.at_module_level) == (f"{PACKAGE}.layers.nms", False)
    assert f"{PACKAGE}.layers" in MODULES


def test_the_reader_finds_relative_imports_in_a_package():
    (found,) = read_imports("from .build import x", f"{PACKAGE}.data", is_package=True)
    assert found.module == f"{PACKAGE}.data.build"
