"""Entropic transport against ott-jax and POT, and its limits: W1 for small epsilon, half the energy for large."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ott.geometry import geometry
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn as ott_sinkhorn
from scipy.spatial.distance import cdist

from gmijax import distances

KEY = jax.random.key(0)
sinkhorn = partial(distances.sinkhorn, permutations=0, key=KEY)
divergence = partial(distances.sinkhorn_divergence, permutations=0, key=KEY)
CONVENTIONS = ("transport", "entropic")
EPSILON = {"euclidean": 0.5, "squared": 2.0}
SETTINGS = [(cost, convention) for cost in EPSILON for convention in CONVENTIONS]
seeds = st.integers(0, 10_000)


def laws(seed):
    """20 and 15 weighted points in three dimensions."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(15, 3)) + 0.5
    u, v = rng.uniform(0.5, 2, 20), rng.uniform(0.5, 2, 15)
    return x, y, u / u.sum(), v / v.sum()


def single(*arrays):
    return [array.astype(np.float32) for array in arrays]


def costs(x, y, cost):
    return cdist(x, y) if cost == "euclidean" else cdist(x, y, "sqeuclidean")


def pot(x, y, u, v, *, cost, convention, epsilon):
    """POT's coupling, and from it the cost in either convention; float64, to 1e-12."""
    matrix = costs(x, y, cost)
    coupling = ot.sinkhorn(u, v, matrix, epsilon, stopThr=1e-12, numItermax=100_000)
    transport = (coupling * matrix).sum()
    if convention == "transport":
        return transport
    return transport + epsilon * (coupling * np.log(coupling / np.outer(u, v))).sum()


def pot_divergence(x, y, u, v, **options):
    within = pot(x, x, u, u, **options) + pot(y, y, v, v, **options)
    return pot(x, y, u, v, **options) - within / 2


@jax.jit
def ott_costs(matrix, u, v, epsilon):
    """ott-jax's <P, C> and its regularised cost, in float32."""
    problem = linear_problem.LinearProblem(geometry.Geometry(cost_matrix=matrix, epsilon=epsilon), u, v)
    output = ott_sinkhorn.Sinkhorn(threshold=1e-6, max_iterations=20_000)(problem)
    return output.primal_cost, output.reg_ot_cost


def ott(x, y, u, v, *, cost, convention, epsilon):
    values = ott_costs(*single(costs(x, y, cost), u, v), epsilon)
    return float(values[CONVENTIONS.index(convention)])


def ott_divergence(x, y, u, v, **options):
    return ott(x, y, u, v, **options) - (ott(x, x, u, u, **options) + ott(y, y, v, v, **options)) / 2


ORACLES = {"pot": (pot, pot_divergence), "ott": (ott, ott_divergence)}


@pytest.mark.parametrize("oracle", list(ORACLES))
@pytest.mark.parametrize(("cost", "convention"), SETTINGS)
@settings(max_examples=4)
@given(seeds)
def test_single_precision_agrees_with_both_peers(oracle, cost, convention, seed):
    """To 1e-4; a divergence to 1e-4 of the cost, of which it is a small difference."""
    options = {"cost": cost, "convention": convention, "epsilon": EPSILON[cost]}
    x, y, u, v = laws(seed)
    plain, debiased = ORACLES[oracle]
    first, second, mine, yours = single(x, y, u, v)
    result = sinkhorn(first, second, weights_x=mine, weights_y=yours, **options)
    expected = plain(x, y, u, v, **options)
    assert result.converged
    assert float(result.value) == pytest.approx(expected, rel=1e-4)
    result = divergence(first, second, weights_x=mine, weights_y=yours, **options)
    assert result.converged
    assert float(result.value) == pytest.approx(debiased(x, y, u, v, **options), rel=1e-4, abs=1e-4 * expected)


