"""Winograd convolutions of the search: as exact as direct ones, used for blocks that they reproduce and nowhere else."""

import logging
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from models.blocks import ResidualBlock, stack
from models.bpgan import build_generator
from models.config import ModelConfig
from tests.helpers.scripts import ROOT
from tests.helpers.winograd import both_ways, digest
from utils import precision
from utils.codec.checkpoint import CHECKPOINTS
from utils.codec.decoder import load_decoder
from utils.search import winograd
from utils.search.winograd import FrozenStack, generator_for_search

pytestmark = pytest.mark.slow

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


def error(result, reference):
    return float((result - reference).norm() / reference.norm())


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
        monkeypatch.setattr(winograd, "fast_dtype", lambda device: torch.bfloat16)
        fast = generator_for_search(generator)
        assert isinstance(fast.body8, FrozenStack) == pays
        found = both_ways(lambda z: fast(z.bfloat16(), quality), z, gradient)
        errors[pays] = [error(result, reference) for result, reference in zip(found, expected)]
    assert max(errors[False]) < 0.03  # bfloat16
    for winograd_error, direct_error in zip(errors[True], errors[False]):
        assert winograd_error < 1.5 * direct_error
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in generator.parameters())


def thinner(block, x):
    """A tenth less of what the block adds."""
    return x + 0.9 * block.conv2(F.leaky_relu(block.conv1(F.leaky_relu(x, 0.1)), 0.1))


def detached(block, x, forward=ResidualBlock.forward):
    """The same output, without a slope of its own."""
    return x + (forward(block, x) - x).detach()


@needs_kernels
@pytest.mark.parametrize("changed, what", [(thinner, "output off by"), (detached, "slope off by")])
def test_a_changed_block_is_searched_through_as_it_is(changed, what, monkeypatch, caplog):
    monkeypatch.setattr(ResidualBlock, "forward", changed)
    assert_falls_back(monkeypatch, caplog, what)


@needs_kernels
@pytest.mark.parametrize("kernel, bias", [(5, True), (3, False)])
def test_a_block_of_other_layers_is_searched_through_as_it_is(kernel, bias, monkeypatch, caplog):
    created = ResidualBlock.__init__

    def create(block, width):
        created(block, width)
        block.conv2 = torch.nn.Conv2d(width, width, kernel, padding=kernel // 2, bias=bias)

    monkeypatch.setattr(ResidualBlock, "__init__", create)
    assert_falls_back(monkeypatch, caplog, "built of other layers")


@needs_kernels
def test_a_block_of_other_names_is_searched_through_as_it_is(monkeypatch, caplog):
    created = ResidualBlock.__init__

    def create(block, width):
        created(block, width)
        block.pointwise, block.depthwise = block.conv1, block.conv2
        del block.conv1, block.conv2

    monkeypatch.setattr(ResidualBlock, "__init__", create)
    monkeypatch.setattr(ResidualBlock, "forward", lambda block, x: x + block.depthwise(F.gelu(block.pointwise(x))))
    assert_falls_back(monkeypatch, caplog, "built of other layers")


def assert_falls_back(monkeypatch, caplog, reason):
    """The generator's own blocks stay, they are what is searched through, and one line says so."""
    monkeypatch.setattr(winograd, "pays_here", lambda: True)
    torch.manual_seed(1)
    config = ModelConfig(signal="image", in_channels=3, generator_widths=(8, 8, 16), generator_depths=(1, 1, 1))
    generator, quality = build_generator(config), torch.tensor([2.5])
    with caplog.at_level(logging.INFO):
        fast = generator_for_search(generator)
    assert not any(isinstance(module, FrozenStack) for module in fast.modules())
    (line,) = caplog.messages
    assert "without Winograd" in line and reason in line and "body16" in line
    z = torch.randn(1, config.latent_channels, 3, 4)
    dtype = next(fast.parameters()).dtype
    with torch.no_grad():
        assert error(fast(z.to(dtype), quality).float(), generator(z, quality)) < 0.02


@needs_kernels
@pytest.mark.parametrize("kind", ["image", "speech"])
def test_shipped_generators_are_reproduced(kind):
    generator = load_decoder(CHECKPOINTS / f"{kind}.safetensors").model.generator
    for name in winograd.STACKS:
        assert isinstance(winograd._verified(getattr(generator, name), name), FrozenStack)


@pytest.mark.parametrize(
    "told, dtype",
    [
        ({"architecture": "x86_64", "avx2": True}, torch.float32),
        ({"architecture": "x86_64", "avx512_f": True, "avx512_bf16": False}, torch.float32),
        ({"architecture": "x86_64", "avx512_bf16": True}, torch.bfloat16),
        ({"architecture": "x86_64", "amx_bf16": True}, torch.bfloat16),
        ({"architecture": "aarch64", "bf16": True}, torch.bfloat16),
    ],
)
def test_the_type_is_one_in_which_the_cpu_multiplies(told, dtype, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert precision.fast_dtype(torch.device("cpu")) == dtype
    assert precision.fast_dtype(torch.device("cuda")) == torch.bfloat16
    expected = bool(told.get("avx512_bf16")) and winograd.kernels.available()
    assert winograd.pays_here() == expected


def test_a_pytorch_that_tells_nothing_of_the_cpu_is_served(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert precision.fast_dtype(torch.device("cpu")) == torch.bfloat16 and not winograd.pays_here()


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
    command = [sys.executable, "-c", "from tests.helpers.winograd import digest; print(digest())"]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    digests = {
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert digests == {digest() + "\n"}
