"""The simulated device itself: CUDA's rules, and what counts as waiting."""

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.layers import keypoint_ops, nms, nms_padded
from tests.simulated_cuda import NO_SIMULATION, CudaTensor, simulated_cuda

pytestmark = pytest.mark.skipif(NO_SIMULATION is not None, reason=str(NO_SIMULATION))


@pytest.fixture
def device():
    with simulated_cuda() as simulated:
        yield simulated


def test_tensors_say_that_they_are_on_the_device(device):
    for tensor in (
        torch.ones(2, 3, device="cuda"),
        torch.tensor([1.0, 2.0], device="cuda"),
        torch.ones(2).to("cuda"),
        torch.ones(2).cuda(),
        torch.arange(3, device="cuda:0").float(),
        torch.ones(2, device="cuda").new_zeros(5),
        torch.zeros_like(torch.ones(2), device="cuda"),
    ):
        assert isinstance(tensor, CudaTensor) and tensor.device == torch.device("cuda:0") and tensor.is_cuda
    assert not isinstance(torch.ones(2, device="cuda").cpu(), CudaTensor)


def test_results_views_and_gradients(device):
    weights = torch.arange(6.0).view(2, 3)
    there = weights.to("cuda").requires_grad_()
    (there.exp()[:, 1:] * torch.tensor(2.0)).sum().backward()
    expected = 2 * weights.exp()
    expected[:, 0] = 0
    assert torch.equal(there.grad.held, expected)
    table = torch.zeros(3, 2, device="cuda")
    table[1] += 1  # through a view
    table[[0, 2], 1] = torch.tensor([5.0, 6.0], device="cuda")
    assert table.tolist() == [[0, 5], [1, 1], [0, 6]] and table[[2, 0]].tolist() == [[0, 6], [0, 5]]
    assert torch.nn.Linear(3, 1).to("cuda")(there).shape == (2, 1)


@pytest.mark.parametrize(
    "work",
    [
        lambda there: there + torch.ones(4),
        lambda there: torch.cat([there, torch.ones(1)]),
        lambda there: torch.stack([there.sum(), torch.tensor(1.0)]),
        lambda there: torch.ones(4)[there.long()],
        lambda there: torch.where(there > 0, there, torch.ones(4)),
        lambda there: nms(torch.ones(4, 4), there, 0.5),
        lambda there: there.index_select(0, torch.tensor([1])),
    ],
)
def test_operands_on_two_devices_are_refused(device, work):
    with pytest.raises(RuntimeError, match="on the same device"):
        work(torch.ones(4, device="cuda"))


def test_no_numpy(device):
    there = torch.ones(1, 2, 3, 3, device="cuda")
    for work in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises(TypeError, match="numpy"):
            work()


BOXES = [[0.0, 0, 9, 9], [1, 1, 9, 9], [20, 20, 29, 29], [0, 0, 1, 1]]


@pytest.mark.parametrize(
    ("work", "waits"),
    [
        (lambda there: there.sum().item(), 1),
        (lambda there: bool(there.any()), 1),
        (lambda there: there.tolist(), 1),
        (lambda there: there.cpu(), 1),
        (lambda there: there.to("cpu", non_blocking=True), 0),
        (lambda there: torch.ones(4).to("cuda"), 1),
        (lambda there: torch.ones(4).to("cuda", non_blocking=True), 0),
        (lambda there: torch.ones(20000).to("cuda", non_blocking=True), 1),  # large, and not in page-locked memory
        (lambda there: torch.ones(20000).pin_memory().to("cuda", non_blocking=True), 0),
        (lambda there: torch.ones(20000, pin_memory=True).to("cuda", non_blocking=True), 0),
        (lambda there: there.copy_(torch.ones(4)), 1),
        (lambda there: there.copy_(torch.ones(4), non_blocking=True), 0),
        (lambda there: torch.tensor([1.0], device="cuda"), 1),
        (lambda there: there.new_tensor([1.0]), 1),
        (lambda there: there.new_full((3,), 1.0), 0),
        (lambda there: there.nonzero(), 1),
        (lambda there: there[there > 0], 1),
        (lambda there: there[there.long()], 0),
        (lambda there: there[[0, 1]], 1),  # a list is copied to the device
        (lambda there: there[:2], 0),
        (lambda there: there.unique(), 1),
        (lambda there: there.repeat_interleave(there.long()), 1),
        (lambda there: there.repeat_interleave(there.long(), output_size=4), 0),
        (lambda there: there.__setitem__(there > 0, 2.0), 0),  # PyTorch turns it into masked_fill
        (lambda there: there.__setitem__(there > 0, there[:1]), 1),
        (lambda there: there.__setitem__(slice(1, 3), 2.0), 0),
        (lambda there: there.masked_fill(there > 0, 2.0), 0),
        (lambda there: torch.where(there > 0, there, 2.0), 0),
        (lambda there: torch.where(there > 0, there, torch.tensor(2.0)), 1),
        (lambda there: there + torch.tensor(2.0), 0),  # a number, which the kernel is given
        (lambda there: torch.cuda.Event().synchronize(), 1),
        (lambda there: nms(torch.tensor(BOXES).to("cuda", non_blocking=True), there, 0.5), 1),
        (lambda there: nms_padded(torch.tensor(BOXES).to("cuda", non_blocking=True), there, 0.5, 4), 0),
    ],
)
def test_what_waits(device, work, waits):
    there = torch.ones(4, device="cuda")
    work(there)
    assert device.waits.total() == waits


def test_a_wait_has_a_place(device):
    there = torch.ones(1, 2, 4, 4, device="cuda")
    keypoint_ops.decode_heatmaps(there, torch.ones(1, 4, device="cuda").cumsum(1), "bicubic")
    assert list(device.waits) == [("layers/reference/keypoints.py:decode_bicubic", "_to_copy")]
    device.waits.clear()
    there.sum().item()
    assert list(device.waits) == [("test_simulated_cuda.py:test_a_wait_has_a_place", "_local_scalar_dense")]


def test_nothing_of_it_is_left_afterwards():
    with simulated_cuda():
        there = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="outside of simulated_cuda"):
        there + 1
    weights = torch.ones(3, requires_grad=True)
    weights.sum().backward()
    assert weights.grad.tolist() == [1, 1, 1]
