"""Pooling from a pyramid: which level pools a region, against the paper's equation, and that level's ROIAlign."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from maskrcnn_benchmark.layers import multi_level_roi_align, roi_align
from tests.devices import DEVICES
from tests.layers.roi_align_reference import level_reference

FORMATS = (torch.contiguous_format, torch.channels_last)
SCALES = (0.25, 0.125, 0.0625, 0.03125)


def pyramid(channels: int = 5, images: int = 2, device: str = "cpu", layout=torch.contiguous_format) -> list:
    """Maps of a 320 x 240 image, the coarser ones rounded up."""
    sizes = [(60, 80), (30, 40), (15, 20), (8, 10)]
    maps = [torch.randn(images, channels, *size, dtype=torch.float64) for size in sizes]
    return [level.to(device).contiguous(memory_format=layout) for level in maps]


def rois_of_all_sizes(count: int = 120, images: int = 2) -> torch.Tensor:
    sizes = torch.exp(torch.rand(count, 2) * 5.5 + 1)  # 3 to 660 pixels
    corners = torch.rand(count, 2) * torch.tensor([320.0, 240.0]) - sizes / 2
    return torch.cat([torch.randint(0, images, (count, 1)), corners, corners + sizes], dim=1)


def by_level(maps, rois, levels, size, samples, aligned):
    pooled = torch.empty(len(rois), maps[0].shape[1], *size, dtype=maps[0].dtype, device=rois.device)
    for level, scale in enumerate(SCALES):
        rows = (levels == level).to(rois.device)
        pooled[rows] = roi_align(maps[level], rois[rows], size, scale, samples, aligned)
    return pooled


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("canonical", [(224.0, 4.0), (100.0, 3.0), (60.0, 3.5)])
def test_values_and_gradients_match_one_level_at_a_time(canonical, offset, layout, device):
    maps = [level.requires_grad_() for level in pyramid(device=device, layout=layout)]
    rois = rois_of_all_sizes()
    levels = torch.tensor([level_reference(roi, 4, 2, *canonical, offset) for roi in rois])
    assert levels.unique().numel() >= 3
    rois = rois.to(device)
    size, level = canonical
    pooled = multi_level_roi_align(
        maps, rois, (3, 2), SCALES, 2, True, canonical_size=size, canonical_level=level, offset=offset
    )
    expected = by_level(maps, rois, levels, (3, 2), 2, True)
    assert pooled.is_contiguous(memory_format=layout)
    torch.testing.assert_close(pooled, expected)
    weights = torch.randn_like(expected)
    grads = torch.autograd.grad(pooled, maps, weights)
    for grad, expected_grad in zip(grads, torch.autograd.grad(expected, maps, weights), strict=True):
        assert grad.is_contiguous(memory_format=layout)
        torch.testing.assert_close(grad, expected_grad)


def test_matches_torchvisions_pooler_on_half_open_boxes(torchvision_ops):
    maps = pyramid()
    rois = rois_of_all_sizes()
    # torchvision reads the strides off the sizes, which must halve exactly
    maps[3] = torch.randn(2, 5, 7, 10, dtype=torch.float64)
    pooler = torchvision_ops.MultiScaleRoIAlign(["0", "1", "2", "3"], 7, 2)
    boxes = [rois[rois[:, 0] == image, 1:].double() for image in (0, 1)]
    expected = pooler({str(i): level for i, level in enumerate(maps)}, boxes, [(240, 320)] * 2)
    rois = torch.cat([rois[rois[:, 0] == image] for image in (0, 1)])
    torch.testing.assert_close(multi_level_roi_align(maps, rois, 7, SCALES, 2, offset=0), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_the_boundaries_between_levels(device):
    maps = [torch.full((1, 1, 8, 8), float(level), device=device) for level in range(4)]

    def level_of(side: float, offset: int) -> float:
        near, far = 16 - side / 2, 16 + side / 2  # one sample, on all maps
        roi = torch.tensor([[0, near, near, far, far]], device=device, dtype=torch.float64)
        return multi_level_roi_align(maps, roi, 1, SCALES, 1, offset=offset).item()

    assert [level_of(side, 0) for side in (111.9, 112, 223.9, 224, 447.9, 448, 5000)] == [0, 1, 1, 2, 2, 3, 3]
    assert [level_of(side, 1) for side in (110.9, 111, 222.9, 223, 446.9, 447)] == [0, 1, 1, 2, 2, 3]
    assert level_of(0, 0) == 0  # no area: the finest level


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        ({}, 1 - 1e-6),
        ({"level_eps": 1e-4}, 1 - 1e-4),
        ({"level_eps": 1e-8}, 1 - 1e-8),
        ({"level_eps": 1e-6, "level_eps_after_log": True}, 2**-1e-6),
        ({"level_eps": 1e-3, "level_eps_after_log": True}, 2**-1e-3),
    ],
)
def test_the_epsilon_of_the_level(rule, threshold, device, implementation):
    """A region of `threshold` times the canonical size is the smallest of that level."""
    maps = [torch.full((1, 1, 8, 8), float(level), device=device, dtype=torch.float64) for level in range(4)]
    slack = (1 - threshold) / 100
    sides = 224 * torch.tensor([threshold + slack, threshold - slack, 1, 0], dtype=torch.float64, device=device)
    for offset in (0, 1):
        near, far = 16 - (sides - offset) / 2, 16 + (sides - offset) / 2  # one sample, on all maps
        rois = torch.stack([0 * near, near, near, far, far], dim=1)
        assert multi_level_roi_align(maps, rois, 1, SCALES, 1, offset=offset, **rule).flatten().tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_in_nothing_out_and_levels_that_nothing_uses(device):
    maps = [level.requires_grad_() for level in pyramid(device=device)]
    pooled = multi_level_roi_align(maps, torch.zeros(0, 5, device=device), 7, SCALES, 2)
    assert pooled.shape == (0, 5, 7, 7)
    pooled.sum().backward()
    assert all(torch.equal(level.grad, torch.zeros_like(level)) for level in maps)
    small = torch.tensor([[1, 10.0, 10.0, 40.0, 40.0]], device=device)
    grads = torch.autograd.grad(multi_level_roi_align(maps, small, 7, SCALES, 2).sum(), maps)
    assert [bool(grad.any()) for grad in grads] == [True, False, False, False]
    assert not grads[0][0].any()  # of the other image


@pytest.mark.parametrize("device", DEVICES)
def test_one_level_is_plain_roi_align(device):
    maps, rois = pyramid(device=device)[2], rois_of_all_sizes().to(device)
    pooled = multi_level_roi_align([maps], rois, 14, [0.0625], 2)
    assert torch.equal(pooled, roi_align(maps, rois, 14, 0.0625, 2))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("layout", FORMATS)
def test_other_types_and_mixed_formats(layout, dtype, tolerance, device):
    maps, rois = pyramid(20, device=device, layout=layout), rois_of_all_sizes().to(device)
    other = torch.channels_last if layout is torch.contiguous_format else torch.contiguous_format
    typed = [level.to(dtype) for level in maps]
    typed[2] = typed[2].contiguous(memory_format=other)  # pools in the format of the first level
    typed = [level.requires_grad_() for level in typed]
    pooled = multi_level_roi_align(typed, rois, 7, SCALES, 2)
    assert pooled.dtype == dtype and pooled.is_contiguous(memory_format=layout)
    weights = torch.rand_like(pooled)
    grads = torch.autograd.grad(pooled, typed, weights)
    wide = [level.detach().double().requires_grad_() for level in typed]
    expected = multi_level_roi_align(wide, rois, 7, SCALES, 2)
    torch.testing.assert_close(pooled.double(), expected, rtol=tolerance, atol=tolerance)
    for grad, expected_grad in zip(grads, torch.autograd.grad(expected, wide, weights.double()), strict=True):
        assert grad.dtype == dtype
        torch.testing.assert_close(grad.double(), expected_grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", FORMATS)
def test_deterministic_gradients_have_the_same_bits_every_time(layout, device, deterministic_algorithms):
    maps = [level.float().requires_grad_() for level in pyramid(20, device=device, layout=layout)]
    rois = rois_of_all_sizes().to(device)
    pooled = multi_level_roi_align(maps, rois, 7, SCALES, 2)
    weights = torch.randn_like(pooled)
    grads = [torch.autograd.grad(pooled, maps, weights, retain_graph=True) for _ in range(3)]
    for again in grads[1:]:
        assert all(torch.equal(grad, same) for grad, same in zip(again, grads[0], strict=True))
    wide = [level.detach().double().requires_grad_() for level in maps]
    expected = torch.autograd.grad(multi_level_roi_align(wide, rois, 7, SCALES, 2), wide, weights.double())
    for grad, expected_grad in zip(grads[0], expected, strict=True):
        assert grad.is_contiguous(memory_format=layout)
        torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_nan_infinite_and_huge_rois_are_harmless(device, implementation):
    inf, nan = float("inf"), float("nan")
    rois = torch.tensor(
        [
            [0, nan, 0, 5, 5],
            [1, 0, 0, inf, inf],
            [0, -inf, -inf, inf, inf],
            [1, -1e30, -1e30, 1e30, 1e30],
            [0, 9, 9, 2, 2],
        ],
        device=device,
    )
    for samples in (0, 2):
        maps = [level.requires_grad_() for level in pyramid(device=device)]
        pooled = multi_level_roi_align(maps, rois, 3, SCALES, samples)
        assert pooled.isfinite().all() and not pooled[:3].any() and pooled[4].any()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(pooled.sum(), maps))


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_leaves_types_alone_and_strides_do_not_matter(device):
    maps, rois = pyramid(device=device), rois_of_all_sizes().to(device)
    expected = multi_level_roi_align(maps, rois, 3, SCALES, 2)
    strided = [level.repeat_interleave(2, dim=1)[:, ::2] for level in maps]
    wide_rois = torch.cat([rois, rois], dim=1)[:, :5]
    assert not strided[0].is_contiguous() and not wide_rois.is_contiguous()
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(multi_level_roi_align(strided, wide_rois, 3, SCALES, 2), expected)


def test_several_python_threads_at_once():
    maps, rois = [level.requires_grad_() for level in pyramid(20)], rois_of_all_sizes()

    def gradients(_: int) -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(multi_level_roi_align(maps, rois, 7, SCALES, 2).square().sum(), maps)

    expected = gradients(0)
    with ThreadPoolExecutor(4) as pool:
        for grads in pool.map(gradients, range(8)):
            assert all(torch.equal(grad, value) for grad, value in zip(grads, expected, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_numerically(device):
    maps = [torch.randn(2, 1, side, side, dtype=torch.float64, device=device) for side in (6, 3, 2)]
    rois = torch.tensor([[0, 1.0, 2.0, 9.0, 8.0], [1, 0, 0, 24, 20], [1, -8, -9, 60, 70]], device=device)

    def pool(*maps):
        return multi_level_roi_align(maps, rois, 2, SCALES[:3], 2, canonical_size=20.0, canonical_level=3)

    maps = [level.requires_grad_() for level in maps]
    assert gradcheck(pool, maps)
    assert gradgradcheck(pool, maps)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", FORMATS)
def test_registration(layout, device):
    maps = [level.float().requires_grad_() for level in pyramid(device=device, layout=layout)]
    rois = rois_of_all_sizes(9).to(device)
    op = torch.ops.maskrcnn_benchmark.multi_level_roi_align.default
    torch.library.opcheck(op, (maps, rois, list(SCALES), 3, 2, 2, True, 224.0, 4.0, 1))
    sizes = [2, 5, 60, 80, 30, 40, 15, 20, 8, 10]
    grad = torch.randn(9, 5, 3, 2, device=device, requires_grad=True)
    for deterministic in (False, True):
        arguments = (
            grad,
            rois,
            sizes,
            list(SCALES),
            2,
            True,
            224.0,
            4.0,
            1,
            layout is torch.channels_last,
            deterministic,
        )
        torch.library.opcheck(torch.ops.maskrcnn_benchmark.multi_level_roi_align_backward.default, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic):
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=dynamic)
    def loss(maps, rois):
        return multi_level_roi_align(maps, rois, 3, SCALES, 2).square().sum()

    maps = [level.requires_grad_() for level in pyramid()]
    rois = rois_of_all_sizes()
    for count in (120, 60):
        compiled = torch.autograd.grad(loss(maps, rois[:count]), maps)
        eager = torch.autograd.grad(multi_level_roi_align(maps, rois[:count], 3, SCALES, 2).square().sum(), maps)
        torch.testing.assert_close(compiled, eager)


def test_messages():
    maps, rois = pyramid(), rois_of_all_sizes()
    with pytest.raises(RuntimeError, match="4 feature levels but 3 scales"):
        multi_level_roi_align(maps, rois, 7, SCALES[:3], 2)
    with pytest.raises(RuntimeError, match="scales must halve from level to level; got 0.25 and then 0.0625"):
        multi_level_roi_align(maps[:2], rois, 7, SCALES[::2], 2)
    with pytest.raises(RuntimeError, match="no feature levels"):
        multi_level_roi_align([], rois, 7, [], 2)
    with pytest.raises(RuntimeError, match="level 1 holds 1 images of 5 channels, level 0 2 of 5"):
        multi_level_roi_align([maps[0], maps[1][:1]], rois, 7, SCALES[:2], 2)
    with pytest.raises(RuntimeError, match="level 1 is Float, level 0 Double"):
        multi_level_roi_align([maps[0], maps[1].float()], rois, 7, SCALES[:2], 2)
    with pytest.raises(RuntimeError, match=r"offset must be 1 \(inclusive\) or 0 \(half-open\); got 2"):
        multi_level_roi_align(maps, rois, 7, SCALES, 2, offset=2)
    with pytest.raises(RuntimeError, match="features and rois must be on one device"):
        multi_level_roi_align(maps, rois.to("meta"), 7, SCALES, 2)
    with pytest.raises(RuntimeError, match=r"rois must be \(R, 5\)"):
        multi_level_roi_align(maps, rois[:, 1:], 7, SCALES, 2)
