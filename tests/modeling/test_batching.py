import pytest
import torch

from maskrcnn_benchmark.modeling.batching import HostCopy, cat_boxes, image_ids_of, pad_boxes, pad_labels
from maskrcnn_benchmark.modeling.selection import rank_in_group, split_rows
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.devices import DEVICES
from tests.modeling.box_reference import random_boxes


def test_pad_and_cat_boxes():
    boxes = [random_boxes(count, (50, 40)) for count in (2, 0, 3)]
    boxlists = [BoxList(b, (50, 40)) for b in boxes]
    boxlists[0] = boxlists[0].convert("xywh")
    padded, filled = pad_boxes(boxlists)
    assert padded.shape == (3, 3, 4)
    assert filled.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    torch.testing.assert_close(padded[0, :2], boxes[0])
    assert padded[~filled].eq(0).all()
    together, image_ids = cat_boxes(boxlists)
    torch.testing.assert_close(together, torch.cat(boxes))
    assert image_ids.tolist() == [0, 0, 2, 2, 2]


def test_nothing_to_pad_leaves_one_empty_place():
    padded, filled = pad_boxes([BoxList(torch.zeros(0, 4), (5, 5))] * 2)
    assert padded.shape == (2, 1, 4) and not filled.any()
    assert pad_labels([torch.zeros(0, dtype=torch.long)] * 2, 1).tolist() == [[0], [0]]
    assert image_ids_of([0, 0], torch.device("cpu")).shape == (0,)


def test_pad_labels():
    assert pad_labels([torch.tensor([3, 1]), torch.tensor([2])], 4).tolist() == [[3, 1, 0, 0], [2, 0, 0, 0]]


@pytest.mark.parametrize("device", DEVICES)
def test_a_copy_for_the_host_holds_what_the_device_had_then(device):
    values = torch.arange(1000, device=device)
    copied = HostCopy(values)
    later = values * 2  # work that comes after it
    assert copied.wait().tolist() == list(range(1000)) and copied.wait().device.type == "cpu"
    assert later[-1] == 1998


def test_rank_in_group_counts_what_stands_before():
    groups = torch.randint(0, 7, (200,))
    expected = [groups[:index].eq(group).sum().item() for index, group in enumerate(groups)]
    assert rank_in_group(groups, 9).tolist() == expected
    assert rank_in_group(groups[:0], 3).shape == (0,)


def test_split_rows_keeps_the_order_within_each_image():
    image_ids = torch.tensor([1, 0, 1, 3, 0, 1])
    keep = torch.tensor([True, True, False, True, False, True])
    assert [rows.tolist() for rows in split_rows(keep, image_ids, 4)] == [[1], [0, 5], [], [3]]
