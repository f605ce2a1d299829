"""HRNet: parallel branches of several resolutions that exchange features repeatedly.

Module names are the same as in the official weights: `conv1, bn1, conv2, bn2, layer1, transition{1-3}`,
`stage{2-4}.{module}.branches.{branch}.{block}` and `stage{2-4}.{module}.fuse_layers.{to}.{from}`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from yacs.config import CfgNode

from maskrcnn_benchmark.layers.norm import NormFactory, freeze
from maskrcnn_benchmark.modeling.backbone.blocks import BasicBlock, Bottleneck, BottleneckSettings, init_body
from maskrcnn_benchmark.modeling.make_layers import norm_eps, norm_factory
from maskrcnn_benchmark.utils.problems import check_choice, config_problem

Inputs = TypeVar("Inputs", Tensor, list[Tensor])

BOTTLENECK_EXPANSION = 4

# Values of MODEL.HRNET.STAGE*.BLOCK. MODEL.HRNET.NORM sets the norm, not the name of a block.
IS_BOTTLENECK = {
    "BottleneckWithFixedBatchNorm": True,
    "BasicBlockWithFixedBatchNorm": False,
    "Bottleneck": True,
    "BasicBlock": False,
}


@dataclass(frozen=True)
class StageSettings:
    """One stage of HRNet.

    Attributes:
        num_blocks: residual blocks of each branch, finest branch first.
        num_channels: width of each branch, before the expansion of bottlenecks.
        num_modules: multi-branch modules in sequence.
        bottleneck: use bottlenecks, which return BOTTLENECK_EXPANSION times `num_channels`.
    """

    num_blocks: tuple[int, ...]
    num_channels: tuple[int, ...]
    num_modules: int = 1
    bottleneck: bool = False

    @property
    def out_channels(self) -> tuple[int, ...]:
        expansion = BOTTLENECK_EXPANSION if self.bottleneck else 1
        return tuple(channels * expansion for channels in self.num_channels)


class HighResolutionModule(nn.Module):
    """Residual blocks on every branch; then each output is the sum of all branches at its resolution.

    Coarser branches are brought to the resolution by a 1x1 convolution and nearest-neighbour upsampling, finer ones by
    strided 3x3 convolutions. Inputs and outputs: one (N, C_i, H_i, W_i) per branch, finest first.

    Args:
        channels: C_i of inputs and outputs.
        settings: settings of the stage; its `out_channels` equal `channels`.
        num_outputs: number of outputs, finest first; 1 in the last module of a network with a single output.
    """

    def __init__(
        self, channels: Sequence[int], settings: StageSettings, norm: NormFactory, *, num_outputs: int
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            _blocks(settings, branch, channels[branch], norm) for branch in range(len(channels))
        )
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_fuse_layer(channels, source, target, norm) for source in range(len(channels)))
            for target in range(num_outputs)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        features = [branch(level) for branch, level in zip(self.branches, features, strict=True)]
        return [self._fuse(features, target) for target in range(len(self.fuse_layers))]

    def _fuse(self, features: Sequence[Tensor], target: int) -> Tensor:
        size_hw = features[target].shape[-2:]
        total: Tensor | None = None
        layers = self.fuse_layers[target]
        assert isinstance(layers, nn.ModuleList)
        for source, layer in enumerate(layers):
            if source == target:
                continue
            addend = layer(features[source])
            if source > target:
                addend = F.interpolate(addend, size=size_hw, mode="nearest")
            # write sums to new memory only: the features of a branch are inputs of other sums
            total = addend.add_(features[target]) if total is None else total.add_(addend)
        return features[target] if total is None else total.relu_()


class HRNet(nn.Module):
    """A stem of stride 4, one stage of blocks, then three stages with two, three and four resolutions.

    Args:
        stages: the four stages; each has one branch more than the one before.
        norm: constructor of the norm layers.
        stem_channels: channels of both convolutions of the stem. Released weights have 64. The stem sees the largest
            maps: in a thin network that is trained from scratch, most of the time goes there.
        multi_output: return every branch of the last stage; else only the finest.
        frozen_parts: number of frozen parts: 1 is the stem, 2 the stem and stage 1, ..., 5 everything.
        checkpoint_activations: in training keep only the inputs of the stem, of stage 1 and of each module, and compute
            the rest again in the backward pass: the same gradients with less memory, in about a third more time.
    Attributes:
        out_channels: channels of each returned map.
        strides: image pixels per cell of each returned map.
    Inputs: images (N, 3, H, W) of any size. Returns: (N, C, H / stride, W / stride), sizes rounded up, for the strides
        4, 8, 16, 32.
    Source: Wang et al. 2020, Deep High-Resolution Representation Learning for Visual Recognition.
    """

    def __init__(
        self,
        stages: Sequence[StageSettings],
        norm: NormFactory,
        *,
        stem_channels: int = 64,
        multi_output: bool = True,
        frozen_parts: int = 0,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        first, *later = stages
        self.checkpoint_activations = checkpoint_activations
        self.conv1 = nn.Conv2d(3, stem_channels, 3, stride=2, padding=1, bias=False)
        self.bn1 = norm(stem_channels)
        self.conv2 = nn.Conv2d(stem_channels, stem_channels, 3, stride=2, padding=1, bias=False)
        self.bn2 = norm(stem_channels)
        self.layer1 = _blocks(first, 0, stem_channels, norm)

        channels: Sequence[int] = first.out_channels
        for number, stage in enumerate(later, start=2):
            num_outputs = 1 if number == len(stages) and not multi_output else len(stage.out_channels)
            self.add_module(f"transition{number - 1}", _transition(channels, stage.out_channels, norm))
            self.add_module(f"stage{number}", _stage(stage, norm, num_outputs))
            channels = stage.out_channels
        self.num_stages = len(stages)
        self.out_channels = tuple(channels[:num_outputs])
        self.strides = tuple(4 * 2**branch for branch in range(num_outputs))
        init_body(self)
        self._freeze_parts(frozen_parts)

    def forward(self, images: Tensor) -> list[Tensor]:
        stem = [self.conv1, self.bn1, self.conv2, self.bn2]
        branches = [self._run(self.layer1, [self.layer1], self._run(self._stem, stem, images))]
        for number in range(2, self.num_stages + 1):
            branches = _branch_out(getattr(self, f"transition{number - 1}"), branches)
            for module in getattr(self, f"stage{number}"):
                branches = self._run(module, [module], branches)
        return branches

    def _stem(self, images: Tensor) -> Tensor:
        features: Tensor = self.bn1(self.conv1(images)).relu_()
        features = self.bn2(self.conv2(features)).relu_()
        return features

    def _run(self, part: Callable[[Inputs], Any], modules: Sequence[nn.Module], inputs: Inputs) -> Any:
        """Run `part`, which consists of `modules`, with activation checkpointing if configured and useful."""
        learns = any(parameter.requires_grad for module in modules for parameter in module.parameters())
        if not (self.checkpoint_activations and self.training and torch.is_grad_enabled() and learns):
            return part(inputs)
        contexts = partial(_recompute_contexts, modules)
        return checkpoint(part, inputs, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)

    def _freeze_parts(self, count: int) -> None:
        parts = [["conv1", "bn1", "conv2", "bn2"], ["layer1"]]
        parts += [[f"transition{number - 1}", f"stage{number}"] for number in range(2, self.num_stages + 1)]
        if not 0 <= count <= len(parts):
            config_problem(
                f"MODEL.HRNET.FREEZE_AT is {count}; expected a number from 0 (all parts learn) to {len(parts)} (none "
                "does): 1 freezes the stem, 2 also stage 1, 3 also stage 2, and so on."
            )
        for name in (name for part in parts[:count] for name in part):
            setattr(self, name, freeze(getattr(self, name)))

    @classmethod
    def from_cfg(cls, cfg: CfgNode) -> "HRNet":
        node = cfg.MODEL.HRNET
        eps = norm_eps(cfg, "HRNET")
        norm = norm_factory(node.NORM, cfg.MODEL.GROUP_NORM, eps=eps, key="MODEL.HRNET.NORM", required=True)
        assert norm is not None
        return cls(
            [_stage_from_cfg(node, number) for number in (1, 2, 3, 4)],
            norm,
            stem_channels=node.STEM_CHANNELS,
            multi_output=node.STAGE4.MULTI_OUTPUT,
            frozen_parts=node.FREEZE_AT,
            checkpoint_activations=node.CHECKPOINT_ACTIVATIONS,
        )


def _stage_from_cfg(node: CfgNode, number: int) -> StageSettings:
    key = f"MODEL.HRNET.STAGE{number}"
    stage = node[f"STAGE{number}"]
    check_choice(f"{key}.BLOCK", stage.BLOCK, IS_BOTTLENECK)
    check_choice(f"{key}.FUSE_METHOD", stage.FUSE_METHOD, ["SUM"])
    # stage 1 is one module with one branch; the official configs describe it with the first entries of lists
    num_branches = 1 if number == 1 else stage.NUM_BRANCHES
    num_blocks = tuple(stage.NUM_BLOCKS[:1] if number == 1 else stage.NUM_BLOCKS)
    num_channels = tuple(stage.NUM_CHANNELS[:1] if number == 1 else stage.NUM_CHANNELS)
    if num_branches != number:
        config_problem(f"{key}.NUM_BRANCHES is {num_branches}; expected {number}: each stage adds one resolution.")
    for name, values in (("NUM_BLOCKS", num_blocks), ("NUM_CHANNELS", num_channels)):
        if len(values) != number:
            config_problem(f"{key}.{name} is {list(values)}; expected {number} numbers, one for each branch.")
    bottleneck = IS_BOTTLENECK.get(stage.BLOCK, False)
    return StageSettings(num_blocks, num_channels, max(1, stage.NUM_MODULES), bottleneck)


def _blocks(settings: StageSettings, branch: int, in_channels: int, norm: NormFactory) -> nn.Sequential:
    """The residual blocks of one branch of one module."""
    width, out_channels = settings.num_channels[branch], settings.out_channels[branch]
    blocks: list[nn.Module] = []
    for _ in range(settings.num_blocks[branch]):
        if settings.bottleneck:
            blocks.append(_bottleneck(in_channels, width, out_channels, norm))
        else:
            blocks.append(BasicBlock(in_channels, out_channels, norm))
        in_channels = out_channels
    return nn.Sequential(*blocks)


def _bottleneck(in_channels: int, width: int, out_channels: int, norm: NormFactory) -> Bottleneck:
    block = Bottleneck(in_channels, width, out_channels, BottleneckSettings(norm))
    # in HRNet's checkpoints the shortcut follows the convolutions, in ResNet's it precedes them; the state of
    # the optimiser depends on this order
    block.downsample = block._modules.pop("downsample", None)
    return block


def _stage(settings: StageSettings, norm: NormFactory, num_outputs_of_last: int) -> nn.Sequential:
    channels = settings.out_channels
    counts = [len(channels)] * (settings.num_modules - 1) + [num_outputs_of_last]
    return nn.Sequential(*(HighResolutionModule(channels, settings, norm, num_outputs=count) for count in counts))


def _conv_norm(
    in_channels: int, out_channels: int, norm: NormFactory, *, kernel: int = 3, stride: int = 1, relu: bool = True
) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, norm(out_channels), *([nn.ReLU(inplace=True)] if relu else []))


def _fuse_layer(channels: Sequence[int], source: int, target: int, norm: NormFactory) -> nn.Module:
    """Convert features of one branch to be added to another. An identity keeps the indices of the other modules."""
    if source == target:
        return nn.Identity()
    if source > target:
        return _conv_norm(channels[source], channels[target], norm, kernel=1, relu=False)
    halvings: list[nn.Module] = [
        _conv_norm(channels[source], channels[source], norm, stride=2) for _ in range(target - source - 1)
    ]
    return nn.Sequential(*halvings, _conv_norm(channels[source], channels[target], norm, stride=2, relu=False))


def _transition(old: Sequence[int], new: Sequence[int], norm: NormFactory) -> nn.ModuleList:
    """Convert the branches of one stage to the branches of the next.

    A branch whose width changes gets a convolution. A new branch starts from the coarsest old one, halved repeatedly.
    """
    layers: list[nn.Module] = []
    for branch, channels in enumerate(new):
        if branch < len(old):
            same = old[branch] == channels
            layers.append(nn.Identity() if same else _conv_norm(old[branch], channels, norm))
            continue
        widths = [old[-1]] * (branch + 1 - len(old)) + [channels]
        layers.append(nn.Sequential(*(_conv_norm(*pair, norm, stride=2) for pair in pairwise(widths))))
    return nn.ModuleList(layers)


def _branch_out(transition: nn.ModuleList, branches: Sequence[Tensor]) -> list[Tensor]:
    last = len(branches) - 1
    return [layer(branches[min(branch, last)]) for branch, layer in enumerate(transition)]


def _recompute_contexts(
    modules: Sequence[nn.Module],
) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first and of the second forward pass of checkpointed modules."""
    return nullcontext(), _keep_running_statistics(modules)


@contextmanager
def _keep_running_statistics(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Keep the running statistics of batch norms: the first forward pass has updated them already."""
    norms = [
        (module, module.num_batches_tracked, module.momentum)
        for part in modules
        for module in part.modules()
        if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)) and module.num_batches_tracked is not None
    ]
    counts = [num_batches.clone() for _, num_batches, _ in norms]
    for norm, _, _ in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (norm, num_batches, momentum), count in zip(norms, counts, strict=True):
            norm.momentum = momentum
            num_batches.copy_(count)
