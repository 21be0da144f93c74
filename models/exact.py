"""The generator in integers: the same picture of the same symbols on every machine.

The sums of `models/generator.py` are of floating-point numbers, and their last digits depend on the order of
summation: on threads, instructions and libraries. Here every number is an integer times a power of two. Integers are
held in float64 and stay below 2^53, so that every product and every sum of them is exact. Their order then does not
matter, and the fast matrix products of any library serve, with or without fused multiply-add.

Nothing but the checkpoint's weights is needed, and nothing is calibrated on pictures:

- Weights become integers of 16 bits, times a power of two for each output channel that its largest weight decides.
- Activations have ACTIVATION_BITS fraction bits. They are clamped at 512, far above what networks make of pictures.
- The worst sum of a layer follows from its weights and that clamp. Where it could pass SUM_LIMIT, which takes 1800
  channels or more, the model is refused.
- After each layer its sums are multiplied by a power of two, rounded half to even and clamped. The activation's slope
  is SLOPE, a dyadic fraction next to NEGATIVE_SLOPE, and its results are rounded too.
- Tables by quality are interpolated in float64, one operation of NumPy after the other. Exponentials are those of
  `decimal`, which are correctly rounded. Both give the same everywhere.

How integers follow from weights is a part of what a file with the flag `exact` means. Like the file's format it never
changes: `tests/test_exact.py` holds fingerprints of the integers and hashes of pictures.
"""

import decimal
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .bpgan import BPGAN
from .config import QUALITIES, QUALITY_STEPS, STRIDE
from .texture import NOISE_BITS, has_texture, noise_window

ACTIVATION_BITS = 14  # fraction bits of latent, features and activations
LIMIT = 2**23  # of their integers
WEIGHT_BITS = 15  # and a sign
MOST_FRACTION_BITS = 24  # of weights, however small they are
SUM_LIMIT = 2.0**52  # of a layer's sum
SLOPE = 1677722 / 2**24  # stands for NEGATIVE_SLOPE; 21 bits, and 24 of an activation
SCALE_BITS = 16  # fraction bits of what a quality multiplies features with, at most 256
CENTER_BITS = 16  # fraction bits of centers, which have up to 16 bits more before the point
GAIN_BITS = 20  # significant bits of gains
PICTURE_BITS = 14  # fraction bits of the picture: from there to 8 bits, float32 is exact too
DIGITS = 50  # of exponentials, before they are rounded to GAIN_BITS
MOST_LOGARITHM = 20.0  # of a gain

_STRIP_BYTES = 3 << 19  # of a layer's input that is worked on at once, so that it stays in the cache


class Layer(NamedTuple):
    """A convolution in integers."""

    taps: torch.Tensor  # (k * k, C_out, C_in): a matrix for each place of the kernel
    bias: torch.Tensor  # (C_out, 1), in units of a sum
    step: torch.Tensor  # (C_out, 1, 1), a sum's unit, in units of an activation: powers of two


class ByQuality(NamedTuple):
    """What a quality makes of features: tables (8, N) in float64."""

    bias: np.ndarray
    scale: np.ndarray | None


EachStrip = Callable[[Callable[[slice], None], torch.Tensor], object]  # what `_strip_by_strip` gives


