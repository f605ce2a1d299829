import numpy as np
import pytest
import torch

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.drawing import draw_instances, mask_montage, side_by_side
from maskrcnn_benchmark.layers.mask_ops import paste_masks
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints, PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

SIZE = (160, 120)


def grey():
    return np.full((120, 160, 3), 128, dtype=np.uint8)


def changed(drawn):
    return (drawn != 128).any(axis=2)


def boxes(*corners, offset=1, **fields_):
    boxlist = BoxList(corners, SIZE, offset=offset)
    for name, value in fields_.items():
        boxlist.add_field(name, value)
    return boxlist


@pytest.mark.parametrize("offset", [0, 1])
def test_a_box_frames_the_pixels_it_covers(offset):
    image = grey()
    drawn = draw_instances(image, boxes([20, 30, 80 - offset, 90 - offset], offset=offset))
    assert (image == 128).all() and drawn.dtype == np.uint8
    rows, columns = changed(drawn).nonzero()
    assert (columns.min(), rows.min(), columns.max(), rows.max()) == (20, 30, 79, 89)
    assert not changed(drawn)[35:85, 25:75].any()


def test_masks_tint_their_pixels_only():
    square = [[40, 40, 60, 40, 60, 60, 40, 60]]
    truth = boxes([0, 0, 159, 119], masks=SegmentationMask([square], SIZE))
    inner = np.zeros((120, 160), dtype=bool)
    inner[40:60, 40:60] = True
    inside = changed(draw_instances(grey(), truth))[5:115, 5:155]
    np.testing.assert_array_equal(inside, inner[5:115, 5:155])


def square(x1, y1, x2, y2):
    return [[x1, y1, x2, y1, x2, y2, x1, y2]]


def two_masks():
    """Two objects; the second has only the mask "amodal"."""
    visible = SegmentationMask([square(30, 30, 50, 90), np.zeros((120, 160), dtype=np.uint8)], SIZE)
    amodal = SegmentationMask([square(30, 30, 90, 90), square(100, 20, 140, 60)], SIZE)
    return boxes([0, 0, 159, 119], [0, 0, 159, 119], masks_visible=visible, masks_amodal=amodal)


def inner(drawn):
    return changed(drawn)[5:115, 5:155]  # without the frames of the boxes


@pytest.mark.parametrize("chosen", [None, "visible"])
def test_one_mask_is_filled_and_the_others_are_outlines_in_the_same_colour(chosen):
    truth = two_masks()
    drawn = draw_instances(grey(), truth, mask=chosen)
    touched = changed(drawn)
    assert touched[35:85, 35:45].all(), "filled"
    assert not touched[35:85, 55:85].any() and not touched[25:55, 105:135].any(), "outlined"
    colours = drawing.instance_colours(truth)
    for (row, column), colour in zip([(60, 89), (40, 100)], colours, strict=True):
        np.testing.assert_allclose(drawn[row, column].astype(int), colour, atol=25)  # smoothed


def test_the_chosen_mask_is_filled():
    touched = changed(draw_instances(grey(), two_masks(), mask="amodal"))
    assert touched[35:85, 35:85].all() and touched[25:55, 105:135].all()
    touched = changed(draw_instances(grey(), two_masks(), mask="hidden"))
    assert not touched[35:85, 35:45].any() and touched[60, 89] and touched[60, 49], "only outlines"


def test_the_plain_mask_is_drawn_under_one_name_only():
    truth = two_masks()
    expected = draw_instances(grey(), truth)
    truth.add_field(fields.MASKS, truth.get_field("masks_visible"))
    np.testing.assert_array_equal(draw_instances(grey(), truth), expected)
    plain = boxes([0, 0, 159, 119], masks=SegmentationMask([square(30, 30, 90, 90)], SIZE))
    assert inner(draw_instances(grey(), plain)).sum() == 60 * 60
    assert 0 < inner(draw_instances(grey(), plain, mask="amodal")).sum() < 60 * 60, "an outline"


def test_predicted_named_masks_are_pasted_over_their_own_boxes():
    found = boxes([0, 0, 159, 119], mask_visible=torch.ones(1, 1, 28, 28), mask_amodal=torch.ones(1, 1, 28, 28))
    for name, corners in (("visible", [30.0, 30, 60, 80]), ("amodal", [30.0, 30, 90, 80])):
        found.add_field(f"mask_{name}_boxes", BoxList([corners], SIZE, offset=0))
    touched = changed(draw_instances(grey(), found, mask="visible"))
    assert touched[35:75, 35:55].all() and not touched[35:75, 65:85].any() and touched[35:75, 89].all()


