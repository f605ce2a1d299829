"""Who keeps their number from frame to frame."""

import torch

from maskrcnn_benchmark.streams.identities import Identities
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList


def found(*boxes, labels=None):
    boxlist = BoxList([list(map(float, box)) for box in boxes], (200, 100))
    if labels is not None:
        boxlist.add_field(fields.LABELS, torch.tensor(labels))
    return boxlist


def numbers(identities, boxlist):
    numbered = identities.assign(boxlist)
    assert not boxlist.has_field(fields.IDENTITIES)
    return numbered.get_field(fields.IDENTITIES).tolist()


def test_who_moves_a_little_keeps_the_number_whatever_the_order():
    identities = Identities()
    assert numbers(identities, found([10, 10, 40, 80], [100, 10, 140, 80])) == [0, 1]
    assert numbers(identities, found([105, 12, 145, 82], [12, 10, 42, 80], [60, 0, 80, 40])) == [1, 0, 2]
    assert numbers(identities, found([60, 0, 80, 40], [110, 12, 150, 82])) == [2, 1]


def test_who_is_gone_for_a_while_comes_back_and_for_long_is_new():
    identities = Identities(memory=3)
    assert numbers(identities, found([10, 10, 40, 80])) == [0]
    for _ in range(3):
        assert numbers(identities, found()) == []
    assert numbers(identities, found([12, 10, 42, 80])) == [0]
    for _ in range(4):
        numbers(identities, found())
    assert numbers(identities, found([12, 10, 42, 80])) == [1]


def test_the_better_overlap_wins_and_labels_do_not_mix():
    identities = Identities()
    assert numbers(identities, found([10, 10, 50, 90], labels=[1])) == [0]
    assert numbers(identities, found([20, 10, 60, 90], [11, 10, 51, 90], labels=[1, 1])) == [1, 0]
    assert numbers(identities, found([11, 10, 51, 90], labels=[2])) == [2]


def test_xywh_boxes_stay_so():
    boxes = BoxList([[10.0, 10.0, 30.0, 70.0]], (200, 100), mode="xywh")
    numbered = Identities().assign(boxes)
    assert numbered.mode == "xywh" and torch.equal(numbered.bbox, boxes.bbox)
