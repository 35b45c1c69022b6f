"""Position tables for another grid of patches."""

import math

import numpy as np

from gmijax.models._keys import Shape


class Resampled:
    """Resamples a stored square table of positions to the grid of the model, as timm does on loading.

    Args:
      before: how many rows before the grid's have a position of their own (1 for a class token); they are kept.
    """

    def __init__(self, before: int = 0):
        self.before = before

    def fits(self, stored: Shape, wanted: Shape) -> bool:
        """Whether both are square grids of one width."""
        rows = stored[-2] - self.before if len(stored) >= 2 else -1
        square = rows > 0 and math.isqrt(rows) ** 2 == rows
        return square and stored[-1:] == wanted[-1:] and set(stored[:-2]) <= {1}

    def __call__(self, tensor: np.ndarray, wanted: Shape) -> np.ndarray:
        """The table of `wanted`; the stored one itself where its grid is that."""
        table = tensor.reshape(tensor.shape[-2:])
        if table.shape == wanted:
            return table
        grid = resample_positions(table[self.before :], math.isqrt(wanted[0] - self.before))
        return np.concatenate([table[: self.before].astype(grid.dtype), grid])


def resample_positions(table: np.ndarray, size: int) -> np.ndarray:
    """Resamples a square grid: bicubic with a = -0.5, antialiased, half-pixel centres, in float32.

    This is torch's `interpolate(mode="bicubic", antialias=True, align_corners=False)`, with which timm resamples.

    Args:
      table: shape (g * g, width), row-major.
      size: edge of the new grid.

    Returns:
      Shape (size * size, width), float32.
    """
    edge, width = math.isqrt(len(table)), table.shape[1]
    weights = _cubic_weights(edge, size)
    grid = table.astype(np.float32).reshape(edge, edge, width)
    grid = np.einsum("ij,jkd->ikd", weights, grid)
    return np.einsum("lk,ikd->ild", weights, grid).reshape(size * size, width)


def _cubic_weights(before: int, after: int) -> np.ndarray:
    """Shape (after, before), float32; rows sum to one."""
    scale = before / after
    stretch = max(scale, 1.0)  # the kernel widens when the grid shrinks: that is the antialiasing
    centres = (np.arange(after) + 0.5) * scale
    distance = np.abs(np.arange(before) + 0.5 - centres[:, None]) / stretch
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
