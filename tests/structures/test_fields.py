"""Names of fields: each mask of an instance has its own."""

from dataclasses import astuple

import pytest

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.fields import mask_fields


def test_the_plain_mask_keeps_its_fields() -> None:
    plain = mask_fields()
    assert plain == mask_fields("")
    assert (plain.truth, plain.present, plain.mask) == ("masks", "masks_present", "mask")
    assert (plain.scores, plain.boxes, plain.in_pixels) == ("mask_scores", "mask_boxes", "mask_in_pixels")
    assert (plain.coarse, plain.coarse_scores) == ("coarse_mask", "coarse_mask_scores")


def test_a_named_mask_has_fields_of_its_own() -> None:
    visible = mask_fields("visible")
    assert astuple(visible) == (
        "visible",
        "masks_visible",
        "masks_visible_present",
        "mask_visible",
        "mask_visible_scores",
        "mask_visible_boxes",
        "mask_visible_in_pixels",
        "coarse_mask_visible",
        "coarse_mask_visible_scores",
    )


def test_no_two_masks_share_a_field() -> None:
    constants = [value for key, value in vars(fields).items() if key.isupper() and isinstance(value, str)]
    names = [*constants, *astuple(mask_fields("a"))[1:], *astuple(mask_fields("a_b"))[1:]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", ["a b", "1st", "_hidden", "a/b", "half-open"])
def test_names_are_words(name: str) -> None:
    with pytest.raises(ValueError, match=r"letters, digits and underscores"):
        mask_fields(name)


@pytest.mark.parametrize("name", ["scores", "present", "visible_boxes", "visible_in_pixels", "coarse"])
def test_a_name_does_not_end_as_fields_do(name: str) -> None:
    with pytest.raises(ValueError, match=rf"'{name}'; it must not end in"):
        mask_fields(name)
