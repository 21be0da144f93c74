"""Encode, quantize, code and decode without search; measure. `Compression_ADMM.py` searches."""

import sys

from options.base_options import save_options
from options.codec_options import evaluate_parser


def run(options) -> int:
    from data import kind_of
    from utils import distributed
    from utils.batch import (Checkpoints, Interrupted, code_file, find_inputs, means_table, run_batch,
                             sample_files, write_metrics)
    from utils.codec import load_codec
    from utils.report import pick_device

    device = distributed.start(pick_device(options.device))
    items = find_inputs(options.input or sample_files(), lambda path: kind_of(path) is not None)
    codecs = Checkpoints(options.checkpoint, lambda path: load_codec(path, device))
    total_failures = 0
    for quality in options.quality:
        output = options.output / f"quality_{quality:g}" if len(options.quality) > 1 else options.output

        def encode(codec, signal):
            return codec.encode(signal, quality, "none", entropy_coder=options.entropy_coder)

        try:
            rows, failures = run_batch(
                items, lambda item: code_file(item, output, codecs, encode, options.realism), f"quality {quality:g}")
        except Interrupted as stop:
            rows, failures = stop.rows, None
        if rows:
            write_metrics(rows, output / "metrics.csv")
            save_options(options, options.output / "options.json")
            print(means_table(rows), end="")
        if failures is None:
            return 130
        total_failures += failures
    return 1 if total_failures else 0


def main(argv: list[str] | None = None) -> int:
    parser = evaluate_parser()
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
