"""What a data set says about its keypoints, and what is refused because it contradicts itself, others or the model."""

import json
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.data.build import build_dataset, check_datasets
from maskrcnn_benchmark.data.datasets import COCODataset, ConcatDataset
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.keypoint import FLIP_LEFT_RIGHT
from maskrcnn_benchmark.structures.known_skeletons import AP10K, COCO_PERSON, MPII
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from tests.data.coco_files import PERSON, annotation, write_coco

NAMES = ["nose", "left_wing", "tail", "right_wing", "cross"]
KITE = {
    "id": 1, "name": "kite", "keypoints": NAMES, "skeleton": [[1, 2], [2, 3], [3, 4], [4, 1], ["nose", "tail"]],
    "flip_pairs": [["left_wing", "right_wing"]], "sigmas": [0.05] * 5, "colors": [[255, 0, 0]] * 5,
}  # fmt: skip


def kites(folder, *categories, count=5, **arguments):
    points = [value for k in range(count) for value in (10 + k, 5 + k, 2)]  # keypoint k at (10 + k, 5 + k)
    files = write_coco(folder, [annotation(1, keypoints=points)], categories=categories or [KITE])
    return COCODataset(*files, **arguments)


def test_the_category_tells_everything(tmp_path):
    dataset = kites(tmp_path)
    spec = dataset.keypoint_spec
    assert spec == KeypointSpec(
        NAMES, [(1, 3)], [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2)], [0.05] * 5, [(255, 0, 0)] * 5
    )
    assert spec.source == f"category 'kite' of {dataset.ann_file}"
    assert dataset.get_groundtruth(0).get_field(fields.KEYPOINTS).spec == spec
    assert pickle.loads(pickle.dumps(dataset)).keypoint_spec == spec, "as sent to a worker"
    numbers = kites(tmp_path, {**KITE, "flip_pairs": [[2, 4]]})
    assert numbers.keypoint_spec == spec, "numbers count from 1, as in `skeleton`"
    names_only = kites(tmp_path, {"id": 1, "name": "kite", "keypoints": NAMES, "skeleton": []})
    assert names_only.keypoint_spec == KeypointSpec(NAMES, [(1, 3)]), "left and right by the names"


def test_the_catalog_tells_what_the_file_does_not(tmp_path):
    bare = {"id": 1, "name": "kite"}
    spec = KeypointSpec(NAMES, [(1, 3)], sigmas=[0.1] * 5)
    assert kites(tmp_path, bare, keypoints=spec).keypoint_spec == spec
    both = kites(tmp_path, keypoints=spec).keypoint_spec
    assert both.sigmas == (0.1,) * 5 and both.skeleton[0] == (0, 1), "the catalog comes first"
    assert kites(tmp_path, {"id": 1, "name": "man"}, count=16, keypoints="mpii").keypoint_spec == MPII
    with pytest.raises(ValueError, match=r"catalog gives 5 keypoints \(tail.*its categories have 5 keypoints \(nose"):
        kites(tmp_path, keypoints=KeypointSpec(NAMES[2:] + NAMES[:2]))
    with pytest.raises(ValueError, match=r"keypoints='mpi'; known: coco_person, .* or a KeypointSpec"):
        kites(tmp_path, bare, keypoints="mpi")
    with pytest.raises(ValueError, match=r"have 16 keypoints \(right_ankle.*, the model has 5: .*NUM_CLASSES to 16"):
        kites(tmp_path, bare, keypoints="mpii", num_keypoints=5)


