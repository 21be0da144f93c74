"""Word error rate of a speech recognizer on recordings, and on what this and other codecs leave of them.

    python -m benchmarks.words --input DIR --transcripts index.csv

The recognizer is PocketSphinx with the US English model that its package brings, each recording
decoded on its own. It is a small one, trained on native speakers: on accented speech most words are wrong
before any codec, so each table has two columns. `WER` is against what was said; `WER against the original's`
against what the same recognizer makes of the recording itself, which is the damage that the codec does.

Transcripts come from a CSV file with columns `file` (a name, without its folder) and `text`, or as in
TIMIT from NAME.TXT beside NAME.WAV. Both sides are brought to lower case, and all but letters, digits and
apostrophes become spaces. Rates count as in benchmarks.speech. Points are kept in points.csv and are not
measured again.
"""

import csv
import dataclasses
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from data.corpora import default_dataroot
from options.base_options import in_range
from utils.batch.conditions import caption
from utils.console import fail
from utils.files import replacing

from .common import (
    KEY,
    Codec,
    Coded,
    Points,
    Source,
    benchmark_parser,
    find_codecs,
    find_sources,
    inputs_of,
    measure_all,
    note_run,
)
from .speech import BENCHMARK, RATE, from_raw, to_raw

SPEECH = dataclasses.replace(BENCHMARK, output=Path("results/benchmark_words"))
# errors and words: against the text; the others: against the words recognized in the original
COUNTS = ("errors", "words", "errors_to_original", "words_of_original")
COLUMNS = (*KEY, "bytes", "kbps", *COUNTS)


