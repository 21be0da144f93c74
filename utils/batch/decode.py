"""Decode .bpgan files into a folder: what Decompression.py does."""

import argparse
import sys
from pathlib import Path

from utils import distributed
from utils.codec.bitstream import read_file
from utils.codec.decoder import load_decoder
from utils.codec.limits import Limits
from utils.console import fail, name_of, pick_device, printable
from utils.files import checksum, put_in_place, temporary_beside

from . import tables
from .conditions import check_conditions, conditions_of, note_conditions
from .inputs import DecodersByFile, Item, find_packed, output_folder
from .journal import DecodingJournal, settings_of
from .run import one_by_one, run_batch


def decode_inputs(options: argparse.Namespace) -> int:
    """Every input to a file in --output; -> exit code.

    What an earlier run has decoded with the same options is not decoded again; what it decoded with others is replaced.
    Any other file that lies there already stays: where it is just what would be written, all is well, else it is named
    as a failure, unless --overwrite is given.
    """
    device = distributed.start(pick_device(options.device))
    items = find_packed(options.input)
    limits = Limits.of_options(options)
    decoders = DecodersByFile(options.checkpoint, lambda path: load_decoder(path, device, limits))
    reused: list[Item] = []

    def decode(item: Item) -> dict:
        data = read_file(item.path)
        decoder = decoders.of_file(data)
        key, row = journal.key(item.path, item.stem, decoder.digest), {"file": name_of(item.path)}
        target = item.result(options.output, decoder.kind.output_suffix)
        if journal.find(key, row["file"], [target]):
            reused.append(item)
            return row
        if target.exists() and target.samefile(item.path):
            raise ValueError(f"{item.path}: its result would overwrite it, choose another --output")
        with temporary_beside(target) as temporary:
            decoder.kind.write(
                temporary, decoder.decompress(data, options.realism, options.exact), **decoder.metadata(data)
            )
            written = checksum(temporary)
            if not journal.may_replace(target) and _holds(target, written):
                return row
            journal.check(target)
            journal.add(key, row, {target: written})
            put_in_place(temporary, target)
        return row

    code = 0
    with output_folder(options.output, items):
        check_conditions(options.output)
        journal = DecodingJournal(options.output, settings_of(options, device=device.type), options.overwrite)
        result = run_batch(items, one_by_one(decode), "decoding", quiet=options.quiet)
        if len(result.rows) > len(reused) and options.result_name is None and distributed.world()[0] == 0:
            try:
                note_conditions(options.output, conditions_of(options, device, decoders.used()))
            except OSError as error:
                code = fail(error)
    if distributed.world()[0] == 0 and not options.quiet:
        where = options.result_name or str(options.output)
        print(f"{printable(where)}: {tables.summary(result, len(items), 'decoded', len(reused))}")
    if result.interrupted:
        print("interrupted; the decoded files are whole", file=sys.stderr)
    return max(code, result.exit_code)


def _holds(path: Path, content: list[int]) -> bool:
    """Whether it is a plain file of that checksum."""
    return path.is_file() and not path.is_symlink() and checksum(path) == content
