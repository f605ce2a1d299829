"""The mask branch: targets against pycocotools, loss and post-processing against slow loops, sharing, file format."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from torchvision.models.detection.roi_heads import maskrcnn_loss

from maskrcnn_benchmark.layers.boxes import box_extents
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import Masker, MaskPostProcessor
from maskrcnn_benchmark.modeling.roi_heads.mask_head.loss import (
    mask_loss,
    matched_mask_targets,
    matched_presence,
    outline_weights,
    select_class,
)
from maskrcnn_benchmark.modeling.roi_heads.mask_head.mask_head import MaskHead
from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import LABELS, MASK, MASK_BOXES, MASKS, MASKS_PRESENT, SCORES
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.utils.problems import ConfigError
from tests.contracts.contract import read_contract
from tests.devices import DEVICES
from tests.modeling.roi_heads.head_cases import (
    CHANNELS,
    detection_batch,
    empty_samples,
    feature_pyramid,
    make_samples,
    person_batch,
    small_cfg,
)


def polygon_target(polygons: list[list[float]], extents: np.ndarray, size: int) -> np.ndarray:
    """pycocotools on polygons moved and scaled by hand into the region's frame."""
    x1, y1, x2, y2 = extents.astype(np.float64)
    moved = []
    for polygon in polygons:
        points = np.asarray(polygon, dtype=np.float64).reshape(-1, 2)
        moved.append(((points - [x1, y1]) * [size / (x2 - x1), size / (y2 - y1)]).ravel().tolist())
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(moved, size, size)))


def on_device(samples, device):
    return type(samples)(**{k: v.to(device) if torch.is_tensor(v) else v for k, v in vars(samples).items()})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
def test_targets_equal_pycocotools(device, offset):
    targets, samples = person_batch()
    extents = box_extents(samples.boxes, offset)
    drawn = matched_mask_targets(on_device(samples, device), targets, extents.to(device), 28)
    assert drawn.shape == (5, 28, 28) and drawn.dtype == torch.float32 and drawn.device.type == device
    for row in range(5):
        target = targets[samples.image_ids[row]]
        instance = target.get_field(MASKS).instances[samples.matched_idxs[row]]
        polygons = [part.ravel().tolist() for part in instance.parts]
        x1, y1, x2, y2 = samples.boxes[row].tolist()
        frame = np.array([x1, y1, x2 + offset, y2 + offset])
        np.testing.assert_array_equal(drawn[row].cpu().numpy(), polygon_target(polygons, frame, 28))


def test_each_image_is_rasterised_once(monkeypatch):
    targets, samples = person_batch()
    calls = []
    rasterize = SegmentationMask.rasterize
    monkeypatch.setattr(SegmentationMask, "rasterize", lambda self, *args: calls.append(1) or rasterize(self, *args))
    matched_mask_targets(samples, targets, samples.boxes, 14)
    assert len(calls) == 2


def test_targets_of_bitmaps():
    bitmap = np.zeros((8, 8), dtype=np.uint8)
    bitmap[2:6, 4:8] = 1  # x in [4, 8), y in [2, 6)
    target = BoxList([[4.0, 2.0, 7.0, 5.0]], (8, 8))
    target.add_field(MASKS, SegmentationMask(torch.from_numpy(bitmap)[None], (8, 8), mode="mask"))
    samples = make_samples([[0, 0, 7, 7]], [0], [0], [(8, 8)])
    drawn = matched_mask_targets(samples, [target], box_extents(samples.boxes, 1), 4)
    np.testing.assert_array_equal(drawn[0], [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]])


def test_loss_equals_slow_loops_and_reaches_labelled_class_only():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 5, 5, generator=generator, requires_grad=True)
    labels = torch.tensor([2, 1, 3])
    targets = torch.randint(0, 2, (3, 5, 5), generator=generator).float()
    loss = mask_loss(select_class(logits, labels), targets)
    expected, values = 0.0, logits.detach().double().numpy()
    for roi in range(3):
        for y in range(5):
            for x in range(5):
                p = 1 / (1 + np.exp(-values[roi, labels[roi], y, x]))
                expected -= np.log(p) if targets[roi, y, x] else np.log(1 - p)
    assert loss.item() == pytest.approx(expected / (3 * 25), rel=1e-6)
    loss.backward()
    for roi in range(3):
        touched = logits.grad[roi].abs().sum(dim=(1, 2)) > 0
        assert touched.nonzero().flatten().tolist() == [labels[roi].item()]


