"""What updates the weights: optimizer, learning-rate schedule, gradient clipping, running mean."""

from . import optimizers  # noqa: F401  (registers its entries)
from .build import find_solver_problems, make_lr_scheduler, make_optimizer
from .clip import make_gradient_clipper
from .ema import ModelEMA, make_ema
from .lr_scheduler import WarmupCosineLR, WarmupLR, WarmupMultiStepLR, warmup_settings
from .registry import LR_SCHEDULERS, OPTIMIZERS

__all__ = [
    "LR_SCHEDULERS",
    "OPTIMIZERS",
    "ModelEMA",
    "WarmupCosineLR",
    "WarmupLR",
    "WarmupMultiStepLR",
    "find_solver_problems",
    "make_ema",
    "make_gradient_clipper",
    "make_lr_scheduler",
    "make_optimizer",
    "warmup_settings",
]
