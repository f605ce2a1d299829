"""Convert between `BoxList`s, one per image, and tensors of the whole batch.

Nothing here synchronises with a GPU, except `HostCopy.wait`: counts and image sizes are copied to the device without
blocking, and values of the device stay there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maskrcnn_benchmark.structures.bounding_box import BoxList


def to_device(values: Sequence[int] | Sequence[float] | Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Copy numbers of the host to the device, without blocking."""
    return torch.tensor(values).to(device, non_blocking=True)


class HostCopy:
    """A copy of device values that the host reads later.

    The copy starts in the constructor. `wait` synchronises with the work that was queued before it, not with later
    work. For values on the CPU nothing is copied.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def wait(self) -> Tensor:
        """Return the values, on the CPU."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values


def image_ids_of(counts: Sequence[int], device: torch.device) -> Tensor:
    """N numbers of rows per image -> (sum,) int64, the image of each row."""
    repeats = torch.tensor(counts, dtype=torch.int64)
    ids = torch.arange(len(counts)).repeat_interleave(repeats, output_size=sum(counts))
    return ids.to(device, non_blocking=True)


def image_sizes_wh(sizes: Sequence[tuple[float, float]], like: Tensor) -> Tensor:
    """N sizes (width, height) -> (N, 2) in the dtype and on the device of `like`."""
    return torch.tensor(sizes, dtype=like.dtype).reshape(-1, 2).to(like.device, non_blocking=True)


def cat_boxes(boxlists: Sequence[BoxList]) -> tuple[Tensor, Tensor]:
    """Concatenate the boxes of all images: (R, 4) xyxy, and (R,) int64, the image of each box."""
    boxes = torch.cat([boxes_per_image.convert("xyxy").bbox for boxes_per_image in boxlists])
    return boxes, image_ids_of([len(boxes_per_image) for boxes_per_image in boxlists], boxes.device)


def pad_boxes(boxlists: Sequence[BoxList]) -> tuple[Tensor, Tensor]:
    """Pad the boxes of all images to the same length P, the largest count and at least 1.

    Returns: (N, P, 4) xyxy, zeros in the padding; and (N, P) bool, False in the padding.
    """
    boxes = pad_sequence([boxes_per_image.convert("xyxy").bbox for boxes_per_image in boxlists], batch_first=True)
    if boxes.shape[1] == 0:
        boxes = boxes.new_zeros((len(boxlists), 1, 4))
    return boxes, is_filled([len(boxes_per_image) for boxes_per_image in boxlists], boxes.shape[1], boxes.device)


def pad_labels(labels: Sequence[Tensor], length: int) -> Tensor:
    """N tensors (P_n,) -> (N, length), padded with zeros."""
    padded = pad_sequence(list(labels), batch_first=True)
    return torch.nn.functional.pad(padded, (0, length - padded.shape[1]))


def is_filled(counts: Sequence[int], length: int, device: torch.device) -> Tensor:
    """(N, length) bool: True for the first counts[n] entries of row n."""
    return torch.arange(length, device=device) < to_device(counts, device)[:, None]


def is_of_classes(labels: Tensor, classes: Sequence[int]) -> Tensor:
    """(R,) bool: is the label one of `classes`?"""
    return torch.isin(labels, to_device(classes, labels.device))
