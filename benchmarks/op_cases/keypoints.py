"""Keypoints to heatmap cells, and heatmaps to keypoints."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import cv2
import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints, keypoints_to_heatmap

from maskrcnn_benchmark.layers.keypoint_ops import decode_heatmaps, encode_keypoints
from op_cases import detectron2_peers
from op_cases.case import Case, Contenders, Peer, random_boxes

KEYPOINTS, CELLS = 17, 56


def cases(device: str) -> Iterator[Case]:
    for count in (10, 100):
        yield Case(
            f"keypoint decoding, {count} persons, {KEYPOINTS} maps {CELLS}x{CELLS}", partial(decoding, device, count)
        )
    yield Case(f"keypoint targets, 512 rois, {KEYPOINTS} keypoints", partial(encoding, device, 512))


def heatmaps(count: int) -> Tensor:
    """(count, K, S, S) logits: a peak two cells wide over a hilly ground."""
    peaks = 4 + torch.rand(count, KEYPOINTS, 2) * (CELLS - 8)
    centres = torch.arange(CELLS) + 0.5
    x, y = (centres - peaks[..., 0, None]) / 2, (centres - peaks[..., 1, None]) / 2
    bump = torch.exp(-0.5 * (x[..., None, :] ** 2 + y[..., :, None] ** 2))
    coarse = torch.randn(count, KEYPOINTS, CELLS // 8, CELLS // 8)
    ground = torch.nn.functional.interpolate(coarse, size=CELLS, mode="bicubic", align_corners=False)
    return 8 * bump + ground + 0.05 * torch.randn_like(ground)


def decoding(device: str, count: int) -> Contenders:
    logits, frames = heatmaps(count).to(device), random_boxes(count, small=32).to(device)

    def opencv() -> np.ndarray:
        """As maskrcnn-benchmark does it: each person's maps enlarged to whole pixels by OpenCV."""
        found = np.zeros((count, KEYPOINTS, 2), dtype=np.float32)
        boxes = frames.cpu().numpy()
        extents = np.maximum(boxes[:, 2:] - boxes[:, :2], 1)
        pixels = np.ceil(extents).astype(int)
        maps = logits.cpu().numpy().transpose(0, 2, 3, 1)
        for index, (width, height) in enumerate(pixels.tolist()):
            enlarged = cv2.resize(maps[index], (width, height), interpolation=cv2.INTER_CUBIC)
            row, column = np.divmod(enlarged.reshape(-1, KEYPOINTS).argmax(axis=0), width)
            found[index] = np.stack([column, row], axis=1) + 0.5
        return found * (extents / pixels)[:, None] + boxes[:, None, :2]

    def compare(mine: tuple[Tensor, Tensor], points: Tensor) -> None:
        distance = (mine[0] - points.to(mine[0])).abs().amax(dim=-1)
        # two pixels beside a peak may be equal but for rounding
        assert (distance > 0.01).float().mean() < 0.01 and distance.max() < 3, distance.max()

    return Contenders(
        lambda: decode_heatmaps(logits, frames, "bicubic"),
        [
            Peer(
                "torchvision",
                lambda: heatmaps_to_keypoints(logits, frames),
                lambda mine, theirs: compare(mine, theirs[0][..., :2]),
            ),
            Peer("OpenCV", opencv, lambda mine, theirs: compare(mine, torch.from_numpy(theirs))),
            *detectron2_peers.keypoint_decoding(logits, frames, compare),
        ],
    )


def encoding(device: str, count: int) -> Contenders:
    frames = random_boxes(count, small=32).to(device)
    sides = (frames[:, 2:] - frames[:, :2])[:, None]
    xy = frames[:, None, :2] + (torch.rand(count, KEYPOINTS, 2, device=device) * 1.2 - 0.1) * sides
    keypoints = torch.cat([xy, torch.randint(0, 3, (count, KEYPOINTS, 1), device=device).float()], dim=2)

    def compare(mine: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> None:
        assert (mine[0] != theirs[0]).float().mean() < 1e-3  # a point on the line between two cells
        assert torch.equal(mine[1], theirs[1] > 0)

    return Contenders(
        lambda: encode_keypoints(keypoints, frames, CELLS),
        [Peer("torchvision", lambda: keypoints_to_heatmap(keypoints, frames, CELLS), compare)],
    )
