"""Where the refine head looks and what it draws there, against slow references and the ground truth itself."""

import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd import gradcheck

from maskrcnn_benchmark.modeling.roi_heads.keypoint_head import output as keypoint_output
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.inference import KeypointPostProcessor
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.output import KeypointKind, keypoint_frames
from maskrcnn_benchmark.modeling.roi_heads.mask_head import output as mask_output
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import Masker
from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind
from maskrcnn_benchmark.modeling.roi_heads.refine_head.indicators import (
    CoarsePrediction,
    draw_indicator,
    enlarge_extents,
    redraw_logits,
)
from maskrcnn_benchmark.modeling.roi_heads.refine_head.refine_head import RefineHead
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS, MASK, MASK_BOXES
from tests.devices import DEVICES
from tests.modeling.roi_heads.head_cases import make_detections
from tests.modeling.roi_heads.refine_references import (
    average_over_cells,
    enlarge,
    interpolate_at_centres,
    sigmoid,
    softmax,
)

# inner, at a corner of the image, one pixel, larger than the image, at the far border, off the image
FRAMES = torch.tensor(
    [
        [20.0, 10.0, 52.5, 41.0],
        [0.0, 0.0, 17.0, 30.0],
        [33.0, 12.0, 34.0, 13.0],
        [-40.0, -10.0, 150.0, 90.0],
        [70.0, 44.0, 96.0, 64.0],
        [120.0, 70.0, 130.0, 80.0],
    ]
)
SIZES = torch.tensor([[96.0, 64.0]]).expand(6, 2)
KINDS = {"mask": MaskKind(2, offset=1), "keypoint": KeypointKind(3)}


class Given(nn.Module):
    """Stands for pooler, trunk and predictor: hands back what it holds, and keeps what it was handed."""

    num_stacks = 1

    def __init__(self, result) -> None:
        super().__init__()
        self.result = result
        self.inputs: tuple = ()

    def forward(self, *inputs):
        self.inputs = inputs
        return self.result


def stub_head(num_rois: int, logits: dict, expand: float, offset: int, decode: str = "dark") -> RefineHead:
    """A refine head whose trunk "finds" the given logits."""
    kinds = {**KINDS, "keypoint": KeypointKind(3, post_processor=KeypointPostProcessor(decode))}
    return RefineHead(
        pooler=Given(torch.zeros(num_rois, 1, 4, 4)),
        feature_extractor=Given([torch.zeros(num_rois, 1, 4, 4)]),
        predictor=Given(logits),
        outputs={name: kinds[name] for name in logits},
        indicators={},
        indicator_form="probability",
        detach_indicators=True,
        expand=expand,
        offset=offset,
    ).eval()