@pytest.mark.parametrize("device", DEVICES)
def test_training_step(device):
    head = MaskHead.from_cfg(small_cfg("MODEL.ROI_MASK_HEAD.LOSS_WEIGHT", 3.0), CHANNELS).to(device)
    targets, samples = person_batch()
    features = [level.to(device) for level in feature_pyramid(2, (96, 64))]
    samples = on_device(samples, device)
    output = head(features, samples, [target.to(device) for target in targets])
    assert output.logits.shape == (5, 5, 14, 14) and output.features.shape == (5, 8, 7, 7)
    assert head.feature_channels == 8
    drawn = matched_mask_targets(samples, targets, samples.boxes, 14)  # corner to corner
    expected = 3.0 * mask_loss(select_class(output.logits, samples.labels), drawn)
    torch.testing.assert_close(output.losses["loss_mask"], expected)
    output.losses["loss_mask"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_soft_targets_give_the_loss_of_torchvision():
    kind = MaskKind.from_cfg(small_cfg("MODEL.BOX_OFFSET", 0, "MODEL.ROI_MASK_HEAD.TARGET", "soft"))
    targets, samples = person_batch()
    logits = torch.randn(5, 5, 14, 14, generator=torch.Generator().manual_seed(0))
    loss = kind.loss(kind.select_own(logits, samples.labels), samples, targets)
    rows = [samples.image_ids == image_id for image_id in range(2)]
    expected = maskrcnn_loss(
        torch.cat([logits[row] for row in rows]),
        [samples.boxes[row] for row in rows],
        [target.get_field(MASKS).get_mask_tensor() for target in targets],
        [target.get_field(LABELS) for target in targets],
        [samples.matched_idxs[row] for row in rows],
    )
    torch.testing.assert_close(loss, expected)


def test_an_unknown_kind_of_target_is_named():
    with pytest.raises(ConfigError, match="MODEL.ROI_MASK_HEAD.TARGET is 'hard'; expected one of 'binary', 'soft'"):
        MaskHead.from_cfg(small_cfg("MODEL.ROI_MASK_HEAD.TARGET", "hard"), CHANNELS)


def random_maps(rois=7, side=6):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rois, 1, side, side, generator=generator, requires_grad=True)
    return logits, (torch.rand(rois, side, side, generator=generator) < 0.5).float()


@pytest.mark.parametrize("outline", [None, 3.0])
@pytest.mark.parametrize("device", DEVICES)
def test_rois_whose_instance_has_no_mask_weigh_nothing(outline, device):
    logits, targets = random_maps()
    logits, targets = logits.detach().to(device).requires_grad_(), targets.to(device)
    present = torch.tensor([True, False, True, True, False, True, False], device=device)
    weights = None if outline is None else outline_weights(targets, outline)
    loss = mask_loss(logits, targets, weights, present)
    alone = mask_loss(logits[present], targets[present], None if weights is None else weights[present])
    torch.testing.assert_close(loss, alone)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[~present].any() and gradient[present].all()
    torch.testing.assert_close(gradient, torch.autograd.grad(alone, logits)[0])
    nothing = mask_loss(logits, targets, weights, torch.zeros_like(present))
    assert nothing.item() == 0 and not torch.autograd.grad(nothing, logits)[0].any()
    none = mask_loss(logits[:0], targets[:0], None if weights is None else weights[:0], present[:0])
    assert none.item() == 0 and none.requires_grad


