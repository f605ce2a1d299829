"""Box geometry against hand-made numbers, torchvision (which knows one convention only) and plain loops."""

import math

import pytest
import torch

from maskrcnn_benchmark.layers.boxes import (
    HALF_OPEN,
    INCLUSIVE,
    box_areas,
    box_extents,
    box_sizes,
    clip_boxes,
    convert_boxes,
    decode_boxes,
    encode_boxes,
    expand_boxes,
    pairwise_iou,
)
from tests.devices import DEVICES

OFFSETS = (HALF_OPEN, INCLUSIVE)


def random_boxes(*shape: int, device: str = "cpu") -> torch.Tensor:
    corners = torch.rand(*shape, 2, 2, dtype=torch.float64) * 90
    sizes = torch.rand(*shape, 2, dtype=torch.float64) * 40 + 1
    near = corners[..., 0, :]
    return torch.cat([near, near + sizes], dim=-1).to(device)


def test_one_pixel_box_in_both_conventions():
    box = torch.tensor([[3.0, 4.0, 3.0, 4.0]])
    assert [size.item() for size in box_sizes(box, INCLUSIVE)] == [1, 1]
    assert [size.item() for size in box_sizes(box, HALF_OPEN)] == [0, 0]
    assert box_areas(box, INCLUSIVE).item() == 1 and box_areas(box, HALF_OPEN).item() == 0
    assert box_extents(box, INCLUSIVE).tolist() == [[3, 4, 4, 5]]
    assert box_extents(box, HALF_OPEN).tolist() == [[3, 4, 3, 4]]


@pytest.mark.parametrize("offset", OFFSETS)
def test_extents_have_the_size_of_the_boxes(offset):
    boxes = random_boxes(7)
    torch.testing.assert_close(box_areas(box_extents(boxes, offset), HALF_OPEN), box_areas(boxes, offset))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", OFFSETS)
def test_clip_moves_corners_onto_the_image(offset, device):
    boxes = torch.tensor([[-5.0, -6.0, 200.0, 300.0], [10, 20, 30, 40], [150, 90, 160, 95]], device=device)
    far_x, far_y = 100 - offset, 80 - offset
    expected = [[0, 0, far_x, far_y], [10, 20, 30, 40], [far_x, far_y, far_x, far_y]]
    assert clip_boxes(boxes, (100, 80), offset).tolist() == expected
    sizes = torch.tensor([[[100.0, 80.0]], [[50.0, 30.0]]], device=device)  # two images of different size
    batched = clip_boxes(boxes.expand(2, 3, 4), sizes, offset)
    assert batched[0].tolist() == expected
    assert batched[1].tolist() == clip_boxes(boxes, (50, 30), offset).tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", OFFSETS)
def test_pairwise_iou_matches_loops_and_torchvision(offset, device, torchvision_ops):
    boxes1, boxes2 = random_boxes(6, device=device), random_boxes(9, device=device)
    overlaps = pairwise_iou(boxes1, boxes2, offset)
    for i, (ax1, ay1, ax2, ay2) in enumerate(boxes1.tolist()):
        for j, (bx1, by1, bx2, by2) in enumerate(boxes2.tolist()):
            width = max(0.0, min(ax2, bx2) - max(ax1, bx1) + offset)
            height = max(0.0, min(ay2, by2) - max(ay1, by1) + offset)
            area1 = (ax2 - ax1 + offset) * (ay2 - ay1 + offset)
            area2 = (bx2 - bx1 + offset) * (by2 - by1 + offset)
            expected = width * height / (area1 + area2 - width * height)
            assert overlaps[i, j].item() == pytest.approx(expected, abs=1e-12)
    extents = box_extents(boxes1, offset), box_extents(boxes2, offset)
    torch.testing.assert_close(overlaps, torchvision_ops.box_iou(*extents))


def test_pairwise_iou_broadcasts_and_leaves_its_inputs_alone():
    boxes1, boxes2 = random_boxes(2, 3), random_boxes(5)
    before = boxes1.clone(), boxes2.clone()
    batched = pairwise_iou(boxes1, boxes2, INCLUSIVE)
    assert batched.shape == (2, 3, 5)
    torch.testing.assert_close(batched[1], pairwise_iou(boxes1[1], boxes2, INCLUSIVE))
    assert torch.equal(boxes1, before[0]) and torch.equal(boxes2, before[1])
    single = pairwise_iou(boxes1[0, :1], boxes1[0, :1], INCLUSIVE)  # broadcasting degenerates to a plain view
    assert single.item() == pytest.approx(1) and torch.equal(boxes1, before[0])


