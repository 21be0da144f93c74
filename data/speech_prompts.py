"""Spoken prompts from Debian packages: professional voices of telephone exchanges, dialogs and children's programs.

A package is fetched by `apt-get download` from the sources that the system is set up with, or taken from a folder of
.deb files. Its sound becomes 16 kHz FLAC, `prompt_SOURCE_LANGUAGE_SPEAKER_CLIP.flac`, in the folders of the splits:

    train/ val/ test/   the clips, and LICENSES.txt, which names source, license and author for each package
    licenses/           the package's own copyright file, whole
    index/              a table for each package: split, file, source, language, speaker, seconds, highest frequency
    packages/           the .deb files that were fetched

What training must never see is held out by name (`data.folders.is_held_out`); of that, a few clips of each
speaker, chosen by a hash of their names, are for validation and the others are for tests. English prompts of
the telephone exchange are left out, because word errors are measured on them.
"""

import csv
import hashlib
import lzma
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from utils.files import locked, replacing

from .folders import is_held_out, prompt_name
from .sound_files import read_mono

RATE = 16000  # Hz
FRAME = 320  # samples, 20 ms
ACTIVE_DB = 40.0  # under the loud frames; what is softer is a pause
MARGIN = 0.15  # seconds of pause that stay at both ends
SHORTEST = 1.0  # seconds of speech without pauses; letters and syllables are shorter
MOST_CLIPPED = 0.003  # of the samples; clipping is heard from here on
CLIPPED = 0.99  # of full scale
BAND_DB = 60.0  # under the strongest frequency; where a recording ends in frequency
VALIDATION_CLIPS = 6  # per speaker
SCORED = 3.0  # seconds
SPLITS = ("train", "val", "test")
COLUMNS = ("split", "file", "source", "language", "speaker", "seconds", "highest_hz")
RAW_FORMATS = {".g722": ("g722", 16000), ".gsm": ("gsm", 8000)}  # FFmpeg's names: these files have no header, Hz


class PromptsError(Exception):
    """One line for the user: a package is not available, or is damaged."""


@dataclass(frozen=True)
class Package:
    """A Debian package with speech, and which of its files are speech."""

    name: str
    source: str  # what file names call it
    # Of paths in the package: groups `language` and `clip`, and `speaker` where the path names one.
    pattern: str
    license: str
    author: str
    speaker: str = ""  # where the path does not name one; else the language stands for the speaker


# Signal tones and noises among the prompts.
_NO_SPEECH = re.compile(r"silence/|beep|2tone|tt-monkeys\.|confbridge-(join|leave)\.")
_EXCHANGE = r"asterisk/sounds/(?P<language>[a-z]+)_[A-Z]+_[fm]_(?P<speaker>\w+)/(?P<clip>.+)\.(g722|wav)"
_EXCHANGE_ONE_VOICE = r"asterisk/sounds/(?P<language>[a-z]+)/(?P<clip>.+)\.gsm"
_DIALOGS = r"fillets-ng/sound/(?P<clip>[^/]+/(?P<language>[a-z]+)/[^/-]+-(?P<speaker>[mv])-.+)\.ogg"

