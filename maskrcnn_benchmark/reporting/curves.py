"""Plot the metrics.jsonl of training runs: losses, average precision, learning rate, speed."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maskrcnn_benchmark.drawing import RUN_COLOURS
from maskrcnn_benchmark.engine.writers import METRICS_FILE

from .files import ReportError, ReportFolder
from .page import Card, Filters, card_html, page_html, table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

TRAIN_COMMAND = "python tools/train_net.py --config-file FILE OUTPUT_DIR DIR"
_SPEED = {"lr": "learning rate", "grad_norm": "gradient norm", "time": "seconds per iteration",
          "data": "seconds waiting for data", "max_mem_mb": "peak memory (MiB)"}  # fmt: skip
_DOTS_PER_INCH = 110
_SMOOTH_FROM = 60  # curves of at least this many values are drawn faintly below their running mean


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: name in the legend.
        series: metric -> iterations at which it was reported, and its values.
    """

    name: str
    series: Mapping[str, tuple[NDArray[np.int64], NDArray[np.float64]]]

    @property
    def last_iteration(self) -> int:
        return max((int(iterations[-1]) for iterations, _ in self.series.values()), default=0)


def report_curves(runs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> Path:
    """Write the report of one or several runs, drawn in the same axes.

    Args:
        runs: output folders of training runs, or their metrics.jsonl files.
    Returns: the page. Raises: FileNotFoundError, ReportError, OSError.
    """
    read = [read_run(path) for path in runs]
    names = _distinct_names([Path(path) for path in runs])
    read = [Run(name, run.series) for name, run in zip(names, read, strict=True)]
    folder = ReportFolder(output)
    figures: dict[str, Callable[[], NDArray[np.uint8]] | None] = {
        "Losses": _losses(read),
        "Average precision at evaluations": _evaluations(read),
        "Learning rate, gradients, speed": _speed(read),
    }
    cards: list[str] = []
    for title, draw in figures.items():
        if draw is None:
            continue
        picture = draw()
        folder.save_picture(picture, title)
        card = Card(title, "", picture, index=len(cards), alt=f"{title} over iterations of {', '.join(names)}")
        cards.append(card_html(card, len(cards), Filters(), max(picture.shape)))
    tables = [_last_values(read)]
    lead = [f"{run.name}: up to iteration {run.last_iteration}" for run in read]
    if figures["Average precision at evaluations"] is None:
        lead.append("These runs have no evaluations: set SOLVER.TEST_PERIOD to evaluate during training.")
    return folder.write_page(page_html("Training curves", lead, cards, after=tables))


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read the metrics of a run.

    An incomplete last line is ignored. If an iteration was logged twice, as after a resume, the later line counts.

    Args:
        path: output folder of the run, or the file.
    Raises: FileNotFoundError with the command that writes the file; ReportError if the file is not a run's metrics.
    """
    file = Path(path)
    file = file / METRICS_FILE if file.is_dir() else file
    if not file.is_file():
        raise FileNotFoundError(f"no {file}: `{TRAIN_COMMAND}` writes it to DIR; give that folder here")
    lines = file.read_text(encoding="utf-8").splitlines()
    points: dict[str, dict[int, float]] = {}
    for number, line in enumerate(lines, start=1):
        record = _record(file, number, line, is_last=number == len(lines))
        for name, value in record.items():
            if name != "iteration" and isinstance(value, (int, float)):
                points.setdefault(name, {})[int(record["iteration"])] = float(value)
    if not points:
        raise ReportError(f"{file} has no metrics yet; training writes a line every SOLVER.LOG_PERIOD iterations")
    return Run(str(path), {name: _sorted_series(values) for name, values in points.items()})


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean of the finite values in a window of `width` around each value; nan if there are none."""
    finite = np.isfinite(values)
    kernel = np.ones(width)
    sums = np.convolve(np.where(finite, values, 0.0), kernel, mode="same")
    counts = np.convolve(finite.astype(float), kernel, mode="same")
    means = np.full(len(values), np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return means


def _record(file: Path, number: int, line: str, is_last: bool) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        if is_last:
            logger.warning("%s: the last line is incomplete and ignored", file)
            return {}
        raise ReportError(f"{file}, line {number} is not JSON ({error}); each line is one JSON object") from error
    if not isinstance(record, dict) or not isinstance(record.get("iteration"), int):
        raise ReportError(f'{file}, line {number} has no "iteration". Is this the {METRICS_FILE} of a training run?')
    return record


def _sorted_series(values: Mapping[int, float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    iterations = sorted(values)
    return np.array(iterations, dtype=np.int64), np.array([values[iteration] for iteration in iterations])


def _distinct_names(paths: Sequence[Path]) -> list[str]:
    """The names of the folders if they are distinct, else the paths."""
    short = [path.parent.resolve().name if path.name == METRICS_FILE else path.resolve().name for path in paths]
    return short if len(set(short)) == len(short) else [str(path) for path in paths]


def _losses(runs: Sequence[Run]) -> Callable[[], NDArray[np.uint8]] | None:
    names = sorted({name for run in runs for name in run.series if name.startswith("loss_")})
    panels = {name: [(name, "-")] for name in ("loss", *names)}
    return _grid(runs, panels, smooth=True)


def _evaluations(runs: Sequence[Run]) -> Callable[[], NDArray[np.uint8]] | None:
    """A panel for each data set, task and metric. Results from before refinement are dashed lines in the same panel."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for name in sorted({name for run in runs for name in run.series if name.count("/") == 2}):
        dataset, task, metric = name.split("/")
        if metric in ("AP", "AP50", "AR@1000"):
            coarse = task.endswith("_coarse")
            title = f"{dataset}: {task.removesuffix('_coarse')} {metric}"
            panels.setdefault(title, []).append((name, "--" if coarse else "-"))
    return _grid(runs, panels, markers=True)


def _speed(runs: Sequence[Run]) -> Callable[[], NDArray[np.uint8]] | None:
    return _grid(runs, {title: [(name, "-")] for name, title in _SPEED.items()})


def _grid(
    runs: Sequence[Run], panels: Mapping[str, Sequence[tuple[str, str]]], smooth: bool = False, markers: bool = False
) -> Callable[[], NDArray[np.uint8]] | None:
    """A function that draws the panels for which any run has metrics; None if there are no such panels.

    Args:
        panels: title -> metrics and the styles of their lines.
    """
    nonempty = {
        title: lines for title, lines in panels.items() if any(name in run.series for run in runs for name, _ in lines)
    }
    return (lambda: _draw_grid(runs, nonempty, smooth, markers)) if nonempty else None


def _draw_grid(
    runs: Sequence[Run], panels: Mapping[str, Sequence[tuple[str, str]]], smooth: bool, markers: bool
) -> NDArray[np.uint8]:
    """Draw the panels in a grid: (H, W, 3) uint8 RGB."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second to import
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.2 * columns, 2.7 * rows + 0.3), dpi=_DOTS_PER_INCH, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (title, lines) in zip(axes, panels.items(), strict=False):
        for position, run in enumerate(runs):
            for name, style in lines:
                if name in run.series:
                    _plot(axis, run, name, style, position, smooth, markers)
        axis.set_title(title, fontsize=10, loc="left")
        axis.grid(alpha=0.25, linewidth=0.7)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.02)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    _legend(figure, axes[0], runs, panels)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    return np.asarray(Image.open(buffer).convert("RGB"))


def _plot(axis: Axes, run: Run, name: str, style: str, position: int, smooth: bool, markers: bool) -> None:
    iterations, values = run.series[name]
    colour = RUN_COLOURS[position % len(RUN_COLOURS)]
    marker = "o" if markers or len(values) == 1 else None
    if smooth and len(values) >= _SMOOTH_FROM:
        axis.plot(iterations, values, style, color=colour, alpha=0.3, linewidth=0.8)
        values = running_mean(values, max(3, len(values) // 40) | 1)
    axis.plot(iterations, values, style, color=colour, linewidth=1.6, marker=marker, markersize=4)


def _legend(figure: Figure, axis: Axes, runs: Sequence[Run], panels: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """A legend of the runs if there are several, and of the line styles if any line is dashed."""
    handles, texts = [], []
    if len(runs) > 1:
        for position, run in enumerate(runs):
            handles += axis.plot([], [], color=RUN_COLOURS[position % len(RUN_COLOURS)])
            texts.append(run.name)
    if any(style == "--" for lines in panels.values() for _, style in lines):
        for style, text in (("-", "refined"), ("--", "coarse")):
            handles += axis.plot([], [], style, color="#555555")
            texts.append(text)
    if handles:
        figure.legend(handles, texts, loc="outside upper left", ncols=min(4, len(handles)), fontsize=8, frameon=False)


def _last_values(runs: Sequence[Run]) -> str:
    names = sorted({name for run in runs for name in run.series} - {"eta_seconds"})
    rows = [
        [name, *(f"{run.series[name][1][-1]:.4g}" if name in run.series else "-" for run in runs)] for name in names
    ]
    return table("Latest values", ["", *(run.name for run in runs)], rows)
