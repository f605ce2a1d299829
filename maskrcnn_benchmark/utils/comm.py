"""What the processes of a run tell each other. Everything here also works in a run of one process, without a group.

Objects travel through CPU memory over gloo, whatever backend the gradients take: predictions of a whole dataset do not
fit beside the model on a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_cpu_groups: dict[Any, Any] = {}  # the default group -> a gloo group of the same processes


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of processes in the run."""
    return dist.get_world_size() if _grouped() else 1


def get_rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if _grouped() else 0


def is_main_process() -> bool:
    """The process that logs and writes files."""
    return get_rank() == 0


def synchronize() -> None:
    """Wait until every process has come here."""
    if get_world_size() > 1:
        dist.barrier(group=_cpu_group())


def all_gather(value: T) -> list[T]:
    """Values of all processes, by rank, in every process. `value` is anything that can be pickled. Collective."""
    if get_world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * get_world_size()
    dist.all_gather_object(gathered, value, group=_cpu_group())
    return gathered


def gather(value: T, destination: int = 0) -> list[T]:
    """Values of all processes, by rank, in process `destination`; an empty list in the others. Collective."""
    if get_world_size() == 1:
        return [value]
    gathered: list[Any] | None = [None] * get_world_size() if get_rank() == destination else None
    dist.gather_object(value, gathered, dst=destination, group=_cpu_group())
    return gathered if gathered is not None else []


def broadcast(value: T, source: int = 0) -> T:
    """The value of process `source`, in every process. Collective."""
    if get_world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=source, group=_cpu_group())
    return box[0]


def reduce_dict(values: Mapping[str, Tensor], average: bool = True) -> dict[str, Tensor]:
    """Mean (or sum) over the processes of each scalar tensor, in every process; one message for all. Collective.

    Args:
        values: the same keys in every process.
    """
    if get_world_size() == 1 or not values:
        return dict(values)
    names = sorted(values)
    with torch.no_grad():
        stacked = torch.stack([values[name].detach().float() for name in names])
        dist.all_reduce(stacked)
        if average:
            stacked /= get_world_size()
    reduced = dict(zip(names, stacked.unbind(), strict=True))
    return {name: reduced[name] for name in values}


def _cpu_group() -> Any:
    """The gloo group of all processes; the first call of a run is collective, as is every caller."""
    world = dist.group.WORLD
    if dist.get_backend() == "gloo":
        return world
    if world not in _cpu_groups:
        _cpu_groups.clear()  # groups of an earlier run in this process are gone with it
        _cpu_groups[world] = dist.new_group(backend="gloo")
    return _cpu_groups[world]
