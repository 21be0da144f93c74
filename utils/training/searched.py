"""What the stage `searched` keeps in files, so that a run can resume: training crops with the latents that a search
found for them, and the weights that the stage began with."""

from pathlib import Path

import numpy as np
import torch

from utils.files import remove_leftovers, replacing

CAPACITY = 256  # batches; with more, the oldest ones go, searched with weights long past


class SearchedBatches:
    """Batches (x, quality_row, plain, found) of one process, numbered in the order of their search."""

    def __init__(self, folder: Path, rank: int):
        self.folder, self.rank = Path(folder), rank
        self.count = 0  # batches so far: what a run's state keeps
        self._batches: dict[int, tuple[torch.Tensor, ...]] = {}

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.rank}_{number}.pt"

    @property
    def _start(self) -> Path:
        """The first process's file, which all read."""
        return self.folder / "0_start.pt"

    def keep_start(self, weights: dict[str, torch.Tensor]) -> None:
        """Keep the weights that the stage begins with, the same in every process."""
        if self.rank == 0:
            with replacing(self._start) as temporary:
                torch.save(weights, temporary)

    def start(self, device: torch.device) -> dict[str, torch.Tensor]:
        """The weights of `keep_start`. Raises ValueError where their file is damaged or gone."""
        instead = "start a run of another --name with --init"
        if not self._start.is_file():
            raise ValueError(f"{self._start} is gone: {instead}")
        return _read(self._start, instead, device)

    def resume(self, count: int) -> None:
        """Goes on after `count` batches, or anew where their files are not all there: another number of processes wrote them."""
        remove_leftovers([self.folder])
        self.count = count
        if not all(self._path(number).is_file() for number in range(self._oldest(), count)):
            self.count = 0

    def _oldest(self) -> int:
        return max(0, self.count - CAPACITY)

    def add(self, x: torch.Tensor, quality_row: torch.Tensor, plain: torch.Tensor, found: torch.Tensor) -> None:
        """x (B, C, H, W), kept in float16; quality_row int64 (B,) in 0..7; symbols int16 (B, latent_channels, h, w) before
        and after the search."""
        batch = x.half().cpu(), quality_row.cpu(), plain.cpu(), found.cpu()
        with replacing(self._path(self.count)) as temporary:
            torch.save(batch, temporary)
        self._batches[self.count] = batch
        self.count += 1
        gone = self._oldest() - 1
        self._batches.pop(gone, None)
        # the state that is saved may be one with this batch among its own: the file stays that long
        self._path(gone - CAPACITY).unlink(missing_ok=True)

    def draw(self, rng: np.random.Generator, device: torch.device) -> tuple[torch.Tensor, ...]:
        """One of the batches, x in float32 and channels_last."""
        number = int(rng.integers(self._oldest(), self.count))
        if number not in self._batches:
            self._batches[number] = self._load(number)
        x, *others = (tensor.to(device) for tensor in self._batches[number])
        return x.float().contiguous(memory_format=torch.channels_last), *others

    def _load(self, number: int) -> tuple[torch.Tensor, ...]:
        again = "delete it and go on with --resume, which searches anew"
        x, quality_row, plain, found = _read(self._path(number), again, "cpu")
        return x, quality_row, plain, found

    def remove(self) -> None:
        """Deletes the files of this process."""
        for path in self.folder.glob(f"{self.rank}_*.pt"):
            path.unlink()


def _read(path: Path, instead: str, device: torch.device | str):
    """A file of torch.save. Raises ValueError, in one line with what to do instead, where it is damaged."""
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except OSError:
        raise
    except Exception:  # damage has no type of its own: torch, zipfile and pickle raise what they meet
        raise ValueError(f"{path} is damaged: {instead}") from None
