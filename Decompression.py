"""Decode .bpgan files to PNG and WAV, with the checkpoint and nothing else; or tell what they hold."""

import sys

from options.codec_options import decompress_parser


def run(options) -> int:
    from utils.batch.decode import decode_inputs
    from utils.batch.info import show_info
    from utils.batch.pipes import FROM_PACKED, one_file

    return one_file(show_info if options.info else decode_inputs, FROM_PACKED)(options)


def main(argv: list[str] | None = None) -> int:
    return decompress_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
