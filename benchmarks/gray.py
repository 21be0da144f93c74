"""What it saves to code gray pictures as gray, against the same pixels coded as color.

BPGAN_DATA=... python -m benchmarks.gray --quality 1 3 6 --iterations 0 10
"""

import sys
from pathlib import Path

from models.config import QUALITIES
from options.base_options import Parser, in_range


def run(options) -> int:
    import numpy as np
    from PIL import Image

    from data.corpora import default_dataroot
    from utils.batch.inputs import find_inputs
    from utils.codec.codec import load_codec
    from utils.codec.fingerprint import CHECKPOINTS
    from utils.codec.settings import Settings
    from utils.console import pick_device

    codec = load_codec(options.checkpoint or CHECKPOINTS / "image.safetensors", pick_device(options.device))
    inputs = options.input or [default_dataroot("image", "val")]
    items = find_inputs(inputs, lambda path: path.suffix.lower() in codec.kind.suffixes)
    originals = []
    for item in items[:: max(1, len(items) // options.pictures)][: options.pictures]:
        image = Image.fromarray(codec.kind.read(item.path)).convert("L")
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
    parser.add_inputs(
        "images, which are made gray; without it, the validation set below the folder that BPGAN_DATA names is taken"
    )
    add(
        "--checkpoint",
        type=Path,
        default=None,
        metavar="FILE",
        help="trained weights; without it, those in checkpoints/ are used",
    )
    add("--quality", type=in_range(float, 1, QUALITIES), nargs="+", default=[1.0, 3.0, 6.0], help="one or several")
    add("--iterations", type=in_range(int, 0, 100000), nargs="+", default=[0, 10], help="of the search; one or several")
    add("--pictures", type=in_range(int, 1, 10**6), default=6, help="how many, evenly spaced among the inputs")
    add("--side", type=in_range(int, 1, 10**6), default=512, help="pixels of the square in the middle that is coded")
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
