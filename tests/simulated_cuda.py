"""A CUDA device that is not there: tensors that say they are on "cuda:0" and compute on the CPU.

    with simulated_cuda() as device:
        model, batch = model.to("cuda"), batch.to("cuda")
        device.waits.clear()
        sum(model(batch, targets).values()).backward()
    print(device.waits)  # Counter: (place in the package, operation) -> how often the host would have waited

Every operation runs through the CPU kernels, so results are those of a CPU run. What it adds are CUDA's rules on where
tensors live: operands on one device (except CPU tensors of no dimension) and no NumPy view; and a
record of the operations at which the host waits for the device. These are the ones that
`torch.cuda.set_sync_debug_mode` reports (numbers read from the device, results whose size only the device knows, and
blocking copies between host and device), waiting for an event, and large asynchronous copies from memory that is not
page-locked, which CUDA splits and queues after the device's pending work.

What it does not show: kernels of CUDA, their results, speed, memory, streams and races; waits inside of libraries, and
of operations that are not listed here; autocast. Asynchronous copies are done at once, so host code that reads one too
early goes unnoticed.

To PyTorch's C++ side the tensors are on "meta": of CUDA tensors its autograd would ask the driver for the streams.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from maskrcnn_benchmark.layers import reference, schemas

CUDA = torch.device("cuda", 0)
PACKAGE = "maskrcnn_benchmark"

# On CUDA the reference of these ops runs, operation by operation.
REFERENCES = {f"maskrcnn_benchmark::{op}": reference.KERNELS[op] for op in map(schemas.op_name, schemas.CPU_ONLY)}
# The size of the result, or what to do, depends on numbers that are on the device.
READS_NUMBERS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"),
    *("repeat_interleave", "bincount", "histc", "equal", "nms", "batched_nms"),
}
# Their operands may be CPU tensors of any shape: these are copied first, which waits.
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"}
COPIES = {"_to_copy", "copy_"}
# Operands without a dimension may be on the CPU; kernels take their value.
TAKES_CPU_NUMBERS = {"where", "fill", "fill_", "masked_fill", "masked_fill_", "_fused_sgd_", "_fused_adamw_"}
# Bytes of pageable memory that CUDA takes along with the command to copy them.
TAKEN_ALONG = 64 << 10

# why there is no simulation here; None where there is one
NO_SIMULATION: str | None = None
if torch.version.cuda is None:
    NO_SIMULATION = "this PyTorch knows no CUDA device, not even a simulated one"
elif torch.cuda.is_available():
    NO_SIMULATION = "there is a real CUDA device"


class CudaTensor(torch.Tensor):
    """A tensor "on cuda:0"; `held` is the CPU tensor with its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> CudaTensor:
        wrapper = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            layout=held.layout,
            device="meta",
        )
        wrapper.held = held
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} met a tensor of the simulated device outside of simulated_cuda()")

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    def new_tensor(self, data: Any, *, dtype: torch.dtype | None = None, requires_grad: bool = False) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=CUDA, requires_grad=requires_grad)

    def __getitem__(self, index: Any) -> Tensor:
        return super().__getitem__(_without_sequences(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        # as on a real device a number becomes a tensor on the host
        value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=self.dtype)
        super().__setitem__(_without_sequences(index), value)

    def tolist(self) -> Any:  # PyTorch's own refuses subclasses
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to copy first.")

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{type(self).__name__}({self.held!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        copied = self.detach().clone().requires_grad_(self.requires_grad)
        memo[id(self)] = copied
        return copied


class _Event:
    """Stands in for `torch.cuda.Event`."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        self._device.waits[place_of(sys._getframe(1)), "Event.synchronize"] += 1


class SimulatedDevice(TorchDispatchMode):
    """Runs the operations, and counts those that wait.

    Attributes:
        waits: (place, operation) -> how often. A place is "path:function" of the innermost function of the package,
            or of whatever else calls.
    """

    # In this slot PyTorch takes us for its own fake tensors, and does not try to start CUDA.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        page_locked = kwargs.pop("pin_memory", False)  # which would take a driver; a mark does here
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        wrappers = {id(tensor.held): tensor for tensor in tensors if isinstance(tensor, CudaTensor)}
        device = kwargs.get("device")
        name = func._schema.name.partition("::")[2]
        if name == "_pin_memory":
            return _marked(args[0].clone())
        if not wrappers and not _is_simulated(device):
            result = func(*args, **kwargs)
            return _marked(result) if page_locked else result
        if func._schema.name in REFERENCES:
            with self:
                return REFERENCES[func._schema.name](*args, **kwargs)
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"):
            with self:  # PyTorch takes these apart itself, except inside of a kernel
                return func.decompose(*args, **kwargs)
        assert all(isinstance(tensor, CudaTensor) or tensor.device.type == "cpu" for tensor in tensors), func
        if wrappers:
            _check_devices(func, name, args, tensors)
        if _waits(name, args, kwargs, tensors):
            self.waits[place_of(sys._getframe(1)), name] += 1

        if name == "copy_":
            target, source = (value.held if isinstance(value, CudaTensor) else value for value in args[:2])
            target.copy_(source)
            return args[0]
        to_device = _is_simulated(device) if device is not None else bool(wrappers)
        if device is not None:
            kwargs["device"] = torch.device("cpu")
        held_args, held_kwargs = tree_map_only(CudaTensor, lambda tensor: tensor.held, (args, kwargs))
        result = func(*held_args, **held_kwargs)
        for wrapper in wrappers.values():
            assert wrapper.shape == wrapper.held.shape, f"{func} changed the shape of its operand; not simulated"
        if not to_device:
            return result

        def wrap(tensor: Tensor) -> Tensor:
            return wrappers[id(tensor)] if id(tensor) in wrappers else CudaTensor(tensor)

        return tree_map_only(Tensor, wrap, result)


@contextlib.contextmanager
def simulated_cuda() -> Iterator[SimulatedDevice]:
    """Inside, "cuda" is the simulated device; `torch.cuda.is_available()` stays as it is."""
    torch._C._ensureCUDADeviceGuardSet()  # as PyTorch's own fake tensors do: no driver is asked for a stream
    lifts = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") copies where we see it
    # `foreach` and `fused` optimisers and norms take exactly the types that they know
    known = [*_foreach_utils._foreach_supported_types, CudaTensor]
    try:
        with SimulatedDevice() as device, contextlib.ExitStack() as patches:
            for target, name, stand_in in (
                (_foreach_utils, "_foreach_supported_types", known),
                (torch.cuda, "Event", lambda *_, **__: _Event(device)),
                (torch.cuda, "current_stream", lambda *_: None),
            ):
                patches.enter_context(mock.patch.object(target, name, stand_in))
            yield device
    finally:
        torch._C._set_only_lift_cpu_tensors(lifts)


def place_of(frame: FrameType | None) -> str:
    """ "path:function" of the package's innermost function at or above `frame`; else of what else called PyTorch."""
    others = []
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if PACKAGE in path.parts:
            parts = path.parts[len(path.parts) - path.parts[::-1].index(PACKAGE) :]
            return f"{'/'.join(parts)}:{frame.f_code.co_qualname}"
        if "torch" not in path.parts:
            others.append(f"{path.name}:{frame.f_code.co_qualname}")
        frame = frame.f_back
    return others[0]


def _without_sequences(index: Any) -> Any:
    """PyTorch would make a tensor on "meta", without its numbers, of a list; on a real device it copies one there."""
    if isinstance(index, tuple):
        return tuple(map(_without_sequences, index))
    if isinstance(index, (list, range)) and len(index) == 0:
        return torch.zeros(0, dtype=torch.int64)
    return torch.as_tensor(index) if isinstance(index, (list, range, np.ndarray)) else index


def _is_simulated(device: Any) -> bool:
    return device is not None and torch.device(device).type in ("cuda", "meta")


def _check_devices(func: Any, name: str, args: Any, tensors: list[Tensor]) -> None:
    """RuntimeError, in PyTorch's words, where CUDA could not run `func`."""
    if name in COPIES:
        return
    if name in INDEXING:
        table = args[0]
        if not isinstance(table, CudaTensor):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        tensors = [table, *(args[2:3] if "put" in name else [])]  # indices may be on the host
    takes_numbers = torch.Tag.pointwise in func.tags or name in TAKES_CPU_NUMBERS or name in INDEXING
    for tensor in tensors:
        if not isinstance(tensor, CudaTensor) and not (takes_numbers and tensor.dim() == 0):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {CUDA} and cpu! "
                f"(when running {func})"
            )


def _marked(tensor: Tensor) -> Tensor:
    """The tensor as one in page-locked memory."""
    tensor.page_locked = True  # type: ignore[attr-defined]
    return tensor


def _waits(name: str, args: Any, kwargs: Any, tensors: list[Tensor]) -> bool:
    """Does the host wait for the device in this operation, at least one operand or the result of which is there?"""
    if name == "copy_":
        non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        return _copying_waits(args[1], isinstance(args[0], CudaTensor), non_blocking)
    if name == "_to_copy":
        device = kwargs.get("device")
        to_device = isinstance(args[0], CudaTensor) if device is None else _is_simulated(device)
        return _copying_waits(args[0], to_device, kwargs.get("non_blocking", False))
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    if name in READS_NUMBERS:
        return True
    if name in INDEXING:
        return _indexing_waits(name, args)
    if name == "where":  # a number on the host is first copied to the device
        return any(not isinstance(tensor, CudaTensor) for tensor in tensors)
    if name in ("masked_fill", "masked_fill_"):  # the kernel takes the value as a number
        return isinstance(args[2], CudaTensor)
    return False


def _copying_waits(source: Tensor, to_device: bool, non_blocking: bool) -> bool:
    from_device = isinstance(source, CudaTensor)
    if from_device == to_device:
        return False
    pageable = to_device and not getattr(source, "page_locked", False)
    return not non_blocking or (pageable and source.numel() * source.element_size() > TAKEN_ALONG)


def _indexing_waits(name: str, args: Any) -> bool:
    indices = [index for index in args[1] if index is not None]
    if any(not isinstance(index, CudaTensor) for index in indices):
        return True  # copied to the device
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    number = "put" in name and not isinstance(args[2], CudaTensor)
    if number and len(indices) == len(masks) == 1 and not any(args[3:4]):
        return False  # one number under one mask is written without asking where the mask holds
    return number or bool(masks)
