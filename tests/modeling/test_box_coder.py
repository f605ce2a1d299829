import pytest
import torch
from torchvision.models.detection._utils import BoxCoder as TorchvisionBoxCoder

from maskrcnn_benchmark.layers.boxes import encode_boxes
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from tests.modeling.box_reference import decode_reference, random_boxes

WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def test_half_open_boxes_equal_torchvision():
    boxes, proposals = random_boxes(50, (200, 100)), random_boxes(50, (200, 100))
    ours, theirs = BoxCoder(WEIGHTS, offset=0), TorchvisionBoxCoder(WEIGHTS)
    deltas = ours.encode(boxes, proposals)
    torch.testing.assert_close(deltas, theirs.encode_single(boxes, proposals))
    far = torch.cat([deltas, 40 * torch.randn(50, 4)], dim=1)  # the second set runs into the clamp
    torch.testing.assert_close(
        ours.decode(far, proposals), theirs.decode_single(far, proposals).reshape(50, 8), rtol=1e-4, atol=1e-3
    )


@pytest.mark.parametrize("offset", [0, 1])
def test_decode_undoes_encode_and_equals_loops(offset):
    boxes, proposals = random_boxes(20, (200, 100)), random_boxes(20, (200, 100))
    coder = BoxCoder(WEIGHTS, offset=offset)
    deltas = coder.encode(boxes, proposals)
    assert torch.equal(deltas, encode_boxes(boxes, proposals, WEIGHTS, offset))
    torch.testing.assert_close(coder.decode(deltas, proposals), boxes, rtol=1e-4, atol=1e-3)
    expected = [
        decode_reference(d, p, WEIGHTS, offset) for d, p in zip(deltas.tolist(), proposals.tolist(), strict=True)
    ]
    torch.testing.assert_close(coder.decode(deltas, proposals), torch.tensor(expected), rtol=1e-4, atol=1e-3)


def test_half_precision_deltas_give_boxes_in_full_precision():
    proposals = random_boxes(5, (2000, 2000))
    assert BoxCoder(WEIGHTS).decode(torch.zeros(5, 4, dtype=torch.bfloat16), proposals).dtype == torch.float32
    torch.testing.assert_close(BoxCoder(WEIGHTS).decode(torch.zeros(5, 4, dtype=torch.bfloat16), proposals), proposals)


def test_weights_are_checked():
    with pytest.raises(ValueError, match="four weights"):
        BoxCoder((1.0, 1.0))
