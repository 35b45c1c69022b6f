"""Quadrature rules for the channels of continuous alphabets."""

import numpy as np

_ORDER = 16


def panels(edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Composite Gauss-Legendre rule with 16 nodes between neighbouring edges.

    Args:
      edges: in any order, repetitions allowed. Put one wherever the integrand has a kink or a jump.

    Returns:
      Nodes and weights, ascending.
    """
    edges = np.unique(np.asarray(edges, float))
    nodes, weights = np.polynomial.legendre.leggauss(_ORDER)
    half = np.diff(edges)[:, None] / 2
    middle = (edges[1:] + edges[:-1])[:, None] / 2
    return (middle + half * nodes).ravel(), (half * weights).ravel()


def uniform_edges(low: float, high: float, width: float, limit: int = 4096) -> np.ndarray:
    """Edges of equal panels over an interval, none wider than `width` unless more than `limit` would be needed."""
    count = int(np.clip(np.ceil((high - low) / width), 1, limit))
    return np.linspace(low, high, count + 1)


def trapezoid(low: float, high: float, step: float, limit: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Equidistant nodes and their weight, exponentially accurate for analytic integrands that vanish at both ends."""
    count = int(np.clip(np.ceil((high - low) / step), 2, limit))
    nodes, spacing = np.linspace(low, high, count + 1, retstep=True)
    return nodes, np.full(nodes.shape, spacing)
