"""Whose voice it is, and how natural it sounds: what this and other codecs leave of recordings.

    python -m benchmarks.voices --input DIR

**Speaker similarity** is the cosine between the embeddings of the decoded recording and of its original
by the speaker encoder of Resemblyzer (Wan et al. 2018, "Generalized end-to-end loss for speaker verification"), after
its own preparation: level and long pauses. Two more figures say what the cosine means: the mean over pairs of
originals of two speakers (the floor), and over pairs of one speaker's originals (the ceiling). They need to know who
speaks: a CSV file with columns `file` and `speaker`, else in TIMIT's layout the folder of a file.

**Naturalness** is DNSMOS P.835 (Reddy et al. 2022), a network that predicts what listeners would say without
knowing the original, from 1 to 5: of the voice (SIG), the background (BAK) and both together (OVRL).
The row of the originals says what the recordings themselves get. It is a prediction and no listening test.

ViSQOL is not among the yardsticks: visqol-python 3.8 gives 3.3153 for the pair of recordings for which Google's own
program publishes 3.3129 with a tolerance of 0.0001, and no other package of it could be installed.

Rates count as in benchmarks.speech. Points are kept in points.csv and are not measured again.
"""

import csv
import dataclasses
import itertools
import random
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np

from data.corpora import default_dataroot
from data.folders import is_timit

from . import yardsticks
from .common import Source, find_sources, write_rows
from .speech import BENCHMARK, RATE
from .yardsticks import Figure, Sample, Yardstick, digest, need, yardstick_parser

SPEECH = dataclasses.replace(BENCHMARK, output=Path("results/benchmark_voices"))
COLUMNS = ("speaker_similarity", "sig", "bak", "ovrl")
FIGURES = {name: Figure(name) for name in COLUMNS}
MAX_PAIRS = 20000  # of two speakers, for the floor


def load_speaker_encoder() -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """-> (float (n,) at 16 kHz -> embedding (256,) of length 1, nan for silence; version). Raises ValueError."""
    resemblyzer, version = need("resemblyzer", "Resemblyzer")
    encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def embed(clip: np.ndarray) -> np.ndarray:
        if not clip.any():  # its level cannot be brought to a usual one
            return np.full(256, np.nan)
        voiced = resemblyzer.preprocess_wav(clip.astype(np.float32), RATE)
        return encoder.embed_utterance(voiced if voiced.size else clip)

    return embed, f"{version} {digest(Path(resemblyzer.__file__).with_name('pretrained.pt'))}"


def load_dnsmos() -> tuple[Callable[[np.ndarray], dict[str, float]], str]:
    """-> (float (n,) at 16 kHz -> sig, bak, ovrl; version). Raises ValueError."""
    dnsmos, version = need("speechmos.dnsmos", "speechmos")

    def judge(clip: np.ndarray) -> dict[str, float]:
        found = dnsmos.run(np.clip(clip, -1, 1).astype(np.float32), RATE)
        return {name: float(found[f"{name}_mos"]) for name in ("sig", "bak", "ovrl")}

    return judge, f"{version} {digest(Path(dnsmos.__file__).parent / 'dnsmos_models' / 'sig_bak_ovr.onnx')}"


def read_speakers(path: Path) -> dict[str, str]:
    """File name -> speaker, from a CSV file. Raises ValueError if it lacks the columns."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if not {"file", "speaker"} <= set(reader.fieldnames or ()):
                raise ValueError(f"{path}: speakers need the columns file and speaker")
            return {row["file"]: row["speaker"] for row in reader}
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file; name one with --speakers") from None


def bounds_of_similarity(embeddings: Iterable[tuple[str, np.ndarray]]) -> list[dict]:
    """(speaker, embedding) of originals -> a row each for pairs of two speakers and of one, where there are any."""
    pools: dict[bool, list[float]] = {False: [], True: []}
    drawn = list(embeddings)
    random.Random(0).shuffle(drawn)  # of many files not the pairs of the first alone
    for (speaker_a, a), (speaker_b, b) in itertools.islice(itertools.combinations(drawn, 2), MAX_PAIRS):
        similarity = float(a @ b)
        if np.isfinite(similarity):
            pools[speaker_a == speaker_b].append(similarity)
    labels = {False: "originals of two speakers (floor)", True: "two originals of one speaker (ceiling)"}
    return [
        {"label": labels[same], "pairs": len(pool), "speaker_similarity": float(np.mean(pool))}
        for same, pool in pools.items()
        if pool
    ]


def run(options) -> int:
    """-> exit code: 1 if a file or a codec failed, 130 if interrupted; what is measured is kept."""
    embed, encoder_version = load_speaker_encoder()
    judge, dnsmos_version = load_dnsmos()
    kind = SPEECH.kind
    speakers = {}
    if options.speakers or not options.input:
        speakers = read_speakers(options.speakers or default_dataroot("speech", "test").parent / "index.csv")
    sources, failures = find_sources(SPEECH, options)

    @cache
    def embedding_of(source: Source) -> np.ndarray:
        return embed(kind.read(source.item.path))

    def score(sample: Sample) -> dict[str, float]:
        similarity = float(embedding_of(sample.source) @ embed(sample.decoded))
        return {"speaker_similarity": similarity, **judge(sample.decoded)}

    yardstick = Yardstick(SPEECH, f"{encoder_version} {dnsmos_version}", COLUMNS, FIGURES, score)
    rows, code = yardsticks.run(yardstick, sources, options, "voices")
    if rows and code != 130:
        by_folder = any(is_timit(root) for root in options.input or [])
        known = [
            (speaker, embedding_of(source))
            for source in sources
            if (speaker := speakers.get(source.item.path.name, source.item.path.parent.name if by_folder else None))
        ]
        if not known:
            print("who speaks is not known, so there are no bounds of the similarity: name a file with --speakers")
        bounds = bounds_of_similarity(known)
        if bounds:
            write_rows(options.output / "speakers.csv", bounds)
        for row in bounds:
            print(f"speaker similarity, {row['label']}: {row['speaker_similarity']:.3f} ({row['pairs']} pairs)")
    return code or (1 if failures else 0)


def main(argv: list[str] | None = None) -> int:
    parser = yardstick_parser(SPEECH, "Speaker similarity and predicted naturalness of recordings, coded and not.", 3)
    parser.set_defaults(realism=[0.0, 1.0], codecs=["bpgan", "opus", "amr-wb", "codec2", "speex"])
    parser.add_argument(
        "--speakers",
        type=Path,
        default=None,
        metavar="FILE",
        help="CSV with columns file and speaker; without it, index.csv below the folder that BPGAN_DATA names is taken",
    )
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
