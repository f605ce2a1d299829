"""The tool that compares variants of the refine head, with a stand-in for the training."""

import json
import statistics

import pytest

from maskrcnn_benchmark.config import load_config
from tests.tools.runs import TINY, write_people
from tools import ablate_refine as ablate

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
    return ablate.main(["--output", str(output), *seeds, "--iterations", "7", "--variants", ",".join(variants), *more])


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
    with pytest.raises(SystemExit):
        run(output, variants=("none-rescored",))
    assert "none-rescored tests the weights of none, which is not named" in capsys.readouterr().err


def test_report_trains_nothing(output, capsys):
    assert run(output, "--report") == 0
    assert not list(output.glob("*/seed_*"))
    assert "| variant | seeds |" in (output / "table.md").read_text()


def test_a_mistake_in_the_config_shows_at_once(output):
    assert run(output, "MODEL.KEYPOINT_ON", "False", variants=("both-to-both",)) == 1
    assert not output.exists()


def test_variants_differ_in_the_refine_head_alone():
    args = ablate.parse_arguments(["--iterations", "9", "TEST.PICTURES", "3"])
    common = ablate.common_options(args)
    configs = {name: load_config(args.config_file, [*common, *opts]) for name, opts in ablate.VARIANTS.items()}
    flat = {name: dict(ablate._flat(cfg)) for name, cfg in configs.items()}
    ranking = {"MODEL.ROI_MASK_HEAD.RESCORE", "MODEL.ROI_KEYPOINT_HEAD.RESCORE"}
    for name, values in flat.items():
        differing = {key for key, value in values.items() if value != flat["none"][key]}
        assert all(key == "MODEL.REFINE_ON" or key.startswith("MODEL.ROI_REFINE_HEAD.") or key in ranking
                   for key in differing), name  # fmt: skip
        assert values["SOLVER.MAX_ITER"] == "9" and values["TEST.BOUNDARY_AP"] == "True"
        assert configs[name].TEST.PICTURES == 3
        assert values["MODEL.ROI_KEYPOINT_HEAD.DECODE"] == values["MODEL.ROI_REFINE_HEAD.DECODE"]
    nodes = {name: cfg.MODEL.ROI_REFINE_HEAD for name, cfg in configs.items() if cfg.MODEL.REFINE_ON}
    heads = {name: (node.INDICATORS, node.OUTPUTS, node.SHARED) for name, node in nodes.items()}
    both = ("mask", "keypoint")
    assert heads == {
        "no-indicators": ((), both, True),
        "mask-to-mask": (("mask",), ("mask",), True),
        "keypoint-to-keypoint": (("keypoint",), ("keypoint",), True),
        "both-to-both": (both, both, True),
        "private": (both, both, False),
        "both-by-box-score": (both, both, True),
    }
    for name, trained in ablate.RETESTED.items():  # the weights of one fit the other
        differing = {key for key, value in flat[name].items() if value != flat[trained][key]}
        assert differing and differing <= {*ranking, "MODEL.ROI_REFINE_HEAD.RESCORE"}


@pytest.mark.parametrize("flags", [["--seeds", "1;2"], ["--variants", "none,all"]])
def test_lists_that_are_none_are_explained(flags, capsys):
    with pytest.raises(SystemExit):
        ablate.parse_arguments(flags)
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "largest", "expected"),
    [
        (2 * 50**2, 50, 50),  # the largest is too cheap
        (1000, 50, 22),  # 2 * 22**2 = 968, 2 * 23**2 = 1058
        (1200, 50, 24),  # 1152 at four percent less, against 1250 at four percent more
        (1570, 50, 28),  # exact at 28
        (1600, 50, 28),  # two percent less, but even
        (3, 50, 1),
        (0.1, 1, 1),
    ],
)
def test_width_of_equal_cost(target, largest, expected):
    width, ratio = ablate.width_of_equal_cost(lambda width: 2 * width**2, target, largest)
    assert (width, ratio) == (expected, 2 * expected**2 / target)


def test_operations_equal_those_by_hand():
    """Multiply-adds for each of the 28 x 28 cells, of a trunk that is twice as wide at each of two halvings."""

    def by_hand(width, branches, outputs):
        projections = sum(branches) * width / 4  # at 14 x 14 cells
        stem = (48 + len(branches) * width) * width
        downs = sum(9 * w * 2 * w + 9 * (2 * w) ** 2 + 2 * w**2 for w in (width, width)) / 4  # second: 4 w^2, a quarter
        laterals = 2 * width**2 / 4 + 8 * width**2 / 16
        ups = 18 * (2 * width) ** 2 / 4 + 18 * width**2
        return 2 * 28**2 * (projections + stem + downs + laterals + ups + 16 * width * sum(outputs))

    args = ablate.parse_arguments(["MODEL.ROI_REFINE_HEAD.CONV_DIM", "16"])
    common = ablate.common_options(args)

    def counted(variant):
        return ablate.refine_operations(load_config(args.config_file, [*common, *ablate.VARIANTS[variant]]))

    mask, keypoint = 48, 64  # channels of what the branches' predictors read
    assert counted("both-to-both") == by_hand(16, [mask, keypoint], [2, 17])
    assert counted("mask-to-mask") == by_hand(16, [mask], [2])
    assert counted("private") == by_hand(16, [mask], [2]) + by_hand(16, [keypoint], [17])


def test_private_heads_cost_what_the_shared_one_costs(capsys):
    args = ablate.parse_arguments(["MODEL.ROI_REFINE_HEAD.CONV_DIM", "12"])
    key, width = ablate.private_width(args.config_file, ablate.common_options(args))
    assert key == "MODEL.ROI_REFINE_HEAD.CONV_DIM" and 7 <= int(width) <= 10
    assert "cost" in capsys.readouterr().out


@pytest.mark.slow
def test_real_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(write_people(tmp_path / "datasets")))
    options = [*TINY[: TINY.index("SEED")], *TINY[TINY.index("SEED") + 2 :]]
    command = ["--output", str(tmp_path / "out"), "--seeds", "3", "--variants", "none,private", "--jobs", "2"]
    assert ablate.main([*command, *options, "SOLVER.MAX_ITER", "2"]) == 0
    metrics = json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]
    assert set(metrics["none"]["3"]) == {"bbox", "segm", "boundary", "keypoints"}
    assert set(metrics["private"]["3"]) >= {"boundary_coarse", "segm_coarse", "keypoints_coarse"}
