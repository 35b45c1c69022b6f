"""Entropic transport by Sinkhorn's iterations: the cost in two conventions, and the debiased divergence."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import check_choice, check_count
from gmijax.distances._checks import check_common, check_pair, check_positive, count_rows
from gmijax.distances._distance import Distance
from gmijax.distances._draws import split_rows
from gmijax.distances._inference import summary, weighted_variance
from gmijax.distances._pooled import pooled_mean, squared_distances
from gmijax.distances._projection import project

INNER = 10  # iterations by matrix-vector products between two by log-sum-exp
STEP = 0.05  # relative step in epsilon of the transport convention's influence
RELATIVE = 0.05  # default epsilon over the typical cost


class _Potentials(NamedTuple):
    f: Array
    g: Array
    error: Array  # total variation of the first marginal, twice


def _solve(
    cost: Array, a: Array, b: Array, epsilon: Array, *, symmetric: bool, tolerance: float, iterations: int, start=None
) -> _Potentials:
    """Potentials with exp((f + g - C) / epsilon) a b a coupling; epsilon comes down from the mean cost."""
    log_a, log_b = jnp.log(a), jnp.log(b)
    mean = a @ cost @ b

    def update_f(g, eps):
        return -eps * logsumexp((g[None, :] - cost) / eps + log_b[None, :], axis=1)

    def update_g(f, eps):
        return -eps * logsumexp((f[:, None] - cost) / eps + log_a[:, None], axis=0)

    def round_of(state):
        step, f, g, _ = state
        # From a start that is nearly right there is nothing to come down from.
        eps = epsilon if start is not None else jnp.maximum(epsilon, mean * 0.5 ** step.astype(mean.dtype))
        fresh = update_f(g, eps)
        error = jnp.where(eps <= epsilon, jnp.sum(a * jnp.abs(jnp.expm1((f - fresh) / eps))), jnp.inf)
        if symmetric:
            f = (f + fresh) / 2
            g = f
        else:
            f = fresh
            g = update_g(f, eps)
        kernel = jnp.exp((f[:, None] + g[None, :] - cost) / eps)

        def inner(_, scalings):
            u, v = scalings
            if symmetric:
                u = jnp.sqrt(u / (kernel @ (b * u)))
                return u, u
            u = 1 / (kernel @ (b * v))
            return u, 1 / ((a * u) @ kernel)

        u, v = lax.fori_loop(0, INNER, inner, (jnp.ones_like(f), jnp.ones_like(g)))
        next_f, next_g = f + eps * jnp.log(u), g + eps * jnp.log(v)
        # Products may overflow where log-sum-exp does not; then this round was worth one iteration.
        good = jnp.all(jnp.isfinite(next_f)) & jnp.all(jnp.isfinite(next_g))
        return step + 1, jnp.where(good, next_f, f), jnp.where(good, next_g, g), error

    def running(state):
        return (state[0] < -(-iterations // (INNER + 1))) & ~(state[3] <= tolerance)

    f, g = (jnp.zeros_like(a), jnp.zeros_like(b)) if start is None else start
    _, f, g, error = lax.while_loop(running, round_of, (jnp.zeros((), jnp.int32), f, g, jnp.asarray(jnp.inf, a.dtype)))
    # Potentials of which one follows from the other: the entropic value's error is then of second order in theirs.
    g = update_g(f, epsilon)
    return _Potentials(f, g, error)


class _Term(NamedTuple):
    """One regularised cost: its value, the influence of the rows on either side, and whether it converged."""

    value: Array
    influence_x: Array
    influence_y: Array
    converged: Array


def _term(cost, a, b, epsilon, *, symmetric, convention, tolerance, iterations, influence) -> _Term:
    solve = partial(_solve, cost, a, b, symmetric=symmetric, tolerance=tolerance, iterations=iterations)
    f, g, error = solve(epsilon)
    converged = error <= tolerance
    if convention == "entropic":
        return _Term(a @ f + b @ g, f, g, converged)
    coupling = jnp.exp((f[:, None] + g[None, :] - cost) / epsilon) * a[:, None] * b[None, :]
    value = jnp.sum(coupling * cost)
    if not influence:
        return _Term(value, f, g, converged)
    # <P, C> = V - epsilon dV / d epsilon with V the entropic value, and so do their influences.
    more, less = (solve(epsilon * (1 + sign * STEP), start=(f, g)) for sign in (1, -1))
    slope_f, slope_g = (more.f - less.f) / (2 * STEP), (more.g - less.g) / (2 * STEP)
    return _Term(value, f - slope_f, g - slope_g, converged)


def _costs(first: Array, second: Array, cost: str) -> Array:
    squared = squared_distances(first, second)
    if first is second:  # rounding would leave a row at some distance from itself
        squared = jnp.where(jnp.eye(first.shape[0], dtype=bool), 0, squared)
    return squared if cost == "squared" else jnp.sqrt(squared)


def _statistic(x, y, weights_x, weights_y, epsilon, *, debiased, cost, influence, **options) -> _Term:
    a, b = weights_x / jnp.sum(weights_x), weights_y / jnp.sum(weights_y)
    term = partial(_term, epsilon=epsilon, influence=influence, **options)
    between = term(_costs(x, y, cost), a, b, symmetric=False)
    if not debiased:
        return between
    within_x = term(_costs(x, x, cost), a, a, symmetric=True)
    within_y = term(_costs(y, y, cost), b, b, symmetric=True)
    return _Term(
        between.value - (within_x.value + within_y.value) / 2,
        between.influence_x - within_x.influence_x,
        between.influence_y - within_y.influence_y,
        between.converged & within_x.converged & within_y.converged,
    )


@partial(
    jax.jit,
    static_argnames=("debiased", "cost", "convention", "tolerance", "iterations", "permutations", "level"),
)
def _estimate(x, y, weights_x, weights_y, epsilon, *, permutations, level, cost, key, **options):
    centre = pooled_mean(x, y, weights_x, weights_y)
    x, y = x - centre, y - centre
    if epsilon is None:
        total = jnp.sum(weights_x) + jnp.sum(weights_y)
        # Twice the total variance: the mean squared distance of two pooled rows, whatever their labels.
        spread = 2 * (weights_x @ jnp.sum(x**2, axis=1) + weights_y @ jnp.sum(y**2, axis=1)) / total
        typical = spread if cost == "squared" else jnp.sqrt(spread)
        epsilon = RELATIVE * jnp.where(typical > 0, typical, 1)
    observed = _statistic(x, y, weights_x, weights_y, epsilon, cost=cost, influence=True, **options)
    variance = weighted_variance(observed.influence_x, weights_x) + weighted_variance(observed.influence_y, weights_y)

    def statistic(*laws):
        return _statistic(*laws, epsilon=epsilon, cost=cost, influence=False, **options).value

    permuted, halves = split_rows(statistic, x, y, weights_x, weights_y, permutations, key=key)
    statistics = jnp.concatenate([observed.value[None], permuted, halves])
    parts = summary(statistics, permutations, standard_error=jnp.sqrt(variance), level=level)
    return {**parts, "converged": observed.converged}


def _front_door(
    x, y, weights_x, weights_y, *, name, epsilon, cost, convention, tolerance, max_iterations, projection,
    permutations, level, given, space, key, debiased,
):  # fmt: skip
    check_common(given, level, permutations)
    check_choice(convention, ("transport", "entropic"), "convention")
    check_choice(cost, ("euclidean", "squared"), "cost")
    check_count(max_iterations, 1, "max_iterations")
    check_positive(tolerance, "tolerance")
    x, y, weights_x, weights_y = check_pair(x, y, weights_x, weights_y)
    if epsilon is not None:
        check_positive(epsilon, "epsilon")
        epsilon = jnp.asarray(epsilon, x.dtype)
        if epsilon.ndim:
            raise ValueError(f"epsilon must be one number, got shape {epsilon.shape}")
    n, m = count_rows(weights_x), count_rows(weights_y)
    x, y, discarded = project(x, y, weights_x, weights_y, projection)
    parts = _estimate(
        x, y, weights_x, weights_y, epsilon,
        debiased=debiased, cost=cost, convention=convention, tolerance=tolerance, iterations=max_iterations,
        permutations=permutations, level=level, key=key,
    )  # fmt: skip
    return Distance(
        **parts, discarded=discarded, n=n, m=m, name=f"{name} ({convention}, {cost} cost)",
        given=given, space=space, level=level,
    )  # fmt: skip


def sinkhorn(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
    convention: str = "transport",
    cost: str = "euclidean",
    epsilon: float | Array | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 5000,
    projection: int | None = None,
    permutations: int = 199,
    level: float = 0.95,
    given: str = "none",
    space: str = "",
    key: Array,
) -> Distance:
    """The entropic transport cost: P minimises <P, C> + epsilon KL(P | a x b) over couplings of a and b.

    "transport" reports <P, C> (POT's `sinkhorn2`); it is never below the transport cost and falls to it as epsilon
    goes to 0. "entropic" reports <P, C> + epsilon KL(P | a x b) (ott-jax's `reg_ot_cost`, Feydy et al. 2019,
    arXiv:1810.08278), which is higher still. Neither is 0 for equal laws (see `sinkhorn_divergence`), and neither is a
    drop-in for W1: at epsilon of 1 % of the mean cost the first is some 2 % high.

    At a fixed epsilon the entropic value converges like n^(-1/2) in any dimension (Mena and Weed 2019,
    arXiv:1905.11882), and the interval by its potentials holds, at the null too unless the potentials are constant.
    That of "transport" adds the potentials' derivative in epsilon. Needs memory for n m costs.

    Args:
      x: points of the first law, shape (n, ...).
      y: points of the second law, shape (m, ...).
      weights_x: weights of x, shape (n,), >= 0; 0 for padding. Equal where None.
      weights_y: weights of y, shape (m,).
      convention: "transport" or "entropic".
      cost: "euclidean" distance or "squared" distance.
      epsilon: in the cost's unit. Where None, 0.05 of the root mean squared (or of the mean squared) distance of two
        pooled rows. Below about 0.005 of that, float32 does not reach the tolerance.
      tolerance: largest L1 error of the first marginal.
      max_iterations: after which `converged` is false.
      projection: the number of joint principal axes to project to first; None for all dimensions.
      permutations: of the labels, for the null and the p-value; 0 for neither, nor for the halves.
      level: coverage of the interval.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      key: a PRNG key.

    Returns:
      A `Distance`, in the cost's unit.

    Raises:
      ValueError: for points, weights or options that do not fit, by name.
    """
    return _front_door(
        x, y, weights_x, weights_y, name="Sinkhorn cost", epsilon=epsilon, cost=cost, convention=convention,
        tolerance=tolerance, max_iterations=max_iterations, projection=projection, permutations=permutations,
        level=level, given=given, space=space, key=key, debiased=False,
    )  # fmt: skip


def sinkhorn_divergence(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
    convention: str = "entropic",
    cost: str = "euclidean",
    epsilon: float | Array | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 5000,
    projection: int | None = None,
    permutations: int = 199,
    level: float = 0.95,
    given: str = "none",
    space: str = "",
    key: Array,
) -> Distance:
    """The Sinkhorn divergence V(x, y) - V(x, x) / 2 - V(y, y) / 2, V the `sinkhorn` cost in its convention.

    "entropic" is Feydy et al.'s (2019, arXiv:1810.08278): >= 0, and 0 for equal laws only. "transport" (Genevay et al.
    2018, arXiv:1706.00292) is the sharp one, without that guarantee. Both tend to the transport cost as epsilon goes to
    0 and to an MMD (the energy distance halved) as it grows. The interval holds away from the null, where the
    influences cancel; there read the p-value. Between nearly equal laws at a small epsilon `converged` may need more
    iterations than the default.

    Args:
      x: points of the first law, shape (n, ...).
      y: points of the second law, shape (m, ...).
      weights_x: as in `sinkhorn`.
      weights_y: as in `sinkhorn`.
      convention: "transport" or "entropic".
      cost: as in `sinkhorn`.
      epsilon: as in `sinkhorn`.
      tolerance: as in `sinkhorn`.
      max_iterations: as in `sinkhorn`.
      projection: as in `sinkhorn`.
      permutations: as in `sinkhorn`.
      level: coverage of the interval.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      key: a PRNG key.

    Returns:
      A `Distance`, in the cost's unit.

    Raises:
      ValueError: for points, weights or options that do not fit, by name.
    """
    return _front_door(
        x, y, weights_x, weights_y, name="Sinkhorn divergence", epsilon=epsilon, cost=cost, convention=convention,
        tolerance=tolerance, max_iterations=max_iterations, projection=projection, permutations=permutations,
        level=level, given=given, space=space, key=key, debiased=True,
    )  # fmt: skip
