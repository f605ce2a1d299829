"""Measure wall-clock time over many calls."""

from __future__ import annotations

import datetime
import time


class Timer:
    """Measures the time between `tic()` and `toc()`, any number of times.

    Attributes:
        total_time: seconds, summed over all calls.
        calls: number of calls.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total_time = 0.0
        self.calls = 0
        self._started = time.perf_counter()

    @property
    def average_time(self) -> float:
        """Seconds per call."""
        return self.total_time / self.calls if self.calls else 0.0

    def tic(self) -> None:
        self._started = time.perf_counter()

    def toc(self, average: bool = True) -> float:
        """Count a call. Returns: mean seconds per call, or with average=False the seconds since the last tic."""
        elapsed = time.perf_counter() - self._started
        self.add(elapsed)
        return self.average_time if average else elapsed

    def add(self, seconds: float) -> None:
        """Count a call that was timed elsewhere."""
        self.total_time += seconds
        self.calls += 1

    def avg_time_str(self) -> str:
        return get_time_str(self.average_time)


def get_time_str(seconds: float) -> str:
    """3725.2 -> "1:02:05.200000"."""
    return str(datetime.timedelta(seconds=seconds))
