"""Where log lines go: the screen and log.txt for the main process, the screen for warnings of the others."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    _TextHandler = logging.StreamHandler[TextIO]
else:  # it takes a type argument at runtime only from Python 3.11 on
    _TextHandler = logging.StreamHandler

LOG_FILE = "log.txt"


class _Screen(_TextHandler):
    """Standard output as it is when a line is written, not when logging was set up: redirections are followed."""

    def __init__(self, level: int) -> None:
        logging.Handler.__init__(self, level)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


def setup_logger(
    name: str, save_dir: str | os.PathLike[str] | None = None, distributed_rank: int = 0, filename: str = LOG_FILE
) -> logging.Logger:
    """Give the logger `name`, and the loggers below it, their handlers; called again, it replaces them.

    Args:
        name: "maskrcnn_benchmark" for everything in the package.
        save_dir: folder of the log file, which is appended to; None or "" for the screen alone.
        distributed_rank: above 0, only warnings and errors are shown, with the rank before them.
    Raises: OSError when the file cannot be written.
    """
    logger = logging.getLogger(name)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # else a root logger that somebody configured would repeat every line

    rank = f" rank {distributed_rank}" if distributed_rank else ""
    layout = logging.Formatter(f"%(asctime)s{rank} %(name)s %(levelname)s: %(message)s")
    handlers: list[logging.Handler] = [_Screen(logging.WARNING if distributed_rank else logging.DEBUG)]
    if save_dir and not distributed_rank:
        os.makedirs(save_dir, exist_ok=True)
        handlers.append(logging.FileHandler(os.path.join(save_dir, filename), encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(layout)
        logger.addHandler(handler)
    return logger
