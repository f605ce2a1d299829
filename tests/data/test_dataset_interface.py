"""What a data set must offer, what it may offer, and the defaults of the rest."""

import pickle

import numpy as np
import pytest
from PIL import Image

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.build import check_datasets
from maskrcnn_benchmark.data.datasets import DATASETS, COCODataset, ConcatDataset, ListDataset
from maskrcnn_benchmark.data.datasets.base import DetectionDataset, as_detection_dataset, check_minimal
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from tests.data.coco_files import DOG, PERSON, annotation, write_coco


class Minimal:
    """No more than the required part."""

    def __init__(self, transforms=None, **paths):
        self.transforms, self.paths = transforms, paths

    def __len__(self):
        return 3

    def __getitem__(self, index):
        image, target = Image.new("RGB", (40 + index, 30)), BoxList([[1, 1, 9, 9]], (40 + index, 30))
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target, index

    def get_img_info(self, index):
        return {"id": 10 * index, "width": 40 + index, "height": 30}


class Named(Minimal):
    class_names = ["__background__", "cell", "nucleus"]
    evaluator = "MyEvaluator"

    def read_image(self, index):
        return self[index][0]

    def get_groundtruth(self, index):
        return self[index][1]


def test_the_adapter_adds_defaults_to_the_required_part():
    dataset = as_detection_dataset(Minimal(root="somewhere"))
    assert isinstance(dataset, DetectionDataset) and as_detection_dataset(dataset) is dataset
    assert len(dataset) == 3 and dataset[1][2] == 1 and dataset.get_img_info(2)["width"] == 42
    assert dataset.sizes_wh.tolist() == [[40, 30], [41, 30], [42, 30]] and dataset.sizes_wh.dtype == np.int64
    assert dict(dataset.id_to_img_map) == {0: 0, 1: 10, 2: 20}
    assert dataset.evaluator == "COCO" and dataset.coco is None
    assert not dataset.class_names and not dataset.categories and dataset.keypoint_spec is None
    assert not dataset.contiguous_category_id_to_json_id and not dataset.can_draw
    for method in (dataset.read_image, dataset.get_groundtruth):
        with pytest.raises(NotImplementedError, match="does not define"):
            method(0)


def test_the_adapter_keeps_what_a_data_set_has():
    inner = Named(root="somewhere")
    dataset = as_detection_dataset(inner)
    assert dataset.class_names is inner.class_names and dataset.evaluator == "MyEvaluator"
    assert dataset.paths == {"root": "somewhere"}, "also what is not part of the interface"
    assert dataset.can_draw and dataset.read_image(0).size == (40, 30) and len(dataset.get_groundtruth(0)) == 1
    assert dict(dataset.contiguous_category_id_to_json_id) == {1: 1, 2: 2}
    with pytest.raises(AttributeError, match="shape"):
        _ = dataset.shape
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy.class_names == inner.class_names and copy.paths == inner.paths


def test_a_subclass_may_assign_what_it_knows():
    class Own(DetectionDataset):
        def __init__(self):
            self.class_names = ["__background__", "star"]

        def __len__(self):
            return 1

    dataset = Own()
    assert as_detection_dataset(dataset) is dataset and len(dataset.class_names) == 2 and not dataset.can_draw
    with pytest.raises(NotImplementedError, match="Own must define get_img_info"):
        _ = dataset.sizes_wh
    with pytest.raises(NotImplementedError, match="Own must define __getitem__"):
        _ = dataset[0]
    with pytest.raises(NotImplementedError, match="must define __len__"):
        len(DetectionDataset())


def test_a_data_set_without_a_required_method_is_refused():
    check_minimal(Minimal(), "mine")
    with pytest.raises(TypeError, match=r"data set mine is a list, which has no get_img_info; .*MinimalDataset"):
        check_minimal([], "mine")
    with pytest.raises(TypeError, match="no __len__ and no __getitem__ and no get_img_info"):
        check_minimal(object(), "mine")


def test_our_data_sets_implement_the_interface(tmp_path):
    points = [5, 6, 2] * 17
    coco = COCODataset(*write_coco(tmp_path / "a", [annotation(1, keypoints=points)], [(40, 30), (20, 30)]))
    other = COCODataset(*write_coco(tmp_path / "b", [annotation(1)], categories=[PERSON]), with_keypoints=False)
    listed = ListDataset([Image.new("RGB", (8, 6))])
    joined = ConcatDataset([coco, other, Minimal()])
    assert all(isinstance(dataset, DetectionDataset) for dataset in (coco, other, listed, joined))
    assert coco.can_draw and not listed.can_draw and not joined.can_draw and ConcatDataset([coco, other]).can_draw
    assert coco.keypoint_spec == COCO_PERSON and other.keypoint_spec is None
    assert joined.keypoint_spec == COCO_PERSON and joined.class_names == ["__background__", "person", "dog"]
    assert len(joined) == 6 and joined.sizes_wh.tolist() == [[40, 30], [20, 30], [40, 30], [40, 30], [41, 30], [42, 30]]
    assert joined.read_image(1).size == (20, 30) and listed.sizes_wh.tolist() == [[8, 6]]
    assert joined.categories == {PERSON["id"]: "person", DOG["id"]: "dog"}


@pytest.fixture()
def own(monkeypatch, tmp_path):
    """A config of a data set of class `Minimal`, registered by name."""
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    monkeypatch.setitem(DATASETS, "Minimal", Minimal)
    (tmp_path / "a.json").write_text("{}")
    DatasetCatalog.register("own", tmp_path / "a.json", tmp_path, factory="Minimal")
    cfg = get_cfg()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("own",)
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER, cfg.DATALOADER.NUM_WORKERS = 1, 2, 0
    cfg.MODEL.DEVICE, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = "cpu", (32,), 32
    return cfg


def test_a_registered_data_set_with_the_required_part_loads(own):
    batches = list(make_data_loader(own))
    assert len(batches) == 2 and batches[0][0].tensors.shape[2] == 32
    [loader] = make_data_loader(own, is_train=False)
    assert [index for _, _, indices in loader for index in indices] == [0, 1, 2]
    own.DATASETS.TRAIN = ("own", "own")
    assert len(make_data_loader(own).dataset) == 6


def test_named_keypoints_may_be_mirrored(own):
    class Arrows(Minimal):
        keypoint_spec = KeypointSpec(("head", "tail"), ())

    own.MODEL.KEYPOINT_ON, own.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES = True, 2
    check_datasets(own, [as_detection_dataset(Arrows())], ["arrows"], is_train=True)
    with pytest.raises(ValueError, match="own: it is not known which of the 2 unnamed keypoints change places"):
        check_datasets(own, [as_detection_dataset(Minimal())], ["own"], is_train=True)
