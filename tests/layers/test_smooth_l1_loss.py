import pytest
import torch
from torch.autograd import gradcheck

from maskrcnn_benchmark.layers.smooth_l1_loss import smooth_l1_loss


@pytest.mark.parametrize("beta", [1 / 9, 1.0, 0.0])
def test_values(beta):
    difference = torch.tensor([0.0, 0.05, -0.1, 0.5, -3.0])
    target = torch.randn(5)
    expected = [0.5 * d * d / beta if abs(d) < beta else abs(d) - 0.5 * beta for d in difference.tolist()]
    total = smooth_l1_loss(target + difference, target, beta, size_average=False)
    torch.testing.assert_close(total, torch.tensor(sum(expected)), atol=1e-5, rtol=1e-5)
    mean = smooth_l1_loss(target + difference, target, beta)
    torch.testing.assert_close(mean, torch.tensor(sum(expected) / 5), atol=1e-5, rtol=1e-5)


def test_gradient():
    values = torch.randn(4, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda v: smooth_l1_loss(v, torch.zeros(4, 4, dtype=torch.float64)), (values,))


@pytest.mark.parametrize("size_average", [True, False])
def test_the_loss_of_nothing_is_a_zero_with_a_gradient(size_average):
    nothing = torch.zeros(0, 4, requires_grad=True)
    loss = smooth_l1_loss(nothing, torch.zeros(0, 4), size_average=size_average)
    assert loss == 0
    loss.backward()
    assert nothing.grad.shape == (0, 4)
