"""Whether a run continues the one in its output folder."""

import pytest
from torch import nn

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.engine.run import resume
from maskrcnn_benchmark.engine.run.resume import ResumeError, ResumePlan, broadcast_plan, plan_resume
from maskrcnn_benchmark.utils.checkpoint import Checkpointer


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
    with pytest.raises(ResumeError, match=rf"(?s)a different model.*{key}: was .*, now .*--resume.*--no-resume"):
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
    assert "it is unknown whether the checkpoint" in caplog.text


def test_machines_must_share_the_output_folder(monkeypatch):
    plan = ResumePlan(True, 3)
    assert broadcast_plan(plan) is plan
    monkeypatch.setattr(resume.comm, "all_gather", lambda value: [True, False])
    with pytest.raises(ResumeError, match=r"ranks \[0\] see a checkpoint .* all machines share"):
        broadcast_plan(plan)
