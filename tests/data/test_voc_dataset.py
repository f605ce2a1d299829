"""Folders of Pascal VOC: targets, difficult objects, and files that are broken or hostile."""

import logging
import pickle

import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data.build import build_dataset
from maskrcnn_benchmark.data.datasets import DATASETS, PascalVOCDataset
from maskrcnn_benchmark.data.datasets.voc_file import parse_xml
from maskrcnn_benchmark.structures import fields
from tests.data.voc_files import CAT, DOG, voc_object, voc_xml, write_voc


@pytest.mark.parametrize(("offset", "corners"), [(1, [2, 3, 11, 10]), (0, [2, 3, 12, 11])])
def test_target_counts_pixels_from_zero(tmp_path, offset, corners):
    write_voc(tmp_path, {"000005": [voc_object(), voc_object("cat", (1, 1, 40, 30))]})
    dataset = PascalVOCDataset(tmp_path, "train", offset=offset)
    image, target, index = dataset[0]
    assert index == 0 and image.size == (40, 30) and target.offset == offset and target.size == (40, 30)
    assert target.bbox[0].tolist() == corners
    assert target.bbox[1].tolist() == [0, 0, 40 - offset, 30 - offset]
    assert target.get_field(fields.LABELS).tolist() == [DOG, CAT] == [12, 8]
    assert target.get_field(fields.DIFFICULT).tolist() == [False, False]
    assert dataset.get_img_info(0) == {"id": "000005", "file_name": "000005.jpg", "width": 40, "height": 30}
    assert dataset.id_to_img_map == {0: "000005"} and dataset.evaluator == "VOC"


def test_classes_are_upstream_s(tmp_path):
    dataset = PascalVOCDataset(write_voc(tmp_path, {"1": [voc_object()]}), "train")
    assert len(dataset.class_names) == 21 and dataset.class_names == list(PascalVOCDataset.CLASSES)
    assert dataset.map_class_id_to_class_name(20) == "tvmonitor" and dataset.categories[1] == "aeroplane"
    own = PascalVOCDataset(tmp_path, "train", classes=("cow", "dog"))
    assert own.class_names == ["__background__", "cow", "dog"]
    assert own.get_groundtruth(0).get_field(fields.LABELS).tolist() == [2]


def test_difficult_objects_are_kept_on_request(tmp_path):
    write_voc(tmp_path, {"1": [voc_object(difficult=1), voc_object("cat")], "2": [voc_object(difficult=1)], "3": []})
    left_out = PascalVOCDataset(tmp_path, "train")
    assert [len(left_out.get_groundtruth(index)) for index in range(3)] == [1, 0, 0]
    kept = PascalVOCDataset(tmp_path, "train", use_difficult=True)
    assert kept.get_groundtruth(0).get_field(fields.DIFFICULT).tolist() == [True, False]
    assert kept.get_groundtruth(2).get_field(fields.DIFFICULT).dtype == torch.bool
    filtered = PascalVOCDataset(tmp_path, "train", remove_images_without_annotations=True)
    assert filtered.ids == ["1"]


def test_config_leaves_difficult_objects_out_in_training_only(tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path))
    write_voc(tmp_path / "voc" / "VOC2007", {"1": [voc_object(difficult=1)], "2": [voc_object()]}, "trainval")
    cfg = get_cfg()
    (train,) = build_dataset(cfg, ["voc_2007_trainval"], is_train=True)
    (test,) = build_dataset(cfg, ["voc_2007_trainval"], is_train=False)
    assert isinstance(train, PascalVOCDataset) and train.ids == ["2"] and test.ids == ["1", "2"]
    assert len(test.get_groundtruth(0)) == 1
    folder = tmp_path / "voc" / "VOC2007"
    arguments = {"factory": "PascalVOCDataset", "data_dir": folder, "split": "trainval"}
    DatasetCatalog.register("mine", **arguments, use_difficult=True, classes=("dog",))
    (own,) = build_dataset(cfg, ["mine"], is_train=True)
    assert own.ids == ["1", "2"] and own.class_names == ["__background__", "dog"]


def test_masks_are_refused(tmp_path):
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ConfigError, match="PascalVOCDataset has boxes only, but MODEL.MASK_ON, .* voc_2012_train_coco"):
        PascalVOCDataset.from_cfg(cfg, is_train=True, transforms=None, data_dir=str(tmp_path), split="train")


def test_catalog_has_upstream_s_names():
    for year in ("2007", "2012"):
        for split in ("train", "val", "trainval", "test"):
            entry = DatasetCatalog.get(f"voc_{year}_{split}")
            assert entry["factory"] == "PascalVOCDataset" and entry["factory"] in DATASETS
            assert entry["args"] == {"data_dir": f"datasets/voc/VOC{year}", "split": split}


