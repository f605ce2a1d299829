"""Scores of masks and keypoints: which fields a model's detections have, with which values."""

import pytest
import torch

from maskrcnn_benchmark.layers.keypoint_ops import expected_oks
from maskrcnn_benchmark.layers.mask_ops import expected_iou
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.inference import KeypointPostProcessor
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.keypoint_head import KeypointHead
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.output import KeypointKind
from maskrcnn_benchmark.modeling.roi_heads.mask_head.inference import Masker, MaskPostProcessor
from maskrcnn_benchmark.modeling.roi_heads.mask_head.mask_head import MaskHead
from maskrcnn_benchmark.modeling.roi_heads.mask_head.output import MaskKind
from maskrcnn_benchmark.modeling.roi_heads.refine_head.inference import attach_refined
from maskrcnn_benchmark.modeling.roi_heads.refine_head.refine_head import build_roi_refine_head
from maskrcnn_benchmark.structures.fields import (
    COARSE_KEYPOINT_SCORES,
    COARSE_MASK_SCORES,
    KEYPOINT_SCORES,
    KEYPOINTS,
    MASK,
    MASK_SCORES,
    SCORES,
)
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.skeleton import UNIFORM_SIGMA, KeypointSpec
from tests.devices import DEVICES
from tests.modeling.roi_heads.head_cases import CHANNELS, detection_batch, small_cfg

OWN = {MASK_SCORES, KEYPOINT_SCORES, COARSE_MASK_SCORES, COARSE_KEYPOINT_SCORES}
MASK_RESCORE, KEYPOINT_RESCORE, REFINE_RESCORE = (
    f"MODEL.ROI_{head}_HEAD.RESCORE" for head in ("MASK", "KEYPOINT", "REFINE")
)
SIGMAS = PersonKeypoints.OKS_SIGMAS


def scored_batch(device="cpu"):
    """Three detections in two images."""
    detections = [boxes.to(device) for boxes in detection_batch()]
    for boxes, scores in zip(
        detections, torch.tensor([0.9, 0.6, 0.7]).split([len(b) for b in detections]), strict=True
    ):
        boxes.add_field(SCORES, scores.to(device))
    return detections


def all_of(results, name):
    return torch.cat([result.get_field(name) for result in results])


def own_fields(results):
    (names,) = {frozenset(OWN.intersection(result.fields())) for result in results}
    return names


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("masker", [None, Masker(0.5), Masker(-1)])
def test_masks_are_scored_before_they_are_pasted(device, masker):
    detections = scored_batch(device)
    logits = torch.randn(3, 5, 14, 14, generator=torch.Generator().manual_seed(4)).to(device)
    results = MaskPostProcessor(masker, rescore=True)(logits, detections)
    probabilities = all_of(MaskPostProcessor()(logits, detections), MASK)[:, 0]
    expected = all_of(detections, SCORES) * expected_iou(probabilities)
    torch.testing.assert_close(all_of(results, MASK_SCORES), expected)
    assert torch.equal(all_of(results, SCORES), all_of(detections, SCORES)), "boxes keep theirs"
    assert not own_fields(detections), "nor is what was given changed"


@pytest.mark.parametrize("device", DEVICES)
def test_skeletons_are_scored_against_half_of_the_box(device):
    detections = scored_batch(device)
    logits = 5 * torch.randn(3, 17, 14, 14, generator=torch.Generator().manual_seed(4)).to(device)
    results = KeypointPostProcessor("dark", True)(logits, detections)
    frames = torch.cat([boxes.bbox for boxes in detections])
    points = torch.cat([result.get_field(KEYPOINTS).keypoints[..., :2] for result in results])
    areas = torch.cat([boxes.area() for boxes in detections]) / 2
    oks = expected_oks(logits, frames, points, areas, torch.tensor(SIGMAS, device=device))
    torch.testing.assert_close(all_of(results, KEYPOINT_SCORES), all_of(detections, SCORES) * oks)
    assert ((oks > 0.05) & (oks < 0.95)).all()
    plain = KeypointPostProcessor("dark")(logits, detections)
    assert not own_fields(plain)
    for one, other in zip(results, plain, strict=True):
        assert torch.equal(one.get_field(KEYPOINTS).keypoints, other.get_field(KEYPOINTS).keypoints)


def test_a_box_without_extent_counts_as_a_pixel():
    detections = scored_batch()
    for boxes in detections:
        boxes.bbox[:, 2:] = boxes.bbox[:, :2] - 1  # inclusive corners: no pixel
    results = KeypointPostProcessor("argmax", True)(torch.randn(3, 17, 8, 8), detections)
    assert torch.isfinite(all_of(results, KEYPOINT_SCORES)).all()


