"""The catalog of data sets: the class and the files for each name in DATASETS.TRAIN or DATASETS.TEST."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from maskrcnn_benchmark.utils.imports import import_catalog

if TYPE_CHECKING:
    from yacs.config import CfgNode


class Catalog(Protocol):
    """`DatasetCatalog` of `config/paths_catalog.py`, or of a file of your own that PATHS_CATALOG names.

    It may also have `check(names)`, which raises an error that lists everything that is missing on disk.
    """

    def get(self, name: str, /) -> Mapping[str, Any]:
        """{"factory": name in DATASETS, "args": keyword arguments}. Raises: KeyError."""


def dataset_catalog(cfg: CfgNode) -> Catalog:
    """`DatasetCatalog` of the file PATHS_CATALOG, with the data sets that were registered in it so far."""
    catalog: Catalog = import_catalog(cfg.PATHS_CATALOG).DatasetCatalog
    return catalog


def check_names(catalog: Catalog, names: Iterable[str]) -> None:
    """Let the catalog check that these data sets are known and on disk, if it can.

    Raises: the errors of its `check`; for the default catalog KeyError for an unknown name, and FileNotFoundError.
    """
    check = getattr(catalog, "check", None)
    if check is not None:
        check(names)
