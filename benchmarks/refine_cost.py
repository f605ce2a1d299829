"""Time the refine head at inference: the share of each part of the model, and the model with and without the head.

Weights are random. The output of the box head is replaced by a fixed number of boxes, so that both models have the same
detections. The two models are one model whose refine head is removed and put back in turn, so that changes of the
machine's speed affect both. Pasting the masks into the image ("results") is not part of the model and is timed for
refined and for coarse detections.

    python benchmarks/refine_cost.py                             100 and 20 detections on the CPU
    python benchmarks/refine_cost.py --device cuda --dtype bfloat16 --repetitions 50
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult
from maskrcnn_benchmark.engine.run import friendly_errors
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS, SCORES
from maskrcnn_benchmark.utils.argument_types import int_list

if TYPE_CHECKING:
    from yacs.config import CfgNode

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "hrnet_refine.yaml"
DTYPES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
REFINE, RESULTS, OTHER = "refine", "results", "other"


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table for each number of detections. Returns the exit status."""
    args = parse_arguments(argv)
    cfg = load_config(args.config_file, ["MODEL.ROI_REFINE_HEAD.KEEP_COARSE", "False", *args.opts])
    torch.manual_seed(0)
    model = build_detection_model(cfg).eval().to(args.device)
    wake_refine(model)
    for count in args.detections:
        bench = Bench(model, fixed_detections(count, args.size, cfg, args.device), args)
        print(format_table(bench.run(), count, args), flush=True)
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Time the refine head at inference.")
    parser.add_argument("--config-file", default=str(DEFAULT_CONFIG), metavar="FILE")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32")
    parser.add_argument("--detections", type=int_list, default=[100, 20], metavar="N,...", help="(default: 100,20)")
    parser.add_argument("--repetitions", type=int, default=9, metavar="N")
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1088], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser.parse_args(argv)


def wake_refine(model: Any) -> None:
    """Initialise the last layers, which are zero in a new head, with small numbers as in a trained one."""
    for name, parameter in model.roi_heads[REFINE].named_parameters():
        if ".logits." in name:
            nn.init.normal_(parameter, std=0.01)


def fixed_detections(count: int, size_hw: Sequence[int], cfg: CfgNode, device: str) -> BoxList:
    """Boxes with the proportions of people, from a twentieth of the image's height to almost all of it."""
    height, width = size_hw
    generator = torch.Generator().manual_seed(1)
    box_heights = height * torch.exp(torch.empty(count).uniform_(-3.0, -0.1, generator=generator))
    sides = torch.stack([0.5 * box_heights, box_heights], dim=1)
    corners = torch.rand(count, 2, generator=generator) * (torch.tensor([float(width), float(height)]) - sides)
    boxes = BoxList(torch.cat([corners, corners + sides], dim=1), (width, height), offset=cfg.MODEL.BOX_OFFSET)
    boxes.add_field(LABELS, torch.ones(count, dtype=torch.int64))
    boxes.add_field(SCORES, torch.linspace(0.9, 0.1, count))
    return boxes.to(device)


class Bench:
    """Times a model and its parts with fixed detections.

    Args:
        model: a model with a refine head.
        detections: replaces the output of the box head, for a single image.
        args: `device`, `dtype`, `repetitions`, `size`.
    """

    def __init__(self, model: Any, detections: BoxList, args: argparse.Namespace) -> None:
        self.model = model
        self.detections = detections
        self.args = args
        self.image = torch.randn(1, 3, *args.size, generator=torch.Generator().manual_seed(2)).to(args.device)
        self.seconds: dict[str, float] = {}

    def run(self) -> dict[bool, list[dict[str, float]]]:
        """Seconds of each part and their "total" in every repetition, with (True) and without the refine head."""
        heads = self.model.roi_heads
        parts = {"backbone": self.model.backbone, "rpn": self.model.rpn, **dict(heads.items())}
        handles = [hook for name, module in parts.items() for hook in self._time(name, module)]
        handles.append(heads["box"].register_forward_hook(self._fix, prepend=True))
        refine = heads[REFINE]
        times: dict[bool, list[dict[str, float]]] = {True: [], False: []}
        try:
            for repetition in range(-1, self.args.repetitions):  # the first warms up
                for is_on in (True, False) if repetition % 2 else (False, True):
                    if is_on:
                        heads[REFINE] = refine
                    elif REFINE in heads:
                        del heads[REFINE]
                    measured = self._once()
                    if repetition >= 0:
                        times[is_on].append(measured)
        finally:
            heads[REFINE] = refine
            for handle in handles:
                handle.remove()
        return times

    def _once(self) -> dict[str, float]:
        self.seconds = {}
        dtype = DTYPES[self.args.dtype]
        with torch.no_grad(), torch.autocast(self.args.device, dtype=dtype, enabled=dtype is not None):
            start = self._now()
            (found,) = self.model(self.image)
            total = self._now() - start
        parts = dict(self.seconds)
        parts[OTHER] = total - sum(parts.values())
        start = self._now()
        ImageResult.from_detections(found, found.size)
        return {**parts, "total": total, RESULTS: self._now() - start}

    def _time(self, name: str, module: nn.Module) -> list[Any]:
        def before(*_: Any) -> None:
            self.seconds[name] = -self._now()

        def after(*_: Any) -> None:
            self.seconds[name] += self._now()

        return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def _fix(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return replace(output, detections=[self.detections])

    def _now(self) -> float:
        if self.args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def format_table(times: dict[bool, list[dict[str, float]]], count: int, args: argparse.Namespace) -> str:
    """A table of milliseconds of each part with and without the refine head, and the slowdown."""
    with_refine, without = ({name: _median(runs, name) for name in runs[0]} for runs in (times[True], times[False]))
    pairs = zip(times[True], times[False], strict=True)
    paired = statistics.median(on["total"] / off["total"] for on, off in pairs)
    lines = [
        f"{count} detections, {args.size[1]} x {args.size[0]} pixels, {args.device}, {args.dtype}, "
        f"{torch.get_num_threads()} threads, median of {len(times[True])}",
        f"{'part':<12}{'ms':>10}{'share':>9}{'ms without':>13}",
    ]
    for name, seconds in with_refine.items():
        share = "" if name in (RESULTS, "total") else f"{seconds / with_refine['total']:.1%}"
        missing = f"{1e3 * without[name]:.1f}" if name in without else "-"
        lines.append(f"{name:<12}{1e3 * seconds:>10.1f}{share:>9}{missing:>13}")
    added = statistics.median(run[REFINE] / (run["total"] - run[REFINE]) for run in times[True])
    lines += [
        f"slowdown of the model by the refine head: {paired - 1:+.1%} (median of pairs)",
        f"the refine head over the rest of the same pass: {added:+.1%} (median; more reliable on a busy machine)",
    ]
    return "\n".join(lines) + "\n"


def _median(runs: Sequence[dict[str, float]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


if __name__ == "__main__":
    raise SystemExit(main())
