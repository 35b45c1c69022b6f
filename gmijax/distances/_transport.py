"""Exact transport between finite laws, on the host: matchings and linear programs, certified by their potentials.

Matchings are scipy's. Linear programs are solved on a few arcs, priced on all of them, and solved again with the arcs
that would lower the cost, until none would: so the program never has n m columns.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist

EXPAND = 4  # a matching may repeat points up to this many times the larger set, else a linear program is cheaper
ARCS = 8  # a row and column, added to the program at a time
TOLERANCE = 1e-9  # of prices, relative to the mean cost
SMOOTHING, ITERATIONS = 0.02, 60  # of the program's entropic start
PLAIN = 128  # points up to which a matching is sought without
SHARPENING, ROUNDS = (0.05, 0.01), 20  # of a matching's, in stages, each relative to what the one before left

Matrix = NDArray[Any]  # float64
Vector = NDArray[Any]
Indices = NDArray[np.intp]


class Plan(NamedTuple):
    """An optimal coupling of two finite laws and its certificate.

    Attributes:
      value: its cost.
      rows: index into x of every arc that carries mass.
      columns: index into y.
      masses: what the arc carries; they sum to 1.
      potential_x: f with f_i + g_j <= cost_ij for all pairs, shape (n,).
      potential_y: g; the cost of any coupling is at least the mean of f plus that of g.
      gap: `value` less that lower bound; 0 to rounding at an optimum.
    """

    value: float
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    masses: Vector
    potential_x: Vector
    potential_y: Vector
    gap: float


def pairwise(first: Matrix, second: Matrix) -> Matrix:
    """Euclidean distances in float64; by one matrix product in many dimensions, near pairs taken again one by one."""
    if first.shape[1] <= 16:
        return cdist(first, second)
    centre = (first.mean(axis=0) + second.mean(axis=0)) / 2
    first, second = first - centre, second - centre
    norms = (first**2).sum(axis=1)[:, None] + (second**2).sum(axis=1)[None, :]
    squared = first @ second.T
    squared *= -2
    squared += norms
    near = squared < 1e-6 * norms  # here the difference has lost more than a third of its digits
    rows, columns = np.nonzero(near)
    for start in range(0, len(rows), 4096):
        i, j = rows[start : start + 4096], columns[start : start + 4096]
        squared[i, j] = ((first[i] - second[j]) ** 2).sum(axis=1)
    return np.sqrt(np.maximum(squared, 0))


def repeats(n: int, m: int) -> tuple[int, int] | None:
    """How often to repeat either of two uniform sets so that transport is a matching; None where that is too often."""
    size = math.lcm(n, m)
    return (size // n, size // m) if size <= EXPAND * max(n, m) else None


def _matching(prices: Matrix, mine: Indices, yours: Indices) -> tuple[Indices, Indices]:
    """The cheapest matching of as many listed rows as columns: their places in the lists, which may repeat a point.

    The search is many times shorter among prices that are nearly optimal. Entropic potentials of the listed rows and
    columns, one for all copies, bring them there; the matching stays the same.
    """
    if len(mine) <= PLAIN:
        return linear_sum_assignment(prices[np.ix_(mine, yours)])
    rows, own_row, copies_x = np.unique(mine, return_inverse=True, return_counts=True)
    columns, own_column, copies_y = np.unique(yours, return_inverse=True, return_counts=True)
    left = prices[np.ix_(rows, columns)]
    for share in SHARPENING:
        f, g = _entropic_prices(left, copies_x, copies_y, share, ROUNDS, np.float32)
        left -= f[:, None]
        left -= g
    return linear_sum_assignment(left[np.ix_(own_row, own_column)])


def listed_cost(cost: Matrix, prices: Matrix, mine: Indices, yours: Indices) -> float:
    """The least mean cost of moving listed rows to listed columns, all of the same mass.

    Args:
      cost: of all rows and columns, shape (n, m).
      prices: the same less any potentials; the better these, the shorter the search.
      mine: rows, any number, some perhaps several times.
      yours: columns.

    Returns:
      The mean cost.
    """
    times = repeats(len(mine), len(yours))
    if times is None:
        masses = [
            np.bincount(side, minlength=size) / len(side) for side, size in zip((mine, yours), cost.shape, strict=True)
        ]
        return solve(cost, *masses).value
    mine, yours = np.repeat(mine, times[0]), np.repeat(yours, times[1])
    i, j = _matching(prices, mine, yours)
    return float(cost[mine[i], yours[j]].mean())


def _matching_potentials(cost: Matrix, match: NDArray[np.intp]) -> tuple[Vector, Vector]:
    """Potentials of an optimal square matching: shortest paths from column to column through their rows."""
    n = len(cost)
    order = np.argsort(match)
    # A step from row i's own column to column j costs what rerouting the row would.
    steps = cost[order] - cost[order, np.arange(n)][:, None]
    potential = np.zeros(n)
    for _ in range(n):
        shorter = np.minimum(potential, (potential[:, None] + steps).min(axis=0))
        if np.abs(shorter - potential).max(initial=0) <= 1e-14 * np.abs(cost).max(initial=0):
            break
        potential = shorter
    return (cost - potential).min(axis=1), potential


def _matching_plan(cost: Matrix) -> Plan:
    n, m = cost.shape
    times = repeats(n, m)
    assert times is not None
    full = np.repeat(np.repeat(cost, times[0], axis=0), times[1], axis=1)
    rows, columns = _matching(full, np.arange(len(full)), np.arange(len(full)))
    value = float(full[rows, columns].mean())
    _, column_prices = _matching_potentials(full, columns)
    # Copies of a column may be priced differently; the c-transform of the cheapest serves them all.
    potential_y = column_prices.reshape(m, times[1]).max(axis=1)
    potential_x = (cost - potential_y).min(axis=1)
    potential_y = (cost - potential_x[:, None]).min(axis=0)
    arcs = sparse.coo_array((np.full(len(rows), 1 / len(rows)), (rows // times[0], columns // times[1])), cost.shape)
    arcs = arcs.tocsr().tocoo()
    gap = value - potential_x.mean() - potential_y.mean()
    return Plan(value, arcs.row, arcs.col, arcs.data, potential_x, potential_y, float(gap))


def _entropic_prices(
    cost: Matrix, masses_x: Vector, masses_y: Vector, share: float, rounds: int, dtype: Any
) -> tuple[Vector, Vector]:
    """Potentials near the optimal ones, smoothed by a share of the mean of what the lowest costs leave."""
    lowest_x = cost.min(axis=1)
    lowest_y = (cost - lowest_x[:, None]).min(axis=0)
    # Every row and column of what is left has a zero, so that none of the kernel's underflows as a whole.
    left = cost - lowest_x[:, None]
    left -= lowest_y
    epsilon = share * left.mean()
    if not epsilon:
        return lowest_x, lowest_y
    kernel = left.astype(dtype)
    kernel *= -1 / epsilon
    np.exp(kernel, out=kernel)
    mine, yours = masses_x.astype(dtype), masses_y.astype(dtype)
    u, v = np.ones_like(mine), np.ones_like(yours)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        for _ in range(rounds):
            u = 1 / (kernel @ (yours * v))
            v = 1 / ((mine * u) @ kernel)
        f, g = lowest_x + epsilon * np.log(u), lowest_y + epsilon * np.log(v)
    good = np.isfinite(f).all() and np.isfinite(g).all()
    return (f, g) if good else (lowest_x, lowest_y)


def _corner_path(order_x: NDArray, order_y: NDArray, masses_x: Vector, masses_y: Vector) -> tuple[NDArray, NDArray]:
    """The arcs of the coupling that is monotone in two orders: with them the program has a solution."""
    levels_x, levels_y = np.cumsum(masses_x[order_x]), np.cumsum(masses_y[order_y])
    edges = np.union1d(levels_x, levels_y)
    i = np.minimum(np.searchsorted(levels_x, edges), len(levels_x) - 1)
    j = np.minimum(np.searchsorted(levels_y, edges), len(levels_y) - 1)
    # Where both step at once, rounding may need either corner.
    i, j = np.concatenate([i, i[1:], i[:-1]]), np.concatenate([j, j[:-1], j[1:]])
    return order_x[i], order_y[j]


def _cheapest(prices: Matrix, count: int) -> tuple[NDArray, NDArray]:
    """The `count` lowest entries of every row and of every column."""
    n, m = prices.shape
    by_row, by_column = min(count, m), min(count, n)
    columns = np.argpartition(prices, by_row - 1, axis=1)[:, :by_row]
    rows = np.argpartition(prices, by_column - 1, axis=0)[:by_column]
    return (
        np.concatenate([np.repeat(np.arange(n), by_row), rows.ravel()]),
        np.concatenate([columns.ravel(), np.tile(np.arange(m), by_column)]),
    )


def _restricted(
    cost: Matrix, arcs: NDArray[np.intp], masses_x: Vector, masses_y: Vector
) -> tuple[Vector, Vector, Vector]:
    """The flow on some arcs (row-major pairs) of least cost, and the margins' prices."""
    n, m = cost.shape
    i, j = np.divmod(arcs, m)
    columns = np.arange(len(arcs))
    incidence = sparse.csr_array(
        (np.ones(2 * len(arcs)), (np.concatenate([i, n + j]), np.concatenate([columns, columns]))),
        (n + m, len(arcs)),
    )
    unit = max(n, m)  # masses of order 1, as the solver's tolerances expect
    right = np.concatenate([masses_x, masses_y]) * unit
    # The last margin follows from the others; kept, it could contradict them by rounding.
    result = linprog(cost[i, j], A_eq=incidence[:-1], b_eq=right[:-1], method="highs-ds")
    if result.status != 0:
        raise RuntimeError(f"the transport problem between x and y was not solved: {result.message}")
    prices = np.append(result.eqlin.marginals, 0.0)
    return np.maximum(result.x, 0) / unit, prices[:n], prices[n:]


