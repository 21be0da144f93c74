"""The search: never worse than its start, judged by what is written, deterministic, and worth it."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.helpers.models import tiny_checkpoint
from utils.codec.codec import Codec
from utils.codec.settings import Settings
from utils.codec.tiled_search import Task
from utils.search import admm
from utils.search.config import METHODS, SearchConfig, preset, solver
from utils.search.optimize import optimize_latent
from utils.search.problem import Iterate, Problem, StopSearch

SHAPE = (2, 3, 4, 5)


def toy_problem(seed=0, movable=None, weight=30.0) -> Problem:
    """Least squares through a fixed mixing matrix, Laplacian code lengths.

    Rounding each coordinate by itself is far from the best lattice point.
    """
    torch.manual_seed(seed)
    n = int(np.prod(SHAPE[1:]))
    mixing = torch.eye(n) + 0.6 * torch.randn(n, n) / n**0.5
    start = 1.5 * torch.randn(SHAPE)
    target = start.flatten(1) @ mixing

    def distortion(q):
        return weight / n * (q.flatten(1) @ mixing - target).square().sum(1)

    def predict(index):  # a context that matters: the neighbor on the left
        return 0.3 * index.roll(1, dims=-1), torch.zeros_like(index)

    def estimate(prediction, index):
        return (1.0 + 1.5 * (index - prediction[0]).abs()).flatten(1).sum(1)

    def bits(prediction, candidates):  # a little more than the estimate: what is judged must be this
        return 1.0 + 1.5 * (candidates - prediction[0]).abs() + 0.25 * (candidates != 0)

    return Problem(distortion, predict, estimate, bits, start, start.round(), movable)


def objective(problem: Problem, symbols: torch.Tensor) -> torch.Tensor:
    return problem.distortion(symbols.float()) + true_rate(problem, symbols.float())


def true_rate(problem: Problem, symbols: torch.Tensor) -> torch.Tensor:
    return problem.bits(problem.predict(symbols), symbols).flatten(1).sum(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weight", [3.0, 300.0])
@pytest.mark.slow
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
    """Every candidate is bad, and the first one is kept."""
    problem = toy_problem()
    problem = dataclasses.replace(
        problem, distortion=lambda q: 1e4 * (q - problem.start.round()).square().flatten(1).sum(1)
    )
    result = optimize_latent(problem, dataclasses.replace(preset(method, 10), learning_rate=50.0))
    assert torch.equal(result.symbols.float(), problem.start.round())
    assert torch.equal(result.cost, result.start_cost)


@pytest.mark.parametrize("method", [m for m in METHODS if m != "none"])
def test_not_a_number_is_never_taken_for_better(method):
    problem = toy_problem()
    calls = []

    def distortion(q):
        calls.append(1)
        return problem.distortion(q) * (1 if len(calls) == 1 else float("nan"))

    result = optimize_latent(dataclasses.replace(problem, distortion=distortion), preset(method, 20))
    assert torch.equal(result.symbols.float(), problem.start.round()) and torch.isfinite(result.cost).all()


@pytest.mark.parametrize("method", ["admm", "sga", "ste", "paper"])
def test_same_seed_same_symbols(method):
    problem = toy_problem()
    first, again = (optimize_latent(problem, preset(method, 30), seed=3) for _ in range(2))
    assert torch.equal(first.symbols, again.symbols) and first.history == again.history


# Symbols, and the last J that was judged, of 25 iterations of each method on `exact_problem`.
GOLDEN = {
    "admm": ([1, -1, -1, -1, 1, -1, 0, 1, 0, 2, 1, 1, 0, -1, 1, 1, 0, 0, 0, 2, 0, 1, 1, 0], 60.08),
    "paper": ([1, -1, 0, -2, 1, -2, 0, 2, -1, 2, 2, 1, 0, -2, 1, 1, 0, -1, 0, 2, 0, 1, 1, 0], 70.12),
    "sga": ([1, -1, 0, -1, 1, -1, 0, 1, -1, 2, 2, 1, 0, -2, 1, 1, 0, -1, 0, 2, 0, 1, 1, 0], 61.82),
    "ste": ([1, -1, 0, -1, 1, -1, 0, 1, -1, 2, 1, 1, 0, -2, 1, 1, 0, -1, 0, 2, 0, 1, 1, 0], 62.28),
    "iht": ([1, -1, 0, -1, 1, -1, 0, 1, -1, 2, 2, 1, 0, -2, 1, 1, 0, -1, 0, 2, 0, 1, 1, 0], 61.81),
    "round": ([0, 0, -1, -1, 0, -1, 0, 1, -1, 2, 1, 1, 0, -1, 1, 1, 0, 0, 0, 2, 0, 1, 1, 0], 60.04),
    "none": ([1, -1, 0, -2, 1, -2, 0, 2, -1, 2, 2, 1, 0, -2, 1, 1, 0, -1, 0, 2, 0, 1, 1, 0], 67.33),
}


def exact_problem() -> Problem:
    """Like `toy_problem`, of numbers that float32 adds and multiplies exactly: no machine rounds them differently."""
    random = np.random.RandomState(1)

    def eighths(shape, limit):
        return torch.from_numpy(random.randint(-limit, limit + 1, shape) / 8).float()

    mixing, start = torch.eye(24) + eighths((24, 24), 1), eighths((1, 2, 3, 4), 20) + 1 / 16
    target = start.flatten(1) @ mixing

    def bits(prediction, candidates):
        return 1.0 + 1.5 * (candidates - prediction[0]).abs()

    return Problem(
        lambda q: 2 * (q.flatten(1) @ mixing - target).square().sum(1),
        lambda index: (0.25 * index.roll(1, dims=-1), torch.zeros_like(index)),
        lambda prediction, index: bits(prediction, index).flatten(1).sum(1),
        bits,
        start,
        start.round(),
    )


@pytest.mark.parametrize("method", METHODS)
def test_results_are_those_of_earlier_versions(method):
    """Points measured once are not measured again: a method's steps and its random numbers stay as they are."""
    symbols, last_cost = GOLDEN[method]
    result = optimize_latent(exact_problem(), preset(method, 25), seed=5)
    assert result.symbols.flatten().tolist() == symbols
    assert result.history[-1].cost[0] == pytest.approx(last_cost, abs=0.01)


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
    config = dataclasses.replace(preset(method, 40), learning_rate=0.1)
    result = optimize_latent(problem, config)
    fixed = ~movable.expand(SHAPE)
    assert torch.equal(result.symbols.float()[fixed], problem.start.round()[fixed])
    torch.testing.assert_close(result.cost, objective(problem, result.symbols))
    if method in ("admm", "sga", "ste"):
        assert not torch.equal(result.symbols.float(), problem.start.round())


