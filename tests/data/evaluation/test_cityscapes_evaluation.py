"""Cityscapes' average precision against a slow reference, which counts pixels one by one."""

import json
import math

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.data.datasets import CityScapesDataset, ListDataset
from maskrcnn_benchmark.data.datasets.cityscapes_file import EVALUATED, LABEL_IDS, VOID_IDS
from maskrcnn_benchmark.data.evaluation import CityscapesEvaluator, build_evaluator, evaluate
from maskrcnn_benchmark.data.evaluation.cityscapes.instance_ap import OVERLAPS
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.data.cityscapes_files import polygon, write_cityscapes

SIZE = (40, 30)  # width, height
PERSON, CAR = EVALUATED.index("person") + 1, EVALUATED.index("car") + 1


class Truth(CityScapesDataset):
    """Instance images in memory."""

    def __init__(self, ids, class_names=("__background__", *EVALUATED)):
        self.images, self.class_names = ids, class_names
        self.ids = list(range(len(ids)))

    def get_img_info(self, index):
        return {"id": index, "width": SIZE[0], "height": SIZE[1]}

    def read_instance_ids(self, index):
        return self.images[index]


def box_of(mask):
    rows, columns = np.nonzero(mask)
    return [int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())] if len(rows) else [0, 0, 0, 0]


def detections(rows):
    """`rows`: (label, mask (H, W), score)."""
    found = BoxList([box_of(mask) for _, mask, _ in rows], SIZE)
    found.add_field(fields.LABELS, torch.tensor([label for label, *_ in rows], dtype=torch.int64))
    found.add_field(fields.SCORES, torch.tensor([score for *_, score in rows], dtype=torch.float32))
    masks = np.array([mask for _, mask, _ in rows], dtype=np.uint8).reshape(-1, 1, SIZE[1], SIZE[0])
    found.add_field(fields.MASK, torch.from_numpy(masks))
    return found


# The reference: sets of pixels.


def pixels(mask):
    return {(row, column) for row in range(SIZE[1]) for column in range(SIZE[0]) if mask[row][column]}


def reference_objects(ids):
    """{id: pixels} of an instance image."""
    objects = {}
    for row in range(SIZE[1]):
        for column in range(SIZE[0]):
            objects.setdefault(int(ids[row][column]), set()).add((row, column))
    return objects


