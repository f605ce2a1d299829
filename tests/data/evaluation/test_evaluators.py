"""The evaluator interface: one of a user's own, several on one pass, and tasks that are added."""

import json

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.data.evaluation import (
    EVALUATORS,
    CocoEvaluator,
    EvaluationResults,
    EvaluationSettings,
    Evaluator,
    build_evaluator,
    evaluate,
    write_results,
)
from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult
from maskrcnn_benchmark.data.evaluation.coco.measures import run_cocoeval
from maskrcnn_benchmark.data.evaluation.coco.tasks import TASKS, MaskTask, Stage, Task, task_of
from maskrcnn_benchmark.data.evaluation.group import EvaluatorGroup
from maskrcnn_benchmark.data.evaluation.results import merge_results
from maskrcnn_benchmark.structures import fields
from tests.data.evaluation.test_coco_evaluation import ANNOTATIONS, FakeDataset, ground_truth_as_detections


class CountEvaluator(Evaluator):
    """Counts detections: a task that COCO does not know."""

    tasks = ("count",)

    def process(self, indices, detections):
        self.results.update(zip(indices, map(len, detections), strict=True))

    def evaluate(self, output_folder=None):
        return EvaluationResults({"count": {"mean": sum(self.results.values()) / len(self.results)}}, len(self.results))


@pytest.fixture()
def count(monkeypatch):
    monkeypatch.setitem(EVALUATORS, "Count", CountEvaluator)


def test_coco_s_evaluator_is_the_default():
    assert isinstance(build_evaluator(FakeDataset(ANNOTATIONS)), CocoEvaluator)
    assert build_evaluator(FakeDataset(ANNOTATIONS), iou_types=("keypoints", "bbox")).tasks == ["bbox", "keypoints"]
    assert get_cfg().TEST.EVALUATORS == ()


def test_a_data_set_chooses_its_evaluator(count, tmp_path):
    dataset = FakeDataset(ANNOTATIONS)
    dataset.evaluator, dataset.coco = "Count", None
    evaluator = build_evaluator(dataset, iou_types=("count",))
    assert isinstance(evaluator, CountEvaluator) and evaluator.settings == EvaluationSettings(("count",))
    results = evaluate(dataset, ground_truth_as_detections(), tmp_path, iou_types=("count",))
    assert results.metrics == {"count": {"mean": pytest.approx(5 / 3)}}
    assert evaluator.write_pictures(tmp_path, 2) is None


def test_several_evaluators_share_one_table(count, tmp_path):
    detections = ground_truth_as_detections()
    options = {"iou_types": ("bbox", "count"), "evaluators": ("COCO", "Count")}
    results = evaluate(FakeDataset(ANNOTATIONS), detections, tmp_path, **options)
    assert results.metrics["bbox"]["AP"] == pytest.approx(1) and results.metrics["count"]["mean"] == pytest.approx(
        5 / 3
    )
    assert json.loads((tmp_path / "coco_results.json").read_text())["metrics"] == results.metrics
    table = (tmp_path / "results.txt").read_text().splitlines()
    assert table[0].split()[-1] == "mean" and table[2].split() == ["count", *"------", "1.6667"]
    assert results.summary_score() == pytest.approx(1), "a task without an AP does not count"
    assert (tmp_path / "bbox.json").is_file()


def test_the_ranks_results_are_merged_for_each_evaluator(count):
    detections = ground_truth_as_detections()
    options = {"iou_types": ("bbox", "count"), "evaluators": ("COCO", "Count")}
    ranks = [build_evaluator(FakeDataset(ANNOTATIONS), **options) for _ in range(2)]
    assert isinstance(ranks[0], EvaluatorGroup)
    ranks[0].process([0, 2], [detections[0], detections[2]])
    ranks[1].process([1], [detections[1]])
    with pytest.raises(RuntimeError, match=r"1 of 3 images have no predictions \(image ids 10\)"):
        build_evaluator(FakeDataset(ANNOTATIONS), **options).merge([ranks[0].results])
    ranks[0].merge([rank.results for rank in ranks])
    single = evaluate(FakeDataset(ANNOTATIONS), detections, None, **options)
    assert ranks[0].evaluate().metrics == single.metrics


def test_metrics_of_one_name_get_rows_of_their_own():
    coco = EvaluationResults({"bbox": {"AP": 0.5}}, 3, per_class={"bbox": {"dog": 0.5}})
    voc = EvaluationResults({"bbox": {"AP": 0.25, "mAP": 0.75}, "size": {"error": 2.0}}, 3, {"bbox": {"dog": 0.2}})
    merged = merge_results({"COCO": coco, "VOC": voc})
    assert merged.metrics == {"bbox": {"AP": 0.5}, "bbox (VOC)": {"AP": 0.25, "mAP": 0.75}, "size": {"error": 2.0}}
    assert merged.per_class == {"bbox": {"dog": 0.5}, "bbox (VOC)": {"dog": 0.2}} and merged.num_images == 3
    assert coco.metrics == {"bbox": {"AP": 0.5}}, "the single results are unchanged"
    recall = EvaluationResults({"bbox": {"recall": 0.9}}, 3)
    assert merge_results({"COCO": coco, "Recall": recall}).metrics == {"bbox": {"AP": 0.5, "recall": 0.9}}
    assert merged.per_class_table().split() == ["AP", "of", "bbox", "bbox", "(VOC)", "dog", "0.5000", "0.2000"]


