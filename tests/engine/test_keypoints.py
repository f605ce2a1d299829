"""Where a model learns what its keypoints are: checkpoint, data, or what upstream assumes."""

import json
import logging

import pytest
import torch

from maskrcnn_benchmark.config.paths_catalog import DatasetCatalog
from maskrcnn_benchmark.engine.keypoints import KEYPOINT_SPEC, spec_of_files, tell_keypoints
from maskrcnn_benchmark.engine.run import StartupError, checks
from maskrcnn_benchmark.structures.fields import KEYPOINTS
from maskrcnn_benchmark.structures.known_skeletons import AP10K, COCO_PERSON, HAND
from maskrcnn_benchmark.structures.skeleton import KeypointSpec
from tests.modeling.tiny import ALL_HEADS, tiny_batch, tiny_cfg, tiny_detector

NAMES = ("nose", "port", "tail", "starboard", "knot")
KITE = KeypointSpec(NAMES, [("port", "starboard")], [(0, 1), (1, 2)], source="kites.json")


def kite_model(*opts):
    cfg = tiny_cfg(*ALL_HEADS, "MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5, *opts)
    return cfg, tiny_detector(cfg).eval()


def told(model):
    return model.roi_heads["keypoint"].outputs["keypoint"].spec


def saved(spec, tmp_path):
    """The content of a checkpoint, as it is read."""
    torch.save({KEYPOINT_SPEC: spec.to_plain()}, tmp_path / "model.pth")
    return torch.load(tmp_path / "model.pth", weights_only=True)


def test_the_checkpoint_comes_first_and_the_data_add_to_it(tmp_path):
    cfg, model = kite_model()
    data = KeypointSpec(NAMES, sigmas=[0.1] * 5)
    spec = tell_keypoints(cfg, model, saved(KITE, tmp_path), {"kites": data})
    assert spec == KeypointSpec(NAMES, KITE.flip_pairs, KITE.skeleton, [0.1] * 5) == told(model)
    assert tell_keypoints(cfg, model, {}, {"others": None, "kites": KITE}) == KITE
    assert tell_keypoints(cfg, model, saved(KeypointSpec.unnamed(5), tmp_path), {"kites": KITE}) == KITE
    images, _ = tiny_batch()
    with torch.no_grad():
        for detections in model(images):
            assert detections.get_field(KEYPOINTS).spec == KITE


def test_what_does_not_fit_is_refused(tmp_path):
    cfg, model = kite_model()
    with pytest.raises(StartupError, match=r"trained on 5 keypoints \(nose, .*, but kites has 5 keypoints \(knot, "):
        tell_keypoints(cfg, model, saved(KITE, tmp_path), {"kites": KeypointSpec(NAMES[::-1])})
    with pytest.raises(StartupError, match="NUM_CLASSES is 5, but there are 21 keypoints"):
        tell_keypoints(cfg, model, saved(HAND, tmp_path), {})
    with pytest.raises(StartupError, match="the checkpoint has no usable specification of keypoints, but 'limbs'"):
        tell_keypoints(cfg, model, {KEYPOINT_SPEC: "limbs"}, {})
    with pytest.raises(StartupError, match="the checkpoint: there are 1 sigmas for 5 keypoints"):
        tell_keypoints(cfg, model, {KEYPOINT_SPEC: {"names": NAMES, "sigmas": [1]}}, {})
    flips = ("TEST.BBOX_AUG.ENABLED", True, "TEST.BBOX_AUG.H_FLIP", True)
    cfg, model = kite_model(*flips)
    with pytest.raises(
        StartupError, match="TEST.BBOX_AUG mirrors images, but it is not known which of the 5 keypoints"
    ):
        tell_keypoints(cfg, model, {}, {"kites": KeypointSpec(NAMES)})
    assert tell_keypoints(cfg, model, {}, {"kites": KITE}) == KITE


@pytest.mark.parametrize(
    ("categories", "expected", "said"),
    [
        ({}, COCO_PERSON, "describe the 17 keypoints: they are taken for COCO's person"),
        ({0: "__background__", 1: "person", 2: "dog"}, COCO_PERSON, "taken for COCO's person"),
        ({0: "__background__", 1: "horse"}, KeypointSpec.unnamed(17), "no limbs are drawn"),
    ],
)
def test_an_old_checkpoint(categories, expected, said, caplog):
    cfg = tiny_cfg(*ALL_HEADS)
    model = tiny_detector(cfg)
    with caplog.at_level(logging.INFO):
        assert tell_keypoints(cfg, model, {"categories": categories}, {}) == expected == told(model)
    assert said in caplog.text
    cfg, model = kite_model()
    assert tell_keypoints(cfg, model, {}, {}) == KeypointSpec.unnamed(5)


def test_a_model_without_keypoints_is_told_nothing(tmp_path):
    cfg = tiny_cfg("MODEL.KEYPOINT_ON", False)
    assert tell_keypoints(cfg, tiny_detector(cfg), saved(KITE, tmp_path), {"kites": HAND}) is None


def test_annotation_files_speak_for_a_checkpoint_that_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(DatasetCatalog, "DATASETS", dict(DatasetCatalog.DATASETS))
    cfg = tiny_cfg(*ALL_HEADS)
    cfg.DATASETS.TEST, cfg.DATASETS.TRAIN = ("animals",), ("nowhere",)
    assert spec_of_files(cfg) == {}
    file = tmp_path / "animals.json"
    DatasetCatalog.register("animals", file, tmp_path)
    assert spec_of_files(cfg) == {}, "no file"
    file.write_text(json.dumps({"categories": [{"id": 1, "name": "cat", "keypoints": list(AP10K.names)}]}))
    assert spec_of_files(cfg) == {"animals": AP10K}
    file.write_text(json.dumps({"categories": [{"id": 1, "name": "cat", "keypoints": list(NAMES)}]}))
    assert spec_of_files(cfg) == {}, "another number than the model's"
    DatasetCatalog.register("animals", file, tmp_path, keypoints=AP10K)
    file.write_text(json.dumps({"categories": [{"id": 1, "name": "cat"}]}))
    assert spec_of_files(cfg) == {"animals": AP10K}


def test_training_and_test_sets_are_compared():
    class Data:
        class_names, coco = ("__background__", "kite"), type("Coco", (), {"dataset": {}})

        def __init__(self, spec):
            self.keypoint_spec = spec

    cfg = tiny_cfg(*ALL_HEADS)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("a",), ("b",)
    checks.check_test_data(cfg, Data(KITE), [Data(KITE)], ["bbox"])
    checks.check_test_data(cfg, Data(None), [Data(KITE)], ["bbox"])
    with pytest.raises(StartupError, match=r"a has 5 keypoints \(nose.*, but b has 5 keypoints \(knot.*scored wrongly"):
        checks.check_test_data(cfg, Data(KITE), [Data(KeypointSpec(NAMES[::-1]))], ["bbox"])
