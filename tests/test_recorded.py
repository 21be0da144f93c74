"""A loss and its gradients, recorded on CUDA and differentiated anew elsewhere."""

import pytest
import torch
from torch import nn

from utils.training.recorded import Gradients

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
]


@pytest.mark.parametrize("device", DEVICES)
def test_every_call_sets_the_gradients_of_its_own_inputs(device):
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, padding=1).to(device)
    parameters = list(layer.parameters())

    def objective(x, target):
        loss = (layer(x) - target).square().mean()
        return loss, {"loss": loss.detach(), "size": x.abs().mean()}

    gradients = Gradients(objective, parameters)
    for _ in range(6):
        x, target = torch.randn(2, 3, 5, 5, device=device), torch.randn(2, 4, 5, 5, device=device)
        loss, terms = gradients(x, target)
        wanted, _ = objective(x, target)
        expected = torch.autograd.grad(wanted, parameters)
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(terms["size"], x.abs().mean())
        for p, gradient in zip(parameters, expected):
            torch.testing.assert_close(p.grad, gradient, rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            for p in parameters:
                p.sub_(p.grad, alpha=0.1)  # the next call sees the moved weights
                p.grad = None  # and needs nothing of this one


def test_a_loss_without_a_path_to_the_parameters_is_an_error():
    layer = nn.Conv2d(1, 1, 1)
    with pytest.raises(RuntimeError):
        Gradients(lambda x: (x.mean(), {}), list(layer.parameters()))(torch.zeros(1, 1, 2, 2))