class ExactGenerator:
    """symbols (latent_channels, h, w) -> picture (C, 16h, 16w), the same numbers on every machine.

    It stands for `BPGAN.generate` of a model's centers, with the `weights` of any of its generators
    (`generator_weights`). Raises ValueError for weights that are not those of `models/generator.py`.
    """

    def __init__(self, model: BPGAN, weights: Mapping[str, np.ndarray], device: torch.device | str = "cpu"):
        config, self._device = model.config, device
        self._centers, self._max_symbol = _array(model.codebook.centers), model.codebook.max_symbol
        self._log_inverse = _array(model.gains.log_inverse)
        self._log_feature = _array(model.gains.log_feature) if config.linear_path else None
        left = dict(weights)

        def take(name: str) -> np.ndarray:
            if name not in left:
                raise ValueError(f"the exact generator needs {name!r}, which this generator does not have")
            return left.pop(name)

        def layer(name: str) -> Layer:
            return self._layer(name, take(f"{name}.weight"), take(f"{name}.bias"))

        def body(name: str, depth: int) -> list[tuple[Layer, Layer]]:
            return [(layer(f"{name}.{i}.conv1"), layer(f"{name}.{i}.conv2")) for i in range(depth)]

        def by_quality(place: str) -> ByQuality:
            return ByQuality(take(f"quality{place}"), take(f"scale{place}") if config.quality_scales else None)

        depth4, depth8, depth16 = config.generator_depths
        self._in16, self._quality16 = layer("in16"), by_quality("16")
        self._rows = self._tensor(_fixed(take("row_bias")[0])) if config.latent_rows else None
        self._body16, self._out16, self._quality8 = body("body16", depth16), layer("out16"), by_quality("8")
        self._body8, self._out8 = body("body8", depth8), layer("out8")
        self._body4, self._out4 = body("body4", depth4), layer("out4")
        self._texture8 = self._texture4 = None
        if has_texture(left):
            self._texture8, self._texture4 = (
                (layer(f"{name}.strength"), layer(f"{name}.spread")) for name in ("texture8", "texture4")
            )
        self._linear, self._row_mean = None, None
        if config.linear_path:
            self._linear = layer("linear")
            self._row_mean = self._tensor(_fixed(take("row_mean")[0], PICTURE_BITS)) if config.latent_rows else None
        if left:
            raise ValueError(f"the exact generator does not know {sorted(left)[0]!r} of this generator")

    def _layer(self, name: str, weight: np.ndarray, bias: np.ndarray) -> Layer:
        """weight (C_out, C_in, k, k), bias (C_out,), float64. Raises ValueError where sums could be inexact."""
        _, exponent = np.frexp(np.abs(weight).max((1, 2, 3)))
        bits = np.minimum(WEIGHT_BITS - exponent, MOST_FRACTION_BITS)  # (C_out,)
        most = 2.0**WEIGHT_BITS - 1
        integers = np.clip(np.rint(np.ldexp(weight, bits[:, None, None, None])), -most, most)
        offset = _fixed(np.ldexp(bias, bits))
        if (np.abs(integers).sum((1, 2, 3)) * LIMIT + np.abs(offset)).max() >= SUM_LIMIT:
            raise ValueError(f"weights of {name} are too many or too large for the exact generator")
        taps = integers.transpose(2, 3, 0, 1).reshape(-1, *integers.shape[:2])
        step = np.ldexp(1.0, -bits)[:, None, None]
        return Layer(self._tensor(taps), self._tensor(offset[:, None]), self._tensor(step))

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def fingerprint(self) -> str:
        """8 hexadecimal digits over all integers, tables by quality at each of the 225 steps."""
        digest = hashlib.sha256()

        def add(value) -> None:
            if isinstance(value, torch.Tensor):
                value = value.cpu().numpy()
            if isinstance(value, (list, tuple)):  # layers among them
                for member in value:
                    add(member)
            elif value is not None:
                digest.update(np.asarray(value, "<f8").tobytes())

        add([self._in16, self._body16, self._out16, self._body8, self._out8, self._body4, self._out4, self._linear])
        add([self._rows, self._row_mean, self._texture8, self._texture4])
        add(_fixed(self._centers, CENTER_BITS))
        for step in range((QUALITIES - 1) * QUALITY_STEPS + 1):
            for table in (self._quality16, self._quality8):
                add(_factor_and_offset(table, step))
            add([_gains(table, step) for table in (self._log_inverse, self._log_feature) if table is not None])
        return digest.hexdigest()[:8]

    @torch.no_grad()
    def __call__(self, symbols: np.ndarray, quality_step: int, origin: tuple[int, int] = (0, 0)) -> np.ndarray:
        """symbols int16 (latent_channels, h, w), a quality in steps of 1/32 above 1 -> float32 (C, 16h, 16w).

        Its numbers are multiples of 2^-14 in [-2, 2]. `origin` is the place of the first symbol in a larger latent.
        """
        with _strip_by_strip(self._device) as each:
            return self._picture(each, symbols, quality_step, origin).cpu().numpy()

    def _picture(
        self, each: EachStrip, symbols: np.ndarray, quality_step: int, origin: tuple[int, int]
    ) -> torch.Tensor:
        latent = self._latent(symbols)
        seen = z_hat = self._scaled(latent, self._log_inverse, quality_step)
        if self._log_feature is not None:
            seen = self._scaled(latent, self._log_feature, quality_step)
        h = _affine(_convolution(each, self._in16, seen), self._quality16, quality_step)  # (n16, h, w)
        if self._rows is not None:
            h = (h + self._rows).clamp_(-LIMIT, LIMIT)
        for block in self._body16:
            h = _residual_block(each, h, *block)
        h = _affine(
            F.pixel_shuffle(_convolution(each, self._out16, h), 2), self._quality8, quality_step
        )  # (n8, 2h, 2w)
        if self._texture8 is not None:
            h = self._textured(each, h, *self._texture8, 2, origin)
        for block in self._body8:
            h = _residual_block(each, h, *block)
        h = F.pixel_shuffle(_convolution(each, self._out8, h), 2)  # (n4, 4h, 4w)
        if self._texture4 is not None:
            h = self._textured(each, h, *self._texture4, 4, origin)
        for block in self._body4:
            h = _residual_block(each, h, *block)
        picture = F.pixel_shuffle(_convolution(each, self._out4, h, PICTURE_BITS), 4)  # (C, 16h, 16w)
        if self._linear is not None:
            picture += F.pixel_shuffle(_convolution(each, self._linear, z_hat, PICTURE_BITS), STRIDE)
        if self._row_mean is not None:
            picture += self._row_mean
        picture = picture.clamp_(-(2 << PICTURE_BITS), 2 << PICTURE_BITS).mul_(2.0**-PICTURE_BITS)
        return picture.float()

    def _textured(
        self, each: EachStrip, h: torch.Tensor, strength: Layer, spread: Layer, step: int, origin: tuple[int, int]
    ) -> torch.Tensor:
        """What `models.texture.Texture` makes of features (N, H, W)."""
        noise = self._tensor(noise_window(step, origin, *h.shape[1:]).astype(np.float64))
        shaped = (_convolution(each, strength, h) * noise).mul_(2.0**-NOISE_BITS).round_().clamp_(-LIMIT, LIMIT)
        return (h + _convolution(each, spread, shaped)).clamp_(-LIMIT, LIMIT)

    def _latent(self, symbols: np.ndarray) -> np.ndarray:
        """Centers of symbols (C, h, w), escapes among them -> float64 (C, h, w), CENTER_BITS fraction bits."""
        inside = np.clip(symbols, -self._max_symbol, self._max_symbol).astype(np.int64)
        channel = np.arange(len(symbols))[:, None, None]
        centers = _fixed(self._centers, CENTER_BITS)[channel, inside + self._max_symbol]
        return centers + (symbols - inside) * 2.0**CENTER_BITS

    def _scaled(self, latent: np.ndarray, logarithms: np.ndarray, quality_step: int) -> torch.Tensor:
        """Latent in units of activations, scaled channel by channel."""
        gains = _gains(logarithms, quality_step) * 2.0 ** (ACTIVATION_BITS - CENTER_BITS)
        return self._tensor(np.clip(np.rint(latent * gains[:, None, None]), -LIMIT, LIMIT))


