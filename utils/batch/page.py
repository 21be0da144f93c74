"""A page to look and listen: versions of a signal side by side, in one HTML file that needs no network.

    with writing_page(Path("report.html"), "Report", "Decoded from the files.") as page:
        page.add("photo.jpg", [Version("original", ...), Version("quality 3", ...)])

Pictures are embedded as lossless WebP and sounds as FLAC, 16 bit, so what is seen and heard is what
was decoded. Each of them is in the file once. A version of a picture of 768x512 takes 0.3 to 0.7 MB, one of four
seconds of speech with their spectrogram 0.3 MB.
"""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape as escape_markup
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from data.base import Kind, Preview
from utils.console import name_of, printable
from utils.files import replacing

if TYPE_CHECKING:
    from .inputs import CodecsByKind, Item

MAX_VERSIONS = 72  # of all files on a report's page together: some 30 MB
MAX_FILES = 24  # of a report's page

# The heading and the format of measures; others are shown under their name, with 3 digits.
_MEASURES = {
    "bytes": ("bytes", ",.0f"),
    "bpp": ("bpp", ".3f"),
    "kbps": ("kbps", ".2f"),
    "psnr_db": ("PSNR (dB)", ".2f"),
    "ms_ssim": ("MS-SSIM", ".4f"),
    "pesq_wb": ("PESQ wideband", ".2f"),
    "stoi": ("STOI", ".3f"),
    "estoi": ("ESTOI", ".3f"),
    "log_spectral_distance": ("log-spectral distance (dB)", ".2f"),
}

_LABEL = ' class="label"'  # of cells that are text

# Whatever a name or a note should contain, the page can load nothing.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def heading(name: str) -> tuple[str, str]:
    """How a measure is headed, and how its values are formatted."""
    return _MEASURES.get(name, (name, ".3g"))


def escape(text: str) -> str:
    """Any text, a file's name above all, as the text of an element or an attribute."""
    return escape_markup(printable(text))


@dataclass(frozen=True)
class Version:
    """One of the versions of a signal that are compared."""

    label: str
    preview: Preview
    measures: dict[str, float] = field(default_factory=dict)  # name -> value; nan is shown as a dash


class Page:
    """An open page; see `writing_page`."""

    def __init__(self, file: TextIO):
        self._file = file
        self._entries = 0

    def add(self, name: str, versions: Sequence[Version], left: int = 0, right: int = 1) -> None:
        """Add a signal by its name (any text), with its versions; `left` and `right` index those shown at first.

        The pictures of all versions have one shape. Raises ValueError otherwise, or for no version.
        """
        if not versions:
            raise ValueError(f"{name}: a page needs at least one version")
        shapes = {version.preview.pixels.shape for version in versions}
        if len(shapes) != 1:
            raise ValueError(f"{name}: versions differ in shape: {', '.join(map(str, sorted(shapes)))}")
        last = len(versions) - 1
        shown = {"left": min(left, last), "right": min(right, last)}
        self._entries += 1
        ((rows, columns, _),) = shapes
        write = self._file.write
        note = versions[0].preview.note
        write(f'<section class="entry"><h2>{escape(name)}</h2>\n')
        if note:
            write(f'<p class="note">{escape(note)}</p>\n')
        write(f'<div class="compare" style="--columns:{columns};--rows:{rows}">\n')
        for i, version in enumerate(versions):
            sides = " ".join(side for side, index in shown.items() if index == i)
            write(
                f'<img class="{sides}" alt="{escape(version.label)}" width="{columns}" height="{rows}" loading="lazy" '
                f'decoding="async" draggable="false" src="{_data_uri("image/webp", _webp(version.preview.pixels))}">\n'
            )
        for side, index in shown.items():
            write(f'<span class="tag {side}">{escape(versions[index].label)}</span>\n')
        write(
            '<div class="handle" role="slider" tabindex="0" aria-label="How much of the left version is seen" '
            'aria-valuemin="0" aria-valuemax="100" aria-valuenow="50"></div>\n</div>\n'
        )
        self._write_table(versions, shown)
        write("</section>\n")

    def add_table(self, title: str, lines: Sequence[Sequence[str]]) -> None:
        """Add a table of figures, folded under its title; its first line is the head, its first column is text."""
        heads = [escape(cell) for cell in lines[0]]
        write = self._file.write
        write(f"<section><details><summary><h2>{escape(title)}</h2></summary>\n")
        write('<div class="scroll"><table class="figures"><thead><tr>')
        write("".join(f"<th{_LABEL * (not i)}>{head}</th>" for i, head in enumerate(heads)) + "</tr></thead>\n<tbody>")
        for line in lines[1:]:
            cells = (
                f'<td{_LABEL * (not i)} data-head="{head}">{escape(cell)}</td>'
                for i, (head, cell) in enumerate(zip(heads, line))
            )
            write("<tr>" + "".join(cells) + "</tr>\n")
        write("</tbody></table></div></details></section>\n")

    def add_plot(self, title: str, png: bytes) -> None:
        """Add a plot, given as a PNG file."""
        self._file.write(
            f'<section><h2>{escape(title)}</h2>\n<img class="plot" alt="{escape(title)}" '
            f'src="{_data_uri("image/png", png)}"></section>\n'
        )

    def _write_table(self, versions: Sequence[Version], shown: dict[str, int]) -> None:
        """One row per version: the side on which it is seen, its measures, its sound."""
        columns = list(dict.fromkeys(name for version in versions for name in version.measures))
        write = self._file.write
        heads = {name: escape(heading(name)[0]) for name in columns}
        write(
            '<div class="scroll"><table><thead><tr><th>left</th><th>right</th><th class="label">version</th>'
            + "".join(f"<th>{head}</th>" for head in heads.values())
            + "</tr></thead>\n"
        )
        for i, version in enumerate(versions):
            label = escape(version.label)
            write("<tbody><tr>")
            for side, index in shown.items():
                write(
                    f'<td data-head="{side}"><input type="radio" name="{side}-{self._entries}" value="{i}" data-side="{side}" '
                    f'aria-label="{label} on the {side}"{" checked" * (index == i)}></td>'
                )
            write(
                f'<td class="label">{label}</td>'
                + "".join(
                    f'<td data-head="{head}">{_number(name, version.measures.get(name, math.nan))}</td>'
                    for name, head in heads.items()
                )
                + "</tr>\n"
            )
            if version.preview.sound is not None:
                sound = _data_uri("audio/flac", _flac(version.preview.sound, version.preview.sample_rate))
                write(
                    f'<tr><td colspan="{len(columns) + 3}"><audio controls preload="metadata" '
                    f'aria-label="{label}" src="{sound}"></audio></td></tr>\n'
                )
            write("</tbody>\n")
        write("</table></div>\n")


