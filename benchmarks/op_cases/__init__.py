"""The cases of benchmarks/ops.py: inputs, contenders and what makes their results equal."""
