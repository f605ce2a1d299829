"""Every registered backbone, built from a config and run on an image of odd size."""

import pytest
import torch

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.detector import build_detection_model

NARROW = [
    "MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8, "MODEL.RESNETS.STEM_OUT_CHANNELS", 8,
    "MODEL.RESNETS.BACKBONE_OUT_CHANNELS", 12, "MODEL.NECK.OUT_CHANNELS", 12, "MODEL.NECK.IN_CHANNELS", (4, 6, 8, 10),
    "MODEL.HRNET.STAGE2.NUM_CHANNELS", [4, 6], "MODEL.HRNET.STAGE2.BLOCK", "BasicBlock",
    "MODEL.HRNET.STAGE3.NUM_CHANNELS", [4, 6, 8], "MODEL.HRNET.STAGE3.BLOCK", "BasicBlock",
    "MODEL.HRNET.STAGE4.NUM_CHANNELS", [4, 6, 8, 10], "MODEL.HRNET.STAGE4.BLOCK", "BasicBlock",
]  # fmt: skip

EXPECTED = {  # out_channels, strides
    "R-50-C4": (32, (16,)),
    "R-101-C4": (32, (16,)),
    "R-50-C5": (64, (32,)),
    "R-101-C5": (64, (32,)),
    "R-50-FPN": (12, (4, 8, 16, 32, 64)),
    "R-101-FPN": (12, (4, 8, 16, 32, 64)),
    "R-152-FPN": (12, (4, 8, 16, 32, 64)),
    "R-50-FPN-RETINANET": (12, (8, 16, 32, 64, 128)),
    "R-101-FPN-RETINANET": (12, (8, 16, 32, 64, 128)),
    "HRNET": ((4, 6, 8, 10), (4, 8, 16, 32)),
    "HRNET-HR": (12, (4, 8, 16, 32, 64)),
}


def narrow_cfg(name: str, *opts):
    cfg = get_cfg()
    cfg.merge_from_list([*NARROW, "MODEL.BACKBONE.CONV_BODY", name, *opts])
    return cfg


@pytest.mark.parametrize("name", EXPECTED)
def test_channels_strides_and_sizes(name):
    backbone = build_backbone(narrow_cfg(name))
    out_channels, strides = EXPECTED[name]
    assert backbone.out_channels == out_channels and backbone.strides == strides
    with torch.no_grad():
        outputs = backbone(torch.randn(1, 3, 97, 131))
    widths = out_channels if isinstance(out_channels, tuple) else [out_channels] * len(strides)
    sizes = [(-(-97 // stride), -(-131 // stride)) for stride in strides]
    if name == "HRNET-HR":  # its levels are pooled from the finest map, and rounded down
        sizes = [(sizes[0][0] * 4 // stride, sizes[0][1] * 4 // stride) for stride in strides]
    assert [tuple(output.shape) for output in outputs] == [
        (1, width, *size) for width, size in zip(widths, sizes, strict=True)
    ]
    assert all(output.isfinite().all() for output in outputs)


def test_all_registered_backbones_are_covered():
    assert set(EXPECTED) <= set(registry.BACKBONES)


def test_hrnet_with_one_output_has_one_width():
    backbone = build_backbone(narrow_cfg("HRNET", "MODEL.HRNET.STAGE4.MULTI_OUTPUT", False))
    assert backbone.out_channels == 4 and backbone.strides == (4,)
    assert len(backbone(torch.randn(1, 3, 32, 32))) == 1
    with pytest.raises(ValueError, match="STAGE4.MULTI_OUTPUT is False; set it to True"):
        build_backbone(narrow_cfg("HRNET-HR", "MODEL.HRNET.STAGE4.MULTI_OUTPUT", False))


def test_a_detector_needs_one_width():
    with pytest.raises(ValueError, match=r"returns maps of \(4, 6, 8, 10\) channels, and the heads need one width"):
        build_detection_model(narrow_cfg("HRNET"))


def test_number_of_levels_of_the_neck():
    backbone = build_backbone(narrow_cfg("HRNET-HR", "MODEL.NECK.NUM_OUTS", 3))
    assert backbone.strides == (4, 8, 16) and len(backbone(torch.randn(1, 3, 32, 32))) == 3


def test_stride_of_the_neck():
    backbone = build_backbone(narrow_cfg("HRNET-HR", "MODEL.NECK.STRIDE", 2))
    assert backbone.strides == (8, 16, 32, 64, 128)
    outputs = backbone(torch.randn(1, 3, 97, 131))
    pooled = [(25 // 2**level, 33 // 2**level) for level in range(5)]  # the levels of a stride of 1
    assert [tuple(output.shape[2:]) for output in outputs] == [(-(-h // 2), -(-w // 2)) for h, w in pooled]
    with pytest.raises(ConfigError, match=r"MODEL.NECK.STRIDE is 0; expected at least 1\."):
        build_backbone(narrow_cfg("HRNET-HR", "MODEL.NECK.STRIDE", 0))


@pytest.mark.parametrize(("use_c5", "source"), [(True, 64), (False, 12)])
def test_source_of_p6(use_c5, source):
    backbone = build_backbone(narrow_cfg("R-50-FPN-RETINANET", "MODEL.RETINANET.USE_C5", use_c5))
    assert backbone.fpn.top_blocks.p6.in_channels == source
    assert len(backbone(torch.randn(1, 3, 32, 32))) == 5


def test_unknown_backbone_is_explained():
    with pytest.raises(ConfigError, match=r"CONV_BODY is 'R-51-FPN'; registered: HRNET, HRNET-HR, R-101-C4"):
        build_backbone(narrow_cfg("R-51-FPN"))


def test_users_backbone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry.BACKBONES, "mine", lambda cfg: torch.nn.Conv2d(3, cfg.MODEL.NECK.OUT_CHANNELS, 1))
        assert build_backbone(narrow_cfg("mine")).out_channels == 12
