"""Signal to bytes and back through tiny checkpoints: every size, every damage, tiles, targets, realism."""

import contextlib
import dataclasses
import gc
import math
import weakref
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.config import STRIDE
from models.efficientnet import picture_features
from models.losses import squared_error
from models.texture import has_texture
from tests.helpers.models import tiny_checkpoint
from utils.codec import bitstream, targets, tiling
from utils.codec.bitstream import BitstreamError
from utils.codec.checkpoint import load_checkpoint
from utils.codec.codec import Codec
from utils.codec.decoder import load_decoder
from utils.codec.mixes import made_for
from utils.codec.settings import Settings, quality_step
from utils.codec.targets import Target
from utils.codec.tiled_search import Task, TiledSearch
from utils.codec.trials import Trials
from utils.search.config import METHODS
from utils.search.objectives import MS_SSIM_WEIGHT, clamped_squared_error, discriminator_distance, ms_ssim_error

pytestmark = pytest.mark.slow

SIZES = [(1, 1), (1, 17), (33, 5), (16, 16), (95, 130)]
CLIPS = {"1 sample": 1, "10 ms": 160, "1 s": 16000}


def picture(height, width, seed=0) -> np.ndarray:
    """uint8 (height, width, 3): waves and a little noise."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = 60 * np.sin(columns / 9 + seed) * np.cos(rows / 6)
    return np.clip(128 + waves[..., None] * [1, 0.7, -0.5] + rng.normal(0, 10, (height, width, 3)), 0, 255).astype(
        np.uint8
    )


def clip(voiced_clip, samples) -> np.ndarray:
    return voiced_clip[3000 : 3000 + samples].copy()


def distortion_bits(codec, x, symbols, header, objective="mse") -> float:
    """F, in bits, of what the receiver makes of the symbols of a file."""
    coder = codec.coders[codec.default_coder]
    task = Task([x], bool(header.gray), header.quality_step, coder, Settings.of(objective=objective))
    return codec.distortion_bits(task, x, [symbols])[0]


# -- there and back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("coder", ["huffman", "context"])
def test_pictures_of_any_size(codecs, size, coder):
    codec, pixels = codecs["image"], picture(*size)
    data = codec.compress(pixels, 5, Settings.of(iterations=4, entropy_coder=coder))
    decoded = codec.decompress(data)
    assert decoded.shape == pixels.shape and decoded.dtype == np.uint8
    header, symbols = codec.read_symbols(data)
    assert (header.size_a, header.size_b) == size and header.quality_step == quality_step(5)
    assert header.coder == codec.coders[coder].code
    assert np.array_equal(decoded, codec.rebuild(symbols, header.quality_step, size, header.level))


@pytest.mark.parametrize("samples", CLIPS.values(), ids=CLIPS)
def test_clips_of_any_length(codecs, samples, voiced_clip):
    codec, signal = codecs["speech"], clip(voiced_clip, samples)
    data = codec.compress(signal, 4, Settings.of(iterations=3))
    decoded = codec.decompress(data)
    assert decoded.shape == signal.shape and decoded.dtype == np.float32
    assert np.array_equal(decoded * 32768, np.rint(decoded * 32768))
    header, _ = codec.read_symbols(data)
    assert (header.size_a, header.size_b) == (samples, 16000)


@pytest.mark.parametrize("samples", [1, 160, 8000])
def test_digital_silence_stays_silent(codecs, samples):
    codec = codecs["speech"]
    data = codec.compress(np.zeros(samples, np.float32), 8, "none")
    assert codec.read_symbols(data)[0].level == 0
    assert not codec.decompress(data).any() and len(codec.decompress(data)) == samples


@pytest.mark.parametrize("search", METHODS)
def test_the_search_s_symbols_are_those_of_the_file(codecs, search):
    codec, pixels = codecs["image"], picture(48, 40)
    encoded = codec.encode(pixels, 6, Settings.of(search, 10))
    assert (encoded.search, encoded.iterations) == (search, 0 if search == "none" else 10)
    assert encoded.quality == 6 and encoded.coder == codec.default_coder and encoded.bits_saved >= 0
    plain = codec.encode(pixels, 6, "none")

    def judged(data) -> float:
        header, symbols = codec.read_symbols(data)
        picture_, _ = codec.kind.to_picture(pixels)
        return 8 * len(data) + distortion_bits(codec, picture_, symbols, header)

    assert judged(encoded.data) <= judged(plain.data)
    if search in ("admm", "sga", "ste"):
        assert judged(encoded.data) < judged(plain.data) and encoded.bits_saved > 0


def test_what_a_search_made_worse_is_not_written(codecs, monkeypatch):
    codec, pixels = codecs["image"], picture(48, 40)
    plain = codec.compress(pixels, 6, "none")
    monkeypatch.setattr(TiledSearch, "run", lambda self, task, latents, watch: latents.round() + 20)
    encoded = codec.encode(pixels, 6, "admm")
    assert encoded.data == plain and encoded.bits_saved == 0


def test_a_batch_is_coded_as_its_members_alone(codecs, monkeypatch):
    codec = codecs["image"]
    signals = [picture(48, 64, 1), picture(30, 30), picture(48, 64, 2), picture(48, 64, 3), picture(48, 64, 4)]
    assert codec.together(signals) == [[0, 2, 3, 4], [1]]
    monkeypatch.setattr("utils.codec.codec.BATCH_POSITIONS", {"cpu": 24})
    assert codec.together(signals) == [[0, 2], [3, 4], [1]]
    searches = []
    run = TiledSearch.run
    monkeypatch.setattr(
        TiledSearch, "run", lambda self, task, *rest: searches.append(len(task.pictures)) or run(self, task, *rest)
    )
    for method in ("none", "admm"):
        together = codec.encode_batch(signals, 6, Settings.of(method, 10))
        for signal, encoded in zip(signals, together):
            alone = codec.encode(signal, 6, Settings.of(method, 10))
            assert np.array_equal(codec.decompress(encoded.data).shape, signal.shape)
            # the order of sums differs with the batch, so a place at the edge of two symbols may too
            assert len(encoded.data) == pytest.approx(len(alone.data), rel=0.02 if method == "admm" else 0, abs=0)
            assert encoded.bits_saved == pytest.approx(alone.bits_saved, abs=0.01)
    assert searches[:3] == [2, 2, 1]


def test_encode_and_round_writes_the_rounded_latent(codecs):
    codec, pixels = codecs["image"], picture(50, 70)
    step = quality_step(6.5)
    index = codec.analyze(codec.kind.to_picture(pixels)[0], step)
    _, symbols = codec.read_symbols(codec.compress(pixels, 6.5, "none"))
    assert np.array_equal(symbols, index.round().numpy()) and symbols.shape == (16, 4, 5)
    assert np.abs(symbols).max() > 2


def test_both_coders_carry_the_same_symbols(codecs, voiced_clip):
    for codec, signal in ((codecs["image"], picture(64, 48)), (codecs["speech"], clip(voiced_clip, 9000))):
        (h1, one), (h2, two) = (
            codec.read_symbols(codec.compress(signal, 5, Settings.of("none", entropy_coder=name)))
            for name in ("huffman", "context")
        )
        assert np.array_equal(one, two) and h1.coder == 0 and h2.coder == 1
        with pytest.raises(ValueError, match="'arithmetic' has no tables in this checkpoint, only"):
            codec.compress(signal, 5, Settings.of("none", entropy_coder="arithmetic"))


def test_the_header_holds_quality_and_fingerprint(codecs):
    codec = codecs["image"]
    for quality in (1, 1 + 1 / 32, 4.7, 8):
        data = codec.compress(picture(20, 20), quality, "none")
        header, payload = bitstream.unpack(data)
        assert header.quality_step == round((quality - 1) * 32) and header.fingerprint == codec.fingerprint
        assert len(data) <= len(payload) + bitstream.MAX_OVERHEAD


def test_rate_rises_with_quality(codecs, voiced_clip):
    for codec, signal in ((codecs["image"], picture(96, 96)), (codecs["speech"], clip(voiced_clip, 16000))):
        sizes = [len(codec.compress(signal, q, "none")) for q in (1, 3, 5, 8)]
        assert sizes == sorted(sizes) and sizes[-1] > 1.5 * sizes[0]


@pytest.mark.parametrize("quality", [0.99, 8.01, -1, float("nan")])
def test_quality_out_of_range(codecs, quality):
    with pytest.raises(ValueError, match="outside 1 to 8"):
        codecs["image"].compress(picture(16, 16), quality)


def test_what_is_no_signal_is_refused(codecs):
    for wrong in (
        np.zeros((4, 4, 5), np.uint8),
        np.full((4, 4, 3), 2.0),
        np.zeros((4, 4, 3), int),
        np.zeros((0, 4, 3), np.uint8),
    ):
        with pytest.raises(ValueError):
            codecs["image"].compress(wrong)
    with pytest.raises(ValueError, match="'adam' is not one of"):
        codecs["image"].compress(picture(4, 4), 3, "adam")


# -- the same again, elsewhere ------------------------------------------------------------------------


def test_same_input_and_seed_same_bytes(codecs, voiced_clip):
    for codec, signal in ((codecs["image"], picture(40, 56)), (codecs["speech"], clip(voiced_clip, 8000))):
        first = codec.compress(signal, 5, Settings.of(iterations=12, seed=1))
        torch.manual_seed(77)
        assert codec.compress(signal, 5, Settings.of(iterations=12, seed=1)) == first


def test_a_receiver_of_its_own_decodes_the_same(codecs, tiny_checkpoints, voiced_clip):
    for name, signal in (("image", picture(40, 56)), ("speech", clip(voiced_clip, 8000))):
        data = codecs[name].compress(signal, 5, Settings.of(iterations=5))
        decoder = load_decoder(tiny_checkpoints[name])
        assert decoder.model.encoder is None and not hasattr(decoder, "compress")
        assert np.array_equal(decoder.decompress(data), codecs[name].decompress(data))


def test_symbols_do_not_depend_on_threads(codecs):
    codec = codecs["image"]
    data = {
        coder: codec.compress(picture(95, 130), 6, Settings.of("none", entropy_coder=coder))
        for coder in ("huffman", "context")
    }
    before, read = torch.get_num_threads(), {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            read[threads] = [codec.read_symbols(d)[1] for d in data.values()]
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(a, b) for a, b in zip(read[1], read[2]))


# -- refusals -----------------------------------------------------------------------------------------


def test_files_of_other_checkpoints_are_refused(codecs, voiced_clip):
    data = codecs["image_other"].compress(picture(16, 16), 3, "none")
    expected = f"{codecs['image_other'].fingerprint.hex()}.*{codecs['image'].fingerprint.hex()}.*--checkpoint"
    with pytest.raises(BitstreamError, match=expected):
        codecs["image"].decompress(data)
    with pytest.raises(BitstreamError, match="kind 0.*checkpoint is for speech"):
        codecs["speech"].decompress(data)


@pytest.mark.parametrize("kind", ["image", "speech"])
@pytest.mark.parametrize("coder", ["huffman", "context"])
def test_every_flip_and_truncation_is_refused(codecs, kind, coder, voiced_clip):
    codec = codecs[kind]
    signal = picture(16, 20) if kind == "image" else clip(voiced_clip, 1000)
    data = codec.compress(signal, 3, Settings.of("none", entropy_coder=coder))
    assert len(data) > 20
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        for wrong in (bytes(damaged), data[:place]):
            with pytest.raises(BitstreamError) as caught:
                codec.decompress(wrong)
            assert "\n" not in str(caught.value)
    with pytest.raises(BitstreamError):
        codec.decompress(data + b"\0")


def test_damage_behind_a_right_checksum_ends_in_an_error_or_a_picture(codecs):
    """Whoever fixes the checksum of a damaged file still gets no traceback and no endless work."""
    codec = codecs["image"]
    for coder in ("huffman", "context"):
        body = codec.compress(picture(16, 20), 3, Settings.of("none", entropy_coder=coder))[:-4]
        for place in range(2, len(body)):
            damaged = bytearray(body)
            damaged[place] ^= 0x10
            data = bytes(damaged) + zlib.crc32(damaged).to_bytes(4, "big")
            try:
                decoded = codec.decompress(data)
            except BitstreamError:
                continue
            header, _ = bitstream.unpack(data)
            assert decoded.shape == (header.size_a, header.size_b, 3)


def test_absurd_headers_are_refused_before_work(codecs, monkeypatch):
    monkeypatch.setattr("utils.entropy.coders.Coder.decode", lambda *_: pytest.fail("work on an absurd size"))
    for kind, sizes in (
        ("image", [(2**31 - 1, 2**31 - 1), (60000, 60000), (0, 5), (7, 0)]),
        ("speech", [(2**31 - 1, 16000), (1000, 8000)]),
    ):
        codec = codecs[kind]
        for a, b in sizes:
            header = bitstream.FileHeader(codec.kind.code, 1, 0, codec.fingerprint, a, b)
            with pytest.raises(BitstreamError, match="the limit is|damaged header"):
                codec.decompress(bitstream.pack(header, b"1234", codec.default_sizes))


def test_an_unknown_coder_in_a_file_is_named(codecs):
    codec = codecs["image"]
    header = bitstream.FileHeader(0, 3, 0, codec.fingerprint, 16, 16)
    with pytest.raises(BitstreamError, match="entropy coder 3 has no tables"):
        codec.decompress(bitstream.pack(header, b"1234"))


# -- tiles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(300, 340), (40, 700), (700, 40), (129, 512)])
def test_tiles_give_the_picture_of_one_pass(codecs, size, monkeypatch):
    codec = codecs["image"]
    symbols = codec.read_symbols(codec.compress(picture(*size), 7, "none"))[1]
    whole, realistic = codec.generate(symbols, 192), codec.generate(symbols, 192, 1.0)
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 16)
    monkeypatch.setattr(tiling, "CORE_SIDE", 4)
    assert len(list(tiling.windows(*symbols.shape[1:], 5))) > 4
    np.testing.assert_allclose(codec.generate(symbols, 192), whole, atol=1e-4, rtol=0)
    # the noise is that of the place in the whole picture
    np.testing.assert_allclose(codec.generate(symbols, 192, 1.0), realistic, atol=1e-4, rtol=0)


def test_tiles_give_the_latent_of_one_pass(codecs, monkeypatch):
    codec = codecs["image"]
    monkeypatch.setattr("utils.codec.sender.autocast", contextlib.nullcontext)  # bfloat16 rounds by shape
    x, _ = codec.kind.to_picture(picture(310, 333))
    whole = codec.analyze(x, 200)
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 16)
    monkeypatch.setattr(tiling, "CORE_SIDE", 4)
    torch.testing.assert_close(codec.analyze(x, 200), whole, atol=1e-3, rtol=0)


def test_a_tiled_search_pays_and_decodes(codecs, monkeypatch):
    codec, pixels = codecs["image"], picture(100, 210)
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 16)
    monkeypatch.setattr(tiling, "CORE_SIDE", 4)
    encoded = codec.encode(pixels, 7, Settings.of(iterations=10))
    assert encoded.bits_saved > 0
    assert codec.decompress(encoded.data).shape == pixels.shape


def tiled(codec, monkeypatch, realism=0.0):
    """A task of a picture whose latent takes eight windows, the latent, and the windows."""
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 16)
    monkeypatch.setattr(tiling, "CORE_SIDE", 4)
    x, _ = codec.kind.to_picture(picture(100, 210))
    task = Task([x], False, 192, codec.coders["context"], Settings.of("admm", 1, "mse", realism=realism))
    latents = codec.analyze(x, 192)[None]
    return task, latents, codec.tiled_search.tiles(*latents.shape[2:])


def test_each_window_is_searched_beside_what_is_decided(codecs, monkeypatch):
    codec = codecs["image"]
    task, latents, tiles = tiled(codec, monkeypatch)
    decided, left = latents.round(), iter(tiles)

    def search(problem, *_):
        """Finds symbols one larger, in the window's margin too."""
        window = next(left)
        assert torch.equal(problem.fallback, decided[window.outer()])
        assert torch.equal(problem.start, problem.hold(latents[window.outer()], decided[window.outer()]))
        decided[window.core()] += 1
        return SimpleNamespace(symbols=problem.fallback + 1)

    monkeypatch.setattr("utils.codec.tiled_search.optimize_latent", search)
    assert torch.equal(codec.tiled_search.run(task, latents), latents.round() + 1)
    assert len(tiles) == 8 and next(left, None) is None


