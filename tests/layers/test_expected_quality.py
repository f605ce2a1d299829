"""Expected IoU of masks and expected OKS of skeletons against slow loops, and what must hold for any map."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_benchmark.layers.keypoint_ops import decode_heatmaps, encode_gaussians, expected_oks
from maskrcnn_benchmark.layers.mask_ops import expected_iou, paste_masks
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from tests.devices import DEVICES

# Across an image's border, small, of half a pixel, without extent in x, wide.
FRAMES = torch.tensor(
    [
        [-15.5, -8.0, 31.0, 30.0],
        [40.0, 40.0, 43.5, 42.0],
        [7.25, 3.0, 7.75, 3.5],
        [9.0, 9.0, 9.0, 29.0],
        [0.0, 50.0, 180.0, 62.0],
    ]
)


def slow_expected_iou(mask, threshold):
    intersection, union = 0.0, 0.0
    for probability in mask.flatten().tolist():
        if probability > threshold:
            intersection += probability
            union += 1
        else:
            union += probability
    return intersection / union if intersection else 0.0


def slow_expected_oks(logits, frame, points, area, sigmas):
    (x1, y1, x2, y2), size = frame.tolist(), logits.shape[-1]
    total = 0.0
    for logits_of_one, (x, y), sigma in zip(logits.double().numpy(), points.tolist(), sigmas.tolist(), strict=True):
        weights = np.exp(logits_of_one - logits_of_one.max())
        for i in range(size):
            for j in range(size):
                dx = x1 + (j + 0.5) * (x2 - x1) / size - x
                dy = y1 + (i + 0.5) * (y2 - y1) / size - y
                variance = (2 * sigma) ** 2  # as pycocotools has it
                closeness = math.exp(-(dx**2 + dy**2) / variance / area / 2)
                total += weights[i, j] / weights.sum() * closeness
    return total / len(logits)


# Masks


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0.5, 0.25])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_expected_iou_matches_loops(device, threshold, dtype):
    masks = torch.randn(6, 9, 9, generator=torch.Generator().manual_seed(0)).mul(3).sigmoid().to(device, dtype)
    masks[2] = threshold  # not above it, so no cell is the mask's
    masks[3] *= threshold
    masks[4] = 1.0
    found = expected_iou(masks, threshold)
    assert found.dtype == torch.promote_types(dtype, torch.float32) and found.device == masks.device
    expected = [slow_expected_iou(mask, threshold) for mask in masks]
    np.testing.assert_allclose(found.cpu(), expected, rtol=1e-5)
    assert found[2] == found[3] == 0 and found[4] == 1
    # the mask's cells are those that pasting draws
    drawn = paste_masks(masks, masks.new_tensor([[0, 0, 9, 9]]).float().expand(6, 4), (9, 9), threshold).flatten(1)
    counted = masks.flatten(1).to(found.dtype)
    slow = torch.where(drawn, counted, 0).sum(1) / torch.where(drawn, 1, counted).sum(1)
    torch.testing.assert_close(found, slow)


@given(st.integers(0, 10_000), st.floats(0.05, 20))
@settings(deadline=None, max_examples=40)
def test_expected_iou_is_a_share_and_rises_with_certainty(seed, sharpness):
    logits = torch.randn(4, 7, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    vague, sure = expected_iou((sharpness * logits).sigmoid()), expected_iou((1.5 * sharpness * logits).sigmoid())
    assert (vague >= 0).all() and (sure <= 1).all()
    assert (sure >= vague).all()  # each cell nearer to what the mask says


def test_expected_iou_of_certain_masks_and_of_none():
    masks = (torch.rand(5, 8, 8, generator=torch.Generator().manual_seed(1)) > 0.7).float()
    assert (expected_iou(masks) == 1).all()
    assert expected_iou(torch.zeros(3, 8, 8)).tolist() == [0, 0, 0]
    assert expected_iou(torch.zeros(0, 8, 8)).shape == (0,)
    with pytest.raises(ValueError, match=r"masks \(R, M, M\), not \(2, 1, 8, 8\)"):
        expected_iou(torch.zeros(2, 1, 8, 8))


# Skeletons


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("method", ["argmax", "dark"])
def test_expected_oks_matches_loops(device, method):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, 10, 10, generator=generator) * 4
    areas = torch.tensor([900.0, 7.0, 1.0, 10.0, 2500.0])
    sigmas = torch.tensor([0.025, 0.05, 0.107, 0.3])
    points, _ = decode_heatmaps(logits, FRAMES, method)
    found = expected_oks(*(value.to(device) for value in (logits, FRAMES, points, areas, sigmas)))
    assert found.dtype == torch.float32 and found.device.type == device
    expected = [slow_expected_oks(*case, sigmas) for case in zip(logits, FRAMES, points, areas, strict=True)]
    np.testing.assert_allclose(found.cpu(), expected, rtol=1e-4)
    assert 0.02 < min(expected) < max(expected) < 0.98
    assert len(set(np.round(expected, 3))) == 5


@pytest.mark.parametrize("device", DEVICES)
def test_expected_oks_of_heights_is_that_of_their_logarithms(device):
    heights = torch.rand(5, 4, 10, 10, generator=torch.Generator().manual_seed(0)).to(device) ** 4
    frames, areas, sigmas = FRAMES.to(device), torch.full((5,), 900.0, device=device), torch.full((4,), 0.1)
    points, _ = decode_heatmaps(heights, frames, "argmax")
    counted = torch.where(heights < 0.1 * heights.amax(dim=(2, 3), keepdim=True), 0.0, heights)
    expected = expected_oks(counted.log(), frames, points, areas, sigmas.to(device))
    found = expected_oks(heights, frames, points, areas, sigmas.to(device), "relu")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("peak", [1.0, 0.4])
def test_noise_of_heights_hardly_changes_the_expected_oks(peak):
    generator = torch.Generator().manual_seed(0)
    frames = torch.tensor([[0.0, 0.0, 112.0, 224.0]]).expand(9, 4)
    points = 20 + torch.rand(9, 17, 2, generator=generator) * torch.tensor([70.0, 180.0])
    hills, _ = encode_gaussians(torch.cat([points, torch.ones(9, 17, 1)], dim=2), frames, 56, 2.0)
    noise = 0.01 * torch.randn(hills.shape, generator=generator)
    areas, sigmas = torch.full((9,), 112 * 224 / 2), torch.tensor(PersonKeypoints.OKS_SIGMAS)
    sure, noisy = (expected_oks(maps, frames, points, areas, sigmas, "relu") for maps in (hills, peak * hills + noise))
    torch.testing.assert_close(noisy, sure, atol=0.02, rtol=0)
    assert (sure > 0.75).all()


@pytest.mark.parametrize("device", DEVICES)
def test_expected_oks_of_a_certain_map_is_one_and_falls_with_its_spread_and_with_distance(device):
    frames = torch.tensor([[10.0, 20.0, 122.0, 132.0]], device=device)
    sigmas = torch.tensor(PersonKeypoints.OKS_SIGMAS, device=device)
    areas = torch.tensor([4000.0], device=device)
    centres = (torch.arange(56, device=device) + 0.5 - 28.5) ** 2
    squares = (centres[:, None] + centres).expand(1, 17, 56, 56)

    def score(spread, shift=0.0, area=areas):
        logits = -squares / (2 * spread**2)
        points, _ = decode_heatmaps(logits, frames, "argmax")
        return expected_oks(logits, frames, points + shift, area, sigmas).item()

    assert score(0.01) == pytest.approx(1, abs=1e-6)
    spread = [score(value) for value in (0.01, 0.5, 1, 2, 4, 8)]
    assert spread == sorted(spread, reverse=True) and spread[-1] < 0.4
    moved = [score(1.0, shift) for shift in (0.0, 1.0, 3.0, 10.0)]
    assert moved == sorted(moved, reverse=True)
    assert score(2.0, area=2 * areas) > score(2.0), "a pixel matters less in a larger person"


@given(st.integers(0, 10_000), st.floats(0.1, 30), st.floats(1, 1e5))
@settings(deadline=None, max_examples=40)
def test_expected_oks_is_a_share(seed, sharpness, area):
    logits = sharpness * torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    points, _ = decode_heatmaps(logits, FRAMES, "quarter")
    found = expected_oks(logits, FRAMES, points, torch.full((5,), area), torch.tensor([0.025, 0.05, 0.1]))
    assert (found >= 0).all() and (found <= 1 + 1e-6).all()


def test_expected_oks_of_half_precision_none_and_errors():
    logits, points, areas, sigmas = torch.randn(5, 3, 8, 8), torch.zeros(5, 3, 2), torch.ones(5), torch.ones(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = expected_oks(logits.bfloat16(), FRAMES, points, areas, sigmas)
    full = expected_oks(logits.bfloat16().float(), FRAMES, points, areas, sigmas)
    assert torch.equal(half, full)
    assert expected_oks(logits[:0], FRAMES[:0], points[:0], areas[:0], sigmas).shape == (0,)
    with pytest.raises(ValueError, match=r"sigmas \(K,\), not .*\(2,\)$"):
        expected_oks(logits, FRAMES, points, areas, sigmas[:2])
    with pytest.raises(ValueError, match="expected_oks takes logits"):
        expected_oks(logits[0], FRAMES, points, areas, sigmas)
