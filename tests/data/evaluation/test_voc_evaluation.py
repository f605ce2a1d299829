"""Pascal VOC's average precision against a slow reference, which goes from detection to detection."""

import json
from fractions import Fraction

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.data.datasets import PascalVOCDataset
from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.data.evaluation import VocEvaluator, build_evaluator, evaluate
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.data.voc_files import CAT, DOG, voc_object, write_voc


class Truth(DetectionDataset):
    """Ground truth in memory: a list of (label, box, difficult) for each image of 100 x 80 pixels."""

    evaluator = "VOC"

    def __init__(self, images, class_names=("__background__", "cat", "dog"), difficult=True):
        self.images, self.class_names, self.with_difficult = images, class_names, difficult

    def __len__(self):
        return len(self.images)

    def get_img_info(self, index):
        return {"width": 100, "height": 80}

    def get_groundtruth(self, index):
        objects = self.images[index]
        target = BoxList([box for _, box, _ in objects], (100, 80))
        target.add_field(fields.LABELS, torch.tensor([label for label, _, _ in objects], dtype=torch.int64))
        if self.with_difficult:
            target.add_field(fields.DIFFICULT, torch.tensor([bool(mark) for *_, mark in objects], dtype=torch.bool))
        return target


def detections(rows):
    """`rows`: (label, box, score)."""
    found = BoxList([box for _, box, _ in rows], (100, 80))
    found.add_field(fields.LABELS, torch.tensor([label for label, _, _ in rows], dtype=torch.int64))
    found.add_field(fields.SCORES, torch.tensor([score for *_, score in rows], dtype=torch.float32))
    return found


# The reference: whole pixels are counted, and fractions kept, so that nothing is rounded.


def reference_iou(a, b):
    pixels = [{(x, y) for x in range(x1, x2 + 1) for y in range(y1, y2 + 1)} for x1, y1, x2, y2 in (a, b)]
    return Fraction(len(pixels[0] & pixels[1]), len(pixels[0] | pixels[1]))


def reference_curve(truth, found, label):
    """[(precision, recall)] after each detection that counts."""
    ranked = sorted(
        ((score, index, box) for index, rows in enumerate(found) for kind, box, score in rows if kind == label),
        key=lambda entry: -entry[0],
    )
    objects = {index: [row for row in rows if row[0] == label] for index, rows in enumerate(truth)}
    total = sum(not mark for rows in objects.values() for *_, mark in rows)
    used, true, false, curve = set(), 0, 0, []
    for _, index, box in ranked:
        best, overlap = None, Fraction(0)
        for number, (_, other, _) in enumerate(objects[index]):
            if reference_iou(box, other) > overlap:
                best, overlap = number, reference_iou(box, other)
        if overlap >= Fraction(1, 2):
            if objects[index][best][2]:
                continue
            true, false = (true, false + 1) if (index, best) in used else (true + 1, false)
            used.add((index, best))
        else:
            false += 1
        curve.append((Fraction(true, true + false), Fraction(true, total) if total else None))
    return curve, total


def reference_ap(truth, found, label):
    """(by 11 points, by area); None without objects."""
    curve, total = reference_curve(truth, found, label)
    if not total:
        return None
    # the limits of the development kit are doubles: three of them lie above their decimal
    limits = [Fraction(0.1 * step) for step in range(11)]
    points = sum(max([p for p, r in curve if Fraction(float(r)) >= limit], default=0) for limit in limits) / Fraction(
        11
    )
    area, before = Fraction(0), Fraction(0)
    for position, (_, recall) in enumerate(curve):
        area += (recall - before) * max(p for p, _ in curve[position:])
        before = recall
    return float(points), float(area)


