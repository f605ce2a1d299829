import json

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torchvision.models.detection import roi_heads as peer_roi_heads

from maskrcnn_benchmark.layers import mask_ops
from maskrcnn_benchmark.layers.mask_ops import (
    at_least_half,
    cover_fractions,
    crop_bitmaps,
    mask_run_lengths,
    paste_masks,
    paste_windows,
    pixel_extents,
    rasterize_polygons,
    resample_grids,
)
from maskrcnn_benchmark.layers.reference import polygons
from maskrcnn_benchmark.layers.reference.masks import paste_window
from tests.devices import DEVICES

# Everything on the CPU is computed by the compiled kernels and by their references.
pytestmark = pytest.mark.usefixtures("implementation")

TRIANGLE = np.array([[3.0, 2.0], [30.0, 8.5], [9.0, 27.3]])
NOTCHED = np.array([[10.0, 10.0], [34.0, 10.0], [34.0, 30.0], [22.0, 15.0], [10.0, 30.0]])

# Regions of a 40 x 32 image: inside, across its border, larger than it, one pixel, below a pixel, none of it.
REGIONS = torch.tensor(
    [
        [5.0, 4.0, 25.0, 24.0],
        [-6.5, -3.25, 14.0, 20.0],
        [30.0, 20.0, 55.0, 41.0],
        [-20.0, -10.0, 70.0, 60.0],
        [12.0, 11.0, 13.0, 12.0],
        [12.25, 11.5, 12.5, 11.75],
        [39.0, 31.0, 40.0, 32.0],
        [50.0, 50.0, 60.0, 60.0],
    ]
)


def random_bitmaps(count, height=32, width=40):
    return (torch.rand(count, height, width) > 0.5).to(torch.uint8)


def area_reference(bitmap, extent, rows, columns):
    """Average over each cell of a piecewise constant image, overlap by overlap."""
    height, width = bitmap.shape
    x1, y1, x2, y2 = (float(side) for side in extent)
    fractions = np.zeros((rows, columns))
    for i in range(rows):
        for j in range(columns):
            top, bottom = y1 + i * (y2 - y1) / rows, y1 + (i + 1) * (y2 - y1) / rows
            left, right = x1 + j * (x2 - x1) / columns, x1 + (j + 1) * (x2 - x1) / columns
            for p in range(max(0, int(np.floor(top))), min(height, int(np.ceil(bottom)))):
                for q in range(max(0, int(np.floor(left))), min(width, int(np.ceil(right)))):
                    overlap = (min(bottom, p + 1) - max(top, p)) * (min(right, q + 1) - max(left, q))
                    fractions[i, j] += overlap * float(bitmap[p, q])
            fractions[i, j] /= (bottom - top) * (right - left)
    return fractions


def paste_reference(mask, extent, height, width):
    """Bilinear value at each pixel's centre, zero around the cells."""
    rows, columns = mask.shape
    padded = np.pad(mask, 1)
    x1, y1, x2, y2 = (float(side) for side in extent)
    image = np.zeros((height, width))
    for p in range(height):
        for q in range(width):
            u = (p + 0.5 - y1) / (y2 - y1) * rows - 0.5
            v = (q + 0.5 - x1) / (x2 - x1) * columns - 0.5
            if -1 < u < rows and -1 < v < columns:
                i, j = int(np.floor(u)), int(np.floor(v))
                a, b = u - i, v - j
                corner = padded[i + 1 : i + 3, j + 1 : j + 3]
                image[p, q] = (np.array([1 - a, a]) @ corner) @ np.array([1 - b, b])
    return image


def resample_reference(values, src, dst, size, fill):
    """One (h, w) grid; NaN where a centre is on the edge of src within rounding, so that either answer is right."""
    height, width = values.shape
    result = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            centre_x = dst[0] + (j + 0.5) * (dst[2] - dst[0]) / size
            centre_y = dst[1] + (i + 0.5) * (dst[3] - dst[1]) / size
            if (
                min(abs(centre_x - src[0]), abs(centre_x - src[2]), abs(centre_y - src[1]), abs(centre_y - src[3]))
                < 1e-9
            ):
                result[i, j] = np.nan
            elif not (src[0] <= centre_x < src[2] and src[1] <= centre_y < src[3]):
                result[i, j] = fill
            else:
                u = min(max((centre_y - src[1]) / (src[3] - src[1]) * height - 0.5, 0), height - 1)
                v = min(max((centre_x - src[0]) / (src[2] - src[0]) * width - 0.5, 0), width - 1)
                top, left = min(int(u), height - 1), min(int(v), width - 1)
                bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
                a, b = u - top, v - left
                upper = (1 - b) * values[top, left] + b * values[top, right]
                lower = (1 - b) * values[bottom, left] + b * values[bottom, right]
                result[i, j] = (1 - a) * upper + a * lower
    return result


