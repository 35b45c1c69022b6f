"""Rows that need not fit into memory: an array, or a callable that yields arrays anew on every pass."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike


def _check_rows(rows: Any, name: str) -> jax.Array | np.ndarray:
    """A finite floating-point matrix; a numpy array stays one, so that nothing is copied or narrowed here."""
    array = rows if isinstance(rows, (jax.Array, np.ndarray)) else np.asarray(rows)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} must be a matrix of rows (n, d) with n, d >= 1, got shape {array.shape}")
    if jnp.issubdtype(array.dtype, jnp.complexfloating) or not jnp.issubdtype(array.dtype, jnp.number):
        raise ValueError(f"{name} must be real numbers, got {array.dtype}")
    if not jnp.issubdtype(array.dtype, jnp.floating) or jnp.finfo(array.dtype).bits < 32:
        array = array.astype(np.float32)
    if isinstance(array, Tracer):
        return array
    # A sum is finite unless a term is not, or it overflows: one reading of the data where all is well.
    namespace = np if isinstance(array, np.ndarray) else jnp
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not bool(namespace.isfinite(namespace.sum(array)))
    if suspicious:
        bad = np.argwhere(~np.isfinite(np.asarray(array)))
        if len(bad):
            raise ValueError(
                f"{name} holds {len(bad)} NaN or infinite values, the first at row {bad[0, 0]}, column {bad[0, 1]}; "
                "drop these rows"
            )
    return array


@dataclass(frozen=True)
class Chunks:
    """Checked rows, in the order of their source; iterate as often as needed.

    Attributes:
      draw: yields the pieces of one pass.
      name: what errors call the rows.
      whole: the rows as one array, where they came as one.
    """

    draw: Callable[[], Iterable[Any]]
    name: str
    whole: jax.Array | np.ndarray | None = None

    def __iter__(self) -> Iterator[jax.Array | np.ndarray]:
        """One pass over the rows.

        Raises:
          ValueError: for a piece that is not a finite matrix of the first one's width, or a pass without rows.
        """
        if self.whole is not None:
            yield self.whole
            return
        width = None
        for index, piece in enumerate(self.draw()):
            rows = _check_rows(piece, f"{self.name}, chunk {index},")
            if width is not None and rows.shape[1] != width:
                raise ValueError(f"{self.name}, chunk {index}, has {rows.shape[1]} columns and the first {width}")
            width = rows.shape[1]
            yield rows
        if width is None:
            raise ValueError(
                f"{self.name} gave no rows; a chunk source is a callable that returns a fresh iterator on every call "
                "(a generator function does, an iterator made beforehand is empty after one pass)"
            )

    def half(self, second: bool) -> "Chunks":
        """Every other row of all rows: those at even places, or the second, those at odd ones."""
        start = int(second)
        if self.whole is not None:
            return chunks(self.whole[start::2], name=f"a half of {self.name}")

        def draw() -> Iterator[jax.Array | np.ndarray]:
            seen = 0
            for rows in self:
                mine = rows[(start + seen) % 2 :: 2]
                seen += len(rows)
                if len(mine):
                    yield mine

        return Chunks(draw, f"a half of {self.name}")


def chunks(source: ArrayLike | Callable[[], Iterable[Any]] | Chunks, *, name: str = "x") -> Chunks:
    """Rows from an array (n, d), or from a callable that returns an iterable of arrays (n_i, d).

    Args:
      source: the rows. A callable is called once for every pass and must give the same rows each time. Chunks of one
        size compile once.
      name: what errors call the rows.

    Returns:
      The rows, checked as they are read; float32 unless they are float64.

    Raises:
      ValueError: for an array that is not a finite matrix of numbers.
    """
    if isinstance(source, Chunks):
        return source
    if callable(source):
        return Chunks(source, name)
    rows = _check_rows(source, name)
    return Chunks(lambda: (rows,), name, rows)
