"""Samples on their way through a decoder: the front doors' checks, padding, and batches of one shape."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete


@dataclass(frozen=True)
class Samples:
    """Points with what goes with them, every leading axis n.

    Attributes:
      points: shape (n, *block), e.g. soft-token blocks (n, tokens, width).
      others: arrays that a decoder takes beside each point.
      mask: shape (n, tokens), true at tokens and false at padding; None where there is none.
      batch_size: samples of a pass.
    """

    points: Any
    others: tuple[Any, ...]
    mask: Any
    batch_size: int

    def __len__(self) -> int:
        return self.points.shape[0]

    @property
    def block(self) -> tuple[int, ...]:
        """The shape of one point."""
        return self.points.shape[1:]

    def take(self, index: Any) -> "Samples":
        """Some of the samples."""
        mask = None if self.mask is None else self.mask[index]
        return Samples(self.points[index], tuple(other[index] for other in self.others), mask, self.batch_size)


class Batch(NamedTuple):
    """One pass.

    Attributes:
      arrays: its points, the others and the mask, as every kernel takes them.
      rows: which samples these are.
      fresh: how many of them are new: the last pass is filled up with repeats.
    """

    arrays: tuple[jax.Array, tuple[jax.Array, ...], jax.Array | None]
    rows: np.ndarray
    fresh: int


def check_samples(points: ArrayLike, others: tuple[Any, ...], mask: ArrayLike | None, batch_size: int) -> Samples:
    """The samples, checked; values only where they can be seen.

    Raises:
      ValueError: no points, points that are not floating or not finite at a token, another leading axis, a mask that
        does not fit, or a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    array = check_floating(points, "points")
    if array.ndim < 2:
        raise ValueError(f"points must be (n, ...), a sample a row, got shape {array.shape}")
    if not array.shape[0]:
        raise ValueError("points is empty; give at least one sample")
    kept = tuple(other if isinstance(other, jax.Array) else np.asarray(other) for other in others)
    for k, other in enumerate(kept):
        if not other.ndim or other.shape[0] != array.shape[0]:
            raise ValueError(
                f"args[{k}] has {other.shape[0] if other.ndim else 'no'} samples and points {array.shape[0]}"
            )
    if mask is not None:
        mask = mask if isinstance(mask, jax.Array) else np.asarray(mask)
        if array.ndim < 3 or mask.shape != array.shape[:-1]:
            raise ValueError(
                f"mask has shape {mask.shape} and points {array.shape}; a mask is (n, tokens) for points "
                "(n, tokens, width), true at tokens"
            )
        mask = mask.astype(bool)
    if is_concrete(array, mask):
        visible = np.asarray(array) if mask is None else np.where(np.asarray(mask)[..., None], np.asarray(array), 0)
        finite = np.isfinite(visible).all(axis=tuple(range(1, visible.ndim)))
        if not finite.all():
            raise ValueError(
                f"points holds NaN or infinite values, first in sample {finite.argmin()}; drop these samples, or mask "
                "their padding"
            )
        if mask is not None and not np.asarray(mask).reshape(len(array), -1).any(axis=1).all():
            empty = np.asarray(mask).reshape(len(array), -1).any(axis=1).argmin()
            raise ValueError(f"mask hides every token of sample {empty}; drop this sample")
    return Samples(array, kept, mask, batch_size)


def check_floating(values: ArrayLike, name: str) -> Any:
    """An array of floating-point numbers, on the host if that is where it is."""
    array = values if isinstance(values, jax.Array) else np.asarray(values)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must hold floating-point numbers, got {array.dtype}; there is no slope in integers")
    return array


def check_directions(directions: ArrayLike, block: tuple[int, ...]) -> tuple[Any, bool]:
    """Directions and whether they are those of one token, to be taken at every token of a block.

    Raises:
      ValueError: another shape than (k, *block) or (k, width), or values that are not finite.
    """
    array = check_floating(directions, "directions")
    of_a_token = len(block) > 1 and array.shape[1:] == block[-1:]
    if not array.ndim or not array.shape[0] or not (of_a_token or array.shape[1:] == block):
        either = f" or (k, {block[-1]}), the same at every token" if len(block) > 1 else ""
        raise ValueError(f"directions must have shape (k, {', '.join(map(str, block))}){either}, got {array.shape}")
    if is_concrete(array) and not np.isfinite(np.asarray(array)).all():
        raise ValueError("directions holds NaN or infinite values")
    return array, of_a_token


def check_vectors(vectors: ArrayLike, block: tuple[int, ...]) -> tuple[Any, bool]:
    """Vectors of the shape of points, (m, *block), and whether one was given alone, (*block).

    Raises:
      ValueError: another shape, or values that are not finite.
    """
    array = check_floating(vectors, "vectors")
    if array.shape not in (block, (*array.shape[:1], *block)) or not array.size:
        whole = ", ".join(map(str, block))
        raise ValueError(f"vectors must have the shape of points, ({whole}) or (m, {whole}), got {array.shape}")
    if is_concrete(array) and not np.isfinite(np.asarray(array)).all():
        raise ValueError("vectors holds NaN or infinite values")
    single = array.shape == block
    return array[None] if single else array, single


def batches(samples: Samples) -> Iterator[Batch]:
    """Passes of one shape; a single one, of everything, where a value is traced."""
    count = len(samples)
    if not is_concrete(samples.points, samples.mask, *samples.others):
        yield Batch((samples.points, samples.others, samples.mask), np.arange(count), count)
        return
    size = min(samples.batch_size, count)
    for start in range(0, count, size):
        index = np.minimum(np.arange(start, start + size), count - 1)
        part = samples.take(index)
        arrays = jax.tree.map(jnp.asarray, (part.points, part.others, part.mask))
        yield Batch(arrays, index, min(size, count - start))


def by_sample(samples: Samples, function: Callable[[Batch], jax.Array]) -> Any:
    """What a function gives for each sample, shape (n, ...): on the host, or traced where something in it is."""
    parts = []
    for batch in batches(samples):
        part = function(batch)
        parts.append((np.asarray(part) if is_concrete(part) else part)[: batch.fresh])
    return np.concatenate(parts) if is_concrete(*parts) else jnp.concatenate(parts)


def keep_tokens(points: jax.Array, mask: jax.Array | None) -> jax.Array:
    """The points with padding set to zero: nothing in it is read, and its gradient is exactly zero."""
    return points if mask is None else jnp.where(mask[..., None], points, 0)


def wide(array: jax.Array) -> jax.Array:
    """At least float32: squares of bfloat16 lose most."""
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