def test_a_registered_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    spec = KeypointSpec(NAMES, [("left_wing", "right_wing")])
    kites(tmp_path, {"id": 1, "name": "kite"})
    DatasetCatalog.register("kites", tmp_path / "annotations.json", tmp_path / "images", keypoints=spec)
    cfg = get_cfg()
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES, cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = True, 5, 2
    cfg.DATASETS.MIN_KEYPOINTS, cfg.INPUT.HORIZONTAL_FLIP_PROB_TRAIN = 1, 1.0
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (30,), 40
    datasets = build_dataset(cfg, ["kites"], is_train=True)
    check_datasets(cfg, datasets, ["kites"], is_train=True)
    flipped = datasets[0][0][1].get_field(fields.KEYPOINTS).keypoints[0]
    for k, source in enumerate([0, 3, 2, 1, 4]):
        assert flipped[k].tolist() == [40 - 1 - (10 + source), 5 + source, 2]


def test_known_names_complete_a_file(tmp_path, caplog):
    animal = {"id": 1, "name": "person", "keypoints": list(AP10K.names), "skeleton": []}
    with caplog.at_level(logging.INFO):
        dataset = kites(tmp_path, animal, count=17)
    assert dataset.keypoint_spec == AP10K, "17 keypoints of a 'person' are not COCO's if they have other names"
    assert "have the names of AP-10K: skeleton, sigmas are taken from there" in caplog.text
    flipped = dataset.get_groundtruth(0).transpose(FLIP_LEFT_RIGHT).get_field(fields.KEYPOINTS).keypoints[0]
    for k, name in enumerate(AP10K.names):
        source = AP10K.names.index(name.replace("left", "#").replace("right", "left").replace("#", "right"))
        assert flipped[k].tolist() == [40 - 1 - (10 + source), 5 + source, 2], name
    person = kites(tmp_path, {**PERSON, "keypoints": list(COCO_PERSON.names)}, count=17)
    assert person.keypoint_spec == COCO_PERSON


