import pytest
import torch

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.boxlist_ops import boxlist_iou, boxlist_nms, cat_boxlist, remove_small_boxes
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

SIZE = (100, 80)


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_nms_keeps_the_best_of_a_heap_with_its_fields(mode):
    boxlist = BoxList([[0, 0, 10, 10], [50, 50, 60, 60], [1, 1, 11, 11], [0, 0, 9, 10]], SIZE).convert(mode)
    boxlist.add_field("scores", torch.tensor([0.5, 0.6, 0.9, 0.4]))
    boxlist.add_field("names", ["a", "b", "c", "d"])
    kept = boxlist_nms(boxlist, 0.5)
    assert kept.get_field("names") == ["c", "b"] and kept.mode == mode
    assert boxlist_nms(boxlist, 0.5, max_proposals=1).get_field("names") == ["c"]
    assert boxlist_nms(boxlist, 0) is boxlist


def test_nms_follows_the_box_convention():
    # 2 x 1 pixels against 3 x 1, inclusive: overlap 2 / 3; half-open boxes of one line have no area
    for offset, count in ((1, 1), (0, 2)):
        boxlist = BoxList([[0, 0, 1, 0], [0, 0, 2, 0]], SIZE, offset=offset)
        boxlist.add_field("objectness", torch.tensor([0.9, 0.8]))
        assert len(boxlist_nms(boxlist, 0.6, score_field="objectness")) == count


@pytest.mark.parametrize(("offset", "kept"), [(1, [1, 2]), (0, [2])])
def test_remove_small_boxes_measures_by_the_convention(offset, kept):
    boxlist = BoxList([[0, 0, 2, 20], [0, 0, 4, 20], [0, 0, 5, 20]], SIZE, offset=offset)
    boxlist.add_field("number", torch.arange(3))
    assert remove_small_boxes(boxlist, 5).get_field("number").tolist() == kept


def test_iou():
    first, second = BoxList([[0, 0, 1, 1]], SIZE), BoxList([[1, 1, 2, 2], [5, 5, 6, 6]], SIZE)
    torch.testing.assert_close(boxlist_iou(first, second), torch.tensor([[1 / 7, 0.0]]))
    torch.testing.assert_close(boxlist_iou(first, second.convert("xywh")), torch.tensor([[1 / 7, 0.0]]))
    with pytest.raises(ValueError, match="offset 1 and 0"):
        boxlist_iou(first, BoxList([[0, 0, 1, 1]], SIZE, offset=0))
    with pytest.raises(ValueError, match=r"\(100, 80\) and \(80, 100\)"):
        boxlist_iou(first, BoxList([[0, 0, 1, 1]], (80, 100)))


def test_cat_joins_boxes_and_all_kinds_of_fields():
    parts = []
    for start, count in ((0, 2), (2, 0), (2, 1)):
        part = BoxList(torch.rand(count, 4), SIZE)
        part.add_field("number", torch.arange(start, start + count))
        part.add_field("mask_boxes", BoxList(part.bbox + 1, SIZE, offset=0))
        part.add_field("names", [str(number) for number in range(start, start + count)])
        part.add_field("masks", SegmentationMask([[[0, 0, 5, 0, 5, 5]]] * count, SIZE))
        keypoints = PersonKeypoints(torch.rand(count, 17, 3), SIZE)
        keypoints.add_field("logits", torch.rand(count, 17))
        part.add_field("keypoints", keypoints)
        parts.append(part)
    joined = cat_boxlist(parts)
    torch.testing.assert_close(joined.bbox, torch.cat([part.bbox for part in parts]))
    assert joined.get_field("number").tolist() == [0, 1, 2] and joined.get_field("names") == ["0", "1", "2"]
    torch.testing.assert_close(joined.get_field("mask_boxes").bbox, joined.bbox + 1)
    assert len(joined.get_field("masks")) == 3
    assert joined.get_field("keypoints").get_field("logits").shape == (3, 17)


def test_cat_refuses_what_does_not_belong_together():
    first, second = BoxList([[0, 0, 1, 1]], SIZE), BoxList([[0, 0, 1, 1]], SIZE)
    second.add_field("labels", torch.ones(1))
    with pytest.raises(ValueError, match=r"fields \[\] and \['labels'\] differ"):
        cat_boxlist([first, second])
    with pytest.raises(ValueError, match="modes 'xyxy' and 'xywh'"):
        cat_boxlist([first, first.convert("xywh")])
    with pytest.raises(ValueError, match="no BoxList"):
        cat_boxlist([])
    first.add_field("labels", 3)
    second.add_field("labels", 3)
    with pytest.raises(ValueError, match="cannot join field 'labels' of type int"):
        cat_boxlist([first, second])