def _program_plan(cost: Matrix, masses_x: Vector, masses_y: Vector) -> Plan:
    """Column generation; masses all positive, each law's summing to 1."""
    m = cost.shape[1]
    scale = float(cost.mean()) or 1.0
    unit = cost / scale
    f, g = _entropic_prices(unit, masses_x, masses_y, SMOOTHING, ITERATIONS, np.float64)
    # The corners of an order along the potentials are cheaper than those of an arbitrary one.
    path = _corner_path(np.argsort(f), np.argsort(-g), masses_x, masses_y)
    nearest = _cheapest(unit - f[:, None] - g, ARCS)
    arcs = np.unique(np.concatenate([path[0], nearest[0]]) * m + np.concatenate([path[1], nearest[1]]))
    while True:
        flow, f, g = _restricted(unit, arcs, masses_x, masses_y)
        prices = unit - f[:, None] - g
        rows, columns = _cheapest(prices, ARCS)
        wanted = prices[rows, columns] < -TOLERANCE
        fresh = np.setdiff1d(rows[wanted] * m + columns[wanted], arcs)
        if not len(fresh):
            break
        arcs = np.union1d(arcs, fresh)
    i, j = np.divmod(arcs, m)
    f = (unit - g).min(axis=1)
    g = (unit - f[:, None]).min(axis=0)
    value = float(flow @ unit[i, j])
    used = flow > 0
    gap = value - f @ masses_x - g @ masses_y
    return Plan(value * scale, i[used], j[used], flow[used], f * scale, g * scale, float(gap * scale))


