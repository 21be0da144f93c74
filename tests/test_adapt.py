"""More latent channels: what the model did before stays, what is new can learn."""

import copy

import pytest
import torch

from conftest import randomize_context, tiny_config
from models import QUALITIES, build_model
from models.adapt import NEW_DEVIATION, widen, widen_generator, widened

SMALL = dict(latent_channels=8, context_groups=(3, 5))
MORE = 6        # which the 16 features of the encoder have room for
DEAD = 2        # a channel that is zero whatever it is given
ALIVE = [0, 1, 3, 4, 5, 6, 7]
FRESH = [DEAD, *range(8, 8 + MORE)]


def pair(signal: str):
    """A model with random weights in every part, and a wider one made of it."""
    torch.manual_seed(0)
    old = build_model(tiny_config(signal, **SMALL))
    randomize_context(old.context)
    with torch.no_grad():
        for parameter in old.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
        old.encoder.out.weight[DEAD] *= 1e-3
        old.encoder.out.bias[DEAD] = 0
        moves = torch.empty_like(old.codebook.centers).uniform_(-0.3, 0.3)
        moves[DEAD] = 0         # centers are fitted to what is there
        old.codebook.centers.add_(moves)
    new = build_model(widened(old.config, SMALL["latent_channels"] + MORE))
    widen(old, new)
    return old.requires_grad_(False), new.requires_grad_(False)


@pytest.mark.parametrize("signal, size", [("image", (64, 80)), ("speech", (128, 48))])
def test_old_channels_and_pictures_stay(signal, size):
    old, new = pair(signal)
    x = torch.rand(3, old.config.in_channels, *size) * 2 - 1
    for q in (0, 3.5, QUALITIES - 1):
        quality = torch.full((3,), q)
        before, after = old.analyze(x, quality), new.analyze(x, quality)
        torch.testing.assert_close(after[:, ALIVE], before[:, ALIVE])
        assert after[:, FRESH].std((0, 2, 3)).min() > 0.01
        symbols, more = old.codebook.quantize(before), new.codebook.quantize(after)
        assert not symbols[:, DEAD].any() and torch.equal(more[:, ALIVE], symbols[:, ALIVE])
        more[:, FRESH] = torch.randint(-2, 3, more[:, FRESH].shape).short()     # whatever they are
        torch.testing.assert_close(new.generate(new.codebook.dequantize(more), quality),
                                   old.generate(old.codebook.dequantize(symbols), quality))
        for a, b in zip(old.context(symbols.float(), quality), new.context(more.float(), quality)):
            torch.testing.assert_close(b[:, ALIVE], a[:, ALIVE], atol=1e-4, rtol=1e-4)


def test_new_channels_see_what_the_old_ones_leave():
    old, new = pair("image")
    rows = new.encoder.out.weight.flatten(1)
    assert (rows[ALIVE] @ rows[FRESH].T).abs().max() < 1e-5
    assert torch.linalg.matrix_rank(rows) == 8 + MORE
    # features of variance 1 become as many steps
    deviation = rows[FRESH].norm(dim=1) * new.gains.log_gain[-1, FRESH].exp()
    torch.testing.assert_close(deviation, torch.full((len(FRESH),), NEW_DEVIATION))


def test_the_entropy_model_expects_the_new_channels_as_wide_as_they_are():
    _, new = pair("image")
    for q in (3, QUALITIES - 1):
        quality = torch.full((1,), q)
        steps = NEW_DEVIATION * (new.gains.log_gain[q, 8] - new.gains.log_gain[-1, 8]).exp()
        symbols = (steps * torch.randn(1, 14, 40, 40)).round()
        mean, log_scale = new.context(symbols, quality)
        assert not mean[:, FRESH].any()
        expected = (steps * 3 ** 0.5 / torch.pi).log().clamp_min(-2)
        torch.testing.assert_close(log_scale[:, FRESH], expected.expand_as(log_scale[:, FRESH]))


def test_what_is_new_gets_gradients():
    """A step at once for the generator's columns, through them afterwards for the encoder's rows."""
    _, new = pair("image")
    new.requires_grad_(True)
    x, quality = torch.rand(2, 3, 64, 64) * 2 - 1, torch.full((2,), QUALITIES - 1)
    optimizer = torch.optim.SGD(new.parameters(), lr=0.1)
    for part in (new.generator.in16.weight, new.encoder.out.weight):
        optimizer.zero_grad()
        (new(x, quality).x_hat - x).square().mean().backward()
        added = part.grad[:, FRESH].transpose(0, 1) if part is new.generator.in16.weight else part.grad[FRESH]
        assert added.flatten(1).abs().amax(1).min() > 0
        optimizer.step()


def test_a_generator_alone():
    old, new = pair("image")
    other = copy.deepcopy(new.generator)
    with torch.no_grad():
        other.in16.weight.fill_(1.0)
    widen_generator(old.generator, old, other)
    for name, tensor in new.generator.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor), name


@pytest.mark.parametrize("channels", [1, 8, 25])
def test_numbers_of_channels_that_cannot_be(channels):
    with pytest.raises(ValueError, match=f"^{channels} latent channels: the checkpoint has 8, which can become 9 to 24$"):
        widened(tiny_config("image", **SMALL), channels)
