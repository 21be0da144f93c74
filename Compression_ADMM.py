"""Compress: search the latent, code it into .bpgan files, decode these again, measure."""

import dataclasses
import sys

from options.codec_options import compress_parser, target_for, targets_of


def run(options) -> int:
    from utils.batch.code import code_inputs
    from utils.batch.inputs import SUFFIX
    from utils.batch.pipes import one_file, suffix_by_content
    from utils.codec.settings import Settings

    settings = Settings.of(options.search, options.iterations, options.objective, options.entropy_coder, options.seed)

    def encode(codec, signals, quality):
        return codec.encode_batch(signals, target_for(options, codec.kind) or quality, settings)

    def warm_up(codec, signal):
        short = dataclasses.replace(settings.search, iterations=min(settings.search.iterations, 2))
        return codec.encode(signal, options.quality, dataclasses.replace(settings, search=short))

    def work(options):
        return code_inputs(
            options,
            [options.quality],
            encode,
            warm_up,
            to_target=bool(targets_of(options)),
            batch_size=options.batch_size,
            decode=not options.no_decode,
        )

    return one_file(work, suffix_by_content, f"*{SUFFIX}", lambda suffix: suffix == SUFFIX)(options)


def main(argv: list[str] | None = None) -> int:
    return compress_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
