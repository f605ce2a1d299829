"""AP and PCK of single keypoints, AP of visibility and of crowding levels, against loops and against pycocotools."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from maskrcnn_benchmark.data.evaluation import CocoEvaluator, EvaluationResults
from maskrcnn_benchmark.data.evaluation.coco import keypoint_matching
from maskrcnn_benchmark.data.evaluation.coco.crowding import images_by_level
from maskrcnn_benchmark.data.evaluation.coco.ground_truth import build_ground_truth
from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult
from maskrcnn_benchmark.data.evaluation.coco.keypoint_matching import ImageKeypoints, best_first, match_boxes
from maskrcnn_benchmark.data.evaluation.coco.keypoint_scores import (
    average_precision,
    gather_instances,
    keypoint_ap,
    score_keypoints,
)
from maskrcnn_benchmark.data.evaluation.results import merge_results
from maskrcnn_benchmark.engine.trainer import evaluation_scalars
from maskrcnn_benchmark.structures.skeleton import KeypointSpec

NAMES = ("head", "left_paw", "right_paw", "tail", "never")
SIGMAS = (0.03, 0.08, 0.08, 0.1, 0.05)
CATEGORY_IDS = {1: 9, 2: 4, 3: 6}  # label -> the file's id; the last has no keypoints


def quiet(function, *args):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*args)


def coco_of(images, annotations):
    coco = COCO()
    coco.dataset = {
        "images": images,
        "categories": [{"id": category_id, "name": f"animal{category_id}"} for category_id in CATEGORY_IDS.values()],
        "annotations": annotations,
    }
    quiet(coco.createIndex)
    return coco


def random_case(seed, num_images=14):
    """Images with several animals close to each other, crowds, unlabelled keypoints, and noisy detections of them."""
    rng = np.random.default_rng(seed)
    images, annotations, results = [], [], []
    for image_id in rng.permutation(100)[:num_images].tolist():
        images.append({"id": image_id, "width": 200, "height": 200})
        boxes, points, labels, scores = [], [], [], []
        for _ in range(rng.integers(0, 6)):
            x, y, w, h = (*rng.uniform(0, 120, 2), *rng.uniform(20, 80, 2))
            label = int(rng.integers(1, 3))
            keypoints = np.column_stack([rng.uniform(x, x + w, 5), rng.uniform(y, y + h, 5), rng.integers(0, 3, 5)])
            keypoints[4] = 0
            if rng.random() < 0.15:
                keypoints[:] = 0
            crowd = int(rng.random() < 0.15)
            annotations.append({
                "id": len(annotations) + 1, "image_id": image_id, "category_id": CATEGORY_IDS[label],
                "bbox": [x, y, w, h], "area": w * h * rng.uniform(0.3, 0.7), "iscrowd": crowd,
                "keypoints": keypoints.reshape(-1).tolist(), "num_keypoints": int((keypoints[:, 2] > 0).sum()),
            })  # fmt: skip
            for _ in range(rng.integers(0, 8)):
                noise = rng.choice([0.3, 2, 10])
                boxes.append(np.array([x, y, w, h]) + rng.normal(0, noise, 4))
                points.append(np.column_stack([keypoints[:, :2] + rng.normal(0, noise, (5, 2)), rng.random(5)]))
                labels.append(label if rng.random() < 0.9 else int(rng.integers(1, 4)))
                scores.append(rng.choice([0.1, 0.3, 0.5, 0.7, rng.random()]))  # many equal ones
        order = rng.permutation(len(boxes))
        results.append(
            (
                image_id,
                ImageResult(
                    (200, 200),
                    np.array(boxes, np.float32).reshape(-1, 4)[order],
                    np.array(scores, np.float32)[order],
                    np.array(labels, np.int64)[order],
                    packed={"keypoints": np.array(points, np.float32).reshape(-1, 5, 3)[order]},
                ),
            )
        )
    return coco_of(images, annotations), results


def gathered(coco, results):
    images = [
        ImageKeypoints(image_id, result.labels, result.packed["keypoints"], result.boxes, result.scores_of("keypoints"))
        for image_id, result in results
    ]
    return gather_instances(images, coco, [image_id for image_id, _ in results], CATEGORY_IDS, 5)


def only_keypoint(values, index):
    return list(values[3 * index : 3 * index + 3])


def pycocotools_ap(coco, results, index):
    """COCO's evaluation of a skeleton with one keypoint."""
    annotations = []
    for annotation in coco.dataset["annotations"]:
        keypoints = only_keypoint(annotation["keypoints"], index)
        annotations.append({**annotation, "keypoints": keypoints, "num_keypoints": int(keypoints[2] > 0)})
    truth = coco_of(coco.dataset["images"], annotations)
    entries = [
        {
            "image_id": image_id,
            "category_id": CATEGORY_IDS[int(label)],
            "keypoints": only_keypoint(points.reshape(-1).astype(float).tolist(), index),
            "score": float(score),
        }
        for image_id, result in results
        for label, points, score in zip(result.labels, result.packed["keypoints"], result.scores, strict=True)
    ]
    evaluation = COCOeval(truth, quiet(truth.loadRes, entries), "keypoints")
    evaluation.params.kpt_oks_sigmas = np.array([SIGMAS[index]])
    for step in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
        quiet(step)
    return evaluation.stats[0]