def test_each_window_is_searched_as_it_will_be_shown(codecs, monkeypatch):
    """With the noise of its place."""
    codec, seen = codecs["image"], []
    task, latents, tiles = tiled(codec, monkeypatch, realism=1.0)
    shown = codec.generate(latents[0].round().numpy(), task.quality_step, 1.0)

    def distance(name, x, fallback, gray):
        seen.append(fallback())
        return lambda x, x_hat: seen.append(x_hat) or x_hat.sum()

    monkeypatch.setattr(codec.distortions, "of", distance)
    for window in tiles:
        problem, _ = codec.tiled_search.problem(task, latents, latents.round(), window)
        problem.distortion(problem.fallback)
        expected = shown[window.core(STRIDE)][:, : 100 - STRIDE * window.top, : 210 - STRIDE * window.left]
        for x_hat in seen:
            error = x_hat[0][window.core_in_outer(STRIDE)].numpy() - expected
            assert np.square(error).mean() < 0.01 * np.square(expected).mean()  # the search is in bfloat16
        seen.clear()


@pytest.mark.parametrize("rows, columns", [(1, 1), (5, 4), (40, 3), (3, 40), (17, 23), (4, 4), (1, 100)])
def test_windows_cover_every_position_once(rows, columns, monkeypatch):
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 16)
    monkeypatch.setattr(tiling, "CORE_SIDE", 4)
    count = np.zeros((rows, columns), int)
    for window in tiling.windows(rows, columns, 2):
        count[window.core()] += 1
        outer = np.zeros((rows, columns), int)
        outer[window.outer()] = 1
        core = outer[window.outer()][window.core_in_outer()]
        assert core.shape == count[window.core()].shape and core.size <= 16
        grown = np.zeros((rows, columns), int)
        grown[max(0, window.top - 2) : window.bottom + 2, max(0, window.left - 2) : window.right + 2] = 1
        assert np.array_equal(outer, grown)
    assert (count == 1).all()


