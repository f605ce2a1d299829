"""ROIAlign against plain loops and torchvision: values, gradients, formats, types, edges, messages."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from maskrcnn_benchmark.layers import ROIAlign, roi_align
from tests.devices import DEVICES
from tests.layers.roi_align_reference import roi_align_reference

FORMATS = (torch.contiguous_format, torch.channels_last)
TOLERANCES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}

# on maps of 11 x 13 cells at scale 0.5, of two images: inside, fractional, whole image, off either corner, one pixel,
# of no size, inverted, larger than the image, far away
ROIS = torch.tensor(
    [
        [0, 2.0, 4.0, 20.0, 18.0],
        [1, 3.3, 1.7, 9.1, 15.2],
        [0, 0.0, 0.0, 25.0, 21.0],
        [1, -9.0, -7.0, 6.0, 5.0],
        [0, 18.0, 15.0, 40.0, 33.0],
        [1, 8.0, 8.0, 9.0, 9.0],
        [0, 7.0, 5.0, 7.0, 5.0],
        [1, 15.0, 14.0, 6.0, 3.0],
        [0, -30.0, -40.0, 60.0, 70.0],
        [1, 500.0, 500.0, 520.0, 530.0],
    ]
)


def feature_maps(channels: int = 3, device: str = "cpu") -> torch.Tensor:
    return torch.randn(2, channels, 11, 13, dtype=torch.float64).to(device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 2, 3])
def test_values_and_gradients_match_plain_loops(samples, aligned, device):
    reference_maps = feature_maps().requires_grad_()
    expected = roi_align_reference(reference_maps, ROIS, (2, 3), 0.5, samples, aligned)
    weights = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, reference_maps, weights)
    for layout in FORMATS:
        maps = reference_maps.detach().to(device).contiguous(memory_format=layout).requires_grad_()
        pooled = roi_align(maps, ROIS.to(device), (2, 3), 0.5, samples, aligned)
        (grad,) = torch.autograd.grad(pooled, maps, weights.to(device))
        torch.testing.assert_close(pooled.cpu(), expected)
        torch.testing.assert_close(grad.cpu(), expected_grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(("size", "samples"), [((128, 1), 2), ((129, 1), 2), ((9, 1), 29), ((1, 300), 1)])
def test_grids_of_many_samples_match_plain_loops(size, samples, layout, device):
    # a GPU tabulates up to 256 samples per axis and works out more as it goes
    maps, rois = feature_maps(2).contiguous(memory_format=layout).requires_grad_(), ROIS[[1, 3, 8]]
    expected = roi_align_reference(maps, rois, size, 0.5, samples, False)
    weights = torch.randn_like(expected)
    (expected_grad,) = torch.autograd.grad(expected, maps, weights)
    on_device = maps.detach().to(device).requires_grad_()
    pooled = roi_align(on_device, rois.to(device), size, 0.5, samples, False)
    torch.testing.assert_close(pooled.cpu(), expected)
    (grad,) = torch.autograd.grad(pooled, on_device, weights.to(device))
    torch.testing.assert_close(grad.cpu(), expected_grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("channels", [1, 15, 16, 75, 130])
def test_every_type_format_and_number_of_channels(channels, dtype, device):
    reference_maps = feature_maps(channels).to(dtype).double().requires_grad_()
    expected = roi_align_reference(reference_maps, ROIS, (3, 3), 0.5, 2, True)
    weights = torch.rand_like(expected).to(dtype)
    (expected_grad,) = torch.autograd.grad(expected, reference_maps, weights.double())
    tolerance = TOLERANCES[dtype]
    for layout in FORMATS:
        maps = reference_maps.detach().to(device, dtype).contiguous(memory_format=layout).requires_grad_()
        pooled = roi_align(maps, ROIS.to(device), 3, 0.5, 2, True)
        (grad,) = torch.autograd.grad(pooled, maps, weights.to(device))
        assert pooled.dtype == grad.dtype == dtype
        if channels > 1:
            assert pooled.is_contiguous(memory_format=layout) and grad.is_contiguous(memory_format=layout)
        torch.testing.assert_close(pooled.cpu().double(), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(grad.cpu().double(), expected_grad, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("samples", [0, 2])
def test_many_rois_of_all_sizes_match_torchvision(samples, device, torchvision_ops):
    maps = torch.randn(2, 33, 50, 68, dtype=torch.float64)
    corners = torch.rand(300, 2) * torch.tensor([280.0, 210.0]) - 10
    sizes = torch.rand(300, 2).pow(2) * 250
    rois = torch.cat([torch.randint(0, 2, (300, 1)), corners, corners + sizes], dim=1)
    expected = torchvision_ops.roi_align(maps, rois.double(), 7, 0.25, samples)
    for layout in FORMATS:
        pooled = roi_align(maps.to(device).contiguous(memory_format=layout), rois.to(device), 7, 0.25, samples)
        # adaptive sampling rounds up, so a size that is a whole number but for rounding may differ by a sample
        torch.testing.assert_close(pooled.cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
def test_half_maps_take_rois_in_full_precision(device):
    maps = feature_maps(4, device).half()
    rois = torch.tensor([[0, 1000.3, 1000.6, 1010.9, 1008.2]], device=device)  # half precision knows these to 0.5 pixel
    pooled = roi_align(maps, rois, 2, 0.01, 2)
    expected = roi_align_reference(maps.cpu(), rois.cpu(), (2, 2), 0.01, 2)
    torch.testing.assert_close(pooled.cpu().double(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_leaves_types_alone(device):
    maps, rois = feature_maps(4, device), ROIS.to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        for dtype in (torch.float32, torch.bfloat16):
            typed = maps.to(dtype).requires_grad_()
            pooled = roi_align(typed, rois, 2, 0.5, 2)
            assert pooled.dtype == dtype
            assert torch.autograd.grad(pooled.sum(), typed)[0].dtype == dtype


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("aligned", [False, True])
def test_constant_maps_pool_to_the_constant(aligned, device):
    maps = torch.full((1, 5, 20, 20), 3.0, device=device)
    rois = torch.tensor([[0, 4.0, 4.0, 60.0, 70.0], [0, 30.0, 30.0, 31.0, 31.0]], device=device)
    torch.testing.assert_close(roi_align(maps, rois, 7, 0.25, 2, aligned), torch.full((2, 5, 7, 7), 3.0, device=device))


@pytest.mark.parametrize("device", DEVICES)
def test_a_ramp_pools_to_the_centres_of_the_bins(device):
    ramp = torch.arange(40.0, device=device).expand(1, 1, 30, 40)
    roi = torch.tensor([[0, 16.0, 16.0, 72.0, 44.0]], device=device)  # x: cells 4 to 18, seven bins of two cells
    pooled = roi_align(ramp, roi, 7, 0.25, 2, aligned=False)
    torch.testing.assert_close(pooled[0, 0, 0], 5.0 + 2 * torch.arange(7.0, device=device))
    shifted = roi_align(ramp, roi, 7, 0.25, 2, aligned=True)
    torch.testing.assert_close(shifted, pooled - 0.5)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_in_nothing_out(device, implementation):
    maps = feature_maps(3, device).requires_grad_()
    none = torch.zeros(0, 5, device=device)
    pooled = roi_align(maps, none, (2, 3), 0.5, 2)
    assert pooled.shape == (0, 3, 2, 3)
    pooled.sum().backward()
    assert torch.equal(maps.grad, torch.zeros_like(maps))
    assert roi_align(maps[:0], none, 2, 0.5, 2).shape == (0, 3, 2, 2)
    assert roi_align(maps[:, :0], ROIS.to(device), 2, 0.5, 2).shape == (10, 0, 2, 2)
    assert not roi_align(maps[:, :, :0], ROIS.to(device), 2, 0.5, 2).any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("samples", [0, 2])
def test_nan_infinite_and_huge_rois_are_harmless(samples, device, implementation):
    inf, nan = float("inf"), float("nan")
    rois = torch.tensor(
        [
            [0, nan, 0, 5, 5],
            [0, 0, 0, inf, inf],
            [0, -inf, -inf, inf, inf],
            [0, -1e30, -1e30, 1e30, 1e30],
            [0, 0, 0, 9, 9],
        ],
        device=device,
    )
    for layout in FORMATS:
        maps = feature_maps(20, device).contiguous(memory_format=layout).requires_grad_()
        pooled = roi_align(maps, rois, 2, 0.5, samples)
        assert pooled.isfinite().all() and not pooled[:3].any() and pooled[4].any()
        pooled.sum().backward()
        assert maps.grad.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_layouts_that_are_neither_plain_nor_channels_last(device):
    maps = feature_maps(6, device)
    rois = ROIS.to(device)
    expected = roi_align(maps[:, ::2].contiguous(), rois, 2, 0.5, 2)
    torch.testing.assert_close(roi_align(maps[:, ::2], rois, 2, 0.5, 2), expected)
    transposed = maps[:, ::2].transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    pooled = roi_align(transposed, rois, 2, 0.5, 2)
    torch.testing.assert_close(pooled, expected)
    (grad,) = torch.autograd.grad(pooled.sum(), transposed)
    assert grad.shape == transposed.shape
    wide_rois = torch.cat([rois, rois], dim=1)[:, :5]  # rows further apart than five
    torch.testing.assert_close(roi_align(maps[:, ::2], wide_rois, 2, 0.5, 2), expected)


def test_cpu_gradients_are_deterministic_without_being_asked_and_may_be_expanded():
    maps = torch.randn(2, 40, 30, 30).requires_grad_()
    rois = crowded_rois()
    grads = [torch.autograd.grad(roi_align(maps, rois, 7, 0.5, 2).sum(), maps)[0] for _ in range(3)]
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):  # the number of threads does not change the order of a sum
            torch.set_num_threads(count)
            assert torch.equal(torch.autograd.grad(roi_align(maps, rois, 7, 0.5, 2).sum(), maps)[0], grads[0])
    finally:
        torch.set_num_threads(threads)


def crowded_rois(count: int = 200) -> torch.Tensor:
    """On maps of two images with 30 x 30 cells at scale 0.5: every cell in many of them."""
    return torch.cat([torch.randint(0, 2, (count, 1)), torch.rand(count, 4) * 60], dim=1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_deterministic_gradients_have_the_same_bits_every_time(dtype, layout, device, deterministic_algorithms):
    maps = torch.randn(2, 10, 30, 30).to(device, dtype).contiguous(memory_format=layout).requires_grad_()
    rois, weights = crowded_rois(100).to(device), torch.randn(100, 10, 7, 7).to(device, dtype)
    pooled = roi_align(maps, rois, 7, 0.5, 2)
    grads = [torch.autograd.grad(pooled, maps, weights, retain_graph=True)[0] for _ in range(3)]
    assert grads[0].dtype == dtype and grads[0].is_contiguous(memory_format=layout)
    assert torch.equal(grads[0], grads[1]) and torch.equal(grads[0], grads[2])
    wide = maps.detach().double().requires_grad_()
    (expected,) = torch.autograd.grad(roi_align(wide, rois, 7, 0.5, 2), wide, weights.double())
    torch.testing.assert_close(grads[0].double(), expected, rtol=TOLERANCES[dtype], atol=4 * TOLERANCES[dtype])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("dtype", "precision", "power"),
    [
        *((torch.float64, 2**-40, power) for power in (-1074, -1020, 0, 1010)),
        *((torch.float32, 2**-20, power) for power in (-140, 0, 115)),
    ],
)
def test_deterministic_gradients_of_every_magnitude(power, dtype, precision, device):
    rois = crowded_rois().to(device)
    grad = torch.randn(200, 3, 2, 2, dtype=torch.float64) * torch.rand(200, 3, 2, 2, dtype=torch.float64) ** 9
    grad[0, 0, 0, 0] = -4  # the largest
    grad = (grad * 2.0**power).to(device, dtype)

    def backward(deterministic: bool) -> torch.Tensor:
        return torch.ops.maskrcnn_benchmark.roi_align_backward(
            grad, rois, [2, 3, 30, 30], 0.5, 2, False, False, deterministic
        )

    error = (backward(True).double() - backward(False).double()).abs().max()
    smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    assert error <= precision * grad.double().abs().max() + 400 * smallest  # sums of the smallest numbers are rounded
    assert not torch.ops.maskrcnn_benchmark.roi_align_backward(
        torch.zeros_like(grad), rois, [2, 3, 30, 30], 0.5, 2, False, False, True
    ).any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("odd", [float("inf"), -float("inf"), float("nan")])
def test_deterministic_gradients_that_are_not_finite(odd, dtype, device, deterministic_algorithms):
    maps = torch.randn(1, 3, 8, 8).to(device, dtype).requires_grad_()
    rois = torch.tensor([[0, 1.0, 1.0, 3.0, 3.0], [0, 5.0, 5.0, 7.0, 7.0]], device=device)
    weights = torch.ones(2, 3, 2, 2, dtype=dtype, device=device)
    weights[1, 2, 1, 0] = odd
    (grad,) = torch.autograd.grad(roi_align(maps, rois, 2, 1.0, 2), maps, weights)
    assert not grad[0, 2, 5:8, 5:8].isfinite().all()
    if device == "cuda":
        assert grad.isnan().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("start", [1, 2, 4])
def test_every_type_may_begin_anywhere_in_memory(start, dtype, device):
    memory = torch.randn(2 * 11 * 13 * 16 + start).to(device, dtype)
    maps = memory[start:].view(2, 11, 13, 16).permute(0, 3, 1, 2)
    assert maps.is_contiguous(memory_format=torch.channels_last) and maps.storage_offset() == start
    rois = ROIS.to(device)
    assert torch.equal(roi_align(maps, rois, 3, 0.5, 2), roi_align(maps.clone(), rois, 3, 0.5, 2))


@pytest.mark.parametrize("layout", FORMATS)
def test_several_python_threads_at_once(layout):
    maps = torch.randn(2, 40, 30, 30).contiguous(memory_format=layout).requires_grad_()
    rois = crowded_rois(100)

    def pool_and_gradient(_: int) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = roi_align(maps, rois, 7, 0.5, 2)
        return pooled.detach(), torch.autograd.grad(pooled.square().sum(), maps)[0]

    expected = pool_and_gradient(0)
    with ThreadPoolExecutor(4) as pool:
        for results in pool.map(pool_and_gradient, range(16)):
            assert all(torch.equal(result, value) for result, value in zip(results, expected, strict=True))


GIB = 2**30


def free_memory(device: str) -> int:
    """Bytes that can be had without swapping; 0 where the system does not say."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    report = Path("/proc/meminfo")
    facts = dict(line.split(":") for line in report.read_text().splitlines()) if report.exists() else {}
    return int(facts.get("MemAvailable", "0 kB").split()[0]) * 1024


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", FORMATS)
def test_more_elements_than_32_bits_count(layout, device):
    if free_memory(device) < 12 * GIB:
        pytest.skip(f"needs 12 GiB of free memory; {free_memory(device) / GIB:.1f} are there")
    channels, side = 33, 8192  # 2.2e9 elements; the last cells of the last channel lie beyond 2^31
    stored = (1, side, side, channels) if layout is torch.channels_last else (1, channels, side, side)
    maps = torch.empty(stored, dtype=torch.bfloat16, device=device)  # pages that nobody touches cost no time on a CPU
    maps = maps.permute(0, 3, 1, 2) if layout is torch.channels_last else maps
    assert maps.numel() > 2**31 and maps.is_contiguous(memory_format=layout)
    corner = torch.randn(1, channels, 40, 40).to(torch.bfloat16)
    maps[:, :, -40:, -40:] = corner.to(device)
    rois = torch.tensor([[0, 5.0, 7.0, 29.0, 36.0], [0, 22.0, 23.0, 39.0, 39.0], [0, 20.0, 20.0, 60.0, 90.0]])
    far = rois + torch.tensor([0.0, *[side - 40.0] * 4])
    pooled = roi_align(maps, far.to(device), 7, 1.0, 2)
    near = corner.double().requires_grad_()
    expected = roi_align(near, rois, 7, 1.0, 2)
    torch.testing.assert_close(pooled.cpu().double(), expected, rtol=1e-2, atol=1e-2)
    if device == "cpu" and layout is torch.channels_last:
        return  # one time is enough: writing 4 GiB to new pages takes ten seconds
    del maps
    grad = torch.rand_like(pooled)
    maps_grad = torch.ops.maskrcnn_benchmark.roi_align_backward(
        grad, far.to(device), [1, channels, side, side], 1.0, 2, False, layout is torch.channels_last, False
    )
    (expected_grad,) = torch.autograd.grad(expected, near, grad.cpu().double())
    torch.testing.assert_close(maps_grad[:, :, -40:, -40:].cpu().double(), expected_grad, rtol=2e-2, atol=2e-2)
    assert not maps_grad[:, :, :64].any() and not maps_grad[:, :, 4096:4160].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", FORMATS)
