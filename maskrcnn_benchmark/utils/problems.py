"""Problems in a config: raised at once, or collected so that a user sees all of them in one message."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_collected: ContextVar[list[str] | None] = ContextVar("collected_config_problems", default=None)


class ConfigError(ValueError):
    """A config that cannot be used. The text has one problem per line: the key, where it was set, and what to do."""


def config_problem(text: str) -> None:
    """Report a problem of the config, in one line.

    Inside `collect_config_problems` this returns, and the caller goes on with whatever it has, so that later problems
    are found too.

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
