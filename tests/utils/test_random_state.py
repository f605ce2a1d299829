"""The state of all random number generators."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.engine.run.seed import seed_everything
from maskrcnn_benchmark.utils.random_state import preserve_random_state, random_state, restore_random_state
from tests.devices import DEVICES
from tests.engine.toy import draws


@pytest.mark.parametrize("device", DEVICES)
def test_random_state_survives_a_file(device, tmp_path):
    device = torch.device(device)
    np.random.randn(1)  # leaves a second number cached
    torch.save(random_state(device), tmp_path / "state.pth")
    expected = draws(), torch.rand(2, device=device).tolist(), np.random.randn()
    restore_random_state(torch.load(tmp_path / "state.pth", weights_only=True), device)
    assert (draws(), torch.rand(2, device=device).tolist(), np.random.randn()) == expected


def test_random_numbers_drawn_aside_leave_no_trace():
    seed_everything(1)
    expected = draws()
    seed_everything(1)
    with pytest.raises(KeyError), preserve_random_state(torch.device("cpu")):
        draws()
        raise KeyError
    assert draws() == expected