def test_predicted_masks_are_pasted_through_what_they_span():
    mask = torch.ones(1, 1, 28, 28)
    spans = BoxList([[30.0, 30.0, 90.0, 80.0]], SIZE, offset=0)
    coarse = changed(draw_instances(grey(), boxes([40, 40, 69, 69], mask=mask)))
    refined = changed(draw_instances(grey(), boxes([40, 40, 69, 69], mask=mask, mask_boxes=spans)))
    assert coarse[40:70, 40:70].all() and coarse.sum() == 900
    assert refined[31:79, 31:89].all() and not refined[:29].any() and not refined[:, 91:].any()
    pasted = torch.zeros(1, 1, 120, 160, dtype=torch.bool)
    pasted[..., 100:110, 100:110] = True
    whole = changed(draw_instances(grey(), boxes([40, 40, 69, 69], mask=pasted)))
    assert whole[100:110, 100:110].all()


def test_sides_have_colours_and_hidden_points_are_not_drawn():
    points = torch.zeros(1, 17, 3)
    for name, x, visibility in (("left_knee", 40, 2), ("right_knee", 80, 2), ("nose", 120, 2), ("left_hip", 20, 0)):
        points[0, PersonKeypoints.NAMES.index(name)] = torch.tensor([x, 60, visibility])
    drawn = draw_instances(grey(), boxes([0, 0, 159, 119], keypoints=PersonKeypoints(points, SIZE)))
    red, green, blue = drawn[60, 40].astype(int)
    assert green > red + 80 and green > blue
    red, green, blue = drawn[60, 80].astype(int)
    assert red > green + 40 and red > blue + 80
    red, green, blue = drawn[60, 120].astype(int)
    assert blue > red + 80
    assert (drawn[60, 20] == 128).all()


def test_scores_and_logits_select():
    points = torch.zeros(2, 17, 3)
    points[..., :2] = torch.tensor([[[30.0, 60.0]], [[100.0, 60.0]]])
    points[..., 2] = 1
    keypoints = PersonKeypoints(points, SIZE)
    keypoints.add_field(fields.LOGITS, torch.tensor([[5.0], [1.0]]).expand(2, 17))
    boxlist = boxes(
        [20, 50, 40, 70], [90, 50, 110, 70], keypoints=keypoints, scores=torch.tensor([0.9, 0.3]),
        labels=torch.tensor([1, 7]),
    )  # fmt: skip
    everything = changed(draw_instances(grey(), boxlist, ["background", "person"], show_labels=False))
    assert everything[60, 30] and everything[60, 100]
    certain = changed(draw_instances(grey(), boxlist, score_threshold=0.5))
    assert certain[60, 30] and not certain[:, 85:].any()
    strong = changed(draw_instances(grey(), boxlist, {1: "person"}, keypoint_threshold=2.0, show_labels=False))
    assert strong[60, 30] and not strong[60, 100]
    written = changed(draw_instances(grey(), boxlist, ["background", "person"]))
    assert written[30:48, 20:60].sum() > 100  # the label above the first box


def test_predicted_visibility_draws_solid_hollow_or_nothing():
    points = torch.zeros(1, 17, 3)
    places = {"left_knee": (40, 0.9), "left_ankle": (70, 0.3), "left_hip": (100, 0.1)}  # a chain: hip, knee, ankle
    for name, (x, probability) in places.items():
        points[0, PersonKeypoints.NAMES.index(name)] = torch.tensor([x, 60, probability])
    keypoints = PersonKeypoints(points, SIZE)
    keypoints.add_field(fields.LOGITS, torch.full((1, 17), 9.0))
    drawn = draw_instances(grey(), boxes([0, 0, 159, 119], keypoints=keypoints), show_labels=False, stroke_scale=3)
    (solid, hollow, nothing), limb, no_limb = (
        (drawn[60, x].astype(int) for x in (40, 70, 100)),
        drawn[60, 55],
        drawn[60, 85],
    )
    assert solid[1] > solid[0] + 80, "the colour of the left side"
    assert hollow.min() > 220, "the inside of a ring is white"
    assert (nothing == 128).all() and (no_limb == 128).all() and (limb != 128).any()


