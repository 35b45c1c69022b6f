"""Where the arithmetic runs: the host's LAPACK on the CPU, XLA elsewhere. The kernels are written once for both."""

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmijax._checks import is_concrete
from gmijax.stats import Chunks, CompensatedSum

PATHS = ("auto", "host", "device")


def namespace(array: Any) -> Any:
    """The module of an array: numpy for the host's, jax.numpy for all others."""
    return np if isinstance(array, np.ndarray) else jnp


def _spread_out(array: Any) -> bool:
    return isinstance(array, jax.Array) and len(array.sharding.device_set) > 1


def runs_on_host(path: str, *sources: Chunks) -> bool:
    """Whether the host's libraries do the work: asked for, or on the CPU with values at hand on one device.

    Raises:
      ValueError: for another word, or the host's path under a trace.
    """
    if path not in PATHS:
        raise ValueError(f"path must be one of {', '.join(map(repr, PATHS))}, got {path!r}")
    arrays = [source.whole for source in sources if source.whole is not None]
    if not is_concrete(*arrays):
        if path == "host":
            raise ValueError("path='host' needs values, and under a trace there are none; use 'device'")
        return False
    if path == "auto":
        return jax.default_backend() == "cpu" and not any(map(_spread_out, arrays))
    return path == "host"


def both_paths(function: Callable | None = None, *, static: tuple[str, ...] = ()) -> Callable:
    """Runs a kernel as it is on the host's arrays, and jitted with full precision on all others.

    The first argument decides. Matrix products of float32 lose half their digits on some devices by default.
    """
    if function is None:
        return lambda kernel: both_paths(kernel, static=static)

    @wraps(function)
    def precise(*args, **settings):
        with jax.default_matmul_precision("highest"):
            return function(*args, **settings)

    jitted = jax.jit(precise, static_argnames=static)

    @wraps(function)
    def run(first, *args, **settings):
        chosen = function if isinstance(first, np.ndarray) else jitted
        return chosen(first, *args, **settings)

    return run


def total(terms: Iterable[Any]) -> Any:
    """The sum of arrays, or of tuples of arrays, that come one after another; compensated where they are many."""
    result, many = None, False
    for term in terms:
        if result is None:
            result = term
            continue
        if not many:
            result, many = jax.tree.map(CompensatedSum.of, result), True
        result = jax.tree.map(lambda part, sums: sums.add(part), term, result)
    if not many:
        return result
    return jax.tree.map(lambda sums: sums.value, result, is_leaf=lambda leaf: isinstance(leaf, CompensatedSum))


def same_rows(pieces: Iterable[Any], expected: int, name: str) -> Iterator[Any]:
    """The pieces, and an error if they have another number of rows together than they had before."""
    seen = 0
    for piece in pieces:
        seen += piece.shape[0]
        yield piece
    if seen != expected:
        raise ValueError(
            f"{name} gave {expected} rows in one pass and {seen} in another; a chunk source must give the same rows "
            "on every call"
        )
