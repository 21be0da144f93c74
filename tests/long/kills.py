"""Kill a training and a batch compression at random moments: what is there stays whole, and a restart ends alike.

    python -m tests.long.kills --times 200

Half of the kills (SIGKILL) hit a tiny training, half a batch of small pictures and clips. After each
one every file under its final name must be whole. Then the same command is started again, and so
on until one run gets through: it must have left alone what was finished, and end with the results of
a run that nobody disturbed. Runs are forked from a process that has everything imported, so that
the moments fall into the work and not into the start.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from safetensors.torch import load_file
from tqdm import tqdm

import Compression_ADMM
import train
from data.images import ImageKind
from tests.helpers.models import tiny_codecs
from utils.batch import journal
from utils.codec.codec import load_codec
from utils.training import fitting
from utils.training import trainer as training


def start(work: Callable[[], int], log: Path) -> int:
    """Fork a process that does `work` and exits with its code; -> its number."""
    process = os.fork()
    if process:
        return process
    try:
        stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(stream, 1)
        os.dup2(stream, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
        # A fork has PyTorch's pool without its threads. The first call replaces it, and calls of several threads at once,
        # such as those that read a set, would find none ("Invalid thread pool").
        torch.set_num_threads(1)
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    except BaseException as error:
        os.write(2, repr(error).encode())
        os._exit(99)


def wait(process: int, seconds: float = float("inf")) -> int | None:
    """Exit code, or None where the process was still at work after that time and was killed."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    return None if os.waitpid(process, 0)[1] == signal.SIGKILL else 0


def no_leftovers(folder: Path) -> None:
    left = [path.name for path in folder.rglob("*") if ".tmp" in path.name]
    assert not left, f"left by a killed run: {left}"


class Batch:
    """Pictures and clips through Compression_ADMM.py."""

    def __init__(self, folder: Path):
        self.inputs, self.decoders, self.checkpoints = folder / "in", {}, []
        self.inputs.mkdir()
        for codec in tiny_codecs(folder):
            self.decoders[codec.kind.name] = codec
            self.checkpoints.append(str(folder / f"{codec.kind.name}.safetensors"))
            # in this process, so that no forked one spends its time on imports and compiled functions
            original = codec.kind.read(codec.kind.samples()[0])[:4000]
            codec.kind.score(original, codec.decompress(codec.compress(original, 3, "none")))
        rng = np.random.default_rng(0)
        for number in range(8):
            Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(self.inputs / f"{number}.png")
        for number in range(2):
            soundfile.write(self.inputs / f"c{number}.wav", rng.uniform(-0.3, 0.3, 3000), 16000)

    def run(self, output: Path) -> int:
        return Compression_ADMM.main(
            [
                "--input",
                str(self.inputs),
                "--output",
                str(output),
                "--iterations",
                "2",
                "--device",
                "cpu",
                "--checkpoint",
                *self.checkpoints,
            ]
        )

    def finished(self, output: Path) -> dict[str, int]:
        """What the journal says is finished, and is -> when each of its files was written."""
        names = {}
        if (output / journal.Journal.name).exists():
            for line in (output / journal.Journal.name).read_bytes().split(b"\n")[:-1]:
                try:
                    record = json.loads(line)
                except ValueError:  # a line cut short, closed by the next run
                    continue
                # A line comes just before its files take their names: a kill in between leaves them to the next run.
                paths = {name: output / name for name in record["files"]}
                if all(path.exists() for path in paths.values()):
                    names.update({name: path.stat().st_mtime_ns for name, path in paths.items()})
        return names

    def check(self, output: Path) -> None:
        """Everything under its final name is whole."""
        for path in output.rglob("[!.]*"):
            if path.suffix == ".bpgan":
                kind = "speech" if path.name.startswith("c") else "image"
                self.decoders[kind].read_symbols(path.read_bytes())
            elif path.suffix == ".png":
                Image.open(path).load()
            elif path.suffix == ".wav":
                assert soundfile.info(path).frames == 3000 and path.stat().st_size == 44 + 6000
            elif path.name == "metrics.csv":
                with open(path, newline="") as file:
                    assert all(None not in row.values() for row in csv.DictReader(file))
            elif path.name in ("conditions.json", "options.json"):
                json.loads(path.read_text())

    def compare(self, output: Path, reference: Path, before: dict[str, int]) -> None:
        no_leftovers(output)
        names = {path.name for path in reference.iterdir()}
        assert {path.name for path in output.iterdir()} == names and ".lock" not in names
        for name in names:
            if Path(name).suffix in (".bpgan", ".png", ".wav"):
                assert (output / name).read_bytes() == (reference / name).read_bytes(), f"{name} is another file"
        tables = []
        for folder in (output, reference):
            with open(folder / "metrics.csv", newline="") as file:
                tables.append([{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(file)])
        assert tables[0] == tables[1], "metrics.csv has other rows"
        again = [name for name, written in before.items() if (output / name).stat().st_mtime_ns != written]
        assert not again, f"done again though finished: {again}"


class Training:
    """Seven steps in five stages; the state is saved after every step."""

    STEPS = "steps.txt"  # the numbers of the steps that all runs began

    def __init__(self, folder: Path):
        self.data = folder / "pictures"
        self.data.mkdir()
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (80, 80, 3), np.uint8)
            Image.fromarray(pixels).save(self.data / f"{number}.png")

    def run(self, output: Path) -> int:
        ImageKind.crop_shape = (64, 64)
        training.SAVE_SECONDS = 0
        fitting.FITTING_BATCHES, fitting.FITTING_CROPS = 1, 2
        step = training.Trainer.step

        def recorded(trainer, *arguments):
            with open(output / self.STEPS, "a") as file:
                file.write(f"{trainer.state.step}\n")
            return step(trainer, *arguments)

        training.Trainer.step = recorded
        resume = ["--resume"] if (output / "r" / "state.pt").exists() else []
        return train.main(
            [
                "--signal",
                "image",
                "--dataroot",
                str(self.data),
                "--valroot",
                str(self.data),
                "--runs",
                str(output),
                "--name",
                "r",
                "--steps",
                "6",
                "--batch_size",
                "2",
                "--width",
                "0.0625",
                "--validate_every",
                "0",
                "--val_files",
                "1",
                "--device",
                "cpu",
                *resume,
            ]
        )

    def finished(self, output: Path) -> dict:
        path = output / "r" / "state.pt"
        return {"step": torch.load(path, weights_only=True)["step"]} if path.exists() else {"step": 0}

    def check(self, output: Path) -> None:
        for path in output.rglob("[!.]*"):
            if path.suffix == ".pt":
                torch.load(path, weights_only=True)
            elif path.suffix == ".safetensors":
                load_codec(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())

    def compare(self, output: Path, reference: Path, before: dict) -> None:
        no_leftovers(output)
        ours, theirs = (load_file(folder / "r" / "checkpoint.safetensors") for folder in (output, reference))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours), (
            "the interrupted training ended with other weights"
        )
        begun = [int(line) for line in (output / self.STEPS).read_text().splitlines()]
        assert begun[0] == 0 and begun[-1] + 1 == self.finished(output)["step"]
        # what was interrupted is begun again, and nothing before it: at most the step after the saved one is lost
        assert all(later - earlier in (0, 1) for earlier, later in pairwise(begun)), f"begun anew: steps {begun}"


