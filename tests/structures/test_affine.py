"""Affine maps of boxes, masks and keypoints against OpenCV's warp of the drawn mask, and by random warps."""

import cv2
import numpy as np
import pytest
import shapely
import torch

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.polygon_shapes import clip_polygons, parts_of, polygon_area, subtract_polygons
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

CONCAVE = [20, 10, 90, 10, 90, 70, 70, 70, 70, 30, 40, 30, 40, 70, 20, 70]  # a U, upside down
TRIANGLE = [5, 60, 50, 50, 30, 95]
SIZE = (110, 100)
MATRICES = {
    "identity": [[1, 0, 0], [0, 1, 0]],
    "shift": [[1, 0, -33.3], [0, 1, 12.7]],
    "scale": [[1.7, 0, -40], [0, 0.6, 5]],
    "rotation": [[np.cos(0.5), np.sin(0.5), -20], [-np.sin(0.5), np.cos(0.5), 40]],
    "shear": [[0.9, 0.4, -30], [0.2, 1.3, -35]],
}
NEW_SIZE = (96, 80)


FINE = 8


def warped_by_opencv(matrix, fine=1):
    """(2, height * fine, width * fine) bool: OpenCV's warp of masks that are drawn finely, at the pixels' centres."""
    masks = SegmentationMask([[CONCAVE], [TRIANGLE]], SIZE).resize([side * FINE for side in SIZE]).get_mask_tensor()
    linear, shift = np.asarray(matrix, dtype=float)[:, :2] * fine / FINE, np.asarray(matrix, dtype=float)[:, 2] * fine
    centred = np.column_stack([linear, linear @ (0.5, 0.5) + shift - 0.5])
    size = tuple(side * fine for side in NEW_SIZE)
    return np.stack([cv2.warpAffine(mask, centred, size, flags=cv2.INTER_NEAREST) for mask in masks.numpy()]) > 0


def target(offset=1, bitmaps=False):
    masks = SegmentationMask([[CONCAVE], [TRIANGLE]], SIZE)
    masks = masks.convert("mask") if bitmaps else masks
    boxes = BoxList([[20, 10, 90 - offset, 70 - offset], [5, 50, 50 - offset, 95 - offset]], SIZE, offset=offset)
    boxes.add_field(fields.LABELS, torch.tensor([1, 2]))
    boxes.add_field(fields.MASKS, masks)
    return boxes


@pytest.mark.parametrize("bitmaps", [False, True])
@pytest.mark.parametrize("name", list(MATRICES))
def test_masks_follow_opencv_to_half_a_pixel(name, bitmaps):
    matrix = MATRICES[name]
    moved = target(bitmaps=bitmaps).affine(matrix, NEW_SIZE)
    expected = warped_by_opencv(matrix)
    masks = moved.get_field(fields.MASKS).get_mask_tensor().numpy() > 0
    # pixels differ along the outline only, where pycocotools rounds
    for ours, theirs in zip(masks, expected, strict=True):
        kernel = np.ones((3, 3), dtype=np.uint8)
        inner = cv2.erode(theirs.astype(np.uint8), kernel, borderValue=1).astype(bool)
        outer = cv2.dilate(theirs.astype(np.uint8), kernel).astype(bool)
        assert not (inner & ~ours).any() and not (ours & ~outer).any()


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", list(MATRICES))
def test_boxes_are_drawn_around_what_is_left(name, offset):
    moved = target(offset).affine(MATRICES[name], NEW_SIZE)
    assert moved.size == NEW_SIZE and moved.offset == offset
    for box, mask in zip(moved.extents().tolist(), warped_by_opencv(MATRICES[name], FINE), strict=True):
        rows, columns = mask.nonzero()
        expected = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / FINE
        np.testing.assert_allclose(box, expected, atol=0.5)


