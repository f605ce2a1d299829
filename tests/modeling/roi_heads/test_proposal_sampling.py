import pytest
import torch

from maskrcnn_benchmark.modeling.balanced_positive_negative_sampler import BalancedPositiveNegativeSampler
from maskrcnn_benchmark.modeling.box_coder import BoxCoder
from maskrcnn_benchmark.modeling.matcher import Matcher
from maskrcnn_benchmark.modeling.roi_heads.sampling import ProposalSampler
from maskrcnn_benchmark.structures.fields import IS_GROUND_TRUTH
from tests.devices import DEVICES
from tests.modeling.box_reference import boxlist, encode_reference, iou_reference, random_boxes
from tests.simulated_cuda import NO_SIMULATION, simulated_cuda

SIZES = [(60, 44), (52, 48), (40, 40)]
WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def sampler(batch_size=64, fraction=0.25, offset=1, low=0.5, **settings):
    return ProposalSampler(
        Matcher(0.5, low),
        BalancedPositiveNegativeSampler(batch_size, fraction),
        BoxCoder(WEIGHTS, offset=offset),
        **settings,
    )


def sampling_case(device="cpu", offset=1):
    """Three images: objects, none, and objects without any proposal."""
    gt = [random_boxes(count, size, 10) for count, size in zip((3, 0, 2), SIZES, strict=True)]
    near = gt[0].repeat(6, 1) + torch.randn(18, 4)
    near[:, 2:] = torch.maximum(near[:, 2:], near[:, :2] + 1)
    proposals = [torch.cat([near, random_boxes(20, SIZES[0])]), random_boxes(9, SIZES[1]), torch.zeros(0, 4)]
    targets = [
        boxlist(boxes, size, offset, labels=torch.randint(1, 5, (len(boxes),))).to(device)
        for boxes, size in zip(gt, SIZES, strict=True)
    ]
    boxlists = [boxlist(boxes, size, offset).to(device) for boxes, size in zip(proposals, SIZES, strict=True)]
    return boxlists, targets


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
def test_targets_equal_loops(device, offset):
    proposals, targets = sampling_case(device, offset)
    samples = sampler(64, 1.0, offset)(proposals, targets)
    assert len(samples) == 38 + 9  # room for all of them
    assert samples.sizes == SIZES
    seen = []
    for row in range(len(samples)):
        image, box = int(samples.image_ids[row]), samples.boxes[row].tolist()
        assert samples.rois[row].tolist() == [image, *box]
        seen.append((image, *box))
        gt = targets[image].bbox.tolist()
        overlaps = [iou_reference(g, box, offset) for g in gt]
        best = max(overlaps, default=0.0)
        matched = int(samples.matched_idxs[row])
        if best >= 0.5:
            assert matched == overlaps.index(best)
            assert int(samples.labels[row]) == int(targets[image].get_field("labels")[matched])
            expected = torch.tensor(encode_reference(gt[matched], box, WEIGHTS, offset))
            torch.testing.assert_close(samples.regression_targets[row].cpu(), expected, rtol=1e-4, atol=1e-4)
        else:
            assert int(samples.labels[row]) == 0 and samples.regression_targets[row].eq(0).all()
    assert len(set(seen)) == len(seen)
    assert samples.num_positives == int((samples.labels > 0).sum()) >= 3


def check_host_matches(samples):
    """What the host knows of the foreground is what the device has."""
    image_ids, matched_idxs, boxes = samples.positives().on_host()
    count = samples.num_positives
    assert image_ids.dtype == matched_idxs.dtype == torch.int64
    assert image_ids.tolist() == samples.image_ids[:count].tolist()
    assert matched_idxs.tolist() == samples.matched_idxs[:count].tolist()
    assert boxes.tolist() == samples.boxes[:count].tolist()
    assert all(tensor.device.type == "cpu" for tensor in (image_ids, matched_idxs, boxes))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fraction", [0.25, 1.0, 0.0])
def test_matches_on_the_host(device, fraction):
    samples = sampler(16, fraction)(*sampling_case(device))
    assert (samples.num_positives > 0) == (fraction > 0)
    check_host_matches(samples)


@pytest.mark.skipif(NO_SIMULATION is not None, reason=str(NO_SIMULATION))
@pytest.mark.parametrize("fraction", [0.25, 1.0, 0.0])
def test_matches_come_with_the_counts(fraction):
    with simulated_cuda() as cuda:
        proposals, targets = sampling_case("cuda")
        cuda.waits.clear()
        samples = sampler(16, fraction)(proposals, targets)
        samples.positives().on_host()
        assert cuda.waits.total() == 1
        check_host_matches(samples)


