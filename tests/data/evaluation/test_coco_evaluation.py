"""COCO evaluation against pycocotools fed with result lists that are made by hand here."""

import contextlib
import io
import json
import logging
import pickle

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_utils
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_benchmark.data.evaluation import CocoEvaluator, EvaluationResults, build_evaluator, evaluate
from maskrcnn_benchmark.data.evaluation.coco.ground_truth import build_ground_truth
from maskrcnn_benchmark.data.evaluation.coco.proposal_recall import proposal_recall
from maskrcnn_benchmark.data.evaluation.coco.run_lengths import encode_masks
from maskrcnn_benchmark.data.evaluation.results import check_expected_results, merge_results
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import Keypoints, PersonKeypoints
from maskrcnn_benchmark.structures.skeleton import UNIFORM_SIGMA, KeypointSpec
from tests.devices import DEVICES

SIZES = [(200, 160), (120, 220), (90, 90)]  # (width, height) of the images with ids 40, 10, 30, in the dataset's order
IMAGE_IDS = [40, 10, 30]
CATEGORY_IDS = {1: 7, 2: 3}  # contiguous -> the file's, out of order


class FakeDataset:
    """What an evaluator asks of a COCODataset."""

    def __init__(self, annotations, num_categories=2):
        self.coco = COCO()
        self.coco.dataset = {
            "images": [
                {"id": image_id, "width": w, "height": h} for image_id, (w, h) in zip(IMAGE_IDS, SIZES, strict=True)
            ],
            "categories": [
                {"id": CATEGORY_IDS[label], "name": f"class{label}"} for label in range(1, num_categories + 1)
            ],
            "annotations": annotations,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()
        self.id_to_img_map = dict(enumerate(IMAGE_IDS))
        self.contiguous_category_id_to_json_id = {label: CATEGORY_IDS[label] for label in range(1, num_categories + 1)}

    def __len__(self):
        return len(IMAGE_IDS)

    def get_img_info(self, index):
        return {"id": IMAGE_IDS[index], "width": SIZES[index][0], "height": SIZES[index][1]}


def person(annotation_id, image_id, label, box, keypoints=None, **extra):
    """An annotation whose mask is its box, with whole pixels; keypoints spread over the box unless given."""
    x, y, w, h = box
    if keypoints is None:
        spread = np.linspace(0.1, 0.9, 17)
        keypoints = np.stack([x + w * spread, y + h * spread[::-1], np.full(17, 2)], axis=1).reshape(-1).tolist()
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": CATEGORY_IDS[label],
        "bbox": list(map(float, box)),
        "area": float(w * h),
        "iscrowd": 0,
        "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        "keypoints": keypoints,
        "num_keypoints": sum(v > 0 for v in keypoints[2::3]),
        **extra,
    }


ANNOTATIONS = [
    person(1, 40, 1, (10, 20, 60, 80)),
    person(2, 40, 2, (90, 30, 100, 120)),
    person(3, 10, 1, (5, 5, 20, 25)),
    person(4, 10, 1, (40, 100, 70, 100)),
    person(5, 30, 2, (12, 14, 50, 60)),
]


def detections_of(index, boxes_xywh, labels, scores, *, scale=2, offset=0, masks=True, keypoints=None, **extra_fields):
    """A BoxList as a model gives it: in an image `scale` times as large; masks are full, so they are their boxes."""
    width, height = SIZES[index]
    boxes = torch.tensor(boxes_xywh, dtype=torch.float32).reshape(-1, 4) * scale
    corners = torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:] - offset], dim=1)
    found = BoxList(corners, (width * scale, height * scale), offset=offset)
    found.add_field(fields.LABELS, torch.tensor(labels, dtype=torch.int64))
    found.add_field(fields.SCORES, torch.tensor(scores, dtype=torch.float32))
    if masks:
        found.add_field(fields.MASK, torch.ones(len(found), 1, 28, 28))
    if keypoints is not None:
        points = torch.tensor(np.asarray(keypoints), dtype=torch.float32)
        points = points if points.dim() == 3 else points.reshape(len(found), -1, 3)
        points[..., :2] *= scale
        cls = PersonKeypoints if points.shape[1] == 17 else Keypoints
        found.add_field(fields.KEYPOINTS, cls(points, found.size))
    for name, value in extra_fields.items():
        found.add_field(name, value)
    return found


