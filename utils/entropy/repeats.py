"""Places of a latent that repeat a neighbor in every channel: blank areas, silence.

Graphics, blank walls and digital silence give latents that are the same over whole areas. However
well a context predicts them, a hundred channels per place would still add up. Here a run of any
length costs a few bits. Natural signals hardly have any, and the file's header says so.

The map is cut into runs in column order (top to bottom, then left to right: along the time of a
recording), each coded as its mode and the Elias-gamma code of its length:

    0                   coded symbol by symbol        bit 0, then gamma(length)
    1 (LEFT), 2 (UP)    like that neighbor            bits 1 and 0 or 1, then gamma(length)
"""

import itertools

import numpy as np

from . import CorruptPayload

LEFT, UP = 1, 2
MIN_RUN = 8  # shorter runs are coded as symbols: naming them would cost as much


def find_repeats(symbols: np.ndarray) -> np.ndarray:
    """symbols (C, h, w) -> modes uint8 (h, w), in runs of at least MIN_RUN places."""
    _, height, width = symbols.shape
    same = np.zeros((3, height, width), bool)
    same[LEFT, :, 1:] = (symbols[:, :, 1:] == symbols[:, :, :-1]).all(0)
    same[UP, 1:] = (symbols[:, 1:] == symbols[:, :-1]).all(0)
    places = same.transpose(0, 2, 1).reshape(3, -1)  # in column order
    # how many places from each one on repeat in the same way
    lengths = np.zeros(places.shape, np.int64)
    for mode in (LEFT, UP):
        index = np.arange(places.shape[1])
        breaks = np.where(places[mode], places.shape[1], index)
        lengths[mode] = np.minimum.accumulate(breaks[::-1])[::-1] - index
    modes = np.zeros(places.shape[1], np.uint8)
    longest, mode = lengths.max(0), lengths.argmax(0)
    place = 0
    for start in np.flatnonzero(longest >= MIN_RUN):  # greedy: the longest run from the first place on
        if start >= place:
            place = start + longest[start]
            modes[start:place] = mode[start]
    return np.ascontiguousarray(modes.reshape(width, height).T)


def pack_repeats(modes: np.ndarray) -> bytes:
    """modes (h, w) -> bytes, padded with zero bits."""
    flat = modes.T.ravel()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    words = []
    for start, end in itertools.pairwise(starts):
        length = f"{end - start:b}"
        words += [{0: "0", LEFT: "10", UP: "11"}[int(flat[start])], "0" * (len(length) - 1), length]
    return np.packbits(np.frombuffer("".join(words).encode(), np.uint8) - ord("0")).tobytes()


def unpack_repeats(data: bytes, height: int, width: int) -> tuple[np.ndarray, int]:
    """bytes that begin with a map -> modes uint8 (height, width), and the bytes that it takes.

    Raises CorruptPayload for a map that `pack_repeats` never writes.
    """
    # two bits of mode and a gamma code of a length below 2^31 are at most 63 bits
    bits, place = np.unpackbits(np.frombuffer(data, np.uint8)), 0
    flat, done = np.zeros(height * width, np.uint8), 0
    while done < flat.size:
        word = bits[place : place + 64]
        if len(word) < 2:
            raise CorruptPayload("the map of repeats ends early")
        mode = 0 if word[0] == 0 else LEFT + int(word[1])
        word = word[2 if mode else 1 :]
        ones = np.flatnonzero(word)
        size = 2 * int(ones[0]) + 1 if len(ones) else 64
        if size > len(word) or size > 61:
            raise CorruptPayload("the map of repeats is damaged or ends early")
        length = int("".join(map(str, word[:size])), 2)
        if length > flat.size - done:
            raise CorruptPayload("the map of repeats is larger than the latent")
        flat[done : done + length] = mode
        done += length
        place += (2 if mode else 1) + size
    modes = np.ascontiguousarray(flat.reshape(width, height).T)
    if (modes[:, 0] == LEFT).any() or (modes[0] == UP).any():
        raise CorruptPayload("the map of repeats copies from outside")
    return modes, -(-place // 8)
