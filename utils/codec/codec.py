"""What a program calls to compress: a signal of any type, at a quality or for a target, alone or in a list.

codec = load_codec("checkpoints/image.safetensors")
data = codec.compress("photo.jpg", quality=3)
pixels = codec.decompress(data)
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .checkpoint import load_checkpoint
from .limits import Limits
from .observing import Observe, Watch
from .sender import NO_METADATA, Encoded, Metadata, Sender
from .settings import DEFAULT, Settings, quality_step
from .targets import Target
from .tiling import latent_shape
from .trials import Trials

# Latent positions that are searched at once. A CPU gains nothing from more than a picture of half a
# megapixel at a time, and much from small pictures together; a GPU takes more.
BATCH_POSITIONS = {"cpu": 2048, "cuda": 65536}


class Codec(Sender):
    """Encodes and decodes the signals of one checkpoint."""

    @property
    def objectives(self) -> list[str]:
        """Names of the distortions that a search of this kind of signal can minimize."""
        return self.distortions.names

    def compress(
        self,
        source,
        quality: float | Target = 3,
        settings: Settings | str = DEFAULT,
        *,
        sample_rate: int | None = None,
        observe: Observe | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> bytes | list[bytes]:
        """A signal -> the bytes of a file; a batch of signals -> a list. See `encode`."""
        encoded = self.encode(source, quality, settings, sample_rate=sample_rate, observe=observe, metadata=metadata)
        return encoded.data if isinstance(encoded, Encoded) else [member.data for member in encoded]

    def encode(
        self,
        source,
        quality: float | Target = 3,
        settings: Settings | str = DEFAULT,
        *,
        sample_rate: int | None = None,
        observe: Observe | None = None,
        metadata: Metadata = NO_METADATA,
    ) -> Encoded | list[Encoded]:
        """Like `compress`, with what is known of the result.

        source       what `Kind.signal_of` takes: for images a path, a Pillow image, an array (H, W, 3) or (H, W), a
                     tensor (3, H, W) or (1, H, W), these also with alpha as one channel more; for speech a path, an
                     array or a tensor (samples,). A list of them, or a tensor with a batch dimension before, gives a
                     list: see `encode_batch`
        quality      1..8, to 1/32; or a `Target` for the file's size or the decoded signal's score
        settings     `Settings`; a search method's name stands for its preset
        sample_rate  of arrays and tensors, in Hz; None: the kind's own
        observe      called with a `SearchStep` after each iteration of the search; where it returns True, the search
                     of this tile ends with the best that it has found
        metadata     what `Kind.read_with_metadata` gives beside the signal, to be kept in the file, or in each one

        Raises ValueError for a source or an argument out of range, a signal beyond the limits, a target that cannot
        be met; TypeError for a source of another type.
        """
        batch = self.kind.batch_of(source)
        sources = [source] if batch is None else batch
        encoded = self.encode_batch(
            sources, quality, settings, sample_rate=sample_rate, observe=observe, metadata=[metadata] * len(sources)
        )
        return encoded[0] if batch is None else encoded

    def encode_batch(
        self,
        sources: Sequence,
        quality: float | Target = 3,
        settings: Settings | str = DEFAULT,
        *,
        sample_rate: int | None = None,
        observe: Observe | None = None,
        metadata: Sequence[Metadata] | None = None,
    ) -> list[Encoded]:
        """`encode` of several signals, faster: those that go `together` are searched at once.

        With a target each is searched alone, for a quality of its own. `metadata`: that of each signal. Raises
        ValueError where it is not as many.
        """
        if isinstance(settings, str):
            settings = Settings.of(settings)
        signals = [self.kind.signal_of(source, sample_rate) for source in sources]
        beside = metadata or [NO_METADATA] * len(signals)
        if len(beside) != len(signals):
            raise ValueError(f"metadata of {len(beside)} signals for {len(signals)} signals")
        if isinstance(quality, Target):
            return [
                Trials(self, signal, kept, quality, observe, place).meet(settings)
                for place, (signal, kept) in enumerate(zip(signals, beside))
            ]
        step, encoded = quality_step(quality), {}
        for places in self.together(signals):
            group, kept = [signals[place] for place in places], [beside[place] for place in places]
            watch = Watch(observe, places) if observe else None
            encoded.update(zip(places, self._encode(group, step, settings, kept, watch)))
        return [encoded[place] for place in range(len(signals))]

    def together(self, signals: list[np.ndarray]) -> list[list[int]]:
        """Places in the list, in groups of one picture shape, gray or not, as large as BATCH_POSITIONS allow."""
        alike: dict[tuple[tuple[int, int], bool], list[int]] = {}
        for place, signal in enumerate(signals):
            shape = self.kind.picture_shape(self.kind.size(signal))
            alike.setdefault((shape, self.kind.is_gray(signal)), []).append(place)
        groups = []
        for (shape, _), places in alike.items():
            count = max(1, BATCH_POSITIONS[self.device.type] // max(1, math.prod(latent_shape(*shape))))
            groups += [places[start : start + count] for start in range(0, len(places), count)]
        return groups


def load_codec(path: Path | str, device: torch.device | str = "cpu", limits: Limits | None = None) -> Codec:
    """A checkpoint file -> Codec. Raises ValueError with one line."""
    return Codec(load_checkpoint(Path(path)), device, limits)