def test_gradients_numerically(layout, device):
    maps = torch.randn(2, 2, 5, 6, dtype=torch.float64, device=device).contiguous(memory_format=layout)
    rois = ROIS.to(device) * torch.tensor([1, 0.5, 0.5, 0.5, 0.5], device=device)

    def pool(maps):
        return roi_align(maps, rois, (2, 2), 0.5, 0, True)

    assert gradcheck(pool, (maps.requires_grad_(),))
    assert gradgradcheck(pool, (maps,))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", FORMATS)
def test_registration(layout, device):
    maps = feature_maps(3, device).float().contiguous(memory_format=layout).requires_grad_()
    rois = ROIS.to(device)
    torch.library.opcheck(torch.ops.maskrcnn_benchmark.roi_align.default, (maps, rois, 0.5, 2, 3, 2, True))
    grad = torch.randn(10, 3, 2, 3, device=device, requires_grad=True)
    for deterministic in (False, True):
        arguments = (grad, rois, list(maps.shape), 0.5, 2, True, layout is torch.channels_last, deterministic)
        torch.library.opcheck(torch.ops.maskrcnn_benchmark.roi_align_backward.default, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(dynamic):
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=dynamic)
    def loss(maps, rois):
        return roi_align(maps * 2, rois, 3, 0.5, 2).square().sum()

    maps = feature_maps().float().requires_grad_()
    for rois in (ROIS, ROIS[:4]):
        compiled = torch.autograd.grad(loss(maps, rois), maps)[0]
        eager = torch.autograd.grad(roi_align(maps * 2, rois, 3, 0.5, 2).square().sum(), maps)[0]
        torch.testing.assert_close(compiled, eager)


