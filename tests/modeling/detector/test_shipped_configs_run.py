"""Every shipped config trains a step and detects on a batch: its model with few channels, on two small images.

`test_check.py` builds the model of each file at its full size.
"""

from pathlib import Path

import pytest
import torch

from maskrcnn_benchmark.config import CfgNode, load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.solver import make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.structures.fields import LABELS, MASKS, mask_fields
from tests.config.test_checks import CONFIGS
from tests.modeling.tiny import tiny_batch

FEW_CHANNELS = [
    *("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", 8, "MODEL.RESNETS.RES2_OUT_CHANNELS", 16),
    *("MODEL.NECK.OUT_CHANNELS", 16, "MODEL.HRNET.STEM_CHANNELS", 16, "MODEL.GROUP_NORM.NUM_GROUPS", 4),
    *("MODEL.ROI_BOX_HEAD.MLP_HEAD_DIM", 32, "MODEL.ROI_BOX_HEAD.CONV_HEAD_DIM", 16),
    *("MODEL.ROI_MASK_HEAD.CONV_LAYERS", (16, 16, 16, 16), "MODEL.ROI_KEYPOINT_HEAD.CONV_LAYERS", (16,) * 8),
    *(
        "MODEL.ROI_MULTI_MASK_HEAD.CONV_LAYERS",
        (16, 16, 16, 16),
    ),
    *("MODEL.ROI_REFINE_HEAD.CONV_DIM", 16, "MODEL.ROI_REFINE_HEAD.POOLER_RESOLUTION", 8),
    *("MODEL.RPN.PRE_NMS_TOP_N_TRAIN", 100, "MODEL.RPN.PRE_NMS_TOP_N_TEST", 100),
    *("MODEL.RPN.POST_NMS_TOP_N_TRAIN", 40, "MODEL.RPN.POST_NMS_TOP_N_TEST", 20),
    *("MODEL.RPN.FPN_POST_NMS_TOP_N_TRAIN", 60, "MODEL.RPN.FPN_POST_NMS_TOP_N_TEST", 20),
    *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 64, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 32),
    *("MODEL.ROI_HEADS.DETECTIONS_PER_IMG", 10, "TEST.DETECTIONS_PER_IMG", 10),
]


def with_few_channels(path: Path) -> CfgNode:
    cfg = load_config(path, FEW_CHANNELS)
    resnet = cfg.MODEL.RESNETS
    resnet.NUM_GROUPS, resnet.WIDTH_PER_GROUP = (4, 1) if resnet.NUM_GROUPS > 1 else (1, 4)
    for stage in (1, 2, 3, 4):
        branches = len(cfg.MODEL.HRNET[f"STAGE{stage}"].NUM_CHANNELS)
        cfg.MODEL.HRNET[f"STAGE{stage}"].NUM_CHANNELS = [8 * 2**branch for branch in range(branches)]
    if cfg.MODEL.NECK.IN_CHANNELS:
        cfg.MODEL.NECK.IN_CHANNELS = (8, 16, 32, 64)
    pyramid = "FPN" in cfg.MODEL.BACKBONE.CONV_BODY or cfg.MODEL.BACKBONE.CONV_BODY.startswith("HRNET")
    width = 16 if pyramid else 64  # stage 3 of a ResNet whose first stage has 16
    cfg.merge_from_list(["MODEL.BACKBONE.OUT_CHANNELS", width, "MODEL.WEIGHT", ""])
    return cfg


def paths_of_runnable_configs() -> list[Path]:
    return [path for path in sorted(CONFIGS.rglob("*.yaml")) if "fbnet" not in path.name]  # refused: test_check.py


@pytest.mark.slow
@pytest.mark.parametrize("path", paths_of_runnable_configs(), ids=lambda path: path.relative_to(CONFIGS).as_posix())
def test_a_config_trains_a_step_and_detects_on_a_batch(path):
    if path.parent.name == "timm":
        pytest.importorskip("timm")
    cfg = with_few_channels(path)
    torch.manual_seed(0)
    model = build_detection_model(cfg)
    optimizer = make_optimizer(cfg, model)
    make_lr_scheduler(cfg, optimizer)
    images, targets = tiny_batch(cfg.MODEL.BOX_OFFSET)
    for target in targets:
        target.add_field(LABELS, torch.ones_like(target.get_field(LABELS)))  # the first class, which every model has
        for name in cfg.MODEL.ROI_MULTI_MASK_HEAD.MASKS:
            target.add_field(mask_fields(name).truth, target.get_field(MASKS))

    losses = model.train()(images, targets)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    sum(losses.values()).backward()
    optimizer.step()
    after = dict(model.named_parameters())
    changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {name.split(".")[0] for name in before} >= {"backbone", "rpn"}

    with torch.no_grad():
        detections = model.eval()(images)
    assert [found.size for found in detections] == [target.size for target in targets]
    assert all(torch.isfinite(found.bbox).all() for found in detections)
