"""ROIAlign, pooling over levels and NMS against torchvision's kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
import torchvision
from torch import Tensor

from maskrcnn_benchmark.layers import batched_nms, multi_level_roi_align, nms, roi_align
from maskrcnn_benchmark.layers._fallback import assign_levels
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


def multi_level(device: str, layout: torch.memory_format) -> Contenders:
    maps = [feature_map(2, level, device, layout).requires_grad_() for level in range(4)]
    rois = random_rois(1024, 2, device)
    boxes = [rois[rois[:, 0] == image, 1:].contiguous() for image in range(2)]
    pooler = torchvision.ops.MultiScaleRoIAlign([str(level) for level in range(4)], 7, 2)
    named = {str(level): maps[level] for level in range(4)}
    grad = torch.randn(1024, CHANNELS, 7, 7, device=device).contiguous(memory_format=layout)

    def ours() -> tuple[Tensor, ...]:
        return torch.autograd.grad(multi_level_roi_align(maps, rois, 7, SCALES, 2, offset=0), maps, grad)

    def theirs() -> tuple[Tensor, ...]:
        return torch.autograd.grad(pooler(named, boxes, [IMAGE_HW] * 2), maps, grad)

    # forward reads cells and writes the pooled, backward reads its gradient and writes that of the maps
    of_level = assign_levels(rois, SCALES, 224.0, 4.0, 0)
    cells = sum(touched_bytes(maps[level], rois[of_level == level], SCALES[level]) for level in range(4))
    traffic = Traffic(cells + grad.nbytes, grad.nbytes + sum(level.nbytes for level in maps))
    others = detectron2_peers.pooling(maps, boxes, SCALES, grad, same_values)
    return Contenders(ours, [Peer("torchvision", theirs, same_values), *others], traffic)


def plain_nms(device: str, count: int) -> Contenders:
    boxes, scores = crowd(count, device)
    theirs = Peer("torchvision", lambda: torchvision.ops.nms(boxes, scores, 0.7), same_survivors)
    return Contenders(lambda: nms(boxes, scores, 0.7, 0), [theirs])


def grouped_nms(device: str, count: int, groups: int) -> Contenders:
    boxes, scores = crowd(count, device)
    ids = torch.randint(groups, (count,), device=device)
    theirs = Peer("torchvision", lambda: torchvision.ops.batched_nms(boxes, scores, ids, 0.7), same_survivors)
    return Contenders(lambda: batched_nms(boxes, scores, ids, 0.7, 0), [theirs])
