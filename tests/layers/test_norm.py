"""Norm layers against PyTorch's own, and against hand-made files."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from maskrcnn_benchmark.layers.norm import (
    NORMS,
    FrozenBatchNorm2d,
    LayerNorm2d,
    NormSettings,
    SyncBatchNorm2d,
    freeze,
    group_norm,
    make_norm,
    num_groups_for,
)
from tests.devices import DEVICES


def trained_batch_norm(channels: int, eps: float = 1e-5) -> nn.BatchNorm2d:
    """A batch norm in eval mode whose every number matters; some variances are as small as the epsilon."""
    norm = nn.BatchNorm2d(channels, eps=eps)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
        norm.running_var[::2] = 2e-5
    norm.num_batches_tracked.fill_(7)
    return norm.eval()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_frozen_batch_norm_equals_evaluated_batch_norm(device, memory_format):
    reference = trained_batch_norm(6).to(device)
    frozen = FrozenBatchNorm2d(6, eps=1e-5).to(device)
    report = frozen.load_state_dict(reference.state_dict())
    assert not report.missing_keys and not report.unexpected_keys  # the count of batches is swallowed
    images = torch.randn(2, 6, 5, 7, device=device).to(memory_format=memory_format)
    out = frozen(images)
    torch.testing.assert_close(out, reference(images), rtol=1e-5, atol=1e-4)
    assert out.is_contiguous(memory_format=memory_format)


def test_frozen_batch_norm_is_constant():
    frozen = FrozenBatchNorm2d(3, eps=1e-3)
    frozen.load_state_dict(trained_batch_norm(3).state_dict())
    assert not list(frozen.parameters())
    assert set(frozen.state_dict()) == {"weight", "bias", "running_mean", "running_var"}
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    images = torch.randn(2, 3, 4, 4, requires_grad=True)
    frozen.train()(images).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in frozen.state_dict().items())
    # d sum / d x = weight / sqrt(var + eps), the same for each cell of a channel
    slope = before["weight"] / (before["running_var"] + 1e-3).sqrt()
    torch.testing.assert_close(images.grad, slope.view(1, 3, 1, 1).expand_as(images))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_frozen_batch_norm_keeps_the_dtype(dtype):
    assert FrozenBatchNorm2d(3)(torch.randn(1, 3, 2, 2, dtype=dtype)).dtype is dtype


@pytest.mark.parametrize("eps_of_layer", [0.0, 1e-5, 1e-3])
def test_epsilon_of_a_file_is_honoured(eps_of_layer):
    reference = trained_batch_norm(4, eps=1e-5)
    file = {**reference.state_dict(), "eps": torch.full((4,), 1e-5)}
    frozen = FrozenBatchNorm2d(4, eps=eps_of_layer)
    report = frozen.load_state_dict(file)
    assert not report.missing_keys and not report.unexpected_keys
    images = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(frozen(images), reference(images), rtol=1e-4, atol=1e-4)
    # What it saves gives the same layer again, without the extra entry.
    again = FrozenBatchNorm2d(4, eps=eps_of_layer)
    again.load_state_dict(frozen.state_dict())
    assert "eps" not in frozen.state_dict() and torch.equal(again(images), frozen(images))


def test_epsilon_of_a_file_may_differ_between_channels():
    statistics = trained_batch_norm(3, eps=0.0)
    eps = torch.tensor([0.0, 1e-5, 0.25])
    nested = nn.Sequential(nn.Identity(), FrozenBatchNorm2d(3, eps=1e-5))
    file = {f"1.{name}": value for name, value in statistics.state_dict().items()} | {"1.eps": eps}
    nested.load_state_dict(file)
    images = torch.randn(1, 3, 2, 2)
    scale = statistics.weight / (statistics.running_var + eps).sqrt()
    expected = (images - statistics.running_mean.view(1, 3, 1, 1)) * scale.view(1, 3, 1, 1)
    torch.testing.assert_close(nested(images), expected + statistics.bias.view(1, 3, 1, 1), rtol=1e-4, atol=1e-4)
    # The layer's own epsilon in the file leaves the statistics bit for bit; the caller's dict is as it was.
    assert nested[1].running_var[1] == statistics.running_var[1]
    assert "1.eps" in file and torch.equal(file["1.running_var"], statistics.running_var)


@pytest.mark.parametrize(
    ("channels", "num_groups", "dim_per_group", "expected"),
    [
        (64, 32, -1, 32),  # divides: as asked, with two channels a group
        (256, 32, -1, 32),
        (256, -1, 16, 16),
        (16, 32, -1, 4),  # does not divide: groups of four channels and more
        (18, 32, -1, 3),
        (36, 32, -1, 9),
        (144, 32, -1, 24),
        (7, 32, -1, 1),
        (2, 32, -1, 1),
    ],
)
def test_number_of_groups(channels, num_groups, dim_per_group, expected):
    assert num_groups_for(channels, num_groups, dim_per_group) == expected
    assert group_norm(channels, num_groups=num_groups, dim_per_group=dim_per_group).num_groups == expected


def test_wrong_groups_and_names_are_explained():
    with pytest.raises(ValueError, match="DIM_PER_GP is 5, which does not divide a layer of 16 channels"):
        num_groups_for(16, 32, 5)
    with pytest.raises(ValueError, match="NUM_GROUPS is -1 and GROUP_NORM.DIM_PER_GP is -1"):
        num_groups_for(16, -1, -1)
    with pytest.raises(ValueError, match=r"'LayerNorm' is not known; expected one of '', 'FrozenBN', 'BN'"):
        make_norm("LayerNorm", 8)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("", nn.Identity), ("FrozenBN", FrozenBatchNorm2d), ("BN", nn.BatchNorm2d), ("SyncBN", nn.SyncBatchNorm),
     ("GN", nn.GroupNorm), ("LN", LayerNorm2d)],
)  # fmt: skip
def test_make_norm(name, kind):
    norm = make_norm(name, 8, eps=1e-3)
    assert isinstance(norm, kind)
    assert getattr(norm, "eps", 1e-3) == 1e-3
    assert norm(torch.randn(2, 8, 3, 3)).shape == (2, 8, 3, 3)


def test_every_registered_norm_is_covered():
    assert list(NORMS) == ["", "FrozenBN", "BN", "SyncBN", "GN", "LN"]


def test_a_users_norm_gets_the_settings(monkeypatch):
    seen = []

    def instance_norm(channels, settings):
        seen.append(settings)
        return nn.InstanceNorm2d(channels, eps=settings.eps)

    monkeypatch.setitem(NORMS, "IN", instance_norm)
    assert isinstance(make_norm("IN", 8, eps=1e-3, num_groups=4), nn.InstanceNorm2d)
    assert seen == [NormSettings(eps=1e-3, num_groups=4, dim_per_group=-1)]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_layer_norm_of_maps_normalises_the_channels_of_each_cell(memory_format):
    norm = LayerNorm2d(6, eps=1e-3)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    maps = torch.randn(2, 6, 3, 5).to(memory_format=memory_format)
    mean, variance = maps.mean(dim=1, keepdim=True), maps.var(dim=1, unbiased=False, keepdim=True)
    weight, bias = norm.weight.view(1, 6, 1, 1), norm.bias.view(1, 6, 1, 1)
    out = norm(maps)
    torch.testing.assert_close(out, (maps - mean) / (variance + 1e-3).sqrt() * weight + bias, rtol=1e-4, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert norm(torch.randn(2, 6, 0, 5)).shape == (2, 6, 0, 5)


def test_layer_norm_of_vectors_is_pytorchs():
    vectors = torch.randn(4, 6)
    torch.testing.assert_close(LayerNorm2d(6)(vectors), nn.LayerNorm(6)(vectors))
    assert list(LayerNorm2d(6).state_dict()) == ["weight", "bias"]


def test_freeze_turns_batch_norms_into_constants():
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(trained_batch_norm(4), nn.GroupNorm(2, 4)))
    images = torch.randn(2, 3, 4, 4)
    expected = layers.eval()(images)
    keys = [key for key in layers.state_dict() if "num_batches" not in key]
    frozen = freeze(layers).train()
    torch.testing.assert_close(frozen(images), expected)
    assert isinstance(frozen[1][0], FrozenBatchNorm2d)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert list(frozen.state_dict()) == keys
    assert isinstance(freeze(nn.BatchNorm2d(2)), FrozenBatchNorm2d)


def _norm_one_part(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    part = torch.load(f"{folder}/part{rank}.pt")
    norm = SyncBatchNorm2d(3)
    norm.load_state_dict(part["norm"])
    images = part["images"].requires_grad_()
    out = norm(images)
    (out * part["factors"]).sum().backward()
    gradients = {"weight": norm.weight.grad, "bias": norm.bias.grad, "images": images.grad}
    torch.save({"out": out.detach(), "state": norm.state_dict(), **gradients}, f"{folder}/result{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_sync_batch_norm_of_two_cpu_processes_equals_batch_norm_of_all(tmp_path):
    reference = trained_batch_norm(3).train()
    images = (torch.randn(5, 3, 4, 6) * 3 + 2).requires_grad_()
    factors = torch.randn(5, 3, 4, 6)
    parts = [slice(0, 2), slice(2, 5)]  # of different size: a mean of means would be wrong
    for rank, part in enumerate(parts):
        content = {"norm": reference.state_dict(), "images": images.detach()[part].clone(), "factors": factors[part]}
        torch.save(content, tmp_path / f"part{rank}.pt")
    mp.spawn(_norm_one_part, args=(str(tmp_path),), nprocs=2)

    out = reference(images)
    (out * factors).sum().backward()
    results = [torch.load(tmp_path / f"result{rank}.pt") for rank in range(2)]
    torch.testing.assert_close(torch.cat([result["out"] for result in results]), out.detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat([r["images"] for r in results]), images.grad, rtol=1e-3, atol=1e-5)
    for name in ("weight", "bias"):  # each process holds its own share, which DDP adds up
        total = results[0][name] + results[1][name]
        torch.testing.assert_close(total, getattr(reference, name).grad, rtol=1e-4, atol=1e-4)
    for result in results:
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(result["state"][name], value, rtol=1e-5, atol=1e-6)


def test_sync_batch_norm_alone_is_batch_norm():
    norm, reference = SyncBatchNorm2d(3), nn.BatchNorm2d(3)
    images = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(norm(images), reference(images))
    torch.testing.assert_close(norm.eval()(images), reference.eval()(images))
