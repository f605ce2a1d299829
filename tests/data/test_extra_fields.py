"""DATASETS.EXTRA_FIELDS: numbers of each annotation, from the JSON file to the targets of a batch."""

import logging

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.datasets import COCODataset
from maskrcnn_benchmark.data.datasets.coco import extra_fields_of
from maskrcnn_benchmark.data.datasets.validation import check_numbers
from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT
from tests.data.coco_files import annotation, write_coco

NAN = float("nan")
AGES = {"ages": "age"}


def values_of(dataset, index, field="ages"):
    return dataset.get_groundtruth(index).get_field(field)


def test_numbers_become_a_field_of_the_target(tmp_path):
    entries = [
        annotation(1, 2, age=31),
        annotation(2, 1, age=4.5, smiles=True),
        annotation(3, 2),
        annotation(4, 2, age=None),
    ]
    files = write_coco(tmp_path, entries, [(40, 30)] * 3)
    dataset = COCODataset(*files, extra_fields={**AGES, "smiling": "smiles"})
    assert values_of(dataset, 0).dtype == torch.float32 and values_of(dataset, 0).tolist() == [4.5]
    np.testing.assert_array_equal(values_of(dataset, 1), [31, NAN, NAN])
    assert values_of(dataset, 0, "smiling").tolist() == [1]
    assert values_of(dataset, 2).shape == (0,), "an image without annotations has the field too"


def test_rows_stay_aligned_when_annotations_and_images_are_left_out(tmp_path):
    entries = [
        annotation(1, 1, bbox=(1, 1, 0, 5), age=1),
        annotation(2, 3, age=2),
        annotation(3, 1, age=3),
        annotation(4, 3, age=4, iscrowd=1),
    ]
    files = write_coco(tmp_path, entries, [(40, 30)] * 3)
    dataset = COCODataset(*files, True, extra_fields=AGES)
    assert [values_of(dataset, index).tolist() for index in range(len(dataset))] == [[3], [2]]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("31", "'age' is not a number"),
        ([31], "'age' is not a number"),
        ({}, "'age' is not a number"),
        (NAN, "'age' is NaN, infinite or too large"),
        (float("inf"), "'age' is NaN, infinite or too large"),
        (1e300, "'age' is NaN, infinite or too large"),
        (10**400, "'age' is NaN, infinite or too large"),
    ],
)
def test_what_is_not_a_number_is_left_out_and_counted(tmp_path, caplog, value, reason):
    files = write_coco(tmp_path, [annotation(1, age=value), annotation(2, age=7)])
    dataset = COCODataset(*files, extra_fields=AGES)
    assert values_of(dataset, 0).tolist() == [7]
    assert dataset.validation_report.skipped == {reason: 1}
    assert f"1 x {reason} (annotation ids 1)" in caplog.text


def test_numbers_are_not_checked_when_nobody_asks(tmp_path):
    dataset = COCODataset(*write_coco(tmp_path, [annotation(1, age="old")]))
    assert len(dataset.get_groundtruth(0)) == 1


def test_many_numbers_at_once():
    numbers, problems = check_numbers([], "age")
    assert numbers.shape == (0,) and not any(rows.any() for _, rows in problems)
    numbers, problems = check_numbers([1, None, "x", 10**400, 2.5, False], "age")
    np.testing.assert_array_equal(numbers, np.array([1, NAN, NAN, np.inf, 2.5, 0], dtype=np.float32))
    assert [rows.nonzero()[0].tolist() for _, rows in problems] == [[2], [3]]


def test_a_key_that_no_annotation_has_is_told(tmp_path, caplog):
    files = write_coco(tmp_path, [annotation(1, age=3)])
    with caplog.at_level(logging.WARNING):
        COCODataset(*files, extra_fields={"ages": "aeg"})
    assert "has a number under 'aeg': the field 'ages' is NaN everywhere" in caplog.text


def test_the_config_s_fields_reach_the_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    entries = [annotation(1, 1, age=30), annotation(2, 1, bbox=(20, 3, 10, 8)), annotation(3, 2, age=50)]
    DatasetCatalog.register("aged", *write_coco(tmp_path, entries, [(40, 30)] * 2))
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.EXTRA_FIELDS", "(('ages', 'age'),)", "DATASETS.TRAIN", "('aged',)"])
    cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES, cfg.MODEL.DEVICE, cfg.DATALOADER.NUM_WORKERS = 3, "cpu", 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN = 2, 1, 1.0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (60,), 100
    [(_, targets, indices)] = make_data_loader(cfg)
    found = {index: target.get_field("ages") for index, target in zip(indices, targets, strict=True)}
    np.testing.assert_array_equal(found[0], [30, NAN])
    np.testing.assert_array_equal(found[1], [50])
    kept = targets[0][torch.tensor([], dtype=torch.long)].transpose(FLIP_LEFT_RIGHT)
    assert kept.get_field("ages").shape == (0,)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("ages", "age"), "is 'ages'; expected"),
        ((("ages",),), "expected .BoxList field, JSON key."),
        ((("ages", 3),), "expected .BoxList field, JSON key."),
        ((("labels", "age"),), "'labels', which is a field that every target has already"),
        ((("ages", "age"), ("ages", "years")), "'ages', which is named twice"),
    ],
)
def test_unusable_entries_of_the_config_are_refused(pairs, message):
    with pytest.raises(ConfigError, match=message):
        extra_fields_of(pairs)