def test_a_mask_is_a_tint_with_an_outline_of_the_full_colour():
    bitmap = np.zeros((120, 160), dtype=np.uint8)
    bitmap[20:100, 30:130] = 1
    bitmap[50:70, 60:90] = 0  # a hole has an outline too
    truth = boxes([0, 0, 159, 119], masks=SegmentationMask([bitmap], SIZE, mode="mask"))
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    canvas = image.copy()
    drawing.draw_masks(canvas, truth, [(250, 20, 60)])
    assert (canvas[bitmap == 0] == image[bitmap == 0]).all()
    tinted = 0.55 * image + 0.45 * np.array([250, 20, 60])
    for rows, columns in ((slice(22, 48), slice(32, 128)), (slice(52, 68), slice(32, 58))):
        np.testing.assert_allclose(canvas[rows, columns], tinted[rows, columns], atol=0.51)
    for y, x in ((20, 80), (99, 80), (60, 30), (60, 129), (49, 75), (70, 75), (60, 59), (60, 90)):
        assert tuple(canvas[y, x]) == (250, 20, 60)


def test_masks_of_every_form_are_drawn_alike():
    bitmap = torch.zeros(1, 120, 160)
    bitmap[:, 30:90, 40:120] = 1
    box = [40.0, 30.0, 120.0, 90.0]
    forms = [
        {"mask": torch.ones(1, 1, 28, 28)},
        {"mask": torch.ones(1, 28, 28)},
        {"mask": bitmap[None].bool()},
        {"mask": bitmap[None].to(torch.uint8)},
        {"masks": SegmentationMask(bitmap.to(torch.uint8), SIZE, mode="mask")},
    ]
    # at a corner of its extents a mask of ones is just below one half
    pictures = [draw_instances(grey(), boxes(box, offset=0, **form), mask_threshold=0.4) for form in forms]
    assert changed(pictures[0]).sum() == 60 * 80
    for picture in pictures[1:]:
        np.testing.assert_array_equal(picture, pictures[0])


def test_masks_are_drawn_where_they_are_pasted():
    """Against the products of matrices that the evaluation uses, at places between pixels, and partly off the image."""
    rng = np.random.default_rng(7)
    grids = torch.from_numpy(rng.random((60, 1, 14, 14), dtype=np.float32))
    corners = rng.uniform((-60, -60), (170, 130), (60, 2))
    spans = np.concatenate([corners, corners + rng.uniform(0.5, 150, (60, 2))], axis=1)
    spans[:4] = [[20, 30, 20, 60], [300, 10, 340, 40], [-80, -70, -3, -2], [10.25, 20.5, 10.75, 20.75]]
    boxlist = boxes(*[[0, 0, 5, 5]] * 60, mask=grids, mask_boxes=BoxList(spans, SIZE, offset=0))
    expected = paste_masks(grids[:, 0], torch.from_numpy(spans).float(), SIZE[::-1], 0.5).numpy()
    assert (expected.sum(axis=(1, 2)) > 0).sum() > 40
    for row in range(60):
        canvas = grey()
        drawing.draw_masks(canvas, boxlist[[row]], [(255, 0, 0)])
        assert (changed(canvas) != expected[row]).sum() <= 1  # of a probability that is one half but for rounding


def test_strokes_suit_the_picture_and_can_be_scaled():
    widths = [drawing.line_width(np.zeros((h, w, 3), np.uint8)) for w, h in ((320, 256), (640, 480), (1920, 1080))]
    assert widths == [1, 2, 4]

    def label_height(width, scale):
        boxlist = BoxList([[100.0, 100.0, 200.0, 200.0]], (width, 480), offset=0)
        ((_, top, _, bottom),) = drawing.draw_labels(
            np.zeros((480, width, 3), np.uint8), boxlist, ["person"], [(9, 9, 9)], stroke_scale=scale
        )
        return bottom - top

    assert 12 <= label_height(320, 1.0) <= label_height(640, 1.0) < label_height(640, 1.4) < label_height(1920, 1.0)
    boxlist = boxes([20, 30, 80, 90], offset=0)
    framed = [changed(draw_instances(grey(), boxlist, stroke_scale=scale)).sum() for scale in (1, 3)]
    assert framed[1] > 2.5 * framed[0]


def test_small_images_are_enlarged():
    image = np.zeros((120, 160, 3), np.uint8)
    image[:, 80:] = 200
    large, factor = drawing.enlarge_small(image)
    assert factor == 4 and large.shape == (480, 640, 3)
    assert (large[:, :300] == 0).all() and (large[:, 340:] == 200).all()
    same, factor = drawing.enlarge_small(large)
    assert factor == 1 and same is large


