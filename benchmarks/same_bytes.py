"""One crop side by side: original, this codec, faithful and realistic; JPEG, WebP and AVIF at as many bytes or a few more.

python -m benchmarks.same_bytes --input kodim15.png --crop 150 60 320 320 --quality 1 --output docs/same_bytes.png
"""

import sys
from pathlib import Path

from models.config import QUALITIES
from options.base_options import Parser, in_range


def run(options) -> int:
    import json

    from PIL import Image, ImageDraw, ImageFont
    from PIL.PngImagePlugin import PngInfo

    from benchmarks import images
    from utils.batch.conditions import conditions_of
    from utils.batch.inputs import checkpoint_used
    from utils.codec.codec import load_codec
    from utils.codec.settings import Settings
    from utils.console import pick_device
    from utils.files import replacing
    from utils.metrics import psnr

    from .common import at_size

    device = pick_device(options.device)
    codec = load_codec(options.checkpoint, device)
    original = codec.kind.read(options.input)
    data = codec.encode(original, options.quality, Settings.of("admm", options.iterations)).data
    decoded = codec.decompress(data)
    left, top, width, height = options.crop
    if left + width > original.shape[1] or top + height > original.shape[0]:
        raise ValueError(f"--crop {options.crop} leaves the picture of {original.shape[1]}x{original.shape[0]}")
    panels = [("original", original), (f"BPGAN: {len(data)} bytes, {psnr(original, decoded):.1f} dB", decoded)]
    if codec.has_realistic:
        realistic = codec.decompress(data, 1.0)
        panels.append((f"same file, realism 1: {psnr(original, realistic):.1f} dB", realistic))
    for find in (images.jpeg, images.webp, images.avif):
        (rival,) = find(options)
        setting, coded = at_size(rival, original, len(data))
        pixels = rival.decode(coded.data, setting)
        panels.append((f"{rival.label}: {len(coded.data)} bytes, {psnr(original, pixels):.1f} dB", pixels))
    gap, caption, columns = 8, 24, 3
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + caption + gap) - gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (label, pixels) in enumerate(panels):
        x, y = i % columns * (width + gap), i // columns * (height + caption + gap)
        sheet.paste(Image.fromarray(pixels[top : top + height, left : left + width]), (x, y + caption))
        draw.text((x + 2, y + 3), label, fill="black", font=font)
    about = PngInfo()  # there is no folder of results for a conditions.json
    about.add_text(
        "conditions", json.dumps(conditions_of(options, device, [checkpoint_used(options.checkpoint, codec)]))
    )
    with replacing(options.output) as temporary:
        sheet.save(temporary, pnginfo=about)
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
