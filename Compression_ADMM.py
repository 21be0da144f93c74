"""Compress: search the latent, code it into .bpgan files, decode these again, measure."""

import sys
from functools import partial

from options.codec_options import compress_parser, target_function
from utils.codec.settings import Settings


def run(options) -> int:
    from utils.batch.code import code_files  # here, so that --help loads no PyTorch
    from utils.batch.pipes import TO_PACKED, one_file

    settings = Settings.of(
        options.search, options.iterations, options.objective, options.entropy_coder, options.seed, options.exact
    )
    work = partial(
        code_files,
        settings=settings,
        qualities=[options.quality],
        target_of=target_function(options),
        batch_size=options.batch_size,
        decode=not options.no_decode,
        trace=options.trace,
        keep_metadata=options.keep_metadata,
    )
    return one_file(work, TO_PACKED)(options)


def main(argv: list[str] | None = None) -> int:
    return compress_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
