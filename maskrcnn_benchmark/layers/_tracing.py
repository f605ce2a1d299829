"""Helpers of the fake kernels, which give PyTorch's tracers the shape and format of a result without computing it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

FakeKernel = TypeVar("FakeKernel", bound=Callable[..., Any])


def fake_kernel(op: str) -> Callable[[FakeKernel], FakeKernel]:
    """Decorate a function to register it as the fake kernel of one of the package's ops."""

    def register(kernel: FakeKernel) -> FakeKernel:
        torch.library.register_fake(f"maskrcnn_benchmark::{op}", kernel)
        return kernel

    return register


def check_one_device(op: str, first: str, second: str, *tensors: Tensor) -> None:
    """Raise the compiled kernels' error if the tensors are on several devices. Raises: RuntimeError."""
    if len({tensor.device for tensor in tensors}) > 1:
        raise RuntimeError(f"{op}: {first} and {second} must be on one device; move {second} with .to()")


def memory_format(maps: Tensor) -> torch.memory_format:
    """The format that ROIAlign's output shares with its input: channels last, or contiguous for any other layout."""
    is_plain = maps.is_contiguous() or not maps.is_contiguous(memory_format=torch.channels_last)
    return torch.contiguous_format if is_plain else torch.channels_last
