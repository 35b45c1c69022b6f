"""Slopes of a score under their right names: certified, searched or sampled."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gmijax import stats

Kind = Literal["certified", "searched", "sampled"]


@dataclass(frozen=True)
class LipschitzConstant:
    """A slope of the score in its input.

    Attributes:
      value: nats a unit of the representations.
      kind: "certified" (an upper bound on the domain stated), "searched" (a lower estimate) or "sampled" (a
        percentile). Only a certified constant makes a bound; with the others the same formula is an index.
      space: the representations' space (model, hook point, pooling, width); bounds refuse to combine two.
      assumptions: what the value holds for.

    Raises:
      ValueError: for another kind.
    """

    value: float
    kind: Kind
    space: str
    assumptions: tuple[str, ...] = ()

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(map(repr, get_args(Kind)))}, got {self.kind!r}")


@dataclass(frozen=True)
class LipschitzIndex:
    """Statistics of sampled gradient norms: an index, not a Lipschitz constant.

    Attributes:
      value: the quantile asked for.
      interval: of that quantile of the law of norms, from order statistics; an end that so few norms cannot give is
        infinite.
      maximum: the largest norm seen, a lower estimate of the constant.
      mean: their mean.
      quantile: which quantile `value` is.
      level: coverage of `interval`.
      n: number of samples.
      count: number of norms, more than n where each token has its own.
      kind: always "sampled".
    """

    value: float
    interval: stats.Interval
    maximum: float
    mean: float
    quantile: float
    level: float
    n: int
    count: int
    kind: Literal["sampled"] = "sampled"

    def constant(self, space: str) -> LipschitzConstant:
        """What bounds ask for: `value` as a sampled slope, so that they return indices."""
        share = f"the {self.quantile:g} quantile of {self.count} gradient norms"
        return LipschitzConstant(self.value, self.kind, space, (share,))


def lipschitz_index(
    norms: ArrayLike, *, mask: ArrayLike | None = None, quantile: float = 0.95, level: float = 0.95
) -> LipschitzIndex:
    """A percentile of gradient norms, as the paper reports it, under the name it deserves.

    The samples are taken as independent. The tokens of one sample are not: with norms by token the interval counts
    as many independent norms as the scatter between samples allows (Woodruff 1952, DOI
    10.1080/01621459.1952.10483443), between the number of samples and that of tokens.

    Args:
      norms: shape (n,) or, by token, (n, tokens), from `gradient_norms`.
      mask: shape (n, tokens), true at tokens: padding has no norm, and its zeros must not enter a percentile.
      quantile: in (0, 1].
      level: coverage of the interval, in (0, 1).

    Returns:
      The percentile with its interval, beside the largest and the mean norm.

    Raises:
      ValueError: if there are no norms, one is negative or not finite, the mask does not fit, or `quantile` or
        `level` is out of range.
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    array = np.asarray(norms, np.float64)
    if array.ndim not in (1, 2) or not array.size:
        raise ValueError(f"norms must be a non-empty array (n,) or (n, tokens), got shape {array.shape}")
    kept = np.ones(array.shape, bool) if mask is None else np.asarray(mask, bool)
    if kept.shape != array.shape or not kept.any():
        raise ValueError(f"mask must be true somewhere and have the shape of norms {array.shape}, got {kept.shape}")
    values = array[kept]
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise ValueError("norms must be finite and >= 0; drop the samples whose gradient overflows")
    value = np.quantile(values, quantile)
    samples = int(kept.reshape(len(kept), -1).any(axis=1).sum())
    effective = None if array.ndim == 1 else _independent(array <= value, kept, samples)
    lower, upper = stats.quantile_interval(jnp.asarray(values), quantile=quantile, level=level, effective=effective)
    return LipschitzIndex(
        value=float(value),
        interval=stats.Interval(*(jnp.maximum(end, 0) for end in (lower, upper))),
        maximum=float(values.max()),
        mean=float(values.mean()),
        quantile=quantile,
        level=level,
        n=samples,
        count=int(values.size),
    )


def _independent(below: np.ndarray, kept: np.ndarray, samples: int) -> float:
    """How many independent norms give the share below the quantile the variance that it has between samples."""
    count = kept.sum()
    share = below[kept].mean()
    excess = np.where(kept, below - share, 0).sum(axis=1)  # by sample
    variance = np.square(excess).sum() / count**2 * samples / max(samples - 1, 1)
    if not variance:
        return float(samples)
    return float(np.clip(share * (1 - share) / variance, samples, count))
