"""Write the progress of a training: log lines, JSON lines, TensorBoard."""

from __future__ import annotations

import datetime
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from maskrcnn_benchmark.utils.metric_logger import MetricLogger

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Progress:
    """A report on the last iterations.

    Attributes:
        iteration: iterations done.
        max_iter: iterations of the whole run.
        eta_seconds: estimated time to the end of the run.
        scalars: means since the last report: the losses, their sum "loss", and "time" and "data" in seconds.
        lr: learning rate of the first parameter group.
        memory: peak memory in MiB, of the GPU, or of the process if there is none.
    """

    iteration: int
    max_iter: int
    eta_seconds: float
    scalars: Mapping[str, float]
    lr: float
    memory: float


class Writer(Protocol):
    """Writes reports somewhere."""

    def write_progress(self, progress: Progress, meters: MetricLogger) -> None: ...

    def write_evaluation(self, iteration: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class ConsoleWriter:
    """Writes the log lines of maskrcnn-benchmark: for each meter the median of recent values and (the mean of all)."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger = logger

    def write_progress(self, progress: Progress, meters: MetricLogger) -> None:
        eta = datetime.timedelta(seconds=int(progress.eta_seconds))
        parts = (
            f"eta: {eta}",
            f"iter: {progress.iteration}",
            str(meters),
            f"lr: {progress.lr:.6f}",
            f"max mem: {progress.memory:.0f}",
        )
        self.logger.info(meters.delimiter.join(parts))

    def write_evaluation(self, iteration: int, scalars: Mapping[str, float]) -> None:
        figures = "  ".join(f"{name}: {value:.4f}" for name, value in scalars.items())
        self.logger.info("evaluation at iter %d: %s", iteration, figures)

    def close(self) -> None:
        pass


class JsonLinesWriter:
    """Writes one JSON object per line to metrics.jsonl. A resumed run drops the lines of iterations it will repeat.

    Args:
        folder: the folder of the file.
        start_iter: number of iterations already done; 0 starts a new file.
    """

    def __init__(self, folder: Path, start_iter: int = 0) -> None:
        path = folder / METRICS_FILE
        kept = _lines_until(path, start_iter) if start_iter > 0 and path.is_file() else []
        path.write_text("".join(kept), encoding="utf-8")
        self._file: IO[str] = path.open("a", encoding="utf-8")

    def write_progress(self, progress: Progress, meters: MetricLogger) -> None:
        self._write(
            {
                "iteration": progress.iteration,
                "eta_seconds": round(progress.eta_seconds, 1),
                "lr": progress.lr,
                "max_mem_mb": round(progress.memory, 1),
                **progress.scalars,
            }
        )

    def write_evaluation(self, iteration: int, scalars: Mapping[str, float]) -> None:
        self._write({"iteration": iteration, **scalars})

    def close(self) -> None:
        self._file.close()

    def _write(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


class TensorBoardWriter:
    """Writes event files to the output folder, for `tensorboard --logdir OUTPUT_DIR`."""

    def __init__(self, folder: Path, start_iter: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import; needs the tensorboard package

        self._events = SummaryWriter(str(folder), purge_step=start_iter or None)

    def write_progress(self, progress: Progress, meters: MetricLogger) -> None:
        groups = {"time": "speed", "data": "speed"}
        for name, value in progress.scalars.items():
            self._events.add_scalar(f"{groups.get(name, 'train')}/{name}", value, progress.iteration)
        self._events.add_scalar("train/lr", progress.lr, progress.iteration)
        self._events.add_scalar("speed/max_mem_mb", progress.memory, progress.iteration)

    def write_evaluation(self, iteration: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._events.add_scalar(f"eval/{name}", value, iteration)
        self._events.flush()

    def close(self) -> None:
        self._events.close()


def build_writers(folder: str | Path, start_iter: int, logger: logging.Logger) -> list[Writer]:
    """Return the three writers; without the tensorboard package only two of them, with a warning."""
    folder = Path(folder)
    writers: list[Writer] = [ConsoleWriter(logger), JsonLinesWriter(folder, start_iter)]
    try:
        writers.append(TensorBoardWriter(folder, start_iter))
    except ImportError as error:
        logger.warning("No TensorBoard files will be written (%s); `pip install tensorboard` if you want them", error)
    return writers


def _lines_until(path: Path, iteration: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["iteration"] <= iteration:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # the half-written last line of a run that was killed
    return kept
