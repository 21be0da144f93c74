"""What a file decodes to with another number of threads or other instructions: docs/robustness.md, "The same everywhere".

Symbols are decoded by integers alone and are equal, and so are the pixels of the exact generator. The other generator
and the sound's synthesis are floating-point sums, whose order depends on threads and instructions.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.scripts import ROOT, environment
from utils.codec.codec import load_codec
from utils.codec.fingerprint import shipped
from utils.codec.settings import Settings

pytestmark = pytest.mark.slow

LEAST_SOUND_DB = 40.0  # signal to difference; seen: 56.9
MOST_LEVELS = 1  # of 255; seen: 0

# oneDNN (convolutions) up to an instruction set, and the flag of a CPU that has it, from the lowest.
ONEDNN = {
    "SSE41": "sse4_1",
    "AVX2": "avx2",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_AMX": "amx_bf16",
}
ATEN = {"default": "sse4_1", "avx2": "avx2", "avx512": "avx512bw"}  # PyTorch's own kernels
MKL = {"COMPATIBLE": "sse4_1", "AUTO": "sse4_1"}  # matrix products, where MKL makes them

DECODE = """
import sys, numpy, torch
from utils.codec.decoder import load_decoder
torch.set_num_threads(int(sys.argv[1]))
for checkpoint, file, result in zip(sys.argv[2::3], sys.argv[3::3], sys.argv[4::3]):
    decoder, data = load_decoder(checkpoint), open(file, "rb").read()
    numpy.savez(result, symbols=decoder.read_symbols(data)[1], signal=decoder.decompress(data))
"""


def settings() -> list[dict[str, str]]:
    """Two threads, and every instruction set that this CPU has, but for its highest, which is the usual one."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = {"sse4_1"}
    found = [{"threads": "2"}]
    for variable, levels in (("ONEDNN_MAX_CPU_ISA", ONEDNN), ("ATEN_CPU_CAPABILITY", ATEN), ("MKL_CBWR", MKL)):
        found += [{variable: level} for level, flag in levels.items() if flag in flags][:-1]
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A picture of 64x80, a larger one that is decoded exactly, and a second of sound, coded with the shipped checkpoints."""
    folder, made = tmp_path_factory.mktemp("machines"), {}
    parts = {"image": np.s_[100:164, 200:280], "exact": np.s_[100:292, 200:456], "speech": np.s_[16000:32000]}
    for name, part in parts.items():
        codec = load_codec(checkpoint_of(name))
        signal = codec.kind.read(codec.kind.samples()[0])[part]
        made[name] = folder / f"{name}.bpgan"
        made[name].write_bytes(codec.compress(signal, 3, Settings.of("none", exact=name == "exact")))
    return made


def checkpoint_of(name: str) -> Path:
    """Of a file of `files`."""
    return shipped("speech" if name == "speech" else "image")


def decoded(files, folder, threads="1", **variables) -> dict[str, dict[str, np.ndarray]]:
    """name -> "symbols" and "signal", decoded by a process of its own with these environment variables."""
    arguments = []
    for name, path in files.items():
        arguments += [checkpoint_of(name), path, folder / f"{name}.npz"]
    subprocess.run(
        [sys.executable, "-c", DECODE, threads, *map(str, arguments)],
        cwd=ROOT,
        env={**environment(), "OMP_NUM_THREADS": threads, **variables},
        check=True,
        timeout=300,
    )
    return {name: dict(np.load(folder / f"{name}.npz")) for name in files}


@pytest.fixture(scope="module")
def usual(files, tmp_path_factory):
    return decoded(files, tmp_path_factory.mktemp("usual"))


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: "-".join(setting.values()))
def test_another_machine_decodes_the_same(files, usual, tmp_path, setting):
    other = decoded(files, tmp_path, **setting)
    for name in files:
        assert np.array_equal(usual[name]["symbols"], other[name]["symbols"])
    assert np.array_equal(usual["exact"]["signal"], other["exact"]["signal"])
    pixels = [result["image"]["signal"].astype(int) for result in (usual, other)]
    assert np.ptp(pixels[0]) > 100 and np.abs(pixels[0] - pixels[1]).max() <= MOST_LEVELS
    sound, difference = usual["speech"]["signal"], other["speech"]["signal"] - usual["speech"]["signal"]
    assert (sound**2).sum() > 0 and (difference**2).sum() <= 10 ** (-LEAST_SOUND_DB / 10) * (sound**2).sum()
