import json
import pickle

import cv2
import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.models.detection.roi_heads import project_masks_on_boxes

from maskrcnn_benchmark.structures.segmentation_mask import FLIP_LEFT_RIGHT, FLIP_TOP_BOTTOM, Polygons, SegmentationMask
from tests.devices import DEVICES

SIZE = (40, 30)  # width, height
RING = [5.0, 4.0, 30.0, 4.0, 30.0, 25.0, 20.0, 25.0, 20.0, 12.0, 5.0, 12.0]  # an L, upside down
ISLAND = [32.5, 2.0, 38.0, 2.0, 35.0, 9.5]


def coco_bitmap(polygons, height=SIZE[1], width=SIZE[0]):
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))


def all_forms():
    """One instance in every form that a mask can have."""
    bitmap = coco_bitmap([RING, ISLAND])
    compressed = coco_mask.encode(np.asfortranarray(bitmap))
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate(([-1], bitmap.T.ravel(), [-1])))))
    counts = ([0] if bitmap[0, 0] else []) + runs.tolist()
    return {
        "polygons": [RING, ISLAND],
        "polygon arrays": [np.array(RING).reshape(-1, 2), torch.tensor(ISLAND)],
        "compressed bytes": compressed,
        "compressed text": {"size": list(compressed["size"]), "counts": compressed["counts"].decode()},
        "uncompressed": {"size": [30, 40], "counts": counts},
        "array": bitmap,
        "tensor": torch.from_numpy(bitmap),
        "bool": torch.from_numpy(bitmap).bool(),
    }


@pytest.mark.parametrize("form", all_forms())
@pytest.mark.parametrize("mode", ["poly", "mask"])
def test_every_form_is_the_same_mask(form, mode):
    masks = SegmentationMask([all_forms()[form]], SIZE, mode)
    drawn = masks.get_mask_tensor()
    assert drawn.shape == (1, 30, 40) and drawn.dtype == torch.uint8
    np.testing.assert_array_equal(drawn[0], coco_bitmap([RING, ISLAND]))


def test_forms_mix_and_index():
    masks = SegmentationMask(list(all_forms().values()), SIZE)
    assert len(masks) == 8 and masks.get_mask_tensor().shape == (8, 30, 40)
    assert masks.get_mask_tensor().unique(dim=0).shape[0] == 1
    for index, count in ((3, 1), ([1, 1, 6], 3), (slice(2, 5), 3), (torch.arange(8) > 5, 2), ([], 0)):
        assert len(masks[index]) == count
    assert [len(mask) for mask in masks] == [1] * 8
    assert len(SegmentationMask.cat([masks, masks[[0]]])) == 9
    assert len(SegmentationMask(masks, SIZE)) == 8
    torch.testing.assert_close(pickle.loads(pickle.dumps(masks)).get_mask_tensor(), masks.get_mask_tensor())
    stacked = SegmentationMask(masks.get_mask_tensor(), SIZE, "mask")
    torch.testing.assert_close(stacked.get_mask_tensor(), masks.get_mask_tensor())
    with pytest.raises(IndexError, match="index 8 is out of range for 8"):
        masks[8]


@pytest.mark.parametrize("mode", ["poly", "mask"])
@pytest.mark.parametrize(("method", "axis"), [(FLIP_LEFT_RIGHT, 2), (FLIP_TOP_BOTTOM, 1)])
def test_flip_mirrors_the_pixels(mode, method, axis):
    masks = SegmentationMask([[RING], [ISLAND]], SIZE, mode)
    flipped = masks.transpose(method)
    mirrored = masks.get_mask_tensor().flip(axis)
    # pycocotools rounds corners half up, so a mirrored slanted edge may differ by single pixels
    assert (flipped.get_mask_tensor() != mirrored).sum() <= (4 if mode == "poly" else 0)
    torch.testing.assert_close(flipped.transpose(method).get_mask_tensor(), masks.get_mask_tensor())


@pytest.mark.parametrize("mode", ["poly", "mask"])
def test_crop_is_a_window_of_the_pixels(mode):
    masks = SegmentationMask([[RING], [ISLAND]], SIZE, mode)
    cropped = masks.crop([10, 3, 36, 20])
    assert cropped.size == (26, 17)
    torch.testing.assert_close(cropped.get_mask_tensor(), masks.get_mask_tensor()[:, 3:20, 10:36])
    back = cropped.crop([-10, -3, 30, 27])  # what was outside the window is not lost
    torch.testing.assert_close(back.get_mask_tensor(), masks.get_mask_tensor())