@pytest.mark.parametrize("iterations", [10, *(pytest.param(n, marks=pytest.mark.slow) for n in (30, 100))])
def test_admm_beats_its_rivals_at_the_same_iterations(iterations):
    """On several problems, in sum."""
    totals = dict.fromkeys(METHODS, 0.0)
    for seed in range(5):
        problem = toy_problem(seed, weight=1000.0)
        for method in METHODS:
            totals[method] += float(optimize_latent(problem, preset(method, iterations), seed).cost.sum())
    for method in set(METHODS) - {"admm"}:
        assert totals["admm"] < totals[method] - 1.0, totals
    assert totals["admm"] < 0.93 * totals["none"]


@pytest.mark.slow
def test_a_separable_problem_is_solved_and_the_search_then_stops():
    """Where no symbol depends on another one, place by place is exact: compare with trying all."""
    torch.manual_seed(0)
    start = 3 * torch.randn(2, 4, 3, 3)
    weight = 6.0

    def predict(index):
        return torch.zeros_like(index), torch.zeros_like(index)

    def bits(_, candidates):
        return 2.5 * candidates.abs()

    problem = Problem(
        lambda q: (weight * (q - start).square()).flatten(1).sum(1),
        predict,
        lambda prediction, q: bits(prediction, q).flatten(1).sum(1),
        bits,
        start,
        start.round(),
    )
    result = optimize_latent(problem, preset("admm", 1000))
    every = torch.arange(-12.0, 13).view(-1, 1, 1, 1, 1).expand(-1, *start.shape)
    cost = weight * (every - start).square() + bits(None, every)
    assert torch.equal(result.symbols.float(), every.gather(0, cost.argmin(0, keepdim=True))[0])
    assert len(result.history) < 990


def test_curvature_is_that_of_a_quadratic():
    torch.manual_seed(0)
    place, channel = torch.rand(1, 1, 6, 7) + 0.5, 1 + torch.arange(8.0).view(1, 8, 1, 1) / 8
    hessian = (40 * place * channel).expand(2, 8, 6, 7)
    probe = admm.PROBE * (2.0 * torch.randint(0, 2, (8, 6, 7)) - 1)
    slope = torch.randn(2, 8, 6, 7)
    got = admm.hessian_diagonal(slope, slope + hessian * probe, probe)
    assert (got > 0).all()
    torch.testing.assert_close(got.mean(), hessian.mean(), rtol=0.02, atol=0)
    smooth = torch.nn.functional.avg_pool2d(hessian.mean(1, keepdim=True), 3, 1, 1, count_include_pad=False)
    torch.testing.assert_close(got.mean(1, keepdim=True) / got.mean(), smooth / smooth.mean(), rtol=0.03, atol=0)


