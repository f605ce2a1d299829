import numpy as np
import pytest
import torch

from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, BoxList
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

SIZE = (12, 9)  # width, height
BOXES = [[1.0, 2.0, 5.0, 6.0], [3.0, 4.0, 11.0, 8.0], [0.0, 0.0, 2.0, 1.0]]


def covered(boxlist, size=SIZE):
    """Which pixels each box covers, (R, H, W) bool, by the definition of its convention."""
    masks = np.zeros((len(boxlist), size[1], size[0]), dtype=bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxlist.convert("xyxy").bbox.tolist(), strict=True):
        mask[int(y1) : int(y2) + boxlist.offset, int(x1) : int(x2) + boxlist.offset] = True
    return masks


def full_boxlist(offset=1):
    """One of everything that a field can be."""
    boxlist = BoxList(BOXES, SIZE, offset=offset)
    boxlist.add_field("labels", torch.tensor([1, 2, 3]))
    boxlist.add_field("masks", SegmentationMask([[[1, 2, 6, 2, 6, 7, 1, 7]]] * 3, SIZE))
    boxlist.add_field("keypoints", PersonKeypoints(torch.rand(3, 17, 3), SIZE))
    boxlist.add_field("mask_boxes", BoxList(boxlist.bbox * 0.5, SIZE, offset=0))
    boxlist.add_field("names", ["a", "b", "c"])
    boxlist.add_field("array", np.arange(3))
    return boxlist


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
@pytest.mark.parametrize(("method", "axis"), [(FLIP_LEFT_RIGHT, 2), (FLIP_TOP_BOTTOM, 1)])
def test_flip_covers_the_mirrored_pixels(offset, mode, method, axis):
    boxlist = BoxList(BOXES, SIZE, offset=offset).convert(mode)
    flipped = boxlist.transpose(method)
    assert flipped.mode == mode and flipped.offset == offset
    np.testing.assert_array_equal(covered(flipped), np.flip(covered(boxlist), axis))
    torch.testing.assert_close(flipped.transpose(method).bbox, boxlist.bbox)


@pytest.mark.parametrize("offset", [0, 1])
def test_modes_areas_and_extents_count_pixels(offset):
    boxlist = BoxList(BOXES, SIZE, offset=offset)
    pixels = torch.from_numpy(covered(boxlist).sum((1, 2))).float()
    torch.testing.assert_close(boxlist.area(), pixels)
    xywh = boxlist.convert("xywh")
    torch.testing.assert_close(xywh.bbox[:, 2] * xywh.bbox[:, 3], pixels)
    torch.testing.assert_close(xywh.area(), pixels)
    torch.testing.assert_close(xywh.convert("xyxy").bbox, boxlist.bbox)
    torch.testing.assert_close(boxlist.extents(), boxlist.bbox + torch.tensor([0, 0, offset, offset]))
    columns = xywh._split_into_xyxy()
    assert all(column.shape == (3, 1) for column in columns)
    torch.testing.assert_close(torch.cat(columns, dim=1), boxlist.bbox)


@pytest.mark.parametrize("mode", ["xyxy", "xywh"])
def test_resize_multiplies_corners_by_each_axis_own_ratio(mode):
    resized = BoxList(BOXES, SIZE).convert(mode).resize((24, 27))
    assert resized.size == (24, 27) and resized.mode == mode
    torch.testing.assert_close(resized.convert("xyxy").bbox, torch.tensor(BOXES) * torch.tensor([2.0, 3.0, 2.0, 3.0]))


@pytest.mark.parametrize("offset", [0, 1])
def test_crop_covers_the_same_pixels_of_the_window(offset):
    boxlist = BoxList(BOXES[:2], SIZE, offset=offset)
    cropped = boxlist.crop((2, 3, 10, 8))
    assert cropped.size == (8, 5) and len(cropped) == 2
    np.testing.assert_array_equal(covered(cropped, (8, 5)), covered(boxlist)[:, 3:8, 2:10])


@pytest.mark.parametrize("offset", [0, 1])
def test_clip_to_image(offset):
    boxlist = BoxList([[-5.0, -5.0, 3.0, 30.0], [20.0, 1.0, 30.0, 3.0], [4.0, 4.0, 4.0, 8.0]], SIZE, offset=offset)
    before = boxlist.bbox.clone()
    clipped = boxlist.clip_to_image(remove_empty=False)
    edge_x, edge_y = SIZE[0] - offset, SIZE[1] - offset
    expected = torch.tensor([[0, 0, 3, edge_y], [edge_x, 1, edge_x, 3], [4, 4, 4, 8]], dtype=torch.float32)
    torch.testing.assert_close(clipped.bbox, expected)
    torch.testing.assert_close(boxlist.clip_to_image().bbox, expected[:1])  # corners that coincide are empty
    torch.testing.assert_close(boxlist.bbox, before)