def test_padding_replicates_edges():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    padded = tiling.pad_to_stride(x)
    assert padded.shape == (1, 1, 16, 16) and torch.equal(padded[..., :2, :3], x)
    assert (padded[..., 2:, 2:] == 5).all() and (padded[..., 0, 3:] == 2).all()
    whole = torch.zeros(1, 1, 32, 16)
    assert tiling.pad_to_stride(whole) is whole


# -- target rates -------------------------------------------------------------------------------------


def measured(codec, signal, metric, encoded) -> float:
    if metric == "bytes":
        return len(encoded.data)
    if metric == codec.kind.rate_unit:
        return codec.kind.rate(len(encoded.data), codec.kind.size(signal))
    return codec.kind.score(signal, codec.decompress(encoded.data))[metric]


def check_target(codec, signal, target, settings):
    """What is returned is the encoding of its quality with all iterations, and the last that fits."""
    encoded = codec.encode(signal, target, settings)
    assert encoded.data == codec.encode(signal, encoded.quality, settings).data
    assert (encoded.search, encoded.iterations) == (settings.search.method, settings.search.iterations)
    value = measured(codec, signal, target.metric, encoded)
    if target.is_rate(codec.kind):
        assert value <= target.value
        within, other = value >= 0.97 * target.value, encoded.quality + 1 / 32
    else:
        assert value >= target.value
        within, other = encoded.quality == 1, encoded.quality - 1 / 32
    if not within:  # then the next of the steps must be too large, or too bad
        beyond = measured(codec, signal, target.metric, codec.encode(signal, other, settings))
        assert beyond > target.value if target.is_rate(codec.kind) else beyond < target.value
    return encoded


