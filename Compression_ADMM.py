"""Compress: search the latent, code it into .bpgan files, decode these again, measure."""

import sys

from options.codec_options import compress_parser


def run(options) -> int:
    from utils.batch.code import code_inputs
    from utils.batch.inputs import SUFFIX
    from utils.batch.pipes import one_file, suffix_by_content

    settings = (options.entropy_coder, options.seed, options.objective)
    search = (options.search, options.iterations, *settings)

    def target_of(codec):
        """The verb that meets the target, and its arguments; None where there is none for this kind of signal."""
        rate = getattr(options, f"target_{codec.kind.rate_unit}", None)
        if rate is not None:
            return codec.encode_to_rate, (rate,)
        if options.target_psnr is not None and "psnr_db" in codec.kind.metric_names:
            return codec.encode_to_score, ("psnr_db", options.target_psnr)
        return None

    def encode(codec, signals, quality):
        if target_of(codec) is None:
            return codec.encode_batch(signals, quality, *search)
        verb, target = target_of(codec)
        return [verb(signal, *target, *search) for signal in signals]

    def warm_up(codec, signal):
        return codec.encode(signal, options.quality, options.search, min(options.iterations, 2), *settings)

    def work(options):
        return code_inputs(
            options,
            [options.quality],
            encode,
            warm_up,
            alone=lambda codec: target_of(codec) is not None,  # each takes a search of its own
            batch_size=options.batch_size,
            decode=not options.no_decode,
        )

    return one_file(work, suffix_by_content, f"*{SUFFIX}", lambda suffix: suffix == SUFFIX)(options)


def main(argv: list[str] | None = None) -> int:
    return compress_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
