"""Lipschitz constants that are theorems: linear scores and softmax probes in closed form. Host, float64."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.distance import cdist

from gmijax.sensitivity._constants import LipschitzConstant

ROUNDING = "float64 rounding is accounted for upwards; that of the decoder's own arithmetic is not"


@dataclass(frozen=True, eq=False)
class CertifiedConstant(LipschitzConstant):
    """A Lipschitz constant that holds at every point of the domain that `assumptions` names.

    Attributes:
      by_label: the constant of each label's score, shape (labels,); `value` is the largest.
      by_token: for weights (labels, tokens, width), the constant in one token of the block, the others held, shape
        (labels, tokens); None where there are no tokens. `value` is never above the root of their squares' sum.
    """

    by_label: np.ndarray | None = None
    by_token: np.ndarray | None = None


def certified_constant(
    by_label: np.ndarray, by_token: np.ndarray | None, space: str, *assumptions: str
) -> CertifiedConstant:
    """The largest of the labels' constants, with the labels' own."""
    value, said = float(by_label.max()), (*assumptions, ROUNDING)
    return CertifiedConstant(value, "certified", space, said, by_label, by_token)


def check_weight(weight: ArrayLike, name: str = "weight") -> np.ndarray:
    """A finite array with labels along its first axis, float64."""
    array = np.asarray(weight, np.float64)
    if array.ndim < 2 or not array.size:
        raise ValueError(f"{name} must have shape (labels, ...), a label a row, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinite values: no slope bounds them")
    return array


def norm_margin(terms: int) -> float:
    """What a Euclidean norm of so many rounded differences is multiplied by, so that it is not below the true one."""
    return 1 + (terms + 4) * np.finfo(np.float64).eps


def _by_token(weight: np.ndarray, of_a_token) -> np.ndarray | None:
    """What a function of (labels, width) gives at every token of a weight (labels, tokens, width)."""
    if weight.ndim != 3:
        return None
    return np.stack([of_a_token(weight[:, k]) for k in range(weight.shape[1])], axis=1)


def certified_linear(weight: ArrayLike, *, space: str) -> CertifiedConstant:
    """The Lipschitz constant of linear scores l_y(z) = <w_y, z> + b_y: the norm of w_y, everywhere and exactly.

    Args:
      weight: shape (labels, *block), a label a row; one score is weight[None].
      space: the name of the representations' space.

    Returns:
      The constant of each label and the largest, nats a unit of z.

    Raises:
      ValueError: for a weight without rows or not finite.
    """
    array = check_weight(weight)

    def norms(rows):
        return np.linalg.norm(rows.reshape(len(rows), -1), axis=1) * norm_margin(rows[0].size)

    domain = "l_y(z) = <w_y, z> + b_y, for all z"
    return certified_constant(norms(array), _by_token(array, norms), space, domain)


def certified_softmax(weight: ArrayLike, *, space: str, labels: ArrayLike | None = None) -> CertifiedConstant:
    """The Lipschitz constant of a softmax probe's log-probabilities l_y(z) = (W z + b)_y - logsumexp(W z + b).

    The gradient w_y - sum_k p_k w_k is convex in p, so its norm is at most max_k |w_y - w_k|. That is the supremum over
    all z, not only a bound: a farthest w_k is a corner of the rows' convex hull, and z far enough along a direction
    that exposes the corner puts all of p on k. On a bounded set the constant may be smaller. Biases do not enter; a
    temperature T divides the constant by T.

    Args:
      weight: shape (labels, *block), such as a probe's coefficients, a label a row.
      space: the name of the representations' space.
      labels: the rows whose constants are wanted, shape (m,); all by default. With K labels of d weights the cost is
        m K d.

    Returns:
      The constant of each of these labels and the largest, nats a unit of z.

    Raises:
      ValueError: for a weight of fewer than two rows or not finite, or labels outside it.
    """
    array = check_weight(weight)
    count = len(array)
    if count < 2:
        raise ValueError("weight has 1 row: a softmax over one label is constant; give at least two")
    chosen = np.arange(count) if labels is None else np.asarray(labels)
    if chosen.ndim != 1 or not chosen.size or not np.issubdtype(chosen.dtype, np.integer):
        raise ValueError(f"labels must be row numbers, shape (m,), got shape {chosen.shape} and type {chosen.dtype}")
    if chosen.min() < 0 or chosen.max() >= count:
        raise ValueError(f"labels must lie in 0 to {count - 1}, the rows of weight, got {chosen.min()}, {chosen.max()}")

    def farthest(rows):
        flat = rows.reshape(count, -1)
        return cdist(flat[chosen], flat).max(axis=1) * norm_margin(flat.shape[1])

    domain = "l_y(z) = (W z + b)_y - logsumexp(W z + b), for all z"
    return certified_constant(farthest(array), _by_token(array, farthest), space, domain)
