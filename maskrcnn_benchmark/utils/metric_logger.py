"""Meters of a training loop. Tensors stay on the GPU until a statistic is read, and are then fetched together."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

_MAX_PENDING = 1000  # unread values per meter; then they are fetched, which limits the memory


class SmoothedValue:
    """Statistics of a series of numbers, over the latest `window_size` numbers and over all.

    Do not change a tensor in place after `update`: it is read later.
    """

    def __init__(self, window_size: int = 20) -> None:
        self._window: collections.deque[float] = collections.deque(maxlen=window_size)
        self._total = 0.0
        self._count = 0
        self._pending: list[Tensor | float] = []

    def update(self, value: Tensor | float) -> None:
        """Add a number, or a tensor with one element."""
        self._pending.append(value.detach() if isinstance(value, Tensor) else float(value))
        if len(self._pending) >= _MAX_PENDING:
            fetch([self])

    @property
    def deque(self) -> collections.deque[float]:
        """The latest values."""
        fetch([self])
        return self._window

    @property
    def total(self) -> float:
        """Sum of all values."""
        fetch([self])
        return self._total

    @property
    def count(self) -> int:
        """Number of values; does not fetch them."""
        return self._count + len(self._pending)

    @property
    def median(self) -> float:
        """Median of the window; the lower of two middle values. NaN before the first value."""
        values = sorted(self.deque)
        return values[(len(values) - 1) // 2] if values else float("nan")

    @property
    def avg(self) -> float:
        """Mean of the window. NaN before the first value."""
        return sum(self.deque) / len(self._window) if self.deque else float("nan")

    @property
    def global_avg(self) -> float:
        """Mean of all values. NaN before the first value."""
        return self.total / self._count if self.count else float("nan")

    @property
    def value(self) -> float:
        """The latest value. NaN before the first."""
        return self.deque[-1] if self.deque else float("nan")

    def _absorb(self, values: Iterable[float]) -> None:
        for value in values:
            self._window.append(value)
            self._total += value
            self._count += 1
        self._pending.clear()


def fetch(meters: Iterable[SmoothedValue]) -> None:
    """Copy all values of these meters to the host, with one synchronisation per device."""
    meters = list(meters)
    by_device: dict[torch.device, list[Tensor]] = {}
    for meter in meters:
        for value in meter._pending:
            if isinstance(value, Tensor):
                by_device.setdefault(value.device, []).append(value.float().reshape(()))
    numbers = {device: iter(torch.stack(values).tolist()) for device, values in by_device.items()}
    for meter in meters:
        meter._absorb([next(numbers[v.device]) if isinstance(v, Tensor) else v for v in meter._pending])


class MetricLogger:
    """Named meters. `str()` gives "name: median (mean of all)" for each, joined by the delimiter."""

    def __init__(self, delimiter: str = "\t") -> None:
        self.meters: dict[str, SmoothedValue] = {}
        self.delimiter = delimiter

    def update(self, **values: Tensor | float) -> None:
        """Add one value to each named meter. Raises: TypeError if a value is not one number."""
        for name, value in values.items():
            if isinstance(value, Tensor):
                if value.numel() != 1:
                    raise TypeError(f"meter {name}: a tensor of shape {tuple(value.shape)}; expected one number.")
            elif not isinstance(value, (int, float)):
                raise TypeError(f"meter {name}: a {type(value).__name__}; expected a number or a tensor of one number.")
            self.meters.setdefault(name, SmoothedValue()).update(value)

    def fetch(self) -> None:
        """Copy all values to the host, with one synchronisation per device."""
        fetch(self.meters.values())

    def __getattr__(self, name: str) -> Any:
        meters = self.__dict__.get("meters", {})
        if name in meters:
            return meters[name]
        raise AttributeError(f"{type(self).__name__} has no meter {name!r}; it has {', '.join(meters) or 'none'}.")

    def __str__(self) -> str:
        self.fetch()
        return self.delimiter.join(
            f"{name}: {meter.median:.4f} ({meter.global_avg:.4f})" for name, meter in self.meters.items()
        )
