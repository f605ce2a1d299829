"""Normalisation layers, and the registry of the names that configs use for them."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable_collectives
from torch import Tensor, nn

from maskrcnn_benchmark.utils.registry import Registry

NormFactory = Callable[[int], nn.Module]
"""Builds a norm layer for a number of channels. Modules take one as an argument and do not know which norm it is."""

# Smaller groups have nearly the statistics of single channels.
_MIN_CHANNELS_PER_GROUP = 4


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with constant statistics and constant affine parameters: one multiply-add per element.

    All four vectors are buffers. The optimiser does not update them, and `.train()` does not change them. Checkpoints
    of the HRNet family also hold the epsilon of each channel. On loading, the difference to this layer's epsilon is
    added to `running_var`, so the output equals the output of the checkpoint's model. The epsilon is not saved again.

    Args:
        channels: C of the input.
        eps: added to the variance; 0 for the released Caffe2 and maskrcnn-benchmark weights.
    Inputs: (N, C, H, W), any floating dtype. Returns: the same shape and dtype.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 0.0) -> None:
        super().__init__()
        self.channels = channels
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, features: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = (vector.to(features.dtype).view(1, -1, 1, 1) for vector in (scale, shift))
        return torch.addcmul(shift, features, scale)

    def extra_repr(self) -> str:
        return f"{self.channels}, eps={self.eps}"

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Trained batch norms have this counter; a frozen one does not need it.
        state_dict.pop(prefix + "num_batches_tracked", None)
        eps_of_file = state_dict.pop(prefix + "eps", None)
        variance = state_dict.get(prefix + "running_var")
        if eps_of_file is not None and variance is not None:
            state_dict[prefix + "running_var"] = fold_epsilon(variance, eps_of_file, self.eps)
        super()._load_from_state_dict(state_dict, prefix, *args)


def fold_epsilon(running_var: Tensor, eps_of_file: Tensor, eps_of_layer: float) -> Tensor:
    """Change a variance so that it gives the same output with another epsilon.

    Args:
        running_var: (C,) variance of the file.
        eps_of_file: epsilon of the file, scalar or (C,).
        eps_of_layer: epsilon of the layer that loads the variance.
    Returns: (C,); where both epsilons are equal, the exact bits of `running_var`.
    """
    difference = eps_of_file.double() - torch.tensor(eps_of_layer, dtype=eps_of_file.dtype).double()
    return torch.where(difference == 0, running_var.double(), running_var.double() + difference).to(running_var.dtype)


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """Batch norm over the batches of all processes, on any device.

    PyTorch's layer supports training on accelerators only. This one also supports CPU processes (gloo), with one
    differentiable all-reduce per layer. Without a process group it is plain batch norm.
    """

    def forward(self, features: Tensor) -> Tensor:
        several_cpu_processes = (
            self.training and features.device.type == "cpu" and dist.is_initialized() and dist.get_world_size() > 1
        )
        return self._forward_over_processes(features) if several_cpu_processes else super().forward(features)

    def _forward_over_processes(self, features: Tensor) -> Tensor:
        count = torch.full((1,), features.numel() / features.shape[1], dtype=torch.float64)
        values = features.double()  # E[x^2] - E[x]^2 loses digits to cancellation
        sums = torch.cat([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3)), count])
        group = self.process_group or dist.group.WORLD
        totals: Tensor = differentiable_collectives.all_reduce(sums, group=group)
        total_count = totals[-1].detach()
        mean, mean_square = (totals[:-1] / total_count).chunk(2)
        variance = (mean_square - mean.square()).clamp(min=0)
        if self.track_running_stats:
            self._update_running_statistics(mean.detach(), variance.detach(), total_count)
        scale = self.weight * (variance + self.eps).rsqrt().to(self.weight.dtype)
        shift = self.bias - mean.to(self.bias.dtype) * scale
        scale, shift = (vector.to(features.dtype).view(1, -1, 1, 1) for vector in (scale, shift))
        return torch.addcmul(shift, features, scale)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
        unbiased = variance * count / (count - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of each cell of a map, as ConvNeXt uses it.

    Args:
        channels: C of the input.
        eps: added to the variance.
    Inputs: (N, C, H, W), or vectors (R, C). Returns: the same shape; maps in the channels-last memory format.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, features: Tensor) -> Tensor:
        return super().forward(features.movedim(1, -1)).movedim(-1, 1)


def num_groups_for(channels: int, num_groups: int, dim_per_group: int) -> int:
    """Number of groups of a group norm over `channels`.

    A positive `dim_per_group` gives the channels per group. Otherwise the answer is `num_groups`, if that divides
    `channels`; if not (in narrow layers), it is the largest smaller divisor with at least four channels per group.

    Raises: ValueError if `dim_per_group` does not divide `channels`, or if neither number is positive.
    """
    if dim_per_group > 0:
        if channels % dim_per_group:
            raise ValueError(
                f"GROUP_NORM.DIM_PER_GP is {dim_per_group}, which does not divide a layer of {channels} channels; "
                "choose a divisor, or set DIM_PER_GP to -1 and NUM_GROUPS to the number of groups."
            )
        return channels // dim_per_group
    if num_groups <= 0:
        raise ValueError(
            f"GROUP_NORM.NUM_GROUPS is {num_groups} and GROUP_NORM.DIM_PER_GP is {dim_per_group}; "
            "expected a positive number for one of them."
        )
    if channels % num_groups == 0:
        return num_groups
    limit = max(1, min(num_groups, channels // _MIN_CHANNELS_PER_GROUP))
    return next(groups for groups in range(limit, 0, -1) if channels % groups == 0)


def group_norm(channels: int, *, num_groups: int = 32, dim_per_group: int = -1, eps: float = 1e-5) -> nn.GroupNorm:
    """Group norm with the number of groups of `num_groups_for`. Source: Wu and He 2018, Group Normalization."""
    return nn.GroupNorm(num_groups_for(channels, num_groups, dim_per_group), channels, eps=eps)


NORMS = Registry()
"""Norm layers by the names that configs use. An entry is a callable (channels, settings: NormSettings) -> nn.Module."""


@dataclass(frozen=True)
class NormSettings:
    """What a norm layer needs besides its channels. An entry of NORMS reads the settings that it needs.

    Attributes:
        eps: added to the variance.
        num_groups: groups of a group norm, see `num_groups_for`.
        dim_per_group: channels per group of a group norm; -1 to go by `num_groups`.
    """

    eps: float = 1e-5
    num_groups: int = 32
    dim_per_group: int = -1


NORMS.register("", lambda channels, settings: nn.Identity())
NORMS.register("FrozenBN", lambda channels, settings: FrozenBatchNorm2d(channels, eps=settings.eps))
NORMS.register("BN", lambda channels, settings: nn.BatchNorm2d(channels, eps=settings.eps))
NORMS.register("SyncBN", lambda channels, settings: SyncBatchNorm2d(channels, eps=settings.eps))
NORMS.register("GN", lambda channels, settings: group_norm(channels, **asdict(settings)))
NORMS.register("LN", lambda channels, settings: LayerNorm2d(channels, eps=settings.eps))


def make_norm(
    name: str, channels: int, *, num_groups: int = 32, dim_per_group: int = -1, eps: float = 1e-5
) -> nn.Module:
    """The norm layer that a config calls `name`.

    Args:
        name: a name in NORMS: FrozenBN, BN, SyncBN, GN, LN, "" for none (an identity), or one of your own.
        channels: C of the layer's input.
        num_groups, dim_per_group, eps: see `NormSettings`.
    Raises: ValueError for an unknown name, or for groups that do not divide the channels.
    """
    if name not in NORMS:
        known = ", ".join(repr(known_name) for known_name in NORMS)
        raise ValueError(
            f"the norm layer {name!r} is not known; expected one of {known}. Add one of your own by NORMS.register."
        )
    norm: nn.Module = NORMS[name](channels, NormSettings(eps, num_groups, dim_per_group))
    return norm


def freeze(module: nn.Module) -> nn.Module:
    """Freeze the parameters of `module`, and replace its batch norms by FrozenBatchNorm2d.

    Returns: `module` itself, changed in place; a new module if `module` is a batch norm.
    """
    module.requires_grad_(False)
    if isinstance(module, (nn.BatchNorm2d, nn.SyncBatchNorm)):
        return _frozen_copy(module)
    for name, child in module.named_children():
        setattr(module, name, freeze(child))
    return module


def _frozen_copy(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, eps=norm.eps).to(norm.weight.device, norm.weight.dtype)
    for name in ("weight", "bias", "running_mean", "running_var"):
        setattr(frozen, name, getattr(norm, name).detach().clone())
    return frozen
