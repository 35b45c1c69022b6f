"""The front doors' checks, and how arguments with and without leading axes become one layout."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete

AXES = ("layers", "label_sets", "penalties", "splits")


class Layout(NamedTuple):
    """Which leading axes the caller's arrays had; None for an axis that results shall not have."""

    layers: int | None
    label_sets: int | None
    penalties: int | None
    splits: int | None

    @property
    def full(self) -> tuple[int, ...]:
        """All four axes, those the caller left out of length 1."""
        return tuple(1 if count is None else count for count in self)

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes of results."""
        return tuple(name for name, count in zip(AXES, self, strict=True) if count is not None)

    @property
    def shape(self) -> tuple[int, ...]:
        """The axes of results."""
        return tuple(count for count in self if count is not None)


def check_hidden_states(hidden_states: ArrayLike) -> jax.Array:
    """Finite floating-point rows, (n, d) or (layers, n, d)."""
    array = jnp.asarray(hidden_states)
    if not jnp.issubdtype(array.dtype, jnp.floating) or jnp.finfo(array.dtype).bits < 32:
        array = array.astype(jnp.float32)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise ValueError(f"hidden_states must have shape (n, d) or (layers, n, d), got {array.shape}")
    if is_concrete(array) and not bool(jnp.isfinite(array).all()):
        bad = np.argwhere(~np.isfinite(np.asarray(array)))
        raise ValueError(
            f"hidden_states holds {len(bad)} NaN or infinite values, the first at index "
            f"{tuple(int(k) for k in bad[0])}; drop these samples"
        )
    return array


def layers_of(hidden_states: jax.Array) -> list[jax.Array]:
    """The layers one by one; of rows without that axis, themselves and not a copy."""
    return [hidden_states] if hidden_states.ndim == 2 else list(hidden_states)


def check_labels(labels: ArrayLike, n: int) -> jax.Array | np.ndarray:
    """Integer labels >= 0 with one entry a row, (n,) or (label_sets, n)."""
    array = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    if array.ndim not in (1, 2) or not array.shape[0]:
        raise ValueError(f"labels must have shape (n,) or (label_sets, n), got {array.shape}")
    if array.shape[-1] != n:
        raise ValueError(f"labels has {array.shape[-1]} entries and hidden_states has {n} rows")
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers, got {array.dtype}; np.unique(labels, return_inverse=True) gives codes"
        )
    if is_concrete(array) and (np.asarray(array) < 0).any():
        raise ValueError("labels must be 0 or above; drop the rows without a label")
    return array


def check_rows(weights: ArrayLike, labels: Any, name: str) -> tuple[jax.Array, bool]:
    """Row weights >= 0 as (label_sets, splits, n), and whether they came with an axis of splits.

    A matrix is (splits, n), the same for every set of labels; three axes are (label_sets, splits, n).
    """
    array = jnp.asarray(weights)
    sets, n = (labels.shape if labels.ndim == 2 else (1, *labels.shape))  # fmt: skip
    if not 1 <= array.ndim <= 3 or array.shape[-1] != n or (array.ndim == 3 and array.shape[0] != sets):
        raise ValueError(f"{name} must have shape ({n},), (splits, {n}) or ({sets}, splits, {n}), got {array.shape}")
    if is_concrete(array):
        values = np.asarray(array, np.float64)
        if not np.isfinite(values).all() or (values < 0).any():
            raise ValueError(f"{name} must be finite and 0 or above")
        if (values.sum(axis=-1) == 0).any():
            raise ValueError(f"{name} leaves a split without rows")
    splits = array.shape[-2] if array.ndim > 1 else 1
    return jnp.broadcast_to(array.reshape(-1, splits, n), (sets, splits, n)), array.ndim > 1
