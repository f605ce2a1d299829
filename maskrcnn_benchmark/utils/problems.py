"""Problems in a config: raised at once, or collected so that a user sees all of them in one message."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collected: ContextVar[list[str] | None] = ContextVar("collected_config_problems", default=None)


class ConfigError(ValueError):
    """A config that cannot be used. The text has one problem per line: the key, where it was set, and what to do."""


def config_problem(text: str) -> None:
    """Report a problem of the config, in one line.

    Inside `collect_config_problems` this returns. The caller must go on with the values that it has, so that later
    problems are found too.

    Raises: ConfigError outside `collect_config_problems`.
    """
    problems = _collected.get()
    if problems is None:
        raise ConfigError(text)
    if text not in problems:
        problems.append(text)


@contextmanager
def collect_config_problems() -> Iterator[list[str]]:
    """Collect what `config_problem` reports inside the `with` block, each problem once. The caller raises or logs it.

    A block inside another block collects into its own list. Threads started inside do not report to it.
    """
    problems: list[str] = []
    token = _collected.set(problems)
    try:
        yield problems
    finally:
        _collected.reset(token)


def check_choice(key: str, value: object, choices: Iterable[object]) -> None:
    """Report a value that is not one of `choices`; for a name, give the keys of its registry."""
    choices = list(choices)
    if value not in choices:
        config_problem(f"{key} is {value!r}; expected one of {', '.join(map(repr, choices))}.")


def check_range(key: str, value: float, smallest: float, largest: float = math.inf) -> None:
    """Report a number outside [smallest, largest]."""
    if not smallest <= value <= largest:
        limits = f"at least {smallest}" if largest == math.inf else f"between {smallest} and {largest}"
        config_problem(f"{key} is {value}; expected {limits}.")


@contextmanager
def skip_after_problem() -> Iterator[None]:
    """Skip the rest of the block if it fails while problems are collected and one has been reported.

    Build each part of a model in such a block. With a wrong key a part often cannot be built, and its error adds
    nothing to the problem already reported. The caller goes on with the next part.
    """
    try:
        yield
    except Exception:
        if not _collected.get():
            raise
