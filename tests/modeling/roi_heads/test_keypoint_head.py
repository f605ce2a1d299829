"""The keypoint branch: targets and loss against slow loops, post-processing, sharing, file format."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.layers.keypoint_ops import encode_keypoints
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.inference import KeypointPostProcessor
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.keypoint_head import KeypointHead
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import keypoint_loss, matched_keypoints
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.output import KeypointKind
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LOGITS, SCORES
from maskrcnn_benchmark.structures.keypoint import Keypoints
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from maskrcnn_benchmark.utils.problems import ConfigError
from tests.contracts.contract import read_contract
from tests.devices import DEVICES
from tests.modeling.roi_heads.head_cases import (
    CHANNELS,
    detection_batch,
    empty_samples,
    feature_pyramid,
    make_samples,
    make_target,
    person_batch,
    small_cfg,
)


def slow_loss(logits: np.ndarray, keypoints: np.ndarray, frames: np.ndarray) -> float:
    """Cross-entropy of each visible keypoint inside its frame, one by one."""
    losses = []
    num_rois, num_keypoints, size, _ = logits.shape
    for roi in range(num_rois):
        x1, y1, x2, y2 = frames[roi]
        for index in range(num_keypoints):
            x, y, visibility = keypoints[roi, index]
            if visibility <= 0 or not (x1 <= x <= x2 and y1 <= y <= y2):
                continue
            column = min(int(np.floor((x - x1) * size / (x2 - x1))), size - 1)
            row = min(int(np.floor((y - y1) * size / (y2 - y1))), size - 1)
            cells = logits[roi, index].astype(np.float64)
            losses.append(np.log(np.exp(cells - cells.max()).sum()) + cells.max() - cells[row, column])
    return float(np.mean(losses)) if losses else 0.0


@pytest.mark.parametrize("device", DEVICES)
def test_matched_keypoints_are_those_of_each_rois_instance(device):
    targets, samples = person_batch()
    expected = [
        targets[image].get_field(KEYPOINTS).keypoints[index].tolist()
        for image, index in zip(samples.image_ids.tolist(), samples.matched_idxs.tolist(), strict=True)
    ]
    samples = type(samples)(**{k: v.to(device) if torch.is_tensor(v) else v for k, v in vars(samples).items()})
    found = matched_keypoints(samples, [target.to(device) for target in targets])
    assert found.device.type == device and found.tolist() == expected


def test_matched_keypoints_with_an_image_without_instances():
    targets, samples = person_batch()
    nobody = make_target([], [], np.zeros((0, 17, 3)), (96, 64))
    samples = make_samples([[1, 1, 9, 9]], image_ids=[2], matched_idxs=[0], sizes=[(96, 64)] * 3)
    found = matched_keypoints(samples, [targets[0], nobody, targets[1]])
    assert torch.equal(found, targets[1].get_field(KEYPOINTS).keypoints)


def test_loss_equals_slow_loops():
    targets, samples = person_batch()
    logits = torch.randn(5, 17, 9, 9, generator=torch.Generator().manual_seed(0)) * 3
    keypoints = matched_keypoints(samples, targets)
    keypoints[0, 0] = torch.tensor([12.0, 45.0, 2.0])  # on the near edge in x and the far edge in y
    keypoints[0, 1] = torch.tensor([38.0, 10.0, 1.0])
    loss = keypoint_loss(logits, keypoints, samples.boxes)
    assert loss.item() == pytest.approx(slow_loss(logits.numpy(), keypoints.numpy(), samples.boxes.numpy()), rel=1e-5)


def test_roi_without_visible_keypoints_weighs_nothing():
    logits = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    frames = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    keypoints = torch.tensor([[[3.0, 4.0, 2.0], [5.0, 5.0, 0.0], [50.0, 5.0, 2.0]], [[0.0, 0.0, 0.0]] * 3])
    keypoints[1, 2] = torch.tensor([-1.0, 4.0, 2.0])
    loss = keypoint_loss(logits, keypoints, frames)
    alone = keypoint_loss(logits[:1, :1], keypoints[:1, :1], frames[:1])
    torch.testing.assert_close(loss, alone)
    loss.backward()
    assert logits.grad[0, 0].any() and not logits.grad[0, 1:].any() and not logits.grad[1].any()


def test_no_visible_keypoint_at_all_is_a_zero_on_the_graph():
    logits = torch.randn(2, 3, 6, 6, requires_grad=True)
    loss = keypoint_loss(logits, torch.zeros(2, 3, 3), torch.tensor([[0.0, 0.0, 9.0, 9.0]] * 2))
    assert loss.item() == 0
    loss.backward()
    assert not logits.grad.any()


@pytest.mark.parametrize("device", DEVICES)
def test_training_step(device):
    head = KeypointHead.from_cfg(small_cfg("MODEL.ROI_KEYPOINT_HEAD.LOSS_WEIGHT", 0.5), CHANNELS).to(device)
    targets, samples = person_batch()
    samples = type(samples)(**{k: v.to(device) if torch.is_tensor(v) else v for k, v in vars(samples).items()})
    targets = [target.to(device) for target in targets]
    output = head([level.to(device) for level in feature_pyramid(2, (96, 64))], samples, targets)
    assert output.logits.shape == (5, 17, 24, 24) and output.features.shape == (5, 8, 6, 6)
    expected = 0.5 * keypoint_loss(output.logits, matched_keypoints(samples, targets), samples.boxes)
    torch.testing.assert_close(output.losses["loss_kp"], expected)
    output.losses["loss_kp"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())


def test_nothing_positive_is_a_zero_on_the_graph():
    head = KeypointHead.from_cfg(small_cfg(), CHANNELS)
    targets, _ = person_batch()
    loss = head(feature_pyramid(2, (96, 64)), empty_samples([(96, 64)] * 2), targets).losses["loss_kp"]
    assert loss.item() == 0
    loss.backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_loss_is_float32_under_autocast():
    head = KeypointHead.from_cfg(small_cfg(), CHANNELS)
    targets, samples = person_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = head(feature_pyramid(2, (96, 64)), samples, targets)
    assert output.losses["loss_kp"].dtype == torch.float32


def test_wrong_numbers_are_explained():
    targets, samples = person_batch()
    cfg = small_cfg("MODEL.ROI_KEYPOINT_HEAD.RESOLUTION", 56)
    with pytest.raises(ConfigError, match="turns 6 cells per side into 24; set RESOLUTION to 24"):
        KeypointHead.from_cfg(cfg, CHANNELS)
    with pytest.raises(ValueError, match=r"yields 24 cells.*RESOLUTION is 56"):
        KeypointKind.from_cfg(cfg).loss(torch.zeros(5, 17, 24, 24), samples, targets)
    head = KeypointHead.from_cfg(small_cfg("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 4), CHANNELS)
    with pytest.raises(ValueError, match="NUM_CLASSES to 17"):
        head(feature_pyramid(2, (96, 64)), samples, targets)


def test_inference_equals_slow_loops():
    cfg = small_cfg("MODEL.ROI_KEYPOINT_HEAD.DECODE", "argmax")
    head = KeypointHead.from_cfg(cfg, CHANNELS).eval()
    detections = detection_batch()
    output = head(feature_pyramid(2, (96, 64)), detections)
    row = 0
    for result, given in zip(output.detections, detections, strict=True):
        keypoints = result.get_field(KEYPOINTS)
        assert keypoints.spec == COCO_PERSON and keypoints.size == (96, 64)
        assert result.has_field(SCORES) and not given.has_field(KEYPOINTS)
        for position, (x1, y1, x2, y2) in enumerate(given.bbox.tolist()):
            for index in range(17):
                cells = output.logits[row, index].detach().numpy()
                i, j = np.unravel_index(cells.argmax(), cells.shape)
                expected = [x1 + (j + 0.5) * (x2 - x1) / 24, y1 + (i + 0.5) * (y2 - y1) / 24, 1.0]
                np.testing.assert_allclose(keypoints.keypoints[position, index], expected, rtol=1e-5)
                assert keypoints.get_field(LOGITS)[position, index].item() == pytest.approx(cells.max())
            row += 1


@pytest.mark.parametrize("method", ["argmax", "quarter", "dark", "bicubic"])
def test_targets_come_back_from_their_own_heat_maps(method):
    detections = detection_batch()
    generator = torch.Generator().manual_seed(1)
    boxes = torch.cat([boxes.bbox for boxes in detections])
    points = boxes[:, None, :2] + (0.1 + 0.8 * torch.rand(3, 17, 2, generator=generator)) * (
        boxes[:, None, 2:] - boxes[:, None, :2]
    )
    size = 28
    cell = (boxes[:, None, 2:] - boxes[:, None, :2]) / size
    centres = (torch.arange(size) + 0.5)[None, None]
    position = (points - boxes[:, None, :2]) / cell
    bump_x = -0.5 * (centres - position[..., 0:1]) ** 2
    bump_y = -0.5 * (centres - position[..., 1:2]) ** 2
    results = KeypointPostProcessor(method)(bump_y[..., :, None] + bump_x[..., None, :], detections)
    found = torch.cat([result.get_field(KEYPOINTS).keypoints for result in results])
    pixel = 0.5 if method == "bicubic" else 0.0  # bicubic answers in whole pixels of the enlarged map
    assert ((found[..., :2] - points).abs() <= 0.5 * cell + pixel + 1e-3).all()


def test_another_skeleton_is_nameless():
    logits = torch.randn(3, 5, 8, 8)
    for result in KeypointPostProcessor("argmax")(logits, detection_batch()):
        assert type(result.get_field(KEYPOINTS)) is Keypoints
        assert result.get_field(KEYPOINTS).get_field(LOGITS).shape == (len(result), 5)


def test_batch_equals_single_images_and_no_detections():
    head = KeypointHead.from_cfg(small_cfg(), CHANNELS).eval()
    features, detections = feature_pyramid(2, (96, 64)), detection_batch()
    together = head(features, detections).detections
    for image in range(2):
        alone = head([level[image : image + 1] for level in features], [detections[image]]).detections[0]
        torch.testing.assert_close(alone.get_field(KEYPOINTS).keypoints, together[image].get_field(KEYPOINTS).keypoints)
    for result in head(features, [boxes[[]] for boxes in detections]).detections:
        assert result.get_field(KEYPOINTS).keypoints.shape == (0, 17, 3)


def test_shared_box_features():
    extractor = ("MODEL.ROI_KEYPOINT_HEAD.FEATURE_EXTRACTOR", "ResNet50Conv5ROIFeatureExtractor")  # the box head's too
    cfg = small_cfg(*extractor, "MODEL.ROI_KEYPOINT_HEAD.SHARE_BOX_FEATURE_EXTRACTOR", True)
    head = KeypointHead.from_cfg(cfg, 12)
    targets, samples = person_batch()
    output = head([], samples, targets, box_features=torch.randn(5, 12, 6, 6))
    assert output.losses["loss_kp"].item() > 0
    with pytest.raises(ValueError, match="box_features"):
        head([], samples, targets)
    with pytest.raises(ValueError, match="needs `targets`"):
        head([], samples, box_features=torch.randn(5, 12, 6, 6))


def test_state_dict_is_upstreams():
    shapes = read_contract("e2e_keypoint_rcnn_R_50_FPN_1x").shapes
    prefix = "roi_heads.keypoint."
    expected = {key[len(prefix) :]: shape for key, shape in shapes.items() if key.startswith(prefix)}
    cfg = small_cfg("MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", (512,) * 8)
    found = KeypointHead.from_cfg(cfg, 256).state_dict()
    assert {key: tuple(value.shape) for key, value in found.items()} == expected


def test_loss_divided_by_the_keypoints_of_a_full_sample():
    """Two images, of which each may give 17 keypoints of 512 / 4 RoIs."""
    targets, samples = person_batch()
    features = feature_pyramid(2, (96, 64))
    losses = {}
    for normalizer in ("visible", "batch_size"):
        torch.manual_seed(0)
        cfg = small_cfg("MODEL.ROI_KEYPOINT_HEAD.LOSS_NORMALIZER", normalizer)
        output = KeypointHead.from_cfg(cfg, CHANNELS)(features, samples, targets)
        losses[normalizer] = output.losses["loss_kp"]
    _, valid = encode_keypoints(matched_keypoints(samples, targets), samples.boxes, 24)
    full = 17 * cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE * cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION * len(targets)
    torch.testing.assert_close(losses["batch_size"] * full, losses["visible"] * valid.sum())
