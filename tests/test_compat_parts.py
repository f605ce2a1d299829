"""Functions and classes that only code written for maskrcnn-benchmark uses."""

import cv2
import numpy as np
import pytest
import torch

from maskrcnn_benchmark import compat_parts as parts
from maskrcnn_benchmark.data.evaluation import evaluate
from maskrcnn_benchmark.modeling.roi_heads.keypoint_head.inference import KeypointPostProcessor
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import KEYPOINTS, LABELS, SCORES
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints


def test_cat():
    values = torch.randn(2, 3)
    assert parts.cat([values]) is values
    assert parts.cat((values, values), dim=1).shape == (2, 6)


def test_prediction_layers_are_flattened_image_by_image():
    anchors, classes = 2, 3
    shapes = ((2, 4), (1, 2))
    logits = [torch.randn(2, anchors * classes, *shape) for shape in shapes]
    deltas = [torch.randn(2, anchors * 4, *shape) for shape in shapes]
    flat_logits, flat_deltas = parts.concat_box_prediction_layers(logits, deltas)
    cells = sum(height * width for height, width in shapes)
    assert flat_logits.shape == (2 * cells * anchors, classes) and flat_deltas.shape == (2 * cells * anchors, 4)
    row = cells * anchors + (8 + 1) * anchors + 1  # image 1, second level, cell (0, 1), anchor 1
    torch.testing.assert_close(flat_logits[row], logits[1][1, classes : 2 * classes, 0, 1])
    torch.testing.assert_close(flat_deltas[row], deltas[1][1, 4:8, 0, 1])


def test_groups_of_a_group_norm():
    assert parts.get_group_gn(64, -1, 32) == 32
    assert parts.get_group_gn(64, 16, -1) == 4
    with pytest.raises(ValueError, match="24 does not divide 64 channels"):
        parts.get_group_gn(64, 24, -1)
    with pytest.raises(ValueError, match="got 16 and 32"):
        parts.get_group_gn(64, 16, 32)


def test_level_mapper():
    sides = [10, 111, 113, 224, 448, 2000]
    boxes = BoxList(torch.tensor([[0.0, 0.0, side - 1, side - 1] for side in sides]), (4000, 4000))
    assert parts.LevelMapper(2.0, 5.0)([boxes[:2], boxes[2:]]).tolist() == [0, 0, 1, 2, 3, 3]


def test_heatmaps_of_keypoints_there_and_back():
    boxes = BoxList(torch.tensor([[10.0, 20.0, 66.0, 76.0], [0.0, 0.0, 28.0, 56.0]]), (100, 100))
    points = torch.zeros(2, 17, 3)
    points[..., 2] = 2
    points[0, :, :2] = torch.tensor([30.5, 40.5])
    points[1, :, :2] = torch.tensor([7.25, 200.0])  # below the box
    keypoints = PersonKeypoints(points, (100, 100))
    cells, valid = parts.project_keypoints_to_heatmap(keypoints, boxes, 56)
    assert cells[0, 0] == 20 * 56 + 20 and valid.tolist() == [[1] * 17, [0] * 17]

    maps = torch.randn(2, 17, 56, 56, generator=torch.Generator().manual_seed(0))
    maps[0, :, 20, 20] = 50.0
    detections = KeypointPostProcessor()(maps, [boxes])[0]
    found, scores = parts.Keypointer()(maps, boxes)
    torch.testing.assert_close(found, detections.get_field(KEYPOINTS).keypoints)
    from_arrays = parts.heatmaps_to_keypoints(maps.numpy(), boxes.bbox.numpy())
    assert np.array_equal(from_arrays[0], found.numpy()) and np.array_equal(from_arrays[1], scores.numpy())
    assert (found[0, :, :2] - points[0, :, :2]).abs().max() <= 0.5
    with pytest.raises(ValueError, match="boxes of one image, not of 2"):
        parts.Keypointer()(maps, [boxes, boxes])


def test_positive_boxes_of_each_image():
    boxes = BoxList(torch.arange(12.0).reshape(3, 4), (20, 20))
    boxes.add_field(LABELS, torch.tensor([0, 2, -1]))
    kept, positive = parts.keep_only_positive_boxes([boxes, boxes[:0]])
    assert [len(kept_per_image) for kept_per_image in kept] == [1, 0]
    assert positive[0].tolist() == [False, True, False] and kept[0].get_field(LABELS).tolist() == [2]


def test_masks_and_boxes_expand_by_one_factor_and_are_pasted():
    mask, scale = parts.expand_masks(torch.ones(1, 1, 4, 4), padding=1)
    assert scale == 1.5 and mask.shape == (1, 1, 6, 6) and mask.sum() == 16
    torch.testing.assert_close(
        parts.expand_boxes(torch.tensor([[10.0, 20.0, 30.0, 60.0]]), scale), torch.tensor([[5.0, 10.0, 35.0, 70.0]])
    )
    pasted = parts.paste_mask_in_image(torch.ones(4, 4), torch.tensor([2.0, 3.0, 5.0, 8.0]), 12, 10)
    expected = torch.zeros(12, 10, dtype=torch.bool)
    expected[3:9, 2:6] = True
    assert torch.equal(pasted, expected)


def test_contours_and_environment():
    picture = np.zeros((8, 8), dtype=np.uint8)
    picture[2:5, 3:7] = 1
    contours, _ = parts.findContours(picture, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    assert len(contours) == 1
    assert parts.setup_environment() is None


class OneBox(parts.AbstractDataset):
    """Images of 80 x 60, resized to half, with one object."""

    CLASSES = ("__background__", "cat", "dog")

    def __init__(self):
        super().__init__()
        self.initMaps()

    def __len__(self):
        return 2

    def __getitem__(self, index):
        target = BoxList(torch.tensor([[2.0, 3.0, 20.0, 25.0]]), (40, 30))
        target.add_field(LABELS, torch.tensor([1 + index]))
        return torch.zeros(3, 30, 40), target, index

    def get_img_info(self, index):
        return {"width": 80, "height": 60}


def test_an_abstract_dataset_is_evaluated_as_coco():
    dataset = OneBox()
    assert dataset.map_class_id_to_class_name(2) == "dog" and dataset.name_to_id["cat"] == 1
    assert dataset.get_groundtruth(0).size == (80, 60)
    found = [dataset[index][1] for index in range(2)]
    for boxes in found:
        boxes.add_field(SCORES, torch.tensor([0.9]))
    results = evaluate(dataset, found, None)
    assert results.metrics["bbox"]["AP"] == pytest.approx(1)
    assert set(results.per_class["bbox"]) == {"cat", "dog"}


def test_an_abstract_dataset_starts_with_the_background():
    class Wrong(OneBox):
        CLASSES = ("cat",)

    with pytest.raises(ValueError, match="Wrong.CLASSES is .'cat'.*; the first must be '__background__'"):
        Wrong()
