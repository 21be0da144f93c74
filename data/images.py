"""Photographs and other pictures: 8 bits per channel in memory, PNG on the way out.

Whatever a file holds (palette, CMYK, 16 bits, a color profile, a camera's
rotation) is brought to the 8-bit sRGB pixels that a viewer would show (`data.picture_files`).
"""

import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import ClassVar

import numpy as np
from PIL import Image

from utils.files import replacing

from .base import Kind, Preview
from .folders import is_held_out
from .picture_files import convert_image, read_picture, read_with_metadata
from .sections import pack_alpha, pack_metadata, unpack_alpha, unpack_metadata

# Rows and columns that a page shows. Cut, not reduced: reduced, every codec looks flawless.
_SHOWN = 768

_LAYOUTS = ((), (2,), (3,), (4,))  # of a pixel: gray, gray and alpha, RGB, RGBA

_STRIP = 256  # rows at once, where a picture becomes pixels


class ImageKind(Kind):
    """Still pictures of any size up to `max_extent`: uint8 (H, W, 3) RGB or (H, W) gray, and with transparency
    (H, W, 4) RGBA or (H, W, 2). What is decoded has the layout of what was encoded."""

    name = "image"
    code = 0
    suffixes = (
        ".png",
        ".apng",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".webp",
        ".avif",
        ".heic",
        ".heif",
        ".hif",
        ".tif",
        ".tiff",
        ".gif",
        ".bmp",
        ".dib",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".pfm",
        ".jp2",
        ".j2k",
        ".tga",
        ".qoi",
    )
    output_suffix = ".png"
    channels = 3
    rate_unit = "bpp"
    extent_unit = "pixels"
    # Cameras of 100 megapixels and phones of 108 are below (docs/robustness.md).
    max_extent = 128_000_000
    metric_names = ("psnr_db", "ms_ssim")
    section_names = ("alpha", "exif", "icc")
    has_gray = True
    has_colors = True
    has_exact = True
    network: ClassVar = dict(
        in_channels=3,
        latent_channels=256,
        context_groups=(4, 4, 8, 16, 32, 48, 64, 80),
        context_hidden=48,
        lmbda_high=0.18,
        linear_path=True,
        quality_scales=True,
    )
    folders: ClassVar = {"train": "images/train", "val": "images/val", "test": "kodak"}  # Kodak is for evaluation only
    crop_shape = (256, 256)
    storage = "uint8"
    stretch = (2.0, 2.0)
    sources = "a path, a Pillow image, a NumPy array or a PyTorch tensor"
    tensor_dims = 3

    @property
    def settings(self) -> dict:
        """Nothing fixes the picture but its pixels: empty."""
        return {}

    def read(self, path: Path) -> np.ndarray:
        """Read a picture as a viewer shows it -> uint8 of any layout, of at most `max_extent` pixels.

        `data.picture_files.read_picture` says what becomes of colors, transparency, pages and depth.
        Raises ValueError with one line for whatever is not a readable picture.
        """
        return read_picture(path, self.check_extent)

    def read_with_metadata(self, path: Path) -> tuple[np.ndarray, dict[str, bytes]]:
        """`read`, with "exif" and "icc" where the file has them: `data.picture_files.read_with_metadata`."""
        return read_with_metadata(path, self.check_extent)

    def _converted(self, source) -> np.ndarray:
        """Pillow images are treated like files, so that both give the same pixels."""
        return (
            convert_image(source, self.check_extent) if isinstance(source, Image.Image) else super()._converted(source)
        )

    def _from_array(self, values: np.ndarray) -> np.ndarray:
        """(H, W, 3), gray (H, W), with alpha (H, W, 4) or (H, W, 2), uint8, uint16 of the full range or float in [0, 1]
        -> uint8 of that layout."""
        return _pixels_of(
            values, values if values.ndim == 3 else values[..., None], "(H, W, 3) or (H, W), with alpha (H, W, 4 or 2)"
        )

    def _from_tensor(self, values: np.ndarray) -> np.ndarray:
        """(3, H, W), gray (1, H, W), with alpha (4, H, W) or (2, H, W), otherwise as arrays."""
        return _pixels_of(
            values,
            np.moveaxis(values, 0, -1) if values.ndim == 3 else values,
            "(3, H, W) or (1, H, W), with alpha (4 or 2, H, W)",
        )

    def write(self, path: Path, signal: np.ndarray, exif: bytes | None = None, icc: bytes | None = None) -> None:
        """Write uint8 of any layout as PNG, with EXIF data and profile; the file appears only when complete.

        Raises ValueError for another dtype or shape.
        """
        _check_pixels(signal)
        known = {name: value for name, value in (("exif", exif), ("icc_profile", icc)) if value}
        # Through memory: what goes wrong on the disk is then the system's own error.
        stream = BytesIO()
        # What a generator makes hardly ever repeats itself but for flat places: runs and Huffman codes do as well as
        # the search for repetitions (1 % more bytes), in a quarter of its time.
        Image.fromarray(signal).save(stream, format="PNG", compress_type=zlib.Z_RLE, **known)
        with replacing(path) as temporary:
            temporary.write_bytes(stream.getbuffer())

    def size(self, signal: np.ndarray) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width = signal.shape[:2]
        return height, width

    def picture_shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """The picture has the rows and columns of the image: `size` itself."""
        height, width = size
        return height, width

    def to_picture(self, signal: np.ndarray) -> tuple[np.ndarray, int]:
        """uint8 of any layout -> (float32 (3, H, W) in [-1, 1], level 0, which images do not use).

        Gray is in all three channels. Transparency is laid on white.
        """
        _check_pixels(signal)
        color = on_white(signal)
        picture = np.empty((self.channels, *color.shape[:2]), np.float32)
        picture[:] = color.transpose(2, 0, 1)
        picture /= 127.5
        picture -= 1
        return picture, 0

    def from_picture(self, picture: np.ndarray, size: tuple[int, int], level: int) -> np.ndarray:
        """float (3, >=H, >=W) -> uint8 (H, W, 3): clamped to [-1, 1], scaled, rounded, cropped.

        A gray picture (1, >=H, >=W) gives (H, W). This exactly undoes `to_picture` of a picture without transparency;
        `join` adds that. `level` is not used. Raises ValueError if the picture is smaller than `size` or holds NaN.
        """
        height, width = size
        if (
            picture.ndim != 3
            or picture.shape[0] not in (1, self.channels)
            or picture.shape[1] < height
            or picture.shape[2] < width
        ):
            raise ValueError(f"picture {picture.shape} does not hold an image of {size}")
        pixels = np.empty((height, width, picture.shape[0]), np.uint8)
        for top in range(0, height, _STRIP):  # temporaries of a strip, not of the whole
            scaled = picture[:, top : min(top + _STRIP, height), :width].astype(np.float32)
            if np.isnan(scaled).any():
                raise ValueError("picture holds NaN, so no pixels can be made of it")
            np.clip(scaled, -1, 1, out=scaled)
            scaled += 1
            scaled *= 127.5
            pixels[top : top + _STRIP] = np.rint(scaled, out=scaled).transpose(1, 2, 0)
        return pixels if picture.shape[0] == self.channels else pixels[..., 0]

    def is_gray(self, signal: np.ndarray) -> bool:
        """By the layout: (H, W) and (H, W, 2). `read` gives these where red, green and blue are equal."""
        return signal.ndim == 2 or signal.shape[2] == 2

    def gray_picture(self, picture):
        """The mean of the three channels clamped to [-1, 1]: (..., 3, H, W) -> (..., 1, H, W).

        Equal weights come closer to gray originals than those of luma do (docs/formats.md).
        """
        return sum(picture[..., i : i + 1, :, :].clip(-1, 1) for i in range(self.channels)) / self.channels

    def to_sections(self, signal: np.ndarray, metadata: Mapping[str, bytes]) -> dict[str, bytes]:
        """Transparency, losslessly, and the metadata that `read_with_metadata` gives."""
        sections = pack_metadata(metadata)
        if signal.shape[2:] in ((2,), (4,)):
            sections["alpha"] = pack_alpha(np.ascontiguousarray(signal[..., -1]))
        return sections

    def join(self, signal: np.ndarray, sections: Mapping[str, bytes]) -> np.ndarray:
        """uint8 (H, W, 3) or (H, W) -> the same with the sections' alpha as one channel more, where there is one.

        The colors are those that give the decoded picture when they are laid on white. On any other background an
        error is then as large as on white. Raises ValueError for a damaged section.
        """
        if "alpha" not in sections:
            return signal
        alpha = unpack_alpha(sections["alpha"], self.size(signal))
        color = signal.reshape(*alpha.shape, -1)
        joined = np.dstack([color, alpha])
        for row in range(len(joined)):
            share = np.maximum(alpha[row], 1)[:, None] / np.float32(255)
            straight = 255 - (255 - color[row].astype(np.float32)) / share
            straight[alpha[row] == 0] = 255
            joined[row, :, :-1] = np.rint(np.clip(straight, 0, 255))
        return joined

    def metadata(self, sections: Mapping[str, bytes]) -> dict[str, bytes]:
        """ "exif" and "icc", as `write` takes them. Raises ValueError for damaged ones."""
        return unpack_metadata({name: sections[name] for name in ("exif", "icc") if name in sections})

    def extent(self, size: tuple[int, int]) -> float:
        """Pixels."""
        height, width = size
        return height * width

    def rate(self, n_bytes: int, size: tuple[int, int]) -> float:
        """Bits per original pixel of a file of `n_bytes`."""
        height, width = size
        return 8 * n_bytes / (height * width)

    def score(self, original: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        """PSNR (dB) and MS-SSIM between two uint8 of any layout, both laid on white."""
        from utils.metrics import ms_ssim, psnr

        original, decoded = on_white(original), on_white(decoded)
        if original.shape[2] != decoded.shape[2]:  # gray as one channel, and in three
            shape = (*original.shape[:2], self.channels)
            original, decoded = np.broadcast_to(original, shape), np.broadcast_to(decoded, shape)
        return {"psnr_db": psnr(original, decoded), "ms_ssim": ms_ssim(original, decoded)}

    def preview(self, signal: np.ndarray, reference: np.ndarray) -> Preview:
        """The pixels themselves, on white; of a large picture the middle, at most 768x768 of them."""
        height, width = signal.shape[:2]
        rows, columns = min(height, _SHOWN), min(width, _SHOWN)
        top, left = (height - rows) // 2, (width - columns) // 2
        note = f"{width}x{height} pixels"
        if (rows, columns) != (height, width):
            note = f"the middle {columns}x{rows} of {note}, not reduced; the figures are of the whole"
        shown = on_white(signal[top : top + rows, left : left + columns])
        return Preview(np.broadcast_to(shown, (rows, columns, self.channels)), note=note)

    def augment(self, crop, rng):
        """Mirrored left to right, half of the time; in a quarter, rows for columns; in some, a rectangle of one color.

        Graphics and blank walls are rare in photographs, and must cost next to nothing all the same.
        """
        if rng.uniform() < 0.06:
            rows, columns = crop.shape[-2:]
            top, left = (int(rng.integers(-n, n // 2)) for n in (rows, columns))
            height, width = (int(rng.integers(n // 4, 2 * n + 1)) for n in (rows, columns))
            color = rng.integers(0, 256, 3) / 127.5 - 1
            if rng.uniform() < 0.3:
                color[:] = rng.choice([-1.0, 1.0])
            crop = crop.clone()
            for channel, value in zip(crop, color.tolist()):
                channel[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = value
        if rng.uniform() < 0.25:
            crop = crop.transpose(-1, -2)
        return crop.flip(-1) if rng.uniform() < 0.5 else crop

    def list_files(self, root: Path | str, split: str) -> list[Path]:
        """All of a folder; training leaves out the classes that are a test set (`data.folders.is_held_out`)."""
        return [path for path in super().list_files(root, split) if split != "train" or not is_held_out(path)]

    def samples(self) -> list[Path]:
        """scikit-learn's two photographs. Raises ValueError if it is not installed."""
        # find_spec locates the package without importing it, which would take a second.
        package = find_spec("sklearn")
        folders = package.submodule_search_locations if package else []
        found = [path for folder in folders or [] for path in sorted(Path(folder, "datasets", "images").glob("*.jpg"))]
        if not found:
            raise ValueError(
                "scikit-learn's sample photographs are not installed: "
                "pip install scikit-learn, or name images with --input"
            )
        return found


def on_white(signal: np.ndarray) -> np.ndarray:
    """uint8 of any layout -> (H, W, 3), or (H, W, 1) of gray: what a viewer shows on a white page."""
    if signal.ndim == 2:
        return signal[..., None]
    if signal.shape[2] not in (2, 4):
        return signal
    color, alpha = signal[..., :-1], signal[..., -1:]
    result = np.empty_like(color)
    for row in range(len(color)):
        weight = alpha[row] / np.float32(255)
        result[row] = np.rint(255 + weight * (color[row] - np.float32(255)))
    return result


def _pixels_of(values: np.ndarray, samples: np.ndarray, shapes: str) -> np.ndarray:
    """Samples (H, W, 1 to 4) of an array -> uint8 of the same layout, gray without a third axis.

    Raises ValueError, which names the values as they were given and the shapes that are possible.
    """
    is_float = samples.dtype.kind == "f"
    if (
        samples.ndim != 3
        or not 1 <= samples.shape[2] <= 4
        or samples.size == 0
        or not (is_float or samples.dtype in (np.uint8, np.uint16))
    ):
        raise ValueError(
            f"an image is {shapes}, uint8, uint16 or float in [0, 1], and not empty; found {values.dtype} {values.shape}"
        )
    if is_float and not (samples.min() >= 0 and samples.max() <= 1):  # NaN is neither
        raise ValueError(f"pixels of type {values.dtype} are in [0, 1], found {samples.min():g} to {samples.max():g}")
    if samples.dtype != np.uint8:
        pixels = np.empty(samples.shape, np.uint8)
        scale = np.float32(255 if is_float else 255 / 65535)
        for top in range(0, len(samples), _STRIP):
            pixels[top : top + _STRIP] = np.rint(samples[top : top + _STRIP].astype(np.float32) * scale)
        samples = pixels
    return samples if samples.shape[2] > 1 else samples[..., 0]


def _check_pixels(signal: np.ndarray) -> None:
    if signal.dtype != np.uint8 or signal.ndim not in (2, 3) or signal.shape[2:] not in _LAYOUTS or signal.size == 0:
        raise ValueError(
            "an image is uint8 (H, W, 3), (H, W), with alpha (H, W, 4) or (H, W, 2), and not empty, "
            f"found {signal.dtype} {signal.shape}"
        )
