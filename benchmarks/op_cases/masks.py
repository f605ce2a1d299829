"""Masks of detections onto the image, and ground truth into the frames of regions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import paste_masks_in_image, project_masks_on_boxes

from maskrcnn_benchmark.layers.mask_ops import mask_run_lengths, paste_masks
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from op_cases import detectron2_peers
from op_cases.case import IMAGE_HW, Case, Contenders, Peer, random_boxes

SIZE_WH = (IMAGE_HW[1], IMAGE_HW[0])


def cases(device: str) -> Iterator[Case]:
    for cells in (28, 56):
        yield Case(f"mask pasting, 100 masks {cells}x{cells}", partial(pasting, device, 100, cells))
    yield Case("masks to COCO's run lengths, 100 masks 28x28", partial(run_lengths, device, 100, 28))
    for cells in (28, 56):
        yield Case(
            f"mask targets from polygons, 2 x 128 rois, {cells}x{cells}", partial(polygon_targets, device, cells)
        )
    yield Case("mask targets from bitmaps, 2 x 128 rois, 28x28", partial(bitmap_targets, device, 28))


def agree(least: float) -> Callable[[Tensor, Tensor], None]:
    """Masks whose definitions differ by the rounding of boxes: intersection over union, the mean over masks."""

    def compare(ours: Tensor, theirs: Tensor) -> None:
        mine, other = ours.flatten(1).bool(), torch.as_tensor(theirs, device=ours.device).flatten(1).bool()
        union = (mine | other).sum(dim=1)
        overlap = ((mine & other).sum(dim=1) / union.clamp(min=1))[union > 0].mean()
        assert overlap >= least, f"mean overlap of masks {overlap:.4f}, expected {least}"

    return compare


def blobs(count: int, cells: int) -> Tensor:
    """(count, M, M) probabilities of smooth shapes."""
    coarse = torch.randn(count, 1, 5, 5)
    hills = F.interpolate(coarse, size=cells, mode="bicubic", align_corners=False)[:, 0]
    centres = torch.linspace(-1, 1, cells)
    return torch.sigmoid(4 * (0.8 + 0.6 * hills - (centres[:, None] ** 2 + centres**2)))


class PastingPeers(NamedTuple):
    """Other ways to paste the same masks: (R, height, width) of 0 and 1."""

    torchvision: Callable[[], Tensor]
    opencv: Callable[[], np.ndarray]
    grid_sample: Callable[[], Tensor]


def pasting_peers(masks: Tensor, boxes: Tensor) -> PastingPeers:
    count, cells = masks.shape[:2]
    height, width = IMAGE_HW

    def opencv() -> np.ndarray:
        """Pad by a cell of zeros, enlarge the box by a cell and round it to pixels, `cv2.resize`, threshold."""
        pasted = np.zeros((count, height, width), dtype=np.uint8)
        padded = np.pad(masks.cpu().numpy(), ((0, 0), (1, 1), (1, 1)))
        corners = boxes.cpu().numpy()
        margin = (corners[:, 2:] - corners[:, :2]) / cells
        corners = np.concatenate([corners[:, :2] - margin, corners[:, 2:] + margin], axis=1).round().astype(int)
        for image, mask, (x1, y1, x2, y2) in zip(pasted, padded, corners.tolist(), strict=True):
            enlarged = cv2.resize(mask, (max(x2 - x1, 1), max(y2 - y1, 1)))
            left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
            image[top:bottom, left:right] = enlarged[top - y1 : bottom - y1, left - x1 : right - x1] > 0.5
        return pasted

    def grid_sample() -> Tensor:
        """As Detectron2 does it on a CPU: `grid_sample` one mask at a time, over the pixels it can reach."""
        pasted = torch.zeros((count, height, width), dtype=torch.bool, device=masks.device)
        low, high = boxes[:, :2].floor().long() - 1, boxes[:, 2:].ceil().long() + 1
        windows = torch.cat([low.clamp(min=0), high.minimum(high.new_tensor([width, height]))], dim=1).tolist()
        for index, (left, top, right, bottom) in enumerate(windows):
            x1, y1, x2, y2 = boxes[index]
            x = (torch.arange(left, right, device=masks.device) + 0.5 - x1) / (x2 - x1) * 2 - 1
            y = (torch.arange(top, bottom, device=masks.device) + 0.5 - y1) / (y2 - y1) * 2 - 1
            grid = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1)
            values = F.grid_sample(masks[None, index, None], grid[None], align_corners=False)
            pasted[index, top:bottom, left:right] = values[0, 0] > 0.5
        return pasted

    def torchvision() -> Tensor:
        return paste_masks_in_image(masks[:, None], boxes, IMAGE_HW) > 0.5

    return PastingPeers(torchvision, opencv, grid_sample)


def pasting(device: str, count: int, cells: int) -> Contenders:
    masks, boxes = blobs(count, cells).to(device), random_boxes(count, small=32).to(device)
    peers = pasting_peers(masks, boxes)
    return Contenders(
        lambda: paste_masks(masks, boxes, IMAGE_HW),
        [
            Peer("torchvision", peers.torchvision, agree(0.93)),
            Peer("OpenCV", peers.opencv, agree(0.93)),
            Peer("grid_sample", peers.grid_sample, agree(0.9999)),
            *detectron2_peers.pasting(masks, boxes, agree(0.99)),
        ],
    )


def run_lengths(device: str, count: int, cells: int) -> Contenders:
    """What evaluation needs of the masks of an image; the peers paste them in their own way, then encode the images."""
    masks, boxes = blobs(count, cells).to(device), random_boxes(count, small=32).to(device)
    size = list(IMAGE_HW)

    def ours() -> list[dict]:
        runs = mask_run_lengths(masks, boxes, IMAGE_HW)
        return coco_mask.frPyObjects([{"size": size, "counts": counts} for counts in runs], *size)

    def encoded(paste: Callable[[], Any]) -> list[dict]:
        images = torch.as_tensor(paste()).cpu().numpy().reshape(count, *size).view(np.uint8)
        return [coco_mask.encode(np.asfortranarray(image[:, :, None]))[0] for image in images]

    def drawn(rles: list[dict]) -> Tensor:
        return torch.from_numpy(coco_mask.decode(rles).transpose(2, 0, 1))

    def like(least: float) -> Callable[[list[dict], list[dict]], None]:
        return lambda mine, theirs: agree(least)(drawn(mine), drawn(theirs))

    peers = pasting_peers(masks, boxes)
    return Contenders(
        ours,
        [
            Peer("torchvision", lambda: encoded(peers.torchvision), like(0.93)),
            Peer("OpenCV", lambda: encoded(peers.opencv), like(0.93)),
            Peer("grid_sample", lambda: encoded(peers.grid_sample), like(0.9999)),
        ],
    )


def outlines(count: int) -> tuple[Tensor, list[list[np.ndarray]]]:
    """Boxes (count, 4) and for each the polygons of an instance: stars of 20 to 60 points, every third in two parts."""
    boxes, instances = random_boxes(count, small=32), []
    for index, (x1, y1, x2, y2) in enumerate(boxes.double().tolist()):
        parts = []
        for part in range(1 + (index % 3 == 0)):
            angles = np.linspace(0, 2 * np.pi, 20 + (7 * index) % 41, endpoint=False)
            radii = (0.6 + 0.4 * np.abs(np.sin(2.5 * angles + index))) / (1 + part)
            middle = (x1 + x2) / 2, (y1 + y2) / 2
            points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
            parts.append((points * ((x2 - x1) / 2, (y2 - y1) / 2) + middle).round(2))
        instances.append(parts)
    return boxes, instances


def near(boxes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(count,) indices into the boxes and (count, 4) regions about them, as sampled proposals lie."""
    matched = torch.randint(len(boxes), (count,))
    sides = (boxes[matched, 2:] - boxes[matched, :2]).repeat(1, 2)
    regions = boxes[matched] + torch.randn(count, 4) * 0.08 * sides
    regions[:, 2:] = regions[:, 2:].maximum(regions[:, :2] + 8)
    return matched, regions


