"""Compare the frame rates of the demo's pipeline, from video file to annotated video file, and of the bare model.

    python benchmarks/demo_pipeline.py --config-file FILE --weights FILE [--source video.mp4] [--rounds 5] [KEY VALUE]

The bare model is only its forward pass, on images in memory. Both run alternately in one process. The table has the
ratio of each round and the median. On a busy machine, the processor time per frame is more reliable; the difference
between the two is the time for reading, preparing, drawing and writing.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.build import padding_multiple
from maskrcnn_benchmark.data.synthetic_people import SceneSettings, render_scene
from maskrcnn_benchmark.streams import Pipeline, open_sink, open_source
from maskrcnn_benchmark.streams.identities import Identities
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo"))
from predictor import COCODemo  # noqa: E402 - demo/ is a folder of scripts, not a package


def write_video(path: Path, frames: int, size_wh: tuple[int, int] = (320, 256)) -> Path:
    """Write a video of a camera that pans over drawn people, with a new scene every fifty frames."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25.0, size_wh)
    rng = np.random.default_rng(5)
    settings = SceneSettings(width=2 * size_wh[0], height=size_wh[1], max_people=5)
    for number in range(frames):
        if number % 50 == 0:
            scene, _ = render_scene(settings, rng)
        left = number % 50 * size_wh[0] // 50
        writer.write(np.ascontiguousarray(scene[:, left : left + size_wh[0], ::-1]))
    writer.release()
    return path


def prepared_batches(demo: COCODemo, video: str) -> list[ImageList]:
    """The frames of a video as input of the model, on its device."""
    source, batches = open_source([video]), []
    while (frame := source.read()) is not None:
        image = demo.predictor.prepare(frame.image, "BGR")
        batches.append(to_image_list([image.pixels], padding_multiple(demo.cfg)).to(demo.device))
    source.close()
    return batches


@dataclass(frozen=True)
class Speed:
    """Speed of a pipeline or model.

    Attributes:
        rate: frames per second.
        cpu: milliseconds per frame, summed over all processors.
    """

    rate: float
    cpu: float


def bare_speed(model: torch.nn.Module, batches: Sequence[ImageList]) -> Speed:
    """Speed of the forward pass."""
    start, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        for batch in batches:
            model(batch)
        if batches[0].tensors.is_cuda:
            torch.cuda.synchronize()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    return Speed(len(batches) / seconds, 1000 * cpu / len(batches))


def pipeline_speed(demo: COCODemo, video: str, output: str) -> Speed:
    """Speed of the pipeline, from the first to the last frame of the output."""
    cpu = time.process_time()
    source, identities = open_source([video]), Identities()
    pipeline = Pipeline(
        source,
        demo.predictor,
        demo.draw,
        [open_sink(output, source)],
        choose=lambda detections: identities.assign(demo.select_top_predictions(detections)),
    )
    report = pipeline.run()
    return Speed(report.rate, 1000 * (time.process_time() - cpu) / report.frames)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare the demo's pipeline with the bare model.")
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--source", metavar="VIDEO", help="(default: drawn people, 320 x 256)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=100, help="frames of the drawn video (%(default)s)")
    parser.add_argument("--confidence-threshold", type=float, default=0.5)
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING)
    cv2.setNumThreads(1)
    cfg = load_config(args.config_file, args.opts)
    demo = COCODemo(cfg, args.confidence_threshold, False, 2, cfg.INPUT.MIN_SIZE_TEST, args.weights)
    with tempfile.TemporaryDirectory() as folder:
        video = args.source or str(write_video(Path(folder) / "people.mp4", args.frames))
        batches = prepared_batches(demo, video)
        bare_speed(demo.model, batches[:10])
        print(f"{len(batches)} frames a round, {demo.device}, {torch.get_num_threads()} threads")
        names = f"{'pipeline':>10}{'ratio':>8}"
        print(f"{'frames/s: bare':>14}{names}   {'CPU ms/frame: bare':>18}{names}")
        ratios: list[tuple[float, float]] = []
        for number in range(args.rounds):
            # The bare model runs before and after the pipeline, so that a changing load favours neither.
            before = bare_speed(demo.model, batches)
            through = pipeline_speed(demo, video, str(Path(folder) / f"out{number}.mp4"))
            after = bare_speed(demo.model, batches)
            bare = Speed(2 / (1 / before.rate + 1 / after.rate), (before.cpu + after.cpu) / 2)
            ratios.append((through.rate / bare.rate, bare.cpu / through.cpu))
            print(f"{bare.rate:14.2f}{through.rate:10.2f}{ratios[-1][0]:8.2f}", end="")
            print(f"   {bare.cpu:18.1f}{through.cpu:10.1f}{ratios[-1][1]:8.2f}", flush=True)
        rate, cpu = np.median(ratios, axis=0)
        print(f"median ratios: {rate:.3f} of the bare model's frames per second, {cpu:.3f} by the processors' time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
