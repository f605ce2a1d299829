"""Which masks a BoxList has, and one of them as the plain one."""

import pytest
import torch

from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.fields import mask_fields
from maskrcnn_benchmark.structures.named_masks import mask_names, predicted_masks, with_mask
from maskrcnn_benchmark.structures.segmentation_mask import SegmentationMask

VISIBLE, AMODAL = mask_fields("visible"), mask_fields("amodal")


def boxes(**values):
    boxlist = BoxList([[0.0, 0, 9, 9], [5.0, 5, 12, 19]], (20, 30))
    for name, value in values.items():
        boxlist.add_field(name, value)
    return boxlist


def maps(value):
    return torch.full((2, 1, 4, 4), float(value))


def test_names_of_predicted_masks_and_of_ground_truth():
    assert mask_names(boxes(labels=torch.ones(2))) == [] and mask_names(boxes(mask=maps(1))) == [""]
    found = boxes(mask=maps(1), mask_amodal=maps(2), mask_amodal_scores=torch.ones(2), mask_visible=maps(1))
    assert mask_names(found) == ["amodal", "visible"], "in the order of the fields, without the plain one"
    assert [names.name for names in predicted_masks(found)] == ["", "amodal", "visible"]
    truth = SegmentationMask(torch.zeros(2, 30, 20), (20, 30))
    found.add_field("masks_other", truth)
    assert mask_names(found) == ["amodal", "visible"], "predictions take precedence"
    assert mask_names(boxes(masks=truth, masks_present=torch.ones(2), masks_other=truth)) == ["other"]
    assert mask_names(boxes(masks=truth)) == [""]


def test_other_fields_that_begin_like_a_mask_are_none():
    assert mask_names(boxes(mask_quality=torch.ones(2), mask_2=maps(1), mask_visible_boxes=boxes())) == []


def test_a_named_mask_takes_the_place_of_the_plain_one():
    found = boxes(scores=torch.ones(2), mask=maps(1), mask_scores=torch.ones(2), mask_visible=maps(2))
    found.add_field(AMODAL.mask, maps(3))
    found.add_field(AMODAL.boxes, boxes())
    found.add_field(AMODAL.coarse, maps(4))
    amodal = with_mask(found, "amodal")
    assert set(amodal.fields()) == {fields.SCORES, fields.MASK, fields.MASK_BOXES, fields.COARSE_MASK}
    assert amodal.get_field(fields.MASK) is found.get_field(AMODAL.mask)
    assert amodal.get_field(fields.COARSE_MASK) is found.get_field(AMODAL.coarse)
    assert set(with_mask(found, "visible").fields()) == {fields.SCORES, fields.MASK}
    assert with_mask(found, "") is found and torch.equal(amodal.bbox, found.bbox)


def test_ground_truth_takes_its_presence_along():
    truth = boxes()
    truth.add_field(VISIBLE.truth, SegmentationMask(torch.zeros(2, 30, 20), (20, 30)))
    truth.add_field(VISIBLE.present, torch.tensor([True, False]))
    assert with_mask(truth, "visible").get_field(fields.MASKS_PRESENT).tolist() == [True, False]
    with pytest.raises(KeyError, match="no field 'masks'"):
        with_mask(truth, "amodal").get_field(fields.MASKS)