def random_case(seed, num_images=6):
    """Objects, and detections that are moved copies of them, duplicates, other classes and nothing at all."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    scores = iter(rng.permutation(2000) / 2000)  # no two are equal
    for _ in range(num_images):
        objects = []
        for _ in range(rng.integers(0, 5)):
            x, y, w, h = (int(side) for side in rng.integers((0, 0, 3, 3), (60, 50, 30, 25)))
            objects.append((int(rng.integers(1, 3)), (x, y, x + w, y + h), bool(rng.random() < 0.25)))
        rows = []
        for label, box, _ in objects:
            for _ in range(rng.integers(0, 4)):
                moved = np.asarray(box) + rng.integers(-4, 5, 4)
                moved[2:] = np.maximum(moved[2:], moved[:2])
                kind = label if rng.random() < 0.8 else 3 - label
                rows.append((kind, tuple(int(side) for side in moved), float(np.float32(next(scores)))))
        truth.append(objects)
        found.append([rows[place] for place in rng.permutation(len(rows))])
    return truth, found


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_reference(seed):
    truth, found = random_case(seed)
    results = evaluate(Truth(truth), [detections(rows) for rows in found], None)
    expected = {name: reference_ap(truth, found, label) for label, name in ((1, "cat"), (2, "dog"))}
    for name, values in expected.items():
        measured = results.per_class["bbox"][name], results.per_class["bbox (area)"][name]
        assert measured == ((-1, -1) if values is None else pytest.approx(values, abs=1e-12))
    measured = [values for values in expected.values() if values is not None]
    assert list(results.metrics["bbox"].values()) == pytest.approx(np.mean(measured, axis=0).tolist(), abs=1e-12)


BOX = (10, 10, 29, 29)


def score(truth, found):
    metrics = evaluate(Truth([truth]), [detections(found)], None).metrics["bbox"]
    return metrics["AP"], metrics["AP (area)"]


def test_the_far_corner_pixel_counts():
    # 20 x 20 pixels against 20 x 10 of them: exactly one half, which matches. Without the pixel it would be 9 / 19.
    assert score([(1, BOX, 0)], [(1, (10, 10, 29, 19), 0.9)]) == (1, 1)
    assert score([(1, BOX, 0)], [(1, (10, 10, 29, 18), 0.9)]) == (0, 0)


def test_half_open_boxes_score_the_same():
    found = BoxList([(10, 10, 30, 20)], (100, 80), offset=0)
    found.add_field(fields.LABELS, torch.tensor([1]))
    found.add_field(fields.SCORES, torch.tensor([0.9]))
    assert evaluate(Truth([[(1, BOX, 0)]]), [found], None).metrics["bbox"]["AP"] == 1


def test_a_duplicate_is_a_false_positive():
    cats = [(1, BOX, 0), (1, (50, 40, 69, 59), 0)]
    found = [(1, BOX, 0.9), (1, BOX, 0.8), (1, (50, 40, 69, 59), 0.7)]
    precision = 2 / 3
    assert score(cats, found) == pytest.approx(((6 + 5 * precision) / 11, 0.5 + 0.5 * precision))


def test_detections_of_difficult_objects_do_not_count():
    cats = [(1, BOX, 0), (1, (50, 40, 69, 59), 1)]
    hard = [(1, (50, 40, 69, 59), 0.95), (1, (50, 40, 69, 59), 0.92)]
    assert score(cats, [*hard, (1, BOX, 0.9)]) == (1, 1)
    assert score(cats[1:], hard) == (-1, -1)  # nothing to find


def test_a_recall_of_three_tenths_does_not_reach_the_fourth_point():
    cats = [(1, (x, y, x + 9, y + 9), 0) for x in range(0, 100, 20) for y in (0, 40)]
    assert len(cats) == 10
    points, area = score(cats, [(1, cats[number][1], 0.9 - 0.1 * number) for number in range(3)])
    assert points == pytest.approx(3 / 11) and area == pytest.approx(0.3)


def test_no_detections_and_no_objects():
    assert score([(1, BOX, 0)], []) == (0, 0)
    assert score([], [(1, BOX, 0.5)]) == (-1, -1)
    results = evaluate(Truth([[(1, BOX, 0)]], difficult=False), [detections([(1, BOX, 0.5)])], None)
    assert results.metrics["bbox"]["AP"] == 1, "no field DIFFICULT: nothing is difficult"


def test_files_of_a_voc_folder(tmp_path):
    write_voc(
        tmp_path / "voc", {"000001": [voc_object()], "000002": [voc_object("cat"), voc_object(difficult=1)]}, "test"
    )
    dataset = PascalVOCDataset(tmp_path / "voc", "test", use_difficult=True)
    evaluator = build_evaluator(dataset)
    assert isinstance(evaluator, VocEvaluator)
    found = [dataset.get_groundtruth(index) for index in range(2)]
    for boxes in found:
        boxes.add_field(fields.SCORES, torch.linspace(0.9, 0.8, len(boxes)))
    found = [boxes.resize((80, 60)) for boxes in found]  # the model saw a larger image
    ranks = [build_evaluator(dataset) for _ in range(2)]
    ranks[0].process([1], found[1:])
    ranks[1].process([0], found[:1])
    ranks[0].merge([rank.results for rank in ranks])
    results = ranks[0].evaluate(tmp_path / "out")
    assert results.metrics == {"bbox": {"AP": 1.0, "AP (area)": 1.0}} and results.summary_score() == 1
    per_class = results.per_class["bbox"]
    assert per_class["cat"] == per_class["dog"] == 1 and per_class["sofa"] == -1 and len(per_class) == 20
    table = (tmp_path / "out" / "results.txt").read_text()
    assert "bbox  1.0000     1.0000" in table and "aeroplane" in table
    saved = json.loads((tmp_path / "out" / "coco_results.json").read_text())
    assert saved["metrics"] == results.metrics and saved["per_class"]["bbox (area)"]["cat"] == 1
    plain = torch.load(tmp_path / "out" / "predictions.pth", weights_only=True)
    assert [entry["image_id"] for entry in plain] == ["000001", "000002"]
    assert {path.name for path in ranks[0].write_pictures(tmp_path / "drawn", 2).iterdir()} == {
        "000001.png",
        "000002.png",
    }
    assert (DOG, CAT) == (12, 8)


def test_what_cannot_be_scored_is_told():
    with pytest.raises(ValueError, match=r"proposals \(MODEL.RPN_ONLY\). Set TEST.EVALUATORS to \('COCO',\)"):
        build_evaluator(Truth([[]]), box_only=True)
    with pytest.raises(TypeError, match="VOC cannot score on a Truth: it has no `class_names`"):
        build_evaluator(Truth([[]], class_names=()))
    with pytest.raises(TypeError, match="VOC cannot score on a list: it has no `get_groundtruth`"):
        build_evaluator([], evaluators=("VOC",))
    with pytest.raises(ValueError, match="unknown iou types .'segm'.: VOC scores bbox"):
        build_evaluator(Truth([[]]), iou_types=("bbox", "segm"))