PACKAGES = (
    Package("asterisk-core-sounds-es-g722", "asterisk-core", _EXCHANGE, "CC BY-SA 3.0", "Allison Smith"),
    Package("asterisk-core-sounds-fr-g722", "asterisk-core", _EXCHANGE, "CC BY-SA 3.0", "June Wallack"),
    Package("asterisk-core-sounds-it-g722", "asterisk-core", _EXCHANGE, "CC BY 3.0", "Carlo Flora"),
    Package("asterisk-core-sounds-ru-g722", "asterisk-core", _EXCHANGE, "CC BY 3.0", "Maxim Topal, ivrvoice.ru"),
    Package(
        "asterisk-prompt-es-co",
        "asterisk-avatar",
        _EXCHANGE_ONE_VOICE,
        "GPL 2",
        "Avatar Ltda., July E. Jiménez",
        speaker="july",
    ),
    Package(
        "asterisk-prompt-fr-armelle",
        "asterisk-armelle",
        _EXCHANGE_ONE_VOICE,
        "BSD-like",
        "Michel Gutierrez, spoken by Armelle Desjardins",
        speaker="armelle",
    ),
    Package(
        "asterisk-prompt-it-menardi-wav",
        "asterisk-menardi",
        _EXCHANGE,
        "CC BY-SA 3.0 Italy",
        "Marco Menardi and Paola Dal Zot, www.voip.ammdomus.it",
    ),
    Package("fillets-ng-data-cs", "fillets", _DIALOGS, "GPL 2", "ALTAR interactive and the authors of Fish Fillets NG"),
    Package("fillets-ng-data-nl", "fillets", _DIALOGS, "GPL 2", "the authors of Fish Fillets NG"),
    Package(
        "klettres-data",
        "klettres",
        r"share/klettres/(?P<language>[^/]+)/(?P<clip>.+)\.(ogg|wav|opus)",
        "GPL 2 or later",
        "Anne-Marie Mahfouf and the speakers of KLettres",
    ),
    Package(
        "ktuberling-data",
        "ktuberling",
        r"ktuberling/sounds/(?P<language>[^/]+)/(?P<clip>.+)\.(ogg|wav|opus)",
        "GPL 2 or later",
        "the KDE team and the speakers of KTuberling",
    ),
    Package(
        "festvox-ru",
        "festvox",
        r"festival/voices/russian/msu_(?P<language>ru)_(?P<speaker>nsh)_clunits/wav/(?P<clip>.+)\.wav",
        "BSD-like",
        "Nickolay V. Shmyrev",
    ),
    Package(
        "tuxpaint-stamps-default",
        "tuxpaint",
        # Without the Spanish ones: the language is held out, and a test set stays as it is.
        r"tuxpaint/stamps/(?P<clip>.+)_desc_(?P<language>(?!es)[a-z]+(_[A-Z]+)?)\.(ogg|wav)",
        "GPL 2",
        "Bill Kendrick and the speakers of Tux Paint",
    ),
)


def build(output: Path, packages: Path | None = None, wanted: tuple[Package, ...] = PACKAGES) -> list[str]:
    """Make or complete the set in `output`; `packages` is a folder of .deb files, else apt-get fetches them.

    A package whose table in `index/` is there has been done. Shows a bar for each package.
    -> a line for each package that is not available or damaged; none if the set is whole.
    Raises ValueError where another run writes to `output`, OSError where it cannot be written.
    """
    output.mkdir(parents=True, exist_ok=True)
    if packages and not packages.is_dir():
        raise ValueError(f"{packages}: no such folder; --packages names a folder of .deb files")
    problems, done = [], []
    with locked(output):
        for package in wanted:
            try:
                archive = find_package(packages, package.name) if packages else fetch(output / "packages", package.name)
                convert(archive, package, output)
                done.append((package, archive))
            except PromptsError as error:
                tqdm.write(str(error), file=sys.stderr)
                problems.append(str(error))
        for split in SPLITS:
            _write_licenses(output, split, done)
    return problems


def find_package(folder: Path, name: str) -> Path:
    """The .deb file of a package in a folder, the newest by name. Raises PromptsError if there is none."""
    found = sorted(folder.glob(f"{name}_*.deb"))
    if not found:
        raise PromptsError(f"{name}: no {name}_*.deb in {folder}")
    return found[-1]


