"""Centred kernel alignment of paired rows, from row sums that need no kernel matrix where one would be large."""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from gmijax._checks import check_choice
from gmijax.distances._bandwidth import gaussian, median_distance
from gmijax.distances._checks import check_common, check_positive, check_sample, count_rows
from gmijax.distances._distance import Distance
from gmijax.distances._draws import random_order
from gmijax.distances._pooled import squared_distances
from gmijax.stats import influence_standard_error, normal_interval, permutation_p_value

DENSE = 4096  # rows up to which both kernel matrices are held, 64 MiB of float32 each
TILE = 1024


class _Side(NamedTuple):
    """One side's centred rows, 0 where masked, and its kernel's bandwidth (unused by the linear kernel)."""

    points: Float[Array, "n d"]
    bandwidth: Float[Array, ""]


class _Products(NamedTuple):
    """With A and B the kernel matrices of two sides: row sums of A, of B and of A * B, and A s and B r."""

    a: Array
    b: Array
    ab: Array
    a_s: Array
    b_r: Array


@dataclass(frozen=True)
class _Centring:
    """What double-centring divides by: row sums, the total, and the mean of what is left."""

    count: Array
    row: Array
    total: Array
    rest: Array
    debiased: bool


def _centring(count: Array, debiased: bool) -> _Centring:
    """Plain centring, or U-centring with the diagonal left out (Szekely and Rizzo 2014, 10.1214/14-AOS1255)."""
    if debiased:
        return _Centring(count, count - 2, (count - 1) * (count - 2), count - 3, True)
    return _Centring(count, count, count**2, count, False)


def _row_products(p: _Products, by: _Centring, mask: Array) -> Array:
    """Row sums of the product of both centred matrices over `rest`: their mean over rows is HSIC."""
    r, s = p.a / by.row, p.b / by.row
    total_a, rs, total_s = jnp.sum(p.a) / by.total, jnp.sum(r * s), jnp.sum(s)
    own = 1 if by.debiased else 0  # the diagonal is not there
    first = p.ab - r * p.b - p.b_r + total_a * p.b
    second = p.a_s - r * (total_s - own * s) - (rs - own * r * s) + total_a * (total_s - own * s)
    return jnp.where(mask, first - second, 0) / by.rest


def _kernel(first: Array, second: Array, bandwidth: Array, kind: str) -> Array:
    if kind == "linear":
        return first @ second.T
    return gaussian(squared_distances(first, second), bandwidth[None])


def _matrices(sides: tuple[_Side, _Side], mask: Array, kind: str, debiased: bool) -> list[Array]:
    pairs = mask[:, None] & mask[None, :]
    if debiased:
        pairs &= ~jnp.eye(mask.shape[0], dtype=bool)
    return [jnp.where(pairs, _kernel(side.points, side.points, side.bandwidth, kind), 0) for side in sides]


def _from_matrices(a: Array, b: Array, row: Array) -> _Products:
    sums_a, sums_b = jnp.sum(a, axis=1), jnp.sum(b, axis=1)
    return _Products(sums_a, sums_b, jnp.sum(a * b, axis=1), a @ (sums_b / row), b @ (sums_a / row))


def _from_features(x: Array, y: Array, row: Array, debiased: bool) -> _Products:
    """Linear kernels of more rows than features: all sums from d x d matrices, since the rows are centred."""
    own_x, own_y = jnp.sum(x**2, axis=1), jnp.sum(y**2, axis=1)
    both = jnp.sum((x @ (x.T @ y)) * y, axis=1)
    if not debiased:
        zero = jnp.zeros_like(own_x)
        return _Products(zero, zero, both, zero, zero)
    r, s = -own_x / row, -own_y / row  # a centred kernel's rows sum to 0: without the diagonal, to minus it
    return _Products(-own_x, -own_y, both - own_x * own_y, x @ (x.T @ s) - own_x * s, y @ (y.T @ r) - own_y * r)


