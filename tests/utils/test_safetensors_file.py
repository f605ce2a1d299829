import json
import struct

import pytest
import torch

from maskrcnn_benchmark.utils.safetensors_file import read_safetensors, write_safetensors


def write(path, table, numbers, length=None):
    head = json.dumps(table).encode()
    path.write_bytes(struct.pack("<Q", len(head) if length is None else length) + head + numbers)
    return path


def test_tensors_come_back(tmp_path):
    values = {
        "a": (torch.tensor([[1.5, -2.0]]), "F32"),
        "b": (torch.tensor([3, 4, 5]), "I64"),
        "c": (torch.tensor(0.5, dtype=torch.bfloat16), "BF16"),
        "d": (torch.empty(0, 7), "F32"),
        "e": (torch.tensor([True, False]), "BOOL"),
    }
    table, numbers = {"__metadata__": {"format": "pt"}}, b""
    for name, (value, dtype) in values.items():
        raw = value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
        table[name] = {
            "dtype": dtype,
            "shape": list(value.shape),
            "data_offsets": [len(numbers), len(numbers) + len(raw)],
        }
        numbers += raw
    read = read_safetensors(write(tmp_path / "x.safetensors", table, numbers))
    assert list(read) == list(values)
    for name, (value, _) in values.items():
        torch.testing.assert_close(read[name], value, rtol=0, atol=0)
        read[name].add_(1) if value.dtype != torch.bool else None  # writable


@pytest.mark.parametrize(
    ("entry", "length"),
    [
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, None),
        ({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, None),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, None),
        ({"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}, None),
        ({"shape": [2]}, None),
        ({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, 2**40),
    ],
)
def test_damaged_files_are_refused(tmp_path, entry, length):
    path = write(tmp_path / "bad.safetensors", {"a": entry}, bytes(8), length)
    with pytest.raises(ValueError, match="bad.safetensors is no readable .safetensors file"):
        read_safetensors(path)


@pytest.mark.parametrize("content", [b"", b"123", struct.pack("<Q", 2) + b"[]", struct.pack("<Q", 3) + b"{x}"])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no readable .safetensors file"):
        read_safetensors(path)


def test_written_files_are_those_of_the_library(tmp_path):
    library = pytest.importorskip("safetensors.torch", reason="the library safetensors is not installed")
    weights = {
        "transposed": torch.arange(6.0).reshape(2, 3).t(),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "counter": torch.tensor(7),
        "nothing": torch.empty(0, 7),
        "flags": torch.tensor([True, False, True]),
    }
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        write_safetensors(file, weights)
    for read in (library.load_file(path), read_safetensors(path)):
        assert read.keys() == weights.keys()
        for name, value in weights.items():
            torch.testing.assert_close(read[name], value, rtol=0, atol=0)


def test_a_type_that_cannot_be_written_is_named(tmp_path):
    with open(tmp_path / "x", "wb") as file, pytest.raises(ValueError, match="a is torch.complex64; a .safetensors"):
        write_safetensors(file, {"a": torch.ones(2, dtype=torch.complex64)})
