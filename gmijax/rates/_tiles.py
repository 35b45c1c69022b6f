"""Passes over a score matrix, tile by tile.

A tile fits in the cache of a core, which makes a pass over a matrix in memory more than twice as fast as one
fused expression over all of it, and lets the same passes run over scores that a callable makes on demand.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

TILE = 16_384  # elements: 64 KiB of float32
WIDEST = 16_384


class Tiles(NamedTuple):
    """A score matrix that is read in tiles: `read(i, j)` is the (height, width) tile whose corner is (i, j)."""

    read: Callable[[Array, Array], Array]
    rows: int
    columns: int
    height: int
    width: int


class Pairing(NamedTuple):
    """Which column is the positive of a row, and which columns are its alternatives.

    `row_contexts` and `column_contexts` are None where every column is an alternative of every row.
    """

    positives: Int[Array, " n"]
    row_contexts: Int[Array, " n"] | None
    column_contexts: Int[Array, " m"] | None


class Visit(NamedTuple):
    """What a pass sees of one tile: scores, who is an alternative, who shares the context, the rows' own data."""

    scores: Array
    positive: Array
    alternative: Array
    peer: Array
    columns: Array
    rows: Any


def dense_tiles(scores: Float[Array, "n m"]) -> Tiles:
    """The tiles of a matrix in memory: whole rows unless these are very long."""
    rows, columns = scores.shape
    width = min(columns, WIDEST)
    height = max(1, min(rows, TILE // width))
    return Tiles(lambda i, j: lax.dynamic_slice(scores, (i, j), (height, width)), rows, columns, height, width)


def callable_tiles(
    score_block: Callable[[Any, Array, Array], Array],
    operands: Any,
    rows: int,
    columns: int,
    block: tuple[int, int],
) -> Tiles:
    """The tiles of scores that `score_block(operands, row_indices, column_indices)` computes on demand."""
    height, width = min(block[0], rows), min(block[1], columns)
    down, across = jnp.arange(height), jnp.arange(width)
    return Tiles(lambda i, j: score_block(operands, i + down, j + across), rows, columns, height, width)


def sweep(tiles: Tiles, pairing: Pairing, visit: Callable, row_data: Any, row_sums: Any, column_sums: Any):
    """One pass over all tiles.

    Where the tiles do not divide the matrix the last one is moved back to fit; entries that it repeats are masked
    out of `alternative`, `positive` and `peer`.

    Args:
      tiles: the scores.
      pairing: positives and contexts.
      visit: maps (Visit, accumulated rows) to (accumulated rows, additions to the columns).
      row_data: pytree of (n,) arrays, handed to `visit` by slices.
      row_sums: pytree of (n,) arrays, the start of what is accumulated by rows.
      column_sums: pytree of (m,) arrays, the start of what is added up by columns.

    Returns:
      The final `row_sums` and `column_sums`.
    """
    n, m, height, width = tiles.rows, tiles.columns, tiles.height, tiles.width

    def cut(tree, start, size):
        return jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, start, size), tree)

    def paste(tree, part, start):
        return jax.tree.map(lambda x, p: lax.dynamic_update_slice_in_dim(x, p, start, 0), tree, part)

    def down(i, sums):
        row_sums, column_sums = sums
        top = jnp.minimum(i * height, n - height)
        rows = top + jnp.arange(height)
        data, accumulated = cut(row_data, top, height), cut(row_sums, top, height)
        positives = lax.dynamic_slice_in_dim(pairing.positives, top, height)

        def across(j, inner):
            accumulated, column_sums = inner
            left = jnp.minimum(j * width, m - width)
            columns = left + jnp.arange(width)
            peer = jnp.ones((height, width), bool)
            if n % height:
                peer &= (rows >= i * height)[:, None]
            if m % width:
                peer &= (columns >= j * width)[None, :]
            if pairing.row_contexts is not None and pairing.column_contexts is not None:
                mine = lax.dynamic_slice_in_dim(pairing.row_contexts, top, height)
                theirs = lax.dynamic_slice_in_dim(pairing.column_contexts, left, width)
                peer &= mine[:, None] == theirs[None, :]
            positive = columns[None, :] == positives[:, None]
            view = Visit(tiles.read(top, left), positive & peer, ~positive & peer, peer, columns, data)
            accumulated, additions = visit(view, accumulated)
            column_sums = paste(column_sums, jax.tree.map(jnp.add, cut(column_sums, left, width), additions), left)
            return accumulated, column_sums

        if width == m:
            accumulated, column_sums = across(jnp.zeros_like(i), (accumulated, column_sums))
        else:
            accumulated, column_sums = lax.fori_loop(0, -(-m // width), across, (accumulated, column_sums))
        # Rows that the moved-back last tile repeats are masked there: keep what they had.
        if n % height:
            kept = cut(row_sums, top, height)
            fresh = rows >= i * height
            accumulated = jax.tree.map(lambda new, old: jnp.where(fresh, new, old), accumulated, kept)
        return paste(row_sums, accumulated, top), column_sums

    return lax.fori_loop(0, -(-n // height), down, (row_sums, column_sums))


class Extremes(NamedTuple):
    """The positive's score and the largest score among the alternatives; shape (n,)."""

    positive: Array
    top: Array


def extremes(tiles: Tiles, pairing: Pairing, dtype) -> Extremes:
    """A pass without exponentials. Since s >= 0 the order of the scores holds at every scale."""
    low = jnp.full((tiles.rows,), -jnp.inf, dtype)

    def visit(view: Visit, seen: Extremes):
        positive = jnp.max(jnp.where(view.positive, view.scores, -jnp.inf), axis=1)
        top = jnp.max(jnp.where(view.alternative, view.scores, -jnp.inf), axis=1)
        return Extremes(jnp.maximum(seen.positive, positive), jnp.maximum(seen.top, top)), ()

    return sweep(tiles, pairing, visit, (), Extremes(low, low), ())[0]


class Plain(NamedTuple):
    """Sums of d = score - top without exponentials.

    Over a row's alternatives: `number`, `first` = sum d, `second` = sum d^2 (n,). Over the columns that are positives
    of its context, with multiplicity: `pairs`, `pair_first`, `pair_second` (n,). Over the rows of a column's
    context: `column_pairs`, `column_first` (m,).
    """

    number: Array
    first: Array
    second: Array
    pairs: Array
    pair_first: Array
    pair_second: Array
    column_pairs: Array
    column_first: Array


def plain_sums(tiles: Tiles, pairing: Pairing, top: Array, multiplicity: Array) -> Plain:
    """The sums that the curve at s = 0 and the permutation test need."""
    zeros = jnp.zeros_like(top)

    def visit(view: Visit, sums):
        peer = view.peer.astype(top.dtype)
        other = view.alternative.astype(top.dtype)
        times = peer * jnp.take(multiplicity, view.columns)[None, :]
        d = view.scores - view.rows[:, None]
        count, first, second, pairs, pair_first, pair_second = sums
        sums = (
            count + jnp.sum(other, axis=1),
            first + jnp.sum(other * d, axis=1),
            second + jnp.sum(other * d * d, axis=1),
            pairs + jnp.sum(times, axis=1),
            pair_first + jnp.sum(times * d, axis=1),
            pair_second + jnp.sum(times * d * d, axis=1),
        )
        return sums, (jnp.sum(peer, axis=0), jnp.sum(peer * d, axis=0))

    rows, columns = sweep(tiles, pairing, visit, top, (zeros,) * 6, (jnp.zeros_like(multiplicity),) * 2)
    return Plain(*rows, *columns)


class Moments(NamedTuple):
    """Over a row's alternatives with weights e^{s d}, d = score - top: log sum, mean and variance of d; (n,)."""

    log_sum: Array
    mean: Array
    variance: Array


def tilted_moments(tiles: Tiles, pairing: Pairing, top: Array, scale: Array) -> Moments:
    """One exponential an entry; `scale` has one s a row."""
    zeros = jnp.zeros_like(top)

    def visit(view: Visit, sums):
        top, s = view.rows
        d = view.scores - top[:, None]
        e = jnp.where(view.alternative, jnp.exp(s[:, None] * d), 0)
        zeroth, first, second = sums
        return (
            zeroth + jnp.sum(e, axis=1),
            first + jnp.sum(e * d, axis=1),
            second + jnp.sum(e * d * d, axis=1),
        ), ()

    (zeroth, first, second), _ = sweep(tiles, pairing, visit, (top, scale), (zeros,) * 3, ())
    mean = first / zeroth
    return Moments(jnp.log(zeroth), mean, jnp.maximum(second / zeroth - mean**2, 0))


class Shares(NamedTuple):
    """From the normalised weights p of a row's alternatives.

    `log_rest` is the sum over k of log(1 - p_k), which the jackknife needs; `concentration` is sum p^2 = 1/ESS, both
    (n,). By columns (m,): the excess of the weights over the uniform ones, positive left out or included.
    """

    log_rest: Array
    concentration: Array
    exclude_excess: Array
    include_excess: Array


def shares(
    tiles: Tiles, pairing: Pairing, top: Array, scale: Array, log_sum: Array, count: Array, include: Array
) -> Shares:
    """The pass that follows `tilted_moments`; `include` is the alternatives' joint share beside the positive.

    At most one alternative holds more than half of the weight; its 1 - p is summed from the others, so that
    nothing cancels.
    """
    zeros = jnp.zeros_like(log_sum)
    columns = jnp.zeros((tiles.columns,), log_sum.dtype)

    def visit(view: Visit, sums):
        top, s, log_sum, count, include = view.rows
        tilt = s[:, None] * (view.scores - top[:, None]) - log_sum[:, None]
        p = jnp.where(view.alternative, jnp.exp(tilt), 0)
        minor = jnp.where(p > 0.5, 0, p)
        log_rest, concentration, minority = sums
        sums = (
            log_rest + jnp.sum(jnp.log1p(-minor), axis=1),
            concentration + jnp.sum(p * p, axis=1),
            minority + jnp.sum(minor, axis=1),
        )
        other = view.alternative.astype(p.dtype)
        exclude = p - other / count[:, None]
        with_positive = p * include[:, None] - other / (count[:, None] + 1)
        return sums, (jnp.sum(exclude, axis=0), jnp.sum(with_positive, axis=0))

    (log_rest, concentration, minority), (exclude, with_positive) = sweep(
        tiles, pairing, visit, (top, scale, log_sum, count, include), (zeros,) * 3, (columns,) * 2
    )
    dominated = jnp.log(jnp.maximum(minority, jnp.finfo(minority.dtype).tiny))
    log_rest = log_rest + jnp.where(minority < 0.5, dominated, 0)
    return Shares(log_rest, concentration, exclude, with_positive)
