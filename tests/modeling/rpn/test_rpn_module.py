import pytest
import torch

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.modeling.rpn.rpn import RPNModule
from maskrcnn_benchmark.structures.fields import IS_GROUND_TRUTH
from maskrcnn_benchmark.structures.image_list import to_image_list
from tests.modeling.tiny import CHANNELS, STRIDES, tiny_batch, tiny_cfg


def rpn_inputs():
    images, targets = tiny_batch()
    image_list = to_image_list(images, 16)
    height, width = image_list.tensors.shape[-2:]
    return image_list, [torch.randn(2, CHANNELS, height // s, width // s) for s in STRIDES], targets


def test_training_gives_proposals_and_losses_that_reach_every_parameter():
    images, features, targets = rpn_inputs()
    rpn = RPNModule.from_cfg(tiny_cfg(), CHANNELS)
    proposals, losses = rpn(images, features, targets)
    assert set(losses) == {"loss_objectness", "loss_rpn_box_reg"}
    assert [p.size for p in proposals] == [(96, 64), (72, 80)]
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in rpn.parameters())
    assert not any(p.bbox.requires_grad for p in proposals)


def test_inference_uses_its_own_limits_and_gives_no_losses():
    images, features, _ = rpn_inputs()
    proposals, losses = RPNModule.from_cfg(tiny_cfg("MODEL.RPN.NMS_THRESH", 0.99), CHANNELS).eval()(images, features)
    assert losses == {}
    assert [len(p) for p in proposals] == [30, 30]


def test_proposals_without_the_ground_truth():
    images, features, targets = rpn_inputs()
    found = {}
    for added in (True, False):
        torch.manual_seed(0)
        rpn = RPNModule.from_cfg(tiny_cfg("MODEL.RPN.ADD_GT_PROPOSALS", added), CHANNELS)
        found[added], losses = rpn(images, features, targets)
        assert len(losses) == 2
    for more, fewer, target in zip(found[True], found[False], targets, strict=True):
        assert torch.equal(more.bbox, torch.cat([fewer.bbox, target.bbox]))
        assert not fewer.has_field(IS_GROUND_TRUTH)


def test_rpn_alone_makes_no_proposals_in_training():
    images, features, targets = rpn_inputs()
    proposals, losses = RPNModule.from_cfg(tiny_cfg("MODEL.RPN_ONLY", True), CHANNELS)(images, features, targets)
    assert proposals == [] and len(losses) == 2


def test_state_dict_keys_and_start_values():
    rpn = RPNModule.from_cfg(tiny_cfg(), CHANNELS)
    assert list(rpn.state_dict()) == [
        *(f"anchor_generator.cell_anchors.{level}" for level in range(3)),
        *(f"head.{layer}.{kind}" for layer in ("conv", "cls_logits", "bbox_pred") for kind in ("weight", "bias")),
    ]
    assert rpn.head.cls_logits.weight.shape == (3, CHANNELS, 1, 1)
    assert rpn.head.bbox_pred.weight.shape == (12, CHANNELS, 1, 1)
    assert abs(rpn.head.conv.weight.std().item() - 0.01) < 0.001
    assert rpn.head.conv.bias.eq(0).all()


def test_errors():
    images, features, _ = rpn_inputs()
    with pytest.raises(ValueError, match="the RPN needs `targets`"):
        RPNModule.from_cfg(tiny_cfg(), CHANNELS)(images, features)
    with pytest.raises(ConfigError, match="RPN_HEAD is 'SingleConvRPNHea'; expected one of 'SingleConvRPNHead'"):
        RPNModule.from_cfg(tiny_cfg("MODEL.RPN.RPN_HEAD", "SingleConvRPNHea"), CHANNELS)