@pytest.mark.parametrize("mode", ["poly", "mask"])
@pytest.mark.parametrize("size", [(80, 90), (20, 15), (13, 47), (40, 30)])
def test_resize_keeps_the_shape(mode, size):
    masks = SegmentationMask([[RING]], SIZE, mode)
    resized = masks.resize(size)
    drawn = resized.get_mask_tensor()
    assert resized.size == size and drawn.shape == (1, size[1], size[0])
    scaled = (np.array(RING).reshape(-1, 2) * (size[0] / 40, size[1] / 30)).ravel()
    expected = coco_bitmap([scaled], size[1], size[0])
    assert (drawn[0].numpy() != expected).mean() < 0.04
    if mode == "mask" and size[0] % 40 == size[1] % 30 == 0:  # whole factors repeat pixels
        expected = masks.get_mask_tensor()[0].numpy().repeat(size[1] // 30, 0).repeat(size[0] // 40, 1)
        np.testing.assert_array_equal(drawn[0], expected)
    torch.testing.assert_close(resized.resize(SIZE).get_mask_tensor(), masks.get_mask_tensor())


def test_convert_back_and_forth():
    masks = SegmentationMask([[RING, ISLAND], [ISLAND]], SIZE)
    bitmaps = masks.convert("mask")
    assert bitmaps.mode == "mask" and bitmaps.convert("mask") is bitmaps
    torch.testing.assert_close(bitmaps.get_mask_tensor(), masks.get_mask_tensor())
    traced = bitmaps.convert("poly")
    assert traced.mode == "poly" and len(traced.instances[0].parts) == 2
    torch.testing.assert_close(traced.get_mask_tensor(), masks.get_mask_tensor())


@given(st.integers(1, 12), st.integers(1, 12), st.floats(0.1, 0.9), st.integers(0, 2**31 - 1))
@settings(max_examples=60, deadline=None)
def test_tracing_reproduces_any_bitmap_without_holes(height, width, density, seed):
    bitmap = (np.random.default_rng(seed).random((height, width)) < density).astype(np.uint8)
    contours, _ = cv2.findContours(bitmap, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = cv2.drawContours(bitmap.copy(), contours, -1, 1, -1)
    traced = SegmentationMask([bitmap], (width, height)).convert("poly")
    np.testing.assert_array_equal(traced.get_mask_tensor()[0], filled)


def test_bitmaps_of_another_size_cover_the_image():
    small = np.zeros((3, 4), dtype=np.uint8)
    small[1, 2] = 1
    drawn = SegmentationMask([small], SIZE).get_mask_tensor()[0]
    expected = torch.zeros(30, 40, dtype=torch.uint8)
    expected[10:20, 20:30] = 1
    torch.testing.assert_close(drawn, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_rasterize_mixed_instances(device):
    bitmap = coco_bitmap([RING, ISLAND])
    masks = SegmentationMask([[RING, ISLAND], bitmap, np.zeros_like(bitmap)], SIZE)
    extents = torch.tensor([[0.0, 0, 40, 30], [0, 0, 40, 30], [8, 4, 32, 26], [8, 4, 32, 26], [0, 0, 40, 30]])
    targets = masks.rasterize(extents.to(device), 20, torch.tensor([0, 1, 0, 1, 2], device=device))
    assert targets.shape == (5, 20, 20) and targets.dtype == torch.float32 and targets.device.type == device
    assert set(targets.unique().tolist()) == {0.0, 1.0}
    # drawn from the polygon or averaged from its bitmap: the same but for cells that the outline passes through
    assert (targets[0] != targets[1]).float().mean() < 0.05 and (targets[2] != targets[3]).float().mean() < 0.05
    assert targets[4].sum() == 0
    assert masks.rasterize(extents[:0], 20, torch.zeros(0, dtype=torch.int64)).shape == (0, 20, 20)


@pytest.mark.parametrize("device", DEVICES)
def test_average_equals_the_targets_of_torchvision(device):
    bitmap = coco_bitmap([RING, ISLAND])
    masks = SegmentationMask([[RING, ISLAND], bitmap, np.zeros_like(bitmap)], SIZE)
    extents = torch.tensor([[0.0, 0, 40, 30], [8.3, 4.1, 32.7, 26], [30, 20, 70, 60], [5, 5, 5, 5], [-9, -9, -2, -2]])
    indices = torch.tensor([1, 0, 1, 0, 1])
    averaged = masks.average(extents.to(device), 14, indices.to(device))
    assert averaged.device.type == device and averaged.min() >= 0 and averaged.max() <= 1
    expected = project_masks_on_boxes(masks.get_mask_tensor(), extents, indices, 14)
    assert ((expected > 0) & (expected < 1)).any()
    torch.testing.assert_close(averaged.cpu(), expected)
    assert masks.average(extents[:0], 14, indices[:0]).shape == (0, 14, 14)


@pytest.mark.parametrize("mode", ["poly", "mask"])
def test_rasterize_anywhere(mode):
    square = SegmentationMask([[[10.0, 10, 20, 10, 20, 20, 10, 20]]], SIZE, mode)
    extents = torch.tensor(
        [
            [10.0, 10, 20, 20],  # the square itself
            [5, 10, 15, 20],  # its left half
            [12, 13, 13, 14],  # one pixel inside it
            [12.3, 13.3, 12.301, 13.301],  # far below a pixel
            [30, 22, 31, 23],  # one pixel outside
            [-100, -100, -50, -50],  # off the image
            [-30, -30, 60, 60],  # larger than the image
            [15, 15, 15, 15],  # nothing
        ]
    )
    targets = square.rasterize(extents, 18, torch.zeros(8, dtype=torch.int64))
    assert targets[0].all() and targets[2].all() and targets[3].all()
    assert targets[1, :, 9:].all() and not targets[1, :, :9].any()
    assert not targets[4].any() and not targets[5].any() and not targets[7].any()
    expected = torch.zeros(18, 18)
    expected[8:10, 8:10] = 1
    torch.testing.assert_close(targets[6], expected)


def test_rasterize_follows_flips_and_resizes():
    bitmap = coco_bitmap([RING, ISLAND])
    extents = torch.tensor([[3.0, 2.0, 33.0, 27.0]])
    for instance in ([RING, ISLAND], bitmap):
        masks = SegmentationMask([instance], SIZE)
        plain = masks.rasterize(extents, 14, torch.tensor([0]))
        scale, mirrored = torch.tensor([2.0, 3.0, 2.0, 3.0]), torch.tensor([[7.0, 2.0, 37.0, 27.0]])
        resized = masks.resize((80, 90)).rasterize(extents * scale, 14, torch.tensor([0]))
        assert (plain != resized).sum() == 0
        flipped = masks.transpose(FLIP_LEFT_RIGHT).rasterize(mirrored, 14, torch.tensor([0]))
        assert (plain.flip(2) != flipped).sum() <= (5 if instance is not bitmap else 0)


@pytest.mark.parametrize(
    ("instance", "message"),
    [
        ([[1, 2, 3, 4]], "instance 1: a polygon needs at least 3 points, this one has 2"),
        ([[1, 2, 3, 4, 5, 6, 7]], r"instance 1: a polygon is \[x0, y0, x1, y1, ...\]"),
        ([[1, 2, 3, 4, 5, float("nan")]], "instance 1: a polygon has a coordinate that is not finite"),
        ([1, 2, 3, 4, 5, 6], "instance 1: an instance is a list of polygons"),
        ([], "instance 1: it has no polygon"),
        ({"size": [30, 40]}, r"instance 1: run lengths have 'size' and 'counts'.*\['size'\]"),
        ({"size": [30, 40], "counts": [5, 6]}, "instance 1: run lengths add up to 11, but the bitmap is 30 x 40"),
        ("polygon", "instance 1: polygons, run lengths or a bitmap are expected, not str"),
        (7, "instance 1: polygons, run lengths or a bitmap are expected, not int"),
        (np.zeros((2, 3, 4)), r"instance 1: a bitmap is \(H, W\)"),
    ],
)
def test_malformed_instances_are_named(instance, message):
    with pytest.raises(ValueError, match=message):
        SegmentationMask([[RING], instance], SIZE)


def test_bad_calls():
    masks = SegmentationMask([[RING]], SIZE)
    with pytest.raises(ValueError, match="mode is 'rle'; it can be 'poly' or 'mask'"):
        SegmentationMask([], SIZE, "rle")
    with pytest.raises(ValueError, match=r"extents \(2, 4\) and 1 indices do not match"):
        masks.rasterize(torch.zeros(2, 4), 7, torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="given 9"):
        masks.transpose(9)
    assert SegmentationMask([], SIZE).get_mask_tensor().shape == (0, 30, 40)


def test_real_annotations_draw_as_pycocotools_does(coco_mini):
    coco = json.loads((coco_mini / "annotations" / "instances_val2017.json").read_text())
    image = coco["images"][0]
    annotations = [entry for entry in coco["annotations"] if entry["image_id"] == image["id"]]
    with Image.open(coco_mini / "val2017" / image["file_name"]) as picture:
        size = picture.size
    masks = SegmentationMask([entry["segmentation"] for entry in annotations], size)
    for drawn, entry in zip(masks.get_mask_tensor().numpy(), annotations, strict=True):
        encoded = coco_mask.frPyObjects(entry["segmentation"], size[1], size[0])
        expected = coco_mask.decode(coco_mask.merge(encoded) if isinstance(encoded, list) else encoded)
        np.testing.assert_array_equal(drawn, expected)


def test_an_instance_without_a_mask_stays_one_and_is_drawn_as_zeros():
    square = [[2, 3, 12, 3, 12, 11, 2, 11]]
    masks = SegmentationMask([None, square, None], (40, 30))
    moved = [masks.resize((80, 60)), masks.transpose(FLIP_LEFT_RIGHT), masks.crop((1, 1, 20, 20)), masks[[0, 1, 2]]]
    for version in [masks, *moved, masks.convert("mask"), masks.convert("poly"), SegmentationMask.cat([masks, masks])]:
        assert version.instances[0] == Polygons(())
        drawn = version.get_mask_tensor()
        assert not drawn[0].any() and not drawn[2].any() and drawn[1].any()
    regions = torch.tensor([[0.0, 0, 40, 30], [2, 3, 12, 11]])
    drawn = masks.rasterize(regions[[0, 1, 0]], 8, torch.tensor([0, 1, 2]))
    assert not drawn[[0, 2]].any() and drawn[1].all()
    only = masks[[0]].rasterize(regions[:1], 8, torch.tensor([0]))
    assert only.shape == (1, 8, 8) and not only.any()
