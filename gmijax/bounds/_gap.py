"""B8: a certified lower limit of what a probe finds and the decoder cannot use."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from gmijax.stats import normal_interval


@runtime_checkable
class Estimate(Protocol):
    """An estimate with its uncertainty: a value and a standard error, nats."""

    @property
    def value(self) -> Any:
        """The estimate."""
        ...

    @property
    def standard_error(self) -> Any:
        """Its standard error."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CertifiedGap:
    """How much of an attribute is there and out of the decoder's reach, nats.

    Attributes:
      lower: lower confidence limit of I(Z; A) - LM: the probe's lower limit less the rate's upper limit. Positive
        only where the gap is shown; its kind says whether it holds.
      value: the difference of the estimates, itself biased down as an estimate of the gap: a probe misses some.
      information_lower: lower confidence limit of H(A) - held-out cross-entropy.
      rate_upper: upper confidence limit of the decoder's rate.
      level: the joint confidence of `lower`. By Bonferroni each limit is one-sided at (1 + level) / 2.
      kind: "bound", or "index" where an estimate could not be trusted.
      assumptions: what must hold.
      problems: why it is only an index; empty otherwise.
    """

    lower: Any
    value: Any
    information_lower: Any
    rate_upper: Any
    level: float = field(metadata={"static": True})
    kind: Literal["bound", "index"] = field(metadata={"static": True})
    assumptions: tuple[str, ...] = field(metadata={"static": True})
    problems: tuple[str, ...] = field(default=(), metadata={"static": True})

    @property
    def bits(self) -> Any:
        """`lower` in bits."""
        return self.lower / math.log(2)

    @property
    def one_sided_level(self) -> float:
        """The confidence of either limit."""
        return (1 + self.level) / 2


def certified_gap(information: Estimate, rate: Estimate, *, level: float = 0.95) -> CertifiedGap:
    """B8: I(Z; A | C) - LM(A) is at least [H(A) - the probe's held-out cross-entropy] - LM.

    A probe's rung bounds I(Z; A) from below on data it never saw, and the LM rate bounds what the decoder can use
    after any temperature and label bias, so that their confidence limits, each one-sided at (1 + level) / 2, certify
    the gap jointly at `level` (Bonferroni; the two may be dependent in any way). A larger of two values of the rate is
    taken where it has an `in_sample` one, which is biased up and so on the safe side.

    Args:
      information: H(A) - held-out cross-entropy of a probe whose layer and penalty were chosen on other data, nats.
      rate: the LM rate (or the GMI, for what it reaches without biases) of the same attribute, nats.
      level: joint confidence, in (0, 1).

    Returns:
      The limit and its parts. An index where the rate is saturated or not converged: its value is then a lower bound
      of the rate, the wrong side.

    Raises:
      ValueError: for values or standard errors that are not finite scalars, a negative standard error, or a level
        outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    information_value, information_error = _scalars(information, "information")
    rate_value, rate_error = _scalars(rate, "rate")
    rate_value = max(rate_value, float(getattr(rate, "in_sample", rate_value)))
    lower = _limits(information_value, information_error, level)[0]
    upper = max(_limits(rate_value, rate_error, level)[1], 0.0)
    problems = tuple(
        f"{name} is not reliable: its search did not converge, or it is saturated"
        for name, estimate in (("information", information), ("rate", rate))
        if not bool(getattr(estimate, "reliable", True))
    )
    assumptions = (
        "the probe never saw the rows it is scored on, and nothing of it was chosen on them",
        "both estimates are normal about what they estimate",
    )
    return CertifiedGap(
        lower - upper,
        information_value - rate_value,
        lower,
        upper,
        level,
        "index" if problems else "bound",
        assumptions,
        problems,
    )


def _limits(value: float, standard_error: float, level: float) -> tuple[float, float]:
    """Both ends at one-sided (1 + level) / 2, which are the ends of a two-sided interval at `level`."""
    with jax.enable_x64(True):
        lower, upper = normal_interval(jnp.asarray(value), jnp.asarray(standard_error), level=level)
        return float(lower), float(upper)


def _scalars(estimate: Estimate, name: str) -> tuple[float, float]:
    values = []
    for part in ("value", "standard_error"):
        number = np.asarray(getattr(estimate, part), np.float64)
        if number.shape or not np.isfinite(number) or (part == "standard_error" and number < 0):
            raise ValueError(f"{name}.{part} must be a finite number{'' if part == 'value' else ' >= 0'}, got {number}")
        values.append(float(number))
    return values[0], values[1]
