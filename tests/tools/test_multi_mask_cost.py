"""The benchmark of a second mask: both models get the same RoIs, on images of no size."""

import pytest
import torch

from benchmarks import multi_mask_cost
from maskrcnn_benchmark.config import load_config
from tests.tools.runs import ROOT

CONFIG = ROOT / "configs" / "quick" / "multi_mask_people.yaml"
OPTIONS = ["--config-file", str(CONFIG), "--size", "96", "128", "--repetitions", "1", "--detections", "3"]


def test_both_models_see_the_same_rois():
    args = multi_mask_cost.parse_arguments(OPTIONS)
    seen = []
    for names in (("visible",), ("visible", "amodal")):
        bench = multi_mask_cost.Bench(load_config(CONFIG, [multi_mask_cost.MASKS, names]), args)
        head = bench.model.roi_heads["multi_mask"]
        rois = []
        head.register_forward_hook(lambda module, inputs, output, rois=rois: rois.append(inputs[1]))
        bench.training()
        bench.detection()
        assert head.predictor.mask_fcn_logits.weight.grad.any()
        seen.append((rois[0].boxes, rois[1][0].bbox))
    assert all(torch.equal(one, two) for one, two in zip(*seen, strict=True))
    assert len(seen[0][0]) == 12 and len(seen[0][1]) == 3  # a quarter of the sampled regions


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_command_line(clock, capsys):
    assert multi_mask_cost.main([*OPTIONS, "--clock", clock, *("INPUT.MIN_SIZE_TEST", "96")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{clock} clock" in lines[0]
    assert [line.split()[0] for line in lines[2:]] == ["training", "detection"]
