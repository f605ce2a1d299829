"""Augmentation against the painted image itself and against NumPy."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.data.transforms import (
    TRANSFORMS,
    ColorJitter,
    Compose,
    Normalize,
    RandomHorizontalFlip,
    RandomVerticalFlip,
    Resize,
    ToTensor,
    build_transforms,
)
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

WIDTH, HEIGHT = 48, 30
X, Y, W, H = 6, 9, 17, 12  # the painted rectangle
NAMES = PersonKeypoints.NAMES
MIRRORED = [name.replace("left", "#").replace("right", "left").replace("#", "right") for name in NAMES]
SWAPPED = [NAMES.index(name) for name in MIRRORED]


def painted(offset=1):
    """A white rectangle on black, with its box, its mask as a polygon and as a bitmap, and keypoints."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[Y : Y + H, X : X + W] = 255
    target = BoxList([[X, Y, W, H]] * 2, (WIDTH, HEIGHT), mode="xywh", offset=offset).convert("xyxy")
    target.add_field(fields.LABELS, torch.tensor([1, 1]))
    polygon = [X, Y, X + W, Y, X + W, Y + H, X, Y + H]
    target.add_field(fields.MASKS, SegmentationMask([[polygon], torch.from_numpy(pixels[..., 0] > 0)], target.size))
    points = np.random.default_rng(0).uniform(0, 29, (2, 17, 3)).round(1)
    points[..., 2] = np.arange(17) % 3
    points[points[..., 2] == 0] = 0
    target.add_field(fields.KEYPOINTS, PersonKeypoints(points, target.size))
    return Image.fromarray(pixels), target


def white_extents(image):
    """x1, y1, x2, y2 of the rectangle that the white pixels cover, pixel p covering [p, p + 1)."""
    rows, columns = np.nonzero(np.asarray(image)[..., 0] > 127)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(("flip", "axis"), [(RandomHorizontalFlip, 0), (RandomVerticalFlip, 1)])
def test_flips_move_boxes_masks_and_keypoints_with_the_pixels(offset, flip, axis):
    image, target = painted(offset)
    flipped, moved = flip(1.0)(image, target)
    np.testing.assert_array_equal(np.asarray(flipped), np.flip(np.asarray(image), 1 - axis))
    assert moved.extents().tolist() == [white_extents(flipped)] * 2
    for mask in moved.get_field(fields.MASKS).get_mask_tensor().numpy():
        np.testing.assert_array_equal(mask, np.asarray(flipped)[..., 0] > 0)
    points = target.get_field(fields.KEYPOINTS).keypoints.numpy()[:, SWAPPED]
    expected = points.copy()
    expected[..., axis] = (WIDTH, HEIGHT)[axis] - offset - points[..., axis]
    expected[points[..., 2] == 0] = 0
    np.testing.assert_allclose(moved.get_field(fields.KEYPOINTS).keypoints, expected, atol=1e-5)
    again, back = flip(1.0)(flipped, moved)
    np.testing.assert_array_equal(np.asarray(again), np.asarray(image))
    torch.testing.assert_close(back.bbox, target.bbox)
    torch.testing.assert_close(back.get_field(fields.KEYPOINTS).keypoints, target.get_field(fields.KEYPOINTS).keypoints)


def test_flip_probability():
    image, target = painted()
    for prob, low, high in ((0.0, 0, 0), (1.0, 200, 200), (0.3, 40, 80)):
        flip = RandomHorizontalFlip(prob)
        assert low <= sum(flip(image, target)[0] is not image for _ in range(200)) <= high


