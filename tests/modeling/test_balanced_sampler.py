import pytest
import torch

from maskrcnn_benchmark.modeling.balanced_positive_negative_sampler import BalancedPositiveNegativeSampler
from tests.devices import DEVICES


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("positives", "negatives", "expected"),
    [
        (100, 100, (4, 12)),  # enough of both
        (2, 100, (2, 14)),  # negatives take the places of missing positives
        (100, 3, (4, 3)),  # positives do not exceed their share
        (0, 100, (0, 16)),
        (100, 0, (4, 0)),
        (0, 0, (0, 0)),
    ],
)
def test_counts(device, positives, negatives, expected):
    labels = torch.full((3, 220), -1)
    labels[1, :positives] = torch.randint(1, 5, (positives,))
    labels[1, 100 : 100 + negatives] = 0
    labels = labels[:, torch.randperm(220)].to(device)
    sample = BalancedPositiveNegativeSampler(16, 0.25)(labels)
    assert sample.idxs.shape == (3, 16)
    assert (int(sample.is_positive[1].sum()), int(sample.is_negative[1].sum())) == expected
    assert not sample.filled[[0, 2]].any()
    chosen = sample.idxs[1]
    assert (labels[1][chosen[sample.is_positive[1]]] >= 1).all()
    assert (labels[1][chosen[sample.is_negative[1]]] == 0).all()
    assert len(set(chosen[sample.filled[1]].tolist())) == sum(expected)
    # positives stand first, and places that are not filled last
    kinds = 2 * sample.is_positive[1].int() + sample.is_negative[1].int()
    assert kinds.tolist() == sorted(kinds.tolist(), reverse=True)


def test_fewer_entries_than_places():
    sample = BalancedPositiveNegativeSampler(512, 0.25)(torch.tensor([[1, 0, -1]]))
    assert sample.idxs.shape == (1, 3)
    assert sample.filled.tolist() == [[True, True, False]]
    assert BalancedPositiveNegativeSampler(512, 0.25)(torch.zeros(2, 0, dtype=torch.long)).idxs.shape == (2, 0)


def test_seed_decides_and_every_entry_has_its_turn():
    labels = torch.tensor([[1] * 10 + [0] * 10])
    sampler = BalancedPositiveNegativeSampler(8, 0.5)
    torch.manual_seed(1)
    first = sampler(labels).idxs
    torch.manual_seed(1)
    assert torch.equal(first, sampler(labels).idxs)
    counts = torch.zeros(20)
    for _ in range(2000):
        counts[sampler(labels).idxs[0]] += 1
    # four of ten each time: 800 expected, deviation 22
    assert (counts - 800).abs().max() < 110


def test_settings_are_checked():
    with pytest.raises(ValueError, match="POSITIVE_FRACTION 1.5"):
        BalancedPositiveNegativeSampler(8, 1.5)
