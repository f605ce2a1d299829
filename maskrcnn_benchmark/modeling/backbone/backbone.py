"""The backbones that a config can name: a body, with or without a neck."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn
from yacs.config import CfgNode

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.backbone.fpn import FPN, LastLevelP6P7
from maskrcnn_benchmark.modeling.backbone.hrfpn import HRFPN
from maskrcnn_benchmark.modeling.backbone.hrnet import HRNet
from maskrcnn_benchmark.modeling.backbone.resnet import ResNet
from maskrcnn_benchmark.utils.problems import ConfigError, config_problem

NOT_HERE = {  # backbones of maskrcnn-benchmark that this package does not have: what to use instead
    "FBNet": "This package does not have FBNet, the mobile architectures of maskrcnn-benchmark. For a small body take "
    "configs/timm/faster_rcnn_resnet50_FPN_1x.yaml and set MODEL.TIMM.NAME to a model such as mobilenetv3_large_100, "
    "MODEL.TIMM.FROZEN to (); see docs/MIGRATION.md.",
}
DEFAULT_OUT_CHANNELS = 1024  # default of MODEL.BACKBONE.OUT_CHANNELS, which HRNET-HR does not read


class Backbone(nn.Sequential):
    """Body and neck, with the names of checkpoints: images (N, 3, H, W) -> list of (N, out_channels, H_i, W_i).

    Attributes:
        out_channels: channels of every returned map; a tuple, one number per map, if they differ ("HRNET" with several
            outputs). The detector needs one number.
        strides: image pixels per cell of each returned map, finest first.
    """

    def __init__(
        self, parts: dict[str, nn.Module], out_channels: int | tuple[int, ...], strides: Sequence[int]
    ) -> None:
        super().__init__(OrderedDict(parts))
        self.out_channels = out_channels
        self.strides = tuple(strides)


def build_backbone(cfg: CfgNode) -> nn.Module:
    """Build the backbone that MODEL.BACKBONE.CONV_BODY names. Raises: ConfigError for an unknown name."""
    name = cfg.MODEL.BACKBONE.CONV_BODY
    if name not in registry.BACKBONES:
        reason = NOT_HERE.get(name, "A backbone of your own registers itself in a module that IMPORTS names.")
        raise ConfigError(
            f"MODEL.BACKBONE.CONV_BODY is {name!r}; registered: {', '.join(sorted(registry.BACKBONES))}. {reason}"
        )
    backbone: nn.Module = registry.BACKBONES[name](cfg)
    return backbone


def build_resnet_backbone(cfg: CfgNode, *, depth: int, return_stage: int) -> Backbone:
    """One map: of stage 3 in C4 models, whose heads contain stage 4; of stage 4 in C5 models."""
    body = ResNet.from_cfg(cfg, depth=depth, return_stages=(return_stage,))
    return Backbone({"body": body}, body.out_channels[0], body.strides)


def build_resnet_fpn_backbone(cfg: CfgNode, *, depth: int) -> Backbone:
    """Five maps of one width: P2 to P5 from the four stages of the body, and P6."""
    body = ResNet.from_cfg(cfg, depth=depth, return_stages=(1, 2, 3, 4))
    fpn = FPN.from_cfg(cfg, body.out_channels)
    return Backbone({"body": body, "fpn": fpn}, fpn.out_channels, (*body.strides, body.strides[-1] * 2))


def build_resnet_retinanet_backbone(cfg: CfgNode, *, depth: int) -> Backbone:
    """Five maps of one width: P3 to P5 from stages 2 to 4 of the body, and P6 and P7."""
    body = ResNet.from_cfg(cfg, depth=depth, return_stages=(2, 3, 4))
    from_body, out_channels = cfg.MODEL.RETINANET.USE_C5, cfg.MODEL.RESNETS.BACKBONE_OUT_CHANNELS
    top = LastLevelP6P7(body.out_channels[-1] if from_body else out_channels, out_channels, from_body=from_body)
    fpn = FPN.from_cfg(cfg, body.out_channels, first_level=2, top_blocks=top)
    coarsest = body.strides[-1]
    return Backbone({"body": body, "fpn": fpn}, fpn.out_channels, (*body.strides, coarsest * 2, coarsest * 4))


def build_hrnet_backbone(cfg: CfgNode) -> Backbone:
    """Maps of the branches: one map with STAGE4.MULTI_OUTPUT False, else four maps of different widths."""
    body = HRNet.from_cfg(cfg)
    out_channels = body.out_channels[0] if len(body.out_channels) == 1 else body.out_channels
    return Backbone({"body": body}, out_channels, body.strides)


def build_hrnet_hrfpn_backbone(cfg: CfgNode) -> Backbone:
    """NUM_OUTS maps of one width, from all four branches."""
    if not cfg.MODEL.HRNET.STAGE4.MULTI_OUTPUT:
        raise ConfigError(
            "MODEL.BACKBONE.CONV_BODY HRNET-HR reads all branches, but MODEL.HRNET.STAGE4.MULTI_OUTPUT is False; "
            "set it to True, or choose CONV_BODY HRNET for a single map."
        )
    body = HRNet.from_cfg(cfg)
    neck = HRFPN.from_cfg(cfg, body.out_channels)
    out_channels = cfg.MODEL.BACKBONE.OUT_CHANNELS
    if out_channels not in (DEFAULT_OUT_CHANNELS, neck.out_channels):
        config_problem(
            f"MODEL.BACKBONE.OUT_CHANNELS is {out_channels}, MODEL.NECK.OUT_CHANNELS {neck.out_channels}; the heads "
            "receive the maps of the neck: set both to the same number."
        )
    finest = body.strides[0] * neck.stride
    strides = [finest * 2**level for level in range(cfg.MODEL.NECK.NUM_OUTS)]
    return Backbone({"body": body, "neck": neck}, neck.out_channels, strides)


for _depth in (50, 101):
    registry.BACKBONES.register(f"R-{_depth}-C4", partial(build_resnet_backbone, depth=_depth, return_stage=3))
    registry.BACKBONES.register(f"R-{_depth}-C5", partial(build_resnet_backbone, depth=_depth, return_stage=4))
for _depth in (50, 101, 152):
    registry.BACKBONES.register(f"R-{_depth}-FPN", partial(build_resnet_fpn_backbone, depth=_depth))
for _depth in (50, 101):
    registry.BACKBONES.register(f"R-{_depth}-FPN-RETINANET", partial(build_resnet_retinanet_backbone, depth=_depth))
registry.BACKBONES.register("HRNET", build_hrnet_backbone)
registry.BACKBONES.register("HRNET-HR", build_hrnet_hrfpn_backbone)
