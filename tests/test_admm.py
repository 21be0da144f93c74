"""The search: never worse than its start, judged by what is written, deterministic, and worth it."""

import dataclasses

import numpy as np
import pytest
import torch

from conftest import tiny_checkpoint
from models.losses import squared_error
from utils import admm
from utils.admm import METHODS, Problem, SearchConfig, optimize_latent, preset
from utils.codec import Codec

SHAPE = (2, 3, 4, 5)


def toy_problem(seed=0, movable=None, weight=30.0) -> Problem:
    """Least squares through a fixed mixing matrix, Laplacian code lengths.

    Rounding each coordinate by itself is far from the best lattice point.
    """
    torch.manual_seed(seed)
    n = int(np.prod(SHAPE[1:]))
    mixing = torch.eye(n) + 0.6 * torch.randn(n, n) / n ** 0.5
    start = 1.5 * torch.randn(SHAPE)
    target = start.flatten(1) @ mixing

    def distortion(q):
        return weight / n * (q.flatten(1) @ mixing - target).square().sum(1)

    def costs(_, candidates):
        return 1.0 + 1.5 * candidates.abs()

    def rate(q):
        return costs(None, q).flatten(1).sum(1)

    def true_rate(q):       # a little more than the estimate: what is judged must be this
        return rate(q) + 0.25 * (q != 0).flatten(1).sum(1)

    return Problem(distortion, rate, true_rate, costs, start, start.round(), movable)


def objective(problem: Problem, symbols: torch.Tensor) -> torch.Tensor:
    return problem.distortion(symbols.float()) + problem.true_rate(symbols.float())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight", [3.0, 300.0])
def test_never_worse_than_encode_and_round(method, weight):
    problem = toy_problem(weight=weight)
    result = optimize_latent(problem, preset(method, 30))
    plain = objective(problem, problem.start.round())
    torch.testing.assert_close(result.start_cost, plain)
    assert (result.cost <= result.start_cost).all()
    assert result.symbols.dtype == torch.int16
    torch.testing.assert_close(result.cost, objective(problem, result.symbols))


@pytest.mark.parametrize("method", METHODS)
def test_a_hostile_search_returns_its_start(method):
    """Steps far too long: every candidate is bad, and the first one is kept."""
    problem = toy_problem()
    problem = dataclasses.replace(problem, distortion=lambda q: 1e4 * (q - problem.start.round()).square().flatten(1).sum(1))
    result = optimize_latent(problem, dataclasses.replace(preset(method, 10), learning_rate=(50.0, 50.0), rate_weight=0.0))
    assert torch.equal(result.symbols.float(), problem.start.round())
    assert torch.equal(result.cost, result.start_cost)


def test_not_a_number_is_never_taken_for_better():
    problem = toy_problem()
    calls = []

    def distortion(q):
        calls.append(1)
        return problem.distortion(q) * (1 if len(calls) == 1 else float("nan"))

    result = optimize_latent(dataclasses.replace(problem, distortion=distortion), preset("ste", 20))
    assert torch.equal(result.symbols.float(), problem.start.round()) and torch.isfinite(result.cost).all()


@pytest.mark.parametrize("method", ["admm", "sga", "ste", "paper"])
def test_same_seed_same_symbols(method):
    problem = toy_problem()
    first, again = (optimize_latent(problem, preset(method, 30), seed=3) for _ in range(2))
    assert torch.equal(first.symbols, again.symbols) and first.history == again.history


def test_seed_matters_where_there_is_chance_and_global_state_does_not():
    problem = toy_problem()
    results = {}
    for name, seed, state in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        torch.manual_seed(state)
        results[name] = optimize_latent(problem, preset("admm", 30), seed)
    assert results["a"].history == results["b"].history
    assert results["a"].history != results["c"].history


def test_the_start_is_left_as_it_was():
    problem = toy_problem()
    before = problem.start.clone()
    optimize_latent(problem, preset("admm", 10))
    assert torch.equal(problem.start, before) and not problem.start.requires_grad


@pytest.mark.parametrize("method", [m for m in METHODS if m != "none"])
def test_only_movable_places_change(method):
    movable = torch.zeros(2, 1, 4, 5, dtype=torch.bool)
    movable[:, :, 1:3, 2:] = True
    problem = toy_problem(movable=movable)
    config = dataclasses.replace(preset(method, 40), learning_rate=(0.1, 0.1))
    result = optimize_latent(problem, config)
    fixed = ~movable.expand(SHAPE)
    assert torch.equal(result.symbols.float()[fixed], problem.start.round()[fixed])
    torch.testing.assert_close(result.cost, objective(problem, result.symbols))
    if method in ("admm", "sga", "ste"):
        assert not torch.equal(result.symbols.float(), problem.start.round())


