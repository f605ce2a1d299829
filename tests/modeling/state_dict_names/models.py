"""Weights and configs of the tests in this folder."""

from pathlib import Path

import torch

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def deterministic(state, seed):
    """Random values of the same shapes; variances are positive, counters are small integers."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, value in state.items():
        if not value.is_floating_point():
            values[name] = torch.tensor(7)
            continue
        values[name] = torch.randn(value.shape, generator=generator) * 0.1
        if name.endswith("running_var"):
            values[name] = values[name].abs() + 0.5
    return values


def same_weights(actual, expected):
    assert sorted(actual) == sorted(expected)
    for name, value in expected.items():
        assert torch.equal(actual[name], value), name
