"""What changes the weights: optimiser, learning-rate schedule, gradient clipping, running mean."""

from .build import make_lr_scheduler, make_optimizer
from .clip import make_gradient_clipper
from .ema import ModelEMA
from .lr_scheduler import WarmupCosineLR, WarmupMultiStepLR

__all__ = [
    "ModelEMA",
    "WarmupCosineLR",
    "WarmupMultiStepLR",
    "make_gradient_clipper",
    "make_lr_scheduler",
    "make_optimizer",
]
