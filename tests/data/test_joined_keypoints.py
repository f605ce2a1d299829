"""Instances of many classes joined with the keypoints of some: data, checks, config, and one evaluation for all."""

import copy
import json
import logging
from pathlib import Path

import pytest
import torch
from pycocotools.coco import COCO

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.datasets import COCODataset
from maskrcnn_benchmark.data.evaluation import evaluate
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from tests.data.coco_files import PERSON, annotation, write_coco

NAMES = list(PersonKeypoints.NAMES)
POINTS = [value for index in range(17) for value in (4 + index % 5, 5 + index % 4, 2)]


@pytest.fixture()
def files(tmp_path, monkeypatch):
    """Three images: a person and a dog, a dog, a person without keypoints; returns (instances, keypoints, root)."""
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    entries = [
        annotation(10, 1, bbox=(2, 3, 12, 9)),
        annotation(11, 1, bbox=(20, 3, 9, 9), category_id=18),
        annotation(12, 2, bbox=(5, 5, 9, 9), category_id=18),
        annotation(13, 3, bbox=(7, 3, 12, 9)),
    ]
    instances, root = write_coco(tmp_path, entries, [(40, 30)] * 3)
    people = [copy.deepcopy(entries[0]), copy.deepcopy(entries[3])]
    people[0].update(keypoints=POINTS, num_keypoints=17)
    people[1].update(keypoints=[0] * 51, num_keypoints=0)
    keypoints = tmp_path / "keypoints.json"
    category = {**PERSON, "keypoints": NAMES, "skeleton": [[16, 14], [14, 12]]}
    content = {**json.loads(Path(instances).read_text()), "annotations": people, "categories": [category]}
    keypoints.write_text(json.dumps(content))
    return instances, str(keypoints), root


def change(path, edit):
    content = json.loads(Path(path).read_text())
    edit(content)
    Path(path).write_text(json.dumps(content))


def joined(files, **kwargs):
    instances, keypoints, root = files
    return COCODataset(instances, root, keypoints_file=keypoints, **kwargs)


def test_every_class_has_boxes_and_masks_and_people_have_keypoints(files, caplog):
    data = joined(files)
    assert len(data) == 3 and data.class_names == ["__background__", "person", "dog"]
    assert data.keypoint_labels == (1,) and data.keypoint_spec.names == tuple(NAMES)
    target = data.get_groundtruth(0)
    assert target.get_field(fields.LABELS).tolist() == [1, 2]
    assert target.get_field(fields.MASKS).areas().tolist() == [108, 81]
    points = target.get_field(fields.KEYPOINTS).keypoints
    assert points[0].flatten().tolist() == POINTS and not points[1].any()
    assert not data.get_groundtruth(1).get_field(fields.KEYPOINTS).keypoints.any()
    assert not caplog.records


def test_the_annotations_for_evaluation_are_joined_too(files):
    coco = joined(files).coco
    assert coco.anns[10]["keypoints"] == POINTS and coco.anns[10]["num_keypoints"] == 17
    assert "keypoints" not in coco.anns[11] and coco.cats[1]["keypoints"] == NAMES


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("image_id", 2, "1 with another image (annotation ids 10)"),
        ("category_id", 18, "1 with another category (annotation ids 10)"),
        ("bbox", [2, 3, 20, 9], "1 with another box (annotation ids 10)"),
        ("bbox", "box", "1 with another box (annotation ids 10)"),
        ("id", 99, "1 with an id that the instances do not have (annotation ids 99)"),
    ],
)
def test_annotations_that_disagree_are_said_and_have_no_keypoints(files, caplog, key, value, said):
    change(files[1], lambda content: content["annotations"][0].update({key: value}))
    change(files[1], lambda content: content["annotations"][1].update(keypoints=POINTS))
    with caplog.at_level(logging.WARNING):
        data = joined(files)
    assert said in caplog.text and "1 are not used" in caplog.text
    assert not data.get_groundtruth(0).get_field(fields.KEYPOINTS).keypoints.any()
    assert data.get_groundtruth(2).get_field(fields.KEYPOINTS).keypoints.any()


def test_files_that_are_no_pair_are_refused(files):
    change(files[1], lambda content: [entry.update(id=entry["id"] + 900) for entry in content["annotations"]])
    with pytest.raises(ValueError, match=r"none can be joined: 2 with an id .*910, 913.* Are these files a pair\?"):
        joined(files)
    change(files[1], lambda content: content["categories"][0].update(name="cat"))
    with pytest.raises(ValueError, match=r"keypoints.json has the category .*'cat'.* has the category 'person'"):
        joined(files)
    change(files[1], lambda content: content["categories"][0].update(id=3))
    with pytest.raises(ValueError, match="has no such category of this id"):
        joined(files)


# The config


