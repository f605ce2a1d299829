"""Crops, large-scale jitter, rotations and half bodies: what is seen in the pixels, what is removed, and the seeds."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.data.seeding import sample_randomness
from maskrcnn_benchmark.data.transforms import (
    HalfBodyCrop,
    LargeScaleJitter,
    RandomAffine,
    RandomCrop,
    build_transforms,
)
from maskrcnn_benchmark.data.transforms.warping import mean_colour, rotation_about, warp_target
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

SIZE = (160, 120)
L_SHAPES = [[20, 20, 80, 20, 80, 40, 40, 40, 40, 90, 20, 90], [90, 50, 150, 50, 150, 110, 130, 110, 130, 70, 90, 70]]
COLOURS = [(255, 0, 0), (0, 255, 0)]


def painted(offset=0):
    """Two L shapes on black, with polygon and bitmap, box, and keypoints on their pixels."""
    masks = SegmentationMask([[outline] for outline in L_SHAPES], SIZE)
    drawn = masks.get_mask_tensor().numpy() > 0
    pixels = np.zeros((SIZE[1], SIZE[0], 3), dtype=np.uint8)
    for mask, colour in zip(drawn, COLOURS, strict=True):
        pixels[mask] = colour
    boxes = [[20, 20, 80 - offset, 90 - offset], [90, 50, 150 - offset, 110 - offset]]
    target = BoxList(boxes, SIZE, offset=offset)
    target.add_field(fields.LABELS, torch.tensor([1, 2]))
    target.add_field(fields.ANNOTATION_IDS, torch.tensor([11, 12]))
    target.add_field(fields.MASKS, masks)
    target.add_field("masks_visible", SegmentationMask(list(drawn), SIZE))
    points = np.zeros((2, 17, 3))
    for row, mask in enumerate(drawn):
        inner = np.argwhere(cv2.erode(mask.astype(np.uint8), np.ones((9, 9))) > 0)
        chosen = inner[np.linspace(0, len(inner) - 1, 17).astype(int)]
        points[row] = np.column_stack(
            [chosen[:, 1] + 0.5 - offset / 2, chosen[:, 0] + 0.5 - offset / 2, np.full(17, 2)]
        )
    target.add_field(fields.KEYPOINTS, PersonKeypoints(points, SIZE))
    return Image.fromarray(pixels), target


TRANSFORMS = {
    "crop": RandomCrop(1.0, (0.4, 0.9), 0.1),
    "jitter": LargeScaleJitter(100, (0.4, 2.0), 0.1),
    "affine": RandomAffine(1.0, 60.0, (0.6, 1.5), "image", (7, 7, 7), 0.1),
    "affine about": RandomAffine(1.0, 180.0, (0.6, 1.5), "instance", (7, 7, 7), 0.1),
    "half body": HalfBodyCrop(1.0, range(9), min_keypoints=8, margin=0.2, min_visible=0.1),
}


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_masks_boxes_and_keypoints_stay_on_the_pixels_that_they_marked(name, offset):
    image, target = painted(offset)
    seen = 0
    for seed in range(30):
        with sample_randomness(seed, 0):
            moved_image, moved = TRANSFORMS[name](image, target)
        assert moved_image.size == moved.size
        pixels = np.asarray(moved_image).astype(int)
        for row, label in enumerate(moved.get_field(fields.LABELS).tolist()):
            seen += 1
            colour = pixels[..., label - 1] > 127
            for field in (fields.MASKS, "masks_visible"):
                mask = moved.get_field(field).get_mask_tensor()[row].numpy() > 0
                kernel = np.ones((3, 3), dtype=np.uint8)  # the outline may differ by a pixel, nothing else
                assert not (cv2.erode(mask.astype(np.uint8), kernel, borderValue=1).astype(bool) & ~colour).any()
                assert not (mask & ~cv2.dilate(colour.astype(np.uint8), kernel).astype(bool)).any()
            rows, columns = colour.nonzero()
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(
                moved.extents()[row].tolist(), expected, atol=1.5
            )  # pixels round off a sharp corner
            points = moved.get_field(fields.KEYPOINTS).keypoints[row]
            for x, y, visibility in points.tolist():
                assert (visibility == 2) or (x, y, visibility) == (0, 0, 0)
                if visibility:
                    assert colour[int(y + offset / 2), int(x + offset / 2)]
    assert seen > 15
    assert torch.equal(target.bbox, painted(offset)[1].bbox)  # the input stays as it was


def test_instances_of_which_less_than_the_least_share_is_left_are_removed():
    _, target = painted()
    shift = np.array([[1.0, 0, -60], [0, 1, 0]])  # of the first L, 20 of 60 columns of its arm are left: 400 of 2200
    for least, ids in ((0.0, [11, 12]), (0.18, [11, 12]), (0.19, [12]), (1.0, [12])):
        moved = warp_target(target, shift, (100, 120), least)
        assert moved.get_field(fields.ANNOTATION_IDS).tolist() == ids
    gone = warp_target(target, np.array([[1.0, 0, -500], [0, 1, 0]]), SIZE, 0.0)
    assert len(gone) == 0 and set(gone.fields()) == set(target.fields())


def test_the_box_decides_where_there_is_no_mask():
    boxes = BoxList([[0, 0, 10, 10], [8, 0, 28, 10]], (30, 30), offset=0)
    shift = np.array([[1.0, 0, -9], [0, 1, 0]])
    assert warp_target(boxes, shift, (30, 30), 0.5).bbox.tolist() == [[0, 0, 19, 10]]
    assert warp_target(boxes, shift, (30, 30), 0.1).bbox.tolist() == [[0, 0, 1, 10], [0, 0, 19, 10]]


def test_the_rotation_is_anticlockwise_and_keeps_its_centre():
    matrix = rotation_about((30, 20), 90, 2)
    np.testing.assert_allclose(matrix @ [30, 20, 1], [30, 20])
    np.testing.assert_allclose(matrix @ [31, 20, 1], [30, 18], atol=1e-12)  # right goes up


def test_a_crop_holds_the_centre_of_an_instance():
    image, target = painted()
    small = target[[1]]
    centre = np.array([120, 80])
    places = set()
    for seed in range(60):
        with sample_randomness(seed, 1):
            cropped, moved = RandomCrop(1.0, (0.3, 0.5), 0.0)(image, small)
        width, height = cropped.size
        assert 48 <= width <= 80 and 36 <= height <= 60
        corner = centre - moved.get_field(fields.MASKS).instances[0].parts[0].min(axis=0)
        places.add(tuple(corner))
        assert len(moved) == 1
    assert len(places) > 30
    assert RandomCrop(1.0, (1.0, 1.0), 0.2)(image, target)[0].size == SIZE
    blank, nothing = RandomCrop(1.0, (0.5, 0.5), 0.2)(image, target[[]])
    assert blank.size == (80, 60) and len(nothing) == 0
    assert RandomCrop(1.0, (0.5, 0.5), 0.2)(image)[1] is None


def test_a_crop_of_one_pixel():
    image, target = Image.new("RGB", (1, 1)), BoxList([[0, 0, 0, 0]], (1, 1))
    for transform in (TRANSFORMS["crop"], TRANSFORMS["affine"], TRANSFORMS["jitter"]):
        with sample_randomness(0, 0):
            cropped, moved = transform(image, target)
        assert len(moved) <= 1 and moved.size == cropped.size


def test_large_scale_jitter_keeps_to_the_square_and_the_scale():
    image, target = painted()
    sizes = set()
    for seed in range(40):
        with sample_randomness(seed, 0):
            jittered, moved = LargeScaleJitter(64, (0.25, 2.0), 0.0)(image, target)
        assert max(jittered.size) <= 64
        sizes.add(jittered.size)
        height = float(np.ptp(moved.get_field(fields.MASKS).bounds()[:, 1::2].numpy())) if len(moved) else 0
        assert height <= 64
    assert len(sizes) > 15 and (64, 64) in sizes


def test_the_half_body_crop_shows_one_half():
    image, target = painted()
    points = target.get_field(fields.KEYPOINTS).keypoints
    halves = {True: set(), False: set()}
    for seed in range(40):
        with sample_randomness(seed, 0):
            cropped, moved = TRANSFORMS["half body"](image, target)
        for row, label in enumerate(moved.get_field(fields.LABELS).tolist()):
            left = moved.get_field(fields.KEYPOINTS).keypoints[row, :, 2] > 0
            for upper in (True, False):
                if left[:9].all() if upper else left[9:].all():
                    halves[upper].add(label)
        assert cropped.size[0] < SIZE[0] and cropped.size[1] < SIZE[1]
    assert halves[True] == halves[False] == {1, 2}
    few = target[[0]]
    few.get_field(fields.KEYPOINTS).keypoints[:, 7:] = 0
    assert TRANSFORMS["half body"](image, few)[0] is image  # seven labelled, eight are asked for
    few.get_field(fields.KEYPOINTS).keypoints[:, 9:] = points[0, 9:]
    few.get_field(fields.KEYPOINTS).keypoints[:, 1:9] = 0  # one in the upper half: always the lower one
    for seed in range(8):
        with sample_randomness(seed, 0):
            assert (TRANSFORMS["half body"](image, few)[1].get_field(fields.KEYPOINTS).keypoints[0, 9:, 2] > 0).all()


def test_the_border_has_the_mean_colour_and_becomes_zero():
    cfg = get_cfg()
    assert mean_colour(cfg) == (123, 116, 103)  # the default is BGR
    cfg.INPUT.FORMAT, cfg.INPUT.PIXEL_MEAN = "RGB", [0.485, 0.456, 0.406]
    assert mean_colour(cfg) == (124, 116, 104)
    cfg.INPUT.RANDOM_AFFINE.PROB, cfg.INPUT.RANDOM_AFFINE.SCALES = 1.0, (0.5, 0.5)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (120,), 160
    pixels, _ = build_transforms(cfg)(Image.new("RGB", SIZE, (255, 255, 255)), painted()[1])
    assert pixels[:, :5, :5].abs().max() < 0.5 / 255


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_the_same_seed_gives_the_same_sample(name):
    image, target = painted()

    def sample(position):
        with sample_randomness(7, position):
            moved_image, moved = TRANSFORMS[name](image, target)
        return moved_image.tobytes(), moved.bbox.tolist(), moved.get_field(fields.KEYPOINTS).keypoints.tolist()

    assert sample(3) == sample(3)
    assert len({sample(position)[0] for position in range(8)}) > 2


# The config


def config(**values):
    cfg = get_cfg()
    cfg.MODEL.KEYPOINT_ON = cfg.MODEL.MASK_ON = True
    for key, value in values.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def test_all_are_off_by_default_and_draw_no_number():
    names = [type(step).__name__ for step in build_transforms(get_cfg()).transforms]
    assert names == ["Resize", "RandomHorizontalFlip", "ToTensor", "Normalize"]


def test_the_keys_turn_them_on_in_training_only():
    cfg = config(
        INPUT__HALF_BODY__PROB=0.5,
        INPUT__RANDOM_CROP__PROB=0.5,
        INPUT__LARGE_SCALE_JITTER__ENABLED=True,
        INPUT__RANDOM_AFFINE__PROB=0.5,
    )
    names = [type(step).__name__ for step in build_transforms(cfg).transforms]
    expected = ["HalfBodyCrop", "RandomCrop", "LargeScaleJitter", "RandomHorizontalFlip", "RandomAffine"]
    assert names == [*expected, "ToTensor", "Normalize"]
    assert [type(step).__name__ for step in build_transforms(cfg, is_train=False).transforms] == [
        "Resize",
        "ToTensor",
        "Normalize",
    ]
    assert "min_visible=0.2" in repr(build_transforms(cfg)) and "upper=(0, 1, 2, 3, 4, 5" in repr(build_transforms(cfg))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"INPUT__RANDOM_CROP__PROB": 1.5}, "INPUT.RANDOM_CROP.PROB is 1.5; expected between 0 and 1"),
        (
            {"INPUT__RANDOM_CROP__PROB": 1.0, "INPUT__RANDOM_CROP__SHARES": (0.5, 1.5)},
            "INPUT.RANDOM_CROP.SHARES is .*at most 1",
        ),
        (
            {"INPUT__RANDOM_AFFINE__PROB": 1.0, "INPUT__RANDOM_AFFINE__SCALES": (2.0, 1.0)},
            "INPUT.RANDOM_AFFINE.SCALES is .*smallest and a largest number, above 0",
        ),
        ({"INPUT__RANDOM_AFFINE__PROB": 1.0, "INPUT__RANDOM_AFFINE__ABOUT": "box"}, "ABOUT is 'box'"),
        ({"INPUT__RANDOM_CROP__PROB": 1.0, "INPUT__MIN_VISIBLE": 2.0}, "INPUT.MIN_VISIBLE is 2.0"),
        ({"INPUT__LARGE_SCALE_JITTER__ENABLED": True, "INPUT__RESIZE": "torchvision"}, "resizes tensors"),
        ({"INPUT__HALF_BODY__PROB": 1.0, "MODEL__KEYPOINT_ON": False}, "without keypoints there is no half"),
        (
            {"INPUT__HALF_BODY__PROB": 1.0, "MODEL__ROI_KEYPOINT_HEAD__NUM_CLASSES": 5},
            r"INPUT.HALF_BODY.UPPER is \(\); expected indices from 0 to 4",
        ),
    ],
)
def test_keys_that_cannot_be_used_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        build_transforms(config(**values))
