"""Decode .bpgan files to PNG and WAV, with the checkpoint and nothing else; or tell what they hold."""

import sys

from options.codec_options import decompress_parser


def run(options) -> int:
    from utils.batch.pipes import FROM_PACKED, one_file

    if options.info:  # which does without PyTorch, and so without its seconds
        from utils.batch.info import show_info as work
    else:
        from utils.batch.decode import decode_inputs as work

    return one_file(work, FROM_PACKED)(options)


def main(argv: list[str] | None = None) -> int:
    return decompress_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
