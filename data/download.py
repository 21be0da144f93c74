"""Fetch public test and training files: Kodak's 24 pictures, a part of Open Images' validation set, spoken prompts.

    python -m data.download kodak [--output datasets/kodak] [--count 24]
    python -m data.download openimages [--output datasets/images/train] [--count 1000]
    python -m data.download speech_prompts [--output datasets/speech_prompts] [--packages DEBS]

A file appears under its name only when it is complete and its checksum is right; what an
interrupted run left in `*.part` is continued by the next. With the default folders,
`export BPGAN_DATA=datasets` lets the scripts find both.

Kodak: http://r0k.us/graphics/kodak/, checked against the SHA-256 digests below.
Open Images: photographs under CC BY 2.0, longer side 1024, from its public bucket. The list of the
validation split, validation-images-with-rotation.csv, names them (41,620 rows; the column ImageID).
The first `--count` in sorted order are taken, which is a random sample, since the ids are random.
Each is checked against the MD5 that the bucket gives as its ETag.
Spoken prompts: about five hours in over ten languages out of Debian packages (`data/speech_prompts.py`).
The packages come by `apt-get download`, which checks them, or from a folder of .deb files.
"""

import argparse
import csv
import hashlib
import http.client
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tqdm import tqdm

KODAK_URL = "http://r0k.us/graphics/kodak/kodak"
OPENIMAGES_URL = "https://open-images-dataset.s3.amazonaws.com/validation"
OPENIMAGES_LIST_URL = "https://storage.googleapis.com/openimages/2018_04/validation/validation-images-with-rotation.csv"

TIMEOUT = 30  # seconds without a byte after which a server counts as unreachable

# SHA-256 of kodim01.png to kodim24.png.
KODAK_SHA256 = (
    "a56e27cbf5f843c048b6af1d6e090760e9c92fadba88b7dee0205918a37523bd",
    "4f4b74a79237e311d72cad958237b5f7088d8bce1c82305ebefe1a70e3022dfd",
    "e25ca1ff2f0c0cb5fdfd5f9b0a0bb21ac4c3de3c84a67f35b09a85d3306249db",
    "e3b946107c5d3441c022f678d0c3caf1e224d81b1604ba840a4f88e562de61aa",
    "10349e963c5c813d327852f82c1795fa4148d69fedffc4c589bee458e3ac3d53",
    "363510303b715d4cbc384e1ce227e466b613a09e1b71ae985882bf8e7fbd9b18",
    "b77d3f006f42414bb242222e0482e750c0fb9e5ee8d4bed2f6f11c5605fe54a4",
    "ba23983c76b4832ee0e8af0592664756841a16779acd69f792e268fb6d13d6e7",
    "6a4361c2fc194feb4edaa9f9a4a0620fb9943e460ac7fdf037fb0f6dd6607a7d",
    "9dfb70f5867c29ff9ed6313683f19b3d867849e40fbc0c4c54a4a89df341cf23",
    "7936814b58b5387fce2e4e2488b4ec830dadd95fa9520f358ddb30990b50f2b6",
    "d78c37c2f04f23761ed2367dd77e2db584ddd4c3950833fecf89f199a8126980",
    "bc34a3ce58dea09dce1704c997171602de90cb34d0c8503a988b77f473d39b08",
    "55a94550ff18f3246c4074fd32b77b0c74447c26b6ad274d564d999c0450ba6e",
    "7538cbb80cb9103606c48b806eae57d56c885c7f90b9b3be70a41160f9cbb683",
    "a89c7268ccd4718ba424a99fc4643c572cf692ca6eae887185ceb4e9f11d2e54",
    "37afcc89fbdcb76d9518e04b2fc011027e2f4cd14b3b2f83cefd721641a47c5b",
    "1a9258c365988961d87a0598725b609139c303ad48a5aad6c503c3b1a87849aa",
    "b7450b264b1b0a411390d8931b112c27905a992520fc90569dc4b920aa32bbdc",
    "3b46c71e3b92a563820ba32936be8330c586c41f938efd94be938386aae4328a",
    "ac958597c82073f6bb65129c68f72b651db5b9efd82e11547d07350214bc268b",
    "1cee58eb1f2d9c7ebb254d208a03c783ce6cf2c4d8c2cf45e235dd23b4ce1b29",
    "e3111a2fd4da24af15d6459ef9eacfe54106b38e27b4a21821b75c3f5d2d5baf",
    "1071c68372cc5a01435c2c225a5cf7d4bb803846ec08bb6b3d6721b156d7cb96",
)


