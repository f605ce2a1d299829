"""Names of the SOLVER section and the functions that build what they stand for.

A user's own entry is registered in a module that the config key IMPORTS lists.
"""

from __future__ import annotations

from maskrcnn_benchmark.utils.registry import Registry

OPTIMIZERS = Registry()  # SOLVER.OPTIMIZER: (cfg, parameter groups) -> torch.optim.Optimizer
LR_SCHEDULERS = Registry()  # SOLVER.LR_SCHEDULER: (cfg, optimizer) -> LRScheduler, stepped once per iteration
