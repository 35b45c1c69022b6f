"""The front doors' checks: spaces, orthonormal directions, groups."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete

ORTHONORMAL = 1e-3  # largest inner product of two rows; float32 eigenvectors of 4,096 columns stay below 1e-5


def space_of(source: Any, given: str, name: str) -> str:
    """The space that is named, or that the object carries as `.space`.

    Raises:
      ValueError: if both are there and differ.
    """
    carried = getattr(source, "space", "")
    if given and carried and given != carried:
        raise ValueError(f"{name} carries the space {carried!r} and was said to be of {given!r}")
    return given or carried


def check_same_space(first: str, second: str, names: tuple[str, str]) -> str:
    """One space, by name.

    Raises:
      ValueError: for two.
    """
    if first != second:
        raise ValueError(
            f"{names[0]} is of the space {first!r} and {names[1]} of {second!r}: two spaces (model, hook point, "
            "pooling, width) do not combine; take both from one, and name it for both"
        )
    return first


def check_directions(directions: Any, width: int | None = None, name: str = "directions") -> jax.Array:
    """Orthonormal rows (k, d), from an array or from an object that carries them as `.directions`.

    Raises:
      ValueError: for another shape or width, values that are not finite, or rows that are not orthonormal.
    """
    given = getattr(directions, "directions", directions)
    array = jnp.asarray(given)
    if not jnp.issubdtype(array.dtype, jnp.floating) or jnp.finfo(array.dtype).bits < 32:
        array = array.astype(jnp.float32)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be orthonormal rows (k, d), got shape {array.shape}")
    if width is not None and array.shape[1] != width:
        raise ValueError(f"{name} have {array.shape[1]} columns and the rows {width}: not one space")
    if is_concrete(array):
        with jax.default_matmul_precision("highest"):
            error = float(jnp.max(jnp.abs(array @ array.T - jnp.eye(array.shape[0], dtype=array.dtype))))
        if not error <= ORTHONORMAL:
            raise ValueError(
                f"{name} must be orthonormal rows: their inner products are off by up to {error:.2g} "
                f"(at most {ORTHONORMAL} will do); numpy.linalg.qr(directions.T)[0].T spans the same subspace"
            )
    return array


def check_groups(groups: ArrayLike, length: int, name: str) -> tuple[np.ndarray, int]:
    """Group numbers 0..G-1 of every row, and G, from any labels whose values are at hand.

    Raises:
      ValueError: for another shape, labels that are only traced, or NaN.
    """
    if not is_concrete(groups):
        raise ValueError(f"{name} must be values, not traced: how many groups there are decides shapes")
    labels = np.asarray(groups)
    if labels.shape != (length,):
        raise ValueError(f"{name} must have one entry a row, shape ({length},), got {labels.shape}")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ValueError(f"{name} holds NaN; drop these rows or give them a group")
    names, index = np.unique(labels, return_inverse=True)
    return index.astype(np.int32), len(names)


def check_tolerance(tolerance: float) -> None:
    """A positive number."""
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}")
