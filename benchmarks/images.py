"""This codec and JPEG (also MozJPEG and jpegli), JPEG 2000, WebP, AVIF, HEIC, HEVC, AV1 and JPEG XL, in one run.

    python -m benchmarks.images --input DIR

Rates count the whole file, headers and containers included, over the original pixels. PSNR (RGB,
8 bit) and MS-SSIM are those of the decoded file. Encoders do their best in reasonable time: JPEG with
optimized Huffman tables, and by two encoders that trade more time for fewer bytes, MozJPEG with
trellis quantization and jpegli; JPEG 2000 as a bare codestream, irreversible, with its color transform; WebP
with method 6; AVIF at speed 4 as the library tunes it (with libavif 1.4 that is `tune=iq`, for still
pictures), the same at speed 1, and at speed 4 tuned for PSNR; HEIC at x265's preset slow (tuning it for
PSNR gained nothing); HEVC and AV1 as bare key frames, x265 4:4:4 at preset veryslow and tuned for SSIM as BPG
has it (without that it spends bits on what raises neither PSNR nor MS-SSIM), and SVT-AV1 4:2:0 at preset 0 (their
rates leave out the container and, for HEVC, the parameter sets that BPG's own header replaces);
JPEG XL at its default effort and from quality 20 on,
under which it halves the picture and loses 2 dB for no fewer bytes. JPEG, WebP and HEIC code color at
half resolution (4:2:0), as is usual; in trials that was better for HEIC up to 1 bpp and worse for AVIF.
AVIF, HEIC and JPEG XL may use all cores. Curves are means over the pictures; MS-SSIM is compared in dB,
-10 log10(1 - MS-SSIM) of the mean.
"""

import io
import math
import os
import sys
from collections.abc import Iterable
from fractions import Fraction
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, features

from data.images import ImageKind, on_white

from .common import OURS, Benchmark, Codec, Coded, Measure, Missing, benchmark_parser, own_codecs, run


def _codec(
    name: str, label: str, version: str, file_format: str, settings: tuple, arguments, scale: Iterable[float]
) -> list[Codec]:
    """A format of Pillow's or of a plug-in; `arguments(number)` are those of Image.save."""

    def encode(pixels: np.ndarray, setting: str) -> Coded:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format=file_format, **arguments(float(setting)))
        return Coded(file.getvalue())

    def decode(data: bytes, _) -> np.ndarray:
        with Image.open(io.BytesIO(data), formats=[file_format]) as image:
            return np.asarray(image.convert("RGB"))

    return [
        Codec(
            name,
            label,
            tuple(f"{setting:g}" for setting in settings),
            version,
            encode,
            decode,
            scale=tuple(f"{setting:g}" for setting in scale),
        )
    ]


def _pillow(feature: str) -> str:
    """Version of a library that Pillow was built with."""
    if not features.check(feature):
        raise Missing(f"this Pillow was built without {feature}; pip install --force-reinstall pillow")
    return f"{feature} {features.version(feature)}"


def _plug_in(module: str, package: str) -> str:
    """Load a package, one that adds a format to Pillow or has its own encoder; -> its version."""
    from importlib.metadata import version

    try:
        import_module(module)
    except ImportError:
        raise Missing(f"pip install {package}") from None
    return f"{package} {version(package)}"


def jpeg(_) -> list[Codec]:
    return _codec(
        "jpeg",
        "JPEG (4:2:0)",
        _pillow("jpg"),
        "JPEG",
        (5, 8, 12, 17, 24, 34, 48, 62, 74),
        lambda quality: dict(quality=int(quality), optimize=True, subsampling="4:2:0"),
        range(1, 96),
    )


def jpeg2000(_) -> list[Codec]:
    return _codec(
        "jpeg2000",
        "JPEG 2000",
        _pillow("jpg_2000"),
        "JPEG2000",
        (0.05, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6, 0.85, 1.2),
        lambda bpp: dict(no_jp2=True, irreversible=True, mct=1, quality_mode="rates", quality_layers=[24 / bpp]),
        np.geomspace(0.02, 6, 400),
    )


def mozjpeg(_) -> list[Codec]:
    version = _plug_in("pyvips", "pyvips-binary")
    import pyvips

    def encode(pixels: np.ndarray, quality: str, trellis: bool = True) -> Coded:
        image = pyvips.Image.new_from_array(np.ascontiguousarray(pixels), interpretation="srgb")
        tuned = dict(trellis_quant=True, overshoot_deringing=True, optimize_scans=True, quant_table=3)
        return Coded(
            image.jpegsave_buffer(
                Q=int(quality), optimize_coding=True, interlace=True, keep="none", subsample_mode="on",
                **(tuned if trellis else {}),
            )
        )  # fmt: skip

    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    if encode(noise, "50") == encode(noise, "50", trellis=False):  # built with another libjpeg, which ignores it
        raise Missing("this libvips was built without MozJPEG; pip install pyvips-binary")
    return [
        Codec(
            "mozjpeg",
            "MozJPEG (4:2:0)",
            ("5", "8", "12", "17", "24", "34", "48", "62", "74"),
            version,
            encode,
            _decode_jpeg,
            scale=tuple(map(str, range(1, 96))),
        )
    ]


