"""The receiver: a checkpoint and the bytes of a file give the signal, and nothing else is needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from data import Kind, build_kind
from models.bpgan import BPGAN, build_encoder, build_generator
from models.config import STRIDE
from models.exact import ExactGenerator, generator_weights
from models.quality import quality_row
from models.texture import has_texture
from utils.console import pick_device
from utils.entropy import CorruptPayload

from . import bitstream
from .checkpoint import Checkpoint, load_checkpoint, load_strictly
from .info import describe, fingerprints
from .limits import Limits
from .mixes import made_for
from .tiling import Window, latent_shape, windows
from .weights import load_coders, load_weights, network_of


class Decoder:
    """Generator, codebook and code tables of one checkpoint, ready to decode its files."""

    with_encoder = False

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu", limits: Limits | None = None):
        """`device`: "cpu", "cuda" or "auto"; `limits`: the largest signal, else the kind's default.

        Raises ValueError where the checkpoint's parts do not fit together, or there is no such device."""
        self.device = pick_device(device)
        self.config = checkpoint.config
        self.fingerprint, self.digest = checkpoint.fingerprint, checkpoint.digest
        try:
            self.kind: Kind = build_kind(self.config.signal, checkpoint.signal_settings)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"the checkpoint's kind of signal, {self.config.signal}, or its settings "
                f"are unknown to this version ({error})"
            ) from None
        self.kind.max_extent = (limits or Limits()).of(self.kind)
        self.default_sizes = {}
        if self.kind.usual_size_b is not None:
            self.default_sizes[self.kind.code] = self.kind.usual_size_b
        self.coders = load_coders(checkpoint)
        self._check_sizes(checkpoint)
        self.default_coder = checkpoint.default_coder

        self.model = BPGAN(self.config, self.with_encoder)
        load_weights(self.model, checkpoint)
        self.model.requires_grad_(False).eval().to(self.device, memory_format=torch.channels_last)
        self._realistic_state = checkpoint.realistic
        self._faithful_state = {k: v.clone() for k, v in self.model.generator.state_dict().items()}
        self._generators = {0.0: self.model.generator}
        if self.has_realistic:
            self._generators[1.0] = self._build_generator(self._realistic_state)
        self._exact_generators: dict[float, ExactGenerator] = {}

    def _check_sizes(self, checkpoint: Checkpoint) -> None:
        """Raise ValueError where the config is not this kind's, or claims weights that the file does not hold."""
        if self.config.in_channels != self.kind.channels:
            raise ValueError(
                f"the checkpoint has {self.config.in_channels} channels, {self.kind.name} has {self.kind.channels}"
            )
        if self.config.latent_rows:
            rows, _ = self.kind.picture_shape((1, self.kind.usual_size_b or 1))
            if latent_shape(rows, 1)[0] != self.config.latent_rows:
                raise ValueError(
                    f"the checkpoint has {self.config.latent_rows} latent rows, "
                    f"its {self.kind.name} pictures have {latent_shape(rows, 1)[0]}"
                )
        network, groups = network_of(checkpoint), self.config.context_groups
        if tuple(network.groups) != groups or len(network.second) != len(groups) * self.config.context_hidden:
            raise ValueError("the checkpoint's integer network has another size than its config claims")
        # Built without memory first: the sizes are the file's word, the tensors are in the file.
        with torch.device("meta"):
            parts = [build_generator(self.config)]
            if self.with_encoder:
                parts.append(build_encoder(self.config))
        claimed = sum(weight.numel() for part in parts for weight in part.parameters())
        held = sum(tensor.numel() for tensor in checkpoint.model.values())
        if claimed > 8 * held:  # smaller differences show when a tensor is loaded, and are named by it
            raise ValueError(f"the checkpoint's config claims {claimed} weights, its file holds {held}")

    @property
    def has_realistic(self) -> bool:
        """Whether a realism above 0 can be asked for."""
        return self._realistic_state is not None

    def generator(self, realism: float) -> torch.nn.Module:
        """The generator at a realism of 0 (faithful) to 1 (realistic); weights in between are mixed."""
        self.check_realism(realism)
        return made_for(realism, self._generators, lambda: self._build_generator(self._mixed(realism)))

    def _mixed(self, realism: float) -> dict[str, torch.Tensor]:
        return {
            name: torch.lerp(self._faithful_state.get(name, torch.zeros_like(weight)).cpu(), weight, realism)
            for name, weight in self._realistic_state.items()
        }

    def exact_generator(self, realism: float = 0.0) -> ExactGenerator:
        """The generator in integers, which gives the same numbers on every machine, at a realism of 0 to 1."""
        self.check_realism(realism)

        def make() -> ExactGenerator:
            weights = generator_weights(self._faithful_state, self._realistic_state, realism)
            return ExactGenerator(self.model, weights, self.device)

        return made_for(realism, self._exact_generators, make)

    def check_exact(self) -> None:
        """Raise ValueError where the kind of signal cannot be decoded exactly."""
        if not self.kind.has_exact:
            raise ValueError(f"{self.kind.name} cannot be decoded exactly, images alone can: leave --exact out")

    def check_realism(self, realism: float) -> None:
        """Raise ValueError where there is no generator of that realism."""
        if not 0 <= realism <= 1:
            raise ValueError(f"realism {realism} is outside 0 to 1")
        if realism and not self.has_realistic:
            raise ValueError("this checkpoint has no realistic generator: use --realism 0, or another --checkpoint")

    def _build_generator(self, state: dict[str, torch.Tensor]) -> torch.nn.Module:
        generator = build_generator(self.config, has_texture(state))
        load_strictly(generator, state, "the checkpoint's realistic generator")
        return generator.requires_grad_(False).eval().to(self.device, memory_format=torch.channels_last)

    def unpack(self, data: bytes) -> tuple[bitstream.FileHeader, bytes]:
        """Header and payload of a file of this checkpoint. Raises BitstreamError otherwise."""
        header, payload = bitstream.unpack(data, self.default_sizes)
        if header.kind != self.kind.code:
            raise bitstream.BitstreamError(
                f"file of kind {header.kind}, this checkpoint is for {self.kind.name} ({self.kind.code})"
            )
        bitstream.check_fingerprint(header, self.fingerprint)
        bitstream.check_kind(header, self.kind)
        try:
            self.check_size((header.size_a, header.size_b))
        except ValueError as error:
            raise bitstream.BitstreamError(str(error)) from None
        return header, payload

    def check_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError for a signal beyond the limits, in either direction.

        A picture thinner than the network's stride is padded to it, so it counts as that thick.
        """
        rows, columns = self.kind.picture_shape(size)
        self.kind.check_extent(size, max(rows, STRIDE) * max(columns, STRIDE) / max(1, rows * columns))

    def read_symbols(self, data: bytes) -> tuple[bitstream.FileHeader, np.ndarray]:
        """File -> header and symbols int16 (C, h, w), by integers alone."""
        header, payload = self.unpack(data)
        coder = next((c for c in self.coders.values() if c.code == header.coder), None)
        if coder is None:
            raise bitstream.BitstreamError(f"entropy coder {header.coder} has no tables in this checkpoint")
        rows, columns = self.kind.picture_shape((header.size_a, header.size_b))
        shape = (self.config.latent_channels, *latent_shape(rows, columns))
        try:
            return header, coder.decode(payload, shape, header.quality_step, bool(header.repeats))
        except CorruptPayload as error:
            raise bitstream.BitstreamError(f"damaged file: {error}") from None

    def decompress(self, file: bytes | str | Path, realism: float = 0.0, exact: bool | None = None) -> np.ndarray:
        """A whole .bpgan file, its bytes or its path -> the signal, in the layout that was encoded.

        `exact`: whether the exact generator makes it, so that it is the same on every machine; None: where the sender
        judged it by that generator, as the header says. Raises BitstreamError (a ValueError) for anything that is
        not a whole file of this checkpoint, ValueError for an argument that is not possible, OSError for a path that
        cannot be read.
        """
        header, symbols = self.read_symbols(bitstream.bytes_of(file))
        size = header.size_a, header.size_b
        exact = bool(header.exact) if exact is None else exact
        signal = self.rebuild(symbols, header.quality_step, size, header.level, realism, bool(header.gray), exact)
        with _damage_named():
            return self.kind.join(signal, header.sections)

    def metadata(self, file: bytes | str | Path) -> dict[str, bytes]:
        """The original's metadata that a whole .bpgan file, its bytes or its path, keeps, as `Kind.write` takes it.

        For images it is "exif" and "icc", where the sender was told to keep them. Raises BitstreamError like
        `decompress`.
        """
        header, _ = self.unpack(bitstream.bytes_of(file))
        with _damage_named():
            return self.kind.metadata(header.sections)

    def info(self, file: bytes | str | Path) -> dict:
        """What the header of a .bpgan file says, and which checkpoints here have its fingerprint: see `describe`.

        Files of other checkpoints and of other kinds of signal are described too. Nothing is decoded.
        Raises BitstreamError for a damaged file, OSError for a path that cannot be read.
        """
        return describe(bitstream.bytes_of(file), fingerprints(None))

    def rebuild(
        self,
        symbols: np.ndarray,
        quality_step: int,
        size: tuple[int, int],
        level: int,
        realism: float = 0.0,
        gray: bool = False,
        exact: bool = False,
    ) -> np.ndarray:
        """What the receiver makes of symbols (C, h, w): generator, then post-processing."""
        if exact:
            self.check_exact()
        rows, columns = self.kind.picture_shape(size)
        picture = self.generate(symbols, quality_step, realism, exact)[:, :rows, :columns]
        if gray:
            picture = self.kind.gray_picture(picture)
        return self.kind.from_picture(picture, size, level)

    def generate(self, symbols: np.ndarray, quality_step: int, realism: float = 0.0, exact: bool = False) -> np.ndarray:
        """symbols (C, h, w) -> picture (C, 16h, 16w) float32, window by window.

        `exact`: by the exact generator. Then the picture is the same on every machine, and that of windows is that
        of the whole; else it differs between machines by rounding errors.
        """
        part_of = self._exact_part if exact else self._float_part
        _, rows, columns = symbols.shape
        picture = np.empty((self.config.in_channels, rows * STRIDE, columns * STRIDE), np.float32)
        for window in windows(rows, columns, self.model.generator.reach):
            part = part_of(symbols[window.outer()], quality_step, realism, window)
            picture[window.core(STRIDE)] = part[window.core_in_outer(STRIDE)]
        return picture

    @torch.no_grad()
    def _float_part(self, symbols: np.ndarray, quality_step: int, realism: float, window: Window) -> np.ndarray:
        """A window of `generate`, in float32 and not less: rounding errors are then all that devices differ by."""
        centers = self.model.codebook.dequantize(torch.from_numpy(symbols.astype(np.int32)).to(self.device)[None])
        quality, origin = self.quality_row(quality_step), window.origin(self.device)
        out = self.model.generate(centers, quality, self.generator(realism), origin)
        return out[0].cpu().numpy()

    def _exact_part(self, symbols: np.ndarray, quality_step: int, realism: float, window: Window) -> np.ndarray:
        return self.exact_generator(realism)(symbols, quality_step, (window.outer_top, window.outer_left))

    def quality_row(self, quality_step: int) -> torch.Tensor:
        """`models.quality.quality_row` on the codec's device."""
        return quality_row(quality_step, self.device)


@contextmanager
def _damage_named() -> Iterator[None]:
    """A block whose ValueErrors concern the content of a section: they become BitstreamErrors."""
    try:
        yield
    except ValueError as error:
        raise bitstream.BitstreamError(f"damaged file: {error}") from error


def load_decoder(path: Path | str, device: torch.device | str = "cpu", limits: Limits | None = None) -> Decoder:
    """A checkpoint file -> Decoder. Raises ValueError with one line."""
    return Decoder(load_checkpoint(Path(path)), device, limits)
