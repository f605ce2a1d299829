"""Weights from catalogs and from files of other projects."""

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.engine.checkpointer import DetectronCheckpointer


def test_detectron_files_find_the_body(tmp_path):
    model = nn.ModuleDict({"backbone": nn.ModuleDict({"body": nn.ModuleDict({"stem": nn.ModuleDict(
        {"conv1": nn.Conv2d(3, 2, 7, bias=False)})})})})  # fmt: skip
    blobs = {"conv1_w": np.full((2, 3, 7, 7), 3.0, np.float32), "fc1000_w": np.ones(2, np.float32)}
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps({"blobs": blobs, "cfg": "text"}, protocol=2))
    DetectronCheckpointer(load_config(), model).load(tmp_path / "R-50.pkl")
    assert model.state_dict()["backbone.body.stem.conv1.weight"].eq(3).all()


def test_a_catalog_name_that_is_not_known(tmp_path):
    with pytest.raises(KeyError, match="did you mean catalog://ImageNetPretrained/MSRA/R-50"):
        DetectronCheckpointer(load_config(), nn.Linear(1, 1)).load("catalog://ImageNetPretrained/MSRA/R-51")


def test_a_catalog_of_the_users_own_is_asked(tmp_path, monkeypatch):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "mine.pth")
    catalog = tmp_path / "my_catalog.py"
    catalog.write_text(
        f"class ModelCatalog:\n    get = staticmethod(lambda name: {str(tmp_path)!r} + '/' + name + '.pth')\n"
    )
    cfg = load_config(opts=["PATHS_CATALOG", str(catalog)])
    DetectronCheckpointer(cfg, nn.Linear(2, 2)).load("catalog://mine")


def test_a_url_is_downloaded_and_read(tmp_path, monkeypatch):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "mine.pth")
    asked = []
    monkeypatch.setattr(
        "maskrcnn_benchmark.engine.checkpointer.cache_url",
        lambda url: asked.append(url) or str(tmp_path / "mine.pth"),
    )
    DetectronCheckpointer(load_config(), nn.Linear(2, 2)).load("https://example.org/mine.pth")
    assert asked == ["https://example.org/mine.pth"]


def test_a_pickle_that_asks_for_code_is_refused_and_runs_nothing(tmp_path):
    class Runs:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pkl").write_bytes(pickle.dumps({"blobs": {"fc6_w": Runs()}}, 2))
    with pytest.raises(pickle.UnpicklingError, match=r"evil.pkl is not read: it asks for"):
        DetectronCheckpointer(load_config(), nn.Linear(1, 1)).load(tmp_path / "evil.pkl")
    assert not (tmp_path / "ran").exists()


def test_a_missing_pickle_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no weights file .*no.pkl"):
        DetectronCheckpointer(load_config(), nn.Linear(1, 1)).load(tmp_path / "no.pkl")


def test_settings_of_the_config_are_used(tmp_path):
    cfg = load_config(opts=["SOLVER.KEEP_LAST", 1])
    checkpointer = DetectronCheckpointer(cfg, nn.Linear(1, 1), save_dir=tmp_path)
    for name in ("model_0000001", "model_0000002"):
        checkpointer.save(name)
    assert [path.name for path in tmp_path.glob("*.pth")] == ["model_0000002.pth"]
