"""Parameters and operations of a model by part: `python tools/summarize_model.py --config-file FILE [KEY VALUE ...]`.

Operations are those of one image at inference, with the maximum number of proposals and detections of the config. A
multiply-add counts as two operations, as in PyTorch's counter; papers that count it as one report half of that.
Element-wise operations, norms, pooling and box selection are not counted.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.engine.run import friendly_errors
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LABELS, MASKS
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

# The cost of a head per RoI does not depend on the image, so one RoI in a small image is enough.
SMALL_SIDE = 64


@dataclass(frozen=True)
class Part:
    """One row of the table.

    Attributes:
        name: name of the module.
        parameters: number of parameters.
        learning: number of trainable parameters.
        operations: operations per image.
        regions: number of RoIs per image; 0 for parts that process the whole image.
    """

    name: str
    parameters: int
    learning: int
    operations: int
    regions: int = 0


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table. Returns the exit status: 0, or 1 after an error."""
    args = parse_arguments(argv)
    cfg = load_config(args.config_file, args.opts)
    size_hw = (args.size[0], args.size[1]) if args.size else usual_size(cfg)
    print(format_table(summarize(cfg, size_hw), size_hw))
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Parameters and operations of a config's model, part by part.")
    parser.add_argument("--config-file", default="", metavar="FILE", help="YAML config (default: the default config)")
    parser.add_argument(
        "--size",
        nargs=2,
        type=int,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the resized image (default: a 4:3 image resized by INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config keys and their values")
    return parser.parse_args(argv)


def usual_size(cfg: Any) -> tuple[int, int]:
    """(height, width) of a landscape 4:3 image after the resizing and padding of a test."""
    height = min(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST * 3 // 4)
    divisor = max(1, cfg.DATALOADER.SIZE_DIVISIBILITY)
    height, width = (-(-side // divisor) * divisor for side in (height, round(height * 4 / 3)))
    return height, width


def summarize(cfg: Any, size_hw: tuple[int, int]) -> list[Part]:
    """The parts of the config's model in the order of computation, for one image of this size."""
    model: Any = build_detection_model(cfg)
    with torch.device("meta"):
        on_paper: Any = build_detection_model(cfg).eval()  # shapes only: takes no memory and no time
    operations: dict[str, int] = {}

    features: Any = torch.empty(1, 3, *size_hw, device="meta")
    for name, module in on_paper.backbone.named_children():
        operations[f"backbone.{name}"], features = count(module, features)
    operations["rpn"], _ = count(on_paper.rpn.head, features)
    parts = [
        _part(name, model.get_submodule(name), operations[name])
        for name in (*(f"backbone.{name}" for name, _ in model.backbone.named_children()), "rpn")
    ]
    if model.roi_heads is None:
        return parts
    per_region = count_heads_per_region(cfg, model)
    for name, head in model.roi_heads.items():
        regions = _regions_at_test(cfg, name)
        parts.append(_part(f"roi_heads.{name}", head, per_region[name] * regions, regions))
    return parts


def count(function: Callable[..., Any], *inputs: Any) -> tuple[int, Any]:
    """Call a function. Returns: its operations and its result."""
    formulas = {torch.ops.torchvision.deform_conv2d: _deform_conv_operations}
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        outputs = function(*inputs)
    return counter.get_total_flops(), outputs


def count_heads_per_region(cfg: Any, model: Any) -> dict[str, int]:
    """Operations of each head for a single RoI.

    A training step with one target box, which is also the only proposal, sends exactly one RoI through all heads. At
    inference the number of RoIs would depend on the detections of random weights.
    """
    heads = model.roi_heads.train()
    box, target = _labelled_box(cfg)
    with torch.no_grad():
        features = model.backbone(torch.zeros(1, 3, SMALL_SIDE, SMALL_SIDE))
    counts = dict.fromkeys(heads, 0)
    originals = {name: head.forward for name, head in heads.items()}

    def counting(name: str) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            counts[name], output = count(lambda: originals[name](*args, **kwargs))
            return output

        return forward

    for name, head in heads.items():
        head.forward = counting(name)
    heads(features, [box], [target])
    for head in heads.values():
        del head.forward  # restores the method of the class
    return counts


def format_table(parts: Sequence[Part], size_hw: tuple[int, int]) -> str:
    """The table with aligned columns and a row of totals."""
    total = Part(
        "total",
        sum(part.parameters for part in parts),
        sum(part.learning for part in parts),
        sum(part.operations for part in parts),
    )
    rows = [("part", "parameters", "learning", "GFLOP", "regions")]
    rows += [
        (
            part.name,
            f"{part.parameters:,}",
            f"{part.learning:,}",
            f"{part.operations / 1e9:.2f}",
            str(part.regions or ""),
        )
        for part in (*parts, total)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    return "\n".join([f"one image of {size_hw[1]} x {size_hw[0]} pixels", *(line.rstrip() for line in lines)])


def _part(name: str, module: nn.Module, operations: int, regions: int = 0) -> Part:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    learning = sum(size for size, learns in sizes if learns)
    return Part(name, sum(size for size, _ in sizes), learning, operations, regions)


def _regions_at_test(cfg: Any, head: str) -> int:
    if head != "box":
        return cfg.MODEL.ROI_HEADS.DETECTIONS_PER_IMG
    rpn = cfg.MODEL.RPN
    return rpn.FPN_POST_NMS_TOP_N_TEST if rpn.USE_FPN else rpn.POST_NMS_TOP_N_TEST


def _labelled_box(cfg: Any) -> tuple[BoxList, BoxList]:
    """A box in the middle of a small image: as a proposal, and as a target with all fields that the heads need."""
    low, high = SMALL_SIDE // 4, SMALL_SIDE * 3 // 4
    size = (SMALL_SIDE, SMALL_SIDE)
    proposal = BoxList([[low, low, high, high]], size, mode="xyxy", offset=cfg.MODEL.BOX_OFFSET)
    target = proposal.copy_with_fields([])
    target.add_field(LABELS, torch.ones(1, dtype=torch.int64))
    target.add_field(MASKS, SegmentationMask([[[low, low, high, low, high, high, low, high]]], size))
    points = torch.tensor([SMALL_SIDE / 2, SMALL_SIDE / 2, 2.0]).repeat(1, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES, 1)
    target.add_field(KEYPOINTS, Keypoints(points, size))
    return proposal, target


def _deform_conv_operations(
    features: Sequence[int], weight: Sequence[int], *args: Any, out_shape: Sequence[int], **kwargs: Any
) -> int:
    """Operations of deformable convolution, which PyTorch's counter does not know. The arguments are shapes."""
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


if __name__ == "__main__":
    raise SystemExit(main())
