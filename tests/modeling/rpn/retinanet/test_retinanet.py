"""RetinaNet as a detector: anchors, head, training, detections, and what its config may say."""

import math

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model, find_config_problems
from maskrcnn_benchmark.modeling.roi_heads.roi_head import tasks_of
from maskrcnn_benchmark.modeling.rpn.build import build_rpn
from maskrcnn_benchmark.modeling.rpn.retinanet.retinanet import RetinaNetHead, RetinaNetModule, make_retinanet_anchors
from maskrcnn_benchmark.structures.boxlist_ops import boxlist_iou
from maskrcnn_benchmark.structures.fields import LABELS, SCORES
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.utils.detector_kind import finds_only_proposals, has_roi_heads, num_classes
from tests.devices import DEVICES
from tests.golden.regenerate import CONFIGS
from tests.modeling.tiny import CHANNELS, RETINANET, STRIDES, tiny_batch, tiny_cfg, tiny_detector, tiny_target

LOSSES = {"loss_retina_cls", "loss_retina_reg"}
R_50 = CONFIGS / "retinanet" / "retinanet_R-50-FPN_1x.yaml"


def retinanet_cfg(*opts):
    return tiny_cfg(*RETINANET, *opts)


def to_device(batch, device):
    images, targets = batch
    return [image.to(device) for image in images], [target.to(device) for target in targets]


def test_head_has_the_names_shapes_and_first_outputs_of_the_paper():
    head = RetinaNetHead(8, 9, 4, num_convs=2, prior_prob=0.01)
    shapes = {key: tuple(value.shape) for key, value in head.state_dict().items()}
    towers = {f"{tower}_tower.{index}" for tower in ("cls", "bbox") for index in (0, 2)}
    assert {key.rpartition(".")[0] for key in shapes} == {*towers, "cls_logits", "bbox_pred"}
    assert shapes["cls_tower.2.weight"] == (8, 8, 3, 3)
    assert shapes["cls_logits.weight"] == (36, 8, 3, 3) and shapes["bbox_pred.weight"] == (36, 8, 3, 3)
    logits, deltas = head([torch.randn(2, 8, 5, 7), torch.randn(2, 8, 1, 1)])
    assert [tuple(level.shape) for level in (*logits, *deltas)] == [(2, 36, 5, 7), (2, 36, 1, 1)] * 2
    assert abs(logits[0].sigmoid().mean().item() - 0.01) < 1e-3


def test_keys_of_the_released_models():
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in build_detection_model(load_config(R_50)).state_dict().items()}
    for tower in ("cls_tower", "bbox_tower"):
        for index in (0, 2, 4, 6):
            assert shapes[f"rpn.head.{tower}.{index}.weight"] == (256, 256, 3, 3)
            assert shapes[f"rpn.head.{tower}.{index}.bias"] == (256,)
    assert shapes["rpn.head.cls_logits.weight"] == (720, 256, 3, 3) and shapes["rpn.head.cls_logits.bias"] == (720,)
    assert shapes["rpn.head.bbox_pred.weight"] == (36, 256, 3, 3) and shapes["rpn.head.bbox_pred.bias"] == (36,)
    assert [shapes[f"rpn.anchor_generator.cell_anchors.{level}"] for level in range(5)] == [(9, 4)] * 5
    assert shapes["backbone.fpn.top_blocks.p6.weight"] == (256, 2048, 3, 3)
    assert shapes["backbone.fpn.top_blocks.p7.weight"] == (256, 256, 3, 3)
    assert [shapes[f"backbone.fpn.fpn_inner{level}.weight"][1] for level in (2, 3, 4)] == [512, 1024, 2048]
    assert not any(
        key.startswith(("backbone.fpn.fpn_inner1", "backbone.fpn.fpn_layer1", "roi_heads")) for key in shapes
    )


