"""Wall-clock time, added up over many calls."""

from __future__ import annotations

import datetime
import time


class Timer:
    """tic() ... toc(), any number of times.

    total_time: seconds between all tics and tocs. calls: number of tocs. average_time: seconds per toc.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.total_time = 0.0
        self.calls = 0
        self._started = time.perf_counter()

    @property
    def average_time(self) -> float:
        return self.total_time / self.calls if self.calls else 0.0

    def tic(self) -> None:
        self._started = time.perf_counter()

    def toc(self, average: bool = True) -> float:
        """Seconds per call so far, or with average=False those since the last tic."""
        elapsed = time.perf_counter() - self._started
        self.add(elapsed)
        return self.average_time if average else elapsed

    def add(self, seconds: float) -> None:
        """Count one call that somebody else has timed."""
        self.total_time += seconds
        self.calls += 1

    def avg_time_str(self) -> str:
        return get_time_str(self.average_time)


def get_time_str(seconds: float) -> str:
    """3725.2 -> "1:02:05.200000"."""
    return str(datetime.timedelta(seconds=seconds))
