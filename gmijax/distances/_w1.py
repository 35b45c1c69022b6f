"""W1 between the laws of two samples, with its null, noise floor and interval; solved on the host."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike
from scipy.linalg import eigh

from gmijax._checks import check_choice, check_count, is_concrete
from gmijax.distances._checks import check_common, check_pair
from gmijax.distances._distance import Distance
from gmijax.distances._draws import SPLITS, host_generator
from gmijax.distances._exact import certified
from gmijax.distances._inference import summary, weighted_variance
from gmijax.distances._projection import project
from gmijax.distances._transport import Matrix, Plan, Vector, listed_cost, pairwise, solve
from gmijax.stats import Interval

INTERVALS = ("subsample", "dual", "bootstrap", "bootstrap-refitted")
Rows = np.ndarray  # indices of pooled rows


class _Pooled:
    """W1 between any two lists of pooled rows, from one matrix of distances."""

    def __init__(self, points: Matrix, weights: Vector, n: int, everything: bool):
        self.weights, self.n = weights, n
        if everything:  # permutations and halves also ask for distances within a law
            self.cost, self.offset = pairwise(points, points), 0
        else:
            self.cost, self.offset = pairwise(points[:n], points[n:]), n

    def between(self, first: Rows, second: Rows) -> Matrix:
        return self.cost[np.ix_(first, second - self.offset)]

    def solve(self, first: Rows, second: Rows) -> Plan:
        masses = [self.weights[rows] / self.weights[rows].sum() for rows in (first, second)]
        return solve(self.between(first, second), *masses)

    def w1(self, first: Rows, second: Rows, prices: Matrix | None = None) -> float:
        """The distance; `prices`, for rows of x against rows of y, are their costs less good potentials."""
        if any(np.ptp(self.weights[rows]) > 1e-6 for rows in (first, second)):
            return self.solve(first, second).value
        if prices is None:
            return listed_cost(self.cost, self.cost, first, second - self.offset)
        return listed_cost(self.cost[: self.n, self.n - self.offset :], prices, first, second - self.n)


def _subsample_sizes(n: int, m: int) -> tuple[int, int]:
    """Half of either, in the proportion n : m where that is possible, since a matching is then cheap."""
    common = math.gcd(n, m)
    if common >= 4:
        return n // common * (common // 2), m // common * (common // 2)
    return max(n // 2, 1), max(m // 2, 1)


def _subsamples(pooled: _Pooled, x: Rows, y: Rows, prices: Matrix, draws: int, rng: np.random.Generator) -> float:
    """The standard error by half-samples without replacement, the delete-d jackknife's (Shao and Wu 1989)."""
    b, c = _subsample_sizes(len(x), len(y))
    values = [pooled.w1(rng.choice(x, b, replace=False), rng.choice(y, c, replace=False), prices) for _ in range(draws)]
    # A share f of the rows scatters about the whole sample with (1 - f) / f of the sample's own variance.
    share = (b + c) / (len(x) + len(y))
    return float(np.std(values, ddof=1) * math.sqrt(share / (1 - share)))


def _bootstrap(pooled: _Pooled, x: Rows, y: Rows, prices: Matrix, draws: int, rng: np.random.Generator) -> Vector:
    return np.array([pooled.w1(rng.choice(x, len(x)), rng.choice(y, len(y)), prices) for _ in range(draws)])


def _scores(points: Matrix, gram: Matrix | None, rows: Rows, counts: Vector, top: int) -> Matrix:
    """Rows, each so many times, on the principal axes of their own; from their Gram matrix where it is the smaller.

    Eigenvectors in single precision: half the time, and 1e-6 of the largest eigenvalue is far below the noise of a
    resample.
    """
    share = counts / counts.sum()
    if gram is None:
        centred = points[rows] - share @ points[rows]
        narrow = (centred * np.sqrt(counts)[:, None]).astype(np.float32)
        return centred @ eigh(narrow.T @ narrow, overwrite_a=True, check_finite=False)[1][:, -top:]
    root, size = np.sqrt(counts), len(rows)
    inner = gram[np.ix_(rows, rows)]
    means = inner @ share
    inner = (inner - means[:, None] - means + share @ means) * root[:, None] * root
    eigenvalues, vectors = eigh(
        inner.astype(np.float32), subset_by_index=[size - top, size - 1], overwrite_a=True, check_finite=False
    )
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0)) / root[:, None]).astype(np.float64)