def jpegli(_) -> list[Codec]:
    version = _plug_in("pyjpegli", "pyjpegli")
    import pyjpegli

    return [
        Codec(
            "jpegli",
            "jpegli",
            ("5", "10", "16", "24", "34", "46", "60", "72", "80"),
            version,
            lambda pixels, quality: Coded(
                pyjpegli.encode(pixels.tobytes(), pixels.shape[1], pixels.shape[0], int(quality))
            ),
            _decode_jpeg,
            scale=tuple(map(str, range(1, 96))),
        )
    ]


def _decode_jpeg(data: bytes, _) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return np.asarray(image.convert("RGB"))


def webp(_) -> list[Codec]:
    return _codec(
        "webp",
        "WebP (4:2:0)",
        _pillow("webp"),
        "WEBP",
        (1, 5, 10, 20, 35, 50, 65, 80, 87),
        lambda quality: dict(quality=int(quality), method=6),
        range(101),
    )


def _avif(name: str, label: str, settings: tuple, speed: int = 4, **tune) -> list[Codec]:
    return _codec(
        name,
        label,
        _pillow("avif"),
        "AVIF",
        settings,
        lambda quality: dict(quality=int(quality), speed=speed, subsampling="4:4:4", **tune),
        range(100),
    )


def avif(_) -> list[Codec]:
    return _avif("avif", "AVIF (4:4:4)", (3, 10, 17, 25, 33, 41, 49, 57, 65))


def avif_psnr(_) -> list[Codec]:
    return _avif(
        "avif-psnr", "AVIF (4:4:4), tuned for PSNR", (1, 6, 12, 19, 26, 34, 43, 52, 60), advanced={"tune": "psnr"}
    )


def avif_slow(_) -> list[Codec]:
    return _avif("avif-slow", "AVIF (4:4:4), speed 1", (3, 10, 17, 25, 33, 41, 49, 57, 65), speed=1)


# Full-range BT.601 as JPEG has it, for encoders that take planes.
_TO_YCBCR = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])


def _to_planes(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB (H, W, 3) -> uint8 YCbCr (3, H, W)."""
    ycbcr = pixels @ _TO_YCBCR.T + [0, 128, 128]
    return np.ascontiguousarray(np.clip(np.rint(ycbcr), 0, 255).astype(np.uint8).transpose(2, 0, 1))


def _pyav(encoder: str) -> str:
    """Version of PyAV, which must have been built with the encoder."""
    import av

    if encoder not in av.codecs_available:
        raise Missing(f"this PyAV was built without {encoder}; pip install --force-reinstall av")
    return f"PyAV {av.__version__}"


def _to_pixels(planes: np.ndarray) -> np.ndarray:
    """Invert `_to_planes`."""
    pixels = (planes.transpose(1, 2, 0) - np.array([0.0, 128, 128])) @ np.linalg.inv(_TO_YCBCR).T
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _key_frame(encoder: str, planes: np.ndarray, pixel_format: str, options: dict[str, str]) -> bytes:
    """One picture as a video of one frame, by an encoder of PyAV's, without a container."""
    import av

    frame = av.VideoFrame.from_ndarray(planes, format=pixel_format)
    frame.color_range, frame.colorspace, frame.pts = 2, 5, 0  # full range, BT.601
    context = av.CodecContext.create(encoder, "w")
    context.width, context.height, context.pix_fmt = frame.width, frame.height, pixel_format
    context.time_base = Fraction(1, 25)
    context.options = options
    return b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])


def _first_frame(decoder: str, data: bytes):
    import av

    context = av.CodecContext.create(decoder, "r")
    return [*context.decode(av.Packet(data)), *context.decode(None)][0]


def slices(data: bytes) -> int:
    """Bytes of an HEVC stream's slices with their start codes: without parameter sets and messages (H.265, 7.3.1)."""
    total = 0
    for unit in data.split(b"\0\0\1")[1:]:
        if unit[0] >> 1 & 63 < 32:  # the unit's type; 32 and more are no pictures
            total += 3 + len(unit.rstrip(b"\0"))
    return total


