"""Centred kernel alignment of paired rows."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool
from numpy.typing import ArrayLike

from gmijax._checks import check_choice
from gmijax.distances._bandwidth import median_distance
from gmijax.distances._checks import check_common, check_positive, check_sample, count_rows, on_host
from gmijax.distances._distance import Distance
from gmijax.distances._draws import random_order
from gmijax.distances._hsic import (
    DENSE,
    by_features,
    centred_side,
    centring,
    diagonals_of,
    host_matrix,
    hsic_of,
    kernel_matrix,
    linear_products,
    matrix_products,
    permuted_sum,
    rbf_products,
    row_products,
)
from gmijax.stats import influence_standard_error, normal_interval, permutation_p_value


def _on_matrices(x: Array, y: Array, kind: str) -> bool:
    """Whether kernel matrices are held, rather than d x d matrices or tiles."""
    return len(x) <= DENSE and not by_features(kind, len(x), max(x.shape[1], y.shape[1]))


@partial(jax.jit, static_argnames=("kind", "debiased", "interval", "permutations", "level"))
def _estimate(x, y, mask, bandwidths, matrices, *, kind, debiased, interval, permutations, level, key):
    by = centring(jnp.sum(mask).astype(x.dtype), debiased)
    median_key, shuffle = jax.random.split(key)
    sides = []
    for k, points in enumerate((x, y)):
        if kind == "linear":
            width = None
        elif bandwidths is None:
            width = median_distance([points], [mask.astype(x.dtype)], key=jax.random.fold_in(median_key, k))
        else:
            width = bandwidths[k]
        sides.append(centred_side(points, mask, by.count, width))
    sides = tuple(sides)
    if not matrices and _on_matrices(x, y, kind):
        matrices = [kernel_matrix(side, kind, not debiased) for side in sides]
    own = diagonals_of(sides, kind)
    if kind == "linear" and not matrices:
        hsic, products = linear_products(sides, own, by, by_row=interval)
        rows = [row_products(p, by, mask) for p in products]
        a, b = -own.T if debiased else jnp.zeros_like(own.T)
    else:
        products = matrix_products(matrices, by) if matrices else rbf_products(sides, own, by)
        rows = [row_products(p, by, mask) for p in products]
        hsic = [jnp.sum(row) / by.count for row in rows]
        a, b = products[0].a, products[0].b
    between, within_x, within_y = hsic
    positive = (within_x > 0) & (within_y > 0)
    norm = jnp.sqrt(jnp.where(positive, within_x * within_y, 1))
    value = jnp.where(positive, between / norm, jnp.nan)
    result = {"value": value, "converged": positive}
    if interval:
        # The influence on HSIC is twice the rows' deviations; CKA's follows by the quotient rule.
        influence = 2 * (rows[0] / norm - value / 2 * (rows[1] / within_x + rows[2] / within_y))
        deviation = _masked_error(influence, mask)
        result |= {"standard_error": deviation, "interval": normal_interval(value, deviation, level=level)}
    if permutations:
        allowed_first = jnp.argsort(~mask, stable=True)

        def permuted(key):
            shuffled = random_order(mask, key=key)
            order = jnp.zeros_like(shuffled).at[allowed_first].set(shuffled)
            if matrices:
                cross = jnp.sum(matrices[0] * matrices[1][order][:, order])
            else:
                cross = permuted_sum(sides, kind, by, own, order)
            return hsic_of(cross, a, b[order], by) / norm

        null = lax.map(permuted, jax.random.split(shuffle, permutations))
        result |= {"null": jnp.mean(null), "p_value": permutation_p_value(value, null)}
    return result


def _masked_error(influence: Array, mask: Bool[Array, " n"]) -> Array:
    """The standard error of a mean over the rows that count."""
    count, n = jnp.sum(mask, dtype=influence.dtype), float(mask.shape[0])  # n (n - 1) may exceed int32
    centred = jnp.where(mask, influence - jnp.sum(jnp.where(mask, influence, 0)) / count, 0)
    # Masked rows add nothing to the sum of squares of what is centred; only the divisors change.
    return influence_standard_error(centred) * jnp.sqrt(n * (n - 1) / (count * (count - 1)))


def cka(
    x: ArrayLike,
    y: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    kernel: str = "linear",
    bandwidth: ArrayLike | str = "median",
    debiased: bool = True,
    interval: str = "influence",
    permutations: int = 199,
    level: float = 0.95,
    given: str = "none",
    space: str = "",
    key: Array,
) -> Distance:
    """Centred kernel alignment of paired rows, HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)): a similarity, 1 at most.

    Kornblith et al. (2019, arXiv:1905.00414). Row i of x and row i of y must belong to one sample; between unpaired
    sets it says nothing. It ignores rotations, shifts and one scale of either side. The plain form is biased up, far
    so where n is not large beside the dimensions: independent data give 0.5 and more. `debiased` uses U-centred
    matrices (Szekely and Rizzo 2014; Song et al. 2012): 0 in expectation for independent data, but for the ratio.

    The null is independence, by permuting the pairing; the interval is the influence function's and holds away from
    independence, where it degenerates. Linear kernels of more than 4 times as many rows as features need memory for
    three d x d matrices only, and half the time without the interval; otherwise kernel matrices are held up to 4096
    rows and made in tiles beyond.

    Args:
      x: one row a sample, shape (n, ...).
      y: the same samples' rows in another space, shape (n, ...).
      mask: false for padding rows, shape (n,).
      kernel: "linear", or "rbf" for exp(-|x - y|^2 / (2 b^2)).
      bandwidth: of the RBF: "median" (of each side's own distances), b, or one for each side.
      debiased: whether to use the unbiased HSIC.
      interval: "influence", or "none" for the value alone.
      permutations: of the pairing, for the null and the p-value; 0 for neither.
      level: coverage of the interval.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' spaces.
      key: a PRNG key.

    Returns:
      A `Distance` whose value is a similarity without a unit; large values speak against the null. Where a side is
      constant (or so small a sample that its unbiased HSIC is not positive) it is NaN and `converged` is false.

    Raises:
      ValueError: for unpaired, too few or non-finite rows, and options that do not fit, by name.
    """
    check_common(given, level, permutations)
    check_choice(kernel, ("linear", "rbf"), "kernel")
    check_choice(interval, ("influence", "none"), "interval")
    first, weights = check_sample(x, mask, "x", "mask")
    second, _ = check_sample(y, mask, "y", "mask")
    if first.shape[0] != second.shape[0]:
        raise ValueError(
            f"CKA compares paired rows, and x has {first.shape[0]} and y {second.shape[0]}: row i of both must be one "
            "sample"
        )
    dtype = jnp.result_type(first, second)
    n, least = count_rows(weights), 4 if debiased else 2
    if n < least:
        raise ValueError(f"x and y have {n} rows that count; {'debiased ' if debiased else ''}CKA needs {least}")
    bandwidths = None
    if isinstance(bandwidth, str):
        check_choice(bandwidth, ("median",), "bandwidth")
    else:
        check_positive(bandwidth, "bandwidth")
        bandwidths = jnp.broadcast_to(jnp.asarray(bandwidth, dtype), (2,))
    first, second, counts = first.astype(dtype), second.astype(dtype), weights > 0
    matrices = []
    if kernel == "linear" and _on_matrices(first, second, kernel) and on_host(first, second, counts):
        matrices = [
            jnp.asarray(host_matrix(np.asarray(side), np.asarray(counts), not debiased)) for side in (first, second)
        ]
    parts = _estimate(
        first, second, counts, bandwidths, matrices,
        kind=kernel, debiased=debiased, interval=interval == "influence", permutations=permutations, level=level,
        key=key,
    )  # fmt: skip
    return Distance(
        **parts, n=n, m=n, name=f"CKA ({kernel}, {'debiased' if debiased else 'biased'})",
        given=given, space=space, level=level,
    )  # fmt: skip