def _over_tiles(sides, mask, kind, debiased, visit, width: int) -> Float[Array, "n width"]:
    """Row sums over all columns of `visit(tile of A, tile of B, columns)`, (tile rows, width)."""
    n = mask.shape[0]
    height = min(TILE, n)

    def cut(array, index):
        return lax.dynamic_slice_in_dim(array, jnp.minimum(index * height, n - height), height)

    def down(i, sums):
        rows = cut(jnp.arange(n), i)

        def across(j, part):
            columns = cut(jnp.arange(n), j)
            allowed = cut(mask, i)[:, None] & (cut(mask, j) & (columns >= j * height))[None, :]
            if debiased:
                allowed &= rows[:, None] != columns[None, :]
            tiles = (
                jnp.where(allowed, _kernel(cut(side.points, i), cut(side.points, j), side.bandwidth, kind), 0)
                for side in sides
            )
            return part + visit(*tiles, columns)

        part = lax.fori_loop(0, -(-n // height), across, jnp.zeros((height, width), sums.dtype))
        return lax.dynamic_update_slice_in_dim(sums, part, jnp.minimum(i * height, n - height), 0)

    return lax.fori_loop(0, -(-n // height), down, jnp.zeros((n, width), sides[0].points.dtype))


def _products(sides, mask, kind, by: _Centring) -> tuple[list[_Products], Array, Array]:
    """The products of (x, y), (x, x) and (y, y), and the two matrices where they are small enough to be held."""
    x, y = sides
    pairs = ((0, 1), (0, 0), (1, 1))
    n = mask.shape[0]
    empty = jnp.zeros((0, 0), x.points.dtype)
    if kind == "linear" and n > max(x.points.shape[1], y.points.shape[1]):
        points = x.points, y.points
        return [_from_features(points[i], points[j], by.row, by.debiased) for i, j in pairs], empty, empty
    if n <= DENSE:
        matrices = _matrices(sides, mask, kind, by.debiased)
        return [_from_matrices(matrices[i], matrices[j], by.row) for i, j in pairs], matrices[0], matrices[1]
    tiles = partial(_over_tiles, sides, mask, kind, by.debiased)
    first = tiles(lambda a, b, _: jnp.stack([jnp.sum(part, axis=1) for part in (a, b, a * b, a * a, b * b)], axis=1), 5)
    sums = first[:, :2]
    second = tiles(lambda a, b, c: jnp.concatenate([a @ (sums[c] / by.row), b @ (sums[c] / by.row)], axis=1), 4)
    products = [
        _Products(sums[:, i], sums[:, j], first[:, 2 + k], second[:, 2 * i + j], second[:, 2 * j + i])
        for k, (i, j) in enumerate(pairs)
    ]
    return products, empty, empty


def _permuted_sum(sides, mask, kind, by: _Centring, matrices, order: Array) -> Array:
    """The sum of A * B with the rows of y in another order."""
    x, y = sides
    a, b = matrices
    moved = y._replace(points=y.points[order])
    if a.shape[0]:
        return jnp.sum(a * b[order][:, order])
    if kind == "linear" and mask.shape[0] > max(x.points.shape[1], y.points.shape[1]):
        own = jnp.sum(jnp.sum(x.points**2, axis=1) * jnp.sum(moved.points**2, axis=1)) if by.debiased else 0
        return jnp.sum((x.points.T @ moved.points) ** 2) - own
    return jnp.sum(
        _over_tiles((x, moved), mask, kind, by.debiased, lambda a, b, _: jnp.sum(a * b, axis=1, keepdims=True), 1)
    )


@partial(jax.jit, static_argnames=("kind", "debiased", "permutations", "level"))
def _estimate(x, y, mask, bandwidths, *, kind, debiased, permutations, level, key):
    by = _centring(jnp.sum(mask).astype(x.dtype), debiased)
    median_key, shuffle = jax.random.split(key)
    sides = []
    for k, points in enumerate((x, y)):
        # From a row of its own first: a constant column is then 0, and not the rounding of its mean.
        points = jnp.where(mask[:, None], points - points[jnp.argmax(mask)], 0)
        points = jnp.where(mask[:, None], points - (mask @ points) / by.count, 0)
        if kind == "linear":
            width = jnp.ones((), x.dtype)
        elif bandwidths is None:
            width = median_distance([points], [mask.astype(x.dtype)], key=jax.random.fold_in(median_key, k))
        else:
            width = bandwidths[k]
        sides.append(_Side(points, width))
    sides = tuple(sides)
    products, *matrices = _products(sides, mask, kind, by)
    rows = [_row_products(p, by, mask) for p in products]
    between, within_x, within_y = (jnp.sum(row) / by.count for row in rows)
    positive = (within_x > 0) & (within_y > 0)
    norm = jnp.sqrt(jnp.where(positive, within_x * within_y, 1))
    value = jnp.where(positive, between / norm, jnp.nan)
    # The influence on HSIC is twice the rows' deviations; CKA's follows by the quotient rule.
    influence = 2 * (rows[0] / norm - value / 2 * (rows[1] / within_x + rows[2] / within_y))
    deviation = _masked_error(influence, mask)
    result = {"value": value, "standard_error": deviation, "interval": normal_interval(value, deviation, level=level)}
    if permutations:
        a, b = products[0].a, products[0].b
        allowed_first = jnp.argsort(~mask, stable=True)

        def permuted(key):
            shuffled = random_order(mask, key=key)
            order = jnp.zeros_like(shuffled).at[allowed_first].set(shuffled)
            cross = _permuted_sum(sides, mask, kind, by, matrices, order)
            centred = cross - 2 * jnp.sum(a * b[order]) / by.row + jnp.sum(a) * jnp.sum(b) / by.total
            return centred / by.rest / by.count / norm

        null = lax.map(permuted, jax.random.split(shuffle, permutations))
        result |= {"null": jnp.mean(null), "p_value": permutation_p_value(value, null)}
    return {**result, "converged": positive}


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
    independence, where it degenerates. Linear kernels with more rows than features need memory for d x d numbers
    only; otherwise kernel matrices are held up to 4096 rows and made in tiles beyond.

    Args:
      x: one row a sample, shape (n, ...).
      y: the same samples' rows in another space, shape (n, ...).
      mask: false for padding rows, shape (n,).
      kernel: "linear", or "rbf" for exp(-|x - y|^2 / (2 b^2)).
      bandwidth: of the RBF: "median" (of each side's own distances), b, or one for each side.
      debiased: whether to use the unbiased HSIC.
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
    parts = _estimate(
        first.astype(dtype), second.astype(dtype), weights > 0, bandwidths,
        kind=kernel, debiased=debiased, permutations=permutations, level=level, key=key,
    )  # fmt: skip
    return Distance(
        **parts, n=n, m=n, name=f"CKA ({kernel}, {'debiased' if debiased else 'biased'})",
        given=given, space=space, level=level,
    )  # fmt: skip
