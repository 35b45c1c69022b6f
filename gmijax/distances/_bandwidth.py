"""The median heuristic: a Gaussian kernel as wide as the median distance of two rows."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from gmijax.distances._draws import kth_smallest, random_order
from gmijax.distances._pooled import DENSE, Tile, centred_rows, tiles_of


def gaussian(squared: Array, bandwidths: Float[Array, " k"]) -> Array:
    """The sum over bandwidths of exp(-|x - y|^2 / (2 b^2))."""
    return sum((jnp.exp(-squared / (2 * b**2)) for b in bandwidths), jnp.zeros((), squared.dtype))


def median_of(tiles: Sequence[Tile]) -> Float[Array, ""]:
    """The (lower) median distance of the tiles' pairs; their mean where it is 0, and 1 if that is too."""
    squared = jnp.concatenate([jnp.where(pairs, squared, jnp.inf).ravel() for squared, pairs in tiles])
    count = sum(jnp.sum(pairs, dtype=jnp.int32) for _, pairs in tiles)
    middle = kth_smallest(squared, jnp.maximum((count + 1) // 2, 1))

    def mean(squared):
        return jnp.sum(jnp.where(squared < jnp.inf, jnp.sqrt(squared), 0)) / jnp.maximum(count, 1)

    fallback = lax.cond(middle > 0, lambda _: jnp.ones((), squared.dtype), mean, squared)
    return jnp.where(middle > 0, jnp.sqrt(middle), jnp.where(fallback > 0, fallback, 1))


def median_distance(laws: list[Array], weights: list[Array], *, key: Array) -> Float[Array, ""]:
    """The median distance within the rows of all laws together, or within DENSE random ones of more."""
    allowed = jnp.concatenate(weights) > 0
    total = sum(w.sum() for w in weights)
    centre = jnp.asarray(sum(w @ law for law, w in zip(laws, weights, strict=True)) / total)
    if allowed.shape[0] <= DENSE:
        rows = jnp.concatenate(laws)
    else:
        index = random_order(allowed, key=key)[:DENSE]
        allowed = allowed[index]
        rows, start = jnp.zeros((DENSE, laws[0].shape[1]), laws[0].dtype), 0
        for law in laws:  # by the pooled index, without a copy of all rows
            inside = (index >= start) & (index < start + law.shape[0])
            rows = jnp.where(inside[:, None], law[jnp.clip(index - start, 0, law.shape[0] - 1)], rows)
            start += law.shape[0]
    rows = centred_rows(rows, centre, allowed)
    return median_of([tiles_of(rows, rows, same=True)])