@pytest.mark.parametrize("search", ["none", "admm"])
@pytest.mark.parametrize("metric", ["bpp", "bytes", "psnr_db", "ms_ssim"])
@pytest.mark.parametrize("part", [0.2, 0.8])
def test_targets_are_met(codecs, texture_image, search, metric, part):
    codec, pixels = codecs["image"], texture_image[:176, :168]
    ends = [measured(codec, pixels, metric, codec.encode(pixels, q, "none")) for q in (1, 8)]
    check_target(codec, pixels, Target(metric, ends[0] + part * (ends[1] - ends[0])), Settings.of(search, 3))


@pytest.mark.parametrize("metric", ["kbps", "bytes", "estoi", "log_spectral_distance"])
def test_speech_targets_are_met(codecs, voiced_clip, metric):
    codec, signal = codecs["speech"], clip(voiced_clip, 16000)
    low, high = (measured(codec, signal, metric, codec.encode(signal, q, "none")) for q in (2, 7))
    for coder in ("huffman", "context"):
        encoded = codec.encode(signal, Target(metric, (low + high) / 2), Settings.of("none", entropy_coder=coder))
        value = measured(codec, signal, metric, encoded)
        assert encoded.coder == coder
        assert value >= (low + high) / 2 if metric == "estoi" else value <= (low + high) / 2