def load_recognizer() -> tuple[Callable[[np.ndarray], str], str]:
    """-> (float (n,) at 16 kHz -> the words in it, the recognizer's version). Raises ValueError without one."""
    try:
        import pocketsphinx
    except ImportError:
        raise ValueError("no speech recognizer: pip install pocketsphinx") from None
    from importlib.metadata import version

    # Means over the whole recording, and a fresh noise estimate for each: else the recordings before it would count.
    decoder = pocketsphinx.Decoder(samprate=RATE, cmn="batch", loglevel="FATAL")

    def recognize(clip: np.ndarray) -> str:
        decoder.reinit_feat()
        decoder.start_utt()
        decoder.process_raw(to_raw(clip), full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""

    return recognize, f"pocketsphinx {version('pocketsphinx')}"


def word_errors(reference: str, hypothesis: str) -> tuple[int, int]:
    """-> (substituted, deleted and inserted words, words of the reference), both texts normalized."""
    import jiwer

    normalize = jiwer.Compose(
        [
            jiwer.ToLowerCase(),
            jiwer.SubstituteRegexes({r"[^a-z0-9' ]+": " "}),
            jiwer.RemoveMultipleSpaces(),
            jiwer.Strip(),
            jiwer.ReduceToListOfListOfWords(),
        ]
    )
    counted = jiwer.process_words(reference, hypothesis, normalize, normalize)
    return (
        counted.substitutions + counted.deletions + counted.insertions,
        counted.hits + counted.substitutions + counted.deletions,
    )


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


def the_original() -> Codec:
    """The recording itself, as 16-bit samples."""
    return Codec(
        "original",
        "original, 16 bit",
        ("16-bit",),
        "",
        lambda clip, _: Coded(to_raw(clip)),
        lambda data, _: from_raw(data, RATE),
    )


def summarize(codecs: list[Codec], sources: list[Source], points: Points) -> list[dict]:
    """A row for each setting at which every file was measured: rate, and both error rates in percent."""
    rows = []
    for codec in codecs:
        for setting in codec.settings:
            mine = [points.get(source.key(codec, setting)) for source in sources]
            if None in mine:
                continue
            total = {name: sum(row[name] for row in mine) for name in COUNTS}
            rows.append(
                {
                    "codec": codec.label,
                    "setting": setting,
                    "files": len(mine),
                    "kbps": sum(row["kbps"] for row in mine) / len(mine),
                    "wer": 100 * total["errors"] / max(total["words"], 1),
                    "wer_to_original": 100 * total["errors_to_original"] / max(total["words_of_original"], 1),
                }
            )
    return rows


def print_table(rows: list[dict], n_words: int, about: str) -> None:
    print(
        f"{n_words} words in {about}.\n\n"
        "| | setting | kbps | WER | WER against the original's |\n|---|---:|---:|---:|---:|"
    )
    for row in rows:
        print(
            f"| {row['codec']} | {row['setting']} | {row['kbps']:.2f} | {row['wer']:.1f} % | "
            f"{row['wer_to_original']:.1f} % |"
        )


def run(options) -> int:
    """-> exit code: 1 if a file or a codec failed, 130 if interrupted; what is measured is kept."""
    recognize, version = load_recognizer()
    kind = SPEECH.kind
    transcripts = {}
    if options.transcripts or not options.input:
        transcripts = read_transcripts(options.transcripts or default_dataroot("speech", "test").parent / "index.csv")
    found, failures = find_sources(SPEECH, options)
    sources, texts = [], {}
    for source in found:
        text = transcript_of(source.item.path, transcripts)
        if text is None or not word_errors(text, "")[1]:
            failures += 1
            fail(ValueError("no transcript; see --transcripts"), f"{source.item.path}: ")
        else:
            sources.append(source)
            texts[source] = text
    if not sources:
        raise ValueError("none of the input files has a transcript")

    codecs, broken = find_codecs(SPEECH, options.codecs, options)
    codecs = [the_original()] + [
        codec if codec.ours else dataclasses.replace(codec, settings=codec.settings[: options.lowest])
        for codec in codecs
    ]
    codecs = [dataclasses.replace(codec, version=f"{codec.version} {version}".strip()) for codec in codecs]

    @cache
    def heard_in_original(source: Source) -> str:
        return recognize(kind.read(source.item.path))

    def measure(codec: Codec, setting: str, source: Source) -> dict:
        original = kind.read(source.item.path)
        coded = codec.encode(original, setting)
        heard = recognize(codec.finish(original, codec.decode(coded.data, setting)))
        counts = (*word_errors(texts[source], heard), *word_errors(heard_in_original(source), heard))
        return {
            **dict(zip(KEY, source.key(codec, setting))),
            "bytes": coded.counted,
            "kbps": kind.rate(coded.counted, kind.size(original)),
            **dict(zip(COUNTS, counts)),
        }

    points = Points(options.output / "points.csv", COLUMNS)
    conditions = note_run(SPEECH, codecs, options)
    interrupted = False
    try:
        failures += measure_all(codecs, sources, points, measure)
    except KeyboardInterrupt:
        interrupted = True
        print("interrupted; the points so far are kept, the same command goes on from them", file=sys.stderr)
    rows = summarize(codecs, sources, points)
    if rows:
        with replacing(options.output / "words.csv") as temporary, open(temporary, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        about = caption(conditions, len(sources), inputs_of(SPEECH, options))
        print_table(rows, sum(word_errors(texts[source], "")[1] for source in sources), about)
        print(f"{options.output}: points.csv, words.csv")
    return 130 if interrupted else 1 if failures or broken else 0


def main(argv: list[str] | None = None) -> int:
    parser = benchmark_parser(SPEECH, "Word error rate of a recognizer on recordings, coded and not.")
    parser.set_defaults(iterations=[0], quality=[1.0, 2.0, 3.0, 5.0, 8.0], codecs=["bpgan", "opus", "amr-wb", "codec2"])
    parser.add_argument(
        "--transcripts",
        type=Path,
        default=None,
        metavar="FILE",
        help="CSV with columns file and text; without it, index.csv below the folder that BPGAN_DATA names is taken",
    )
    parser.add_argument(
        "--lowest",
        type=in_range(int, 1, 100),
        default=3,
        help="of the other codecs the settings of the lowest rates, how many",
    )
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
