import pytest
import torch

from maskrcnn_benchmark.modeling.selection import first_of_groups, split_rows, top_of_rows
from tests.devices import DEVICES


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("length", [5, 79, 80, 83, 1000])
@pytest.mark.parametrize("levels", [None, 3])  # distinct values, or many equal ones
def test_top_of_rows_is_topk(device, length, levels):
    torch.manual_seed(length)
    values = torch.randn(4, length) if levels is None else torch.randint(levels, (4, length)).float()
    values[1], values[2, ::7] = 0.5, torch.nan
    values[3, 1:] = -torch.inf
    best, idxs = top_of_rows(values.to(device), 5)
    torch.testing.assert_close(best.cpu(), values.topk(5, dim=1).values, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(best.cpu(), values.gather(1, idxs.cpu()), equal_nan=True, rtol=0, atol=0)
    assert all(len(set(row)) == 5 for row in idxs.tolist())


@pytest.mark.parametrize("device", DEVICES)
def test_one_image_is_selected_like_one_of_several(device):
    torch.manual_seed(0)
    keep = (torch.rand(30) > 0.4).to(device)
    groups = torch.zeros(30, dtype=torch.int64, device=device)
    alone = first_of_groups(groups, 1, 7, keep)
    assert alone.tolist() == first_of_groups(groups, 2, 7, keep).tolist()
    assert split_rows(alone, groups, 1)[0].tolist() == split_rows(alone, groups, 2)[0].tolist()
