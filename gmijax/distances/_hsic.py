"""HSIC of paired rows, from row sums that need no kernel matrix where one would be large.

Rows are centred as they are read, tile by tile: no side that is large is ever copied. Linear kernels of far more rows
than features take all they need from d x d matrices.
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

from gmijax.distances._bandwidth import gaussian
from gmijax.distances._pooled import add_at, cut, squared_distances, tile_pairs, tile_rows

DENSE = 4096  # rows up to which both kernel matrices are held, 64 MiB of float32 each
FEATURES = 4  # times as many rows as features make d x d matrices cheaper than half of an n x n one
ROWS = 1024  # of a chunk that products with d x d matrices are made of
PAIRS = ((0, 1), (0, 0), (1, 1))  # the sides of HSIC(x, y), HSIC(x, x) and HSIC(y, y)


class Side(NamedTuple):
    """One side's rows, what to take off them in turn, which count, and its RBF's bandwidth and level.

    The level, a typical value, is taken off the RBF: a constant on all pairs cancels, but would take digits along.
    """

    points: Float[Array, "n d"]
    origin: Float[Array, " d"] | None  # None where the rows are centred already
    shift: Float[Array, " d"]
    mask: Bool[Array, " n"]
    bandwidth: Float[Array, ""]
    level: Float[Array, ""]


class Products(NamedTuple):
    """With A and B the kernel matrices of two sides: row sums of A, of B and of A * B, and A s and B r."""

    a: Array
    b: Array
    ab: Array
    a_s: Array
    b_r: Array


@dataclass(frozen=True)
class Centring:
    """What double-centring divides by: row sums, the total, and the mean of what is left."""

    count: Array
    row: Array
    total: Array
    rest: Array
    debiased: bool


def centring(count: Array, debiased: bool) -> Centring:
    """Plain centring, or U-centring with the diagonal left out (Szekely and Rizzo 2014, 10.1214/14-AOS1255)."""
    if debiased:
        return Centring(count, count - 2, (count - 1) * (count - 2), count - 3, True)
    return Centring(count, count, count**2, count, False)


def row_products(p: Products, by: Centring, mask: Array) -> Array:
    """Row sums of the product of both centred matrices over `rest`: their mean over rows is HSIC."""
    r, s = p.a / by.row, p.b / by.row
    total_a, rs, total_s = jnp.sum(p.a) / by.total, jnp.sum(r * s), jnp.sum(s)
    own = 1 if by.debiased else 0  # the diagonal is not there
    first = p.ab - r * p.b - p.b_r + total_a * p.b
    second = p.a_s - r * (total_s - own * s) - (rs - own * r * s) + total_a * (total_s - own * s)
    return jnp.where(mask, first - second, 0) / by.rest


def hsic_of(cross: Array, a: Array, b: Array, by: Centring) -> Array:
    """HSIC from the sum of A * B and the row sums of A and of B."""
    return (cross - 2 * jnp.sum(a * b) / by.row + jnp.sum(a) * jnp.sum(b) / by.total) / by.rest / by.count


def _fresh(i: Array, n: int, height: int) -> Bool[Array, " height"]:
    """Which rows of a tile no earlier one has: the last is moved back to fit."""
    return cut(jnp.arange(n), i, height) >= i * height


def _centred(side: Side, rows: Array, mask: Array) -> Array:
    if side.origin is None:
        return rows
    return jnp.where(mask[:, None], rows - side.origin - side.shift, 0)


def _rows(side: Side, i: Array, height: int) -> Float[Array, "height d"]:
    """A tile of centred rows, 0 where masked."""
    rows = cut(side.points, i, height)
    return _centred(side, rows, cut(side.mask, i, height))


def _reordered(order: Array, side: Side, i: Array, height: int) -> Float[Array, "height d"]:
    """A tile of the centred rows in another order."""
    picks = cut(order, i, height)
    return _centred(side, side.points[picks], side.mask[picks])


def _over_chunks(function: Callable[[Array, int], tuple[Any, Any]], n: int) -> tuple[Any, Any]:
    """`function(chunk, height)` gives terms and parts of rows: the terms' sums, and the rows of all chunks."""
    height = tile_rows(n, ROWS)
    sums, rows = jax.eval_shape(lambda i: function(i, height), jnp.asarray(0))
    sums = jax.tree.map(lambda term: jnp.zeros(term.shape, term.dtype), sums)
    rows = jax.tree.map(lambda part: jnp.zeros((n, *part.shape[1:]), part.dtype), rows)

    def step(found, i):
        terms, parts = function(i, height)
        start = jnp.minimum(i * height, n - height)
        whole = jax.tree.map(lambda a, part: lax.dynamic_update_slice_in_dim(a, part, start, 0), found[1], parts)
        return (jax.tree.map(jnp.add, found[0], terms), whole), None

    return lax.scan(step, (sums, rows), jnp.arange(-(-n // height)))[0]


def centred_side(points: Array, mask: Array, count: Array, bandwidth: Array | None) -> Side:
    """A side centred by its mean, as a copy where that is small."""
    n = mask.shape[0]
    # From a row of its own first: a constant column is then 0, and not the rounding of its mean.
    origin = points[jnp.argmax(mask)]
    side = Side(points, origin, jnp.zeros_like(origin), mask, jnp.ones((), points.dtype), jnp.zeros((), points.dtype))

    def add(i, height):
        return jnp.sum(jnp.where(_fresh(i, n, height)[:, None], _rows(side, i, height), 0), axis=0), None

    side = side._replace(shift=_over_chunks(add, n)[0] / count)
    if n <= DENSE:
        side = side._replace(points=_centred(side, points, mask), origin=None)
    if bandwidth is None:
        return side
    typical = 2 * jnp.sum(_squares(side)) / count  # the mean of all squared distances
    return side._replace(bandwidth=bandwidth, level=gaussian(typical, bandwidth[None]))


def _squares(side: Side) -> Float[Array, " n"]:
    return _over_chunks(lambda i, height: (None, jnp.sum(_rows(side, i, height) ** 2, axis=1)), side.mask.shape[0])[1]


def diagonals_of(sides: tuple[Side, Side], kind: str) -> Float[Array, "n 2"]:
    """Of both kernel matrices."""
    if kind == "linear":
        return jnp.stack([_squares(side) for side in sides], axis=1)
    return jnp.stack([jnp.where(side.mask, 1 - side.level, 0) for side in sides], axis=1)


def _kernel(side: Side, first: Array, second: Array, kind: str) -> Array:
    if kind == "linear":
        return first @ second.T
    return gaussian(squared_distances(first, second), side.bandwidth[None]) - side.level


def kernel_matrix(side: Side, kind: str, diagonal: bool) -> Float[Array, "n n"]:
    """The kernel matrix, of whose tiles only half are computed, with its diagonal or 0 there."""
    n = side.mask.shape[0]
    height = tile_rows(n)

    def step(matrix, pair):
        tile = _kernel(side, _rows(side, pair[0], height), _rows(side, pair[1], height), kind)
        i, j = jnp.minimum(pair * height, n - height)
        return lax.dynamic_update_slice(lax.dynamic_update_slice(matrix, tile, (i, j)), tile.T, (j, i)), None

    start = jnp.zeros((n, n), side.points.dtype)
    matrix, _ = lax.scan(step, start, jnp.asarray(tile_pairs(n, n, same=True)))
    pairs = side.mask[:, None] & side.mask[None, :]
    return jnp.where(pairs if diagonal else pairs & ~jnp.eye(n, dtype=bool), matrix, 0)


def _over_tiles(sides: tuple[Side, Side], kind: str, visit: Callable, width: int, rows_of_y: Callable = _rows):
    """Sums over all other rows of what `visit(tile of A, tile of B, i, j)` gives the tile's rows and its columns."""
    x, y = sides
    n = x.mask.shape[0]
    height = tile_rows(n)

    def step(sums, pair):
        i, j = pair
        rows, columns = (cut(jnp.arange(n), k, height) for k in pair)
        down, across = (cut(x.mask, k, height) & _fresh(k, n, height) for k in pair)
        pairs = down[:, None] & across[None, :] & (rows[:, None] < columns[None, :])
        a = _kernel(x, _rows(x, i, height), _rows(x, j, height), kind)
        b = _kernel(y, rows_of_y(y, i, height), rows_of_y(y, j, height), kind)
        down, across = visit(jnp.where(pairs, a, 0), jnp.where(pairs, b, 0), i, j)
        return add_at(add_at(sums, i, down), j, across), None

    start = jnp.zeros((n, width), x.points.dtype)
    return lax.scan(step, start, jnp.asarray(tile_pairs(n, n, same=True)))[0]


def _sums_both_ways(*tiles: Array) -> tuple[Array, Array]:
    down, across = (jnp.stack([jnp.sum(tile, axis=axis) for tile in tiles], axis=1) for axis in (1, 0))
    return down, across


def matrix_products(matrices: list[Array], by: Centring) -> list[Products]:
    """The products of (x, y), (x, x) and (y, y) from both kernel matrices, without their diagonals if `debiased`."""
    sums = [jnp.sum(matrix, axis=1) for matrix in matrices]
    return [
        Products(
            sums[i],
            sums[j],
            jnp.sum(matrices[i] * matrices[j], axis=1),
            matrices[i] @ (sums[j] / by.row),
            matrices[j] @ (sums[i] / by.row),
        )
        for i, j in PAIRS
    ]


def rbf_products(sides: tuple[Side, Side], own: Array, by: Centring) -> list[Products]:
    """The same from tiles, which are made twice. `own` are the diagonals."""
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
        Products(first[:, i], first[:, j], first[:, 2 + k], second[:, 2 * i + j], second[:, 2 * j + i])
        for k, (i, j) in enumerate(PAIRS)
    ]


def by_features(kind: str, n: int, dimensions: int) -> bool:
    """Whether d x d matrices serve rather than the kernels'."""
    return kind == "linear" and n > FEATURES * dimensions


def linear_products(
    sides: tuple[Side, Side], own: Array, by: Centring, by_row: bool
) -> tuple[list[Array], list[Products]]:
    """HSIC of (x, y), (x, x) and (y, y) from d x d matrices or tiles, and their products where asked for `by_row`.

    A centred kernel's rows sum to 0; without the diagonal to minus it, the squared norms `own`. The sum of A * B is
    that of the squares of X'Y.
    """
    n = own.shape[0]
    features = by_features("linear", n, max(side.points.shape[1] for side in sides))
    owned = by_row and by.debiased

    def sums(i, height):
        rows = [_rows(side, i, height) for side in sides]
        once = [jnp.where(_fresh(i, n, height)[:, None], part, 0) for part in rows]
        squares = cut(own, i, height).T  # on the left: XLA is ten times slower at X'v for few v
        crosses = [once[k].T @ rows[m] for k, m in PAIRS] if features else []
        return (crosses, [squares @ part for part in once] if owned else []), None

    def products(i, height):
        rows = [_rows(side, i, height) for side in sides]
        pairs = PAIRS if features else ()
        both = [jnp.sum((rows[k] @ cross) * rows[m], axis=1) for cross, (k, m) in zip(crosses, pairs, strict=True)]
        return None, (both, [part @ total.T for part, total in zip(rows, by_own, strict=True)] if owned else [])

    (crosses, by_own), _ = _over_chunks(sums, n)
    both, times_own = _over_chunks(products, n)[1] if by_row else ([], [])
    diagonals = [own[:, k] * own[:, m] for k, m in PAIRS]
    if not features:
        tiles = _over_tiles(sides, "linear", lambda a, b, i, j: _sums_both_ways(a * b, a * a, b * b), 3)
        both = [tiles[:, k] + diagonal for k, diagonal in enumerate(diagonals)]
    totals = [jnp.sum(cross**2) for cross in crosses] if features else [jnp.sum(rows) for rows in both]
    zero = jnp.zeros(n, own.dtype)
    if not by.debiased:
        hsic = [hsic_of(total, zero, zero, by) for total in totals]
        return hsic, [Products(zero, zero, rows, zero, zero) for rows in both] if by_row else []
    hsic = [
        hsic_of(total - jnp.sum(diagonal), own[:, k], own[:, m], by)
        for total, diagonal, (k, m) in zip(totals, diagonals, PAIRS, strict=True)
    ]
    if not by_row:
        return hsic, []
    return hsic, [
        Products(-own[:, k], -own[:, m], rows - diagonal,
                  (diagonal - times_own[k][:, m]) / by.row, (diagonal - times_own[m][:, k]) / by.row)
        for rows, diagonal, (k, m) in zip(both, diagonals, PAIRS, strict=True)
    ]  # fmt: skip


def permuted_sum(sides: tuple[Side, Side], kind: str, by: Centring, own: Array, order: Array) -> Array:
    """The sum of A * B with the rows of y in another order, from d x d matrices or tiles."""
    x, y = sides
    n = own.shape[0]
    moved = partial(_reordered, order)
    diagonal = jnp.sum(own[:, 0] * own[order, 1])
    if by_features(kind, n, max(side.points.shape[1] for side in sides)):

        def cross(i, height):
            return jnp.where(_fresh(i, n, height)[:, None], _rows(x, i, height), 0).T @ moved(y, i, height), None

        return jnp.sum(_over_chunks(cross, n)[0] ** 2) - (diagonal if by.debiased else 0)
    tiles = _over_tiles(sides, kind, lambda a, b, i, j: _sums_both_ways(a * b), 1, moved)
    return jnp.sum(tiles) + (0 if by.debiased else diagonal)


def host_matrix(points: np.ndarray, mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """The linear `kernel_matrix` by the host's library, which knows that half is enough."""
    points = points - points[np.argmax(mask)]
    points -= points[mask].mean(axis=0)
    points[~mask] = 0
    matrix = points @ points.T
    if not diagonal:
        np.fill_diagonal(matrix, 0)
    return matrix