def test_module_keeps_its_settings():
    module = ROIAlign((2, 3), 0.5, 2, aligned=True)
    maps = feature_maps()
    assert torch.equal(module(maps, ROIS), roi_align(maps, ROIS, (2, 3), 0.5, 2, True))
    assert repr(module) == "ROIAlign(output_size=(2, 3), spatial_scale=0.5, sampling_ratio=2, aligned=True)"
    adaptive = ROIAlign(2, 0.5, -1)  # torchvision's way to ask for adaptive sampling
    assert torch.equal(adaptive(maps, ROIS), roi_align(maps, ROIS, 2, 0.5, 0))


def test_messages():
    maps = feature_maps()
    with pytest.raises(RuntimeError, match=r"rois must be \(R, 5\).*got 2 dimensions and 4 columns"):
        roi_align(maps, ROIS[:, 1:], 2, 0.5, 2)
    with pytest.raises(RuntimeError, match="rois must be of a floating type; got Long"):
        roi_align(maps, ROIS.long(), 2, 0.5, 2)
    with pytest.raises(RuntimeError, match=r"features must be \(N, C, H, W\); got 3 dimensions"):
        roi_align(maps[0], ROIS, 2, 0.5, 2)
    with pytest.raises(RuntimeError, match="features must be float32, float64, float16 or bfloat16; got Int"):
        roi_align(maps.int(), ROIS, 2, 0.5, 2)
    with pytest.raises(RuntimeError, match="output size must be positive; got 0 x 2"):
        roi_align(maps, ROIS, (0, 2), 0.5, 2)
    with pytest.raises(RuntimeError, match="features and rois must be on one device"):
        roi_align(maps, ROIS.to("meta"), 2, 0.5, 2)
    with pytest.raises(RuntimeError, match=r"scale \(cells per pixel\) must be positive; got 0"):
        roi_align(maps, ROIS, 2, 0.0, 2)