def test_a_target_takes_few_searches(codecs, texture_image, monkeypatch):
    """The trials without search are many and cheap; the first search tells where the others belong."""
    codec, searched = codecs["image"], []
    encode = type(codec)._encode

    def counted(self, signals, step, settings, *others):
        searched.append((step, settings.search.iterations))
        return encode(self, signals, step, settings, *others)

    target = measured(codec, texture_image, "bpp", codec.encode(texture_image, 5, "none"))
    monkeypatch.setattr(type(codec), "_encode", counted)
    encoded = codec.encode(texture_image, Target("bpp", target), Settings.of("admm", 4))
    assert len(searched) == len(set(searched)) and len([s for s, n in searched if n]) <= 4
    assert {n for _, n in searched} == {0, 4} and encoded.iterations == 4


@pytest.mark.parametrize("slope", [0.1, 0.5])
def test_meeting_a_target_whatever_the_search_changes(slope):
    """Rates that the search moves by another factor at each quality, against trying every step."""
    kind = SimpleNamespace(rate_unit="bpp", metric_names=("psnr_db",), lower_is_better=())

    def quick(step):
        return math.exp(slope * step / 10)

    def full(step):
        return quick(step) * (0.7 + 0.2 * math.sin(step / 40)) + 0.1

    for value in np.linspace(full(0) * 1.01, full(224), 23):
        best = max(step for step in range(225) if full(step) <= value)
        step = targets.meet(Target("bpp", value), kind, 224, quick, full)
        assert step == best or value >= full(step) >= value * (1 - targets.TOLERANCE)
        least = min(step for step in range(225) if full(step) >= value)
        assert targets.meet(Target("psnr_db", value), kind, 224, quick, full) == least


@pytest.mark.parametrize("exact_from", [1, 40, 200])
def test_a_score_that_becomes_infinite_can_be_met(exact_from):
    """Blank pages and flat graphics come back exactly from some quality on."""
    kind = SimpleNamespace(rate_unit="bpp", metric_names=("psnr_db",), lower_is_better=())

    def psnr(step):
        return 48 + step / 20 if step < exact_from else math.inf

    for value in (40, 50, 55, 60, 100):
        least = min(step for step in range(225) if psnr(step) >= value)
        step = targets.meet(Target("psnr_db", value), kind, 224, psnr, psnr)
        assert least <= step and psnr(step) >= value and (step == least or psnr(step) == math.inf)


def test_a_target_s_score_is_that_of_the_realism(codecs):
    codec, pixels = codecs["image"], picture(48, 64)
    trials = Trials(codec, pixels, {}, Target("psnr_db", 20.0))
    data, scores = codec.compress(pixels, 6, "none"), []
    for realism in (0.0, 1.0):
        scores.append(codec.kind.score(pixels, codec.decompress(data, realism))["psnr_db"])
        assert trials.measure(quality_step(6), Settings.of("none", realism=realism)) == scores[-1]
    assert scores[0] > scores[1] + 1


def test_targets_out_of_reach_name_the_nearest_rate(codecs):
    codec, pixels = codecs["image"], picture(64, 64)
    for value, quality, word in ((1e-3, 1, "below"), (20.0, 8, "above")):
        nearest = codec.kind.rate(len(codec.compress(pixels, quality, "none")), (64, 64))
        with pytest.raises(ValueError, match=rf"{word}.*nearest reachable rate is {nearest:.4f} bpp"):
            codec.encode(pixels, Target("bpp", value), "none")
    with pytest.raises(ValueError, match="5 bytes is below .*nearest reachable rate is [0-9]+ bytes"):
        codec.encode(pixels, Target("bytes", 5), "none")
    largest = codec.encode(pixels, Target("bytes", 100000), "none")  # a budget, which is not used up
    assert largest.quality == 8 and largest.data == codec.compress(pixels, 8, "none")
    with pytest.raises(ValueError, match="psnr_db 99 is above what the highest quality gives"):
        codec.encode(pixels, Target("psnr_db", 99.0), "none")


