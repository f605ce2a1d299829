"""Run a model live from a camera, or on a video, images, or a folder of images.

    python demo/webcam.py --config-file FILE [--weights FILE] [--source 0] [--output out.mp4] [--no-display]

In the window, q or Escape ends it. Without a screen, Ctrl-C does; the output is whole then.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
from predictor import COCODemo
from tqdm import tqdm

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.config import get_cfg, load_config
from maskrcnn_benchmark.engine.run import StartupError, friendly_errors
from maskrcnn_benchmark.streams import (
    Pipeline,
    PipelineReport,
    Rate,
    Result,
    StreamError,
    open_sink,
    open_source,
)
from maskrcnn_benchmark.streams.identities import Identities
from maskrcnn_benchmark.streams.sinks import JsonSink, Sink
from maskrcnn_benchmark.streams.sources import Source
from maskrcnn_benchmark.streams.window import WindowSink, why_no_window
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.utils.logger import setup_logger

logger = logging.getLogger("maskrcnn_benchmark.demo")

_LOG_PERIOD = 10.0  # seconds between lines about a live source
_SIGNALS = {"SIGINT": 130, "SIGTERM": 143}  # exit status of a shell's command that the signal ended


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0; 1 after an error, or where parts of the source could not be read; 130 or 143 when
    Ctrl-C or SIGTERM ended a source that would have ended by itself."""
    args = parse_arguments(argv)
    setup_logger("maskrcnn_benchmark")
    try:
        return run(args)
    except KeyboardInterrupt:
        return _SIGNALS["SIGINT"]
    except ValueError as error:  # a config that does not go with the demo
        raise StartupError(str(error)) from error


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run a detector on a camera, a video or images.")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's YAML config")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a file, a URL or a catalog:// name; without it the last checkpoint in OUTPUT_DIR, or MODEL.WEIGHT",
    )
    parser.add_argument(
        "--source",
        nargs="+",
        default=["0"],
        metavar="SOURCE",
        help="number of a camera (default 0), a stream's URL, a video, a folder of images, a .txt file that lists "
        "images, or one or more images",
    )
    parser.add_argument(
        "--output", metavar="PATH", help="video (.mp4, .mkv, .mov, .avi, .webm), folder of images, or image to write"
    )
    parser.add_argument("--json", metavar="FILE", help="write the detections of each frame")
    parser.add_argument("--no-display", action="store_true", help="open no window")
    parser.add_argument(
        "--confidence-threshold", type=score, default=0.7, metavar="SCORE", help="least score shown (default 0.7)"
    )
    parser.add_argument(
        "--min-image-size",
        type=count,
        metavar="PIXELS",
        help="what a frame's short side is scaled to; less is faster (default: INPUT.MIN_SIZE_TEST of the config)",
    )
    parser.add_argument("--show-mask-heatmaps", action="store_true", help="show the probabilities of masks")
    parser.add_argument("--masks-per-dim", type=count, default=2, metavar="N", help="heat maps per row (default 2)")
    parser.add_argument("--fps", type=positive, help="frames per second of the output video (default: as the source)")
    parser.add_argument("--codec", metavar="FOURCC", help="codec of the output video (default: by its suffix)")
    parser.add_argument(
        "--timeout", type=positive, default=5.0, metavar="SECONDS", help="wait for a camera so long (default 5)"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys and their values")
    args = parser.parse_args(argv)
    misplaced = [value for value in args.opts if value.startswith("--")]
    if misplaced:
        parser.error(f"{', '.join(misplaced)}: flags go before the first KEY VALUE pair")
    args.source, extra = split_sources(args.source)
    args.opts = [*extra, *args.opts]
    return args


def count(text: str) -> int:
    """A whole number from 1. Raises: argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def positive(text: str) -> float:
    """A number above 0. Raises: argparse.ArgumentTypeError."""
    number = _number(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def score(text: str) -> float:
    """A number from 0 to 1. Raises: argparse.ArgumentTypeError."""
    number = _number(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a score; scores go from 0 to 1")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def split_sources(values: Sequence[str]) -> tuple[list[str], list[str]]:
    """Sources, and the KEY VALUE pairs that follow them on a command line where no flag stands between."""
    sections = get_cfg().keys()
    for position, value in enumerate(values):
        if position and value.split(".")[0] in sections and not Path(value).exists():
            return list(values[:position]), list(values[position:])
    return list(values), []


def run(args: argparse.Namespace) -> int:
    """Open both ends before the model, which takes longest; then let the frames run."""
    cfg = load_config(args.config_file, args.opts)
    with_window = wants_window(args)
    cv2.setNumThreads(1)  # steps have threads of their own, and the cores are the model's
    source = open_source(args.source, args.timeout)
    sinks: list[Sink] = []
    try:
        if args.output:
            sinks.append(open_sink(args.output, source, fps=args.fps, codec=args.codec))
        demo = COCODemo(
            cfg,
            confidence_threshold=args.confidence_threshold,
            show_mask_heatmaps=args.show_mask_heatmaps,
            masks_per_dim=args.masks_per_dim,
            min_image_size=args.min_image_size or cfg.INPUT.MIN_SIZE_TEST,
            weight_loading=args.weights,
        )
        if args.json:
            sinks.append(JsonSink(args.json, source.name, demo.categories))
        monitor = Monitor(source, quiet=with_window)
        window = None
        if with_window:
            title = f"{Path(source.name).name} - {demo.device}"
            caption = None if source.live else monitor.caption
            window = WindowSink(title, hold=not source.moving, caption=caption)
    except BaseException:
        source.close()
        for sink in sinks:
            sink.close()
        raise
    choose = chooser(demo, source)
    pipeline = Pipeline(source, demo.predictor, demo.draw, sinks, window=window, choose=choose, on_result=monitor)
    with monitor:
        report = pipeline.run()
    return conclude(report, source, args)


def wants_window(args: argparse.Namespace) -> bool:
    """Is a window to be opened? Raises: StreamError where nothing would be seen of the results."""
    if args.no_display:
        if not (args.output or args.json):
            raise StreamError("--no-display without --output or --json: nothing would be seen of the results")
        return False
    missing = why_no_window()
    if missing and not (args.output or args.json):
        raise StreamError(missing)
    if missing:
        logger.info("No window is opened: %s.", missing.split(". ")[0])
    return not missing


def chooser(demo: COCODemo, source: Source) -> Callable[[BoxList], BoxList]:
    """Selects what is shown; in moving pictures everyone keeps their colour."""
    if not source.moving:
        return demo.select_top_predictions
    identities = Identities()
    return lambda detections: identities.assign(demo.select_top_predictions(detections))


class Monitor:
    """Shows the rate and the latency: on the frames of a live source, and on a bar or in the log.

    Args:
        quiet: a window shows it, no lines are logged.
    """

    def __init__(self, source: Source, quiet: bool) -> None:
        self._source, self._quiet = source, quiet
        self._rate: Rate | None = None
        self._logged = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Monitor:
        if not self._source.live:
            wait = 0.5 if sys.stderr.isatty() else 30
            self._bar = tqdm(total=self._source.length, unit="frame", mininterval=wait, dynamic_ncols=True)
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, result: Result, rate: Rate) -> None:
        self._rate = rate
        if self._bar is not None:
            self._bar.set_postfix_str(f"latency {1000 * rate.latency:.0f} ms", refresh=False)
            self._bar.update()
        if self._source.live:
            drawing.write_caption(result.picture, self.caption())
            now = time.monotonic()
            if not self._quiet and now - self._logged >= _LOG_PERIOD:
                self._logged = now
                logger.info("frame %d: %s", result.frame.index, self.caption())

    def caption(self) -> str:
        return str(self._rate or "")


def conclude(report: PipelineReport, source: Source, args: argparse.Namespace) -> int:
    """Say what was done; the exit status."""
    facts = [f"{report.frames} frame{'' if report.frames == 1 else 's'}"]
    facts += [f"{report.dropped} dropped to keep up"] if source.live else []
    facts += [f"{report.rate:.1f} frames/s"] if report.rate else []
    facts += [f"latency {1000 * report.latency:.0f} ms"] if report.frames else []
    logger.info("%s%s", ", ".join(facts), f"; stopped by {report.stopped_by}" if report.stopped_by else "")
    for output in filter(None, (args.output, args.json)):
        logger.info("Written: %s", output)
    for problem in source.problems:
        logger.error("%s", problem)
    if report.stopped_by in _SIGNALS and not (source.live and report.stopped_by == "SIGINT"):
        return _SIGNALS[report.stopped_by]
    return int(bool(source.problems))


if __name__ == "__main__":
    sys.exit(main())