def test_messages_about_images_that_are_not_there():
    maps = feature_maps()
    with pytest.raises(RuntimeError, match="roi 1 is of image 1, but features hold 1 images"):
        roi_align(maps[:1], ROIS, 2, 0.5, 2)
    with pytest.raises(RuntimeError, match="roi 0 is of image -1"):
        roi_align(maps, ROIS - 1, 2, 0.5, 2)
    with pytest.raises(RuntimeError, match="roi 0 is of image nan"):
        roi_align(maps, ROIS * float("nan"), 2, 0.5, 2)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize(("channels", "bins"), [(256, 7), (130, 9)])  # whole cache lines, and not
def test_a_result_larger_than_caches_equals_its_parts(channels, bins, layout):
    size = 34 << 20
    count = size // (4 * channels * bins**2) + 1
    maps = torch.randn(2, channels, 20, 24).contiguous(memory_format=layout)
    rois = torch.rand(count, 5) * torch.tensor([0.0, 60, 50, 40, 30])
    rois[:, 0], rois[:, 3:] = torch.arange(count) % 2, rois[:, 3:] + rois[:, 1:3]
    whole = roi_align(maps, rois, bins, 0.25, 2)
    assert whole.nbytes > size
    parts = [roi_align(maps, some, bins, 0.25, 2) for some in rois.split(count // 3)]
    assert torch.equal(whole, torch.cat(parts))
