"""IMPORTS and CUSTOM: modules of a user's own and the keys that they declare."""

import itertools
import sys

import pytest

from maskrcnn_benchmark.config import ConfigError, UnknownKeyError, declare_custom, get_cfg, load_config, plugins

MODULE = """
from maskrcnn_benchmark.config import declare_custom

declare_custom("AGE_HEAD", {"LOSS_WEIGHT": 1.0, "CONV_LAYERS": (256, 256), "POOLER": {"RESOLUTION": 7}})
"""
_numbers = itertools.count()


@pytest.fixture(autouse=True)
def no_trace(monkeypatch, tmp_path):
    """Declarations and the search path end with a test, which runs in a folder of its own."""
    monkeypatch.setattr(plugins, "_declared", {})
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def module(tmp_path):
    """Name of a new module in the working directory that declares CUSTOM.AGE_HEAD."""
    name = f"plugin_of_test_{next(_numbers)}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    yield name
    sys.modules.pop(name, None)


def write_config(folder, text):
    path = folder / "config.yaml"
    path.write_text(text)
    return path


def test_a_file_sets_keys_that_its_module_declares(tmp_path, module):
    path = write_config(tmp_path, f"IMPORTS: [{module}]\nCUSTOM:\n  AGE_HEAD:\n    LOSS_WEIGHT: 2\n")
    cfg = load_config(path, ["CUSTOM.AGE_HEAD.POOLER.RESOLUTION", "14"])
    assert (module,) == cfg.IMPORTS
    assert cfg.CUSTOM.AGE_HEAD == {"LOSS_WEIGHT": 2.0, "CONV_LAYERS": (256, 256), "POOLER": {"RESOLUTION": 14}}
    assert type(cfg.CUSTOM.AGE_HEAD.LOSS_WEIGHT) is float
    assert module in sys.modules
    assert get_cfg().CUSTOM.AGE_HEAD.LOSS_WEIGHT == 1.0, "each config has its own values"


@pytest.mark.parametrize("lenient", [False, True])
def test_a_saved_config_reads_back(tmp_path, module, lenient):
    cfg = load_config(None, ["IMPORTS", module, "CUSTOM.AGE_HEAD.CONV_LAYERS", "(8,)"])
    assert load_config(write_config(tmp_path, cfg.dump()), lenient=lenient) == cfg


def test_modules_of_the_command_line_replace_those_of_the_file_before_its_keys_are_read(tmp_path, module):
    path = write_config(tmp_path, "IMPORTS: absent_module\nCUSTOM:\n  AGE_HEAD:\n    LOSS_WEIGHT: 3.0\n")
    cfg = load_config(path, ["IMPORTS", module])
    assert (module,) == cfg.IMPORTS and cfg.CUSTOM.AGE_HEAD.LOSS_WEIGHT == 3.0


def test_a_tree_made_before_the_declaration_learns_of_it(module):
    cfg = get_cfg()
    cfg.merge_from_list(["IMPORTS", (module,), "CUSTOM.AGE_HEAD.LOSS_WEIGHT", 0.5])
    assert cfg.CUSTOM.AGE_HEAD.LOSS_WEIGHT == 0.5


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("CUSTOM.AGE_HEAD.LOS_WEIGHT", "2", r"unknown config key .*did you mean CUSTOM\.AGE_HEAD\.LOSS_WEIGHT\?"),
        ("CUSTOM.AGE_HEAD.LOSS_WEIGHT", "much", r"is 'much', a str; expected float, such as 1\.0"),
        ("CUSTOM.AGE_HEAD.CONV_LAYERS", "(True,)", "expected tuple, such as"),
        ("CUSTOM.SHAPE.DEPTH_OF_IT", "2", r"declared by modules \(`declare_custom`\), which IMPORTS has to name"),
    ],
)
def test_keys_of_custom_are_checked_as_all_keys_are(module, key, value, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, ["IMPORTS", module, key, value])


def test_an_unknown_section_is_a_warning_when_lenient(tmp_path, caplog):
    path = write_config(tmp_path, "IMPORTS: absent_module\nCUSTOM:\n  SHAPE:\n    DEPTH_OF_IT: 2\n")
    with pytest.raises(ConfigError, match=r"IMPORTS \(.*config.yaml, line 1\) names 'absent_module'.*No module named"):
        load_config(path)
    cfg = load_config(path, lenient=True)
    assert cfg.CUSTOM == {}
    assert "absent_module" in caplog.text and "CUSTOM.SHAPE.DEPTH_OF_IT" in caplog.text


def test_errors_inside_a_module(tmp_path, module):
    (tmp_path / f"{module}.py").write_text("import absent_dependency")
    with pytest.raises(ConfigError, match=f"names '{module}', .*No module named 'absent_dependency'") as caught:
        load_config(None, ["IMPORTS", module])
    assert isinstance(caught.value.__cause__, ImportError)
    (tmp_path / f"{module}.py").write_text("1 / 0")
    with pytest.raises(ZeroDivisionError):  # its traceback is what the author of the module needs
        load_config(None, ["IMPORTS", module])


def test_imports_that_are_no_names(tmp_path):
    with pytest.raises(ConfigError, match=r"IMPORTS \(the command line\) has 3; expected names of modules"):
        load_config(None, ["IMPORTS", "(3,)"])


def test_declarations_that_contradict_each_other():
    declare_custom("AGE_HEAD", {"LOSS_WEIGHT": 1.0})
    declare_custom("AGE_HEAD", {"LOSS_WEIGHT": 1.0})
    with pytest.raises(ValueError, match="CUSTOM.AGE_HEAD is declared already"):
        declare_custom("AGE_HEAD", {"LOSS_WEIGHT": 2.0})
    with pytest.raises(ValueError, match="'AGE-HEAD'; expected an identifier"):
        declare_custom("AGE-HEAD", {})


def test_the_keys_of_a_declaration_are_copied():
    defaults = {"WIDTHS": [1]}
    declare_custom("MINE", defaults)
    defaults["WIDTHS"].append(2)
    first = get_cfg()
    first.CUSTOM.MINE.WIDTHS.append(3)
    assert get_cfg().CUSTOM.MINE.WIDTHS == [1]
    with pytest.raises(UnknownKeyError):
        first.merge_from_list(["CUSTOM.MINE.WIDTH_OF_ALL_AND_MORE", 1])
