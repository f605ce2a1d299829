import math

import pytest
import torch
from torchvision.ops import nms as torchvision_nms

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.roi_heads.box_head.box_head import BoxHead
from maskrcnn_benchmark.modeling.roi_heads.box_head.inference import PostProcessor
from maskrcnn_benchmark.modeling.roi_heads.box_head.loss import fast_rcnn_loss
from maskrcnn_benchmark.modeling.roi_heads.box_head.roi_box_feature_extractors import make_roi_box_feature_extractor
from maskrcnn_benchmark.modeling.roi_heads.box_head.roi_box_predictors import make_roi_box_predictor
from maskrcnn_benchmark.modeling.roi_heads.sampling import SampledProposals
from maskrcnn_benchmark.structures.fields import LABELS, SCORES
from tests.devices import DEVICES
from tests.modeling.box_reference import boxlist, decode_reference, nms_reference, random_boxes, smooth_l1_reference
from tests.modeling.tiny import CHANNELS, STRIDES, tiny_batch, tiny_cfg

SIZES = [(90, 70), (80, 60), (64, 64)]
COUNTS = (30, 0, 17)
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def samples_of(labels, num_positives, device="cpu"):
    count = len(labels)
    return SampledProposals(
        rois=torch.zeros(count, 5, device=device),
        image_ids=torch.zeros(count, dtype=torch.long, device=device),
        boxes=torch.zeros(count, 4, device=device),
        labels=torch.tensor(labels, dtype=torch.long, device=device),
        matched_idxs=torch.zeros(count, dtype=torch.long, device=device),
        regression_targets=torch.randn(count, 4).to(device),
        sizes=[(9, 9)],
        num_positives=num_positives,
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("agnostic", [False, True])
def test_losses_equal_loops(device, agnostic):
    samples = samples_of([3, 1, 2, 0, 0, 0, 0], 3, device)
    logits = torch.randn(7, 4, device=device, requires_grad=True)
    deltas = (2 * torch.randn(7, 8 if agnostic else 16, device=device)).requires_grad_()
    losses = fast_rcnn_loss(logits, deltas, samples, class_agnostic=agnostic)
    classification = box = 0.0
    for row, label in enumerate(samples.labels.tolist()):
        scores = logits[row].tolist()
        classification += math.log(sum(math.exp(score - scores[label]) for score in scores)) / 7
        if label > 0:
            column = 4 if agnostic else 4 * label
            difference = deltas[row, column : column + 4] - samples.regression_targets[row]
            box += smooth_l1_reference(difference.tolist(), 1.0) / 7
    torch.testing.assert_close(torch.stack(losses).cpu(), torch.tensor([classification, box]))
    losses[1].backward()
    touched = deltas.grad.unflatten(1, (-1, 4)).abs().sum(dim=2) > 0
    expected = torch.zeros_like(touched)
    expected[[0, 1, 2], [1, 1, 1] if agnostic else [3, 1, 2]] = True
    assert torch.equal(touched, expected)


@pytest.mark.parametrize("labels", [[], [0, 0]])
def test_losses_of_nothing_are_attached_zeros(labels):
    logits, deltas = torch.randn(len(labels), 4, requires_grad=True), torch.randn(len(labels), 16, requires_grad=True)
    classification, box = fast_rcnn_loss(logits, deltas, samples_of(labels, 0))
    assert box == 0 and (labels or classification == 0)
    (classification + box).backward()
    assert deltas.grad.eq(0).all() and logits.grad.isfinite().all()


def detection_case(num_classes, columns, device="cpu", offset=1):
    proposals = [
        boxlist(random_boxes(count, size, 8), size, offset).to(device)
        for count, size in zip(COUNTS, SIZES, strict=True)
    ]
    for boxes_per_image in proposals:
        boxes_per_image.bbox = (boxes_per_image.bbox / 12).round() * 12  # many close to each other, some equal
    total = sum(COUNTS)
    return torch.randn(total, num_classes).to(device), torch.randn(total, columns).to(device), proposals


def detections_reference(logits, deltas, proposals, offset, *, score_thresh, nms, limit, agnostic=False):
    """Per image and class: (score, label, box), best first; equal scores in the order of the proposals."""
    results, start = [], 0
    for boxes_per_image in proposals:
        rows = range(start, start + len(boxes_per_image))
        start += len(boxes_per_image)
        found = []
        for label in range(1, logits.shape[1]):
            boxes, scores = [], []
            for row, proposal in zip(rows, boxes_per_image.bbox.tolist(), strict=True):
                score = logits[row].float().softmax(0)[label].item()
                if score > score_thresh:
                    column = 4 if agnostic else 4 * label
                    box = decode_reference(deltas[row, column : column + 4].tolist(), proposal, WEIGHTS, offset)
                    width, height = (side - offset for side in boxes_per_image.size)
                    limits = (width, height, width, height)
                    box = [min(max(c, 0), most) for c, most in zip(box, limits, strict=True)]
                    if box[2] - box[0] + offset > 0 and box[3] - box[1] + offset > 0:
                        boxes.append(box)
                        scores.append(score)
            if offset == 0 and boxes:
                kept = torchvision_nms(torch.tensor(boxes), torch.tensor(scores), nms).tolist()
            else:
                kept = nms_reference(boxes, scores, nms, offset)
            found += [(scores[index], label, boxes[index]) for index in kept]
        results.append(sorted(found, key=lambda entry: -entry[0])[:limit])
    return results


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("limit", [7, 1000])
def test_detections_equal_loops(device, offset, agnostic, limit):
    logits, deltas, proposals = detection_case(5, 8 if agnostic else 20, device, offset)
    coder = BoxCoder(WEIGHTS, offset=offset)
    process = PostProcessor(0.1, 0.4, limit, box_coder=coder, class_agnostic=agnostic)
    expected = detections_reference(
        logits, deltas, proposals, offset, score_thresh=0.1, nms=0.4, limit=limit, agnostic=agnostic
    )
    assert len(expected[0]) > 6
    for detections, entries, size in zip(process(logits, deltas, proposals), expected, SIZES, strict=True):
        assert detections.size == size and detections.offset == offset
        torch.testing.assert_close(detections.get_field(SCORES).cpu(), torch.tensor([score for score, _, _ in entries]))
        assert detections.get_field(LABELS).tolist() == [label for _, label, _ in entries]
        boxes = torch.tensor([box for _, _, box in entries]).reshape(-1, 4)
        torch.testing.assert_close(detections.bbox.cpu(), boxes, rtol=1e-4, atol=1e-3)


def test_equal_scores_do_not_exceed_the_limit():
    boxes = torch.tensor([[10.0 * i, 10.0 * i, 10.0 * i + 8, 10.0 * i + 8] for i in range(6)])
    logits = torch.tensor([[0.0, 1.0, 1.0]]).repeat(6, 1)
    process = PostProcessor(0.05, 0.5, 5, box_coder=BoxCoder(WEIGHTS))
    detections = process(logits, torch.zeros(6, 12), [boxlist(boxes, (99, 99))])[0]
    # twelve candidates of one score: the first proposals win, with both of their classes
    torch.testing.assert_close(detections.bbox, boxes[[0, 0, 1, 1, 2]])
    assert detections.get_field(LABELS).tolist() == [1, 2, 1, 2, 1]
    process.detections_per_img = 0
    assert len(process(logits, torch.zeros(6, 12), [boxlist(boxes, (99, 99))])[0]) == 12


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("limit", [7, 1000, 0])
def test_order_of_upstream(device, limit):
    """Class by class, in each class as the proposals, cut at the score of the last one: upstream's filter_results."""
    logits, deltas, proposals = detection_case(5, 20, device)
    logits[1] = logits[0]  # equal scores
    process = PostProcessor(0.1, 0.4, limit, box_coder=BoxCoder(WEIGHTS), by_class=True)
    ours = process(logits, deltas, proposals)
    entries = detections_reference(logits, deltas, proposals, 1, score_thresh=0.1, nms=0.4, limit=None)
    scores, start = logits.float().softmax(1).cpu(), 0
    for detections, found, boxes in zip(ours, entries, proposals, strict=True):
        rows = scores[start : start + len(boxes)]
        start += len(boxes)
        by_class = [(label, (rows[:, label] - score).abs().argmin().item(), score, box) for score, label, box in found]
        by_class.sort(key=lambda entry: entry[:2])
        ranked = sorted((score for _, _, score, _ in by_class), reverse=True)
        lowest = ranked[min(limit or len(ranked), len(ranked)) - 1] if ranked else 0.0
        expected = [entry for entry in by_class if entry[2] >= lowest]
        assert detections.get_field(LABELS).tolist() == [label for label, _, _, _ in expected]
        torch.testing.assert_close(detections.get_field(SCORES).cpu(), torch.tensor([entry[2] for entry in expected]))
        expected_boxes = torch.tensor([entry[3] for entry in expected]).reshape(-1, 4)
        torch.testing.assert_close(detections.bbox.cpu(), expected_boxes, rtol=1e-4, atol=1e-3)


def test_order_of_upstream_keeps_equal_scores_at_the_limit():
    boxes = torch.tensor([[10.0 * i, 10.0 * i, 10.0 * i + 8, 10.0 * i + 8] for i in range(6)])
    logits = torch.tensor([[0.0, 1.0, 1.0]]).repeat(6, 1)
    logits[0, 1] = 3.0
    process = PostProcessor(0.05, 0.5, 5, box_coder=BoxCoder(WEIGHTS), by_class=True)
    both = [boxlist(boxes, (99, 99)), boxlist(boxes[:0], (99, 99)), boxlist(boxes[:2], (99, 99))]
    detections = process(logits[[0, 1, 2, 3, 4, 5, 0, 1]], torch.zeros(8, 12), both)
    assert detections[0].get_field(LABELS).tolist() == [1] * 6 + [2] * 5  # one of a high score, ten of the second
    torch.testing.assert_close(detections[0].bbox, boxes[[0, 1, 2, 3, 4, 5, 1, 2, 3, 4, 5]])
    assert [len(found) for found in detections] == [11, 0, 4]


def test_a_half_open_detection_off_the_image_is_dropped():
    off_image = boxlist(torch.tensor([[0.0, 0.0, 5.0, 5.0]]), (20, 20), offset=0)
    process = PostProcessor(box_coder=BoxCoder((1.0, 1.0, 1.0, 1.0), offset=0))
    deltas = torch.tensor([[0.0] * 4 + [-20.0, 0.0, 0.0, 0.0]])
    assert len(process(torch.tensor([[0.0, 5.0]]), deltas, [off_image])[0]) == 0


def test_filter_results_takes_decoded_boxes_of_all_classes():
    logits, deltas, proposals = detection_case(4, 16)
    process = PostProcessor(0.1, 0.4, 9, box_coder=BoxCoder(WEIGHTS))
    scores = logits.softmax(dim=1).split(COUNTS)
    decoded = []
    for boxes_per_image, scores_per_image, deltas_per_image in zip(
        proposals, scores, deltas.split(COUNTS), strict=True
    ):
        boxes = process.box_coder.decode(deltas_per_image, boxes_per_image.bbox).reshape(-1, 4)
        decoded.append(boxlist(boxes, boxes_per_image.size, scores=scores_per_image.reshape(-1)).clip_to_image(False))
    for ours, theirs in zip(process.filter_results(decoded, 4), process(logits, deltas, proposals), strict=True):
        torch.testing.assert_close(ours.bbox, theirs.bbox)
        assert torch.equal(ours.get_field(LABELS), theirs.get_field(LABELS))


@pytest.mark.parametrize("name", ["FPN2MLPFeatureExtractor", "FPNXconv1fcFeatureExtractor"])
@pytest.mark.parametrize("use_gn", [False, True])
def test_extractors_on_a_pyramid(name, use_gn):
    cfg = tiny_cfg(
        *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", name, "MODEL.ROI_BOX_HEAD.USE_GN", use_gn),
        *("MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM", 8, "MODEL.ROI_BOX_HEAD.NUM_STACKED_CONVS", 2),
    )
    extractor = make_roi_box_feature_extractor(cfg, CHANNELS)
    features = [torch.randn(2, CHANNELS, 96 // stride, 96 // stride) for stride in STRIDES]
    for count in (0, 3):
        rois = torch.tensor([[0, 1, 2, 30, 40], [1, 5, 5, 90, 90], [1, 3, 3, 9, 9.0]])[:count]
        out = extractor(features, rois)
        assert out.shape == (count, 32) and extractor.out_channels == 32
        out.sum().backward()
    assert all(p.grad is not None for p in extractor.parameters())


def test_state_dict_keys():
    keys = {
        False: ["fc6.weight", "fc6.bias", "fc7.weight", "fc7.bias"],
        True: [f"{fc}.{entry}" for fc in ("fc6", "fc7") for entry in ("0.weight", "1.weight", "1.bias")],
    }
    for use_gn, expected in keys.items():
        extractor = make_roi_box_feature_extractor(tiny_cfg("MODEL.ROI_BOX_HEAD.USE_GN", use_gn), CHANNELS)
        assert list(extractor.state_dict()) == expected
    name = ("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "FPNXconv1fcFeatureExtractor")
    bare = make_roi_box_feature_extractor(tiny_cfg(*name), CHANNELS).state_dict()
    assert {key.rsplit(".", 1)[0] for key in bare} == {"xconvs.0", "xconvs.2", "xconvs.4", "xconvs.6", "fc6"}
    with_gn = make_roi_box_feature_extractor(tiny_cfg(*name, "MODEL.ROI_BOX_HEAD.USE_GN", True), CHANNELS).state_dict()
    convolutions_and_norms = {f"xconvs.{index}" for index in (0, 1, 3, 4, 6, 7, 9, 10)}
    assert {key.rsplit(".", 1)[0] for key in with_gn} == {*convolutions_and_norms, "fc6"}
    assert "xconvs.0.bias" in bare and "xconvs.0.bias" not in with_gn


def test_conv5_extractor_of_single_level_models():
    cfg = tiny_cfg(
        *("MODEL.ROI_BOX_HEAD.FEATURE_EXTRACTOR", "ResNet50Conv5ROIFeatureExtractor"),
        *("MODEL.ROI_BOX_HEAD.PREDICTOR", "FastRCNNPredictor", "MODEL.ROI_BOX_HEAD.POOLER_SCALES", (0.0625,)),
        *("MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.WIDTH_PER_GROUP", 2),
        *("MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION", 14),
    )
    extractor = make_roi_box_feature_extractor(cfg, 32)
    features = extractor([torch.randn(1, 32, 6, 6)], torch.tensor([[0, 3, 3, 80, 90.0]]))
    assert features.shape == (1, 64, 7, 7) and extractor.out_channels == 64
    assert all(key.startswith("head.layer4.") for key in extractor.state_dict())
    logits, deltas = make_roi_box_predictor(cfg, 64)(features)
    assert logits.shape == (1, 3) and deltas.shape == (1, 12)
    with pytest.raises(ValueError, match="for 32 channels .* gives 16"):
        make_roi_box_feature_extractor(cfg, 16)


@pytest.mark.parametrize("name", ["FastRCNNPredictor", "FPNPredictor"])
def test_predictors(name):
    cfg = tiny_cfg("MODEL.ROI_BOX_HEAD.PREDICTOR", name, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 81)
    predictor = make_roi_box_predictor(cfg, 256)
    assert {key: tuple(value.shape) for key, value in predictor.state_dict().items()} == {
        "cls_score.weight": (81, 256),
        "cls_score.bias": (81,),
        "bbox_pred.weight": (324, 256),
        "bbox_pred.bias": (324,),
    }
    assert abs(predictor.cls_score.weight.std().item() - 0.01) < 5e-4
    assert abs(predictor.bbox_pred.weight.std().item() - 0.001) < 5e-5
    pooled = torch.randn(2, 256, 3, 3)
    torch.testing.assert_close(predictor(pooled)[0], predictor(pooled.mean(dim=(2, 3)))[0])
    cfg.MODEL.CLS_AGNOSTIC_BBOX_REG = True
    assert make_roi_box_predictor(cfg, 256)(pooled)[1].shape == (2, 8)


def test_registered_under_upstreams_names():
    assert {"ResNet50Conv5ROIFeatureExtractor", "FPN2MLPFeatureExtractor", "FPNXconv1fcFeatureExtractor"} <= set(
        registry.ROI_BOX_FEATURE_EXTRACTORS
    )


def test_head_in_training_and_at_inference():
    _, targets = tiny_batch()
    head = BoxHead.from_cfg(tiny_cfg(), CHANNELS)
    features = [torch.randn(2, CHANNELS, 80 // stride, 96 // stride) for stride in STRIDES]
    proposals = [boxlist(random_boxes(20, target.size), target.size) for target in targets]
    output = head(features, proposals, targets)
    assert set(output.losses) == {"loss_classifier", "loss_box_reg"} and len(output.samples) == len(output.features)
    sum(output.losses.values()).backward()
    assert all(p.grad is not None for p in head.parameters())
    detections = head.eval()(features, proposals).detections
    assert len(detections) == 2 and detections[0].has_field(SCORES)
    with pytest.raises(ValueError, match="the box head needs `targets`"):
        head.train()(features, proposals)


def test_detections_below_the_smallest_size_are_dropped():
    boxes = torch.tensor([[2.0, 2.0, 2.005, 9.0], [2.0, 2.0, 2.02, 9.0], [2.0, 2.0, 9.0, 9.0]])
    logits, deltas = torch.tensor([[0.0, 3.0]]).repeat(3, 1), torch.zeros(3, 8)
    for min_size, left in ((0.0, 3), (0.01, 2), (1.0, 1)):
        process = PostProcessor(0.05, 1.0, box_coder=BoxCoder(WEIGHTS, offset=0), min_size=min_size)
        assert len(process(logits, deltas, [boxlist(boxes, (20, 20), offset=0)])[0]) == left


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_beta_of_the_box_loss(beta):
    samples, deltas = samples_of([1, 2, 0, 0], 2), 3 * torch.randn(4, 12)
    _, box = fast_rcnn_loss(torch.randn(4, 3), deltas, samples, beta=beta)
    difference = torch.stack([deltas[0, 4:8], deltas[1, 8:12]]) - samples.regression_targets[:2]
    size = difference.abs()
    expected = torch.where(size < beta, 0.5 * difference**2 / max(beta, 1e-9), size - 0.5 * beta).sum() / 4
    torch.testing.assert_close(box, expected)
