"""What it saves to code gray pictures as gray, against the same pixels coded as color.

BPGAN_DATA=... python -m benchmarks.gray --quality 1 3 6 --iterations 0 10
"""

import sys

from options.base_options import Parser, in_range

from .pictures import add_picture_options, codec_and_paths


def run(options) -> int:
    import numpy as np
    from PIL import Image

    from utils.codec.settings import Settings

    codec, paths = codec_and_paths(options)
    originals = []
    for path in paths:
        image = Image.fromarray(codec.kind.read(path)).convert("L")
        left, top = (max(0, (length - options.side) // 2) for length in image.size)
        originals.append(np.asarray(image)[top : top + options.side, left : left + options.side])
    print("| Iterations | Quality | bytes as color | as gray | PSNR (dB) as color | as gray | tint (levels) |")
    print("|---|---|---|---|---|---|---|")
    for iterations in options.iterations:
        settings = Settings.of("admm" if iterations else "none", iterations)
        for quality in options.quality:
            rows = []
            for gray in originals:
                color = np.repeat(gray[..., None], 3, axis=2)
                row = []
                for signal in (color, gray):
                    data = codec.compress(signal, quality, settings)
                    decoded = codec.decompress(data)
                    row += [len(data), codec.kind.score(signal, decoded)["psnr_db"]]
                    if signal is color:
                        tint = int(np.ptp(decoded.astype(int), axis=2).max())
                rows.append([row[0], row[2], row[1], row[3], tint])
            means = np.mean(rows, axis=0)
            print(
                f"| {iterations} | {quality:g} | {means[0]:.0f} | {means[1]:.0f} | {means[2]:.2f} | {means[3]:.2f} "
                f"| {max(row[4] for row in rows)} |",
                flush=True,
            )
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Bytes and PSNR of gray pictures that are coded as gray, and as color.")
    add = parser.add_argument
    add_picture_options(parser, "images, which are made gray", [1.0, 3.0, 6.0], 6)
    add("--iterations", type=in_range(int, 0, 100000), nargs="+", default=[0, 10], help="of the search; one or several")
    add("--side", type=in_range(int, 1, 10**6), default=512, help="pixels of the square in the middle that is coded")
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