def _refitted(
    points: Matrix, x: Rows, y: Rows, top: int, potentials: Vector, draws: int, rng: np.random.Generator
) -> Vector:
    """Bootstrap replicates whose principal axes are fitted again.

    `potentials`, one a pooled row, are those of the axes of all rows: nearly optimal still.
    """
    points = points - points.mean(axis=0)
    gram = points @ points.T if len(points) < 2 * points.shape[1] else None
    values = []
    for _ in range(draws):
        resampled = np.concatenate([rng.choice(x, len(x)), rng.choice(y, len(y))])
        rows, place, counts = np.unique(resampled, return_inverse=True, return_counts=True)
        if len(rows) <= top:
            raise ValueError(
                f"projection is {top}, but a bootstrap resample has {len(rows)} distinct rows; take fewer axes"
            )
        scores = _scores(points, gram, rows, counts, top)
        split = np.count_nonzero(rows < y[0])  # rows of x come first
        first, second = place[: len(x)], place[len(x) :] - split
        cost = pairwise(scores[:split], scores[split:])
        prices = cost - potentials[rows[:split], None] - potentials[rows[split:]]
        values.append(listed_cost(cost, prices, first, second))
    return np.array(values)


def w1(
    x: ArrayLike,
    y: ArrayLike,
    *,
    weights_x: ArrayLike | None = None,
    weights_y: ArrayLike | None = None,
    projection: int | None = None,
    interval: str = "subsample",
    draws: int = 200,
    permutations: int = 199,
    level: float = 0.95,
    given: str = "none",
    space: str = "",
    key: Array,
) -> Distance:
    """W1 between two samples, Euclidean cost on flattened points, exact for any sizes and weights.

    As an estimate of the distance of the laws it is biased up, by about n^(-1/d) in d dimensions: E value >= W1 of
    the laws always, and two samples of one law are far apart (`null`, `split_half`). The interval is therefore one
    for the expected value at these sample sizes: its upper end also bounds the laws' W1, its lower end does not.
    All intervals fail at the null, where W1 is not smooth: read p_value.

    "subsample" takes the standard error from half-samples drawn without replacement (Shao and Wu 1989,
    10.1214/aos/1176347263), "dual" from the variance of the Kantorovich potentials, the limit of the dual-linearised
    bootstrap, at the price of one solve. "bootstrap" and "bootstrap-refitted" are percentile intervals with
    replacement, for comparison with arXiv:2602.23136: the second fits the projection again in every replicate, as its
    scripts do. Both are shifted up, often so far that they exclude the value itself.

    Runs on the host in float64: it cannot be traced. It holds 8 (n + m)^2 bytes, and unless sizes divide each other
    and weights are equal every permutation is a linear program. Per permutation expect 0.1 s at n = m = 1,000.

    Args:
      x: points of the first law, shape (n, ...).
      y: points of the second law, shape (m, ...).
      weights_x: weights of x, shape (n,), >= 0; 0 for padding. Equal where None.
      weights_y: weights of y, shape (m,).
      projection: the number of joint principal axes to project to first; None for all dimensions.
      interval: "subsample", "dual", "bootstrap" or "bootstrap-refitted".
      draws: half-samples or bootstrap replicates; "dual" needs none.
      permutations: of the labels, for the null and the p-value; 0 for neither, nor for the halves.
      level: coverage of the interval.
      given: what both laws are conditioned on: "(c, y)", "c" or "none".
      space: the name of the representations' space.
      key: a PRNG key.

    Returns:
      A `Distance`, in the unit of the points. `converged` says whether the potentials certify the value to 1e-7.

    Raises:
      ValueError: for points, weights or options that do not fit, by name, or input that is being traced.
      RuntimeError: if a linear program is not solved.
    """
    check_common(given, level, permutations)
    check_choice(interval, INTERVALS, "interval")
    check_count(draws, 2, "draws")
    if not is_concrete(x, y, weights_x, weights_y):
        raise ValueError("w1 is solved on the host and cannot be traced; inside jit use sliced_w1 or sinkhorn")
    if interval == "bootstrap-refitted" and projection is None:
        raise ValueError("interval 'bootstrap-refitted' fits a projection in every replicate; give projection")
    first, second, masses_x, masses_y = check_pair(x, y, weights_x, weights_y)
    near_x, near_y, discarded = project(first, second, masses_x, masses_y, projection)
    points = np.concatenate([np.asarray(near_x, np.float64), np.asarray(near_y, np.float64)])
    weights = np.concatenate([np.asarray(masses_x, np.float64), np.asarray(masses_y, np.float64)])
    n = len(near_x)
    rows = np.flatnonzero(weights > 0)
    rows_x, rows_y = rows[rows < n], rows[rows >= n]
    if interval.startswith("bootstrap") and not all(np.ptp(weights[r]) <= 1e-6 for r in (rows_x, rows_y)):
        raise ValueError(f"weights_x and weights_y must be 0 or one other number for interval {interval!r}")
    rng = host_generator(key)
    pooled = _Pooled(points, weights, n, everything=permutations > 0)

    plan = pooled.solve(rows_x, rows_y)
    potentials = np.zeros(len(weights))  # of padding anything
    potentials[rows_x], potentials[rows_y] = plan.potential_x, plan.potential_y
    prices = pooled.between(np.arange(n), np.arange(n, len(weights))) - potentials[:n, None] - potentials[n:]
    permuted = []
    for _ in range(permutations):
        order = rng.permutation(rows)
        permuted.append(pooled.w1(order[: len(rows_x)], order[len(rows_x) :]))
    halves = []
    for law in (rows_x, rows_y) if permutations else ():
        for _ in range(SPLITS):
            order, half = rng.permutation(law), len(law) // 2
            halves.append(pooled.w1(order[:half], order[half : 2 * half]))

    standard_error, replicates = 0.0, None
    if interval == "dual":
        standard_error = math.sqrt(
            sum(
                float(weighted_variance(jnp.asarray(potential), jnp.asarray(weights[law])))
                for potential, law in ((plan.potential_x, rows_x), (plan.potential_y, rows_y))
            )
        )
    elif interval == "subsample":
        standard_error = _subsamples(pooled, rows_x, rows_y, prices, draws, rng)
    elif interval == "bootstrap":
        replicates = _bootstrap(pooled, rows_x, rows_y, prices, draws, rng)
    else:
        raw = np.concatenate([np.asarray(first, np.float64), np.asarray(second, np.float64)])
        assert projection is not None
        replicates = _refitted(raw, rows_x, rows_y, projection, potentials, draws, rng)
    if replicates is not None:
        standard_error = float(np.std(replicates, ddof=1))
    dtype = first.dtype
    statistics = jnp.asarray(np.array([plan.value, *permuted, *halves]), dtype)
    parts = summary(statistics, permutations, standard_error=jnp.asarray(standard_error, dtype), level=level)
    if replicates is not None:
        ends = np.quantile(replicates, [0.5 - 0.5 * level, 0.5 + 0.5 * level])
        parts["interval"] = Interval(*(jnp.asarray(end, dtype) for end in ends))
    axes = "" if projection is None else f", top {projection} joint principal axes"
    return Distance(
        **parts, converged=certified(plan), discarded=discarded, n=len(rows_x), m=len(rows_y),
        name=f"W1 ({interval}{axes})", given=given, space=space, level=level,
    )  # fmt: skip
