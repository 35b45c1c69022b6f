"""Intervals, resampling and permutation tests, for every estimator above this floor."""

from gmijax.stats._intervals import Interval, influence_standard_error, normal_interval
from gmijax.stats._quantiles import quantile_interval
from gmijax.stats._resampling import (
    exponential_weights,
    permutation_p_value,
    permutations_within,
    split_in_two,
)

__all__ = [
    "Interval",
    "exponential_weights",
    "influence_standard_error",
    "normal_interval",
    "permutation_p_value",
    "permutations_within",
    "quantile_interval",
    "split_in_two",
]