def ground_truth_as_detections(annotations=ANNOTATIONS, **kwargs):
    labels = {json_id: label for label, json_id in CATEGORY_IDS.items()}
    found = []
    for index, image_id in enumerate(IMAGE_IDS):
        of_image = [annotation for annotation in annotations if annotation["image_id"] == image_id]
        found.append(
            detections_of(
                index,
                [a["bbox"] for a in of_image],
                [labels[a["category_id"]] for a in of_image],
                [0.9 - 0.1 * i for i in range(len(of_image))],
                keypoints=[a["keypoints"] for a in of_image],
                **kwargs,
            )
        )
    return found


ALL = ("bbox", "segm", "keypoints")


@pytest.mark.parametrize("offset", [0, 1])
def test_ground_truth_as_predictions_scores_one(offset, tmp_path):
    # With inclusive corners resizing shifts the far side by 1 - 1 / scale pixels (as upstream has it): exact at
    # scale 1.
    scale = 2 if offset == 0 else 1
    predictions = ground_truth_as_detections(offset=offset, scale=scale)
    results = evaluate(FakeDataset(ANNOTATIONS), predictions, tmp_path, iou_types=ALL)
    for task in ALL:
        assert results.results[task]["AP"] == pytest.approx(1.0), task
    assert results.metrics["bbox"]["APs"] == pytest.approx(1.0)
    assert "APs" not in results.metrics["keypoints"]
    assert results.num_images == 3


