"""Eigenmodes of rows: through the smaller Gram matrix of an array, or through products with chunks."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from gmijax._checks import is_concrete
from gmijax.modes._krylov import basis_size, leading, null_floor, relative_residual, start_block, thin_qr
from gmijax.modes._paths import both_paths, namespace, same_rows, total
from gmijax.stats import Chunks, moments


class Solution(NamedTuple):
    """Leading eigenpairs of a covariance, largest first; numpy or JAX arrays."""

    eigenvalues: Any  # (k,)
    directions: Any  # (k, d), orthonormal rows
    residuals: Any  # (k,), |A v - value v| / value of the matrix that was solved
    fourth: Any  # (k,), mean fourth power of the rows' coordinates
    total_variance: Any  # ()


def _signed(directions: Any, xp: Any) -> Any:
    """The sign at which the component of largest size is positive."""
    largest = xp.take_along_axis(directions, xp.argmax(xp.abs(directions), axis=1)[:, None], axis=1)
    return directions * xp.where(largest < 0, -1, 1).astype(directions.dtype)


def _whole(matrix: Any, count: int, xp: Any) -> tuple[Any, Any, Any]:
    """All eigenpairs of a symmetric matrix; their residuals by what rounding allows."""
    values, vectors = xp.linalg.eigh(matrix)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count].T
    floor = null_floor(values[0], matrix.shape[0], values.dtype)
    residuals = xp.where(values > floor, floor / xp.where(values > floor, values, 1), 0)
    return values, vectors, residuals


def _pairs(matrix: Any, count: int, top: int | None, tolerance: float, xp: Any) -> tuple[Any, Any, Any]:
    width = matrix.shape[0]
    if top is None or basis_size(top) >= width:
        return _whole(matrix, count, xp)
    start = start_block(top, width, matrix.dtype, xp)
    ritz = leading(lambda rows: rows @ matrix, start, top, tolerance, xp, traced=xp is jnp)
    return ritz.values[:top], ritz.vectors[:top], relative_residual(ritz, top, xp)


@both_paths(static=("degrees", "top", "tolerance"))
def solve_array(centred: Any, *, degrees: int, top: int | None, tolerance: float) -> Solution:
    """Eigenmodes of centred rows through their Gram matrix, n x n or d x d: never larger than the rows themselves.

    All modes by a full eigendecomposition, the leading ones by block Lanczos.
    """
    xp = namespace(centred)
    n, d = centred.shape
    count = min(degrees, d) if top is None else top
    total_variance = xp.sum(xp.square(centred)) / degrees
    if n > d:
        values, directions, residuals = _pairs(centred.T @ centred, count, top, tolerance, xp)
        fourth = xp.mean(xp.square(xp.square(centred @ directions.T)), axis=0)
    else:
        values, vectors, residuals = _pairs(centred @ centred.T, count, top, tolerance, xp)
        positive = xp.where(values > 0, values, 1)
        directions = (vectors @ centred) / xp.sqrt(positive)[:, None]
        if top is not None and top < n:  # a short QR takes out what the division by a small root has left over
            orthonormal, triangle = thin_qr(directions.T, xp)
            directions = orthonormal.T * xp.where(xp.diagonal(triangle) < 0, -1, 1).astype(values.dtype)[:, None]
        fourth = xp.square(values) * xp.mean(xp.square(xp.square(vectors)), axis=1)
    return Solution(values / degrees, _signed(directions, xp), residuals, fourth, total_variance)


@jax.jit
def _product(rows: Any, mean: Any, block: Any) -> Any:
    """Rows' scatter about the mean, times a block of vectors as rows."""
    with jax.default_matmul_precision("highest"):
        centred = rows - mean[None, :]
        return lax.dot_general(block @ centred.T, centred, (((1,), (0,)), ((), ())))


@jax.jit
def _fourth_powers(rows: Any, mean: Any, directions: Any) -> Any:
    with jax.default_matmul_precision("highest"):
        return jnp.sum(((rows - mean[None, :]) @ directions.T) ** 4, axis=0)


@partial(jax.jit, static_argnames="count")
def _whole_covariance(covariance: Any, count: int) -> tuple[Any, Any, Any]:
    return _whole(covariance, count, jnp)


def solve_chunks(source: Chunks, *, degrees: int, top: int | None, tolerance: float, on_host: bool) -> Solution:
    """Eigenmodes of centred rows that come in chunks: one pass for d x d moments, or one for every product.

    d x d is formed where all modes are asked for, or where the basis of block Lanczos would be no smaller.
    """
    first = moments(source)
    count, width = int(first.count), first.mean.total.shape[0]
    mean, total_variance = first.mean.value, first.total_variance * (count - 1) / degrees
    if top is None or basis_size(top) >= width:
        covariance = moments(source, full=True).covariance * ((count - 1) / degrees)
        values, directions, residuals = _whole_covariance(covariance, min(degrees, width) if top is None else top)
    else:
        xp = np if on_host else jnp

        def apply(block: Any) -> Any:
            vectors = jnp.asarray(block)
            pieces = same_rows(map(jnp.asarray, source), count, source.name)
            product = total(_product(rows, mean, vectors) for rows in pieces) / degrees
            return np.asarray(product) if on_host else product

        start = start_block(top, width, mean.dtype, xp)
        ritz = leading(apply, start, top, tolerance, xp, traced=False)
        residuals = relative_residual(ritz, top, xp)
        values, directions = ritz.values[:top], ritz.vectors[:top]
    directions = _signed(jnp.asarray(directions), jnp)
    fourth = total(_fourth_powers(jnp.asarray(rows), mean, directions) for rows in source) / count
    return Solution(values, directions, residuals, fourth, total_variance)


def resolved(solution: Solution, width: int) -> int | None:
    """How many modes stand above rounding; None under a trace."""
    if not is_concrete(solution.eigenvalues):
        return None
    values = np.asarray(solution.eigenvalues)
    return int(np.sum(values > null_floor(values[0], width, values.dtype)))


def leading_pairs(solution: Solution, count: int) -> Solution:
    """The first ones only."""
    values, directions, residuals, fourth, total_variance = solution
    return Solution(values[:count], directions[:count], residuals[:count], fourth[:count], total_variance)
