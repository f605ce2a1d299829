"""Targets and losses of keypoints against loops over one joint at a time, and what the config says about them."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.inference import KeypointPostProcessor
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.keypoint_head import KeypointHead
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.loss import KeypointLoss, keypoint_loss
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.output import KeypointKind
from maskrcnn_benchmark.modeling.roi_heads.refine_head.refine_head import build_roi_refine_head
from maskrcnn_benchmark.structures.fields import KEYPOINT_SCORES, KEYPOINTS, LOGITS
from maskrcnn_benchmark.utils.problems import ConfigError
from tests.devices import DEVICES
from tests.modeling.roi_heads.head_cases import (
    CHANNELS,
    detection_batch,
    empty_samples,
    feature_pyramid,
    person_batch,
    small_cfg,
)

HEAD, REFINE = "MODEL.ROI_KEYPOINT_HEAD", "MODEL.ROI_REFINE_HEAD"
KINDS = {
    "onehot": KeypointLoss(),
    "gaussian": KeypointLoss("gaussian", "cross_entropy", 1.5),
    "mse": KeypointLoss("gaussian", "mse", 1.5),
}
GAUSSIANS = [KINDS["gaussian"], KINDS["mse"]]


def case(keypoints=5, size=12):
    """Three RoIs with labelled, hidden and unlabelled keypoints inside, outside, far outside and on the border."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.tensor([[10.0, 20.0, 70.0, 56.0], [-4.0, 3.5, 8.0, 51.5], [30.0, 30.0, 36.0, 36.0]])
    sides = frames[:, None, 2:] - frames[:, None, :2]
    points = frames[:, None, :2] + (1.6 * torch.rand(3, keypoints, 2, generator=generator) - 0.3) * sides
    visibility = torch.randint(0, 3, (3, keypoints, 1), generator=generator).float()
    joints = torch.cat([points, visibility], dim=2)
    joints[0, 0] = torch.tensor([10.0, 56.0, 2.0])  # a corner of the frame
    joints[0, 1] = torch.tensor([500.0, 30.0, 2.0])  # far away
    maps = torch.randn(3, keypoints, size, size, generator=generator)
    return maps, joints, frames


