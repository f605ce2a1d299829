"""Imports point down: this reads every import of the package, also those inside functions."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "maskrcnn_benchmark"
# What each layer may import besides itself. `config` is handed over as a `cfg` and imported by the entry points alone.
ALLOWED = {
    "config": {"utils"},
    "csrc": set(),
    "utils": set(),
    "layers": {"utils"},
    "structures": {"layers", "utils"},
    "drawing": {"structures", "layers", "utils"},
    "modeling": {"drawing", "structures", "layers", "utils"},
    "data": {"drawing", "structures", "layers", "utils"},
    "solver": {"drawing", "structures", "layers", "utils"},
    "engine": {"modeling", "data", "solver", "drawing", "structures", "layers", "utils", "config"},
    "reporting": {"engine", "modeling", "data", "solver", "drawing", "structures", "layers", "utils", "config"},
    "streams": {"engine", "modeling", "data", "solver", "drawing", "structures", "layers", "utils", "config"},
}
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))


def imported_layers(path: Path) -> set[str]:
    """Layers of the package that a file imports, absolutely or relatively."""
    module = path.relative_to(ROOT).with_suffix("").parts
    package = module[:-1]
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += node.module.split(".") if node.module else []
            names += [base] if len(base) > 1 or base[:1] != [PACKAGE] else [[*base, alias.name] for alias in node.names]
    return {name[1] for name in names if name[0] == PACKAGE and len(name) > 1 and name[1] in ALLOWED}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / PACKAGE)))
def test_imports_point_down(path):
    parts = path.relative_to(ROOT / PACKAGE).parts
    if parts == ("compat.py",):  # lies above all others
        return
    if len(parts) == 1:
        assert not imported_layers(path), f"{path.name} is imported first of all and must import no layer"
        return
    layer = parts[0]
    assert layer in ALLOWED, f"{layer} is a new layer: say here what it may import"
    forbidden = imported_layers(path) - ALLOWED[layer] - {layer}
    assert not forbidden, f"{path} imports {sorted(forbidden)}, which do not lie below {layer}"


def test_the_reader_sees_imports_of_every_form(tmp_path):
    folder = ROOT / PACKAGE / "layers"
    sources = {
        "from maskrcnn_benchmark.engine import trainer": {"engine"},
        "from maskrcnn_benchmark import solver": {"solver"},
        "import maskrcnn_benchmark.data.build": {"data"},
        "from ..modeling import matcher": {"modeling"},
        "from .boxes import box_sizes": {"layers"},
        "def f():\n    from ..data.build import x": {"data"},
    }
    for source, expected in sources.items():
        probe = folder / "imaginary.py"

        class Probe(type(probe)):
            def read_text(self, source=source):  # the file need not exist to be read
                return source

        assert imported_layers(Probe(probe)) == expected, source
