"""One probe of more rows than memory holds: every step of the optimiser is a pass over chunks of them."""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult, minimize

from gmijax.probes._checks import check_labels
from gmijax.probes._solver import MEMORY, Solution, add_rows, gap_bound, prior_biases
from gmijax.stats import Chunks, chunks, moments

Source = Callable[[], Iterable[Any]] | Chunks
LINE_SEARCH = 50  # evaluations a step, scikit-learn's choice


class _Passes:
    """The objective and its gradient by passes over the rows; the last point is remembered.

    Sums over chunks are float64, and so is the optimiser, as scikit-learn's is on float64 rows.
    """

    def __init__(self, source: Chunks, codes: np.ndarray, classes: int, penalty: float):
        stream = moments(source, name=source.name)
        self.n, self.width = int(stream.count), stream.mean.total.shape[0]
        if codes.shape[0] != self.n:
            raise ValueError(f"labels has {codes.shape[0]} entries and hidden_states has {self.n} rows")
        self.source, self.codes, self.classes = source, codes, classes
        self.columns = classes if classes > 2 else 1
        self.ridge = penalty / self.n
        dtype = stream.mean.total.dtype
        eps = float(jnp.finfo(dtype).eps)
        self.mean = np.asarray(stream.mean.value)
        variance = np.asarray(stream.variance, np.float64) * (self.n - 1) / self.n
        varies = variance > np.square(16 * eps * self.mean)
        self.scale = np.sqrt(np.where(varies, variance, 1)).astype(dtype)
        self.factor = np.where(varies, 1 / self.scale, 0).astype(dtype)
        self._point: np.ndarray | None = None
        self._value: tuple[float, np.ndarray] = (0.0, np.zeros(0))

    def theta(self, point: np.ndarray) -> np.ndarray:
        """Weights and biases, (columns, d + 1)."""
        return point.reshape(self.columns, self.width + 1)

    def __call__(self, point: np.ndarray) -> tuple[float, np.ndarray]:
        """The objective and its gradient, flat."""
        if self._point is None or not np.array_equal(point, self._point):
            self._value, self._point = self._evaluate(self.theta(point)), point.copy()
        return self._value

    def _evaluate(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        narrow = jnp.asarray(theta, self.scale.dtype)
        loss, gradient, seen = 0.0, np.zeros_like(theta), 0
        for rows in self.source:
            codes = jnp.asarray(self.codes[seen : seen + len(rows)])
            if len(codes) < len(rows):
                raise ValueError(f"{self.source.name} gave more than the {self.n} rows of its first pass")
            part, slope = add_rows(
                narrow, jnp.asarray(rows), jnp.asarray(self.mean), jnp.asarray(self.factor), codes, classes=self.classes
            )
            loss, gradient, seen = loss + float(part), gradient + np.asarray(slope, np.float64), seen + len(rows)
        if seen != self.n:
            raise ValueError(f"{self.source.name} gave {seen} rows in a later pass and {self.n} in the first")
        weights = theta[:, :-1]
        gradient /= self.n
        gradient[:, :-1] += self.ridge * weights
        return loss / self.n + 0.5 * self.ridge * float(np.sum(weights**2)), gradient.reshape(-1)

    def gap(self, point: np.ndarray) -> float:
        """The bound of `gap_bound`."""
        theta, gradient = self.theta(point), self.theta(self(point)[1])
        return float(gap_bound(jnp.asarray([self.ridge]), jnp.asarray(theta[None]), jnp.asarray(gradient[None]))[0])


def solve_stream(
    source: Source, codes: np.ndarray, classes: int, penalty: float, *, tolerance: float, by_gap: bool, iterations: int
) -> tuple[Solution, np.ndarray, np.ndarray]:
    """As `solve` for one problem, by scipy's L-BFGS-B: scikit-learn's own steps.

    Args:
      source: of the rows, the same on every pass.
      codes: classes 0..classes - 1, (n,).
      classes: K >= 2.
      penalty: on the squared weights of z-scored features.
      tolerance: see `by_gap`.
      by_gap: stop where the gap is below `tolerance` times the objective, instead of where the largest entry of the
        gradient is below `tolerance`.
      iterations: at most.

    Returns:
      The solution without an axis of problems, and the features' means and scales, (d,).

    Raises:
      ValueError: if the rows are not as many as the labels, or not as many in every pass.
    """
    passes = _Passes(chunks(source, name="hidden_states"), codes, classes, penalty)

    def finished(point: np.ndarray) -> bool:
        value, gradient = passes(point)
        return passes.gap(point) <= tolerance * value if by_gap else float(np.abs(gradient).max()) <= tolerance

    def watch(intermediate_result: OptimizeResult) -> None:
        if finished(intermediate_result.x):
            raise StopIteration

    begin = np.zeros((passes.columns, passes.width + 1))
    if by_gap:
        share = np.bincount(codes, minlength=classes) / passes.n
        begin[:, -1] = prior_biases(jnp.asarray(share if classes > 2 else share[1:]))
    start = begin.reshape(-1)
    point, steps = start, 0
    if not finished(start):
        options = {"maxiter": iterations, "maxcor": MEMORY, "maxls": LINE_SEARCH, "gtol": 0, "ftol": 0}
        found = minimize(passes, start, method="L-BFGS-B", jac=True, callback=watch, options=options)
        point, steps = found.x, found.nit
    value, gradient = passes(point)
    theta = jnp.asarray(passes.theta(point), passes.scale.dtype)
    solution = Solution(
        weight=theta[:, :-1],
        bias=theta[:, -1],
        objective=jnp.asarray(value),
        gradient_norm=jnp.asarray(np.abs(gradient).max()),
        gap=jnp.asarray(passes.gap(point)),
        iterations=jnp.asarray(steps, jnp.int32),
        converged=jnp.asarray(finished(point)),
    )
    return solution, passes.mean, passes.scale


def check_alone(labels: ArrayLike, penalty: ArrayLike, weights: ArrayLike | None) -> np.ndarray:
    """Labels (n,) of a fit from chunks, which is of one problem.

    Raises:
      ValueError: for several sets of labels or penalties, or row weights.
    """
    if np.ndim(labels) != 1 or np.ndim(penalty) != 0:
        raise ValueError(
            f"labels of shape {np.shape(labels)} and penalty of shape {np.shape(penalty)}: chunks are fitted with one "
            "set of labels and one penalty at a time"
        )
    if weights is not None:
        raise ValueError("weights cannot be given with chunks; leave the rows that are held out of the source")
    return np.asarray(check_labels(labels, np.shape(labels)[0]))
