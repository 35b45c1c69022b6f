"""Transport between finite laws in any dimension: exact numbers, plans and potentials, on the host."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial.distance import cdist

from gmijax.distances._checks import check_given
from gmijax.distances._distance import Distance
from gmijax.distances._transport import Plan, pairwise, solve

LARGEST_BOTTLENECK = 4096
ROWS = 1024  # of one block of pairwise distances


def _points(points: ArrayLike, name: str) -> np.ndarray:
    """The points as rows, float64."""
    if np.iscomplexobj(points):
        raise ValueError(f"{name} must be real, got {np.asarray(points).dtype}")
    array = np.asarray(points, np.float64)
    if array.ndim < 2 or not array.size:
        raise ValueError(f"{name} must hold points along its first axis, shape (n, ...), got shape {array.shape}")
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


def transport(
    x: ArrayLike, y: ArrayLike, *, weights_x: ArrayLike | None = None, weights_y: ArrayLike | None = None
) -> Plan:
    """The optimal coupling of two finite laws for the Euclidean distance, with potentials that certify it.

    Exact for any sizes and weights. A matching (scipy's Hungarian method) for uniform sets of which few copies make
    one size; else a linear program (HiGHS) on a few arcs that grow until no other arc would lower the cost. Needs
    8 n m bytes a few times over. In float64 whatever the input.

    Args:
      x: points, shape (n, ...).
      y: points, shape (m, ...).
      weights_x: masses of x, shape (n,), >= 0; their sum need not be 1. Equal where None.
      weights_y: masses of y, shape (m,).

    Returns:
      A `Plan`: `value`, the arcs with their masses, both potentials, and the `gap` to the lower bound they certify.

    Raises:
      ValueError: for points that are not finite or of different dimensions, or weights that do not fit.
      RuntimeError: if a linear program is not solved.
    """
    first, second = _pair(x, y)
    masses_x = _masses(weights_x, len(first), "weights_x")
    masses_y = _masses(weights_y, len(second), "weights_y")
    return solve(pairwise(first, second), masses_x, masses_y)


def certified(plan: Plan) -> bool:
    """Whether a plan's potentials prove it optimal to 1e-7 of its cost (or of the costs' rounding, where that is 0)."""
    spread = max(np.ptp(plan.potential_x), np.ptp(plan.potential_y), plan.value)
    return bool(abs(plan.gap) <= 1e-7 * spread + np.finfo(np.float64).tiny)


def w1_exact(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
    given: str = "none",
    space: str = "",
) -> Distance:
    """W1 of two laws that are finite, Euclidean cost on flattened points: a number, not an estimate.

    For samples of larger laws use `w1`, which reports the bias, the null and an interval. Algorithms as `transport`.

    Args:
      x: points, shape (n, ...).
      y: points, shape (m, ...).
      weights_x: masses of x, shape (n,), >= 0; their sum need not be 1. Equal where None.
      weights_y: masses of y, shape (m,).
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.

    Returns:
      A `Distance` without uncertainty; `converged` says whether the potentials certify it to 1e-7.

    Raises:
      ValueError: as `transport`.
      RuntimeError: as `transport`.
    """
    check_given(given)
    plan = transport(x, y, weights_x=weights_x, weights_y=weights_y)
    n, m = len(plan.potential_x), len(plan.potential_y)
    return Distance(plan.value, converged=certified(plan), n=n, m=m, name="W1 (finite laws)", given=given, space=space)


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
    n, m = len(first), len(second)
    if n % m and m % n:
        raise ValueError(f"x and y have {n} and {m} points; one count must divide the other")
    size = max(n, m)
    if size > LARGEST_BOTTLENECK:
        raise ValueError(
            f"x and y have up to {size} points; the bottleneck takes at most {LARGEST_BOTTLENECK}: subsample"
        )
    cost = np.repeat(np.repeat(cdist(first, second), size // n, axis=0), size // m, axis=1)
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
