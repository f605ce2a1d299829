"""Run a model on a camera, a video, images or a folder of images.

    python demo/webcam.py --config-file FILE [--weights FILE] [--source 0] [--output out.mp4] [--no-display]

In the window, q or Escape ends it; without a screen, Ctrl-C does, and the output is still complete.
"""

from __future__ import annotations

import argparse
import logging
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
from maskrcnn_benchmark.utils.argument_types import fraction, positive_float, positive_int
from maskrcnn_benchmark.utils.logger import setup_logger

logger = logging.getLogger("maskrcnn_benchmark.demo")

_LOG_PERIOD = 10.0  # seconds between log lines of a live source
_SIGNALS = {"SIGINT": 130, "SIGTERM": 143}  # signal -> exit status, as in a shell


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status.

    0; 1 after an error, or if parts of the source could not be read; 130 or 143 if Ctrl-C or SIGTERM stopped a source
    that is not live.
    """
    args = parse_arguments(argv)
    setup_logger("maskrcnn_benchmark")
    try:
        return run(args)
    except KeyboardInterrupt:
        return _SIGNALS["SIGINT"]
    except ValueError as error:  # a config that the demo cannot show
        raise StartupError(str(error)) from error


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run a detector on a camera, a video or images.")
    parser.add_argument("--config-file", required=True, metavar="FILE", help="the model's YAML config")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a file, a URL or a catalog:// name (default: the last checkpoint in OUTPUT_DIR, or MODEL.WEIGHT)",
    )
    parser.add_argument(
        "--source",
        nargs="+",
        default=["0"],
        metavar="SOURCE",
        help="number of a camera (default: 0), URL of a stream, video, folder of images, .txt file that lists images, "
        "or one or more images",
    )
    parser.add_argument(
        "--output", metavar="PATH", help="video (.mp4, .mkv, .mov, .avi, .webm), folder of images, or image to write"
    )
    parser.add_argument("--json", metavar="FILE", help="write the detections of each frame")
    parser.add_argument("--no-display", action="store_true", help="open no window")
    parser.add_argument(
        "--confidence-threshold", type=fraction, default=0.7, metavar="SCORE", help="minimum score (%(default)s)"
    )
    parser.add_argument(
        "--min-image-size",
        type=positive_int,
        metavar="PIXELS",
        help="short side of the frames in the model; smaller is faster (default: INPUT.MIN_SIZE_TEST of the config)",
    )
    parser.add_argument(
        "--mask",
        metavar="NAME",
        help="mask to fill if instances have several; the others are outlines (default: the first)",
    )
    parser.add_argument("--show-mask-heatmaps", action="store_true", help="show the probabilities of masks")
    parser.add_argument(
        "--masks-per-dim", type=positive_int, default=2, metavar="N", help="heat maps per row (%(default)s)"
    )
    parser.add_argument("--fps", type=positive_float, help="frames per second of the output (default: the source's)")
    parser.add_argument("--codec", metavar="FOURCC", help="codec of the output video (default: by its suffix)")
    parser.add_argument(
        "--timeout", type=positive_float, default=5.0, metavar="SECONDS", help="time to wait for a camera (%(default)s)"
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys and their values")
    args = parser.parse_args(argv)
    misplaced = [value for value in args.opts if value.startswith("--")]
    if misplaced:
        parser.error(f"{', '.join(misplaced)}: flags go before the first KEY VALUE pair")
    args.source, extra = split_sources(args.source)
    args.opts = [*extra, *args.opts]
    return args


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
    cv2.setNumThreads(1)  # each step has its own thread, and the model needs the cores
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
            mask=args.mask,
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
    choose = make_chooser(demo, source)
    pipeline = Pipeline(source, demo.predictor, demo.draw, sinks, window=window, choose=choose, on_result=monitor)
    with monitor:
        report = pipeline.run()
    return summarize(report, source, args)


def wants_window(args: argparse.Namespace) -> bool:
    """Should a window be opened? Raises: StreamError if there would be no output at all."""
    if args.no_display:
        if not (args.output or args.json):
            raise StreamError("--no-display without --output or --json: there would be no output; add one of them")
        return False
    missing = why_no_window()
    if missing and not (args.output or args.json):
        raise StreamError(missing)
    if missing:
        logger.info("No window is opened: %s.", missing.split(". ")[0])
    return not missing


def make_chooser(demo: COCODemo, source: Source) -> Callable[[BoxList], BoxList]:
    """Select the detections to show; in a video, instances keep their numbers and colours."""
    if not source.moving:
        return demo.select_top_predictions
    identities = Identities()
    return lambda detections: identities.assign(demo.select_top_predictions(detections))


class Monitor:
    """Shows rate and latency: on the frames and in the log for a live source, on a progress bar for others.

    Args:
        source: source of the frames.
        quiet: do not log, because a window shows them.
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


def summarize(report: PipelineReport, source: Source, args: argparse.Namespace) -> int:
    """Log a summary. Returns: the exit status."""
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