def at(q: torch.Tensor, slope: torch.Tensor, distortion: torch.Tensor | float = 1.0) -> admm.Linearization:
    """What the curvature looks at; there are no bits."""
    costs = torch.as_tensor(distortion).expand(len(q)).float()
    return admm.Linearization(q, costs, torch.zeros(len(q)), slope, torch.zeros(3, *q.shape))


def test_followed_curvature_is_what_the_slopes_of_moves_show_where_they_were():
    torch.manual_seed(0)
    q = torch.zeros(2, 8, 6, 20)
    measured, true = torch.full_like(q, 40.0), torch.full_like(q, 40.0)
    true[1, :, :, :10] = 200.0  # of the second picture, the left half
    curvature = admm.FollowedCurvature(measured, penalty=1.0)
    torch.testing.assert_close(curvature.mu, measured)
    for _ in range(3):
        move = torch.randint(-1, 2, q.shape).float()
        move[..., 10:] *= torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
        curvature.observe(move, at(q, torch.ones_like(q)), at(q + move, 1 + true * move), torch.zeros(2))
    torch.testing.assert_close(curvature.mu[0], measured[0])
    torch.testing.assert_close(curvature.mu[1, :, :, :8], true[1, :, :, :8], rtol=0.02, atol=0)
    torch.testing.assert_close(curvature.mu[1, :, :, 12:], measured[1, :, :, 12:])  # none of its moves reached there
    for _ in range(20):  # a slope that falls along every move has no curvature to go by
        curvature.observe(move, at(q, torch.ones_like(q)), at(q + move, 1 - 1e4 * move), torch.zeros(2))
    torch.testing.assert_close(curvature.mu.amin(), admm.SECANT_LIMITS[0] * torch.tensor(40.0))


def test_followed_curvature_rises_with_moves_that_are_not_taken_and_comes_back():
    curvature = admm.FollowedCurvature(torch.full((2, 1, 1, 1), 10.0), penalty=0.5)
    steps = []
    for taken in ([True, False], [True, False], [True, True], [True, True], [True, True], [True, True]):
        curvature.judge(torch.tensor(taken))
        steps.append(curvature.mu.flatten().tolist())
    assert [first for first, _ in steps] == [5.0] * 6
    np.testing.assert_allclose([second for _, second in steps], [10, 20, 40 / 3, 80 / 9, 160 / 27, 5], rtol=1e-6)


def test_a_probe_that_shows_next_to_no_curvature_is_not_believed():
    """A parabola whose minimum is 0 has at least the mean curvature that its slope and its height tell."""
    torch.manual_seed(0)
    q = torch.randn(2, 4, 6, 7)
    hessian = torch.tensor([8.0, 8.0]).view(2, 1, 1, 1)
    now = at(q, hessian * q, (hessian / 2 * q.square()).flatten(1).sum(1))
    least = admm.FollowedCurvature.least(now)
    torch.testing.assert_close(least, admm.LEAST_SHARE * torch.tensor([8.0, 8.0]))
    assert admm.Curvature.least(now) is None
    probe = admm.PROBE * (2.0 * torch.randint(0, 2, (4, 6, 7)) - 1)
    seen = torch.tensor([-5.0, 8.0]).view(2, 1, 1, 1)  # what the probe shows: of the first picture, nonsense
    got = admm.hessian_diagonal(now.slope, now.slope + seen * probe, probe, least)
    torch.testing.assert_close(got, torch.tensor([1.6, 8.0]).view(2, 1, 1, 1).expand_as(got))


def test_the_moves_tell_the_curvature_where_the_probe_does_not():
    """F has ripples between the integers, by which it seems to curve downward: with what `mse` does, nothing is found."""

    def rippled(problem: Problem) -> Problem:
        def distortion(q):
            ripple = 10.0 * (1 + (2 * torch.pi * q).cos())
            return problem.distortion(q) + (ripple - ripple.detach()).flatten(1).sum(1)

        return dataclasses.replace(problem, distortion=distortion)

    saved = dict.fromkeys(("mse", "pesq"), 0.0)
    for seed in range(3):
        plain = toy_problem(seed, weight=300.0)
        best = optimize_latent(plain, preset("admm", 60), seed)
        for name in saved:
            found = optimize_latent(rippled(plain), preset("admm", 60, name), seed)
            saved[name] += float(((found.start_cost - found.cost) / (best.start_cost - best.cost)).mean()) / 3
    assert saved["pesq"] > 0.8 and saved["mse"] < 0.3, saved