def test_the_order_of_the_channels():
    keypoints = PersonKeypoints(torch.rand(2, 17, 3) * torch.tensor([150.0, 110.0, 0.0]) + 2, SIZE)
    keypoints.add_field(fields.LOGITS, torch.randn(2, 17) * 5)
    boxlist = boxes(
        [20, 50, 90, 110], [80, 10, 150, 70], keypoints=keypoints, mask=torch.rand(2, 1, 28, 28),
        labels=torch.tensor([1, 2]),
    )  # fmt: skip
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    rgb = draw_instances(image, boxlist)
    bgr = draw_instances(image[..., ::-1], boxlist, channel_order="BGR")
    np.testing.assert_array_equal(rgb, bgr[..., ::-1])
    with pytest.raises(ValueError, match="channel_order is 'rgb'; it can be 'RGB' or 'BGR'"):
        draw_instances(image, boxlist, channel_order="rgb")


def test_unsure_limbs_are_grey_and_thin():
    def stroke(logit):
        points = torch.zeros(1, 17, 3)
        points[0, PersonKeypoints.NAMES.index("left_hip")] = torch.tensor([20.0, 60.0, 1.0])
        points[0, PersonKeypoints.NAMES.index("left_knee")] = torch.tensor([1400.0, 60.0, 1.0])
        keypoints = PersonKeypoints(points, (1600, 120))
        keypoints.add_field(fields.LOGITS, torch.full((1, 17), logit))
        canvas = np.zeros((120, 1600, 3), dtype=np.uint8)
        drawing.draw_skeletons(canvas, keypoints)
        column = canvas[:, 700].astype(int)
        return np.ptp(column[60]), (column.max(axis=1) > 0).sum()

    colourful, thick = stroke(9.0)
    pale, thin = stroke(-2.0)
    assert colourful > 180 and pale < 60
    assert thick > thin
    assert stroke(2.0)[0] == pytest.approx(colourful / 2, abs=12)


def test_an_identity_keeps_its_colour():
    first = boxes([0, 0, 20, 20], [50, 50, 70, 70], identities=torch.tensor([7, 4]))
    second = boxes([50, 50, 70, 70], [80, 80, 90, 90], [0, 0, 20, 20], identities=torch.tensor([4, 5, 7]))
    seven, four = drawing.instance_colours(first)
    again_four, five, again_seven = drawing.instance_colours(second)
    assert (seven, four) == (again_seven, again_four) and len({seven, four, five}) == 3


def test_labels_do_not_cover_each_other():
    corners = [[60 + i, 50 + i, 100 + i, 90 + i] for i in range(8)]
    boxlist = boxes(*corners, scores=torch.linspace(0.1, 0.9, 8))
    texts = drawing.label_texts(boxlist)
    assert texts[0] == "0.10" and texts[-1] == "0.90"
    canvas = grey()
    placed = drawing.draw_labels(canvas, boxlist, texts, drawing.instance_colours(boxlist))
    cover = np.zeros((120, 160), dtype=int)
    for left, top, right, bottom in placed:
        assert 0 <= left < right <= 160 and 0 <= top < bottom <= 120
        cover[top:bottom, left:right] += 1
    assert cover.max() == 1
    np.testing.assert_array_equal(changed(canvas) & (cover == 0), False)
    best = placed[-1]
    assert best[0] == 67 and best[3] == 57  # the best stands where it wants to: above its box


def test_without_room_for_all_labels_the_best_have_theirs():
    boxlist = boxes(*[[0, 0, 159, 119]] * 60, scores=torch.linspace(0, 1, 60))
    texts = [f"a label number {i:02d}" for i in range(60)]
    placed = drawing.draw_labels(grey(), boxlist, texts, drawing.instance_colours(boxlist))
    shown = [corner is not None for corner in placed]
    assert 4 < sum(shown) < 60 and shown == sorted(shown)


def test_labels_stay_on_the_picture():
    corners = [[-30, -30, 10, 10], [150, 110, 400, 400], [0, 0, 159, 119]]
    drawn = draw_instances(
        grey(), boxes(*corners, labels=torch.tensor([1, 2, 3])), [f"a long name {i}" for i in range(4)]
    )
    assert drawn.shape == (120, 160, 3)


def test_nothing_to_draw():
    empty = boxes(
        masks=SegmentationMask([], SIZE), keypoints=PersonKeypoints([], SIZE), labels=torch.zeros(0, dtype=torch.int64)
    )
    assert not changed(draw_instances(grey(), empty)).any()
    empty = boxes(mask=torch.zeros(0, 1, 28, 28), scores=torch.zeros(0))
    assert not changed(draw_instances(grey(), empty)).any()


def test_coordinates_that_are_no_place():
    points = torch.full((1, 17, 3), 2.0)
    points[0, 0, 0], points[0, 1, 1], points[0, 2, 0] = float("nan"), float("inf"), -1e12
    keypoints = PersonKeypoints(points, SIZE)
    boxlist = boxes([-1e9, 10, 1e9, 1e20], keypoints=keypoints, labels=torch.tensor([1]))
    assert changed(draw_instances(grey(), boxlist))[10, 40:120].all()


