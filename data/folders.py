"""The files of a kind of signal in a folder: any folder, the TIMIT layout, and what training leaves out by name.

Open Images and Kodak are plain folders of pictures. TIMIT has its own tree,
TRAIN|TEST / DR1..DR8 / speaker / sentence.WAV, in upper or lower case by distribution.
"""

import re
from collections.abc import Iterable
from pathlib import Path

from utils.files import walk

DATAROOT_VARIABLE = "BPGAN_DATA"  # names the folder below which training and evaluation files lie
TIMIT_SPLITS = ("train", "test")

# Prompts (`data.speech_prompts`) that training leaves out: a whole language, the source with the most voices, which are
# recorded at home, and two speakers of languages that others speak too, a man in wideband and a woman by telephone.
# The Spanish speaker of the telephone exchange is also the English one on whose prompts word errors are measured.
HELD_OUT_LANGUAGES = ("es",)
HELD_OUT_SOURCES = ("ktuberling",)
HELD_OUT_SPEAKERS = ("carlo", "armelle")

_CLASS_OF_PICTURE = re.compile(r"inet_n(\d{8})_")  # a name that begins with a WordNet number, the picture's class
_PROMPT = re.compile(r"prompt_([^_]+)_([a-z]+)[^_]*_([^_]+)_")  # source, language with an addition such as -br, speaker
_NUMBERED = re.compile(r"(\d+)[-_]")  # a name that begins with the number of its speaker
_TIMIT_SPEAKER = re.compile(r"[FM][A-Z]{3}\d", re.IGNORECASE)  # a folder of TIMIT: FCJF0


def list_files(root: Path | str, suffixes: Iterable[str]) -> list[Path]:
    """All files with one of these lower-case suffixes under a folder, sorted by path.

    Recursive; suffixes match in either letter case; hidden files and folders are skipped. Where
    a TIMIT distribution carries a sentence twice (`SA1.WAV` and the converted `SA1.WAV.wav`),
    the original alone is listed.

    Returns paths that start with `root`. Raises ValueError if `root` is not a folder.
    """
    found = [path for path in walk(Path(root)) if path.suffix.lower() in suffixes]
    return sorted(_without_converted(found))


def is_held_out(path: Path) -> bool:
    """Whether training leaves a file out by its name.

    Pictures named `inet_nNNNNNNNN_*` carry the number of their class. The classes whose number is divisible by 4
    are a test set, so that a model is tested on classes that it has never seen. Spoken prompts carry their source,
    language and speaker (`prompt_name`), and some of each are held out.
    """
    if match := _CLASS_OF_PICTURE.match(path.name):
        return int(match[1]) % 4 == 0
    if match := _PROMPT.match(path.name):
        source, language, speaker = match.groups()
        return source in HELD_OUT_SOURCES or language in HELD_OUT_LANGUAGES or speaker in HELD_OUT_SPEAKERS
    return False


def speaker_of(path: Path) -> str:
    """Who speaks in a file, as far as its name tells; "" where it does not.

    Prompts carry source, language and speaker, recordings of speechocean762 and LibriSpeech begin with the speaker's
    number, and those of TIMIT lie in the speaker's folder.
    """
    if match := _PROMPT.match(path.name):
        return " ".join(match.groups())
    if match := _NUMBERED.match(path.name):
        return match[1]
    return path.parent.name.lower() if _TIMIT_SPEAKER.fullmatch(path.parent.name) else ""


def prompt_name(source: str, language: str, speaker: str, clip: str) -> str:
    """The file name of a spoken prompt: each part in lower case, with hyphens for all but letters and digits."""
    parts = (re.sub(r"[\W_]+", "-", part.lower()).strip("-") for part in (source, language, speaker, clip))
    return "_".join(("prompt", *parts)) + ".flac"


def _without_converted(paths: list[Path]) -> list[Path]:
    """Drop each `NAME.WAV.wav` beside which `NAME.WAV` is listed too."""
    listed = set(paths)
    return [path for path in paths if not (path.suffix.lower() == ".wav" and path.with_suffix("") in listed)]


def _child(folder: Path, name: str) -> Path | None:
    """The subfolder of that name in either letter case, or None."""
    matches = sorted(entry for entry in folder.iterdir() if entry.name.lower() == name and entry.is_dir())
    return matches[0] if matches else None


def _find_timit(root: Path) -> Path | None:
    """The folder that holds TRAIN and TEST: `root` itself, or one or two levels below it."""
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder")
    for level in ([root], root.glob("*"), root.glob("*/*")):
        for folder in sorted(path for path in level if path.is_dir()):
            splits = [_child(folder, split) for split in TIMIT_SPLITS]
            if all(
                split and any(re.fullmatch(r"dr[1-8]", entry.name.lower()) for entry in split.iterdir())
                for split in splits
            ):
                return folder
    return None


def is_timit(root: Path | str) -> bool:
    """Whether a folder holds TIMIT: TRAIN and TEST with dialect regions DR1..DR8 in them.

    The distributions nest it differently (`TIMIT/TRAIN`, `timit/timit/train`, `data/TRAIN`), so
    up to two levels below `root` are looked at. Raises ValueError if `root` is not a folder.
    """
    return _find_timit(Path(root)) is not None


def timit_files(root: Path | str, split: str) -> list[Path]:
    """The audio files (NIST SPHERE, `.WAV`) of a TIMIT split, "train" or "test", sorted by path.

    Training leaves out the SA sentences: SA1 and SA2 are two texts that every speaker reads,
    in both splits, so a model would be tested on texts it knows. "test" is the complete test set.

    Raises ValueError for another split, or if `root` does not hold the TIMIT layout.
    """
    if split not in TIMIT_SPLITS:
        raise ValueError(f"TIMIT has the splits {', '.join(TIMIT_SPLITS)}, not {split!r}")
    corpus = _find_timit(Path(root))
    if corpus is None:
        raise ValueError(f"{root}: not the TIMIT layout (TRAIN and TEST with DR1..DR8 in each)")
    base = _child(corpus, split)
    paths = []
    for path in walk(base):
        region = path.relative_to(base).parts[0].lower()
        if path.suffix.lower() != ".wav" or not re.fullmatch(r"dr[1-8]", region):
            continue
        if split == "train" and re.match(r"sa[12]\.", path.name.lower()):
            continue
        paths.append(path)
    return sorted(_without_converted(paths))
