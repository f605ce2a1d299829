"""The cases of benchmarks/ops.py: inputs, contenders, and the comparison of their results."""
