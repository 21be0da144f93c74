"""Encode, quantize, code and decode without search; measure. `Compression_ADMM.py` searches."""

import sys

from options.codec_options import evaluate_parser


def run(options) -> int:
    from utils.batch.code import code_files, load_codecs
    from utils.batch.inputs import find_signals
    from utils.codec.settings import Settings

    settings = Settings.of("none", entropy_coder=options.entropy_coder, seed=options.seed)
    codecs, items = load_codecs(options), find_signals(options)
    return code_files(options, items, codecs, settings, options.quality, realism=options.realism)


def main(argv: list[str] | None = None) -> int:
    return evaluate_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
