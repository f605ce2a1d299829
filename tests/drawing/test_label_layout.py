import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_benchmark.drawing.label_layout import place_labels

side = st.integers(-50, 400)


@settings(max_examples=60, deadline=None)
@given(
    boxes=st.lists(st.tuples(side, side, st.integers(0, 300), st.integers(0, 300)), max_size=25),
    label=st.tuples(st.integers(1, 120), st.integers(1, 40)),
)
def test_labels_are_whole_and_apart(boxes, label):
    extents = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], dtype=float).reshape(-1, 4)
    corners = place_labels(extents, [label] * len(boxes), (320, 240))
    cover = np.zeros((240, 320), dtype=int)
    for left, top in filter(None, corners):
        assert left >= 0 and top >= 0 and left + label[0] <= 320 and top + label[1] <= 240
        cover[top : top + label[1], left : left + label[0]] += 1
    assert cover.max() <= 1
    if boxes:
        assert corners[-1] is not None  # the last chooses first


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([100, 100, 200, 200], (100, 80)),  # above
        ([100, 10, 200, 200], (100, 10)),  # no room above: inside, at the top
        ([-30, 100, 200, 200], (0, 80)),  # pushed in from the left
        ([290, 100, 310, 200], (260, 80)),  # and from the right
    ],
)
def test_where_a_label_likes_to_stand(box, expected):
    assert place_labels(np.array([box], dtype=float), [(60, 20)], (320, 240)) == [expected]


def test_the_next_best_place():
    boxes = np.array([[100.0, 100.0, 200.0, 200.0]] * 3)
    first, second, third = place_labels(boxes, [(60, 20)] * 3, (320, 240))
    assert third == (100, 80) and second == (100, 100)
    assert first is not None and abs(first[0] - 100) <= 60 and abs(first[1] - 100) <= 100


def test_boxes_without_a_label_and_labels_larger_than_the_picture():
    boxes = np.array([[10.0, 10.0, 30.0, 30.0]] * 2)
    assert place_labels(boxes, [(0, 0), (20, 10)], (64, 48)) == [None, (10, 0)]
    assert place_labels(boxes[:1], [(90, 70)], (64, 48)) == [(0, 0)]
    assert place_labels(boxes[:0], [], (64, 48)) == []
