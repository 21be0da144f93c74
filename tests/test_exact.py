"""models/exact.py and what is made of it: the same pixels on every machine. Other threads and instructions: test_machines."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

import benchmarks.exact
import Compression_ADMM
import Decompression
import test as evaluate
from models import exact
from models.bpgan import build_generator
from models.exact import ExactGenerator, Layer, generator_weights
from tests.helpers import pixels as golden
from tests.helpers.models import tiny_model
from tests.helpers.scripts import one_line, table
from tests.helpers.signals import save_picture
from utils.codec import bitstream, tiling
from utils.codec.bitstream import BitstreamError
from utils.codec.codec import load_codec
from utils.codec.decoder import load_decoder
from utils.codec.fingerprint import shipped
from utils.codec.settings import Settings
from utils.metrics import psnr

EXACT = Settings.of("none", exact=True)
VARIANTS = (
    {},
    {"linear_path": False, "quality_scales": False},
    {"linear_path": False},
    {"quality_scales": False, "generator_depths": (2, 0, 1), "generator_widths": (8, 24, 16)},
    {"linear_path": False, "latent_rows": 8},
    {"latent_rows": 8},
)


def lively_model(**changes):
    """A tiny model whose tables by quality have values of their own: at the start they are zeros and ones."""
    model = tiny_model("image", **changes)
    for name, parameter in [*model.generator.named_parameters(), *model.gains.named_parameters()]:
        if name.startswith("scale"):
            parameter.uniform_(0.5, 1.5)
        elif name.startswith(("quality", "row_")):
            parameter.normal_(std=0.2)
        elif name.startswith("log_"):
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def exact_of(model) -> ExactGenerator:
    return ExactGenerator(model, generator_weights(model.generator.state_dict()))


def symbols_of(model, rows=8, columns=11, largest=40) -> np.ndarray:
    """int16 (C, rows, columns), escapes beyond the codebook among them."""
    shape = (model.config.latent_channels, rows, columns)
    return np.random.default_rng(0).integers(-largest, largest, shape).astype(np.int16)


# -- arithmetic ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0, 7, 100, 224])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_it_is_the_generator_but_for_rounding(changes, step):
    model = lively_model(**changes)
    symbols = symbols_of(model, largest=40 if step > 50 else 4)
    centers = model.codebook.dequantize(torch.from_numpy(symbols)[None])
    expected = model.generate(centers, torch.tensor([step / 32]))[0].clamp(-2, 2).numpy()
    found = exact_of(model)(symbols, step)
    assert found.shape == expected.shape and found.dtype == np.float32 and expected.std() > 0.2
    assert np.abs(found - expected).max() < 2e-3


def convolution_of_integers(x: np.ndarray, layer: Layer) -> np.ndarray:
    """int64 (C_in, H, W) -> int64 (C_out, H, W)."""
    taps, side = layer.taps.numpy().astype(np.int64), int(len(layer.taps) ** 0.5)
    padded = np.pad(x, ((0, 0), (side // 2,) * 2, (side // 2,) * 2))
    height, width = x.shape[1:]
    sums = np.tile(layer.bias.numpy().astype(np.int64)[:, :, None], (1, height, width))
    for place, tap in enumerate(taps):
        row, column = divmod(place, side)
        sums += np.einsum("oc,chw->ohw", tap, padded[:, row : row + height, column : column + width])
    return sums


@pytest.mark.parametrize("height, width, strip", [(1, 1, 1), (7, 5, 1), (9, 12, 64 * 12 * 8 * 4), (9, 12, 1 << 20)])
@pytest.mark.parametrize("side", [1, 3])
def test_the_largest_sums_are_exact(monkeypatch, side, height, width, strip):
    """All weights and activations at their bounds, signs at random, strips of one row, of some, and of all."""
    monkeypatch.setattr(exact, "_STRIP_BYTES", strip)
    rng = np.random.default_rng(0)
    largest = 2**exact.WEIGHT_BITS - 1
    taps = largest * rng.choice([-1, 1], (side * side, 48, 64))
    taps[:, 0] = largest
    bias = rng.integers(-(2**40), 2**40, (48, 1))
    layer = Layer(*(torch.from_numpy(values.astype(np.float64)) for values in (taps, bias, np.ones((48, 1, 1)))))
    x = exact.LIMIT * rng.choice([-1, 1], (64, height, width))
    x[:, :2] = exact.LIMIT
    expected = convolution_of_integers(x, layer)
    assert np.abs(expected).max() > 2**43
    x = torch.from_numpy(x.astype(np.float64))
    found = [exact._sums(x, layer, rows) for rows in exact._strips(x, 1)]
    assert np.array_equal(torch.cat(found, 1).numpy(), expected)


def test_a_network_of_integers_gives_the_same_picture(monkeypatch):
    """Every sum of a whole pass, computed once more by integers of 64 bits."""
    model = lively_model()
    generator, symbols = exact_of(model), symbols_of(model, 3, 4)
    expected = generator(symbols, 40)

    def sums(x, layer, rows, active=False):
        values = x.numpy()
        if active:
            values = np.rint(np.where(values < 0, values * exact.SLOPE, values))
        assert np.array_equal(values, values.astype(np.int64))
        found = convolution_of_integers(values.astype(np.int64), layer)
        return torch.from_numpy(found[:, rows].astype(np.float64))

    monkeypatch.setattr(exact, "_sums", sums)
    assert np.array_equal(generator(symbols, 40), expected)


@pytest.mark.parametrize("threads", [2, 5])
def test_threads_share_the_strips(monkeypatch, threads):
    """Whatever their number is; and PyTorch has as many afterwards as before, in threads of later too."""
    model = lively_model()
    generator, symbols, before = exact_of(model), symbols_of(model), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = generator(symbols, 40)
        monkeypatch.setattr(exact, "_STRIP_BYTES", 1 << 12)
        torch.set_num_threads(threads)
        assert np.array_equal(generator(symbols, 40), expected)
        with ThreadPoolExecutor(1) as pool:
            assert [torch.get_num_threads(), pool.submit(torch.get_num_threads).result()] == [threads] * 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("height", [1, 2, 7, 64, 101])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_strips_cover_every_row_once(monkeypatch, height, threads):
    monkeypatch.setattr(exact, "_STRIP_BYTES", 1000)
    strips = exact._strips(torch.empty(3, height, 5, dtype=torch.float64), threads)
    assert [row for rows in strips for row in range(rows.start, rows.stop)] == list(range(height))
    rows = [rows.stop - rows.start for rows in strips]
    assert max(rows) - min(rows) <= 1 and len(strips) >= min(height, threads)


def test_what_is_too_large_is_clamped(monkeypatch):
    """Symbols at the ends of int16 make a picture, and no number beyond what float64 holds exactly."""
    model = lively_model()
    symbols = symbols_of(model, 2, 3)
    symbols[:, 0], symbols[:, 1] = 32767, -32768
    seen = []
    sums = exact._sums

    def watched(*arguments, **named):
        found = sums(*arguments, **named)
        seen.append(float(found.abs().max()))
        return found

    monkeypatch.setattr(exact, "_sums", watched)
    picture = exact_of(model)(symbols, 0)
    assert np.isfinite(picture).all() and np.abs(picture).max() <= 2
    assert 2**35 < max(seen) < exact.SUM_LIMIT


def test_pixels_of_its_pictures_are_exact_in_float32(codecs):
    """What makes 8 bits of a picture rounds nowhere but in its last step."""
    levels = np.arange(-(2**exact.PICTURE_BITS), 2**exact.PICTURE_BITS + 1)
    picture = np.broadcast_to((levels / 2**exact.PICTURE_BITS).astype(np.float32), (3, 1, len(levels)))
    exactly = (levels + 2**exact.PICTURE_BITS) * 255  # in 2^-15
    expected = np.rint(exactly / 2 ** (exact.PICTURE_BITS + 1))
    assert np.array_equal(codecs["image"].kind.from_picture(picture, (1, len(levels)), 0)[0, :, 0], expected)


def test_weights_of_another_generator_are_refused():
    model = lively_model()
    weights = generator_weights(model.generator.state_dict())
    with pytest.raises(ValueError, match=r"does not know 'gate.weight'"):
        ExactGenerator(model, {**weights, "gate.weight": np.zeros(3)})
    with pytest.raises(ValueError, match=r"needs 'out4.bias'"):
        ExactGenerator(model, {name: array for name, array in weights.items() if name != "out4.bias"})
    with pytest.raises(ValueError, match=r"^weights of in16 are too many or too large"):
        ExactGenerator(model, {**weights, "in16.bias": weights["in16.bias"] + 1e9})


@pytest.mark.slow
def test_every_weight_and_table_counts():
    """For the fingerprint: one that is left out could change unseen."""
    model = lively_model(generator_depths=(1, 0, 0))
    texture = build_generator(model.config, texture=True)
    state = generator_weights({**texture.state_dict(), **model.generator.state_dict()})
    known = {ExactGenerator(model, state).fingerprint()}
    for name, array in state.items():
        known.add(ExactGenerator(model, {**state, name: array * 1.5 + 0.01}).fingerprint())
    for parameter in (model.gains.log_inverse, model.gains.log_feature, model.codebook.centers):
        parameter.mul_(1.01)
        known.add(ExactGenerator(model, state).fingerprint())
    assert len(known) == 1 + len(state) + 3


# -- files --------------------------------------------------------------------------------------------


def test_a_file_says_that_it_was_judged_exactly(codecs, texture_image):
    codec = codecs["image"]
    plain, flagged = (codec.compress(texture_image, 5, Settings.of("none", exact=on)) for on in (False, True))
    assert [codec.unpack(data)[0].exact for data in (plain, flagged)] == [0, 1]
    assert plain[:3] == flagged[:3] and plain[3] ^ flagged[3] == 0x80 and plain[4:-4] == flagged[4:-4]
    assert codec.info(flagged)["flags"] == ["exact"]
    assert flagged[3] >> 6 > 1  # which is what earlier readers refuse: they took bits 7..6 for one number, 0 or 1
    step, size = codec.unpack(plain)[0].quality_step, texture_image.shape[:2]
    symbols = codec.read_symbols(plain)[1]
    by_floats, by_integers = (codec.kind.from_picture(codec.generate(symbols, step, 0, on), size, 0) for on in (0, 1))
    assert not np.array_equal(codec.generate(symbols, step), codec.generate(symbols, step, exact=True))
    for data, exactly, expected in (
        (plain, None, by_floats),
        (plain, True, by_integers),
        (flagged, None, by_integers),
        (flagged, True, by_integers),
        (flagged, False, by_floats),
    ):
        assert np.array_equal(codec.decompress(data, exact=exactly), expected)


def test_the_search_is_judged_by_the_exact_picture(codecs, texture_image, monkeypatch):
    codec, asked = codecs["image"], []
    generate = codec.generate

    def watched(symbols, step, realism=0.0, exact=False):
        asked.append(exact)
        return generate(symbols, step, realism, exact)

    monkeypatch.setattr(codec, "generate", watched)
    for settings in (Settings.of(iterations=3), Settings.of(iterations=3, exact=True)):
        asked.clear()
        codec.compress(texture_image[:64, :64], 5, settings)
        assert asked == [settings.exact] * 2  # encode-and-round, and what was found


@pytest.mark.parametrize("layout", ["gray", "gray_alpha", "alpha"])
def test_other_layouts(codecs, ramp_image, layout):
    alpha = np.broadcast_to(np.arange(80, dtype=np.uint8) * 3, ramp_image.shape[:2])
    signal = {
        "gray": ramp_image[..., 0],
        "gray_alpha": np.dstack([ramp_image[..., 0], alpha]),
        "alpha": np.dstack([ramp_image, alpha]),
    }[layout]
    codec = codecs["image"]
    data = codec.compress(signal, 6, EXACT)
    decoded, by_floats = (codec.decompress(data, exact=on) for on in (None, False))
    assert decoded.shape == signal.shape and "exact" in codec.info(data)["flags"]
    shown = decoded if layout == "gray" else decoded[alpha > 128]
    assert np.abs(shown.astype(int) - (by_floats if layout == "gray" else by_floats[alpha > 128])).max() <= 2


@pytest.mark.parametrize("size", [(300, 340), (40, 700), (17, 16), (129, 512)])
def test_tiles_are_the_whole(codecs, size, monkeypatch):
    codec = codecs["image"]
    rng = np.random.default_rng(0)
    shape = (codec.config.latent_channels, *tiling.latent_shape(*size))
    symbols = rng.integers(-9, 10, shape).astype(np.int16)
    whole, realistic = (codec.generate(symbols, 200, realism, exact=True) for realism in (0.0, 1.0))
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 16)
    monkeypatch.setattr(tiling, "CORE_SIDE", 4)
    assert np.array_equal(codec.generate(symbols, 200, exact=True), whole)
    assert np.array_equal(codec.generate(symbols, 200, 1.0, exact=True), realistic)


@pytest.mark.parametrize("realism", [0.3, 1.0])
def test_realistic_generators(codecs, tiny_checkpoints, texture_image, realism):
    """Two decoders agree, and mixed weights are those of the generator in floating point."""
    data = codecs["image"].compress(texture_image, 7, EXACT)
    found = codecs["image"].decompress(data, realism)
    assert np.array_equal(load_decoder(tiny_checkpoints["image"]).decompress(data, realism), found)
    expected = codecs["image"].decompress(data, realism, exact=False)
    assert psnr(expected, found) > 50 > psnr(codecs["image"].decompress(data), found)
    with pytest.raises(ValueError, match="no realistic generator"):
        codecs["image_faithful"].exact_generator(realism)
    with pytest.raises(ValueError, match="outside 0 to 1"):
        codecs["image"].exact_generator(-realism)


@pytest.mark.slow
def test_speech_is_refused(codecs, voiced_clip):
    codec = codecs["speech"]
    with pytest.raises(ValueError, match=r"^speech .* leave --exact out$"):
        codec.compress(voiced_clip, 3, EXACT)
    data = codec.compress(voiced_clip[:8000], 3, "none")
    with pytest.raises(ValueError, match=r"^speech .* leave --exact out$"):
        codec.decompress(data, exact=True)
    header, payload = bitstream.unpack(data, codec.default_sizes)
    flagged = bitstream.pack(dataclasses.replace(header, exact=1), payload, codec.default_sizes)
    with pytest.raises(BitstreamError, match="speech that is exact"):
        codec.decompress(flagged)


# -- scripts ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_from_the_shell(run, tmp_path, codecs):
    """What the sender wrote, and scored, is what any receiver writes."""
    save_picture(tmp_path / "a.png", 50, 70, 3)
    out, decoded = tmp_path / "out", tmp_path / "decoded"
    code, _, err = run(Compression_ADMM, "--input", tmp_path / "a.png", "--output", out, "--iterations", 2, "--exact")
    assert code == 0, err
    assert codecs["image"].info(out / "a.bpgan")["flags"] == ["exact"]
    for words in ((), ("--exact",)):
        code, _, err = run(Decompression, "--input", out / "a.bpgan", "--output", decoded, *words)
        assert code == 0 and (decoded / "a.png").read_bytes() == (out / "a.png").read_bytes(), err
    original, shown = (np.asarray(Image.open(folder / "a.png")) for folder in (tmp_path, decoded))
    assert float(table(out / "metrics.csv")[1][0]["psnr_db"]) == pytest.approx(psnr(original, shown), abs=1e-4)
    code, text, _ = run(Decompression, "--info", out / "a.bpgan")
    assert code == 0 and " exact " in text
    code, _, err = run(Decompression, out / "a.bpgan", tmp_path / "floats.png", "--no_exact")
    assert code == 0, err
    floats = codecs["image"].decompress(out / "a.bpgan", exact=False)
    assert np.array_equal(Image.open(tmp_path / "floats.png"), floats) and not np.array_equal(floats, shown)


def test_test_has_the_option(run, tmp_path, codecs):
    save_picture(tmp_path / "a.png", 50, 70, 3)
    code, _, err = run(evaluate, "--input", tmp_path / "a.png", "--output", tmp_path / "out", "--exact")
    assert code == 0 and codecs["image"].info(tmp_path / "out" / "a.bpgan")["flags"] == ["exact"], err


@pytest.mark.slow
def test_speech_from_the_shell_is_one_line(run, tmp_path, codecs, voiced_clip):
    codecs["speech"].kind.write(tmp_path / "a.wav", voiced_clip[:8000])
    code, _, err = run(Compression_ADMM, tmp_path / "a.wav", tmp_path / "a.bpgan", "--exact", "--quiet")
    one_line(code, err, "a.wav", "--exact")
    assert not (tmp_path / "a.bpgan").exists()
    (tmp_path / "a.bpgan").write_bytes(codecs["speech"].compress(voiced_clip[:8000], 3, "none"))
    code, _, err = run(Decompression, tmp_path / "a.bpgan", tmp_path / "b.wav", "--exact", "--quiet")
    one_line(code, err, "a.bpgan", "--exact")


@pytest.mark.parametrize("word", ["--exact", "--no-exact"])
def test_info_decodes_nothing(run, word):
    code, _, err = run(Decompression, "--info", "a.bpgan", word)
    one_line(code, err, "--exact is not allowed with --info", exit_code=2)


def test_the_benchmark_prints_a_row_per_quality(tiny_checkpoints, codecs, tmp_path, capsys):
    """Means over the pictures, and the largest loss and difference."""
    for seed in (3, 9):
        save_picture(tmp_path / f"{seed}.png", 50, 70, seed)
    arguments = ["--checkpoint", tiny_checkpoints["image"], "--input", tmp_path, "--quality", 2, 8, "--device", "cpu"]
    assert benchmarks.exact.main([str(a) for a in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 pictures; ") and len(lines) == 5
    for quality, line in zip((2, 8), lines[3:]):
        rows = []
        for original in (codecs["image"].kind.read(path) for path in sorted(tmp_path.iterdir())):
            data = codecs["image"].compress(original, quality, "none")
            by_floats, by_integers = (codecs["image"].decompress(data, exact=on) for on in (False, True))
            apart = np.abs(by_floats.astype(int) - by_integers)
            scores = [psnr(original, pixels) for pixels in (by_floats, by_integers)]
            rows.append([scores[0], scores[0] - scores[1], (apart > 0).mean(), apart.max()])
        (score, loss, differing, _), (_, most, _, levels) = np.mean(rows, axis=0), np.max(rows, axis=0)
        assert line.startswith(
            f"| {quality} | {score:.2f} | {loss:.4f} | {most:.4f} | {differing:.1%} | {levels:.0f} | "
        )


# -- shipped weights ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoder():
    return load_decoder(shipped("image"))


@pytest.mark.slow
def test_the_integers_of_the_shipped_weights_never_change(decoder):
    assert golden.fingerprints(decoder) == golden.golden()["fingerprints"]


@pytest.mark.slow
@pytest.mark.parametrize("name, realism", golden.cases())
def test_golden_pixels(decoder, name, realism):
    """Kodak at three qualities, and gray with transparency; all machines give these."""
    found = decoder.decompress(golden.GOLDEN / name, realism)
    assert golden.hash_of_pixels(found) == golden.golden()["pixels"][name][f"{realism:g}"]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mse", "ms_ssim"])
@pytest.mark.parametrize("quality, most", [(1, 0.02), (5, 0.02), (8, 0.1)])
def test_what_it_costs(objective, quality, most):
    """In dB of PSNR, on the built-in samples; seen: 0.003 at most."""
    codec = load_codec(shipped("image", objective))
    for path in codec.kind.samples():
        original = codec.kind.read(path)[:192, :256]
        data = codec.compress(original, quality, "none")
        by_floats, by_integers = (psnr(original, codec.decompress(data, exact=on)) for on in (False, True))
        assert by_floats - by_integers < most
