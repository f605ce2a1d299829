"""train_net.py and test_net.py as a user runs them: one process, several, stopped and continued, with mistakes."""

import json
import math
import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
import torch

from tests.tools.runs import CONFIG, TINY, finish, load_tool, start, write_people

RESULT_FILES = ["bbox", "segm_coarse", "segm", "keypoints_coarse", "keypoints", "coco_results"]


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    return write_people(tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def tools(datasets, monkeypatch):
    """train_net and test_net, to be called in this process; random numbers and threads are put back afterwards."""
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(datasets))
    return load_tool("train_net"), load_tool("test_net")


def arguments(output, *more):
    return ["--config-file", str(CONFIG), *TINY, "OUTPUT_DIR", str(output), *more]


def metrics(output):
    lines = (Path(output) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def losses(output):
    """Every loss of every iteration, as exact numbers."""
    return [
        {key: value for key, value in line.items() if key.startswith("loss")} | {"iteration": line["iteration"]}
        for line in metrics(output)
        if "loss" in line
    ]


@pytest.mark.slow
def test_train_then_test(tools, tmp_path, capsys):
    train_net, test_net = tools
    assert train_net.main(arguments(tmp_path, "SOLVER.TEST_PERIOD", "2", "SOLVER.CHECKPOINT_PERIOD", "2")) == 0
    left = {path.name for path in tmp_path.iterdir() if not path.name.startswith("events.")}
    assert left == {
        "config.yml", "labels.json", "log.txt", "metrics.jsonl", "last_checkpoint", "model_0000002.pth",
        "model_final.pth", "model_best.pth", "inference",
    }  # fmt: skip
    assert json.loads((tmp_path / "labels.json").read_text()) == {"1": "person"}
    results = tmp_path / "inference" / "people_val"
    assert {f"{name}.json" for name in RESULT_FILES} <= {path.name for path in results.iterdir()}
    table, *tables = (results / "results.txt").read_text().split("\n\n")
    rows = [line[:19].strip() for line in table.splitlines()[1:]]
    assert rows == ["bbox", "segm (coarse)", "segm (refined)", "keypoints (coarse)", "keypoints (refined)"]
    assert [each.split()[1] for each in tables] == ["(coarse)", "(refined)"]  # of single keypoints
    assert len(list((results / "pictures").glob("*.png"))) == 2
    evaluated = [line for line in metrics(tmp_path) if any(key.startswith("people_val/") for key in line)]
    assert [line["iteration"] for line in evaluated] == [2, 4]
    assert "people_val/keypoints/AP" in evaluated[0]
    screen = capsys.readouterr().out
    assert "eta: 0:00:" in screen and "Pictures, ground truth beside prediction" in screen
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert content["iteration"] == 4 and content["categories"] == {0: "__background__", 1: "person"}

    before = {name: (results / f"{name}.json").read_bytes() for name in RESULT_FILES}
    for name in RESULT_FILES:
        (results / f"{name}.json").unlink()
    assert test_net.main(arguments(tmp_path)) == 0
    assert "The weights to test are those of the last checkpoint in OUTPUT_DIR" in capsys.readouterr().out
    assert before == {name: (results / f"{name}.json").read_bytes() for name in RESULT_FILES}

    expected = "[['bbox', 'AP', [0.99, 0.0001]]]"
    assert test_net.main(arguments(tmp_path, "TEST.EXPECTED_RESULTS", expected)) == 1
    assert "FAIL: bbox AP is" in capsys.readouterr().out


@pytest.mark.slow
def test_mixed_precision_accumulation_and_mean_weights_work_together(tools, tmp_path):
    more = ("DTYPE", "bfloat16", "SOLVER.ACCUMULATE", "2", "SOLVER.EMA_DECAY", "0.9", "SOLVER.MAX_ITER", "2")
    assert tools[0].main(arguments(tmp_path, *more)) == 0
    assert all(math.isfinite(value) for line in losses(tmp_path) for value in line.values())
    content = torch.load(tmp_path / "model_final.pth", weights_only=True)
    assert {value.dtype for value in content["model"].values() if value.is_floating_point()} == {torch.float32}
    assert (tmp_path / "inference" / "people_val" / "results.txt").is_file()
    assert tools[1].main(arguments(tmp_path, *more)) == 0


@pytest.mark.slow
def test_stopping_by_signal_and_the_same_command_again_change_no_loss(datasets, tmp_path):
    more = ("SOLVER.MAX_ITER", "30")  # enough for the signal to arrive before the end
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = ("tools/train_net.py", "--skip-test")
    straight = start(datasets, *command, *arguments(whole, *more))
    finish(straight)
    stopped = start(datasets, *command, *arguments(parts, *more))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and stopped.poll() is None:
        if (parts / "metrics.jsonl").is_file() and len(losses(parts)) >= 2:
            stopped.send_signal(signal.SIGTERM)
            break
        time.sleep(0.01)
    assert "Stopped by SIGTERM after iteration" in finish(stopped, 143)
    done = len(losses(parts))
    assert 2 <= done < 30
    assert "CONTINUING the run" in finish(start(datasets, *command, *arguments(parts, *more)))
    assert losses(parts) == losses(whole)
    files = [torch.load(folder / "model_final.pth", weights_only=True)["model"] for folder in (whole, parts)]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])


