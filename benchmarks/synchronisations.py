"""Find every place where a training step synchronises with the GPU, and count how often.

    python benchmarks/synchronisations.py [--config-file FILE] [--images 16] [KEY VALUE ...]

PyTorch reports each synchronising call (`torch.cuda.set_sync_debug_mode`); the tables for the forward and the backward
pass name the line of this package that made it. Images and targets are random; the optimiser's step is left out.
docs/GPU_STATUS.md has the expected list, which was counted on the simulated device of tests/simulated_cuda.py.
"""

from __future__ import annotations

import argparse
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.engine.run import StartupError, friendly_errors
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LABELS, MASKS
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.utils.detector_kind import num_classes

if TYPE_CHECKING:
    from yacs.config import CfgNode

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = ROOT / "configs" / "e2e_mask_rcnn_R_50_FPN_1x.yaml"


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table. Returns the exit status."""
    args = parse_arguments(argv)
    if not torch.cuda.is_available():
        raise StartupError("PyTorch finds no CUDA device; this benchmark needs one.")
    cfg = load_config(args.config_file, ["MODEL.DEVICE", "cuda", "MODEL.WEIGHT", "", *args.opts])
    model = build_detection_model(cfg).cuda().train()
    images, targets = random_batch(cfg, args.images, args.size)
    sum(model(images, targets).values()).backward()  # warm-up: the first step synchronises more
    torch.cuda.synchronize()
    losses: dict[str, Any] = {}
    places = {"forward": synchronisations(lambda: losses.update(model(images, targets)))}
    places["backward"] = synchronisations(sum(losses.values()).backward)
    for part, counts in places.items():
        print(f"{part}: {counts.total()} synchronisations")
        for place, count in counts.most_common():
            print(f"  {count:4d}  {place}")
    return 0


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Count where a training step synchronises with the GPU.")
    parser.add_argument("--config-file", default=str(DEFAULT_CONFIG), metavar="FILE")
    parser.add_argument("--images", type=int, default=16, metavar="N")
    parser.add_argument("--size", nargs=2, type=int, default=[800, 1088], metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE")
    return parser.parse_args(argv)


def random_batch(cfg: CfgNode, images: int, size_hw: Sequence[int]) -> tuple[ImageList, list[BoxList]]:
    """Images of noise and targets with eight objects each, which have all fields that the heads need."""
    height, width = size_hw
    generator = torch.Generator().manual_seed(0)
    targets = []
    for _ in range(images):
        sides = torch.empty(8, 2).uniform_(40, 300, generator=generator)
        corners = torch.rand(8, 2, generator=generator) * (torch.tensor([width, height]) - sides)
        boxes = torch.cat([corners, corners + sides], dim=1)
        target = BoxList(boxes, (width, height), offset=cfg.MODEL.BOX_OFFSET)
        target.add_field(LABELS, torch.randint(1, num_classes(cfg)[1], (8,), generator=generator))
        rectangles = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes.tolist()]
        target.add_field(MASKS, SegmentationMask(rectangles, (width, height), mode="poly"))
        points = corners[:, None] + torch.rand(8, len(PersonKeypoints.NAMES), 2, generator=generator) * sides[:, None]
        seen = torch.cat([points, torch.full_like(points[..., :1], 2)], dim=2)
        target.add_field(KEYPOINTS, PersonKeypoints(seen, (width, height)))
        targets.append(target.to("cuda"))
    noise = [torch.randn(3, height, width, generator=generator) for _ in range(images)]
    return to_image_list(noise, cfg.DATALOADER.SIZE_DIVISIBILITY).to("cuda"), targets


def synchronisations(work: Callable[[], Any]) -> Counter[str]:
    """Run `work` and count the synchronisations by line of this package, or of the caller outside of it."""
    counts: Counter[str] = Counter()

    def note(*_: Any, **__: Any) -> None:
        stack = traceback.extract_stack()[:-2]
        ours = [frame for frame in stack if "maskrcnn_benchmark" in Path(frame.filename).parts] or stack
        place = Path(ours[-1].filename)
        name = place.relative_to(ROOT) if place.is_relative_to(ROOT) else place.name
        counts[f"{name}:{ours[-1].lineno}  {ours[-1].line}"] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return counts


if __name__ == "__main__":
    raise SystemExit(main())