def test_unusable_objects_give_one_warning(tmp_path, caplog):
    objects = [
        voc_object(box=("3", "x", "12", "11")), voc_object(box=(12, 4, 3, 11)), voc_object(box=(50, 4, 60, 11)),
        voc_object(box=("nan", 4, 5, 11)), voc_object("unicorn"), voc_object(" Dog ", (35.5, 4, 60, 11.25)),
        "<object><name>dog</name></object>",
    ]  # fmt: skip
    write_voc(tmp_path, {"a": [voc_object()], "b": objects})
    with caplog.at_level(logging.WARNING):
        dataset = PascalVOCDataset(tmp_path, "train")
    (record,) = caplog.records
    text = record.getMessage()
    assert "skipped 6 of 8 annotations" in text and "2 x box is not four numbers" in text
    assert "unknown category id (annotation ids b.xml object 5 'unicorn')" in text
    assert "1 x box of zero or negative area" in text and "1 x box wholly outside the image" in text
    assert "Cut 1 boxes" in text
    assert dataset.get_groundtruth(1).bbox.tolist() == [[34.5, 3, 39, 10.25]]


def test_parts_of_a_person_are_not_objects(tmp_path):
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    person = voc_object("person").replace("</object>", f"{part}</object>")
    dataset = PascalVOCDataset(write_voc(tmp_path, {"1": [person]}), "train")
    assert dataset.get_groundtruth(0).bbox.tolist() == [[2, 3, 11, 10]]


def test_a_test_set_without_annotations(tmp_path):
    dataset = PascalVOCDataset(write_voc(tmp_path, {"1": None, "2": None}, "test"), "test", use_difficult=True)
    assert len(dataset) == 2 and dataset.get_img_info(1)["width"] == 40  # from the image
    assert dataset.get_groundtruth(1).get_field(fields.DIFFICULT).tolist() == []


def test_lists_of_one_class_and_images_of_other_formats(tmp_path):
    write_voc(tmp_path, {"1": [voc_object()], "2": [voc_object()]})
    (tmp_path / "ImageSets/Main/dog_train.txt").write_text("2  1\n1 -1\n\n")
    Image.new("RGB", (40, 30)).save(tmp_path / "JPEGImages/photo.png")
    (tmp_path / "JPEGImages/2.jpg").unlink()
    (tmp_path / "Annotations/2.xml").write_text(
        voc_xml([voc_object()], (0, 0), "C:/photos/../photo.png".replace("C:", ""))
    )
    dataset = PascalVOCDataset(tmp_path, "dog_train")
    assert dataset.ids == ["2", "1"] and dataset.get_img_info(0)["file_name"] == "photo.png"
    assert dataset[0][0].size == (40, 30) and pickle.loads(pickle.dumps(dataset))[1][0].size == (40, 30)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="list of images .*nowhere/ImageSets/Main/val.txt does not exist"):
        PascalVOCDataset(tmp_path / "nowhere", "val")
    write_voc(tmp_path, {"1": [voc_object()], "2": None})
    with pytest.raises(FileNotFoundError, match="1 of the 2 images .* have no annotation file in .*Annotations: 2"):
        PascalVOCDataset(tmp_path, "train")
    (tmp_path / "Annotations/2.xml").write_text(voc_xml([]))
    (tmp_path / "JPEGImages/2.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 of the 2 images that .*train.txt lists are not in .*: 2.jpg"):
        PascalVOCDataset(tmp_path, "train")


@pytest.mark.parametrize("size", [("nan", 30), ("inf", "inf"), (1e300, 30), (-40, 30), ("wide", 30), ("", "")])
def test_an_impossible_size_is_read_from_the_image(tmp_path, size):
    write_voc(tmp_path, {"1": [voc_object()]})
    (tmp_path / "Annotations/1.xml").write_text(voc_xml([voc_object()], size))
    assert PascalVOCDataset(tmp_path, "train").get_img_info(0)["width"] == 40


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "entities that expand": f'<!DOCTYPE z [<!ENTITY l0 "ha">{LAUGHS}]>',
    "a file of this machine": '<!DOCTYPE z [<!ENTITY l9 SYSTEM "file:///etc/passwd">]>',
    "an external document type": '<!DOCTYPE z SYSTEM "http://localhost/z.dtd">',
}


@pytest.mark.parametrize("head", HOSTILE.values(), ids=HOSTILE)
def test_hostile_xml_is_refused(tmp_path, head):
    write_voc(tmp_path, {"1": []})
    entity = "&l9;" if "l9" in head else ""
    (tmp_path / "Annotations/1.xml").write_text(voc_xml([voc_object(f"dog{entity}")], head=head))
    with pytest.raises(ValueError, match=r"1.xml cannot be read as XML: it declares a document type \(<!DOCTYPE z"):
        PascalVOCDataset(tmp_path, "train")


def test_deep_xml_is_read(tmp_path):
    path = tmp_path / "deep.xml"
    path.write_text("<a>" * 100_000 + "</a>" * 100_000)
    assert parse_xml(str(path)).tag == "a"


@pytest.mark.parametrize("text", ["", "<annotation>", "<a>&unknown;</a>", "no XML", "\x00"])
def test_broken_xml_names_the_file(tmp_path, text):
    path = tmp_path / "1.xml"
    path.write_text(text)
    with pytest.raises(ValueError, match="annotation file .*1.xml cannot be read as XML"):
        parse_xml(str(path))
