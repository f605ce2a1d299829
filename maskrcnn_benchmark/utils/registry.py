"""Names that a config can give, and what they stand for."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeVar

Entry = TypeVar("Entry", bound=Callable[..., Any])


class UnknownNameError(KeyError):
    """A name that nobody registered; a KeyError whose text stays readable."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Registry(dict[str, Any]):
    """A dictionary of builders that fills itself by decorators.

        BACKBONES = Registry()

        @BACKBONES.register("R-50-C4")          # on a function or a class,
        def build_resnet(cfg): ...

        BACKBONES.register("R-50-C5", builder)  # or by a call

    Raises: UnknownNameError (a KeyError) for `registry[name]` with an unknown name; ValueError when a name is taken.
    """

    def register(self, name: str, entry: Entry | None = None) -> Any:
        """Enter `entry` under `name`; without an entry, return a decorator that does, and hands its object on."""
        if entry is None:

            def decorator(decorated: Entry) -> Entry:
                self.register(name, decorated)
                return decorated

            return decorator
        if name in self and self[name] is not entry:
            raise ValueError(f"{name!r} is registered already, for {self[name]!r}; give {entry!r} a name of its own.")
        self[name] = entry
        return entry

    def __missing__(self, name: str) -> Any:
        near = difflib.get_close_matches(str(name), self, n=1)
        suggestion = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(
            f"{name!r} is not registered; registered: {', '.join(sorted(self)) or 'nothing'}.{suggestion} "
            "An entry of your own registers itself in a module that is imported before the model is built."
        )
