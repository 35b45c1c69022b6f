"""The sign-flip test of paired differences."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jaxtyping import Array
from numpy.typing import ArrayLike

_TOGETHER = 256  # sign patterns held at once


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SignFlipTest:
    """The test that paired differences are symmetric about 0.

    Attributes:
      value: the mean difference, shape (...).
      p_value: two-sided, shape (...).
      n: number of differences.
      exact: whether all 2^n sign patterns were tried rather than a sample of them.
    """

    value: jax.Array
    p_value: jax.Array
    n: int = field(metadata={"static": True})
    exact: bool = field(metadata={"static": True})


@partial(jax.jit, static_argnames=("draws", "exact"))
def _sign_flip_test(differences: Array, *, draws: int, exact: bool, key: Array) -> SignFlipTest:
    n = differences.shape[-1]
    value = jnp.mean(differences, axis=-1)
    # A pattern that differs from the data by signs of zeros, or of equal values, is as extreme and must not lose by
    # the rounding of a sum in another order: n eps times the mean size bounds that rounding.
    rounding = n * jnp.finfo(differences.dtype).eps * jnp.mean(jnp.abs(differences), axis=-1)
    threshold = jnp.abs(value) - rounding

    def is_extreme(signs):
        flipped = jnp.einsum("...n,n->...", differences, signs, precision=lax.Precision.HIGHEST) / n
        return jnp.abs(flipped) >= threshold

    if exact:

        def by_number(number):
            return is_extreme(1 - 2 * ((number >> jnp.arange(n)) & 1).astype(differences.dtype))

        count = jnp.sum(lax.map(by_number, jnp.arange(2**n), batch_size=_TOGETHER), axis=0)
        return SignFlipTest(value, count.astype(differences.dtype) / 2**n, n, exact)

    def drawn(key):
        return is_extreme(jax.random.rademacher(key, (n,), differences.dtype))

    count = jnp.sum(lax.map(drawn, jax.random.split(key, draws), batch_size=_TOGETHER), axis=0)
    return SignFlipTest(value, (1 + count).astype(differences.dtype) / (1 + draws), n, exact)


def sign_flip_test(differences: ArrayLike, *, draws: int = 9999, key: Array) -> SignFlipTest:
    """Two-sided sign-flip test of paired differences, such as losses after an edit less those before it.

    If the differences are independent and symmetric about 0, every pattern of signs is equally likely, and the share
    of patterns whose mean is at least as far from 0 as the data's is an exact p-value. All patterns are tried where
    they are no more than 1 + `draws`, which needs no key's randomness; else the data count as one of them, so that
    the p-value is never 0 (Phipson and Smyth 2010, DOI 10.2202/1544-6115.1585).

    Args:
      differences: shape (..., n), n >= 1; the leading axes are tests of their own under the same sign patterns.
      draws: number of random sign patterns.
      key: a PRNG key.

    Returns:
      A `SignFlipTest`. Differences that are all 0 have p = 1. The p-values are not adjusted for their number.

    Raises:
      ValueError: for no differences, values that are not finite, or `draws` below 1.
    """
    array = jnp.asarray(differences)
    array = array.astype(jnp.promote_types(array.dtype, jnp.float32))
    if not array.ndim or not array.size:
        raise ValueError(f"differences must hold at least one value on its last axis, got shape {array.shape}")
    if not isinstance(array, Tracer) and not np.isfinite(np.asarray(array)).all():
        raise ValueError("differences holds NaN or infinite values; drop these pairs and say so")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    n = array.shape[-1]
    exact = n < 31 and 2**n <= 1 + draws
    return _sign_flip_test(array, draws=draws, exact=exact, key=key)
