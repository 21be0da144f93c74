"""Decode .bpgan files to PNG and WAV, with the checkpoint and nothing else."""

import sys

from options.codec_options import decompress_parser


def run(options) -> int:
    from utils.batch.decode import decode_inputs
    from utils.batch.inputs import SUFFIX, suffixes
    from utils.batch.pipes import one_file

    return one_file(decode_inputs, lambda path, options: SUFFIX, "*.*", lambda suffix: suffix in suffixes())(options)


def main(argv: list[str] | None = None) -> int:
    return decompress_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
