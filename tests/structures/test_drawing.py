import numpy as np
import pytest
import torch

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.drawing import draw_instances, side_by_side
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

SIZE = (160, 120)


def grey():
    return np.full((120, 160, 3), 128, dtype=np.uint8)


def changed(drawn):
    return (drawn != 128).any(axis=2)


def boxes(*corners, offset=1, **fields_):
    boxlist = BoxList(corners, SIZE, offset=offset)
    for name, value in fields_.items():
        boxlist.add_field(name, value)
    return boxlist


@pytest.mark.parametrize("offset", [0, 1])
def test_a_box_frames_the_pixels_it_covers(offset):
    image = grey()
    drawn = draw_instances(image, boxes([20, 30, 80 - offset, 90 - offset], offset=offset))
    assert (image == 128).all() and drawn.dtype == np.uint8
    rows, columns = changed(drawn).nonzero()
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (20, 30, 79, 89)
    assert not changed(drawn)[35:85, 25:75].any()


def test_masks_tint_their_pixels_only():
    square = [[40, 40, 60, 40, 60, 60, 40, 60]]
    truth = boxes([0, 0, 159, 119], masks=SegmentationMask([square], SIZE))
    inner = np.zeros((120, 160), dtype=bool)
    inner[40:60, 40:60] = True
    inside = changed(draw_instances(grey(), truth))[5:115, 5:155]
    np.testing.assert_array_equal(inside, inner[5:115, 5:155])


def test_predicted_masks_are_pasted_through_what_they_span():
    mask = torch.ones(1, 1, 28, 28)
    spans = BoxList([[30.0, 30.0, 90.0, 80.0]], SIZE, offset=0)
    coarse = changed(draw_instances(grey(), boxes([40, 40, 69, 69], mask=mask)))
    refined = changed(draw_instances(grey(), boxes([40, 40, 69, 69], mask=mask, mask_boxes=spans)))
    assert coarse[40:70, 40:70].all() and coarse.sum() == 900
    assert refined[31:79, 31:89].all() and not refined[:29].any() and not refined[:, 91:].any()
    pasted = torch.zeros(1, 1, 120, 160, dtype=torch.bool)
    pasted[..., 100:110, 100:110] = True
    whole = changed(draw_instances(grey(), boxes([40, 40, 69, 69], mask=pasted)))
    assert whole[100:110, 100:110].all()


def test_sides_have_colours_and_hidden_points_are_not_drawn():
    points = torch.zeros(1, 17, 3)
    for name, x, visibility in (("left_knee", 40, 2), ("right_knee", 80, 2), ("nose", 120, 2), ("left_hip", 20, 0)):
        points[0, PersonKeypoints.NAMES.index(name)] = torch.tensor([x, 60, visibility])
    drawn = draw_instances(grey(), boxes([0, 0, 159, 119], keypoints=PersonKeypoints(points, SIZE)))
    red, green, blue = drawn[60, 40].astype(int)
    assert green > red + 80 and green > blue
    red, green, blue = drawn[60, 80].astype(int)
    assert red > green + 40 and red > blue + 80
    red, green, blue = drawn[60, 120].astype(int)
    assert blue > red + 80
    assert (drawn[60, 20] == 128).all()


def test_scores_and_logits_select():
    points = torch.zeros(2, 17, 3)
    points[..., :2] = torch.tensor([[[30.0, 60.0]], [[100.0, 60.0]]])
    points[..., 2] = 1
    keypoints = PersonKeypoints(points, SIZE)
    keypoints.add_field(fields.LOGITS, torch.tensor([[5.0], [1.0]]).expand(2, 17))
    boxlist = boxes(
        [20, 50, 40, 70], [90, 50, 110, 70], keypoints=keypoints, scores=torch.tensor([0.9, 0.3]),
        labels=torch.tensor([1, 7]),
    )  # fmt: skip
    everything = changed(draw_instances(grey(), boxlist, ["background", "person"], show_labels=False))
    assert everything[60, 30] and everything[60, 100]
    certain = changed(draw_instances(grey(), boxlist, score_threshold=0.5))
    assert certain[60, 30] and not certain[:, 85:].any()
    strong = changed(draw_instances(grey(), boxlist, {1: "person"}, keypoint_threshold=2.0, show_labels=False))
    assert strong[60, 30] and not strong[60, 100]
    written = changed(draw_instances(grey(), boxlist, ["background", "person"]))
    assert written[30:48, 20:60].sum() > 100  # the label above the first box


def test_labels_stay_on_the_picture():
    corners = [[-30, -30, 10, 10], [150, 110, 400, 400], [0, 0, 159, 119]]
    drawn = draw_instances(
        grey(), boxes(*corners, labels=torch.tensor([1, 2, 3])), [f"a long name {i}" for i in range(4)]
    )
    assert drawn.shape == (120, 160, 3)


def test_nothing_to_draw():
    empty = boxes(
        masks=SegmentationMask([], SIZE), keypoints=PersonKeypoints([], SIZE), labels=torch.zeros(0, dtype=torch.int64)
    )
    assert not changed(draw_instances(grey(), empty)).any()
    empty = boxes(mask=torch.zeros(0, 1, 28, 28), scores=torch.zeros(0))
    assert not changed(draw_instances(grey(), empty)).any()


def test_side_by_side():
    red, blue = np.zeros((60, 40, 3), np.uint8), np.zeros((120, 80, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    plain = side_by_side([red, blue], gap=10)
    assert plain.shape == (120, 80 + 10 + 80, 3)
    assert (plain[:, :80] == (255, 0, 0)).all() and (plain[:, 90:] == (0, 0, 255)).all()
    assert (plain[:, 80:90] == 255).all()
    titled = side_by_side([red, blue], ["ground truth", "prediction"], height=60)
    assert titled.shape[0] > 60 and titled.shape[1] == 40 + 8 + 40
    assert (titled[: titled.shape[0] - 60] < 128).any()
    with pytest.raises(ValueError, match="1 panels with 2 titles"):
        side_by_side([red], ["a", "b"])
    with pytest.raises(ValueError, match="0 panels"):
        side_by_side([])


def test_errors():
    with pytest.raises(ValueError, match=r"RGB image \(H, W, 3\) of uint8, not \(120, 160, 3\) float64"):
        draw_instances(grey() / 255, boxes([0, 0, 5, 5]))
    with pytest.raises(ValueError, match=r"boxes of an image of \(160, 120\), the picture is \(120, 160\)"):
        draw_instances(grey().transpose(1, 0, 2), boxes([0, 0, 5, 5]))
