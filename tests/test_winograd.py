import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models.blocks import stack
from models.bpgan import build_generator
from models.config import ModelConfig
from utils.search import winograd
from utils.search.winograd import FrozenStack, generator_for_search

needs_kernels = pytest.mark.skipif(not winograd.kernels.available(), reason="PyTorch here has no libgomp")


@pytest.fixture
def blocks():
    torch.manual_seed(0)
    blocks = stack(24, 2)
    for block in blocks:  # the second convolution counts, and both have a bias
        block.conv2.weight.data *= 5
        torch.nn.init.normal_(block.conv1.bias, std=0.3)
        torch.nn.init.normal_(block.conv2.bias, std=0.3)
    return blocks


def both_ways(function, x, gradient):
    """function(x) and what back-propagation of the gradient gives, in float32."""
    x = x.clone().requires_grad_(True)
    y = function(x)
    (slope,) = torch.autograd.grad(y, x, gradient.to(y.dtype))
    return y.detach().float(), slope.float()


def error(result, reference):
    return float((result - reference).norm() / reference.norm())


def digest() -> str:
    """Of what a stack makes of a picture, forward and backward."""
    torch.manual_seed(2)
    x, gradient = torch.randn(2, 1, 64, 40, 50).bfloat16()
    y, slope = both_ways(FrozenStack(stack(64, 3)), x, gradient)
    return hashlib.sha256(y.numpy().tobytes() + slope.numpy().tobytes()).hexdigest()


@needs_kernels
@pytest.mark.parametrize("shape", [(1, 24, 1, 1), (1, 24, 2, 3), (3, 24, 7, 5), (2, 24, 9, 16), (1, 24, 40, 33)])
def test_is_the_stack_it_was_made_of(blocks, shape):
    x, gradient = torch.randn(2, *shape).bfloat16().float()
    expected = both_ways(blocks, x, gradient)
    found = both_ways(FrozenStack(blocks), x.bfloat16(), gradient)
    for result, reference, limit in zip(found, expected, (0.015, 0.08)):
        assert result.shape == reference.shape
        assert (
            error(result, reference) < limit
        )  # a value next to 0 may lie on its other side, where the slope is another


@needs_kernels
def test_any_number_of_threads_and_any_chunk_gives_the_same(blocks, monkeypatch):
    threads, digests = torch.get_num_threads(), set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            digests.add(digest())
    finally:
        torch.set_num_threads(threads)
    assert len(digests) == 1
    x, gradient = torch.randn(2, 2, 24, 37, 41).bfloat16()
    frozen = FrozenStack(blocks)
    expected = both_ways(frozen, x, gradient)
    monkeypatch.setattr(winograd, "CHUNK", 1)
    for result, reference in zip(both_ways(frozen, x, gradient), expected):
        assert error(result, reference) < 1e-3  # products of other sizes may be summed up otherwise


@needs_kernels
def test_pictures_of_a_batch_do_not_mix(blocks):
    x, gradient = torch.randn(2, 3, 24, 6, 10).bfloat16()
    frozen = FrozenStack(blocks)
    together = both_ways(frozen, x, gradient)
    for i in range(3):
        alone = both_ways(frozen, x[i : i + 1], gradient[i : i + 1])
        for result, reference in zip(together, alone):
            assert error(result[i : i + 1], reference) < 1e-3


@needs_kernels
def test_generator_for_search_is_the_generator(monkeypatch):
    torch.manual_seed(1)
    config = ModelConfig(signal="image", in_channels=3)
    generator, quality = build_generator(config), torch.tensor([2.5])
    z, gradient = torch.randn(1, config.latent_channels, 5, 7), torch.randn(1, 3, 80, 112)
    expected = both_ways(lambda z: generator(z, quality), z, gradient)
    errors = {}
    for pays in (True, False):
        monkeypatch.setattr(winograd, "pays_here", lambda: pays)
        fast = generator_for_search(generator)
        assert isinstance(fast.body8, FrozenStack) == pays
        found = both_ways(lambda z: fast(z.bfloat16(), quality), z, gradient)
        errors[pays] = [error(result, reference) for result, reference in zip(found, expected)]
    assert max(errors[False]) < 0.03  # bfloat16
    for winograd_error, direct_error in zip(errors[True], errors[False]):
        assert winograd_error < 1.5 * direct_error
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in generator.parameters())


@needs_kernels
def test_weights_are_those_of_the_time_it_was_made(blocks):
    x, gradient = torch.randn(2, 1, 24, 8, 8).bfloat16()
    frozen = FrozenStack(blocks)
    before = both_ways(frozen, x, gradient)
    for parameter in blocks.parameters():
        parameter.data.zero_()
    for result, reference in zip(both_ways(frozen, x, gradient), before):
        assert torch.equal(result, reference)


@needs_kernels
def test_code_compiled_anew_rounds_like_that_of_the_cache(tmp_path):
    command = [sys.executable, "-c", "import test_winograd; print(test_winograd.digest())"]
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": paths, "NUMBA_CACHE_DIR": str(tmp_path)}
    digests = {
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    }
    assert digests == {digest() + "\n"}
