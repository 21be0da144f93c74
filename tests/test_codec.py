"""Signal to bytes and back through tiny checkpoints: every size, every damage, tiles, targets, realism."""

import contextlib
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from models.perceptual import PerceptualDistance
from utils.codec import bitstream, tiling
from utils.codec.bitstream import BitstreamError
from utils.codec.codec import load_codec, quality_step
from utils.codec.decoder import load_decoder
from utils.search.config import METHODS

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


# -- there and back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("coder", ["huffman", "context"])
def test_pictures_of_any_size(codecs, size, coder):
    codec, pixels = codecs["image"], picture(*size)
    data = codec.compress(pixels, 5, iterations=4, entropy_coder=coder)
    decoded = codec.decompress(data)
    assert decoded.shape == pixels.shape and decoded.dtype == np.uint8
    header, symbols = codec.read_symbols(data)
    assert (header.size_a, header.size_b) == size and header.quality == quality_step(5)
    assert header.coder == codec.coders[coder].code
    assert np.array_equal(decoded, codec.rebuild(symbols, header.quality, size, header.level))


@pytest.mark.parametrize("samples", CLIPS.values(), ids=CLIPS)
def test_clips_of_any_length(codecs, samples, voiced_clip):
    codec, signal = codecs["speech"], clip(voiced_clip, samples)
    data = codec.compress(signal, 4, iterations=3)
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
    encoded = codec.encode(pixels, 6, search, iterations=10)
    assert (encoded.search, encoded.iterations) == (search, 0 if search == "none" else 10)
    assert encoded.quality == 6 and encoded.coder == codec.default_coder and encoded.bits_saved >= 0
    plain = codec.encode(pixels, 6, "none")

    def judged(data) -> float:
        header, symbols = codec.read_symbols(data)
        picture_, _ = codec.kind.to_picture(pixels)
        return 8 * len(data) + codec._distortion_bits(picture_, [symbols], header.quality, codec._distortions("mse"))[0]

    assert judged(encoded.data) <= judged(plain.data)
    if search in ("admm", "sga", "ste"):
        assert judged(encoded.data) < judged(plain.data) and encoded.bits_saved > 0


def test_a_batch_is_coded_as_its_members_alone(codecs, monkeypatch):
    codec = codecs["image"]
    signals = [picture(48, 64, 1), picture(30, 30), picture(48, 64, 2), picture(48, 64, 3), picture(48, 64, 4)]
    assert codec.together(signals) == [[0, 2, 3, 4], [1]]
    monkeypatch.setattr("utils.codec.codec.BATCH_POSITIONS", {"cpu": 24})
    assert codec.together(signals) == [[0, 2], [3, 4], [1]]
    searches = []
    search = type(codec)._search
    monkeypatch.setattr(
        type(codec),
        "_search",
        lambda self, pictures, *rest: searches.append(len(pictures)) or search(self, pictures, *rest),
    )
    for method in ("none", "admm"):
        together = codec.encode_batch(signals, 6, method, iterations=10)
        for signal, encoded in zip(signals, together):
            alone = codec.encode(signal, 6, method, iterations=10)
            assert np.array_equal(codec.decompress(encoded.data).shape, signal.shape)
            # the order of sums differs with the batch, so a place at the edge of two symbols may too
            assert len(encoded.data) == pytest.approx(len(alone.data), rel=0.02 if method == "admm" else 0, abs=0)
            assert encoded.bits_saved == pytest.approx(alone.bits_saved, abs=0.01)
    assert searches[:3] == [2, 2, 1]


def test_encode_and_round_writes_the_rounded_latent(codecs):
    codec, pixels = codecs["image"], picture(50, 70)
    step = quality_step(6.5)
    index = codec._analyze(codec.kind.to_picture(pixels)[0], step)
    _, symbols = codec.read_symbols(codec.compress(pixels, 6.5, "none"))
    assert np.array_equal(symbols, index.round().numpy()) and symbols.shape == (16, 4, 5)
    assert np.abs(symbols).max() > 2


def test_both_coders_carry_the_same_symbols(codecs, voiced_clip):
    for codec, signal in ((codecs["image"], picture(64, 48)), (codecs["speech"], clip(voiced_clip, 9000))):
        (h1, one), (h2, two) = (
            codec.read_symbols(codec.compress(signal, 5, "none", entropy_coder=name)) for name in ("huffman", "context")
        )
        assert np.array_equal(one, two) and h1.coder == 0 and h2.coder == 1
        with pytest.raises(ValueError, match="'arithmetic' has no tables in this checkpoint, only"):
            codec.compress(signal, 5, "none", entropy_coder="arithmetic")


