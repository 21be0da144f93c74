"""The transforms of F(4x4, 3x3) Winograd convolutions on a CPU: picture to tiles, products of tiles to picture.

Pictures and tiles are all bfloat16 or all float32; a kernel is compiled for each. Pictures have the order (B, H, W, C).
A tile has 6x6 inputs and 4x4 outputs; rows of tiles are numbered through all pictures of a batch. Numba compiles the
loops, and PyTorch's own threads run them: a second set of threads, as Numba's would be, fights with the first for the
cores, because idle threads of OpenMP keep looking for work for milliseconds.
"""

import ctypes
import os
from functools import cache

import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from utils.compiled import compiled, compiled_callback

from .blocks import NEGATIVE_SLOPE

P, Q = 0.75, 1.5  # the polynomials' points are 0, +-P, +-Q and infinity
SLOPE = np.float32(NEGATIVE_SLOPE)
# what stands in A^T and B^T
P1, P2, P3 = np.float32(P), np.float32(P**2), np.float32(P**3)
Q1, Q2, Q3 = np.float32(Q), np.float32(Q**2), np.float32(Q**3)
PPQQ, SUM, PPQ, PQQ = np.float32((P * Q) ** 2), np.float32(P**2 + Q**2), np.float32(P**2 * Q), np.float32(P * Q**2)
ROWS_AT_ONCE = 2  # rows of tiles that a thread takes: the second one needs four new rows of six


def to_tiles(x: torch.Tensor, tiles: torch.Tensor, first: int, end: int, activate: bool) -> None:
    """Rows of tiles first..end of x, activated or not -> B^T d B (36, tiles, C)."""
    _in_threads(_TO_TILES[x.dtype], [first, end, *x.shape, x.data_ptr(), tiles.data_ptr(), int(activate)])


def spread(gradient: torch.Tensor, tiles: torch.Tensor, first: int, end: int) -> None:
    """Rows of tiles first..end of an output's gradient d -> A d A^T (36, tiles, C)."""
    _in_threads(_SPREAD[gradient.dtype], [first, end, *gradient.shape, gradient.data_ptr(), tiles.data_ptr()])


def from_tiles(
    products: torch.Tensor,
    y: torch.Tensor,
    first: int,
    end: int,
    bias: torch.Tensor,
    gate: torch.Tensor | None,
    base: torch.Tensor | None,
) -> None:
    """Products m (36, tiles, C) -> rows of tiles first..end of y: base + gate's slope * (bias + A^T m A).

    bias float32 (C,); gate and base like y: the slope of the activation is taken where gate is negative.
    """
    _in_threads(
        _FROM_TILES[y.dtype],
        [
            first,
            end,
            *y.shape,
            y.data_ptr(),
            products.data_ptr(),
            bias.data_ptr(),
            0 if gate is None else gate.data_ptr(),
            0 if base is None else base.data_ptr(),
        ],
    )


@cache
def _parallel():
    """GOMP_parallel of the library that PyTorch has loaded, None where that is another one.

    It runs a function in all threads of OpenMP (libgomp's manual, "Implementing PARALLEL construct").
    """
    try:
        function = ctypes.CDLL("libgomp.so.1", os.RTLD_NOLOAD | os.RTLD_LAZY).GOMP_parallel
    except (OSError, AttributeError):
        return None
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return function


def available() -> bool:
    """Whether `to_tiles` and `from_tiles` can run here."""
    return _parallel() is not None


@cache
def _compiled(kernel):
    return compiled_callback(types.void(types.CPointer(types.int64)))(kernel)


def _in_threads(kernel, arguments: list[int]) -> None:
    """Run the kernel in as many threads as PyTorch uses, which share its rows of tiles; see `_take`."""
    values = np.array([arguments[0], *arguments], np.int64)  # the first one counts the rows taken
    _parallel()(_compiled(kernel).address, values.ctypes.data, torch.get_num_threads(), 0)


@intrinsic
def _take(typing_context, pointer, count):
    """Adds to an integer that threads share -> what it was."""

    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", *arguments, "monotonic")

    return types.int64(types.CPointer(types.int64), types.int64), generate


@intrinsic
def _pointer(typing_context, address, example):
    """An address -> a pointer to what the example is."""
    result = types.CPointer(example)

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(result))

    return result(types.int64, example), generate


