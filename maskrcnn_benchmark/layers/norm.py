"""Normalisation layers, and the one function that builds them from the names that configurations use."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable_collectives
from torch import Tensor, nn

NormFactory = Callable[[int], nn.Module]
"""Builds a norm layer for a number of channels. Layers take one, so that they need not know which norm it is."""

# A group has to hold some channels for its statistics to differ from those of single channels.
_MIN_CHANNELS_PER_GROUP = 4


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are constants: one multiply-add per element.

    All four vectors are buffers, so no optimiser sees them and `.train()` changes nothing. Files of the HRNet family
    also carry the epsilon that a layer was trained with, per channel; loading one folds the difference to this layer's
    own epsilon into `running_var`, so the layer computes what the file meant and saves without the extra entry.

    Args:
        channels: C of the input.
        eps: added to the variance. The released Caffe2 and maskrcnn-benchmark weights mean 0.
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
        # A trained batch norm counts its batches; a frozen one has no use for the count.
        state_dict.pop(prefix + "num_batches_tracked", None)
        eps_of_file = state_dict.pop(prefix + "eps", None)
        variance = state_dict.get(prefix + "running_var")
        if eps_of_file is not None and variance is not None:
            state_dict[prefix + "running_var"] = fold_epsilon(variance, eps_of_file, self.eps)
        super()._load_from_state_dict(state_dict, prefix, *args)


def fold_epsilon(running_var: Tensor, eps_of_file: Tensor, eps_of_layer: float) -> Tensor:
    """The variance (C,) with which a layer of epsilon `eps_of_layer` computes what a file with `eps_of_file`, scalar or
    (C,), meant. Where the two are the same number the variance comes back untouched, bit for bit."""
    difference = eps_of_file.double() - torch.tensor(eps_of_layer, dtype=eps_of_file.dtype).double()
    return torch.where(difference == 0, running_var.double(), running_var.double() + difference).to(running_var.dtype)


class SyncBatchNorm2d(nn.SyncBatchNorm):
    """Batch norm over the batches of all processes, on any device.

    PyTorch's own layer trains on accelerators only; here a group of CPU processes (gloo) computes the same thing with
    one differentiable sum per layer. Without a process group it is plain batch norm.
    """

    def forward(self, features: Tensor) -> Tensor:
        several_cpu_processes = (
            self.training and features.device.type == "cpu" and dist.is_initialized() and dist.get_world_size() > 1
        )
        return self._forward_over_processes(features) if several_cpu_processes else super().forward(features)

    def _forward_over_processes(self, features: Tensor) -> Tensor:
        count = torch.full((1,), features.numel() / features.shape[1], dtype=torch.float64)
        values = features.double()  # E[x^2] - E[x]^2 cancels; doubles keep the digits
        sums = torch.cat([values.sum(dim=(0, 2, 3)), values.square().sum(dim=(0, 2, 3)), count])
        totals = differentiable_collectives.all_reduce(sums, group=self.process_group or dist.group.WORLD)
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


def num_groups_for(channels: int, num_groups: int, dim_per_group: int) -> int:
    """Number of groups of a group norm over `channels`.

    `dim_per_group` > 0 fixes the width of a group, and it has to divide. Otherwise there are `num_groups` groups if
    that divides; narrow layers, where it does not, take the largest divisor that leaves a group four channels or more.
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


def make_norm(
    name: str, channels: int, *, num_groups: int = 32, dim_per_group: int = -1, eps: float = 1e-5
) -> nn.Module:
    """The norm layer that a configuration calls `name`.

    Args:
        name: FrozenBN, BN, SyncBN, GN; "" for none (an identity).
        channels: C of the layer's input.
        num_groups, dim_per_group: of GN, see `num_groups_for`.
        eps: added to the variance, whatever the norm.
    Raises: ValueError for another name, or for groups that do not divide the channels.
    """
    makers: Mapping[str, Callable[[], nn.Module]] = {
        "": nn.Identity,
        "FrozenBN": lambda: FrozenBatchNorm2d(channels, eps=eps),
        "BN": lambda: nn.BatchNorm2d(channels, eps=eps),
        "SyncBN": lambda: SyncBatchNorm2d(channels, eps=eps),
        "GN": lambda: group_norm(channels, num_groups=num_groups, dim_per_group=dim_per_group, eps=eps),
    }
    if name not in makers:
        known = ", ".join(repr(known_name) for known_name in makers)
        raise ValueError(f"the norm layer {name!r} is not known; expected one of {known}.")
    return makers[name]()


def freeze(module: nn.Module) -> nn.Module:
    """`module` with parameters that do not learn and batch norms that are frozen; module by module where it can, a new
    FrozenBatchNorm2d where `module` itself is a batch norm, so callers put the result in the old place."""
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
