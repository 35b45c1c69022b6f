"""Beside the estimate: its curve over s, the permutation test of zero, and the paper's own quantity."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete
from gmijax.rates._checks import check_index, check_scores
from gmijax.rates._gmi import front_door, gmi, row_rates
from gmijax.rates._rate import Rate
from gmijax.rates._tiles import Pairing, dense_tiles, extremes, plain_sums
from gmijax.stats import permutation_p_value, permutations_within


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RateCurve:
    """I(s) at given scales by each estimator, nats; all of shape (scales,)."""

    scales: jax.Array
    exclude: jax.Array
    include: jax.Array
    jackknife: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ZeroTest:
    """The test of GMI = 0 (THEORY.md, F2).

    Attributes:
      value: g, the mean score of the positives less that of their alternatives, nats.
      p_value: of the permutation test, one-sided.
      null: g of the permuted pairings, (draws,).
    """

    value: jax.Array
    p_value: jax.Array
    null: jax.Array = field(repr=False)


@jax.jit
def _curve(scores: Array, pairing: Pairing, scales: Array) -> RateCurve:
    tiles, ones = dense_tiles(scores), jnp.ones((scores.shape[1],), scores.dtype)
    ends = extremes(tiles, pairing, scores.dtype)
    count = plain_sums(tiles, pairing, ends.top, ones).number

    def at(scale):
        rows, _, _ = row_rates(tiles, pairing, ends, jnp.full((scores.shape[0],), scale), count)
        return jnp.mean(rows.exclude), jnp.mean(rows.include), jnp.mean(rows.jackknife)

    return RateCurve(scales, *lax.map(at, scales))


def gmi_curve(
    scores: ArrayLike,
    scales: ArrayLike,
    *,
    positives: ArrayLike | None = None,
    contexts: ArrayLike | None = None,
    column_contexts: ArrayLike | None = None,
) -> RateCurve:
    """I(s) over a range of scales, to look at: concave in population, 0 at s = 0 (THEORY.md, F1).

    Args:
      scores: as in `gmi`, shape (n, m).
      scales: s >= 0, shape (scales,).
      positives: as in `gmi`.
      contexts: as in `gmi`.
      column_contexts: as in `gmi`.

    Returns:
      The curve by every estimator, nats.

    Raises:
      ValueError: as `gmi`, and for scales that are negative, infinite or not a vector.
    """
    array = check_scores(scores)
    grid = jnp.asarray(scales, array.dtype)
    if grid.ndim != 1 or (is_concrete(grid) and not bool(((grid >= 0) & jnp.isfinite(grid)).all())):
        raise ValueError(f"scales must be a vector of finite numbers >= 0, got {scales}")
    pairing, *_ = front_door(
        array.shape, array.dtype, positives, contexts, column_contexts, None, "exclude", "in-sample", 0.95
    )
    return _curve(array, pairing, grid)


@partial(jax.jit, static_argnames=("draws",))
def _zero_test(scores: Array, pairing: Pairing, *, draws: int, key: Array) -> ZeroTest:
    n, m = scores.shape
    tiles = dense_tiles(scores)
    ends = extremes(tiles, pairing, scores.dtype)
    plain = plain_sums(tiles, pairing, ends.top, jnp.ones((m,), scores.dtype))
    groups = jnp.zeros((n,), jnp.int32) if pairing.row_contexts is None else pairing.row_contexts
    rows = jnp.arange(n)
    relative = jnp.mean(ends.positive - ends.top)

    def permuted(order):
        return jnp.mean(scores[rows, pairing.positives[order]] - ends.top)

    null = lax.map(permuted, permutations_within(groups, draws, key=key))
    baseline = jnp.mean(plain.first / plain.number)
    return ZeroTest(relative - baseline, permutation_p_value(relative, null), null - baseline)


def zero_test(
    scores: ArrayLike,
    *,
    positives: ArrayLike | None = None,
    contexts: ArrayLike | None = None,
    column_contexts: ArrayLike | None = None,
    draws: int = 999,
    key: Array,
) -> ZeroTest:
    """Permutation test of GMI = 0: rows are re-paired with the positives of their own context.

    GMI over inputs, GMI over messages and the LM rate are positive together, exactly when g > 0 (F2). With all rows
    kept in the denominator sup I is a monotone function of the mean positive score, so this is its exact test.

    Args:
      scores: as in `gmi`, shape (n, m); for labels, shape (n, K) with `positives` the labels.
      positives: as in `gmi`.
      contexts: as in `gmi`.
      column_contexts: as in `gmi`.
      draws: number of permutations.
      key: a PRNG key.

    Returns:
      A `ZeroTest`.

    Raises:
      ValueError: as `gmi`.
    """
    array = check_scores(scores)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    pairing, *_ = front_door(
        array.shape, array.dtype, positives, contexts, column_contexts, None, "exclude", "in-sample", 0.95
    )
    return _zero_test(array, pairing, draws=draws, key=key)


def conditional_gmi_paper(
    scores: ArrayLike,
    messages: ArrayLike,
    *,
    positives: ArrayLike | None = None,
    contexts: ArrayLike | None = None,
    level: float = 0.95,
) -> Rate:
    """Equation 3 of arXiv:2602.23136 as printed: alternatives Z' drawn from P(Z | C, Y), at s = 1.

    Kept under the paper's name to show what it is: never positive (Jensen), at least -R^2 / 8 with R the score's
    range (Hoeffding), and 0 for a decoder that ignores Z (THEORY.md, section 1). It measures the spread of the score
    within a message, not information about the message; use `gmi`.

    Args:
      scores: as in `gmi`, shape (n, m).
      messages: the message y of each column, integers of shape (m,); several columns must share each message.
      positives: as in `gmi`.
      contexts: the context of each column, integers of shape (m,).
      level: coverage of the interval.

    Returns:
      A `Rate` whose value is the mean of l(z, y) - log mean over the message's own columns of e^l, in nats.

    Raises:
      ValueError: as `gmi`; a message with one column has no conditional law to average over.
    """
    array = check_scores(scores)
    n, m = array.shape
    groups = np.asarray(messages)
    if groups.shape != (m,):
        raise ValueError(f"messages must have shape ({m},), one a column, got {groups.shape}")
    if contexts is not None:
        if np.shape(contexts) != (m,):
            raise ValueError(f"contexts must have shape ({m},), one a column, got {np.shape(contexts)}")
        groups = np.unique(np.stack([np.asarray(contexts), groups]), axis=1, return_inverse=True)[1].reshape(m)
    own = np.arange(n) if positives is None else np.asarray(check_index(positives, n, m, "positives", "columns"))
    return gmi(
        array, positives=own, contexts=groups[own], column_contexts=groups, method="include", scale=1.0, level=level
    )