def polygon_targets(device: str, cells: int) -> Contenders:
    images = []
    for _ in range(2):
        boxes, instances = outlines(15)
        matched, regions = near(boxes, 128)
        flat = [[part.ravel().tolist() for part in parts] for parts in instances]
        images.append((SegmentationMask(flat, SIZE_WH), instances, matched.to(device), regions.to(device)))

    def ours() -> Tensor:
        return torch.cat([masks.rasterize(regions, cells, matched) for masks, _, matched, regions in images])

    def whole_image_masks() -> Tensor:
        """torchvision's targets: masks drawn over the image, then ROIAlign; its dataset draws them with pycocotools."""
        targets = []
        for _, instances, matched, regions in images:
            drawn = [
                coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([part.ravel() for part in parts], *IMAGE_HW)))
                for parts in instances
            ]
            masks = torch.from_numpy(np.stack(drawn)).to(device)
            targets.append(project_masks_on_boxes(masks, regions, matched, cells))
        return torch.cat(targets) >= 0.5

    def region_by_region() -> Tensor:
        """As Detectron2 does it: for each region the polygons moved, scaled, and drawn with pycocotools."""
        targets = []
        for _, instances, matched, regions in images:
            for index, (x1, y1, x2, y2) in zip(matched.tolist(), regions.double().tolist(), strict=True):
                scale = cells / (x2 - x1), cells / (y2 - y1)
                parts = [((part - (x1, y1)) * scale).ravel() for part in instances[index]]
                targets.append(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, cells, cells))))
        return torch.from_numpy(np.stack(targets)).to(device)

    return Contenders(
        ours,
        [
            Peer("torchvision", whole_image_masks, agree(0.85)),
            Peer("pycocotools per roi", region_by_region, lambda mine, theirs: same_masks(mine, theirs)),
            *detectron2_peers.polygon_targets(
                [(instances, matched, regions) for _, instances, matched, regions in images], cells, agree(0.99)
            ),
        ],
    )


def same_masks(ours: Tensor, theirs: Tensor) -> None:
    assert torch.equal(ours.bool(), theirs.bool()), f"{(ours.bool() != theirs.bool()).sum()} cells differ"


def bitmap_targets(device: str, cells: int) -> Contenders:
    images = []
    for _ in range(2):
        boxes, instances = outlines(15)
        matched, regions = near(boxes, 128)
        flat = [[part.ravel().tolist() for part in parts] for parts in instances]
        bitmaps = SegmentationMask(flat, SIZE_WH).get_mask_tensor()
        images.append((SegmentationMask(bitmaps, SIZE_WH), bitmaps.to(device), matched.to(device), regions.to(device)))

    def ours() -> Tensor:
        return torch.cat([masks.rasterize(regions, cells, matched) for masks, _, matched, regions in images])

    def theirs() -> Tensor:
        targets = [project_masks_on_boxes(bitmaps, regions, matched, cells) for _, bitmaps, matched, regions in images]
        return torch.cat(targets) >= 0.5

    return Contenders(ours, [Peer("torchvision", theirs, agree(0.9))])
