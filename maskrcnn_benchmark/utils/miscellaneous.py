"""Output folders, and small files that a run writes into them."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .comm import is_main_process

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.json"


def mkdir(path: str | os.PathLike[str]) -> None:
    """Create a folder and its parents, if they do not exist."""
    os.makedirs(path, exist_ok=True)


def ensure_writable(path: str | os.PathLike[str], named_by: str = "OUTPUT_DIR") -> None:
    """Create the folder and write a file into it, so that a run that cannot save fails at its start.

    Args:
        named_by: the config key with the path, for the message.
    Raises: OSError.
    """
    try:
        mkdir(path)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"0")
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write into {os.fspath(path)!r} ({named_by}): {error.strerror}. "
            f"Set {named_by} to a folder that you may write to, on a disk with free space.",
        ) from error


def save_config(cfg: CfgNode, path: str | os.PathLike[str]) -> None:
    """Write the whole config as YAML. Only the main process writes."""
    if is_main_process():
        with open(path, "w", encoding="utf-8") as file:
            file.write(cfg.dump())


def save_labels(dataset_list: Iterable[Any], output_dir: str | os.PathLike[str]) -> None:
    """Write {category id: name} of all data sets to labels.json. Only the main process writes.

    Args:
        dataset_list: data sets with `categories`, {category id: name}; an empty dictionary gives a warning.
    """
    if not is_main_process():
        return
    names: dict[int, str] = {}
    for dataset in dataset_list:
        names.update(dataset.categories)
        if not dataset.categories:
            logger.warning("%s has no `categories`, so %s lacks their names", type(dataset).__name__, LABELS_FILE)
    if names:
        with open(os.path.join(output_dir, LABELS_FILE), "w", encoding="utf-8") as file:
            json.dump(names, file, indent=2)
