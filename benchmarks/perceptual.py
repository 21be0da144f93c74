"""How far decoded pictures are from their originals, and from photographs, as networks see them.

    python -m benchmarks.perceptual --input DIR

**Fréchet distance** compares the distributions of two sets of patches, those of the originals and those of what was
decoded, by the mean and covariance of EfficientNet-Lite2's features (`efficientnet.py`) on patches of 256 pixels. It
says how like photographs pictures are, and nothing about each one's likeness to its own original. It is computed as
the FID of Heusel et al. 2017, but with another network and few patches: its values compare with each other and with no FID. A
few patches give too large a distance (the covariance of 352 features is estimated from some hundred), in all rows
alike; the bounds are over resamples of the files, and for the same reason lie higher than the value.

**Feature distance** compares each decoded picture with its own original by the same network's features. It is
calibrated by nothing: no listener or viewer was asked.

**LPIPS** (Zhang et al. 2018) and **DISTS** (Ding et al. 2020) were fitted to viewers' answers. Their weights cannot
be had from a package registry: where PyTorch's cache of weights (--weights) has them, they are measured with
the package piq, and else a line says which file is missing.

The patch Wasserstein distance beside these is that of benchmarks.realism. Points are kept in points.csv and are not
measured again.
"""

import dataclasses
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from utils.console import fail
from utils.files import replacing

from . import yardsticks
from .common import Codec, Source, find_sources
from .images import BENCHMARK
from .intervals import interval, resample
from .yardsticks import Figure, Sample, Yardstick, digest, need, yardstick_parser

if TYPE_CHECKING:
    from .efficientnet import EfficientNetLite

PICTURES = dataclasses.replace(BENCHMARK, output=Path("results/benchmark_perceptual"))
RESAMPLES = 40  # of the files, for the Fréchet distance: each takes a matrix root
FITTED = {  # measure -> (class of piq, file of its own weights); all share VGG16's
    "lpips": ("LPIPS", "lpips_weights.pt"),
    "dists": ("DISTS", "dists_weights.pt"),
}
VGG16 = "vgg16-397923af.pth"


# -- distances -------------------------------------------------------------------------------------


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Features (n, d) of two sets -> squared Fréchet distance of the two normal distributions with their moments."""
    from scipy.linalg import eigvalsh

    means = [features.mean(axis=0) for features in (a, b)]
    (cov_a, cov_b) = (np.cov(features, rowvar=False) for features in (a, b))
    # the trace of the root of A B is that of the root of a symmetric matrix with the same eigenvalues
    values, vectors = np.linalg.eigh(cov_a)
    root = vectors * np.sqrt(values.clip(0)) @ vectors.T
    cross = np.sqrt(eigvalsh(root @ cov_b @ root).clip(0)).sum()
    distance = np.square(means[0] - means[1]).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return max(0.0, float(distance))  # rounding may leave a little less


def load_fitted(folder: Path) -> tuple[dict[str, Callable[[np.ndarray, np.ndarray], float]], str]:
    """-> (LPIPS and DISTS, as far as their weights are in the folder; version). Names what is missing."""
    import torch

    def of(measure) -> Callable[[np.ndarray, np.ndarray], float]:
        @torch.no_grad()
        def distance(original: np.ndarray, decoded: np.ndarray) -> float:
            pair = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 255 for p in (original, decoded))
            return float(measure(*pair))

        return distance

    found, versions = {}, []
    for name, (class_name, file_name) in FITTED.items():
        missing = [each for each in (VGG16, file_name) if not (folder / "checkpoints" / each).is_file()]
        if missing:
            print(f"{name} is skipped: {folder / 'checkpoints'} has no {' and no '.join(missing)}", file=sys.stderr)
            continue
        piq, version = need("piq")
        torch.hub.set_dir(str(folder))
        found[name] = of(getattr(piq, class_name)())
        versions.append(f"{name} {version} {digest(folder / 'checkpoints' / file_name)}")
    return found, " ".join(versions)


# -- all together ----------------------------------------------------------------------------------


class Features:
    """The patch features of each decoded picture, on disk: what the Fréchet distance of a set is taken from."""

    def __init__(self, network: "EfficientNetLite", folder: Path):
        self.network, self.folder = network, folder

    def _path(self, key: tuple) -> Path:
        return self.folder / f"{hashlib.sha256(chr(10).join(key).encode()).hexdigest()[:32]}.npy"

    def keep(self, key: tuple, pixels: np.ndarray) -> None:
        features = self.network.patch_features(pixels)
        with replacing(self._path(key)) as temporary, open(temporary, "wb") as file:
            np.save(file, features.astype(np.float32))

    def of(self, key: tuple) -> np.ndarray:
        try:
            return np.load(self._path(key), allow_pickle=False)
        except FileNotFoundError:
            raise ValueError(
                f"{self.folder}: features of a measured point are gone; move points.csv away to measure again"
            ) from None

    def distance(self, original: Codec, codec: Codec, setting: str, sources: list[Source]) -> dict[str, float]:
        """The Fréchet distance of a codec's decoded files from the originals, and its bounds."""
        sets = [
            [self.of(source.key(each, each.settings[0] if each is original else setting)) for source in sources]
            for each in (original, codec)
        ]

        def distance(counts: np.ndarray) -> float:
            return frechet_distance(
                *(np.concatenate([f for f, n in zip(files, counts) for _ in range(n)]) for files in sets)
            )

        value = distance(np.ones(len(sources), int))
        drawn = [] if len(sources) < 2 or codec is original else map(distance, resample(len(sources), RESAMPLES))
        bounds = interval(value, list(drawn))
        return {"frechet": bounds.value, "frechet_low": bounds.low, "frechet_high": bounds.high}


