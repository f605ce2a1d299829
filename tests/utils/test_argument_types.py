import argparse

import pytest

from maskrcnn_benchmark.utils.argument_types import (
    fraction,
    int_list,
    non_negative_int,
    positive_float,
    positive_int,
)


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (positive_int, "1", 1),
        (non_negative_int, "0", 0),
        (positive_float, "1e-3", 0.001),
        (fraction, "0", 0.0),
        (fraction, "1", 1.0),
        (int_list, "3,-1", [3, -1]),
    ],
)
def test_values_in_range(parse, text, value):
    assert parse(text) == value


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (positive_int, "0", "'0' is not a whole number from 1"),
        (positive_int, "1.5", "'1.5' is not a whole number from 1"),
        (non_negative_int, "-1", "'-1' is not a whole number from 0"),
        (positive_float, "0", "'0' is not a number above 0"),
        (positive_float, "inf", "'inf' is not a number above 0"),
        (positive_float, "x", "'x' is not a number above 0"),
        (fraction, "1.01", "'1.01' is not a number from 0 to 1"),
        (fraction, "nan", "'nan' is not a number from 0 to 1"),
        (int_list, "1;2", "'1;2'; expected whole numbers separated by commas"),
        (int_list, "", "expected whole numbers"),
    ],
)
def test_other_values_are_named(parse, text, message):
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        parse(text)