def test_montage_of_heat_maps():
    image = np.full((120, 160, 3), 200, dtype=np.uint8)
    hot = torch.ones(3, 1, 28, 28)
    hot[1] = 0.2
    corners = [[80.0, 60.0, 120.0, 100.0]] * 3
    boxlist = boxes(*corners, offset=0, mask=hot, scores=torch.tensor([0.5, 0.9, 0.1]))
    sheet = mask_montage(image, boxlist, 2)
    assert sheet.shape == image.shape
    dim = round(200 * 0.35)
    assert abs(int(sheet[55, 75, 0]) - dim) <= 1 and (sheet[119, 159] == sheet[119, 159, 0]).all()
    best, second, third, empty = sheet[:60, :80], sheet[:60, 80:], sheet[60:, :80], sheet[60:, 80:]
    assert (empty == sheet[119, 159]).all()
    red, green, blue = second[40, 50].astype(int)
    assert red > 100 > blue  # the warm end of the scale
    red, green, blue = best[40, 50].astype(int)
    assert blue > 100 > red  # the second box of the list scores best, and its probability is low
    np.testing.assert_array_equal(second[32:48, 42:58], third[32:48, 42:58])
    reverse = mask_montage(image, boxlist, 2, channel_order="BGR")
    np.testing.assert_array_equal(reverse[..., ::-1], sheet)
    assert mask_montage(image, boxlist[:0], 3).shape == image.shape
    drawn = torch.zeros(1, 1, 120, 160, dtype=torch.bool)
    drawn[..., 60:100, 80:120] = True
    whole = mask_montage(image, boxes([80.0, 60.0, 119.0, 99.0], mask=drawn), 1)
    assert whole[80, 100, 0] > 100 and abs(int(whole[10, 140, 0]) - dim) <= 1
    with pytest.raises(ValueError, match="detections with the field 'mask'; these have scores"):
        mask_montage(image, boxes([0, 0, 1, 1], scores=torch.ones(1)), 2)
    with pytest.raises(ValueError, match="per_side is 0; it must be 1 or more"):
        mask_montage(image, boxlist, 0)


def test_side_by_side():
    red, blue = np.zeros((60, 40, 3), np.uint8), np.zeros((120, 80, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    plain = side_by_side([red, blue], gap=10)
    assert plain.shape == (120, 80 + 10 + 80, 3)
    assert (plain[:, :80] == (255, 0, 0)).all() and (plain[:, 90:] == (0, 0, 255)).all()
    assert (plain[:, 80:90] == 255).all()
    titled = side_by_side([red, blue], ["ground truth", "prediction"], height=60)
    assert titled.shape[0] > 60 and titled.shape[1] == 40 + 8 + 40
    assert (titled[: titled.shape[0] - 60] < 128).any()
    with pytest.raises(ValueError, match="1 panels with 2 titles"):
        side_by_side([red], ["a", "b"])
    with pytest.raises(ValueError, match="0 panels"):
        side_by_side([])


def test_errors():
    with pytest.raises(ValueError, match=r"an image \(H, W, 3\) of uint8, not \(120, 160, 3\) of float64"):
        draw_instances(grey() / 255, boxes([0, 0, 5, 5]))
    with pytest.raises(ValueError, match=r"image of \(160, 120\) \(width, height\), the image is \(120, 160\)"):
        draw_instances(grey().transpose(1, 0, 2), boxes([0, 0, 5, 5]))


def test_a_skeleton_of_its_own_has_its_own_limbs_and_colours():
    spec = KeypointSpec(("tip", "barb"), (), [("tip", "barb")], colors=[(255, 0, 0), (0, 0, 255)])
    points = torch.tensor([[[30.0, 60.0, 2.0], [130.0, 60.0, 2.0]]])
    for order, blue in (("RGB", [0, 0, 255]), ("BGR", [255, 0, 0])):
        canvas = grey()
        drawing.draw_skeletons(canvas, Keypoints(points, SIZE, spec=spec), channel_order=order)
        limb, tip = canvas[60, 80].astype(int), canvas[60, 30].astype(int)
        assert abs(limb - blue).max() < 20, "a limb has the colour of its second point"
        assert abs(tip - blue[::-1]).max() < 20
    canvas = grey()
    drawing.draw_skeletons(canvas, Keypoints(points, SIZE))
    assert (canvas[60, 80] == grey()[60, 80]).all(), "no limbs between unnamed points"