@pytest.mark.parametrize("factor", [2, 3])
def test_resize_moves_boxes_masks_and_keypoints_with_the_pixels(factor):
    image, target = painted(offset=0)
    resized, moved = Resize(HEIGHT * factor)(image, target)
    assert resized.size == moved.size == (WIDTH * factor, HEIGHT * factor)
    extents = (np.array([X, Y, X + W, Y + H]) * factor).tolist()
    assert moved.extents().tolist() == [extents] * 2
    assert white_extents(resized) == extents
    white = np.zeros((HEIGHT * factor, WIDTH * factor), dtype=bool)  # bilinear sampling rounds the painted corners
    white[extents[1] : extents[3], extents[0] : extents[2]] = True
    for mask in moved.get_field(fields.MASKS).get_mask_tensor().numpy():
        np.testing.assert_array_equal(mask, white)
    points = target.get_field(fields.KEYPOINTS).keypoints * torch.tensor([factor, factor, 1.0])
    torch.testing.assert_close(moved.get_field(fields.KEYPOINTS).keypoints, points)
    assert target.bbox[0].tolist() == [X, Y, X + W, Y + H]  # the input is as it was


def test_resize_samples_as_torchvision_does():
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    resized, _ = Resize(33)(image)
    np.testing.assert_array_equal(np.asarray(resized), np.asarray(F.resize(image, [42, 33])))


@pytest.mark.parametrize(
    ("size_wh", "expected_hw"),
    [
        ((640, 480), (800, 1066)),  # 1066.67 is cut
        ((480, 640), (1066, 800)),
        ((500, 500), (800, 800)),
        ((1200, 800), (800, 1200)),  # already right
        ((1000, 400), (533, 1332)),  # the long side would be 2000: 1333 * 0.4 = 533.2
        ((400, 1000), (1332, 533)),
        ((3000, 3), (1, 1000)),
    ],
)
def test_resize_sides(size_wh, expected_hw):
    assert Resize(800, 1333).get_size(size_wh) == expected_hw


def test_resize_without_change_keeps_the_image():
    image, target = painted()
    assert Resize(HEIGHT)(image, target)[0] is image


def test_resize_draws_among_the_sizes_and_pairs_the_limits():
    image, target = painted()
    resize = Resize((10, 20, 40), (12, 1000, 64))
    seen = {resize(image, target)[0].size for _ in range(60)}
    assert seen == {(12, 8), (32, 20), (64, 40)}
    assert {Resize((10, 20), 24)(image)[0].size for _ in range(30)} == {(16, 10), (24, 15)}
    with pytest.raises(ValueError, match="one limit, or one for each short side"):
        Resize((10, 20, 30), (40, 50))
    with pytest.raises(ValueError, match="must be positive"):
        Resize(0, 10)


@pytest.mark.parametrize(
    ("image_format", "to_bgr255", "channels", "top"),
    [("", True, (2, 1, 0), 255), ("", False, (0, 1, 2), 1), ("RGB", True, (0, 1, 2), 1), ("BGR", False, (2, 1, 0), 1),
     ("RGB255", True, (0, 1, 2), 255), ("BGR255", False, (2, 1, 0), 255)],
)  # fmt: skip
def test_normalisation_in_every_format(image_format, to_bgr255, channels, top):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    mean, std = np.array([0.4, 0.5, 0.6]) * top, np.array([0.2, 0.3, 0.25]) * top
    normalize = Normalize(mean.tolist(), std.tolist(), to_bgr255, image_format)
    image, _ = Compose([ToTensor(), normalize])(Image.fromarray(pixels))
    expected = (pixels[..., list(channels)] / 255 * top - mean) / std
    assert image.dtype == torch.float32 and image.is_contiguous() and image.shape == (3, 5, 7)
    np.testing.assert_allclose(image, expected.transpose(2, 0, 1), atol=1e-5)
    zero_to_one = F.to_tensor(Image.fromarray(pixels))
    kept = zero_to_one.clone()
    torch.testing.assert_close(normalize(zero_to_one)[0], image)
    torch.testing.assert_close(zero_to_one, kept)


def test_normalisation_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="INPUT.FORMAT is 'HSV'"):
        Normalize([0, 0, 0], [1, 1, 1], image_format="HSV")
    with pytest.raises(ValueError, match="three numbers each"):
        Normalize([0, 0], [1, 1, 1])
    with pytest.raises(ValueError, match="STD not zero"):
        Normalize([0, 0, 0], [1, 0, 1])


