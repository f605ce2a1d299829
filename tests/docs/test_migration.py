"""docs/MIGRATION.md: the config keys that it names exist, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from maskrcnn_benchmark.config import get_cfg
from tests.config.test_defaults import value_of

DOCS = Path(__file__).resolve().parents[2] / "docs"
TEXT = (DOCS / "MIGRATION.md").read_text()
KEY = re.compile(
    r"`((?:MODEL|INPUT|DATASETS|DATALOADER|SOLVER|TEST|CUSTOM)\.[A-Z0-9_.]+|DTYPE|SEED|OUTPUT_DIR|IMPORTS)\b"
)
BARE = re.compile(r"`([A-Z][A-Z0-9_]+)`")


def section(title: str) -> str:
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]


def keys_that_stay(there: str) -> list[str]:
    """Keys of a cell; a name alone is in the section of the key before it."""
    first, *_ = keys = KEY.findall(there)
    return keys + [first.rpartition(".")[0] + "." + name for name in BARE.findall(there) if name not in keys]


def named_keys() -> set[str]:
    names: set[str] = set()
    for title in ("From maskrcnn-benchmark", "From the HRNet fork", "From Detectron2", "From torchvision"):
        for there, here in rows(section(title)):
            names.update(KEY.findall(here))
            if here.startswith("the same") and KEY.search(there):
                names.update(keys_that_stay(there))
    return names


@pytest.mark.parametrize("key", sorted(named_keys()))
def test_keys_exist(key):
    if not key.startswith("CUSTOM."):
        value_of(get_cfg(), key)


def test_enough_keys_are_named():
    assert len(named_keys()) > 80


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, anchor = target.partition("#")
        assert not file or (DOCS / file).is_file(), target
        headings = [
            re.sub(r"[^a-z0-9 -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in TEXT.splitlines()
        ]
        assert file or anchor in headings, target
