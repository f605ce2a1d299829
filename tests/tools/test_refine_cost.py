"""The benchmark of the refine head: what it compares, on a model of no size."""

import pytest

from benchmarks import refine_cost
from tests.tools.runs import CONFIG

OPTIONS = ["--config-file", str(CONFIG), "--size", "64", "96", "--repetitions", "2"]


def test_parts_add_up_and_the_refine_head_is_what_differs():
    args = refine_cost.parse_arguments([*OPTIONS, "--detections", "3"])
    cfg = refine_cost.load_config(args.config_file, ["MODEL.ROI_REFINE_HEAD.KEEP_COARSE", "False"])
    model = refine_cost.build_detection_model(cfg).eval()
    fixed = refine_cost.fixed_detections(3, args.size, cfg, "cpu")
    assert (fixed.bbox >= 0).all() and (fixed.bbox[:, 2] <= 96).all() and (fixed.bbox[:, 3] <= 64).all()
    seen = []
    heads = model.roi_heads
    for name in ("mask", "refine"):
        heads[name].register_forward_hook(lambda module, inputs, output, name=name: seen.append((name, inputs[1][0])))
    times = refine_cost.Bench(model, fixed, args).run()
    assert [name for name, _ in seen].count("mask") == 6 and [name for name, _ in seen].count("refine") == 3
    assert all((given.bbox == fixed.bbox).all() for _, given in seen)
    assert list(heads) == ["box", "mask", "keypoint", "refine"] and not heads["box"]._forward_hooks
    for is_on, parts in ((True, {"refine"}), (False, set())):
        assert len(times[is_on]) == 2
        for run in times[is_on]:
            names = {"backbone", "rpn", "box", "mask", "keypoint", "other"} | parts
            assert set(run) == names | {"total", "results"}
            assert run["total"] == pytest.approx(sum(run[name] for name in names))


def test_command_line(capsys):
    assert refine_cost.main([*OPTIONS, "--detections", "2,0"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("slowdown of the model by the refine head: ") == 2
    assert "2 detections, 96 x 64 pixels, cpu, float32" in printed and "0 detections" in printed


def test_slowdown_is_that_of_pairs():
    args = refine_cost.parse_arguments(OPTIONS)
    with_refine = [{"refine": 1.0, "total": total, "results": 0.0} for total in (11.0, 24.0, 9.9)]
    without = [{"total": total, "results": 0.0} for total in (10.0, 20.0, 9.0)]
    text = refine_cost.format_table({True: with_refine, False: without}, 3, args)
    assert text.splitlines()[-2].endswith("+10.0% (median of pairs)")
    assert "+10.0% (median;" in text.splitlines()[-1]  # 1 / 10, 1 / 23, 1 / 8.9
    assert "refine          1000.0     9.1%            -" in text