# The two types of a picture's samples. bfloat16, the upper half of a float32, is uint16 to Numba.
_FLOAT, _WORD, _HALF = ir.FloatType(), ir.IntType(32), ir.IntType(16)


@intrinsic
def _wide(typing_context, sample):
    """A sample -> float32."""

    def generate(context, builder, signature, arguments):
        if sample == types.float32:
            return arguments[0]
        return builder.bitcast(builder.shl(builder.zext(arguments[0], _WORD), _WORD(16)), _FLOAT)

    return types.float32(sample), generate


@intrinsic
def _narrow(typing_context, value, example):
    """float32 -> the nearest sample of the example's type, an even one at half."""

    def generate(context, builder, signature, arguments):
        if example == types.float32:
            return arguments[0]
        bits = builder.bitcast(arguments[0], _WORD)
        odd = builder.and_(builder.lshr(bits, _WORD(16)), _WORD(1))
        return builder.trunc(builder.lshr(builder.add(bits, builder.add(odd, _WORD(0x7FFF))), _WORD(16)), _HALF)

    return example(types.float32, example), generate


@intrinsic
def _negative(typing_context, sample):
    """Whether a sample's topmost bit, the sign, is set."""

    def generate(context, builder, signature, arguments):
        kind = _WORD if sample == types.float32 else _HALF
        return builder.icmp_signed("<", builder.bitcast(arguments[0], kind), kind(0))

    return types.boolean(sample), generate


# -- picture to tiles ------------------------------------------------------------------------------
#
# These are loops over one long axis, which LLVM turns into vector instructions. They do without fast math: with it,
# code just compiled and code from Numba's cache rounded differently, and the first search gave another file.


@compiled(nogil=True)
def _load(x, to, activate):
    if activate:
        for i in range(to.size):
            value = _wide(x[i])
            to[i] = max(value, SLOPE * value)
    else:
        for i in range(to.size):
            to[i] = _wide(x[i])


