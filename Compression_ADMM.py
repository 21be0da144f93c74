"""Compress: search the latent, code it into .bpgan files, decode these again, measure."""

import sys

from options.base_options import save_options
from options.codec_options import compress_parser


def run(options) -> int:
    import torch

    from data import kind_of
    from utils import distributed
    from utils.batch.journal import Journal, settings_of
    from utils.batch.page import Run, write_report
    from utils.batch.run import (
        Checkpoints,
        Interrupted,
        attempt,
        code_files,
        find_inputs,
        prepare_output,
        run_batch,
        sample_files,
        write_results,
    )
    from utils.codec.codec import load_codec
    from utils.console import pick_device

    device = distributed.start(pick_device(options.device))
    torch.manual_seed(options.seed)

    def encode(codec, signals):
        """What `codec.encode_batch` returns; with a target one by one, as each takes a search of its own."""
        arguments = (options.search, options.iterations, options.entropy_coder, options.seed, options.objective)
        target = getattr(options, f"target_{codec.kind.rate_unit}", None)
        if target is not None:
            return (attempt(codec.encode_to_rate, signal, target, *arguments) for signal in signals)
        if options.target_psnr is not None and "psnr_db" in codec.kind.metric_names:
            return (
                attempt(codec.encode_to_score, signal, "psnr_db", options.target_psnr, *arguments) for signal in signals
            )
        return codec.encode_batch(signals, options.quality, *arguments)

    items = find_inputs(options.input or sample_files(), lambda path: kind_of(path) is not None, options.output)
    codecs = Checkpoints(options.checkpoint, lambda path: load_codec(path, device))
    prepare_output(options.output, items)
    journal = Journal(options.output, settings_of(options, device=device.type), options.overwrite)
    try:
        rows, failures = run_batch(
            items,
            lambda some: code_files(some, options.output, codecs, encode, journal),
            "compressing",
            options.batch_size,
        )
    except Interrupted as stop:
        rows, failures = stop.rows, None
    if distributed.world()[0] == 0:
        if rows:
            save_options(options, options.output / "options.json")
        write_results(rows, len(items), options.output)
        if options.report and rows and failures is not None:
            write_report(options.output / "report.html", items, codecs, [Run(options.output, rows)])
    if failures is None:
        print("interrupted; what is listed above is whole", file=sys.stderr)
        return 130
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    from utils.batch.pipes import piped, suffix_by_content

    return compress_parser().run(argv, piped(run, suffix_by_content, "*.bpgan"))


if __name__ == "__main__":
    sys.exit(main())
