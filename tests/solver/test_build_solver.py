"""Parameter groups, optimisers, clipping and the running mean."""

import copy
import math
import re

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.config import ConfigError, get_cfg, load_config
from maskrcnn_benchmark.solver import (
    LR_SCHEDULERS,
    OPTIMIZERS,
    ModelEMA,
    WarmupCosineLR,
    WarmupLR,
    WarmupMultiStepLR,
    find_solver_problems,
    make_ema,
    make_gradient_clipper,
    make_lr_scheduler,
    make_optimizer,
    warmup_settings,
)
from tests.devices import DEVICES


def small_model():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.Linear(4, 2)
    )


def settings_by_name(optimizer):
    return {
        name: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for name in group["param_names"]
    }


def test_weights_and_biases_get_their_settings_in_two_groups():
    cfg = load_config(opts=["SOLVER.BASE_LR", 0.1, "SOLVER.WEIGHT_DECAY", 0.01, "SOLVER.WEIGHT_DECAY_BIAS", 0.5])
    model = small_model()
    optimizer = make_optimizer(cfg, model)
    assert [group["kind"] for group in optimizer.param_groups] == ["weights", "biases"]
    expected = {name: (0.2, 0.5) if name.endswith("bias") else (0.1, 0.01) for name, _ in model.named_parameters()}
    assert settings_by_name(optimizer) == expected
    assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_scales_of_norm_layers_apart():
    cfg = load_config(opts=["SOLVER.WEIGHT_DECAY_NORM", 0.0, "SOLVER.BIAS_LR_FACTOR", 1])
    settings = settings_by_name(make_optimizer(cfg, small_model()))
    assert {name for name, (_, decay) in settings.items() if decay == 0.0005} == {"0.weight", "2.weight", "4.weight"}
    assert {rate for rate, _ in settings.values()} == {0.001}


def test_frozen_and_shared_parameters():
    model = small_model()
    model[0].requires_grad_(False)
    model.append(model[2])  # one module at two places
    optimizer = make_optimizer(get_cfg(), model)
    names = [name for group in optimizer.param_groups for name in group["param_names"]]
    assert sorted(names) == ["1.bias", "1.weight", "2.weight", "3.bias", "3.weight", "4.bias", "4.weight"]
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="no parameter of the model learns"):
        make_optimizer(get_cfg(), model)


def test_a_large_model_still_has_few_groups():
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(100)))
    assert len(make_optimizer(get_cfg(), model).param_groups) == 2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_steps_equal_those_of_pytorch_with_a_group_per_parameter(device, name):
    cfg = load_config(opts=["SOLVER.OPTIMIZER", name, "SOLVER.BASE_LR", 0.01])
    model = small_model().double().to(device)
    twin = copy.deepcopy(model)
    ours = make_optimizer(cfg, model)
    groups = [
        {
            "params": [parameter],
            "lr": 0.02 if "bias" in key else 0.01,
            "weight_decay": 0.0 if "bias" in key else 0.0005,
        }
        for key, parameter in twin.named_parameters()
    ]
    plain = torch.optim.SGD(groups, momentum=0.9) if name == "SGD" else torch.optim.AdamW(groups)
    for step in range(4):
        for own, other in zip(model.parameters(), twin.parameters(), strict=True):
            own.grad = torch.full_like(own, 0.1 * (step + 1))
            other.grad = own.grad.clone()
        ours.step()
        plain.step()
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other)


