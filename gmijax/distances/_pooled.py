"""Quadratic forms of a pooled kernel matrix that never has to exist: what MMD and the energy distance are made of.

The kernel depends on the squared distance. Its matrix is made once, tile by tile and by symmetry only half of it,
and every permutation, half and resample is a line of coefficients that one matrix product a tile serves.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from gmijax.distances._draws import Labels

DENSE = 2048  # pooled rows up to which the whole matrix is held, 16 MiB of float32
TILE = 1024  # rows of a tile beyond that

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


def squared_distances(first: Float[Array, "n d"], second: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """Pairwise squared distances of centred rows, by one matrix product."""
    norms = jnp.sum(first**2, axis=1)[:, None] + jnp.sum(second**2, axis=1)[None, :]
    return jnp.maximum(norms - 2 * (first @ second.T), 0)


def pooled_mean(x: Array, y: Array, weights_x: Array, weights_y: Array) -> Array:
    """The mean of all rows that count: distances of rows centred by it lose fewer digits."""
    return (weights_x @ x + weights_y @ y) / (jnp.sum(weights_x) + jnp.sum(weights_y))


def dense_forms(
    squared: Float[Array, "rows rows"],
    weights_x: Float[Array, " n"],
    weights_y: Float[Array, " m"],
    lines: Float[Array, "columns rows"],
    kernel: Kernel,
    parameters: Array,
) -> Forms:
    """The forms from the squared distances of all pooled rows."""
    n = weights_x.shape[0]
    matrix = kernel(squared, parameters)
    matrix = jnp.where(jnp.eye(matrix.shape[0], dtype=bool), 0, matrix)
    a, b = lines[:, :n], lines[:, n:]
    by_a = a @ matrix[:n]
    by_x, by_y = weights_x @ matrix[:n], weights_y @ matrix[n:]
    return Forms(
        xx=jnp.sum(by_a[:, :n] * a, axis=1),
        xy=jnp.sum(by_a[:, n:] * b, axis=1),
        yy=jnp.sum((b @ matrix[n:, n:]) * b, axis=1),
        x_x=by_x[:n],
        x_y=by_y[:n],
        y_x=by_x[n:],
        y_y=by_y[n:],
    )


def _block(first, second, weights, lines, centre, kernel, parameters, same: bool):
    """One of xx, xy, yy: the forms of all lines, and row sums of both sides."""
    height, width = min(TILE, first.shape[0]), min(TILE, second.shape[0])

    def cut(array, index, size, axis=0):
        """A tile's part; the last tile is moved back to fit, and what it repeats is not fresh."""
        start = jnp.minimum(index * size, array.shape[axis] - size)
        rows = start + jnp.arange(size)
        return lax.dynamic_slice_in_dim(array, start, size, axis), rows, rows >= index * size

    def add(sums, start_index, size, part):
        start = jnp.minimum(start_index * size, sums.shape[0] - size)
        old = lax.dynamic_slice_in_dim(sums, start, size)
        return lax.dynamic_update_slice_in_dim(sums, old + part, start, 0)

    def down(i, sums):
        a, rows, fresh_a = cut(first, i, height)
        coefficients_a = cut(lines[0], i, height, axis=1)[0] * fresh_a
        weight_a = cut(weights[0], i, height)[0] * fresh_a

        def across(j, inner):
            form, row_a, sums_b = inner
            b, columns, fresh_b = cut(second, j, width)
            tile = kernel(squared_distances(a - centre, b - centre), parameters)
            if same:
                tile = jnp.where(rows[:, None] == columns[None, :], 0, tile)
            coefficients_b = cut(lines[1], j, width, axis=1)[0] * fresh_b
            weight_b = cut(weights[1], j, width)[0] * fresh_b
            part = jnp.sum((coefficients_a @ tile) * coefficients_b, axis=1)
            mirrored = same & (i != j)  # by symmetry this tile stands for its mirror image too
            form = form + jnp.where(mirrored, 2, 1) * part
            row_a = row_a + fresh_a * (tile @ weight_b)
            sums_b = add(sums_b, j, width, jnp.where(i == j, not same, True) * fresh_b * (weight_a @ tile))
            return form, row_a, sums_b

        form, sums_a, sums_b = sums
        start = (jnp.zeros_like(form), jnp.zeros_like(weight_a), sums_b)
        added, row_a, sums_b = lax.fori_loop(i if same else 0, -(-second.shape[0] // width), across, start)
        return form + added, add(sums_a, i, height, row_a), sums_b

    zero = jnp.zeros(lines[0].shape[0], first.dtype)
    start = (zero, jnp.zeros_like(weights[0]), jnp.zeros_like(weights[1]))
    return lax.fori_loop(0, -(-first.shape[0] // height), down, start)


def tiled_forms(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    weights_x: Float[Array, " n"],
    weights_y: Float[Array, " m"],
    lines: Float[Array, "columns rows"],
    kernel: Kernel,
    parameters: Array,
) -> Forms:
    """The forms without the matrix: beyond the inputs and the lines, only tiles are held."""
    centre = pooled_mean(x, y, weights_x, weights_y)
    a, b = lines[:, : x.shape[0]], lines[:, x.shape[0] :]
    block = partial(_block, centre=centre, kernel=kernel, parameters=parameters)
    xx, x_first, x_second = block(x, x, (weights_x, weights_x), (a, a), same=True)
    yy, y_first, y_second = block(y, y, (weights_y, weights_y), (b, b), same=True)
    xy, x_y, y_x = block(x, y, (weights_x, weights_y), (a, b), same=False)
    return Forms(xx, xy, yy, x_first + x_second, x_y, y_x, y_first + y_second)


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
