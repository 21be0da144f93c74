"""Encode, quantize, code and decode without search; measure. `Compression_ADMM.py` searches."""

import sys

from options.codec_options import evaluate_parser


def run(options) -> int:
    from utils.batch.code import code_inputs
    from utils.codec.settings import Settings

    def encode(codec, signals, quality):
        return codec.encode_batch(signals, quality, Settings.of("none", entropy_coder=options.entropy_coder))

    def warm_up(codec, signal):
        return encode(codec, [signal], options.quality[0])[0]

    return code_inputs(options, options.quality, encode, warm_up, realism=options.realism)


def main(argv: list[str] | None = None) -> int:
    return evaluate_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
