"""Sliced and max-sliced W1: transport on lines through the space, by one sort of the pooled rows a line.

On a line W1 is the integral of |F - G|: the pooled rows are sorted once, and every split of them into two laws is a
cumulated sum of signed masses. XLA sorts tens of times more slowly than numpy on a CPU, so concrete arrays there are
handled by numpy; everything below takes either module as `xp`.
"""

from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from gmijax._checks import check_count
from gmijax.distances._checks import check_common, check_pair, count_rows, on_host
from gmijax.distances._distance import Distance
from gmijax.distances._draws import label_lines
from gmijax.distances._inference import summary, weighted_variance
from gmijax.distances._pooled import pooled_mean
from gmijax.distances._projection import project

ELEMENTS = 2**22  # cumulated at once
PLACES = 2**24  # made by one matrix product, of at least 16 directions: fewer share the reading of the rows badly

Numbers = Any  # a numpy or a jax array: the same code serves both


def _cumulated(xp: ModuleType, signed: Numbers, axis: int) -> Numbers:
    """F - G after every row but the last; numpy adds up in float64, XLA as a tree."""
    levels = xp.cumsum(signed, axis=axis, dtype=np.float64 if xp is np else signed.dtype)
    return levels[:-1] if axis == 0 else levels[..., :-1]


def _unsorted(xp: ModuleType, order: Numbers, values: Numbers) -> Numbers:
    """Values in sorted order back at their rows."""
    if xp is np:
        result = np.empty_like(values)
        if values.ndim == 1:  # several times faster
            result[order] = values
        else:
            np.put_along_axis(result, order, values, axis=-1)
        return result
    return jnp.put_along_axis(jnp.zeros_like(values), order, values, axis=-1, inplace=False)


