"""Weights of Facebook's Detectron (Caffe2 .pkl files), read without running anything and renamed to ours."""

from __future__ import annotations

import collections
import os
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor


class RefusedPickleError(pickle.UnpicklingError):
    """A pickle that asks for more than arrays and plain containers."""


class _Dtype:
    """Stands in for numpy.dtype while a file is read: numbers only, and no state but the byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.value = np.dtype(str(code))
        if self.value.kind not in "fiub":
            raise RefusedPickleError(f"it holds an array of dtype {self.value}; expected numbers")

    def __setstate__(self, state: tuple) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array:
    """Stands in for numpy.ndarray while a file is read; NumPy itself never sees the state that the file gives."""

    value: np.ndarray | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, is_fortran, numbers = state
        self.value = _from_bytes(numbers, dtype).reshape(shape, order="F" if is_fortran else "C")


def _from_bytes(numbers: bytes | str, dtype: _Dtype) -> np.ndarray:
    raw = numbers.encode("latin1") if isinstance(numbers, str) else numbers  # Python 2 did not tell them apart
    return np.frombuffer(raw, dtype.value)


_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): lambda text, encoding="latin1": str(text).encode(encoding),  # bytes, in protocol 2
}
for _module in ("builtins", "__builtin__"):
    _ADMITTED[_module, "bytes"] = lambda: b""  # how protocols before 3 write the numbers of an empty array
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # the second since NumPy 2
    _ADMITTED[_module, "_reconstruct"] = _Array
    _ADMITTED[_module, "scalar"] = lambda dtype, numbers: _from_bytes(numbers, dtype)[0]


class _ArraysOnly(pickle.Unpickler):
    """Python's unpickler calls whatever a file names; this one knows a handful of harmless names."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise RefusedPickleError(f"it asks for {module}.{name}")
        return _ADMITTED[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise RefusedPickleError("it refers to objects outside the file")


def read_pickle_of_arrays(path: str | os.PathLike[str]) -> Any:
    """What the pickle holds: NumPy arrays in dictionaries, lists, tuples; strings and numbers.

    Raises: RefusedPickleError when it holds anything else; nothing of it has then run.
    """
    try:
        with open(path, "rb") as file:
            return _plain(_ArraysOnly(file, encoding="latin1").load())  # Python 2 wrote Detectron's files
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


def load_c2_format(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Names and tensors of a Detectron file, in this project's names. Raises: RefusedPickleError, ValueError.

    Names of the body begin with the body's own modules ("stem.", "layer1."): whether the last stage belongs to the body
    or to the heads is the model's to say (`model_serialization.PREFIX_RULES`).
    """
    content = read_pickle_of_arrays(path)
    blobs = content.get("blobs", content) if isinstance(content, Mapping) else None
    if not isinstance(blobs, Mapping) or not any(isinstance(blob, np.ndarray) for blob in blobs.values()):
        raise ValueError(f"{os.fspath(path)} holds no named arrays; expected weights as Detectron writes them.")
    return rename_c2_blobs(blobs)


_MODULES = (  # name of a blob without its ending -> module; res2 and its kin are stage 1
    (r"conv1", "stem.conv1"),
    (r"res_conv1_bn", "stem.bn1"),
    (r"conv1_gn", "stem.bn1"),
    (r"res(\d)_(\d+)_branch1", "layer{0}.{1}.downsample.0"),
    (r"res(\d)_(\d+)_branch1_(?:bn|gn)", "layer{0}.{1}.downsample.1"),
    (r"res(\d)_(\d+)_branch2([abc])", "layer{0}.{1}.conv{2}"),
    (r"res(\d)_(\d+)_branch2([abc])_(?:bn|gn)", "layer{0}.{1}.bn{2}"),
    (r"fpn_inner_res(\d)_\d+_sum(?:_lateral)?(_gn)?", "backbone.fpn.fpn_inner{0}"),
    (r"fpn_res(\d)_\d+_sum(_gn)?", "backbone.fpn.fpn_layer{0}"),
    (r"conv_rpn(?:_fpn2)?", "rpn.head.conv"),
    (r"rpn_cls_logits(?:_fpn2)?", "rpn.head.cls_logits"),
    (r"rpn_bbox_pred(?:_fpn2)?", "rpn.head.bbox_pred"),
    (r"fc6", "roi_heads.box.feature_extractor.fc6"),
    (r"fc7", "roi_heads.box.feature_extractor.fc7"),
    (r"cls_score", "roi_heads.box.predictor.cls_score"),
    (r"bbox_pred", "roi_heads.box.predictor.bbox_pred"),
    (r"_\[mask\]_fcn(\d)(_gn)?", "roi_heads.mask.feature_extractor.mask_fcn{0}"),
    (r"conv5_mask", "roi_heads.mask.predictor.conv5_mask"),
    (r"mask_fcn_logits", "roi_heads.mask.predictor.mask_fcn_logits"),
    (r"conv_fcn(\d)", "roi_heads.keypoint.feature_extractor.conv_fcn{0}"),
    (r"kps_score_lowres", "roi_heads.keypoint.predictor.kps_score_lowres"),
)
_ENDINGS = {"w": "weight", "b": "bias", "s": "weight"}
_BRANCH_NUMBERS = {"a": "1", "b": "2", "c": "3"}


def rename_c2_blobs(blobs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Detectron's names -> ours; blobs that are no weights (momenta, the fixed upsampling of keypoints) are left out.

    An affine layer of Caffe2 is a scale and a shift; the batch norm that stands in its place here also gets the
    statistics that leave it that: mean 0, variance 1.
    """
    renamed: dict[str, Tensor] = {}
    for blob_name, blob in blobs.items():
        if not isinstance(blob, np.ndarray) or blob.dtype.kind != "f":
            continue
        name = _rename(blob_name, blobs)
        if name is None:
            continue
        tensor = torch.from_numpy(np.ascontiguousarray(blob).astype(np.float32, copy=True))
        renamed[name] = tensor
        if re.search(r"_bn_s$", blob_name):
            module = name[: -len("weight")]
            renamed.setdefault(f"{module}running_mean", torch.zeros_like(tensor))
            renamed.setdefault(f"{module}running_var", torch.ones_like(tensor))
    return renamed


def _rename(blob_name: str, blobs: Mapping[str, Any]) -> str | None:
    """Our name of a blob; None for what is no weight of a model; the blob's own name for what nobody knows."""
    if blob_name.endswith("_momentum") or blob_name in ("lr", "weight_order", "kps_score_w", "kps_score_b"):
        return None
    stem, _, ending = blob_name.rpartition("_")
    if ending not in _ENDINGS:
        return blob_name
    for pattern, module in _MODULES:
        match = re.fullmatch(pattern, stem)
        if match is None:
            continue
        groups = list(match.groups())
        if stem.startswith(("res", "fpn")) and groups:
            groups[0] = str(int(groups[0]) - 1)
        if stem.startswith("res") and len(groups) == 3:
            groups[2] = _BRANCH_NUMBERS[groups[2]]
        module = module.format(*groups)
        if "(_gn)" in pattern:  # with group norm, ours are a convolution and a norm in sequence
            has_norm = f"{stem.removesuffix('_gn')}_gn_s" in blobs
            module += (".1" if stem.endswith("_gn") else ".0") if has_norm else ""
        return f"{module}.{_ENDINGS[ending]}"
    return blob_name