@pytest.mark.parametrize("chunk", [1 << 21, 1])
@pytest.mark.parametrize("seed", range(4))
def test_ap_of_a_keypoint_is_that_of_a_skeleton_with_one_keypoint(seed, chunk, monkeypatch):
    monkeypatch.setattr(keypoint_matching, "_CHUNK_VALUES", chunk)
    coco, results = random_case(seed)
    detected, annotated, categories = gathered(coco, results)
    found = keypoint_ap(best_first(detected), annotated, categories, SIGMAS)
    expected = [pycocotools_ap(coco, results, index) for index in range(len(NAMES))]
    assert found == pytest.approx(expected, abs=1e-12)
    assert expected[4] == -1 and all(0.05 < value < 0.95 for value in expected[:4])


def box_iou(first, second):
    x1, y1 = max(first[0], second[0]), max(first[1], second[1])
    x2, y2 = min(first[0] + first[2], second[0] + second[2]), min(first[1] + first[3], second[1] + second[3])
    common = max(x2 - x1, 0) * max(y2 - y1, 0)
    return common / (first[2] * first[3] + second[2] * second[3] - common)


def slow_matches(coco, results):
    """[(annotation, keypoints of its detection or None)] of all labelled annotations that are no crowds."""
    pairs = []
    for image_id, result in results:
        for label, category_id in CATEGORY_IDS.items():
            objects = [
                entry
                for entry in coco.imgToAnns[image_id]
                if entry["category_id"] == category_id and not entry["iscrowd"]
            ]
            rows = [row for row in range(len(result)) if result.labels[row] == label]
            partner = {}
            for row in sorted(rows, key=lambda row: -result.scores[row])[:20]:
                overlaps = {
                    entry["id"]: box_iou(result.boxes[row].astype(float), entry["bbox"])
                    for entry in objects
                    if entry["id"] not in partner
                }
                best = max(overlaps, key=overlaps.get, default=None)
                if best is not None and overlaps[best] >= 0.5:
                    partner[best] = result.packed["keypoints"][row].astype(float)
            pairs += [(entry, partner.get(entry["id"])) for entry in objects if entry["num_keypoints"]]
    return pairs


@pytest.mark.parametrize("seed", range(3))
def test_pck_and_visibility_against_loops(seed):
    coco, results = random_case(seed)
    per_keypoint, total = score_keypoints(*gathered(coco, results), NAMES, SIGMAS)
    pairs = slow_matches(coco, results)
    correct, labelled, guesses = np.zeros(5), np.zeros(5), [[] for _ in NAMES]
    for entry, points in pairs:
        for index, (x, y, v) in enumerate(np.reshape(entry["keypoints"], (5, 3))):
            labelled[index] += v > 0
            if points is not None:
                guesses[index].append((points[index, 2], v > 0))
                near = np.hypot(points[index, 0] - x, points[index, 1] - y) <= 0.2 * max(entry["bbox"][2:])
                correct[index] += v > 0 and near
    assert 0.2 < correct.sum() / labelled.sum() < 0.95 and any(points is None for _, points in pairs)
    assert total["PCK@0.2"] == pytest.approx(correct.sum() / labelled.sum())
    for index, name in enumerate(NAMES):
        values = per_keypoint[name]
        assert values["PCK@0.2"] == pytest.approx(correct[index] / labelled[index] if labelled[index] else -1)
        flags = [flag for _, flag in guesses[index]]
        assert values["labelled"] == pytest.approx(np.mean(flags))
        assert values["visibility AP"] == pytest.approx(slow_average_precision(guesses[index]))
    measured = [per_keypoint[name] for name in NAMES[:4]]
    assert total["visibility AP"] == pytest.approx(np.mean([values["visibility AP"] for values in measured]))
    assert total["labelled"] == pytest.approx(np.mean([values["labelled"] for values in measured]))


def slow_average_precision(pairs):
    """Area under precision over recall, one threshold after the other."""
    positives = sum(flag for _, flag in pairs)
    if not positives:
        return -1
    area, recall = 0.0, 0.0
    for threshold in sorted({score for score, _ in pairs}, reverse=True):
        chosen = [flag for score, flag in pairs if score >= threshold]
        area += (sum(chosen) / positives - recall) * sum(chosen) / len(chosen)
        recall = sum(chosen) / positives
    return area


