"""Quadratic forms of a pooled kernel matrix that never has to exist: what MMD and the energy distance are made of.

The kernel depends on the squared distance. Its matrix is made in tiles, by symmetry only half of them, and every
permutation, half and resample is a line of coefficients that one matrix product a tile serves.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from gmijax.distances._draws import Labels

DENSE = 2048  # pooled rows up to which the squared distances are held, 8 MiB of float32
TILE = 256  # rows of a tile at most: XLA's product on the CPU slows down where its operands leave the cache

Kernel = Callable[[Array, Array], Array]  # squared distances and parameters to kernel values


class Forms(NamedTuple):
    """Sums over pairs of different rows, with k the kernel and a, b the parts of a coefficient line on x and on y.

    `xx` = a'ka, `yy` = b'kb, `xy` = a'kb, one a line, (columns,). Row sums with the weights of the rows: `x_x` over
    x at every row of x, `x_y` over y at x, both (n,); `y_x`, `y_y` (m,).
    """

    xx: Array
    xy: Array
    yy: Array
    x_x: Array
    x_y: Array
    y_x: Array
    y_y: Array


class Rows(NamedTuple):
    """Rows whose distances are asked for, not copied: what to centre them by, their norms then, and which count."""

    points: Float[Array, "n d"]
    centre: Float[Array, " d"]
    squares: Float[Array, " n"]
    counts: Bool[Array, " n"]


class Tile(NamedTuple):
    """Squared distances of some rows of one set to some of another, and which pairs count that no other tile has."""

    squared: Float[Array, "height width"]
    pairs: Bool[Array, "height width"]


def centred_rows(points: Float[Array, "n d"], centre: Float[Array, " d"], counts: Bool[Array, " n"]) -> Rows:
    """Distances of rows centred by their mean lose fewer digits."""
    return Rows(points, centre, jnp.sum((points - centre) ** 2, axis=1), counts)


def pooled_mean(x: Array, y: Array, weights_x: Array, weights_y: Array) -> Array:
    """The mean of all rows that count."""
    return (weights_x @ x + weights_y @ y) / (jnp.sum(weights_x) + jnp.sum(weights_y))


def squared_distances(first: Float[Array, "n d"], second: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Pairwise squared distances of centred rows, by one matrix product."""
    norms = jnp.sum(first**2, axis=1)[:, None] + jnp.sum(second**2, axis=1)[None, :]
    return jnp.maximum(norms - 2 * (first @ second.T), 0)


