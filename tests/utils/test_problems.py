"""Problems of a config: raised one by one, or collected into one message."""

import pytest

from maskrcnn_benchmark import config
from maskrcnn_benchmark.utils.problems import (
    ConfigError,
    check_choice,
    check_range,
    collect_config_problems,
    config_problem,
    skip_after_problem,
)


def test_a_problem_is_raised_where_nobody_collects():
    with pytest.raises(ConfigError, match=r"^MODEL.A is 1; expected 2\.$"):
        config_problem("MODEL.A is 1; expected 2.")


def test_problems_are_collected_in_order_and_once():
    with collect_config_problems() as problems:
        for text in ("first", "second", "first"):
            config_problem(text)
    assert problems == ["first", "second"]


def test_collecting_ends_with_the_block():
    with pytest.raises(KeyError), collect_config_problems() as problems:
        config_problem("noted")
        raise KeyError("out of the block")
    assert problems == ["noted"]
    with pytest.raises(ConfigError, match="raised"):
        config_problem("raised")


def test_an_inner_block_has_a_list_of_its_own():
    with collect_config_problems() as outer:
        config_problem("before")
        with collect_config_problems() as inner:
            config_problem("inside")
        config_problem("after")
    assert (outer, inner) == (["before", "after"], ["inside"])


def test_the_public_name_is_the_same_class():
    assert config.ConfigError is ConfigError
    assert issubclass(ConfigError, ValueError)


def test_choices_and_ranges():
    with collect_config_problems() as problems:
        check_choice("A", "x", ("x", "y"))
        check_choice("B", "z", {"x": 1, "y": 2})
        check_range("C", 0, 0, 1)
        check_range("D", 2, 0, 1)
        check_range("E", 0, 1)
        check_range("F", float("nan"), 1)
    assert problems == [
        "B is 'z'; expected one of 'x', 'y'.",
        "D is 2; expected between 0 and 1.",
        "E is 0; expected at least 1.",
        "F is nan; expected at least 1.",
    ]


def test_an_error_that_follows_a_problem_is_skipped_only_while_collecting():
    with collect_config_problems() as problems:
        with pytest.raises(KeyError), skip_after_problem():
            raise KeyError("nothing was reported")
        with skip_after_problem():
            config_problem("first")
            raise KeyError("follows")
        with skip_after_problem():
            config_problem("second")
    assert problems == ["first", "second"]
    with pytest.raises(ConfigError, match="third"), skip_after_problem():
        config_problem("third")
