"""Registries of the optimisers and learning-rate schedulers that the SOLVER section can name.

To add your own, register it in a module and list that module in the config key IMPORTS.
"""

from __future__ import annotations

from maskrcnn_benchmark.utils.registry import Registry

OPTIMIZERS = Registry()  # SOLVER.OPTIMIZER: (cfg, parameter groups) -> torch.optim.Optimizer
LR_SCHEDULERS = Registry()  # SOLVER.LR_SCHEDULER: (cfg, optimizer) -> LRScheduler, stepped once per iteration
