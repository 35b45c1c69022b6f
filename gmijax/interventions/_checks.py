"""The front doors' checks of states, subspaces and masks."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete

# Directions from a float32 QR or eigendecomposition are orthonormal to about 1e-6; from bfloat16 they are not.
ORTHONORMAL = 1e-4


def working(dtype) -> jnp.dtype:
    """The dtype in which states are edited: at least float32."""
    return jnp.promote_types(dtype, jnp.float32)


def check_subspace(subspace: ArrayLike, width: int, name: str = "subspace") -> Array:
    """Orthonormal rows (k, width), in at least float32."""
    array = jnp.asarray(subspace)
    array = array.astype(working(array.dtype))
    if array.ndim != 2 or not 1 <= array.shape[0] <= array.shape[-1]:
        raise ValueError(f"{name} must be (k, width) with 1 <= k <= width, one direction a row, got {array.shape}")
    if array.shape[1] != width:
        raise ValueError(f"{name} has width {array.shape[1]} and the states have width {width}")
    if is_concrete(array):
        rows = np.asarray(array, np.float64)
        off = float(np.max(np.abs(rows @ rows.T - np.eye(len(rows)))))
        if not off <= ORTHONORMAL:
            raise ValueError(
                f"the rows of {name} are not orthonormal: their inner products are off by up to {off:.2g}, and at most "
                f"{ORTHONORMAL:g} will do; np.linalg.qr({name}.T)[0].T has the same span"
            )
    return array


def check_mask(mask: ArrayLike | None, shape: tuple[int, ...]) -> Array | None:
    """A mask of positions that matches at least one; None for all of them."""
    if not all(shape):
        raise ValueError(f"the intervention matched no position: there are none in states of leading shape {shape}")
    if mask is None:
        return None
    array = jnp.asarray(mask)
    if array.shape != shape:
        raise ValueError(f"mask must have shape {shape}, one entry a position, got {array.shape}")
    if array.dtype != bool and not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"mask must be true or 1 at the positions to edit, got type {array.dtype}")
    array = array.astype(bool)
    if is_concrete(array) and not np.asarray(array).any():
        raise ValueError("the intervention matched no position: mask is false everywhere")
    return array


def check_states(x: ArrayLike, mask: ArrayLike | None) -> tuple[Array, Array | None]:
    """Floating-point states (..., width), finite where they are edited, and their mask."""
    array = jnp.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = array.astype(jnp.float32)
    if not array.ndim or not array.shape[-1]:
        raise ValueError(f"x must be states (..., width), got shape {array.shape}")
    matched = check_mask(mask, array.shape[:-1])
    if is_concrete(array, matched):
        with jax.ensure_compile_time_eval():  # on the device, even where the edit is being traced
            bad = ~np.asarray(jnp.isfinite(array).all(-1))
        bad = bad if matched is None else bad & np.asarray(matched)
        if bad.any():
            raise ValueError(
                f"x holds NaN or infinite values at {int(bad.sum())} positions to edit, the first at "
                f"{tuple(int(i) for i in np.argwhere(bad)[0])}; mask padding out"
            )
    return array, matched


def masked(x: Array, mask: Array | None, edited: Array) -> Array:
    """`edited` in the type of `x`, at the positions of the mask only."""
    edited = edited.astype(x.dtype)
    return edited if mask is None else jnp.where(mask[..., None], edited, x)


def readable(x: Array, mask: Array | None) -> Array:
    """States in the working type; 0 where they are not edited, so that what padding holds reaches nothing."""
    x = x.astype(working(x.dtype))
    return x if mask is None else jnp.where(mask[..., None], x, 0)