def slow_loss(loss, maps, joints, frames, divisor=None):
    """One joint of one RoI at a time, cell by cell."""
    total, count, size, reach = 0.0, 0, maps.shape[-1], 3 * loss.sigma
    for maps_of_roi, joints_of_roi, frame in zip(maps.double().numpy(), joints.tolist(), frames.tolist(), strict=True):
        x1, y1, x2, y2 = frame
        found = []
        for index, (heights, (x, y, visibility)) in enumerate(zip(maps_of_roi, joints_of_roi, strict=True)):
            weight = loss.joint_weights[index] if loss.joint_weights else 1.0
            u, v = (x - x1) * size / (x2 - x1), (y - y1) * size / (y2 - y1)
            if loss.target == "onehot":
                has_target = 0 <= u <= size and 0 <= v <= size
            else:  # HRNet: the window of 3 sigma around the centre's cell has a cell in common with the map
                has_target = all(-reach <= np.floor(value) <= size - 1 + reach for value in (u, v))
            if visibility == 0 or not has_target or weight == 0:
                continue
            target = np.zeros((size, size))
            if loss.target == "onehot":
                target[min(int(v), size - 1), min(int(u), size - 1)] = 1
            else:
                for i in range(size):
                    for j in range(size):
                        target[i, j] = np.exp(-((j + 0.5 - u) ** 2 + (i + 0.5 - v) ** 2) / (2 * loss.sigma**2))
            if loss.loss == "mse":
                value = 0.5 * ((heights - target) ** 2).sum()
            else:
                log_probabilities = heights - np.log(np.exp(heights).sum())
                value = -(target / target.sum() * log_probabilities).sum()
            found.append(weight * value)
        found = sorted(found, reverse=True)[: loss.num_hardest or None]
        total, count = total + sum(found), count + len(found)
    return total / (divisor or max(count, 1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("divisor", [None, 7.0])
@pytest.mark.parametrize("num_hardest", [0, 1, 2, 5])
@pytest.mark.parametrize("weights", [(), (1.0, 1.2, 0.0, 0.5, 3.0)])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_equal_loops(kind, weights, num_hardest, divisor, device):
    plain = KINDS[kind]
    loss = KeypointLoss(plain.target, plain.loss, plain.sigma, weights, num_hardest)
    maps, joints, frames = case()
    found = loss(maps.to(device), joints.to(device), frames.to(device), divisor)
    assert found.dtype == torch.float32 and found.shape == ()
    assert found.item() == pytest.approx(slow_loss(loss, maps, joints, frames, divisor), rel=1e-5)
    assert found > 0


def hrnet_target(joint_xy, size, sigma):
    """HRNet's published target of one joint on a map of size x size, whose coordinates are centres of cells."""
    target, weight, radius = np.zeros((size, size)), 1.0, 3 * sigma
    x, y = int(joint_xy[0] + 0.5), int(joint_xy[1] + 0.5)
    if x - radius >= size or y - radius >= size or x + radius + 1 < 0 or y + radius + 1 < 0:
        return target, 0.0
    for row in range(max(0, y - radius), min(y + radius + 1, size)):
        for column in range(max(0, x - radius), min(x + radius + 1, size)):
            target[row, column] = np.exp(-((column - x) ** 2 + (row - y) ** 2) / (2 * sigma**2))
    return target, weight


@pytest.mark.parametrize("joint", [(7, 9), (0, 0), (15, 3), (17, 4), (21, 9), (22, 9), (4, 40), (-9, 5)])
def test_squared_error_is_hrnets_at_the_centres_of_cells(joint):
    """Their loss is a mean over cells, of a Gaussian that ends at 3 sigma. They round negative centres towards 0."""
    size, sigma = 16, 2
    maps = torch.rand(1, 1, size, size, generator=torch.Generator().manual_seed(1))
    target, weight = hrnet_target(joint, size, sigma)
    expected = 0.5 * ((maps[0, 0].numpy() * weight - target * weight) ** 2).mean()
    point = torch.tensor([[[joint[0] + 0.5, joint[1] + 0.5, 2.0]]])
    found = KeypointLoss("gaussian", "mse", sigma)(maps, point, torch.tensor([[0.0, 0.0, size, size]]))
    assert found.item() / size**2 == pytest.approx(expected, abs=1e-3)
    assert (found > 0) == (weight > 0)


@pytest.mark.parametrize("loss", GAUSSIANS)
def test_the_best_map_is_the_target_and_decodes_to_the_point(loss):
    """Gradient descent on the maps themselves ends at a map whose peak is the point, between the cells."""
    size, frames = 20, torch.tensor([[5.0, 5.0, 45.0, 65.0]])
    points = torch.tensor([[[20.3, 31.8, 2.0], [31.1, 22.2, 1.0]]])
    maps = torch.zeros(1, 2, size, size, requires_grad=True)
    optimizer = torch.optim.Adam([maps], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        loss(maps, points, frames).backward()
        optimizer.step()
    post_processor = KeypointPostProcessor("dark", activation=loss.activation)
    boxes = detection_batch()[1].copy_with_fields([])
    boxes.bbox = frames
    keypoints = post_processor(maps.detach(), [boxes])[0].get_field(KEYPOINTS)
    cell = torch.tensor([2.0, 3.0])
    assert ((keypoints.keypoints[..., :2] - points[..., :2]).abs() / cell).max() < 0.03
    assert (keypoints.get_field(LOGITS) > 1.5).all()


@pytest.mark.parametrize("loss", [*KINDS.values(), KeypointLoss("gaussian", "mse", 1.0, (2.0, 0.0, 1.0, 1.0, 1.0), 2)])
def test_gradients(loss):
    maps, joints, frames = case(size=6)
    joints[1, 3, 0] = float("nan")
    maps = maps.double().requires_grad_()
    loss(maps, joints, frames).backward()
    assert torch.isfinite(maps.grad).all() and maps.grad.any()
    analytic = maps.grad.flatten()
    for index in torch.randint(0, maps.numel(), (40,), generator=torch.Generator().manual_seed(2)).tolist():
        values = []
        for step in (-1e-2, 1e-2):
            moved = maps.detach().clone().flatten()
            moved[index] += step
            values.append(loss(moved.view_as(maps), joints, frames).item())
        assert (values[1] - values[0]) / 2e-2 == pytest.approx(analytic[index].item(), abs=1e-3)


@pytest.mark.parametrize("num_hardest", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_learn_is_a_zero_on_the_graph(kind, num_hardest):
    plain = KINDS[kind]
    loss = KeypointLoss(plain.target, plain.loss, plain.sigma, (), num_hardest)
    maps, joints, frames = case(keypoints=2)
    joints = torch.zeros_like(joints)
    for rows in (slice(0, 0), slice(None)):  # no RoI; none with a labelled keypoint
        given = maps[rows].clone().requires_grad_()
        value = loss(given, joints[rows], frames[rows])
        assert value.item() == 0
        value.backward()
        assert not given.grad.any()


@pytest.mark.parametrize("loss", KINDS.values())
def test_one_joint_and_a_single_cell(loss):
    joints, frames = torch.tensor([[[3.0, 3.0, 2.0]]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    assert loss(torch.zeros(1, 1, 1, 1), joints, frames).isfinite()
    weighted = KeypointLoss(loss.target, loss.loss, loss.sigma, (2.0,), 1)
    maps = torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(weighted(maps, joints, frames), 2 * loss(maps, joints, frames))


@pytest.mark.parametrize("loss", GAUSSIANS)
def test_unlabelled_and_distant_keypoints_and_empty_frames_have_no_gradient(loss):
    maps, joints, frames = case()
    joints[..., :2] = frames[:, None, :2] + 2.0
    joints[..., 2] = 2
    joints[0, 0, 2] = 0
    joints[0, 1, :2] = torch.tensor([70 + 6 * 5.0, 30.0])  # 6 cells of 5 pixels outside; 3 sigma are 4.5 cells
    joints[0, 2, :2] = torch.tensor([70 + 3 * 5.0, 30.0])
    frames[2, 2] = frames[2, 0]
    maps.requires_grad_()
    loss(maps, joints, frames).backward()
    moved = maps.grad.flatten(2).any(dim=2)
    assert moved.tolist() == [[False, False, True, True, True], [True] * 5, [False] * 5]


def test_hard_keypoints_are_chosen_per_roi_after_weighting():
    maps, frames = torch.zeros(2, 3, 4, 4), torch.tensor([[0.0, 0.0, 4.0, 4.0]] * 2)
    joints = torch.tensor([[[1.5, 1.5, 2.0]] * 3] * 2)
    maps[:, :, 1, 1] = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]])
    joints[1, 0, 2] = 0  # the hardest of its RoI is not labelled

    def chosen(weights):
        given = maps.clone().requires_grad_()
        KeypointLoss(joint_weights=weights, num_hardest=1)(given, joints, frames).backward()
        return given.grad.flatten(2).any(dim=2).tolist()

    assert chosen(()) == [[False, True, False], [False, False, True]]
    assert chosen((50.0, 1.0, 1.0)) == [[True, False, False], [False, False, True]]


def test_equal_weights_and_all_keypoints_are_the_plain_loss():
    maps, joints, frames = case()
    plain = keypoint_loss(maps, joints, frames)
    torch.testing.assert_close(KeypointLoss(joint_weights=(1.0,) * 5, num_hardest=5)(maps, joints, frames), plain)
    assert torch.equal(KeypointLoss()(maps, joints, frames), plain)


# In the heads


def options(kind, section=HEAD):
    target, loss = {"onehot": ("onehot", "cross_entropy"), "gaussian": ("gaussian", "cross_entropy")}.get(
        kind, ("gaussian", "mse")
    )
    return [f"{section}.TARGET", target, f"{section}.LOSS", loss]


@pytest.mark.parametrize("kind", KINDS)
def test_training_step_and_detections(kind):
    cfg = small_cfg(*options(kind), f"{HEAD}.DECODE", "dark", f"{HEAD}.RESCORE", True)
    head = KeypointHead.from_cfg(cfg, CHANNELS)
    targets, samples = person_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = head(feature_pyramid(2, (96, 64)), samples, targets).losses["loss_kp"]
    assert loss.dtype == torch.float32 and 0 < loss < 50  # per keypoint: log(24 * 24) = 6.4, or pi * 2**2 / 2 = 6.3
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    nothing = head(feature_pyramid(2, (96, 64)), empty_samples([(96, 64)] * 2), targets).losses["loss_kp"]
    assert nothing.item() == 0 and nothing.requires_grad
    for result in head.eval()(feature_pyramid(2, (96, 64)), detection_batch()).detections:
        assert torch.isfinite(result.get_field(KEYPOINTS).keypoints).all()
        assert torch.isfinite(result.get_field(KEYPOINTS).get_field(LOGITS)).all()
        assert ((result.get_field(KEYPOINT_SCORES) >= 0) & (result.get_field(KEYPOINT_SCORES) <= 1)).all()


@pytest.mark.parametrize("form", ["probability", "logit"])
@pytest.mark.parametrize("refined", [None, *KINDS])
@pytest.mark.parametrize("coarse", KINDS)
def test_refinement_starts_from_the_coarse_points(coarse, refined, form):
    """An untrained refine head changes nothing, also if its maps are not what the coarse ones are."""
    opts = options(coarse) + (options(refined, REFINE) if refined else [])
    cfg = small_cfg(*opts, f"{REFINE}.INDICATOR_FORM", form, f"{REFINE}.POOLER_RESOLUTION", 32)
    refine = build_roi_refine_head(cfg, CHANNELS)
    kind = refine.outputs["keypoint"]
    assert kind.learns == (KeypointLoss.from_cfg(cfg) if refined is None else KeypointLoss.from_cfg(cfg, REFINE[6:]))
    detections = detection_batch()
    boxes = torch.cat([boxes.bbox for boxes in detections])
    peaks = 6 + 12 * torch.rand(3, 17, 2, generator=torch.Generator().manual_seed(3))
    cells = torch.arange(24) + 0.5
    squares = (cells - peaks[..., 0, None])[..., None, :] ** 2 + (cells - peaks[..., 1, None])[..., None] ** 2
    maps = torch.exp(-squares / 8) if coarse == "mse" else -squares / 8
    expected = boxes[:, None, :2] + peaks * (boxes[:, None, 2:] - boxes[:, None, :2]) / 24
    mask = torch.zeros(3, 5, 14, 14)
    masks = type("Branch", (), {"logits": mask, "features": mask})
    points = type("Branch", (), {"logits": maps, "features": maps})
    result = refine.eval()(feature_pyramid(2, (96, 64)), detections, branches={"mask": masks, "keypoint": points})
    found = torch.cat([boxes.get_field(KEYPOINTS).keypoints for boxes in result.detections])[..., :2]
    cell = (boxes[:, None, 2:] - boxes[:, None, :2]) / 24
    assert ((found - expected).abs() / cell).max() < 0.1
    assert result.logits["keypoint"].isfinite().all()


def test_heights_of_logits_are_as_high_as_they_are_sure():
    kind = KeypointKind(1, learns=KeypointLoss("gaussian", "mse", 2.0), coarse_activation="softmax")
    squares = (torch.arange(40) - 20.0) ** 2
    squares = (squares[:, None] + squares)[None, None]
    for spread, expected in ((1.0, 1.0), (2.0, 1.0), (4.0, 0.25)):  # a fourth of the height on four times the area
        heights = kind.start(-squares / (2 * spread**2))
        assert heights.max().item() == pytest.approx(expected, rel=1e-3)
        assert heights[0, 0, 20, 20] == heights.max()
    assert kind.start(torch.zeros(1, 1, 40, 40)).max() < 0.02


def test_averages_of_views_are_of_heights():
    kind = KeypointKind(2, learns=KINDS["mse"])
    maps = torch.rand(2, 2, 4, 4)
    torch.testing.assert_close(kind.logits_of_average(kind.averaged_values(maps)), maps)
    totals = kind.probabilities(maps).sum(dim=(2, 3))
    torch.testing.assert_close(totals, torch.ones_like(totals))
    assert kind.outside_logit(maps) == 0


def test_the_refine_head_inherits_or_overrides():
    cfg = small_cfg(*options("mse"), f"{HEAD}.SIGMA", 3.0, f"{HEAD}.JOINT_WEIGHTS", [2.0] * 17, f"{HEAD}.OHKM_TOP", 8)
    assert KeypointLoss.from_cfg(cfg, "ROI_REFINE_HEAD") == KeypointLoss.from_cfg(cfg)
    assert KeypointLoss.from_cfg(cfg) == KeypointLoss("gaussian", "mse", 3.0, (2.0,) * 17, 8)
    cfg.merge_from_list([*options("onehot", REFINE), f"{REFINE}.SIGMA", 1.0, f"{REFINE}.OHKM_TOP", 0])
    assert KeypointLoss.from_cfg(cfg, "ROI_REFINE_HEAD") == KeypointLoss("onehot", "cross_entropy", 1.0, (2.0,) * 17, 0)


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        ([f"{HEAD}.TARGET", "blob"], "KEYPOINT_HEAD.TARGET is 'blob'; expected one of 'onehot', 'gaussian'"),
        ([f"{HEAD}.LOSS", "l2"], "KEYPOINT_HEAD.LOSS is 'l2'; expected one of 'cross_entropy', 'mse'"),
        ([f"{HEAD}.LOSS", "mse"], "LOSS is 'mse', but .*TARGET is 'onehot'.*Set TARGET to 'gaussian'"),
        ([f"{HEAD}.SIGMA", 0.0], "KEYPOINT_HEAD.SIGMA is 0.0; expected a number of cells above 0"),
        ([f"{HEAD}.JOINT_WEIGHTS", (1.0, 2.0)], "JOINT_WEIGHTS has 2 numbers, .*NUM_CLASSES is 17"),
        ([f"{HEAD}.JOINT_WEIGHTS", (-1.0,) * 17], "expected weights of at least 0"),
        ([f"{HEAD}.OHKM_TOP", 18], "KEYPOINT_HEAD.OHKM_TOP is 18; expected between 0 and 17"),
        ([f"{REFINE}.TARGET", "blob"], "REFINE_HEAD.TARGET is 'blob'"),
        ([f"{REFINE}.SIGMA", -1.0], "REFINE_HEAD.SIGMA is -1.0"),
        ([f"{REFINE}.LOSS", "mse"], "REFINE_HEAD.LOSS is 'mse', but MODEL.ROI_KEYPOINT_HEAD.TARGET is 'onehot'"),
    ],
)
def test_mistakes_in_the_config(opts, message):
    cfg = small_cfg(*opts)
    with pytest.raises(ConfigError, match=message):
        build_roi_refine_head(cfg, CHANNELS)


def test_the_static_divisor_counts_the_hard_keypoints():
    cfg = small_cfg(f"{HEAD}.LOSS_NORMALIZER", "batch_size")
    plain = KeypointKind.from_cfg(cfg).keypoints_per_image
    cfg.merge_from_list([f"{HEAD}.OHKM_TOP", 8])
    assert KeypointKind.from_cfg(cfg).keypoints_per_image == pytest.approx(plain * 8 / 17)