def test_pairwise_iou_of_empty_inverted_and_no_boxes():
    degenerate = torch.tensor([[5.0, 5.0, 5.0, 5.0], [9.0, 9.0, 2.0, 2.0]])
    assert pairwise_iou(degenerate, degenerate, HALF_OPEN).tolist() == [[0, 0], [0, 0]]
    assert pairwise_iou(degenerate, degenerate, INCLUSIVE).tolist() == [[1, 0], [0, 0]]
    assert pairwise_iou(degenerate[:0], degenerate, INCLUSIVE).shape == (0, 2)


def test_encode_by_hand():
    reference = torch.tensor([[0.0, 0.0, 9.0, 19.0]])  # inclusive: 10 x 20, centre (5, 10)
    box = torch.tensor([[5.0, 10.0, 24.0, 29.0]])  # 20 x 20, centre (15, 20)
    deltas = encode_boxes(box, reference, (10, 10, 5, 5), INCLUSIVE)
    torch.testing.assert_close(deltas, torch.tensor([[10.0, 5.0, 5 * math.log(2), 0.0]]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", OFFSETS)
def test_decode_inverts_encode(offset, device):
    boxes, references = random_boxes(3, 8, device=device), random_boxes(3, 8, device=device)
    weights = (10.0, 9.0, 5.0, 4.0)
    deltas = encode_boxes(boxes, references, weights, offset)
    torch.testing.assert_close(decode_boxes(deltas, references, weights, offset), boxes)
    three_sets = torch.cat([deltas, deltas * 0, deltas], dim=-1)
    expected = torch.cat([boxes, references, boxes], dim=-1)
    torch.testing.assert_close(decode_boxes(three_sets, references, weights, offset), expected)


def test_decode_clamps_sizes_and_keeps_the_precision_of_the_references():
    reference = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    deltas = torch.tensor([[0.0, 0.0, 100.0, 100.0]], dtype=torch.float16)
    decoded = decode_boxes(deltas, reference, (1, 1, 1, 1), HALF_OPEN)
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded, torch.tensor([[-492.0, -492.0, 508.0, 508.0]]))
    assert decode_boxes(torch.zeros(0, 8), torch.zeros(0, 4), (1, 1, 1, 1), INCLUSIVE).shape == (0, 8)


@pytest.mark.parametrize("offset", OFFSETS)
def test_convert_boxes_round_trip_and_errors(offset):
    boxes = random_boxes(5)
    as_sizes = convert_boxes(boxes, "xyxy", "xywh", offset)
    torch.testing.assert_close(as_sizes[:, 2] * as_sizes[:, 3], box_areas(boxes, offset))
    torch.testing.assert_close(convert_boxes(as_sizes, "xywh", "xyxy", offset), boxes)
    assert convert_boxes(boxes, "xyxy", "xyxy", offset) is boxes
    empty = convert_boxes(torch.tensor([[3.0, 4.0, 0.0, 0.0]]), "xywh", "xyxy", offset)
    assert empty.tolist() == [[3, 4, 3, 4]]
    with pytest.raises(ValueError, match="'cxcywh' is unknown"):
        convert_boxes(boxes, "xyxy", "cxcywh", offset)


def test_expand_boxes_keeps_the_centre_and_the_image():
    extents = torch.tensor([[20.0, 30.0, 40.0, 60.0], [0.0, 0.0, 10.0, 10.0]])
    expected = [[17.0, 25.5, 43.0, 64.5], [0.0, 0.0, 11.5, 11.5]]
    torch.testing.assert_close(expand_boxes(extents, 1.3, (100, 80)), torch.tensor(expected))
    sizes = torch.tensor([[42.0, 64.0], [11.0, 100.0]])
    expected = [[17.0, 25.5, 42.0, 64.0], [0.0, 0.0, 11.0, 11.5]]
    torch.testing.assert_close(expand_boxes(extents, 1.3, sizes), torch.tensor(expected))


@pytest.mark.parametrize("offset", OFFSETS)
def test_gradients_flow_through_the_geometry(offset):
    boxes, references = random_boxes(3).requires_grad_(), random_boxes(3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: encode_boxes(a, b, (10, 10, 5, 5), offset), (boxes, references))
    assert torch.autograd.gradcheck(lambda a, b: decode_boxes(a * 0.01, b, (1, 1, 1, 1), offset), (boxes, references))
    assert torch.autograd.gradcheck(lambda a, b: pairwise_iou(a, b, offset), (boxes, references))