def _one_direction(xp: ModuleType, place: Numbers, signed: Numbers) -> tuple[Numbers, Numbers]:
    """W1 along one direction for every line of signed masses, and the first line's potential at every row.

    Args:
      xp: numpy or jax.numpy.
      place: the rows' places on the line, (rows,).
      signed: masses of the first law less those of the second, (rows, lines).

    Returns:
      The distances, (lines,), and what a little mass at a row adds to the first, (rows,).
    """
    order = xp.argsort(place)
    gaps = xp.diff(place[order])
    width = max(1, ELEMENTS // place.shape[0])
    # Lines are columns here, so that adding up along the rows goes through memory in order.
    parts = []
    for start in range(0, signed.shape[1], width):
        levels = _cumulated(xp, xp.take(signed[:, start : start + width], order, axis=0), axis=0)
        parts.append((gaps @ abs(levels), levels[:, 0]))
    observed = parts[0][1]
    # Where the laws are level but for rounding, mass moves for nothing either way.
    rounding = 8 * np.finfo(place.dtype).eps
    slopes = (1.0 * (observed > rounding) - (observed < -rounding)) * gaps
    after = xp.concatenate([xp.cumsum(slopes[::-1])[::-1], xp.zeros(1, slopes.dtype)])
    return xp.concatenate([values for values, _ in parts]), _unsorted(xp, order, after.astype(place.dtype))


def _together(rows: int, directions: int) -> int:
    """How many directions one matrix product serves."""
    return min(max(PLACES // rows, 16), directions)


def _places(x: Numbers, y: Numbers, directions: Numbers) -> Numbers:
    xp = np if isinstance(x, np.ndarray) else jnp
    return xp.concatenate([directions @ x.T, directions @ y.T], axis=1)


def _host_slices(x: Numbers, y: Numbers, signed: Numbers, directions: Numbers) -> tuple[Numbers, Numbers]:
    x, y, signed, directions = (np.ascontiguousarray(array) for array in (x, y, signed, directions))
    values, potential = [], np.zeros(len(signed))
    together = _together(len(signed), len(directions))
    for start in range(0, len(directions), together):
        for place in _places(x, y, directions[start : start + together]):
            value, one = _one_direction(np, place, signed)
            values.append(value)
            potential += one
    return np.stack(values), potential / len(directions)


@jax.jit
def _device_slices(x: Array, y: Array, signed: Array, directions: Array) -> tuple[Array, Array]:
    number, dimensions = directions.shape
    together = _together(signed.shape[0], number)
    padded = jnp.concatenate([directions, jnp.zeros((-number % together, dimensions), directions.dtype)])

    def some(potential, block):
        def one(potential, place):
            value, added = _one_direction(jnp, place, signed)
            return potential + added, value

        return lax.scan(one, potential, _places(x, y, block))

    blocks = padded.reshape(-1, together, dimensions)
    potential, values = lax.scan(some, jnp.zeros(signed.shape[0], x.dtype), blocks)
    return values.reshape(-1, signed.shape[1])[:number], potential / number


@partial(jax.jit, static_argnames="permutations")
def _signed_lines(weights_x: Array, weights_y: Array, permutations: int, *, key: Array) -> Array:
    return label_lines(weights_x, weights_y, permutations, key=key).signed()


@jax.jit
def _centred(x: Array, y: Array, weights_x: Array, weights_y: Array) -> Array:
    return jnp.concatenate([x, y]) - pooled_mean(x, y, weights_x, weights_y)


@partial(jax.jit, static_argnames=("permutations", "level"))
def _summary(values: Array, potential: Array, weights_x: Array, weights_y: Array, *, permutations: int, level: float):
    """The fields of a `Distance` from values by direction and line; several directions are a sample of their law."""
    n, directions = weights_x.shape[0], values.shape[0]
    variance = weighted_variance(potential[:n], weights_x) + weighted_variance(potential[n:], weights_y)
    if directions > 1:
        variance += jnp.var(values[:, 0], ddof=1) / directions
    return summary(jnp.mean(values, axis=0), permutations, standard_error=jnp.sqrt(variance), level=level)


def _unit(xp: ModuleType, vectors: Numbers) -> Numbers:
    norms = xp.sqrt(xp.sum(vectors**2, axis=-1, keepdims=True))
    return vectors / xp.where(norms > 0, norms, 1)


@partial(jax.jit, static_argnames=("number", "dimensions", "dtype"))
def random_directions(number: int, dimensions: int, dtype: Any, *, key: Array) -> Float[Array, "number dimensions"]:
    """Uniform random unit vectors, the same ones whatever the precision."""
    return _unit(jnp, jax.random.normal(key, (number, dimensions), jnp.float32).astype(dtype))


def sliced_w1(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
    directions: int = 256,
    projection: int | None = None,
    permutations: int = 199,
    level: float = 0.95,
    given: str = "none",
    space: str = "",
    key: Array,
) -> Distance:
    """Sliced W1: the mean over uniform random directions of W1 between the projections, exact on every line.

    Converges like n^(-1/2) in any dimension, and is at most W1 (about W1 / sqrt(d) for a shift in d dimensions). Still
    biased up where the laws are near. The interval, by the laws' potentials on the lines, holds away from the null
    and counts both the rows' and the directions' randomness; at the null read the p-value, for which the directions
    are fixed.

    Args:
      x: points of the first law, shape (n, ...).
      y: points of the second law, shape (m, ...).
      weights_x: weights of x, shape (n,), >= 0; 0 for padding. Equal where None.
      weights_y: weights of y, shape (m,).
      directions: how many random directions.
      projection: the number of joint principal axes to project to first; None for all dimensions.
      permutations: of the labels, for the null and the p-value; 0 for neither, nor for the halves.
      level: coverage of the interval.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      key: a PRNG key.

    Returns:
      A `Distance`, in the unit of the points.

    Raises:
      ValueError: for points, weights or options that do not fit, by name.
    """
    check_common(given, level, permutations)
    check_count(directions, 2, "directions")
    x, y, weights_x, weights_y = check_pair(x, y, weights_x, weights_y)
    x, y, discarded = project(x, y, weights_x, weights_y, projection)
    label_key, direction_key = jax.random.split(key)
    signed = _signed_lines(weights_x, weights_y, permutations, key=label_key)
    vectors = random_directions(directions, x.shape[1], x.dtype, key=direction_key)
    slices = _host_slices if on_host(x, y, signed) else _device_slices
    values, potential = (jnp.asarray(part, x.dtype) for part in slices(x, y, signed.T, vectors))
    parts = _summary(values, potential, weights_x, weights_y, permutations=permutations, level=level)
    return Distance(
        **parts, discarded=discarded, n=count_rows(weights_x), m=count_rows(weights_y),
        name=f"sliced W1 ({directions} directions)", given=given, space=space, level=level,
    )  # fmt: skip


def _ascend(xp: ModuleType, points: Numbers, signed: Numbers, directions: Numbers) -> tuple[Numbers, Numbers]:
    """W1 along directions, and its gradient by the direction, whose product with the direction it is.

    Args:
      xp: numpy or jax.numpy.
      points: pooled rows, (rows, d).
      signed: (lines, 1, rows).
      directions: several starts for every line, (lines, starts, d).

    Returns:
      Values, (lines, starts), and gradients, (lines, starts, d).
    """
    place = directions @ points.T
    order = xp.argsort(place, axis=-1)
    levels = abs(_cumulated(xp, xp.take_along_axis(xp.broadcast_to(signed, place.shape), order, axis=-1), axis=-1))
    edge = xp.zeros_like(levels[..., :1])
    # Sum |F - G| (z_r+1 - z_r), by parts: every row's own factor.
    factors = xp.concatenate([edge, levels], axis=-1) - xp.concatenate([levels, edge], axis=-1)
    factors = _unsorted(xp, order, factors.astype(points.dtype))
    return xp.sum(factors * place, axis=-1), factors @ points


def _search(xp: ModuleType, points: Numbers, signed: Numbers, starts: Numbers, iterations: int):
    """The best value and direction of every line, (lines,) and (lines, d)."""
    lines = signed.shape[0]
    own = _unit(xp, signed @ points)[:, None, :]  # the difference of the means
    directions = xp.concatenate([own, xp.broadcast_to(starts[None], (lines, *starts.shape))], axis=1)
    best = xp.full(directions.shape[:2], -1.0, points.dtype)
    found = directions

    def step(_, state):
        directions, best, found = state
        values, gradients = _ascend(xp, points, signed[:, None, :], directions)
        better = values > best
        found = xp.where(better[..., None], directions, found)
        return _unit(xp, gradients), xp.where(better, values, best), found

    state = directions, best, found
    if xp is np:
        for k in range(iterations):
            state = step(k, state)
    else:
        state = lax.fori_loop(0, iterations, step, state)
    _, best, found = state
    top = xp.argmax(best, axis=1)
    return (
        xp.take_along_axis(best, top[:, None], axis=1)[:, 0],
        xp.take_along_axis(found, top[:, None, None], axis=1)[:, 0],
    )


def _host_search(points: Numbers, signed: Numbers, starts: Numbers, iterations: int):
    points, signed, starts = (np.asarray(array) for array in (points, signed, starts))
    height = max(1, ELEMENTS // (points.shape[0] * (len(starts) + 1)))
    parts = [
        _search(np, points, signed[start : start + height], starts, iterations)
        for start in range(0, len(signed), height)
    ]
    values, directions = (np.concatenate(part) for part in zip(*parts, strict=True))
    _, potential = _one_direction(np, points @ directions[0], signed[:1].T)
    return values, potential


@partial(jax.jit, static_argnames="iterations")
def _device_search(points: Array, signed: Array, starts: Array, iterations: int):
    def one(line):
        value, direction = _search(jnp, points, line[None], starts, iterations)
        return value[0], direction[0]

    values, directions = lax.map(one, signed)
    _, potential = _one_direction(jnp, points @ directions[0], signed[:1].T)
    return values, potential


def max_sliced_w1(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
    starts: int = 4,
    iterations: int = 20,
    projection: int | None = None,
    permutations: int = 199,
    level: float = 0.95,
    given: str = "none",
    space: str = "",
    key: Array,
) -> Distance:
    """Max-sliced W1: the largest W1 between projections to one direction, as far as a search finds it.

    The maximum is not convex: projected gradient steps start from the difference of the means and from random
    directions, and the best value met is returned, so it is a lower estimate of the samples' maximum. Of the laws' it
    is biased up, the more so the more dimensions there are (a best direction exists for noise too): compare `null`,
    whose permutations are searched in the same way. The interval is linearised at the direction found; it holds away
    from the null, about the maximum that the search can see.

    Args:
      x: points of the first law, shape (n, ...).
      y: points of the second law, shape (m, ...).
      weights_x: weights of x, shape (n,), >= 0; 0 for padding. Equal where None.
      weights_y: weights of y, shape (m,).
      starts: directions to start from, the difference of the means among them.
      iterations: steps from each.
      projection: the number of joint principal axes to project to first; None for all dimensions.
      permutations: of the labels, for the null and the p-value; 0 for neither, nor for the halves.
      level: coverage of the interval.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      key: a PRNG key.

    Returns:
      A `Distance`, in the unit of the points.

    Raises:
      ValueError: for points, weights or options that do not fit, by name.
    """
    check_common(given, level, permutations)
    check_count(starts, 1, "starts")
    check_count(iterations, 1, "iterations")
    x, y, weights_x, weights_y = check_pair(x, y, weights_x, weights_y)
    x, y, discarded = project(x, y, weights_x, weights_y, projection)
    label_key, start_key = jax.random.split(key)
    signed = _signed_lines(weights_x, weights_y, permutations, key=label_key)
    points = _centred(x, y, weights_x, weights_y)
    others = random_directions(starts - 1, x.shape[1], x.dtype, key=start_key)
    search = _host_search if on_host(points, signed) else _device_search
    values, potential = (jnp.asarray(part, x.dtype) for part in search(points, signed, others, iterations))
    return Distance(
        **_summary(values[None], potential, weights_x, weights_y, permutations=permutations, level=level),
        discarded=discarded, n=count_rows(weights_x), m=count_rows(weights_y),
        name=f"max-sliced W1 (searched, {starts} starts)", given=given, space=space, level=level,
    )  # fmt: skip
