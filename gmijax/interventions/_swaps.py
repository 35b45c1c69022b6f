"""What a swap does to the next token: KL divergence for each unit of squared displacement."""

from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import check_level, is_concrete
from gmijax.rates._checks import check_index
from gmijax.stats import Interval, influence_standard_error, normal_interval


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SwapEffect:
    """How far a displacement of the states moves the next-token law.

    Attributes:
      value: mean KL over mean squared displacement, nats a squared unit of the states.
      standard_error: of `value`, over samples.
      interval: of `value`, on the scale of its logarithm.
      divergences: KL(before || after) of each sample, shape (n,), nats.
      squared_displacements: as given, shape (n,).
      loss_changes: change of the cross-entropy of each sample's target token, shape (n,); None without targets.
      loss_change: their mean; likewise.
      loss_interval: of `loss_change`; likewise.
      n: number of samples.
      level: coverage of the intervals.
    """

    value: jax.Array
    standard_error: jax.Array
    interval: Interval
    divergences: jax.Array
    squared_displacements: jax.Array
    loss_changes: jax.Array | None
    loss_change: jax.Array | None
    loss_interval: Interval | None
    n: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})


@partial(jax.jit, static_argnames="level")
def _swap_effect(before: Array, after: Array, displacement: Array, targets: Array | None, *, level: float):
    log_before, log_after = (jax.nn.log_softmax(logits, axis=-1) for logits in (before, after))
    # Each term of sum p (log p - log q) - sum p + sum q is >= 0, so that rounding cannot make a small KL negative.
    gap = log_after - log_before
    divergences = jnp.sum(jnp.exp(log_before) * (jnp.expm1(gap) - gap), axis=-1)
    mean = jnp.mean(displacement)
    value = jnp.mean(divergences) / mean
    standard_error = influence_standard_error((divergences - value * displacement) / mean)
    # On the scale of the logarithm: divergences are skewed, and their mean is not negative.
    relative = jnp.where(value > 0, standard_error / jnp.where(value > 0, value, 1), 0)
    factors = normal_interval(jnp.zeros_like(value), relative, level=level)
    interval = Interval(*(value * jnp.exp(end) for end in factors))
    loss_changes = loss_change = loss_interval = None
    if targets is not None:
        loss_changes = -jnp.take_along_axis(gap, targets[:, None], axis=-1)[:, 0]
        loss_change = jnp.mean(loss_changes)
        loss_interval = normal_interval(loss_change, influence_standard_error(loss_changes), level=level)
    return SwapEffect(
        value, standard_error, interval, divergences, displacement, loss_changes, loss_change, loss_interval,
        before.shape[0], level,
    )  # fmt: skip


def swap_effect(
    logits_before: ArrayLike,
    logits_after: ArrayLike,
    squared_displacements: ArrayLike,
    *,
    targets: ArrayLike | None = None,
    level: float = 0.95,
) -> SwapEffect:
    """KL of the next-token law for each unit of squared displacement, and the change of cross-entropy.

    A swap inside modality-specific modes moves the states further than one inside text-aligned modes, so that their
    KL alone compares distances, not sensitivities. For small displacements KL is half the Fisher quadratic form, and
    the ratio is half the decoder's mean curvature along the swap.

    Args:
      logits_before: next-token logits (or log-probabilities), shape (n, vocabulary), n >= 2.
      logits_after: likewise, after the swap (`swap_means`).
      squared_displacements: squared Euclidean length of each sample's change of states, shape (n,).
      targets: each sample's next token, integers of shape (n,), for the change of its cross-entropy.
      level: coverage of the intervals.

    Returns:
      A `SwapEffect`: a ratio of means, since a mean of ratios is ruled by samples that hardly moved.

    Raises:
      ValueError: for logits that do not fit or are not finite, displacements that are negative or all 0, or a target
        outside the vocabulary.
    """
    check_level(level)
    before, after = (jnp.asarray(logits) for logits in (logits_before, logits_after))
    dtype = jnp.promote_types(jnp.result_type(before, after), jnp.float32)
    before, after = before.astype(dtype), after.astype(dtype)
    if before.ndim != 2 or before.shape != after.shape or len(before) < 2:
        raise ValueError(
            f"logits_before and logits_after must share a shape (n >= 2, vocabulary), got {before.shape} and "
            f"{after.shape}"
        )
    moved = jnp.asarray(squared_displacements, dtype)
    if moved.shape != (len(before),):
        raise ValueError(f"squared_displacements must have shape ({len(before)},), one a sample, got {moved.shape}")
    for name, array in (("logits_before", before), ("logits_after", after), ("squared_displacements", moved)):
        if is_concrete(array) and not np.isfinite(np.asarray(array)).all():
            raise ValueError(f"{name} holds NaN or infinite values")
    if is_concrete(moved) and not ((np.asarray(moved) >= 0).all() and np.asarray(moved).any()):
        raise ValueError("squared_displacements must be >= 0 and not all 0: the swap moved nothing")
    index = None if targets is None else check_index(targets, len(before), before.shape[1], "targets", "tokens")
    return _swap_effect(before, after, moved, index, level=level)
