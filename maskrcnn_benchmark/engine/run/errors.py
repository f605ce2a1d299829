"""Errors that a user can cause: shown as a message, without a traceback."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from typing import ParamSpec

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.utils.checkpoint import CheckpointError
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.registry import UnknownNameError

from ..hooks import NonFiniteLossError

P = ParamSpec("P")

logger = logging.getLogger("maskrcnn_benchmark")

EXIT_STOPPED = 143  # 128 + SIGTERM: the status that a shell reports for a program that the signal ended


class StartupError(RuntimeError):
    """The config, the data or the machine would make the run fail later."""


@contextlib.contextmanager
def startup_errors() -> Iterator[None]:
    """Turn a ValueError or KeyError that this package raises inside the block into a StartupError.

    Wrap the code that builds the objects of a config: such an error tells what is wrong with the config or the data.
    ConfigError and UnknownNameError are turned into a StartupError even if other code raises them. Other errors of
    other code, such as a user's own dataset, are not changed, because their traceback is needed.
    """
    try:
        yield
    except (ConfigError, UnknownNameError) as error:
        raise StartupError(str(error)) from error
    except (ValueError, KeyError) as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        if trace is None or not str(trace.tb_frame.f_globals.get("__name__")).startswith("maskrcnn_benchmark"):
            raise
        raise StartupError(str(error.args[0]) if error.args else str(error)) from error


def friendly_errors(main: Callable[P, int]) -> Callable[P, int]:
    """Decorate the `main` of a tool: log an error that a user can cause by its message only, and return status 1."""

    @functools.wraps(main)
    def main_with_friendly_errors(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return main(*args, **kwargs)
        except (CheckpointError, ConfigError, OSError, StartupError, NonFiniteLossError) as error:
            if not logger.handlers:
                setup_logger("maskrcnn_benchmark")
            text = str(error)
            if "in DataLoader worker" in text:  # PyTorch puts the worker's traceback before its message
                text = text.rstrip().splitlines()[-1]
            logger.error("%s", text)
            return 1

    return main_with_friendly_errors
