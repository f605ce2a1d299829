"""Picking a few complete images out of a COCO dataset."""

import json

import numpy as np
import pycocotools.mask as coco_mask
import pytest

from tests.tools.runs import load_tool


@pytest.fixture(scope="module")
def tool():
    return load_tool("make_coco_subset")


@pytest.fixture
def coco(tmp_path):
    """Six images: no people; complete; a crowd; someone without keypoints; complete; complete."""
    people = {2: [(0, 5)], 3: [(0, 5), (1, 0)], 4: [(0, 3), (0, 0)], 5: [(0, 1), (0, 17)], 6: [(0, 2)]}
    annotations = [
        {"id": 10 * image + index, "image_id": image, "iscrowd": crowd, "num_keypoints": labelled,
         "segmentation": [[1, 1, 5, 1, 5, 5]]}
        for image, rows in people.items() for index, (crowd, labelled) in enumerate(rows)
    ]  # fmt: skip
    images = [{"id": image, "file_name": f"{image}.jpg", "width": 8, "height": 8} for image in range(1, 7)]
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    (folder / "train2017").mkdir()
    for image in images:
        (folder / "train2017" / image["file_name"]).write_text(str(image["id"]))
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "person"}]}
    (folder / "annotations" / "person_keypoints_train2017.json").write_text(json.dumps(content))
    return folder


def test_first_complete_images_are_taken_twice_over(tool, coco, tmp_path):
    for _ in range(2):
        assert tool.main(["--coco", str(coco), "--output", str(tmp_path / "out"), "--count", "2"]) == 0
    subset = json.loads((tmp_path / "out/coco/annotations/person_keypoints_train2017.json").read_text())
    assert [image["id"] for image in subset["images"]] == [2, 5]
    assert [annotation["id"] for annotation in subset["annotations"]] == [20, 50, 51]
    assert (tmp_path / "out/coco/train2017/5.jpg").read_text() == "5"


def test_hulls_are_second_masks(tool, coco, tmp_path):
    assert tool.main(["--coco", str(coco), "--output", str(tmp_path / "out"), "--count", "1", "--hull"]) == 0
    subset = json.loads((tmp_path / "out/coco/annotations/person_keypoints_train2017.json").read_text())
    (annotation,) = subset["annotations"]
    assert annotation["segmentations"]["visible"] == annotation["segmentation"] == [[1, 1, 5, 1, 5, 5]]
    (hull,) = annotation["segmentations"]["hull"]
    assert {tuple(point) for point in np.reshape(hull, (3, 2))} == {(1, 1), (5, 1), (5, 5)}


def test_the_hull_contains_every_part_of_polygons_and_of_run_lengths(tool):
    angle, square = [[0, 0, 6, 0, 6, 1, 1, 1, 1, 6, 0, 6]], [4, 4, 5, 4, 5, 5, 4, 5]
    for mask in (angle, [*angle, square]):
        encoded = coco_mask.merge(coco_mask.frPyObjects(mask, 8, 8))
        encoded["counts"] = encoded["counts"].decode()
        for written in (mask, encoded):
            (hull,) = tool.convex_hull(written, (8, 8))
            corners = {(0, 0), (6, 0), (6, 1), (1, 6), (0, 6)} | ({(5, 5)} if len(mask) > 1 else set())
            assert {tuple(point) for point in np.reshape(hull, (-1, 2))} == corners


def test_all_classes_leave_out_images_with_tiny_objects_with_crowds_or_of_one_class(tool, coco, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "SMALLEST_OBJECT", 0.25)  # of 8 pixels: 2
    objects = {
        2: [(1, 0, 4), (2, 0, 2)],
        3: [(1, 0, 4), (2, 0, 4)],
        5: [(1, 0, 4), (2, 0, 1.9)],
        6: [(1, 0, 4), (1, 0, 4)],
    }
    annotations = [
        {
            "id": 10 * image + index,
            "image_id": image,
            "category_id": category,
            "iscrowd": crowd,
            "bbox": [0, 0, 5, side],
        }
        for image, rows in objects.items()
        for index, (category, crowd, side) in enumerate(rows)
    ]
    people = json.loads((coco / "annotations/person_keypoints_train2017.json").read_text())
    content = {"images": people["images"], "annotations": annotations, "categories": []}
    assert tool.images_of_large_objects(content) == {2, 3}
    annotations[2]["iscrowd"] = 1
    assert tool.images_of_large_objects(content) == {2}
    (coco / "annotations/instances_train2017.json").write_text(json.dumps(content))
    chosen = ["--coco", str(coco), "--output", str(tmp_path / "out"), "--count", "1", "--all-classes"]
    assert tool.main(chosen) == 0
    written = json.loads((tmp_path / "out/coco/annotations/instances_train2017.json").read_text())
    assert [entry["id"] for entry in written["annotations"]] == [20, 21]


def test_too_many_images_and_missing_files_are_explained(tool, coco, tmp_path, capsys):
    assert tool.main(["--coco", str(coco), "--output", str(tmp_path / "out"), "--count", "4"]) == 1
    assert "--count is 4; 3 of 6 images" in capsys.readouterr().err
    assert tool.main(["--coco", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 1
    assert str(tmp_path / "none") in capsys.readouterr().err
