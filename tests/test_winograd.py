"""Winograd convolutions of the search: as exact as direct ones, used for blocks that they reproduce and nowhere else."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from models import winograd as by_winograd
from models.blocks import ResidualBlock, stack
from models.bpgan import build_generator
from models.config import ModelConfig
from tests.helpers.scripts import ROOT
from tests.helpers.winograd import both_ways, digest
from utils import precision
from utils.codec.decoder import load_decoder
from utils.codec.fingerprint import CHECKPOINTS
from utils.search import winograd
from utils.search.winograd import FrozenStack, generator_for_search

pytestmark = pytest.mark.slow

# What the kernels need, seen in another way than they see it.
HAS_LIBGOMP = "/libgomp.so.1" in Path("/proc/self/maps").read_text()
needs_kernels = pytest.mark.skipif(not HAS_LIBGOMP, reason="PyTorch here has no libgomp")
each_dtype = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])


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


SHAPES = [(1, 24, 1, 1), (1, 24, 2, 3), (3, 24, 7, 5), (2, 24, 9, 16), (1, 24, 40, 33)]
# a value next to 0 may lie on its other side, where the slope is another
LIMITS = {torch.bfloat16: (0.015, 0.08), torch.float32: (1e-5, 1e-5)}


@needs_kernels
@each_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_stack_it_was_made_of(blocks, shape, dtype):
    x, gradient = torch.randn(2, *shape).bfloat16().float()
    expected = both_ways(blocks.requires_grad_(False), x, gradient)
    found = both_ways(FrozenStack(blocks, dtype), x.to(dtype), gradient)
    for result, reference, limit in zip(found, expected, LIMITS[dtype]):
        assert result.shape == reference.shape
        assert error(result, reference) < limit


@needs_kernels
@each_dtype
def test_any_number_of_threads_and_any_chunk_gives_the_same(blocks, dtype, monkeypatch):
    threads, digests = torch.get_num_threads(), set()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            digests.add(digest(dtype))
    finally:
        torch.set_num_threads(threads)
    assert len(digests) == 1
    x, gradient = torch.randn(2, 2, 24, 37, 41).bfloat16()
    frozen = FrozenStack(blocks, dtype)
    expected = both_ways(frozen, x, gradient)
    monkeypatch.setitem(by_winograd.CHUNKS, dtype, 1)
    for result, reference in zip(both_ways(frozen, x, gradient), expected):
        assert error(result, reference) < 1e-3  # products of other sizes may be summed up otherwise


@needs_kernels
def test_pictures_of_a_batch_do_not_mix(blocks):
    x, gradient = torch.randn(2, 3, 24, 6, 10).bfloat16()
    frozen = FrozenStack(blocks, torch.bfloat16)
    together = both_ways(frozen, x, gradient)
    for i in range(3):
        alone = both_ways(frozen, x[i : i + 1], gradient[i : i + 1])
        for result, reference in zip(together, alone):
            assert error(result[i : i + 1], reference) < 1e-3


@needs_kernels
@each_dtype
def test_generator_for_search_is_the_generator(dtype, monkeypatch):
    torch.manual_seed(1)
    config = ModelConfig(signal="image", in_channels=3)
    generator, quality = build_generator(config), torch.tensor([2.5])
    monkeypatch.setattr(by_winograd, "pays_here", lambda: False)  # what is expected comes from direct convolutions
    z, gradient = torch.randn(1, config.latent_channels, 5, 7), torch.randn(1, 3, 80, 112)
    expected = both_ways(lambda z: generator(z, quality), z, gradient)
    errors = {}
    for pays in (True, False):
        monkeypatch.setattr(winograd, "pays_here", lambda: pays)
        monkeypatch.setattr(winograd, "fast_dtype", lambda device: dtype)
        fast = generator_for_search(generator)
        assert isinstance(fast.body8, FrozenStack) == pays
        found = both_ways(lambda z: fast(z.to(dtype), quality), z, gradient)
        errors[pays] = [error(result, reference) for result, reference in zip(found, expected)]
    assert max(errors[False]) < 0.03  # of bfloat16; none in float32
    for winograd_error, direct_error in zip(errors[True], errors[False]):
        assert winograd_error < max(1.5 * direct_error, 1e-5)
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
@each_dtype
@pytest.mark.parametrize("kind", ["image", "speech"])
def test_shipped_generators_are_reproduced(kind, dtype):
    generator = load_decoder(CHECKPOINTS / f"{kind}.safetensors").model.generator
    for name in winograd.STACKS:
        assert isinstance(winograd._verified(getattr(generator, name), name, dtype), FrozenStack)


@pytest.mark.parametrize(
    "told, dtype, pays",
    [
        ({"architecture": "x86_64", "avx2": True}, torch.float32, True),
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": False}, torch.float32, False),
        ({"architecture": "aarch64", "bf16": False}, torch.float32, False),
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_bf16": True}, torch.bfloat16, True),
        ({"architecture": "x86_64", "avx512_bf16": True, "amx_tile": True}, torch.bfloat16, False),
        ({"architecture": "x86_64", "amx_bf16": True}, torch.bfloat16, False),
        ({"architecture": "aarch64", "bf16": True}, torch.bfloat16, False),
    ],
)
def test_the_type_is_one_in_which_the_cpu_multiplies(told, dtype, pays, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert precision.fast_dtype(torch.device("cpu")) == dtype
    assert precision.fast_dtype(torch.device("cuda")) == torch.bfloat16
    assert winograd.pays_here() == (pays and HAS_LIBGOMP)


def test_a_pytorch_that_tells_nothing_of_the_cpu_is_served(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for name in ("avx512_bf16", "amx_tile"):
        monkeypatch.delattr(torch.cpu, f"_is_{name}_supported", raising=False)
    assert precision.fast_dtype(torch.device("cpu")) == torch.bfloat16 and not winograd.pays_here()


@needs_kernels
def test_weights_are_those_of_the_time_it_was_made(blocks):
    x, gradient = torch.randn(2, 1, 24, 8, 8).bfloat16()
    frozen = FrozenStack(blocks, torch.bfloat16)
    before = both_ways(frozen, x, gradient)
    for parameter in blocks.parameters():
        parameter.data.zero_()
    for result, reference in zip(both_ways(frozen, x, gradient), before):
        assert torch.equal(result, reference)


@needs_kernels
@each_dtype
def test_code_compiled_anew_rounds_like_that_of_the_cache(dtype, tmp_path):
    program = f"import torch; from tests.helpers.winograd import digest; print(digest({dtype}))"
    command = [sys.executable, "-c", program]
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    digests = {
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert digests == {digest(dtype) + "\n"}


# -- training --------------------------------------------------------------------------------------


def learned(blocks, x, gradient, pays, monkeypatch):
    """What the blocks make of x, and the gradients of x and of all weights, by name; calls of the Winograd blocks."""
    calls, residual_block = [], by_winograd.residual_block
    monkeypatch.setattr(by_winograd, "pays_here", lambda: pays)
    monkeypatch.setattr(by_winograd, "fast_dtype", lambda device: torch.float32)
    monkeypatch.setattr(by_winograd, "residual_block", lambda *inputs: calls.append(1) or residual_block(*inputs))
    blocks.zero_grad(set_to_none=True)
    x = x.clone().requires_grad_(True)
    y = blocks(x)
    y.backward(gradient)
    monkeypatch.undo()
    gradients = {name: p.grad for name, p in blocks.named_parameters() if p.requires_grad}
    return {"y": y.detach(), "x": x.grad, **gradients}, len(calls)


@needs_kernels
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_blocks_learn_the_same_by_winograd(blocks, shape, memory_format, monkeypatch):
    blocks.to(memory_format=memory_format)
    x, gradient = torch.randn(2, *shape)
    expected, calls = learned(blocks, x, gradient, False, monkeypatch)
    assert not calls
    found, calls = learned(blocks, x, gradient, True, monkeypatch)
    assert calls == len(blocks) and found.keys() == expected.keys()
    for name, reference in expected.items():
        assert error(found[name], reference) < 1e-5, name


@needs_kernels
def test_what_is_fixed_gets_no_gradient(blocks, monkeypatch):
    for name, parameter in blocks.named_parameters():
        parameter.requires_grad_(name in ("0.conv1.weight", "1.conv2.bias", "1.conv1.weight"))
    x, gradient = torch.randn(2, 2, 24, 9, 6)
    expected, _ = learned(blocks, x, gradient, False, monkeypatch)
    found, calls = learned(blocks, x, gradient, True, monkeypatch)
    assert calls == 2
    assert found.keys() == {"y", "x", "0.conv1.weight", "1.conv2.bias", "1.conv1.weight"}
    for name, reference in expected.items():
        assert error(found[name], reference) < 1e-5, name


def fixed(blocks, x):
    blocks.requires_grad_(False)
    blocks(x)


def without_gradient(blocks, x):
    with torch.no_grad():
        blocks(x)


def in_autocast(blocks, x):
    with torch.autocast("cpu", torch.bfloat16):
        blocks(x)


def in_float64(blocks, x):
    blocks.double()(x.double())


def with_other_layers(blocks, x):
    for block in blocks:
        block.conv2 = torch.nn.Conv2d(24, 24, 5, padding=2)
    blocks(x)


@pytest.mark.parametrize("use", [fixed, without_gradient, in_autocast, in_float64, with_other_layers])
def test_direct_convolutions_do_everything_else(blocks, use, monkeypatch):
    monkeypatch.setattr(by_winograd, "pays_here", lambda: True)
    monkeypatch.setattr(by_winograd, "fast_dtype", lambda device: torch.float32)
    monkeypatch.setattr(by_winograd, "residual_block", lambda *inputs: pytest.fail("by Winograd"))
    use(blocks, torch.randn(1, 24, 8, 8, requires_grad=True))


@needs_kernels
def test_a_number_that_is_none_shows_in_the_gradients(blocks, monkeypatch):
    """The training loop stops at gradients that are no numbers: they may not get lost in a maximum."""
    x, gradient = torch.randn(2, 1, 24, 8, 8)
    x[0, 3, 4, 4] = torch.nan
    found, _ = learned(blocks, x, gradient, True, monkeypatch)
    for name in ("y", "0.conv1.weight", "1.conv2.weight"):
        assert found[name].isnan().any(), name
