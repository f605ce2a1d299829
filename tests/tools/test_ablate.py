"""The tool that compares variants of a config, with a stand-in for the training."""

import json
import os
import signal
import statistics
import threading
import time

import pytest

from tests.tools.runs import ROOT, TINY, write_people
from tools import ablate

REFINE = ["--ablation", str(ROOT / "tools" / "ablations" / "refine.yaml")]

# Writes results that tell variant and seed apart; fails while a file named "broken" lies beside the output folder.
STAND_IN = """
import json, os, sys
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
folder = options["OUTPUT_DIR"]
assert os.environ["OMP_NUM_THREADS"] == "1"
print("told", folder)
with open(os.path.join(folder, "calls"), "a") as calls:
    calls.write("x")
if os.path.exists(os.path.join(os.path.dirname(os.path.dirname(folder)), "broken")) and "mask-to-mask" in folder:
    sys.exit("this one breaks")
config = open(options["--config-file"]).read()
assert "MAX_ITER: 7" in config
ap = 0.1 * int(options["SEED"]) + (0.05 if "REFINE_ON: true" in config else 0)
metrics = {task: {"AP": ap, "AP75": ap / 2} for task in ("bbox", "segm", "boundary", "keypoints")}
os.makedirs(os.path.join(folder, "inference", "people_val"))
with open(os.path.join(folder, "inference", "people_val", "coco_results.json"), "w") as file:
    json.dump({"metrics": metrics}, file)
"""


@pytest.fixture
def output(tmp_path, monkeypatch):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "train_net.py").write_text(STAND_IN)
    monkeypatch.setattr(ablate, "ROOT", tmp_path)
    return tmp_path / "out"


def run(output, *more, variants=("none", "mask-to-mask")):
    seeds = ["--seeds", "1,2", "--jobs", "2"]
    return ablate.main(
        [*REFINE, "--output", str(output), *seeds, "--iterations", "7", "--variants", ",".join(variants), *more]
    )


def test_runs_all_then_nothing(output, capsys):
    assert run(output) == 0
    printed = capsys.readouterr().out
    assert "| none | 2 | 15.0 ± 7.1 | 7.5 ± 3.5 | 15.0 ± 7.1 |" in printed
    assert "| mask-to-mask | 2 | 20.0 ± 7.1 |" in printed
    assert "| mask-to-mask | 2 | +5.0 ± 0.0 | +2.5 ± 0.0 |" in printed
    results = json.loads((output / "results.json").read_text())
    assert results["summary"]["none"]["mask AP"] == {
        "mean": pytest.approx(15), "spread": pytest.approx(statistics.stdev([10, 20]))
    }  # fmt: skip
    assert results["metrics"]["none"]["2"]["segm"]["AP"] == pytest.approx(0.2) and len(results["seconds"]) == 4
    assert (output / "table.md").read_text().strip() in printed
    assert run(output) == 0
    calls = [path.read_text() for path in output.glob("*/seed_*/calls")]
    assert calls == ["x"] * 4
    assert "told" in (output / "none" / "seed_1" / "console.txt").read_text()


def test_a_signal_ends_the_trainings_too(output):
    (output.parent / "tools" / "train_net.py").write_text(
        "import os, sys, time\nfolder = dict(zip(sys.argv[1::2], sys.argv[2::2]))['OUTPUT_DIR']\n"
        "open(os.path.join(folder, 'pid'), 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )

    def stop_when_two_are_running():
        while len([path for path in output.glob("*/seed_*/pid") if path.read_text()]) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=stop_when_two_are_running, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run(output)
    assert signal.getsignal(signal.SIGTERM) is handler
    for path in output.glob("*/seed_*/pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_a_failure_leaves_the_others_alone_and_is_tried_again(output, capsys):
    output.mkdir()
    (output / "broken").touch()
    assert run(output) == 1
    printed = capsys.readouterr().out
    assert "failed: mask-to-mask, seed 2; see" in printed and "| none | 2 |" in printed
    assert "this one breaks" in (output / "mask-to-mask" / "seed_1" / "console.txt").read_text()
    (output / "broken").unlink()
    assert run(output) == 0
    assert (output / "none" / "seed_1" / "calls").read_text() == "x"
    assert (output / "mask-to-mask" / "seed_1" / "calls").read_text() == "xx"


def test_another_config_is_refused_before_anything_runs(output, capsys):
    assert run(output, variants=("none",)) == 0
    assert run(output, "SOLVER.LOG_PERIOD", "3", variants=("none",)) == 0
    assert run(output, "SOLVER.BASE_LR", "0.5") == 1
    assert not (output / "mask-to-mask").exists()
    record = output / "none" / "seed_1" / "ablation.json"
    content = json.loads(record.read_text())
    content["config"]["MODEL.A_KEY_THAT_IS_GONE"] = "1"
    record.write_text(json.dumps(content))
    assert run(output, variants=("none",)) == 0


def test_weights_are_tested_again_under_another_ranking(output, capsys):
    """The stand-in is copied to where the test's tool would be; it tells which weights it was given."""
    stand_in = STAND_IN + 'print("weights", options.get("--ckpt"))\n'
    (output.parent / "tools" / "test_net.py").write_text(stand_in)
    assert run(output, variants=("none", "none-rescored")) == 0
    for seed in (1, 2):
        told = (output / "none-rescored" / f"seed_{seed}" / "console.txt").read_text()
        assert f"weights {output / 'none' / f'seed_{seed}' / 'model_final.pth'}" in told
    assert "| none-rescored | 2 |" in capsys.readouterr().out
    assert run(output, variants=("none-rescored",)) == 1
    assert "none-rescored tests the weights of none, which is not among the variants" in capsys.readouterr().out


def test_a_run_whose_results_are_half_written_is_not_finished(output):
    assert run(output, variants=("none",)) == 0
    results = output / "none" / "seed_1" / "inference" / "people_val" / "coco_results.json"
    results.write_text(results.read_text()[:-5])
    assert run(output, "--report", variants=("none",)) == 0
    assert list(json.loads((output / "results.json").read_text())["metrics"]["none"]) == ["2"]


def test_report_trains_nothing(output, capsys):
    assert run(output, "--report") == 0
    assert not list(output.glob("*/seed_*"))
    assert "| variant | seeds |" in (output / "table.md").read_text()


def test_a_mistake_in_the_config_shows_at_once(output):
    assert run(output, "MODEL.KEYPOINT_ON", "False", variants=("both-to-both",)) == 1
    assert not output.exists()


def test_lists_that_are_none_are_explained(output, capsys):
    with pytest.raises(SystemExit):
        ablate.parse_arguments([*REFINE, "--seeds", "1;2"])
    assert "expected" in capsys.readouterr().err
    assert run(output, variants=("none", "all")) == 1
    assert "no variant 'all'; expected some of none,no-indicators," in capsys.readouterr().out


@pytest.mark.slow
def test_real_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(write_people(tmp_path / "datasets")))
    options = [*TINY[: TINY.index("SEED")], *TINY[TINY.index("SEED") + 2 :]]
    command = [*REFINE, "--output", str(tmp_path / "out"), "--seeds", "3", "--variants", "none,private", "--jobs", "2"]
    assert ablate.main([*command, *options, "SOLVER.MAX_ITER", "2"]) == 0
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
    assert set(metrics["none"]["3"]) == {"bbox", "segm", "boundary", "keypoints"}
    assert set(metrics["private"]["3"]) >= {"boundary_coarse", "segm_coarse", "keypoints_coarse"}
