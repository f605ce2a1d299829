"""Folders of Cityscapes: polygons, instance images, groups, and files that are broken."""

import json
import logging

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data.build import build_dataset, check_datasets
from maskrcnn_benchmark.data.datasets import CityScapesDataset
from maskrcnn_benchmark.data.datasets.cityscapes_file import EVALUATED, WITH_INSTANCES, encode_ids
from maskrcnn_benchmark.structures import fields
from tests.data.cityscapes_files import polygon, write_cityscapes

CAR = 1 + EVALUATED.index("car")
NAME = "aachen_000000_000019"
OBJECTS = [
    polygon("road", 0, 0, 63, 47),
    polygon("car", 5, 6, 24, 20),
    polygon("cargroup", 30, 5, 50, 20),
    polygon("bicycle", 10, 25, 29, 40),
    polygon("rider", 20, 20, 24, 30),  # in front of the bicycle
    polygon("caravan", 40, 25, 60, 40),
    polygon("license plate", 6, 15, 10, 18),
    polygon("car", 1, 1, 3, 3, deleted=1),
]


def test_classes_are_official():
    assert EVALUATED == ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert (*EVALUATED[:5], "caravan", "trailer", *EVALUATED[5:]) == WITH_INSTANCES


@pytest.mark.parametrize(("offset", "far"), [(1, 0), (0, 1)])
@pytest.mark.parametrize("mode", ["poly", "mask"])
def test_targets(tmp_path, mode, offset, far):
    dataset = CityScapesDataset(*write_cityscapes(tmp_path, {NAME: OBJECTS}), "train", mode, offset=offset)
    image, target, index = dataset[0]
    assert index == 0 and image.size == target.size == (64, 48) and target.offset == offset
    names = [dataset.class_names[label] for label in target.get_field(fields.LABELS)]
    boxes = dict(zip(names, target.bbox.tolist(), strict=True))
    assert boxes == {
        "car": [5, 6, 24 + far, 20 + far],
        "bicycle": [10, 25, 29 + far, 40 + far],
        "rider": [20, 20, 24 + far, 30 + far],
    }
    masks = dict(zip(names, target.get_field(fields.MASKS).get_mask_tensor().sum(dim=(1, 2)).tolist(), strict=True))
    whole = {"car": 20 * 15, "bicycle": 20 * 16, "rider": 5 * 11}
    if mode == "mask":
        assert masks == {**whole, "car": 20 * 15 - 5, "bicycle": 20 * 16 - 5 * 6}, "without what the rider hides"
    else:
        # polygons run through the corner pixels, and cover a pixel less in each direction than is drawn
        assert masks == {"car": 19 * 14, "bicycle": 19 * 15, "rider": 4 * 10}
    assert dataset.get_img_info(0) == {
        "id": NAME, "file_name": f"aachen/{NAME}_leftImg8bit.png", "width": 64, "height": 48,
    }  # fmt: skip
    assert dataset.validation_report.crowd == 1 and dataset.evaluator == "Cityscapes"


def test_instance_ids_are_drawn_if_there_is_no_file(tmp_path):
    drawn = CityScapesDataset(*write_cityscapes(tmp_path / "a", {NAME: OBJECTS}, ids=False), "train", "poly")
    read = CityScapesDataset(*write_cityscapes(tmp_path / "b", {NAME: OBJECTS}), "train", "mask")
    ids = drawn.read_instance_ids(0)
    assert np.array_equal(ids, read.read_instance_ids(0)) and ids.shape == (48, 64)
    assert ids[10, 10] == 26000 and ids[10, 40] == 26 and ids[30, 22] == 25000 and ids[40, 12] == 33000
    assert ids[0, 0] == 7 and ids[30, 50] == 29000 and ids[2, 2] == 7 and ids[16, 8] == 26000


def test_ids_become_run_lengths():
    ids = np.random.default_rng(0).integers(0, 4, (7, 9)).astype(np.int32)
    ids[:, 0] = 26001
    encoded = encode_ids(ids)
    assert set(encoded) == set(np.unique(ids).tolist())
    for value, mask in encoded.items():
        assert np.array_equal(mask_utils.decode(mask), ids == value)
    (only,) = encode_ids(np.full((3, 2), 8, dtype=np.int32)).values()
    assert mask_utils.decode(only).all()


def test_min_area_mini_and_empty_images(tmp_path):
    images = {f"bonn_{number:06d}_000019": OBJECTS if number % 2 else [] for number in range(12)}
    folders = write_cityscapes(tmp_path, images, "val")
    assert len(CityScapesDataset(*folders, "val")) == 12
    assert len(CityScapesDataset(*folders, "val", remove_images_without_annotations=True)) == 6
    mini = CityScapesDataset(*folders, "val", mini=4)
    assert mini.ids == list(images)[::4], "every fourth, as upstream"
    large = CityScapesDataset(*folders, "val", "poly", min_area=19 * 14)
    assert len(large.get_groundtruth(1)) == 2, "the rider is smaller"