@pytest.mark.slow
def test_two_processes_train_and_evaluate_like_one(datasets, tools, tmp_path):
    _, test_net = tools
    pair, single = tmp_path / "pair", tmp_path / "single"
    output = finish(
        start(
            datasets, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "tools/train_net.py",
            *arguments(pair, "SOLVER.MAX_ITER", "2"),
        )
    )  # fmt: skip
    assert "Using 2 processes, device cpu" in output
    assert output.count("Start training at iteration 0 of 2") == 1, "one rank writes the log"
    assert len(torch.load(pair / "model_final.pth", weights_only=True)["random_states"]) == 2
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert test_net.main(["--ckpt", str(pair / "model_final.pth"), *arguments(single)]) == 0
    finally:
        torch.set_num_threads(threads)
    for name in RESULT_FILES:
        files = [folder / "inference" / "people_val" / f"{name}.json" for folder in (pair, single)]
        assert files[0].read_bytes() == files[1].read_bytes(), name


@pytest.mark.slow
def test_two_processes_stop_together_and_continue_under_the_older_launcher(datasets, tmp_path):
    tool = ("tools/train_net.py", "--skip-test")
    command = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *tool)
    workers = ("DATALOADER.NUM_WORKERS", "1")  # the launcher's signal reaches the loader's workers, too
    running = start(datasets, *command, *arguments(tmp_path, "SOLVER.MAX_ITER", "400", *workers))
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None:
        if (tmp_path / "metrics.jsonl").is_file() and len(losses(tmp_path)) >= 1:
            running.send_signal(signal.SIGTERM)  # the launcher hands it on to its processes
            break
        time.sleep(0.01)
    output, _ = running.communicate(timeout=120)
    assert "Stopped by SIGTERM after iteration" in output, output
    checkpoint = tmp_path / Path((tmp_path / "last_checkpoint").read_text()).name
    stopped_at = torch.load(checkpoint, weights_only=True)["iteration"]
    assert stopped_at % 5 == 0, "where the processes ask each other"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    older = ("-m", "torch.distributed.launch", "--nproc_per_node=2", f"--master_port={port}", *tool)
    output = finish(start(datasets, *older, *arguments(tmp_path, "SOLVER.MAX_ITER", str(stopped_at + 1))))
    assert "Using 2 processes, device cpu" in output and "random numbers start afresh" not in output
    assert [line["iteration"] for line in losses(tmp_path)] == list(range(1, stopped_at + 2))


def test_help_names_the_flags(tools, capsys):
    for tool, flags in zip(
        tools,
        (["--config-file", "--local_rank", "--local-rank", "--skip-test", "--resume", "--no-resume"], ["--ckpt"]),
        strict=True,
    ):
        with pytest.raises(SystemExit) as ended:
            tool.main(["--help"])
        assert ended.value.code == 0
        text = capsys.readouterr().out
        assert all(flag in text for flag in flags)
    with pytest.raises(SystemExit):
        tools[0].main([*arguments("x"), "--skip-test"])
    assert "--skip-test: flags go before the first KEY VALUE pair" in capsys.readouterr().err