class Ellipse:
    """An object whose mask is known at every point of the plane."""

    def __init__(self, centre, radii, size_wh) -> None:
        self.centre, self.radii, self.size_wh = centre, radii, size_wh

    def covers(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        inside = ((x - self.centre[0]) / self.radii[0]) ** 2 + ((y - self.centre[1]) / self.radii[1]) ** 2 <= 1
        return inside & (x >= 0) & (y >= 0) & (x < self.size_wh[0]) & (y < self.size_wh[1])

    def extents(self) -> np.ndarray:
        """The rectangle around what the image shows of it."""
        low = np.maximum(np.subtract(self.centre, self.radii), 0)
        return np.concatenate([low, np.minimum(np.add(self.centre, self.radii), self.size_wh)])

    def fractions(self, extents: np.ndarray, size: int, samples: int = 6) -> np.ndarray:
        """(size, size): how much of each cell over the extents it covers."""
        steps = (np.arange(size * samples) + 0.5) / (size * samples)
        x = extents[0] + (extents[2] - extents[0]) * steps
        y = extents[1] + (extents[3] - extents[1]) * steps
        covered = self.covers(x[None, :], y[:, None]).astype(np.float64)
        return covered.reshape(size, samples, size, samples).mean(axis=(1, 3))

    def pixels(self) -> np.ndarray:
        width, height = self.size_wh
        return self.covers(np.arange(width)[None, :] + 0.5, np.arange(height)[:, None] + 0.5)


@st.composite
def ellipses(draw) -> Ellipse:
    """Objects of 40 pixels and more, whole or cut by the image's border."""
    size_wh = (draw(st.integers(80, 400)), draw(st.integers(80, 400)))
    centre = [draw(st.floats(0, side)) for side in size_wh]
    radii = [draw(st.floats(20, 0.7 * side)) for side in size_wh]
    ellipse = Ellipse(centre, radii, size_wh)
    shown = ellipse.extents()
    assume(min(shown[2] - shown[0], shown[3] - shown[1]) >= 40 and ellipse.pixels().sum() >= 1000)
    return ellipse


def cut(extents: np.ndarray, part: float) -> np.ndarray:
    """A detection that misses `part` of the object on each side."""
    width, height = extents[2] - extents[0], extents[3] - extents[1]
    return extents + part * np.array([width, height, -width, -height])


SLOW_OK = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


@pytest.mark.parametrize(("part", "expand"), [(0.1, 1.3), (0.2, 1 / 0.6)])  # each enlarges to the whole object again
@SLOW_OK
@given(ellipse=ellipses(), offset=st.sampled_from([0, 1]), seed=st.integers(0, 1 << 16))
def test_a_box_that_cuts_the_object_on_every_side_still_yields_it(part, expand, ellipse, offset, seed):
    size = 56
    x1, y1, x2, y2 = cut(ellipse.extents(), part)
    detections = make_detections([[x1, y1, x2 - offset, y2 - offset]], [1], ellipse.size_wh, offset)
    seen = enlarge((x1, y1, x2, y2), expand, ellipse.size_wh)

    fractions = np.clip(ellipse.fractions(seen, size), 1e-4, 1 - 1e-4)
    rng = np.random.default_rng(seed)
    shown = ellipse.extents()
    points = rng.uniform(shown[:2], shown[2:], size=(5, 2))
    cell = (seen[2:] - seen[:2]) / size
    u, v = ((points - seen[:2]) / cell).T
    centres = np.arange(size) + 0.5
    bumps = -0.5 * ((centres[None, :, None] - v[:, None, None]) ** 2 + (centres[None, None] - u[:, None, None]) ** 2)
    logits = {
        "mask": torch.tensor(np.log(fractions / (1 - fractions)), dtype=torch.float32)[None, None].repeat(1, 2, 1, 1),
        "keypoint": torch.tensor(bumps, dtype=torch.float32)[None],
    }
    head = stub_head(1, logits, expand, offset)
    output = head([], [detections], branches={})

    np.testing.assert_allclose(head.pooler.inputs[1][0].numpy(), [0, *seen], atol=1e-3)
    (result,) = output.detections
    spanned = result.get_field(MASK_BOXES)
    assert spanned.offset == 0 and spanned.size == ellipse.size_wh
    np.testing.assert_allclose(spanned.bbox[0].numpy(), seen, atol=1e-3)
    (pasted,) = Masker(0.5)(result.get_field(MASK), result)
    pasted, truth = pasted[0, 0].numpy(), ellipse.pixels()
    assert (pasted & truth).sum() / (pasted | truth).sum() >= 0.98
    found = result.get_field(KEYPOINTS).keypoints[0, :, :2].numpy()
    assert (np.abs(found - points) <= 0.5 * cell + 1e-2).all()


@SLOW_OK
@given(
    st.tuples(st.floats(-60, 140), st.floats(-60, 110), st.floats(0, 200), st.floats(0, 200)),
    st.floats(1, 3),
)
def test_enlarged_region_holds_the_box_and_stays_in_the_image(box, factor):
    x1, y1, w, h = box
    extents = torch.tensor([[x1, y1, x1 + w, y1 + h]], dtype=torch.float64)
    enlarged = enlarge_extents(extents, factor, torch.tensor([[96.0, 64.0]]))[0].numpy()
    assert (enlarged >= 0).all() and enlarged[2] <= 96 and enlarged[3] <= 64
    assert (enlarged[2:] - enlarged[:2] >= 1 - 1e-9).all()
    by_hand = enlarge(extents[0], factor, (96, 64))
    if (by_hand[2:] - by_hand[:2] >= 1).all():
        np.testing.assert_allclose(enlarged, by_hand, atol=1e-9)
    visible = np.array([max(x1, 0), max(y1, 0), min(x1 + w, 96), min(y1 + h, 64)])
    if (visible[2:] > visible[:2]).all():
        assert (enlarged[:2] <= visible[:2] + 1e-9).all() and (enlarged[2:] >= visible[2:] - 1e-9).all()


def test_enlarged_region_of_an_image_of_one_pixel():
    enlarged = enlarge_extents(torch.tensor([[0.2, 0.0, 0.4, 1.0]]), 1.3, torch.tensor([[1.0, 1.0]]))
    assert enlarged.tolist() == [[0.0, 0.0, 1.0, 1.0]]


def coarse_case(kind: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> CoarsePrediction:
    """Seeded predictions over FRAMES: one map of 7 x 7 for masks, three of 11 x 11 for keypoints."""
    generator = torch.Generator().manual_seed(5)
    maps, cells = (1, 7) if kind == "mask" else (3, 11)
    return CoarsePrediction(
        KINDS[kind],
        (3 * torch.randn(6, maps, cells, cells, generator=generator)).to(device, dtype),
        torch.randn(6, 4, 5, 5, generator=generator).to(device, dtype),
        FRAMES.to(device),
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", ["probability", "logit", "features"])
@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_indicator_equals_slow_resampling(kind, form, device):
    coarse = coarse_case(kind, device)
    extents = enlarge_extents(FRAMES.to(device), 1.3, SIZES.to(device))
    drawn = draw_indicator(coarse, form, extents, 8).cpu().numpy()
    values = (coarse.features if form == "features" else coarse.logits).cpu().numpy()
    assert drawn.shape == (6, values.shape[1], 8, 8)
    for roi in range(6):
        for channel in range(values.shape[1]):
            source = values[roi, channel]
            if form == "probability":
                source = sigmoid(source) if kind == "mask" else softmax(source)
            expected = average_over_cells(source, FRAMES[roi].numpy(), extents[roi].cpu().numpy(), 8)
            if form == "probability" and kind == "keypoint":
                expected = expected / max(expected.max(), 1e-30)
            np.testing.assert_allclose(drawn[roi, channel], expected, atol=1e-5)
    assert not drawn[5].any()  # nothing of a RoI off the image is in the image


@SLOW_OK
@given(st.tuples(st.floats(-20, 110), st.floats(-20, 80), st.floats(1, 150), st.floats(1, 150)), st.floats(1, 2.5))
def test_indicator_of_random_boxes_equals_slow_resampling(box, factor):
    frame = torch.tensor([[box[0], box[1], box[0] + box[2], box[1] + box[3]]])
    extents = enlarge_extents(frame, factor, torch.tensor([[96.0, 64.0]]))
    logits = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(6))
    coarse = CoarsePrediction(KINDS["mask"], logits, logits, frame)
    expected = average_over_cells(sigmoid(logits[0, 0].numpy()), frame[0].numpy(), extents[0].numpy(), 7)
    np.testing.assert_allclose(draw_indicator(coarse, "probability", extents, 7)[0, 0], expected, atol=1e-5)


def test_sharp_peak_survives_a_coarser_grid():
    logits = torch.full((1, 1, 56, 56), -20.0)
    logits[0, 0, 31, 17] = 20.0  # one cell of 56, where the new cells are 2.6 times as large
    frame = torch.tensor([[0.0, 0.0, 56.0, 56.0]])
    extents = torch.tensor([[-8.4, -8.4, 64.4, 64.4]])
    drawn = draw_indicator(CoarsePrediction(KINDS["keypoint"], logits, logits, frame), "probability", extents, 28)[0, 0]
    row, column = divmod(int(drawn.argmax()), 28)
    assert drawn.max() == 1 and (row, column) == (int((31.5 + 8.4) / 2.6), int((17.5 + 8.4) / 2.6))


def test_unknown_form_is_explained():
    with pytest.raises(ValueError, match="INDICATOR_FORM is 'colour'"):
        draw_indicator(coarse_case("mask"), "colour", FRAMES, 8)


@pytest.mark.parametrize("form", ["probability", "logit", "features"])
@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_gradients_of_drawing_and_redrawing(kind, form):
    coarse = coarse_case(kind, dtype=torch.float64)
    rois = torch.tensor([1, 3])  # cut by the image's border, and larger than the image
    frames, extents = FRAMES[rois], enlarge_extents(FRAMES, 1.3, SIZES)[rois]
    logits = coarse.logits[rois, :2, :5, :5].clone().requires_grad_()
    features = coarse.features[rois, :2].clone().requires_grad_()
    drawn_from = features if form == "features" else logits

    def draw(_):
        return draw_indicator(CoarsePrediction(KINDS[kind], logits, features, frames), form, extents, 4)

    def redraw(_):
        return redraw_logits(CoarsePrediction(KINDS[kind], logits, features, frames), extents, 4)

    assert gradcheck(draw, (drawn_from,))
    assert gradcheck(redraw, (logits,))


@pytest.mark.parametrize("kind", ["mask", "keypoint"])
def test_redrawn_logits_equal_slow_interpolation(kind):
    coarse = coarse_case(kind)
    extents = enlarge_extents(FRAMES, 1.3, SIZES)
    drawn = redraw_logits(coarse, extents, 9).numpy()
    for roi in range(6):
        for channel, values in enumerate(coarse.logits[roi].numpy()):
            outside = mask_output.OUTSIDE_LOGIT
            if kind == "keypoint":
                outside = keypoint_output.OUTSIDE_LOGIT + math.log(np.exp(values.astype(np.float64)).mean())
            expected = interpolate_at_centres(values, FRAMES[roi].numpy(), extents[roi].numpy(), 9, outside)
            np.testing.assert_allclose(drawn[roi, channel], expected, atol=1e-4)


def test_redrawn_keypoints_never_peak_outside_the_coarse_region():
    coarse = coarse_case("keypoint")
    extents = torch.tensor([[-100.0, -100.0, 200.0, 160.0]]).expand(6, 4)
    drawn = redraw_logits(coarse, extents, 64)
    for roi in (0, 1, 3, 4):
        best = drawn[roi].flatten(1).argmax(1)
        y = -100 + 260 * (best // 64 + 0.5) / 64
        x = -100 + 300 * (best % 64 + 0.5) / 64
        x1, y1, x2, y2 = FRAMES[roi]
        assert ((x >= x1) & (x < x2) & (y >= y1) & (y < y2)).all()


def test_keypoint_frames_have_an_extent():
    boxes = torch.tensor([[3.0, 4.0, 3.0, 9.0], [5.0, 5.0, 5.25, 5.5]])
    assert keypoint_frames(boxes).tolist() == [[3.0, 4.0, 4.0, 9.0], [5.0, 5.0, 6.0, 6.0]]


@pytest.mark.parametrize("offset", [0, 1])
def test_odd_boxes_give_finite_results_inside_the_image(offset):
    boxes = [[33.0, 12.0, 33.0, 12.0], [-40.0, -10.0, 150.0, 90.0], [0.0, 0.0, 95.0, 63.0], [95.0, 63.0, 95.0, 63.0]]
    detections = make_detections(boxes, [1, 1, 1, 1], (96, 64), offset)
    logits = {"mask": torch.full((4, 2, 8, 8), 5.0), "keypoint": torch.randn(4, 3, 8, 8)}
    (result,) = stub_head(4, logits, 1.3, offset)([], [detections], branches={}).detections
    spanned = result.get_field(MASK_BOXES).bbox
    assert (spanned >= 0).all() and (spanned[:, 2] <= 96).all() and (spanned[:, 3] <= 64).all()
    assert spanned[1].tolist() == [0, 0, 96, 64]
    points = result.get_field(KEYPOINTS).keypoints
    assert torch.isfinite(points).all()
    assert (points[..., 0] <= 96).all() and (points[..., 1] <= 64).all() and (points >= 0).all()
    (pasted,) = Masker(0.5)(result.get_field(MASK), result)
    assert pasted[1, 0, 4:-4, 6:-6].all()
    assert pasted[0, 0, 12, 33] or offset == 0  # a half-open box from a point to itself covers no pixel


def test_mask_boxes_follow_the_detections():
    detections = make_detections([[10.0, 10.0, 30.0, 40.0], [50.0, 5.0, 80.0, 60.0]], [1, 1], (96, 64))
    logits = {"mask": torch.randn(2, 2, 8, 8)}
    (result,) = stub_head(2, logits, 1.3, 1)([], [detections], branches={}).detections
    resized = result.resize((192, 128))[torch.tensor([1])]
    assert isinstance(resized.get_field(MASK_BOXES), BoxList)
    torch.testing.assert_close(resized.get_field(MASK_BOXES).bbox, 2 * result.get_field(MASK_BOXES).bbox[1:])
