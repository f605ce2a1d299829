"""ROIAlign, pooling over levels and NMS against torchvision's kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor

from maskrcnn_benchmark.layers import batched_nms, multi_level_roi_align, nms, roi_align
from maskrcnn_benchmark.layers.reference.roi_align import assign_levels
from op_cases import detectron2_peers
from op_cases.case import IMAGE_HW, Case, Contenders, Peer, Traffic, random_boxes, same_survivors, same_values

SCALES = (0.25, 0.125, 0.0625, 0.03125)
CHANNELS = 256
LAYOUTS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}


def cases(device: str) -> Iterator[Case]:
    for name, layout in LAYOUTS.items():
        for size, samples in ((7, 2), (7, 0), (14, 2)):
            title = f"ROIAlign forward, 1000 rois, {size}x{size}, sampling {samples}, {name}"
            yield Case(title, partial(forward, device, layout, size, samples))
        yield Case(f"ROIAlign backward, 512 rois, 7x7, sampling 2, {name}", partial(backward, device, layout))
    for name, layout in LAYOUTS.items():
        yield Case(f"multi-level forward + backward, 2 x 512 rois, {name}", partial(multi_level, device, layout))
    if device == "cuda":
        for dtype in (torch.float32, torch.bfloat16):
            for name, layout in LAYOUTS.items():
                for step in ("forward", "backward"):
                    title = f"multi-level {step}, 8 x 1000 rois, {str(dtype).removeprefix('torch.')}, {name}"
                    yield Case(title, partial(multi_level_step, device, layout, dtype, step))
    for count in (1000, 5000, 20000):
        yield Case(f"NMS, {count} boxes", partial(plain_nms, device, count))
    for count, groups in ((24000, 5), (2000, 80), (20000, 80)):
        yield Case(f"batched NMS, {count} boxes in {groups} groups", partial(grouped_nms, device, count, groups))


def feature_map(images: int, level: int, device: str, layout: torch.memory_format) -> Tensor:
    sides = [-(-side // 2 ** (level + 2)) for side in IMAGE_HW]
    return torch.randn(images, CHANNELS, *sides, device=device).contiguous(memory_format=layout)


def random_rois(count: int, images: int, device: str, large: float = 600.0) -> Tensor:
    """(count, 5), sorted by image."""
    image = torch.arange(count).remainder(images).sort().values
    return torch.cat([image[:, None], random_boxes(count, large=large)], dim=1).to(device)


def crowd(count: int, device: str) -> tuple[Tensor, Tensor]:
    """Boxes as a detector gives them: clusters about objects, each box a jittered copy."""
    objects = random_boxes(max(count // 40, 1))
    boxes = objects[torch.randint(len(objects), (count,))]
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    return (boxes + torch.randn(count, 4) * 0.15 * sides).to(device), torch.rand(count).to(device)


def touched_bytes(maps: Tensor, rois: Tensor, scale: float) -> int:
    """Bytes of the cells that lie under some region, all channels."""
    images, channels, height, width = maps.shape
    touched = torch.zeros(images, height, width, dtype=torch.bool)
    for image, x1, y1, x2, y2 in rois.tolist():
        rows, columns = (slice(int(low * scale), int(high * scale) + 2) for low, high in ((y1, y2), (x1, x2)))
        touched[int(image), rows, columns] = True
    return int(touched.sum()) * channels * maps.element_size()


def forward(device: str, layout: torch.memory_format, size: int, samples: int) -> Contenders:
    maps, rois = feature_map(1, 0, device, layout), random_rois(1000, 1, device, large=112 * 2)
    return Contenders(
        lambda: roi_align(maps, rois, size, 0.25, samples),
        [
            Peer(
                "torchvision",
                lambda: torchvision.ops.roi_align(maps, rois, size, 0.25, samples or -1),
                same_values,
            )
        ],
        Traffic(touched_bytes(maps, rois, 0.25), 1000 * CHANNELS * size**2 * maps.element_size()),
    )


def backward(device: str, layout: torch.memory_format) -> Contenders:
    rois = random_rois(512, 1, device, large=112 * 2)
    grad = torch.randn(512, CHANNELS, 7, 7, device=device).contiguous(memory_format=layout)
    sizes = list(feature_map(1, 0, "meta", layout).shape)
    channels_last = layout is torch.channels_last
    ours, theirs = torch.ops.maskrcnn_benchmark.roi_align_backward, torch.ops.torchvision._roi_align_backward
    return Contenders(
        lambda: ours(grad, rois, sizes, 0.25, 2, False, channels_last, False),
        [Peer("torchvision", lambda: theirs(grad, rois, 0.25, 7, 7, *sizes, 2, False), same_values)],
        Traffic(grad.nbytes, math.prod(sizes) * grad.element_size()),
    )


class Pyramid:
    """Maps of four levels, regions on them, our pooling and torchvision's, and the bytes that either has to touch."""

    def __init__(
        self, device: str, layout: torch.memory_format, images: int, rois: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.maps = [feature_map(images, level, device, layout).to(dtype).requires_grad_() for level in range(4)]
        self.rois = random_rois(images * rois, images, device)
        self.boxes = [self.rois[self.rois[:, 0] == image, 1:].contiguous() for image in range(images)]
        self.grad = torch.randn(images * rois, CHANNELS, 7, 7, device=device).contiguous(memory_format=layout).to(dtype)
        # torchvision's kernels do not know bfloat16: they get the same in float32
        self.peer_name = "torchvision" if dtype == torch.float32 else "torchvision in float32"
        self.peer_maps = [level.detach().float().requires_grad_() for level in self.maps]
        self.peer_grad = self.grad.float()
        self.pooler = torchvision.ops.MultiScaleRoIAlign([str(level) for level in range(4)], 7, 2)
        of_level = assign_levels(self.rois, SCALES, 224.0, 4.0, 0)
        self.cells = sum(
            touched_bytes(self.maps[level], self.rois[of_level == level], SCALES[level]) for level in range(4)
        )
        self.bytes_of_maps = sum(level.nbytes for level in self.maps)

    def pool(self) -> Tensor:
        return multi_level_roi_align(self.maps, self.rois, 7, SCALES, 2, offset=0)

    def pool_by_peer(self) -> Tensor:
        named = {str(level): maps for level, maps in enumerate(self.peer_maps)}
        return self.pooler(named, self.boxes, [IMAGE_HW] * len(self.boxes))


def multi_level(device: str, layout: torch.memory_format) -> Contenders:
    case = Pyramid(device, layout, 2, 512)
    others = detectron2_peers.pooling(case.maps, case.boxes, SCALES, case.grad, same_values)
    return Contenders(
        lambda: torch.autograd.grad(case.pool(), case.maps, case.grad),
        [
            Peer(
                "torchvision",
                lambda: torch.autograd.grad(case.pool_by_peer(), case.peer_maps, case.peer_grad),
                same_values,
            ),
            *others,
        ],
        # forward reads cells and writes pooled values; backward reads their gradient and writes the maps' gradient
        Traffic(case.cells + case.grad.nbytes, case.grad.nbytes + case.bytes_of_maps),
    )


def multi_level_step(device: str, layout: torch.memory_format, dtype: torch.dtype, step: str) -> Contenders:
    """Only forward or only backward, as in training on a GPU: eight images, a thousand regions each."""
    case = Pyramid(device, layout, 8, 1000, dtype)

    def compare(ours: Any, theirs: Any) -> None:
        tolerance = 1e-3 if dtype == torch.float32 else 2e-2  # eight bits, and sums of rounded gradients
        for mine, other in zip(_as_sequence(ours), _as_sequence(theirs), strict=True):
            torch.testing.assert_close(mine.float(), other, rtol=tolerance, atol=tolerance * float(other.abs().max()))

    if step == "forward":
        return Contenders(
            torch.no_grad()(case.pool),
            [Peer(case.peer_name, torch.no_grad()(case.pool_by_peer), compare)],
            Traffic(case.cells, case.grad.nbytes),
        )
    ours, theirs = case.pool(), case.pool_by_peer()
    return Contenders(
        lambda: torch.autograd.grad(ours, case.maps, case.grad, retain_graph=True),
        [
            Peer(
                case.peer_name,
                lambda: torch.autograd.grad(theirs, case.peer_maps, case.peer_grad, retain_graph=True),
                compare,
            )
        ],
        Traffic(case.grad.nbytes, case.bytes_of_maps),
    )


def _as_sequence(values: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return [values] if isinstance(values, Tensor) else values


def plain_nms(device: str, count: int) -> Contenders:
    boxes, scores = crowd(count, device)
    theirs = Peer("torchvision", lambda: torchvision.ops.nms(boxes, scores, 0.7), same_survivors)
    return Contenders(lambda: nms(boxes, scores, 0.7, 0), [theirs])


def grouped_nms(device: str, count: int, groups: int) -> Contenders:
    boxes, scores = crowd(count, device)
    ids = torch.randint(groups, (count,), device=device)
    theirs = Peer("torchvision", lambda: torchvision.ops.batched_nms(boxes, scores, ids, 0.7), same_survivors)
    return Contenders(lambda: batched_nms(boxes, scores, ids, 0.7, 0), [theirs])