def kill(subject, folder: Path, times: int, rng: random.Random, bar: tqdm) -> tuple[int, int]:
    """-> (kills that met a run at work, runs that got through in spite of all). AssertionError: what was found."""
    log, output, reference = folder / "log.txt", folder / "out", folder / "reference"
    for _ in range(2):  # the first one compiles what is compiled
        shutil.rmtree(reference, ignore_errors=True)
        began = time.monotonic()
        code = wait(start(lambda: subject.run(reference), log))
        assert code == 0, log.read_text()
        length = time.monotonic() - began
    kills = rounds = 0
    before: dict = {}
    while kills < times:
        # short ones too, so that some rounds take many kills; long ones, so that rounds end
        code = wait(start(lambda: subject.run(output), log), rng.uniform(0, length * rng.choice([0.3, 1, 1.5])))
        assert code in (0, None), log.read_text()
        subject.check(output)
        if code is None:
            kills += 1
            bar.update()
            before = {**subject.finished(output)}
            continue
        rounds += 1
        subject.compare(output, reference, before or subject.finished(output))
        shutil.rmtree(output)
        before = {}
    code = wait(start(lambda: subject.run(output), log))
    assert code == 0, log.read_text()
    subject.check(output)
    subject.compare(output, reference, before)
    return kills, rounds + 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--times", type=int, default=200, help="how many kills, half of them of a training")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)  # forked processes have none of the parent's threads
    rng = random.Random(options.seed)
    failed = 0
    for kind, times in ((Batch, options.times - options.times // 2), (Training, options.times // 2)):
        name = kind.__name__.lower()
        with tempfile.TemporaryDirectory() as folder, tqdm(total=times, desc=name, file=sys.stderr) as bar:
            try:
                kills, rounds = kill(kind(Path(folder)), Path(folder), times, rng, bar)
                print(f"{name}: {kills} kills, {rounds} runs got through, all of them with the undisturbed results")
            except AssertionError as error:
                failed += 1
                print(f"{name}: after {bar.n} kills (seed {options.seed}): {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
