"""Bootstrap weights, permutations within groups, folds and p-values. Keys are arguments."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def exponential_weights(draws: int, units: int, *, dtype=jnp.float32, key: Array) -> Float[Array, "draws units"]:
    """Weights of the Bayesian bootstrap: independent Exp(1), so no unit ever drops out or is repeated.

    A resampled pair never enters as an alternative to its own copy, which is what biases the multinomial
    bootstrap of a log-mean-exp (PROOFS part iii). Rubin (1981), DOI 10.1214/aos/1176345338.

    Args:
      draws: number of replicates.
      units: number of resampling units.
      dtype: of the weights.
      key: a PRNG key.

    Returns:
      Weights of mean 1, shape (draws, units).
    """
    return jax.random.exponential(key, (draws, units), dtype)


@partial(jax.jit, static_argnames="draws")
def permutations_within(groups: Int[Array, " n"], draws: int, *, key: Array) -> Int[Array, "draws n"]:
    """Uniform random permutations of 0..n-1 that keep every index within its group.

    Args:
      groups: the group of every index, shape (n,).
      draws: number of permutations.
      key: a PRNG key.

    Returns:
      Permutations, shape (draws, n), with groups[permutation[i]] == groups[i].
    """
    home = jnp.argsort(groups, stable=True)

    def one(key):
        noise = jax.random.uniform(key, groups.shape)
        shuffled = jnp.lexsort((noise, groups))
        return jnp.zeros_like(home).at[home].set(shuffled)

    return jax.lax.map(one, jax.random.split(key, draws))


def permutation_p_value(statistic: Array, null: Float[Array, "draws ..."]) -> Array:
    """The exact one-sided p-value (1 + #{null >= statistic}) / (1 + draws).

    The statistic counts itself, so the p-value is never 0 and its size is exact for exchangeable draws.
    Phipson and Smyth (2010), DOI 10.2202/1544-6115.1585.

    Args:
      statistic: the observed value, shape (...); large values speak against the null.
      null: the statistic of permuted data, shape (draws, ...).

    Returns:
      The p-value, shape (...).
    """
    above = jnp.sum(null >= statistic[None], axis=0)
    return (1 + above).astype(null.dtype) / (1 + null.shape[0])


def split_in_two(groups: Int[Array, " n"]) -> Bool[Array, " n"]:
    """Splits 0..n-1 into two folds that alternate within every group, in order of appearance.

    Groups of odd size start the next group on the other fold, so that the folds are balanced as a whole too.

    Args:
      groups: the group of every index, shape (n,).

    Returns:
      True for the second fold, shape (n,); a group's fold sizes differ by at most one.
    """
    order = jnp.argsort(groups, stable=True)
    return jnp.zeros(groups.shape, bool).at[order].set(jnp.arange(groups.shape[0]) % 2 == 1)
