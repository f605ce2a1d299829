"""Detectron's pickles: what is in them, and what must not be."""

import collections
import io
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.utils.c2_model_loading import (
    RefusedPickleError,
    read_named_arrays,
    read_pickle_of_arrays,
)


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2", "i8", "u1", "?"])
def test_arrays_and_containers_come_back(tmp_path, dtype, protocol):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    content = {
        "a": array,
        "fortran": np.asfortranarray(array),
        "scalar": np.float32(2.5),
        "nested": collections.OrderedDict(x=[1, (2.0, "text", None, True)]),
        "empty": np.zeros((0, 3), np.float32),
    }
    if protocol == 5:
        content.pop("fortran")  # NumPy hands out-of-band buffers to this protocol, which Detectron never wrote
        content.pop("a")
        content.pop("empty")
    read = read_pickle_of_arrays(write(tmp_path / "x.pkl", content, protocol))
    assert list(read) == list(content)
    assert read["nested"] == {"x": [1, (2.0, "text", None, True)]}
    assert read["scalar"] == 2.5
    for name in set(content) & {"a", "fortran", "empty"}:
        assert read[name].shape == content[name].shape
        np.testing.assert_array_equal(read[name], content[name])


def test_a_pickle_of_python_2_is_read(tmp_path):
    """Python 2 wrote the numbers of an array, and all text, as byte strings; built here opcode by opcode."""
    numbers = np.array([1.5, -2.0], "<f4").tobytes()
    short = lambda text: b"U" + struct.pack("<B", len(text)) + text  # noqa: E731  SHORT_BINSTRING
    dtype = (
        b"cnumpy\ndtype\n("
        + short(b"f4")
        + b"K\x00K\x01tR(K\x03"
        + short(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + short(b"b") + b"tR(K\x01(K\x02t"
        + dtype + b"\x89" + short(numbers) + b"tb"
    )  # fmt: skip
    path = tmp_path / "py2.pkl"
    path.write_bytes(b"\x80\x02}" + short(b"fc6_w") + array + b"s.")
    pickletools.dis(path.read_bytes(), out=io.StringIO())  # it is a well-formed pickle
    read = read_pickle_of_arrays(path)
    assert list(read) == ["fc6_w"]
    np.testing.assert_array_equal(read["fc6_w"], np.array([1.5, -2.0], np.float32))


class Runs:
    def __init__(self, function, *args):
        self.call = (function, args)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "payload",
    [
        Runs(os.system, "touch {marker}"),
        Runs(eval, "open({marker!r}, 'w')"),
        Runs(getattr, "x", "upper"),
        Runs(np.load, "{marker}"),
        Runs(io.open, "{marker}", "w"),
        Runs(np.fromfile, "{marker}"),
        collections.Counter("aab"),
        slice(1, 2),
        torch.ones(2),
    ],
    ids=lambda payload: type(payload).__name__,
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_anything_else_is_refused_and_does_not_run(tmp_path, payload, protocol):
    marker = tmp_path / "ran"
    if isinstance(payload, Runs):
        function, args = payload.call
        payload = Runs(function, *(a.format(marker=str(marker)) if isinstance(a, str) else a for a in args))
    path = write(tmp_path / "evil.pkl", {"blobs": {"fc6_w": payload}}, protocol)
    with pytest.raises(RefusedPickleError, match=r"evil.pkl is not read: it asks for \S+\. A .pkl is admitted if"):
        read_named_arrays(path)
    assert not marker.exists()


def test_arrays_of_objects_are_refused(tmp_path):
    path = write(tmp_path / "objects.pkl", {"a": np.array([{}, None], dtype=object)})
    with pytest.raises(RefusedPickleError, match="array of dtype object; expected numbers"):
        read_pickle_of_arrays(path)


def test_a_state_that_lies_about_an_array_is_refused(tmp_path):
    honest = pickle.dumps(np.zeros(4, np.float32), protocol=2)
    path = tmp_path / "short.pkl"
    path.write_bytes(honest.replace(b"K\x04\x85", b"K\x40\x85"))  # claims 64 numbers, holds 4
    with pytest.raises(RefusedPickleError, match="cannot reshape"):
        read_pickle_of_arrays(path)


@pytest.mark.parametrize("content", [b"", b"not a pickle", b"\x80\x02}q\x00", b"\x80\x02cos\nsystem\n", b"P1\n."])
def test_damaged_files_are_refused(tmp_path, content):
    path = tmp_path / "bad.pkl"
    path.write_bytes(content)
    with pytest.raises(RefusedPickleError, match="bad.pkl is not read"):
        read_pickle_of_arrays(path)


def test_a_pickle_without_weights_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no named arrays"):
        read_named_arrays(write(tmp_path / "x.pkl", {"blobs": {"lr": 0.1}}))
    with pytest.raises(ValueError, match="holds no named arrays"):
        read_named_arrays(write(tmp_path / "x.pkl", [1, 2]))


def test_the_named_arrays_of_a_file_are_its_blobs(tmp_path):
    blobs = {"fc6_w": np.ones(2, np.float32), "name": "text"}
    for content in ({"blobs": blobs, "cfg": "text"}, blobs):
        assert list(read_named_arrays(write(tmp_path / "x.pkl", content))) == ["fc6_w"]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_files_of_detectron2_in_every_protocol(tmp_path, protocol):
    array = np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3))
    content = {
        "model": {"fc.weight": array, "fc.bias": np.ones(3)},
        "__author__": "someone",
        "matching_heuristics": True,
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(content, protocol))
    arrays = read_named_arrays(tmp_path / "x.pkl")
    assert sorted(arrays) == ["fc.bias", "fc.weight"]
    np.testing.assert_array_equal(arrays["fc.weight"], array)