def test_config_chooses_classes_masks_and_filter(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
    folder = tmp_path / "cityscapes"
    write_cityscapes(folder, {NAME: OBJECTS, "bonn_000000_000019": []}, "train")
    cfg = get_cfg()
    cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = 9
    (dataset,) = build_dataset(cfg, ["cityscapes_fine_instanceonly_seg_train"], is_train=True)
    assert isinstance(dataset, CityScapesDataset) and dataset.mode == "mask" and len(dataset) == 1
    assert not dataset.get_groundtruth(0).has_field(fields.MASKS) and len(dataset.class_names) == 9
    cfg.MODEL.MASK_ON, cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = True, 11
    (dataset,) = build_dataset(cfg, ["cityscapes_poly_instance_train"], is_train=False)
    assert dataset.mode == "poly" and len(dataset) == 2 and dataset.class_names[6:8] == ["caravan", "trailer"]
    assert dataset.get_groundtruth(0).get_field(fields.LABELS).tolist() == [3, 10, 2, 6]
    check_datasets(cfg, [dataset], ["cityscapes"], is_train=False)
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ConfigError, match="CityScapesDataset has no keypoints, but MODEL.KEYPOINT_ON is True"):
        build_dataset(cfg, ["cityscapes_poly_instance_train"], is_train=True)


def test_catalog_has_upstream_s_names():
    for mode in ("poly", "mask"):
        for split, more in (("train", {}), ("val", {}), ("minival", {"mini": 10})):
            entry = DatasetCatalog.get(f"cityscapes_{mode}_instance_{split}")
            assert entry == {
                "factory": "CityScapesDataset",
                "args": {
                    "img_dir": "datasets/cityscapes/leftImg8bit", "ann_dir": "datasets/cityscapes/gtFine",
                    "split": split.removeprefix("mini"), "mode": mode, **more,
                },
            }  # fmt: skip
    assert DatasetCatalog.get("cityscapes_fine_instanceonly_seg_test")["args"]["split"] == "test"


def test_unusable_polygons_give_one_warning(tmp_path, caplog):
    objects = [
        polygon("car", 5, 6, 24, 20), {"label": "car", "polygon": [[1, 1], [5, 5]]}, {"label": "bus", "polygon": "x"},
        {"label": "bus", "polygon": [1, 2, 3]}, {"label": "car", "polygon": [[100, 1], [120, 1], [110, 20]]},
    ]  # fmt: skip
    with caplog.at_level(logging.WARNING):
        dataset = CityScapesDataset(*write_cityscapes(tmp_path, {NAME: objects}, ids=False), "train", "poly")
    (record,) = caplog.records
    assert "skipped 3 of 5 annotations" in record.getMessage()
    polygon_problem = f"1 x segmentation: polygon with fewer than 3 points (annotation ids {NAME} instance 2 'car')"
    assert f"Ignored 1 masks, but not their boxes: {polygon_problem}" in record.getMessage()
    assert dataset.get_groundtruth(0).get_field(fields.LABELS).tolist() == [CAR, CAR]
    assert dataset.get_groundtruth(0).get_field(fields.MASKS_PRESENT).tolist() == [True, False]
    assert (dataset.read_instance_ids(0) == 26000).sum() == 300


def test_wrong_files_are_named(tmp_path):
    folders = write_cityscapes(tmp_path, {NAME: OBJECTS, "bonn_000000_000019": OBJECTS})
    path = tmp_path / "gtFine/train/aachen" / f"{NAME}_gtFine_polygons.json"
    for text in ("{", "[]", json.dumps({"imgWidth": 4, "imgHeight": 4, "objects": [3]}), json.dumps({"objects": []})):
        path.write_text(text)
        with pytest.raises(ValueError, match=f"{path.name} is not one of Cityscapes' polygon files"):
            CityScapesDataset(*folders, "train", "poly")
    path.unlink()
    with pytest.raises(
        FileNotFoundError, match=r"1 of the 2 images have no annotation file \*_polygons.json in .*aachen_"
    ):
        CityScapesDataset(*folders, "train", "poly")
    path.with_name(f"{NAME}_gtFine_instanceIds.png").write_bytes(b"no image")
    with pytest.raises(OSError, match="instanceIds.png cannot be read: it is not an image of a known format"):
        CityScapesDataset(*folders, "train", "mask")
    with pytest.raises(FileNotFoundError, match="there are no images .*leftImg8bit/test/"):
        CityScapesDataset(*folders, "test")
    with pytest.raises(ValueError, match="mode of CityScapesDataset is 'rle'; expected one of mask, poly"):
        CityScapesDataset(*folders, "train", "rle")
