"""The table of parameters and operations against counts by hand."""

from pathlib import Path

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from tools import summarize_model

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "hrnet_refine.yaml"
NARROW_RESNET = [
    "MODEL.BACKBONE.CONV_BODY", "R-50-FPN", "MODEL.RESNETS.WIDTH_PER_GROUP", "4",
    "MODEL.RESNETS.RES2_OUT_CHANNELS", "8", "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", "16",
    "MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", "32", "MODEL.ROI_MASK_HEAD.CONV_LAYERS", "(8,)",
    "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", "(8,)", "MODEL.ROI_REFINE_HEAD.CONV_DIM", "8",
    "MODEL.ROI_HEADS.DETECTIONS_PER_IMG", "7", "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", "50",
]  # fmt: skip


def convolutions_by_hook(module: nn.Module, *inputs) -> int:
    """2 x output cells x weights per output channel, over the convolutions that run."""
    total = 0

    def add(conv: nn.Conv2d, _, output: torch.Tensor) -> None:
        nonlocal total
        total += 2 * output.numel() * conv.weight[0].numel()

    handles = [m.register_forward_hook(add) for m in module.modules() if isinstance(m, nn.Conv2d)]
    module(*inputs)
    for handle in handles:
        handle.remove()
    return total


def test_counts_equal_those_by_hand():
    cfg = load_config(CONFIG, NARROW_RESNET)
    parts = {part.name: part for part in summarize_model.summarize(cfg, (96, 128))}
    assert list(parts) == [
        "backbone.body", "backbone.fpn", "rpn",
        "roi_heads.box", "roi_heads.mask", "roi_heads.keypoint", "roi_heads.refine",
    ]  # fmt: skip
    model = build_detection_model(cfg).eval()
    images = torch.zeros(1, 3, 96, 128)
    body_features = model.backbone.body(images)
    features = model.backbone(images)
    assert parts["backbone.body"].operations == convolutions_by_hook(model.backbone.body, images)
    assert parts["backbone.fpn"].operations == convolutions_by_hook(model.backbone.fpn, body_features)
    assert parts["rpn"].operations == convolutions_by_hook(model.rpn.head, features)
    # 7 x 7 x 16 -> 32 -> 32 -> 2 scores and 8 offsets, for 50 proposals
    assert parts["roi_heads.box"].operations == 50 * 2 * (7 * 7 * 16 * 32 + 32 * 32 + 32 * (2 + 8))
    assert parts["roi_heads.box"].regions == 50 and parts["roi_heads.refine"].regions == 7
    # 3x3 from 16 to 8 at 14 x 14; 2x2 deconvolution from 8 to 8; 1x1 from 8 to 2 at 28 x 28; for 7 detections
    mask = 14 * 14 * 9 * 16 * 8 + 14 * 14 * 8 * 8 * 4 + 28 * 28 * 8 * 2
    assert parts["roi_heads.mask"].operations == 7 * 2 * mask
    assert parts["roi_heads.refine"].operations > 0
    assert sum(part.parameters for part in parts.values()) == sum(p.numel() for p in model.parameters())
    learning = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(part.learning for part in parts.values()) == learning < sum(p.parameters for p in parts.values())


@pytest.mark.parametrize(("modulated", "samples"), [("False", 18), ("True", 27)])
def test_deformable_convolutions_count(modulated, samples):
    options = [*NARROW_RESNET, "MODEL.RPN_ONLY", "True", "MODEL.MASK_ON", "False", "MODEL.KEYPOINT_ON", "False",
               "MODEL.REFINE_ON", "False"]  # fmt: skip
    plain = summarize_model.summarize(load_config(CONFIG, options), (64, 64))
    options += ["MODEL.RESNETS.STAGE_WITH_DCN", "(True, False, False, False)"]
    deformable = summarize_model.summarize(
        load_config(CONFIG, [*options, "MODEL.RESNETS.WITH_MODULATED_DCN", modulated]), (64, 64)
    )
    assert [part.name for part in plain] == ["backbone.body", "backbone.fpn", "rpn"]
    # Three blocks of stage 1: the same convolution, and one more from 4 channels to the offsets, at 16 x 16.
    extra = deformable[0].operations - plain[0].operations
    assert extra == 3 * 2 * 16 * 16 * 9 * 4 * samples


def test_usual_size_is_that_of_a_landscape_image():
    assert summarize_model.usual_size(load_config(CONFIG)) == (800, 1088)  # 800 x 1067, padded to multiples of 32
    limited = load_config(CONFIG, ["INPUT.MAX_SIZE_TEST", "640", "DATALOADER.SIZE_DIVISIBILITY", "0"])
    assert summarize_model.usual_size(limited) == (480, 640)


def test_command_line(capsys):
    assert summarize_model.main(["--config-file", str(CONFIG), "--size", "64", "96", *NARROW_RESNET]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "one image of 96 x 64 pixels"
    assert printed[1].split() == ["part", "parameters", "learning", "GFLOP", "regions"]
    assert printed[-1].startswith("total")
    assert summarize_model.main(["--config-file", str(CONFIG), "MODEL.MASK_ONN", "True"]) == 1
