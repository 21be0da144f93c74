"""Encode, quantize, code and decode without search; measure. `Compression_ADMM.py` searches."""

import sys

from options.codec_options import evaluate_parser
from utils.codec.settings import Settings


def run(options) -> int:
    from utils.batch.code import Plan, code_files  # here, so that --help loads no PyTorch

    settings = Settings.of(
        "none",
        entropy_coder=options.entropy_coder,
        seed=options.seed,
        exact=options.exact,
        realism=options.realism,
    )
    return code_files(options, options.quality, Plan(settings))


def main(argv: list[str] | None = None) -> int:
    return evaluate_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
