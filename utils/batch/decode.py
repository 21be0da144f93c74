"""Decode .bpgan files into a folder: what Decompression.py does."""

import argparse
import os
import sys
from pathlib import Path

from utils import distributed
from utils.codec.bitstream import read_file
from utils.codec.decoder import load_decoder
from utils.codec.limits import Limits
from utils.console import fail, pick_device, printable
from utils.files import checksum, put_in_place, temporary_beside

from . import tables
from .conditions import check_conditions, conditions_of, note_conditions
from .inputs import DecodersByFile, Item, find_packed, output_folder
from .journal import not_ours
from .run import one_by_one, run_batch


def decode_inputs(options: argparse.Namespace) -> int:
    """Every input to a file in --output; -> exit code.

    A file that lies there already stays: where it is just what would be written, all is well, else
    it is named as a failure, unless --overwrite is given.
    """
    device = distributed.start(pick_device(options.device))
    items = find_packed(options.input)
    limits = Limits.of_options(options)
    decoders = DecodersByFile(options.checkpoint, lambda path: load_decoder(path, device, limits))

    def decode(item: Item) -> dict:
        data = read_file(item.path)
        decoder = decoders.of_file(data)
        target = item.result(options.output, decoder.kind.output_suffix)
        with temporary_beside(target) as temporary:
            decoder.kind.write(
                temporary, decoder.decompress(data, options.realism, options.exact), **decoder.metadata(data)
            )
            if not os.path.lexists(target) or (options.overwrite and not _is_same(target, item.path)):
                put_in_place(temporary, target)
            elif target.is_symlink() or not target.is_file() or checksum(target) != checksum(temporary):
                raise ValueError(not_ours(target))
        return {"file": target}

    code = 0
    with output_folder(options.output, items):
        check_conditions(options.output)
        result = run_batch(items, one_by_one(decode), "decoding", quiet=options.quiet)
        if result.rows and options.result_name is None and distributed.world()[0] == 0:
            try:
                note_conditions(options.output, conditions_of(options, device, decoders.used()))
            except OSError as error:
                code = fail(error)
    if distributed.world()[0] == 0 and not options.quiet:
        where = options.result_name or str(options.output)
        print(f"{printable(where)}: {tables.summary(result, len(items), 'decoded')}")
    if result.interrupted:
        print("interrupted; the decoded files are whole", file=sys.stderr)
    return max(code, result.exit_code)


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)