def test_the_header_holds_quality_and_fingerprint(codecs):
    codec = codecs["image"]
    for quality in (1, 1 + 1 / 32, 4.7, 8):
        data = codec.compress(picture(20, 20), quality, "none")
        header, payload = bitstream.unpack(data)
        assert header.quality == round((quality - 1) * 32) and header.fingerprint == codec.fingerprint
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
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ValueError):
            codecs["image"].compress(wrong)
    with pytest.raises(ValueError, match="'adam' is not one of"):
        codecs["image"].compress(picture(4, 4), search="adam")


# -- the same again, elsewhere ------------------------------------------------------------------------


def test_same_input_and_seed_same_bytes(codecs, voiced_clip):
    for codec, signal in ((codecs["image"], picture(40, 56)), (codecs["speech"], clip(voiced_clip, 8000))):
        first = codec.compress(signal, 5, iterations=12, seed=1)
        torch.manual_seed(77)
        assert codec.compress(signal, 5, iterations=12, seed=1) == first


def test_a_receiver_of_its_own_decodes_the_same(codecs, tiny_checkpoints, voiced_clip):
    for name, signal in (("image", picture(40, 56)), ("speech", clip(voiced_clip, 8000))):
        data = codecs[name].compress(signal, 5, iterations=5)
        decoder = load_decoder(tiny_checkpoints[name])
        assert decoder.model.encoder is None and not hasattr(decoder, "compress")
        assert np.array_equal(decoder.decompress(data), codecs[name].decompress(data))


def test_symbols_do_not_depend_on_threads(codecs):
    codec = codecs["image"]
    data = {coder: codec.compress(picture(95, 130), 6, "none", entropy_coder=coder) for coder in ("huffman", "context")}
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
    data = codec.compress(signal, 3, "none", entropy_coder=coder)
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
        body = codec.compress(picture(16, 20), 3, "none", entropy_coder=coder)[:-4]
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
    whole = codec.generate(symbols, 192)
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 16)
    monkeypatch.setattr(tiling, "CORE_SIDE", 4)
    assert len(list(tiling.windows(*symbols.shape[1:], 5))) > 4
    np.testing.assert_allclose(codec.generate(symbols, 192), whole, atol=1e-4, rtol=0)


def test_tiles_give_the_latent_of_one_pass(codecs, monkeypatch):
    codec = codecs["image"]
    monkeypatch.setattr(codec, "_autocast", contextlib.nullcontext)  # bfloat16 rounds by shape
    x, _ = codec.kind.to_picture(picture(310, 333))
    whole = codec._analyze(x, 200)
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 16)
    monkeypatch.setattr(tiling, "CORE_SIDE", 4)
    torch.testing.assert_close(codec._analyze(x, 200), whole, atol=1e-3, rtol=0)


def test_a_tiled_search_pays_and_decodes(codecs, monkeypatch):
    codec, pixels = codecs["image"], picture(100, 210)
    monkeypatch.setattr(tiling, "CORE_POSITIONS", 16)
    monkeypatch.setattr(tiling, "CORE_SIDE", 4)
    encoded = codec.encode(pixels, 7, iterations=10)
    assert encoded.bits_saved > 0
    assert codec.decompress(encoded.data).shape == pixels.shape


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


def check_target(codec, signal, target, **settings):
    encoded = codec.encode_to_rate(signal, target, **settings)
    size = codec.kind.size(signal)
    rate = codec.kind.rate(len(encoded.data), size)
    assert rate <= target
    if rate < 0.97 * target:  # then the next of the steps must be too large
        above = codec.encode(signal, encoded.quality + 1 / 32, **settings)
        assert codec.kind.rate(len(above.data), size) > target
    return encoded