class DownloadError(Exception):
    """One file could not be fetched; the next may."""


class UnreachableError(DownloadError):
    """The server does not answer at all, so no other file of it needs to be tried."""


def fetch(url: str, path: Path, sha256: str | None = None, progress: bool = False) -> None:
    """Download `url` to `path`, continuing `path`.part where a run before was interrupted.

    Verified against `sha256` (hex), else against the server's ETag where that is an MD5, and
    against the announced length. A continued file with a wrong checksum is fetched once more
    from the start. `progress` shows a bar in bytes.

    Raises UnreachableError if no connection is made, DownloadError if the server refuses, the
    transfer breaks off (the part is kept) or the checksum is wrong (the part is removed).
    """
    part = path.with_name(path.name + ".part")
    continued = part.exists()
    etag = _transfer(url, part, progress)
    if _checksum_matches(part, sha256, etag):
        os.replace(part, path)
        return
    part.unlink()
    if not continued:
        raise DownloadError(f"{url}: wrong checksum, the file was not kept")
    fetch(url, path, sha256, progress)


def _transfer(url: str, part: Path, progress: bool) -> str:
    """Append to `part` what it lacks of `url`; return the server's ETag ("" if there is none)."""
    held = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "bpgan-download"}
    if held:
        headers["Range"] = f"bytes={held}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and held:
            # Nothing lies beyond what is held: it is complete, or it belongs to another file. A start from
            # nothing finds that out.
            if error.headers.get("Content-Range", "").endswith(f"/{held}"):
                return error.headers.get("ETag", "")
            part.unlink()
            return _transfer(url, part, progress)
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}") from None
    except (urllib.error.URLError, OSError) as error:
        reason = getattr(error, "reason", error)
        raise UnreachableError(f"{url}: not reachable ({reason}); is there a network?") from None
    except http.client.HTTPException as error:
        raise DownloadError(f"{url}: no valid answer ({type(error).__name__})") from None

    with response:
        start = held if response.status == 206 else 0
        content_range = response.headers.get("Content-Range", "")
        if start and not content_range.startswith(f"bytes {start}-"):
            raise DownloadError(f"{url}: asked from byte {start}, got {content_range!r}")
        length = response.headers.get("Content-Length")
        expected = start + int(length) if length else None
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(total=expected, initial=start, unit="B", unit_scale=True, desc=part.stem, disable=not progress) as bar,
        ):
            try:
                while block := response.read(1 << 16):
                    file.write(block)
                    bar.update(len(block))
            except (OSError, http.client.HTTPException) as error:
                raise DownloadError(f"{url}: the transfer broke off ({error}); run again to continue it") from None
    received = part.stat().st_size
    if expected is not None and received != expected:
        raise DownloadError(
            f"{url}: the transfer broke off at {received} of {expected} bytes; run again to continue it"
        )
    return response.headers.get("ETag", "")


def _checksum_matches(part: Path, sha256: str | None, etag: str) -> bool:
    """Compare with `sha256`, else with the ETag if it is a plain MD5, else accept."""
    if sha256:
        return _digest(part, "sha256") == sha256
    # S3 writes "md5-parts" for uploads in several parts, which is no checksum of the file.
    if re.fullmatch(r'"[0-9a-f]{32}"', etag):
        return _digest(part, "md5") == etag.strip('"')
    return True