def test_seventeen_keypoints_without_names(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        assert kites(tmp_path, PERSON, count=17).keypoint_spec is COCO_PERSON
    assert "does not name its 17 keypoints of persons: they are taken for COCO's" in caplog.text
    dataset = kites(tmp_path, {"id": 1, "name": "horse"}, count=17)
    assert dataset.keypoint_spec == KeypointSpec.unnamed(17)
    cfg = config(17)
    with pytest.raises(ValueError, match="not known which of the 17 unnamed keypoints of .*annotations.json change"):
        check_datasets(cfg, [dataset], ["horses"], is_train=True)
    check_datasets(cfg, [dataset], ["horses"], is_train=False)


def config(count):
    cfg = get_cfg()
    cfg.MODEL.KEYPOINT_ON, cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES = True, count
    cfg.MODEL.ROI_BOX_HEAD.NUM_CLASSES = 2
    return cfg


def test_categories_with_one_skeleton_or_several(tmp_path):
    other = {"id": 2, "name": "box kite", "keypoints": NAMES}
    assert kites(tmp_path, KITE, other).keypoint_spec == kites(tmp_path).keypoint_spec, "each adds what it has"
    assert kites(tmp_path, {"id": 9, "name": "sky", "keypoints": []}, other, KITE).keypoint_spec.sigmas == (0.05,) * 5
    with pytest.raises(
        ValueError, match=r"one skeleton: category 'kite' has 5 keypoints \(nose.*'cat' has 1 keypoints"
    ):
        kites(tmp_path, KITE, {"id": 2, "name": "cat", "keypoints": ["head"]})
    with pytest.raises(ValueError, match=r"flip_pairs of category 'kite' are \[\['left_wing', 'right_wing'\]\], those"):
        kites(tmp_path, KITE, {**other, "flip_pairs": []})
    with pytest.raises(ValueError, match=r"the sigmas of category 'kite' are \(0.05, "):
        kites(tmp_path, KITE, {**other, "sigmas": [0.1] * 5})


def test_messages_name_the_file_and_the_keypoints(tmp_path, caplog):
    with pytest.raises(ValueError, match=r"category 'kite' of .*annotations.json: there are 2 sigmas for 5 keypoints"):
        kites(tmp_path, {**KITE, "sigmas": [0.1, 0.1]})
    with pytest.raises(ValueError, match=r"flip_pairs has \['left', 'right'\].* Their names are nose, left_wing"):
        kites(tmp_path, {**KITE, "flip_pairs": [["left", "right"]]})
    with pytest.raises(ValueError, match="must be a list of texts"):
        kites(tmp_path, {**KITE, "keypoints": [1, 2, 3, 4, 5]})
    with pytest.raises(ValueError, match=r"'kite' of .* has flip_pairs and sigmas, but no \"keypoints\""):
        kites(tmp_path, {key: value for key, value in KITE.items() if key not in ("keypoints", "colors")})
    assert kites(tmp_path, {**KITE, "skeleton": [[1, 2], [16, 14]]}).keypoint_spec.skeleton == ()
    assert "no limbs are drawn: the keypoints of category 'kite' of" in caplog.text and "counts from 1" in caplog.text


def test_data_sets_are_compared_with_each_other_and_with_the_model(tmp_path):
    kite, order = kites(tmp_path / "a"), kites(tmp_path / "b", {**KITE, "keypoints": NAMES[::-1]})
    plain = kites(tmp_path / "c", {"id": 1, "name": "kite"})
    with pytest.raises(
        ValueError, match=r"same keypoints, but one has 5 keypoints \(nose.*two has 5 keypoints \(cross"
    ):
        check_datasets(config(5), [kite, order], ["one", "two"], is_train=True)
    check_datasets(config(5), [kite, order], ["one", "two"], is_train=False)  # tested one by one
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 4, but one has 5 keypoints \(nose, .*\): set it to 5"):
        check_datasets(config(4), [kite], ["one"], is_train=False)
    with pytest.raises(ValueError, match="two: it is not known which of the 5 unnamed .*HORIZONTAL_FLIP_PROB_TRAIN"):
        check_datasets(config(5), [kite, plain], ["one", "two"], is_train=True)
    still = config(5)
    still.INPUT.HORIZONTAL_FLIP_PROB_TRAIN = 0.0
    check_datasets(still, [kite, plain], ["one", "two"], is_train=True)
    for joined in (ConcatDataset([kite, plain]), ConcatDataset([plain, kite])):
        assert joined.keypoint_spec == kite.keypoint_spec
    without = COCODataset(*write_coco(tmp_path / "d", [annotation(1)], categories=[KITE]), with_keypoints=False)
    assert without.keypoint_spec is None and ConcatDataset([without]).keypoint_spec is None


def test_fields_of_an_image_without_instances(tmp_path):
    files = write_coco(tmp_path, [], categories=[KITE])
    target = COCODataset(*files, with_keypoints=True).get_groundtruth(0)
    assert target.get_field(fields.KEYPOINTS).keypoints.shape == (0, 5, 3)


def test_a_file_of_a_hundred_kinds_of_animals(tmp_path):
    content_file, root = write_coco(tmp_path, [annotation(1, keypoints=[1, 2, 2] * 17)])
    content = json.loads(Path(content_file).read_text())
    content["categories"] = [
        {"id": number, "name": f"species {number}", "keypoints": list(AP10K.names)} for number in range(1, 101)
    ]
    Path(content_file).write_text(json.dumps(content))
    spec = COCODataset(content_file, root).keypoint_spec
    assert spec == AP10K and np.isclose(spec.sigmas[2], 0.026)


def test_the_upper_half_of_other_skeletons_is_not_guessed(tmp_path):
    animals = kites(tmp_path, {"id": 1, "name": "cat", "keypoints": list(AP10K.names)}, count=17)
    cfg = config(17)
    cfg.INPUT.HALF_BODY.PROB = 0.3
    with pytest.raises(ValueError, match=r"HALF_BODY.UPPER is \(\), .*but animals has 17 keypoints \(left_eye"):
        check_datasets(cfg, [animals], ["animals"], is_train=True)
    cfg.INPUT.HALF_BODY.UPPER = (0, 1, 2)
    check_datasets(cfg, [animals], ["animals"], is_train=True)
