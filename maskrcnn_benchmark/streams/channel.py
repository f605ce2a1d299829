"""A queue of bounded length between two threads."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Channel(Generic[Item]):
    """A queue of bounded length between two threads. The sender can end it, and either side can close it.

    Args:
        size: maximum number of items.
        newest: if True, a full channel drops its oldest item; if False, the sender waits.
    Attributes:
        dropped: number of dropped items.
    """

    def __init__(self, size: int, newest: bool = False) -> None:
        self._items: deque[Item] = deque()
        self._size, self._newest = size, newest
        self._is_ended = self._is_closed = False
        self._changed = threading.Condition()
        self.dropped = 0

    def put(self, item: Item) -> bool:
        """Add an item, after waiting for room. Returns: False if the channel is closed."""
        with self._changed:
            if self._newest and len(self._items) >= self._size:
                self._items.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: self._is_closed or len(self._items) < self._size)
            if not self._is_closed:
                self._items.append(item)
            self._changed.notify_all()
            return not self._is_closed

    def get(self, timeout: float | None = None) -> Item | None:
        """Take the oldest item; None after the last one. Raises: TimeoutError after `timeout` seconds without one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._is_closed or self._is_ended or bool(self._items), timeout):
                raise TimeoutError
            item = self._items.popleft() if self._items and not self._is_closed else None
            self._changed.notify_all()
            return item

    def __iter__(self) -> Iterator[Item]:
        while (item := self.get()) is not None:
            yield item

    def end(self) -> None:
        """Add no more items. Those in the channel can still be taken."""
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Discard all items; nothing can be added or taken any more."""
        with self._changed:
            self._is_closed = True
            self._items.clear()
            self._changed.notify_all()
