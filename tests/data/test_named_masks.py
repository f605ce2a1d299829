"""Masks of annotations: each may be absent or unusable without its box, and an instance may have several by name."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.build import check_datasets
from maskrcnn_benchmark.data.datasets import COCODataset, ConcatDataset, ListDataset
from maskrcnn_benchmark.data.datasets import validation as problem
from maskrcnn_benchmark.data.datasets.annotations import mask_at, spell_path
from maskrcnn_benchmark.data.datasets.base import as_detection_dataset
from maskrcnn_benchmark.data.datasets.coco import extra_fields_of, mask_keys_of
from maskrcnn_benchmark.data.evaluation.coco import CocoEvaluator
from maskrcnn_benchmark.data.transforms.transforms import Compose, RandomHorizontalFlip, RandomVerticalFlip, Resize
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.fields import mask_fields
from tests.data.coco_files import BAD_MASKS, annotation, write_coco

NAMES = ("visible", "amodal")
# where each way to write masks has the mask that a test damages
PLACES = {"segmentation": "", "segmentations['visible']": "visible", "i_segm": "visible"}


def rectangle(x, y, w, h):
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def run_lengths(mask, *, compressed=True):
    encoded = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    if compressed:
        return {"size": encoded["size"], "counts": encoded["counts"].decode()}
    runs, current = [0], 0
    for value in mask.T.reshape(-1).tolist():
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def masks_of(target, name=""):
    """The masks (R, H, W) of a target, and which of them are present."""
    names = mask_fields(name)
    return target.get_field(names.truth).get_mask_tensor().numpy(), target.get_field(names.present)


def at(place, mask):
    """The keys of an annotation with this mask in a place."""
    if place.startswith("segmentations"):
        return {"segmentations": {"visible": mask}}
    return {place: mask}


def dataset_of(files, place, **more):
    keys = {"visible": place} if place == "i_segm" else {}
    return COCODataset(*files, with_masks=True, named_masks=["visible"], mask_keys=keys, **more)


# One mask, absent or unusable


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("reason", "bad"), [(reason, bad) for reason, entries in BAD_MASKS.items() for bad in entries])
def test_an_unusable_mask_is_absent_counted_and_told_and_keeps_its_box(tmp_path, caplog, place, reason, bad):
    good = [at(place, rectangle(x, 3, 4, 5)) for x in (2, 20)]
    entries = [annotation(1, **good[0]), annotation(5, **at(place, bad)), annotation(9, bbox=(20, 3, 4, 5), **good[1])]
    files = write_coco(tmp_path, entries)
    with caplog.at_level(logging.WARNING):
        dataset = dataset_of(files, place)
    [message] = [record.getMessage() for record in caplog.records if "ignored" in record.getMessage()]
    assert f"{files[0]}: ignored 1 masks, but not their boxes: 1 x {place}: {reason} (annotation ids 5)." == message
    assert dataset.validation_report.num_skipped == 0
    assert dataset.validation_report.ignored_masks == {f"{place}: {reason}": 1}
    target = dataset.get_groundtruth(0)
    assert target.get_field(fields.ANNOTATION_IDS).tolist() == [1, 5, 9]
    drawn, present = masks_of(target, PLACES[place])
    assert present.dtype == torch.bool and present.tolist() == [True, False, True]
    assert drawn[0, 3:8, 2:6].all() and drawn[2, 3:8, 20:24].all()
    assert [mask.sum() for mask in drawn] == [20, 0, 20]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("absent", [None, [], "no key"])
def test_an_absent_mask_is_no_error(tmp_path, caplog, place, absent):
    entry = annotation(2, **at(place, absent))
    if absent == "no key":
        del entry[place.partition("[")[0]]
    files = write_coco(tmp_path, [annotation(1, **at(place, rectangle(1, 2, 3, 4))), entry])
    with caplog.at_level(logging.INFO):
        dataset = dataset_of(files, place)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING and place in record.message]
    assert f"1 of 2 annotations have no usable {place}; only their boxes and other fields are used" in caplog.text
    target = dataset.get_groundtruth(0)
    assert len(target) == 2
    drawn, present = masks_of(target, PLACES[place])
    assert present.tolist() == [True, False] and drawn[0].sum() == 12 and not drawn[1].any()


@pytest.mark.parametrize("container", ["text", [[1, 1, 9, 1, 9, 9]], 3])
def test_named_masks_that_are_no_dictionary(tmp_path, container):
    files = write_coco(tmp_path, [annotation(1, segmentations=container), annotation(2, segmentations=[])])
    dataset = COCODataset(*files, named_masks=NAMES)
    reasons = {f"segmentations['{name}']: {problem.POLYGON_MALFORMED}": 1 for name in NAMES}
    assert dataset.validation_report.ignored_masks == reasons
    assert masks_of(dataset.get_groundtruth(0), "amodal")[1].tolist() == [False, False]


def test_a_mask_with_two_problems_is_counted_once(tmp_path):
    bad = [[1, 1, 9, 1, 9, float("nan")], ["x", 1, 9, 1, 9, 9]]
    files = write_coco(tmp_path, [annotation(1), annotation(2, segmentation=bad), annotation(3)])
    dataset = COCODataset(*files)
    assert sum(dataset.validation_report.ignored_masks.values()) == 1
    assert masks_of(dataset.get_groundtruth(0))[1].tolist() == [True, False, True]


def test_masks_of_annotations_that_are_left_out_are_not_reported(tmp_path):
    entries = [annotation(1), annotation(2, bbox=(1, 1, 0, 0), segmentation="bad"), annotation(3, segmentation="bad")]
    report = COCODataset(*write_coco(tmp_path, entries)).validation_report
    assert report.num_skipped == 1 and sum(report.ignored_masks.values()) == 1
    assert "skipped 1 of 3 annotations: 1 x box of zero" in report.summary()
    assert "Ignored 1 masks, but not their boxes: 1 x segmentation: " in report.summary()


def test_boxes_without_a_mask_keep_their_images(tmp_path, caplog):
    files = write_coco(tmp_path, [annotation(1, segmentation=[]), annotation(2, 2, segmentation=[])], [(40, 30)] * 3)
    dataset = COCODataset(*files, True, with_masks=True)
    assert dataset.ids == [1, 2]
    assert f"no annotation of {files[0]} has a mask (a usable 'segmentation')" in caplog.text


# Several masks


def random_annotations(rng, count, size_wh):
    """Annotations of three images; each mask is polygons, run lengths of either form, or absent."""
    width, height = size_wh

    def mask():
        x, y = rng.integers(0, width - 12), rng.integers(0, height - 12)
        w, h = rng.integers(3, 12, 2)
        polygon = [float(value) for value in (x, y, x + w, y, x + w, y + h + 0.37, x, y + h)]
        bitmap = np.zeros((height, width), dtype=bool)
        bitmap[y : y + h, x : x + w] = rng.random((h, w)) < 0.7
        bitmap[y, x] = True
        forms = [[polygon], [polygon, [1.5, 1.5, 8.0, 1.0, 4.0, 9.0]], run_lengths(bitmap)]
        return [*forms, run_lengths(bitmap, compressed=False), None, [], "absent"][rng.integers(7)]

    entries = []
    for number in range(1, count + 1):
        masks = {name: value for name in (*NAMES, "third") if (value := mask()) != "absent"}
        entry = annotation(number, image_id=int(rng.integers(1, 4)), segmentation=mask(), own=mask())
        entry["segmentations"] = masks
        entries.append({key: value for key, value in entry.items() if value != "absent"})
    return entries


def test_packed_masks_are_those_of_the_file(tmp_path):
    size = (40, 30)
    entries = random_annotations(np.random.default_rng(5), 60, size)
    files = write_coco(tmp_path, entries, [size] * 4)
    dataset = COCODataset(*files, with_masks=True, named_masks=[*NAMES, "own"], mask_keys={"own": "own"})
    assert dataset.mask_names == [*NAMES, "own"]
    by_id = {entry["id"]: entry for entry in json.loads(Path(files[0]).read_text())["annotations"]}
    read = {
        "": lambda entry: entry.get("segmentation"),
        "own": lambda entry: entry.get("own"),
        "visible": lambda entry: entry["segmentations"].get("visible"),
        "amodal": lambda entry: entry["segmentations"].get("amodal"),
    }
    seen = 0
    for index in range(len(dataset)):
        target = dataset.get_groundtruth(index)
        for name, find in read.items():
            drawn, present = masks_of(target, name)
            for row, identity in enumerate(target.get_field(fields.ANNOTATION_IDS).tolist()):
                segmentation = find(by_id[identity])
                assert bool(present[row]) == bool(segmentation)
                expected = np.zeros((30, 40), dtype=np.uint8)
                if segmentation:
                    expected = dataset.coco.annToMask({"image_id": index + 1, "segmentation": segmentation})
                np.testing.assert_array_equal(drawn[row], expected)
                seen += 1
    assert seen == 4 * 60
    assert not dataset.get_groundtruth(0).has_field(mask_fields("third").truth)


def test_all_named_masks_are_read_unless_names_are_given(tmp_path):
    entries = [
        annotation(1, segmentations={"crown": rectangle(1, 1, 4, 4)}, i_segm=rectangle(2, 2, 5, 5)),
        annotation(2, segmentations={"tooth": rectangle(1, 1, 6, 6)}),
    ]
    files = write_coco(tmp_path, entries)
    assert COCODataset(*files).mask_names == ["crown", "tooth"]
    assert COCODataset(*files, mask_keys={"root": "i_segm"}).mask_names == ["crown", "tooth", "root"]
    assert COCODataset(*files, named_masks=()).mask_names == []
    target = COCODataset(*files, named_masks=(), with_masks=False).get_groundtruth(0)
    assert set(target.fields()) == {fields.LABELS, fields.ANNOTATION_IDS}


@pytest.mark.parametrize(
    "keys",
    [
        {"visible": "inmodal_seg", "amodal": "segmentation"},
        {"visible": "i_segm", "amodal": "a_segm"},
        {"visible": "visible_mask", "amodal": "segmentation"},
    ],
    ids=["KINS 2019", "KINS 2020", "COCOA-cls and D2SA"],
)
def test_keys_of_public_data_sets_are_mapped(tmp_path, keys):
    """docs/MULTI_MASK.md has this table."""
    hidden = np.zeros((30, 40), dtype=np.uint8)
    hidden[3:11, 2:7] = 1
    entry = annotation(1, **{keys["visible"]: run_lengths(hidden), keys["amodal"]: rectangle(2, 3, 10, 8)})
    target = COCODataset(*write_coco(tmp_path, [entry]), named_masks=NAMES, mask_keys=keys).get_groundtruth(0)
    assert masks_of(target, "visible")[0].sum() == 40 and masks_of(target, "amodal")[0].sum() == 80


def test_rows_stay_aligned_when_annotations_and_images_are_left_out(tmp_path):
    entries = [
        annotation(1, 1, bbox=(1, 1, 0, 5), segmentations={"visible": rectangle(1, 1, 2, 2)}),
        annotation(2, 3, segmentations={"visible": rectangle(1, 1, 3, 3)}),
        annotation(3, 1),
        annotation(4, 3, iscrowd=1),
        annotation(5, 1, segmentations={"visible": run_lengths(np.eye(30, 40))}),
    ]
    dataset = COCODataset(*write_coco(tmp_path, entries, [(40, 30)] * 3), True)
    areas = [masks_of(dataset.get_groundtruth(index), "visible")[0].sum(axis=(1, 2)).tolist() for index in (0, 1)]
    assert areas == [[0, 30], [9]]
    assert [masks_of(dataset.get_groundtruth(index))[0].sum(axis=(1, 2)).tolist() for index in (0, 1)] == [
        [80, 80],
        [80],
    ]


def test_a_mask_under_two_names_is_packed_once_and_nothing_is_kept_beside_the_arrays(tmp_path):
    entries = [annotation(number, 1 + number % 2, i_segm=rectangle(1, 1, 4, 4)) for number in range(1, 301)]
    files = write_coco(tmp_path, entries, [(40, 30)] * 3)
    keys = {"visible": "i_segm", "amodal": "segmentation"}
    dataset = COCODataset(*files, True, named_masks=NAMES, mask_keys=keys)
    packed = dataset._annotations.segmentations
    assert packed["amodal"] is packed[""] and packed["visible"] is not packed[""]
    alone = COCODataset(*files, True, named_masks=())
    coordinates = 300 * 8 * 8  # a rectangle of four points in double precision
    added = len(pickle.dumps(dataset)) - len(pickle.dumps(alone))
    assert coordinates <= added < 2 * coordinates


def test_targets_do_not_write_into_the_packed_arrays(tmp_path):
    files = write_coco(tmp_path, [annotation(1, segmentations={"visible": rectangle(1, 1, 4, 4)})])
    dataset = COCODataset(*files)
    target = dataset.get_groundtruth(0)
    target.get_field(mask_fields("visible").present)[:] = False
    target.get_field(mask_fields("visible").truth).instances[0].parts[0][:] = 0
    drawn, present = masks_of(dataset.get_groundtruth(0), "visible")
    assert present.all() and drawn.sum() == 16


# Transforms


def drawn_target():
    """Two instances with three masks each, one of them absent; and their bitmaps, by name."""
    rng = np.random.default_rng(0)
    free = np.zeros((30, 40), dtype=np.uint8)
    free[4:20, 5:30] = rng.random((16, 25)) < 0.6
    square = np.zeros((30, 40), dtype=np.uint8)
    square[6:16, 8:20] = 1
    empty = np.zeros((30, 40), dtype=np.uint8)
    masks = {
        "": [rectangle(8, 6, 12, 10), run_lengths(free)],
        "visible": [run_lengths(free), None],
        "amodal": [rectangle(8, 6, 12, 10), run_lengths(square)],
    }
    bitmaps = {"": [square, free], "visible": [free, empty], "amodal": [square, square]}
    return masks, bitmaps


@pytest.fixture
def target(tmp_path):
    masks, _ = drawn_target()
    entries = [
        annotation(row + 1, segmentation=masks[""][row], segmentations={name: masks[name][row] for name in NAMES})
        for row in (0, 1)
    ]
    return COCODataset(*write_coco(tmp_path, entries)).get_groundtruth(0)


MOVES = {
    "horizontal flip": (lambda target: flipped(RandomHorizontalFlip, target), lambda bitmap: bitmap[:, ::-1]),
    "vertical flip": (lambda target: flipped(RandomVerticalFlip, target), lambda bitmap: bitmap[::-1]),
    "resize": (lambda target: target.resize((120, 60)), lambda bitmap: bitmap.repeat(2, axis=0).repeat(3, axis=1)),
    "crop": (lambda target: target.crop((7, 5, 27, 20)), lambda bitmap: bitmap[5:20, 7:27]),
    "rows": (lambda target: target[torch.tensor([True, True])], lambda bitmap: bitmap),
    "pipeline": (
        lambda target: Compose([Resize(60, 120), RandomHorizontalFlip(1.0)])(Image.new("RGB", (40, 30)), target)[1],
        lambda bitmap: bitmap.repeat(2, axis=0).repeat(2, axis=1)[:, ::-1],
    ),
}


def flipped(transform, target):
    return transform(1.0)(Image.new("RGB", (40, 30)), target)[1]


@pytest.mark.parametrize("move", MOVES)
def test_transforms_move_all_masks_alike(target, move):
    transform, move_bitmap = MOVES[move]
    moved = transform(target)
    for name, bitmaps in drawn_target()[1].items():
        drawn, present = masks_of(moved, name)
        np.testing.assert_array_equal(drawn, [move_bitmap(bitmap) for bitmap in bitmaps])
        assert present.tolist() == [True, name != "visible"]


def test_selected_rows_keep_their_masks(target):
    assert masks_of(target[[1]], "visible")[1].tolist() == [False]
    assert masks_of(target[[1, 0]], "visible")[1].tolist() == [False, True]


# Runs


@pytest.fixture
def cfg():
    cfg = get_cfg()
    cfg.MODEL.MULTI_MASK_ON = True
    cfg.MODEL.RPN_ONLY = True  # the number of classes does not matter
    return cfg


def test_masks_reach_a_batch_also_of_images_without_an_instance(tmp_path, monkeypatch, cfg):
    entries = [annotation(1, segmentations={"visible": rectangle(1, 1, 4, 4)}, a=rectangle(1, 1, 8, 8))]
    ann_file, root = write_coco(tmp_path, entries, [(40, 30)] * 3)
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    DatasetCatalog.register("masked", ann_file, root)
    cfg.DATASETS.TEST = ("masked",)
    cfg.DATASETS.MASK_KEYS = (("amodal", "a"),)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.TEST.IMS_PER_BATCH = 3
    [loader] = make_data_loader(cfg, is_train=False)
    [(_, targets, _)] = list(loader)
    for name in NAMES:
        assert [masks_of(target, name)[1].tolist() for target in targets] == [[True], [], []]
        assert [len(target.get_field(mask_fields(name).truth)) for target in targets] == [1, 0, 0]
    assert not targets[0].has_field(fields.MASKS), "MODEL.MASK_ON is False"
    assert list(loader.dataset.mask_names) == list(NAMES)


def test_the_names_of_joined_and_adapted_data_sets(tmp_path):
    mask = rectangle(1, 1, 4, 4)
    sets = [
        COCODataset(*write_coco(tmp_path / str(number), [annotation(1, segmentations=masks)]))
        for number, masks in enumerate([{"visible": mask}, {}, {"amodal": mask, "visible": mask}])
    ]
    assert list(ConcatDataset(sets).mask_names) == ["visible", "amodal"]
    assert list(ConcatDataset(sets[1:2]).mask_names) == [] == list(ListDataset([]).mask_names)

    class Own:
        mask_names = ("crown",)

    assert list(as_detection_dataset(Own()).mask_names) == ["crown"]
    assert list(as_detection_dataset(object()).mask_names) == []


def make_sets(tmp_path, *masks_of_sets, keys=()):
    named = [
        COCODataset(*write_coco(tmp_path / str(number), [annotation(1, **masks)]), named_masks=NAMES, mask_keys=keys)
        for number, masks in enumerate(masks_of_sets)
    ]
    return named, [f"set_{number}" for number in range(len(named))]


def test_a_name_that_no_annotation_has_is_refused_in_training(tmp_path, cfg, caplog):
    masks = {"segmentations": {"visible": rectangle(1, 1, 4, 4), "modal": rectangle(1, 1, 4, 4)}}
    sets, names = make_sets(tmp_path, masks, {"segmentation": [], "a_segm": rectangle(1, 1, 4, 4)})
    check_datasets(cfg, *[part[:0] for part in (sets, names)], is_train=True)
    with pytest.raises(ValueError, match=r"MASKS has 'amodal'") as caught:
        check_datasets(cfg, sets, names, is_train=True)
    for part in (
        "no annotation has a usable mask of this name in set_0, which has masks under 'segmentation' and "
        "'segmentations' (of 'visible', 'modal'); nor in set_1, which has masks under 'a_segm'.",
        'It is read from "segmentations": {"amodal": ...}; DATASETS.MASK_KEYS can name another key.',
    ):
        assert part in str(caught.value)
    caplog.clear()
    check_datasets(cfg, sets, names, is_train=False)
    assert "MASKS has 'amodal'" in caplog.text, "a test set without the mask gives a warning only"


def test_a_mapping_to_a_key_that_is_not_there(tmp_path, cfg):
    cfg.DATASETS.MASK_KEYS = (("visible", "i_segn"), ("amodal", "segmentation"))
    keys = mask_keys_of(cfg.DATASETS.MASK_KEYS)
    sets, names = make_sets(tmp_path, {"i_segm": rectangle(1, 1, 4, 4)}, keys=keys)
    with pytest.raises(ValueError, match=r"in set_0, which has masks under 'segmentation' and 'i_segm'\.") as caught:
        check_datasets(cfg, sets, names, is_train=True)
    assert "It is read from the key 'i_segn', as DATASETS.MASK_KEYS says." in str(caught.value)


def test_one_of_the_training_sets_may_lack_a_mask(tmp_path, cfg, caplog):
    both = {"segmentations": dict.fromkeys(NAMES, rectangle(1, 1, 4, 4))}
    sets, names = make_sets(tmp_path, both, {"segmentation": []})
    check_datasets(cfg, sets, names, is_train=True)
    messages = [record.getMessage() for record in caplog.records if "ROI_MULTI_MASK_HEAD" in record.getMessage()]
    assert len(messages) == 2 and all("in set_1, which has no masks." in message for message in messages)


def test_nothing_is_said_of_files_without_annotations_and_of_sets_that_do_not_tell(tmp_path, cfg, caplog):
    empty = COCODataset(*write_coco(tmp_path, []), named_masks=NAMES)
    assert list(empty.mask_names) == list(NAMES)
    check_datasets(cfg, [empty, as_detection_dataset(ListDataset([]))], ["empty", "list"], is_train=False)
    check_datasets(cfg, [ListDataset([])], ["list"], is_train=True)
    assert "ROI_MULTI_MASK_HEAD" not in caplog.text


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            ("visible", "i_segm"),
            r"MASK_KEYS is 'visible'; expected \(name of a mask, JSON key\).*\(\('visible', 'i_segm'\),\)",
        ),
        ((("visible", 3),), r"an entry of DATASETS.MASK_KEYS is \('visible', 3\)"),
        ((("visible", "a"), ("visible", "b")), r"reads 'visible' from 'a' and from 'b'; name it once"),
    ],
)
def test_unusable_entries_of_the_config_are_refused(pairs, message):
    with pytest.raises(ConfigError, match=message):
        mask_keys_of(pairs)


def test_an_extra_field_cannot_take_the_place_of_a_mask():
    for field in ("masks_present", "masks_visible", "masks_visible_present"):
        with pytest.raises(ConfigError, match=f"into '{field}', which is a field that every target has already"):
            extra_fields_of([(field, "key")], NAMES)
    assert extra_fields_of([("masks_visible", "key")]) == {"masks_visible": "key"}


def test_a_name_that_cannot_be_a_field_is_refused(tmp_path):
    files = write_coco(tmp_path, [annotation(1, segmentations={"left/right": rectangle(1, 1, 4, 4)})])
    with pytest.raises(ValueError, match="name of a mask is 'left/right'"):
        COCODataset(*files)
    assert len(COCODataset(*files, named_masks=())) == 1


def test_paths_in_annotations():
    entry = {"a": {"b": 1}, "c": None, "d": "text"}
    assert mask_at(entry, ("a", "b")) == 1 and mask_at(entry, ("a",)) == {"b": 1}
    assert mask_at(entry, ("c", "b")) is None and mask_at(entry, ("e", "b")) is None
    assert not isinstance(mask_at(entry, ("d", "b")), (str, dict, list, type(None)))
    assert spell_path(("i_segm",)) == "i_segm" and spell_path(("a", "b")) == "a['b']"


def test_a_dot_leads_into_a_dictionary(tmp_path):
    masks = {"visible": rectangle(2, 3, 4, 5), "amodal": rectangle(2, 3, 8, 6)}
    entries = [annotation(1, segmentations=masks), annotation(2, bbox=(20, 3, 4, 5), segmentations={})]
    dataset = COCODataset(
        *write_coco(tmp_path, entries), named_masks=NAMES, mask_keys={"visible": "segmentations.amodal"}
    )
    for name in NAMES:
        drawn, present = masks_of(dataset.get_groundtruth(0), name)
        assert [mask.sum() for mask in drawn] == [48, 0] and present.tolist() == [True, False]


def test_a_box_without_a_mask_is_an_object_for_boxes_and_is_ignored_for_masks(tmp_path):
    """Who detects exactly what is annotated has an AP of 1, whatever mask the detection of that box has."""
    entries = [annotation(1), annotation(2, bbox=(20, 8, 12, 15), segmentation=[]), annotation(3, 2)]
    dataset = COCODataset(*write_coco(tmp_path, entries, [(40, 30)] * 2), with_masks=True)
    detections = []
    for index in range(2):
        found = dataset.get_groundtruth(index)
        drawn = found.get_field(fields.MASKS).get_mask_tensor()
        if len(found) == 2:
            drawn[1, 9:22, 22:30] = 1
        found.add_field(fields.MASK, drawn[:, None].bool())
        found.add_field(fields.SCORES, torch.full((len(found),), 0.9))
        detections.append(found)
    evaluator = CocoEvaluator(dataset, iou_types=("bbox", "segm"), boundary_ap=True)
    evaluator.process([0, 1], detections)
    metrics = evaluator.evaluate().metrics
    assert {row: round(values["AP"], 6) for row, values in metrics.items()} == {"bbox": 1, "segm": 1, "boundary": 1}
