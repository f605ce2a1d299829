import math
import statistics

import pytest
import torch

from maskrcnn_benchmark.utils.metric_logger import MetricLogger, SmoothedValue
from tests.devices import DEVICES


def test_statistics_of_a_window_and_of_all_values():
    values = [float(number % 7) for number in range(50)]
    meter = SmoothedValue(window_size=20)
    for value in values:
        meter.update(value)
    assert meter.median == statistics.median_low(values[-20:])
    assert meter.avg == pytest.approx(statistics.fmean(values[-20:]))
    assert meter.global_avg == pytest.approx(statistics.fmean(values))
    assert (meter.count, meter.total, meter.value) == (50, sum(values), values[-1])
    assert list(meter.deque) == values[-20:]


def test_a_meter_without_values_knows_nothing():
    meter = SmoothedValue()
    assert all(math.isnan(value) for value in (meter.median, meter.avg, meter.global_avg, meter.value))


@pytest.mark.parametrize("device", DEVICES)
def test_tensors_and_numbers_mix_in_order(device):
    logger = MetricLogger(delimiter="  ")
    for step in range(3):
        loss = torch.tensor(float(step), device=device, requires_grad=True)
        logger.update(loss=loss, time=0.5, count=step)
    logger.update(loss=7.0)
    assert logger.loss.count == 4  # before anything was fetched
    assert list(logger.loss.deque) == [0.0, 1.0, 2.0, 7.0]
    assert str(logger) == "loss: 1.0000 (2.5000)  time: 0.5000 (0.5000)  count: 1.0000 (1.0000)"


def test_values_stay_on_the_device_until_somebody_looks(monkeypatch):
    fetched = []
    original = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda tensor: fetched.append(tensor.numel()) or original(tensor))
    logger = MetricLogger()
    for _ in range(20):
        logger.update(a=torch.ones(()), b=torch.ones(1), c=torch.ones((), dtype=torch.bfloat16))
    assert fetched == []
    str(logger)
    assert fetched == [60]  # all meters at once


def test_a_loop_that_never_looks_stays_small():
    meter = SmoothedValue()
    for _ in range(2500):
        meter.update(torch.ones(()))
    assert len(meter._pending) < 1000
    assert (meter.count, meter.total) == (2500, 2500.0)


def test_what_is_no_number_is_refused():
    logger = MetricLogger()
    with pytest.raises(TypeError, match=r"meter loss: a tensor of shape \(2,\); expected one number"):
        logger.update(loss=torch.zeros(2))
    with pytest.raises(TypeError, match="meter loss: a str"):
        logger.update(loss="1")
    with pytest.raises(AttributeError, match="no meter 'lose'; it has none"):
        _ = logger.lose