@pytest.mark.parametrize("offset", [0, 1])
def test_anchors_have_three_sizes_per_octave(offset):
    generator = make_retinanet_anchors(load_config(R_50, ["MODEL.BOX_OFFSET", offset]))
    assert generator.strides == (8, 16, 32, 64, 128) and generator.num_anchors_per_location() == [9] * 5
    for base, stride, anchors in zip((32, 64, 128, 256, 512), generator.strides, generator.cell_anchors, strict=True):
        sides = anchors[:, 2:] - anchors[:, :2] + offset
        square = sides[3:6]  # the ratios are 0.5, 1 and 2
        expected = torch.tensor([[base * 2 ** (k / 3)] * 2 for k in range(3)])
        torch.testing.assert_close(square, expected)
        width, height = stride / math.sqrt(0.5), stride * math.sqrt(0.5)
        if offset:  # rounded to whole pixels at the size of a cell, as in the released models
            width = round(width)
            height = round(width * 0.5)
        torch.testing.assert_close(sides[0], torch.tensor([width * base / stride, height * base / stride]))
        torch.testing.assert_close(anchors[:, :2] + anchors[:, 2:], torch.full((9, 2), float(stride - offset)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
def test_every_parameter_gets_a_gradient(device, offset):
    model = tiny_detector(retinanet_cfg("MODEL.BOX_OFFSET", offset)).to(device)
    losses = model(*to_device(tiny_batch(offset), device))
    assert set(losses) == LOSSES and all(loss.dim() == 0 and loss > 0 for loss in losses.values())
    sum(losses.values()).backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert missing == []


def test_images_without_objects_still_reach_every_parameter():
    model = tiny_detector(retinanet_cfg())
    images, _ = tiny_batch()
    losses = model(images, [tiny_target([], size) for size in ((96, 64), (72, 80))])
    assert losses["loss_retina_cls"] > 0 and losses["loss_retina_reg"] == 0
    sum(losses.values()).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


def test_losses_of_a_batch_are_those_of_its_images():
    torch.manual_seed(3)
    model = tiny_detector(retinanet_cfg())
    images, targets = tiny_batch()
    images = [torch.nn.functional.pad(image, (0, 96 - image.shape[2], 0, 80 - image.shape[1])) for image in images]
    targets = [tiny_target(target.bbox.tolist(), (96, 80)) for target in targets]
    doubled = model([images[0], images[0]], [targets[0], targets[0]])
    single = model(images[:1], targets[:1])
    # both sums and both divisors are twice as large
    for name in LOSSES:
        torch.testing.assert_close(doubled[name], single[name])


def test_one_pixel_images():
    model = tiny_detector(retinanet_cfg())
    losses = model([torch.randn(3, 1, 1)], [tiny_target([[0, 0, 0, 0]], (1, 1))])
    assert all(loss.isfinite() for loss in losses.values())
    (found,) = model.eval()([torch.randn(3, 1, 1)])
    assert found.size == (1, 1)


def confident(model, spread=1.0):
    """Random class logits around 0, so that an untrained model finds something."""
    nn.init.zeros_(model.rpn.head.cls_logits.bias)
    nn.init.normal_(model.rpn.head.cls_logits.weight, std=0.1 * spread)
    return model.eval()


@pytest.mark.parametrize("device", DEVICES)
def test_detections_of_images_of_different_sizes(device):
    model = confident(tiny_detector(retinanet_cfg())).to(device)
    images, _ = tiny_batch()
    found = model([image.to(device) for image in images])
    assert [boxes.size for boxes in found] == [(96, 64), (72, 80)]
    for boxes in found:
        assert 0 < len(boxes) <= 20 and set(boxes.fields()) == {SCORES, LABELS}
        scores, labels = boxes.get_field(SCORES), boxes.get_field(LABELS)
        assert (scores > 0.05).all() and torch.equal(scores, scores.sort(descending=True).values)
        assert set(labels.tolist()) <= {1, 2}
        width, height = boxes.size
        assert (boxes.bbox >= 0).all() and (boxes.bbox[:, 2] < width).all() and (boxes.bbox[:, 3] < height).all()


def test_a_batch_equals_single_images():
    model = confident(tiny_detector(retinanet_cfg()))
    generator = torch.Generator().manual_seed(2)
    images = [torch.randn(3, 64, 96, generator=generator) for _ in range(3)]
    for together, image in zip(model(images), images, strict=True):
        (alone,) = model([image])
        torch.testing.assert_close(together.bbox, alone.bbox)
        torch.testing.assert_close(together.get_field(SCORES), alone.get_field(SCORES))
        assert torch.equal(together.get_field(LABELS), alone.get_field(LABELS))


def test_nothing_is_found_before_training():
    model = tiny_detector(retinanet_cfg()).eval()
    assert [len(boxes) for boxes in model(tiny_batch()[0])] == [0, 0]  # the prior is below the threshold


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_autocast_trains_and_detects(device):
    model = tiny_detector(retinanet_cfg()).to(device)
    images, targets = to_device(tiny_batch(), device)
    expected = model(images, targets)
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        losses = model(images, targets)
    confident(model)  # outside: autocast keeps copies of the weights
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16):
        found = model(images)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    for name in LOSSES:
        torch.testing.assert_close(losses[name], expected[name], rtol=0.05, atol=0.01)
    assert all(boxes.bbox.dtype == torch.float32 and len(boxes) for boxes in found)


@pytest.mark.slow
def test_training_finds_the_objects():
    torch.manual_seed(0)
    model = tiny_detector(retinanet_cfg())
    images, targets = tiny_batch()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
    for found, target in zip(model.eval()(images), targets, strict=True):
        best = found[: len(target)]
        assert (best.get_field(SCORES) > 0.5).all()
        overlaps, order = boxlist_iou(target, best).max(dim=1)
        assert (overlaps > 0.7).all()
        assert torch.equal(best.get_field(LABELS)[order], target.get_field(LABELS))


def test_what_kind_of_detector_it_is():
    for rpn_only in (True, False):
        cfg = retinanet_cfg("MODEL.RPN_ONLY", rpn_only)
        assert not has_roi_heads(cfg) and not finds_only_proposals(cfg)
        assert num_classes(cfg) == ("MODEL.RETINANET.NUM_CLASSES", 3)
        model = tiny_detector(cfg)
        assert model.roi_heads is None and model.tasks == tasks_of(cfg) == ("bbox",)
    cfg = tiny_cfg("MODEL.RPN_ONLY", True)
    assert finds_only_proposals(cfg) and not has_roi_heads(cfg)
    assert has_roi_heads(tiny_cfg()) and num_classes(tiny_cfg()) == ("MODEL.ROI_BOX_HEAD.NUM_CLASSES", 3)


def test_strides_may_be_left_to_the_backbone():
    cfg = retinanet_cfg("MODEL.RETINANET.ANCHOR_STRIDES", ())
    module = build_rpn(cfg, CHANNELS, backbone_strides=STRIDES)
    assert isinstance(module, RetinaNetModule) and module.anchor_generator.strides == STRIDES
    with pytest.raises(ValueError, match=r"MODEL.RETINANET.ANCHOR_STRIDES is \(\), which means the strides"):
        build_rpn(cfg, CHANNELS)
    with pytest.raises(ValueError, match=r"MODEL.RETINANET.ANCHOR_STRIDES is \(4, 8, 16\), the backbone's levels have"):
        build_rpn(retinanet_cfg(), CHANNELS, backbone_strides=(8, 16, 32))


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (["MODEL.RETINANET.NUM_CLASSES", 1], "MODEL.RETINANET.NUM_CLASSES is 1; expected at least 2"),
        (["MODEL.RETINANET.PRIOR_PROB", 0.0], "PRIOR_PROB is 0.0; expected between"),
        (["MODEL.RETINANET.NUM_CONVS", -1], "NUM_CONVS is -1; expected at least 0"),
        (["MODEL.RETINANET.SCALES_PER_OCTAVE", 0], "SCALES_PER_OCTAVE is 0; expected at least 1"),
        (["MODEL.RETINANET.OCTAVE", 0.0], "OCTAVE is 0.0; expected at least 1"),
        (["MODEL.RETINANET.ASPECT_RATIOS", ()], "MODEL.RETINANET.ANCHOR_SIZES is .* ASPECT_RATIOS"),
        (["MODEL.RETINANET.LOSS_ALPHA", 1.5], "LOSS_ALPHA is 1.5; expected between 0 and 1"),
        (["MODEL.RETINANET.NMS_TH", 2.0], "NMS_TH is 2.0; expected between 0 and 1"),
        (["MODEL.RETINANET.PRE_NMS_TOP_N", 0], "PRE_NMS_TOP_N is 0; expected at least 1"),
        (["MODEL.RETINANET.BG_IOU_THRESHOLD", 0.6], "MODEL.RETINANET.BG_IOU_THRESHOLD is 0.6, above FG_IOU_THRESHOLD"),
        (["MODEL.RETINANET.ANCHOR_SIZES", (32, 64)], "MODEL.RETINANET.ANCHOR_SIZES has 2 entries"),
        (["MODEL.MASK_ON", True, "MODEL.KEYPOINT_ON", True], "turns on the mask head, keypoint head: RetinaNet has no"),
        (["MODEL.BACKBONE.CONV_BODY", "R-50-FPN"], r"ANCHOR_STRIDES is .*strides \(4, 8, 16, 32, 64\); set it to"),
    ],
)
def test_problems_are_found_before_a_run(opts, message):
    problems = find_config_problems(load_config(R_50, opts))
    assert len(problems) == 1
    with pytest.raises(ValueError, match=message):
        raise ValueError(problems[0])


def test_training_needs_targets():
    with pytest.raises(ValueError, match="needs `targets`"):
        module = tiny_detector(retinanet_cfg()).rpn
        module(to_image_list([torch.randn(3, 16, 16)]), [torch.randn(1, CHANNELS, 4, 4)] * 3)


def test_upstreams_builders():
    from maskrcnn_benchmark.modeling.rpn.anchor_generator import make_anchor_generator_retinanet
    from maskrcnn_benchmark.modeling.rpn.retinanet.retinanet import build_retinanet
    from maskrcnn_benchmark.modeling.rpn.rpn import build_rpn as build_upstreams_rpn

    cfg = retinanet_cfg()
    assert make_anchor_generator_retinanet(cfg).num_anchors_per_location() == [9] * 3
    for build in (build_retinanet, build_upstreams_rpn):
        assert isinstance(build(cfg, CHANNELS), RetinaNetModule)
