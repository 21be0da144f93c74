"""Compress: search the latent, code it into .bpgan files, decode these again, measure."""

import sys

from options.codec_options import compress_parser, target_function
from utils.codec.settings import Settings


def run(options) -> int:
    from utils.batch.code import Plan, code_files  # here, so that --help loads no PyTorch
    from utils.batch.pipes import TO_PACKED, one_file

    plan = Plan(
        Settings.of(
            options.search,
            options.iterations,
            options.objective,
            options.entropy_coder,
            options.seed,
            options.exact,
            options.realism,
        ),
        target_function(options),
        options.batch_size,
        decode=not options.no_decode,
        trace=options.trace,
        keep_metadata=options.keep_metadata,
    )
    return one_file(lambda options: code_files(options, [options.quality], plan), TO_PACKED)(options)


def main(argv: list[str] | None = None) -> int:
    return compress_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