def test_targets_that_do_not_apply_are_refused(codecs, voiced_clip, monkeypatch):
    for name, metric, known in (
        ("image", "pesq_wb", "bytes, bpp, psnr_db, ms_ssim"),
        ("image", "kbps", "bytes, bpp, psnr_db, ms_ssim"),
        ("speech", "psnr_db", "bytes, kbps, pesq_wb, stoi, estoi, log_spectral_distance"),
    ):
        signal = picture(64, 64) if name == "image" else voiced_clip
        with monkeypatch.context() as patch:
            patch.setattr(type(codecs[name]), "_encode", lambda *_: pytest.fail("work for nothing"))
            with pytest.raises(ValueError, match=f"{metric} is not a metric of {name}: a target can be {known}"):
                codecs[name].encode(signal, Target(metric, 3.0))
    with pytest.raises(ValueError, match="ms_ssim cannot be measured on this signal"):
        codecs["image"].encode(picture(9, 9), Target("ms_ssim", 0.9), "none")


@pytest.mark.parametrize("search", ["none", "ste"])
def test_the_time_of_a_target_is_that_of_all_trials(codecs, search, monkeypatch):
    codec, pixels, seconds = codecs["image"], picture(48, 64), []
    encode = type(codec)._encode

    def timed(*arguments):
        encoded = encode(*arguments)
        seconds.extend(one.seconds for one in encoded)
        return encoded

    target = codec.kind.rate(len(codec.compress(pixels, 5, "none")), (48, 64))
    monkeypatch.setattr(type(codec), "_encode", timed)
    encoded = codec.encode(pixels, Target("bpp", target), Settings.of(search, 2))
    assert len(seconds) > 5 and encoded.seconds > sum(seconds)


# -- realism ------------------------------------------------------------------------------------------


def test_realism_mixes_the_two_generators(codecs):
    codec = codecs["image"]
    data = codec.compress(picture(48, 48), 5, "none")
    header, symbols = codec.read_symbols(data)
    faithful, half, realistic = (codec.generate(symbols, header.quality_step, r) for r in (0.0, 0.5, 1.0))
    assert np.array_equal(codec.generate(symbols, header.quality_step), faithful)
    assert np.abs(realistic - faithful).max() > 0.01
    assert np.abs(half - faithful).max() > 1e-3 and np.abs(half - realistic).max() > 1e-3
    states = [codec.generator(r).state_dict() for r in (0.0, 0.5, 1.0)]
    assert has_texture(states[2]) and not has_texture(states[0])
    for name in states[2]:
        faithful_weight = states[0].get(name, torch.zeros_like(states[2][name]))
        torch.testing.assert_close(states[1][name], (faithful_weight + states[2][name]) / 2)
        assert torch.equal(states[2][name], codec._realistic_state[name])
    assert np.array_equal(codec.decompress(data, 0.0), codec.decompress(data))
    assert not np.array_equal(codec.decompress(data, 1.0), codec.decompress(data))


def test_of_mixed_generators_the_last_are_kept():
    made, count = {0.0: "faithful"}, iter(range(100))
    for realism in (1.0, 0.1, 0.2, 0.3, 0.2, 0.4, 0.0, 1.0):
        made_for(realism, made, lambda: next(count))
    assert list(made) == [0.0, 1.0, 0.3, 0.4] and next(count) == 5
    assert made_for(0.3, made, lambda: "again") == 3 and made_for(0.2, made, lambda: "again") == "again"


def test_a_signal_goes_with_its_trials(codecs, texture_image):
    """Not when the collector of cycles looks: signals are large."""
    signal = texture_image.copy()
    gc.collect()
    gc.disable()
    try:
        trials = Trials(codecs["image"], signal, {}, Target("psnr_db", 1.0))
        trials.meet(Settings.of("none"))
        gone = weakref.ref(trials)
        del trials
        assert gone() is None
    finally:
        gc.enable()


def test_realism_needs_a_realistic_generator(codecs):
    codec = codecs["image_faithful"]
    data = codec.compress(picture(16, 16), 3, "none")
    codec.decompress(data, 0.0)
    for realism in (0.3, 1.0):
        with pytest.raises(ValueError, match="no realistic generator.*--realism 0"):
            codec.decompress(data, realism)
    for realism in (-0.1, 1.1):
        with pytest.raises(ValueError, match="outside 0 to 1"):
            codecs["image"].decompress(codecs["image"].compress(picture(4, 4), 3, "none"), realism)


