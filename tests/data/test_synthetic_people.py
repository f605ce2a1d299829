"""The drawn people: geometry that can be checked against the drawing itself, and a layout that COCO tools read."""

import json

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from maskrcnn_benchmark.data.datasets import COCODataset
from maskrcnn_benchmark.data.synthetic_people import SceneSettings, render_scene, scene
from maskrcnn_benchmark.data.synthetic_people.body import sample_pose
from maskrcnn_benchmark.data.synthetic_people.rendering import draw_person
from maskrcnn_benchmark.data.synthetic_people.scene import _polygons
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from tests.tools.runs import load_tool

SMALL = ["--width", "96", "--height", "80", "--workers", "2"]


@pytest.fixture(scope="module")
def make_people_dataset():
    return load_tool("make_people_dataset")


def scenes(count=30):
    return [render_scene(SceneSettings(), np.random.default_rng([7, number])) for number in range(count)]


def draw_mask(polygons, image):
    height, width = image.shape[:2]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))).astype(bool)


def test_a_person_who_faces_the_camera_has_the_left_shoulder_on_the_right_of_the_image():
    # Who shows both eyes faces the camera; seen from there, the person's left is on the image's right.
    agreements = []
    for seed in range(200):
        pose = sample_pose(np.random.default_rng(seed))
        if pose.labelled["left_eye"] and pose.labelled["right_eye"] and pose.head_axes[2][2] > 0.8:
            agreements.append(pose.joints["left_eye"][0] > pose.joints["right_eye"][0])
    assert len(agreements) > 50
    assert np.mean(agreements) > 0.98  # a head may hang upside down


def test_bones_keep_their_length_when_the_pose_changes():
    lengths = []
    for seed in range(20):
        joints = sample_pose(np.random.default_rng(seed)).joints
        lengths.append([np.linalg.norm(joints["left_elbow"] - joints["left_wrist"]),
                        np.linalg.norm(joints["right_hip"] - joints["right_knee"])])  # fmt: skip
    assert np.allclose(lengths, lengths[0])


def test_annotations_agree_with_each_other():
    states, truncated = set(), 0
    for image, people in scenes():
        height, width = image.shape[:2]
        rle = [coco_mask.merge(coco_mask.frPyObjects(person["segmentation"], height, width)) for person in people]
        for person, mask in zip(people, rle, strict=True):
            x, y, w, h = person["bbox"]
            assert x >= 0 and y >= 0 and x + w <= width + 0.01 and y + h <= height + 0.01
            left, top, columns, rows = coco_mask.toBbox(mask)
            np.testing.assert_allclose([left, top, left + columns, top + rows], [x, y, x + w, y + h], atol=2.01)
            keypoints = np.reshape(person["keypoints"], (17, 3))
            assert (keypoints[keypoints[:, 2] == 0, :2] == 0).all()
            assert person["num_keypoints"] == (keypoints[:, 2] > 0).sum()
            bitmap = coco_mask.decode(mask)
            near = cv2.dilate(bitmap, np.ones((5, 5), np.uint8))
            for column, row, state in keypoints:
                states.add(int(state))
                if state == 2:  # what is seen lies on what is seen of the person
                    assert near[min(int(row), height - 1), min(int(column), width - 1)]
            truncated += x < 1 or y < 1 or x + w > width - 1 or y + h > height - 1
        if len(people) > 1:  # what is seen of one person is not seen of another
            overlap = coco_mask.iou(rle, rle, [0] * len(rle)) - np.eye(len(rle))
            assert overlap.max() < 0.05
    assert states == {0, 1, 2}
    assert truncated > 5


