"""Boundary AP against loops over pixels, and as rows of an evaluation."""

import json

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils

from maskrcnn_benchmark.data.evaluation import build_evaluator, evaluate
from maskrcnn_benchmark.data.evaluation.coco.boundary import BoundaryEval, boundary_of
from maskrcnn_benchmark.data.evaluation.coco.ground_truth import new_coco
from maskrcnn_benchmark.data.evaluation.coco.measures import headline_metrics, run_cocoeval
from maskrcnn_benchmark.structures import fields


def rle_of(mask):
    return mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))


def band_by_loops(mask, distance):
    """Pixels of the mask that see something else within `distance` steps; beyond the image there is something else."""
    height, width = mask.shape
    band = np.zeros_like(mask)
    for y, x in zip(*np.nonzero(mask), strict=True):
        inside = y - distance >= 0 and x - distance >= 0 and y + distance < height and x + distance < width
        window = mask[y - distance : y + distance + 1, x - distance : x + distance + 1] if inside else mask[:0]
        band[y, x] = not (inside and window.all())
    return band


def disc(height, width, x, y, radius):
    rows, columns = np.mgrid[:height, :width]
    return (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


MASKS = {
    "disc": disc(60, 80, 40, 30, 20),
    "disc with a hole": disc(60, 80, 40, 30, 24) & ~disc(60, 80, 40, 28, 9),
    "at the border": disc(60, 80, 2, 58, 30),
    "whole image": np.ones((60, 80), dtype=bool),
    "nothing": np.zeros((60, 80), dtype=bool),
    "one pixel": disc(60, 80, 79, 0, 0),
    "noise": np.random.default_rng(0).random((60, 80)) > 0.1,
    "two parts": disc(60, 80, 10, 10, 8) | disc(60, 80, 70, 50, 9),
}


@pytest.mark.parametrize(("ratio", "distance"), [(0.02, 2), (0.05, 5), (1e-6, 1)])  # of a diagonal of 100 pixels
@pytest.mark.parametrize("name", MASKS)
def test_boundary_equals_loops_over_pixels(name, ratio, distance):
    band = boundary_of(rle_of(MASKS[name]), ratio)
    assert list(band["size"]) == [60, 80]
    np.testing.assert_array_equal(mask_utils.decode(band).astype(bool), band_by_loops(MASKS[name], distance))


HEIGHT, WIDTH = 60, 80


def coco_of(masks, crowd=(), categories=None, scores=None):
    categories = categories or [1] * len(masks)
    annotations = []
    for index, mask in enumerate(masks):
        rle = rle_of(mask)
        entry = {"id": index + 1, "image_id": 5, "category_id": categories[index], "iscrowd": int(index in crowd)}
        entry |= {"segmentation": rle, "area": float(mask.sum()), "bbox": mask_utils.toBbox(rle).tolist()}
        annotations.append(entry | ({"score": scores[index]} if scores else {}))
    return new_coco({
        "images": [{"id": 5, "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": category, "name": str(category)} for category in (1, 2)],
        "annotations": annotations,
    })  # fmt: skip


def overlap_by_loops(found, truth, crowd):
    def iou(a, b):
        common = (a & b).sum()
        return common / (a.sum() if crowd else (a | b).sum())

    return min(iou(found, truth), iou(band_by_loops(found, 2), band_by_loops(truth, 2)))


@pytest.mark.parametrize("use_categories", [1, 0])
def test_overlap_is_the_smaller_of_both(use_categories):
    truth = [disc(60, 80, 30, 30, 20), disc(60, 80, 60, 20, 15), disc(60, 80, 20, 45, 12)]
    found = [disc(60, 80, 33, 30, 19), disc(60, 80, 31, 29, 21), disc(60, 80, 58, 20, 12), disc(60, 80, 22, 44, 11)]
    scores = [0.3, 0.9, 0.5, 0.9]
    evaluation = BoundaryEval(coco_of(truth, crowd=(2,)), coco_of(found, scores=scores))
    evaluation.params.useCats = use_categories
    evaluation.params.maxDets = [1, 3]
    evaluation.evaluate()
    best_first = [1, 3, 2]  # of equal scores the earlier; the worst is one too many
    expected = [[overlap_by_loops(found[d], truth[g], g == 2) for g in range(3)] for d in best_first]
    np.testing.assert_allclose(evaluation.ious[5, 1 if use_categories else -1], expected)
    assert len(evaluation.ious[5, 2]) == 0 if use_categories else (5, 2) not in evaluation.ious


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_shifted_masks_score_lower_than_by_mask_iou(shift):
    truth = [disc(60, 80, 30, 28, 22)]
    entries = [{"image_id": 5, "category_id": 1, "score": 0.9, "segmentation": rle_of(np.roll(truth[0], shift, 1))}]
    by_mask, by_boundary = (
        headline_metrics(run_cocoeval(coco_of(truth), entries, measure, [5]), measure)["AP"]
        for measure in ("segm", "boundary")
    )
    if shift == 0:
        assert by_mask == by_boundary == pytest.approx(1.0)
    else:
        assert by_boundary < by_mask < 1


def test_rows_of_an_evaluation(tmp_path):
    from tests.data.evaluation.test_coco_evaluation import ANNOTATIONS, FakeDataset, ground_truth_as_detections

    predictions = ground_truth_as_detections(scale=1)
    for found in predictions:
        coarse = torch.ones(len(found), 1, 28, 28)
        coarse[..., :3] = 0  # a tenth of the width is missing
        found.add_field(fields.COARSE_MASK, coarse)
    options = {"iou_types": ("bbox", "segm"), "boundary_ap": True}
    results = evaluate(FakeDataset(ANNOTATIONS), predictions, tmp_path, **options)
    assert results.metrics["boundary"]["AP"] == pytest.approx(1.0)
    assert results.metrics["boundary_coarse"]["AP"] < results.metrics["segm_coarse"]["AP"] < 1
    assert results.per_class["boundary"] == {"class1": pytest.approx(1.0), "class2": pytest.approx(1.0)}
    assert results.summary_score() == pytest.approx(1.0)
    text = (tmp_path / "results.txt").read_text()
    rows = [line.split("  ")[0] for line in text.splitlines()[1:6]]
    assert rows == ["bbox", "segm (coarse)", "segm (refined)", "boundary (coarse)", "boundary (refined)"]
    assert set(json.loads((tmp_path / "coco_results.json").read_text())["metrics"]) >= {"boundary", "boundary_coarse"}

    plain = ground_truth_as_detections(scale=1)
    assert list(evaluate(FakeDataset(ANNOTATIONS), plain, None, **options).metrics) == ["bbox", "segm", "boundary"]
    assert "boundary" not in evaluate(FakeDataset(ANNOTATIONS), plain, None, iou_types=("segm",)).metrics
    assert build_evaluator(FakeDataset(ANNOTATIONS), boundary_ap=True).settings.boundary_ap


def test_no_detections_score_zero():
    metrics = headline_metrics(run_cocoeval(coco_of([MASKS["disc"]]), [], "boundary", [5]), "boundary")
    assert metrics["AP"] == 0
