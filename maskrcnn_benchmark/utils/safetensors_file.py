"""Read and write `.safetensors` files: a length, a JSON table of names, types, shapes and offsets, then the numbers."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from typing import IO, Any

import torch
from torch import Tensor

_LARGEST_TABLE = 100 * 2**20  # bytes; the format's own limit
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read all tensors to the CPU. Raises: ValueError for a file that is damaged or has a different format."""
    with open(path, "rb") as file:
        content = file.read()
    try:
        (length,) = struct.unpack_from("<Q", content)
        if length > min(_LARGEST_TABLE, len(content) - 8):
            raise ValueError("its table would be longer than the file")
        table = json.loads(content[8 : 8 + length])
        table.pop("__metadata__", None)
        numbers = bytearray(content[8 + length :])
        return {name: _tensor(entry, numbers) for name, entry in table.items()}
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ValueError(f"{os.fspath(path)} is no readable .safetensors file: {error}") from error


def write_safetensors(file: IO[bytes], weights: Mapping[str, Tensor]) -> None:
    """Write tensors of any device and layout. Raises: ValueError for a type that the format does not have."""
    names = {dtype: name for name, dtype in _DTYPES.items()}
    table: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in weights.items():
        if tensor.dtype not in names:
            raise ValueError(f"{name} is {tensor.dtype}; a .safetensors file can have {', '.join(map(str, names))}")
        begin, end = end, end + tensor.numel() * tensor.dtype.itemsize
        table[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(table, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # so that the numbers are aligned
    file.write(struct.pack("<Q", len(head)) + head)
    for tensor in weights.values():
        file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def _tensor(entry: dict[str, Any], numbers: bytearray) -> Tensor:
    dtype = _DTYPES[entry["dtype"]]
    shape = [int(size) for size in entry["shape"]]
    begin, end = entry["data_offsets"]
    count = math.prod(shape)
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= len(numbers) or end - begin != count * dtype.itemsize:
        raise ValueError(f"a tensor of shape {shape} and type {entry['dtype']} does not fit bytes {begin} to {end}")
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(numbers[begin:end], dtype=dtype).reshape(shape)
