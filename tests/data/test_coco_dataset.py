"""What a COCO file becomes: targets, categories, filters, and what is said of a file that is not in order."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_utils
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from maskrcnn_benchmark.data.datasets import COCODataset, ConcatDataset, ListDataset
from maskrcnn_benchmark.data.datasets import validation as problem
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from tests.data.coco_files import BAD_MASKS, DOG, PERSON, annotation, write_coco

INF, NAN = float("inf"), float("nan")


def keypoints(visible=17, value=5.0):
    return [value, value + 1, 2] * visible + [0, 0, 0] * (17 - visible)


def column_rle(mask):
    return mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))


# Targets


@pytest.mark.parametrize(("offset", "corners"), [(1, [2, 3, 11, 10]), (0, [2, 3, 12, 11])])
def test_target_of_an_image(tmp_path, offset, corners):
    entries = [annotation(7, category_id=18, keypoints=keypoints(3)), annotation(9, bbox=(0, 0, 5, 5))]
    dataset = COCODataset(*write_coco(tmp_path, entries), offset=offset)
    image, target, index = dataset[0]
    assert index == 0 and image.size == (40, 30) and image.mode == "RGB"
    assert target.mode == "xyxy" and target.offset == offset and target.size == (40, 30)
    assert target.bbox[0].tolist() == corners
    assert target.get_field(fields.LABELS).tolist() == [2, 1]  # by the order of the file's categories, from 1
    assert target.get_field(fields.LABELS).dtype == torch.int64
    assert target.get_field(fields.ANNOTATION_IDS).tolist() == [7, 9]
    points = target.get_field(fields.KEYPOINTS)
    assert points.spec == COCO_PERSON
    assert points.keypoints[0, :4].tolist() == [[5, 6, 2]] * 3 + [[0, 0, 0]]
    assert not points.keypoints[1].any()  # an instance without keypoints
    assert len(target.get_field(fields.MASKS)) == 2


def test_every_field_is_there_without_any_annotation(tmp_path):
    dataset = COCODataset(*write_coco(tmp_path, []), with_masks=True, with_keypoints=True)
    target = dataset.get_groundtruth(0)
    assert len(target) == 0 and target.bbox.shape == (0, 4)
    assert target.get_field(fields.LABELS).shape == (0,)
    assert len(target.get_field(fields.MASKS)) == 0
    assert target.get_field(fields.KEYPOINTS).keypoints.shape == (0, 17, 3)


def test_fields_that_were_not_asked_for_are_neither_there_nor_checked(tmp_path):
    entries = [annotation(1, segmentation=[[1, 2]], keypoints=[1, 2])]
    target = COCODataset(*write_coco(tmp_path, entries), with_masks=False, with_keypoints=False).get_groundtruth(0)
    assert len(target) == 1
    assert set(target.fields()) == {fields.LABELS, fields.ANNOTATION_IDS}


def test_polygons_and_run_lengths_in_one_image(tmp_path):
    drawn = np.zeros((30, 40), dtype=np.uint8)
    drawn[4:20, 10:25] = 1
    drawn[6:9, 12:20] = 0  # a hole, which polygons do not have
    compressed = column_rle(drawn)
    runs, last = [], 0  # uncompressed: lengths down the columns, background first
    for value in drawn.T.reshape(-1).tolist():
        if value != last or not runs:
            runs.append(0)
            if value and len(runs) == 1:
                runs.append(0)
            last = value
        runs[-1] += 1
    entries = [
        annotation(1),
        annotation(2, segmentation={"size": [30, 40], "counts": compressed["counts"].decode()}),
        annotation(3, segmentation={"size": [30, 40], "counts": runs}),
        annotation(4, segmentation=[annotation(0)["segmentation"][0], [20, 20, 30, 20, 30, 28]]),
    ]
    ann_file, root = write_coco(tmp_path, entries)
    masks = COCODataset(ann_file, root).get_groundtruth(0).get_field(fields.MASKS).get_mask_tensor()
    coco = COCO(ann_file)
    for mask, entry in zip(masks, entries, strict=True):
        np.testing.assert_array_equal(mask.numpy(), coco.annToMask(entry))
    np.testing.assert_array_equal(masks[1].numpy(), drawn)


def test_real_annotations_are_those_that_pycocotools_reads(coco_mini):
    ann_file = coco_mini / "annotations" / "person_keypoints_val2017.json"
    dataset = COCODataset(ann_file, coco_mini / "val2017", offset=0)
    coco = COCO(str(ann_file))
    assert dataset.ids == sorted(coco.imgs)
    for index, image_id in enumerate(dataset.ids):
        target = dataset.get_groundtruth(index)
        wanted = coco.loadAnns(coco.getAnnIds(imgIds=image_id, iscrowd=False))
        assert target.get_field(fields.ANNOTATION_IDS).tolist() == [a["id"] for a in wanted]
        if not wanted:
            continue
        width, height = target.size
        boxes = np.array([[x, y, min(x + w, width), min(y + h, height)] for x, y, w, h in (a["bbox"] for a in wanted)])
        np.testing.assert_allclose(target.bbox.numpy(), boxes, atol=1e-3)
        np.testing.assert_array_equal(
            target.get_field(fields.KEYPOINTS).keypoints.reshape(len(wanted), -1), [a["keypoints"] for a in wanted]
        )
        drawn = target.get_field(fields.MASKS).get_mask_tensor().numpy()
        for mask, entry in zip(drawn, wanted, strict=True):
            np.testing.assert_array_equal(mask, coco.annToMask(entry))
    assert dataset.coco.imgs.keys() == coco.imgs.keys()
    assert "coco" not in pickle.loads(pickle.dumps(dataset)).__dict__


def test_categories_images_and_names(tmp_path):
    dataset = COCODataset(*write_coco(tmp_path, [annotation(1)], sizes=[(40, 30), (20, 25)], categories=[DOG, PERSON]))
    assert dataset.class_names == ["__background__", "dog", "person"]
    assert dataset.categories == {18: "dog", 1: "person"}
    assert dataset.json_category_id_to_contiguous_id == {18: 1, 1: 2}
    assert dataset.contiguous_category_id_to_json_id == {1: 18, 2: 1}
    assert dataset.id_to_img_map == {0: 1, 1: 2}
    assert dataset.get_img_info(1) == {"id": 2, "file_name": "0002.png", "width": 20, "height": 25}
    assert dataset.sizes_wh.tolist() == [[40, 30], [20, 25]]


# What is left out


def test_crowd_regions_are_no_targets_and_no_error(tmp_path, caplog):
    crowd = annotation(2, iscrowd=1, segmentation={"size": [1, 1], "counts": "not run lengths"})
    dataset = COCODataset(*write_coco(tmp_path, [annotation(1), crowd]))
    assert dataset.get_groundtruth(0).get_field(fields.ANNOTATION_IDS).tolist() == [1]
    assert dataset.validation_report.crowd == 1 and dataset.validation_report.num_skipped == 0
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_images_without_annotations_are_kept_or_dropped(tmp_path):
    entries = [annotation(1, image_id=2), annotation(2, image_id=3, bbox=(1, 1, 0, 5)), annotation(3, 4, iscrowd=1)]
    files = write_coco(tmp_path, entries, sizes=[(40, 30)] * 5)
    assert COCODataset(*files).ids == [1, 2, 3, 4, 5]
    dropping = COCODataset(*files, True)
    assert dropping.ids == [2]
    assert dropping[0][1].get_field(fields.ANNOTATION_IDS).tolist() == [1]


def test_images_with_few_keypoints_are_dropped_over_all_their_instances(tmp_path):
    entries = [
        annotation(1, 1, keypoints=keypoints(9)),
        annotation(2, 2, keypoints=keypoints(5)), annotation(3, 2, keypoints=keypoints(5)),
        annotation(4, 4, keypoints=[]),
    ]  # fmt: skip
    files = write_coco(tmp_path, entries, sizes=[(40, 30)] * 4)
    assert COCODataset(*files, True, min_keypoints=10).ids == [2]
    assert COCODataset(*files, False, min_keypoints=10).ids == [2, 3]  # 3 is a negative, not a poorly annotated image
    assert COCODataset(*files, True, min_keypoints=9).ids == [1, 2]
    assert COCODataset(*files, True, min_keypoints=10, with_keypoints=False).ids == [1, 2, 4]


def test_min_keypoints_does_not_empty_a_file_that_has_no_keypoints(tmp_path):
    files = write_coco(tmp_path, [annotation(1)])
    assert COCODataset(*files, True, with_keypoints=True, min_keypoints=10).ids == [1]


BAD = {
    problem.INCOMPLETE: [annotation("x"), {"id": 5}, {"image_id": 1, "category_id": 1}, "text", annotation([1])],
    problem.UNKNOWN_IMAGE: [annotation(5, image_id=99)],
    problem.UNKNOWN_CATEGORY: [annotation(5, category_id=99), annotation(6, category_id=None)],
    problem.DUPLICATE_ID: [annotation(1)],
    problem.BOX_MALFORMED: [annotation(5) | {"bbox": b} for b in ([1, 2, 3], None, "box", [1, 2, 3, "w"], [[1], 2])],
    problem.BOX_NOT_FINITE: [annotation(5, bbox=(1, NAN, 3, 3)), annotation(5) | {"bbox": [0, 0, INF, 3]}],
    problem.BOX_EMPTY: [annotation(5) | {"bbox": b} for b in ([1, 1, 0, 5], [1, 1, 5, 0], [8, 8, -3, 4])],
    problem.BOX_OUTSIDE: [annotation(5, bbox=b) for b in ((40, 0, 5, 5), (-9, 2, 9, 5), (3, 31, 5, 5), (3, -7, 5, 6))],
    problem.KEYPOINTS_LENGTH: [annotation(5, keypoints=k) for k in ([1, 2, 2], [1] * 50, "points", {"nose": 1})],
    problem.KEYPOINTS_NOT_FINITE: [annotation(5, keypoints=k) for k in ([NAN, 1, 2] + [0] * 48, [1e39] * 51)],
    problem.KEYPOINTS_VISIBILITY: [annotation(5, keypoints=[1, 1, 3] + [0] * 48)],
}


def test_every_kind_of_bad_annotation_has_a_case():
    kinds = {value for name, value in vars(problem).items() if name.isupper() and isinstance(value, str)}
    assert kinds == set(BAD) | set(BAD_MASKS)


@pytest.mark.parametrize(("reason", "bad"), [(reason, bad) for reason, entries in BAD.items() for bad in entries])
def test_bad_annotation_is_left_out_counted_and_told(tmp_path, caplog, reason, bad):
    """The one before and the one after it stay, with the masks that belong to them."""
    last = annotation(1000, bbox=(20, 10, 6, 7), keypoints=keypoints(4))
    ann_file, root = write_coco(tmp_path, [annotation(1), bad, last])
    with caplog.at_level(logging.WARNING):
        dataset = COCODataset(ann_file, root, with_masks=True, with_keypoints=True, num_keypoints=17)
    assert dataset.validation_report.skipped == {reason: 1}
    [message] = [record.getMessage() for record in caplog.records]
    known = bad.get("id", "none, entry 1") if isinstance(bad, dict) else "none, entry 1"
    assert ann_file in message and "1 of 3 annotations" in message
    assert f"1 x {reason} (annotation ids {known})" in message
    target = dataset.get_groundtruth(0)
    assert target.get_field(fields.ANNOTATION_IDS).tolist() == [1, 1000]
    drawn = target.get_field(fields.MASKS).get_mask_tensor()
    assert drawn[0, 3:11, 2:12].all() and drawn[0].sum() == 80
    assert drawn[1, 10:17, 20:26].all() and drawn[1].sum() == 42
    assert target.get_field(fields.KEYPOINTS).keypoints[1, 0].tolist() == [5, 6, 2]


def test_many_findings_make_one_warning_that_names_the_first_of_each_kind(tmp_path, caplog):
    entries = [annotation(number, bbox=(1, 1, 0, 2)) for number in range(10, 20)] + [annotation(1), annotation(2, 77)]
    with caplog.at_level(logging.WARNING):
        dataset = COCODataset(*write_coco(tmp_path, entries))
    [message] = [record.getMessage() for record in caplog.records]
    assert "skipped 11 of 12 annotations" in message
    assert f"10 x {problem.BOX_EMPTY} (annotation ids 10, 11, 12, 13, 14, ...)" in message
    assert f"1 x {problem.UNKNOWN_IMAGE} (annotation ids 2)" in message
    assert dataset.validation_report.num_skipped == 11


def test_boxes_over_the_border_are_cut_and_counted(tmp_path, caplog):
    entries = [annotation(1, bbox=(-5, 3, 20, 40)), annotation(2, bbox=(30, 3, 10.4, 5))]
    with caplog.at_level(logging.WARNING):
        dataset = COCODataset(*write_coco(tmp_path, entries), offset=0, with_masks=False)
    assert dataset.get_groundtruth(0).bbox.tolist() == [[0, 3, 15, 30], [30, 3, 40, 8]]
    assert dataset.validation_report.clipped == 1  # less than a pixel is rounding, as COCO itself has
    assert "Cut 1 boxes" in caplog.text


# Files that cannot be used


def test_nothing_left_says_what_removed_the_images(tmp_path):
    few, empty, crowd = {"keypoints": keypoints(3)}, {"bbox": (0, 0, 0, 0)}, {"iscrowd": 1}
    entries = [annotation(1, 1, **few), annotation(2, 2, **empty), annotation(3, 3, **crowd)]
    ann_file, root = write_coco(tmp_path, entries, sizes=[(40, 30)] * 4)
    with pytest.raises(ValueError, match="no image .* is left") as caught:
        COCODataset(ann_file, root, True, min_keypoints=10)
    message = str(caught.value)
    for part in (
        ann_file, "lists 4", "3 without a usable annotation", "1 with fewer than 10 labelled keypoints",
        "DATASETS.FILTER_EMPTY", "DATASETS.MIN_KEYPOINTS", problem.BOX_EMPTY, "1 annotations are crowd",
    ):  # fmt: skip
        assert part in message, part


def test_a_file_without_images(tmp_path):
    with pytest.raises(ValueError, match="no image of .*annotations.json is left to use: it lists 0"):
        COCODataset(*write_coco(tmp_path, [], sizes=[]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, 'no list "images"'),
        ({"annotations": {}}, '"annotations" or "categories" of .* is not a list'),
        ({"categories": []}, "no categories"),
        ({"categories": [PERSON, PERSON]}, "the same category id twice"),
        ({"categories": [{"name": "person"}]}, 'no "id" and "name"'),
        ({"images": [{"id": 3, "file_name": "a.png", "width": 4}]}, 'lack an "id", .* in whole pixels: 3'),
    ],
)
def test_a_file_of_another_format(tmp_path, change, message):
    ann_file, root = write_coco(tmp_path, [annotation(1)])
    content = json.loads(Path(ann_file).read_text()) | change
    Path(ann_file).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as caught:
        COCODataset(ann_file, root)
    assert ann_file in str(caught.value)


def test_missing_and_broken_annotation_file(tmp_path):
    ann_file, root = write_coco(tmp_path, [annotation(1)])
    with pytest.raises(FileNotFoundError, match="annotation file .*/none.json does not exist"):
        COCODataset(tmp_path / "none.json", root)
    Path(ann_file).write_text(Path(ann_file).read_text()[:-20])
    with pytest.raises(ValueError, match="annotations.json is not JSON"):
        COCODataset(ann_file, root)


def test_missing_images_are_told_at_the_start(tmp_path):
    ann_file, root = write_coco(tmp_path, [annotation(1)], sizes=[(40, 30)] * 8)
    for number in range(2, 9):
        Path(root, f"{number:04d}.png").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        COCODataset(ann_file, root)
    message = str(caught.value)
    assert "7 of the 8 images" in message and ann_file in message and root in message
    assert "0002.png, 0003.png, 0004.png, 0005.png, 0006.png, ..." in message
    assert len(COCODataset(ann_file, root, True)) == 1  # the others are not used


def test_images_in_folders_below_the_root(tmp_path):
    ann_file, root = write_coco(tmp_path, [annotation(1)])
    Path(root, "a").mkdir()
    Path(root, "0001.png").rename(Path(root, "a", "0001.png"))
    Path(ann_file).write_text(Path(ann_file).read_text().replace("0001.png", "a/0001.png"))
    assert COCODataset(ann_file, root)[0][0].size == (40, 30)
    Path(ann_file).write_text(Path(ann_file).read_text().replace("a/0001.png", "b/0001.png"))
    with pytest.raises(FileNotFoundError, match="b/0001.png"):
        COCODataset(ann_file, root)


def test_truncated_image_names_file_image_and_annotations(tmp_path):
    ann_file, root = write_coco(tmp_path, [annotation(1)])
    path = Path(root, "0001.png")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(OSError, match="cannot be read") as caught:
        COCODataset(ann_file, root)[0]
    message = str(caught.value)
    assert str(path) in message and "image id 1" in message and ann_file in message


def test_image_of_another_size_than_annotated(tmp_path):
    ann_file, root = write_coco(tmp_path, [annotation(1)])
    Image.new("RGB", (41, 30)).save(Path(root, "0001.png"))
    with pytest.raises(OSError, match="41 x 30 pixels, but its annotations are for 40 x 30"):
        COCODataset(ann_file, root)[0]


def test_images_listed_twice(tmp_path, caplog):
    ann_file, root = write_coco(tmp_path, [annotation(1)])
    content = json.loads(Path(ann_file).read_text())
    content["images"].append({"id": 1, "file_name": "other.png", "width": 3, "height": 3})
    Path(ann_file).write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert COCODataset(ann_file, root).get_img_info(0)["file_name"] == "0001.png"
    assert "lists 1 images twice (the same id)" in caplog.text


# Keypoints of other skeletons


def test_number_of_keypoints_comes_from_the_categories_or_the_annotations(tmp_path):
    named = {"id": 1, "name": "fly", "keypoints": ["head", "tail"]}
    files = write_coco(tmp_path, [annotation(1, keypoints=[1, 2, 2, 3, 4, 1])], categories=[named])
    target = COCODataset(*files).get_groundtruth(0)
    assert target.get_field(fields.KEYPOINTS).spec.names == ("head", "tail")
    assert target.get_field(fields.KEYPOINTS).keypoints.tolist() == [[[1, 2, 2], [3, 4, 1]]]
    with pytest.raises(ValueError, match=r"have 2 keypoints \(head, tail\), the model has 17: .*NUM_CLASSES to 2"):
        COCODataset(*files, with_keypoints=True, num_keypoints=17)
    lengths = [7, 9, 15, 15]  # most of them agree
    files = write_coco(tmp_path, [annotation(n, keypoints=[1] * length) for n, length in enumerate(lengths)])
    assert COCODataset(*files).num_keypoints == 5


# Other datasets


def test_concatenation_counts_indices_over_all_parts(tmp_path):
    first = COCODataset(*write_coco(tmp_path / "a", [annotation(1)], sizes=[(40, 30), (20, 10)]))
    second = COCODataset(*write_coco(tmp_path / "b", [annotation(5)], sizes=[(8, 9)]), with_masks=True)
    joined = ConcatDataset([first, second])
    assert len(joined) == 3 and joined.get_idxs(2) == (1, 0)
    assert [joined[index][2] for index in range(3)] == [0, 1, 2]
    assert joined.sizes_wh.tolist() == [[40, 30], [20, 10], [8, 9]]
    assert joined.get_img_info(2)["width"] == 8
    assert joined.get_groundtruth(2).size == (8, 9)
    assert joined.categories == {1: "person", 18: "dog"} and joined.class_names == first.class_names


def test_list_dataset_takes_paths_images_and_arrays(tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    dataset = ListDataset([tmp_path / "a.png", Image.fromarray(pixels), pixels], offset=0)
    for index in range(3):
        image, target, position = dataset[index]
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert len(target) == 0 and target.size == (4, 2) and target.offset == 0 and position == index
        info = dataset.get_img_info(index)
        assert (info["width"], info["height"]) == (4, 2)
