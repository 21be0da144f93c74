"""Encode, quantize, code and decode without search; measure. `Compression_ADMM.py` searches."""

import sys

from options.base_options import save_options
from options.codec_options import evaluate_parser


def run(options) -> int:
    from data import kind_of
    from utils import distributed
    from utils.batch.journal import Journal, settings_of
    from utils.batch.page import Run, write_report
    from utils.batch.run import (
        Checkpoints,
        Interrupted,
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
    items = find_inputs(options.input or sample_files(), lambda path: kind_of(path) is not None, options.output)
    codecs = Checkpoints(options.checkpoint, lambda path: load_codec(path, device))
    total_failures, runs = 0, []
    for quality in options.quality:
        output = options.output / f"quality_{quality:g}" if len(options.quality) > 1 else options.output
        prepare_output(output, items)
        journal = Journal(output, settings_of(options, device=device.type, quality=quality), options.overwrite)

        def encode(codec, signals):
            return codec.encode_batch(signals, quality, "none", entropy_coder=options.entropy_coder)

        def work(some):
            return code_files(some, output, codecs, encode, journal, options.realism)

        try:
            rows, failures = run_batch(items, work, f"quality {quality:g}")
        except Interrupted as stop:
            rows, failures = stop.rows, None
        if distributed.world()[0] == 0:
            if rows:
                save_options(options, options.output / "options.json")
            write_results(rows, len(items), output)
            if rows:
                runs.append(Run(output, rows, options.realism))
        if failures is None:
            return 130
        total_failures += failures
    if options.report and runs:
        write_report(options.output / "report.html", items, codecs, runs)
    return 1 if total_failures else 0


def main(argv: list[str] | None = None) -> int:
    parser = evaluate_parser()
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