def config(files, *opts):
    instances, keypoints, root = files
    DatasetCatalog.register("pets", instances, root, keypoints_file=keypoints)
    cfg = get_cfg()
    cfg.merge_from_list(
        [
            *("DATASETS.TRAIN", ("pets",), "DATASETS.TEST", ("pets",), "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 3),
            *("MODEL.MASK_ON", True, "MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CLASSES", (1,)),
            *("DATALOADER.NUM_WORKERS", 0, "SOLVER.IMS_PER_BATCH", 3, "SOLVER.MAX_ITER", 1, "MODEL.DEVICE", "cpu"),
            *opts,
        ]
    )
    return cfg


def ids_of(loader):
    return sorted(int(i) for _, targets, _ in loader for t in targets for i in t.get_field(fields.ANNOTATION_IDS))


def test_a_registered_pair_trains_with_images_without_people(files):
    loader = make_data_loader(config(files))
    assert ids_of(loader) == [10, 11, 12, 13]
    points = {
        int(identity): bool(rows.any())
        for _, targets, _ in loader
        for target in targets
        for identity, rows in zip(
            target.get_field(fields.ANNOTATION_IDS), target.get_field(fields.KEYPOINTS).keypoints, strict=True
        )
    }
    assert points == {10: True, 11: False, 12: False, 13: False}


def test_a_pair_in_the_config(files):
    cfg = config(files, "DATASETS.KEYPOINT_FILES", (("pets", files[1]),))
    DatasetCatalog.register("pets", files[0], files[2])
    assert make_data_loader(cfg).dataset.keypoint_labels == (1,)
    cfg.DATASETS.KEYPOINT_FILES = (("pats", files[1]),)
    with pytest.raises(ConfigError, match="KEYPOINT_FILES names pats, but DATASETS.TRAIN and DATASETS.TEST do not"):
        make_data_loader(cfg)
    cfg.DATASETS.KEYPOINT_FILES = ("pets", files[1])
    with pytest.raises(ConfigError, match=r"expected \(name of a data set, file\)"):
        make_data_loader(cfg)


def test_relative_files_are_below_the_folder_of_the_data_sets(files, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "data_dir", classmethod(lambda cls: str(Path(files[0]).parent)))
    cfg = config(files, "DATASETS.KEYPOINT_FILES", (("pets", "keypoints.json"),))
    DatasetCatalog.register("pets", files[0], files[2])
    assert make_data_loader(cfg).dataset.keypoint_labels == (1,)


def test_classes_that_do_not_fit_the_data_are_said(files, caplog):
    with pytest.raises(ValueError, match=r"CLASSES is \(2,\), but in pets the labels with keypoints are 1 \(person\)"):
        make_data_loader(config(files, "MODEL.ROI_KEYPOINT_HEAD.CLASSES", (2,)))
    with pytest.raises(ValueError, match=r"CLASSES has the labels \[2\], which have no keypoints in pets"):
        make_data_loader(config(files, "MODEL.ROI_KEYPOINT_HEAD.CLASSES", (1, 2)))
    with caplog.at_level(logging.WARNING):
        make_data_loader(config(files, "MODEL.ROI_KEYPOINT_HEAD.CLASSES", ()))
    assert "only some classes of pets have keypoints: 1 (person). Set MODEL.ROI_KEYPOINT_HEAD.CLASSES to (1,)" in (
        caplog.text
    )


def test_the_catalog_has_pairs_of_coco():
    for split, ending in (("2017_train", "train2017"), ("2014_minival", "minival2014")):
        args = DatasetCatalog.get(f"coco_{split}_instances_and_keypoints")["args"]
        assert args["ann_file"].endswith(f"coco/annotations/instances_{ending}.json")
        assert args["keypoints_file"].endswith(f"coco/annotations/person_keypoints_{ending}.json")
    with pytest.raises(FileNotFoundError, match="person_keypoints_minival2014.json"):
        DatasetCatalog.check(["coco_2014_minival_instances_and_keypoints"])


# Evaluation


def detections(data, index):
    """The ground truth as detections; those of other classes have keypoints of zero, as the model writes them."""
    truth = data.get_groundtruth(index)
    found = truth.copy_with_fields([fields.LABELS])
    found.add_field(fields.SCORES, torch.linspace(0.9, 0.8, len(truth)))
    found.add_field(fields.MASK, torch.ones(len(truth), 1, 28, 28))
    points = truth.get_field(fields.KEYPOINTS)
    found.add_field(fields.KEYPOINTS, points)
    return found


def test_one_evaluation_scores_boxes_of_all_classes_and_keypoints_of_people(files, tmp_path):
    data = joined(files, offset=0)
    predictions = [detections(data, index) for index in range(3)]
    results = evaluate(data, predictions, tmp_path, iou_types=("bbox", "segm", "keypoints"))
    assert all(results.metrics[task]["AP"] == pytest.approx(1) for task in ("bbox", "segm", "keypoints"))
    assert set(results.per_class["bbox"]) == {"person", "dog"} and "keypoints" not in results.per_class
    written = {task: json.loads((tmp_path / f"{task}.json").read_text()) for task in ("bbox", "keypoints")}
    assert sorted(entry["category_id"] for entry in written["bbox"]) == [1, 1, 18, 18]
    assert [entry["category_id"] for entry in written["keypoints"]] == [1, 1]


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_the_files_of_coco_are_pairs(split, coco_mini, caplog):
    paths = [coco_mini / "annotations" / f"{kind}_{split}.json" for kind in ("instances", "person_keypoints")]
    data = COCODataset(paths[0], coco_mini / split, keypoints_file=paths[1])
    people = COCODataset(paths[1], coco_mini / split)
    assert "not used" not in caplog.text
    assert len(data.categories) == 80 and data.keypoint_labels == (1,)
    rows = {image: index for index, image in enumerate(data.ids)}
    for index, image in enumerate(people.ids):
        ours, theirs = data.get_groundtruth(rows[image]), people.get_groundtruth(index)
        is_person = ours.get_field(fields.LABELS) == 1
        order = ours.get_field(fields.ANNOTATION_IDS)[is_person].argsort()
        expected = theirs.get_field(fields.ANNOTATION_IDS).argsort()
        assert torch.equal(
            ours.get_field(fields.KEYPOINTS).keypoints[is_person][order],
            theirs.get_field(fields.KEYPOINTS).keypoints[expected],
        )
        assert not ours.get_field(fields.KEYPOINTS).keypoints[~is_person].any()
    theirs = COCO(str(paths[1])).anns
    counts = {identity: entry.get("num_keypoints", 0) for identity, entry in data.coco.anns.items()}
    assert all(counts[identity] == entry["num_keypoints"] for identity, entry in theirs.items())