def test_average_precision():
    rng = np.random.default_rng(0)
    scores, labels = rng.choice(8, 60) / 8, rng.random(60) < 0.3
    assert average_precision(scores, labels) == pytest.approx(
        slow_average_precision(list(zip(scores, labels, strict=True)))
    )
    assert average_precision(labels.astype(float), labels) == 1
    assert average_precision(np.full(60, 0.5), labels) == pytest.approx(labels.mean()), "a constant guess"
    assert average_precision(scores, np.zeros(60, dtype=bool)) == -1
    assert average_precision(np.zeros(0), np.zeros(0, dtype=bool)) == -1


def test_a_detection_takes_the_annotation_that_it_overlaps_most():
    def annotated(boxes, crowd):
        count = len(boxes)
        return keypoint_matching.Annotated(
            np.zeros(count, np.int64), np.zeros((count, 1, 3)), np.array(boxes, float), np.ones(count), np.array(crowd)
        )

    def detected(boxes, scores):
        count = len(boxes)
        return best_first(
            keypoint_matching.Detected(
                np.zeros(count, np.int64), np.zeros((count, 1, 3)), np.array(boxes, float), np.array(scores)
            )
        )

    truth = annotated([[0, 0, 10, 10], [3, 0, 10, 10], [0, 0, 10, 10]], [False, False, True])
    found = detected([[2.6, 0, 10, 10], [2, 0, 10, 10], [40, 0, 10, 10]], [0.5, 0.9, 0.7])
    # 0.9 takes the second, so that only the first is left for 0.5; the one between them overlaps nothing
    assert match_boxes(found, truth).tolist() == [2, 0, -1]
    assert match_boxes(detected([[5.1, 5.1, 10, 10]], [1.0]), truth).tolist() == [-1, -1, -1], "IoU below 0.5"


class Animals:
    """What an evaluator asks of a data set."""

    keypoint_spec = KeypointSpec(NAMES)

    def __init__(self, coco, image_ids):
        self.coco = coco
        self.id_to_img_map = dict(enumerate(image_ids))
        self.contiguous_category_id_to_json_id = CATEGORY_IDS
        self.class_names = ["__background__", "cat", "dog", "stone"]

    def __len__(self):
        return len(self.id_to_img_map)

    def get_img_info(self, index):
        return {"id": self.id_to_img_map[index], "width": 200, "height": 200}


def evaluated(coco, results, folder=None, **settings):
    evaluator = CocoEvaluator(
        Animals(coco, [image_id for image_id, _ in results]), iou_types=("bbox", "keypoints"),
        keypoint_oks_sigmas=SIGMAS, **settings,
    )  # fmt: skip
    evaluator.results = dict(enumerate(result for _, result in results))
    return evaluator.evaluate(folder)


def test_tables_files_and_scalars(tmp_path):
    coco, results = random_case(7)
    found = evaluated(coco, results, tmp_path)
    assert list(found.per_keypoint) == ["keypoints"] and list(found.per_keypoint["keypoints"]) == list(NAMES)
    saved = json.loads((tmp_path / "coco_results.json").read_text())
    assert saved["per_keypoint"] == found.per_keypoint
    metrics = saved["metrics"]["keypoints"]
    assert {"AP", "AP50", "PCK@0.2", "visibility AP", "labelled"} <= set(metrics) and "PCK@0.2" not in saved["metrics"][
        "bbox"
    ]
    text = (tmp_path / "results.txt").read_text()
    (table,) = [part for part in text.split("\n\n") if part.startswith("keypoints ")]
    lines = table.splitlines()
    assert lines[0].split("  ")[0] == "keypoints" and lines[0].split()[1:] == [
        "AP",
        "PCK@0.2",
        "visibility",
        "AP",
        "labelled",
    ]
    values = found.per_keypoint["keypoints"]["left_paw"]
    assert lines[2].split() == ["left_paw", *(f"{value:.4f}" for value in values.values())]
    assert lines[5].split() == ["never", "-", "-", "-", "0.0000"]
    scalars = evaluation_scalars({"animals": found})
    assert scalars["animals/keypoints/PCK@0.2/left_paw"] == values["PCK@0.2"]
    assert scalars["animals/keypoints/PCK@0.2"] == metrics["PCK@0.2"] and "animals/keypoints/AP/never" not in scalars


