import pytest
import torch

from maskrcnn_benchmark.modeling.roi_heads.roi_heads import CombinedROIHeads
from maskrcnn_benchmark.structures.fields import IS_GROUND_TRUTH, KEYPOINTS, LABELS, MASK, SCORES
from maskrcnn_benchmark.utils.problems import ConfigError
from tests.modeling.box_reference import boxlist, random_boxes
from tests.modeling.tiny import ALL_HEADS, CHANNELS, STRIDES, tiny_batch, tiny_cfg, tiny_target

C4_BODY = (
    *("MODEL.ROI_HEADS.USE_FPN", False, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 2),
    *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "ResNet50Conv5ROIFeatureExtractor"),
    *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FastRCNNPredictor", "MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.0625,)),
    *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14, "MODEL.MASK_ON", True),
    *("MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR", "ResNet50Conv5ROIFeatureExtractor"),
    *("MODEL.ROI_MASK_HEAD.POOLER_SCALES", (0.0625,), "MODEL.ROI_MASK_HEAD.RESOLUTION", 14),
    *("MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", True),
)


def heads_case(strides=STRIDES, channels=CHANNELS):
    _, targets = tiny_batch()
    features = [torch.randn(2, channels, 80 // stride, 96 // stride) for stride in strides]
    proposals = [
        boxlist(torch.cat([random_boxes(10, target.size, 10), target.bbox]), target.size) for target in targets
    ]
    return features, proposals, targets


def test_children_and_losses_of_all_heads():
    features, proposals, targets = heads_case()
    heads = CombinedROIHeads.from_cfg(tiny_cfg(*ALL_HEADS), CHANNELS)
    assert [name for name, _ in heads.named_children()] == ["box", "mask", "keypoint", "refine"]
    x, returned, losses = heads(features, proposals, targets)
    assert set(losses) == {
        *("loss_classifier", "loss_box_reg", "loss_mask", "loss_kp", "loss_refine_mask", "loss_refine_kp")
    }
    assert x.shape[1] == 32 and len(returned) == 2
    sum(losses.values()).backward()
    assert [name for name, p in heads.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("opts", [(), ("MODEL.MASK_ON", True), ("MODEL.KEYPOINT_ON", True), ALL_HEADS])
def test_inference_hands_detections_from_head_to_head(opts):
    features, proposals, _ = heads_case()
    cfg = tiny_cfg(*opts, "MODEL.ROI_HEADS.SCORE_THRESH", 0.2)
    _, detections, losses = CombinedROIHeads.from_cfg(cfg, CHANNELS).eval()(features, proposals)
    assert losses == {} and [d.size for d in detections] == [(96, 64), (72, 80)]
    for detections_per_image in detections:
        assert len(detections_per_image) > 0
        fields = set(detections_per_image.fields())
        assert {SCORES, LABELS} <= fields
        assert (MASK in fields) == cfg.MODEL.MASK_ON and (KEYPOINTS in fields) == cfg.MODEL.KEYPOINT_ON


@pytest.mark.parametrize("training", [False, True])
def test_a_batch_without_objects_reaches_every_parameter(training):
    features, _, _ = heads_case()
    cfg = tiny_cfg(*ALL_HEADS, "MODEL.ROI_HEADS.SCORE_THRESH", 0.99)
    heads = CombinedROIHeads.from_cfg(cfg, CHANNELS).train(training)
    empty = [tiny_target([], size) for size in ((96, 64), (72, 80))]
    proposals = [boxlist(random_boxes(4, target.size), target.size) for target in empty]
    _, detections, losses = heads(features, proposals, empty if training else None)
    if not training:
        assert [len(d) for d in detections] == [0, 0]
        assert detections[0].has_field(MASK) and detections[0].has_field(KEYPOINTS)
        return
    assert all(loss.isfinite() for loss in losses.values())
    assert all(losses[name] == 0 for name in losses if name != "loss_classifier")
    sum(losses.values()).backward()
    assert [name for name, p in heads.named_parameters() if p.grad is None] == []


def test_shared_extractor_has_one_owner_and_serves_the_mask_head():
    features, proposals, targets = heads_case(strides=(16,), channels=32)
    heads = CombinedROIHeads.from_cfg(tiny_cfg(*C4_BODY), 32)
    assert not any(key.startswith("mask.feature_extractor") for key in heads.state_dict())
    assert any(key.startswith("box.feature_extractor.head.layer4") for key in heads.state_dict())
    _, _, losses = heads(features, proposals, targets)
    extractor_weight = heads["box"].feature_extractor.head.layer4[0].conv1.weight
    (gradient,) = torch.autograd.grad(losses["loss_mask"], extractor_weight)
    assert gradient.abs().sum() > 0

    heads["box"].post_processor.score_thresh = 0.2
    _, detections, _ = heads.eval()(features, proposals)
    # the mask head reads features of the detections, not of the proposals
    again = heads["mask"](features, detections, None, heads["box"].feature_extractor(features, detections))
    for ours, theirs in zip(detections, again.detections, strict=True):
        torch.testing.assert_close(ours.get_field(MASK), theirs.get_field(MASK))


def step_losses(cfg, features, proposals, targets, channels=CHANNELS):
    torch.manual_seed(0)
    heads = CombinedROIHeads.from_cfg(cfg, channels)
    torch.manual_seed(1)  # sampling draws
    losses = heads(features, proposals, targets).losses
    sum(losses.values()).backward()
    assert [name for name, p in heads.named_parameters() if p.requires_grad and p.grad is None] == []
    return losses


@pytest.mark.parametrize("shared", [False, True])
def test_only_the_box_head_trains_on_the_ground_truth(shared):
    """The other heads have the losses of a sample without it; those of the box head stay."""
    case = {"strides": (16,), "channels": 32} if shared else {}
    opts, channels = (C4_BODY, 32) if shared else (ALL_HEADS, CHANNELS)
    opts = (*opts, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 200, "MODEL.ROI_HEADS.POSITIVE_FRACTION", 1.0)  # all of them
    features, proposals, targets = heads_case(**case)
    proposals = [
        boxlist(torch.cat([target.bbox + 1, given.bbox]), target.size)
        for given, target in zip(proposals, targets, strict=True)
    ]
    for given, target in zip(proposals, targets, strict=True):
        given.add_field(IS_GROUND_TRUTH, torch.arange(len(given)) >= len(given) - len(target))
    without = [given[~given.get_field(IS_GROUND_TRUTH)] for given in proposals]
    for_all = step_losses(tiny_cfg(*opts), features, proposals, targets, channels)
    none = step_losses(tiny_cfg(*opts), features, without, targets, channels)
    cfg = tiny_cfg(*opts, "MODEL.ROI_HEADS.GT_PROPOSALS_FOR", "box")
    for_box = step_losses(cfg, features, proposals, targets, channels)
    for name, loss in for_box.items():
        of_box_head = name in ("loss_classifier", "loss_box_reg")
        torch.testing.assert_close(loss, for_all[name] if of_box_head else none[name], msg=name)
        assert of_box_head or not torch.equal(loss, for_all[name])

    only_ground_truth = [given[given.get_field(IS_GROUND_TRUTH)] for given in proposals]
    losses = step_losses(cfg, features, only_ground_truth, targets, channels)
    assert all((loss == 0) == (name not in ("loss_classifier", "loss_box_reg")) for name, loss in losses.items())


def test_who_trains_on_the_ground_truth_is_checked():
    with pytest.raises(ConfigError, match="GT_PROPOSALS_FOR is 'mask'; expected one of 'all', 'box'"):
        CombinedROIHeads.from_cfg(tiny_cfg("MODEL.ROI_HEADS.GT_PROPOSALS_FOR", "mask"), CHANNELS)


def test_sharing_between_different_extractors_is_refused():
    cfg = tiny_cfg("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", True)
    with pytest.raises(ValueError, match="ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR is True.*Set it to False"):
        CombinedROIHeads.from_cfg(cfg, CHANNELS)
