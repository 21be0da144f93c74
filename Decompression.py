"""Decode .bpgan files to PNG and WAV, with the checkpoint and nothing else."""

import sys

from options.codec_options import decompress_parser


def run(options) -> int:
    from utils import distributed
    from utils.batch.run import SUFFIX, Checkpoints, Interrupted, find_inputs, one_by_one, prepare_output, run_batch
    from utils.codec.bitstream import read_file
    from utils.codec.decoder import load_decoder
    from utils.console import pick_device

    device = distributed.start(pick_device(options.device))
    if not options.input:
        raise ValueError("--input is needed: .bpgan files, or folders of them")
    items = find_inputs(options.input, lambda path: path.suffix.lower() == SUFFIX)
    decoders = Checkpoints(options.checkpoint, lambda path: load_decoder(path, device))
    prepare_output(options.output, items)

    def decode(item) -> dict:
        data = read_file(item.path)
        decoder = decoders.of_file(data)
        decoded = decoder.decompress(data, options.realism)
        target = options.output / item.stem.parent / (item.stem.name + decoder.kind.output_suffix)
        decoder.kind.write(target, decoded)
        return {"file": target}

    try:
        rows, failures = run_batch(items, one_by_one(decode), "decoding")
    except Interrupted as stop:
        rows, failures = stop.rows, None
    if distributed.world()[0] == 0:
        print(f"{len(rows)} of {len(items)} files decoded into {options.output}")
    if failures is None:
        return 130
    return 1 if failures else 0


def main(argv: list[str] | None = None) -> int:
    from utils.batch.pipes import piped

    return decompress_parser().run(argv, piped(run, lambda path: ".bpgan", "*.*"))


if __name__ == "__main__":
    sys.exit(main())
