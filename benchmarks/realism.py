"""How like photographs decoded pictures are: faithful against realistic generator.

    python -m benchmarks.realism --input kodak --quality 1 2

Sliced Wasserstein distance between patches of originals and of decoded pictures (Karras et al.
2018, "Progressive growing of GANs", section 5): 7x7 patches of each level of a Laplacian pyramid,
every color normalized by the originals' and decoded pictures' own mean and deviation, projected on random
directions; the mean absolute difference of the sorted projections, times 1000. Small is alike. Levels
that the smallest picture lacks (under 256 pixels a side) are left out, and empty in the table. It says
nothing about each picture's likeness to its own original: PSNR stands beside it. No search.
"""

import sys
from pathlib import Path

import numpy as np

from data import kind_of
from data.corpora import default_dataroot
from models.config import QUALITIES
from options.base_options import Parser, in_range
from utils.batch.inputs import checkpoint_used, find_inputs
from utils.codec.fingerprint import CHECKPOINTS

PATCH = 7
PATCHES = 2048  # of each picture and level
DIRECTIONS = 512
MIN_SIDE = 16  # of the coarsest level, pixels
LEVELS = 5


def laplacian_pyramid(pixels: np.ndarray) -> list[np.ndarray]:
    """uint8 (H, W, 3) -> float32 bands (h, w, 3), fine to coarse; the last is what is left."""
    from scipy.ndimage import gaussian_filter

    rest, bands = pixels.astype(np.float32), []
    while len(bands) < LEVELS - 1 and min(rest.shape[:2]) // 2 >= MIN_SIDE:
        smooth = gaussian_filter(rest, (1.0, 1.0, 0), mode="reflect")
        bands.append(rest - smooth)
        rest = smooth[::2, ::2]
    return [*bands, rest]


def patches(bands: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The same number of random patches from each band, float32 (PATCHES, 7 * 7, 3)."""
    result = []
    for band in bands:
        windows = np.lib.stride_tricks.sliding_window_view(band, (PATCH, PATCH), axis=(0, 1))
        rows, columns = (rng.integers(0, n, PATCHES) for n in windows.shape[:2])
        result.append(windows[rows, columns].reshape(PATCHES, 3, -1).transpose(0, 2, 1))
    return result


def sliced_wasserstein(a: np.ndarray, b: np.ndarray, rng: np.random.Generator) -> float:
    """Two sets of patches (n, 49, 3) -> mean distance of their projections, times 1000."""
    flat = [((p - p.mean((0, 1))) / np.maximum(p.std((0, 1)), 1e-6)).reshape(len(p), -1) for p in (a, b)]
    directions = rng.standard_normal((flat[0].shape[1], DIRECTIONS)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    projected = [np.sort(p @ directions, axis=0) for p in flat]
    return 1000 * float(np.abs(projected[0] - projected[1]).mean())


def run(options) -> int:
    from tqdm import tqdm

    from utils.batch.conditions import caption, conditions_of
    from utils.codec.codec import load_codec
    from utils.console import pick_device
    from utils.metrics import psnr

    device = pick_device(options.device)
    codec = load_codec(options.checkpoint, device)
    if not codec.has_realistic:
        raise ValueError(f"{options.checkpoint} has no realistic generator to compare")
    inputs = options.input or [default_dataroot("image", "test")]
    items = find_inputs(inputs, lambda path: kind_of(path) == "image")[: options.limit]
    print("| quality | realism | PSNR (dB) | " + " | ".join(f"level {k + 1}" for k in range(LEVELS)) + " | mean |")
    print("|" + "---|" * (LEVELS + 4))
    for quality in options.quality:
        pools: dict[float | None, list] = {}
        scores: dict[float, list] = {realism: [] for realism in options.realism}
        for index, item in enumerate(tqdm(items, leave=False)):
            original = codec.kind.read(item.path)
            data = codec.compress(original, quality, "none")
            versions = {None: original, **{r: codec.decompress(data, r) for r in options.realism}}
            for realism, pixels in versions.items():
                # the same places in all versions: what differs is the picture
                pools.setdefault(realism, []).append(
                    patches(laplacian_pyramid(pixels), np.random.default_rng([options.seed, index]))
                )
                if realism is not None:
                    scores[realism].append(psnr(original, pixels))
        for realism in options.realism:
            distances = []
            for level in range(min(map(len, pools[None]))):
                both = [np.concatenate([picture[level] for picture in pools[key]]) for key in (None, realism)]
                distances.append(sliced_wasserstein(*both, np.random.default_rng(options.seed)))
            cells = (
                [f"{value:.1f}" for value in distances]
                + [""] * (LEVELS - len(distances))
                + [f"{np.mean(distances):.1f}"]
            )
            print(f"| {quality:g} | {realism:g} | {np.mean(scores[realism]):.2f} | " + " | ".join(cells) + " |")
    conditions = conditions_of(options, device, [checkpoint_used(options.checkpoint, codec)])
    print(f"\nMeans over {caption(conditions, len(items), inputs)}.")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = Parser("Sliced Wasserstein distance and PSNR of the faithful and the realistic generator.")
    add = parser.add_argument
    parser.add_inputs("images; without it, the test set below the folder that BPGAN_DATA names is taken")
    add("--checkpoint", type=Path, default=CHECKPOINTS / "image.safetensors", metavar="FILE", help="trained weights")
    add("--quality", type=in_range(float, 1, QUALITIES), nargs="+", default=[1.0, 2.0], help="one or several")
    add("--realism", type=in_range(float, 0.0, 1.0), nargs="+", default=[0.0, 1.0], help="one or several")
    add("--limit", type=in_range(int, 1, 10**9), default=None, help="only the first files")
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
