"""Intervals, resampling, permutation tests and streamed moments, for every estimator above this floor."""

from gmijax.stats._chunks import Chunks, chunks
from gmijax.stats._intervals import Interval, influence_standard_error, normal_interval, student_interval
from gmijax.stats._moments import CompensatedSum, Moments, moments
from gmijax.stats._quantiles import quantile_interval
from gmijax.stats._ranks import RankCorrelation, rank_correlation
from gmijax.stats._resampling import (
    exponential_weights,
    permutation_p_value,
    permutations_within,
    split_in_two,
)
from gmijax.stats._signs import SignFlipTest, sign_flip_test

__all__ = [
    "Chunks",
    "CompensatedSum",
    "Interval",
    "Moments",
    "RankCorrelation",
    "SignFlipTest",
    "chunks",
    "exponential_weights",
    "influence_standard_error",
    "moments",
    "normal_interval",
    "permutation_p_value",
    "permutations_within",
    "quantile_interval",
    "rank_correlation",
    "sign_flip_test",
    "split_in_two",
    "student_interval",
]