@pytest.mark.parametrize("outline", [None, 3.0])
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("rois", "side"), [(7, 6), (49, 28), (211, 14)])
def test_the_loss_is_the_same_to_the_last_bit_if_all_have_a_mask(outline, device, rois, side):
    logits, targets = random_maps(rois, side)
    logits, targets = logits.detach().to(device).requires_grad_(), targets.to(device)
    weights = None if outline is None else outline_weights(targets, outline)
    losses = [mask_loss(logits, targets, weights, present) for present in (None, torch.ones(rois).bool().to(device))]
    assert torch.equal(*losses)
    assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in losses))


@pytest.mark.parametrize("device", DEVICES)
def test_presence_follows_the_match(device):
    targets, samples = person_batch()
    samples = on_device(samples, device)
    assert matched_presence(samples, targets) is None
    flags = [torch.arange(len(target)) % 2 == 0 for target in targets]
    targets[0].add_field(MASKS_PRESENT, flags[0])
    one = matched_presence(samples, targets)
    targets[1].add_field(MASKS_PRESENT, flags[1])
    both = matched_presence(samples, targets)
    assert one.device.type == both.device.type == device
    pairs = list(zip(samples.image_ids.tolist(), samples.matched_idxs.tolist(), strict=True))
    assert both.tolist() == [bool(flags[image][row]) for image, row in pairs]
    assert one.tolist() == [bool(flags[0][row]) if image == 0 else True for image, row in pairs]
    assert matched_presence(samples, targets, "masks_visible_present") is None


def test_training_step_with_instances_without_masks():
    head = MaskHead.from_cfg(small_cfg(), CHANNELS)
    targets, samples = person_batch()
    features = feature_pyramid(2, (96, 64))
    for target in targets:
        absent = torch.arange(len(target)) % 2 == 1
        masks = [
            None if missing else mask for missing, mask in zip(absent, target.get_field(MASKS).instances, strict=True)
        ]
        target.add_field(MASKS, SegmentationMask(masks, target.size))
        target.add_field(MASKS_PRESENT, ~absent)
    output = head(features, samples, targets)
    present = matched_presence(samples, targets)
    assert present.any() and not present.all()
    logits = select_class(output.logits, samples.labels)
    drawn = matched_mask_targets(samples, targets, samples.boxes, 14)
    assert not drawn[~present].any()
    torch.testing.assert_close(output.losses["loss_mask"], mask_loss(logits[present], drawn[present]))


def test_nothing_positive_is_a_zero_on_the_graph():
    head = MaskHead.from_cfg(small_cfg(), CHANNELS)
    targets, _ = person_batch()
    loss = head(feature_pyramid(2, (96, 64)), empty_samples([(96, 64)] * 2), targets).losses["loss_mask"]
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_loss_is_float32_under_autocast():
    head = MaskHead.from_cfg(small_cfg(), CHANNELS)
    targets, samples = person_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(feature_pyramid(2, (96, 64)), samples, targets)
    assert output.losses["loss_mask"].dtype == torch.float32


def test_wrong_resolution_is_explained():
    cfg = small_cfg("MODEL.ROI_MASK_HEAD.RESOLUTION", 28)
    with pytest.raises(ConfigError, match="turns 7 cells per side into 14; set RESOLUTION to 14"):
        MaskHead.from_cfg(cfg, CHANNELS)
    targets, samples = person_batch()
    with pytest.raises(ValueError, match=r"yields 14 cells.*RESOLUTION is 28"):
        MaskKind.from_cfg(cfg).loss(torch.zeros(5, 1, 14, 14), samples, targets)


def test_inference_equals_slow_loops_and_leaves_its_input_alone():
    head = MaskHead.from_cfg(small_cfg(), CHANNELS).eval()
    detections = detection_batch()
    output = head(feature_pyramid(2, (96, 64)), detections)
    assert not output.losses and not any(boxes.has_field(MASK) for boxes in detections)
    row = 0
    for result, given in zip(output.detections, detections, strict=True):
        assert result.get_field(MASK).shape == (len(given), 1, 14, 14)
        assert result.has_field(SCORES) and torch.equal(result.bbox, given.bbox)
        for position, label in enumerate(given.get_field(LABELS)):
            expected = 1 / (1 + np.exp(-output.logits[row, label].detach().numpy()))
            np.testing.assert_allclose(result.get_field(MASK)[position, 0].detach(), expected, atol=1e-6)
            row += 1


