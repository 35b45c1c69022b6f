"""Exact transport between small point sets in any dimension, on the host."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.optimize import linear_sum_assignment, linprog
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial.distance import cdist

LARGEST_ASSIGNMENT = 4096
LARGEST_PROGRAM = 65_536
ROWS = 1024  # of one block of pairwise distances

Given = Literal["(c, y)", "c", "none"]


@dataclass(frozen=True)
class W1:
    """A first-order transport distance.

    Attributes:
      value: in the unit of the representations.
      n: points of the first law; 0 where the value is known without a sample.
      m: points of the second law.
      given: what both laws are conditioned on, "(c, y)", "c" or "none"; bounds ask for a certain one.
      space: the representations' space (model, hook point, pooling, width); bounds refuse to combine two.
    """

    value: float
    n: int
    m: int
    given: Given
    space: str


def _points(points: ArrayLike, name: str) -> np.ndarray:
    """The points as rows, float64."""
    array = np.asarray(points, np.float64)
    if array.ndim < 2 or not array.size:
        raise ValueError(f"{name} must hold points along its first axis, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values; drop these points")
    return array.reshape(len(array), -1)


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = _points(x, "x"), _points(y, "y")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"x and y have {first.shape[1]} and {second.shape[1]} dimensions: not one space")
    return first, second


def _masses(weights: ArrayLike | None, count: int, name: str) -> np.ndarray:
    if weights is None:
        return np.full(count, 1 / count)
    masses = np.asarray(weights, np.float64)
    if masses.shape != (count,):
        raise ValueError(f"{name} must have one weight a point, shape ({count},), got {masses.shape}")
    if not (np.isfinite(masses).all() and (masses >= 0).all() and masses.sum() > 0):
        raise ValueError(f"{name} must be finite and >= 0 with a positive sum; the sum need not be 1")
    return masses / masses.sum()


def _nested(n: int, m: int) -> bool:
    return n % m == 0 or m % n == 0


def _matched_cost(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pairwise distances, the smaller set repeated to the size of the larger: transport is then a matching."""
    size = max(len(first), len(second))
    if size > LARGEST_ASSIGNMENT:
        raise ValueError(
            f"x and y have up to {size} points; an exact matching takes at most {LARGEST_ASSIGNMENT}: subsample"
        )
    cost = cdist(first, second)
    return np.repeat(np.repeat(cost, size // len(first), axis=0), size // len(second), axis=1)


def _transport_cost(cost: np.ndarray, masses_x: np.ndarray, masses_y: np.ndarray) -> float:
    """The least cost of any coupling, by linear programming."""
    cost = cost[np.ix_(masses_x > 0, masses_y > 0)]
    n, m = cost.shape
    if cost.size > LARGEST_PROGRAM:
        raise ValueError(
            f"x and y make {n} x {m} pairs; transport with weights, or between counts of which neither divides the "
            f"other, takes at most {LARGEST_PROGRAM}: subsample to uniform sets of one size"
        )
    margins = sparse.vstack([
        sparse.kron(sparse.eye_array(n), np.ones((1, m))),
        sparse.kron(np.ones((1, n)), sparse.eye_array(m)),
    ])  # fmt: skip
    masses = np.concatenate([masses_x[masses_x > 0], masses_y[masses_y > 0]])
    # The last margin follows from the others; kept, it could contradict them by rounding.
    result = linprog(cost.ravel(), A_eq=margins.tocsr()[:-1], b_eq=masses[:-1], method="highs")
    if result.status != 0:
        raise RuntimeError(f"the transport problem between x and y was not solved: {result.message}")
    return float(max(result.fun, 0))


def w1(
    x: ArrayLike,
    y: ArrayLike,
    *,
    given: Given,
    space: str,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
) -> W1:
    """Exact W1 between two finite laws, Euclidean cost on flattened points.

    An assignment problem for uniform sets of which one count divides the other, else a linear program (HiGHS, to its
    tolerance of 1e-7). As an estimate of the distance of the laws that were sampled it is biased up (THEORY.md,
    section 3): report it beside that of split halves.

    Args:
      x: points, shape (n, ...).
      y: points, shape (m, ...).
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      weights_x: masses of x, shape (n,), >= 0; their sum need not be 1. Equal where None.
      weights_y: masses of y, shape (m,).

    Returns:
      The distance with its labels.

    Raises:
      ValueError: for points that are not finite or of different dimensions, weights that do not fit, more than 4096
        points to assign, or more than 65536 pairs in a linear program.
      RuntimeError: if the linear program is not solved.
    """
    first, second = _pair(x, y)
    if weights_x is None and weights_y is None and _nested(len(first), len(second)):
        cost = _matched_cost(first, second)
        value = float(cost[linear_sum_assignment(cost)].mean())
    else:
        masses_x = _masses(weights_x, len(first), "weights_x")
        masses_y = _masses(weights_y, len(second), "weights_y")
        value = _transport_cost(cdist(first, second), masses_x, masses_y)
    return W1(value, len(first), len(second), given, space)


def w_inf(x: ArrayLike, y: ArrayLike) -> float:
    """Exact W_inf between two uniform point sets: the smallest r for which some matching moves nothing farther.

    Args:
      x: points, shape (n, ...).
      y: points, shape (m, ...); n must divide m or m divide n.

    Returns:
      The bottleneck distance, found by bisection over the pairwise distances. Of samples it is a lower estimate.

    Raises:
      ValueError: for points that are not finite or of different dimensions, counts of which neither divides the
        other, or more than 4096 points.
    """
    first, second = _pair(x, y)
    if not _nested(len(first), len(second)):
        raise ValueError(f"x and y have {len(first)} and {len(second)} points; one count must divide the other")
    cost = _matched_cost(first, second)
    radii = np.unique(cost)
    low, high = 0, len(radii) - 1
    while low < high:
        middle = (low + high) // 2
        within = sparse.csr_array(cost <= radii[middle])
        if (maximum_bipartite_matching(within, perm_type="column") >= 0).all():
            high = middle
        else:
            low = middle + 1
    return float(radii[low])


def diameter(x: ArrayLike, y: ArrayLike | None = None) -> float:
    """The largest Euclidean distance between two points of x and y together, block by block.

    Args:
      x: points, shape (n, ...).
      y: more points, shape (m, ...).

    Returns:
      The diameter of these points: a lower estimate of their supports'.

    Raises:
      ValueError: for points that are not finite or of different dimensions.
    """
    points = _points(x, "x") if y is None else np.concatenate(_pair(x, y))
    return max(float(cdist(points[k : k + ROWS], points[k:]).max()) for k in range(0, len(points), ROWS))