@pytest.mark.parametrize("tool", [0, 1])
def test_an_output_folder_that_cannot_be_written_is_said_at_once(tools, tool, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert tools[tool].main(arguments(tmp_path / "file" / "run")) == 1
    message = capsys.readouterr().out
    assert "cannot write into" in message and "file/run" in message and "OUTPUT_DIR" in message
    assert "Traceback" not in message


def test_missing_datasets_of_training_and_test_are_named_together(tools, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path / "nowhere"))
    assert tools[0].main(arguments(tmp_path / "run")) == 1
    message = capsys.readouterr().out
    assert "people_train: no annotation file" in message and "people_val: no annotation file" in message
    assert tools[0].main(["--skip-test", *arguments(tmp_path / "run")]) == 1
    assert "people_val: " not in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_an_unreadable_image_is_named(datasets, tools, tmp_path, monkeypatch, capsys, workers):
    shutil.copytree(datasets, tmp_path / "datasets")
    for path in (tmp_path / "datasets" / "people" / "train").iterdir():
        path.write_bytes(path.read_bytes()[:700])
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(tmp_path / "datasets"))
    assert tools[0].main(arguments(tmp_path / "run", "DATALOADER.NUM_WORKERS", workers)) == 1
    errors = [line for line in capsys.readouterr().out.splitlines() if " ERROR: " in line]
    assert len(errors) == 1 and "people/train/" in errors[0] and "truncated" in errors[0] and "image id" in errors[0]


def test_a_mistyped_key_is_explained(tools, tmp_path, capsys):
    assert tools[0].main(arguments(tmp_path, "SOLVER.BASE_RL", "0.1")) == 1
    assert "SOLVER.BASE_LR" in capsys.readouterr().out


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("DATASETS.TRAIN", "('poeple_train',)", "did you mean people_train"),
        ("MODEL.ROI_BOX_HEAD.NUM_CLASSES", "81", "set NUM_CLASSES to 2"),
        ("MODEL.BACKBONE.CONV_BODY", "HRNET-HD", "HRNET-HD"),
        ("TEST.EXPECTED_RESULTS", "[['box', 'AP', [0.5, 0.1]]]", "names 'box' 'AP'"),
    ],
)
def test_mistakes_are_explained_in_one_line_before_anything_is_trained(tools, tmp_path, capsys, key, value, message):
    assert tools[0].main(arguments(tmp_path, key, value)) == 1
    out = capsys.readouterr().out
    assert message in out and "Traceback" not in out
    assert "Start training" not in out


def test_nothing_to_test_is_said(tools, tmp_path, capsys):
    assert tools[1].main(arguments(tmp_path)) == 1
    assert "there are no weights to test" in capsys.readouterr().out


@pytest.mark.slow
def test_another_model_in_the_output_folder_is_not_overwritten_by_accident(tools, tmp_path, capsys):
    train_net, _ = tools
    run = ["--skip-test", *arguments(tmp_path, "SOLVER.MAX_ITER", "1")]
    assert train_net.main(run) == 0
    other = [*run, "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "64"]
    capsys.readouterr()
    assert train_net.main(other) == 1
    message = capsys.readouterr().out
    assert "holds a checkpoint of a run with a different model" in message
    assert "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM: was 256, now 64" in message
    assert "--no-resume" in message
    assert train_net.main(["--resume", *other]) == 1, "asked to continue: it does not fit, and says so"
    assert "cannot resume from" in capsys.readouterr().out
    assert train_net.main(["--no-resume", *other]) == 0
    assert (
        torch.load(tmp_path / "model_final.pth", weights_only=True)["model"][
            "roi_heads.box.feature_extractor.fc6.weight"
        ].shape[0]
        == 64
    )
    assert os.path.basename((tmp_path / "last_checkpoint").read_text()) == "model_final.pth"
