"""What every estimator of a rate returns."""

import math
from dataclasses import dataclass, field

import jax
from jax.core import Tracer
from jax.scipy.special import ndtr

from gmijax.stats import Interval, influence_standard_error, normal_interval


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SampledAlternatives:
    """How well the sampled alternatives stand for their law (THEORY.md, section 5). Scalars, nats.

    Attributes:
      exclude: estimate with the positive left out of its alternatives: biased up, uncapped.
      include: estimate with the positive among them: never above I in expectation, capped at log(K + 1).
      jackknife: the first with its O(1/K) bias removed.
      ess: median over rows of the effective number of alternatives, 1 / sum p^2.
      margin: mean over rows of the positive's score less the best alternative's.
      log_alternatives: log(K + 1) of the smallest context, the cap of `include`.
      hub: largest mean weight of one column over its uniform share (rho); far above 1 marks a hub representation.
    """

    exclude: jax.Array
    include: jax.Array
    jackknife: jax.Array
    ess: jax.Array
    margin: jax.Array
    log_alternatives: jax.Array
    hub: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rate:
    """An estimated rate in nats, with what is needed to trust it or not.

    Attributes:
      value: the estimate. A cross-fitted one may fall below 0; the rate itself does not.
      standard_error: of `value`.
      interval: confidence interval of `value` at `level`.
      scale: the maximising scale s* of the whole sample (inf where the supremum is only approached).
      fold_scales: the two scales that a cross-fitted `value` used, each fitted on the other fold; (2,).
      in_sample: the same estimator at `scale`, fitted and evaluated on the same rows.
      at_one: the same estimator at s = 1, the decoder as it speaks; may be negative.
      zero_test: g = E l - E l' of THEORY.md, F2; the rate is positive if and only if g is.
      p_value: one-sided, of g <= 0, by the normal approximation of the permutation distribution (`zero_test` gives
        the permutation test itself).
      saturated: too few alternatives for this much information; `value` is then the lower bound `include`.
      converged: whether the scale was found.
      influence: each resampling unit's influence, (units,); their mean is `value` less its limit to first order.
      alternatives: diagnostics of sampled alternatives, or None where their law is known.
      biases: the LM rate's fitted bias of each label, counted from its log prior, (K,); None for a GMI.
      n: number of rows.
      level: coverage of `interval`.
      method: the estimator's name.
    """

    value: jax.Array
    standard_error: jax.Array
    interval: Interval
    scale: jax.Array
    fold_scales: jax.Array
    in_sample: jax.Array
    at_one: jax.Array
    zero_test: jax.Array
    p_value: jax.Array
    saturated: jax.Array
    converged: jax.Array
    influence: jax.Array = field(repr=False)
    alternatives: SampledAlternatives | None
    biases: jax.Array | None
    n: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})
    method: str = field(metadata={"static": True})

    def __str__(self) -> str:
        if self.value.ndim or isinstance(self.value, Tracer):
            return repr(self)
        trust = "reliable" if self.reliable else "saturated: a lower bound" if self.saturated else "not converged"
        return (
            f"{self.method}: {self.value:.4g} nats [{self.interval.lower:.4g}, {self.interval.upper:.4g}] "
            f"at {self.level:.0%}, s* = {self.scale:.3g}, n = {self.n}, {trust}"
        )

    @property
    def bits(self) -> jax.Array:
        """`value` in bits."""
        return self.value / math.log(2)

    @property
    def reliable(self) -> jax.Array:
        """Whether `value` estimates the rate rather than bounding it from below, at a scale that was found."""
        return self.converged & ~self.saturated


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Difference:
    """A paired difference of two rates, nats."""

    value: jax.Array
    standard_error: jax.Array
    interval: Interval


def difference(after: Rate, before: Rate, *, level: float = 0.95) -> Difference:
    """The change between two rates of the same rows, with the interval of paired influence functions.

    Two separate intervals ignore that the rows are shared (THEORY.md, section 5).

    Args:
      after: a rate, say under the modal law.
      before: a rate of the same resampling units in the same order, say under the text law.
      level: the coverage asked for.

    Returns:
      `after - before` in nats.

    Raises:
      ValueError: if the two have different numbers of resampling units.
    """
    if after.influence.shape != before.influence.shape:
        raise ValueError(
            f"after has {after.influence.shape[-1]} resampling units and before {before.influence.shape[-1]}: "
            "a paired difference needs the same rows in the same order"
        )
    value = after.value - before.value
    standard_error = influence_standard_error(after.influence - before.influence)
    return Difference(value, standard_error, normal_interval(value, standard_error, level=level))


def normal_p_value(z: jax.Array) -> jax.Array:
    """P(N(0, 1) > z)."""
    return ndtr(-z)
