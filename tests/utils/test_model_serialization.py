"""Weights find their place by name and by declared rules; everything else is reported."""

import logging
from collections import OrderedDict

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.layers.norm import FrozenBatchNorm2d
from maskrcnn_benchmark.utils.model_serialization import NameRules, PrefixRule, load_weights, strip_prefix_if_present

RULES = NameRules(prefixes=(PrefixRule("", "backbone.body."), PrefixRule("backbone.", "backbone.body.")))


def tree(**children):
    return nn.Sequential(OrderedDict(children))


class Keeper(nn.Module):
    """Keeps its buffer, whatever a file says, and notes what the file says."""

    keeps_buffers = True

    def __init__(self, size):
        super().__init__()
        self.register_buffer("table", torch.zeros(size))
        self.seen = []

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if f"{prefix}table" in state_dict:
            self.seen.append(state_dict[f"{prefix}table"].tolist())
        state_dict[f"{prefix}table"] = self.table
        super()._load_from_state_dict(state_dict, prefix, *args)


def hrnet_like(norm=nn.BatchNorm2d):
    body = tree(conv1=nn.Conv2d(3, 4, 3, bias=False), bn1=norm(4), layer1=tree(conv1=nn.Conv2d(4, 4, 1, bias=False)))
    refine = tree(conv1=nn.Conv2d(3, 4, 3, bias=False), bn1=nn.BatchNorm2d(4))
    return tree(backbone=tree(body=body, neck=nn.Conv2d(4, 2, 1)), roi_heads=tree(refine=refine))


def random_state(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 5
        for name, value in model.state_dict().items()
    }


def test_equal_names_load_completely():
    model = hrnet_like()
    state = random_state(model)
    report = load_weights(model, {f"module.{name}": value for name, value in state.items()})
    assert report.complete
    assert sorted(report.loaded) == sorted(state)
    assert not (report.unused or report.renamed)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_the_prefix_of_wrappers_is_only_taken_off_where_all_have_it():
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    assert strip_prefix_if_present(mixed) == mixed
    assert list(strip_prefix_if_present({"module.a": 1, "module.b": 2})) == ["a", "b"]


def test_a_body_trained_on_imagenet_goes_into_the_body_and_nowhere_else():
    model = hrnet_like()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    body = random_state(model.backbone.body)
    report = load_weights(model, {**body, "classifier.weight": torch.ones(1000, 8)}, RULES)
    assert report.renamed["backbone.body.bn1.running_var"] == "bn1.running_var"
    assert report.unused == ["classifier.weight"]
    assert report.fresh_parts() == {"backbone.neck": 2, "roi_heads": 5}  # the count of batches is nobody's loss
    for name, value in model.state_dict().items():
        expected = body.get(name.removeprefix("backbone.body."), before[name])
        assert torch.equal(value, expected), name  # refine.conv1 and refine.bn1 are as they were


def test_equal_names_win_over_rules():
    model = tree(conv1=nn.Conv2d(3, 4, 1, bias=False), backbone=tree(body=tree(conv1=nn.Conv2d(3, 4, 1, bias=False))))
    before = model.backbone.body.conv1.weight.clone()
    report = load_weights(model, {"conv1.weight": torch.ones(4, 3, 1, 1)}, RULES)
    assert report.loaded == ["conv1.weight"] and not report.renamed
    assert torch.equal(model.backbone.body.conv1.weight, before)


def test_other_shapes_are_skipped_and_reported(caplog):
    model = tree(predictor=tree(cls_score=nn.Linear(4, 2), bbox_pred=nn.Linear(4, 8)))
    before = model.predictor.cls_score.weight.clone()
    state = random_state(tree(predictor=tree(cls_score=nn.Linear(4, 81), bbox_pred=nn.Linear(4, 8))))
    report = load_weights(model, state)
    assert report.mis_shaped == {
        "predictor.cls_score.weight": ((2, 4), (81, 4)),
        "predictor.cls_score.bias": ((2,), (81,)),
    }
    assert torch.equal(model.predictor.cls_score.weight, before)
    assert torch.equal(model.predictor.bbox_pred.weight, state["predictor.bbox_pred.weight"])
    with caplog.at_level(logging.INFO):
        report.log(logging.getLogger("test"), "weights.pth")
    assert "weights.pth: 2 of 4 tensors of the model loaded" in caplog.text
    assert "different shape, skipped: predictor.cls_score.weight is (2, 4) here and (81, 4) in the file" in caplog.text
    assert "parts that start fresh, with their number of tensors: predictor.cls_score (2)" in caplog.text


def test_a_file_without_refine_weights_says_so_in_one_line(caplog):
    model = hrnet_like()
    state = {name: value for name, value in random_state(model).items() if ".refine." not in name}
    report = load_weights(model, state)
    with caplog.at_level(logging.WARNING):
        report.log(logging.getLogger("test"), "weights.pth")
    assert [record.getMessage() for record in caplog.records] == [
        "parts that start fresh, with their number of tensors: roi_heads (5)"
    ]