def test_a_noisy_move_that_raises_j_far_is_not_taken():
    looked = []

    def cliff(q):  # a slope that promises much, and nothing but loss wherever it leads
        if q.requires_grad:
            looked.append(q.detach().clone())
        away = (q - problem.fallback).abs().flatten(1)
        return 1000.0 * (1 + away.max(1).values.detach().ceil()) - 50.0 * away.sum(1) + 50.0 * away.sum(1).detach()

    problem = dataclasses.replace(toy_problem(), distortion=cliff)
    optimize_latent(problem, preset("admm", 20))
    moved = [(q - problem.fallback).abs().max() for q in looked]
    assert max(moved) == 1  # tried again and again, but never from where one of them led


def test_each_picture_of_a_batch_keeps_its_own_best():
    """What one picture reaches does not depend on when the others get better."""
    problem = toy_problem()
    result = optimize_latent(problem, preset("admm", 60))
    seen = np.array([iterate.cost for iterate in result.history])
    np.testing.assert_allclose(result.cost.numpy(), seen.min(0), rtol=1e-6)


def test_history_is_of_judged_candidates():
    problem = toy_problem()
    history = optimize_latent(problem, preset("admm", 30)).history
    assert all(iterate.quantized and len(iterate.cost) == SHAPE[0] for iterate in history)
    start = problem.start.round()
    assert history[0] == Iterate(
        0,
        problem.distortion(start).tolist(),
        true_rate(problem, start).tolist(),
        objective(problem, start).tolist(),
        None,
        True,
    )
    assert [iterate.iteration for iterate in history] == list(range(len(history))) and len(history) > 20
    history = optimize_latent(problem, dataclasses.replace(preset("sga", 30), judge_every=7)).history
    assert [iterate.iteration for iterate in history] == [0, 21, 28, 30]  # from the half on
    rounded_at_the_end = optimize_latent(problem, preset("round", 30)).history
    assert [iterate.iteration for iterate in rounded_at_the_end] == [0, 30]
    assert len(optimize_latent(problem, preset("none", 30)).history) == 1


@pytest.mark.parametrize("method", METHODS)
def test_an_observer_sees_every_iteration_and_changes_nothing(method):
    problem = toy_problem()
    config = dataclasses.replace(preset(method, 20), noise_until=1.0)
    seen: list[Iterate] = []
    result, alone = optimize_latent(problem, config, 0, seen.append), optimize_latent(problem, config)
    assert torch.equal(result.symbols, alone.symbols) and result.history == alone.history
    assert [iterate for iterate in seen if iterate.quantized] == result.history
    last = {"none": 0, "admm": 19, "iht": 19}.get(method, 20)  # one of ADMM's back-propagations is the probe
    assert sorted({iterate.iteration for iterate in seen}) == list(range(last + 1))
    for iterate in seen:
        np.testing.assert_allclose(np.add(iterate.distortion, iterate.bits), iterate.cost, rtol=1e-6)
        has_penalty = method in ("admm", "iht", "paper") and iterate.iteration > 0
        assert (iterate.penalty is not None) == has_penalty
        assert not has_penalty or (len(iterate.penalty) == SHAPE[0] and min(iterate.penalty) > 0)
    assert any(not iterate.quantized for iterate in seen) == (method in ("paper", "sga", "ste", "round"))
    if method == "paper":
        assert {mu for iterate in seen[1:] for mu in iterate.penalty} == {config.penalty}


def test_the_penalty_rises_where_a_move_is_not_taken():
    """Nothing but loss wherever a slope leads that promises much."""
    problem = toy_problem()

    def cliff(q):
        away = (q - problem.fallback).abs().flatten(1)
        return 1000.0 * (1 + away.max(1).values.detach().ceil()) - 50.0 * away.sum(1) + 50.0 * away.sum(1).detach()

    # the moves show ten times the curvature expected at first, and after that every refusal raises mu by a half
    history = optimize_latent(dataclasses.replace(problem, distortion=cliff), preset("admm", 12)).history
    penalties = np.array([iterate.penalty for iterate in history[1:]])
    assert (np.diff(penalties, axis=0) > 0).all()


def test_what_an_observer_raises_ends_the_search():
    class Enough(Exception):
        pass

    def stop(iterate: Iterate) -> None:
        if iterate.iteration == 3:
            raise Enough

    with pytest.raises(Enough):
        optimize_latent(toy_problem(), preset("admm", 30), observe=stop)