def test_admm_beats_the_methods_without_rate():
    """On several problems: at least as good as rounding at the end and as the paper's, and better in sum."""
    totals = {method: 0.0 for method in ("admm", "round", "paper", "none", "iht")}
    for seed in range(5):
        problem = toy_problem(seed, weight=1000.0)
        for method in totals:
            totals[method] += float(optimize_latent(problem, preset(method, 100), seed).cost.sum())
    for method in ("round", "paper", "none", "iht"):
        assert totals["admm"] < totals[method] - 1.0, totals
    assert totals["admm"] < 0.93 * totals["none"]


def test_each_picture_of_a_batch_keeps_its_own_best():
    """What one picture reaches does not depend on when the others get better."""
    problem = toy_problem()
    result = optimize_latent(problem, preset("admm", 60))
    seen = np.array([row["cost"] for row in result.history])
    np.testing.assert_allclose(result.cost.numpy(), seen.min(0), rtol=1e-6)


def test_history_is_of_judged_candidates():
    problem = toy_problem()
    config = dataclasses.replace(preset("admm", 30), judge_every=7)
    history = optimize_latent(problem, config).history
    assert all(set(row) == {"iteration", "cost"} and len(row["cost"]) == SHAPE[0] for row in history)
    assert history[0] == {"iteration": 0, "cost": objective(problem, problem.start.round()).tolist()}
    assert sorted({row["iteration"] for row in history}) == [0, 21, 28, 30]      # from the half on
    rounded_at_the_end = optimize_latent(problem, preset("round", 30)).history
    assert [row["iteration"] for row in rounded_at_the_end] == [0, 30]
    assert len(optimize_latent(problem, preset("none", 30)).history) == 1


def test_projection_minimizes_over_its_candidates():
    """With these costs the best center is the nearest, its neighbor or one toward zero: check all."""
    problem = toy_problem()
    target = torch.linspace(-4, 4, int(np.prod(SHAPE))).view(SHAPE)
    every = torch.arange(-6.0, 7).view(-1, 1, 1, 1, 1).expand(-1, *SHAPE)
    for mu in (2.0, 5.0, 30.0):
        got = admm._project(problem, target, target.round(), mu, 1.0)
        cost = mu / 2 * (target - every).square() + problem.costs(None, every)
        best = every.gather(0, cost.argmin(0, keepdim=True))[0]
        assert torch.equal(got, best)
    assert torch.equal(admm._project(problem, target, target.round(), 3.0, 0.0), target.round())


def test_config_errors():
    with pytest.raises(ValueError, match="'adam' is not one of admm, paper"):
        preset("adam")
    with pytest.raises(ValueError, match="'adam' is not one of"):
        SearchConfig(method="adam")
    with pytest.raises(ValueError, match="-1 iterations"):
        preset("admm", -1)
    assert preset("none", 50).iterations == 0
    assert preset("ste", 7) == dataclasses.replace(preset("ste"), iterations=7)
    with pytest.raises(ValueError, match="'psnr' is not one of mse"):
        preset("admm", 5, "psnr")
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset("admm").iterations = 3


# -- through a model --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def codec():
    checkpoint = tiny_checkpoint("image")
    checkpoint.fingerprint = b"test"
    return Codec(checkpoint)


@pytest.mark.parametrize("coder", ["huffman", "context"])
@pytest.mark.parametrize("method", METHODS)
def test_through_the_tiny_model(codec, method, coder, ramp_image):
    picture, _ = codec.signal.to_picture(ramp_image)
    step = 100
    plain = codec._analyze(picture, step)
    problem = codec._problem(codec._window(picture, next(iter(_windows(plain)))), plain[None], plain[None].round(), step, None,
                             picture.shape[1:], codec.coders[coder], squared_error)
    result = optimize_latent(problem, preset(method, 20))
    with torch.no_grad():
        torch.testing.assert_close(result.start_cost, objective(problem, plain[None].round()))
        torch.testing.assert_close(result.cost, objective(problem, result.symbols))
    assert result.cost <= result.start_cost
    bits = codec.coders[coder].cost_bits(result.symbols[0].numpy(), step)
    assert float(problem.true_rate(result.symbols.float())) == pytest.approx(bits, rel=0.03, abs=8)
    if method in ("admm", "sga", "ste"):
        assert result.cost < 0.995 * result.start_cost


def _windows(latent):
    from utils.tiling import windows

    return windows(*latent.shape[1:], 1)
