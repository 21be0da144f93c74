"""What identical pixels cost: PSNR and decoding time of the exact generator, against the one in floating point.

BPGAN_DATA=... python -m benchmarks.exact --quality 1 3 5 8
"""

import sys
import time

from options.base_options import Parser

from .pictures import add_picture_options, codec_and_paths


def run(options) -> int:
    import numpy as np

    codec, paths = codec_and_paths(options)
    codec.check_exact()
    print(f"{len(paths)} pictures; the exact generator's fingerprint is {codec.exact_generator().fingerprint()}")
    print(
        "| Quality | PSNR (dB) | loss (dB), mean | largest | pixels that differ | most levels "
        "| decoding (processor seconds) | exact | times |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for quality in options.quality:
        rows = []
        for path in paths:
            original = codec.kind.read(path)
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
    add_picture_options(parser, "images", [1.0, 3.0, 5.0, 8.0], 8)
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