@pytest.mark.parametrize("at", [0, 3])
def test_an_observer_may_end_the_search_with_the_best_so_far(at):
    seen: list[Iterate] = []

    def stop(iterate: Iterate) -> None:
        seen.append(iterate)
        if iterate.iteration == at:
            raise StopSearch

    result = optimize_latent(toy_problem(), preset("admm", 30), observe=stop)
    assert result.history == seen and seen[-1].iteration == at
    best = np.min([iterate.cost for iterate in seen], axis=0)
    np.testing.assert_allclose(result.cost, best, rtol=1e-6)
    whole = optimize_latent(toy_problem(), preset("admm", 30))
    assert whole.history[: len(seen)] == seen and (whole.cost < result.cost).all()


def test_every_method_has_settings_and_a_function():
    for method in METHODS:
        assert preset(method).method == method and callable(solver(method))
    with pytest.raises(ValueError, match="search method 'ADMM' is not one of admm, paper, "):
        preset("ADMM")


def test_iterations_are_back_propagations():
    problem = toy_problem()
    for method in METHODS:
        calls = []

        def distortion(q):
            calls.append(q.requires_grad)
            return problem.distortion(q)

        optimize_latent(
            dataclasses.replace(problem, distortion=distortion),
            dataclasses.replace(preset(method, 20), noise_until=1.0),
        )
        assert sum(calls) == (0 if method == "none" else 21 if method in ("admm", "iht") else 20), method


def test_projection_minimizes_over_its_candidates():
    """Of a center and its neighbors the best one; with these costs it is the nearest, its neighbor or one toward zero."""
    problem = toy_problem()
    target = torch.linspace(-4, 4, int(np.prod(SHAPE))).view(SHAPE)
    now, prediction = admm.linearize(problem, target.round()), problem.predict(target.round())
    for mu in (2.0, 5.0, 30.0):
        mu = torch.full((1, 1, 1, 1), mu)
        got, own = admm.project(problem, now, target, mu, None)
        every = torch.stack([now.q, now.q - 1, now.q + 1])
        cost = mu / 2 * (target - every).square() + problem.bits(prediction, every)
        assert torch.equal(got, every.gather(0, cost.argmin(0, keepdim=True))[0])
        more = problem.bits(prediction, got) - problem.bits(prediction, now.q)
        torch.testing.assert_close(own, more.flatten(1).sum(1))
        gumbel = admm.GumbelNoise(SHAPE[1:], torch.Generator().manual_seed(0), torch.device("cpu"))
        drawn, _ = admm.project(problem, now, target, mu, 50 * gumbel.draw())
        assert not torch.equal(drawn, got) and ((drawn - now.q).abs() <= 1).all()
        assert (admm.project(problem, now, target, mu, 1e-3 * gumbel.draw())[0] == got).float().mean() > 0.9


def test_noise_is_gumbel_and_moves():
    gumbel = admm.GumbelNoise((8, 40, 50), torch.Generator().manual_seed(0), torch.device("cpu"))
    first, second = gumbel.draw(), gumbel.draw()
    assert first.shape == (3, 8, 40, 50) and not torch.equal(first, second)
    assert abs(float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1])) < 0.02
    for draw in (first, second):  # mean and variance of the distribution
        assert float(draw.mean()) == pytest.approx(0.5772, abs=0.02)
        assert float(draw.var()) == pytest.approx(np.pi**2 / 6, rel=0.03)


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


@pytest.mark.parametrize("coder", [pytest.param("huffman", marks=pytest.mark.slow), "context"])
@pytest.mark.parametrize("method", METHODS)
def test_through_the_tiny_model(codec, method, coder, ramp_image):
    picture, _ = codec.kind.to_picture(ramp_image)
    step = 100
    plain = codec.analyze(picture, step)
    task = Task([picture], False, step, codec.coders[coder], Settings.of(method, objective="mse"))
    (window,) = codec.tiled_search.tiles(*plain.shape[1:])
    problem, _ = codec.tiled_search.problem(task, plain[None], plain[None].round(), window)
    result = optimize_latent(problem, preset(method, 20))
    with torch.no_grad():
        torch.testing.assert_close(result.start_cost, objective(problem, plain[None].round()))
        torch.testing.assert_close(result.cost, objective(problem, result.symbols))
    assert result.cost <= result.start_cost
    bits = codec.coders[coder].cost_bits(result.symbols[0].numpy(), step)
    assert float(true_rate(problem, result.symbols.float())) == pytest.approx(bits, rel=0.03, abs=8)
    if method in ("admm", "sga", "ste"):
        assert result.cost < 0.995 * result.start_cost
