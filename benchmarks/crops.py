"""Crops of pictures enlarged: original, faithful and realistic, and AVIF at as many bytes or a few more.

A row for each picture and quality:

    python -m benchmarks.crops --quality 2 --crop kodak/kodim04.png 300 140 160 120 --crop screen.png 0 0 160 120

Text, faces and screens are where invented texture does harm: look at them before `--realism` is used for such pictures.
No search.
"""

import sys
from pathlib import Path

from models.config import QUALITIES
from options.base_options import Parser, in_range
from utils.codec.fingerprint import CHECKPOINTS


def row(codec, avif, quality: float, name: str, place: list[str]) -> list:
    """The panels of one picture, cropped. Raises ValueError for a crop that is not possible."""
    from utils.metrics import psnr

    from .common import at_size
    from .sheet import cut

    if not all(number.isdecimal() for number in place) or "0" in place[2:]:
        raise ValueError(f"--crop {name} {' '.join(place)} is no place: give LEFT TOP WIDTH HEIGHT in pixels")
    original, crop = codec.kind.read(Path(name)), tuple(map(int, place))
    panels = [(Path(name).stem, cut(original, crop))]

    def show(label: str, n_bytes: int, pixels) -> None:
        rate, decibels = codec.kind.rate(n_bytes, original.shape[:2]), psnr(original, pixels)
        panels.append((f"{label}: {rate:.3f} bpp, {decibels:.1f} dB", cut(pixels, crop)))

    data = codec.compress(original, quality, "none")
    for realism in (0.0, 1.0) if codec.has_realistic else (0.0,):
        show(f"realism {realism:g}", len(data), codec.decompress(data, realism))
    setting, coded = at_size(avif, original, len(data))
    show(avif.label, len(coded.data), avif.decode(coded.data, setting))
    return panels


def run(options) -> int:
    from benchmarks import images
    from utils.batch.conditions import conditions_of
    from utils.batch.inputs import checkpoint_used
    from utils.codec.codec import load_codec
    from utils.console import pick_device

    from .sheet import save_sheet

    device = pick_device(options.device)
    codec = load_codec(options.checkpoint, device)
    (avif,) = images.avif(options)
    rows = [row(codec, avif, quality, name, place) for name, *place in options.crop for quality in options.quality]
    if len({pixels.shape for panels in rows for _, pixels in panels}) > 1:
        raise ValueError("the crops differ in width or height: choose the same for all")
    conditions = conditions_of(options, device, [checkpoint_used(options.checkpoint, codec)])
    save_sheet(options.output, [panel for panels in rows for panel in panels], len(rows[0]), conditions, options.zoom)
    for panels in rows:
        print(", ".join(label for label, _ in panels))
    print(f"{options.output}: rates and PSNR are those of whole pictures")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Enlarged crops: original, this codec faithful and realistic, AVIF at the same bytes.")
    add = parser.add_argument
    add(
        "--crop",
        nargs=5,
        action="append",
        required=True,
        metavar=("FILE", "LEFT", "TOP", "WIDTH", "HEIGHT"),
        help="a picture and what to show of it, in pixels; again for more rows",
    )
    add("--output", type=Path, default=Path("results/crops.png"), help="the PNG to write")
    add("--checkpoint", type=Path, default=CHECKPOINTS / "image.safetensors", metavar="FILE", help="trained weights")
    add(
        "--quality",
        type=in_range(float, 1, QUALITIES),
        nargs="+",
        default=[2.0],
        help="qualities of this codec: a row for each of every picture",
    )
    add("--zoom", type=in_range(int, 1, 16), default=3, help="how many times as wide and as high")
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
