"""Between `BoxList`s, one per image and of any length, and tensors of the whole batch.

On a GPU nothing here makes the host wait: what only the host knows (counts, image sizes) is copied without blocking,
and what only the device knows stays there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from maskrcnn_benchmark.structures.bounding_box import BoxList


def to_device(values: Sequence[int] | Sequence[float] | Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Numbers of the host as a tensor on the device, in a copy that does not wait."""
    return torch.tensor(values).to(device, non_blocking=True)


class HostCopy:
    """Numbers of the device that the host wants later.

    The copy starts now, and `wait` is for what the device was given until now, not for what it is given since. On the
    CPU it is the tensor itself.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if values.device.type == "cuda":
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(values.device))

    def wait(self) -> Tensor:
        """The values, on the CPU."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._values


def image_ids_of(counts: Sequence[int], device: torch.device) -> Tensor:
    """Rows per image, N counts -> (sum,) int64: the image that each row belongs to."""
    repeats = torch.tensor(counts, dtype=torch.int64)
    ids = torch.arange(len(counts)).repeat_interleave(repeats, output_size=sum(counts))
    return ids.to(device, non_blocking=True)


def image_sizes_wh(sizes: Sequence[tuple[float, float]], like: Tensor) -> Tensor:
    """N sizes (width, height) -> (N, 2) in the dtype and on the device of `like`."""
    return torch.tensor(sizes, dtype=like.dtype).reshape(-1, 2).to(like.device, non_blocking=True)


def cat_boxes(boxlists: Sequence[BoxList]) -> tuple[Tensor, Tensor]:
    """Boxes of all images in order (R, 4) xyxy, and the image of each (R,) int64."""
    boxes = torch.cat([boxes_per_image.convert("xyxy").bbox for boxes_per_image in boxlists])
    return boxes, image_ids_of([len(boxes_per_image) for boxes_per_image in boxlists], boxes.device)


def pad_boxes(boxlists: Sequence[BoxList]) -> tuple[Tensor, Tensor]:
    """Boxes of all images at one length.

    Returns: (N, P, 4) xyxy, zeros behind an image's last box, and (N, P) bool: is there a box? P is the largest
        count, at least 1, so that an index always has something to point at.
    """
    boxes = pad_sequence([boxes_per_image.convert("xyxy").bbox for boxes_per_image in boxlists], batch_first=True)
    if boxes.shape[1] == 0:
        boxes = boxes.new_zeros((len(boxlists), 1, 4))
    return boxes, is_filled([len(boxes_per_image) for boxes_per_image in boxlists], boxes.shape[1], boxes.device)


def pad_labels(labels: Sequence[Tensor], length: int) -> Tensor:
    """N tensors (P_n,) -> (N, length), zeros behind the last entry of each."""
    padded = pad_sequence(list(labels), batch_first=True)
    return torch.nn.functional.pad(padded, (0, length - padded.shape[1]))


def is_filled(counts: Sequence[int], length: int, device: torch.device) -> Tensor:
    """(N, length) bool: the first counts[n] of row n."""
    return torch.arange(length, device=device) < to_device(counts, device)[:, None]
