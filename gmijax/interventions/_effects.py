"""What an ablation returns, and paired contrasts between its conditions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gmijax import rates
from gmijax.stats import Interval, influence_standard_error, normal_interval, sign_flip_test


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class RateChange:
    """The change of I(s) by an edit, at one s, nats.

    Attributes:
      value: after less before.
      standard_error: of the paired difference.
      interval: at the ablation's level.
      saturated: whether either rate has too few alternatives; both are then the lower bound `include`, and their
        difference is no estimate of the change.
    """

    value: jax.Array
    standard_error: jax.Array
    interval: Interval
    saturated: jax.Array

    @property
    def reliable(self) -> jax.Array:
        """Whether `value` estimates the change."""
        return ~self.saturated


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Effect:
    """What one condition does, beside no edit. Nats; a loss that rises is positive.

    Attributes:
      value: mean change of the target's loss.
      standard_error: of `value`, from the paired changes.
      interval: of `value`, at the ablation's level.
      p_value: two-sided sign-flip test that the changes are symmetric about 0; not adjusted for several conditions.
      loss_changes: each sample's change of loss, shape (n,).
      relative: `value` over the mean loss without an edit.
      variance_removed: share of the states' total variance that is gone; negative where an edit adds variance.
      squared_displacement: mean squared length of the edit at a position.
      rate_inputs: change of I(s) over inputs; None for `target="prompt"`, as are the next three.
      rate_messages: change of I(s) over messages.
      first_order: B6's mismatch term of the change over inputs: 0 at a matched decoder and s = 1, positive where the
        edit helps by removing what the decoder misreads. With `second_order` it adds up to the change of the finite
        law of the sample, `include` in `rates`' words.
      second_order: the rest of that change, never positive.
    """

    value: jax.Array
    standard_error: jax.Array
    interval: Interval
    p_value: jax.Array
    loss_changes: jax.Array
    relative: jax.Array
    variance_removed: jax.Array
    squared_displacement: jax.Array
    rate_inputs: RateChange | None = None
    rate_messages: RateChange | None = None
    first_order: jax.Array | None = None
    second_order: jax.Array | None = None


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ablation:
    """Conditions and what each does.

    Attributes:
      effects: by condition, in the order given. `ablation[name]` is the same, with a clear error.
      losses: each sample's loss without an edit, shape (n,), nats (a token, for `target="prompt"`).
      rate_inputs: I(s) over inputs without an edit; None for `target="prompt"`.
      rate_messages: I(s) over messages without an edit; likewise.
      clusters: the resampling unit of each sample, 0, 1, ..., shape (n,); None where every sample is its own.
      n: number of samples.
      scale: s.
      target: "message" or "prompt".
      level: coverage of all intervals.
    """

    effects: dict[str, Effect]
    losses: jax.Array
    rate_inputs: rates.Rate | None = None
    rate_messages: rates.Rate | None = None
    clusters: jax.Array | None = None
    n: int = field(kw_only=True, metadata={"static": True})
    scale: float = field(kw_only=True, metadata={"static": True})
    target: str = field(kw_only=True, metadata={"static": True})
    level: float = field(kw_only=True, metadata={"static": True})

    def __getitem__(self, name: str) -> Effect:
        if name not in self.effects:
            raise KeyError(f"unknown condition {name!r}; there are {', '.join(map(repr, self.effects))}")
        return self.effects[name]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Contrast:
    """A paired difference of two conditions' changes of loss, nats.

    Attributes:
      value: mean change of the first less that of the second.
      standard_error: of `value`.
      interval: of `value`, at the ablation's level.
      p_value: two-sided sign-flip test.
      n: number of samples.
    """

    value: jax.Array
    standard_error: jax.Array
    interval: Interval
    p_value: jax.Array
    n: int = field(metadata={"static": True})


class Paired(NamedTuple):
    """Mean paired changes, shape (conditions,), with what is known of them."""

    value: Array
    standard_error: Array
    interval: Interval
    p_value: Array


def by_unit(contributions: Array, clusters: Array | None) -> Array:
    """Sums contributions (..., n) within resampling units 0, 1, ..., scaled so that their mean is what it was."""
    if clusters is None:
        return contributions
    units, n = int(np.max(np.asarray(clusters))) + 1, contributions.shape[-1]
    return jnp.zeros((*contributions.shape[:-1], units), contributions.dtype).at[..., clusters].add(contributions) * (
        units / n
    )


def paired_changes(changes: Array, clusters: Array | None, level: float, draws: int, key: Array) -> Paired:
    """The mean of paired changes (..., n) with its interval and sign-flip test, over the resampling units."""
    value = jnp.mean(changes, axis=-1)
    standard_error = influence_standard_error(by_unit(changes - value[..., None], clusters))
    test = sign_flip_test(by_unit(changes, clusters), draws=draws, key=key)
    return Paired(value, standard_error, normal_interval(value, standard_error, level=level), test.p_value)


def contrast(
    ablation: Ablation,
    first: str | Sequence[str],
    second: str | Sequence[str],
    *,
    draws: int = 9999,
    key: Array,
) -> Contrast:
    """The paired difference between two conditions, such as the modes in question and their matched controls.

    Args:
      ablation: of `ablate`.
      first: a condition, or several whose changes are averaged sample by sample.
      second: likewise.
      draws: sign patterns of the test.
      key: a PRNG key.

    Returns:
      A `Contrast`; its interval is over samples (or clusters), the drawn controls taken as they are.

    Raises:
      KeyError: for an unknown condition, naming those there are.
      ValueError: for an empty list of conditions.
    """
    sides = [[names] if isinstance(names, str) else list(names) for names in (first, second)]
    if not all(sides):
        raise ValueError("first and second must each name at least one condition")
    means = [jnp.mean(jnp.stack([ablation[name].loss_changes for name in names]), axis=0) for names in sides]
    paired = paired_changes(means[0] - means[1], ablation.clusters, ablation.level, draws, key)
    return Contrast(*paired, n=ablation.n)
