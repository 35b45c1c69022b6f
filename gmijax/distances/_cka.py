"""Centred kernel alignment of paired rows, from row sums that need no kernel matrix where one would be large.

Rows are centred as they are read, tile by tile: there is no copy of a side that is large. Linear kernels of far more
rows than features take all they need from d x d matrices.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from gmijax._checks import check_choice
from gmijax.distances._bandwidth import gaussian, median_distance
from gmijax.distances._checks import check_common, check_positive, check_sample, count_rows, on_host
from gmijax.distances._distance import Distance
from gmijax.distances._draws import random_order
from gmijax.distances._pooled import add_at, cut, squared_distances, tile_pairs, tile_rows
from gmijax.stats import influence_standard_error, normal_interval, permutation_p_value

DENSE = 4096  # rows up to which both kernel matrices are held, 64 MiB of float32 each
FEATURES = 4  # times as many rows as features make d x d matrices cheaper than half of an n x n one
ROWS = 1024  # of a chunk that products with d x d matrices are made of
PAIRS = ((0, 1), (0, 0), (1, 1))  # the sides of HSIC(x, y), HSIC(x, x) and HSIC(y, y)


class _Side(NamedTuple):
    """One side's rows, what to take off them in turn, which count, and its RBF's bandwidth and level.

    The level, a typical value, is taken off the RBF: a constant on all pairs cancels, but would take digits along.
    """

    points: Float[Array, "n d"]
    origin: Float[Array, " d"] | None  # None where the rows are centred already
    shift: Float[Array, " d"]
    mask: Bool[Array, " n"]
    bandwidth: Float[Array, ""]
    level: Float[Array, ""]


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


def _hsic(cross: Array, a: Array, b: Array, by: _Centring) -> Array:
    """HSIC from the sum of A * B and the row sums of A and of B."""
    return (cross - 2 * jnp.sum(a * b) / by.row + jnp.sum(a) * jnp.sum(b) / by.total) / by.rest / by.count


def _fresh(i: Array, n: int, height: int) -> Bool[Array, " height"]:
    """Which rows of a tile no earlier one has: the last is moved back to fit."""
    return cut(jnp.arange(n), i, height) >= i * height


def _centred(side: _Side, rows: Array, mask: Array) -> Array:
    return jnp.where(mask[:, None], rows - side.origin - side.shift, 0)


def _rows(side: _Side, i: Array, height: int) -> Float[Array, "height d"]:
    """A tile of centred rows, 0 where masked."""
    rows = cut(side.points, i, height)
    return rows if side.origin is None else _centred(side, rows, cut(side.mask, i, height))


def _reordered(order: Array, side: _Side, i: Array, height: int) -> Float[Array, "height d"]:
    """A tile of the centred rows in another order."""
    picks = cut(order, i, height)
    rows = side.points[picks]
    return rows if side.origin is None else _centred(side, rows, side.mask[picks])


def _over_chunks(function: Callable[[Array, int], tuple[Any, Any]], n: int) -> tuple[Any, Any]:
    """`function(chunk, height)` gives terms and parts of rows: the terms' sums, and the rows of all chunks."""
    height = tile_rows(n, ROWS)
    sums, rows = jax.eval_shape(partial(function, height=height), jnp.asarray(0))
    sums = jax.tree.map(lambda term: jnp.zeros(term.shape, term.dtype), sums)
    rows = jax.tree.map(lambda part: jnp.zeros((n, *part.shape[1:]), part.dtype), rows)

    def step(found, i):
        terms, parts = function(i, height)
        start = jnp.minimum(i * height, n - height)
        whole = jax.tree.map(lambda a, part: lax.dynamic_update_slice_in_dim(a, part, start, 0), found[1], parts)
        return (jax.tree.map(jnp.add, found[0], terms), whole), None

    return lax.scan(step, (sums, rows), jnp.arange(-(-n // height)))[0]


def _side(points: Array, mask: Array, count: Array, bandwidth: Array | None) -> _Side:
    """A side centred by its mean, as a copy where that is small."""
    n = mask.shape[0]
    # From a row of its own first: a constant column is then 0, and not the rounding of its mean.
    origin = points[jnp.argmax(mask)]
    side = _Side(points, origin, jnp.zeros_like(origin), mask, jnp.ones((), points.dtype), jnp.zeros((), points.dtype))

    def add(i, height):
        return jnp.sum(jnp.where(_fresh(i, n, height)[:, None], _rows(side, i, height), 0), axis=0), None

    side = side._replace(shift=_over_chunks(add, n)[0] / count)
    if n <= DENSE:
        side = side._replace(points=_centred(side, points, mask), origin=None)
    if bandwidth is None:
        return side
    typical = 2 * jnp.sum(_squares(side)) / count  # the mean of all squared distances
    return side._replace(bandwidth=bandwidth, level=gaussian(typical, bandwidth[None]))


def _squares(side: _Side) -> Float[Array, " n"]:
    return _over_chunks(lambda i, height: (None, jnp.sum(_rows(side, i, height) ** 2, axis=1)), side.mask.shape[0])[1]


def _diagonals(sides: tuple[_Side, _Side], kind: str) -> Float[Array, "n 2"]:
    """Of both kernel matrices."""
    if kind == "linear":
        return jnp.stack([_squares(side) for side in sides], axis=1)
    return jnp.stack([jnp.where(side.mask, 1 - side.level, 0) for side in sides], axis=1)


def _kernel(side: _Side, first: Array, second: Array, kind: str) -> Array:
    if kind == "linear":
        return first @ second.T
    return gaussian(squared_distances(first, second), side.bandwidth[None]) - side.level


def _matrix(side: _Side, kind: str, diagonal: bool) -> Float[Array, "n n"]:
    """The kernel matrix, of whose tiles only half are computed, with its diagonal or 0 there."""
    n = side.mask.shape[0]
    height = tile_rows(n)

    def step(matrix, pair):
        tile = _kernel(side, *(_rows(side, i, height) for i in pair), kind)
        i, j = jnp.minimum(pair * height, n - height)
        return lax.dynamic_update_slice(lax.dynamic_update_slice(matrix, tile, (i, j)), tile.T, (j, i)), None

    start = jnp.zeros((n, n), side.points.dtype)
    matrix, _ = lax.scan(step, start, jnp.asarray(tile_pairs(n, n, same=True)))
    pairs = side.mask[:, None] & side.mask[None, :]
    return jnp.where(pairs if diagonal else pairs & ~jnp.eye(n, dtype=bool), matrix, 0)


def _over_tiles(sides: tuple[_Side, _Side], kind: str, visit: Callable, width: int, rows_of_y: Callable = _rows):
    """Sums over all other rows of what `visit(tile of A, tile of B, i, j)` gives the tile's rows and its columns."""
    x, y = sides
    n = x.mask.shape[0]
    height = tile_rows(n)

    def step(sums, pair):
        i, j = pair
        rows, columns = (cut(jnp.arange(n), k, height) for k in pair)
        down, across = (cut(x.mask, k, height) & _fresh(k, n, height) for k in pair)
        pairs = down[:, None] & across[None, :] & (rows[:, None] < columns[None, :])
        a = _kernel(x, *(_rows(x, k, height) for k in pair), kind)
        b = _kernel(y, *(rows_of_y(y, k, height) for k in pair), kind)
        down, across = visit(jnp.where(pairs, a, 0), jnp.where(pairs, b, 0), i, j)
        return add_at(add_at(sums, i, down), j, across), None

    start = jnp.zeros((n, width), x.points.dtype)
    return lax.scan(step, start, jnp.asarray(tile_pairs(n, n, same=True)))[0]


def _sums_both_ways(*tiles: Array) -> tuple[Array, Array]:
    return tuple(jnp.stack([jnp.sum(tile, axis=axis) for tile in tiles], axis=1) for axis in (1, 0))


def _rbf_products(sides: tuple[_Side, _Side], matrices: list[Array], own: Array, by: _Centring) -> list[_Products]:
    """The products of (x, y), (x, x) and (y, y): of two matrices, or made again in tiles for want of them."""
    if matrices:
        sums = [jnp.sum(matrix, axis=1) for matrix in matrices]
        return [
            _Products(sums[i], sums[j], jnp.sum(matrices[i] * matrices[j], axis=1),
                      matrices[i] @ (sums[j] / by.row), matrices[j] @ (sums[i] / by.row))
            for i, j in PAIRS
        ]  # fmt: skip
    height = tile_rows(own.shape[0])
    diagonal = jnp.zeros_like(own) if by.debiased else own
    first = _over_tiles(sides, "rbf", lambda a, b, i, j: _sums_both_ways(a, b, a * b, a * a, b * b), 5)
    first += jnp.concatenate([diagonal, *(diagonal[:, i : i + 1] * diagonal[:, j : j + 1] for i, j in PAIRS)], axis=1)
    shares = first[:, :2] / by.row

    def visit(a, b, i, j):
        down, across = cut(shares, j, height), cut(shares, i, height)
        return jnp.concatenate([a @ down, b @ down], axis=1), jnp.concatenate([a.T @ across, b.T @ across], axis=1)

    second = _over_tiles(sides, "rbf", visit, 4) + jnp.repeat(diagonal, 2, axis=1) * jnp.tile(shares, (1, 2))
    return [
        _Products(first[:, i], first[:, j], first[:, 2 + k], second[:, 2 * i + j], second[:, 2 * j + i])
        for k, (i, j) in enumerate(PAIRS)
    ]


def _by_features(sides: tuple[_Side, _Side]) -> bool:
    return sides[0].mask.shape[0] > FEATURES * max(side.points.shape[1] for side in sides)


def _linear_products(
    sides: tuple[_Side, _Side], matrices: list[Array], own: Array, by: _Centring, by_row: bool
) -> tuple[list[Array], list[_Products]]:
    """HSIC of (x, y), (x, x) and (y, y), and their products where asked for `by_row`.

    A centred kernel's rows sum to 0; without the diagonal to minus it, the squared norms `own`. The sum of A * B is
    that of the squares of X'Y.
    """
    n = own.shape[0]
    features = _by_features(sides)

    def sums(i, height):
        rows = [_rows(side, i, height) for side in sides]
        once = [jnp.where(_fresh(i, n, height)[:, None], part, 0) for part in rows]
        crosses = [once[k].T @ rows[m] for k, m in PAIRS] if features else []
        return (crosses, [part.T @ cut(own, i, height) for part in once]), None

    def products(i, height):
        rows = [_rows(side, i, height) for side in sides]
        both = [
            jnp.sum((rows[k] @ cross) * rows[m], axis=1)
            for cross, (k, m) in zip(crosses, PAIRS[: len(crosses)], strict=True)
        ]
        return None, (both, [part @ total for part, total in zip(rows, by_own, strict=True)])

    (crosses, by_own), _ = _over_chunks(sums, n)
    both, times_own = _over_chunks(products, n)[1] if by_row else ([], [])
    diagonals = [own[:, k] * own[:, m] for k, m in PAIRS]
    if matrices:
        both = [jnp.sum(matrices[k] * matrices[m], axis=1) for k, m in PAIRS]
    elif not features:
        tiles = _over_tiles(sides, "linear", lambda a, b, i, j: _sums_both_ways(a * b, a * a, b * b), 3)
        both = [tiles[:, k] + diagonal for k, diagonal in enumerate(diagonals)]
    totals = [jnp.sum(cross**2) for cross in crosses] if features else [jnp.sum(rows) for rows in both]
    zero = jnp.zeros(n, own.dtype)
    if not by.debiased:
        hsic = [_hsic(total, zero, zero, by) for total in totals]
        return hsic, [_Products(zero, zero, rows, zero, zero) for rows in both] if by_row else []
    hsic = [
        _hsic(total - jnp.sum(diagonal), own[:, k], own[:, m], by)
        for total, diagonal, (k, m) in zip(totals, diagonals, PAIRS, strict=True)
    ]
    if not by_row:
        return hsic, []
    return hsic, [
        _Products(-own[:, k], -own[:, m], rows - diagonal,
                  (diagonal - times_own[k][:, m]) / by.row, (diagonal - times_own[m][:, k]) / by.row)
        for rows, diagonal, (k, m) in zip(both, diagonals, PAIRS, strict=True)
    ]  # fmt: skip


def _permuted_sum(sides, kind: str, by: _Centring, matrices: list[Array], own: Array, order: Array) -> Array:
    """The sum of A * B with the rows of y in another order."""
    x, y = sides
    n = own.shape[0]
    moved = partial(_reordered, order)
    if matrices:
        total, whole = jnp.sum(matrices[0] * matrices[1][order][:, order]), kind == "linear" or not by.debiased
    elif kind == "linear" and _by_features(sides):

        def cross(i, height):
            return jnp.where(_fresh(i, n, height)[:, None], _rows(x, i, height), 0).T @ moved(y, i, height), None

        total, whole = jnp.sum(_over_chunks(cross, n)[0] ** 2), True
    else:
        tiles = _over_tiles(sides, kind, lambda a, b, i, j: _sums_both_ways(a * b), 1, moved)
        total, whole = jnp.sum(tiles), False
    if whole != by.debiased:
        return total
    diagonal = jnp.sum(own[:, 0] * own[order, 1])
    return total - diagonal if by.debiased else total + diagonal


def _on_matrices(kind: str, n: int, dimensions: int) -> bool:
    """Whether kernel matrices are held, rather than d x d matrices or tiles."""
    return n <= DENSE and not (kind == "linear" and n > FEATURES * dimensions)


def _host_matrix(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The centred linear kernel's, by the host's library, which makes half of it and fast."""
    points = points - points[np.argmax(mask)]
    points -= points[mask].mean(axis=0)
    points[~mask] = 0
    return points @ points.T


@partial(jax.jit, static_argnames=("kind", "debiased", "interval", "permutations", "level"))
def _estimate(x, y, mask, bandwidths, matrices, *, kind, debiased, interval, permutations, level, key):
    by = _centring(jnp.sum(mask).astype(x.dtype), debiased)
    median_key, shuffle = jax.random.split(key)
    sides = []
    for k, points in enumerate((x, y)):
        if kind == "linear":
            width = None
        elif bandwidths is None:
            width = median_distance([points], [mask.astype(x.dtype)], key=jax.random.fold_in(median_key, k))
        else:
            width = bandwidths[k]
        sides.append(_side(points, mask, by.count, width))
    sides = tuple(sides)
    if not matrices and _on_matrices(kind, mask.shape[0], max(x.shape[1], y.shape[1])):
        matrices = [_matrix(side, kind, kind == "linear" or not debiased) for side in sides]
    own = _diagonals(sides, kind)
    if kind == "linear":
        hsic, products = _linear_products(sides, matrices, own, by, by_row=interval)
        a, b = -own.T if debiased else jnp.zeros_like(own.T)
        rows = [_row_products(p, by, mask) for p in products]
    else:
        products = _rbf_products(sides, matrices, own, by)
        a, b = products[0].a, products[0].b
        rows = [_row_products(p, by, mask) for p in products]
        hsic = [jnp.sum(row) / by.count for row in rows]
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
            return _hsic(_permuted_sum(sides, kind, by, matrices, own, order), a, b[order], by) / norm

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
    dimensions = max(first.shape[1], second.shape[1])
    if kernel == "linear" and _on_matrices(kernel, len(counts), dimensions) and on_host(first, second, counts):
        matrices = [jnp.asarray(_host_matrix(np.asarray(side), np.asarray(counts))) for side in (first, second)]
    parts = _estimate(
        first, second, counts, bandwidths, matrices,
        kind=kernel, debiased=debiased, interval=interval == "influence", permutations=permutations, level=level,
        key=key,
    )  # fmt: skip
    return Distance(
        **parts, n=n, m=n, name=f"CKA ({kernel}, {'debiased' if debiased else 'biased'})",
        given=given, space=space, level=level,
    )  # fmt: skip