def test_colour_jitter_changes_colours_alone():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    target = painted()[1]
    jittered, same = ColorJitter(0.5, 0.5, 0.5, 0.2)(image, target)
    assert same is target and jittered.size == image.size
    assert np.abs(np.asarray(jittered).astype(int) - np.asarray(image)).max() > 5


def test_the_configs_keys_are_honoured():
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (20, 60), (25, 100)
    cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN, cfg.INPUT.VERTICAL_FLIP_PROB_TRAIN = 0.25, 0.75
    cfg.INPUT.HUE, cfg.INPUT.FORMAT = 0.1, "RGB255"
    train = build_transforms(cfg, is_train=True).transforms
    assert [type(step) for step in train] == [
        ColorJitter, Resize, RandomHorizontalFlip, RandomVerticalFlip, ToTensor, Normalize
    ]  # fmt: skip
    assert train[1].min_size == (20, 60) and train[1].max_size == (25, 100)
    assert (train[2].prob, train[3].prob) == (0.25, 0.75)
    assert train[0].color_jitter.hue == (-0.1, 0.1) and train[5].image_format == "RGB255"
    test = build_transforms(cfg, is_train=False).transforms
    assert [type(step) for step in test] == [Resize, ToTensor, Normalize]
    assert (test[0].min_size, test[0].max_size) == ((800,), (1333,))
    plain = build_transforms(get_cfg()).transforms
    assert [type(step) for step in plain] == [Resize, RandomHorizontalFlip, ToTensor, Normalize]


def test_transforms_work_without_a_target():
    image, target = build_transforms(get_cfg())(painted()[0])
    assert target is None and image.shape[0] == 3


def test_transforms_of_ones_own_run_before_the_image_becomes_a_tensor(monkeypatch):
    seen = []

    def record(name):
        def step(image, target=None):
            seen.append((name, type(image), image.size))
            return image, target

        return step

    monkeypatch.setitem(TRANSFORMS, "First", lambda cfg, is_train: record(("first", is_train)))
    monkeypatch.setitem(TRANSFORMS, "Second", lambda cfg, is_train: record(("second", is_train)))
    monkeypatch.setitem(TRANSFORMS, "Off", lambda cfg, is_train: None)
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (60,), 200
    cfg.merge_from_list(["INPUT.TRANSFORMS_TRAIN", "('Second', 'Off', 'First')"])
    build_transforms(cfg)(painted()[0])
    assert seen == [(("second", True), Image.Image, (96, 60)), (("first", True), Image.Image, (96, 60))]
    build_transforms(cfg, is_train=False)(painted()[0])
    assert len(seen) == 2, "tests are not augmented"
    cfg.INPUT.TRANSFORMS_TRAIN = ("Third",)
    with pytest.raises(ConfigError, match="INPUT.TRANSFORMS_TRAIN names 'Third'; registered: ColorJitter, First"):
        build_transforms(cfg)
    assert build_transforms(cfg, is_train=False).transforms


@pytest.mark.parametrize(
    ("size_wh", "detectron2_hw", "torchvision_hw"),
    [
        ((640, 480), (800, 1067), (800, 1066)),
        ((500, 333), (800, 1201), (800, 1201)),
        ((1000, 200), (267, 1333), (266, 1333)),
        ((427, 640), (1199, 800), (1199, 800)),
    ],
)
def test_sizes_are_those_of_detectron2_and_torchvision(size_wh, detectron2_hw, torchvision_hw):
    assert Resize(800, 1333, kind="detectron2").get_size(size_wh) == detectron2_hw
    assert Resize(800, 1333, kind="torchvision").get_size(size_wh) == torchvision_hw
    with pytest.raises(ValueError, match="INPUT.RESIZE"):
        Resize(800, kind="nearest")
