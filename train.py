"""Train encoder, generator, codebook and entropy tables; then the realistic generator."""

import sys

from options.train_options import train_parser


def run(options) -> int:
    from utils.training.setup import build_trainer, run_folder  # here, so that --help loads no PyTorch

    with run_folder(options):
        trainer, data, validation = build_trainer(options)
        print(f"wrote {trainer.run(data, validation)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    return train_parser().run(argv, run)


if __name__ == "__main__":
    sys.exit(main())
