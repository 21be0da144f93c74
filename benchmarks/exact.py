"""What identical pixels cost: PSNR and decoding time of the exact generator, against the one in floating point.

BPGAN_DATA=... python -m benchmarks.exact --quality 1 3 5 8
"""

import sys
import time
from pathlib import Path

from models.config import QUALITIES
from options.base_options import Parser, in_range


def run(options) -> int:
    import numpy as np

    from data.corpora import default_dataroot
    from utils.batch.inputs import find_inputs
    from utils.codec.codec import load_codec
    from utils.codec.fingerprint import shipped
    from utils.console import pick_device

    codec = load_codec(options.checkpoint or shipped("image"), pick_device(options.device))
    codec.check_exact()
    inputs = options.input or [default_dataroot(codec.kind.name, "val")]
    items = find_inputs(inputs, lambda path: path.suffix.lower() in codec.kind.suffixes)
    items = items[:: max(1, len(items) // options.pictures)][: options.pictures]
    print(f"{len(items)} pictures; the exact generator's fingerprint is {codec.exact_generator().fingerprint()}")
    print(
        "| Quality | PSNR (dB) | loss (dB), mean | largest | pixels that differ | most levels "
        "| decoding (processor seconds) | exact | times |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for quality in options.quality:
        rows = []
        for item in items:
            original = codec.kind.read(item.path)
            data = codec.compress(original, quality, "none")
            decoded, seconds = [], []
            for exact in (False, True):
                started = time.process_time()
                decoded.append(codec.decompress(data, exact=exact))
                seconds.append(time.process_time() - started)
            scores = [codec.kind.score(original, pixels)["psnr_db"] for pixels in decoded]
            difference = np.abs(decoded[0].astype(int) - decoded[1])
            rows.append([scores[0], scores[0] - scores[1], (difference > 0).mean(), difference.max(), *seconds])
        psnr, loss, differing, _, plain, exact = np.mean(rows, axis=0)
        largest, levels = np.max(rows, axis=0)[[1, 3]]
        print(
            f"| {quality:g} | {psnr:.2f} | {loss:.4f} | {largest:.4f} | {differing:.1%} | {levels:.0f} "
            f"| {plain:.2f} | {exact:.2f} | {exact / plain:.1f} |",
            flush=True,
        )
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser("PSNR and decoding time of the exact generator, against the one in floating point.")
    add = parser.add_argument
    parser.add_inputs("images; without it, the validation set below the folder that BPGAN_DATA names is taken")
    add(
        "--checkpoint",
        type=Path,
        default=None,
        metavar="FILE",
        help="trained weights; without it, those in checkpoints/ are used",
    )
    add("--quality", type=in_range(float, 1, QUALITIES), nargs="+", default=[1.0, 3.0, 5.0, 8.0], help="one or several")
    add("--pictures", type=in_range(int, 1, 10**6), default=8, help="how many, evenly spaced among the inputs")
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