# -- objectives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective, metric", [("mse", "psnr_db"), ("ms_ssim", "ms_ssim")])
def test_each_objective_is_best_at_its_own_metric(codecs, texture_image, objective, metric):
    """At equal cost the search for a metric wins in it: scores plus bits at the same weight."""
    codec = codecs["image"]
    both = {name: codec.encode(texture_image, 8, Settings.of("admm", 30, name)) for name in ("mse", "ms_ssim")}

    def cost(encoded) -> float:
        header, symbols = codec.read_symbols(encoded.data)
        picture_, _ = codec.kind.to_picture(texture_image)
        return 8 * len(encoded.data) + distortion_bits(codec, picture_, symbols, header, objective)

    other = {"mse": "ms_ssim", "ms_ssim": "mse"}[objective]
    assert cost(both[objective]) < cost(both[other])


def test_without_an_objective_it_is_what_the_checkpoint_is_trained_for(codecs, texture_image):
    checkpoint = tiny_checkpoint("image")
    config = dataclasses.replace(checkpoint.config, objective="ms_ssim")
    codec = Codec(dataclasses.replace(checkpoint, config=config, fingerprint=codecs["image"].fingerprint))
    usual, mse = codec.encode(texture_image, 8, Settings.of("admm", 10)), Settings.of("admm", 10, "mse")
    assert usual.objective == "ms_ssim" and codec.encode(texture_image, 8, mse).objective == "mse"
    named = codec.encode(texture_image, 8, Settings.of("admm", 10, "ms_ssim"))
    assert named.data == usual.data != codec.encode(texture_image, 8, mse).data
    assert codecs["image"].encode(texture_image, 8, Settings.of("admm", 1)).objective == "mse"


def test_the_error_of_ms_ssim():
    """It is that of the library. Its slope is a number, also where the decoded picture is the negative."""
    from pytorch_msssim import ms_ssim, ssim

    for size, score in ((176, ms_ssim), (40, ssim)):
        x = torch.rand(2, 3, size, size) * 2 - 1
        x_hat = torch.stack([0.8 * x[0], -x[1]]).requires_grad_(True)
        error = ms_ssim_error(x, x_hat)
        expected = 1 - score((x_hat + 1) / 2, (x + 1) / 2, data_range=1.0, size_average=False)
        torch.testing.assert_close(error, MS_SSIM_WEIGHT * expected)
        slope = torch.autograd.grad(error.sum(), x_hat)[0]
        assert slope.isfinite().all() and slope[0].abs().sum() > 0
    tiny = torch.rand(1, 3, 8, 90)
    torch.testing.assert_close(ms_ssim_error(tiny, tiny / 2), squared_error(tiny, tiny / 2))


@pytest.mark.parametrize("weighted", [False, True])
def test_clamped_error_is_the_squared_error_of_the_clamped_picture(weighted):
    x, x_hat = torch.rand(2, 3, 5, 7) * 2 - 1, torch.randn(2, 3, 5, 7, requires_grad=True)
    weights, outer = torch.rand_like(x) if weighted else None, torch.tensor([2.0, -3.0])
    got = clamped_squared_error(x, x_hat, weights)
    expected = squared_error(x, torch.nn.functional.hardtanh(x_hat), weights)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*(torch.autograd.grad((e * outer).sum(), x_hat)[0] for e in (got, expected)))


@pytest.mark.parametrize("realism", [0.0, 1.0])
def test_the_perceptual_objective_lowers_the_features_distance(codecs, texture_image, realism):
    """Of the picture that will be shown."""
    codec = codecs["image"]
    x = torch.from_numpy(codec.kind.to_picture(texture_image)[0])[None]

    def features(method) -> float:
        settings = Settings.of(method, 30 if method == "admm" else None, "perceptual", realism=realism)
        header, symbols = codec.read_symbols(codec.compress(texture_image, 8, settings))
        shown = codec.generate(symbols, header.quality_step, realism)[:, :203, :251]
        return float(picture_features(codec.device).distance(x, torch.from_numpy(shown).clamp(-1, 1)[None]))

    assert features("admm") < features("none")


def test_the_perceptual_objective_of_speech_is_the_discriminator_s(codecs, voiced_clip):
    codec = codecs["speech"]
    distance = discriminator_distance(codec.discriminator)
    x = torch.from_numpy(codec.kind.to_picture(voiced_clip)[0])[None]

    def features(objective) -> float:
        header, symbols = codec.read_symbols(codec.compress(voiced_clip, 8, Settings.of("admm", 30, objective)))
        x_hat = torch.from_numpy(codec.generate(symbols, header.quality_step)[..., : x.shape[-1]]).clamp(-1, 1)[None]
        return float(distance(x, x_hat))

    assert features("perceptual") < features("mse")


def test_the_pesq_objective_lowers_its_disturbance(codecs, voiced_clip):
    codec = codecs["speech"]
    disturbance = codec.kind.disturbance()
    x = torch.from_numpy(codec.kind.to_picture(voiced_clip)[0])[None]

    def disturbed(objective) -> float:
        header, symbols = codec.read_symbols(codec.compress(voiced_clip, 8, Settings.of("admm", 30, objective)))
        x_hat = torch.from_numpy(codec.generate(symbols, header.quality_step)[:, :128, : x.shape[-1]])[None]
        return float(disturbance(x, x_hat))

    assert disturbed("pesq") < disturbed("mse")


