import sys

import pytest
import torch

from benchmarks.op_cases.matching import extra_kilobytes
from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.modeling.matcher import Matcher
from tests.devices import DEVICES
from tests.modeling.box_reference import iou_reference, random_boxes


def match_reference(gt, boxes, high, low, low_quality, offset):
    """Labels, indices and overlaps by loops over one image."""
    quality = [[iou_reference(g, b, offset) for b in boxes] for g in gt]
    labels, idxs, overlaps = [], [], []
    for a in range(len(boxes)):
        column = [row[a] for row in quality]
        best = max(column, default=0.0)
        idxs.append(column.index(best) if column else 0)
        overlaps.append(best)
        labels.append(1 if best >= high else 0 if best < low else -1)
        if low_quality and any(row[a] > 0 and abs(row[a] - max(row)) < 1e-7 for row in quality):
            labels[-1] = 1
    return labels, idxs, overlaps


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("low_quality", [False, True])
@pytest.mark.parametrize("portion", [10_000_000, 60, 1])
def test_match_boxes_equals_loops(device, offset, low_quality, portion):
    torch.manual_seed(3)
    counts = [4, 0, 2]
    gt = torch.zeros(3, 4, 4)
    for image, count in enumerate(counts):
        gt[image, :count] = random_boxes(count, (100, 80))
    filled = torch.arange(4) < torch.tensor(counts)[:, None]
    boxes = torch.cat([random_boxes(40, (100, 80)), gt[0] + 1, gt[0] + 1])  # exact ties between equal boxes
    matches = Matcher(0.6, 0.3, low_quality).match_boxes(
        gt.to(device), filled.to(device), boxes.to(device), offset, max_overlaps=portion
    )
    for image, count in enumerate(counts):
        labels, idxs, overlaps = match_reference(
            gt[image, :count].tolist(), boxes.tolist(), 0.6, 0.3, low_quality, offset
        )
        torch.testing.assert_close(matches.overlaps[image].cpu(), torch.tensor(overlaps), atol=1e-6, rtol=1e-5)
        assert matches.labels[image].tolist() == labels
        overlapping = torch.tensor(overlaps) > 0
        assert matches.matched_idxs[image].cpu()[overlapping].tolist() == torch.tensor(idxs)[overlapping].tolist()
    assert matches.labels[1].eq(0).all() and matches.matched_idxs[1].eq(0).all()


def test_boxes_of_each_image_can_differ():
    gt = random_boxes(3, (50, 50))[None].repeat(2, 1, 1)
    boxes = torch.stack([gt[0], gt[0].flip(0)])
    matches = Matcher(0.5, 0.5).match_boxes(gt, torch.ones(2, 3, dtype=torch.bool), boxes, 1)
    assert matches.matched_idxs.tolist() == [[0, 1, 2], [2, 1, 0]]
    assert matches.labels.eq(1).all()


def test_low_quality_match_keeps_its_own_ground_truth_and_all_ties():
    quality = torch.tensor([[0.9, 0.2, 0.2, 0.0], [0.8, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    matched = Matcher(0.95, 0.3, allow_low_quality_matches=True)(quality)
    # box 0 is the best of ground truths 0 and 1 and stays with 0; nothing overlaps ground truth 2: no best box
    assert matched.tolist() == [0, -1, -1, -1]
    quality[0, 0] = 0.0
    assert Matcher(0.95, 0.3, allow_low_quality_matches=True)(quality).tolist() == [1, 0, 0, -1]
    assert Matcher(0.95, 0.3)(quality).tolist() == [-2, -1, -1, -1]


def test_matrix_without_ground_truth_is_all_background():
    assert Matcher(0.7, 0.3, True)(torch.zeros(0, 3)).tolist() == [-1, -1, -1]


def test_no_boxes():
    matches = Matcher(0.7, 0.3, True).match_boxes(
        torch.rand(2, 3, 4), torch.ones(2, 3, dtype=torch.bool), torch.zeros(0, 4), 1
    )
    assert matches.labels.shape == matches.overlaps.shape == (2, 0)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_of_many_ground_truth_boxes_is_bounded():
    """1,000 ground-truth boxes and 250,000 anchors would be 1 GB of overlaps alone."""
    assert 0 < extra_kilobytes() < 300 * 1024


def test_thresholds_are_checked():
    with pytest.raises(ValueError, match="background ends at an IoU of 0.7 and foreground begins at 0.3"):
        Matcher(0.3, 0.7)


def test_thresholds_of_a_config():
    cfg = get_cfg()
    matcher = Matcher.from_cfg(cfg, "RPN", allow_low_quality_matches=True)
    assert (matcher.high_threshold, matcher.low_threshold, matcher.allow_low_quality_matches) == (0.7, 0.3, True)
    cfg.MODEL.ROI_HEADS.BG_IOU_THRESHOLD = 0.6
    with pytest.raises(ConfigError, match="MODEL.ROI_HEADS.BG_IOU_THRESHOLD is 0.6, above FG_IOU_THRESHOLD 0.5"):
        Matcher.from_cfg(cfg, "ROI_HEADS", allow_low_quality_matches=False)
