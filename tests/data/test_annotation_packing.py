"""Run lengths against pycocotools, and arrays that stand for lists."""

import numpy as np
import pycocotools.mask as mask_utils
import pytest

from maskrcnn_benchmark.data.datasets.annotations import PackedStrings
from maskrcnn_benchmark.data.datasets.validation import check_rle, decode_runs, number_rows


def runs_of(mask):
    """Lengths of the runs of equal values down the columns, background first, counted one by one."""
    runs, current = [0], 0
    for value in mask.T.reshape(-1):
        if value != current:
            runs.append(0)
            current = value
        runs[-1] += 1
    return runs


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (40, 33), (300, 500)])
@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_run_lengths_are_read_as_pycocotools_writes_them(shape, density):
    rng = np.random.default_rng(3)
    mask = np.asfortranarray(rng.random(shape) < density).astype(np.uint8, order="F")
    mask[: shape[0] // 2] = density > 0.9  # long runs, too, whose differences are negative
    written = mask_utils.encode(mask)["counts"]
    assert decode_runs(written).tolist() == runs_of(mask)
    compressed, problem = check_rle({"size": list(shape), "counts": runs_of(mask)}, shape)
    assert problem is None if mask.any() else problem == "mask without a pixel"
    assert compressed == written


@pytest.mark.parametrize("counts", [b"\x20", b"Z", b"\xff", b"o" * 30 + b"0"])
def test_what_is_no_run_length_string_is_refused(counts):
    with pytest.raises(ValueError, match="run length"):
        decode_runs(counts)


def test_number_rows_finds_the_rows_that_are_not_numbers():
    values, well_formed = number_rows([[1, 2], [3], "ab", None, [4, float("nan")], [5, "x"], [6, 7]], 2)
    assert well_formed.tolist() == [True, False, False, False, True, False, True]
    assert values[[0, 6]].tolist() == [[1, 2], [6, 7]]
    assert number_rows([], 4)[0].shape == (0, 4)


def test_packed_strings():
    names = ["a.jpg", "", "déjà/vu.png"]
    packed = PackedStrings(names)
    assert len(packed) == 3 and list(packed) == names
