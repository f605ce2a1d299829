"""The seed of a run."""

import torch

from maskrcnn_benchmark.engine.run.seed import be_deterministic, choose_seed, seed_everything
from tests.engine.toy import draws


def test_seeds_decide_everything_and_ranks_differ():
    seed_everything(7)
    first = draws()
    seed_everything(7)
    assert draws() == first
    seed_everything(7, rank=1)
    assert all(a != b for a, b in zip(draws(), first, strict=True))
    assert choose_seed(11) == 11
    chosen = {choose_seed(-1) for _ in range(5)}
    assert len(chosen) > 1 and all(seed >= 0 for seed in chosen)


def test_be_deterministic():
    try:
        be_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
