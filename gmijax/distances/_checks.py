"""The front doors' checks. Values are checked where they are known; under a trace only shapes can be."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from gmijax._checks import check_choice, check_count, check_level, is_concrete

GIVEN = ("(c, y)", "c", "none")


def check_given(given: str) -> None:
    """What both laws are conditioned on."""
    check_choice(given, GIVEN, "given")


def check_positive(value: Any, name: str) -> None:
    """A finite number above 0, or several, where they are known."""
    if is_concrete(value):
        array = np.asarray(value)
        if not (array.size and np.isfinite(array).all() and (array > 0).all()):
            raise ValueError(f"{name} must be finite and above 0, got {value!r}")


def check_common(given: str, level: float, permutations: int) -> None:
    """The options that all distances share."""
    check_given(given)
    check_level(level)
    check_count(permutations, 0, "permutations")


def check_weights(weights: ArrayLike | None, count: int, name: str, dtype: Any = None) -> Array | None:
    """One weight a row, finite, >= 0, at least two of them positive."""
    if weights is None:
        return None
    array = jnp.asarray(weights, dtype)
    if array.shape != (count,):
        raise ValueError(f"{name} must have one weight a row, shape ({count},), got {array.shape}")
    if is_concrete(array):
        values = np.asarray(array)
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"{name} must be finite and >= 0; a weight of 0 leaves a row out")
        if (values > 0).sum() < 2:
            raise ValueError(f"{name} leaves {(values > 0).sum()} rows of positive weight; a law needs at least 2")
    return array


def _check_rows(array: Any, weights: Any, name: str) -> None:
    if array.shape[0] < 2:
        raise ValueError(f"{name} has {array.shape[0]} row; a law needs at least 2 to be told from noise")
    if is_concrete(array, weights):
        good = np.isfinite(np.asarray(array)).all(axis=1)
        if weights is not None:
            good |= np.asarray(weights) == 0
        if not good.all():
            bad = np.flatnonzero(~good)
            raise ValueError(
                f"{name} holds NaN or infinite values in {len(bad)} rows, the first at row {bad[0]}; drop these rows, "
                "or give them a weight of 0"
            )


def _flat(points: ArrayLike, name: str) -> Array:
    array = jnp.asarray(points)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(f"{name} must hold points along its first axis, shape (n, ...), got shape {array.shape}")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, got {array.dtype}")
    dtype = jnp.result_type(array.dtype, jnp.float32)
    return array.reshape(array.shape[0], -1).astype(dtype)


def check_sample(points: ArrayLike, weights: ArrayLike | None, name: str, weights_name: str) -> tuple[Array, Array]:
    """A sample as float rows and their weights; rows of weight 0 are zeroed, since padding may hold NaN."""
    array = _flat(points, name)
    mass = check_weights(weights, len(array), weights_name, array.dtype)
    _check_rows(array, mass, name)
    if mass is None:
        return array, jnp.ones(array.shape[0], array.dtype)
    return jnp.where(mass[:, None] > 0, array, 0), mass


def check_pair(
    x: ArrayLike, y: ArrayLike, weights_x: ArrayLike | None, weights_y: ArrayLike | None
) -> tuple[Float[Array, "n d"], Float[Array, "m d"], Float[Array, " n"], Float[Array, " m"]]:
    """Both samples as rows of one float dtype, with weights of mean 1 over the rows that count; the others are zeroed.

    A mean of 1 lets permuted labels mix rows of x and of y whose weights came in different units.
    """
    first, mass_x = check_sample(x, weights_x, "x", "weights_x")
    second, mass_y = check_sample(y, weights_y, "y", "weights_y")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"x and y have {first.shape[1]} and {second.shape[1]} dimensions: not one space")
    dtype = jnp.result_type(first.dtype, second.dtype)
    return first.astype(dtype), second.astype(dtype), _mean_one(mass_x, dtype), _mean_one(mass_y, dtype)


@partial(jax.jit, static_argnames="dtype")
def _mean_one(mass: Array, dtype: Any) -> Array:
    return (mass * (jnp.sum(mass > 0) / jnp.sum(mass))).astype(dtype)


def count_rows(weights: Array) -> int:
    """How many rows count, where that is known; all rows under a trace."""
    return int((np.asarray(weights) > 0).sum()) if is_concrete(weights) else weights.shape[0]


def on_host(*arrays: Any) -> bool:
    """Whether the host's libraries may be used: on the CPU, where XLA sorts and multiplies X X' slowly, untraced."""
    return jax.default_backend() == "cpu" and is_concrete(*arrays)