BAD_VALUES = [
    (["SOLVER.OPTIMIZER", "Adagrad"], "SOLVER.OPTIMIZER is 'Adagrad'; expected one of 'SGD', 'AdamW'"),
    (["SOLVER.LR_SCHEDULER", "Poly"], "SOLVER.LR_SCHEDULER is 'Poly'; expected one of 'WarmupMultiStepLR', "),
    (["SOLVER.WARMUP_METHOD", "slow"], "SOLVER.WARMUP_METHOD is 'slow'; expected one of 'linear', 'constant'"),
    (["SOLVER.STEPS", (20, 10)], "SOLVER.STEPS is (20, 10); expected rising iterations"),
    (["SOLVER.EMA_DECAY", 1.0], "SOLVER.EMA_DECAY is 1.0; expected 0 (off), or less than 1"),
    (["SOLVER.CLIP_GRADIENTS.TYPE", "sign"], "SOLVER.CLIP_GRADIENTS.TYPE is 'sign'; expected one of 'norm', 'value'"),
    (["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.VALUE", 0.0], "else no gradient is left"),
]


def build_all(cfg):
    model = small_model()
    make_ema(cfg, model), make_gradient_clipper(cfg)
    make_lr_scheduler(cfg, make_optimizer(cfg, model))


@pytest.mark.parametrize(("options", "message"), BAD_VALUES)
def test_bad_values_are_refused_when_built_and_found_before(options, message):
    cfg = load_config(opts=options)
    with pytest.raises(ConfigError, match=re.escape(message)):
        build_all(cfg)
    (problem,) = find_solver_problems(cfg)
    assert message in problem
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_config(opts=options, checks=[find_solver_problems])


def test_all_bad_values_are_found_together_and_no_random_number_is_drawn():
    cfg = load_config(opts=[word for options, _ in BAD_VALUES for word in options])
    state = torch.get_rng_state()
    assert len(find_solver_problems(cfg)) == 5, "the schedule itself is not built if its name is unknown"
    assert torch.equal(torch.get_rng_state(), state)
    assert (
        find_solver_problems(load_config(opts=["SOLVER.LR_SCHEDULER", "WarmupCosineLR", "SOLVER.STEPS", (2, 1)])) == []
    )


def test_entries_of_a_user(monkeypatch):
    class HalvedLR(WarmupLR):
        def factor(self, iteration):
            return 0.5

        @classmethod
        def from_cfg(cls, cfg, optimizer):
            if cfg.SOLVER.GAMMA > 1:
                raise ValueError("SOLVER.GAMMA is above 1")
            return cls(optimizer, **warmup_settings(cfg))

    def build_adagrad(cfg, groups):
        return torch.optim.Adagrad(groups, lr=cfg.SOLVER.BASE_LR)

    monkeypatch.setitem(LR_SCHEDULERS, "HalvedLR", HalvedLR.from_cfg)
    monkeypatch.setitem(OPTIMIZERS, "Adagrad", build_adagrad)
    options = ["SOLVER.LR_SCHEDULER", "HalvedLR", "SOLVER.OPTIMIZER", "Adagrad", "SOLVER.WARMUP_ITERS", 0]
    cfg = load_config(opts=options, checks=[find_solver_problems])
    optimizer = make_optimizer(cfg, small_model())
    make_lr_scheduler(cfg, optimizer)
    assert isinstance(optimizer, torch.optim.Adagrad)
    assert [group["lr"] for group in optimizer.param_groups] == [0.0005, 0.001]
    with pytest.raises(ConfigError, match="SOLVER.GAMMA is above 1"):
        load_config(opts=[*options, "SOLVER.GAMMA", 2.0], checks=[find_solver_problems])


def test_schedules_take_their_settings_from_the_config():
    options = ["SOLVER.STEPS", (3, 5), "SOLVER.GAMMA", 0.5, "SOLVER.WARMUP_ITERS", 2, "SOLVER.WARMUP_FACTOR", 0.25]
    cfg = load_config(opts=[*options, "SOLVER.WARMUP_METHOD", "constant"])
    steps = make_lr_scheduler(cfg, make_optimizer(cfg, small_model()))
    assert isinstance(steps, WarmupMultiStepLR)
    assert [steps._warmup(i) * steps.factor(i) for i in range(7)] == [0.25, 0.25, 1, 0.5, 0.5, 0.25, 0.25]
    cfg = load_config(opts=["SOLVER.LR_SCHEDULER", "WarmupCosineLR", "SOLVER.MAX_ITER", 8])
    cosine = make_lr_scheduler(cfg, make_optimizer(cfg, small_model()))
    assert isinstance(cosine, WarmupCosineLR) and cosine.max_iter == 8


