"""One crop side by side: original, this codec, faithful and realistic; JPEG, WebP and AVIF at as many bytes or a few more.

python -m benchmarks.same_bytes --input kodim15.png --crop 150 60 320 320 --quality 1 --output docs/same_bytes.png
"""

import sys
from pathlib import Path

from models.config import QUALITIES
from options.base_options import Parser, in_range


def run(options) -> int:
    from benchmarks import images
    from utils.batch.conditions import conditions_of
    from utils.batch.inputs import checkpoint_used
    from utils.codec.codec import load_codec
    from utils.codec.settings import Settings
    from utils.console import pick_device
    from utils.metrics import psnr

    from .common import at_size
    from .sheet import cut, save_sheet

    device = pick_device(options.device)
    codec = load_codec(options.checkpoint, device)
    original = codec.kind.read(options.input)
    panels = [("original", cut(original, options.crop))]
    data = codec.encode(original, options.quality, Settings.of("admm", options.iterations)).data

    def show(label: str, pixels) -> None:
        panels.append((f"{label}{psnr(original, pixels):.1f} dB", cut(pixels, options.crop)))

    show(f"BPGAN: {len(data)} bytes, ", codec.decompress(data))
    if codec.has_realistic:
        show("same file, realism 1: ", codec.decompress(data, 1.0))
    for find in (images.jpeg, images.webp, images.avif):
        (rival,) = find(options)
        setting, coded = at_size(rival, original, len(data))
        show(f"{rival.label}: {len(coded.data)} bytes, ", rival.decode(coded.data, setting))
    conditions = conditions_of(options, device, [checkpoint_used(options.checkpoint, codec)])
    save_sheet(options.output, panels, 3, conditions)
    print(f"{options.output}: {', '.join(label for label, _ in panels[1:])} (whole picture)")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Original, this codec, JPEG, WebP and AVIF at the same bytes, side by side.")
    add = parser.add_argument
    add("--input", type=Path, required=True, help="a picture")
    add("--output", type=Path, default=Path("results/same_bytes.png"), help="the PNG to write")
    add("--checkpoint", type=Path, default=Path("checkpoints/image.safetensors"), help="trained weights")
    add(
        "--crop",
        type=in_range(int, 0, 10**6),
        nargs=4,
        default=[0, 0, 320, 320],
        metavar=("LEFT", "TOP", "WIDTH", "HEIGHT"),
        help="what to show, in pixels",
    )
    add("--quality", type=in_range(float, 1, QUALITIES), default=1.0, help="quality of this codec")
    add("--iterations", type=in_range(int, 0, 100000), default=100, help="of the search")
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