# Polygons


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1, 14, 28])
def test_polygons_are_drawn_as_pycocotools_draws_them(device, size):
    instances = [[TRIANGLE], [NOTCHED], [TRIANGLE, NOTCHED]]
    polygons = [instances[row % 3] for row in range(len(REGIONS))]
    drawn = rasterize_polygons(polygons, REGIONS.to(device), size)
    assert drawn.shape == (len(REGIONS), size, size) and drawn.dtype == torch.uint8 and drawn.device.type == device
    for mask, instance, (x1, y1, x2, y2) in zip(drawn.cpu().numpy(), polygons, REGIONS.tolist(), strict=True):
        expected = np.zeros((size, size), dtype=np.uint8)
        for polygon in instance:
            framed = (polygon - (x1, y1)) * (size / (x2 - x1), size / (y2 - y1))
            expected |= coco_mask.decode(coco_mask.frPyObjects([framed.ravel().tolist()], size, size))[..., 0]
        np.testing.assert_array_equal(mask, expected)


def test_the_whole_image_is_coco_annToMask(coco_mini):
    coco = json.loads((coco_mini / "annotations" / "instances_train2017.json").read_text())
    images = {image["id"]: image for image in coco["images"]}
    annotations = [entry for entry in coco["annotations"] if isinstance(entry["segmentation"], list)][:60]
    side = 640
    polygons = [[np.array(part).reshape(-1, 2) for part in entry["segmentation"]] for entry in annotations]
    drawn = rasterize_polygons(polygons, torch.tensor([[0.0, 0, side, side]]).expand(len(polygons), 4), side)
    for mask, entry in zip(drawn.numpy(), annotations, strict=True):
        height, width = images[entry["image_id"]]["height"], images[entry["image_id"]]["width"]
        encoded = coco_mask.merge(coco_mask.frPyObjects(entry["segmentation"], height, width))
        np.testing.assert_array_equal(mask[:height, :width], coco_mask.decode(encoded))


def test_polygons_far_larger_than_their_region():
    big = np.array([[-1e7, -1e7], [1e7, -1e7], [1e7, 1e7], [-1e7, 1e7]])
    half = np.array([[-1e7, -1e7], [10.0, -1e7], [10.0, 1e7], [-1e7, 1e7]])
    beside = np.array([[1e6, 0.0], [2e6, 0.0], [2e6, 1e6]])
    extents = torch.tensor([[5.0, 5.0, 15.0, 15.0]]).expand(4, 4)
    drawn = rasterize_polygons([[big], [half], [beside], []], extents, 10)
    assert drawn[0].all() and not drawn[2:].any()
    assert drawn[1, :, :5].all() and not drawn[1, :, 5:].any()
    tiny = torch.tensor([[12.0, 11.0, 12.0 + 1e-5, 11.0 + 1e-5], [12.0, 11.0, 12.0, 12.0]])
    drawn = rasterize_polygons([[TRIANGLE], [TRIANGLE]], tiny, 28)
    assert drawn[0].all() and not drawn[1].any()  # no extent, no mask


def test_clipping_leaves_the_part_inside_alone():
    polygon = np.random.default_rng(0).uniform(-9, 19, (9, 2))
    clipped = polygons._clip_polygon(polygon, -3.0, 13.0)
    assert clipped.min() >= -3 and clipped.max() <= 13
    before, after = (coco_mask.decode(coco_mask.frPyObjects([p.ravel()], 10, 10)) for p in (polygon, clipped))
    assert (before != after).sum() <= 2  # cut edges are rounded anew to fifths of a cell


def test_polygon_errors():
    with pytest.raises(ValueError, match=r"\(P, 2\) with at least 3 points, not \(2, 2\)"):
        rasterize_polygons([[TRIANGLE[:2]]], REGIONS[:1], 7)
    with pytest.raises(ValueError, match="1 instances for 2 regions"):
        rasterize_polygons([[TRIANGLE]], REGIONS[:2], 7)
    assert rasterize_polygons([], REGIONS[:0], 7).shape == (0, 7, 7)


