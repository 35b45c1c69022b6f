"""Transport on the line, exact by sorting; pure JAX."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def _gaps(x: Array, y: Array) -> tuple[Array, Array]:
    """|F^-1 - G^-1| on the pieces where both quantile functions are constant, and the pieces' lengths."""
    n, m = x.shape[-1], y.shape[-1]
    edges = jnp.sort(jnp.concatenate([jnp.arange(1, n + 1) * m, jnp.arange(1, m + 1) * n]))  # in units of 1 / (n m)
    lengths = jnp.diff(edges, prepend=0)
    starts = edges - lengths
    first = jnp.take(jnp.sort(x, axis=-1), jnp.minimum(starts // m, n - 1), axis=-1)
    second = jnp.take(jnp.sort(y, axis=-1), jnp.minimum(starts // n, m - 1), axis=-1)
    return jnp.abs(first - second), lengths.astype(x.dtype) / (n * m)


def w1_line(x: Float[Array, "... n"], y: Float[Array, "... m"]) -> Float[Array, "..."]:
    """W1 of two uniform samples on the line, any sizes: the area between their quantile functions."""
    gaps, lengths = _gaps(x, y)
    return jnp.sum(gaps * lengths, axis=-1)


def w2_line(x: Float[Array, "... n"], y: Float[Array, "... m"]) -> Float[Array, "..."]:
    """W2 (not squared) of two uniform samples on the line, any sizes."""
    gaps, lengths = _gaps(x, y)
    return jnp.sqrt(jnp.sum(gaps**2 * lengths, axis=-1))


def w_inf_line(x: Float[Array, "... n"], y: Float[Array, "... m"]) -> Float[Array, "..."]:
    """W_inf of two uniform samples on the line, any sizes: the largest gap between their quantile functions."""
    gaps, lengths = _gaps(x, y)
    return jnp.max(jnp.where(lengths > 0, gaps, 0), axis=-1)
