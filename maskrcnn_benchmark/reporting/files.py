"""The folder of a report: numbered pictures and one page."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

logger = logging.getLogger(__name__)

PAGE = "report.html"
_NUMBERED = re.compile(r"\d{4}-.*\.png")


class ReportError(RuntimeError):
    """The input of a report is malformed, or its parts do not fit together."""


class ReportFolder:
    """The folder of one report. Removes the numbered pictures of an earlier report and no other files.

    Args:
        path: created if it does not exist.
    Raises: OSError with the name of the folder if it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.pictures = self.path / "pictures"
        self._count = 0
        try:
            self.pictures.mkdir(parents=True, exist_ok=True)
            for entry in self.pictures.iterdir():
                if _NUMBERED.fullmatch(entry.name):
                    entry.unlink()
        except OSError as error:
            text = f"--output {self.path} cannot be written: {error}. Name a folder with write permission"
            raise type(error)(text) from error

    def save_picture(self, picture: NDArray[np.uint8], name: object) -> Path:
        """Write (H, W, 3) uint8 RGB as pictures/<number>-<name>.png; files sort in the order of the report."""
        self._count += 1
        plain = re.sub(r"[^\w.-]+", "_", str(name))
        path = self.pictures / f"{self._count:04d}-{plain}.png"
        Image.fromarray(picture).save(path)
        return path

    def write_page(self, html: str) -> Path:
        """Write report.html atomically: readers never see an incomplete file."""
        path = self.path / PAGE
        partial = path.with_suffix(".partial")
        partial.write_text(html, encoding="utf-8")
        partial.replace(path)
        logger.info("%s: %d pictures, page of %.1f MB", path, self._count, path.stat().st_size / 1e6)
        return path
