"""How fast a pipeline runs."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

_SPAN = 30  # frames over which rate and latency are averaged


class Rate:
    """Frames per second and latency, averaged over the last frames."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=_SPAN)
        self._latencies: deque[float] = deque(maxlen=_SPAN)

    def add(self, captured: float) -> None:
        """Count a frame that was read at the time `captured` and is finished now."""
        now = time.perf_counter()
        self._times.append(now)
        self._latencies.append(now - captured)

    @property
    def frames_per_second(self) -> float:
        span = self._times[-1] - self._times[0] if len(self._times) > 1 else 0.0
        return (len(self._times) - 1) / span if span > 0 else 0.0

    @property
    def latency(self) -> float:
        """Mean seconds from the reading of a frame until it is finished."""
        return sum(self._latencies) / len(self._latencies) if self._latencies else 0.0

    def __str__(self) -> str:
        return f"{self.frames_per_second:.1f} frames/s, {1000 * self.latency:.0f} ms"


@dataclass(frozen=True)
class PipelineReport:
    """What a pipeline has done.

    Attributes:
        frames: number of frames that were written.
        dropped: number of frames of a live source that were dropped to keep up.
        seconds: time from writing the first frame to writing the last one.
        latency: mean seconds from reading a frame to writing it.
        stopped_by: the signal that stopped it early, or "window"; "" if the source ended.
    """

    frames: int
    dropped: int
    seconds: float
    latency: float
    stopped_by: str

    @property
    def rate(self) -> float:
        """Frames per second; 0 for fewer than two frames."""
        return (self.frames - 1) / self.seconds if self.seconds > 0 and self.frames > 1 else 0.0