# Bitmaps


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size", [1, 5, 14])
def test_bitmaps_are_averaged_exactly(device, size, monkeypatch):
    monkeypatch.setattr(mask_ops, "_CHUNK_ELEMENTS", 8 * (size + 1) ** 2 * 3)  # three regions at a time
    bitmaps = random_bitmaps(3)
    indices = torch.arange(len(REGIONS)) % 3
    whole = torch.tensor([[0.0, 0.0, 40.0, 32.0]]).expand(3, 4)
    fractions = cover_fractions(
        list(bitmaps.to(device)), whole.to(device), indices.to(device), REGIONS.to(device), (size, size)
    )
    expected = np.stack(
        [area_reference(bitmaps[i], extent, size, size) for i, extent in zip(indices, REGIONS, strict=True)]
    )
    np.testing.assert_allclose(fractions.cpu().numpy(), expected, atol=1e-12)
    cropped = crop_bitmaps(bitmaps.to(device), indices.to(device), REGIONS.to(device), size)
    assert cropped.dtype == torch.uint8 and cropped.device.type == device
    np.testing.assert_array_equal(cropped.cpu().numpy(), expected >= 0.5 - 1e-9)


def test_bitmaps_of_their_own_sizes_and_places():
    bitmaps = [torch.rand(height, width) > 0.4 for height, width in ((5, 9), (1, 1), (12, 3))]
    places = torch.tensor([[3.0, 4.0, 12.0, 9.0], [-2.0, -2.0, 8.0, 30.0], [1.0, 1.0, 2.5, 13.0]])
    regions = torch.tensor([[2.0, 3.0, 14.0, 11.0], [0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 6.0, 26.0]])
    fractions = cover_fractions(bitmaps, places, torch.arange(3), regions, (4, 6))
    for bitmap, place, region, fraction in zip(bitmaps, places, regions, fractions, strict=True):
        # the same in the frame where the bitmap's cells are pixels
        scale = torch.tensor(bitmap.shape[::-1]) / (place[2:] - place[:2])
        framed = torch.cat(((region[:2] - place[:2]) * scale, (region[2:] - place[:2]) * scale)).double()
        np.testing.assert_allclose(fraction.numpy(), area_reference(bitmap, framed, 4, 6), atol=1e-6)


def test_a_cell_that_is_half_covered_counts():
    bitmap = torch.zeros(1, 6, 6)
    bitmap[:, :, :3] = 1
    assert crop_bitmaps(bitmap, torch.tensor([0]), torch.tensor([[0.0, 0.0, 6.0, 6.0]]), 3)[0, 0].tolist() == [1, 1, 0]
    tenths = torch.tensor([0.5 - 1e-12, 0.5, 0.5 - 1e-6], dtype=torch.float64)
    assert at_least_half(tenths).tolist() == [1, 1, 0]


def test_bitmaps_without_anything():
    bitmaps = random_bitmaps(2)
    assert crop_bitmaps(bitmaps, torch.zeros(0, dtype=torch.int64), REGIONS[:0], 7).shape == (0, 7, 7)
    assert crop_bitmaps(bitmaps[:0], torch.zeros(0, dtype=torch.int64), REGIONS[:0], 7).shape == (0, 7, 7)
    point = torch.tensor([[5.0, 5.0, 5.0, 9.0]])
    assert not crop_bitmaps(bitmaps, torch.tensor([0]), point, 7).any()
    assert not crop_bitmaps(torch.zeros(1, 0, 0), torch.tensor([0]), REGIONS[:1], 7).any()
    with pytest.raises(ValueError, match="no bitmap"):
        crop_bitmaps(bitmaps[:0], torch.tensor([0]), REGIONS[:1], 7)
    with pytest.raises(ValueError, match=r"\(G, H, W\), not \(32, 40\)"):
        crop_bitmaps(bitmaps[0], torch.tensor([0]), REGIONS[:1], 7)


# Pasting


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(7, 7), (1, 1), (4, 9)])
def test_paste_matches_the_formula(device, shape):
    masks = torch.rand(len(REGIONS), *shape)
    expected = np.stack([paste_reference(m.double().numpy(), e, 32, 40) for m, e in zip(masks, REGIONS, strict=True)])
    pasted = paste_masks(masks.to(device), REGIONS.to(device), (32, 40), 0.4).cpu()
    assert pasted.dtype == torch.bool and pasted.shape == (len(REGIONS), 32, 40)
    sure = np.abs(expected - 0.4) > 1e-6
    np.testing.assert_array_equal(pasted.numpy()[sure], (expected > 0.4)[sure])
    shades = paste_masks(masks.to(device), REGIONS.to(device), (32, 40), -1).cpu()
    assert shades.dtype == torch.uint8
    np.testing.assert_allclose(shades.numpy(), np.floor(expected * 255), atol=1)


