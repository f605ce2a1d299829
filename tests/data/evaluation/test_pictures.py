"""The pictures that a test leaves behind can be read at the size that they are shown in."""

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult
from maskrcnn_benchmark.data.evaluation.coco.pictures import compare, write_pictures
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from maskrcnn_benchmark.structures.skeleton import KeypointSpec


def rows_and_columns(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    here = (picture == colour).all(axis=2)
    return np.flatnonzero(here.any(axis=1)), np.flatnonzero(here.any(axis=0))


@pytest.mark.parametrize("size_wh", [(320, 256), (640, 480), (1280, 960)])
def test_labels_and_frames_are_large_enough(size_wh):
    width, height = size_wh
    x1, y1, x2, y2 = (0.25 * width, 0.25 * height, 0.75 * width, 0.75 * height)
    truth = BoxList([[x1, y1, x2, y2]], size_wh, offset=0)
    truth.add_field(fields.LABELS, torch.tensor([1]))
    found = truth.copy_with_fields([fields.LABELS])
    found.add_field(fields.SCORES, torch.tensor([0.9]))
    grey = np.full((height, width, 3), 128, np.uint8)
    picture = compare(grey, truth, ImageResult.from_detections(found, size_wh), ["background", "person"])
    panel_width = (picture.shape[1] - 8) // 2
    colour = drawing.instance_colours(truth)[0]
    for left in (0, panel_width + 8):
        rows, columns = rows_and_columns(picture[:, left : left + panel_width], colour)
        share = panel_width / width
        top_of_box = picture.shape[0] - round((height - y1) * share)
        # Shown on half a page of 1000 pixels, a label is at least 12 pixels high and a frame is more than a hair.
        assert (top_of_box - rows[0]) * 500 / panel_width >= 12
        assert abs(columns[0] - x1 * share) <= 4 and abs(columns[-1] - x2 * share) <= 4
        below = rows_and_columns(picture[top_of_box + 20 : top_of_box + 21, left : left + panel_width], colour)[1]
        assert (below < panel_width / 2).sum() * 500 / panel_width >= 1.2


def test_best_rows_come_best_first_and_equal_scores_in_order():
    scores = np.array([0.2, 0.9, 0.5, 0.9, 0.5, 0.4], np.float32)
    result = ImageResult((8, 8), np.zeros((6, 4), np.float32), scores, np.ones(6, np.int64))
    assert result.best_rows(0.5, 100) == [1, 3, 2, 4]
    assert result.best_rows(0.5, 3) == [1, 3, 2]
    assert result.best_rows(0.95, 3) == []


def test_a_result_becomes_boxes_in_the_image_with_the_coarse_fields_on_request():
    points = {
        name: np.full((2, 17, 3), value, np.float32) for name, value in (("keypoints", 3), ("keypoints_coarse", 4))
    }
    boxes = np.array([[1, 2, 3, 4], [0, 0, 8, 8]], np.float32)
    result = ImageResult((8, 8), boxes, np.array([0.5, 0.7], np.float32), np.array([1, 2]), packed=points)
    found = result.to_boxlist()
    assert found.bbox.tolist() == [[1, 2, 4, 6], [0, 0, 8, 8]] and found.offset == 0
    assert found.get_field(fields.LABELS).tolist() == [1, 2]
    assert found.get_field(fields.KEYPOINTS).keypoints[0, 0].tolist() == [3, 3, 2]
    coarse = result.to_boxlist([1], COCO_PERSON, "_coarse")
    assert coarse.get_field(fields.SCORES).tolist() == pytest.approx([0.7])
    assert coarse.get_field(fields.KEYPOINTS).spec == COCO_PERSON
    assert coarse.get_field(fields.KEYPOINTS).keypoints[0, 0].tolist() == [4, 4, 2]
    assert (result.keypoints["keypoints_coarse"] == 4).all(), "the result is unchanged"
    points["keypoints"][0, :3, 2] = 0.1, 0.4, 0.6
    assert result.to_boxlist().get_field(fields.KEYPOINTS).keypoints[0, :4, 2].tolist() == [0, 1, 2, 2]
    other = result.to_boxlist(keypoint_spec=KeypointSpec(("head", "tail")))
    assert other.get_field(fields.KEYPOINTS).spec == KeypointSpec.unnamed(17)


@pytest.mark.parametrize(("count", "expected"), [(0, []), (1, [2]), (2, [0, 2]), (9, [0, 1, 2, 3, 4])])
def test_pictures_are_spread_over_the_images_and_prefer_those_with_annotations(tmp_path, count, expected):
    class DataSet(DetectionDataset):
        def read_image(self, index):
            return Image.new("RGB", (32, 24))

        def get_groundtruth(self, index):
            truth = BoxList([[1, 1, 9, 9]] if index in (2, 4) else np.zeros((0, 4)), (32, 24), offset=0)
            truth.add_field(fields.LABELS, torch.ones(len(truth), dtype=torch.int64))
            return truth

        def get_img_info(self, index):
            return {"id": index}

    nothing = ImageResult((32, 24), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    folder = write_pictures(DataSet(), dict.fromkeys(range(5), nothing), tmp_path / "pictures", count)
    assert sorted(int(file.stem) for file in folder.iterdir()) == expected