# ---- clipping ----


def clipper(*options):
    return make_gradient_clipper(load_config(opts=["SOLVER.CLIP_GRADIENTS.ENABLED", True, *options]))


def parameters_with(*gradients):
    parameters = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        parameters.append(parameter)
    return parameters


def test_no_clipping_by_default():
    assert make_gradient_clipper(get_cfg()) is None


def test_clipping_by_the_length_of_all_gradients():
    clip = clipper("SOLVER.CLIP_GRADIENTS.VALUE", 2.5)
    long = parameters_with([3.0, 0.0], [0.0, 4.0])
    assert clip(long).item() == pytest.approx(5.0)
    torch.testing.assert_close(torch.cat([p.grad for p in long]), torch.tensor([1.5, 0.0, 0.0, 2.0]))
    short = parameters_with([1.0, 2.0])
    assert clip(short).item() == pytest.approx(math.sqrt(5))
    assert short[0].grad.tolist() == [1.0, 2.0]


def test_clipping_in_another_norm_and_by_value():
    options = ["SOLVER.CLIP_GRADIENTS.VALUE", 2.0, "SOLVER.CLIP_GRADIENTS.NORM_TYPE", 1.0]
    parameters = parameters_with([3.0, -5.0])
    assert clipper(*options)(parameters).item() == pytest.approx(8.0)
    torch.testing.assert_close(parameters[0].grad, torch.tensor([0.75, -1.25]))
    parameters = parameters_with([3.0, -5.0, 0.5])
    assert clipper(*options, "SOLVER.CLIP_GRADIENTS.TYPE", "value")(parameters) is None
    assert parameters[0].grad.tolist() == [2.0, -2.0, 0.5]


# ---- running mean ----


@pytest.mark.parametrize("device", DEVICES)
def test_the_running_mean_follows_its_formula(device):
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1)).to(device)
    model[1].weight.requires_grad_(False)
    nn.init.zeros_(model[0].weight)
    ema = ModelEMA(model, decay=0.5)
    mean = 0.0
    for step in range(1, 12):
        nn.init.constant_(model[0].weight, float(step))
        model[1].running_mean.fill_(step)
        model[1].num_batches_tracked.fill_(step)
        ema.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * step
        assert ema.weights["0.weight"].item() == pytest.approx(mean, rel=1e-5)
        assert ema.weights["1.running_mean"].item() == step  # buffers are taken as they are
        assert ema.weights["1.num_batches_tracked"].item() == step


def test_the_mean_is_put_in_and_taken_out_again():
    model = nn.Linear(2, 2)
    ema = ModelEMA(model, 0.9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    own = copy.deepcopy(model.state_dict())
    ema.update(model)
    with pytest.raises(KeyError), ema.applied(model):
        assert not torch.equal(model.weight, own["weight"])
        torch.testing.assert_close(model.weight, ema.weights["weight"])
        raise KeyError
    assert torch.equal(model.weight, own["weight"])


def test_the_mean_resumes_exactly():
    model = nn.Linear(2, 2)
    ema = ModelEMA(model, 0.9)
    ema.update(model)
    state = copy.deepcopy(ema.state_dict())
    other = ModelEMA(nn.Linear(2, 2), 0.9)
    other.load_state_dict(state)
    with torch.no_grad():
        model.weight.mul_(2)
    ema.update(model)
    other.update(model)
    assert other.updates == ema.updates == 2
    assert all(torch.equal(ema.weights[name], other.weights[name]) for name in ema.weights)


def test_a_decay_out_of_range_is_refused():
    with pytest.raises(ValueError, match="the decay is 1.0; expected 0 <= decay < 1"):
        ModelEMA(nn.Linear(1, 1), 1.0)
