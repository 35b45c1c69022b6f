"""MMD^2 with Gaussian kernels and the energy distance: one kernel matrix serves value, null, floor and interval."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from gmijax._checks import check_choice, check_count, is_concrete
from gmijax.distances._bandwidth import gaussian, median_distance, median_of
from gmijax.distances._checks import check_common, check_pair, check_positive, count_rows, on_host
from gmijax.distances._distance import Distance
from gmijax.distances._draws import SPLITS, Labels, label_lines, random_order, random_subsets
from gmijax.distances._inference import summary
from gmijax.distances._pooled import (
    DENSE,
    Forms,
    centred_rows,
    jackknife_variance,
    kernel_forms,
    line_forms,
    pooled_mean,
    squared_distances,
    tiles_of,
    unbiased_statistics,
)
from gmijax.distances._projection import project
from gmijax.stats import Interval

SAMPLE = 256  # rows of either law that tell the kernel's level


def _negative_distance(squared: Array, _: Array) -> Array:
    """-|x - y|: with it the MMD^2 is the energy distance (Sejdinovic et al. 2013, 10.1214/13-AOS1140)."""
    return -jnp.sqrt(squared)


def _bootstrap_counts(weights: Array, draws: int, *, key: Array) -> Float[Array, "draws n"]:
    """How often each row that counts is drawn with replacement."""
    allowed = weights > 0
    order, count = jnp.argsort(~allowed, stable=True), jnp.sum(allowed)
    picks = jnp.floor(jax.random.uniform(key, (draws, weights.shape[0])) * count).astype(jnp.int32)
    drawn = (jnp.arange(weights.shape[0]) < count).astype(weights.dtype)
    lines = jnp.arange(draws)[:, None]
    return jnp.zeros((draws, weights.shape[0]), weights.dtype).at[lines, order[picks]].add(drawn[None, :])


def _bootstrap_statistics(forms: Forms, counts_x: Array, counts_y: Array, diagonal: Array) -> Array:
    """The paper's bootstrap: of the resampled matrix only the diagonal is left out, so a row's copies pair up."""
    n, m = jnp.sum(counts_x, axis=1), jnp.sum(counts_y, axis=1)
    copies_x = diagonal * (jnp.sum(counts_x**2, axis=1) - n)
    copies_y = diagonal * (jnp.sum(counts_y**2, axis=1) - m)
    return (forms.xx + copies_x) / (n * (n - 1)) + (forms.yy + copies_y) / (m * (m - 1)) - 2 * forms.xy / (n * m)


def _forms(x, y, weights_x, weights_y, bandwidths, lines, kind: str, *, key: Array) -> tuple[Forms, Array, Array]:
    """The forms of the kernel less a typical value, the bandwidths, and that value."""
    kernel = gaussian if kind == "gaussian" else _negative_distance
    centre = pooled_mean(x, y, weights_x, weights_y)
    rows_x, rows_y = centred_rows(x, centre, weights_x > 0), centred_rows(y, centre, weights_y > 0)
    tiles = None
    if x.shape[0] + y.shape[0] <= DENSE:
        tiles = (
            tiles_of(rows_x, rows_x, same=True),
            tiles_of(rows_y, rows_y, same=True),
            tiles_of(rows_x, rows_y, same=False),
        )
    if bandwidths is None:
        width = median_of(tiles) if tiles else median_distance([x, y], [weights_x, weights_y], key=key)
        bandwidths = width[None]
    # A constant on all pairs cancels in every statistic; taken off beforehand it takes no digits along.
    typical = jnp.mean(kernel(squared_distances(x[:SAMPLE] - centre, y[:SAMPLE] - centre), bandwidths))

    def lowered(squared, bandwidths):
        return kernel(squared, bandwidths) - typical

    forms = kernel_forms(rows_x, rows_y, weights_x, weights_y, lines, lowered, bandwidths, tiles)
    return forms, bandwidths, typical


@partial(jax.jit, static_argnames=("kind", "permutations", "draws", "level"))
def _estimate(x, y, weights_x, weights_y, bandwidths, order, *, kind, permutations, draws, level, key):
    """Everything from one pass over the pooled kernel; `draws` is 0 for the jackknife. Bandwidths None: the median.

    On the line the energy distance goes by the rows' `order`, found here if it is None.
    """
    label_key, resample_x, resample_y, median_key = jax.random.split(key, 4)
    labels = label_lines(weights_x, weights_y, permutations, key=label_key)
    lines = labels.first
    counts_x = _bootstrap_counts(weights_x, draws, key=resample_x)
    counts_y = _bootstrap_counts(weights_y, draws, key=resample_y)
    if draws:
        lines = jnp.concatenate([lines, jnp.concatenate([counts_x, counts_y], axis=1)])
    if kind == "energy" and x.shape[1] == 1:
        if order is None:
            order = jnp.argsort(jnp.concatenate([x[:, 0], y[:, 0]]))
        forms, typical = line_forms(order, x, y, weights_x, weights_y, lines), jnp.zeros((), x.dtype)
    else:
        forms, bandwidths, typical = _forms(x, y, weights_x, weights_y, bandwidths, lines, kind, key=median_key)
    split = labels.first.shape[0]
    observed = forms._replace(xx=forms.xx[:split], xy=forms.xy[:split], yy=forms.yy[:split])
    statistics = unbiased_statistics(observed, weights_x, weights_y, labels)
    deviation = jnp.sqrt(jackknife_variance(forms, weights_x, weights_y))
    result = summary(statistics, permutations, standard_error=deviation, level=level)
    if draws:
        resampled = forms._replace(xx=forms.xx[split:], xy=forms.xy[split:], yy=forms.yy[split:])
        replicates = _bootstrap_statistics(resampled, counts_x, counts_y, jnp.asarray(bandwidths.shape[0] - typical))
        tails = jnp.asarray([0.5 - 0.5 * level, 0.5 + 0.5 * level], replicates.dtype)
        result["standard_error"] = jnp.std(replicates, ddof=1)
        result["interval"] = Interval(*jnp.quantile(replicates, tails))
    return result


@partial(jax.jit, static_argnames=("size", "permutations", "level"))
def _block_estimate(x, y, weights_x, weights_y, bandwidths, *, size, permutations, level, key):
    """The mean over disjoint blocks of `size` rows of either law, and the same of labels permuted within blocks."""
    order_key_x, order_key_y, label_key, split_key, median_key = jax.random.split(key, 5)
    if bandwidths is None:
        bandwidths = median_distance([x, y], [weights_x, weights_y], key=median_key)[None]
    blocks = min(x.shape[0], y.shape[0]) // size
    order_x = random_order(weights_x > 0, key=order_key_x)[: blocks * size].reshape(blocks, size)
    order_y = random_order(weights_y > 0, key=order_key_y)[: blocks * size].reshape(blocks, size)
    # Rows that count come first in the order, so that padding fills only the last blocks, which are left out.
    full = jnp.all(weights_x[order_x] > 0, axis=1) & jnp.all(weights_y[order_y] > 0, axis=1)
    number = jnp.sum(full)
    ones = jnp.ones(size, x.dtype)
    pooled = jnp.ones(2 * size, bool)
    is_x = jnp.arange(2 * size) < size

    def one(block):
        rows_x, rows_y, key, halving = block
        subsets = [is_x[None]]
        if permutations:
            subsets.append(random_subsets((permutations,), pooled, jnp.asarray(size), key=key))
            for mine, own in zip((is_x, ~is_x), jax.random.split(halving), strict=True):
                subsets.append(random_subsets((SPLITS,), mine, jnp.asarray(size // 2), key=own))
        universes = jnp.stack([pooled, is_x, ~is_x]).astype(x.dtype)
        labels = Labels(jnp.concatenate(subsets).astype(x.dtype), universes, permutations)
        blocks = x[rows_x], y[rows_y]
        centre, counts = jnp.mean(jnp.concatenate(blocks), axis=0), jnp.ones(size, bool)
        first, second = (centred_rows(points, centre, counts) for points in blocks)
        forms = kernel_forms(first, second, ones, ones, labels.first, gaussian, bandwidths)
        return unbiased_statistics(forms, ones, ones, labels)

    keys = jax.random.split(label_key, blocks), jax.random.split(split_key, blocks)
    by_block = lax.map(one, (order_x, order_y, *keys))
    statistics = jnp.sum(jnp.where(full[:, None], by_block, 0), axis=0) / number
    scatter = jnp.sum(jnp.where(full, by_block[:, 0] - statistics[0], 0) ** 2) / (number - 1)
    deviation = jnp.sqrt(scatter / number)
    return summary(statistics, permutations, standard_error=deviation, level=level, degrees=number - 1)


def _check_bandwidth(bandwidth: ArrayLike | str, dtype) -> Array | None:
    if isinstance(bandwidth, str):
        check_choice(bandwidth, ("median",), "bandwidth")
        return None
    check_positive(bandwidth, "bandwidth")
    return jnp.atleast_1d(jnp.asarray(bandwidth, dtype)).ravel()


def _check_mask(weights: Array, name: str, what: str) -> None:
    if is_concrete(weights) and len(np.unique(np.asarray(weights))) > 2 - bool((np.asarray(weights) > 0).all()):
        raise ValueError(f"{name} must be 0 or one other number for {what}, which takes no general weights")


def mmd2(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
    bandwidth: ArrayLike | str = "median",
    estimator: str = "unbiased",
    block_size: int | None = None,
    projection: int | None = None,
    interval: str = "jackknife",
    draws: int = 200,
    permutations: int = 199,
    level: float = 0.95,
    given: str = "none",
    space: str = "",
    key: Array,
) -> Distance:
    """MMD^2 with the kernel sum_b exp(-|x - y|^2 / (2 b^2)): the squared distance of the laws' mean embeddings.

    "unbiased" is the U-statistic (Gretton et al. 2012, JMLR 13:723), of order n^2 d; it may fall below 0. "block" is
    its mean over disjoint random blocks (Zaremba et al. 2013, arXiv:1307.1954), of order n b d, less powerful, and
    normal under the null too. Beyond 2048 pooled rows the kernel matrix is never held.

    The interval is for the population's MMD^2. The jackknife's holds away from the null; where the laws agree the
    U-statistic is degenerate, the interval is then too wide, and the p-value is what to read. "bootstrap" is the
    percentile interval of arXiv:2602.23136's public scripts: rows drawn with replacement, of whose matrix only the
    diagonal is left out; the copies of a row pair up at k = 1, which shifts it up by about (2 - E k(X, X') -
    E k(Y, Y')) / n. Blocks take the scatter between blocks, with Student's quantile, since few tell it badly.

    Args:
      x: points of the first law, shape (n, ...).
      y: points of the second law, shape (m, ...).
      weights_x: weights of x, shape (n,), >= 0; 0 for padding. Equal where None.
      weights_y: weights of y, shape (m,).
      bandwidth: b, or several, in the unit of the points; "median" takes the median distance of different pooled rows
        (of 2048 random ones of more).
      estimator: "unbiased" or "block".
      block_size: rows of either law in a block; the root of the smaller sample where None.
      projection: the number of joint principal axes to project to first; None for all dimensions.
      interval: "jackknife" or "bootstrap", of the unbiased estimator.
      draws: replicates of the bootstrap.
      permutations: of the labels, for the null and the p-value; 0 for neither, nor for the halves.
      level: coverage of the interval.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      key: a PRNG key.

    Returns:
      A `Distance`; squared, without a unit. `split_half` is NaN for fewer than four rows.

    Raises:
      ValueError: for points, weights or options that do not fit, by name.
    """
    check_common(given, level, permutations)
    check_choice(estimator, ("unbiased", "block"), "estimator")
    check_choice(interval, ("jackknife", "bootstrap"), "interval")
    check_count(draws, 2, "draws")
    x, y, weights_x, weights_y = check_pair(x, y, weights_x, weights_y)
    bandwidths = _check_bandwidth(bandwidth, x.dtype)
    n, m = count_rows(weights_x), count_rows(weights_y)
    x, y, discarded = project(x, y, weights_x, weights_y, projection)
    if estimator == "block" or interval == "bootstrap":
        what = "the block estimator" if estimator == "block" else "the bootstrap"
        _check_mask(weights_x, "weights_x", what)
        _check_mask(weights_y, "weights_y", what)
    if estimator == "block":
        size = math.isqrt(min(n, m)) if block_size is None else block_size
        check_count(size, 2, "block_size")
        if min(n, m) // size < 2:
            raise ValueError(
                f"block_size is {size}, which leaves fewer than two blocks of {min(n, m)} rows; take at most "
                f"{min(n, m) // 2}"
            )
        parts = _block_estimate(
            x, y, weights_x, weights_y, bandwidths, size=size, permutations=permutations, level=level, key=key
        )
    else:
        parts = _estimate(
            x, y, weights_x, weights_y, bandwidths, None,
            kind="gaussian", permutations=permutations, draws=draws if interval == "bootstrap" else 0,
            level=level, key=key,
        )  # fmt: skip
    detail = estimator if estimator == "block" else f"{estimator}, {interval}"
    width = "median heuristic" if bandwidths is None else f"{bandwidths.shape[0]} bandwidths"
    return Distance(
        **parts, discarded=discarded, n=n, m=m, name=f"MMD^2 (RBF, {width}, {detail})",
        given=given, space=space, level=level,
    )  # fmt: skip


def energy(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
    projection: int | None = None,
    permutations: int = 199,
    level: float = 0.95,
    given: str = "none",
    space: str = "",
    key: Array,
) -> Distance:
    """The energy distance 2 E|X - Y| - E|X - X'| - E|Y - Y'|, not rooted; unbiased, so it may fall below 0.

    Szekely and Rizzo (2013), 10.1016/j.jspi.2013.03.018; their own estimate keeps the zero distances of rows to
    themselves and is biased up. On the line it is twice the integral of (F - G)^2, and takes a sort rather than all
    pairs. Memory and the interval are as in `mmd2`, whose statistic it is with the kernel -|x - y|. In more dimensions
    distances below about 3e-4 of the data's radius are lost in float32.

    Args:
      x: points of the first law, shape (n, ...).
      y: points of the second law, shape (m, ...).
      weights_x: as in `mmd2`.
      weights_y: as in `mmd2`.
      projection: as in `mmd2`.
      permutations: as in `mmd2`.
      level: coverage of the interval.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      key: a PRNG key.

    Returns:
      A `Distance`, in the unit of the points. `split_half` is NaN for fewer than four rows.

    Raises:
      ValueError: for points, weights or options that do not fit, by name.
    """
    check_common(given, level, permutations)
    x, y, weights_x, weights_y = check_pair(x, y, weights_x, weights_y)
    n, m = count_rows(weights_x), count_rows(weights_y)
    x, y, discarded = project(x, y, weights_x, weights_y, projection)
    order = None
    if x.shape[1] == 1 and on_host(x, y):
        order = jnp.asarray(np.argsort(np.concatenate([x[:, 0], y[:, 0]])))
    parts = _estimate(
        x, y, weights_x, weights_y, jnp.zeros(0, x.dtype), order,
        kind="energy", permutations=permutations, draws=0, level=level, key=key,
    )  # fmt: skip
    return Distance(
        **parts, discarded=discarded, n=n, m=m, name="energy distance (unbiased)",
        given=given, space=space, level=level,
    )  # fmt: skip
