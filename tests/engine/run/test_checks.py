"""Checks at the start of a run."""

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.engine.run import checks
from maskrcnn_benchmark.engine.run.errors import StartupError
from maskrcnn_benchmark.engine.run.processes import Process


def test_expected_results_are_checked_before_the_work():
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", [0.3, 0.01]], ["keypoints_coarse", "AP50", [0.3, 0.01]]]
    checks.check_evaluation(cfg)
    cfg.TEST.EXPECTED_RESULTS = [["box", "AP", [0.3, 0.01]]]
    with pytest.raises(ConfigError, match="names 'box' 'AP'; the known metrics are bbox: AP, "):
        checks.check_evaluation(cfg)
    cfg.TEST.EVALUATORS = ("COCO", "Age")
    cfg.TEST.EXPECTED_RESULTS = [["age", "MAE", [3.0, 0.1]]]
    checks.check_evaluation(cfg)
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "MAE", [3.0, 0.1]]]
    with pytest.raises(ConfigError, match="names 'bbox' 'MAE'"):
        checks.check_evaluation(cfg)
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 0.3]]
    with pytest.raises(ConfigError, match=r"expected \[task, metric, \[mean, standard deviation\]\]"):
        checks.check_evaluation(cfg)


class Named:
    """A dataset as far as its categories and annotations are looked at."""

    def __init__(self, *names, annotations=()):
        self.class_names = ["__background__", *names]
        self.coco = type("Coco", (), {"dataset": {"annotations": list(annotations)}})


def test_labels_of_training_and_test_must_agree():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("a",), ("b",)
    checks.check_test_data(cfg, Named("person", "dog"), [Named("person", "dog")], ["bbox"])
    checks.check_test_data(cfg, None, [Named("dog", "person")], ["bbox"])
    checks.check_test_data(cfg, Named("person"), [], ["bbox"])
    with pytest.raises(StartupError, match="label 1 is 'person' in a, but 'dog' in b"):
        checks.check_test_data(cfg, Named("person", "dog"), [Named("dog", "person")], ["bbox"])
    three_points = Named("person", annotations=[{"keypoints": [1, 1, 2] * 3}])
    with pytest.raises(ValueError, match="have 3 keypoints, but there are 17 sigmas"):
        checks.check_test_data(cfg, Named("person"), [three_points], ["bbox", "keypoints"])


def test_layers_that_need_gpus_are_found_before_training():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    checks.check_model(model, Process(0, 0, 1, 1, torch.device("cpu")))
    checks.check_model(model, Process(0, 0, 2, 2, torch.device("cuda", 0)))
    with pytest.raises(StartupError, match="SyncBatchNorm works on GPUs only"):
        checks.check_model(model, Process(0, 0, 2, 2, torch.device("cpu")))


def test_a_small_disk_is_mentioned(tmp_path, monkeypatch, caplog):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    model = nn.Linear(100, 100)  # 80 kB with its optimiser
    checks.warn_about_disk_space(cfg, model)
    assert not caplog.text
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: usage)
    checks.warn_about_disk_space(cfg, model)
    assert "17 checkpoints" in caplog.text, "40000 iterations, one in 2500, and the last"
    caplog.clear()
    cfg.SOLVER.KEEP_LAST = 3
    checks.warn_about_disk_space(cfg, model)
    assert not caplog.text
