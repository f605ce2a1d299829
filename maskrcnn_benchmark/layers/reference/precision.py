"""The precision in which the references compute."""

import torch
from torch import Tensor


def widened(values: Tensor) -> Tensor:
    """Half-precision values in float32; all others as they are."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
