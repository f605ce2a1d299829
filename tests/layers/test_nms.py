"""NMS against a greedy loop in float64 and torchvision: order, ties, groups, both conventions, odd scores, messages."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st

from maskrcnn_benchmark.layers import batched_nms, nms, nms_padded
from maskrcnn_benchmark.layers.boxes import pairwise_iou
from tests.devices import DEVICES


def greedy_reference(boxes, scores, threshold, offset=1, groups=None):
    """The definition, one pair at a time."""
    boxes, groups = boxes.double().tolist(), [0] * len(boxes) if groups is None else groups.tolist()
    values = scores.double().tolist()
    finite = [i for i, value in enumerate(values) if abs(value) < float("inf")]
    kept = []
    for i in sorted(finite, key=lambda i: (-values[i], i)):
        if all(groups[i] != groups[k] or overlap(boxes[i], boxes[k], offset) <= threshold for k in kept):
            kept.append(i)
    return kept


def overlap(a, b, offset):
    width = min(a[2], b[2]) - max(a[0], b[0]) + offset
    height = min(a[3], b[3]) - max(a[1], b[1]) + offset
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def crowd(count, spread=100.0, dtype=torch.float32):
    """Boxes of 5 to 45 pixels, `spread` pixels apart at the most."""
    corners = torch.rand(count, 2, dtype=torch.float64) * spread
    return torch.cat([corners, corners + 5 + torch.rand(count, 2, dtype=torch.float64) * 40], dim=1).to(dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.7, 1.0])
def test_matches_the_greedy_loop(threshold, offset, device):
    for count in (1, 2, 63, 64, 65, 300):
        boxes, scores = crowd(count), torch.rand(count)
        expected = greedy_reference(boxes, scores, threshold, offset)
        assert nms(boxes.to(device), scores.to(device), threshold, offset).tolist() == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shuffled", [False, True])
def test_chains_match_the_greedy_loop(shuffled, device):
    # each box overlaps its neighbours, so whether one survives depends on all before it
    boxes = torch.arange(300.0)[:, None] * torch.tensor([4.0, 0.0, 4.0, 0.0]) + torch.tensor([0.0, 0.0, 9.0, 9.0])
    scores = torch.rand(300) if shuffled else torch.arange(300.0, 0, -1)
    expected = greedy_reference(boxes, scores, 0.3, 0)
    assert shuffled or expected == list(range(0, 300, 2))
    assert nms(boxes.to(device), scores.to(device), 0.3, 0).tolist() == expected
    one_group = torch.zeros(300, dtype=torch.int64, device=device)
    assert batched_nms(boxes.to(device), scores.to(device), one_group, 0.3, 0).tolist() == expected


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(-1, 4), st.integers(-1, 4), st.integers(0, 3)),
        max_size=25,
    ),
    st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.6, 0.7]),
    st.sampled_from([0, 1]),
)
def test_small_integer_boxes_hit_thresholds_and_ties_exactly(rows, threshold, offset):
    x, y, width, height, score = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5).unbind(1)
    boxes, groups = torch.stack([x, y, x + width, y + height], dim=1), x.long() % 2 * 1000
    for device in DEVICES:
        on_device = boxes.to(device), score.to(device)
        assert nms(*on_device, threshold, offset).tolist() == greedy_reference(boxes, score, threshold, offset)
        kept = batched_nms(*on_device, groups.to(device), threshold, offset)
        assert kept.tolist() == greedy_reference(boxes, score, threshold, offset, groups)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("threshold", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
def test_an_exact_tie_is_kept_at_every_scale(threshold, dtype, device):
    """A box that shares exactly the threshold, 7 of 10 or 63 of 90 pixels, is kept; one that shares more is dropped."""
    tenths = round(threshold * 10)
    for scale in (1, 3, 9, 10, 64, 1000):
        boxes = torch.tensor([[0, 0, 10, scale], [0, 0, tenths, scale]], dtype=dtype, device=device)
        scores = torch.tensor([2.0, 1.0], device=device)
        assert nms(boxes, scores, threshold, 0).tolist() == [0, 1]
        inclusive = boxes - torch.tensor([0, 0, 1, 1], dtype=dtype, device=device)
        assert nms(inclusive, scores, threshold, 1).tolist() == [0, 1]
        boxes[1, 2] += 0.001
        assert nms(boxes, scores, threshold, 0).tolist() == [0]


@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_ties_are_those_of_torchvision(threshold):
    for _ in range(50):
        corners = torch.randint(0, 20, (60, 2)).float()
        boxes = torch.cat([corners, corners + torch.randint(1, 20, (60, 2))], dim=1)
        scores = torch.rand(60)
        assert torch.equal(nms(boxes, scores, threshold, 0), torchvision.ops.nms(boxes, scores, threshold))


def greedy_for_all(boxes, scores, threshold, offset):
    """The same for many cases at once: (M, R, 4) and (M, R) -> (M, R) indices of the kept, -1 after the last."""
    scores = scores.double().where(scores.isfinite(), -float("inf"))
    order = scores.argsort(dim=1, descending=True, stable=True)
    boxes = boxes.double().gather(1, order[..., None].expand(-1, -1, 4))
    corners = torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
    shared = (corners - torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2]) + offset).clamp(min=0).prod(dim=-1)
    areas = (boxes[..., 2:] - boxes[..., :2] + offset).prod(dim=-1)
    union = areas[:, :, None] + areas[:, None, :] - shared
    overlap = (shared > 0) & (shared / union > threshold)
    kept = scores.gather(1, order).isfinite()
    for i in range(1, boxes.shape[1]):
        kept[:, i] &= ~(kept[:, :i] & overlap[:, i, :i]).any(dim=1)
    order = order.where(kept, -1)
    return order.gather(1, kept.byte().argsort(dim=1, descending=True, stable=True))


def cases_with_ties(cases, count):
    """(M, R, 4) boxes on a small grid of halves, (M, R) scores of few values, some of them NaN or infinite."""
    corners = torch.randint(0, 17, (cases, count, 2)) / 2
    boxes = torch.cat([corners, corners + torch.randint(-1, 9, (cases, count, 2)) / 2], dim=2)
    scores = torch.randint(-3, 6, (cases, count)) / 4
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0])[torch.randint(0, 4, (cases, count))]
    return boxes, torch.where(torch.rand(cases, count) < 0.1, odd, scores)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize(("cases", "count"), [(2600, 4), (2000, 23), (400, 120)])  # 10,000 with both conventions
def test_ten_thousand_random_cases_match_the_greedy_definition(cases, count, offset, device):
    boxes, scores = cases_with_ties(cases, count)
    groups = torch.arange(cases)[:, None].expand(-1, count)
    for threshold, chosen in zip((0.0, 0.25, 1 / 3, 0.5, 0.7), torch.arange(cases).chunk(5), strict=True):
        expected = greedy_for_all(boxes[chosen], scores[chosen], threshold, offset)
        assert expected[0][expected[0] >= 0].tolist() == greedy_reference(
            boxes[chosen[0]], scores[chosen[0]], threshold, offset
        )
        on_device = boxes[chosen].to(device), scores[chosen].to(device)
        for case_boxes, case_scores, kept in zip(*on_device, expected, strict=True):
            assert torch.equal(nms_padded(case_boxes, case_scores, threshold, count, None, offset).cpu(), kept)
            assert nms(case_boxes, case_scores, threshold, offset).shape[0] == int((kept >= 0).sum())
        flat = batched_nms(
            on_device[0].flatten(0, 1), on_device[1].flatten(), groups[chosen].flatten().to(device), threshold, offset
        ).cpu()
        by_case = torch.stack([flat // count, flat % count], dim=1)[(flat // count).argsort(stable=True)]
        rows, columns = (expected >= 0).nonzero(as_tuple=True)
        assert torch.equal(by_case, torch.stack([rows, expected[rows, columns]], dim=1))


def test_several_python_threads_at_once():
    boxes, scores, groups = crowd(3000, 500.0), torch.rand(3000), torch.randint(0, 7, (3000,))
    expected = nms(boxes, scores, 0.5), batched_nms(boxes, scores, groups, 0.5)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            alone = pool.submit(nms, boxes, scores, 0.5), pool.submit(batched_nms, boxes, scores, groups, 0.5)
            assert all(torch.equal(future.result(), kept) for future, kept in zip(alone, expected, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_leaves_coordinates_alone(device):
    boxes, scores = crowd(200).to(device) + 1000, torch.rand(200, device=device)  # bfloat16 would move them by pixels
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(nms(boxes, scores, 0.5), nms(boxes.double(), scores, 0.5))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
def test_box_geometry_is_the_same_in_both_languages(offset, device):
    boxes = crowd(300, 30.0, torch.float64)
    overlaps = pairwise_iou(boxes[:150], boxes[150:], offset).diagonal()
    pairs = torch.stack([boxes[:150], boxes[150:]], dim=1).reshape(300, 4).to(device)
    scores, groups = torch.arange(300, 0, -1, device=device).double(), torch.arange(300, device=device) // 2
    for threshold in (0.05, 0.2, 0.4):
        survives = torch.zeros(300, dtype=torch.bool)
        survives[batched_nms(pairs, scores, groups, threshold, offset).cpu()] = True
        assert survives[::2].all() and torch.equal(survives[1::2], overlaps <= threshold)
        assert 0 < survives[1::2].sum() < 150


@pytest.mark.parametrize("device", DEVICES)
def test_many_boxes_match_torchvision(device, torchvision_ops):
    # enough to run in several blocks and threads; torchvision knows half-open boxes and compares in float32
    for count, spread in ((3000, 300.0), (6000, 2000.0)):
        boxes, scores = crowd(count, spread), torch.rand(count)
        expected = torchvision_ops.nms(boxes, scores, 0.5)
        assert torch.equal(nms(boxes.to(device), scores.to(device), 0.5, 0).cpu(), expected)
        shifted = boxes + torch.tensor([0, 0, 1, 1])
        expected = torchvision_ops.nms(shifted, scores, 0.5)
        kept = nms(boxes.to(device), scores.to(device), 0.5, 1).cpu()
        assert len(set(kept.tolist()) ^ set(expected.tolist())) <= 2  # adding one rounds the corners


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
def test_groups_do_not_meet(offset, device):
    boxes, scores = crowd(400, 50.0), torch.rand(400)
    for groups in (
        torch.randint(0, 5, (400,)),
        torch.randint(-3, 3, (400,)) * 2**60,  # ids that no table could hold
        torch.zeros(400, dtype=torch.int64),
        torch.arange(400),
    ):
        expected = greedy_reference(boxes, scores, 0.4, offset, groups)
        kept = batched_nms(boxes.to(device), scores.to(device), groups.to(device), 0.4, offset)
        assert kept.tolist() == expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("threshold", [0.0, 1e-7, 0.3, 0.6])
def test_inclusive_boxes_that_are_all_but_inverted(threshold, device):
    # x2 - x1 is about -1 and rounded to multiples of 6e-8; so is the width, no larger, that the pixel more leaves
    x1, y1 = torch.full((400,), 1.1), torch.zeros(400)
    slivers = torch.stack([x1, y1, 0.1 + torch.randint(0, 60, (400,)) * 7.5e-9, 5 + torch.rand(400)], dim=1)
    scores = torch.rand(400)
    expected = greedy_reference(slivers, scores, threshold)
    assert nms(slivers.to(device), scores.to(device), threshold).tolist() == expected


@pytest.mark.parametrize("device", DEVICES)
def test_groups_of_large_coordinates_keep_their_precision(device):
    # shifting each group by the largest coordinate, the usual trick, would round these boxes to whole pixels
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.2, 0.0, 10.2, 10.0], [1e6, 1e6, 1e6 + 9, 1e6 + 9]])
    boxes = boxes.repeat(40, 1).to(device)
    groups = torch.arange(40, device=device).repeat_interleave(3)
    scores = torch.linspace(1, 0.5, 120, device=device)
    kept = batched_nms(boxes, scores, groups, 0.97, 0)
    assert kept.tolist() == list(range(120))  # overlap 9.8 / 10.2 = 0.961
    assert batched_nms(boxes, scores, groups, 0.96, 0).numel() == 80


@pytest.mark.parametrize("device", DEVICES)
def test_equal_scores_go_by_index(device):
    boxes = torch.tensor([[0.0, 0.0, 9.0, 9.0], [1.0, 1.0, 9.0, 9.0], [50.0, 50.0, 59.0, 59.0]], device=device)
    scores = torch.tensor([0.5, 0.5, 0.5], device=device)
    assert nms(boxes, scores, 0.5).tolist() == [0, 2]
    assert nms(boxes.flip(0), scores, 0.5).tolist() == [0, 1]
    zeros = torch.tensor([-0.0, 0.0, -0.0], device=device)  # one score, two spellings
    assert nms(boxes, zeros, 0.5).tolist() == [0, 2]
    many = torch.zeros(1000, device=device)
    apart = torch.arange(1000.0, device=device)[:, None] * 20 + torch.tensor([0.0, 0.0, 9.0, 9.0], device=device)
    assert nms(apart, many, 0.5).tolist() == list(range(1000))


@pytest.mark.parametrize("device", DEVICES)
def test_an_overlap_equal_to_the_threshold_stays(device):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0]], device=device)  # overlap 1/2
    scores = torch.tensor([0.9, 0.8], device=device)
    assert nms(boxes, scores, 0.5, 0).tolist() == [0, 1]
    assert nms(boxes, scores, 0.4999, 0).tolist() == [0]
    inclusive = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 4.0]], device=device)
    assert nms(inclusive, scores, 0.5, 1).tolist() == [0, 1]
    assert nms(inclusive, scores, 0.4999, 1).tolist() == [0]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("count", [7, 700])
def test_scores_that_are_not_finite_are_dropped(count, device):
    boxes, scores = crowd(count), torch.randn(count)
    scores[1], scores[3], scores[4] = float("nan"), float("inf"), -float("inf")
    groups = torch.randint(0, 3, (count,))
    kept = nms(boxes.to(device), scores.to(device), 0.5).tolist()
    assert kept == greedy_reference(boxes, scores, 0.5) and not {1, 3, 4} & set(kept)
    kept = batched_nms(boxes.to(device), scores.to(device), groups.to(device), 0.5).tolist()
    assert kept == greedy_reference(boxes, scores, 0.5, 1, groups)
    assert nms(boxes.to(device), torch.full((count,), float("nan"), device=device), 0.5).tolist() == []


@pytest.mark.parametrize("device", DEVICES)
def test_boxes_that_cover_nothing_or_are_nan_suppress_nothing(device):
    nan, inf = float("nan"), float("inf")
    boxes = torch.tensor(
        [[5, 5, 5, 5], [5, 5, 5, 5], [9, 9, 2, 2], [0, 0, 20, 20], [nan, 0, 20, 20], [0, 0, inf, inf]], device=device
    )
    scores = torch.linspace(1, 0.5, 6, device=device)
    assert nms(boxes, scores, 0.1, 0).tolist() == [0, 1, 2, 3, 4, 5]
    assert nms(boxes, scores, 0.1, 1).tolist() == [0, 2, 3, 4, 5]  # inclusive: one pixel, twice the same


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types(dtype, device):
    boxes, scores = crowd(200, dtype=dtype), torch.rand(200).to(dtype)  # half types: many equal scores
    assert nms(boxes.to(device), scores.to(device), 0.5).tolist() == greedy_reference(boxes, scores, 0.5)
    mixed = nms(boxes.float().to(device), scores.to(device), 0.5)
    assert mixed.tolist() == greedy_reference(boxes, scores, 0.5)


@pytest.mark.parametrize("device", DEVICES)
def test_double_boxes_are_compared_in_double(device):
    boxes = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 0.5 + 1e-12]], dtype=torch.float64, device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert nms(boxes, scores, 0.5, 0).tolist() == [0]
    assert nms(boxes, scores, 0.5 + 2e-12, 0).tolist() == [0, 1]


@pytest.mark.parametrize("device", DEVICES)
def test_padded(device):
    boxes, scores = crowd(200).to(device), torch.rand(200).to(device)
    groups = torch.randint(0, 3, (200,), device=device)
    for expected, given_groups in ((nms(boxes, scores, 0.4), None), (batched_nms(boxes, scores, groups, 0.4), groups)):
        count = expected.numel()
        padded = nms_padded(boxes, scores, 0.4, count + 7, given_groups)
        assert torch.equal(padded[:count], expected) and padded[count:].tolist() == [-1] * 7
        assert torch.equal(nms_padded(boxes, scores, 0.4, 5, given_groups), expected[:5])
    assert nms_padded(boxes, scores, 0.4, 0).shape == (0,)
    assert nms_padded(boxes[:0], scores[:0], 0.4, 2).tolist() == [-1, -1]


@pytest.mark.parametrize("device", DEVICES)
def test_no_boxes_and_layouts(device):
    none = torch.zeros(0, 4, device=device)
    assert nms(none, none[:, 0], 0.5).shape == (0,) and nms(none, none[:, 0], 0.5).dtype == torch.int64
    assert batched_nms(none, none[:, 0], torch.zeros(0, dtype=torch.int64, device=device), 0.5).shape == (0,)
    boxes, scores = crowd(100), torch.rand(100, 2)
    strided = boxes.t().contiguous().t().to(device)
    assert nms(strided, scores.to(device)[:, 1], 0.5).tolist() == greedy_reference(boxes, scores[:, 1], 0.5)
    requires_grad = boxes.to(device).requires_grad_()  # indices have no gradient, and asking is no error
    assert not nms(requires_grad, scores.to(device)[:, 0], 0.5).requires_grad


@pytest.mark.parametrize("device", DEVICES)
def test_registration(device):
    boxes, scores = crowd(50).to(device), torch.rand(50).to(device)
    groups = torch.randint(0, 3, (50,), device=device)
    ops = torch.ops.maskrcnn_benchmark
    torch.library.opcheck(ops.nms.default, (boxes, scores, 0.5, 1))
    torch.library.opcheck(ops.batched_nms.default, (boxes, scores, groups, 0.5, 1))
    torch.library.opcheck(ops.nms_padded.default, (boxes, scores, groups, 0.5, 1, 20))
    torch.library.opcheck(ops.nms_padded.default, (boxes, scores, None, 0.5, 1, 20))


def test_compiles_into_one_graph():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def best(boxes, scores, groups):
        kept = batched_nms(boxes, scores, groups, 0.5)
        return boxes[kept] * 2, boxes[nms(boxes, scores, 0.5)], nms_padded(boxes, scores, 0.5, 10)

    boxes, scores, groups = crowd(100), torch.rand(100), torch.randint(0, 3, (100,))
    in_groups, plain, padded = best(boxes, scores, groups)
    assert torch.equal(in_groups, boxes[batched_nms(boxes, scores, groups, 0.5)] * 2)
    assert torch.equal(plain, boxes[nms(boxes, scores, 0.5)])
    assert torch.equal(padded, nms_padded(boxes, scores, 0.5, 10))


def test_messages():
    boxes, scores = crowd(4), torch.rand(4)
    with pytest.raises(RuntimeError, match=r"boxes must be \(R, 4\).*got 2 dimensions and 3 columns"):
        nms(boxes[:, :3], scores, 0.5)
    with pytest.raises(RuntimeError, match=r"scores must be \(R,\), one for each of 4 boxes; got 1 dimensions and 3"):
        nms(boxes, scores[:3], 0.5)
    with pytest.raises(RuntimeError, match="floating types; got Long and Float"):
        nms(boxes.long(), scores, 0.5)
    with pytest.raises(RuntimeError, match="threshold.*must not be negative; got -0.1"):
        nms(boxes, scores, -0.1)
    with pytest.raises(RuntimeError, match=r"offset must be 1 \(inclusive\) or 0 \(half-open\); got 3"):
        nms(boxes, scores, 0.5, 3)
    with pytest.raises(RuntimeError, match=r"groups must be \(R,\) int64, one for each of 4 boxes; got 4 of Int"):
        batched_nms(boxes, scores, torch.zeros(4, dtype=torch.int32), 0.5)
    with pytest.raises(RuntimeError, match="max_out must not be negative; got -2"):
        nms_padded(boxes, scores, 0.5, -2)
    with pytest.raises(RuntimeError, match="boxes and scores must be on one device"):
        nms(boxes, scores.to("meta"), 0.5)
    with pytest.raises(RuntimeError, match="boxes and groups must be on one device"):
        batched_nms(boxes, scores, torch.zeros(4, dtype=torch.int64, device="meta"), 0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_padded_is_captured_by_a_cuda_graph():
    boxes, scores, groups = crowd(300).cuda(), torch.rand(300).cuda(), torch.randint(0, 3, (300,)).cuda()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):  # what the first call allocates for good
        nms_padded(boxes, scores, 0.5, 100, groups)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = nms_padded(boxes, scores, 0.5, 100, groups)
    for _ in range(2):
        boxes.copy_(crowd(300))
        graph.replay()
        assert torch.equal(kept, nms_padded(boxes, scores, 0.5, 100, groups)) and (kept >= 0).any()
