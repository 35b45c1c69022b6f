"""Mean and covariance of any number of rows, chunk by chunk; compensated, so that float32 does not drift."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from gmijax.stats._chunks import Chunks, chunks


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CompensatedSum:
    """A running sum beside what rounding has taken from it.

    Neumaier (1974), DOI 10.1002/zamm.19740540106.

    Attributes:
      total: the rounded sum.
      rest: what is to be added to it.
    """

    total: jax.Array
    rest: jax.Array

    @classmethod
    def of(cls, term: ArrayLike) -> "CompensatedSum":
        """The sum of one term."""
        first = jnp.asarray(term)
        return cls(first, jnp.zeros_like(first))

    def add(self, term: ArrayLike) -> "CompensatedSum":
        """The sum with one more term; pure."""
        term = jnp.asarray(term, self.total.dtype)
        total = self.total + term
        seen = total - self.total
        lost = (self.total - (total - seen)) + (term - seen)
        return CompensatedSum(total, self.rest + lost)

    @property
    def value(self) -> jax.Array:
        """The sum."""
        return self.total + self.rest


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Moments:
    """Count, mean and second moments of rows seen so far. `update` and `merge` are pure, jit, vmap and shard.

    Chunks are centred on their own mean and merged by the formula of Chan, Golub and LeVeque
    (DOI 10.1080/00031305.1983.10483115): no sum of large squares is ever subtracted from another.

    Attributes:
      count: number of rows, int32.
      mean: their mean, (d,), as a compensated sum.
      scatter: sum of squares about the mean as a compensated sum: (d, d), or its diagonal alone (d,).
    """

    count: jax.Array
    mean: CompensatedSum
    scatter: CompensatedSum

    @classmethod
    def empty(cls, width: int, *, full: bool = False, dtype=jnp.float32) -> "Moments":
        """Moments of no rows.

        Args:
          width: d.
          full: whether to keep all covariances, (d, d), or only the variances, (d,).
          dtype: of the sums.
        """
        shape = (width, width) if full else (width,)
        zero = jnp.zeros((width,), dtype)
        return cls(jnp.zeros((), jnp.int32), CompensatedSum.of(zero), CompensatedSum.of(jnp.zeros(shape, dtype)))

    @jax.jit
    def update(self, rows: Float[Array, "n d"]) -> "Moments":
        """The moments with these rows among them."""
        rows = rows.astype(self.mean.total.dtype)
        # The mean is kept as the first row and the rest, so that a mean that is large beside the spread loses nothing.
        # A rounded mean as the origin would not do: compilers fuse its division into what follows, unrounded.
        origin = rows[0]
        rest = jnp.mean(rows - origin[None, :], axis=0)
        centred = (rows - origin[None, :]) - rest[None, :]
        if self.scatter.total.ndim == 2:
            scatter = jnp.matmul(centred.T, centred, precision=lax.Precision.HIGHEST)
        else:
            scatter = jnp.sum(jnp.square(centred), axis=0)
        count = jnp.asarray(rows.shape[0], jnp.int32)
        return self.merge(Moments(count, CompensatedSum(origin, rest), CompensatedSum.of(scatter)))

    @jax.jit
    def merge(self, other: "Moments") -> "Moments":
        """The moments of both sets of rows."""
        dtype = self.mean.total.dtype
        mine, theirs = self.count.astype(dtype), other.count.astype(dtype)
        share = theirs / jnp.maximum(mine + theirs, 1)
        step, rest = other.mean.total - self.mean.total, other.mean.rest - self.mean.rest
        shift = step + rest
        square = jnp.outer(shift, shift) if self.scatter.total.ndim == 2 else jnp.square(shift)
        scatter = self.scatter.add(other.scatter.total).add(other.scatter.rest).add(mine * share * square)
        return Moments(self.count + other.count, self.mean.add(share * step).add(share * rest), scatter)

    @property
    def covariance(self) -> Float[Array, "d d"]:
        """The unbiased covariance; NaN for fewer than two rows.

        Raises:
          ValueError: if only variances were kept.
        """
        if self.scatter.total.ndim < 2:
            raise ValueError("only variances were kept; ask for full=True")
        return self._per_degree(self.scatter.value)

    @property
    def variance(self) -> Float[Array, " d"]:
        """The unbiased variance of every column; NaN for fewer than two rows."""
        scatter = self.scatter.value
        return self._per_degree(jnp.diagonal(scatter) if scatter.ndim == 2 else scatter)

    @property
    def total_variance(self) -> jax.Array:
        """The trace of the covariance."""
        return jnp.sum(self.variance)

    def _per_degree(self, scatter: Array) -> Array:
        degrees = (self.count - 1).astype(scatter.dtype)
        return jnp.where(degrees > 0, scatter / jnp.maximum(degrees, 1), jnp.nan)


def moments(
    source: ArrayLike | Callable[[], Iterable[Any]] | Chunks, *, full: bool = False, name: str = "x"
) -> Moments:
    """Mean and covariance of an array or of a source of chunks, in one pass.

    Args:
      source: rows (n, d), or a callable that returns an iterable of such arrays.
      full: whether to keep all covariances, (d, d), or only the variances, (d,).
      name: what errors call the rows.

    Returns:
      `Moments`: mean.value, covariance, variance, count. float64 where the rows are and x64 is enabled, else float32.

    Raises:
      ValueError: for rows that are not finite matrices of one width, or none.
    """
    result = None
    for rows in chunks(source, name=name):
        array = jnp.asarray(rows)
        if result is None:
            result = Moments.empty(array.shape[1], full=full, dtype=array.dtype)
        result = result.update(array)
    assert result is not None  # a pass without rows raises
    return result