@pytest.mark.parametrize("search", ["none", "ste"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_targets_are_met_from_below(codecs, search, part):
    codec, pixels = codecs["image"], picture(96, 112)
    ends = [codec.kind.rate(len(codec.compress(pixels, q, "none")), (96, 112)) for q in (1, 8)]
    target = ends[0] + part * (ends[1] - ends[0])
    encoded = check_target(codec, pixels, target, search=search, iterations=3)
    assert encoded.search == search and codec.decompress(encoded.data).shape == pixels.shape


def test_speech_targets_are_met_from_below(codecs, voiced_clip):
    codec, signal = codecs["speech"], clip(voiced_clip, 16000)
    ends = [codec.kind.rate(len(codec.compress(signal, q, "none")), (16000, 16000)) for q in (1, 8)]
    for coder in ("huffman", "context"):
        encoded = check_target(codec, signal, sum(ends) / 2, search="none", entropy_coder=coder)
        assert encoded.coder == coder


def test_targets_out_of_reach_name_the_nearest_rate(codecs):
    codec, pixels = codecs["image"], picture(64, 64)
    for target, quality, word in ((1e-3, 1, "below"), (20.0, 8, "above")):
        nearest = codec.kind.rate(len(codec.compress(pixels, quality, "none")), (64, 64))
        with pytest.raises(ValueError, match=rf"{word}.*nearest reachable rate is {nearest:.4f} bpp"):
            codec.encode_to_rate(pixels, target, "none")


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
    encoded = codec.encode_to_rate(pixels, target, search, iterations=2)
    assert len(seconds) > 5 and encoded.seconds > sum(seconds)


# -- realism ------------------------------------------------------------------------------------------


def test_realism_mixes_the_two_generators(codecs):
    codec = codecs["image"]
    data = codec.compress(picture(48, 48), 5, "none")
    header, symbols = codec.read_symbols(data)
    faithful, half, realistic = (codec.generate(symbols, header.quality, r) for r in (0.0, 0.5, 1.0))
    assert np.array_equal(codec.generate(symbols, header.quality), faithful)
    assert np.abs(realistic - faithful).max() > 0.01
    assert np.abs(half - faithful).max() > 1e-3 and np.abs(half - realistic).max() > 1e-3
    states = [codec.generator(r).state_dict() for r in (0.0, 0.5, 1.0)]
    for name in states[0]:
        torch.testing.assert_close(states[1][name], (states[0][name] + states[2][name]) / 2)
        assert torch.equal(states[2][name], codec._realistic_state[name])
    assert np.array_equal(codec.decompress(data, 0.0), codec.decompress(data))
    assert not np.array_equal(codec.decompress(data, 1.0), codec.decompress(data))


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


def test_psnr_targets_are_reached_at_the_lowest_quality(codecs):
    codec, pixels = codecs["image"], picture(64, 80)
    scores = [codec.kind.score(pixels, codec.decompress(codec.compress(pixels, q, "none")))["psnr_db"] for q in (2, 7)]
    target = sum(scores) / 2
    encoded = codec.encode_to_score(pixels, "psnr_db", target, "none")
    assert codec.kind.score(pixels, codec.decompress(encoded.data))["psnr_db"] >= target
    if encoded.quality > 1:
        below = codec.encode(pixels, encoded.quality - 1 / 32, "none")
        assert codec.kind.score(pixels, codec.decompress(below.data))["psnr_db"] < target
    searched = codec.encode_to_score(pixels, "psnr_db", target, "admm", iterations=4)
    assert codec.kind.score(pixels, codec.decompress(searched.data))["psnr_db"] >= target
    with pytest.raises(ValueError, match="psnr_db 99 is above what the highest quality gives"):
        codec.encode_to_score(pixels, "psnr_db", 99.0, "none")
    with pytest.raises(ValueError, match="pesq is not a metric of image: these are psnr_db, ms_ssim"):
        codec.encode_to_score(pixels, "pesq", 3.0, "none")


def test_a_searched_encoding_gets_its_own_score(codecs, monkeypatch):
    """Not that of the encoding without search at the same quality, which the bisection tried first."""
    codec, pixels, decoded, tried = codecs["image"], picture(64, 80), set(), []
    decompress, bisect = type(codec).decompress, type(codec)._bisect
    monkeypatch.setattr(type(codec), "decompress", lambda self, data: decoded.add(data) or decompress(self, data))
    monkeypatch.setattr(type(codec), "_bisect", lambda *arguments: tried.extend(bisect(*arguments)) or tried)
    target = codec.kind.score(pixels, decompress(codec, codec.compress(pixels, 5, "none")))["psnr_db"]
    encoded = codec.encode_to_score(pixels, "psnr_db", target, "admm", iterations=6)
    assert encoded.search == "admm" and {other.data for other in tried} <= decoded


# -- objectives ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("objective, metric", [("mse", "psnr_db"), ("ms_ssim", "ms_ssim")])
def test_each_objective_is_best_at_its_own_metric(codecs, texture_image, objective, metric):
    """At equal cost the search for a metric wins in it: scores plus bits at the same weight."""
    codec = codecs["image"]
    settings = dict(quality=8, search="admm", iterations=30)
    both = {name: codec.encode(texture_image, objective=name, **settings) for name in ("mse", "ms_ssim")}

    def cost(encoded) -> float:
        header, symbols = codec.read_symbols(encoded.data)
        picture_, _ = codec.kind.to_picture(texture_image)
        return (
            8 * len(encoded.data)
            + codec._distortion_bits(picture_, [symbols], header.quality, codec._distortions(objective))[0]
        )

    other = {"mse": "ms_ssim", "ms_ssim": "mse"}[objective]
    assert cost(both[objective]) < cost(both[other])


@pytest.mark.parametrize("weighted", [False, True])
def test_clamped_error_is_the_squared_error_of_the_clamped_picture(weighted):
    from models.losses import squared_error
    from utils.search.objectives import clamped_squared_error

    x, x_hat = torch.rand(2, 3, 5, 7) * 2 - 1, torch.randn(2, 3, 5, 7, requires_grad=True)
    weights, outer = torch.rand_like(x) if weighted else None, torch.tensor([2.0, -3.0])
    got = clamped_squared_error(x, x_hat, weights)
    expected = squared_error(x, torch.nn.functional.hardtanh(x_hat), weights)
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*(torch.autograd.grad((e * outer).sum(), x_hat)[0] for e in (got, expected)))


def test_the_perceptual_objective_lowers_the_features_distance(codecs, texture_image):
    from utils.search.objectives import discriminator_distance

    codec = codecs["image"]
    distance = discriminator_distance(codec.discriminator)
    x = torch.from_numpy(codec.kind.to_picture(texture_image)[0])[None]

    def features(objective) -> float:
        header, symbols = codec.read_symbols(codec.compress(texture_image, 8, "admm", 30, objective=objective))
        x_hat = torch.from_numpy(codec.generate(symbols, header.quality)[:, :203, :251]).clamp(-1, 1)[None]
        return float(distance(x, x_hat))

    codec._vgg = None  # whether its weights are there or not
    assert features("perceptual") < features("mse")


def test_objectives_that_do_not_fit_are_refused(codecs, voiced_clip):
    with pytest.raises(ValueError, match="'psnr' is not one of mse, ms_ssim, perceptual"):
        codecs["image"].compress(picture(20, 20), objective="psnr")
    with pytest.raises(ValueError, match="ms_ssim is for images, this is speech"):
        codecs["speech"].compress(voiced_clip, objective="ms_ssim")
    without = codecs["image_faithful"]
    without._vgg = None
    with pytest.raises(ValueError, match="needs a checkpoint with a discriminator"):
        without.compress(picture(20, 20), objective="perceptual")


def vgg_like() -> nn.Sequential:
    """Layers that halve a side where VGG16's do, with weights of their own."""
    torch.manual_seed(0)
    return nn.Sequential(*[nn.MaxPool2d(2) if i in (4, 9, 16) else nn.Conv2d(3, 3, 3, padding=1) for i in range(23)])


def test_vgg_goes_to_the_codec_s_device(tiny_checkpoints, monkeypatch):
    codec = load_codec(tiny_checkpoints["image"])
    monkeypatch.setattr("models.perceptual.is_cached", lambda: True)
    monkeypatch.setattr("torchvision.models.vgg16", lambda weights: SimpleNamespace(features=vgg_like()))
    codec.device = torch.device("meta")
    assert codec._vgg.mean.is_meta and codec._vgg.features[0].weight.is_meta


@pytest.mark.parametrize(
    "objective, vgg", [("mse", False), ("ms_ssim", False), ("perceptual", False), ("perceptual", True)]
)
@pytest.mark.parametrize("size", [(1, 1), (9, 40), (40, 170)])
def test_objectives_take_pictures_of_any_size(codecs, objective, vgg, size, monkeypatch):
    codec = codecs["image"]
    monkeypatch.setitem(vars(codec), "_vgg", PerceptualDistance(vgg_like()) if vgg else None)
    assert codec.decompress(codec.compress(picture(*size), 4, "admm", 3, objective=objective)).shape == (*size, 3)