def test_can_be_turned_off_and_visibility_is_scored_only_if_predicted():
    coco, results = random_case(7)
    off = evaluated(coco, results, per_keypoint=False)
    assert off.per_keypoint == {} and set(off.metrics["keypoints"]) == {"AP", "AP50", "AP75", "APm", "APl"}
    assert "per_keypoint" not in off.plain() and off.per_keypoint_tables() == []
    on = evaluated(coco, results)
    assert {name: on.metrics["keypoints"][name] for name in off.metrics["keypoints"]} == off.metrics["keypoints"]
    for _, result in results:
        result.packed["keypoints"][..., 2] = 1
    assert set(evaluated(coco, results).per_keypoint["keypoints"]["head"]) == {"AP", "PCK@0.2"}


def test_coarse_keypoints_have_a_table_of_their_own():
    coco, results = random_case(7)
    for _, result in results:
        result.packed["keypoints_coarse"] = result.packed["keypoints"] + np.array([3, 0, 0], np.float32)
    found = evaluated(coco, results)
    assert [table.split("  ")[0] for table in found.per_keypoint_tables()] == [
        "keypoints (coarse)",
        "keypoints (refined)",
    ]
    head = [found.per_keypoint[row]["head"]["AP"] for row in ("keypoints_coarse", "keypoints")]
    assert head[0] < head[1]


@pytest.mark.parametrize("empty", ["detections", "annotations", "both"])
def test_nothing_to_score(empty):
    coco, results = random_case(7)
    if empty != "annotations":
        nothing = ImageResult((200, 200), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
        results = [(image_id, nothing) for image_id, _ in results]
    if empty != "detections":
        coco = coco_of(coco.dataset["images"], [])
    found = evaluated(coco, results).per_keypoint["keypoints"]
    has_truth = empty == "detections"
    assert {name: values["PCK@0.2"] for name, values in found.items()} == {
        name: 0.0 if has_truth and name != "never" else -1.0 for name in NAMES
    }
    assert found["head"]["AP"] == (0 if has_truth else -1)


def test_results_of_several_evaluators():
    first = EvaluationResults({"keypoints": {"AP": 0.1}}, 1, per_keypoint={"keypoints": {"head": {"AP": 0.1}}})
    second = EvaluationResults({"keypoints": {"PCK": 0.1}}, 1, per_keypoint={"keypoints": {"head": {"AP": 0.3}}})
    merged = merge_results({"COCO": first, "Own": second})
    assert merged.per_keypoint == {"keypoints": {"head": {"AP": 0.1}}, "keypoints (Own)": {"head": {"AP": 0.3}}}


# Crowded images


def test_ap_of_crowding_levels_is_the_ap_of_their_images():
    coco, results = random_case(3, num_images=20)
    levels = dict(zip((image_id for image_id, _ in results), [0.0, 0.05, 0.1, 0.5, 0.79, 0.8, 1.0] * 3, strict=False))
    for image in coco.dataset["images"]:
        image["crowdIndex"] = levels[image["id"]]
    found = evaluated(coco, results).metrics["keypoints"]
    for level, chosen in (("easy", (0.0, 0.05)), ("medium", (0.1, 0.5, 0.79)), ("hard", (0.8, 1.0))):
        ids = {image_id for image_id, crowd_index in levels.items() if crowd_index in chosen}
        some = [(image_id, result) for image_id, result in results if image_id in ids]
        images = [image for image in coco.dataset["images"] if image["id"] in ids]
        alone = coco_of(
            [{**image, "crowdIndex": None} for image in images],
            [entry for entry in coco.dataset["annotations"] if entry["image_id"] in ids],
        )
        expected = evaluated(alone, some).metrics["keypoints"]
        assert found[f"AP{level}"] == pytest.approx(expected["AP"], abs=1e-12) and 0 < expected["AP"] < 1
        assert "APeasy" not in expected, "without a crowd index there are no levels"
    assert images_by_level(coco, []) == {}


def test_annotations_without_an_area_have_half_of_the_box_in_the_keypoint_task():
    annotation = {"id": 1, "image_id": 1, "category_id": 9, "bbox": [0, 0, 10, 20], "keypoints": [1, 1, 2]}
    coco = coco_of([{"id": 1, "width": 50, "height": 50}], [annotation])
    assert build_ground_truth(coco, [1], "keypoints", 1).anns[1]["area"] == pytest.approx(0.53 * 200)
    assert build_ground_truth(coco, [1], "bbox").anns[1]["area"] == 200


def test_ranked_by_own_scores():
    coco, results = random_case(2)
    own = [
        (image_id, ImageResult(
            result.size_wh, result.boxes, np.ones_like(result.scores), result.labels, result.packed,
            {"keypoints": result.scores},
        ))
        for image_id, result in results
    ]  # fmt: skip
    expected = gathered(coco, results)[0]
    assert np.array_equal(gathered(coco, own)[0].scores, expected.scores)
    assert torch.from_numpy(expected.scores).unique().numel() > 4
