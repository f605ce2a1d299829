"""Read the .pkl files of Detectron and Detectron2 without executing anything that they contain."""

from __future__ import annotations

import collections
import os
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


class RefusedPickleError(pickle.UnpicklingError):
    """A pickle that holds more than arrays and plain containers."""


class _Dtype:
    """Takes the place of numpy.dtype while a file is read: numbers only, and no state except the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.value = np.dtype(str(code))
        if self.value.kind not in "fiub":
            raise RefusedPickleError(f"it holds an array of dtype {self.value}; expected numbers")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Takes the place of numpy.ndarray while a file is read, so that NumPy never sees the state that the file gives."""

    value: NDArray[Any] | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, numbers = state
        self.value = _from_bytes(numbers, dtype).reshape(shape, order="F" if is_fortran else "C")


def _from_bytes(numbers: bytes | bytearray | str, dtype: _Dtype) -> NDArray[Any]:
    raw = numbers.encode("latin1") if isinstance(numbers, str) else numbers  # Python 2 has one type for both
    return np.frombuffer(raw, dtype.value)


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): lambda text, encoding="latin1": str(text).encode(encoding),  # bytes, in protocol 2
}
for _module in ("builtins", "__builtin__"):
    _ADMITTED[_module, "bytes"] = lambda: b""  # the numbers of an empty array, in protocols before 3
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # the second since NumPy 2
    _ADMITTED[_module, "_reconstruct"] = _Array
    _ADMITTED[_module, "scalar"] = lambda dtype, numbers: _from_bytes(numbers, dtype)[0]


for _module in ("numpy.core.numeric", "numpy._core.numeric"):  # arrays in protocol 5
    _ADMITTED[_module, "_frombuffer"] = lambda numbers, dtype, shape, order: _from_bytes(numbers, dtype).reshape(
        shape, order="F" if order == "F" else "C"
    )


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that calls only the harmless names in `_ADMITTED`; Python's calls any function that a file names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise RefusedPickleError(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedPickleError("it refers to objects outside the file")


def read_pickle_of_arrays(path: str | os.PathLike[str]) -> Any:
    """Read NumPy arrays in dictionaries, lists and tuples, strings and numbers.

    Raises: RefusedPickleError if the file holds anything else; none of it is executed.
    """
    try:
        with open(path, "rb") as file:
            return _plain(_ArraysOnly(file, encoding="latin1").load())  # Detectron's files were written by Python 2
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise RefusedPickleError(
            f"{os.fspath(path)} is not read: {error}. A .pkl is admitted if it holds arrays and plain containers only, "
            "as Detectron's weights do."
        ) from error


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {_plain(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(entry) for entry in value)
    return value


def read_named_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """Named arrays of a file of Detectron ("blobs") or Detectron2 ("model"), under the file's names.

    Raises: RefusedPickleError, ValueError.
    """
    content = read_pickle_of_arrays(path)
    while isinstance(content, Mapping) and not any(isinstance(value, np.ndarray) for value in content.values()):
        content = next((content[key] for key in ("blobs", "model") if key in content), None)
    if not isinstance(content, Mapping):
        raise ValueError(f"{os.fspath(path)} holds no named arrays; expected weights as Detectron writes them.")
    return {name: array for name, array in content.items() if isinstance(array, np.ndarray)}