def test_batch_equals_single_images():
    head = MaskHead.from_cfg(small_cfg(), CHANNELS).eval()
    features, detections = feature_pyramid(2, (96, 64)), detection_batch()
    together = head(features, detections).detections
    for image in range(2):
        alone = head([level[image : image + 1] for level in features], [detections[image]]).detections[0]
        torch.testing.assert_close(alone.get_field(MASK), together[image].get_field(MASK))


def test_no_detections():
    head = MaskHead.from_cfg(small_cfg(), CHANNELS).eval()
    detections = [boxes[[]] for boxes in detection_batch()]
    for result in head(feature_pyramid(2, (96, 64)), detections).detections:
        assert result.get_field(MASK).shape == (0, 1, 14, 14)


def slow_paste(mask: np.ndarray, extents: tuple[float, ...], size_wh: tuple[int, int]) -> np.ndarray:
    """Probability at each pixel's centre, bilinear between cell centres, zero beyond the grid."""
    (x1, y1, x2, y2), (width, height), cells = extents, size_wh, len(mask)
    padded = np.pad(mask, 1)
    pasted = np.zeros((height, width))
    for py in range(height):
        for px in range(width):
            u = (px + 0.5 - x1) / (x2 - x1) * cells - 0.5 + 1
            v = (py + 0.5 - y1) / (y2 - y1) * cells - 0.5 + 1
            if 0 <= u < cells + 1 and 0 <= v < cells + 1:
                i, j = int(v), int(u)
                a, b = v - i, u - j
                top = padded[i, j] * (1 - b) + padded[i, j + 1] * b
                bottom = padded[i + 1, j] * (1 - b) + padded[i + 1, j + 1] * b
                pasted[py, px] = top * (1 - a) + bottom * a
    return pasted


def test_masker_pastes_through_the_box_or_the_mask_boxes():
    generator = torch.Generator().manual_seed(2)
    masks = torch.rand(2, 1, 6, 6, generator=generator)
    boxes = BoxList([[3.0, 2.0, 12.0, 9.0], [0.0, 0.0, 4.0, 4.0]], (20, 14))
    masker = Masker(threshold=0.5, padding=1)
    (pasted,) = masker(masks, boxes)
    assert pasted.shape == (2, 1, 14, 20) and pasted.dtype == torch.bool
    for row, extents in enumerate([(3, 2, 13, 10), (0, 0, 5, 5)]):
        np.testing.assert_array_equal(pasted[row, 0], slow_paste(masks[row, 0].numpy(), extents, (20, 14)) > 0.5)

    spanned = BoxList([[1.0, 0.0, 15.5, 12.0], [0.0, 0.0, 7.0, 9.5]], (20, 14), offset=0)
    boxes.add_field(MASK_BOXES, spanned)
    (pasted,) = masker([masks], [boxes])
    for row, extents in enumerate(spanned.bbox.tolist()):
        np.testing.assert_array_equal(pasted[row, 0], slow_paste(masks[row, 0].numpy(), extents, (20, 14)) > 0.5)
    # upstream's evaluation hands over a tensor with a leading dimension of one image
    assert torch.equal(masker(masks[None], boxes)[0], pasted)


def test_masker_errors_and_empty():
    boxes = BoxList(torch.zeros(0, 4), (20, 14))
    assert Masker()(torch.zeros(0, 1, 6, 6), boxes)[0].shape == (0, 1, 14, 20)
    with pytest.raises(ValueError, match="3 masks for 0 boxes"):
        Masker()(torch.zeros(3, 1, 6, 6), boxes)
    with pytest.raises(ValueError, match="masks of 1 images and boxes of 2"):
        Masker()([torch.zeros(0, 1, 6, 6)], [boxes, boxes])
    with pytest.raises(ValueError, match="padding is 0"):
        Masker(padding=0)


