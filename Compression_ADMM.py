"""Compress: search the latent, code it into .bpgan files, decode these again, measure."""

import sys

from options.base_options import save_options
from options.codec_options import compress_parser


def run(options) -> int:
    import torch

    from data import kind_of
    from utils import distributed
    from utils.batch import (Checkpoints, Interrupted, code_file, find_inputs, means_table, run_batch,
                             sample_files, write_metrics)
    from utils.codec import load_codec
    from utils.report import pick_device

    device = distributed.start(pick_device(options.device))
    torch.manual_seed(options.seed)

    def encode(codec, signal):
        arguments = (options.search, options.iterations, options.entropy_coder, options.seed)
        target = {"bpp": options.target_bpp, "kbps": options.target_kbps}[codec.signal.rate_unit]
        if target is not None:
            return codec.encode_to_rate(signal, target, *arguments)
        return codec.encode(signal, options.quality, *arguments)

    items = find_inputs(options.input or sample_files(), lambda path: kind_of(path) is not None)
    codecs = Checkpoints(options.checkpoint, lambda path: load_codec(path, device))
    try:
        rows, failures = run_batch(items, lambda item: code_file(item, options.output, codecs, encode), "compressing")
    except Interrupted as stop:
        rows, failures = stop.rows, None
    if rows:
        write_metrics(rows, options.output / "metrics.csv")
        save_options(options, options.output / "options.json")
        print(means_table(rows), end="")
        print(f"{options.output / 'metrics.csv'}: {len(rows)} files")
    if failures is None:
        print("interrupted; what is listed above is whole", file=sys.stderr)
        return 130
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    parser = compress_parser()
    return parser.run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