@compiled(nogil=True)
def _load_row(x, columns, activate):
    """A row x (W, C), activated or not -> (4, tiles + 1, C): one column of zeros and its own, every fourth together."""
    for place in range(4 * columns.shape[1]):
        to = columns[place % 4, place // 4]
        if 1 <= place <= len(x):
            _load(x[place - 1], to, activate)
        else:
            to[:] = 0


@compiled(nogil=True)
def _six(d0, d1, d2, d3, d4, d5):
    """B^T of six numbers."""
    even, odd = d4 - Q2 * d2, P1 * d3 - PQQ * d1
    even2, odd2 = d4 - P2 * d2, Q1 * d3 - PPQ * d1
    return PPQQ * d0 - SUM * d2 + d4, even + odd, even - odd, even2 + odd2, even2 - odd2, PPQQ * d1 - SUM * d3 + d5


@compiled(nogil=True)
def _mix(d0, d1, d2, d3, d4, d5, m0, m1, m2, m3, m4, m5):
    """B^T of six rows."""
    for i in range(m0.size):
        m0[i], m1[i], m2[i], m3[i], m4[i], m5[i] = _six(d0[i], d1[i], d2[i], d3[i], d4[i], d5[i])


@compiled(nogil=True)
def _mix_to(d0, d1, d2, d3, d4, d5, m0, m1, m2, m3, m4, m5):
    """The same, to a picture's type."""
    for i in range(m0.size):
        a, b, c, d, e, f = _six(d0[i], d1[i], d2[i], d3[i], d4[i], d5[i])
        m0[i], m1[i], m2[i] = _narrow(a, m0[i]), _narrow(b, m1[i]), _narrow(c, m2[i])
        m3[i], m4[i], m5[i] = _narrow(d, m3[i]), _narrow(e, m4[i]), _narrow(f, m5[i])


@compiled(nogil=True)
def _to_tiles(values, sample):
    v = carray(values, 10)
    first, end, batch, height, width, channels, activate = v[1], v[2], v[3], v[4], v[5], v[6], v[9] != 0
    across, down = -(-width // 4), -(-height // 4)
    count, padded = across * channels, (across + 1) * channels
    x = carray(_pointer(v[7], sample), (batch, height, width, channels))
    tiles = carray(_pointer(v[8], sample), (6, 6, end - first, count))
    rows = np.empty((6, 4, across + 1, channels), np.float32)  # of the input: columns by their place in a tile
    d = rows.reshape(6, 4, padded)
    m = np.empty((6, 4, padded), np.float32)  # B^T d
    while True:
        start = _take(values, ROWS_AT_ONCE)
        if start >= end:
            return
        for number in range(start, min(start + ROWS_AT_ONCE, end)):
            picture, row, t = number // down, number % down, number - first
            for r in range(6):
                source = 4 * row - 1 + r
                if r < 2 and number > start and row > 0:
                    rows[r] = rows[r + 4]
                elif 0 <= source < height:
                    _load_row(x[picture, source], rows[r], activate)
                else:
                    rows[r] = 0
            for p in range(4):
                _mix(
                    d[0, p],
                    d[1, p],
                    d[2, p],
                    d[3, p],
                    d[4, p],
                    d[5, p],
                    m[0, p],
                    m[1, p],
                    m[2, p],
                    m[3, p],
                    m[4, p],
                    m[5, p],
                )
            for r in range(6):
                # columns 0 to 5 of all tiles of the row: neighbors share two
                _mix_to(
                    m[r, 0],
                    m[r, 1],
                    m[r, 2],
                    m[r, 3],
                    m[r, 0, channels:],
                    m[r, 1, channels:],
                    tiles[r, 0, t],
                    tiles[r, 1, t],
                    tiles[r, 2, t],
                    tiles[r, 3, t],
                    tiles[r, 4, t],
                    tiles[r, 5, t],
                )


# -- products to picture ---------------------------------------------------------------------------


@compiled(nogil=True)
def _four(m0, m1, m2, m3, m4, m5):
    """A^T of six numbers."""
    return (
        m0 + (m1 + m2) + (m3 + m4),
        P1 * (m1 - m2) + Q1 * (m3 - m4),
        P2 * (m1 + m2) + Q2 * (m3 + m4),
        P3 * (m1 - m2) + Q3 * (m3 - m4) + m5,
    )


@compiled(nogil=True)
def _fold_from(m0, m1, m2, m3, m4, m5, y0, y1, y2, y3):
    """A^T of six rows of a picture's type."""
    for i in range(y0.size):
        y0[i], y1[i], y2[i], y3[i] = _four(
            _wide(m0[i]), _wide(m1[i]), _wide(m2[i]), _wide(m3[i]), _wide(m4[i]), _wide(m5[i])
        )


@compiled(nogil=True)
def _fold(m0, m1, m2, m3, m4, m5, y0, y1, y2, y3):
    """The same, of float32."""
    for i in range(y0.size):
        y0[i], y1[i], y2[i], y3[i] = _four(m0[i], m1[i], m2[i], m3[i], m4[i], m5[i])


@compiled(nogil=True)
def _finish(x, bias, gate, gated, base, based, y):
    for c in range(bias.size):
        value = x[c] + bias[c]
        if gated and _negative(gate[c]):
            value *= SLOPE
        if based:
            value += _wide(base[c])
        y[c] = _narrow(value, y[c])


@compiled(nogil=True)
def _from_tiles(values, sample):
    v = carray(values, 12)
    first, end, batch, height, width, channels, gated, based = (
        v[1],
        v[2],
        v[3],
        v[4],
        v[5],
        v[6],
        v[10] != 0,
        v[11] != 0,
    )
    across, down = -(-width // 4), -(-height // 4)
    count, shape = across * channels, (batch, height, width, channels)
    y = carray(_pointer(v[7], sample), shape)
    m = carray(_pointer(v[8], sample), (6, 6, end - first, count))
    bias = carray(_pointer(v[9], SLOPE), channels)
    gate, base = carray(_pointer(v[10], sample), shape), carray(_pointer(v[11], sample), shape)
    folded = np.empty((4, 6, count), np.float32)  # A^T m
    columns = np.empty((4, across, channels), np.float32)  # every fourth one together
    flat = columns.reshape(4, count)
    while True:
        start = _take(values, ROWS_AT_ONCE)
        if start >= end:
            return
        for number in range(start, min(start + ROWS_AT_ONCE, end)):
            picture, row, t = number // down, number % down, number - first
            for c in range(6):
                _fold_from(
                    m[0, c, t],
                    m[1, c, t],
                    m[2, c, t],
                    m[3, c, t],
                    m[4, c, t],
                    m[5, c, t],
                    folded[0, c],
                    folded[1, c],
                    folded[2, c],
                    folded[3, c],
                )
            for r in range(min(4, height - 4 * row)):
                f, to = folded[r], 4 * row + r
                _fold(f[0], f[1], f[2], f[3], f[4], f[5], flat[0], flat[1], flat[2], flat[3])
                for c in range(width):
                    _finish(
                        columns[c % 4, c // 4],
                        bias,
                        gate[picture, to, c],
                        gated,
                        base[picture, to, c],
                        based,
                        y[picture, to, c],
                    )


# -- gradient of an output to tiles ----------------------------------------------------------------


@compiled(nogil=True)
def _spread_row(y, columns):
    """A row y (W, C) -> (4, tiles, C), every fourth column together, zeros beyond its end."""
    for place in range(4 * columns.shape[1]):
        to = columns[place % 4, place // 4]
        if place < len(y):
            _load(y[place], to, False)
        else:
            to[:] = 0


@compiled(nogil=True)
def _six_of_four(d0, d1, d2, d3):
    """A of four numbers."""
    even, odd = d0 + P2 * d2, P1 * d1 + P3 * d3
    even2, odd2 = d0 + Q2 * d2, Q1 * d1 + Q3 * d3
    return d0, even + odd, even - odd, even2 + odd2, even2 - odd2, d3


@compiled(nogil=True)
def _spread_mix(d0, d1, d2, d3, m0, m1, m2, m3, m4, m5):
    """A of four rows."""
    for i in range(m0.size):
        m0[i], m1[i], m2[i], m3[i], m4[i], m5[i] = _six_of_four(d0[i], d1[i], d2[i], d3[i])


@compiled(nogil=True)
def _spread_mix_to(d0, d1, d2, d3, m0, m1, m2, m3, m4, m5):
    """The same, to a picture's type."""
    for i in range(m0.size):
        a, b, c, d, e, f = _six_of_four(d0[i], d1[i], d2[i], d3[i])
        m0[i], m1[i], m2[i] = _narrow(a, m0[i]), _narrow(b, m1[i]), _narrow(c, m2[i])
        m3[i], m4[i], m5[i] = _narrow(d, m3[i]), _narrow(e, m4[i]), _narrow(f, m5[i])


@compiled(nogil=True)
def _spread(values, sample):
    v = carray(values, 9)
    first, end, batch, height, width, channels = v[1], v[2], v[3], v[4], v[5], v[6]
    across, down = -(-width // 4), -(-height // 4)
    count = across * channels
    y = carray(_pointer(v[7], sample), (batch, height, width, channels))
    tiles = carray(_pointer(v[8], sample), (6, 6, end - first, count))
    rows = np.empty((4, 4, across, channels), np.float32)
    d = rows.reshape(4, 4, count)
    m = np.empty((6, 4, count), np.float32)  # A d
    while True:
        start = _take(values, ROWS_AT_ONCE)
        if start >= end:
            return
        for number in range(start, min(start + ROWS_AT_ONCE, end)):
            picture, row, t = number // down, number % down, number - first
            for r in range(4):
                if 4 * row + r < height:
                    _spread_row(y[picture, 4 * row + r], rows[r])
                else:
                    rows[r] = 0
            for p in range(4):
                _spread_mix(d[0, p], d[1, p], d[2, p], d[3, p], m[0, p], m[1, p], m[2, p], m[3, p], m[4, p], m[5, p])
            for r in range(6):
                _spread_mix_to(
                    m[r, 0],
                    m[r, 1],
                    m[r, 2],
                    m[r, 3],
                    tiles[r, 0, t],
                    tiles[r, 1, t],
                    tiles[r, 2, t],
                    tiles[r, 3, t],
                    tiles[r, 4, t],
                    tiles[r, 5, t],
                )


# -- what the threads run ---------------------------------------------------------------------------


def _to_tiles_bfloat16(values):
    _to_tiles(values, np.uint16(0))


def _to_tiles_float32(values):
    _to_tiles(values, np.float32(0))


def _from_tiles_bfloat16(values):
    _from_tiles(values, np.uint16(0))


def _from_tiles_float32(values):
    _from_tiles(values, np.float32(0))


def _spread_float32(values):
    _spread(values, np.float32(0))


_TO_TILES = {torch.bfloat16: _to_tiles_bfloat16, torch.float32: _to_tiles_float32}
_FROM_TILES = {torch.bfloat16: _from_tiles_bfloat16, torch.float32: _from_tiles_float32}
_SPREAD = {torch.float32: _spread_float32}