def reference_stats(dataset, entries, iou_type, sigmas=None):
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(dataset.coco, dataset.coco.loadRes(entries), iou_type)
        if sigmas is not None:
            evaluation.params.kpt_oks_sigmas = np.asarray(sigmas)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def perturbed_case(seed=3):
    """Noisy copies of the ground truth plus false alarms: per image boxes xywh, labels, scores, keypoints in
    float64."""
    rng = np.random.default_rng(seed)
    labels_of = {json_id: label for label, json_id in CATEGORY_IDS.items()}
    case = []
    for image_id, (width, height) in zip(IMAGE_IDS, SIZES, strict=True):
        boxes, labels, keypoints = [], [], []
        for annotation in ANNOTATIONS:
            if annotation["image_id"] == image_id:
                for _ in range(3):
                    boxes.append(np.asarray(annotation["bbox"]) + rng.integers(-6, 7, 4))
                    labels.append(labels_of[annotation["category_id"]] if rng.random() < 0.8 else rng.integers(1, 3))
                    points = np.asarray(annotation["keypoints"]).reshape(17, 3).copy()
                    points[:, :2] += rng.normal(0, 3, (17, 2))
                    keypoints.append(points)
        boxes.append(np.array([1, 1, width // 2, height // 2]))
        labels.append(1)
        keypoints.append(np.column_stack([rng.uniform(0, 60, (17, 2)), np.ones(17)]))
        # binary fractions: the same in float32 and float64, so that ties and order are the same on both sides
        case.append((np.array(boxes), np.array(labels), rng.integers(1, 1024, len(boxes)) / 1024, np.array(keypoints)))
    return case


def test_noisy_predictions_score_as_pycocotools_says():
    dataset, case = FakeDataset(ANNOTATIONS), perturbed_case()
    expected = {task: [] for task in ALL}
    for image_id, (width, height), (boxes, labels, scores, keypoints) in zip(IMAGE_IDS, SIZES, case, strict=True):
        for box, label, score, points in zip(boxes, labels, scores, keypoints, strict=True):
            head = {"image_id": image_id, "category_id": CATEGORY_IDS[int(label)], "score": float(score)}
            x, y, w, h = map(int, box)
            bitmap = np.zeros((height, width), dtype=np.uint8, order="F")
            bitmap[max(0, y) : y + h, max(0, x) : x + w] = 1
            expected["bbox"].append({**head, "bbox": [float(v) for v in box]})
            expected["segm"].append({**head, "segmentation": mask_utils.encode(bitmap)})
            expected["keypoints"].append({**head, "keypoints": points.astype(np.float32).reshape(-1).tolist()})
    predictions = [
        detections_of(index, boxes, labels, scores, keypoints=keypoints)
        for index, (boxes, labels, scores, keypoints) in enumerate(case)
    ]
    results = evaluate(dataset, predictions, None, iou_types=ALL)
    for task, names in (
        ("bbox", ["AP", "AP50", "AP75", "APs", "APm", "APl"]),
        ("segm", ["AP", "AP50", "AP75", "APs", "APm", "APl"]),
        ("keypoints", ["AP", "AP50", "AP75", "APm", "APl"]),
    ):
        stats = reference_stats(dataset, expected[task], task)
        assert 0.05 < stats[0] < 0.95, "the case should be neither trivial nor hopeless"
        np.testing.assert_allclose([results.metrics[task][name] for name in names], stats[: len(names)], atol=1e-6)


def test_files_hold_coco_results_and_tensors_that_load_safely(tmp_path):
    dataset = FakeDataset(ANNOTATIONS)
    results = evaluate(dataset, ground_truth_as_detections(), tmp_path, iou_types=ALL)
    names = {
        "bbox.json",
        "segm.json",
        "keypoints.json",
        "predictions.pth",
        "coco_results.pth",
        "coco_results.json",
        "results.txt",
    }
    assert {path.name for path in tmp_path.iterdir()} == names

    segm = json.loads((tmp_path / "segm.json").read_text())
    assert [entry["image_id"] for entry in segm] == [40, 40, 10, 10, 30]
    for entry, annotation in zip(segm, ANNOTATIONS, strict=True):
        assert entry["category_id"] == annotation["category_id"]
        differs = mask_utils.decode(entry["segmentation"]) != dataset.coco.annToMask(annotation)
        assert differs.sum() <= 4, "bilinear interpolation rounds the corners off, and nothing else"
        assert mask_utils.decode(entry["segmentation"]).shape[::-1] == SIZES[IMAGE_IDS.index(entry["image_id"])]
    boxes = json.loads((tmp_path / "bbox.json").read_text())
    assert boxes[1] == {
        "image_id": 40,
        "category_id": 3,
        "bbox": [90.0, 30.0, 100.0, 120.0],
        "score": pytest.approx(0.8),
    }
    keypoints = json.loads((tmp_path / "keypoints.json").read_text())
    np.testing.assert_allclose(keypoints[0]["keypoints"], ANNOTATIONS[0]["keypoints"], rtol=1e-6)

    assert reference_stats(dataset, json.loads((tmp_path / "segm.json").read_text()), "segm")[0] == pytest.approx(1.0)
    assert torch.load(tmp_path / "coco_results.pth", weights_only=True) == results.metrics
    assert json.loads((tmp_path / "coco_results.json").read_text())["metrics"] == results.metrics
    predictions = torch.load(tmp_path / "predictions.pth", weights_only=True)
    assert [entry["image_id"] for entry in predictions] == IMAGE_IDS
    assert predictions[1]["boxes_xywh"].tolist() == [[5, 5, 20, 25], [40, 100, 70, 100]]


def test_coarse_and_refined_predictions_get_a_row_each(tmp_path):
    predictions = ground_truth_as_detections()
    for found in predictions:
        half = torch.ones(len(found), 1, 14, 14)
        half[..., 7:] = 0  # half of each object: IoU 0.5
        shifted = found.get_field(fields.KEYPOINTS).keypoints.clone()
        shifted[..., :2] += 500
        found.add_field(fields.COARSE_MASK, half)
        found.add_field(fields.COARSE_KEYPOINTS, PersonKeypoints(shifted, found.size))
    results = evaluate(FakeDataset(ANNOTATIONS), predictions, tmp_path, iou_types=ALL)
    assert list(results.metrics) == ["bbox", "segm_coarse", "segm", "keypoints_coarse", "keypoints"]
    assert results.metrics["segm"]["AP"] == pytest.approx(1.0)
    assert results.metrics["segm_coarse"]["AP"] < 0.2
    assert results.metrics["keypoints"]["AP"] == pytest.approx(1.0)
    assert results.metrics["keypoints_coarse"]["AP"] == 0
    assert {"segm_coarse.json", "keypoints_coarse.json"} <= {path.name for path in tmp_path.iterdir()}
    rows = [line.split("  ")[0] for line in (tmp_path / "results.txt").read_text().splitlines()]
    assert rows[1:6] == ["bbox", "segm (coarse)", "segm (refined)", "keypoints (coarse)", "keypoints (refined)"]
    assert results.summary_score() == pytest.approx(1.0), "coarse rows do not count"


RANKED = {  # result name -> field of its own scores
    "segm": fields.MASK_SCORES,
    "segm_coarse": fields.COARSE_MASK_SCORES,
    "keypoints": fields.KEYPOINT_SCORES,
    "keypoints_coarse": fields.COARSE_KEYPOINT_SCORES,
}


def ranking_case(own):
    """The ground truth and, before it in the list and in the ranking of boxes, false alarms; `own` fields rank the
    other way round. Of everything there is a coarse version too, equal to the final one."""
    predictions = []
    for index, truth in enumerate(ground_truth_as_detections()):
        labels = truth.get_field(fields.LABELS).tolist()
        alarms = detections_of(
            index, [(1, 1, 12, 9)] * len(truth), labels, [0.95] * len(truth), keypoints=np.zeros((len(truth), 17, 3))
        )
        found = _join(alarms, truth)
        found.add_field(fields.MASK, torch.ones(len(found), 1, 28, 28))
        found.add_field(fields.COARSE_MASK, found.get_field(fields.MASK))
        found.add_field(fields.COARSE_KEYPOINTS, found.get_field(fields.KEYPOINTS))
        for name in own:
            quality = torch.tensor([0.1] * len(truth) + [0.8] * len(truth))
            found.add_field(name, found.get_field(fields.SCORES) * quality)
        predictions.append(found)
    return predictions


def test_masks_and_keypoints_are_ranked_by_their_own_scores(tmp_path):
    dataset, names = FakeDataset(ANNOTATIONS), ["bbox", *RANKED]
    options = {"iou_types": ALL, "boundary_ap": True}
    plain = evaluate(dataset, ranking_case([]), None, **options).metrics
    assert all(plain[name]["AP"] < 0.6 for name in [*names, "boundary", "boundary_coarse"])
    for name, field in RANKED.items():
        metrics = evaluate(dataset, ranking_case([field]), tmp_path / name, **options).metrics
        changed = {name, name.replace("segm", "boundary")}
        for task in plain:
            if task in changed:
                assert metrics[task]["AP"] == pytest.approx(1.0)
            else:
                assert metrics[task] == plain[task], f"{field} has no say in {task}"
        files = {task: json.loads((tmp_path / name / f"{task}.json").read_text()) for task in names}
        for task, entries in files.items():
            scores = [entry["score"] for entry in entries]
            own = [0.1 * 0.95, 0.1 * 0.95, 0.8 * 0.9, 0.8 * 0.8]
            assert scores[:4] == pytest.approx(own if task == name else [0.95, 0.95, 0.9, 0.8])
            rows = [(entry["image_id"], entry["category_id"]) for entry in entries]
            assert rows == [(entry["image_id"], entry["category_id"]) for entry in files["bbox"]], "detection order"
        saved = torch.load(tmp_path / name / "predictions.pth", weights_only=True)
        assert set(saved[0]["own_scores"]) == {name}
        assert saved[0]["own_scores"][name].tolist() == pytest.approx(own)


def test_own_scores_survive_the_way_between_ranks():
    dataset, predictions = FakeDataset(ANNOTATIONS), ranking_case(RANKED.values())
    single = CocoEvaluator(dataset, iou_types=ALL)
    single.process([0, 1, 2], predictions)
    ranks = [CocoEvaluator(dataset, iou_types=ALL) for _ in range(2)]
    ranks[0].process([0, 2], [predictions[0], predictions[2]])
    ranks[1].process([1], [predictions[1]])
    ranks[0].merge([pickle.loads(pickle.dumps(rank.results)) for rank in ranks])
    for name in ("bbox", *RANKED):
        assert ranks[0].coco_results(name) == single.coco_results(name)


def test_a_mask_is_drawn_into_the_boxes_that_it_spans():
    width, height = SIZES[0]
    found = detections_of(0, [(40, 40, 20, 20)], [1], [0.9])
    found.add_field(fields.MASK_BOXES, BoxList(torch.tensor([[60.0, 60.0, 140.0, 160.0]]), found.size, offset=0))
    evaluator = CocoEvaluator(FakeDataset(ANNOTATIONS), iou_types=("segm",))
    evaluator.process([0], [found])
    bitmap = mask_utils.decode(evaluator.results[0].masks["segm"][0])
    assert bitmap.shape == (height, width)
    rows, columns = np.nonzero(bitmap)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (30, 70, 30, 80)  # half scale, half open


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_masks_that_the_model_has_drawn_are_taken_as_they_are(scale, dtype):
    width, height = SIZES[0]
    drawn = torch.zeros(1, 1, height * scale, width * scale, dtype=dtype)
    drawn[..., 20 * scale : 100 * scale, 10 * scale : 70 * scale] = 1
    found = detections_of(0, [(10, 20, 60, 80)], [1], [0.9], scale=scale)
    found.add_field(fields.MASK, drawn)
    evaluator = CocoEvaluator(FakeDataset(ANNOTATIONS), iou_types=("segm",))
    evaluator.process([0], [found])
    np.testing.assert_array_equal(
        mask_utils.decode(evaluator.results[0].masks["segm"][0]), evaluator.dataset.coco.annToMask(ANNOTATIONS[0])
    )


@pytest.mark.parametrize("device", DEVICES)
def test_encode_masks_round_trip(device):
    masks = torch.rand(5, 13, 17, device=device) > 0.5
    masks[3] = False
    rles = encode_masks(masks)
    decoded = np.stack([mask_utils.decode(rle) for rle in rles])
    np.testing.assert_array_equal(decoded, masks.cpu().numpy())
    assert json.loads(json.dumps(rles)) == rles


def test_no_detections_score_zero_and_say_so(tmp_path, caplog):
    empty = [detections_of(i, [], [], [], keypoints=np.zeros((0, 17, 3))) for i in range(3)]
    results = evaluate(FakeDataset(ANNOTATIONS), empty, tmp_path, iou_types=ALL)
    for task in ALL:
        assert results.metrics[task]["AP"] == 0
        assert json.loads((tmp_path / f"{task}.json").read_text()) == []
        assert f"No detections at all for {task} on 3 images" in caplog.text
    only_boxes = [detections_of(i, [], [], [], masks=False) for i in range(3)]  # not even the fields are there
    assert evaluate(FakeDataset(ANNOTATIONS), only_boxes, None, iou_types=ALL).metrics["segm"]["AP"] == 0


def test_an_image_without_a_result_is_an_error():
    predictions = dict(enumerate(ground_truth_as_detections()))
    del predictions[1]
    with pytest.raises(RuntimeError, match=r"1 of 3 images have no predictions \(image ids 10\)"):
        evaluate(FakeDataset(ANNOTATIONS), predictions, None)


def test_results_of_ranks_merge_into_those_of_one_process(tmp_path):
    predictions = ground_truth_as_detections()
    single = build_evaluator(FakeDataset(ANNOTATIONS), iou_types=ALL)
    single.process([0, 1, 2], predictions)
    single.merge([single.results])
    ranks = [build_evaluator(FakeDataset(ANNOTATIONS), iou_types=ALL) for _ in range(2)]
    ranks[0].process([2], [predictions[2]])
    ranks[1].process([1, 0], [predictions[1], predictions[0]])
    ranks[0].merge([rank.results for rank in ranks])
    for name in ALL:
        assert ranks[0].coco_results(name) == single.coco_results(name)
    single.evaluate(tmp_path / "single")
    ranks[0].evaluate(tmp_path / "ranks")
    for name in ("bbox.json", "segm.json", "keypoints.json", "results.txt", "coco_results.json"):
        assert (tmp_path / "single" / name).read_bytes() == (tmp_path / "ranks" / name).read_bytes()


def test_per_class_ap():
    predictions = ground_truth_as_detections()
    right_for_one_class = [found[found.get_field(fields.LABELS) == 1] for found in predictions]
    results = evaluate(FakeDataset(ANNOTATIONS), right_for_one_class, None, iou_types=("bbox",))
    assert results.per_class["bbox"] == {"class1": pytest.approx(1.0), "class2": 0.0}
    assert results.metrics["bbox"]["AP"] == pytest.approx(0.5)
    assert "class2  0.0000" in results.per_class_table()
    single = evaluate(
        FakeDataset([ANNOTATIONS[0]], 1), [right_for_one_class[0], predictions[1][[]], predictions[2][[]]], None
    )
    assert single.per_class == {}
    assert single.per_class_table() == ""


def test_people_without_keypoints_are_ignored_in_the_keypoint_task():
    unlabelled = person(6, 30, 1, (5, 5, 40, 40), keypoints=[0] * 51)
    annotations = [*ANNOTATIONS, unlabelled]
    predictions = ground_truth_as_detections()  # misses the sixth person
    extra = detections_of(2, [(5, 5, 40, 40)], [1], [0.99], keypoints=[[20, 20, 1] * 17])
    found_too = [*predictions[:2], extra]
    for case in (predictions, [*predictions[:2], _join(predictions[2], found_too[2])]):
        results = evaluate(FakeDataset(annotations), case, None, iou_types=("bbox", "keypoints"))
        assert results.metrics["keypoints"]["AP"] == pytest.approx(1.0), "neither missed nor a false alarm"
    assert evaluate(FakeDataset(annotations), predictions, None).metrics["bbox"]["AP"] < 1


def _join(first, second):
    joined = BoxList(torch.cat([first.bbox, second.bbox]), first.size, offset=first.offset)
    for name in (fields.LABELS, fields.SCORES):
        joined.add_field(name, torch.cat([first.get_field(name), second.get_field(name)]))
    joined.add_field(
        fields.KEYPOINTS, PersonKeypoints.cat([first.get_field(fields.KEYPOINTS), second.get_field(fields.KEYPOINTS)])
    )
    return joined


def two_points(annotation):
    """The annotation with two keypoints, which depend on its box."""
    x, y, w, h = annotation["bbox"]
    return {**annotation, "keypoints": [x + w / 4, y + h / 4, 2, x + w / 2, y + h / 2, 2], "num_keypoints": 2}


def test_sigmas_of_another_skeleton():
    annotations = [two_points(annotation) for annotation in ANNOTATIONS]
    shifted = ground_truth_as_detections(annotations)
    for found in shifted:
        found.get_field(fields.KEYPOINTS).keypoints[..., 0] += 16  # 8 pixels at half scale
    dataset = FakeDataset(annotations)
    scores = {}
    for sigma in (0.02, 0.5):
        sigmas = [sigma, sigma]
        results = evaluate(dataset, shifted, None, iou_types=("keypoints",), keypoint_oks_sigmas=sigmas)
        entries = CocoEvaluator(dataset, iou_types=("keypoints",), keypoint_oks_sigmas=sigmas)
        entries.process([0, 1, 2], shifted)
        expected = reference_stats(dataset, entries.coco_results("keypoints"), "keypoints", sigmas)[0]
        scores[sigma] = results.metrics["keypoints"]["AP"]
        assert scores[sigma] == pytest.approx(expected)
    assert scores[0.02] < 0.1 < scores[0.5]
    with pytest.raises(ValueError, match="have 2 keypoints, but there are 17 sigmas"):
        build_evaluator(dataset, iou_types=("keypoints",))
    with pytest.raises(
        ValueError, match="have 2 keypoints, but there are 3 sigmas. They are those of TEST.KEYPOINT_OKS"
    ):
        build_evaluator(dataset, iou_types=("keypoints",), keypoint_oks_sigmas=[0.1] * 3)


def test_sigmas_of_the_data_set_and_equal_ones(tmp_path, caplog):
    annotations = [two_points(annotation) for annotation in ANNOTATIONS]
    shifted = ground_truth_as_detections(annotations)
    for found in shifted:
        found.get_field(fields.KEYPOINTS).keypoints[..., 0] += 16
    dataset = FakeDataset(annotations)

    def results(**settings):
        return evaluate(dataset, shifted, tmp_path, iou_types=("bbox", "keypoints"), **settings)

    dataset.keypoint_spec = KeypointSpec(("tip", "barb"), sigmas=(0.5, 0.4))
    of_the_data = results()
    expected = results(keypoint_oks_sigmas=(0.5, 0.4))
    assert of_the_data.metrics == expected.metrics and not of_the_data.notes
    assert results(keypoint_oks_sigmas=(0.02, 0.02)).metrics != expected.metrics, "the config overrides"

    dataset.keypoint_spec = KeypointSpec(("tip", "barb"))
    expected = results(keypoint_oks_sigmas=(UNIFORM_SIGMA,) * 2)
    equal = results()
    assert equal.metrics == expected.metrics and not expected.notes
    (note,) = equal.notes
    assert f"the sigma {UNIFORM_SIGMA} for each of the 2 keypoints" in note
    assert note in (tmp_path / "results.txt").read_text()
    assert json.loads((tmp_path / "coco_results.json").read_text())["notes"] == [note]
    assert not evaluate(dataset, shifted, None, iou_types=("bbox",)).notes
    assert merge_results({"COCO": equal, "again": equal}).notes == [note]


def test_ground_truth_that_pycocotools_cannot_read_is_filled_in_or_left_out(caplog):
    caplog.set_level(logging.INFO)
    bare = {"id": 1, "image_id": 40, "category_id": 7, "bbox": [1, 2, 30, 40]}
    no_area = person(2, 40, 1, (5, 5, 0, 10))
    not_a_number = person(3, 40, 1, (5, 5, float("nan"), 10))
    two_point_polygon = {**person(4, 40, 1, (5, 5, 10, 10)), "segmentation": [[1, 1, 9, 9]]}
    dataset = FakeDataset([bare, no_area, not_a_number, two_point_polygon, {**ANNOTATIONS[1], "id": 5}])
    boxes = build_ground_truth(dataset.coco, IMAGE_IDS, "bbox")
    assert sorted(boxes.anns) == [1, 4, 5]
    assert boxes.anns[1]["area"] == 1200
    assert boxes.anns[1]["iscrowd"] == 0
    assert "area" not in bare, "the dataset's own annotations stay as they are"
    assert "2 annotations have no usable box" in caplog.text
    masks = build_ground_truth(dataset.coco, IMAGE_IDS, "segm")
    for number, corners in ((1, [1, 2, 31, 2, 31, 42, 1, 42]), (4, [5, 5, 15, 5, 15, 15, 5, 15])):
        assert masks.anns[number]["segmentation"] == [corners] and masks.anns[number]["iscrowd"] == 1
    assert "2 of 3 annotations have no such mask" in caplog.text
    keypoints = build_ground_truth(dataset.coco, IMAGE_IDS, "keypoints", 17)
    assert keypoints.anns[1]["num_keypoints"] == 0
    assert len(build_ground_truth(dataset.coco, [30], "bbox").imgs) == 1
    results = evaluate(dataset, ground_truth_as_detections(), None, iou_types=ALL)
    assert results.metrics["bbox"]["AP"] > 0


def test_an_annotation_whose_id_is_zero_counts_like_another(tmp_path):
    numbered = [{**annotation, "id": index} for index, annotation in enumerate(ANNOTATIONS)]
    results = evaluate(FakeDataset(numbered), ground_truth_as_detections(numbered), tmp_path, iou_types=("bbox",))
    assert results.results["bbox"]["AP"] == pytest.approx(1.0)


def test_crowds_neither_count_as_objects_nor_against_detections():
    crowd = {**person(6, 30, 1, (0, 0, 90, 90)), "iscrowd": 1, "segmentation": {"size": [90, 90], "counts": [0, 8100]}}
    inside = detections_of(2, [(30, 30, 20, 20)], [1], [0.95], keypoints=[[40, 40, 1] * 17])
    predictions = ground_truth_as_detections()
    predictions[2] = _join(predictions[2], inside)
    assert evaluate(FakeDataset([*ANNOTATIONS, crowd]), predictions, None).metrics["bbox"]["AP"] == pytest.approx(1.0)
    assert evaluate(FakeDataset(ANNOTATIONS), predictions, None).metrics["bbox"]["AP"] < 1


def recall_reference(images, limit, low, high):
    """Detectron's definition in plain loops: repeatedly take the pair with the largest overlap."""
    overlaps = []
    for ious, areas, crowd in images:
        pairs = sorted(
            (
                (ious[p, g], p, g)
                for p in range(min(limit, ious.shape[0]))
                for g in range(ious.shape[1])
                if not crowd[g]
            ),
            key=lambda pair: -pair[0],
        )
        used_p, best = set(), {g: 0.0 for g in range(ious.shape[1]) if not crowd[g]}
        taken = set()
        for iou, p, g in pairs:
            if iou > 0 and p not in used_p and g not in taken:
                used_p.add(p)
                taken.add(g)
                best[g] = iou
        overlaps += [iou for g, iou in best.items() if low <= areas[g] <= high]
    if not overlaps:
        return -1
    return np.mean([np.mean(np.asarray(overlaps) >= 0.5 + 0.05 * step - 1e-12) for step in range(10)])


def test_proposal_recall_against_plain_loops():
    rng = np.random.default_rng(0)
    images = [
        (rng.uniform(0, 1, (p, g)), rng.choice([100.0, 5000.0, 20000.0], g), rng.random(g) < 0.2)
        for p, g in ((30, 4), (5, 7), (0, 3), (12, 0))
    ]
    found = proposal_recall(images, limits=(4, 100))
    for limit in (4, 100):
        for suffix, (low, high) in {"": (0, 1e10), "s": (0, 1024), "m": (1024, 9216), "l": (9216, 1e10)}.items():
            assert found[f"AR{suffix}@{limit}"] == pytest.approx(recall_reference(images, limit, low, high))
    assert proposal_recall([])["AR@100"] == -1


def test_proposals_are_scored_by_recall(tmp_path):
    proposals = []
    for found in ground_truth_as_detections(masks=False):
        boxes = BoxList(found.bbox, found.size, offset=found.offset)
        boxes.add_field(fields.OBJECTNESS, found.get_field(fields.SCORES))
        proposals.append(boxes)
    results = evaluate(FakeDataset(ANNOTATIONS), proposals, tmp_path, box_only=True)
    assert results.metrics["box_proposal"]["AR@100"] == pytest.approx(1.0)
    assert "AR@1000" in (tmp_path / "results.txt").read_text()
    saved = torch.load(tmp_path / "box_proposals.pth", weights_only=True)
    assert saved[0]["image_id"] == 40 and len(saved[0]["objectness"]) == 2
    assert results.summary_score() == pytest.approx(1.0)


def test_expected_results_pass_or_fail(caplog):
    results = EvaluationResults({"bbox": {"AP": 0.37}}, 10)
    with caplog.at_level("INFO"):
        assert check_expected_results(results, [("bbox", "AP", (0.36, 0.01))], 4)
        assert "PASS: bbox AP is 0.3700" in caplog.text
        assert not check_expected_results(results, [("bbox", "AP", (0.30, 0.01)), ("segm", "AP", (0.3, 0.1))], 4)
    assert "FAIL: bbox AP is 0.3700, expected 0.3000" in caplog.text
    assert "segm AP was not evaluated" in results.failures[1]


def test_table_shows_a_dash_where_there_is_nothing_to_measure():
    table = EvaluationResults({"bbox": {"AP": 0.5, "APs": -1.0}, "keypoints": {"AP": 0.25}}, 1).table()
    assert [line.split() for line in table.splitlines()] == [
        ["AP", "APs"],
        ["bbox", "0.5000", "-"],
        ["keypoints", "0.2500", "-"],
    ]


def test_what_cannot_be_evaluated_is_said():
    with pytest.raises(TypeError, match="list cannot be evaluated: it has no `coco` annotations"):
        evaluate([], [], None)
    with pytest.raises(ValueError, match="unknown iou types"):
        build_evaluator(FakeDataset(ANNOTATIONS), iou_types=("boxes",))
