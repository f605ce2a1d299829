"""Schedules against closed forms written down independently."""

import logging
import math

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.solver import WarmupCosineLR, WarmupMultiStepLR


def optimizer_of(*rates):
    return torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates], lr=1.0)


def rates_of(scheduler, iterations):
    """Learning rates in use at iterations 0, 1, ... of a training loop."""
    history = []
    for _ in range(iterations):
        history.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return history


@pytest.mark.parametrize("method", ["linear", "constant"])
def test_steps_after_a_warm_up(method):
    scheduler = WarmupMultiStepLR(optimizer_of(0.02, 0.04), (30, 45), 0.1, 1 / 3, 10, method)
    for iteration, (first, second) in enumerate(rates_of(scheduler, 60)):
        if iteration >= 10:
            warmup = 1.0
        elif method == "constant":
            warmup = 1 / 3
        else:
            warmup = 1 / 3 + (2 / 3) * (iteration / 10)
        drops = sum(iteration >= milestone for milestone in (30, 45))
        expected = 0.02 * warmup * 10.0**-drops
        assert first == pytest.approx(expected, rel=1e-12), iteration
        assert second == pytest.approx(2 * expected, rel=1e-12)


def test_published_recipe_at_its_corners():
    """0.02 from a third of it over 500 iterations, down to a tenth at 60,000 and again at 80,000."""
    scheduler = WarmupMultiStepLR(optimizer_of(0.02), (60000, 80000))
    corners = {0: 0.02 / 3, 250: 0.02 * 2 / 3, 500: 0.02, 59999: 0.02, 60000: 0.002, 79999: 0.002, 80000: 0.0002}
    for iteration, expected in corners.items():
        scheduler.last_epoch = iteration
        assert scheduler.get_lr() == [pytest.approx(expected, rel=1e-12)]


def test_cosine_after_a_warm_up():
    scheduler = WarmupCosineLR(optimizer_of(0.1), 50, warmup_factor=0.01, warmup_iters=5)
    for iteration, (rate,) in enumerate(rates_of(scheduler, 55)):
        cosine = math.cos(math.pi * iteration / 100) ** 2 if iteration <= 50 else 0.0  # (1 + cos 2x) / 2 = cos(x)^2
        warmup = 0.01 + 0.99 * iteration / 5 if iteration < 5 else 1.0
        assert rate == pytest.approx(0.1 * warmup * cosine, rel=1e-9, abs=1e-15), iteration


def test_no_warm_up():
    assert WarmupMultiStepLR(optimizer_of(0.5), (), warmup_iters=0).get_last_lr() == [0.5]


@pytest.mark.parametrize(
    "make", [lambda o: WarmupMultiStepLR(o, (6, 9), warmup_iters=4), lambda o: WarmupCosineLR(o, 12)]
)
def test_a_state_resumes_exactly(make):
    whole = rates_of(make(optimizer_of(0.3, 0.6)), 12)
    for stop in (0, 2, 4, 7):
        stopped = make(optimizer_of(0.3, 0.6))
        rates_of(stopped, stop)
        resumed = make(optimizer_of(0.3, 0.6))
        resumed.load_state_dict(stopped.state_dict())
        assert rates_of(resumed, 12 - stop) == whole[stop:]


def test_the_config_wins_over_a_state_and_differences_are_said(caplog):
    stopped = WarmupMultiStepLR(optimizer_of(0.3), (6, 9), warmup_iters=0)
    rates_of(stopped, 5)
    resumed = WarmupMultiStepLR(optimizer_of(0.3), (4,), gamma=0.5, warmup_iters=0)
    with caplog.at_level(logging.WARNING):
        resumed.load_state_dict(stopped.state_dict())
    assert resumed.optimizer.param_groups[0]["lr"] == 0.15
    assert "milestones (6, 9) -> (4,); gamma 0.1 -> 0.5" in caplog.text


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="the warm-up method is 'slow'; expected one of linear, constant"):
        WarmupMultiStepLR(optimizer_of(0.1), (1,), warmup_method="slow")
    with pytest.raises(ValueError, match=r"the milestones are \(3, 1\); expected rising"):
        WarmupMultiStepLR(optimizer_of(0.1), (3, 1))