def solve(cost: Matrix, masses_x: Vector, masses_y: Vector) -> Plan:
    """The optimal coupling for any sizes and masses.

    Args:
      cost: of the pairs, >= 0, shape (n, m).
      masses_x: >= 0, summing to 1, shape (n,).
      masses_y: of y, shape (m,).

    Returns:
      A `Plan`; points without mass get the potential that the others leave them.

    Raises:
      RuntimeError: if the linear program is not solved.
    """
    keep_x, keep_y = np.flatnonzero(masses_x > 0), np.flatnonzero(masses_y > 0)
    inner, mine, yours = cost[np.ix_(keep_x, keep_y)], masses_x[keep_x], masses_y[keep_y]
    if np.ptp(mine) <= 1e-14 and np.ptp(yours) <= 1e-14 and repeats(*inner.shape):
        plan = _matching_plan(inner)
    else:
        plan = _program_plan(inner, mine, yours)
    if len(keep_x) == len(masses_x) and len(keep_y) == len(masses_y):
        return plan
    potential_x = (cost[:, keep_y] - plan.potential_y).min(axis=1)
    potential_y = (cost - potential_x[:, None]).min(axis=0)
    return plan._replace(
        rows=keep_x[plan.rows], columns=keep_y[plan.columns], potential_x=potential_x, potential_y=potential_y
    )