@pytest.mark.parametrize(("cost", "convention"), SETTINGS)
@settings(max_examples=4)
@given(seeds)
def test_double_precision_agrees_with_pot(cost, convention, seed):
    options = {"cost": cost, "convention": convention, "epsilon": EPSILON[cost]}
    x, y, u, v = laws(seed)
    with jax.enable_x64(True):
        plain = float(sinkhorn(x, y, weights_x=u, weights_y=v, tolerance=1e-12, **options).value)
        debiased = float(divergence(x, y, weights_x=u, weights_y=v, tolerance=1e-12, **options).value)
    expected = pot(x, y, u, v, **options)
    assert plain == pytest.approx(expected, rel=1e-9)
    assert debiased == pytest.approx(pot_divergence(x, y, u, v, **options), abs=1e-9 * expected)


@pytest.mark.parametrize("cost", list(EPSILON))
def test_the_default_epsilon_is_a_share_of_the_pooled_spread(cost, x64):
    """0.05 of the (root) mean squared distance of two pooled rows, weighted as the laws' rows are."""
    x, y, *_ = laws(1)
    pooled = np.concatenate([x, y])
    typical = cdist(pooled, pooled, "sqeuclidean").mean()
    epsilon = 0.05 * (typical if cost == "squared" else np.sqrt(typical))
    assert float(sinkhorn(x, y, cost=cost).value) == pytest.approx(
        float(sinkhorn(x, y, cost=cost, epsilon=epsilon).value), rel=1e-10
    )


@settings(max_examples=3)
@given(seeds)
def test_small_epsilon_falls_to_exact_w1(seed):
    """<P, C> falls with epsilon. KL is at most either entropy, and so the entropic costs of a law with itself are at
    most epsilon times its entropy: that holds the regularised cost and its divergence between two ends at any epsilon.
    """
    x, y, u, v = laws(seed)
    exact = distances.w1_exact(x, y, weights_x=u, weights_y=v).value
    entropies = -(u * np.log(u)).sum(), -(v * np.log(v)).sum()
    epsilons = np.array([1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001])
    options = {"weights_x": u, "weights_y": v, "tolerance": 1e-6, "max_iterations": 100_000}
    slack = 1e-4 * exact  # mass that is not yet where it should be

    def along(estimate, convention):
        found = [estimate(x, y, epsilon=e, convention=convention, **options) for e in epsilons]
        assert all(result.converged for result in found)
        return np.array([float(result.value) for result in found])

    with jax.enable_x64(True):
        transport, regularised = (along(sinkhorn, convention) for convention in CONVENTIONS)
        debiased = along(divergence, "entropic")
        sharp = divergence(x, y, epsilon=epsilons[-1], convention="transport", **options).value
    assert (np.diff(transport) < 0).all()
    assert (np.diff(regularised) < 0).all()
    assert transport[-1] >= exact - slack
    assert (transport < regularised).all()
    assert (regularised <= exact + epsilons * min(entropies) + slack).all()
    assert (debiased >= exact - epsilons * np.mean(entropies) - slack).all()
    for smallest in (transport[-1], float(sharp), debiased[-1]):
        assert smallest == pytest.approx(exact, rel=1e-3)


@pytest.mark.slow
@settings(max_examples=5)
@given(seeds)
def test_large_epsilon_tends_to_half_the_energy_distance_or_the_squared_shift(seed):
    """Feydy et al. (2019): MMD^2 / 2 with the kernel -C. For C = |x - y| half the energy distance (V-statistic); for
    C = |x - y|^2 the squared distance of the means. The deviation falls like 1 / epsilon."""
    x, y, u, v = laws(seed)
    limits = {
        "euclidean": u @ cdist(x, y) @ v - (u @ cdist(x, x) @ u + v @ cdist(y, y) @ v) / 2,
        "squared": ((u @ x - v @ y) ** 2).sum(),
    }
    with jax.enable_x64(True):
        for cost, limit in limits.items():
            for convention in CONVENTIONS:
                near, far = (
                    float(
                        divergence(
                            x, y, weights_x=u, weights_y=v, epsilon=e, cost=cost, convention=convention, tolerance=1e-10
                        ).value
                    )
                    for e in (1e4, 1e3)
                )
                size = u @ costs(x, y, cost) @ v
                assert near == pytest.approx(limit, abs=1e-3 * size)
                assert (near - limit) / (far - limit) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize(("cost", "convention"), SETTINGS)
