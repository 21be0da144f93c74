"""The entropy coders on the same symbols: attained bytes, bounds, and times.

    python -m benchmarks.coders --input kodak --quality 2 4 6

Bytes are whole files without search. `first order` is the entropy of the picture's own symbols per
channel, with no cost for its tables; `estimate` the float entropy model's bits of the same symbols.
"""

import sys
import time

from models.config import QUALITIES
from options.base_options import Parser, in_range
from utils.codec.settings import Settings
from utils.entropy import CODERS

BOUNDS = ("first order", "estimate")


def columns() -> list[str]:
    """Bytes of every coder and of the bounds, then milliseconds of every coder."""
    return [*CODERS, *BOUNDS, *(f"{name} ms" for name in CODERS)]


def cell(column: str, rows: list[dict[str, float]]) -> str:
    """The mean of a column; nothing for a coder that the checkpoint has no tables for."""
    if any(column not in row for row in rows):
        return ""
    mean = sum(row[column] for row in rows) / len(rows)
    return f"{mean:.1f}" if column.endswith(" ms") else f"{mean:.0f}"


def first_order_bytes(symbols) -> float:
    """Entropy of each channel's histogram, in bytes."""
    import numpy as np

    bits = 0.0
    for channel in symbols:
        _, counts = np.unique(channel, return_counts=True)
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits / 8


def measure(codec, signal, quality: float) -> dict[str, float]:
    """One signal at one quality -> its row."""
    import torch

    row, symbols = {}, None
    for name, coder in codec.coders.items():
        data = codec.compress(signal, quality, Settings.of("none", entropy_coder=name))
        header, symbols = codec.read_symbols(data)
        payload = codec.unpack(data)[1]
        started = time.perf_counter()
        coder.encode(symbols, header.quality_step)
        coder.decode(payload, symbols.shape, header.quality_step, bool(header.repeats))
        row[name] = len(data)
        row[f"{name} ms"] = 500 * (time.perf_counter() - started)  # mean of encode and decode
    row["first order"] = first_order_bytes(symbols)
    grid = torch.from_numpy(symbols).float()[None].to(codec.device)
    with torch.no_grad():
        row["estimate"] = float(codec.model.rate(grid, codec.quality_row(header.quality_step))) / 8
    return row


def run(options) -> int:
    from tqdm import tqdm

    from data import kind_of
    from utils.batch.conditions import caption, conditions_of
    from utils.batch.inputs import CodecsByKind, find_inputs
    from utils.codec.codec import load_codec
    from utils.console import pick_device

    device = pick_device(options.device)
    items = find_inputs(options.input, lambda path: kind_of(path) is not None)
    codecs = CodecsByKind(options.checkpoint, lambda path: load_codec(path, device))
    print("| signal | quality | " + " | ".join(columns()) + " |\n|" + "---|" * (2 + len(columns())))
    for kind in sorted({kind_of(item.path) for item in items}):
        codec = codecs.of(kind)
        signals = [codec.kind.read(item.path) for item in items if kind_of(item.path) == kind]
        measure(codec, signals[0], options.quality[0])  # what is compiled is compiled before the clock runs
        for quality in options.quality:
            rows = [measure(codec, signal, quality) for signal in tqdm(signals, leave=False)]
            print(f"| {kind} | {quality:g} | " + " | ".join(cell(column, rows) for column in columns()) + " |")
    print(f"\nMeans over {caption(conditions_of(options, device, codecs.used()), len(items), options.input)}.")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Bytes and times of the entropy coders on the same symbols.")
    add = parser.add_argument
    parser.add_inputs("images or recordings", required=True)
    parser.add_checkpoints()
    add("--quality", type=in_range(float, 1, QUALITIES), nargs="+", default=[2.0, 4.0, 6.0], help="one or several")
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