def test_the_amodal_mask_continues_behind_what_hides_a_person(monkeypatch):
    """Each is compared with the bodies as they were drawn, before anything was in front of them."""
    drawn = []

    def draw(*args, **kwargs):
        drawn.append(draw_person(*args, **kwargs))
        return drawn[-1]

    monkeypatch.setattr(scene, "draw_person", draw)
    hidden = []
    for number in range(12):
        drawn.clear()
        image, people = render_scene(SceneSettings(), np.random.default_rng([7, number]))
        size_wh = image.shape[1::-1]
        bodies = [cv2.resize((body.part_ids > 0).astype(np.float32), size_wh, interpolation=cv2.INTER_AREA) >= 0.5
                  for body in drawn]  # fmt: skip
        for person in people:
            assert person["segmentations"]["visible"] == person["segmentation"]
            visible, amodal = (draw_mask(person["segmentations"][name], image) for name in ("visible", "amodal"))
            assert (visible & ~amodal).sum() <= 0.02 * visible.sum()
            assert max((amodal & body).sum() / (amodal | body).sum() for body in bodies) > 0.9
            hidden.append(1 - visible.sum() / amodal.sum())
    assert min(hidden) < 0.02 and max(hidden) > 0.4


def test_polygons_of_a_ring_leave_the_hole_out():
    ring = np.zeros((80, 80), np.uint8)
    cv2.circle(ring, (40, 40), 30, 1, -1)
    cv2.circle(ring, (40, 40), 12, 0, -1)
    polygons = _polygons(ring.astype(bool))
    drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 40, 40)))
    expected = cv2.resize(ring, (40, 40), interpolation=cv2.INTER_AREA)
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.9
    assert drawn[20, 20] == 0


def test_joined_polygons_leave_no_gap_where_a_ring_was_cut():
    ring = np.zeros((80, 80), np.uint8)
    cv2.circle(ring, (40, 40), 30, 1, -1)
    cv2.circle(ring, (40, 40), 12, 0, -1)
    for scale in (1, 2, 3, 5):  # drawn larger, a gap of a quarter of a pixel shows
        outlines = [scale * np.array(polygon) for polygon in _polygons(ring.astype(bool), join=True)]
        size = 40 * scale
        drawn = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([o.tolist() for o in outlines], size, size)))
        pieces, _ = cv2.connectedComponents(drawn)
        expected = cv2.resize(ring, (size, size), interpolation=cv2.INTER_LINEAR)
        assert pieces == 2, "the background and one piece"
        assert (drawn & expected).sum() / (drawn | expected).sum() > 0.9
        assert drawn[size // 2, size // 2] == 0


@pytest.mark.slow
def test_dataset_is_read_by_pycocotools_and_depends_on_the_seed_alone(make_people_dataset, tmp_path, capsys):
    def write(name, *flags):
        assert make_people_dataset.main(["--output", str(tmp_path / name), "--val", "2", *SMALL, *flags]) == 0
        return tmp_path / name

    first, more = write("a b", "--train", "4"), write("more", "--train", "6", "--workers", "1")
    other = write("other", "--train", "4", "--seed", "1")
    coco = COCO(str(first / "annotations" / "person_keypoints_train.json"))
    assert len(coco.getImgIds()) == 4 and coco.loadCats(1)[0]["keypoints"] == list(PersonKeypoints.NAMES)
    assert all(coco.annToMask(annotation).any() for annotation in coco.loadAnns(coco.getAnnIds()))
    pixels = [(folder / "train" / "000000000003.jpg").read_bytes() for folder in (first, more, other)]
    assert pixels[0] == pixels[1] != pixels[2]
    read = COCODataset(first / "annotations" / "person_keypoints_train.json", first / "train", offset=0)
    assert list(read.mask_names) == ["visible", "amodal"] and read.validation_report.summary() == ""
    stamp = (first / "train" / "000000000003.jpg").stat().st_mtime_ns
    write("a b", "--train", "4")
    assert (first / "train" / "000000000003.jpg").stat().st_mtime_ns == stamp
    assert "up to date" in capsys.readouterr().out
    val = json.loads((first / "annotations" / "person_keypoints_val.json").read_text())
    assert not {image["id"] for image in val["images"]} & set(coco.getImgIds())


def test_an_unwritable_folder_is_named(make_people_dataset, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert make_people_dataset.main(["--output", str(tmp_path / "file"), "--train", "1", "--val", "1", *SMALL]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
