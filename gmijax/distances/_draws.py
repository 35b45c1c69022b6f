"""Random labels, halves and resamples of pooled rows, and order statistics without a sort."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer, Num

SPLITS = 10  # random halvings of each law, for the noise floor


def kth_smallest(values: Num[Array, "... n"], rank: Integer[Array, "..."]) -> Num[Array, "..."]:
    """The rank-th smallest (from 1) of non-negative values, one bit a pass: XLA sorts slowly on the CPU.

    Args:
      values: unsigned integers, or floats >= 0 (inf is allowed), shape (..., n).
      rank: which one, from 1 to n, shape (...).

    Returns:
      The order statistic, exactly one of the values, shape (...).
    """
    bits = values
    if jnp.issubdtype(values.dtype, jnp.floating):  # the order of floats >= 0 is that of their bits
        bits = lax.bitcast_convert_type(values, jnp.uint32 if values.dtype.itemsize == 4 else jnp.uint64)
    width = 8 * bits.dtype.itemsize

    def refine(step, found):
        candidate = found | (jnp.ones((), bits.dtype) << (width - 1 - step).astype(bits.dtype))
        below = jnp.sum(bits < candidate[..., None], axis=-1, dtype=jnp.int32)
        return jnp.where(below < rank, candidate, found)

    found = lax.fori_loop(0, width, refine, jnp.zeros(bits.shape[:-1], bits.dtype))
    return lax.bitcast_convert_type(found, values.dtype) if bits.dtype != values.dtype else found


def random_subsets(
    shape: tuple[int, ...], allowed: Bool[Array, " n"], size: Integer[Array, ""], *, key: Array
) -> Bool[Array, "... n"]:
    """Uniform random subsets of `size` allowed rows, shape (*shape, n).

    A tie of random 32-bit numbers at the threshold, about n in 4e9, adds a row; the statistics divide by what they
    count.
    """
    noise = jax.random.bits(key, (*shape, allowed.shape[0]), jnp.uint32) >> 1
    noise = jnp.where(allowed, noise, jnp.uint32(0xFFFFFFFF))
    threshold = kth_smallest(noise, jnp.broadcast_to(size, shape))
    return (noise <= threshold[..., None]) & allowed


def random_order(allowed: Bool[Array, " n"], *, key: Array) -> Integer[Array, " n"]:
    """A uniform random order of the rows, those allowed first."""
    noise = jax.random.uniform(key, allowed.shape)
    return jnp.argsort(jnp.where(allowed, noise, 2))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Labels:
    """Splits of weighted rows into two laws, a line each: observed, permuted, halves of x, halves of y.

    `first` has the masses of the first law, not normalised, (lines, rows), the rows of x first. The second law is the
    rest of the line's universe: all rows for the first 1 + `permutations` lines, then those of x, then those of y.
    """

    first: Array
    universes: Array  # (3, rows)
    permutations: int = field(metadata={"static": True})

    @property
    def counts(self) -> np.ndarray:
        """How many lines each universe has; without permutations there are no halves either."""
        halves = SPLITS if self.permutations else 0
        return np.array([1 + self.permutations, halves, halves])

    def by_line(self, of_universes: Array) -> Array:
        """What belongs to a universe, (3, ...), at each of its lines."""
        total = int(self.counts.sum())
        return jnp.repeat(of_universes, self.counts, axis=0, total_repeat_length=total)

    def universe(self) -> Float[Array, "lines rows"]:
        """The masses of both laws together."""
        return self.by_line(self.universes)

    def signed(self) -> Float[Array, "lines rows"]:
        """The first law less the second, each of mass 1. Their supports are disjoint."""
        second = self.universe() - self.first
        mass_first, mass_second = (jnp.sum(masses, axis=1, keepdims=True) for masses in (self.first, second))
        return self.first / mass_first - second / mass_second


@partial(jax.jit, static_argnames="permutations")
def label_lines(
    weights_x: Float[Array, " n"], weights_y: Float[Array, " m"], permutations: int, *, key: Array
) -> Labels:
    """The observed labels, `permutations` of them, and if any SPLITS halvings of either law. Weights stay with rows."""
    weights = jnp.concatenate([weights_x, weights_y])
    is_x = jnp.arange(weights.shape[0]) < weights_x.shape[0]
    allowed = weights > 0
    shuffle, halve_x, halve_y = jax.random.split(key, 3)
    mine, others = is_x & allowed, ~is_x & allowed
    subsets = [mine[None]]
    if permutations:
        subsets.append(random_subsets((permutations,), allowed, jnp.sum(mine), key=shuffle))
        for law, own in ((mine, halve_x), (others, halve_y)):
            subsets.append(random_subsets((SPLITS,), law, jnp.sum(law) // 2, key=own))
    universes = weights * jnp.stack([allowed, mine, others])
    return Labels(weights * jnp.concatenate(subsets), universes, permutations)


def split_rows(
    statistic: Callable[[Array, Array, Array, Array], Array],
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    weights_x: Float[Array, " n"],
    weights_y: Float[Array, " m"],
    permutations: int,
    *,
    key: Array,
) -> tuple[Float[Array, " permutations"], Float[Array, " halves"]]:
    """A statistic of (x, y, weights_x, weights_y) for permuted labels, and if any between halves of x and of y in turn.

    For statistics that need the rows themselves. The laws keep their numbers of rows that count; the rest is padding.
    """
    n, m = x.shape[0], y.shape[0]

    def one(points, weights, first, second, count, rest, key):
        """`count` random rows against the `rest` of those that count, in arrays of `first` and `second` rows."""
        order = random_order(weights > 0, key=key)
        mine = order[jnp.arange(first)]
        yours = order[jnp.minimum(count + jnp.arange(second), weights.shape[0] - 1)]
        masses = jnp.where(jnp.arange(first) < count, weights[mine], 0)
        others = jnp.where(jnp.arange(second) < rest, weights[yours], 0)
        return statistic(points[mine], points[yours], masses, others)

    if not permutations:
        return jnp.zeros(0, x.dtype), jnp.zeros(0, x.dtype)
    shuffle, halve_x, halve_y = jax.random.split(key, 3)
    points, pooled = jnp.concatenate([x, y]), jnp.concatenate([weights_x, weights_y])
    count, rest = jnp.sum(weights_x > 0), jnp.sum(weights_y > 0)
    permuted = lax.map(lambda key: one(points, pooled, n, m, count, rest, key), jax.random.split(shuffle, permutations))
    halves = []
    for law, weights, own in ((x, weights_x, halve_x), (y, weights_y, halve_y)):
        half, rows = jnp.sum(weights > 0) // 2, law.shape[0]
        split = partial(one, law, weights, rows // 2, rows // 2, half, half)
        halves.append(lax.map(split, jax.random.split(own, SPLITS)))
    return permuted, jnp.concatenate(halves)


def host_generator(key: Array) -> np.random.Generator:
    """A numpy generator that the key alone decides, for solvers that run on the host."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
