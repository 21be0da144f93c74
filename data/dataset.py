"""Training pictures: they are decoded once into memory (the accelerator's, where there is one) and cropped there."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from .base import Kind

log = logging.getLogger(__name__)


class PictureSet:
    """Pictures of one kind of signal, in memory; `batch` gives random augmented crops."""

    def __init__(self, kind: Kind, files: list[Path], device: torch.device | str = "cpu", progress: bool = True):
        """Reads every file; one that cannot be read is named in the log and left out.

        Raises ValueError if none is left.
        """
        self.kind = kind
        self.device = torch.device(device)
        with ThreadPoolExecutor(os.cpu_count()) as readers:
            read = tqdm(
                readers.map(self._read, files),
                desc=f"reading {kind.name} files",
                total=len(files),
                disable=not progress,
                leave=False,
            )
            kept = [(path, picture.to(self.device)) for path, picture in zip(files, read) if picture is not None]
        self.pictures = [picture for _, picture in kept]
        if not self.pictures:
            raise ValueError(
                f"none of {len(files)} files could be read as {kind.name}: "
                f"--dataroot must hold files with one of {', '.join(kind.suffixes)}"
            )
        self.weights = _chances([kind.speaker_of(path) for path, _ in kept], [p[0].numel() for p in self.pictures])

    def _read(self, path: Path) -> torch.Tensor | None:
        """A file's picture as it is kept, in the machine's own memory; None where it cannot be read."""
        try:
            picture, _ = self.kind.to_picture(self.kind.read(path))
        except (ValueError, OSError) as error:
            log.warning("left out: %s", error)
            return None
        tensor = torch.from_numpy(np.ascontiguousarray(picture))
        if self.kind.storage == "uint8":
            tensor = ((tensor + 1) * 127.5).round_().to(torch.uint8)
        else:
            tensor = tensor.half()
        return tensor

    def _load(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.float() / 127.5 - 1 if self.kind.storage == "uint8" else stored.float()

    def picture(self, index: int) -> torch.Tensor:
        """-> one whole picture (C, H, W), float32 in [-1, 1], on the device."""
        return self._load(self.pictures[index])

    def __len__(self) -> int:
        return len(self.pictures)

    def batch(self, size: int, rng: np.random.Generator) -> torch.Tensor:
        """-> (size, C, h, w) float32 in [-1, 1] on the device, channels_last."""
        chosen = rng.choice(len(self.pictures), size=size, p=self.weights)
        crops = [self._crop(self.pictures[i], rng) for i in chosen]
        return torch.stack(crops).contiguous(memory_format=torch.channels_last)

    def _crop(self, stored: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        rows, columns = self.kind.crop_shape
        columns += self.kind.spare_columns
        while self.kind.joins_short and stored.shape[-1] < columns:
            stored = torch.cat([stored, self.pictures[rng.choice(len(self.pictures), p=self.weights)]], dim=-1)
        factor = rng.uniform() if rng.uniform() < 0.5 else 0.0  # half of the crops keep their scale
        take = [
            min(round(n * (1 + factor * (most - 1))), max(n, have))
            for n, most, have in zip((rows, columns), self.kind.stretch, stored.shape[-2:])
        ]
        if self.kind.stretch[0] == self.kind.stretch[1]:  # isotropic: keep the aspect
            scale = min(take[0] / rows, take[1] / columns)
            take = [round(rows * scale), round(columns * scale)]
        top = int(rng.integers(0, max(stored.shape[-2] - take[0], 0) + 1))
        left = int(rng.integers(0, max(stored.shape[-1] - take[1], 0) + 1))
        crop = self._load(stored[:, top : top + take[0], left : left + take[1]])
        missing = (take[0] - crop.shape[-2], take[1] - crop.shape[-1])
        if missing[0] > 0 or missing[1] > 0:
            crop = F.pad(crop[None], (0, max(missing[1], 0), 0, max(missing[0], 0)), mode="replicate")[0]
        if tuple(crop.shape[-2:]) != (rows, columns):
            crop = F.interpolate(crop[None], (rows, columns), mode="bilinear", antialias=True, align_corners=False)[0]
        return self.kind.augment(crop, rng)


def _chances(speakers: list[str], samples: list[int]) -> np.ndarray:
    """The chance of each picture, (n,): as its samples, but over the square root of all of its speaker's.

    So a speaker with a hundred times as many samples is heard ten times as often, and those of whom there is little
    are not drowned. Where nobody is told apart, every sample of every picture is as likely.
    """
    counts = np.asarray(samples, np.float64)
    _, place = np.unique(speakers, return_inverse=True)
    weights = counts / np.sqrt(np.bincount(place, counts))[place]
    return weights / weights.sum()
