"""The plain loop trains as train_net.py does."""

import json
import re
from pathlib import Path

import pytest
import torch

from tests.tools.runs import CONFIG, ROOT, TINY, finish, load_tool, start, write_people


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("datasets"))


def arguments(output, *more):
    return ["--config-file", str(CONFIG), *TINY, "OUTPUT_DIR", str(output), *more]


def test_it_stays_short():
    assert len((ROOT / "tools" / "plain_train_net.py").read_text().splitlines()) < 100


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.VALUE", "0.5")])
def test_its_losses_and_weights_equal_those_of_train_net(datasets, tmp_path, monkeypatch, capsys, more):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(datasets))
    plain, hooked = tmp_path / "plain", tmp_path / "hooked"
    assert load_tool("plain_train_net").main(arguments(plain, *more)) == 0
    lines = re.findall(r"iter: \d+ .*", capsys.readouterr().out)
    assert load_tool("train_net").main(["--skip-test", *arguments(hooked, *more)]) == 0
    records = [json.loads(line) for line in (hooked / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == len(records) == 4
    for line, record in zip(lines, records, strict=True):
        for name, loss in re.findall(r"(loss_\w+): ([\d.]+)", line):
            assert loss == f"{record[name]:.4f}", (record["iteration"], name)
        assert len(re.findall("loss_", line)) == sum(name.startswith("loss_") for name in record)
        assert f"lr: {record['lr']:.6f}" in line
    files = [torch.load(folder / "model_final.pth", weights_only=True) for folder in (plain, hooked)]
    assert all(torch.equal(files[0]["model"][name], value) for name, value in files[1]["model"].items())
    assert files[0]["iteration"] == files[1]["iteration"] == 4


@pytest.mark.slow
def test_two_processes(datasets, tmp_path):
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "tools/plain_train_net.py")
    output = finish(start(datasets, *command, *arguments(tmp_path, "SOLVER.MAX_ITER", "2")))
    assert output.count("iter: 2 ") == 1
    assert (tmp_path / "model_final.pth").is_file()


@pytest.mark.parametrize(
    ("key", "value"), [("DTYPE", "float16"), ("SOLVER.ACCUMULATE", "2"), ("SOLVER.EMA_DECAY", "0.9")]
)
def test_settings_that_it_does_not_know_are_refused(tmp_path, capsys, key, value):
    assert load_tool("plain_train_net").main(arguments(Path(tmp_path), key, value)) == 1
    assert f"{key}" in capsys.readouterr().out
