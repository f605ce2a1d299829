"""Folders and the small files that a run leaves in them."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterable
from typing import Any

from .comm import is_main_process

logger = logging.getLogger(__name__)

LABELS_FILE = "labels.json"


def mkdir(path: str | os.PathLike[str]) -> None:
    """Make a folder and those above it; one that exists is fine."""
    os.makedirs(path, exist_ok=True)


def ensure_writable(path: str | os.PathLike[str], named_by: str = "OUTPUT_DIR") -> None:
    """Make the folder and write a file into it, so that a run learns at its start that it cannot save.

    Args:
        named_by: the config key that gave the path, for the message.
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
            f"Give {named_by} a folder that you may write to, on a disk that has room.",
        ) from error


def save_config(cfg: Any, path: str | os.PathLike[str]) -> None:
    """Write the whole config as YAML, in the main process."""
    if is_main_process():
        with open(path, "w", encoding="utf-8") as file:
            file.write(cfg.dump())


def save_labels(dataset_list: Iterable[Any], output_dir: str | os.PathLike[str]) -> None:
    """Write {category id: name} of all datasets to labels.json, in the main process.

    Args:
        dataset_list: each with `categories`, {category id: name}; an empty one gives a warning.
    """
    if not is_main_process():
        return
    names: dict[int, str] = {}
    for dataset in dataset_list:
        names.update(dataset.categories)
        if not dataset.categories:
            logger.warning("%s has no `categories`, so that %s lacks its names", type(dataset).__name__, LABELS_FILE)
    if names:
        with open(os.path.join(output_dir, LABELS_FILE), "w", encoding="utf-8") as file:
            json.dump(names, file, indent=2)
