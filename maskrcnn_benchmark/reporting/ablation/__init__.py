"""The ablation of the refine head: its variants and runs, the cost of heads, and the tables of results."""

from .tables import write_tables
from .variants import RETESTED, VARIANTS, Run, plan_runs

__all__ = ["RETESTED", "VARIANTS", "Run", "plan_runs", "write_tables"]
