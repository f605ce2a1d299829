"""Time what a second mask per instance costs: a training step and a detection with one mask, and with two.

Weights are random. The proposals of the RPN and the detections of the box head are replaced by fixed ones, so that both
models have the same RoIs: as many positives as the sampler takes, and a given number of detections. The two models run
in turns, so that changes of the machine's speed affect both.

    python benchmarks/multi_mask_cost.py --clock cpu
    python benchmarks/multi_mask_cost.py --config-file configs/quick/multi_mask_people.yaml --size 256 320 --clock cpu
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.engine.run import friendly_errors
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS, SCORES, mask_fields
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

if TYPE_CHECKING:
    from yacs.config import CfgNode

DEFAULT_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "multi_mask_rcnn_R_50_FPN_1x.yaml"
MASKS = "MODEL.ROI_MULTI_MASK_HEAD.MASKS"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
OBJECTS, CORNERS = 16, 24  # per image; of the polygon of each


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table. Returns the exit status."""
    args = parse_arguments(argv)
    options = ["MODEL.WEIGHT", "", "MODEL.DEVICE", args.device, "MODEL.ROI_MULTI_MASK_HEAD.INSIDE", (), *args.opts]
    names = load_config(args.config_file, options).MODEL.ROI_MULTI_MASK_HEAD.MASKS
    benches = [Bench(load_config(args.config_file, [*options, MASKS, chosen]), args) for chosen in (names[:1], names)]
    print(f"{args.size[1]} x {args.size[0]} pixels, {args.device}, {args.clock} clock, {args.repetitions} repetitions")
    print(f"{'':<12}{'1 mask, ms':>12}{f'{len(names)} masks, ms':>14}{'more':>8}")
    for what in ("training", "detection"):
        one, all_masks = compare([getattr(bench, what) for bench in benches], args)
        ratio = statistics.median(slow / fast for fast, slow in zip(one, all_masks, strict=True))
        medians = [1e3 * statistics.median(times) for times in (one, all_masks)]
        print(f"{what:<12}{medians[0]:>12.1f}{medians[1]:>14.1f}{ratio - 1:>+8.1%}", flush=True)
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default=str(DEFAULT_CONFIG), metavar="FILE")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: processor time, on a busy machine")
    parser.add_argument("--detections", type=int, default=20, metavar="N", help="detections of an image (%(default)s)")
    parser.add_argument("--repetitions", type=int, default=9, metavar="N")
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1088], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser.parse_args(argv)


def compare(steps: Sequence[Callable[[], None]], args: argparse.Namespace) -> list[list[float]]:
    """Seconds of each step in every repetition; the first repetition warms up and is left out."""
    times: list[list[float]] = [[] for _ in steps]
    for repetition in range(args.repetitions + 1):
        order = range(len(steps)) if repetition % 2 else reversed(range(len(steps)))
        for index in order:
            start = _now(args)
            steps[index]()
            times[index].append(_now(args) - start)
    return [per_step[1:] for per_step in times]


def _now(args: argparse.Namespace) -> float:
    if args.device == "cuda":
        torch.cuda.synchronize()
    return CLOCKS[args.clock]()


class Bench:
    """A model of `cfg` with fixed RoIs, and one image for it."""

    def __init__(self, cfg: CfgNode, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        self.model: Any = build_detection_model(cfg).to(args.device)
        height, width = args.size
        generator = torch.Generator().manual_seed(1)
        self.image = torch.randn(1, 3, height, width, generator=generator).to(args.device)
        objects = _boxes(OBJECTS, (width, height), generator)
        self.target = _target(objects, (width, height), cfg).to(args.device)
        copies = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE // OBJECTS
        shifts = 0.05 * (torch.rand(copies, OBJECTS, 4, generator=generator) - 0.5)
        near = objects + shifts * (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
        proposals = torch.cat([near.flatten(0, 1), _boxes(copies * OBJECTS, (width, height), generator)])
        offset = cfg.MODEL.BOX_OFFSET
        self.proposals = BoxList(proposals, (width, height), offset=offset).to(args.device)
        detections = BoxList(_boxes(args.detections, (width, height), generator), (width, height), offset=offset)
        detections.add_field(LABELS, torch.ones(args.detections, dtype=torch.int64))
        detections.add_field(SCORES, torch.linspace(0.9, 0.1, args.detections))
        self.detections = detections.to(args.device)
        self.model.get_submodule("rpn").register_forward_hook(self._fix_proposals)
        self.model.get_submodule("roi_heads.box").register_forward_hook(self._fix_detections)

    def training(self) -> None:
        """A step without the optimiser: losses and gradients."""
        torch.manual_seed(2)  # the sampler draws
        self.model.train().zero_grad(set_to_none=True)
        sum(self.model(self.image, [self.target]).values()).backward()

    @torch.no_grad()
    def detection(self) -> None:
        """The model on the image, with its masks over their boxes; pasting them is not part of the model."""
        self.model.eval()(self.image)

    def _fix_proposals(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return [self.proposals], output[1]

    def _fix_detections(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return output if module.training else replace(output, detections=[self.detections])


def _boxes(count: int, size_wh: tuple[int, int], generator: torch.Generator) -> Tensor:
    """(count, 4) boxes with sides from a tenth to two fifths of the image's."""
    sides = torch.tensor(size_wh) * torch.empty(count, 2).uniform_(0.1, 0.4, generator=generator)
    corners = torch.rand(count, 2, generator=generator) * (torch.tensor(size_wh) - sides)
    return torch.cat([corners, corners + sides], dim=1)


def _target(boxes: Tensor, size_wh: tuple[int, int], cfg: CfgNode) -> BoxList:
    """Ground truth with an irregular polygon of its own in every box for each mask."""
    target = BoxList(boxes, size_wh, offset=cfg.MODEL.BOX_OFFSET)
    target.add_field(LABELS, torch.ones(len(boxes), dtype=torch.int64))
    angles = torch.linspace(0, 2 * torch.pi, CORNERS + 1)[:-1]
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    centres, radii = (boxes[:, None, :2] + boxes[:, None, 2:]) / 2, (boxes[:, None, 2:] - boxes[:, None, :2]) / 2
    generator = torch.Generator().manual_seed(3)
    for name in cfg.MODEL.ROI_MULTI_MASK_HEAD.MASKS:
        lengths = torch.empty(len(boxes), CORNERS, 1).uniform_(0.6, 1.0, generator=generator)
        outlines = (centres + radii * lengths * circle).flatten(1).tolist()
        target.add_field(mask_fields(name).truth, SegmentationMask([[outline] for outline in outlines], size_wh))
    return target


if __name__ == "__main__":
    raise SystemExit(main())