def test_masks_pasted_inside_the_model():
    detections = detection_batch()
    logits = torch.randn(3, 5, 14, 14, generator=torch.Generator().manual_seed(4))
    inside = MaskPostProcessor(Masker(0.5))(logits, detections)
    outside = MaskPostProcessor()(logits, detections)
    for drawn, framed in zip(inside, outside, strict=True):
        assert drawn.get_field(MASK).shape == (len(drawn), 1, 64, 96)
        assert torch.equal(drawn.get_field(MASK), Masker(0.5)(framed.get_field(MASK), framed)[0])
    head = MaskHead.from_cfg(small_cfg("MODEL.ROI_MASK_HEAD.POSTPROCESS_MASKS", True), CHANNELS)
    assert head.outputs["mask"].post_processor.masker.threshold == 0.5


def test_shared_box_features():
    extractor = ("MODEL.ROI_MASK_HEAD.FEATURE_EXTRACTOR", "ResNet50Conv5ROIFeatureExtractor")  # the box head's too
    cfg = small_cfg(*extractor, "MODEL.ROI_MASK_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", True)
    head = MaskHead.from_cfg(cfg, 12)
    assert head.feature_extractor is None and head.predictor.conv5_mask.in_channels == 12
    targets, samples = person_batch()
    output = head([], samples, targets, box_features=torch.randn(5, 12, 7, 7))
    assert output.losses["loss_mask"].item() > 0
    with pytest.raises(ValueError, match="box_features"):
        head([], samples, targets)
    with pytest.raises(ValueError, match="needs `targets`"):
        head([], samples, box_features=torch.randn(5, 12, 7, 7))


def test_frozen_detector_computes_no_loss():
    head = MaskHead.from_cfg(small_cfg(), CHANNELS, learns=False)
    targets, samples = person_batch()
    output = head(feature_pyramid(2, (96, 64)), samples, targets)
    assert output.losses == {} and len(output.logits) == 5


def test_conv1x1_predictor_and_group_norm_keys():
    cfg = small_cfg(
        *("MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNConv1x1Predictor", "MODEL.ROI_MASK_HEAD.RESOLUTION", 7),
        *("MODEL.ROI_MASK_HEAD.USE_GN", True),
    )
    head = MaskHead.from_cfg(cfg, CHANNELS)
    assert sorted(head.state_dict()) == [
        "feature_extractor.mask_fcn1.0.weight",
        "feature_extractor.mask_fcn1.1.bias",
        "feature_extractor.mask_fcn1.1.weight",
        "feature_extractor.mask_fcn2.0.weight",
        "feature_extractor.mask_fcn2.1.bias",
        "feature_extractor.mask_fcn2.1.weight",
        "predictor.mask_fcn_logits.bias",
        "predictor.mask_fcn_logits.weight",
    ]
    assert head.eval()(feature_pyramid(2, (96, 64)), detection_batch()).logits.shape == (3, 5, 7, 7)


def test_dilation_keeps_the_size():
    head = MaskHead.from_cfg(small_cfg("MODEL.ROI_MASK_HEAD.DILATION", 2), CHANNELS).eval()
    assert head.feature_extractor.mask_fcn1.dilation == (2, 2)
    assert head(feature_pyramid(2, (96, 64)), detection_batch()).logits.shape == (3, 5, 14, 14)


def test_state_dict_is_upstreams():
    shapes = read_contract("e2e_mask_rcnn_R_50_FPN_1x").shapes
    prefix = "roi_heads.mask."
    expected = {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}
    cfg = small_cfg(
        *("MODEL.ROI_BOX_HEAD.NUM_CLASSES", 81, "MODEL.ROI_MASK_HEAD.CONV_LAYERS", (256, 256, 256, 256)),
        *("MODEL.ROI_MASK_HEAD.PREDICTOR", "MaskRCNNC4Predictor"),
    )
    assert {key: tuple(value.shape) for key, value in MaskHead.from_cfg(cfg, 256).state_dict().items()} == expected