def test_refined_scores_take_the_place_of_coarse_ones():
    generator = torch.Generator().manual_seed(5)
    detections = KeypointPostProcessor("argmax", True)(torch.randn(3, 17, 8, 8, generator=generator), scored_batch())
    detections = MaskPostProcessor(rescore=True)(torch.randn(3, 5, 8, 8, generator=generator), detections)
    extents = torch.cat([boxes.extents() for boxes in detections]) + torch.tensor([-3.0, -3.0, 3.0, 3.0])
    logits = {
        "mask": torch.randn(3, 1, 16, 16, generator=generator),
        "keypoint": torch.randn(3, 17, 16, 16, generator=generator),
    }

    def refine(names=("mask", "keypoint"), rescore=True, keep_coarse=True):
        outputs = {
            "mask": MaskKind(5, offset=1, post_processor=MaskPostProcessor(rescore=rescore)),
            "keypoint": KeypointKind(17, post_processor=KeypointPostProcessor("dark", rescore)),
        }
        outputs = {name: outputs[name] for name in names}
        return attach_refined(outputs, logits, extents, detections, keep_coarse=keep_coarse)

    results = refine()
    assert own_fields(results) == OWN
    assert torch.equal(all_of(results, COARSE_MASK_SCORES), all_of(detections, MASK_SCORES))
    assert torch.equal(all_of(results, COARSE_KEYPOINT_SCORES), all_of(detections, KEYPOINT_SCORES))
    scores = all_of(detections, SCORES)
    torch.testing.assert_close(all_of(results, MASK_SCORES), scores * expected_iou(logits["mask"][:, 0].sigmoid()))
    points = torch.cat([result.get_field(KEYPOINTS).keypoints[..., :2] for result in results])
    areas = torch.cat([boxes.area() for boxes in detections]) / 2  # of the detection, not of the enlarged region
    oks = expected_oks(logits["keypoint"], extents, points, areas, torch.tensor(SIGMAS))
    torch.testing.assert_close(all_of(results, KEYPOINT_SCORES), scores * oks)

    # what is not refined keeps its scores; what is refined and not scored has none, rather than those of the coarse
    one = refine(["mask"])
    assert own_fields(one) == {MASK_SCORES, COARSE_MASK_SCORES, KEYPOINT_SCORES}
    assert torch.equal(all_of(one, KEYPOINT_SCORES), all_of(detections, KEYPOINT_SCORES))
    assert own_fields(refine(rescore=False)) == {COARSE_MASK_SCORES, COARSE_KEYPOINT_SCORES}
    dropped = refine(keep_coarse=False)
    assert own_fields(dropped) == {MASK_SCORES, KEYPOINT_SCORES}


def test_no_detections():
    none = [boxes[[]] for boxes in scored_batch()]
    for result in MaskPostProcessor(rescore=True)(torch.zeros(0, 5, 8, 8), none):
        assert result.get_field(MASK_SCORES).shape == (0,)
    for result in KeypointPostProcessor("dark", True)(torch.zeros(0, 17, 8, 8), none):
        assert result.get_field(KEYPOINT_SCORES).shape == (0,)


def post_processor(head, output):
    return head.outputs[output].post_processor


def test_what_the_config_says():
    cfg = small_cfg()
    assert post_processor(MaskHead.from_cfg(cfg, CHANNELS), "mask").rescore is False
    assert not post_processor(KeypointHead.from_cfg(cfg, CHANNELS), "keypoint").rescore
    refine = build_roi_refine_head(cfg, CHANNELS)
    assert post_processor(refine, "mask").rescore and post_processor(refine, "keypoint").rescore
    assert post_processor(refine, "keypoint").sigmas == ()

    sigmas = [0.01 * (k + 1) for k in range(17)]
    cfg = small_cfg(
        MASK_RESCORE, True, KEYPOINT_RESCORE, True, REFINE_RESCORE, False, "TEST.KEYPOINT_OKS_SIGMAS", sigmas
    )
    assert post_processor(MaskHead.from_cfg(cfg, CHANNELS), "mask").rescore
    assert post_processor(KeypointHead.from_cfg(cfg, CHANNELS), "keypoint").sigmas == tuple(sigmas)
    refine = build_roi_refine_head(cfg, CHANNELS)
    assert not post_processor(refine, "mask").rescore and not post_processor(refine, "keypoint").rescore


def test_sigmas_are_those_of_the_config_else_of_the_keypoints():
    detections, logits = scored_batch(), 5 * torch.randn(3, 5, 8, 8, generator=torch.Generator().manual_seed(4))
    names, own = ("a", "b", "c", "d", "e"), (0.01, 0.02, 0.03, 0.04, 0.05)
    frames, scores = torch.cat([boxes.bbox for boxes in detections]), all_of(detections, SCORES)
    for given, spec, used in [
        ((), KeypointSpec(names, sigmas=own), own),
        ((), KeypointSpec(names), [UNIFORM_SIGMA] * 5),
        ((), None, [UNIFORM_SIGMA] * 5),
        ([0.2] * 5, KeypointSpec(names, sigmas=own), [0.2] * 5),
    ]:
        results = KeypointPostProcessor("argmax", True, given)(logits, detections, None, spec)
        points = torch.cat([result.get_field(KEYPOINTS).keypoints[..., :2] for result in results])
        areas = torch.cat([boxes.area() for boxes in detections]) / 2
        expected = scores * expected_oks(logits, frames, points, areas, torch.tensor(used))
        torch.testing.assert_close(all_of(results, KEYPOINT_SCORES), expected)