def _digest(path: Path, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _kodak_jobs(output: Path, count: int) -> list[tuple[str, Path, str | None]]:
    return [
        (f"{KODAK_URL}/kodim{index:02}.png", output / f"kodim{index:02}.png", digest)
        for index, digest in enumerate(KODAK_SHA256[:count], start=1)
    ]


def _openimages_jobs(output: Path, count: int) -> list[tuple[str, Path, str | None]]:
    listing = output / OPENIMAGES_LIST_URL.rpartition("/")[2]
    if not listing.exists():
        fetch(OPENIMAGES_LIST_URL, listing, progress=True)
    with open(listing, newline="", encoding="utf-8") as file:
        ids = sorted(row.get("ImageID") or "" for row in csv.DictReader(file))
    # The ids become file names, so nothing else may pass.
    ids = [name for name in ids if re.fullmatch(r"[0-9a-f]{16}", name)]
    if not ids:
        raise DownloadError(f"{listing}: holds no image ids; remove it and run again")
    return [(f"{OPENIMAGES_URL}/{name}.jpg", output / f"{name}.jpg", None) for name in ids[:count]]


_CORPORA = {
    # name: (default folder, default count, largest count, jobs)
    "kodak": ("datasets/kodak", 24, 24, _kodak_jobs),
    "openimages": ("datasets/images/train", 1000, 41620, _openimages_jobs),
}
_PROMPTS = "speech_prompts"


def _is_done(path: Path, sha256: str | None) -> bool:
    """Whether a file is there already; without a digest its name says that it was verified."""
    return path.exists() and (sha256 is None or _digest(path, "sha256") == sha256)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 if all files are there and verified, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m data.download", description="Fetch public pictures and speech, verified and resumable."
    )
    parser.add_argument("corpus", choices=sorted([*_CORPORA, _PROMPTS]))
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: a folder in datasets/")
    parser.add_argument("--count", type=int, metavar="N", help="how many pictures (default: kodak 24, openimages 1000)")
    parser.add_argument(
        "--packages",
        type=Path,
        metavar="DIR",
        help=f"for {_PROMPTS}: take the packages from a folder of .deb files, not from apt-get",
    )
    args = parser.parse_args(argv)
    if args.corpus == _PROMPTS:
        if args.count is not None:
            parser.error(f"--count is for pictures; {_PROMPTS} takes all of its packages")
        return _build_prompts(args.output or Path("datasets", _PROMPTS), args.packages)
    if args.packages:
        parser.error(f"--packages is for {_PROMPTS}")
    folder, default_count, largest, make_jobs = _CORPORA[args.corpus]
    output = args.output or Path(folder)
    count = default_count if args.count is None else args.count
    if not 1 <= count <= largest:
        parser.error(f"--count {count}: {args.corpus} takes 1 to {largest}")

    failed = 0
    try:
        output.mkdir(parents=True, exist_ok=True)
        jobs = make_jobs(output, count)
        for url, path, digest in tqdm(jobs, unit="file", desc=args.corpus):
            if _is_done(path, digest):
                continue
            try:
                fetch(url, path, digest)
            except UnreachableError:
                raise
            except DownloadError as error:
                tqdm.write(str(error), file=sys.stderr)
                failed += 1
    except (DownloadError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run again to continue", file=sys.stderr)
        return 1
    print(f"{args.corpus}: {len(jobs) - failed} of {len(jobs)} pictures in {output}")
    return 1 if failed else 0


def _build_prompts(output: Path, packages: Path | None) -> int:
    from . import speech_prompts

    try:
        problems = speech_prompts.build(output, packages)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run again to continue", file=sys.stderr)
        return 1
    counts = ", ".join(f"{len(list((output / split).glob('*.flac')))} in {split}" for split in speech_prompts.SPLITS)
    print(f"{_PROMPTS}: {counts} of {output}")
    if problems:
        print(f"{len(problems)} packages are missing; run again to complete the set", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
