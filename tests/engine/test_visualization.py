"""The pictures that a test leaves behind can be read at the size that they are shown in."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark import drawing
from maskrcnn_benchmark.data.evaluation.coco.image_results import ImageResult
from maskrcnn_benchmark.engine.visualization import draw_comparison
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList


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
    picture = draw_comparison(grey, truth, ImageResult.from_detections(found, size_wh), ["background", "person"])
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
