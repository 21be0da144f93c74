"""Pictures with a caption each, side by side in one PNG."""

import json
from pathlib import Path

import numpy as np

from utils.files import replacing

GAP, CAPTION = 8, 24  # pixels: between panels, and of the line above each

Panel = tuple[str, np.ndarray]  # a caption, and uint8 (H, W, 3)


def cut(pixels: np.ndarray, crop: tuple[int, int, int, int]) -> np.ndarray:
    """left, top, width and height of a picture (H, W, 3). Raises ValueError where the crop leaves it."""
    left, top, width, height = crop
    if left + width > pixels.shape[1] or top + height > pixels.shape[0]:
        raise ValueError(f"--crop {list(crop)} leaves the picture of {pixels.shape[1]}x{pixels.shape[0]}")
    return pixels[top : top + height, left : left + width]


def save_sheet(path: Path, panels: list[Panel], columns: int, conditions: dict, zoom: int = 1) -> None:
    """Panels of one size, row by row, every pixel `zoom` times as wide and as high. The PNG's text tells the conditions."""
    from PIL import Image, ImageDraw, ImageFont
    from PIL.PngImagePlugin import PngInfo

    height, width = (side * zoom for side in panels[0][1].shape[:2])
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + CAPTION + GAP) - GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (label, pixels) in enumerate(panels):
        x, y = i % columns * (width + GAP), i // columns * (height + CAPTION + GAP)
        large = pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
        sheet.paste(Image.fromarray(large), (x, y + CAPTION))
        draw.text((x + 2, y + 3), label, fill="black", font=font)
    about = PngInfo()  # there is no folder of results for a conditions.json
    about.add_text("conditions", json.dumps(conditions))
    with replacing(path) as temporary:
        sheet.save(temporary, pnginfo=about)