def run(options) -> int:
    """-> exit code: 1 if a file or a codec failed, 130 if interrupted; what is measured is kept."""
    import torch

    from . import efficientnet  # here, as it loads PyTorch

    network = efficientnet.load()
    fitted, fitted_version = load_fitted(options.weights or Path(torch.hub.get_dir()))
    sources, failures = find_sources(PICTURES, options)
    small = [source for source in sources if min(PICTURES.kind.read(source.item.path).shape[:2]) < efficientnet.PATCH]
    for source in small:
        fail(ValueError(f"smaller than a patch of {efficientnet.PATCH} pixels, left out"), f"{source.item.path}: ")
    sources = [source for source in sources if source not in small]
    if not sources:
        raise ValueError("none of the pictures is as large as a patch")
    features = Features(network, options.output / "features")

    def score(sample: Sample) -> dict[str, float]:
        features.keep(sample.key, sample.decoded)
        distances = {"feature_distance": network.distance, **fitted}
        return {name: distance(sample.original, sample.decoded) for name, distance in distances.items()}

    figures = {name: Figure(name) for name in ("feature_distance", *fitted)}
    yardstick = Yardstick(
        PICTURES,
        f"{network.version} {fitted_version}".strip(),
        tuple(figures),
        figures,
        score,
        pooled_figures=("frechet",),
        pooled=features.distance,
    )
    _, code = yardsticks.run(yardstick, sources, options, "perceptual")
    return code or (1 if failures or small else 0)


def main(argv: list[str] | None = None) -> int:
    parser = yardstick_parser(PICTURES, "Distances of decoded pictures as networks see them.", 4)
    parser.set_defaults(
        quality=[1.0, 2.0, 3.0, 4.0],
        realism=[0.0, 0.5, 1.0],
        codecs=["bpgan", "jpeg", "webp", "avif", "heic", "jpeg-xl"],
    )
    parser.add_argument(
        "--weights",
        type=Path,
        default=None,
        metavar="DIR",
        help="the folder above checkpoints/ with VGG16's weights and those of LPIPS and DISTS; without it, PyTorch's",
    )
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