def fetch(folder: Path, name: str) -> Path:
    """Fetch a package with `apt-get download` into a folder, unless it is there -> its .deb file.

    apt-get checks it against the signed lists of the system's sources. Raises PromptsError where apt-get is not
    there or refuses.
    """
    try:
        return find_package(folder, name)
    except PromptsError:
        pass
    if shutil.which("apt-get") is None:
        raise PromptsError(f"{name}: this system has no apt-get; name a folder of .deb files with --packages")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as place:
        # As root, apt-get would fetch as a user who may not write into the folder.
        command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", name]
        ended = subprocess.run(command, cwd=place, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if ended.returncode:
            said = [line[3:] for line in ended.stderr.splitlines() if line.startswith("E: ")]
            reason = said[0] if said else f"apt-get ends with {ended.returncode}"
            raise PromptsError(f"{name}: {reason}; `apt-get update`, or name a folder of .deb files with --packages")
        archive = find_package(Path(place), name)
        return Path(shutil.move(archive, folder / archive.name))


def members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """The regular files of a .deb package, one after the other: (path without "./", content).

    Raises PromptsError with one line if it is none, is damaged, or is packed in a way that cannot be read.
    """
    try:
        with open(archive, "rb") as file:
            name, size = _find_data(file)
            if name.endswith(".zst") and "zst" not in tarfile.TarFile.OPEN_METH:  # Python 3.14 can read it
                yield from _members_by_dpkg(archive)
                return
            data = _Part(file, size)
            with tarfile.open(fileobj=data, mode="r|*") as tar:
                yield from _files(tar)
            while data.read(1 << 20):  # the checksum at the end counts too
                pass
    except (tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError) as error:
        raise PromptsError(f"{archive}: not a Debian package, or damaged: {error}") from None


class _Part:
    """The next bytes of a file, as a file."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._left = file, size

    def read(self, n: int) -> bytes:
        data = self._file.read(min(n, self._left))
        if not data and self._left:
            raise EOFError("it ends early")
        self._left -= len(data)
        return data


def _find_data(file: BinaryIO) -> tuple[str, int]:
    """Put a file at the start of the archive's member data.tar* -> (its name, its size)."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError("it is no ar archive")
    while len(header := file.read(60)) == 60 and header[58:] == b"`\n":
        name, size = header[:16].decode("ascii", "replace").rstrip(" /"), int(header[48:58])
        if name.startswith("data.tar"):
            return name, size
        file.seek(size + size % 2, 1)
    raise ValueError("it has no data.tar")


def _files(tar: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in tar:
        if member.isfile():
            yield member.name.removeprefix("./"), tar.extractfile(member).read()


def _members_by_dpkg(archive: Path) -> Iterator[tuple[str, bytes]]:
    if shutil.which("dpkg-deb") is None:
        raise PromptsError(f"{archive}: packed with zstd, which needs dpkg-deb or Python 3.14")
    command = ["dpkg-deb", "--fsys-tarfile", archive.resolve()]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
        tarfile.open(fileobj=process.stdout, mode="r|") as tar,
    ):
        yield from _files(tar)


def convert(archive: Path, package: Package, output: Path) -> int:
    """The speech of a package -> FLAC files in `output`, its table and its copyright file -> how many clips.

    A file that is not readable, is too short, is clipped or repeats an earlier one is left out.
    """
    table = _table(output, archive)
    if table.exists():
        return 0
    pattern, seen, clips, terms = re.compile(rf"(?:^|/){package.pattern}$"), set(), {}, b""
    for path, content in tqdm(members(archive), desc=package.name, unit="file"):
        if path == f"usr/share/doc/{package.name}/copyright":
            terms = content
        match = pattern.search(path)
        if match is None or _NO_SPEECH.search(path):
            continue
        signal = trimmed(_read(content, Path(path).suffix))
        digest = hashlib.sha256(signal.tobytes()).digest()
        if len(signal) == 0 or digest in seen:
            continue
        seen.add(digest)
        groups = match.groupdict()
        language = groups["language"]
        name = prompt_name(
            package.source, language, groups.get("speaker") or package.speaker or language, match["clip"]
        )
        if name not in clips:  # names that differ in punctuation alone
            clips[name] = signal
    if not clips:
        raise PromptsError(f"{archive}: holds no speech of {package.name}")
    rows = []
    for name, split in _splits({name: len(signal) / RATE for name, signal in clips.items()}).items():
        signal = clips[name]
        _write(output / split / name, signal)
        _, source, language, speaker, _ = name.split("_", 4)
        rows.append((split, name, source, language, speaker, f"{len(signal) / RATE:.2f}", highest_frequency(signal)))
    with replacing(output / "licenses" / f"{package.name}.txt") as temporary:
        temporary.write_bytes(terms)
    with replacing(table) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *sorted(rows)])
    return len(rows)


def _table(output: Path, archive: Path) -> Path:
    """Where the clips of a package are listed."""
    return output / "index" / f"{archive.stem}.csv"