def reference_ap(images, found, label_id, name_of, overlap):
    """AP of a class; None if it has no instance to be found."""
    points, total = [], 0  # points: (score, correct)
    for ids, rows in zip(images, found, strict=True):
        objects = reference_objects(ids)
        void = set().union(*(objects.get(value, set()) for value in VOID_IDS))
        own = {value: area for value, area in objects.items() if label_id in (value, value // 1000)}
        mine = [(pixels(mask), score) for label, mask, score in rows if name_of(label) == label_id and mask.any()]
        matched = set()
        for value, area in own.items():
            reaching = []
            for number, (mask, score) in enumerate(mine):
                if len(mask & area) > overlap * len(mask | area):
                    reaching.append(score)
                    matched.add(number)
            if value >= 1000 and len(area) >= 100:
                total += 1
                points += [(score, score == max(reaching)) for score in reaching]
        for number, (mask, score) in enumerate(mine):
            if number in matched:
                continue
            ignored = len(mask & void)
            for value, area in own.items():
                ignored += len(mask & area) * ((value < 1000) + (len(area) < 100))
            if ignored <= overlap * len(mask):
                points.append((score, False))
    if not total:
        return None
    curve = [(0.0, 1.0)]
    for score in sorted({score for score, _ in points}, reverse=True):
        taken = [correct for other, correct in points if other >= score]
        curve.append((sum(taken) / total, sum(taken) / len(taken)))
    return math.fsum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in zip(curve, curve[1:], strict=False))


def random_case(seed, num_images=3):
    """Rectangles of two classes that hide each other, groups, void; detections are shaken copies, and some anywhere."""
    rng = np.random.default_rng(seed)
    images, found = [], []
    for _ in range(num_images):
        ids = np.full((SIZE[1], SIZE[0]), LABEL_IDS["road"], dtype=np.int32)
        counts = dict.fromkeys((24, 26), 0)
        for _ in range(rng.integers(2, 7)):
            x, y = rng.integers(0, 30), rng.integers(0, 20)
            w, h = rng.integers(6, 22), rng.integers(6, 18)
            kind = int(rng.choice([24, 26]))
            choice = rng.random()
            if choice < 0.15:
                value = int(rng.choice(VOID_IDS))
            elif choice < 0.3:
                value = kind
            else:
                value = kind * 1000 + counts[kind]
                counts[kind] += 1
            ids[y : y + h, x : x + w] = value
        rows = []
        for value in np.unique(ids):
            if value == LABEL_IDS["road"]:
                continue
            for _ in range(rng.integers(0, 4)):
                mask = np.roll(ids == value, rng.integers(-2, 3, 2), axis=(0, 1))
                mask[:, : rng.integers(0, 4)] = False
                label = PERSON if value // 1000 == 24 or (value < 1000 and rng.random() < 0.5) else CAR
                rows.append((label, mask, float(np.float32(rng.integers(1, 40) / 40))))
        images.append(ids)
        found.append(rows)
    return images, found


@pytest.mark.parametrize("seed", range(10))
def test_masks_equal_the_reference(seed):
    images, found = random_case(seed)
    results = evaluate(Truth(images), [detections(rows) for rows in found], None, iou_types=("segm",))
    classes = {}
    for name, label_id in (("person", 24), ("car", 26)):
        values = [reference_ap(images, found, label_id, {PERSON: 24, CAR: 26}.get, overlap) for overlap in OVERLAPS]
        if values[0] is None:
            assert results.per_class["segm"][name] == -1
        else:
            classes[name] = values
            assert results.per_class["segm"][name] == pytest.approx(np.mean(values), abs=1e-9)
    assert results.metrics["segm"]["AP"] == pytest.approx(np.mean(list(classes.values())), abs=1e-9)
    assert results.metrics["segm"]["AP50"] == pytest.approx(
        np.mean([values[0] for values in classes.values()]), abs=1e-9
    )
    assert all(results.per_class["segm"][name] == -1 for name in EVALUATED if name not in ("person", "car"))


def rectangle(x1, y1, x2, y2):
    mask = np.zeros((SIZE[1], SIZE[0]), dtype=bool)
    mask[y1 : y2 + 1, x1 : x2 + 1] = True
    return mask


def draw(*objects):
    ids = np.full((SIZE[1], SIZE[0]), LABEL_IDS["road"], dtype=np.int32)
    for value, mask in objects:
        ids[mask] = value
    return ids


def score(ids, rows, task="segm"):
    metrics = evaluate(Truth([ids]), [detections(rows)], None, iou_types=(task,)).metrics[task]
    return metrics["AP"], metrics["AP50"]


LEFT, RIGHT, SMALL = rectangle(1, 1, 15, 20), rectangle(20, 1, 35, 20), rectangle(1, 25, 9, 28)


@pytest.mark.parametrize("task", ["segm", "bbox"])
def test_what_is_ignored_and_what_is_not(task):
    both = draw((26000, LEFT), (26001, RIGHT), (26002, SMALL))
    found = [(CAR, LEFT, 0.9), (CAR, RIGHT, 0.8)]
    assert score(both, found, task) == (1, 1)
    assert score(both, [(CAR, SMALL, 0.99), *found], task) == (1, 1), "fewer than 100 pixels"
    assert score(draw((26000, LEFT), (26, RIGHT)), found, task) == (1, 1), "a group"
    assert score(draw((26000, LEFT)), found, task) == (1, 1), "a wrong one that scores less than all correct ones"
    wrong = [(CAR, LEFT, 0.8), (CAR, RIGHT, 0.9)]
    assert score(draw((26000, LEFT)), wrong, task) == (0.25, 0.25), "from precision 0 at recall 0 to 0.5 at 1"
    assert score(draw((26, LEFT)), found, task) == (-1, -1), "nothing is to be found"
    assert score(both, [(PERSON, LEFT, 0.9)], task) == (0, 0)
    assert score(both, [], task) == (0, 0)


def test_void_is_ignored_for_masks():
    ids = draw((26000, LEFT), (LABEL_IDS["dynamic"], RIGHT))
    wrong = [(CAR, LEFT, 0.8), (CAR, RIGHT, 0.9)]
    assert score(ids, wrong) == (1, 1)
    assert score(draw((26000, LEFT), (29, RIGHT)), wrong) == (1, 1), "a group of caravans is void too"
    ap, _ = score(draw((26000, LEFT), (29000, RIGHT)), wrong)
    assert ap < 1, "a single caravan is not, in the official script"


def test_only_ignored_detections():
    assert score(draw((26000, LEFT), (26, RIGHT)), [(CAR, RIGHT, 0.9)]) == (0, 0)


def test_boxes_are_scored_by_their_areas():
    half = rectangle(1, 1, 15, 12)  # 12 of 20 rows: 0.6
    assert score(draw((26000, LEFT)), [(CAR, half, 0.9)], "bbox") == pytest.approx((2 / 10, 1))


def test_classes_of_the_model_that_are_not_scored():
    names = ("__background__", "caravan", "car")
    ids = draw((26000, LEFT))
    results = evaluate(Truth([ids], names), [detections([(1, LEFT, 0.95), (2, LEFT, 0.9)])], None, iou_types=("segm",))
    assert results.metrics["segm"]["AP"] == 1 and set(results.per_class["segm"]) == set(EVALUATED)


def test_files_of_a_folder(tmp_path):
    images = {
        "bonn_000000_000019": [polygon("car", 1, 1, 15, 20), polygon("person", 20, 1, 35, 20)],
        "bonn_000001_000019": [polygon("cargroup", 1, 1, 15, 20)],
    }
    dataset = CityScapesDataset(*write_cityscapes(tmp_path, images, "val", SIZE), "val")
    evaluator = build_evaluator(dataset, iou_types=("bbox", "segm"))
    assert isinstance(evaluator, CityscapesEvaluator) and evaluator.tasks == ["bbox", "segm"]
    truth = draw((26000, rectangle(1, 1, 15, 20)), (24000, rectangle(20, 1, 35, 20)))
    evaluator.process([1, 0], [detections([]), detections([(CAR, truth == 26000, 0.9), (PERSON, truth == 24000, 0.8)])])
    evaluator.merge([evaluator.results])
    results = evaluator.evaluate(tmp_path / "out")
    assert results.metrics == {"bbox": {"AP": 1, "AP50": 1}, "segm": {"AP": 1, "AP50": 1}}
    assert results.per_class["segm"]["car"] == results.per_class["bbox"]["person"] == 1 and results.num_images == 2
    assert json.loads((tmp_path / "out" / "coco_results.json").read_text())["metrics"] == results.metrics
    assert "motorcycle" in (tmp_path / "out" / "results.txt").read_text()
    assert len(torch.load(tmp_path / "out" / "predictions.pth", weights_only=True)) == 2
    assert len(list(evaluator.write_pictures(tmp_path / "drawn", 2).iterdir())) == 2


def test_the_coarse_stage_has_a_row_of_its_own():
    ids, found = draw((26000, LEFT)), detections([(CAR, LEFT, 0.9)])
    found.add_field(fields.COARSE_MASK, found.get_field(fields.MASK).flip(3))
    metrics = evaluate(Truth([ids]), [found], None, iou_types=("segm",)).metrics
    assert metrics["segm"]["AP"] == 1 and metrics["segm_coarse"]["AP"] == 0


def test_what_cannot_be_scored_is_told():
    with pytest.raises(TypeError, match="Cityscapes cannot score on a ListDataset: it has no `read_instance_ids`"):
        build_evaluator(ListDataset([]), evaluators=("Cityscapes",))
    with pytest.raises(ValueError, match=r"proposals \(MODEL.RPN_ONLY\)"):
        build_evaluator(Truth([]), box_only=True)
    with pytest.raises(ValueError, match="unknown iou types .'keypoints'.: Cityscapes scores bbox"):
        build_evaluator(Truth([]), iou_types=("bbox", "keypoints"))