@contextmanager
def writing_page(path: Path, title: str, introduction: str = "") -> Iterator[Page]:
    """An open page, to which signals are added one by one; none stays in memory.

    The file appears under its name when the block ends well. Raises OSError if it cannot be written.
    """
    folder = Path(__file__).parent
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        file.write(
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">\n'
            f"<title>{escape(title)}</title>\n<style>\n{(folder / 'page.css').read_text(encoding='utf-8')}</style></head>\n"
            f"<body><main>\n<h1>{escape(title)}</h1>\n"
        )
        if introduction:
            file.write(f"<p>{escape(introduction)}</p>\n")
        file.write(
            '<p class="help">Drag over a picture, or use the arrow keys, to see more of one version or the '
            "other; the table chooses the two.</p>\n"
        )
        yield Page(file)
        file.write(f"</main>\n<script>\n{(folder / 'page.js').read_text(encoding='utf-8')}</script></body></html>\n")


@dataclass(frozen=True)
class Run:
    """A folder of decoded files and their rows of metrics.csv."""

    folder: Path
    rows: list[dict]
    realism: float = 0.0


def write_report(
    path: Path, items: Sequence["Item"], codecs: "CodecsByKind", runs: Sequence[Run], conditions: str = ""
) -> str:
    """A page of the first files that were coded, originals against what was decoded; -> how many are shown, in words.

    `conditions` is a line on files, checkpoint and machine.

    Files are read again one by one, so a folder of any size takes the memory of one file. Raises
    ValueError or OSError for a file that cannot be read any more.
    """
    rows = [{row["file"]: row for row in run.rows} for run in runs]
    coded = [item for item in items if any(name_of(item.path) in by_file for by_file in rows)]
    shown = coded[: max(1, min(MAX_FILES, MAX_VERSIONS // (len(runs) + 1)))]
    said = f"{len(shown)} file{'s' * (len(shown) != 1)}, decoded from what was written."
    if len(shown) < len(coded):
        said = f"The first {len(shown)} of {len(coded)} files, decoded from what was written; all are in metrics.csv."
    with writing_page(path, "BPGAN: original and decoded", f"{said} {conditions}".rstrip()) as page:
        for item in shown:
            mine = [
                (run, by_file[name_of(item.path)]) for run, by_file in zip(runs, rows) if name_of(item.path) in by_file
            ]
            kind = codecs.of(mine[0][1]["signal"]).kind
            original = kind.read(item.path)
            versions = [original_version(kind, original, item.path.stat().st_size)]
            for run, row in mine:
                decoded = kind.read(item.result(run.folder, kind.output_suffix))
                measures = {name: row[name] for name in ("bytes", kind.rate_unit, *kind.metric_names)}
                versions.append(Version(_setting(row, run.realism), kind.preview(decoded, original), measures))
            page.add(item.stem.as_posix(), versions)
    return said


def _setting(row: dict, realism: float) -> str:
    """A row's settings in words."""
    iterations = int(row["iterations"])
    return (
        f"quality {float(row['quality']):g}"
        + (f", {row['search']}, {iterations} iterations" if iterations else "")
        + (f", realism {realism:g}" if realism else "")
    )


def original_version(kind: Kind, original: np.ndarray, n_bytes: int) -> Version:
    """What the others are compared with: its rate is that of the file as it was given."""
    return Version(
        "original",
        kind.preview(original, original),
        {"bytes": n_bytes, kind.rate_unit: kind.rate(n_bytes, kind.size(original))},
    )


def _number(name: str, value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if math.isinf(value) else format(value, heading(name)[1])


def _data_uri(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _webp(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=50, method=4)
    return file.getvalue()


def _flac(sound: np.ndarray, sample_rate: int) -> bytes:
    import soundfile

    file = io.BytesIO()
    samples = np.clip(np.rint(sound * 32768.0), -32768, 32767).astype(np.int16)
    soundfile.write(file, samples, sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
