"""Timer, folders and small files of a run, imports by path, report of the environment."""

import json
import os
import sys
import time

import pytest
import torch

from maskrcnn_benchmark.config import get_cfg, load_config, paths_catalog
from maskrcnn_benchmark.utils.collect_env import collect_env_info
from maskrcnn_benchmark.utils.imports import import_catalog, import_file
from maskrcnn_benchmark.utils.miscellaneous import ensure_writable, mkdir, save_config, save_labels
from maskrcnn_benchmark.utils.timer import Timer, get_time_str


def test_timer_adds_up_calls():
    timer = Timer()
    assert timer.average_time == 0.0
    for _ in range(2):
        timer.tic()
        time.sleep(0.002)
        timer.toc()
    timer.add(1.0)
    assert timer.calls == 3
    assert 1.004 <= timer.total_time < 2
    assert timer.average_time == pytest.approx(timer.total_time / 3)
    timer.tic()
    assert timer.toc(average=False) < 1.0
    timer.reset()
    assert (timer.calls, timer.total_time) == (0, 0.0)
    assert get_time_str(3725.5) == "1:02:05.500000"


def test_mkdir_and_a_folder_that_can_be_written(tmp_path):
    mkdir(tmp_path / "a" / "b")
    mkdir(tmp_path / "a" / "b")
    ensure_writable(tmp_path / "c")
    assert (tmp_path / "c").is_dir() and not list((tmp_path / "c").iterdir())


def test_a_folder_that_cannot_be_written_is_named_with_its_key(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write into '.*file/out' \(OUTPUT_DIR\).*Set OUTPUT_DIR to a folder"):
        ensure_writable(tmp_path / "file" / "out")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot write into"):
        ensure_writable(tmp_path)


def test_config_is_saved_whole(tmp_path):
    cfg = load_config(opts=["SOLVER.MAX_ITER", 7])
    save_config(cfg, tmp_path / "config.yml")
    assert load_config(tmp_path / "config.yml") == cfg
    assert cfg != get_cfg()


def test_labels_of_all_datasets_are_saved(tmp_path, caplog):
    class Coco:
        categories = {1: "person", 3: "car"}

    class Other:
        categories = {90: "toothbrush"}

    class Nameless:
        categories = {}

    save_labels([Coco(), Other(), Nameless()], tmp_path)
    assert json.loads((tmp_path / "labels.json").read_text()) == {"1": "person", "3": "car", "90": "toothbrush"}
    assert "Nameless has no `categories`" in caplog.text


def test_a_file_is_imported_by_its_path(tmp_path):
    path = tmp_path / "settings_of_a_user.py"
    path.write_text("value = []\n")
    module = import_file("some_name", path)
    assert (module.__name__, module.value) == ("some_name", [])
    assert "some_name" not in sys.modules
    assert import_file("some_name", path) is not module  # nobody has it: read afresh


def test_a_file_that_is_imported_already_is_not_run_again(tmp_path):
    path = tmp_path / "catalog_of_a_user.py"
    path.write_text("value = []\n")
    try:
        module = import_file("importable_name", path, make_importable=True)
        module.value.append("registered")
        assert import_file("another_name", path).value == ["registered"]
    finally:
        del sys.modules["importable_name"]


def test_a_catalog_is_found_under_another_path_to_the_same_file(tmp_path):
    (tmp_path / "link.py").symlink_to(paths_catalog.__file__)
    assert import_catalog(paths_catalog.__file__) is paths_catalog
    assert import_catalog(tmp_path / "link.py") is paths_catalog


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "catalog.yaml").write_text("")
    with pytest.raises(FileNotFoundError, match=r"catalog.yaml is no Python file: its name must end in .py"):
        import_file("x", tmp_path / "catalog.yaml")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no Python file at .*nowhere.py \(wanted as x\)"):
        import_file("x", tmp_path / "nowhere.py")


def test_the_environment_report_has_what_a_bug_report_needs():
    report = collect_env_info()
    facts = dict(line.split(":", 1) for line in report.splitlines())
    assert facts["torch"].strip() == torch.__version__.split("+")[0] or torch.__version__ in facts["torch"]
    assert {"Python", "compiled ops", "GPUs", "torchvision", "numpy", "CPU cores, threads"} <= set(facts)
    assert facts["compiled ops"].strip().startswith(("loaded", "built", "not built"))
