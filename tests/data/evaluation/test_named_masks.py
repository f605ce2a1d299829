"""Evaluation of several masks per instance, each with a name."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO

from maskrcnn_benchmark.data.datasets import COCODataset
from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.data.evaluation import EvaluationResults, build_evaluator, evaluate
from maskrcnn_benchmark.data.evaluation.coco.tasks import find_task, task_of
from maskrcnn_benchmark.data.evaluation.results import check_expected_entries
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from maskrcnn_benchmark.utils.problems import ConfigError
from tests.data.coco_files import annotation, write_coco
from tests.data.evaluation.test_coco_evaluation import reference_stats

SIZE = (120, 90)
VISIBLE, AMODAL = fields.mask_fields("visible"), fields.mask_fields("amodal")


def filled(box):
    """(H, W) with the pixels of a box x1, y1, x2, y2, in whole pixels."""
    mask = torch.zeros(SIZE[::-1], dtype=torch.uint8)
    x1, y1, x2, y2 = box
    mask[y1:y2, x1:x2] = 1
    return mask


class Scenes(DetectionDataset):
    """Images with objects (amodal box, visible box or None); boxes are those of the amodal mask."""

    class_names = ("__background__", "thing")
    mask_names = ("visible", "amodal")

    def __init__(self, *scenes):
        self.scenes = scenes

    def __len__(self):
        return len(self.scenes)

    def get_img_info(self, index):
        return {"id": index + 10, "width": SIZE[0], "height": SIZE[1]}

    def get_groundtruth(self, index):
        scene = self.scenes[index]
        truth = BoxList([list(map(float, amodal)) for amodal, _ in scene], SIZE, offset=0)
        truth.add_field(fields.LABELS, torch.ones(len(scene), dtype=torch.int64))
        for names, masks in ((AMODAL, [amodal for amodal, _ in scene]), (VISIBLE, [visible for _, visible in scene])):
            drawn = [filled(box or (0, 0, 0, 0)) for box in masks]
            truth.add_field(names.truth, SegmentationMask(drawn, SIZE))
            truth.add_field(names.present, torch.tensor([box is not None for box in masks], dtype=torch.bool))
        return truth


SCENES = (
    [((10, 10, 60, 50), (10, 10, 40, 50)), ((50, 20, 100, 80), (60, 20, 100, 80))],
    [((5, 5, 45, 85), (5, 5, 45, 40))],
    [],
)


def found(masks, scores=None, boxes=None):
    """Detections with whole masks of the image: visible and amodal boxes."""
    boxes = [amodal for amodal, _ in masks] if boxes is None else boxes
    detections = BoxList(np.array(boxes, dtype=np.float32).reshape(-1, 4), SIZE, offset=0)
    detections.add_field(fields.LABELS, torch.ones(len(masks), dtype=torch.int64))
    detections.add_field(
        fields.SCORES, torch.linspace(0.9, 0.6, len(masks)) if scores is None else torch.tensor(scores)
    )
    for names, drawn in ((AMODAL, [amodal for amodal, _ in masks]), (VISIBLE, [visible for _, visible in masks])):
        stacked = [filled(box) for box in drawn] or [torch.zeros(0, *SIZE[::-1], dtype=torch.uint8)]
        detections.add_field(names.mask, torch.stack(stacked)[:, None] if drawn else stacked[0][:, None])
    return detections


def moved(box, by):
    x1, y1, x2, y2 = box
    return x1, y1 + by, x2, y2 + by


TASKS = ("bbox", "segm_visible", "segm_amodal")


def aps(dataset, detections, **options):
    results = evaluate(dataset, detections, None, iou_types=TASKS, **options)
    return {task: metrics["AP"] for task, metrics in results.metrics.items()}


def test_each_mask_is_scored_by_its_own_truth_and_area():
    dataset = Scenes(*SCENES)
    detections = [found([(moved(amodal, 2), moved(visible, 4)) for amodal, visible in scene]) for scene in SCENES]
    results = evaluate(dataset, detections, None, iou_types=TASKS, boundary_ap=True)
    for task, position, shift in (("segm_amodal", 0, 2), ("segm_visible", 1, 4)):
        coco, entries = COCO(), []
        annotations = []
        for index, scene in enumerate(SCENES):
            for objects, score in zip(scene, (0.9, 0.6), strict=False):
                rle = mask_utils.encode(np.asfortranarray(filled(objects[position]).numpy()))
                box = [float(value) for value in mask_utils.toBbox(rle)]
                entry = {"image_id": index + 10, "category_id": 1, "segmentation": rle}
                area = float(mask_utils.area(rle))
                annotations.append({**entry, "id": len(annotations) + 1, "iscrowd": 0, "area": area, "bbox": box})
                drawn = filled(moved(objects[position], shift)).numpy()
                entries.append({**entry, "segmentation": mask_utils.encode(np.asfortranarray(drawn)), "score": score})
        images = [{"id": index + 10, "width": SIZE[0], "height": SIZE[1]} for index in range(len(SCENES))]
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
        coco.createIndex()
        expected = reference_stats(SimpleNamespace(coco=coco), entries, "segm")
        assert list(results.metrics[task].values()) == pytest.approx(expected[:6])
        assert 0 < results.metrics[task]["AP"] < 1
    # the visible part of the object in the second image has 1400 pixels, the whole object 3200
    assert results.metrics["segm_visible"]["APm"] != results.metrics["segm_amodal"]["APm"]
    assert 0 < results.metrics["boundary_amodal"]["AP"] < results.metrics["segm_amodal"]["AP"]


@pytest.mark.parametrize("boundary_ap", [False, True])
def test_an_object_without_a_mask_is_neither_missed_nor_are_detections_of_it_wrong(boundary_ap):
    lacking = [[(amodal, visible if row else None) for row, (amodal, visible) in enumerate(scene)] for scene in SCENES]
    lacking[1] = SCENES[1]
    dataset = Scenes(*lacking)
    perfect = [found(scene) for scene in SCENES]
    assert list(aps(dataset, perfect, boundary_ap=boundary_ap).values()) == pytest.approx(
        [1] * (5 if boundary_ap else 3)
    )
    without = [perfect[0][torch.tensor([1])], *perfect[1:]]
    scores = aps(dataset, without, boundary_ap=boundary_ap)
    assert scores["segm_visible"] == pytest.approx(1), "not missed"
    assert scores["segm_amodal"] < 0.8, "its other mask counts"
    twice = found([*SCENES[0], ((12, 12, 50, 40), (12, 30, 24, 40))], scores=[0.8, 0.7, 0.95])
    assert aps(dataset, [twice, *perfect[1:]], boundary_ap=boundary_ap)["segm_visible"] == pytest.approx(1)
    elsewhere = found([*SCENES[0], ((70, 60, 118, 88), (100, 80, 118, 88))], scores=[0.8, 0.7, 0.95])
    assert aps(dataset, [elsewhere, *perfect[1:]], boundary_ap=boundary_ap)["segm_visible"] < 0.9, "wrong"


def test_all_objects_without_a_mask_leave_nothing_to_measure():
    scenes = [[(amodal, None) for amodal, _ in scene] for scene in SCENES]
    scores = aps(Scenes(*scenes), [found(scene) for scene in SCENES])
    assert scores == {"bbox": pytest.approx(1), "segm_visible": -1, "segm_amodal": pytest.approx(1)}


def test_crowd_regions_of_the_file_are_kept():
    dataset = Scenes([], *SCENES[1:])
    region = mask_utils.encode(np.asfortranarray(filled((0, 0, 60, 60)).numpy()))
    crowd = {"id": 7, "image_id": 10, "category_id": 1, "iscrowd": 1, "area": 3600.0, "bbox": [0, 0, 60, 60]}
    dataset.coco = COCO()
    dataset.coco.dataset = {"images": [{"id": index} for index in (10, 11, 12)], "categories": [{"id": 1, "name": "x"}],
                            "annotations": [{**crowd, "segmentation": region}]}  # fmt: skip
    dataset.coco.createIndex()
    inside = found([((10, 10, 40, 40), (10, 10, 30, 30))], scores=[0.99])
    results = evaluate(dataset, [inside, found(SCENES[1]), found([])], None, iou_types=("segm_visible", "segm_amodal"))
    assert [metrics["AP"] for metrics in results.metrics.values()] == pytest.approx([1, 1])


def test_files_tables_and_ranks(tmp_path):
    dataset = Scenes(*SCENES)
    detections = [found(scene) for scene in SCENES]
    for boxes in detections:
        boxes.add_field(VISIBLE.coarse, torch.zeros_like(boxes.get_field(VISIBLE.mask)))
        boxes.add_field(AMODAL.scores, boxes.get_field(fields.SCORES) / 2)
    options = {"iou_types": TASKS, "boundary_ap": True}
    results = evaluate(dataset, detections, tmp_path, **options)
    assert [line.split("  ")[0] for line in (tmp_path / "results.txt").read_text().splitlines()[1:]] == [
        "bbox", "segm (visible, coarse)", "segm (visible, refined)", "segm (amodal)",
        "boundary (visible, coarse)", "boundary (visible, refined)", "boundary (amodal)",
    ]  # fmt: skip
    names = {"bbox", "segm_visible", "segm_visible_coarse", "segm_amodal"}
    assert {path.stem for path in tmp_path.glob("*.json")} == {*names, "coco_results"}
    amodal = json.loads((tmp_path / "segm_amodal.json").read_text())
    assert [entry["score"] for entry in amodal] == pytest.approx([0.45, 0.3, 0.45])
    assert mask_utils.area(amodal[0]["segmentation"]) == 50 * 40
    saved = torch.load(tmp_path / "predictions.pth", weights_only=True)
    assert set(saved[0]["masks"]) == {"segm_visible", "segm_visible_coarse", "segm_amodal"}
    ranks = [build_evaluator(dataset, **options) for _ in range(2)]
    ranks[0].process([0, 2], [detections[0], detections[2]])
    ranks[1].process([1], [detections[1]])
    ranks[0].merge([copy.deepcopy(rank.results) for rank in ranks])
    assert ranks[0].evaluate().metrics == results.metrics


def test_probabilities_are_pasted_over_their_own_boxes():
    detections = found([SCENES[1][0]])
    for names, box in ((VISIBLE, (5.0, 5.0, 45.0, 40.0)), (AMODAL, (5.0, 5.0, 45.0, 85.0))):
        detections.add_field(names.mask, torch.ones(1, 1, 28, 28))
        detections.add_field(names.boxes, BoxList([box], SIZE, offset=0))
    detections.add_field("mask_quality", torch.ones(1))  # of somebody's own head; not a mask
    scores = aps(Scenes(SCENES[1]), [detections])
    assert list(scores.values()) == pytest.approx([1, 1, 1])


def test_the_summary_and_expected_results_know_named_masks():
    metrics = {
        "bbox": {"AP": 0.1}, "segm_visible": {"AP": 0.2}, "segm_visible_coarse": {"AP": 0.9},
        "boundary_visible": {"AP": 0.9}, "segm_amodal": {"AP": 0.6},
    }  # fmt: skip
    assert EvaluationResults(metrics, 1).summary_score() == pytest.approx(0.3)
    check_expected_entries([["segm_visible", "AP75", [0.1, 0.1]], ["boundary_amodal_coarse", "AP", [0.1, 0.1]]], False)
    with pytest.raises(ConfigError, match="names 'segm_visible' 'AP42'"):
        check_expected_entries([["segm_visible", "AP42", [0.1, 0.1]]], False)


def test_names_of_tasks():
    assert find_task("segm_visible").name == "segm_visible" and task_of("segm_visible_coarse").mask_name == "visible"
    assert task_of("segm_coarse").name == "segm", "a mask cannot be called coarse"
    assert find_task("segm_") is None and find_task("mask_visible") is None
    with pytest.raises(ValueError, match="no results called 'segm_2'"):
        task_of("segm_2")


def test_a_data_set_without_the_mask_leaves_nothing_to_measure():
    detections = [found(scene) for scene in SCENES]
    for boxes in detections:
        boxes.add_field(fields.mask_fields("hidden").mask, boxes.get_field(VISIBLE.mask))
    results = evaluate(Scenes(*SCENES), detections, None, iou_types=("bbox", "segm_hidden"))
    assert results.metrics["segm_hidden"]["AP"] == -1
    assert results.table().splitlines()[-1].split() == ["segm", "(hidden)", *"------"]


def test_the_masks_of_a_file_and_a_mask_scored_as_another(tmp_path):
    """The ground truth of a COCO file; MASK_KEYS reads the truth of one mask under the name of another."""

    def polygon(x1, y1, x2, y2):
        return [[x1, y1, x2, y1, x2, y2, x1, y2]]

    entries = []
    for image, scene in enumerate(SCENES, 1):
        for amodal, visible in scene:
            x1, y1, x2, y2 = amodal
            masks = {"visible": polygon(*visible), "amodal": polygon(*amodal)}
            box = (x1, y1, x2 - x1, y2 - y1)
            entries.append(annotation(20 + len(entries), image, box, segmentations=masks))
    files = write_coco(tmp_path, entries, [SIZE] * 3)
    detections = [found(scene) for scene in SCENES]
    for mapped in (False, True):
        keys = {"visible": "segmentations.amodal"} if mapped else {}
        dataset = COCODataset(*files, offset=0, named_masks=("visible", "amodal"), mask_keys=keys)
        scores = aps(dataset, detections)
        assert scores["bbox"] == scores["segm_amodal"] == pytest.approx(1)
        assert (scores["segm_visible"] < 0.6) if mapped else (scores["segm_visible"] == pytest.approx(1))
    ids = [entry["id"] for entry in entries]
    assert sorted(find_task("segm_visible").annotations(dataset, dataset.coco).anns) == ids, "as reports need them"
