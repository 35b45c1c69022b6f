"""Leading eigenpairs of a symmetric operator by restarted block Lanczos, rows as vectors; numpy or jax.numpy."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy import linalg

POWER = 5  # applications of the operator beyond the first, in one cycle
CYCLES = 8  # restarts end here, or where the residuals stop falling
WORTHWHILE = 0.5  # a cycle that leaves more than this share of the residual is the last


class Ritz(NamedTuple):
    """Approximate eigenpairs, largest first."""

    values: Any  # (b,)
    vectors: Any  # (b, dim), orthonormal rows
    residuals: Any  # (b,), |A u - value u|


def block_size(top: int) -> int:
    """Vectors of one block: some more than are asked for, so that the last ones converge too."""
    return top + max(16, top // 8)


def basis_size(top: int) -> int:
    """Vectors that one cycle holds; an operator that is no larger is solved whole."""
    return (POWER + 1) * block_size(top)


def start_block(top: int, width: int, dtype, xp: Any) -> Any:
    """A Gaussian block, always the same one: it decides nothing once the residuals are small."""
    shape = (block_size(top), width)
    if xp is np:
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return jax.random.normal(jax.random.key(0), shape, dtype)


def thin_qr(columns: Any, xp: Any) -> tuple[Any, Any]:
    """Orthonormal columns and the triangle; in the columns' own precision (numpy's computes float32 in float64)."""
    if xp is np:
        result: Any = linalg.qr(columns, mode="economic", check_finite=False)
        return result
    return jnp.linalg.qr(columns)


def _orthonormal(rows: Any, basis: Any, xp: Any) -> Any:
    """Orthonormal rows that span what the given ones add to the basis."""
    for _ in range(2):  # once is not enough in floating point, and twice is
        if basis is not None:
            rows = rows - (rows @ basis.T) @ basis
        rows = thin_qr(rows.T, xp)[0].T
    return rows


def _cycle(apply: Callable[[Any], Any], start: Any, xp: Any) -> Ritz:
    """Rayleigh and Ritz on the Krylov space of one start block."""
    basis = newest = _orthonormal(start, None, xp)
    images = apply(newest)
    newest_image = images
    for _ in range(POWER):
        newest = _orthonormal(newest_image, basis, xp)
        newest_image = apply(newest)
        basis, images = xp.concatenate([basis, newest]), xp.concatenate([images, newest_image])
    projected = basis @ images.T
    values, mixing = xp.linalg.eigh((projected + projected.T) / 2)
    keep = mixing[:, ::-1][:, : start.shape[0]].T
    values, vectors = values[::-1][: start.shape[0]], keep @ basis
    return Ritz(values, vectors, xp.linalg.norm(keep @ images - values[:, None] * vectors, axis=1))


def null_floor(largest: Any, width: int, dtype) -> Any:
    """Eigenvalues up to this are rounding's: 4 sqrt(dim) eps times the largest."""
    return 4 * float(np.sqrt(width) * np.finfo(dtype).eps) * largest


def relative_residual(ritz: Ritz, top: int, xp: Any) -> Any:
    """Residuals of the leading pairs over their own eigenvalues; those of null modes count as 0."""
    values, residuals = ritz.values[:top], ritz.residuals[:top]
    floor = null_floor(values[0], ritz.vectors.shape[1], values.dtype)
    return xp.where(values > floor, residuals / xp.where(values > floor, values, 1), 0)


def leading(apply: Callable[[Any], Any], start: Any, top: int, tolerance: float, xp: Any, *, traced: bool) -> Ritz:
    """Restarts the cycle from its Ritz vectors until the leading residuals are small or stop falling.

    Args:
      apply: the operator, rows (b, dim) to rows (b, dim).
      start: start block (b, dim).
      top: leading pairs that must converge.
      tolerance: of |A u - value u| / value.
      xp: numpy or jax.numpy.
      traced: whether the loop must be part of a program, instead of Python's.
    """

    def worst(ritz: Ritz) -> Any:
        return xp.max(relative_residual(ritz, top, xp))

    first = _cycle(apply, start, xp)
    if not traced:
        ritz, before = first, np.inf
        for _ in range(CYCLES - 1):
            now = float(worst(ritz))
            if now <= tolerance or now > WORTHWHILE * before:
                break
            ritz, before = _cycle(apply, ritz.vectors, xp), now
        return ritz

    def unfinished(state: tuple) -> Any:
        ritz, before, cycles = state
        now = worst(ritz)
        return (now > tolerance) & (now <= WORTHWHILE * before) & (cycles < CYCLES)

    def again(state: tuple) -> tuple:
        ritz, _, cycles = state
        return _cycle(apply, ritz.vectors, xp), worst(ritz), cycles + 1

    infinite = jnp.asarray(jnp.inf, first.values.dtype)
    return lax.while_loop(unfinished, again, (first, infinite, jnp.asarray(1)))[0]
