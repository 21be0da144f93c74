"""This codec and JPEG, JPEG 2000, WebP, AVIF, HEIC, JPEG XL on the same pictures, in one run.

    python -m benchmarks.images --input DIR

Rates count the whole file, headers and containers included, over the original pixels. PSNR (RGB,
8 bit) and MS-SSIM are those of the decoded file. Encoders do their best in reasonable time: JPEG with
optimized Huffman tables; JPEG 2000 as a bare codestream, irreversible, with its color transform; WebP
with method 6; AVIF at speed 4, once as the library tunes it and once tuned for PSNR; HEIC at x265's
preset slow (tuning it for PSNR gained nothing); JPEG XL at its default effort and from quality 20 on,
under which it halves the picture and loses 2 dB for no fewer bytes. JPEG, WebP and HEIC code color at
half resolution (4:2:0), as is usual; in trials that was better for HEIC up to 1 bpp and worse for AVIF.
AVIF, HEIC and JPEG XL may use all cores. Curves are means over the pictures; MS-SSIM is compared in dB,
-10 log10(1 - MS-SSIM) of the mean.
"""

import io
import math
import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import numpy as np
from PIL import Image, features

from data import build_kind

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
    """Load a package that adds a format to Pillow; -> its version."""
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


def _avif(name: str, label: str, settings: tuple, **tune) -> list[Codec]:
    return _codec(
        name,
        label,
        _pillow("avif"),
        "AVIF",
        settings,
        lambda quality: dict(quality=int(quality), speed=4, subsampling="4:4:4", **tune),
        range(100),
    )


def avif(_) -> list[Codec]:
    return _avif("avif", "AVIF (4:4:4)", (3, 10, 17, 25, 33, 41, 49, 57, 65))


def avif_psnr(_) -> list[Codec]:
    return _avif(
        "avif-psnr", "AVIF (4:4:4), tuned for PSNR", (1, 6, 12, 19, 26, 34, 43, 52, 60), advanced={"tune": "psnr"}
    )


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


BENCHMARK = Benchmark(
    kind=build_kind("image"),
    output=Path("results/benchmark_images"),
    codecs={
        OURS: own_codecs,
        "jpeg": jpeg,
        "jpeg2000": jpeg2000,
        "webp": webp,
        "avif": avif,
        "avif-psnr": avif_psnr,
        "heic": heic,
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
