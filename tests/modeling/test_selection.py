import pytest
import torch

from maskrcnn_benchmark.modeling.selection import first_of_groups, split_rows
from tests.devices import DEVICES


@pytest.mark.parametrize("device", DEVICES)
def test_one_image_is_selected_like_one_of_several(device):
    torch.manual_seed(0)
    keep = (torch.rand(30) > 0.4).to(device)
    groups = torch.zeros(30, dtype=torch.int64, device=device)
    alone = first_of_groups(groups, 1, 7, keep)
    assert alone.tolist() == first_of_groups(groups, 2, 7, keep).tolist()
    assert split_rows(alone, groups, 1)[0].tolist() == split_rows(alone, groups, 2)[0].tolist()
