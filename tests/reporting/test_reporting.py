"""What reports are made of: matching against slow loops and pycocotools, refinement, samples of a loader, curves."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.datasets import COCODataset
from maskrcnn_benchmark.data.evaluation.coco.measures import run_cocoeval
from maskrcnn_benchmark.data.evaluation.coco.tasks import TASKS, Stage, Task, stage_names
from maskrcnn_benchmark.data.transforms import Normalize
from maskrcnn_benchmark.reporting import curves, dataset_report, refinement_report
from maskrcnn_benchmark.reporting.files import ReportError, ReportFolder
from maskrcnn_benchmark.reporting.matching import Counts, ground_truth_of, match_dataset, match_greedily
from maskrcnn_benchmark.reporting.overlaps import comparable_tasks
from maskrcnn_benchmark.reporting.predictions_report import rank, report_predictions
from maskrcnn_benchmark.reporting.results_files import read_results
from maskrcnn_benchmark.reporting.results_report import Options
from maskrcnn_benchmark.structures.fields import SCORES
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.named_masks import mask_names
from tests.tools.report_cases import (
    CATEGORIES,
    annotation,
    ellipse,
    of_image,
    random_case,
    run_lengths,
    slow_counts,
    slow_matching,
    slow_overlap,
    write_dataset,
    write_results,
)
from tests.tools.runs import CONFIG, TINY, write_people

NAMES = ("bbox", "segm", "keypoints")


@pytest.fixture
def case(tmp_path, request):
    annotations, detections = random_case(getattr(request, "param", 0))
    file, images = write_dataset(tmp_path / "data", annotations, 6)
    results = write_results(tmp_path / "results", detections, (*NAMES, "segm_coarse"))
    return COCODataset(file, images), results, annotations, detections


@pytest.mark.parametrize("case", range(4), indirect=True)
@pytest.mark.parametrize("task", NAMES)
@pytest.mark.parametrize("threshold", [0.5, 0.75])
def test_matching_equals_the_slow_loop_at_every_score(case, task, threshold):
    dataset, folder, annotations, detections = case
    matches = match_dataset(dataset, read_results(folder), task, threshold)
    assert len(matches) == 6
    total = Counts(0, 0, 0)
    for index, found in enumerate(matches):
        image_id = index + 1
        mine, truth = of_image(detections, image_id), of_image(annotations, image_id)
        numbers = [number for number, entry in enumerate(detections) if entry["image_id"] == image_id]
        partner, ignored = slow_matching(task, mine, truth, threshold)
        assert found.ignored.tolist() == ignored
        expected = {numbers[d]: g for d, g in partner.items()}
        matched = {row: g for row, g in zip(found.rows.tolist(), found.partners.tolist(), strict=True) if g >= 0}
        assert matched == expected
        for row, g, overlap in zip(found.rows.tolist(), found.partners.tolist(), found.overlaps.tolist(), strict=True):
            expected_overlap = slow_overlap(task, detections[row], truth[g]) if g >= 0 else 0
            assert overlap == pytest.approx(expected_overlap, abs=1e-6)
        for score in (0.0, 0.3, 0.5, 0.501, 0.9, 1.0):  # matched once, counted anew at each
            counts = found.counts(score)
            assert counts == slow_counts(task, mine, truth, threshold, score)
            total = total.plus(counts)
    assert min(total) > 0


@pytest.mark.parametrize("case", [5], indirect=True)
@pytest.mark.parametrize("task", NAMES)
def test_matching_equals_pycocotools(case, task):
    dataset, folder, _, detections = case
    results = read_results(folder)
    image_ids = [1, 2, 3, 4, 5, 6]
    evaluation = run_cocoeval(ground_truth_of(dataset, image_ids, task), results.entries[task], task, image_ids)
    expected = {}
    for entry in filter(None, evaluation.evalImgs):
        if entry["aRng"] == evaluation.params.areaRng[0]:
            pairs = zip(entry["dtIds"], entry["dtMatches"][0], entry["dtIgnore"][0], strict=True)
            expected.update({d - 1: (g, bool(ignored)) for d, g, ignored in pairs})
    seen = {}
    for found in match_dataset(dataset, results, task, 0.5):
        for row, g, kind in zip(found.rows.tolist(), found.partners.tolist(), found.kinds(), strict=True):
            seen[row] = (found.annotation_ids[g] if g >= 0 else 0, kind == "ignored")
    assert seen == expected and len(seen) == len(detections)


def test_of_equal_overlaps_the_last_is_taken_and_ignored_ones_only_in_need():
    overlaps = np.array([[0.8, 0.8, 0.9], [0.8, 0.8, 0.9], [0.0, 0.7, 0.9], [0.6, 0.0, 0.95]])
    none = np.zeros(3, dtype=bool)
    assert match_greedily(overlaps, none, none, 0.5).tolist() == [2, 1, -1, 0]
    last = np.array([False, False, True])
    assert match_greedily(overlaps, none, last, 0.5).tolist() == [1, 0, 2, -1]
    assert match_greedily(overlaps, last, last, 0.5).tolist() == [1, 0, 2, 2]  # a crowd takes any number
    assert match_greedily(overlaps, none, none, 1.0).tolist() == [-1] * 4
    assert match_greedily(np.zeros((2, 0)), none[:0], none[:0], 0.5).tolist() == [-1, -1]


def test_rank_puts_more_errors_first_among_equals():
    counts = [Counts(2, 0, 0), Counts(0, 1, 1), Counts(1, 1, 0), Counts(0, 3, 1), Counts(0, 0, 0)]
    assert [round(one.f1, 3) for one in counts] == [1.0, 0.0, 0.667, 0.0, 1.0]
    assert rank(counts, "worst") == [3, 1, 2, 0, 4]
    assert rank(counts, "best") == [0, 4, 2, 1, 3]
    with pytest.raises(ValueError, match="'worst' or 'best'"):
        Options(order="middle")


def test_results_say_what_is_wrong_with_them(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*gone.*tools/test_net\.py.*OUTPUT_DIR/inference"):
        read_results(tmp_path / "gone")
    run = tmp_path / "run"
    write_results(run / "inference" / "people_val", [], ("bbox", "segm"))
    with pytest.raises(FileNotFoundError, match=r"(?s)no bbox\.json in .*results are in .*people_val"):
        read_results(run)
    folder = run / "inference" / "people_val"
    with pytest.raises(FileNotFoundError, match=r"segm_coarse\.json.*MODEL\.REFINE_ON.*\n.*test_net\.py"):
        read_results(folder, ("segm", "segm_coarse"))
    assert {name: len(scores) for name, scores in read_results(folder).scores.items()} == {"bbox": 0, "segm": 0}

    one = {"image_id": 1, "category_id": 7, "score": 0.5, "box": (1, 2, 3, 4)}
    write_results(folder, [one], ("bbox",))
    with pytest.raises(ReportError, match=r"bbox\.json \(1 detections\) and segm\.json \(0\).*one is shorter"):
        read_results(folder)
    write_results(folder, [one | {"category_id": 9}], ("segm",))
    with pytest.raises(ReportError, match="differ at entry 0"):
        read_results(folder)
    (folder / "bbox.json").write_text('[{"image_id": 1, ')
    with pytest.raises(ReportError, match=r"bbox\.json is not JSON.*stopped.*test_net\.py"):
        read_results(folder)
    (folder / "bbox.json").write_text('[{"image_id": 1, "category_id": 7, "keypoints": []}]')
    with pytest.raises(ReportError, match="entry 0 has category_id, image_id, keypoints; a result has bbox, "):
        read_results(folder)
    (folder / "bbox.json").write_text("{}")
    with pytest.raises(ReportError, match="contains a dict, not a list"):
        read_results(folder)


def test_each_file_ranks_by_scores_of_its_own(case):
    dataset, folder, _, detections = case
    rng = np.random.default_rng(3)
    own = [found | {"score": round(float(found["score"] * rng.random()), 3)} for found in detections]
    write_results(folder, own, ("segm",))
    results = read_results(folder)
    for name, ranked in {"bbox": detections, "segm": own, "keypoints": detections}.items():
        for index, found in enumerate(match_dataset(dataset, results, name, 0.5, min_score=0.1)):
            numbers = [row for row, entry in enumerate(ranked) if entry["image_id"] == index + 1]
            numbers = [row for row in numbers if ranked[row]["score"] >= 0.1]
            numbers.sort(key=lambda row: -ranked[row]["score"])
            assert found.rows.tolist() == numbers
            assert found.scores.tolist() == [ranked[row]["score"] for row in numbers]
            counts = slow_counts(name, of_image(ranked, index + 1), of_image(case[2], index + 1), 0.5, 0.3)
            assert found.counts(0.3) == counts
    label_of = {category: label for label, category in enumerate(CATEGORIES, start=1)}
    image = results.image_result(results.rows_of(2, "segm"), (96, 64), label_of)
    assert image.scores.tolist() == pytest.approx([detections[row]["score"] for row in results.rows_of(2, "segm")])
    scores = image.scores_of("segm")
    assert scores.tolist() == sorted(scores.tolist(), reverse=True) and len(scores) > 1
    assert (np.diff(image.scores) > 0).any()
    picture = image.to_boxlist([0])
    assert picture.get_field(SCORES).item() == pytest.approx(image.scores[0]), "pictures show the box's score"


def test_results_of_another_dataset_are_refused(case, tmp_path):
    dataset = case[0]
    found = {"image_id": 99, "category_id": 7, "score": 0.5, "box": (1, 2, 3, 4), "keypoints": [0] * 12}
    folder = write_results(tmp_path / "other", [found], ("bbox", "keypoints"))
    with pytest.raises(ReportError, match=r"1 of the 1 images .*\(image ids 99\).*--dataset"):
        match_dataset(dataset, read_results(folder), "bbox")
    write_results(folder, [found | {"image_id": 1}], ("bbox", "keypoints"))
    with pytest.raises(ReportError, match="has 4 keypoints, but there are 17 sigmas.*KEYPOINT_OKS_SIGMAS"):
        match_dataset(dataset, read_results(folder), "keypoints")
    with pytest.raises(ReportError, match="17 keypoints.*4 sigmas"):
        match_dataset(dataset, read_results(folder), "keypoints", sigmas=[0.1] * 4)
    write_results(folder, [found | {"image_id": 1, "category_id": 3}], ("bbox", "keypoints"))
    with pytest.raises(ReportError, match="category ids 3, which the annotations do not"):
        match_dataset(dataset, read_results(folder), "bbox")


def test_boxes_come_from_masks_or_keypoints_where_there_is_no_bbox_file(case, tmp_path):
    _, _, _, detections = case
    label_of = {category: label for label, category in enumerate(CATEGORIES, start=1)}
    rows = np.arange(3)
    for names in (("segm",), ("keypoints",)):
        results = read_results(write_results(tmp_path / names[0], detections, names))
        boxes = results.image_result(rows, (96, 64), label_of).boxes
        for box, found in zip(boxes, detections[:3], strict=True):
            if names == ("segm",):
                ys, xs = np.nonzero(ellipse(found["box"]))
                expected = [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
            else:
                points = np.reshape(found["keypoints"], (-1, 3))[:, :2]
                expected = [*points.min(axis=0), *np.ptp(points, axis=0)]
            np.testing.assert_allclose(box, expected, rtol=1e-5)
        assert results.image_result(rows[:0], (96, 64), label_of).boxes.shape == (0, 4)


def test_results_of_other_tasks_come_along(case, monkeypatch):
    class AgeTask(Task):
        name, entry_key, group = "age", "age", None
        stages = (Stage("age", "ages"),)

        def entries(self, packed):
            return packed.tolist()

    _, folder, _, detections = case
    monkeypatch.setitem(TASKS, "age", AgeTask())
    entries = [
        {key: found[key] for key in ("image_id", "category_id", "score")} | {"age": float(number)}
        for number, found in enumerate(detections)
    ]
    (folder / "age.json").write_text(json.dumps(entries))
    label_of = {category: label for label, category in enumerate(CATEGORIES, start=1)}
    image = read_results(folder).image_result(np.array([2, 1]), (96, 64), label_of)
    assert image.packed["age"].tolist() == [2, 1] and set(image.packed) == {"segm", "segm_coarse", "keypoints", "age"}
    for path in folder.iterdir():
        if path.stem != "age":
            path.unlink()
    with pytest.raises(ReportError, match="has no boxes, masks or keypoints, only age"):
        read_results(folder).image_result(np.array([0]), (96, 64), label_of)


@pytest.mark.parametrize("name", list(TASKS))
def test_tasks_read_what_they_write(case, name):
    entries = read_results(case[1]).values(name, np.arange(3))
    task = TASKS[name]
    for values in (entries, []):
        written = task.entries(task.unpack(values))
        assert len(written) == len(values)
        for one, two in zip(written, values, strict=True):
            assert one == two if name == "segm" else one == pytest.approx(two)


def test_named_masks_are_compared_with_their_own_truth(tmp_path):
    """Boxes are those of the amodal masks. The second annotation has no visible mask."""
    whole = [(10, 8, 40, 40), (60, 10, 30, 40)]
    entries = [
        annotation(1, 7, box, segmentations={"visible": visible, "amodal": run_lengths(ellipse(box))})
        for box, visible in zip(whole, (run_lengths(ellipse((10, 8, 40, 20))), None), strict=True)
    ]
    file, images = write_dataset(tmp_path / "data", entries, 1)
    found = [{"image_id": 1, "category_id": 7, "score": 0.9 - row / 10, "box": box} for row, box in enumerate(whole)]
    folder = write_results(tmp_path / "results", found, ("bbox", "segm"))
    for name in ("visible", "amodal"):  # the whole ellipse each
        shutil.copy(folder / "segm.json", folder / f"segm_{name}.json")
    results, dataset = read_results(folder), COCODataset(file, images)
    assert set(results.entries) == {"bbox", "segm", "segm_visible", "segm_amodal"}
    (amodal,), (visible,) = (match_dataset(dataset, results, f"segm_{name}") for name in ("amodal", "visible"))
    assert amodal.counts(0.5) == (2, 0, 0) and visible.counts(0.5) == (0, 1, 1)
    assert visible.kinds() == ["fp", "ignored"]
    drawn = results.image_result(amodal.rows, (96, 64), {7: 1}).to_boxlist()
    assert mask_names(drawn) == ["amodal", "visible"]
    with pytest.raises(
        ReportError, match="no masks named 'hidden' to compare segm_hidden.json with; .* visible, amodal"
    ):
        ground_truth_of(dataset, [1], "segm_hidden")
    with pytest.raises(
        FileNotFoundError, match="segm_hidden.json .*MULTI_MASK_ON and 'hidden' in MODEL.ROI_MULTI_MASK"
    ):
        read_results(folder, ("segm_hidden",))
    page = report_predictions(dataset, folder, tmp_path / "report", Options(task="segm_visible"))
    svg = page.read_text()
    assert svg.count('class="mask"') == 3 and svg.count('class="mask other-mask"') == 4  # one truth has no visible mask
    assert comparable_tasks(results.entries) == ["bbox", "segm", "segm_amodal", "segm_visible"]


def test_refinement_is_measured_against_what_the_box_found(tmp_path):
    target = annotation(1, 7, (20, 10, 40, 40), keypoints=[30, 30, 2] * 17)
    crowd = annotation(1, 7, (70, 10, 20, 40), iscrowd=1)
    file, images = write_dataset(tmp_path / "data", [target, crowd], 2)
    points = {"keypoints": [31, 30, 1] * 17, "coarse_keypoints": [36, 30, 1] * 17}
    found = [
        {"image_id": 1, "category_id": 7, "score": 0.9, "box": (20, 10, 40, 40), "coarse_box": (20, 10, 40, 30)},
        {"image_id": 1, "category_id": 7, "score": 0.8, "box": (22, 10, 40, 40), "coarse_box": (20, 10, 40, 40)},
        {"image_id": 1, "category_id": 7, "score": 0.7, "box": (70, 10, 20, 40)},
    ]
    names = tuple(stage_names())
    results = read_results(write_results(tmp_path / "results", [entry | points for entry in found], names))
    dataset = COCODataset(file, images)
    matches = match_dataset(dataset, results, "bbox")
    masks, nothing = refinement_report._compare(dataset, results, matches, "segm", ())
    before, after = ellipse((20, 10, 40, 30)) > 0, ellipse((20, 10, 40, 40)) > 0
    assert masks.coarse[0] == pytest.approx((before & after).sum() / (before | after).sum())
    assert masks.refined[0] == 1
    assert np.isnan(masks.change[1:]).all()  # a second detection of the same person; a crowd
    assert masks.comparable(matches[0], 0.5).tolist() == [True, False, False]
    assert not masks.comparable(matches[0], 0.95).any()
    assert len(nothing.change) == 0
    assert refinement_report.rank([0.1, None, -0.2, 0.3], "worst") == [2, 0, 3]
    assert refinement_report.rank([0.1, None, -0.2, 0.3], "best") == [3, 0, 2]
    points_of, _ = refinement_report._compare(dataset, results, matches, "keypoints", ())
    sigmas = np.array(PersonKeypoints.OKS_SIGMAS)
    for distance, value in ((6, points_of.coarse[0]), (1, points_of.refined[0])):
        assert value == pytest.approx(np.exp(-(distance**2) / (2 * 1600 * (2 * sigmas) ** 2)).mean())
    kinds = [refinement_report.kind_of_change(change) for change in (0.02, 0.005, -0.02, np.nan)]
    assert kinds == ["better", "same", "worse", "fp"]
    assert refinement_report.rank([0.1, None, -0.2, 0.3], "worst") == [2, 0, 3]
    assert refinement_report.rank([0.1, None, -0.2, 0.3], "best") == [3, 0, 2]


@pytest.mark.parametrize("image_format", ["RGB", "BGR", "RGB255", "BGR255"])
def test_pixels_are_restored_exactly(image_format):
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).repeat(3, 1, 1)
    pixels[1] = pixels[1].flip(0)
    pixels[2] = pixels[2].T.clone()
    mean, std = np.array([0.4, 0.45, 0.48]), np.array([0.2, 0.3, 0.4])
    if image_format.endswith("255"):
        mean, std = mean * 255, std * 10
    normalize = Normalize(mean.tolist(), std.tolist(), image_format=image_format)
    restored = dataset_report.restore_pixels(normalize(pixels)[0], normalize)
    np.testing.assert_array_equal(restored, pixels.permute(1, 2, 0).numpy())


def test_samples_are_what_training_loads(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(write_people(tmp_path)))
    cfg = load_config(CONFIG, [*TINY, "DATALOADER.SIZE_DIVISIBILITY", "64", "INPUT.HORIZONTAL_FLIP_PROB_TRAIN", "1.0"])
    page = dataset_report.report_dataset(cfg, tmp_path / "out", count=3)
    assert "<h2>iteration 1, image 1 of 2: " in page.read_text() and "padded to 128 x 128" in page.read_text()
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 3

    def samples(**kwargs):
        collected = []
        monkeypatch.setattr(dataset_report, "draw_panels", lambda image, panels: image)

        def keep(card, *_):
            collected.append((card.title, card.image, card.panels[0]))
            return ""

        monkeypatch.setattr(dataset_report, "card_html", keep)
        dataset_report.report_dataset(cfg, tmp_path / "again", **kwargs)
        return collected

    first = samples(count=4)
    for title, pixels, panel in first:  # mirrored by chance 1, of its own size, padded with the mean colour
        name = title.split(": ")[1].split(" ")[0]
        original = np.asarray(Image.open(tmp_path / "people" / "train" / name))
        np.testing.assert_array_equal(pixels[:96, :128], original[:, ::-1])
        assert (pixels[96:] == np.round(np.array(cfg.INPUT.PIXEL_MEAN) * 255)).all()
        assert panel.size_wh == (128, 128) and panel.frame_wh == (128, 96)
    assert [title.split(":")[0] for title, _, _ in first[2:]] == [f"iteration 2, image {n} of 2" for n in (1, 2)]
    later = samples(count=2, start_iter=1)
    assert [title for title, _, _ in later] == [title for title, _, _ in first[2:]]
    tested = samples(count=9, is_train=False)
    assert len(tested) == 5 and tested[0][0].startswith("batch 1, image 1 of 2: 1.jpg")
    np.testing.assert_array_equal(
        tested[0][1][:96, :128], np.asarray(Image.open(tmp_path / "people" / "val" / "1.jpg"))
    )


def test_a_config_that_does_not_fit_its_data_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(write_people(tmp_path)))
    cfg = load_config(CONFIG, [*TINY, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", "81"])
    with pytest.raises(ReportError, match="NUM_CLASSES is 81, but people_train has 1 categories"):
        dataset_report.report_dataset(cfg, tmp_path / "out")


def write_metrics(folder, records, tail=""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return folder


def test_curves_of_a_run(tmp_path):
    records = [{"iteration": i, "loss": 9.0 - i / 20, "loss_mask": 1 / i, "lr": 0.1} for i in (20, 40)]
    records += [{"iteration": 40, "loss": 5.5, "eta_seconds": 1}]  # done again after a resume
    records += [{"iteration": 40, "people_val/segm/AP": 0.25, "people_val/segm_coarse/AP": 0.2}]
    run = write_metrics(tmp_path / "run", records, tail='{"iteration": 60, "lo')
    read = curves.read_run(run)
    assert read.last_iteration == 40
    iterations, values = read.series["loss"]
    assert iterations.tolist() == [20, 40] and values.tolist() == [8.0, 5.5]
    other = write_metrics(tmp_path / "other", [{"iteration": 20, "loss": float("nan"), "time": 0.5}])
    page = curves.report_curves([run, other / "metrics.jsonl"], tmp_path / "out").read_text()
    assert page.count("<img ") == 3 and "SOLVER.TEST_PERIOD" not in page
    assert '<th scope="col">run</th><th scope="col">other</th>' in page
    assert '<th scope="row">people_val/segm/AP</th><td>0.25</td><td>-</td>' in page and "eta_seconds" not in page
    names = sorted(path.name for path in (tmp_path / "out" / "pictures").iterdir())
    assert names == ["0001-Losses.png", "0002-Average_precision_at_evaluations.png",
                     "0003-Learning_rate_gradients_speed.png"]  # fmt: skip
    page = curves.report_curves([other], tmp_path / "out").read_text()
    assert "SOLVER.TEST_PERIOD" in page  # said where there is no evaluation
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 2  # what the report before had is gone


def test_a_line_runs_through_its_values(tmp_path):
    """The picture itself: the line of a falling loss goes from upper left to lower right in its panel."""
    run = write_metrics(tmp_path / "run", [{"iteration": i, "loss": 100.0 - i} for i in range(0, 101, 10)])
    picture = curves._losses([curves.read_run(run)])()
    blue = np.array([0x0B, 0x5C, 0xAD])
    ys, xs = np.nonzero(np.abs(picture.astype(int) - blue).sum(axis=-1) < 30)
    slope, offset = np.polyfit(xs, ys, 1)
    assert slope > 0 and np.abs(slope * xs + offset - ys).max() < 3
    assert np.ptp(xs) > picture.shape[1] * 0.7 and np.ptp(ys) > picture.shape[0] * 0.6


def test_running_mean_equals_the_loop():
    values = np.array([1.0, 2, np.nan, 4, np.inf, 6, 7])
    expected = []
    for position in range(len(values)):
        window = values[max(0, position - 1) : position + 2]
        expected.append(window[np.isfinite(window)].mean())
    np.testing.assert_allclose(curves.running_mean(values, 3), expected)
    assert np.isnan(curves.running_mean(np.full(5, np.nan), 3)).all()


def test_curves_say_what_is_wrong(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*metrics\.jsonl.*tools/train_net\.py"):
        curves.read_run(tmp_path)
    file = write_metrics(tmp_path / "run", [{"iteration": 1, "loss": 1.0}]) / "metrics.jsonl"
    file.write_text("not json\n" + file.read_text())
    with pytest.raises(ReportError, match=r"metrics\.jsonl, line 1 is not JSON"):
        curves.read_run(file)
    with pytest.raises(ReportError, match='line 1 has no "iteration"'):
        curves.read_run(write_metrics(tmp_path / "b", [{"loss": 1.0}, {"iteration": 1}]))
    with pytest.raises(ReportError, match="no metrics yet"):
        curves.read_run(write_metrics(tmp_path / "c", []))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"--output .*file cannot be written"):
        ReportFolder(tmp_path / "file")
    folder = ReportFolder(tmp_path / "new")
    (folder.pictures / "mine.png").write_text("kept")
    saved = folder.save_picture(np.zeros((2, 3, 3), dtype=np.uint8), "a/b ü?.jpg")
    assert saved.name == "0001-a_b_ü_.jpg.png"
    ReportFolder(tmp_path / "new")
    assert [path.name for path in folder.pictures.iterdir()] == ["mine.png"]