def generator_weights(
    faithful: Mapping[str, torch.Tensor], realistic: Mapping[str, torch.Tensor] | None = None, realism: float = 0.0
) -> dict[str, np.ndarray]:
    """A generator's weights by name, float64; at a realism above 0 those of two of them mixed, the same everywhere."""
    weights = {name: _array(tensor) for name, tensor in faithful.items()}
    if realism:
        others = {name: _array(tensor) for name, tensor in realistic.items()}
        # a faithful generator's textures, which it has not, have no strength
        weights = {name: (1 - realism) * weights.get(name, 0.0) + realism * other for name, other in others.items()}
    return weights


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


def _fixed(values: np.ndarray, bits: int = ACTIVATION_BITS) -> np.ndarray:
    """Integers, in float64, of values with so many fraction bits."""
    return np.rint(values * 2.0**bits)


def _between(table: np.ndarray, quality_step: int) -> np.ndarray:
    """The row of a table (8, N) at a quality between two trained ones."""
    low = min(quality_step // QUALITY_STEPS, QUALITIES - 2)
    part = quality_step - low * QUALITY_STEPS
    return (table[low] * (QUALITY_STEPS - part) + table[low + 1] * part) / QUALITY_STEPS


def _gains(logarithms: np.ndarray, quality_step: int) -> np.ndarray:
    """Logarithms (8, C) -> gains (C,) at a quality, rounded to GAIN_BITS significant bits."""
    row = np.clip(_between(logarithms, quality_step), -MOST_LOGARITHM, MOST_LOGARITHM)
    with decimal.localcontext(decimal.Context(prec=DIGITS)):
        exact = [float(Decimal(value).exp()) for value in row.tolist()]
    mantissa, exponent = np.frexp(exact)
    return np.ldexp(np.rint(np.ldexp(mantissa, GAIN_BITS)), exponent - GAIN_BITS)


@contextmanager
def _strip_by_strip(device: torch.device | str) -> Iterator[EachStrip]:
    """What calls a function for every strip of rows of x (C, H, W), in as many threads as PyTorch has here.

    PyTorch's own threads meet after every operation on a strip, and then wait for each other on a busy machine. These
    work on a strip each, and meet once per layer.
    """
    count = torch.get_num_threads() if torch.device(device).type == "cpu" else 1
    if count == 1:
        yield lambda function, x: [function(rows) for rows in _strips(x, 1)]
        return
    try:
        with ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield lambda function, x: list(pool.map(function, _strips(x, count)))
    finally:
        torch.set_num_threads(count)  # what the threads set for themselves, threads of later would begin with


def _strips(x: torch.Tensor, threads: int) -> list[slice]:
    """The rows of x (C, H, W) in equal parts, of _STRIP_BYTES at most or one row each, a multiple of the number of threads."""
    height = x.shape[1]
    parts = -(-x.nbytes // (threads * _STRIP_BYTES)) * threads
    edges = [height * part // parts for part in range(parts + 1)]
    return [slice(top, bottom) for top, bottom in pairwise(edges) if top < bottom]


def _sums(x: torch.Tensor, layer: Layer, rows: slice, active: bool = False) -> torch.Tensor:
    """Some rows of the convolution of x (C_in, H, W): sums (C_out, rows, W). `active`: the activation comes first.

    A kernel of 3x3 is nine matrix products with the same strip of x, each time shifted by another place. What is
    shifted over the margin of zeros falls into columns that are left out.
    """
    channels, height, width = x.shape
    side, count = math.isqrt(len(layer.taps)), rows.stop - rows.start
    margin = side // 2
    wide = width + 2 * margin
    above, below = max(0, rows.start - margin), min(height, rows.stop + margin)
    # one row more than the margin has, for the last shifts
    strip = x.new_zeros(channels, count + 3 * margin, wide)
    first = above - rows.start + margin
    inner = strip[:, first : first + below - above, margin : margin + width]
    inner.copy_(x[:, above:below])
    if active:
        F.leaky_relu_(inner, SLOPE).round_()
    sums = layer.bias.repeat(1, count * wide)
    for place, tap in enumerate(layer.taps):
        shift = place // side * wide + place % side
        sums.addmm_(tap, strip.view(channels, -1)[:, shift : shift + count * wide])
    return sums.view(-1, count, wide)[:, :, :width]


def _convolution(each: EachStrip, layer: Layer, x: torch.Tensor, bits: int = ACTIVATION_BITS) -> torch.Tensor:
    """A convolution (C_in, H, W) -> (C_out, H, W), rounded to so many fraction bits."""
    out = x.new_empty(len(layer.bias), *x.shape[1:])
    step = layer.step * 2.0 ** (bits - ACTIVATION_BITS)

    def strip(rows: slice) -> None:
        out[:, rows] = _sums(x, layer, rows).mul_(step).round_().clamp_(-LIMIT, LIMIT)

    each(strip, x)
    return out


def _residual_block(each: EachStrip, x: torch.Tensor, first: Layer, second: Layer) -> torch.Tensor:
    """x + conv(act(conv(act(x)))), like `models.blocks.ResidualBlock`, in place: (N, H, W) -> (N, H, W)."""
    h = torch.empty_like(x)

    def inner(rows: slice) -> None:
        sums = _sums(x, first, rows, active=True).mul_(first.step).round_().clamp_(-LIMIT, LIMIT)
        h[:, rows] = F.leaky_relu_(sums, SLOPE).round_()

    def outer(rows: slice) -> None:
        sums = _sums(h, second, rows).mul_(second.step).round_()
        x[:, rows] = sums.add_(x[:, rows]).clamp_(-LIMIT, LIMIT)

    each(inner, x)
    each(outer, x)
    return x


def _affine(h: torch.Tensor, table: ByQuality, quality_step: int) -> torch.Tensor:
    """Features (N, H, W), scaled and shifted channel by channel as `models.quality.affine` does, in place."""
    factor, offset = (
        torch.from_numpy(values[:, None, None]).to(h.device) for values in _factor_and_offset(table, quality_step)
    )
    return h.mul_(factor).add_(offset).mul_(2.0**-SCALE_BITS).round_().clamp_(-LIMIT, LIMIT)


def _factor_and_offset(table: ByQuality, quality_step: int) -> tuple[np.ndarray, np.ndarray]:
    """(N,) each: with SCALE_BITS fraction bits, and with as many more than features have."""
    offset = _fixed(_between(table.bias, quality_step), ACTIVATION_BITS + SCALE_BITS)
    if table.scale is None:
        return np.full_like(offset, 1 << SCALE_BITS), offset
    factor = _fixed(_between(table.scale, quality_step), SCALE_BITS)
    return np.clip(factor, -(1 << SCALE_BITS + 8), 1 << SCALE_BITS + 8), offset
