import cv2
import numpy as np
import pytest
import torch

from maskrcnn_benchmark.layers.keypoint_ops import (
    DECODE_METHODS,
    cell_probabilities,
    decode_heatmaps,
    encode_gaussians,
    encode_keypoints,
)
from maskrcnn_benchmark.layers.reference import keypoints as reference_keypoints
from tests.devices import DEVICES

# Everything on the CPU is computed by the compiled kernels and by their references.
pytestmark = pytest.mark.usefixtures("implementation")

# Inside an image, across its border, small, of half a pixel, without extent in x, wide, tall.
FRAMES = torch.tensor(
    [
        [10.0, 20.0, 60.5, 90.25],
        [-15.5, -8.0, 31.0, 30.0],
        [40.0, 40.0, 43.5, 42.0],
        [7.25, 3.0, 7.75, 3.5],
        [9.0, 9.0, 9.0, 29.0],
        [0.0, 50.0, 180.0, 62.0],
        [33.0, 1.0, 41.0, 133.0],
    ]
)


def smooth_logits(count, keypoints=5, size=56):
    coarse = torch.randn(count, keypoints, size // 4, size // 4)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bicubic", align_corners=False)


def gaussian_logits(peaks, sigma, size):
    """Logarithms of Gaussians: peaks (R, K, 2) in cells -> (R, K, S, S)."""
    centres = torch.arange(size) + 0.5
    x, y = centres - peaks[..., 0, None], centres - peaks[..., 1, None]
    return -(x[..., None, :] ** 2 + y[..., :, None] ** 2) / (2 * sigma**2)


# Encoding


@pytest.mark.parametrize("device", DEVICES)
def test_encoding_finds_the_cell_that_holds_the_point(device):
    size = 8
    keypoints = torch.rand(len(FRAMES), 40, 3) * torch.tensor([200.0, 150.0, 0.0]) - torch.tensor([10.0, 10.0, 0.0])
    extents = FRAMES[:, None, 2:] - FRAMES[:, None, :2]
    inside = FRAMES[:, None, :2] + torch.rand(len(FRAMES), 20, 2) * extents
    keypoints[:, :20, :2] = inside  # half of them inside, the rest anywhere
    keypoints[..., 2] = torch.randint(0, 3, keypoints.shape[:2])
    targets, valid = encode_keypoints(keypoints.to(device), FRAMES.to(device), size)
    assert targets.dtype == torch.int64 and valid.dtype == torch.bool
    for row, (x1, y1, x2, y2) in enumerate(FRAMES.tolist()):
        for column, (x, y, visibility) in enumerate(keypoints[row].tolist()):
            expected = visibility > 0 and x1 <= x <= x2 and y1 <= y <= y2 and x2 > x1 and y2 > y1
            assert valid[row, column] == expected
            if expected:
                i, j = divmod(targets[row, column].item(), size)
                width, height = (x2 - x1) / size, (y2 - y1) / size
                assert x1 + j * width - 1e-4 <= x <= x1 + (j + 1) * width + 1e-4
                assert y1 + i * height - 1e-4 <= y <= y1 + (i + 1) * height + 1e-4
            else:
                assert targets[row, column] == 0


def test_encoding_at_the_edges():
    frame = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    points = torch.tensor(
        [
            [[10.0, 20.0, 1.0], [30.0, 60.0, 2.0], [29.999, 20.0, 2.0], [30.001, 40.0, 2.0], [9.999, 40.0, 2.0]]
            + [[float("nan"), 40.0, 2.0], [20.0, float("inf"), 2.0], [20.0, 40.0, 0.0], [15.0, 30.0, 2.0]]
        ]
    )
    targets, valid = encode_keypoints(points, frame, 4)
    assert valid.tolist() == [[True, True, True, False, False, False, False, False, True]]
    assert targets.tolist() == [[0, 15, 3, 0, 0, 0, 0, 0, 5]]
    targets, valid = encode_keypoints(torch.zeros(0, 17, 3), torch.zeros(0, 4), 56)
    assert targets.shape == valid.shape == (0, 17)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("normalize", [False, True])
def test_gaussians_equal_loops(device, normalize):
    size, sigma = 7, 1.3
    frames = FRAMES[[0, 1, 5]]
    keypoints = torch.rand(3, 9, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([60.0, 90.0, 0.0])
    keypoints[..., 2] = 2
    maps, valid = encode_gaussians(keypoints.to(device), frames.to(device), size, sigma, normalize=normalize)
    assert maps.shape == (3, 9, size, size) and maps.dtype == torch.float32 and valid.dtype == torch.bool
    assert valid.any() and not valid.all()
    for row, (x1, y1, x2, y2) in enumerate(frames.tolist()):
        for column in valid[row].nonzero().flatten().tolist():
            x, y, _ = keypoints[row, column].tolist()
            u, v = (x - x1) * size / (x2 - x1), (y - y1) * size / (y2 - y1)
            centres = np.arange(size) + 0.5
            expected = np.exp(-((centres - v)[:, None] ** 2 + (centres - u) ** 2) / (2 * sigma**2))
            expected = expected / expected.sum() if normalize else expected
            np.testing.assert_allclose(maps[row, column].cpu(), expected, atol=1e-4)


def test_where_gaussians_have_a_target():
    frame = torch.tensor([[10.0, 20.0, 50.0, 60.0]])  # cells of 4 pixels; 3 sigma are 6 cells
    x = [10.0, 50.0, 50 + 6 * 4 - 0.1, 50 + 6 * 4 + 0.1, 10 - 6 * 4, 10 - 6 * 4 - 0.1, float("nan"), float("inf")]
    points = torch.tensor([[[value, 40.0, 2.0] for value in x]])
    _, valid = encode_gaussians(points, frame, 10, 2.0)
    assert valid.tolist() == [[True, True, True, False, True, False, False, False]]
    turned = points[..., [1, 0, 2]] + torch.tensor([-10.0, 10.0, 0.0])
    assert encode_gaussians(turned, frame, 10, 2.0)[1].tolist() == valid.tolist()
    points[..., 2] = 0
    assert not encode_gaussians(points, frame, 10, 2.0)[1].any()
    empty = torch.tensor([[10.0, 20.0, 10.0, 60.0]])
    maps, valid = encode_gaussians(torch.tensor([[[10.0, 40.0, 2.0]]]), empty, 10, 2.0)
    assert maps.isfinite().all() and not valid.any()
    assert encode_gaussians(torch.zeros(0, 17, 3), torch.zeros(0, 4), 56, 2.0)[0].shape == (0, 17, 56, 56)


@pytest.mark.parametrize("method", DECODE_METHODS)
def test_round_trip_stays_within_half_a_cell(method):
    frames, size = FRAMES[[0, 1, 5, 6]] * 4, 28
    extents = frames[:, None, 2:] - frames[:, None, :2]
    parts, slack = torch.rand(4, 17, 2), torch.zeros(())
    if method == "bicubic":
        # cubic kernels overshoot at the map's edge, and an enlarged map has its pixels beside the cells' centres
        parts, slack = 0.1 + 0.8 * parts, 0.5 * size / extents
    points = frames[:, None, :2] + parts * extents
    targets, valid = encode_keypoints(torch.cat((points, torch.ones(4, 17, 1)), dim=2), frames, size)
    assert valid.all()
    heatmaps = torch.nn.functional.one_hot(targets, size * size).float().view(4, 17, size, size) * 20
    decoded, _ = decode_heatmaps(heatmaps, frames, method)
    assert ((decoded - points).abs() * size / extents <= 0.5 + slack + 1e-4).all()


# Decoding


def bicubic_reference(logits, frame):
    x1, y1, x2, y2 = frame.tolist()
    width, height = max(x2 - x1, 1.0), max(y2 - y1, 1.0)
    pixels = int(np.ceil(width)), int(np.ceil(height))
    xy, scores = [], []
    for heatmap in logits.numpy():
        enlarged = cv2.resize(heatmap, pixels, interpolation=cv2.INTER_CUBIC)
        y, x = divmod(int(enlarged.argmax()), pixels[0])
        xy.append((x1 + (x + 0.5) * width / pixels[0], y1 + (y + 0.5) * height / pixels[1]))
        scores.append(enlarged.max())
    return torch.tensor(xy), torch.tensor(np.array(scores))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("chunk", [None, 700])
def test_bicubic_is_opencvs_resize_and_argmax(device, chunk, monkeypatch):
    if chunk:  # so small that one map takes several bands
        monkeypatch.setattr(reference_keypoints, "_CHUNK_ELEMENTS", chunk)
        monkeypatch.setattr(reference_keypoints, "_CHUNK_ELEMENTS_CPU", chunk)
    logits = smooth_logits(len(FRAMES))
    xy, scores = decode_heatmaps(logits.to(device), FRAMES.to(device), "bicubic")
    for row, frame in enumerate(FRAMES):
        expected_xy, expected_scores = bicubic_reference(logits[row], frame)
        torch.testing.assert_close(xy[row].cpu(), expected_xy, atol=1e-3, rtol=0)
        torch.testing.assert_close(scores[row].cpu(), expected_scores, atol=1e-4, rtol=0)


def test_of_equal_peaks_the_first_counts():
    logits = torch.zeros(1, 1, 8, 8)
    logits[0, 0, 2, 6] = logits[0, 0, 5, 1] = 3
    frame = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    for method in ("argmax", "bicubic"):
        assert decode_heatmaps(logits, frame, method)[0].tolist() == [[[6.5, 2.5]]]
    assert decode_heatmaps(torch.zeros(1, 1, 8, 8), frame, "bicubic")[0].tolist() == [[[0.5, 0.5]]]


def test_similar_sizes_share_a_group():
    groups = reference_keypoints._size_groups([[10, 20], [11, 19], [200, 300], [12, 20], [1, 900]], limit=10**6)
    assert sorted(index for members, _ in groups for index in members) == [0, 1, 2, 3, 4]
    assert [0, 1, 3] in [sorted(members) for members, _ in groups]
    for members, (width, height) in groups:
        sizes = [[10, 20], [11, 19], [200, 300], [12, 20], [1, 900]]
        assert all(sizes[index][0] <= width and sizes[index][1] <= height for index in members)
    assert len(reference_keypoints._size_groups([[10, 10]] * 7, limit=250)) == 4


@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_subcell_positions_of_gaussians(sigma):
    size = 56
    peaks = torch.rand(20, 17, 2) * (size - 16) + 8
    frames = torch.tensor([[0.0, 0.0, size, size]]).expand(20, 4)
    logits = gaussian_logits(peaks, sigma, size)
    errors = {
        method: (decode_heatmaps(logits, frames, method)[0] - peaks).abs().max().item()
        for method in ("argmax", "quarter", "dark")
    }
    assert errors["argmax"] <= 0.5 + 1e-4
    assert errors["quarter"] <= 0.25 + 1e-4
    assert errors["dark"] <= 0.002
    # a frame shifts and stretches what is found in cells
    moved, _ = decode_heatmaps(logits, frames * torch.tensor([1.0, 1.0, 2.0, 3.0]) + 5, "dark")
    torch.testing.assert_close(moved, 5 + peaks * torch.tensor([2.0, 3.0]), atol=0.01, rtol=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [1.0, 0.3])  # a network that is not sure predicts lower hills
@pytest.mark.parametrize("sigma", [1.0, 2.0, 3.0])
def test_subcell_positions_of_heights(sigma, scale, device):
    size, frames = 56, torch.tensor([[10.0, 20.0, 122.0, 188.0]], device=device)
    cell = torch.tensor([2.0, 3.0])
    points = frames[0, :2].cpu() + cell * (torch.rand(1, 40, 2) * (size - 16) + 8)
    keypoints = torch.cat([points, torch.ones(1, 40, 1)], dim=2).to(device)
    maps, _ = encode_gaussians(keypoints, frames, size, sigma)
    maps = scale * maps - 1e-4  # most of a regressed map is a little above or below 0
    for method, bound in (("argmax", 0.5), ("quarter", 0.25), ("dark", 0.01)):
        found, scores = decode_heatmaps(maps, frames, method, "relu")
        assert ((found.cpu() - points).abs() / cell).max() <= bound + 1e-4
        torch.testing.assert_close(scores, maps.flatten(2).amax(dim=2))
    found, _ = decode_heatmaps(maps, frames, "bicubic", "relu")
    assert ((found.cpu() - points).abs() / cell).max() <= 0.3


def test_probabilities_of_cells():
    maps = torch.tensor([[[[1.0, 3.0], [-2.0, 0.29]], [[-1.0, -3.0], [0.0, -1.0]]]])
    assert cell_probabilities(maps, "relu").tolist() == [[[[0.25, 0.75], [0, 0]], [[0.25, 0.25], [0.25, 0.25]]]]
    torch.testing.assert_close(cell_probabilities(maps)[0, 0].flatten(), maps[0, 0].flatten().softmax(0))
    assert cell_probabilities(torch.zeros(0, 3, 4, 4), "relu").shape == (0, 3, 4, 4)
    maps.requires_grad_()
    cell_probabilities(maps, "relu")[0, :, 0, 1].sum().backward()
    assert maps.grad.isfinite().all() and maps.grad[0, 0].any()
    with pytest.raises(ValueError, match="is 'tanh'; it can be softmax, relu"):
        cell_probabilities(maps, "tanh")


def test_a_map_without_heights():
    frame = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    maps = torch.full((1, 1, 8, 8), -0.5)
    maps[0, 0, 2, 5] = -0.1
    assert decode_heatmaps(maps, frame, "quarter", "relu")[0].tolist() == [[[5.5, 2.5]]]
    found = decode_heatmaps(maps, frame, "dark", "relu")[0][0, 0]
    assert ((found - torch.tensor([5.5, 2.5])).abs() <= 1).all()


def test_dark_reads_a_slanted_peak():
    size, peak = 32, torch.tensor([14.3, 17.8])
    centres = torch.arange(size) + 0.5
    x, y = centres[None, :] - peak[0], centres[:, None] - peak[1]
    logits = -(x**2 + y**2 + 1.2 * x * y) / 8  # an ellipse at 45 degrees
    xy, _ = decode_heatmaps(logits[None, None], torch.tensor([[0.0, 0.0, size, size]]), "dark")
    torch.testing.assert_close(xy[0, 0], peak, atol=0.01, rtol=0)


def test_dark_falls_back_where_there_is_no_peak_to_read():
    frame = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    corner = torch.full((1, 1, 16, 16), -5.0)
    corner[0, 0, 0, 15] = 9  # no neighbours on two sides
    edge = torch.full((1, 1, 16, 16), -5.0)
    edge[0, 0, 7, 0], edge[0, 0, 8, 0] = 9, 8  # the better neighbour is below
    flat = torch.zeros(1, 1, 16, 16)
    pulled = torch.full((1, 1, 16, 16), -9.0)
    pulled[0, 0, 5, 5] = 3.0
    pulled[0, 0, 5, 7:10] = 2.9  # the smoothed map rises towards another, broader hill
    for logits, expected in ((corner, [15.5, 0.5]), (edge, [0.5, 7.75]), (flat, [0.5, 0.5])):
        assert decode_heatmaps(logits, frame, "dark")[0][0, 0].tolist() == expected
    xy = decode_heatmaps(pulled, frame, "dark")[0][0, 0]
    assert ((xy - 5.5).abs() <= 1).all()


@pytest.mark.parametrize("method", DECODE_METHODS)
def test_a_batch_equals_single_regions(method):
    logits = smooth_logits(len(FRAMES))
    xy, scores = decode_heatmaps(logits, FRAMES, method)
    assert xy.shape == (len(FRAMES), 5, 2) and scores.shape == (len(FRAMES), 5)
    for row in range(len(FRAMES)):
        single = decode_heatmaps(logits[row, None], FRAMES[row, None], method)
        torch.testing.assert_close(xy[row, None], single[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(scores[row, None], single[1], atol=1e-5, rtol=0)
    if method != "bicubic":
        torch.testing.assert_close(scores, logits.flatten(2).amax(dim=2))


@pytest.mark.parametrize("method", DECODE_METHODS)
def test_decoding_edges(method):
    xy, scores = decode_heatmaps(torch.zeros(0, 17, 56, 56), torch.zeros(0, 4), method)
    assert xy.shape == (0, 17, 2) and scores.shape == (0, 17)
    xy, _ = decode_heatmaps(torch.zeros(1, 2, 1, 1), torch.tensor([[2.0, 2.0, 3.0, 3.0]]), method)
    assert xy.tolist() == [[[2.5, 2.5], [2.5, 2.5]]]  # a single cell
    logits = smooth_logits(2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = decode_heatmaps(logits, FRAMES[:2], method)
    torch.testing.assert_close(cast, decode_heatmaps(logits, FRAMES[:2], method))
    assert decode_heatmaps(logits.bfloat16(), FRAMES[:2], method)[0].dtype == torch.float32
    extreme = torch.full((1, 1, 8, 8), -1e4)
    extreme[0, 0, 3, 4] = 1e4
    xy, _ = decode_heatmaps(extreme, torch.tensor([[0.0, 0.0, 8.0, 8.0]]), method)
    torch.testing.assert_close(xy[0, 0], torch.tensor([4.5, 3.5]), atol=1e-4, rtol=0)


def test_decoding_errors():
    with pytest.raises(ValueError, match="method is 'median'; it can be argmax, quarter, dark, bicubic"):
        decode_heatmaps(torch.zeros(1, 1, 4, 4), torch.zeros(1, 4), "median")
    with pytest.raises(ValueError, match=r"not \(1, 4, 4\) and \(1, 4\)"):
        decode_heatmaps(torch.zeros(1, 4, 4), torch.zeros(1, 4))