def test_window_by_window_or_all_at_once_is_the_same():
    masks = torch.rand(len(REGIONS), 14, 14)
    whole = paste_window(masks, REGIONS.double(), (0, 32), (0, 40), 0.5)
    assert torch.equal(paste_masks(masks, REGIONS, (32, 40)), whole)
    assert torch.equal(paste_masks(masks[3:4], REGIONS[3:4], (32, 40)), whole[3:4])


def test_windows_hold_all_that_is_pasted():
    masks = torch.rand(len(REGIONS), 14, 14)
    pasted = paste_masks(masks, REGIONS, (32, 40), 0.3)
    for mask, (left, top, window) in zip(pasted, paste_windows(masks, REGIONS, (32, 40), 0.3), strict=True):
        rows, columns = slice(top, top + window.shape[0]), slice(left, left + window.shape[1])
        assert torch.equal(mask[rows, columns], window)
        assert mask.sum() == window.sum()
    with pytest.raises(ValueError, match=r"not \(2, 4, 4\), \(8, 4\)"):
        next(paste_windows(masks[:2, :4, :4], REGIONS, (32, 40)))


def test_paste_agrees_with_grid_sample():
    masks = torch.rand(2, 28, 28)
    extents = REGIONS[:2]
    x = (torch.arange(40) + 0.5 - extents[:, :1]) / (extents[:, 2:3] - extents[:, :1]) * 2 - 1
    y = (torch.arange(32) + 0.5 - extents[:, 1:2]) / (extents[:, 3:] - extents[:, 1:2]) * 2 - 1
    grid = torch.stack((x[:, None].expand(2, 32, 40), y[:, :, None].expand(2, 32, 40)), dim=3)
    sampled = torch.nn.functional.grid_sample(masks[:, None], grid, align_corners=False)[:, 0]
    pasted = paste_masks(masks, extents, (32, 40), 0.5)
    sure = (sampled - 0.5).abs() > 1e-5
    assert torch.equal(pasted[sure], (sampled > 0.5)[sure])


def test_a_full_mask_fills_its_box_exactly():
    boxes = torch.tensor([[3.0, 5.0, 23.0, 25.0], [0.0, 0.0, 40.0, 32.0], [7.0, 8.0, 8.0, 9.0]])
    pasted = paste_masks(torch.ones(3, 28, 28), boxes, (32, 40))
    for mask, (x1, y1, x2, y2) in zip(pasted, boxes.int().tolist(), strict=True):
        expected = torch.zeros(32, 40, dtype=torch.bool)
        expected[y1:y2, x1:x2] = True
        # bilinear corners are a quarter where two edges meet, a half along each
        rounding = expected.clone()
        rounding[[y1, y1, y2 - 1, y2 - 1], [x1, x2 - 1, x1, x2 - 1]] = False
        assert torch.equal(mask | expected, expected) and torch.equal(mask & rounding, rounding)


def test_cut_and_pasted_back_is_the_same_mask():
    bitmap = torch.zeros(1, 64, 64)
    bitmap[0, 16:48, 12:44] = 1
    extents = torch.tensor([[8.0, 10.0, 50.0, 54.0]])
    target = crop_bitmaps(bitmap, torch.tensor([0]), extents, 56)
    pasted = paste_masks(target.float(), extents, (64, 64))
    union = (pasted | bitmap.bool()).sum()
    assert (pasted & bitmap.bool()).sum() / union > 0.98


def test_paste_edges():
    assert paste_masks(torch.rand(0, 28, 28), REGIONS[:0], (32, 40)).shape == (0, 32, 40)
    nothing = torch.tensor([[5.0, 5.0, 5.0, 9.0], [9.0, 9.0, 3.0, 3.0], [1e9, 1e9, 2e9, 2e9]])
    assert not paste_masks(torch.ones(3, 28, 28), nothing, (32, 40)).any()
    half = paste_masks(torch.ones(1, 4, 4, dtype=torch.bfloat16), REGIONS[:1], (32, 40))
    assert half.any()
    with pytest.raises(ValueError, match=r"not \(8, 1, 4, 4\), \(8, 4\)"):
        paste_masks(torch.rand(8, 1, 4, 4), REGIONS, (32, 40))


# Resampling

