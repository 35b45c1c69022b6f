"""Gradient norms of a score, and what may be concluded from them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["certified", "searched", "sampled"]


@dataclass(frozen=True)
class LipschitzConstant:
    """A slope of the score in its input.

    Attributes:
      value: nats a unit of the representations.
      kind: "certified" (an upper bound everywhere), "searched" (a lower estimate) or "sampled" (a percentile). Only a
        certified constant makes a bound; with the others the same formula is an index.
      space: the representations' space (model, hook point, pooling, width); bounds refuse to combine two.

    Raises:
      ValueError: for another kind.
    """

    value: float
    kind: Kind
    space: str

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind must be one of {', '.join(map(repr, get_args(Kind)))}, got {self.kind!r}")


@dataclass(frozen=True)
class LipschitzIndex:
    """Statistics of sampled gradient norms: an index, not a Lipschitz constant.

    Attributes:
      value: the quantile asked for.
      maximum: the largest norm seen, a lower estimate of the constant.
      mean: their mean.
      quantile: which quantile `value` is.
      n: number of norms.
      kind: always "sampled".
    """

    value: float
    maximum: float
    mean: float
    quantile: float
    n: int
    kind: Literal["sampled"] = "sampled"

    def constant(self, space: str) -> LipschitzConstant:
        """What bounds ask for: `value` as a sampled slope, so that they return indices."""
        return LipschitzConstant(self.value, self.kind, space)


def gradient_norms(
    score: Callable[..., jax.Array],
    points: ArrayLike,
    *args: ArrayLike,
    operands: Any = (),
    batch_size: int = 16,
    per_token: bool = False,
) -> np.ndarray:
    """The Euclidean norm of each sample's gradient of its score.

    One backward pass of the sum serves a batch, since a sample's score depends on its own point alone.

    Args:
      score: maps (operands, points (b, ...), the batch's slices of `args`) to scores (b,), differentiably.
      points: shape (n, ...), e.g. soft-token blocks (n, tokens, width).
      *args: arrays with leading axis n that go with the points.
      operands: pytree handed to `score` whole, such as a decoder's weights: as arguments they are not constants of
        the program, which would take long to compile.
      batch_size: samples a pass; the last batch is filled up with repeats, so that one program serves all.
      per_token: norms over the last axis only, shape (n, ...) without it, instead of over the whole point.

    Returns:
      Norms in nats a unit of the points, shape (n,) or by token.

    Raises:
      ValueError: if there are no points, an argument has another leading axis, or `batch_size` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    array, others = np.asarray(points), [np.asarray(argument) for argument in args]
    count = len(array)
    if not count:
        raise ValueError("points is empty; give at least one sample")
    for k, other in enumerate(others):
        if len(other) != count:
            raise ValueError(f"args[{k}] has {len(other)} samples and points {count}")
    slope = jax.jit(jax.grad(lambda z, operands, *rest: jnp.sum(score(operands, z, *rest))))
    batch = min(batch_size, count)
    norms = []
    for start in range(0, count, batch):
        index = np.minimum(np.arange(start, start + batch), count - 1)
        gradient = slope(jnp.asarray(array[index]), operands, *(jnp.asarray(other[index]) for other in others))
        gradient = gradient.astype(jnp.promote_types(gradient.dtype, jnp.float32))  # squares of bfloat16 lose most
        axes = -1 if per_token else tuple(range(1, gradient.ndim))
        norms.append(np.asarray(jnp.sqrt(jnp.sum(gradient**2, axis=axes)))[: min(batch, count - start)])
    return np.concatenate(norms)


def lipschitz_index(norms: ArrayLike, *, quantile: float = 0.95) -> LipschitzIndex:
    """A percentile of gradient norms, as the paper reports it, under the name it deserves.

    Args:
      norms: shape (n,), from `gradient_norms`.
      quantile: in (0, 1].

    Returns:
      The percentile beside the largest and the mean norm.

    Raises:
      ValueError: if there are no norms, one is not finite, or `quantile` is outside (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile must lie in (0, 1], got {quantile}")
    array = np.asarray(norms, np.float64)
    if not array.size or not np.isfinite(array).all():
        raise ValueError("norms must be a non-empty array of finite values")
    return LipschitzIndex(
        float(np.quantile(array, quantile)), float(array.max()), float(array.mean()), quantile, int(array.size)
    )
