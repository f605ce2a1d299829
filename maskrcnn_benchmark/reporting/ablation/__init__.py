"""Ablations: variants of a config, the runs that train and test them with several seeds, and the tables of results."""

from .runs import Run, plan_runs
from .tables import write_tables
from .variants import Ablation, read_ablation

__all__ = ["Ablation", "Run", "plan_runs", "read_ablation", "write_tables"]