def tile_rows(rows: int, most: int | None = None) -> int:
    """The height of equal tiles of at most so many rows, TILE where None."""
    return -(-rows // -(-rows // (most or TILE)))


def tile_pairs(first: int, second: int, same: bool) -> np.ndarray:
    """Which tiles of either side meet, (pairs, 2); those of one set with itself meet once."""
    down, across = (np.arange(-(-rows // tile_rows(rows))) for rows in (first, second))
    pairs = np.stack(np.meshgrid(down, across, indexing="ij"), axis=-1).reshape(-1, 2)
    return pairs[pairs[:, 0] <= pairs[:, 1]] if same else pairs


def cut(array: Array, index: Array, height: int, axis: int = 0) -> Array:
    """A tile's part; the last one is moved back to fit."""
    return lax.dynamic_slice_in_dim(array, jnp.minimum(index * height, array.shape[axis] - height), height, axis)


def add_at(sums: Array, index: Array, part: Array) -> Array:
    """Sums with a tile's part added in its place."""
    start = jnp.minimum(index * part.shape[0], sums.shape[0] - part.shape[0])
    old = lax.dynamic_slice_in_dim(sums, start, part.shape[0])
    return lax.dynamic_update_slice_in_dim(sums, old + part, start, 0)


def _tile(first: Rows, second: Rows, i: Array, j: Array, same: bool) -> Tile:
    height, width = tile_rows(first.counts.shape[0]), tile_rows(second.counts.shape[0])
    a = cut(first.points, i, height) - first.centre
    b = cut(second.points, j, width) - second.centre
    squares = cut(first.squares, i, height)[:, None] + cut(second.squares, j, width)[None, :]
    rows, columns = cut(jnp.arange(first.counts.shape[0]), i, height), cut(jnp.arange(second.counts.shape[0]), j, width)
    # The last tile was moved back: the rows before its own are an earlier tile's.
    mine = cut(first.counts, i, height) & (rows >= i * height)
    theirs = cut(second.counts, j, width) & (columns >= j * width)
    pairs = mine[:, None] & theirs[None, :]
    if same:
        pairs &= rows[:, None] < columns[None, :]
    return Tile(jnp.maximum(squares - 2 * (a @ b.T), 0), pairs)


def tiles_of(first: Rows, second: Rows, *, same: bool) -> Tile:
    """All tiles, one behind the other: half of a matrix, where the sets are the `same`, or a whole one."""
    pairs = jnp.asarray(tile_pairs(first.counts.shape[0], second.counts.shape[0], same))
    return lax.map(lambda pair: _tile(first, second, pair[0], pair[1], same), pairs)


def _block(first, second, weights, lines, kernel, parameters, tiles: Tile | None, same: bool):
    """One of xx, xy, yy: the forms of all lines, and row sums of both sides."""
    height, width = tile_rows(first.counts.shape[0]), tile_rows(second.counts.shape[0])

    def step(sums, pair_and_tile):
        form, sums_a, sums_b = sums
        (i, j), tile = pair_and_tile
        squared, pairs = _tile(first, second, i, j, same) if tile is None else tile
        values = jnp.where(pairs, kernel(squared, parameters), 0)
        form = form + jnp.sum((cut(lines[0], i, height, 1) @ values) * cut(lines[1], j, width, 1), axis=1)
        sums_a = add_at(sums_a, i, values @ cut(weights[1], j, width))
        sums_b = add_at(sums_b, j, cut(weights[0], i, height) @ values)
        return (form, sums_a, sums_b), None

    pairs = jnp.asarray(tile_pairs(first.counts.shape[0], second.counts.shape[0], same))
    start = jnp.zeros(lines[0].shape[0], lines[0].dtype), jnp.zeros_like(weights[0]), jnp.zeros_like(weights[1])
    (form, sums_a, sums_b), _ = lax.scan(step, start, (pairs, tiles))
    # A pair of rows of one set stands for its mirror image too.
    return (2 * form, sums_a + sums_b, sums_a + sums_b) if same else (form, sums_a, sums_b)


def kernel_forms(
    x: Rows,
    y: Rows,
    weights_x: Float[Array, " n"],
    weights_y: Float[Array, " m"],
    lines: Float[Array, "columns rows"],
    kernel: Kernel,
    parameters: Array,
    tiles: tuple[Tile, Tile, Tile] | None = None,
) -> Forms:
    """The forms, from the `tiles_of` (x, x), (y, y) and (x, y) if they are at hand; else only one tile is ever held."""
    a, b = lines[:, : weights_x.shape[0]], lines[:, weights_x.shape[0] :]
    of_x, of_y, of_both = tiles or (None, None, None)
    xx, x_x, _ = _block(x, x, (weights_x, weights_x), (a, a), kernel, parameters, of_x, same=True)
    yy, y_y, _ = _block(y, y, (weights_y, weights_y), (b, b), kernel, parameters, of_y, same=True)
    xy, x_y, y_x = _block(x, y, (weights_x, weights_y), (a, b), kernel, parameters, of_both, same=False)
    return Forms(xx, xy, yy, x_x, x_y, y_x, y_y)


def line_forms(
    order: Integer[Array, " rows"],
    x: Float[Array, "n 1"],
    y: Float[Array, "m 1"],
    weights_x: Float[Array, " n"],
    weights_y: Float[Array, " m"],
    lines: Float[Array, "columns rows"],
) -> Forms:
    """The forms of the kernel -|x - y| on the line, where the pooled rows in `order` need no pairs.

    Between two neighbours lies their gap times the masses on its two sides.
    """
    n = weights_x.shape[0]
    place = jnp.concatenate([x[:, 0], y[:, 0]])[order]
    gaps, of_x = jnp.diff(place), order < n
    place = place - place[place.shape[0] // 2]  # sums of places lose no digits to where they are

    def one(line):
        line = line[order]
        a, b = jnp.cumsum(jnp.where(of_x, line, 0)), jnp.cumsum(jnp.where(of_x, 0, line))
        above_a, above_b = (a[-1] - a)[:-1], (b[-1] - b)[:-1]
        a, b = a[:-1], b[:-1]
        return -2 * gaps @ (a * above_a), -gaps @ (a * above_b + b * above_a), -2 * gaps @ (b * above_b)

    def row_sums(weights):
        weights = weights[order]
        level, moment = jnp.cumsum(weights), jnp.cumsum(weights * place)
        sums = place * (2 * level - level[-1]) - (2 * moment - moment[-1])
        return jnp.zeros_like(sums).at[order].set(-sums)

    xx, xy, yy = lax.map(one, lines)
    by_x = row_sums(jnp.concatenate([weights_x, jnp.zeros_like(weights_y)]))
    by_y = row_sums(jnp.concatenate([jnp.zeros_like(weights_x), weights_y]))
    return Forms(xx, xy, yy, by_x[:n], by_y[:n], by_x[n:], by_y[n:])


def unbiased_statistics(
    forms: Forms, weights_x: Float[Array, " n"], weights_y: Float[Array, " m"], labels: Labels
) -> Float[Array, " lines"]:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y) of every line of `labels`, no row paired with itself.

    NaN for a law of one row, which has no pair.
    """
    pooled = jnp.concatenate([forms.x_x + forms.x_y, forms.y_x + forms.y_y])
    only_x = jnp.concatenate([forms.x_x, jnp.zeros_like(weights_y)])
    only_y = jnp.concatenate([jnp.zeros_like(weights_x), forms.y_y])
    sums = jnp.stack([pooled, only_x, only_y])  # of the kernel over each universe, at every row
    weights = jnp.concatenate([weights_x, weights_y])
    own = forms.xx + 2 * forms.xy + forms.yy
    ends = np.cumsum(labels.counts)
    by_universe = zip(sums, np.split(np.arange(ends[-1]), ends[:-1]), strict=True)
    shared = jnp.concatenate([labels.first[lines] @ total for total, lines in by_universe])
    both = labels.by_line(jnp.sum(sums * labels.universes, axis=1))
    mass = jnp.sum(labels.first, axis=1)
    square = labels.first @ weights
    other_mass = labels.by_line(jnp.sum(labels.universes, axis=1)) - mass
    other_square = labels.by_line(labels.universes @ weights) - square
    return (
        own / (mass**2 - square)
        + (both - 2 * shared + own) / (other_mass**2 - other_square)
        - 2 * (shared - own) / (mass * other_mass)
    )


def jackknife_variance(forms: Forms, weights_x: Float[Array, " n"], weights_y: Float[Array, " m"]) -> Array:
    """The delete-one jackknife of the observed statistic, in closed form from the row sums.

    (n - 1) / n sum (U_-i - mean)^2 over the rows of x, and likewise of y. It includes the second-order part, so that
    near a null, where the first-order part vanishes, it errs upwards (Efron and Stein 1981, 10.1214/aos/1176345462).
    """

    def one(weights, within, across, other, within_other):
        """Leave-one-out values of one side; `other` and `within_other` are the other side's mass and mean."""
        mass, square = jnp.sum(weights), jnp.sum(weights**2)
        total, cross = weights @ within, weights @ across
        left = mass - weights
        pairs = left**2 - (square - weights**2)
        counts = weights > 0
        values = (total - 2 * weights * within) / jnp.where(pairs > 0, pairs, 1) + within_other
        values = values - 2 * (cross - weights * across) / (jnp.where(left > 0, left, 1) * other)
        count = jnp.sum(counts)
        mean = jnp.sum(jnp.where(counts, values, 0)) / count
        return (count - 1) / count * jnp.sum(jnp.where(counts, values - mean, 0) ** 2)

    mass_x, mass_y = jnp.sum(weights_x), jnp.sum(weights_y)
    mean_x = weights_x @ forms.x_x / (mass_x**2 - jnp.sum(weights_x**2))
    mean_y = weights_y @ forms.y_y / (mass_y**2 - jnp.sum(weights_y**2))
    return one(weights_x, forms.x_x, forms.x_y, mass_y, mean_y) + one(weights_y, forms.y_y, forms.y_x, mass_x, mean_x)
