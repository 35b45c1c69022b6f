"""The median heuristic: a Gaussian kernel as wide as the median distance of two rows."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gmijax.distances._draws import kth_smallest, random_order
from gmijax.distances._pooled import DENSE, squared_distances


def gaussian(squared: Array, bandwidths: Float[Array, " k"]) -> Array:
    """The sum over bandwidths of exp(-|x - y|^2 / (2 b^2))."""
    return sum((jnp.exp(-squared / (2 * b**2)) for b in bandwidths), jnp.zeros((), squared.dtype))


def median_of(squared: Float[Array, "rows rows"], allowed: Bool[Array, " rows"]) -> Float[Array, ""]:
    """The (lower) median distance between different rows that count; their mean where it is 0, and 1 if that is too."""
    pairs = allowed[:, None] & allowed[None, :] & ~jnp.eye(squared.shape[0], dtype=bool)
    ordered = jnp.sum(pairs, dtype=jnp.int32)  # every pair twice
    rank = jnp.maximum((ordered // 2 + 1) // 2 * 2 - 1, 1)
    middle = kth_smallest(jnp.where(pairs, squared, jnp.inf).ravel(), rank)
    mean = jnp.sum(jnp.where(pairs, jnp.sqrt(squared), 0)) / jnp.maximum(ordered, 1)
    return jnp.where(middle > 0, jnp.sqrt(middle), jnp.where(mean > 0, mean, 1))


def median_distance(laws: list[Array], weights: list[Array], *, key: Array) -> Float[Array, ""]:
    """The median distance within the rows of all laws together, or within DENSE random ones of more."""
    allowed = jnp.concatenate(weights) > 0
    total = sum(w.sum() for w in weights)
    centre = sum(w @ law for law, w in zip(laws, weights, strict=True)) / total
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
    rows = rows - centre
    return median_of(squared_distances(rows, rows), allowed)
