"""What is said at the start of a run: whether it continues another, and what would end it later."""

import json
import logging

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.engine import resume, startup
from maskrcnn_benchmark.engine.defaults import errors_explained
from maskrcnn_benchmark.engine.launch import Process
from maskrcnn_benchmark.engine.resume import ResumeError, ResumePlan, agreed, plan_resume
from maskrcnn_benchmark.engine.startup import StartupError
from maskrcnn_benchmark.engine.writers import JsonLinesWriter, Progress, build_writers
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.utils.checkpoint import Checkpointer
from maskrcnn_benchmark.utils.metric_logger import MetricLogger


@pytest.fixture
def used_folder(tmp_path):
    """An output folder with a checkpoint, and the cfg of the run that left it."""
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    cfg.SEED = 17
    cfg.DATASETS.TRAIN = ("people_train",)
    Checkpointer(nn.Linear(1, 1), save_dir=tmp_path).save("model_0000010", iteration=10)
    (tmp_path / "config.yml").write_text(cfg.dump())
    again = cfg.clone()
    again.SEED = -1
    return again


def test_an_empty_folder_starts_a_run(tmp_path, caplog):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    for flag in (None, True, False):
        with caplog.at_level("INFO"):
            assert not plan_resume(cfg, flag).resume
    assert "holds no checkpoint yet" in caplog.text
    cfg.OUTPUT_DIR = ""
    assert not plan_resume(cfg, None).resume


def test_the_same_model_continues_with_its_seed_and_says_so(used_folder, caplog):
    plan = plan_resume(used_folder, None)
    assert plan.resume and plan.seed == 17
    assert "CONTINUING the run" in caplog.text
    assert "The config differs" not in caplog.text


def test_other_settings_are_listed_and_the_run_continues(used_folder, caplog):
    used_folder.SOLVER.BASE_LR = 0.5
    used_folder.MODEL.DEVICE = "cpu"
    assert plan_resume(used_folder, None).resume
    assert "SOLVER.BASE_LR: was 0.001, now 0.5" in caplog.text


@pytest.mark.parametrize("key, value", [("MODEL.WEIGHT", "other.pth"), ("MODEL.ROI_BOX_HEAD.NUM_CLASSES", 2)])
def test_another_model_needs_a_decision(used_folder, key, value, caplog):
    used_folder.merge_from_list([key, value])
    with pytest.raises(ResumeError, match=rf"(?s)another model.*{key}: was .*, now .*--resume.*--no-resume"):
        plan_resume(used_folder, None)
    assert plan_resume(used_folder, True).resume
    assert not plan_resume(used_folder, False).resume
    assert "the checkpoints in" in caplog.text and "are not used" in caplog.text


def test_a_checkpoint_that_is_gone_is_not_passed_over_in_silence(used_folder, tmp_path):
    (tmp_path / "model_0000010.pth").unlink()
    for flag in (None, True):
        with pytest.raises(ResumeError, match="names a checkpoint that does not exist"):
            plan_resume(used_folder, flag)
    assert not plan_resume(used_folder, False).resume


@pytest.mark.parametrize("content", [None, "MODEL: [1"])
def test_an_unreadable_config_does_not_stop_a_good_checkpoint(used_folder, tmp_path, content, caplog):
    (tmp_path / "config.yml").unlink()
    if content is not None:
        (tmp_path / "config.yml").write_text(content)
    plan = plan_resume(used_folder, None)
    assert plan.resume and plan.seed is None
    assert "nobody can tell whether the checkpoint" in caplog.text


def test_machines_must_share_the_output_folder(monkeypatch):
    plan = ResumePlan(True, 3)
    assert agreed(plan) is plan
    monkeypatch.setattr(resume.comm, "all_gather", lambda value: [True, False])
    with pytest.raises(ResumeError, match=r"ranks \[0\] see a checkpoint .* all machines share"):
        agreed(plan)


def test_only_errors_of_this_package_are_taken_for_explanations():
    with pytest.raises(StartupError, match="'nothing' is not registered") as caught, startup.explained():
        registry.BACKBONES["nothing"]
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ValueError, match="invalid literal"), startup.explained():
        int("x")