def with_ground_truth(proposals, targets):
    """Proposals with the boxes of the targets behind them, as the RPN adds these."""
    joined = []
    for proposed, target in zip(proposals, targets, strict=True):
        both = boxlist(torch.cat([proposed.bbox, target.bbox]), proposed.size, proposed.offset)
        both.add_field(IS_GROUND_TRUTH, torch.arange(len(both), device=both.bbox.device) >= len(proposed))
        joined.append(both)
    return joined


def is_box_of(targets, image, box):
    return box in targets[image].bbox.tolist()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("batch_size", "fraction"), [(64, 1.0), (16, 0.5), (16, 0.0)])
def test_ground_truth_for_the_box_head_alone(device, batch_size, fraction):
    proposals, targets = sampling_case(device)
    proposals = with_ground_truth(proposals, targets)
    samples = {}
    for for_heads in (True, False):
        torch.manual_seed(3)
        samples[for_heads] = sampler(batch_size, fraction, ground_truth_for_heads=for_heads)(proposals, targets)
    shared, separate = samples[True], samples[False]
    rows = [
        sorted(zip(s.rois.tolist(), s.labels.tolist(), s.regression_targets.tolist(), strict=True))
        for s in (shared, separate)
    ]
    assert rows[0] == rows[1], "the same regions are drawn"
    assert shared.num_positives == separate.num_positives and shared.num_ground_truth == 0
    check_host_matches(separate)

    of_heads, count = separate.positives_of_heads(), separate.num_positives - separate.num_ground_truth
    assert len(of_heads) == of_heads.num_positives == count and of_heads.num_ground_truth == 0
    check_host_matches(of_heads)
    for row, (image, box) in enumerate(zip(separate.image_ids.tolist(), separate.boxes.tolist(), strict=True)):
        assert is_box_of(targets, image, box) == (count <= row < separate.num_positives)
    if fraction == 1.0:
        assert separate.num_ground_truth == 5 and count >= 3
    assert len(shared.positives_of_heads()) == shared.num_positives


def test_no_proposals_but_the_ground_truth():
    _, targets = sampling_case()
    proposals = with_ground_truth([target[[]] for target in targets], targets)
    samples = sampler(64, 1.0, ground_truth_for_heads=False)(proposals, targets)
    assert samples.num_positives == samples.num_ground_truth == 5 and len(samples.positives_of_heads()) == 0
    nothing = [target[[]] for target in targets]
    samples = sampler(64, 1.0, ground_truth_for_heads=False)(with_ground_truth(nothing, nothing), nothing)
    assert len(samples) == samples.num_ground_truth == 0
    # proposals that do not say what they are
    samples = sampler(64, 1.0, ground_truth_for_heads=False)(*sampling_case())
    assert samples.num_ground_truth == 0 and len(samples.positives_of_heads()) == samples.num_positives


@pytest.mark.skipif(NO_SIMULATION is not None, reason=str(NO_SIMULATION))
@pytest.mark.parametrize("fraction", [0.25, 1.0, 0.0])
def test_the_count_of_ground_truth_comes_with_the_others(fraction):
    with simulated_cuda() as cuda:
        proposals, targets = sampling_case("cuda")
        proposals = with_ground_truth(proposals, targets)
        cuda.waits.clear()
        samples = sampler(16, fraction, ground_truth_for_heads=False)(proposals, targets)
        samples.positives_of_heads().on_host()
        assert cuda.waits.total() == 1
        check_host_matches(samples)
        check_host_matches(samples.positives_of_heads())


def test_positives_are_the_first_rows():
    samples = sampler(16)(*sampling_case())
    positives = samples.positives()
    assert len(positives) == samples.num_positives == positives.num_positives == 4
    assert (positives.labels > 0).all() and (samples.labels[4:] == 0).all()
    assert torch.equal(positives.rois, samples.rois[:4])
    assert int((samples.image_ids == 0).sum()) == 16 and int((samples.image_ids == 1).sum()) == 9


def test_between_the_thresholds_nothing_is_drawn():
    proposals, targets = sampling_case()
    samples = sampler(64, 1.0, low=0.0)(proposals, targets)
    # no overlap is below 0, so what is not foreground is ignored; on an image without objects all is background
    assert ((samples.labels > 0) == (samples.image_ids == 0)).all()


def test_no_proposals_at_all():
    empty = [boxlist(torch.zeros(0, 4), size) for size in SIZES]
    targets = [boxlist(torch.zeros(0, 4), size, labels=torch.zeros(0, dtype=torch.long)) for size in SIZES]
    samples = sampler()(empty, targets)
    assert len(samples) == 0 and samples.rois.shape == (0, 5) and samples.regression_targets.shape == (0, 4)


def test_labels_have_to_be_there():
    proposals, targets = sampling_case()
    with pytest.raises(KeyError, match="'labels'"):
        sampler()(proposals, [target.copy_with_fields([]) for target in targets])