def test_tables_are_written_into_a_new_folder(tmp_path):
    write_results(EvaluationResults({"count": {"mean": 2.0}}, 1), str(tmp_path / "new"))
    assert (tmp_path / "new" / "results.txt").read_text() == "         mean\ncount  2.0000\n"


def test_unknown_names_are_told(count):
    dataset = FakeDataset(ANNOTATIONS)
    with pytest.raises(KeyError, match="TEST.EVALUATORS names 'Coco'; registered: COCO, Cityscapes, Count, VOC"):
        build_evaluator(dataset, evaluators=("Coco",))
    with pytest.raises(ValueError, match="unknown iou types .'age'.: COCO scores bbox; Count scores count"):
        build_evaluator(dataset, iou_types=("bbox", "age"), evaluators=("COCO", "Count"))
    dataset.evaluator = "Unheard"
    with pytest.raises(KeyError, match="the data set's attribute `evaluator` names 'Unheard'"):
        build_evaluator(dataset)
    with pytest.raises(ValueError, match="there are no results called 'age'; there are bbox, segm, segm_coarse"):
        task_of("age")


class AreaTask(Task):
    """Writes a number per detection; scored by its boxes."""

    name, iou_type, entry_key, group = "area", "bbox", "area", "numbers"
    stages = (Stage("area", "areas"),)

    def pack(self, stage, detections, resized):
        return detections.get_field(stage.field).numpy()

    def entries(self, packed):
        return packed.tolist()

    def measures(self, settings):
        return {}


def test_a_task_of_ones_own_is_packed_and_written(monkeypatch, tmp_path):
    monkeypatch.setitem(TASKS, "area", AreaTask())
    detections = ground_truth_as_detections()
    for found in detections:
        found.add_field("areas", found.area())
    results = evaluate(FakeDataset(ANNOTATIONS), detections, tmp_path, iou_types=("bbox", "area"))
    assert list(results.metrics) == ["bbox"]
    entries = json.loads((tmp_path / "area.json").read_text())
    assert [set(entry) for entry in entries] == [{"image_id", "category_id", "area", "score"}] * 5
    saved = torch.load(tmp_path / "predictions.pth", weights_only=True)
    assert saved[0]["numbers"]["area"].tolist() == detections[0].get_field("areas").tolist()


def test_further_masks_are_one_class(monkeypatch, tmp_path):
    class SkinTask(MaskTask):
        name = "segm_skin"
        stages = (Stage("segm_skin", "skin"), Stage("segm_skin_coarse", "coarse_skin"))

    monkeypatch.setitem(TASKS, "segm_skin", SkinTask())
    detections = ground_truth_as_detections()
    for found in detections:
        found.add_field("skin", found.get_field(fields.MASK))
        found.add_field("coarse_skin", torch.zeros_like(found.get_field(fields.MASK)))
    options = {"iou_types": ("segm", "segm_skin"), "boundary_ap": True}
    results = evaluate(FakeDataset(ANNOTATIONS), detections, tmp_path, **options)
    assert list(results.metrics) == [
        "segm",
        "boundary",
        "segm_skin_coarse",
        "boundary_skin_coarse",
        "segm_skin",
        "boundary_skin",
    ]
    assert results.metrics["segm_skin"] == results.metrics["segm"] and results.metrics["segm_skin_coarse"]["AP"] == 0
    assert "segm (skin, refined)" in results.table() and (tmp_path / "segm_skin.json").is_file()
    saved = torch.load(tmp_path / "predictions.pth", weights_only=True)
    assert set(saved[0]["masks"]) == {"segm", "segm_skin", "segm_skin_coarse"}


def test_a_stage_without_pack_is_told():
    class Forgotten(AreaTask):
        pack = Task.pack

    with pytest.raises(NotImplementedError, match="Forgotten has a stage with the field 'areas', but no `pack`"):
        Forgotten().pack(Stage("area", "areas"), None, None)


def test_results_of_no_detections_have_no_entries():
    nothing = ImageResult((8, 8), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    for name in ("bbox", "segm", "keypoints_coarse"):
        assert list(nothing.coco_results(name, 1, {})) == []
    assert nothing.masks == {} and nothing.keypoints == {}


def test_a_measure_is_found_by_name():
    dataset = FakeDataset(ANNOTATIONS)
    found = ground_truth_as_detections()
    assert found[0].has_field(fields.MASK)
    evaluator = CocoEvaluator(dataset, iou_types=("bbox", "segm"))
    evaluator.process(range(3), found)
    assert run_cocoeval(dataset.coco, evaluator.coco_results("segm"), "boundary", [40, 10, 30]).stats[0] >= 0