def test_a_box_without_a_mask_spans_its_mapped_corners():
    boxes = BoxList([[10, 20, 29, 39]], (100, 100))
    quarter_turn = [[0, 1, 0], [-1, 0, 100]]
    assert boxes.affine(quarter_turn, (100, 100)).extents().tolist() == [[20, 70, 40, 90]]
    half = np.sqrt(0.5)
    moved = boxes.affine([[half, half, 0], [-half, half, 50]], (100, 100)).extents()[0].tolist()
    np.testing.assert_allclose(moved, [30 * half, 50 - 10 * half, 70 * half, 50 + 30 * half], atol=1e-4)


def test_all_fields_of_masks_follow_and_other_fields_stay():
    boxes = target()
    boxes.add_field("masks_visible", SegmentationMask([[TRIANGLE], [TRIANGLE]], SIZE))
    boxes.add_field("ages", torch.tensor([3.0, float("nan")]))
    boxes.add_field("parts", BoxList([[0, 0, 9, 9], [10, 10, 19, 19]], SIZE))
    moved = boxes.affine(MATRICES["scale"], NEW_SIZE)
    own = SegmentationMask([[TRIANGLE], [TRIANGLE]], SIZE).affine(MATRICES["scale"], NEW_SIZE)
    assert torch.equal(moved.get_field("masks_visible").get_mask_tensor(), own.get_mask_tensor())
    assert moved.get_field("ages")[0] == 3 and moved.get_field("parts").size == NEW_SIZE
    # the box spans the masks of all names
    both = torch.stack([moved.get_field(name).bounds()[0] for name in (fields.MASKS, "masks_visible")])
    expected = torch.cat([both[:, :2].amin(dim=0), both[:, 2:].amax(dim=0)])
    torch.testing.assert_close(moved.extents()[0].double(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("offset", [0, 1])
def test_keypoints_follow_and_lose_their_label_outside(offset):
    points = torch.zeros(1, 17, 3)
    points[0, :4] = torch.tensor([[10.0, 20, 2], [0, 0, 1], [99, 50, 2], [0, 0, 0]])
    moved = PersonKeypoints(points, (100, 60)).affine([[2, 0, 0], [0, 2, -20]], (150, 90), offset=offset)
    shift = offset / 2
    assert moved.size == (150, 90)
    assert moved.keypoints[0, 0].tolist() == [2 * (10 + shift) - shift, 2 * (20 + shift) - 20 - shift, 2]
    assert not moved.keypoints[0, 1:].any()  # above the image, right of it, and never labelled


def test_keypoints_of_a_pixel_follow_that_pixel():
    """With offset 1 a keypoint names a pixel: its map lies in the pixel of OpenCV's warp of that pixel."""
    image = np.zeros((60, 100), dtype=np.uint8)
    image[20:23, 30:33] = 255
    matrix = np.array([[1.9, 0.6, -20], [-0.6, 1.9, 10]])
    centred = np.column_stack([matrix[:, :2], matrix[:, :2] @ (0.5, 0.5) + matrix[:, 2] - 0.5])
    rows, columns = np.nonzero(cv2.warpAffine(image, centred, (150, 90)) > 127)
    points = PersonKeypoints(torch.tensor([[[31.0, 21.0, 2.0]] * 17]), (100, 60)).affine(matrix, (150, 90))
    np.testing.assert_allclose(points.keypoints[0, 0, :2].tolist(), [columns.mean(), rows.mean()], atol=0.5)


def star(rng, centre, points=9):
    """A random concave polygon, [x0, y0, ...], star-shaped around its centre."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, points))
    radii = rng.uniform(4, 30, points)
    return np.column_stack([centre[0] + radii * np.cos(angles), centre[1] + radii * np.sin(angles)])


@pytest.mark.slow
def test_ten_thousand_random_warps_keep_keypoints_inside_their_masks():
    rng = np.random.default_rng(3)
    labelled = lost = 0
    for _ in range(10_000):
        angle, scale = rng.uniform(-np.pi, np.pi), rng.uniform(0.3, 3)
        linear = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        linear = linear @ np.array([[1, rng.uniform(-0.5, 0.5)], [0, 1]])
        size = tuple(rng.integers(20, 160, 2).tolist())
        matrix = np.column_stack([linear, np.array(size) / 2 - linear @ rng.uniform(20, 80, 2)])
        outline = star(rng, rng.uniform(20, 80, 2))
        inside = shapely.Polygon(outline).representative_point().coords[0]
        # convex combinations of an inner point and a corner may be outside; the representative point never is
        points = torch.tensor([[[*inside, 2.0]] + [[0.0, 0.0, 0.0]] * 16])
        masks = SegmentationMask([[outline]], (100, 100)).affine(matrix, size)
        moved = PersonKeypoints(points, (100, 100)).affine(matrix, size, offset=0).keypoints[0, 0]
        x, y = matrix[:, :2] @ inside + matrix[:, 2]
        assert (moved[2] > 0) == (0 <= x < size[0] and 0 <= y < size[1])
        labelled += int(moved[2] > 0)
        lost += int(moved[2] == 0)
        if moved[2] > 0:
            parts = masks.instances[0].parts
            assert min(shapely.Polygon(part).distance(shapely.Point(*moved[:2].tolist())) for part in parts) < 1e-3
        for part in masks.instances[0].parts:
            assert part.min() >= -1e-9 and (part.max(axis=0) <= np.array(size) + 1e-9).all()
    assert labelled > 3000 and lost > 1000


# Clipping


def test_a_clipped_concave_polygon_falls_into_its_pieces():
    outline = np.array(CONCAVE, dtype=float).reshape(-1, 2) - [0, 40]  # cut through both legs of the U
    pieces = clip_polygons([outline], (110, 60))
    assert sorted(map(tuple, (np.concatenate([p.min(axis=0), p.max(axis=0)]) for p in pieces))) == [
        (20, 0, 40, 30),
        (70, 0, 90, 30),
    ]


def test_a_polygon_inside_is_returned_as_it_is_and_one_outside_is_left_out():
    outline = np.array(TRIANGLE, dtype=float).reshape(-1, 2)
    assert clip_polygons([outline], SIZE)[0] is outline
    assert clip_polygons([outline + 200, outline - 200], SIZE) == ()
    touching = np.array([[110.0, 0], [120, 0], [120, 10]])
    assert clip_polygons([touching], SIZE) == ()


def test_a_polygon_that_crosses_itself_is_drawn_by_the_even_odd_rule():
    bow = np.array([[0.0, 0], [40, 40], [40, 0], [0, 40]])
    assert polygon_area([bow]) == pytest.approx(800)
    clipped = clip_polygons([bow], (20, 40))
    assert polygon_area(clipped) == pytest.approx(400)
    twice = np.array([[0.0, 0], [9, 0], [9, 9], [0, 9], [0, 0], [3, 3], [6, 3], [6, 6], [3, 6], [3, 3]])
    pixels = SegmentationMask([[twice]], (12, 12)).get_mask_tensor().sum()
    assert polygon_area([twice]) == pytest.approx(72) == float(pixels)


def test_pieces_with_holes_are_cut_into_pieces_without():
    plate = shapely.box(0, 0, 30, 20)
    for x in (3, 12, 21):
        plate = plate.difference(shapely.box(x, 5, x + 5, 15))
    parts = parts_of(plate)
    assert polygon_area(parts) == pytest.approx(600 - 150)
    assert shapely.union_all([shapely.Polygon(part) for part in parts]).equals(plate)


def test_cutting_away_what_covers_a_polygon():
    outline = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    far, hole, side = shapely.box(20, 0, 30, 10), shapely.box(2, 2, 4, 4), shapely.box(8, 0, 20, 10)
    assert subtract_polygons([outline], far)[0] is outline
    assert polygon_area(subtract_polygons([outline], shapely.union_all([hole, side, far]))) == 76
    assert subtract_polygons([outline], shapely.box(-1, -1, 11, 11)) == ()


@pytest.mark.parametrize("bitmaps", [(), (0,), (1,), (0, 1)])
def test_masks_without_what_others_hide(bitmaps):
    square, cover = [2, 2, 12, 2, 12, 12, 2, 12], [6, 6, 20, 6, 20, 20, 6, 20]
    sides = [SegmentationMask([[outline]], (24, 24)) for outline in (square, cover)]
    masks, covers = (side.convert("mask") if place in bitmaps else side for place, side in enumerate(sides))
    left = SegmentationMask.cat([masks, masks.affine([[1, 0, -1], [0, 1, -1]], (24, 24))]).subtract(covers)
    assert left.areas().tolist() == [64, 75]
    hidden = covers.get_mask_tensor()[0].bool()
    expected = [mask.get_mask_tensor()[0].bool() & ~hidden for mask in (masks, masks.affine(np.eye(3)[:2], (24, 24)))]
    assert torch.equal(left.get_mask_tensor()[0].bool(), expected[0])
    assert masks.subtract(covers.affine([[1, 0, 13], [0, 1, 13]], (24, 24))).instances[0].area() == 100


# Edges


@pytest.mark.parametrize("name", list(MATRICES))
def test_an_empty_target_and_masks_that_leave_the_image(name):
    empty = target()[[]].affine(MATRICES[name], NEW_SIZE)
    assert len(empty) == 0 and empty.size == NEW_SIZE and empty.get_field(fields.MASKS).bounds().shape == (0, 4)
    for bitmaps in (False, True):
        away = np.array(MATRICES[name], dtype=float) + [[0, 0, 1000], [0, 0, 0]]
        gone = target(bitmaps=bitmaps).affine(away, NEW_SIZE)
        assert gone.get_field(fields.MASKS).areas().tolist() == [0, 0]
        assert gone.get_field(fields.MASKS).bounds().isnan().all()
        assert not gone.get_field(fields.MASKS).get_mask_tensor().any()
        assert (gone.bbox[:, 0] == NEW_SIZE[0]).all()


@pytest.mark.parametrize("bitmaps", [False, True])
def test_one_pixel(bitmaps):
    masks = SegmentationMask([[[4, 6, 5, 6, 5, 7, 4, 7]]], (10, 10))
    masks = masks.convert("mask") if bitmaps else masks
    boxes = BoxList([[4, 6, 4, 6]], (10, 10))
    boxes.add_field(fields.MASKS, masks)
    turned = boxes.affine([[0, 3, 0], [-3, 0, 30]], (30, 30))
    assert turned.bbox.tolist() == [[18, 15, 20, 17]]
    assert turned.get_field(fields.MASKS).areas().tolist() == [9]
    kept = boxes.affine([[1, 0, -4], [0, 1, -6]], (1, 1))
    assert kept.bbox.tolist() == [[0, 0, 0, 0]] and kept.get_field(fields.MASKS).get_mask_tensor().tolist() == [[[1]]]


def test_areas_and_bounds_of_bitmaps():
    cells = np.zeros((8, 8), dtype=np.uint8)
    cells[2:4, 1:7] = 1
    masks = SegmentationMask([cells, np.zeros((8, 8))], (16, 8))
    assert masks.areas().tolist() == [24, 0]
    assert masks.bounds()[0].tolist() == [2, 2, 14, 4] and masks.bounds()[1].isnan().all()
    clipped = masks.affine([[1, 0, -5], [0, 1, 0]], (16, 8))
    assert clipped.bounds()[0].tolist() == [-1, 2, 9, 4]  # the cell from -1 to 1 is partly inside


@pytest.mark.parametrize(
    "matrix", [[[1, 0], [0, 1]], [[1, 0, 0], [0, float("nan"), 0]], [[0, 0, 1], [0, 0, 1]], [[-1, 0, 9], [0, 1, 0]]]
)
def test_maps_that_cannot_be_used_are_refused(matrix):
    for value in (target(), target().get_field(fields.MASKS), PersonKeypoints([], SIZE)):
        with pytest.raises(ValueError, match=r"affine: an affine map is a finite \(2, 3\) matrix"):
            value.affine(matrix, NEW_SIZE)
