"""COCO's metrics on data sets that have no COCO annotations: these are made from their ground truth."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.data.datasets import COCODataset, ListDataset, PascalVOCDataset
from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.data.evaluation import build_evaluator, evaluate
from maskrcnn_benchmark.data.evaluation.coco.from_groundtruth import coco_from_groundtruth
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from tests.data.coco_files import annotation, write_coco
from tests.data.voc_files import voc_object, write_voc

POINTS = [value for number in range(17) for value in (5 + number, 6 + number, 2)]


class Hidden(DetectionDataset):
    """A COCODataset whose annotations cannot be seen, only its ground truth."""

    def __init__(self, inside):
        self.inside, self.class_names = inside, inside.class_names

    def __len__(self):
        return len(self.inside)

    def get_img_info(self, index):
        return {key: self.inside.get_img_info(index)[key] for key in ("width", "height")}

    def get_groundtruth(self, index):
        return self.inside.get_groundtruth(index)


@pytest.fixture()
def dataset(tmp_path):
    entries = [
        annotation(1, 1, (2, 3, 30, 20), keypoints=POINTS, num_keypoints=17),
        annotation(2, 1, (20, 10, 60, 50), category_id=18, keypoints=[0] * 51, num_keypoints=0),
        annotation(3, 2, (0, 0, 50, 45), keypoints=POINTS, num_keypoints=17),
    ]
    return COCODataset(*write_coco(tmp_path, entries, [(100, 80), (60, 60), (50, 50)]))


def noisy_detections(dataset):
    """Boxes, masks and keypoints of the ground truth, moved by up to five pixels; scores fall."""
    rng = np.random.default_rng(0)
    found = []
    for index in range(len(dataset)):
        truth = dataset.get_groundtruth(index)
        boxes = truth.bbox + torch.from_numpy(rng.uniform(-5, 5, truth.bbox.shape)).float()
        moved = BoxList(boxes, truth.size)
        moved.add_field(fields.LABELS, truth.get_field(fields.LABELS))
        moved.add_field(fields.SCORES, torch.linspace(0.9, 0.5, len(truth)))
        moved.add_field(fields.MASK, torch.ones(len(truth), 1, 8, 8))
        points = truth.get_field(fields.KEYPOINTS)
        points.keypoints[..., :2] += 2
        moved.add_field(fields.KEYPOINTS, points)
        found.append(moved)
    return found


def test_made_annotations_score_as_those_of_the_file(dataset):
    options = {"output_folder": None, "iou_types": ("bbox", "segm", "keypoints")}
    expected = evaluate(dataset, noisy_detections(dataset), **options)
    measured = evaluate(Hidden(dataset), noisy_detections(dataset), **options)
    assert set(measured.metrics) == {"bbox", "segm", "keypoints"}
    assert 0 < measured.metrics["bbox"]["AP"] < 1
    for task, metrics in expected.metrics.items():
        assert measured.metrics[task] == pytest.approx(metrics, abs=1e-9), task
    assert measured.per_class["segm"] == pytest.approx(expected.per_class["segm"], abs=1e-9)


@pytest.mark.parametrize("offset", [0, 1])
def test_annotations_keep_boxes_masks_and_keypoints(tmp_path, offset):
    entries = [annotation(9, bbox=(2, 3, 10, 8), category_id=18, keypoints=POINTS)]
    coco = coco_from_groundtruth(Hidden(COCODataset(*write_coco(tmp_path, entries), offset=offset)))
    assert coco.dataset["images"] == [{"id": 0, "width": 40, "height": 30}]
    assert coco.dataset["categories"] == [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}]
    (entry,) = coco.dataset["annotations"]
    mask = entry.pop("segmentation")
    assert mask["size"] == [30, 40] and coco.annToMask({**entry, "segmentation": mask}).sum() == 80
    assert entry == {
        "id": 9, "image_id": 0, "category_id": 2, "bbox": [2, 3, 10, 8], "area": 80, "iscrowd": 0,
        "keypoints": POINTS, "num_keypoints": 17,
    }  # fmt: skip


def test_images_without_objects(tmp_path):
    dataset = Hidden(COCODataset(*write_coco(tmp_path, []), with_masks=True, with_keypoints=True))
    found = BoxList([], (40, 30))
    found.add_field(fields.LABELS, torch.zeros(0, dtype=torch.int64))
    found.add_field(fields.SCORES, torch.zeros(0))
    assert evaluate(dataset, [found], None).metrics["bbox"]["AP"] == -1


def test_voc_by_coco_s_metrics_ignores_difficult_objects(tmp_path):
    write_voc(tmp_path, {"000007": [voc_object(difficult=1), voc_object("cat", (20, 5, 35, 25))]})
    dataset = PascalVOCDataset(tmp_path, "train", use_difficult=True)
    found = dataset.get_groundtruth(0)
    found.add_field(fields.SCORES, torch.tensor([0.9, 0.8]))
    results = evaluate(dataset, [found], None, evaluators=("COCO", "VOC"))
    assert results.metrics["bbox"]["AP"] == pytest.approx(1)
    assert results.metrics["bbox (VOC)"] == {"AP": 1, "AP (area)": 1}
    assert results.per_class["bbox"]["dog"] == -1


def test_a_data_set_that_knows_no_truth_is_refused():
    with pytest.raises(TypeError, match="ListDataset cannot be evaluated: it has no `coco` annotations .* no `get_gr"):
        build_evaluator(ListDataset([]))
