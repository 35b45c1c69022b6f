"""The Bayesian bootstrap of a GMI: every replicate's own supremum over s, from a handful of matrix products."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from gmijax._checks import check_choice, check_level, is_concrete
from gmijax.rates._checks import check_scores
from gmijax.rates._gmi import exclude_curve, front_door, include_curve
from gmijax.rates._scale import Curve, maximise_scale
from gmijax.rates._tiles import Moments, Pairing, dense_tiles, extremes, plain_sums, tilted_moments
from gmijax.stats import Interval, exponential_weights, normal_interval

PILOT = 48
FINE = 9
HEIGHT = 256
WIDTH = 5.0  # standard deviations of log s* on either side


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bootstrap:
    """Bootstrap replicates of a GMI, nats.

    Attributes:
      draws: sup over s >= 0 of each replicate's weighted I(s), (draws,).
      scales: where each is attained, (draws,).
      plug_in: the same supremum with equal weights.
      standard_error: standard deviation of the draws.
      interval: `centre` -+ z standard errors at `level`. On 500 samples of n = 200 it covered 0.92 at 95 %, the basic
        interval of the same draws 0.90 to 0.91, so only the standard error is taken from them.
      centre: the value that the interval was put around.
      converged: whether every maximum lay inside the range of s that was tabulated.
      level: coverage of `interval`.
    """

    draws: jax.Array = field(repr=False)
    scales: jax.Array = field(repr=False)
    plug_in: jax.Array
    standard_error: jax.Array
    interval: Interval
    centre: jax.Array
    converged: jax.Array
    level: float = field(metadata={"static": True})


def weighted_curves(
    scores: Float[Array, "n m"],
    pairing: Pairing,
    weights: Float[Array, "m draws"],
    scales: Float[Array, " nodes"],
    include: bool,
) -> Float[Array, "nodes draws"]:
    """Every replicate's I(s) at each node: one matrix product a block of rows, for all nodes and replicates."""
    n, m = scores.shape
    draws, nodes, height = weights.shape[1], scales.shape[0], min(HEIGHT, n)

    def block(i, sums):
        top = jnp.minimum(i * height, n - height)
        positives = lax.dynamic_slice_in_dim(pairing.positives, top, height)
        tile = lax.dynamic_slice(scores, (top, 0), (height, m))
        positive = jnp.take_along_axis(tile, positives[:, None], axis=1)
        allowed = jnp.ones((height, m), bool)
        if pairing.row_contexts is not None and pairing.column_contexts is not None:
            mine = lax.dynamic_slice_in_dim(pairing.row_contexts, top, height)
            allowed = mine[:, None] == pairing.column_contexts[None, :]
        if not include:
            allowed &= jnp.arange(m)[None, :] != positives[:, None]
        best = jnp.max(jnp.where(allowed, tile, -jnp.inf), axis=1, keepdims=True)
        tilt = jnp.where(allowed[None], jnp.exp(scales[:, None, None] * (tile - best)[None]), 0)
        mass = (tilt.reshape(nodes * height, m) @ weights).reshape(nodes, height, draws)
        if pairing.row_contexts is None:
            total = jnp.sum(weights, axis=0)[None, :] - (0 if include else weights[positives])
        else:
            total = allowed.astype(scores.dtype) @ weights
        terms = scales[:, None, None] * (positive - best)[None] - jnp.log(mass / total[None])
        fresh = (top + jnp.arange(height) >= i * height).astype(scores.dtype)
        return sums + jnp.sum((fresh[:, None] * weights[positives])[None] * terms, axis=1)

    start = jnp.zeros((nodes, draws), scores.dtype)
    sums = lax.fori_loop(0, -(-n // height), block, start)
    return sums / jnp.sum(weights[pairing.positives], axis=0)[None, :]


def _chebyshev(count: int, dtype) -> Array:
    """The Chebyshev nodes of [-1, 1]."""
    return jnp.cos((2 * jnp.arange(count, dtype=dtype) + 1) * jnp.asarray(jnp.pi / (2 * count), dtype))


def _polynomial(values: Float[Array, "nodes draws"]) -> Float[Array, "nodes draws"]:
    """Coefficients, constant first, of the polynomials through values at the Chebyshev nodes."""
    nodes = _chebyshev(values.shape[0], values.dtype)
    return jnp.linalg.solve(jnp.vander(nodes, increasing=True), values)


def _peaks(coefficients: Float[Array, "terms draws"]) -> tuple[Array, Array]:
    """Where, in [-1, 1], and how high polynomials that are concave near their maximum are largest."""
    degree = coefficients.shape[0] - 1
    powers = jnp.arange(degree + 1)
    exponents = jnp.maximum(powers[:, None] - jnp.arange(3)[None, :], 0)
    factors = jnp.stack([jnp.ones_like(powers), powers, powers * (powers - 1)], axis=1).astype(coefficients.dtype)

    def derivatives(x):
        """Value, slope and curvature at one x a column, (3, draws)."""
        terms = factors[:, :, None] * x[None, None, :] ** exponents[:, :, None]
        return jnp.sum(coefficients[:, None, :] * terms, axis=0)

    def newton(_, x):
        _, slope, curvature = derivatives(x)
        return jnp.clip(x - slope / jnp.minimum(curvature, -1e-30), -1, 1)

    x = lax.fori_loop(0, 12, newton, jnp.zeros_like(coefficients[0]))
    return x, derivatives(x)[0]


@partial(jax.jit, static_argnames=("draws", "units", "include"))
def _bootstrap(scores, pairing, index, *, draws, units, include, key):
    n, dtype = scores.shape[0], scores.dtype
    tiles, ones = dense_tiles(scores), jnp.ones((scores.shape[1],), scores.dtype)
    ends = extremes(tiles, pairing, dtype)
    plain = plain_sums(tiles, pairing, ends.top, ones)
    gap, first = ends.positive - ends.top, plain.first / plain.number

    def curve(scale: Array) -> Curve:
        rows = jnp.full((n,), scale)
        moments = tilted_moments(tiles, pairing, ends.top, rows)
        parts = curve_of(moments, gap, rows, plain.number)
        return Curve(*(jnp.mean(part) for part in parts))

    curve_of = include_curve if include else exclude_curve
    flat = Moments(jnp.log(plain.number), first, jnp.maximum(plain.second / plain.number - first**2, 0))
    at_zero = Curve(*(jnp.mean(part) for part in curve_of(flat, gap, jnp.zeros((n,), dtype), plain.number)))
    solution = maximise_scale(curve, at_zero, jnp.mean(jnp.minimum(gap, 0) if include else gap))
    centre = solution.scale
    plug_in = curve(centre).value

    by_unit = exponential_weights(draws, units, dtype=dtype, key=key)
    weights = by_unit.T if index is None else by_unit.T[index]
    # A pilot tells how far the replicates' maxima scatter, so that the nodes cover them and no more.
    step = jnp.asarray([-0.1, 0, 0.1], dtype)
    low, middle, high = weighted_curves(scores, pairing, weights[:, :PILOT], centre * jnp.exp(step), include)
    offset = 0.05 * (low - high) / jnp.minimum(low - 2 * middle + high, -1e-30)
    half = jnp.minimum(WIDTH * jnp.sqrt(jnp.mean(offset**2)), 2.0)
    # A replicate's curve differs little from the sample's: few nodes serve the difference, many the sample's own.
    fine = weighted_curves(scores, pairing, ones[:, None], centre * jnp.exp(half * _chebyshev(FINE, dtype)), include)
    base = _polynomial(fine - plug_in)
    count = 4 if n >= 1536 else FINE  # the replicates of small samples scatter over a longer stretch of the curve
    nodes = _chebyshev(count, dtype)
    values = weighted_curves(scores, pairing, weights, centre * jnp.exp(half * nodes), include)
    own = jnp.sum(base.T[:, :] * nodes[:, None] ** jnp.arange(FINE)[None, :], axis=1, keepdims=True)
    difference = _polynomial(values - plug_in - own)
    coefficients = base + jnp.zeros((FINE, draws), dtype).at[:count].set(difference)
    place, peak = _peaks(coefficients)
    peak = peak + plug_in
    inside = jnp.abs(place) < 1
    return jnp.maximum(peak, 0), centre * jnp.exp(half * place), plug_in, inside & solution.converged


def gmi_bootstrap(
    scores: ArrayLike,
    *,
    centre: ArrayLike | None = None,
    positives: ArrayLike | None = None,
    contexts: ArrayLike | None = None,
    column_contexts: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    method: str = "include",
    draws: int = 1000,
    level: float = 0.95,
    key: Array,
) -> Bootstrap:
    """Bayesian bootstrap of sup over s of I(s), with exponential weights on the resampling units.

    Each replicate's supremum is read off the polynomial through its curve at a few Chebyshev nodes that span five
    standard deviations of log s*; it agrees with a Newton solve of its own to about 1e-6 nats. A row's weight is that
    of its positive's column, so that pairs stay together and no column is a rival of its own copy.

    Args:
      scores: as in `gmi`, shape (n, m), in memory.
      centre: the value to put the interval around, say `gmi(scores).value`; the plug-in supremum where None.
      positives: as in `gmi`.
      contexts: as in `gmi`.
      column_contexts: as in `gmi`.
      clusters: as in `gmi`.
      method: `include` (concave, capped, the default) or `exclude` (unbounded when the scores are saturated).
      draws: number of replicates.
      level: coverage of the interval.
      key: a PRNG key.

    Returns:
      A `Bootstrap`; its standard error also serves the jackknifed estimate.

    Raises:
      ValueError: as `gmi`, and when g <= 0 or the scores are separable: the supremum then lies at s = 0 or infinity
        and has no smooth distribution (use `zero_test`, or read `gmi(scores).saturated`).
    """
    array = check_scores(scores)
    check_choice(method, ("include", "exclude"), "method")
    check_level(level)
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    pairing, _, units, _, _ = front_door(
        array.shape, array.dtype, positives, contexts, column_contexts, clusters, method, "in-sample", level
    )
    index, count = (None, array.shape[1]) if units is None else (units.index, units.units)
    replicates, scales, plug_in, inside = _bootstrap(
        array, pairing, index, draws=draws, units=count, include=method == "include", key=key
    )
    if is_concrete(scales) and not bool(jnp.isfinite(scales).all() & (scales > 0).all()):
        raise ValueError(
            "the supremum over s lies at s = 0 (g <= 0) or at infinity (separable scores), where it has no smooth "
            "distribution; use zero_test, or see whether gmi(scores).saturated"
        )
    centre = plug_in if centre is None else jnp.asarray(centre, array.dtype)
    standard_error = jnp.std(replicates, ddof=1)
    return Bootstrap(
        draws=replicates,
        scales=scales,
        plug_in=plug_in,
        standard_error=standard_error,
        interval=normal_interval(centre, standard_error, level=level),
        centre=centre,
        converged=jnp.all(inside),
        level=level,
    )