def test_expected_results_are_checked_before_the_work():
    cfg = get_cfg()
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", [0.3, 0.01]], ["keypoints_coarse", "AP50", [0.3, 0.01]]]
    startup.check_evaluation(cfg)
    cfg.TEST.EXPECTED_RESULTS = [["box", "AP", [0.3, 0.01]]]
    with pytest.raises(StartupError, match="names 'box' 'AP'; there are bbox: AP, "):
        startup.check_evaluation(cfg)
    cfg.TEST.EXPECTED_RESULTS = [["bbox", "AP", 0.3]]
    with pytest.raises(StartupError, match=r"expected \[task, metric, \[mean, standard deviation\]\]"):
        startup.check_evaluation(cfg)


@pytest.mark.parametrize("key", ["TEST.BBOX_AUG.ENABLED", "TEST.MULTI_SCALE"])
def test_what_is_not_there_is_refused(key):
    cfg = get_cfg()
    cfg.merge_from_list([key, True])
    with pytest.raises(StartupError, match=f"{key} is True"):
        startup.check_evaluation(cfg)


class Named:
    """A dataset as far as its categories and annotations are looked at."""

    def __init__(self, *names, annotations=()):
        self.class_names = ["__background__", *names]
        self.coco = type("Coco", (), {"dataset": {"annotations": list(annotations)}})


def test_labels_of_training_and_test_must_agree():
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("a",), ("b",)
    startup.check_test_data(cfg, Named("person", "dog"), [Named("person", "dog")])
    startup.check_test_data(cfg, None, [Named("dog", "person")])
    startup.check_test_data(cfg, Named("person"), [])
    with pytest.raises(StartupError, match="label 1 is 'person' in a, but 'dog' in b"):
        startup.check_test_data(cfg, Named("person", "dog"), [Named("dog", "person")])
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ValueError, match="have 3 keypoints, but TEST.KEYPOINT_OKS_SIGMAS is empty"):
        startup.check_test_data(cfg, Named("person"), [Named("person", annotations=[{"keypoints": [1, 1, 2] * 3}])])


def test_layers_that_need_gpus_are_found_before_training():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    startup.check_model(model, Process(0, 0, 1, 1, torch.device("cpu")))
    startup.check_model(model, Process(0, 0, 2, 2, torch.device("cuda", 0)))
    with pytest.raises(StartupError, match="SyncBatchNorm works on GPUs alone"):
        startup.check_model(model, Process(0, 0, 2, 2, torch.device("cpu")))


def test_a_small_disk_is_mentioned(tmp_path, monkeypatch, caplog):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path)
    model = nn.Linear(100, 100)  # 80 kB with its optimiser
    startup.warn_about_disk_space(cfg, model)
    assert not caplog.text
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr(startup.shutil, "disk_usage", lambda folder: usage)
    startup.warn_about_disk_space(cfg, model)
    assert "17 checkpoints" in caplog.text, "40000 iterations, one in 2500, and the last"
    caplog.clear()
    cfg.SOLVER.KEEP_LAST = 3
    startup.warn_about_disk_space(cfg, model)
    assert not caplog.text


def test_errors_of_users_end_without_a_traceback(capsys):
    logger = logging.getLogger("maskrcnn_benchmark")
    handlers, propagate = logger.handlers[:], logger.propagate
    try:
        with errors_explained() as status:
            raise StartupError("do this instead")
        assert status == [1]
        out = capsys.readouterr().out
        assert "do this instead" in out and "Traceback" not in out
        with pytest.raises(ZeroDivisionError), errors_explained():
            1 / 0  # noqa: B018
    finally:
        logger.handlers[:], logger.propagate = handlers, propagate


def progress(iteration):
    return Progress(iteration, 10, 61.5, {"loss": 0.1 + 0.2, "time": 0.5, "data": 0.01}, 0.02, 100.0)


def test_json_lines_are_exact_and_a_resumed_run_drops_what_it_does_again(tmp_path):
    first = JsonLinesWriter(tmp_path)
    for iteration in (2, 4, 6):
        first.write_progress(progress(iteration), MetricLogger())
    first.write_evaluation(6, {"people_val/bbox/AP": 0.5})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 8, "lo')  # killed while writing
    second = JsonLinesWriter(tmp_path, start_iter=4)
    second.write_progress(progress(6), MetricLogger())
    second.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 4, 6]
    assert lines[0]["loss"] == 0.1 + 0.2
    assert lines[0]["lr"] == 0.02 and lines[0]["eta_seconds"] == 61.5


def test_without_tensorboard_the_other_writers_remain(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    writers = build_writers(tmp_path, 0, logging.getLogger("anything"))
    assert len(writers) == 2
    assert "No TensorBoard files will be written" in caplog.text
    for writer in writers:
        writer.close()