@pytest.mark.parametrize(
    ("index", "expected"),
    [
        (torch.tensor([2, 0]), [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.zeros(3, dtype=torch.bool), []),
        (torch.tensor(2), [2]),
        (slice(0, 2), [0, 1]),
        (slice(None, None, 2), [0, 2]),
        ([1, 1], [1, 1]),
        ([False, True, False], [1]),
        (np.array([-1]), [2]),
        (1, [1]),
        ([], []),
    ],
    ids=str,
)
def test_indexing_selects_boxes_and_every_field_alike(index, expected):
    boxlist = full_boxlist()
    selected = boxlist[index]
    assert isinstance(selected, BoxList) and len(selected) == len(expected)
    torch.testing.assert_close(selected.bbox, boxlist.bbox[expected])
    assert selected.get_field("labels").tolist() == [1 + position for position in expected]
    assert selected.get_field("names") == ["abc"[position] for position in expected]
    assert selected.get_field("array").tolist() == expected
    keypoints = boxlist.get_field("keypoints").keypoints
    torch.testing.assert_close(selected.get_field("keypoints").keypoints, keypoints[expected])
    assert len(selected.get_field("masks")) == len(expected)
    torch.testing.assert_close(selected.get_field("mask_boxes").bbox, boxlist.bbox[expected] * 0.5)
    assert len(boxlist) == 3


def test_fields_follow_the_image():
    boxlist = full_boxlist()
    resized = boxlist.resize((24, 9))
    assert resized.get_field("masks").size == resized.get_field("keypoints").size == (24, 9)
    torch.testing.assert_close(resized.get_field("mask_boxes").bbox[:, 0], boxlist.bbox[:, 0])
    assert resized.get_field("labels").tolist() == [1, 2, 3] and resized.get_field("names") == ["a", "b", "c"]

    cropped = boxlist.crop([2, 2, 8, 8])
    for name in ("masks", "keypoints", "mask_boxes"):
        assert cropped.get_field(name).size == (6, 6), name

    moved = boxlist.to("cpu")
    assert set(moved.fields()) == set(boxlist.fields()) and moved.offset == boxlist.offset

    flipped = boxlist.transpose(FLIP_LEFT_RIGHT)
    # a nested BoxList has a convention of its own
    torch.testing.assert_close(flipped.get_field("mask_boxes").bbox[:, 0], 12 - 0.5 * boxlist.bbox[:, 2])
    mask = boxlist.get_field("masks").get_mask_tensor()
    torch.testing.assert_close(flipped.get_field("masks").get_mask_tensor(), mask.flip(2))


@pytest.mark.parametrize("offset", [0, 1])
def test_flip_hands_its_offset_to_keypoints(offset):
    boxlist = full_boxlist(offset)
    nose = boxlist.get_field("keypoints").keypoints[:, 0, 0]
    flipped = boxlist.transpose(FLIP_LEFT_RIGHT).get_field("keypoints").keypoints[:, 0, 0]
    torch.testing.assert_close(flipped, 12 - offset - nose)


def test_operations_leave_their_input_alone():
    boxlist = full_boxlist()
    boxes, keypoints = boxlist.bbox.clone(), boxlist.get_field("keypoints").keypoints.clone()
    for changed in (boxlist.resize((5, 5)), boxlist.transpose(0), boxlist.crop([1, 1, 4, 4]), boxlist[[0]]):
        changed.bbox.zero_()
        changed.add_field("new", torch.zeros(len(changed)))
    torch.testing.assert_close(boxlist.bbox, boxes)
    torch.testing.assert_close(boxlist.get_field("keypoints").keypoints, keypoints)
    assert not boxlist.has_field("new")


def test_copy_with_fields():
    boxlist = full_boxlist()
    assert boxlist.copy_with_fields("labels").fields() == ["labels"]
    assert boxlist.copy_with_fields(["labels", "scores"], skip_missing=True).fields() == ["labels"]
    with pytest.raises(KeyError, match="no field 'scores'; fields present: array, keypoints, labels"):
        boxlist.copy_with_fields(["scores"])


def test_empty_boxlist_goes_through_everything():
    empty = BoxList([], SIZE)
    empty.add_field("keypoints", PersonKeypoints([], SIZE))
    empty.add_field("masks", SegmentationMask([], SIZE))
    for result in (
        empty.resize((3, 4)),
        empty.transpose(0),
        empty.crop([0, 0, 2, 2]),
        empty.clip_to_image(),
        empty[[]],
    ):
        assert result.bbox.shape == (0, 4)
        assert result.get_field("keypoints").keypoints.shape == (0, 17, 3)
    assert empty.area().shape == (0,) and empty.convert("xywh").bbox.shape == (0, 4)


def test_gradient_reaches_the_boxes():
    boxes = torch.tensor(BOXES, requires_grad=True)
    BoxList(boxes, SIZE).transpose(0).resize((24, 18)).bbox.sum().backward()
    torch.testing.assert_close(boxes.grad, torch.tensor([[-2.0, 2.0, -2.0, 2.0]] * 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1, 2, 3]], SIZE), r"\(R, 4\), not \(1, 3\)"),
        (([1, 2, 3, 4], SIZE), r"\(R, 4\), not \(4,\)"),
        ((BOXES, SIZE, "cxcywh"), "mode is 'cxcywh'; it can be 'xyxy' or 'xywh'"),
        ((BOXES, 7), r"image size is \(width, height\)"),
        ((BOXES, (1, 2, 3)), r"image size is \(width, height\)"),
        ((BOXES, SIZE, "xyxy", 2), "offset is 2"),
    ],
)
def test_bad_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        BoxList(*arguments)


def test_bad_calls():
    boxlist = BoxList(BOXES, SIZE)
    with pytest.raises(KeyError, match="3 boxes has no field 'labels'; fields present: none"):
        boxlist.get_field("labels")
    with pytest.raises(ValueError, match="given 7"):
        boxlist.transpose(7)
    with pytest.raises(ValueError, match="x2 > x1"):
        boxlist.crop([3, 3, 3, 5])
    with pytest.raises(ValueError, match="knows 'xyxy' and 'xywh'"):
        boxlist.convert("yxyx")
    assert "num_boxes=3, image_width=12, image_height=9, mode=xyxy" in repr(boxlist)
