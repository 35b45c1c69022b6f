"""The front doors' checks. Values are checked where they are known; under a trace only shapes can be."""

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete


def check_scores(scores: ArrayLike, name: str = "scores") -> jax.Array:
    """A two-dimensional array of finite floating-point scores with at least two rows and two columns."""
    array = jnp.asarray(scores)
    if not jnp.issubdtype(array.dtype, jnp.floating) or jnp.finfo(array.dtype).bits < 32:
        array = array.astype(jnp.float32)
    if array.ndim != 2:
        raise ValueError(f"{name} must be a matrix (rows, columns), got shape {array.shape}")
    rows, columns = array.shape
    if rows < 2:
        raise ValueError(f"{name} has {rows} rows: a rate is estimated from at least 2")
    if columns < 2:
        raise ValueError(f"{name} has {columns} columns: the positive needs at least one alternative beside it")
    if is_concrete(array) and not bool(jnp.isfinite(array).all()):
        bad = np.argwhere(~np.isfinite(np.asarray(array)))
        raise ValueError(
            f"{name} holds {len(bad)} NaN or infinite values, the first at row {bad[0, 0]}, column {bad[0, 1]}; "
            "drop these samples, or clip the log-likelihoods to a finite floor and say so"
        )
    return array


def check_index(index: ArrayLike, length: int, limit: int, name: str, of: str) -> jax.Array:
    """An integer vector of `length` with entries in [0, limit)."""
    array = jnp.asarray(index)
    if array.shape != (length,):
        raise ValueError(f"{name} must have shape ({length},), one entry a row, got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, got {array.dtype}")
    if is_concrete(array):
        values = np.asarray(array)
        bad = np.flatnonzero((values < 0) | (values >= limit))
        if len(bad):
            raise ValueError(
                f"{name}[{bad[0]}] = {values[bad[0]]} is outside the {limit} {of} (0 to {limit - 1}); "
                f"{len(bad)} entries are"
            )
    return array.astype(jnp.int32)