def _read(content: bytes, suffix: str) -> np.ndarray:
    """A sound file's bytes -> float32 (n,) at RATE; empty where it cannot be read."""
    if suffix in RAW_FORMATS:
        return read_raw(content, *RAW_FORMATS[suffix])
    with tempfile.NamedTemporaryFile(suffix=suffix) as file:
        file.write(content)
        file.flush()
        try:
            return read_mono(Path(file.name), RATE)
        except ValueError:
            return np.zeros(0, np.float32)


def read_raw(content: bytes, name: str, rate: int) -> np.ndarray:
    """Sound without a header, in FFmpeg's format of that name and rate -> float32 (n,) at RATE; empty if damaged."""
    import av
    from soxr import resample

    try:
        with av.open(BytesIO(content), format=name) as container:
            frames = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    except av.FFmpegError:
        frames = []
    if not frames:
        return np.zeros(0, np.float32)
    samples = np.concatenate(frames).astype(np.float32) / 32768
    return samples if rate == RATE else np.clip(resample(samples, rate, RATE), -1, 1)


def trimmed(signal: np.ndarray) -> np.ndarray:
    """float32 (n,) without the pauses at its ends; empty if it is clipped or holds too little speech."""
    n_frames = len(signal) // FRAME
    if n_frames == 0 or (np.abs(signal) >= CLIPPED).mean() > MOST_CLIPPED:
        return signal[:0]
    energy = np.square(signal[: n_frames * FRAME].reshape(n_frames, FRAME)).mean(1) + 1e-12
    active = np.flatnonzero(10 * np.log10(energy / np.percentile(energy, 95)) > -ACTIVE_DB)
    if len(active) * FRAME < SHORTEST * RATE or np.percentile(energy, 95) < 1e-6:
        return signal[:0]
    margin = int(MARGIN * RATE)
    return signal[max(active[0] * FRAME - margin, 0) : (active[-1] + 1) * FRAME + margin]


def highest_frequency(signal: np.ndarray) -> int:
    """Where a recording ends in frequency, in steps of 100 Hz: about 4000 for telephone speech, 8000 for all of it."""
    from scipy.signal import welch

    frequencies, power = welch(signal, RATE, nperseg=min(1024, len(signal)))
    heard = frequencies[power > power.max() * 10 ** (-BAND_DB / 10)]
    return int(round(heard[-1], -2))


def _splits(seconds: dict[str, float]) -> dict[str, str]:
    """The split of each file name: by `is_held_out`, and by a hash among those that are held out.

    Validation takes clips of `SCORED` seconds first, as scores of shorter ones say little.
    """
    splits, taken = {}, {}
    for name in sorted(seconds, key=lambda name: (seconds[name] < SCORED, hashlib.sha256(name.encode()).digest())):
        if not is_held_out(Path(name)):
            splits[name] = "train"
            continue
        speaker = name.rsplit("_", 1)[0]
        taken[speaker] = taken.get(speaker, 0) + 1
        splits[name] = "val" if taken[speaker] <= VALIDATION_CLIPS else "test"
    return splits


def _write(path: Path, signal: np.ndarray) -> None:
    import soundfile

    with replacing(path) as temporary:
        soundfile.write(temporary, signal, RATE, format="FLAC", subtype="PCM_16")


def _write_licenses(output: Path, split: str, done: list[tuple[Package, Path]]) -> None:
    """What `utils.training.model_card` quotes: a line for each package of the split, after lines that begin with #."""
    lines = [
        "# Speech from Debian packages: converted to 16 kHz mono, pauses cut at both ends.",
        "# The licenses are in full in ../licenses.",
        *(
            f"Debian package {package.name} {archive.stem.split('_')[1].replace('%3a', ':')}: "
            f"{package.license}, {package.author}"
            for package, archive in done
            if split in _splits_of(output, archive)
        ),
    ]
    with replacing(output / split / "LICENSES.txt") as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _splits_of(output: Path, archive: Path) -> set[str]:
    """Splits that have clips of a converted package."""
    with open(_table(output, archive), newline="", encoding="utf-8") as file:
        return {row["split"] for row in csv.DictReader(file)}