coordinates = st.floats(-60, 60, width=32)
sides = st.one_of(st.just(1.0), st.floats(0.03125, 90, width=32))


@st.composite
def boxes(draw):
    x, y = draw(coordinates), draw(coordinates)
    corners = np.array([x, y, x + draw(sides), y + draw(sides)], dtype=np.float32)
    return corners if (corners[2:] > corners[:2]).all() else np.array([0, 0, 1, 1], dtype=np.float32)


@given(boxes(), boxes(), st.integers(1, 6), st.integers(1, 6), st.integers(1, 7), st.sampled_from([0.0, -7.5]))
@settings(max_examples=80, deadline=None)
def test_resampling_matches_the_slow_reference(src, dst, height, width, size, fill):
    values = torch.rand(1, 2, height, width)
    resampled = resample_grids(values, torch.tensor(src)[None], torch.tensor(dst)[None], size, fill=fill)
    assert resampled.shape == (1, 2, size, size) and resampled.dtype == torch.float32
    for channel in range(2):
        expected = resample_reference(
            values[0, channel].double().numpy(), src.astype(float), dst.astype(float), size, fill
        )
        known = ~np.isnan(expected)
        np.testing.assert_allclose(resampled[0, channel].numpy()[known], expected[known], atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_resampling_of_many_equals_one_at_a_time(device):
    """Boxes at the image border, of one pixel, larger than the image; each enlarged by half."""
    src = REGIONS
    centre, half = (src[:, :2] + src[:, 2:]) / 2, (src[:, 2:] - src[:, :2]) * 0.75
    dst = torch.cat((centre - half, centre + half), dim=1).clamp(min=0)
    dst[:, 0::2].clamp_(max=40), dst[:, 1::2].clamp_(max=32)
    values = torch.randn(len(src), 3, 14, 14)
    together = resample_grids(values.to(device), src.to(device), dst.to(device), 28).cpu()
    for row in range(len(src)):
        alone = resample_grids(values[row, None], src[row, None], dst[row, None], 28)
        torch.testing.assert_close(together[row, None], alone, atol=1e-5, rtol=1e-5)
        for channel in range(3):
            expected = resample_reference(
                values[row, channel].double().numpy(), src[row].double().numpy(), dst[row].double().numpy(), 28, 0.0
            )
            known = ~np.isnan(expected)
            np.testing.assert_allclose(together[row, channel].numpy()[known], expected[known], atol=1e-5)


def test_resampling_onto_itself_changes_nothing():
    values = torch.randn(4, 2, 28, 28)
    torch.testing.assert_close(resample_grids(values, REGIONS[:4], REGIONS[:4], 28), values)
    doubled = resample_grids(values, REGIONS[:4], REGIONS[:4], 56)
    expected = torch.nn.functional.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(doubled, expected, atol=1e-5, rtol=1e-5)


def test_resampling_replicates_the_edge_inside_and_fills_outside():
    values = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    src, dst = torch.tensor([[2.0, 2.0, 6.0, 6.0]]), torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    resampled = resample_grids(values, src, dst, 8, fill=-1.0)[0, 0]
    assert (resampled[:2] == -1).all() and (resampled[:, 6:] == -1).all()
    # cells have their centres at 3 and 5; pixels at 2.5, 3.5, 4.5, 5.5
    expected = torch.tensor([1.0, 1.25, 1.75, 2.0])
    torch.testing.assert_close(resampled[2, 2:6], expected)
    torch.testing.assert_close(resampled[5, 2:6], expected + 2)
    nearest = resample_grids(values, src, dst, 8, mode="nearest")[0, 0]
    assert nearest[2, 2:6].tolist() == [1, 1, 2, 2] and nearest[5, 2:6].tolist() == [3, 3, 4, 4]


def test_resampling_gradient():
    values = torch.randn(3, 2, 4, 5, dtype=torch.float64, requires_grad=True)
    dst = REGIONS[:3] + torch.tensor([-4.0, -3.0, 5.0, 2.0])
    assert gradcheck(lambda v: resample_grids(v, REGIONS[:3], dst, 6), (values,))
    assert gradcheck(lambda v: resample_grids(v, REGIONS[:3], dst, 6, mode="nearest", fill=1.0), (values,))


def test_resampling_edges():
    point = torch.tensor([[5.0, 5.0, 5.0, 5.0]])
    values = torch.ones(1, 1, 4, 4, requires_grad=True)
    empty = resample_grids(values, point, REGIONS[:1], 6, fill=0.5)
    assert (empty == 0.5).all()
    empty.sum().backward()
    assert values.grad.abs().sum() == 0
    assert torch.isfinite(resample_grids(values, REGIONS[:1], point, 6)).all()
    assert resample_grids(torch.rand(0, 3, 4, 4), REGIONS[:0], REGIONS[:0], 6).shape == (0, 3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        exact = resample_grids(values, REGIONS[:1], REGIONS[:1] + 1, 6)
    torch.testing.assert_close(exact, resample_grids(values, REGIONS[:1], REGIONS[:1] + 1, 6))
    assert resample_grids(values.bfloat16(), REGIONS[:1], REGIONS[:1], 6).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="mode is 'cubic'"):
        resample_grids(values, REGIONS[:1], REGIONS[:1], 6, mode="cubic")
    with pytest.raises(ValueError, match=r"not \(1, 1, 4, 4\), \(2, 4\), \(1, 4\)"):
        resample_grids(values, REGIONS[:2], REGIONS[:1], 6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_run_lengths_are_those_of_the_pasted_masks(dtype):
    torch.manual_seed(0)
    extents = torch.tensor(
        [
            [3.0, 4, 20, 30],
            [-30, -20, 90, 80],  # over all of the image and more
            [0, 0, 40, 33],  # to every border
            [12.2, 5, 12.6, 6],  # less than a pixel
            [25, 30, 60, 50],  # over a corner
            [50, 50, 70, 80],  # off the image
            [9, 9, 9, 20],  # without extent
            [torch.nan, 0, 9, 9],
            [0, 7, 40, 8],  # one row
        ]
    )
    for masks in (torch.rand(9, 7, 7), torch.zeros(9, 7, 7), torch.ones(9, 7, 7)):
        masks = masks.to(dtype)
        runs = mask_run_lengths(masks, extents, (33, 40))
        pasted = paste_masks(masks, extents, (33, 40))
        columns = np.asfortranarray(pasted.byte().numpy().transpose(1, 2, 0))
        ours = coco_mask.frPyObjects([{"size": [33, 40], "counts": counts} for counts in runs], 33, 40)
        assert ours == coco_mask.encode(columns)
        assert all(counts.sum() == 33 * 40 and (counts[1:] > 0).all() for counts in runs)
    assert mask_run_lengths(torch.rand(0, 7, 7), torch.rand(0, 4), (33, 40)) == []


def test_pasting_into_the_memory_of_a_result_that_is_gone():
    size = (1500, 1500)  # large enough to be kept
    extents = torch.tensor([[100.0, 100, 900, 900], [0, 0, 1500, 1500], [700, 20, 720, 30]])
    first = paste_masks(torch.ones(3, 4, 4), extents, size)
    assert first[0, 500, 500] and first[1, 9, 700] and first[2, 25, 710]
    alive = first[1:].numpy()  # a part of the first result, whose memory therefore is not free
    del first
    second = paste_masks(torch.zeros(3, 4, 4), extents, size)
    assert not second.any() and alive[0].mean() > 0.9
    second.fill_(True)
    del second
    for threshold, dtype in ((0.5, torch.bool), (-1.0, torch.uint8)):
        for masks in (torch.zeros(3, 4, 4), torch.rand(3, 4, 4), torch.zeros(3, 0, 0)):
            again = paste_masks(masks, extents, size, threshold)
            fresh = torch.zeros(3, *size, dtype=dtype)
            if masks.numel():
                for index, (left, top, window) in enumerate(paste_windows(masks, extents, size, threshold)):
                    fresh[index, top : top + window.shape[0], left : left + window.shape[1]] = window
            assert torch.equal(again, fresh)
            again.fill_(1)
            del again
    assert alive[0].mean() > 0.9 and alive[1, 25, 710] and alive[1].sum() < 1000


def test_pixel_extents_paste_as_torchvision_does():
    generator = torch.Generator().manual_seed(5)
    masks = torch.rand(8, 1, 14, 14, generator=generator)
    corners = torch.rand(8, 2, generator=generator) * 40
    sides = 0.2 + 30 * torch.rand(8, 2, generator=generator)
    boxes = torch.cat([corners, (corners + sides).clamp(max=50)], dim=1)
    expected = peer_roi_heads.paste_masks_in_image(masks, boxes, (50, 64))[:, 0]
    pasted = paste_masks(masks[:, 0], pixel_extents(boxes, 14), (50, 64), 0.5)
    differ = pasted != (expected > 0.5)
    assert not differ.any() or float((expected[differ] - 0.5).abs().max()) < 1e-5
