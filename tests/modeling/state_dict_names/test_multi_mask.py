"""Weights of a mask head start a multi-mask head, whatever family of files they come from."""

import logging

import pytest
import torch

from maskrcnn_benchmark.modeling.state_dict_names import load_state_dict
from tests.modeling.state_dict_names.models import deterministic
from tests.modeling.tiny import TWO_MASKS, tiny_cfg, tiny_detector

LAST = "predictor.mask_fcn_logits"


def weights_of(*opts):
    state = tiny_detector(tiny_cfg(*opts)).state_dict()
    return {**state, **deterministic({name: value for name, value in state.items() if "anchor" not in name}, 1)}


@pytest.mark.parametrize("beside", [False, True])
def test_each_mask_starts_from_the_mask_head(beside, caplog):
    state = weights_of("MODEL.MASK_ON", True)
    model = tiny_detector(tiny_cfg("MODEL.MASK_ON", beside, *TWO_MASKS))
    report = load_state_dict(model, state)
    assert report.complete and not report.unused and not report.warnings
    loaded = model.state_dict()
    for name, value in state.items():
        if not name.startswith("roi_heads.mask."):
            assert torch.equal(loaded[name], value), name
            continue
        expected = torch.cat([value, value]) if LAST in name else value
        assert torch.equal(loaded[name.replace(".mask.", ".multi_mask.")], expected), name
        if beside:
            assert torch.equal(loaded[name], value)
    assert report.renamed[f"roi_heads.multi_mask.{LAST}.bias"] == f"roi_heads.mask.{LAST}.bias"
    with caplog.at_level(logging.INFO):
        report.log(logging.getLogger("test"), "mask.pth")
    lines = [line for line in caplog.messages if "multi-mask" in line]
    assert lines == [
        "mask.pth: the masks of the multi-mask head (visible, amodal) each start from the mask head of the file"
    ]


def test_masks_without_classes_start_from_the_mean_over_the_classes():
    state = weights_of("MODEL.MASK_ON", True)
    model = tiny_detector(tiny_cfg(*TWO_MASKS, "MODEL.ROI_MULTI_MASK_HEAD.CLS_AGNOSTIC_MASK", True))
    assert load_state_dict(model, state).complete
    for kind in ("weight", "bias"):
        rows = state[f"roi_heads.mask.{LAST}.{kind}"]
        found = model.state_dict()[f"roi_heads.multi_mask.{LAST}.{kind}"]
        torch.testing.assert_close(found, ((rows[1] + rows[2]) / 2)[None].expand_as(found))


def test_a_file_of_a_multi_mask_head_is_loaded_as_it_is():
    both = ("MODEL.MASK_ON", True, *TWO_MASKS)
    state, model = weights_of(*both), tiny_detector(tiny_cfg(*both))
    report = load_state_dict(model, state)
    assert report.complete and not report.notes and not report.renamed
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())


def test_other_numbers_of_classes_start_fresh():
    state = weights_of("MODEL.MASK_ON", True, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 4)
    model = tiny_detector(tiny_cfg(*TWO_MASKS))
    report = load_state_dict(model, state)
    assert f"roi_heads.multi_mask.{LAST}.bias" in report.mis_shaped
    assert "roi_heads.multi_mask.predictor.conv5_mask.weight" in report.loaded
