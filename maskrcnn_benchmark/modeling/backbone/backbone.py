"""The backbones that a configuration can name: a body, and a neck where there is one."""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial

from torch import nn
from yacs.config import CfgNode

from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.modeling.backbone.fpn import FPN
from maskrcnn_benchmark.modeling.backbone.hrfpn import HRFPN
from maskrcnn_benchmark.modeling.backbone.hrnet import HRNet
from maskrcnn_benchmark.modeling.backbone.resnet import ResNet


class Backbone(nn.Sequential):
    """Body and neck under the names that checkpoints use: images (N, 3, H, W) -> list of (N, out_channels, H_i, W_i).

    Attributes:
        out_channels: of every returned map. A body that hands out maps of several widths without a neck ("HRNET" with
            several outputs) has a tuple here, one width per map; it serves code that reads maps, not the detector.
        strides: image pixels per cell, one per returned map, finest first.
    """

    def __init__(
        self, parts: dict[str, nn.Module], out_channels: int | tuple[int, ...], strides: Sequence[int]
    ) -> None:
        super().__init__(OrderedDict(parts))
        self.out_channels = out_channels
        self.strides = tuple(strides)


def build_backbone(cfg: CfgNode) -> nn.Module:
    """The backbone that MODEL.BACKBONE.CONV_BODY names. Raises: KeyError if nothing is registered under the name."""
    name = cfg.MODEL.BACKBONE.CONV_BODY
    if name not in registry.BACKBONES:
        raise KeyError(
            f"MODEL.BACKBONE.CONV_BODY is {name!r}; registered: {', '.join(sorted(registry.BACKBONES))}. "
            "A new backbone registers itself in a module that modeling/backbone/__init__.py imports."
        )
    return registry.BACKBONES[name](cfg)


def build_resnet_backbone(cfg: CfgNode, *, depth: int, return_stage: int) -> Backbone:
    """One map: of stage 3 for C4 models, whose heads hold stage 4; of stage 4 for C5 models."""
    body = ResNet.from_cfg(cfg, depth=depth, return_stages=(return_stage,))
    return Backbone({"body": body}, body.out_channels[0], body.strides)


def build_resnet_fpn_backbone(cfg: CfgNode, *, depth: int) -> Backbone:
    """Five maps of one width: P2 to P5 from the body's four stages, and P6."""
    body = ResNet.from_cfg(cfg, depth=depth, return_stages=(1, 2, 3, 4))
    fpn = FPN.from_cfg(cfg, body.out_channels)
    return Backbone({"body": body, "fpn": fpn}, fpn.out_channels, (*body.strides, body.strides[-1] * 2))


def build_hrnet_backbone(cfg: CfgNode) -> Backbone:
    """The branches as they are: one map with STAGE4.MULTI_OUTPUT False, else four of different widths."""
    body = HRNet.from_cfg(cfg)
    out_channels = body.out_channels[0] if len(body.out_channels) == 1 else body.out_channels
    return Backbone({"body": body}, out_channels, body.strides)


def build_hrnet_hrfpn_backbone(cfg: CfgNode) -> Backbone:
    """NUM_OUTS maps of one width, from all four branches."""
    if not cfg.MODEL.HRNET.STAGE4.MULTI_OUTPUT:
        raise ValueError(
            "MODEL.BACKBONE.CONV_BODY HRNET-HR reads all branches, but MODEL.HRNET.STAGE4.MULTI_OUTPUT is False; "
            "set it to True, or choose CONV_BODY HRNET for a single map."
        )
    body = HRNet.from_cfg(cfg)
    neck = HRFPN.from_cfg(cfg, body.out_channels)
    strides = [body.strides[0] * 2**level for level in range(cfg.MODEL.NECK.NUM_OUTS)]
    return Backbone({"body": body, "neck": neck}, neck.out_channels, strides)


for _depth in (50, 101):
    registry.BACKBONES.register(f"R-{_depth}-C4", partial(build_resnet_backbone, depth=_depth, return_stage=3))
    registry.BACKBONES.register(f"R-{_depth}-C5", partial(build_resnet_backbone, depth=_depth, return_stage=4))
for _depth in (50, 101, 152):
    registry.BACKBONES.register(f"R-{_depth}-FPN", partial(build_resnet_fpn_backbone, depth=_depth))
registry.BACKBONES.register("HRNET", build_hrnet_backbone)
registry.BACKBONES.register("HRNET-HR", build_hrnet_hrfpn_backbone)
