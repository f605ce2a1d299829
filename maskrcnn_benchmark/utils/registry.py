"""A registry maps names in a config to the functions that build the named parts."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, TypeVar, overload

Entry = TypeVar("Entry", bound=Callable[..., Any])


class UnknownNameError(KeyError):
    """A name or key that is not known. A KeyError whose text is the message without quotes."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Registry(dict[str, Any]):
    """A dictionary of functions that build a part, filled by decorators or calls.

        BACKBONES = Registry()

        @BACKBONES.register("R-50-C4")          # on a function or a class,
        def build_resnet(cfg): ...

        BACKBONES.register("R-50-C5", builder)  # or by a call

    Raises: UnknownNameError (a KeyError) for `registry[name]` with an unknown name; ValueError when a name is taken.
    """

    @overload
    def register(self, name: str, entry: Entry) -> Entry: ...

    @overload
    def register(self, name: str) -> Callable[[Entry], Entry]: ...

    def register(self, name: str, entry: Entry | None = None) -> Entry | Callable[[Entry], Entry]:
        """Add `entry` under `name` and return it. Without `entry`, return a decorator."""
        if entry is None:
            return lambda decorated: self.register(name, decorated)
        if name in self and self[name] is not entry:
            raise ValueError(f"{name!r} is already registered for {self[name]!r}; give {entry!r} another name.")
        self[name] = entry
        return entry

    def __missing__(self, name: str) -> Any:
        near = difflib.get_close_matches(str(name), self, n=1)
        suggestion = f" Did you mean {near[0]!r}?" if near else ""
        raise UnknownNameError(
            f"{name!r} is not registered; registered: {', '.join(sorted(self)) or 'nothing'}.{suggestion} "
            "Your own entry must be registered before it is used: list its module in the config key IMPORTS."
        )
