"""The decoder's own alignment: what it would cost to remove a mode, by the Fisher pullback (THEORY.md, B7)."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from gmijax._checks import check_level, is_concrete
from gmijax.modes._checks import check_directions
from gmijax.modes._eigenmodes import Modes
from gmijax.modes._results import positive_estimate
from gmijax.modes._within import about_group_means
from gmijax.stats import Interval, chunks, influence_standard_error


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Kappa:
    """The decoder's alignment of every mode, nats.

    Attributes:
      value: lambda_k u_k' F u_k / 2, (k,): about what removing the mode costs a matched decoder at s = 1.
      standard_error: of `value`.
      interval: multiplicative, at `level`; [0, 0] where the decoder is blind.
      fisher: u_k' F u_k, the mean over rows, (k,).
      eigenvalues: lambda_k, (k,).
      together: E[(u_k' F u_k) (u_k' (Z - E Z))^2] / 2 over rows with both, (k,), which does not take F and Z as
        uncorrelated; None without coordinates.
      n: rows of the quadratic forms.
      level: coverage of `interval`.
      assumed: what must hold.
    """

    value: jax.Array
    standard_error: jax.Array
    interval: Interval
    fisher: jax.Array
    eigenvalues: jax.Array
    together: jax.Array | None
    n: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})
    assumed: tuple[str, ...] = field(metadata={"static": True})


def squared_coordinates(x: ArrayLike, directions: Any, *, within: ArrayLike | None = None) -> Float[Array, "n k"]:
    """Squared coordinates of rows along directions, about the mean or their context's mean; jits without contexts.

    Scaled by n over the degrees of freedom, so that their mean is the unbiased variance. `kappa` takes them in place of
    eigenvalues, which leaves the eigenvalues' in-sample bias behind if the rows did not choose the directions.

    Args:
      x: rows (n, d), such as soft tokens.
      directions: orthonormal rows (k, d), or an object that carries them (`Modes`, `Alignment`, `Subspace`).
      within: the context of every row, (n,).

    Returns:
      Shape (n, k).

    Raises:
      ValueError: for rows or contexts that do not fit, or directions that are not orthonormal.
    """
    rows = jnp.asarray(chunks(x).whole)
    along = check_directions(directions, rows.shape[1])
    n, groups = rows.shape[0], 1
    if within is None:
        rows = rows - jnp.mean(rows, axis=0)[None, :]
    else:
        centred, groups = about_group_means(chunks(rows), within, "within")
        rows = jnp.asarray(centred.whole)
    if n <= groups:
        raise ValueError(f"x has {n} rows about {groups} means: nothing varies; some context needs two rows")
    with jax.default_matmul_precision("highest"):
        return jnp.square(rows @ along.T.astype(rows.dtype)) * (n / (n - groups))


@partial(jax.jit, static_argnames=("level", "paired"))
def _kappa(fisher: Array, eigenvalues: Array, error: Array, squares: Array | None, *, level: float, paired: bool):
    mean = jnp.mean(fisher, axis=0)
    safe = jnp.where(mean > 0, mean, 1)
    influence = fisher / safe
    positive = jnp.where(eigenvalues > 0, eigenvalues, 1)
    together = None
    if squares is None:
        relative = jnp.hypot(influence_standard_error(influence.T), error / positive)
    elif paired:
        relative = influence_standard_error((influence + squares / positive).T)
        together = jnp.mean(fisher * squares, axis=0) / 2
    else:
        relative = jnp.hypot(influence_standard_error(influence.T), influence_standard_error((squares / positive).T))
    return positive_estimate(eigenvalues * mean / 2, relative, level=level), mean, together


def kappa(
    eigenvalues: ArrayLike | Modes | None,
    fisher_quadratic: ArrayLike,
    *,
    squares: ArrayLike | None = None,
    paired: bool = True,
    level: float = 0.95,
) -> Kappa:
    """kappa_k = lambda_k u_k' F u_k / 2, the decoder's own alignment of every mode (THEORY.md, B7).

    The local cost, in nats, of removing the mode from what a matched decoder reads at s = 1; under mismatch B6's
    first-order term comes on top. lambda_k must be the variance within contexts, E Cov(Z | C): take
    `eigenmodes(z, within=contexts)`, or `squares=squared_coordinates(z, directions, within=contexts)`.

    Args:
      eigenvalues: variances along the modes: `Modes`, whose standard errors then count, or an array (k,) that is taken
        as known. None if `squares` are given.
      fisher_quadratic: u_k' F(z_i, c_i) u_k of every row, (n, k), >= 0.
      squares: squared coordinates along the modes, (m, k), from `squared_coordinates`; their means are lambda_k.
      paired: whether row i of `squares` and of `fisher_quadratic` are of the same sample: m = n.
      level: coverage of the intervals.

    Returns:
      A `Kappa`.

    Raises:
      ValueError: for shapes that do not fit, fewer than two rows, values that are negative or not finite, or both or
        neither of `eigenvalues` and `squares`.
    """
    check_level(level)
    if (eigenvalues is None) == (squares is None):
        raise ValueError("give either eigenvalues or squares: both would be two values of one variance")
    fisher = _check_forms(fisher_quadratic, "fisher_quadratic")
    n, k = fisher.shape
    assumed = ["a matched decoder at s = 1", "F and Z uncorrelated", "a small removal"]
    error = jnp.zeros((k,), fisher.dtype)
    table = None
    if squares is not None:
        table = _check_forms(squares, "squares")
        if table.shape[1] != k:
            raise ValueError(f"squares have {table.shape[1]} modes and fisher_quadratic {k}")
        if paired and table.shape[0] != n:
            raise ValueError(f"squares have {table.shape[0]} rows and fisher_quadratic {n}; or say paired=False")
        variances = jnp.mean(table, axis=0)
    elif isinstance(eigenvalues, Modes):
        variances, error = eigenvalues.eigenvalues, eigenvalues.standard_error
        assumed.append("rows of F and Z independent of one another")
    else:
        variances = jnp.asarray(eigenvalues, fisher.dtype)
        assumed.append("eigenvalues known")
    if variances.shape != (k,):
        raise ValueError(f"eigenvalues must have one value a mode, shape ({k},), got {variances.shape}")
    if is_concrete(variances) and not bool(jnp.all(jnp.isfinite(variances) & (variances >= 0))):
        raise ValueError("eigenvalues must be finite and >= 0")
    estimate, mean, together = _kappa(fisher, variances, error, table, level=level, paired=paired)
    return Kappa(
        value=estimate.value,
        standard_error=estimate.standard_error,
        interval=estimate.interval,
        fisher=mean,
        eigenvalues=variances,
        together=together,
        n=n,
        level=level,
        assumed=tuple(assumed),
    )


def _check_forms(forms: ArrayLike, name: str) -> Array:
    """Finite non-negative numbers (n, k), at least two rows."""
    array = jnp.asarray(forms)
    if not jnp.issubdtype(array.dtype, jnp.floating) or jnp.finfo(array.dtype).bits < 32:
        array = array.astype(jnp.float32)
    if array.ndim != 2 or array.shape[0] < 2 or not array.size:
        raise ValueError(f"{name} must have shape (n, k) with n >= 2, got {array.shape}")
    if is_concrete(array):
        values = np.asarray(array)
        if not np.isfinite(values).all():
            raise ValueError(f"{name} holds NaN or infinite values; drop these rows")
        # Rounding may leave a form of a blind decoder a little below 0.
        if values.min() < -1e-6 * max(values.max(), 1e-30):
            raise ValueError(f"{name} must be >= 0, got {values.min():.3g}: a quadratic form of a Fisher matrix is")
    return array
