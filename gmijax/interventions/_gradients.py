"""Gradients along modes: which of them a decoder's score reacts to."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import check_level, is_concrete
from gmijax.interventions._checks import check_states, check_subspace
from gmijax.stats import (
    Interval,
    RankCorrelation,
    exponential_weights,
    influence_standard_error,
    normal_interval,
    rank_correlation,
)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class GradientProjection:
    """How strongly the score reacts along each mode.

    Attributes:
      magnitudes: mean |gradient . u_k| over samples and their positions, shape (K,), nats a unit of the states.
      standard_errors: of each, over samples, shape (K,).
      ratio: mean magnitude of the text-aligned modes over that of the modality-specific ones.
      interval: of `ratio`, over samples, on the scale of its logarithm.
      correlation: Spearman's, of the magnitudes with alpha; its interval is over samples, the modes and alpha fixed.
      text_aligned: which modes have alpha >= threshold, shape (K,).
      n: number of samples.
      threshold: of alpha.
      level: coverage of both intervals.
    """

    magnitudes: jax.Array
    standard_errors: jax.Array
    ratio: jax.Array
    interval: Interval
    correlation: RankCorrelation
    text_aligned: jax.Array
    n: int = field(metadata={"static": True})
    threshold: float = field(metadata={"static": True})
    level: float = field(metadata={"static": True})


@jax.jit
def _magnitudes(gradients: Array, directions: Array, mask: Array | None) -> Array:
    """Each sample's mean |g . u_k| over its positions, shape (n, K)."""
    dtype = directions.dtype
    along = jnp.abs(jnp.matmul(gradients.astype(dtype), directions.T, precision=lax.Precision.HIGHEST))
    inner = tuple(range(1, gradients.ndim - 1))
    if mask is None:
        return jnp.mean(along, axis=inner)
    counted = mask[..., None]
    total = jnp.sum(jnp.where(counted, along, 0), axis=inner)
    return total / jnp.sum(counted, axis=inner)


@partial(jax.jit, static_argnames=("level", "draws"))
def _compare(magnitudes: Array, text_aligned: Array, *, level: float, draws: int, key: Array):
    """Means, their errors, the ratio with its interval, and Bayesian bootstrap replicates of the means."""
    n = magnitudes.shape[0]
    means = jnp.mean(magnitudes, axis=0)
    groups = jnp.stack([text_aligned, ~text_aligned]).astype(magnitudes.dtype)
    by_group = magnitudes @ (groups / jnp.sum(groups, axis=1, keepdims=True)).T  # (n, 2)
    aligned, specific = jnp.mean(by_group, axis=0)
    influence = by_group[:, 0] / aligned - by_group[:, 1] / specific  # of the ratio's logarithm
    log_ratio = jnp.log(aligned / specific)
    around = normal_interval(log_ratio, influence_standard_error(influence), level=level)
    weights = exponential_weights(draws, n, dtype=magnitudes.dtype, key=key)
    replicates = (weights / jnp.sum(weights, axis=1, keepdims=True)) @ magnitudes
    interval = Interval(*map(jnp.exp, around))
    return means, influence_standard_error(magnitudes.T), aligned / specific, interval, replicates


def gradient_projection(
    gradients: ArrayLike,
    directions: ArrayLike,
    alpha: ArrayLike,
    *,
    threshold: float = 0.5,
    mask: ArrayLike | None = None,
    level: float = 0.95,
    draws: int = 999,
    key: Array,
) -> GradientProjection:
    """Mean absolute gradient along each mode, beside the mode's text alignment (arXiv:2602.23136, section 5.5).

    A decoder that ignored modality-specific modes would have a large ratio and a strong rank correlation. The
    magnitude does not say what removing a mode costs: that also takes the mode's variance (B7 in THEORY.md, section 4:
    kappa).

    Args:
      gradients: of each sample's score in its states, shape (n, ..., width), n >= 2; such as (n, tokens, width).
      directions: modes, orthonormal rows, shape (K, width), K >= 4.
      alpha: text alignment of each mode, shape (K,).
      threshold: modes of alpha below it are modality-specific, the others text-aligned.
      mask: true at the positions that count, shape (n, ...); every sample needs one. All where None.
      level: coverage of the intervals.
      draws: bootstrap replicates of the magnitudes, and permutations behind the correlation's p-value.
      key: a PRNG key.

    Returns:
      A `GradientProjection`.

    Raises:
      ValueError: for directions that are not orthonormal or of another width, alpha that does not fit, a threshold that
        leaves either group without a mode, gradients that are zero along all modes of one, one sample, or a sample
        whose mask matches no position.
    """
    check_level(level)
    array, counted = check_states(gradients, mask)
    if array.ndim < 2 or len(array) < 2:
        raise ValueError(f"gradients must be (n, ..., width) with n >= 2, got {array.shape}")
    if counted is not None and is_concrete(counted):
        empty = ~np.asarray(counted).reshape(len(array), -1).any(1)
        if empty.any():
            raise ValueError(f"mask matches no position of sample {int(empty.argmax())}")
    rows = check_subspace(directions, array.shape[-1], "directions")
    values = jnp.asarray(alpha, rows.dtype)
    if values.shape != (len(rows),):
        raise ValueError(f"alpha must have shape ({len(rows)},), one a direction, got {values.shape}")
    text_aligned = values >= threshold
    if is_concrete(values):
        known = np.asarray(values)
        if not np.isfinite(known).all():
            raise ValueError("alpha holds NaN or infinite values")
        if (known >= threshold).all() or (known < threshold).all():
            raise ValueError(
                f"threshold = {threshold} leaves one group without a mode: alpha runs from {known.min():.3g} to "
                f"{known.max():.3g}"
            )
    magnitudes = _magnitudes(array, rows, counted)
    key_weights, key_order = jax.random.split(key)
    means, errors, ratio, interval, replicates = _compare(
        magnitudes, text_aligned, level=level, draws=draws, key=key_weights
    )
    if is_concrete(ratio) and not 0 < float(ratio) < np.inf:
        raise ValueError("the gradients are zero along all modes of one group: their ratio is not defined")
    correlation = rank_correlation(values, means, replicates=replicates, level=level, draws=draws, key=key_order)
    return GradientProjection(
        means, errors, ratio, interval, correlation, text_aligned, len(array), threshold, level
    )  # fmt: skip
