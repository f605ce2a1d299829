"""Logging: the main process logs to the screen and to log.txt, the others log warnings to the screen."""

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
    """Writes to `sys.stdout` as it is at each message, so that redirections after the setup work."""

    def __init__(self, level: int) -> None:
        logging.Handler.__init__(self, level)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stdout


def setup_logger(
    name: str, save_dir: str | os.PathLike[str] | None = None, distributed_rank: int = 0, filename: str = LOG_FILE
) -> logging.Logger:
    """Set the handlers of the logger `name`, which loggers below it use as well. Existing handlers are replaced.

    Args:
        name: "maskrcnn_benchmark" for everything in the package.
        save_dir: folder of the log file, which is appended to; None or "" logs to the screen only.
        distributed_rank: if above 0, only warnings and errors are shown, with the rank in front.
    Raises: OSError if the file cannot be written.
    """
    logger = logging.getLogger(name)
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.DEBUG)
    logger.propagate = False  # a configured root logger would otherwise repeat every line

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
