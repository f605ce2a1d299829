"""Names of datasets and weights, and what is said when they are not there."""

import os

import pytest

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog, ModelCatalog, check_datasets
from maskrcnn_benchmark.utils.imports import import_file


@pytest.fixture(autouse=True)
def own_catalog(monkeypatch):
    """Registrations of a test end with it, and no environment of the machine shines in."""
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    monkeypatch.delenv("MASKRCNN_BENCHMARK_DATASETS", raising=False)


@pytest.mark.parametrize(
    ("name", "root", "ann_file"),
    [
        ("coco_2017_train", "coco/train2017", "coco/annotations/instances_train2017.json"),
        ("coco_2014_minival", "coco/val2014", "coco/annotations/instances_minival2014.json"),
        (
            "coco_2014_valminusminival", "coco/val2014", "coco/annotations/instances_valminusminival2014.json",
        ),
        ("keypoints_coco_2014_train", "coco/train2014", "coco/annotations/person_keypoints_train2014.json"),
        ("keypoints_coco_2017_val", "coco/val2017", "coco/annotations/person_keypoints_val2017.json"),
        ("people_train", "people/train", "people/annotations/person_keypoints_train.json"),
        ("voc_2007_test_cocostyle", "voc/VOC2007/JPEGImages", "voc/VOC2007/Annotations/pascal_test2007.json"),
        (
            "cityscapes_fine_instanceonly_seg_val_cocostyle", "cityscapes/images",
            "cityscapes/annotations/instancesonly_filtered_gtFine_val.json",
        ),
    ],
)  # fmt: skip
def test_names_and_paths_are_upstream_s(name, root, ann_file):
    entry = DatasetCatalog.get(name)
    assert entry["factory"] == "COCODataset"
    assert entry["args"] == {"root": os.path.join("datasets", root), "ann_file": os.path.join("datasets", ann_file)}


def test_the_environment_moves_all_datasets_at_call_time(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
    assert DatasetCatalog.get("coco_2017_val")["args"]["root"] == str(tmp_path / "coco" / "val2017")
    monkeypatch.delenv("MASKRCNN_BENCHMARK_DATASETS")
    assert DatasetCatalog.get("coco_2017_val")["args"]["root"] == os.path.join("datasets", "coco/val2017")


def test_a_registered_dataset_is_found(tmp_path):
    DatasetCatalog.register("mine", ann_file=str(tmp_path / "a.json"), root="mine/images", factory="MyDataset")
    assert DatasetCatalog.contains("mine")
    assert DatasetCatalog.get("mine") == {
        "factory": "MyDataset",
        "args": {"root": os.path.join("datasets", "mine/images"), "ann_file": str(tmp_path / "a.json")},
    }


def test_an_entry_added_in_upstream_s_way_is_found():
    DatasetCatalog.DATASETS["mine"] = {"img_dir": "m", "ann_file": "m.json"}
    assert DatasetCatalog.get("mine")["args"]["root"] == os.path.join("datasets", "m")


def test_an_unknown_name_gets_suggestions():
    with pytest.raises(KeyError) as caught:
        DatasetCatalog.get("keypoint_coco_2017_train")
    assert "no dataset 'keypoint_coco_2017_train'" in str(caught.value)
    assert "did you mean keypoints_coco_2017_train" in str(caught.value)
    with pytest.raises(KeyError, match="known: .*people_train"):
        DatasetCatalog.get("zzz")


def test_missing_files_are_all_listed_with_the_two_ways_on(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as caught:
        DatasetCatalog.check(["keypoints_coco_2017_train", "keypoints_coco_2017_val", "keypoints_coco_2017_val"])
    message = str(caught.value)
    annotations = tmp_path / "coco" / "annotations"
    assert f"keypoints_coco_2017_train: no annotation file {annotations / 'person_keypoints_train2017.json'}" in message
    assert "keypoints_coco_2017_train: no folder" not in message
    assert message.count(f"keypoints_coco_2017_val: no folder {tmp_path / 'coco' / 'val2017'}") == 1
    assert f"folder of the data sets is {tmp_path} (from MASKRCNN_BENCHMARK_DATASETS)" in message
    assert "ln -s /path/to/coco" in message
    assert "make data" in message
    assert "tools/make_people_dataset.py" in message


def test_present_files_pass(monkeypatch, tmp_path):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
    for folder in ("people/val", "people/annotations"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "people/annotations/person_keypoints_val.json").write_text("{}")
    DatasetCatalog.check(["people_val"])


def test_the_check_serves_a_catalog_of_the_users_own():
    class Catalog:
        @staticmethod
        def get(name):
            return {"factory": "Mine", "args": {"data_dir": "nowhere", "split": "train"}}

    with pytest.raises(FileNotFoundError, match="x: no folder nowhere"):
        check_datasets(["x"], Catalog)


def test_weights_names_and_urls():
    assert ModelCatalog.get("ImageNetPretrained/MSRA/R-50").endswith("/ImageNetPretrained/MSRA/R-50.pkl")
    keypoints = ModelCatalog.get("Caffe2Detectron/COCO/37697547/e2e_keypoint_rcnn_R-50-FPN_1x")
    assert keypoints.endswith(
        "/37697547/12_2017_baselines/e2e_keypoint_rcnn_R-50-FPN_1x.yaml.08_42_54.kdzV35ao/output/train/"
        "keypoints_coco_2014_train%3Akeypoints_coco_2014_valminusminival/generalized_rcnn/model_final.pkl"
    )
    with pytest.raises(KeyError, match="did you mean catalog://ImageNetPretrained/MSRA/R-50?"):
        ModelCatalog.get("ImageNetPretrained/MSRA/R50")
    with pytest.raises(KeyError, match="known: ImageNetPretrained"):
        ModelCatalog.get("zzz")


def test_the_config_s_catalog_is_this_module_with_what_was_registered():
    module = import_file("maskrcnn_benchmark.config.paths_catalog", get_cfg().PATHS_CATALOG)
    assert module.DatasetCatalog is DatasetCatalog
