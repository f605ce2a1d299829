import pytest
import torch

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.detector import GeneralizedRCNN, build_detection_model
from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads
from maskrcnn_benchmark.modeling.rpn.rpn import RPNModule
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LABELS, MASK, OBJECTNESS, SCORES
from maskrcnn_benchmark.structures.image_list import to_image_list
from tests.devices import DEVICES
from tests.modeling.tiny import (
    ALL_HEADS,
    CHANNELS,
    STRIDES,
    TinyBackbone,
    tiny_batch,
    tiny_cfg,
    tiny_detector,
    tiny_target,
)

LOSSES = {"loss_objectness", "loss_rpn_box_reg", "loss_classifier", "loss_box_reg"}
BRANCH_LOSSES = {"loss_mask", "loss_kp", "loss_refine_mask", "loss_refine_kp"}


def parameters_without_gradient(model):
    return [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
def test_every_parameter_gets_a_gradient(device, offset):
    model = tiny_detector(tiny_cfg(*ALL_HEADS, "MODEL.BOX_OFFSET", offset)).to(device)
    images, targets = tiny_batch(offset)
    losses = model([image.to(device) for image in images], [target.to(device) for target in targets])
    assert set(losses) == LOSSES | BRANCH_LOSSES
    assert all(loss.shape == () and loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert parameters_without_gradient(model) == []
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_images_without_objects_still_reach_every_parameter():
    images, _ = tiny_batch()
    empty = [tiny_target([], (96, 64)), tiny_target([], (72, 80))]
    model = tiny_detector(tiny_cfg(*ALL_HEADS))
    losses = model(images, empty)
    zero = BRANCH_LOSSES | {"loss_box_reg", "loss_rpn_box_reg"}
    assert all(losses[name] == 0 for name in zero) and losses["loss_objectness"] > 0
    sum(losses.values()).backward()
    assert parameters_without_gradient(model) == []


def test_one_image_with_and_one_without_objects():
    images, targets = tiny_batch()
    losses = tiny_detector(tiny_cfg(*ALL_HEADS))(images, [targets[0], tiny_target([], (72, 80))])
    assert all(loss.isfinite() for loss in losses.values()) and losses["loss_mask"] > 0


@pytest.mark.parametrize("device", DEVICES)
def test_detections_of_images_of_different_sizes(device):
    model = tiny_detector(tiny_cfg(*ALL_HEADS, "MODEL.ROI_HEADS.SCORE_THRESH", 0.2)).to(device).eval()
    images, _ = tiny_batch()
    detections = model([image.to(device) for image in images])
    for detections_per_image, size in zip(detections, [(96, 64), (72, 80)], strict=True):
        assert detections_per_image.size == size and detections_per_image.bbox.device.type == device
        assert 0 < len(detections_per_image) <= 100
        assert {SCORES, LABELS, MASK, KEYPOINTS} <= set(detections_per_image.fields())
        boxes = detections_per_image.bbox
        assert (boxes >= 0).all() and (boxes[:, 2] <= size[0] - 1).all() and (boxes[:, 3] <= size[1] - 1).all()


def test_ways_to_give_images_agree_and_a_batch_equals_single_images():
    model = tiny_detector(tiny_cfg("MODEL.ROI_HEADS.SCORE_THRESH", 0.2)).eval()
    images = torch.stack([torch.randn(3, 64, 96), torch.randn(3, 64, 96)])
    batch = model(images)
    for given in (list(images), to_image_list(list(images))):
        for ours, theirs in zip(model(given), batch, strict=True):
            assert torch.equal(ours.bbox, theirs.bbox)
    for index in range(2):
        alone = model(images[index : index + 1])[0]
        assert len(alone) == len(batch[index]) > 0
        torch.testing.assert_close(alone.bbox, batch[index].bbox, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(alone.get_field(SCORES), batch[index].get_field(SCORES), rtol=1e-4, atol=1e-5)


def test_losses_follow_the_seed():
    model, (images, targets) = tiny_detector(tiny_cfg(*ALL_HEADS)), tiny_batch()
    results = []
    for seed in (4, 4, 5):
        torch.manual_seed(seed)
        results.append({name: loss.item() for name, loss in model(images, targets).items()})
    assert results[0] == results[1] != results[2]


@pytest.mark.parametrize("opts", [(), ALL_HEADS], ids=["boxes", "all heads"])
def test_training_lowers_the_loss(opts):
    model, (images, targets) = tiny_detector(tiny_cfg(*opts)), tiny_batch()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(60):
        total = sum(model(images, targets).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    # half way the proposals become good enough to be foreground, and the other heads have more to learn
    assert sum(totals[-5:]) < 0.6 * sum(totals[:5])


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_autocast_trains_and_detects(device):
    model = tiny_detector(tiny_cfg(*ALL_HEADS, "MODEL.ROI_HEADS.SCORE_THRESH", 0.2)).to(device)
    images, targets = tiny_batch()
    images, targets = [image.to(device) for image in images], [target.to(device) for target in targets]
    with torch.autocast(device, dtype=torch.bfloat16):
        losses = model(images, targets)
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        detections = model.eval()(images)
    assert parameters_without_gradient(model) == []
    assert all(d.bbox.dtype == d.get_field(SCORES).dtype == torch.float32 for d in detections)


def test_proposals_alone():
    model, (images, targets) = tiny_detector(tiny_cfg("MODEL.RPN_ONLY", True)), tiny_batch()
    assert model.roi_heads is None
    assert set(model(images, targets)) == {"loss_objectness", "loss_rpn_box_reg"}
    proposals = model.eval()(images)
    assert len(proposals) == 2
    objectness = proposals[0].get_field(OBJECTNESS)
    assert len(objectness) > 0 and torch.equal(objectness, objectness.sort(descending=True).values)


def test_only_the_refine_head_learns():
    model = tiny_detector(tiny_cfg(*ALL_HEADS, "MODEL.ROI_REFINE_HEAD.FREEZE_DETECTOR", True))
    images, targets = tiny_batch()
    losses = model.train()(images, targets)
    assert set(losses) == {"loss_refine_mask", "loss_refine_kp"}
    sum(losses.values()).backward()
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning and all(name.startswith("roi_heads.refine.") for name in learning)
    assert parameters_without_gradient(model) == []


def test_training_needs_targets_that_fit_the_images():
    model, (images, targets) = tiny_detector(tiny_cfg()), tiny_batch()
    with pytest.raises(ValueError, match="the detector needs `targets`"):
        model(images)
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        model(images, targets[:1])
    with pytest.raises(ValueError, match="image 0 of the batch is 96 x 64 pixels .* its target is for 72 x 80"):
        model(images, targets[::-1])
    with pytest.raises(ValueError, match="image 0 of the batch have offset 0, the model's MODEL.BOX_OFFSET is 1"):
        model(images, tiny_batch(offset=0)[1])


@pytest.mark.parametrize(
    "box", [[30, 20, 29, 40], [30, 20, 20, 40], [float("nan"), 20, 30, 40], [0, 0, 9, float("inf")]]
)
def test_a_box_without_area_is_named_with_its_image(box):
    images, targets = tiny_batch()
    targets[1].bbox = torch.tensor([[20.0, 12, 59, 63], box])
    targets[1].add_field(LABELS, torch.tensor([1, 1]))
    with pytest.raises(ValueError, match=r"image 1 of the batch: ground-truth box 1 is \(x1, y1, x2, y2\) = \("):
        tiny_detector(tiny_cfg())(images, targets)


def test_strides_and_scales_are_checked_when_the_model_is_made():
    with pytest.raises(ValueError, match=r"ANCHOR_STRIDE is \(4, 8, 32\), the backbone's levels have the strides \(4,"):
        tiny_detector(tiny_cfg("MODEL.RPN.ANCHOR_STRIDE", (4, 8, 32)))
    with pytest.raises(ValueError, match=r"the box head's POOLER_SCALES are \(0.125, 0.0625\)"):
        tiny_detector(tiny_cfg("MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.125, 0.0625)))


def test_padding_of_single_images_is_the_configurations():
    cfg = tiny_cfg("DATALOADER.SIZE_DIVISIBILITY", 32)
    seen = []
    model = tiny_detector(cfg).eval()
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    model([torch.randn(3, 50, 70)])
    assert seen == [(1, 3, 64, 96)]


def test_built_from_its_parts_alone():
    cfg = tiny_cfg()
    model = GeneralizedRCNN(TinyBackbone(), RPNModule.from_cfg(cfg, CHANNELS), CombinedROIHeads.from_cfg(cfg, CHANNELS))
    assert [name for name, _ in model.named_children()] == ["backbone", "rpn", "roi_heads"]
    assert model.backbone.strides == STRIDES


class OldBackbone(TinyBackbone):
    """A backbone in upstream's style, which declares only `out_channels`."""

    def __init__(self):
        super().__init__()
        del self.strides


def test_a_backbone_without_strides_needs_a_config_that_names_them(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "old", lambda cfg: OldBackbone())
    body = ("MODEL.BACKBONE.CONV_BODY", "old")
    images, targets = tiny_batch()
    assert set(build_detection_model(tiny_cfg(*body))(images, targets)) == LOSSES
    with pytest.raises(ConfigError, match=r"ANCHOR_STRIDE is \(\), .* the backbone has no attribute `strides`"):
        build_detection_model(tiny_cfg(*body, "MODEL.RPN.ANCHOR_STRIDE", ()))
    with pytest.raises(ConfigError, match=r"the box head's POOLER_SCALES is \(\)"):
        build_detection_model(tiny_cfg(*body, "MODEL.ROI_BOX_HEAD.POOLER_SCALES", ()))


def test_left_out_strides_and_scales_give_the_same_model(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "tiny", lambda cfg: TinyBackbone())
    cfg = tiny_cfg("MODEL.BACKBONE.CONV_BODY", "tiny")
    left_out = tiny_cfg("MODEL.BACKBONE.CONV_BODY", "tiny", "MODEL.RPN.ANCHOR_STRIDE", ())
    left_out.MODEL.ROI_BOX_HEAD.POOLER_SCALES = ()
    results = []
    for config in (cfg, left_out):
        torch.manual_seed(3)
        model, (images, targets) = build_detection_model(config), tiny_batch()
        results.append({name: loss.item() for name, loss in model(images, targets).items()})
    assert results[0] == results[1]


def test_a_backbone_must_declare_one_width(monkeypatch):
    monkeypatch.setitem(registry.BACKBONES, "bare", lambda cfg: torch.nn.Flatten())
    with pytest.raises(ConfigError, match="CONV_BODY bare has no attribute `out_channels`"):
        build_detection_model(tiny_cfg("MODEL.BACKBONE.CONV_BODY", "bare"))
