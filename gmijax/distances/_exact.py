"""Exact transport between small point sets in any dimension, on the host."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial.distance import cdist

LARGEST = 4096


@dataclass(frozen=True)
class W1:
    """A first-order transport distance.

    Attributes:
      value: in the unit of the representations.
      n: points of the first law; 0 where the value is known without a sample.
      m: points of the second law.
      given: what both laws are conditioned on, "(c, y)", "c" or "none"; bounds ask for a certain one.
      space: the representations' space; bounds refuse to combine two.
    """

    value: float
    n: int
    m: int
    given: str
    space: str


def _blocks(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as (points, dimensions) in float64, checked, the smaller repeated to the size of the larger."""
    arrays = []
    for name, points in (("x", x), ("y", y)):
        array = np.asarray(points, np.float64)
        if array.ndim < 2 or not array.size:
            raise ValueError(f"{name} must hold points along its first axis, got shape {array.shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} holds NaN or infinite values; drop these points")
        arrays.append(array.reshape(len(array), -1))
    first, second = arrays
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"x and y have {first.shape[1]} and {second.shape[1]} dimensions: not one space")
    size = max(len(first), len(second))
    if size % len(first) or size % len(second):
        raise ValueError(f"x and y have {len(first)} and {len(second)} points; one count must divide the other")
    if size > LARGEST:
        raise ValueError(f"x and y have up to {size} points; exact transport takes at most {LARGEST}: subsample")
    return np.repeat(first, size // len(first), axis=0), np.repeat(second, size // len(second), axis=0)


def w1(x: ArrayLike, y: ArrayLike, *, given: str, space: str) -> W1:
    """Exact W1 between two uniform point sets, Euclidean cost on flattened points (an assignment problem).

    Args:
      x: points, shape (n, ...).
      y: points, shape (m, ...); n must divide m or m divide n.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.

    Returns:
      The distance with its labels.

    Raises:
      ValueError: for points that are not finite or of different dimensions, counts of which neither divides the
        other, or more than 4096 points.
    """
    first, second = _blocks(x, y)
    cost = cdist(first, second)
    rows, columns = linear_sum_assignment(cost)
    return W1(float(cost[rows, columns].mean()), len(np.asarray(x)), len(np.asarray(y)), given, space)


def w_inf(x: ArrayLike, y: ArrayLike) -> float:
    """Exact W_inf between two uniform point sets: the smallest r for which some matching moves nothing farther.

    Args:
      x: as in `w1`.
      y: as in `w1`.

    Returns:
      The bottleneck distance, found by bisection over the pairwise distances.

    Raises:
      ValueError: as `w1`.
    """
    first, second = _blocks(x, y)
    cost = cdist(first, second)
    radii = np.unique(cost)
    low, high = 0, len(radii) - 1
    while low < high:
        middle = (low + high) // 2
        within = csr_array(cost <= radii[middle])
        if (maximum_bipartite_matching(within, perm_type="column") >= 0).all():
            high = middle
        else:
            low = middle + 1
    return float(radii[low])


def diameter(x: ArrayLike) -> float:
    """The largest Euclidean distance between two of the points, shape (n, ...); a lower estimate of a support's."""
    points, _ = _blocks(x, x)
    return float(cdist(points, points).max())