def test_the_search_goes_through_the_generator_of_the_realism(codecs, texture_image):
    codec = codecs["image"]
    symbols = codec.read_symbols(codec.compress(texture_image, 8, Settings.of("none")))[1]
    for realism in (0.0, 0.5, 1.0):
        searchable = codec.tiled_search.searchable(realism)
        x_hat = searchable.decode(torch.from_numpy(symbols).float()[None], codec.quality_row(quality_step(8)))
        shown = codec.generate(symbols, quality_step(8), realism)
        assert np.square(x_hat[0].numpy() - shown).mean() < 1e-3 * np.square(shown).mean()  # the search is in bfloat16

    def cost(method) -> float:  # of the picture that is shown
        settings = Settings.of(method, 20 if method == "admm" else None, realism=1.0)
        data = codec.compress(texture_image, 8, settings)
        error = np.square(codec.decompress(data, realism=1.0) - texture_image.astype(float)).mean()
        return codec.config.lmbda(8) * error * 203 * 251 + 8 * len(data)

    assert cost("admm") < cost("none")
    with pytest.raises(ValueError, match="no realistic generator"):
        codecs["image_faithful"].compress(texture_image, 3, Settings.of(realism=0.5))


def test_objectives_that_do_not_fit_are_refused(codecs, voiced_clip, tiny_checkpoints):
    with pytest.raises(ValueError, match="'psnr' is not one of mse, ms_ssim, perceptual, pesq"):
        codecs["image"].compress(picture(20, 20), 3, Settings.of(objective="psnr"))
    with pytest.raises(ValueError, match="ms_ssim is not for speech: possible are mse, perceptual, pesq"):
        codecs["speech"].compress(voiced_clip, 3, Settings.of(objective="ms_ssim"))
    with pytest.raises(ValueError, match="pesq is not for image: possible are mse, ms_ssim, perceptual"):
        codecs["image"].compress(picture(20, 20), 3, Settings.of(objective="pesq"))
    checkpoint = dataclasses.replace(load_checkpoint(tiny_checkpoints["speech"]), discriminator=None)
    with pytest.raises(ValueError, match="needs a checkpoint with a discriminator"):
        Codec(checkpoint).compress(voiced_clip, 3, Settings.of(objective="perceptual"))


@pytest.mark.parametrize("objective", ["mse", "ms_ssim", "perceptual"])
@pytest.mark.parametrize("size", [(1, 1), (9, 40), (40, 170)])
def test_objectives_take_pictures_of_any_size(codecs, objective, size):
    codec = codecs["image"]
    assert codec.decompress(codec.compress(picture(*size), 4, Settings.of("admm", 3, objective))).shape == (*size, 3)


@pytest.mark.parametrize("samples", [1, 1000, 5000])
@pytest.mark.parametrize("objective", ["mse", "perceptual", "pesq"])
def test_objectives_take_clips_of_any_length(codecs, voiced_clip, objective, samples):
    codec, clip = codecs["speech"], voiced_clip[4000 : 4000 + samples]
    assert codec.decompress(codec.compress(clip, 4, Settings.of("admm", 3, objective))).shape == (samples,)


# -- gray and transparency -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [(), (2,), (3,), (4,)])
def test_what_comes_back_has_the_layout_that_went_in(codecs, ramp_image, layout):
    codec = codecs["image"]
    alpha = np.tile(np.arange(80, dtype=np.uint8), (48, 1))
    gray = ramp_image[..., 0]
    pixels = {(): gray, (2,): np.dstack([gray, alpha]), (3,): ramp_image, (4,): np.dstack([ramp_image, alpha])}[layout]
    decoded = codec.decompress(codec.compress(pixels, 3, Settings.of("admm", 2)))
    assert decoded.shape == pixels.shape
    if layout in ((2,), (4,)):
        np.testing.assert_array_equal(decoded[..., -1], alpha)


def test_the_search_of_a_gray_picture_minimizes_the_error_of_its_gray(codecs, ramp_image):
    """Its F is that of the channels' mean, in which errors of color cancel."""
    codec, gray = codecs["image"], ramp_image[..., 0]
    x = torch.from_numpy(codec.kind.to_picture(gray)[0])[None]
    tint = torch.tensor([0.02, -0.02, 0.0]).view(1, 3, 1, 1)
    inside = x.clamp(-0.9, 0.9)
    distance = codec.distortions.of("mse", inside, lambda: inside, gray=True)
    assert (
        float(distance(inside, inside + tint))
        < 1e-9
        < float(codec.distortions.of("mse", inside, lambda: inside)(inside, inside + tint))
    )


def test_gray_and_color_of_one_size_are_not_searched_together(codecs, ramp_image):
    groups = codecs["image"].together([ramp_image, ramp_image[..., 0], ramp_image])
    assert sorted(map(sorted, groups)) == [[0, 2], [1]]
