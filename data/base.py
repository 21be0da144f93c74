"""The one interface between a kind of signal and everything else.

Scripts, models, search and coding see a signal only through `Kind`: a picture
(C, H, W) in [-1, 1] for the network, a size and a level for the file's header.
A new kind of signal is one module that subclasses it and one line in `data/__init__.py`.
Command lines read the kinds' names through here, so the module imports no NumPy.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .folders import list_files

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Preview:
    """What a page shows, and plays, of a signal."""

    pixels: np.ndarray  # uint8 (rows, columns, 3), RGB
    sound: np.ndarray | None = None  # float (n,) in [-1, 1]
    sample_rate: int = 0  # Hz, of the sound
    note: str = ""  # what part of the signal it is, where it is not all; scales


def is_tensor(source) -> bool:
    """Whether this is a PyTorch tensor; PyTorch is not imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


class Kind(ABC):
    """A kind of signal: reads, pictures, rebuilds, scores and writes it.

    Instances are built from the plain settings that travel with a checkpoint
    (`Kind.settings`), so that a decoder rebuilds exactly the sender's picture.
    """

    name: str  # "image", "speech": used in options, logs and metrics.csv
    code: int  # what the file's header stores for `name`, 0..7, never reused
    suffixes: tuple[str, ...]  # lower-case file suffixes that belong to this kind
    named_suffixes: tuple[str, ...] = ()  # of these, those whose files are coded where they are named, not of a folder
    output_suffix: str  # suffix of decoded files
    channels: int  # C of the picture
    rate_unit: str  # "bpp" or "kbps"
    extent_unit: str  # what `extent` counts, as `--max_UNIT` names it: "pixels" or "seconds"
    max_extent: float  # the largest signal that is read, encoded or decoded; instances may have another
    usual_size_b: int | None = None  # a second size that files need not spell out
    metric_names: tuple[str, ...]  # keys of `score`, in the order of the table
    lower_is_better: tuple[str, ...] = ()  # those of them that fall as the quality rises

    @property
    @abstractmethod
    def settings(self) -> dict:
        """Plain numbers that fix the picture; `type(self)(**settings)` rebuilds the instance."""

    @abstractmethod
    def read(self, path: Path) -> np.ndarray:
        """Read a file. Raises ValueError with one clear line if it is not readable as this kind."""

    # What Python programs may give instead of a file's path.
    sources: str = "a path, a NumPy array or a PyTorch tensor"  # for errors
    tensor_dims: int | None = None  # of one signal as a tensor: one of more is a batch. None: batches are lists

    def batch_of(self, source) -> list | None:
        """The members of a list, of a tuple, or of a tensor with a batch dimension; None for a single source."""
        if isinstance(source, (list, tuple)):
            return list(source)
        has_batch = is_tensor(source) and self.tensor_dims is not None and source.ndim == self.tensor_dims + 1
        return list(source) if has_batch else None

    def signal_of(self, source, sample_rate: int | None = None) -> np.ndarray:
        """What a Python program has -> the signal, as `read` returns it.

        A path is read. Arrays and tensors of any device are converted; `sample_rate` is theirs in Hz where it
        is not the kind's own. What `read` returned comes back as it is. A kind that takes more overrides the
        methods below. Raises ValueError for a value, TypeError for a type that is not possible, in one line.
        """
        if isinstance(source, (str, os.PathLike)):
            if sample_rate is not None:
                raise ValueError(f"{source}: a file names its own sample rate; sample_rate is for arrays and tensors")
            return self.read(Path(source))
        signal = self._converted(source)
        return signal if sample_rate is None else self._resampled(signal, sample_rate)

    def _converted(self, source) -> np.ndarray:
        """A source that is no path -> the signal."""
        import numpy as np

        if is_tensor(source):
            values = source.detach().cpu()
            # NumPy lacks bfloat16, and float32 has more than enough digits for all the others.
            return self._from_tensor((values.float() if values.is_floating_point() else values).numpy())
        if isinstance(source, np.ndarray):
            return self._from_array(source)
        raise TypeError(f"{self.name}: {self.sources} can be given, found {type(source).__name__}")

    def _from_array(self, values: np.ndarray) -> np.ndarray:
        """An array -> the signal; here the array itself."""
        return values

    def _from_tensor(self, values: np.ndarray) -> np.ndarray:
        """The values of a tensor -> the signal; here as those of an array."""
        return self._from_array(values)

    def _resampled(self, signal: np.ndarray, sample_rate: int) -> np.ndarray:
        """A signal that was sampled at another rate in Hz -> one at the kind's own; here there is none."""
        raise ValueError(f"sample_rate {sample_rate}: {self.name} has no sample rate")

    @abstractmethod
    def write(self, path: Path, signal: np.ndarray) -> None:
        """Write a decoded signal. What is written is bit for bit what `from_picture` returned."""

    @abstractmethod
    def size(self, signal: np.ndarray) -> tuple[int, int]:
        """The two numbers of the header: (height, width) or (samples, sample rate)."""

    @abstractmethod
    def picture_shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the picture of a signal of that size, before padding."""

    @abstractmethod
    def to_picture(self, signal: np.ndarray) -> tuple[np.ndarray, int]:
        """-> (picture (C, H, W) float32 in [-1, 1], level 0..255 for the header)."""

    @abstractmethod
    def from_picture(self, picture: np.ndarray, size: tuple[int, int], level: int) -> np.ndarray:
        """Invert `to_picture`: picture (C, H, W), any float32, is clamped; exact original size."""

    # What a file holds of a signal beside its symbols. A kind for which that is nothing leaves these as they are.

    section_names: tuple[str, ...] = ()  # of `utils.codec.bitstream.SECTIONS`, those that its files may have
    has_gray: bool = False  # whether its signals may be gray
    # Whether all that follows the generator gives the same on every machine: `from_picture`, `gray_picture`, `join`.
    has_exact: bool = False

    def is_gray(self, signal: np.ndarray) -> bool:
        """Whether the receiver shows `gray_picture` of what the generator makes."""
        return False

    def gray_picture(self, picture):
        """A picture (..., C, H, W), array or tensor -> the gray that is shown, (..., 1, H, W); differentiable."""
        raise NotImplementedError(f"{self.name} has no gray")

    def read_with_metadata(self, path: Path) -> tuple[np.ndarray, dict[str, bytes]]:
        """`read`, and the metadata of the file, which `to_sections` takes, and `write` as arguments."""
        return self.read(path), {}

    def to_sections(self, signal: np.ndarray, metadata: Mapping[str, bytes]) -> dict[str, bytes]:
        """Names and contents of what is stored losslessly. Raises ValueError for metadata that the kind cannot keep."""
        if metadata:
            raise ValueError(f"{self.name} keeps no metadata, found {', '.join(metadata)}")
        return {}

    def join(self, signal: np.ndarray, sections: Mapping[str, bytes]) -> np.ndarray:
        """The signal of `from_picture` with its sections. Raises ValueError for contents that no sender writes."""
        return signal

    def metadata(self, sections: Mapping[str, bytes]) -> dict[str, bytes]:
        """The metadata in the sections. Raises ValueError for contents that no sender writes."""
        return {}

    @abstractmethod
    def extent(self, size: tuple[int, int]) -> float:
        """How large a signal of that size is, in `extent_unit`."""

    def dimensions(self, size: tuple[int, int]) -> dict[str, float]:
        """What a user knows the size of a signal by: here, and for images, height and width in pixels."""
        return {"height": size[0], "width": size[1]}

    def size_text(self, size: tuple[int, int]) -> str:
        """The same in one line with its units, for tables."""
        return f"{size[0]}x{size[1]}"

    def check_extent(self, size: tuple[int, int], padding: float = 1.0) -> None:
        """Raise ValueError with what to do for a signal that is larger than `max_extent`.

        `padding` is how many times larger the signal is with what the network adds to it.
        """
        extent = self.extent(size)
        if not extent * padding <= self.max_extent:
            padded = f" ({extent * padding:.10g} as padded for the network)" if padding > 1 else ""
            raise ValueError(
                f"too large: {extent:.10g} {self.extent_unit}{padded}, the limit is {self.max_extent:.10g}: raise it with "
                f"--max_{self.extent_unit}, in Python with Limits(max_{self.extent_unit}=...)"
            )

    @abstractmethod
    def rate(self, n_bytes: int, size: tuple[int, int]) -> float:
        """Whole-file rate in `rate_unit`: bits per original pixel, or kilobits per second."""

    @abstractmethod
    def score(self, original: np.ndarray, decoded: np.ndarray) -> dict[str, float]:
        """Metrics between what was read and what `from_picture` returned."""

    @abstractmethod
    def samples(self) -> list[Path]:
        """Real samples that need no download, used when no --input is given."""

    def shown_by(self, pictures, settings: Mapping):
        """Pictures (B, C, H, W), tensors, as this kind of other `settings` shows the same signals; here as they are."""
        return pictures

    def weights(self, x):
        """Weights of the squared error, which training and search minimize, at each sample of pictures x (B, C, H, W).

        A tensor like x, with a mean of about 1 over the kind's signals; None gives all samples the same weight.
        """
        return None

    def preview(self, signal: np.ndarray, reference: np.ndarray) -> Preview:
        """What a page shows of a signal; `reference` is the original, which fixes part and scale.

        A kind that has nothing better shows the first channel of its picture in gray.
        """
        import numpy as np

        gray = np.rint((self.to_picture(signal)[0][0] + 1) * 127.5).astype(np.uint8)
        return Preview(np.repeat(gray[:, :, None], 3, axis=2))

    # What training needs to know of a kind.
    # Settings of the models that are trained from now on; those that a checkpoint does not name are the defaults.
    new_settings: Mapping = {}
    network: Mapping = {}  # the fields of `models.config.ModelConfig` in which it differs from the defaults
    folders: Mapping[str, str] = {}  # "train", "val", "test" -> folder below the one that BPGAN_DATA names
    crop_shape: tuple[int, int]  # rows and columns of a training crop
    storage: str  # "uint8" or "float16": pictures in memory
    stretch: tuple[float, float]  # rows, columns: crops of up to this size shrink to one
    spare_columns: int = 0  # that a crop has for `augment` to use up
    joins_short: bool = False  # whether the crop of a short signal goes on with another one, not with its own edge

    def list_files(self, root: Path | str, split: str) -> list[Path]:
        """The files of a split ("train", "val", "test") in a folder, sorted by path.

        A kind whose corpora divide their own folder (TIMIT) overrides it; elsewhere the folder is the
        split. Raises ValueError if `root` is not a folder.
        """
        return list_files(root, self.suffixes)

    def speaker_of(self, path: Path) -> str:
        """Who or what a training file is one of many from, which then do not count as so many; "" where all are alike."""
        return ""

    has_colors: bool = False  # whether pictures are photographs in color, as networks trained on ImageNet know them
    has_waveforms: bool = False  # whether discriminators listen to it, too

    def waveforms(self):
        """A module that turns pictures (B, C, H, W) into waveforms (B, samples), differentiable, for discriminators."""
        raise NotImplementedError(f"{self.name} has no waveforms")

    def disturbance(self):
        """A module that tells how different two batches of pictures (B, C, H, W) sound, (B,), differentiable; or None."""
        return None

    @abstractmethod
    def augment(self, crop, rng):
        """One training crop, a tensor (C, h, w + spare_columns) in [-1, 1] -> one as likely, (C, h, w).

        h and w are `crop_shape`. `rng`, a `numpy.random.Generator`, is the only source of chance, so that training
        resumes exactly.
        """
