"""The largest eigenpairs of a symmetric matrix that is only known by its products. Small algebra on the host."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array

EXTRA = 4  # directions beside those asked for: the last of a block converges slowest


class RitzPairs(NamedTuple):
    """Eigenpairs by Rayleigh and Ritz: columns of `vectors`, with |A v - value v| of each, largest value first."""

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    products: int


def largest_pairs(
    product: Callable[[np.ndarray], np.ndarray], size: int, count: int, *, tolerance: float, iterations: int, key: Array
) -> RitzPairs:
    """Block Lanczos with full orthogonalisation from a random block.

    Every residual bounds the distance to an eigenvalue. Musco and Musco (2015), arXiv:1504.05477.

    Args:
      product: maps (size, m) to the matrix times it.
      size: of the matrix.
      count: how many pairs.
      tolerance: stops where every residual is below this share of the largest value.
      iterations: most products of a block.
      key: a PRNG key.

    Returns:
      The pairs; fewer iterations leave larger residuals.
    """
    block = min(count + EXTRA, size)
    fresh = _orthonormal(np.asarray(jax.random.normal(key, (size, block)), np.float64))
    basis, images = np.empty((size, 0)), np.empty((size, 0))
    pairs = None
    for step in range(iterations):
        image = np.asarray(product(fresh), np.float64)
        basis, images = np.hstack([basis, fresh]), np.hstack([images, image])
        small = basis.T @ images
        values, rotation = np.linalg.eigh((small + small.T) / 2)
        values, rotation = values[::-1][:count], rotation[:, ::-1][:, :count]
        vectors = basis @ rotation
        residuals = np.linalg.norm(images @ rotation - vectors * values, axis=0)
        pairs = RitzPairs(values, vectors, residuals, step + 1)
        if (residuals <= tolerance * values[0]).all():
            break
        fresh = _orthonormal(image, basis)
        if not fresh.shape[1]:
            break
    assert pairs is not None
    return pairs


def _orthonormal(columns: np.ndarray, against: np.ndarray | None = None) -> np.ndarray:
    """An orthonormal basis of what columns add to an orthonormal basis, without what is rounding."""
    scale = np.linalg.norm(columns, axis=0).max(initial=0)
    for _ in range(2):  # once leaves what cancellation made of it
        if against is not None:
            columns = columns - against @ (against.T @ columns)
        left, singular, _ = np.linalg.svd(columns, full_matrices=False)
        columns = left[:, singular > 1e-7 * scale]
        scale = 1.0
    return columns