def test_missing_single_tensors_are_named_beside_whole_modules():
    model = hrnet_like()
    state = random_state(model)
    for name in list(state):
        if name == "backbone.neck.bias" or name.startswith("roi_heads.refine.bn1"):
            del state[name]
    parts = load_weights(model, state).fresh_parts()
    assert parts == {"backbone.neck.bias": 1, "roi_heads.refine.bn1": 4}


def test_norm_layers_of_another_kind_neither_miss_nor_waste_their_counters():
    batch_norm, frozen = hrnet_like(nn.BatchNorm2d), hrnet_like(FrozenBatchNorm2d)
    into_frozen = load_weights(frozen, random_state(batch_norm))
    into_batch_norm = load_weights(batch_norm, random_state(frozen))
    assert into_frozen.complete and into_batch_norm.complete
    assert not into_frozen.unused and not into_batch_norm.unused


def test_a_module_that_keeps_its_buffers_sees_those_of_the_file_in_any_shape():
    model = tree(rpn=tree(anchors=Keeper(2), conv=nn.Linear(1, 1)), other=nn.Linear(1, 1, bias=False))
    state = {"rpn.conv.weight": torch.ones(1, 1), "rpn.conv.bias": torch.ones(1), "other.weight": torch.ones(1, 1)}
    for table in (torch.ones(2), torch.ones(3)):
        report = load_weights(model, {**state, "rpn.anchors.table": table})
        assert report.complete and not report.unused and "rpn.anchors.table" in report.loaded
        assert model.rpn.anchors.table.tolist() == [0, 0]
    assert model.rpn.anchors.seen == [[1, 1], [1, 1, 1]]
    without = load_weights(model, {"other.weight": torch.ones(1, 1)})
    assert "rpn.anchors.table" not in (*without.loaded, *without.missing)
    assert without.fresh_parts() == {"rpn": 2}


def test_a_module_may_read_its_older_names():
    class Renamed(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            if f"{prefix}kernel" in state_dict:
                state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}kernel")
            super()._load_from_state_dict(state_dict, prefix, *args)

    model = tree(head=Renamed(2, 2, bias=False))
    report = load_weights(model, {"head.kernel": torch.full((2, 2), 9.0), "stray": torch.ones(1)})
    assert report.loaded == ["head.weight"] and report.unused == ["stray"]
    assert model.head.weight.eq(9).all()


def test_half_precision_files_and_entries_that_are_no_tensors():
    model = tree(head=nn.Linear(2, 2, bias=False))
    report = load_weights(model, {"head.weight": torch.ones(2, 2, dtype=torch.float16), "version": 3})
    assert report.complete and model.head.weight.dtype == torch.float32


@pytest.mark.parametrize("prefix", ["head.", "old."])
def test_older_names_are_read_through_a_rule_too(prefix):
    class Renamed(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *args):
            if f"{prefix}kernel" in state_dict:
                state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}kernel")
            super()._load_from_state_dict(state_dict, prefix, *args)

    model = tree(head=Renamed(2, 2, bias=False))
    rules = NameRules(prefixes=(PrefixRule("old.", "head."),))
    state = {f"{prefix}kernel": torch.full((2, 2), 9.0), f"{prefix}stray": torch.ones(1)}
    report = load_weights(model, state, rules)
    assert report.loaded == ["head.weight"] and report.unused == [f"{prefix}stray"]
    assert model.head.weight.eq(9).all()


def test_one_tensor_may_go_to_several_places_and_a_rule_into_the_model_wins():
    model = tree(a=nn.Linear(1, 1, bias=False), b=nn.Linear(1, 1, bias=False), c=nn.Module())
    rules = NameRules(prefixes=(PrefixRule("c.", "a."), PrefixRule("c.", "b."), PrefixRule("c.", "nowhere.")))
    report = load_weights(model, {"c.weight": torch.full((1, 1), 3.0)}, rules)
    assert report.renamed == {"a.weight": "c.weight", "b.weight": "c.weight"} and not report.unused
    assert model.a.weight.item() == model.b.weight.item() == 3


def test_ignored_endings_are_not_reported():
    state = {"head.weight": torch.ones(2, 2), "head.bias": torch.ones(2), "head.eps": torch.ones(1)}
    assert load_weights(tree(head=nn.Linear(2, 2)), state).unused == ["head.eps"]
    assert load_weights(tree(head=nn.Linear(2, 2)), state, NameRules(ignored=(".eps",))).unused == []


@pytest.mark.parametrize("state", [{}, {"other": torch.ones(2)}])
def test_nothing_that_fits(state):
    report = load_weights(tree(head=nn.Linear(2, 2)), state)
    assert not report.loaded
    assert report.missing == ["head.weight", "head.bias"]
