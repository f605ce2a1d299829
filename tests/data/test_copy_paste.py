"""Copy-paste within a batch: pixels, masks, hidden keypoints, removal, and the same batches however they are loaded."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.copy_paste import CopyPaste
from maskrcnn_benchmark.data.seeding import sample_randomness
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.keypoint import PersonKeypoints
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask
from tests.data.coco_files import annotation, write_coco

SIZE = (60, 50)


def sample(index, boxes, size=SIZE, offset=0, bitmaps=False):
    """An image whose rectangles have the value 10 * (index + 1) + their number, on the value index."""
    image = torch.full((3, size[1], size[0]), float(index))
    outlines = [[[x1, y1, x2, y1, x2, y2, x1, y2]] for x1, y1, x2, y2 in boxes]
    masks = SegmentationMask(outlines, size)
    points = torch.zeros(len(boxes), 17, 3)
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        image[:, y1:y2, x1:x2] = 10 * (index + 1) + row
        points[row, :, 0] = torch.linspace(x1 + 1, x2 - 1, 17) - offset / 2
        points[row, :, 1], points[row, :, 2] = (y1 + y2) / 2 - offset / 2, 2
    target = BoxList(torch.tensor(boxes) - torch.tensor([0, 0, offset, offset]), size, offset=offset)
    target.add_field(fields.LABELS, torch.full((len(boxes),), index + 1))
    target.add_field(fields.MASKS, masks.convert("mask") if bitmaps else masks)
    target.add_field(fields.KEYPOINTS, PersonKeypoints(points, size))
    return image, target, index


@pytest.mark.parametrize("bitmaps", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
def test_pixels_masks_boxes_and_keypoints_agree_after_pasting(offset, bitmaps):
    batch = [
        sample(0, [(5, 5, 25, 45), (30, 10, 55, 30)], offset=offset, bitmaps=bitmaps),
        sample(1, [(10, 10, 30, 30), (2, 2, 8, 8)], offset=offset),
    ]
    cut = hidden = 0
    for seed in range(40):
        with sample_randomness(seed, 0):
            pasted = CopyPaste(1.0, 2, 0.05)(batch)
        for index, (image, target, same_index) in enumerate(pasted):
            assert same_index == index and target.size == SIZE
            assert 1 <= (target.get_field(fields.LABELS) == 2 - index).sum() <= 2  # of the other image
            seen = torch.zeros(SIZE[::-1], dtype=torch.int64)
            for row in range(len(target)):
                mask = target.get_field(fields.MASKS).get_mask_tensor()[row] > 0
                seen += mask
                values = image[0][mask].unique()
                assert len(values) == 1 and int(values) // 10 == int(target.get_field(fields.LABELS)[row])
                rows, columns = mask.nonzero(as_tuple=True)
                box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                np.testing.assert_allclose(target.extents()[row].tolist(), box, atol=1e-4)
                own = batch[index][1].get_field(fields.LABELS)[0]
                for x, y, visibility in target.get_field(fields.KEYPOINTS).keypoints[row].tolist():
                    if visibility:
                        on_mask = bool(mask[int(y + offset / 2), int(x + offset / 2)])
                        assert visibility == (2 if on_mask else 1)
                        hidden += visibility == 1
                cut += bool(target.get_field(fields.LABELS)[row] == own) and int(mask.sum()) not in (500, 800, 400, 36)
            assert seen.max() <= 1  # no pixel belongs to two instances
            assert torch.equal(image[0] >= 10, seen > 0)
    assert cut > 10 and hidden > 10
    assert torch.equal(batch[0][0], sample(0, [(5, 5, 25, 45), (30, 10, 55, 30)])[0])  # the input stays as it was


def test_instances_that_are_nearly_covered_are_removed():
    batch = [sample(0, [(28, 23, 32, 27)]), sample(1, [(0, 0, 60, 50)])]
    removed = 0
    for seed in range(30):
        with sample_randomness(seed, 0):
            (_, target, _), _ = CopyPaste(1.0, 5, 0.5)(batch)
        pasted = target[target.get_field(fields.LABELS) == 2].get_field(fields.MASKS).get_mask_tensor()
        visible = 16 - int(pasted[:, 23:27, 28:32].sum())
        removed += visible < 8
        assert (1 in target.get_field(fields.LABELS)) == (visible >= 8)
    assert removed > 3


def test_masks_with_hidden_parts_stay_whole_and_keep_the_box():
    batch = [sample(0, [(5, 5, 25, 45)]), sample(1, [(0, 0, 40, 40)])]
    for _, target, _ in batch:
        target.add_field("masks_full", target.get_field(fields.MASKS))
    with sample_randomness(3, 0):
        (_, cut, _), _ = CopyPaste(1.0, 1, 0.0)(batch)
        (_, kept, _), _ = CopyPaste(1.0, 1, 0.0, ["masks_full"])(batch)
    assert cut.get_field("masks_full").areas()[0] == cut.get_field(fields.MASKS).areas()[0]
    assert kept.get_field("masks_full").areas()[0] == 800 and kept.bbox[0].tolist() == [5, 5, 25, 45]


def test_images_without_instances_or_masks_give_nothing():
    empty = sample(1, [(0, 0, 4, 4)])
    empty = (empty[0], empty[1][[]], 1)
    full = sample(0, [(5, 5, 25, 45)])
    with sample_randomness(0, 0):
        first, second = CopyPaste(1.0, 3, 0.1)([full, empty])
    assert first[0] is full[0] and first[1] is full[1]
    assert second[1].get_field(fields.LABELS).tolist() == [1] and bool((second[0] >= 10).any())
    assert CopyPaste(1.0, 3, 0.1)([full]) == [full]


# The loader


@pytest.fixture()
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    entries = [annotation(n, n, bbox=(n, 2, 12, 9), keypoints=[5, 6, 2] * 17) for n in range(1, 9)]
    DatasetCatalog.register("tiny", *write_coco(tmp_path, entries, [(40, 30)] * 8))
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = ("tiny",)
    cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = 3
    cfg.MODEL.MASK_ON = cfg.MODEL.KEYPOINT_ON = True
    cfg.MODEL.DEVICE = "cpu"
    cfg.INPUT.MIN_SIZE_TRAIN = (30,)
    cfg.INPUT.COPY_PASTE.PROB = 0.7
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.SEED = 4, 6, 5
    return cfg


def contents(loader):
    return [
        (images.tensors.numpy().tobytes(), [target.bbox.tolist() for target in targets], list(indices))
        for images, targets, indices in loader
    ]


def test_batches_depend_on_seed_and_iteration_only(tiny):
    expected = contents(make_data_loader(tiny))
    assert any(len(boxes) > 1 for _, boxes_of_images, _ in expected for boxes in boxes_of_images)
    assert contents(make_data_loader(tiny)) == expected
    assert contents(make_data_loader(tiny, start_iter=4)) == expected[4:]
    tiny.DATALOADER.NUM_WORKERS = 2
    assert contents(make_data_loader(tiny)) == expected
    tiny.SEED = 6
    assert contents(make_data_loader(tiny)) != expected


def test_the_samples_themselves_do_not_change(tiny):
    tiny.INPUT.COPY_PASTE.PROB = 1e-9
    rarely = contents(make_data_loader(tiny))
    tiny.INPUT.COPY_PASTE.PROB = 0.0
    assert contents(make_data_loader(tiny)) == rarely


def test_what_cannot_be_pasted_is_refused(tiny):
    tiny.SOLVER.IMS_PER_BATCH = 1
    with pytest.raises(ValueError, match=r"COPY_PASTE.PROB is 0.7, but a process loads one image at a time"):
        make_data_loader(tiny)
    tiny.SOLVER.IMS_PER_BATCH, tiny.MODEL.MASK_ON = 4, False
    with pytest.raises(ConfigError, match="MODEL.MASK_ON is False"):
        make_data_loader(tiny)
