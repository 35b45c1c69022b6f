"""Means of groups of rows, and rows about them."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax.modes._checks import check_groups
from gmijax.modes._paths import total
from gmijax.stats import Chunks, moments


def with_groups(source: Chunks, index: np.ndarray) -> Iterator[tuple[Any, np.ndarray]]:
    """Every chunk with its rows' groups."""
    seen = 0
    for rows in source:
        yield rows, index[seen : seen + rows.shape[0]]
        seen += rows.shape[0]


@partial(jax.jit, static_argnames="count")
def _sums(rows: Array, index: Array, origin: Array, count: int) -> Array:
    return jax.ops.segment_sum(rows - origin[None, :], index, count)


def group_means(source: Chunks, index: np.ndarray, count: int, origin: Array) -> Array:
    """The mean of every group less the origin, (groups, d)."""
    sums = total(
        _sums(jnp.asarray(rows), jnp.asarray(mine), origin, count) for rows, mine in with_groups(source, index)
    )
    return sums / jnp.asarray(np.bincount(index, minlength=count), sums.dtype)[:, None]


def about_group_means(source: Chunks, groups: ArrayLike, name: str) -> tuple[Chunks, int]:
    """The rows less their group's mean, and the number of groups.

    Raises:
      ValueError: for groups that do not fit the rows.
    """
    if source.whole is not None:
        index, count = check_groups(groups, source.whole.shape[0], name)
        if isinstance(source.whole, np.ndarray):
            order = np.argsort(index, kind="stable")
            sizes = np.bincount(index, minlength=count)
            starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            means = np.add.reduceat(source.whole[order], starts, axis=0, dtype=np.float64) / sizes[:, None]
            centred: Any = (source.whole - means[index]).astype(source.whole.dtype)
        else:
            means = group_means(source, index, count, jnp.zeros(source.whole.shape[1], source.whole.dtype))
            centred = source.whole - means[index]
        return Chunks(lambda: (centred,), source.name, centred), count
    first = moments(source)
    index, count = check_groups(groups, int(first.count), name)
    origin = first.mean.value
    means = group_means(source, index, count, origin)

    def draw() -> Iterator[Array]:
        for rows, mine in with_groups(source, index):
            yield (jnp.asarray(rows) - origin[None, :]) - means[mine]

    return Chunks(draw, source.name), count
