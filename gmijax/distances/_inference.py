"""From a line of statistics (observed, permuted, halves) to the fields of a `Distance`."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from gmijax.stats import normal_interval, permutation_p_value, student_interval


def summary(
    statistics: Float[Array, " columns"],
    permutations: int,
    *,
    standard_error: Array | None,
    level: float,
    degrees: Array | None = None,
) -> dict[str, Any]:
    """Value, interval, null, p-value and noise floor from the statistics of `label_lines`.

    The interval is Student's where the standard error has few `degrees` of freedom, else normal.
    """
    value, permuted = statistics[0], statistics[1 : 1 + permutations]
    interval = None
    if standard_error is not None and degrees is not None:
        interval = student_interval(value, standard_error, degrees, level=level)
    elif standard_error is not None:
        interval = normal_interval(value, standard_error, level=level)
    return {
        "value": value,
        "standard_error": standard_error,
        "interval": interval,
        "null": jnp.mean(permuted) if permutations else None,
        "p_value": permutation_p_value(value, permuted) if permutations else None,
        "split_half": jnp.mean(statistics[1 + permutations :]) if permutations else None,
    }


def weighted_variance(values: Float[Array, " n"], weights: Float[Array, " n"]) -> Array:
    """Variance of the mean of independent contributions with these weights (0 for padding), self-normalised.

    n / (n - 1) sum p_i^2 (v_i - mean)^2 with p the weights' shares; for equal weights that is var(ddof=1) / n.
    """
    share = weights / jnp.sum(weights)
    count = jnp.sum(weights > 0)
    mean = jnp.sum(share * values)
    return jnp.sum(jnp.square(share * (values - mean))) * count / (count - 1)