def hevc(_) -> list[Codec]:
    version = f"{_pyav('libx265')} tune=ssim"

    def encode(pixels: np.ndarray, qp: str) -> Coded:
        options = {"preset": "veryslow", "tune": "ssim", "x265-params": f"qp={qp}:keyint=1:info=0:log-level=none"}
        data = _key_frame("libx265", _to_planes(pixels), "yuv444p", options)
        return Coded(data, slices(data))

    def decode(data: bytes, _) -> np.ndarray:
        return _to_pixels(_first_frame("hevc", data).to_ndarray())

    scale = range(51, 9, -1)
    settings = ("46", "43", "40", "37", "34", "31", "28", "25", "22")
    return [Codec("hevc", "HEVC intra (4:4:4)", settings, version, encode, decode, scale=tuple(map(str, scale)))]


def av1(_) -> list[Codec]:
    version = _pyav("libsvtav1")
    os.environ.setdefault("SVT_LOG", "1")  # errors alone, and not all settings for each picture

    def encode(pixels: np.ndarray, quantizer: str) -> Coded:
        height, width = pixels.shape[:2]
        planes = Image.fromarray(np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), "edge"))
        # Pillow's color transform is the one of `_to_planes`; the color planes are averaged 2 by 2
        y, *colors = planes.convert("YCbCr").split()
        halves = [np.asarray(color.reduce(2)) for color in colors]
        packed = np.concatenate([np.asarray(y).ravel(), *(half.ravel() for half in halves)])
        options = {"preset": "0", "crf": quantizer, "svtav1-params": "avif=1"}
        data = _key_frame("libsvtav1", packed.reshape(-1, planes.width), "yuv420p", options)
        return Coded(height.to_bytes(4, "little") + width.to_bytes(4, "little") + data, len(data))

    def decode(data: bytes, _) -> np.ndarray:
        height, width = (int.from_bytes(data[at : at + 4], "little") for at in (0, 4))
        frame = _first_frame("libdav1d", data[8:])
        planes = frame.to_ndarray().reshape(-1)
        n, rows, columns = frame.width * frame.height, frame.height // 2, frame.width // 2
        y = Image.fromarray(planes[:n].reshape(frame.height, frame.width))
        colors = (
            Image.fromarray(planes[start : start + n // 4].reshape(rows, columns)).resize(y.size, Image.BILINEAR)
            for start in (n, n + n // 4)
        )
        return np.asarray(Image.merge("YCbCr", (y, *colors)).convert("RGB"))[:height, :width]

    settings = ("60", "54", "48", "42", "36", "30", "25", "20", "15")
    return [
        Codec(
            "av1",
            "AV1 (4:2:0), SVT",
            settings,
            version,
            encode,
            decode,
            scale=tuple(map(str, range(63, 4, -1))),
        )
    ]


def heic(_) -> list[Codec]:
    version = _plug_in("pillow_heif", "pillow-heif")
    import_module("pillow_heif").register_heif_opener()
    return _codec(
        "heic",
        "HEIC (4:2:0)",
        version,
        "HEIF",
        (4, 9, 14, 19, 25, 31, 37, 43, 50),
        lambda quality: dict(quality=int(quality), chroma=420, enc_params={"preset": "slow"}),
        range(100),
    )


def jpeg_xl(_) -> list[Codec]:
    version = _plug_in("pillow_jxl", "pillow-jxl-plugin")
    return _codec(
        "jpeg-xl",
        "JPEG XL",
        version,
        "JXL",
        (20, 24, 30, 38, 47, 57, 66, 76, 84),
        lambda quality: dict(quality=int(quality)),
        range(20, 100),
    )


def _decibels(ms_ssim: float) -> float:
    return -10 * math.log10(max(1 - ms_ssim, 1e-6))


class ColorsOnWhite(ImageKind):
    """Pictures as all codecs here take them: (H, W, 3), gray in three channels, transparent ones on a white page."""

    def read(self, path: Path) -> np.ndarray:
        pixels = on_white(super().read(path))
        return np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))


BENCHMARK = Benchmark(
    kind=ColorsOnWhite(),
    output=Path("results/benchmark_images"),
    codecs={
        OURS: own_codecs,
        "jpeg": jpeg,
        "mozjpeg": mozjpeg,
        "jpegli": jpegli,
        "jpeg2000": jpeg2000,
        "webp": webp,
        "avif": avif,
        "avif-psnr": avif_psnr,
        "avif-slow": avif_slow,
        "av1": av1,
        "heic": heic,
        "hevc": hevc,
        "jpeg-xl": jpeg_xl,
    },
    measures=(Measure("psnr_db", "PSNR (dB)"), Measure("ms_ssim", "MS-SSIM (dB)", _decibels)),
    references=("jpeg", "published bpg"),
    published=Path(__file__).parent / "anchors" / "kodak_published.json",
    rate_ticks=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5),
)


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser(BENCHMARK, "Rate, quality and speed of this and other image codecs on the same files.")
    return parser.run(argv, lambda options: run(BENCHMARK, options))


if __name__ == "__main__":
    sys.exit(main())
