"""Eigenmodes of a law: the directions of its covariance, largest variance first."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete
from gmijax.modes._checks import check_tolerance, space_of
from gmijax.modes._paths import both_paths, namespace, runs_on_host
from gmijax.modes._solvers import Solution, leading_pairs, resolved, solve_array, solve_chunks
from gmijax.modes._within import about_group_means
from gmijax.stats import Chunks, chunks, moments

Source = ArrayLike | Callable[[], Iterable[Any]] | Chunks
TOLERANCE = 3e-3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Modes:
    """The leading eigenmodes of a sample's covariance.

    Attributes:
      mean: of all rows, (d,).
      eigenvalues: variances along the modes, largest first, (k,). In-sample: the first are biased up and the last
        down, by a lot where n is not far above d.
      standard_error: of the eigenvalues, (k,), as of a variance along a direction that was known: without that bias.
      directions: orthonormal rows, (k, d), each with its largest component positive.
      total_variance: the trace of the covariance.
      residuals: |A v - value v| / value, (k,), of the matrix that was solved: the rows' n x n Gram matrix where n <= d,
        else (and for chunks) their covariance. Measured by block Lanczos; a bound on rounding where all eigenpairs were
        computed. From a Gram matrix to the covariance they grow by up to sqrt(largest eigenvalue / own).
      converged: whether all residuals are within the tolerance.
      n: number of rows.
      degrees: of freedom, n less the number of means taken out.
      asked: modes asked for, None for all. Null modes (variance within rounding of 0) are never returned, so that
        there may be fewer.
      space: of the rows.
    """

    mean: jax.Array
    eigenvalues: jax.Array
    standard_error: jax.Array
    directions: jax.Array
    total_variance: jax.Array
    residuals: jax.Array
    converged: jax.Array
    n: int = field(metadata={"static": True})
    degrees: int = field(metadata={"static": True})
    asked: int | None = field(metadata={"static": True})
    space: str = field(metadata={"static": True})

    @property
    def share(self) -> jax.Array:
        """Each mode's share of the total variance, (k,)."""
        return self.eigenvalues / self.total_variance


def check_top(top: int | None, degrees: int, width: int) -> None:
    """A number of modes that the rows can carry."""
    if degrees < 1:
        raise ValueError("a covariance needs at least two rows (and with within, a context that holds two of them)")
    most = min(degrees, width)
    if top is not None and not 1 <= top <= most:
        raise ValueError(
            f"top must lie in 1..{most}, got {top}: {degrees} degrees of freedom in {width} columns carry at most "
            f"{most} modes; give more rows, or top=None for all there are"
        )


def place(array: Any, top: int | None, on_host: bool) -> Any:
    """The rows where the work is done: numpy, in float64 for all modes, or a JAX array."""
    if not on_host:
        return jnp.asarray(array)
    return np.asarray(array, np.float64) if top is None else np.asarray(array)


@both_paths
def mean_of(rows: Any) -> Any:
    """The rows' mean, without loss where it is large beside the spread."""
    return rows[0] + namespace(rows).mean(rows - rows[0][None, :], axis=0)


def _fit_array(array: Any, top: int | None, tolerance: float, within: ArrayLike | None) -> tuple[Any, Solution, int]:
    """The mean, the eigenpairs and the number of means taken out."""
    (n, d), mean, groups = array.shape, mean_of(array), 1
    if within is None:
        check_top(top, n - 1, d)
        centred = array - mean[None, :]
    else:
        rows, groups = about_group_means(chunks(array), within, "within")
        check_top(top, n - groups, d)
        centred = rows.whole
    solution = solve_array(centred, degrees=n - groups, top=top, tolerance=tolerance)
    if isinstance(array, np.ndarray) and array.dtype == np.float32 and np.max(solution.residuals) > tolerance:
        return _fit_array(array.astype(np.float64), top, tolerance, within)  # beyond float32; the host has more
    return mean, solution, groups


def fit(
    source: Chunks, top: int | None, tolerance: float, on_host: bool, within: ArrayLike | None = None
) -> tuple[Any, Solution, int, int]:
    """The mean, all resolved eigenpairs, the number of rows and the degrees of freedom."""
    if source.whole is not None:
        n, d = source.whole.shape
        mean, solution, groups = _fit_array(place(source.whole, top, on_host), top, tolerance, within)
    else:
        first = moments(source)
        n, d, mean, rows, groups = int(first.count), first.mean.total.shape[0], first.mean.value, source, 1
        if within is not None:
            rows, groups = about_group_means(source, within, "within")
        check_top(top, n - groups, d)
        solution = solve_chunks(rows, degrees=n - groups, top=top, tolerance=tolerance, on_host=on_host)
    found = resolved(solution, min(n, d))
    if found == 0 or (is_concrete(solution.total_variance) and not solution.total_variance > 0):
        raise ValueError(f"{source.name} does not vary: all {n} rows are the same{' in each context' * (groups > 1)}")
    if found is not None:
        solution = leading_pairs(solution, found)
    return mean, solution, n, n - groups


def eigenmodes(
    x: Source,
    *,
    top: int | None = None,
    within: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
    path: str = "auto",
    space: str = "",
) -> Modes:
    """Mean, total variance and the leading eigenmodes of a law, from an array or from chunks of any number of rows.

    An array is solved through its n x n or d x d Gram matrix, the smaller, so that nothing is larger than the rows.
    Chunks are read once for the moments and six times for each cycle of block Lanczos; d x d is formed only where all
    modes are asked for or d is below about 7 `top`. Restarts end at `tolerance`; with the default, alpha of 100 modes
    of a spectrum k^-1.1 is right to 2e-3.

    Args:
      x: rows (n, d), or a callable that returns a fresh iterable of such arrays on every call.
      top: how many modes; None for all that the rows carry, at most min(n - 1, d).
      within: the context of every row, (n,): the covariance is then pooled within contexts, E Cov(Z | C) of
        THEORY.md, B7, with n less the number of contexts as degrees of freedom.
      tolerance: of the residuals, see `Modes`.
      path: "host" for the host's LAPACK (float64 for all modes), "device" for XLA (in the rows' precision), or "auto":
        the host on the CPU unless the rows are traced or sharded.
      space: the rows' space (model, hook point, pooling, width); that of `x.space` where it has one.

    Returns:
      `Modes`; fewer than `top` where the rows are of lower rank.

    Raises:
      ValueError: for rows that are not finite, do not vary or carry fewer than `top` modes, contexts that do not fit,
        or a tolerance that is not positive.
    """
    check_tolerance(tolerance)
    space = space_of(x, space, "x")
    source = chunks(x)
    mean, solution, n, degrees = fit(source, top, tolerance, runs_on_host(path, source), within)
    xp = namespace(solution.eigenvalues)
    variance = xp.maximum(solution.fourth - xp.square(solution.eigenvalues), 0)
    return Modes(
        mean=jnp.asarray(mean),
        eigenvalues=jnp.asarray(solution.eigenvalues),
        standard_error=jnp.asarray(xp.sqrt(variance / n)),
        directions=jnp.asarray(solution.directions),
        total_variance=jnp.asarray(solution.total_variance),
        residuals=jnp.asarray(solution.residuals),
        converged=jnp.asarray(xp.max(solution.residuals) <= tolerance),
        n=n,
        degrees=degrees,
        asked=top,
        space=space,
    )
