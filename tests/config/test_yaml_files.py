"""Config files: inheritance, line numbers, damage."""

import pytest

from maskrcnn_benchmark.config import ConfigError, UnknownKeyError, get_cfg, load_config
from maskrcnn_benchmark.config.yaml_files import read_config_file


@pytest.fixture
def write(tmp_path):
    def write_file(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write_file


def test_a_file_wins_over_its_base_and_overrides_win_over_both(write):
    write("base.yaml", "SOLVER:\n  MAX_ITER: 10\n  BASE_LR: 0.5\n  GAMMA: 0.3\n")
    path = write("sub/child.yaml", "_BASE_: ../base.yaml\nSOLVER:\n  MAX_ITER: 20\n")
    cfg = load_config(path, ["SOLVER.BASE_LR", "0.7"])
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR, cfg.SOLVER.GAMMA) == (20, 0.7, 0.3)


def test_of_several_bases_the_later_win(write):
    write("a.yaml", "SOLVER:\n  MAX_ITER: 1\n  BASE_LR: 0.1\n")
    write("b.yaml", "SOLVER:\n  MAX_ITER: 2\n")
    path = write("c.yaml", "_BASE_: [a.yaml, b.yaml]\n")
    cfg = load_config(path)
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.BASE_LR) == (2, 0.1)


def test_one_base_by_two_ways_is_no_circle(write):
    write("root.yaml", "SOLVER:\n  MAX_ITER: 1\n")
    write("a.yaml", "_BASE_: root.yaml\nSOLVER:\n  MAX_ITER: 2\n")
    write("b.yaml", "_BASE_: root.yaml\n")
    assert load_config(write("c.yaml", "_BASE_: [b.yaml, a.yaml]\n")).SOLVER.MAX_ITER == 2


def test_bases_are_found_from_any_working_directory(write, tmp_path, monkeypatch):
    write("base.yaml", "SOLVER:\n  MAX_ITER: 10\n")
    write("sub/child.yaml", "_BASE_: ../base.yaml\n")
    monkeypatch.chdir(tmp_path / "sub")
    assert load_config("child.yaml").SOLVER.MAX_ITER == 10


def test_a_circle_is_refused_with_its_chain(write, tmp_path):
    write("b.yaml", "_BASE_: a.yaml\n")
    path = write("a.yaml", "_BASE_: b.yaml\n")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    a, b = tmp_path / "a.yaml", tmp_path / "b.yaml"
    assert f"goes in a circle: {a} -> {b} -> {a}" in str(caught.value)


def test_a_missing_base_names_who_asked(write):
    path = write("child.yaml", "_BASE_: nowhere.yaml\n")
    with pytest.raises(
        ConfigError, match=r"cannot read the config file .*nowhere.yaml \(_BASE_ of .*child.yaml\): No such"
    ):
        load_config(path)


@pytest.mark.parametrize("base", ["3", "{a: b}", "[1, 2]"])
def test_a_base_that_is_no_path_is_refused(write, base):
    with pytest.raises(ConfigError, match="expected the path of a YAML file or a list"):
        load_config(write("child.yaml", f"_BASE_: {base}\n"))


def test_messages_name_file_and_line_also_of_a_base(write):
    base = write("base.yaml", "MODEL:\n  RPN:\n    NMS_THRES: 0.5\n")
    path = write("child.yaml", "_BASE_: base.yaml\n\nSOLVER:\n  MAX_ITER: many\n")
    with pytest.raises(UnknownKeyError) as caught:
        load_config(path)
    first, second = str(caught.value).splitlines()
    assert first == f"unknown config key MODEL.RPN.NMS_THRES ({base}, line 3); did you mean MODEL.RPN.NMS_THRESH?"
    assert second.startswith(f"SOLVER.MAX_ITER ({path}, line 4) is 'many', a str; expected int")


def test_a_key_written_twice_is_refused(write):
    path = write("twice.yaml", "SOLVER:\n  MAX_ITER: 1\n  BASE_LR: 0.1\n  MAX_ITER: 2\n")
    with pytest.raises(ConfigError, match="SOLVER.MAX_ITER is written twice, in lines 2 and 4"):
        load_config(path)


def test_damaged_files_are_named(write):
    with pytest.raises(ConfigError, match="bad.yaml is not valid YAML"):
        load_config(write("bad.yaml", "SOLVER: [1,\n"))
    with pytest.raises(ConfigError, match="list.yaml holds a list; expected sections"):
        load_config(write("list.yaml", "- 1\n- 2\n"))
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_config(write("code.yaml", "SOLVER: !!python/object/apply:os.system ['true']\n"))
    with pytest.raises(ConfigError, match="cannot read the config file nowhere.yaml"):
        load_config("nowhere.yaml")


def test_empty_files_and_empty_sections_set_nothing(write):
    assert load_config(write("empty.yaml", "# nothing\n")) == get_cfg()
    assert load_config(write("blank.yaml", "MODEL:\nSOLVER: {}\n")) == get_cfg()


def test_anchors_and_merge_keys_of_yaml_work(write):
    text = (
        "MODEL:\n  ROI_BOX_HEAD: &pool\n    POOLER_RESOLUTION: 7\n  ROI_MASK_HEAD:\n    <<: *pool\n    RESOLUTION: 14\n"
    )
    cfg = get_cfg()
    cfg.merge_from_file(write("anchors.yaml", text))
    assert cfg.MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION == 7


def test_tuples_in_the_style_of_old_files(write):
    text = 'MODEL:\n  RPN:\n    ANCHOR_STRIDE: (4, 8)\nDATASETS:\n  TRAIN: ("a", "b",)\nSOLVER:\n  WEIGHT_DECAY: 1e-4\n'
    cfg = get_cfg()
    cfg.merge_from_file(str(write("old.yaml", text)))
    assert cfg.MODEL.RPN.ANCHOR_STRIDE == (4, 8)
    assert cfg.DATASETS.TRAIN == ("a", "b")
    assert cfg.SOLVER.WEIGHT_DECAY == 0.0001


def test_python_files_with_a_cfg_are_read_as_yacs_does(write):
    path = write("settings.py", "cfg = {'SOLVER': {'MAX_ITER': 4}}\n")
    cfg = get_cfg()
    cfg.merge_from_file(path)
    assert cfg.SOLVER.MAX_ITER == 4


def test_settings_remember_where_they_come_from(write, tmp_path):
    write("base.yaml", "SOLVER:\n  MAX_ITER: 1\n")
    path = write("child.yaml", "_BASE_: base.yaml\nSEED: 3\n")
    settings = read_config_file(path)
    assert settings["SOLVER.MAX_ITER"] == (1, f"{tmp_path / 'base.yaml'}, line 2")
    assert settings["SEED"] == (3, f"{path}, line 2")
