"""SOAP: plain Adam where nothing is rotated, faster where directions are mixed, and a state that resumes."""

import copy

import pytest
import torch
from torch import nn

from utils.training.soap import SOAP


def test_without_rotation_it_is_adam():
    torch.manual_seed(0)
    a = nn.Linear(6, 5)
    b = copy.deepcopy(a)
    ours = SOAP([{"params": list(a.parameters()), "rotate": False}], lr=1e-2, betas=(0.9, 0.98), weight_decay=0.01)
    adam = torch.optim.AdamW(b.parameters(), lr=1e-2, betas=(0.9, 0.98), weight_decay=0.01)
    x = torch.randn(32, 6)
    for _ in range(30):
        for model, optimizer in ((a, ours), (b, adam)):
            optimizer.zero_grad()
            (model(x) - x[:, :5].sin()).square().mean().backward()
            optimizer.step()
    for p, q in zip(a.parameters(), b.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)


def train(optimizer_of, steps=300) -> float:
    """Loss of a convolution seen through fixed mixtures of its inputs and outputs, of scales far apart."""
    torch.manual_seed(1)
    model, target = (nn.Conv2d(8, 8, 3, bias=False).to(memory_format=torch.channels_last) for _ in range(2))
    spectrum = torch.logspace(0, -1.5, 8)
    mixing_in, mixing_out = (torch.linalg.qr(torch.randn(8, 8))[0] @ torch.diag(spectrum) for _ in range(2))
    optimizer = optimizer_of(list(model.parameters()))

    def loss(x):
        mixed = torch.einsum("ij,bjhw->bihw", mixing_in, x)
        difference = model(mixed) - target(mixed).detach()
        return torch.einsum("ij,bjhw->bihw", mixing_out, difference).square().mean()

    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randn(8, 8, 6, 6)).backward()
        optimizer.step()
    return loss(torch.randn(64, 8, 6, 6)).item()


@pytest.mark.slow
def test_rotation_helps_where_directions_are_mixed():
    soap = train(lambda parameters: SOAP(parameters, lr=1e-2, weight_decay=0.0))
    adam = train(lambda parameters: torch.optim.AdamW(parameters, lr=1e-2, betas=(0.95, 0.95), weight_decay=0.0))
    assert soap < 0.9 * adam


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_saved_state_goes_on_as_if_nothing_had_been(layout):
    def run(optimizer, model, steps, seed):
        torch.manual_seed(seed)
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(2, 4, 5, 5)).square().mean().backward()
            optimizer.step()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(6, 3, 1)).to(memory_format=layout)
    optimizer = SOAP(model.parameters(), lr=1e-3, refresh=5)
    run(optimizer, model, 13, 1)
    other = copy.deepcopy(model)
    resumed = SOAP(other.parameters(), lr=1e-3, refresh=5)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    run(optimizer, model, 9, 2)
    run(resumed, other, 9, 2)
    for p, q in zip(model.parameters(), other.parameters()):
        assert torch.equal(p, q)


def test_closures_are_refused():
    with pytest.raises(ValueError, match="closure"):
        SOAP([nn.Parameter(torch.zeros(2))], lr=1e-3).step(lambda: 0)