def test_the_divergence_of_a_law_from_itself_is_0(cost, convention):
    x, _, u, _ = laws(2)
    (x, u) = single(x, u)
    options = {"cost": cost, "convention": convention, "epsilon": EPSILON[cost]}
    order = np.random.default_rng(0).permutation(len(x))
    scale = costs(x, x, cost).mean()
    for other, mass in ((x, u), (x[order], u[order])):
        value = float(divergence(x, other, weights_x=u, weights_y=mass, **options).value)
        assert value == pytest.approx(0, abs=1e-5 * scale)
    # The cost itself is not: that is what the divergence takes off.
    assert float(sinkhorn(x, x, weights_x=u, weights_y=u, **options).value) > 0.02 * scale


@pytest.mark.parametrize("cost", list(EPSILON))
@settings(max_examples=15)
@given(seeds, st.floats(1.0, 20.0), st.floats(0.0, 1.0))
def test_the_entropic_divergence_is_never_negative(cost, seed, times, share):
    """Also between laws that are nearly the same: y moves from x's law towards another."""
    x, _, u, _ = laws(seed)
    rng = np.random.default_rng(seed)
    y = x + 0.3 * share * rng.normal(size=x.shape)
    options = {"weights_x": u, "weights_y": u, "epsilon": times * EPSILON[cost], "cost": cost}
    with jax.enable_x64(True):
        result = divergence(x, y, tolerance=1e-8, max_iterations=20_000, **options)
    assert result.converged
    assert float(result.value) >= -1e-9
    if share > 0.1:
        assert float(result.value) > 0


def test_too_few_iterations_are_admitted():
    x, y, *_ = single(*laws(3))
    assert not sinkhorn(x, y, epsilon=0.01, max_iterations=11).converged
    assert not divergence(x, y, epsilon=0.01, max_iterations=11).converged
    assert sinkhorn(x, y, epsilon=0.5).converged


@pytest.mark.parametrize("estimate", [sinkhorn, divergence], ids=["sinkhorn", "divergence"])
def test_standard_errors_are_those_of_the_influences(estimate, x64):
    """The influence of a row is what a little mass moved to it adds, here by central differences."""
    x, y, *_ = laws(4)
    u, v = np.full(20, 1 / 20), np.full(15, 1 / 15)
    for convention in CONVENTIONS:
        options = {"epsilon": 0.3, "convention": convention, "tolerance": 1e-11}
        step, influences = 1e-4, []
        for masses, other in ((u, "weights_x"), (v, "weights_y")):
            moved = []
            for row in range(len(masses)):
                ends = []
                for sign in (1, -1):
                    weights = masses * (1 - sign * step)
                    weights[row] += sign * step
                    laws_weights = {"weights_x": u, "weights_y": v} | {other: weights}
                    ends.append(float(estimate(x, y, **laws_weights, **options).value))
                moved.append((ends[0] - ends[1]) / (2 * step))
            influences.append(np.array(moved))
        variance = sum(part.var(ddof=1) / len(part) for part in influences)
        # "transport" differentiates by epsilon with a finite step, which costs it a few digits.
        rel = 1e-5 if convention == "entropic" else 5e-3
        assert float(estimate(x, y, **options).standard_error) == pytest.approx(np.sqrt(variance), rel=rel)


def test_weights_need_no_common_unit():
    x, y, u, v = single(*laws(5))
    expected = float(sinkhorn(x, y, weights_x=u, weights_y=v, epsilon=0.5).value)
    assert float(sinkhorn(x, y, weights_x=100 * u, weights_y=jnp.asarray(v) / 7, epsilon=0.5).value) == pytest.approx(
        expected, rel=1e-6
    )
