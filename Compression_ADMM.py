"""Compress: search the latent, code it into .bpgan files, decode these again, measure."""

import sys

from options.codec_options import compress_parser, target_function


def run(options) -> int:
    from utils.batch.code import code_files, load_codecs
    from utils.batch.inputs import find_signals
    from utils.batch.pipes import TO_PACKED, one_file
    from utils.codec.settings import Settings

    settings = Settings.of(options.search, options.iterations, options.objective, options.entropy_coder, options.seed)

    def work(options) -> int:
        codecs, items = load_codecs(options), find_signals(options)
        how = dict(
            batch_size=options.batch_size,
            decode=not options.no_decode,
            trace=options.trace,
            keep_metadata=options.keep_metadata,
        )
        return code_files(options, items, codecs, settings, [options.quality], target_function(options), **how)

    return one_file(work, TO_PACKED)(options)


def main(argv: list[str] | None = None) -> int:
    return compress_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
