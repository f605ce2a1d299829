"""Candidates for suppression: the compiled kernels and PyTorch's ops, both against loops; ties, formats, messages."""

import math

import pytest
import torch

from maskrcnn_benchmark.layers import _extension
from maskrcnn_benchmark.layers.candidates import class_candidates, rpn_candidates
from tests.devices import DEVICES
from tests.modeling.box_reference import decode_reference

WEIGHTS = (10.0, 10.0, 5.0, 5.0)
SIZES = torch.tensor([[90.0, 70.0], [64.0, 80.0]])
needs_kernels = pytest.mark.skipif(not _extension.is_compiled(), reason="maskrcnn_benchmark._C is not built")


def rpn_case(grids=((9, 11), (4, 5)), num_anchors=3):
    torch.manual_seed(0)
    anchors, objectness, regression = [], [], []
    for height, width in grids:
        corners = torch.rand(height * width * num_anchors, 2) * 60
        anchors.append(torch.cat([corners, corners + 1 + torch.rand_like(corners) * 40], dim=1))
        objectness.append(torch.randn(2, num_anchors, height, width))
        regression.append(torch.randn(2, 4 * num_anchors, height, width) * 3)
    return anchors, objectness, regression


def clipped(box, width, height, offset):
    limits = [width - offset, height - offset] * 2
    return [min(max(corner, 0.0), limit) for corner, limit in zip(box, limits, strict=True)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(
    "top_n", [1, 7, 60, 1000]
)  # all of a level, and so few that parts of it are looked through first
def test_rpn_candidates_equal_loops(top_n, offset, device, implementation):
    anchors, objectness, regression = rpn_case()
    on_device = [[level.to(device) for level in maps] for maps in (anchors, objectness, regression)]
    found = rpn_candidates(*on_device, SIZES.to(device), top_n, weights=WEIGHTS, offset=offset, min_size=4)
    start = 0
    for level, (anchors_l, logits_l, deltas_l) in enumerate(zip(anchors, objectness, regression, strict=True)):
        in_order = logits_l.permute(0, 2, 3, 1).flatten(1)
        deltas = deltas_l.unflatten(1, (3, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
        end = start + min(top_n, len(anchors_l))
        for image, (width, height) in enumerate(SIZES.tolist()):
            best = sorted(range(len(anchors_l)), key=lambda i: -float(in_order[image, i]))[: end - start]
            assert found.groups[image, start:end].tolist() == [image * 2 + level] * (end - start)
            for k, index in enumerate(best, start):
                box = decode_reference(deltas[image, index].tolist(), anchors_l[index].tolist(), WEIGHTS, offset)
                x1, y1, x2, y2 = clipped(box, width, height, offset)
                assert found.boxes[image, k].tolist() == pytest.approx([x1, y1, x2, y2], abs=1e-3)
                if x2 - x1 + offset >= 4 and y2 - y1 + offset >= 4:
                    assert float(found.logits[image, k]) == float(in_order[image, index])
                else:
                    assert math.isnan(found.logits[image, k])
        start = end
    assert found.boxes.shape == (2, start, 4)


@needs_kernels
@pytest.mark.parametrize("length", [1, 19, 20, 79, 80, 83, 1000])
@pytest.mark.parametrize("values", [None, 3])  # distinct, or many equal ones
def test_the_best_are_those_of_topk(length, values):
    torch.manual_seed(length)
    logits = torch.randn(4, length) if values is None else torch.randint(values, (4, length)).float()
    logits[1], logits[2, ::7] = 0.5, torch.nan
    logits[3, 1:] = -torch.inf
    anchors = torch.tensor([0.0, 0.0, 9.0, 9.0]) + torch.arange(length)[:, None]
    found = rpn_candidates(
        [anchors],
        [logits.view(4, 1, 1, length)],
        [torch.zeros(4, 4, 1, length)],
        torch.full((4, 2), 2000.0),
        5,
        weights=WEIGHTS,
        offset=0,
        min_size=0,
    )
    count = min(5, length)
    torch.testing.assert_close(found.logits, logits.topk(count).values, rtol=0, atol=0, equal_nan=True)
    expected = logits.nan_to_num(nan=torch.inf).argsort(dim=1, descending=True, stable=True)[:, :count]
    assert torch.equal(found.boxes[..., 0].long(), expected)  # of equal ones the first


@needs_kernels
def test_formats_and_half_precision_are_read_where_they_are(monkeypatch):
    anchors, objectness, regression = rpn_case()
    arguments = {"weights": WEIGHTS, "offset": 0, "min_size": 0}
    expected = rpn_candidates(anchors, objectness, regression, SIZES, 20, **arguments)
    last = [[level.to(memory_format=torch.channels_last) for level in maps] for maps in (objectness, regression)]
    for ours, theirs in zip(rpn_candidates(anchors, *last, SIZES, 20, **arguments), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    for dtype in (torch.bfloat16, torch.float16):
        half = [[level.to(dtype) for level in maps] for maps in (objectness, regression)]
        widened = [[level.float() for level in maps] for maps in half]
        ours, theirs = (rpn_candidates(anchors, *maps, SIZES, 20, **arguments) for maps in (half, widened))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


@needs_kernels
def test_threads_do_not_change_results():
    anchors, objectness, regression = rpn_case(((40, 50), (20, 25), (10, 12)))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found = rpn_candidates(anchors, objectness, regression, SIZES, 200, weights=WEIGHTS, offset=1, min_size=0)
            results.append(found)
    finally:
        torch.set_num_threads(threads)
    for one, many in zip(*results, strict=True):
        torch.testing.assert_close(one, many, rtol=0, atol=0, equal_nan=True)


def class_case(agnostic=False, num_regions=40, num_classes=5):
    torch.manual_seed(1)
    scores = (2 * torch.randn(num_regions, num_classes)).softmax(dim=1)
    deltas = torch.randn(num_regions, 8 if agnostic else 4 * num_classes) * 4
    corners = torch.rand(num_regions, 2) * 60
    references = torch.cat([corners, corners + 1 + torch.rand(num_regions, 2) * 40], dim=1)
    return scores, deltas, references, torch.randint(0, 2, (num_regions,))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("agnostic", [False, True])
def test_class_candidates_equal_loops(agnostic, offset, device, implementation):
    scores, deltas, references, image_ids = class_case(agnostic)
    tensors = [tensor.to(device) for tensor in (scores, deltas, references, image_ids, SIZES)]
    found = class_candidates(*tensors, 0.2, weights=WEIGHTS, offset=offset, class_agnostic=agnostic)
    expected = []
    for row in range(len(scores)):
        for label in range(1, scores.shape[1]):
            if scores[row, label] > 0.2:
                first = 4 * (1 if agnostic else label)
                image = int(image_ids[row])
                box = decode_reference(
                    deltas[row, first : first + 4].tolist(), references[row].tolist(), WEIGHTS, offset
                )
                expected.append((clipped(box, *SIZES[image].tolist(), offset), row, label, image))
    assert found.labels.tolist() == [label for *_, label, _ in expected]
    assert found.image_ids.tolist() == [image for *_, image in expected]
    for box, score, (corners, row, label, _) in zip(found.boxes, found.scores, expected, strict=True):
        assert box.tolist() == pytest.approx(corners, abs=1e-3)
        covers = corners[2] - corners[0] + offset > 0 and corners[3] - corners[1] + offset > 0
        assert float(score) == float(scores[row, label]) if covers else math.isnan(score)
    assert 10 < len(expected) < 100


def test_nothing_to_choose_from(implementation):
    scores, deltas, references, image_ids = class_case()
    for rows in (slice(0), slice(None)):
        found = class_candidates(
            scores[rows], deltas[rows], references[rows], image_ids[rows], SIZES, 2.0, weights=WEIGHTS, offset=0
        )
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == found.labels.shape == found.image_ids.shape == (0,)
    certain = torch.tensor([[1.0, 0.0, 0.0, 0.0, torch.nan]])  # NaN is not above any threshold
    found = class_candidates(certain, deltas[:1], references[:1], image_ids[:1], SIZES, 0.5, weights=WEIGHTS, offset=0)
    assert len(found.labels) == 0
    anchors, objectness, regression = rpn_case()
    none = rpn_candidates(anchors, objectness, regression, SIZES, 0, weights=WEIGHTS, offset=0, min_size=0)
    assert none.logits.shape == (2, 0) and none.boxes.shape == (2, 0, 4) and none.groups.dtype == torch.int64
    empty = [level[:0] for level in objectness], [level[:0] for level in regression]
    none = rpn_candidates(anchors, *empty, SIZES[:0], 9, weights=WEIGHTS, offset=0, min_size=0)
    assert none.logits.shape == (0, 18)


def test_deltas_that_are_not_numbers_have_no_box(implementation):
    scores, deltas, references, image_ids = class_case()
    deltas[3] = torch.nan
    found = class_candidates(scores, deltas, references, image_ids, SIZES, 0.0, weights=WEIGHTS, offset=0)
    rows = torch.arange(len(scores)).repeat_interleave(scores.shape[1] - 1)
    assert found.scores[rows == 3].isnan().all() and found.boxes[rows == 3].isnan().all()


@needs_kernels
def test_registration():
    ops = torch.ops.maskrcnn_benchmark
    anchors, objectness, regression = rpn_case(((2, 3),))
    maps = (anchors, objectness, regression, SIZES)
    torch.library.opcheck(ops.rpn_candidates.default, (*maps, 5, WEIGHTS, 4.0, 1.0, 1))
    torch.library.opcheck(ops.class_candidates.default, (*class_case(), SIZES, 0.2, WEIGHTS, 4.0, 1, False))


def test_compiles_into_one_graph():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def candidates(anchors, objectness, regression, scores, deltas, references, image_ids):
        best = rpn_candidates(anchors, objectness, regression, SIZES, 9, weights=WEIGHTS, offset=0, min_size=0)
        classes = class_candidates(scores, deltas, references, image_ids, SIZES, 0.2, weights=WEIGHTS, offset=0)
        return best.boxes * 2, classes.boxes * 2

    maps, regions = rpn_case(), class_case()
    compiled, eager = candidates(*maps, *regions), candidates.__wrapped__(*maps, *regions)
    for one, other in zip(compiled, eager, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@needs_kernels
def test_messages():
    anchors, objectness, regression = rpn_case()
    settings = {"weights": WEIGHTS, "offset": 0, "min_size": 0}
    with pytest.raises(RuntimeError, match="level 1 has 60 anchors per image on its maps, but the boxes of 59 were"):
        rpn_candidates([anchors[0], anchors[1][1:]], objectness, regression, SIZES, 5, **settings)
    with pytest.raises(RuntimeError, match=r"\(N, 4 \* A, H, W\) for 2 images; level 0 has 594 logits and 1188 deltas"):
        rpn_candidates(anchors, objectness, [level[:1] for level in regression], SIZES, 5, **settings)
    with pytest.raises(RuntimeError, match="levels, at least one; got 1, 2 and 2"):
        rpn_candidates(anchors[:1], objectness, regression, SIZES, 5, **settings)
    with pytest.raises(RuntimeError, match="four weights are expected, of dx, dy, dw and dh; got 3"):
        rpn_candidates(anchors, objectness, regression, SIZES, 5, weights=(1.0,) * 3, offset=0, min_size=0)
    scores, deltas, references, image_ids = class_case()
    with pytest.raises(RuntimeError, match="box_regression must have 8 columns for 5 classes that share their deltas"):
        class_candidates(
            scores, deltas, references, image_ids, SIZES, 0.2, weights=WEIGHTS, offset=0, class_agnostic=True
        )
    with pytest.raises(RuntimeError, match=r"rows; got 40, 40, 39 and 40"):
        class_candidates(scores, deltas, references[1:], image_ids, SIZES, 0.2, weights=WEIGHTS, offset=0)
    with pytest.raises(RuntimeError, match="row 0 is of image 7, but the sizes of 2 were given"):
        class_candidates(scores, deltas, references, image_ids * 0 + 7, SIZES, 0.2, weights=WEIGHTS, offset=0)
