"""Channels of finite alphabets."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from gmijax.rates._finite import gmi_exact, mutual_information
from gmijax.rates.channels._base import (
    ChannelRates,
    FiniteMessages,
    TableChannel,
    as_law,
    categorical,
    pad_to,
)


def _check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1]; got {value}.")


class _FiniteChannel(TableChannel, FiniteMessages):
    """Sampling and scoring from the tables of a subclass: prior (k_x,), transition and scores (k_x, k_y)."""

    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The prior, the transition and the scores, float64."""
        raise NotImplementedError

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """The joint law and the scores, (k_x, k_y), float64."""
        prior, transition, scores = self.tables()
        return prior[:, None] * transition, scores

    def sample(self, key: Array, n: int) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
        """N independent pairs of indices (x, y)."""
        prior, transition, _ = self.tables()
        key_x, key_y = jax.random.split(key)
        x = categorical(key_x, prior[None], jnp.zeros(n, int))
        return x, categorical(key_y, transition, x)

    def score(self, x: ArrayLike, y: ArrayLike) -> Array:
        """The decoder's score of index y given index x; the shapes broadcast."""
        return jnp.asarray(self.tables()[2])[jnp.asarray(x), jnp.asarray(y)]

    def sample_label_scores(
        self, key: Array, n: int
    ) -> tuple[Float[Array, "n k"], Int[Array, " n"], Float[Array, " k"]]:
        """Scores of every y for n inputs, the true y, and P(y)."""
        prior, transition, scores = self.tables()
        x, y = self.sample(key, n)
        return jnp.asarray(scores)[x], y, jnp.asarray(prior @ transition)


@dataclasses.dataclass(frozen=True, eq=False)
class DiscreteMemoryless(_FiniteChannel):
    """Any finite channel and score.

    Attributes:
      prior: P(x), (k_x,).
      transition: P(y | x), (k_x, k_y).
      scores: l(x, y) in nats, (k_x, k_y); -inf for probability 0.
    """

    prior: ArrayLike
    transition: ArrayLike
    scores: ArrayLike

    def __post_init__(self) -> None:
        prior, transition = as_law("prior", self.prior), as_law("transition", self.transition)
        scores = np.asarray(self.scores, float)
        if prior.ndim != 1 or transition.shape != scores.shape or transition.shape[:1] != prior.shape:
            raise ValueError(
                "prior must be (k_x,), transition and scores (k_x, k_y); "
                f"got {prior.shape}, {transition.shape} and {scores.shape}."
            )
        if np.any(np.isnan(scores) | (scores == np.inf)):
            raise ValueError("scores must be finite or -inf; got nan or +inf.")
        for name, value in (("prior", prior), ("transition", transition), ("scores", scores)):
            object.__setattr__(self, name, value)

    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The prior, the transition and the scores, float64."""
        return np.asarray(self.prior), np.asarray(self.transition), np.asarray(self.scores)


def _symmetric_scores(crossover_hat: float) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log([[1 - crossover_hat, crossover_hat], [crossover_hat, 1 - crossover_hat]])


@dataclasses.dataclass(frozen=True)
class BinarySymmetric(_FiniteChannel):
    """Y = X xor Bernoulli(p), decoded as if p were p_hat.

    At a uniform input the GMI is log 2 - h(p) where p and p_hat are on the same side of 1/2, else 0.

    Attributes:
      crossover: p.
      crossover_hat: the decoder's p.
      prior_one: P(X = 1).
    """

    crossover: float
    crossover_hat: float
    prior_one: float = 0.5

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_probability(field.name, getattr(self, field.name))

    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The prior, the transition and the scores, float64."""
        p = self.crossover
        return (
            np.array([1 - self.prior_one, self.prior_one]),
            np.array([[1 - p, p], [p, 1 - p]]),
            _symmetric_scores(self.crossover_hat),
        )


@dataclasses.dataclass(frozen=True)
class BinaryAsymmetric(_FiniteChannel):
    """A binary channel with two crossover probabilities and a symmetric or tabulated metric.

    LM is I(X; Y) or 0, since the marginals leave one free parameter; GMI is smaller unless the tilt matches.

    Attributes:
      zero_to_one: P(Y = 1 | X = 0).
      one_to_zero: P(Y = 0 | X = 1).
      crossover_hat: the metric of a binary symmetric channel. Give this or `metric`.
      metric: q(x, y), two rows of two; 0 is a score of -inf.
      prior_one: P(X = 1).
    """

    zero_to_one: float
    one_to_zero: float
    crossover_hat: float | None = None
    metric: tuple[tuple[float, float], tuple[float, float]] | None = None
    prior_one: float = 0.5

    def __post_init__(self) -> None:
        for name in ("zero_to_one", "one_to_zero", "prior_one"):
            _check_probability(name, getattr(self, name))
        if (self.crossover_hat is None) == (self.metric is None):
            raise ValueError("Give exactly one of crossover_hat and metric.")
        if self.crossover_hat is not None:
            _check_probability("crossover_hat", self.crossover_hat)
        if self.metric is not None and (np.shape(self.metric) != (2, 2) or np.any(np.less(self.metric, 0))):
            raise ValueError(f"metric must be two rows of two non-negative numbers; got {self.metric}.")

    def tables(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The prior, the transition and the scores, float64."""
        a, b = self.zero_to_one, self.one_to_zero
        with np.errstate(divide="ignore"):
            scores = (
                np.log(np.asarray(self.metric, float))
                if self.crossover_hat is None
                else _symmetric_scores(self.crossover_hat)
            )
        prior = np.array([1 - self.prior_one, self.prior_one])
        return prior, np.array([[1 - a, a], [b, 1 - b]]), scores


def z_channel(one_to_zero: float, crossover_hat: float, prior_one: float = 0.5) -> BinaryAsymmetric:
    """The Z-channel under a symmetric metric: GMI < LM = I(X; Y), the LM rate approached as s grows."""
    return BinaryAsymmetric(0.0, one_to_zero, crossover_hat, prior_one=prior_one)


@dataclasses.dataclass(frozen=True, eq=False)
class ConditionalDiscrete(TableChannel):
    """A context, known on both sides, selects a finite channel and score; one scale serves all contexts.

    Samples carry the context on the message's side: y is (n, 2), context and index. A score matrix of a sample over
    several contexts therefore has the alternatives of the wrong contexts too (THEORY.md, F10); use
    `sample_context` for matrices of one context.

    Attributes:
      prior: P(c), (contexts,).
      contexts: one channel a context; alphabets may differ in size.
    """

    prior: ArrayLike
    contexts: tuple[DiscreteMemoryless, ...]

    def __post_init__(self) -> None:
        prior = as_law("prior", self.prior)
        if prior.shape != (len(self.contexts),):
            raise ValueError(
                f"prior must hold one probability a context; got {prior.shape} for {len(self.contexts)} contexts."
            )
        object.__setattr__(self, "prior", prior)

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """The joint law and the scores, (contexts, k_x, k_y), float64, padded with zeros."""
        tables = [channel.table() for channel in self.contexts]
        shape = tuple(map(max, *(joint.shape for joint, _ in tables), (1, 1)))
        prior = np.asarray(self.prior)
        joint = np.stack([p * pad_to(joint, shape) for p, (joint, _) in zip(prior, tables, strict=True)])
        return joint, np.stack([pad_to(scores, shape) for _, scores in tables])

    def extras(self, rates: ChannelRates) -> dict[str, Any]:
        """Two rates that are not the conditional GMI, and I(X; C).

        `gmi_per_context`: a scale a context, averaged; larger. `gmi_pooled` and `gmi_pooled_scale`: alternatives
        from P(X) pooled over the contexts, which may exceed I(X; Y | C). `mutual_information_inputs_context`.
        """
        del rates
        joint, scores, flipped = self._padded_table()
        turn = (0, 2, 1) if flipped else (0, 1, 2)
        joint, scores = joint.transpose(turn), scores.transpose(turn)
        with jax.enable_x64(True):
            pooled = gmi_exact(joint, scores, alternatives=joint.sum((0, 2)))
            shared = float(mutual_information(joint.sum(2)))
        return {
            "gmi_per_context": sum(
                float(weight) * channel.rates().gmi
                for weight, channel in zip(np.asarray(self.prior), self.contexts, strict=True)
            ),
            "gmi_pooled": float(pooled.value),
            "gmi_pooled_scale": float(pooled.scale),
            "mutual_information_inputs_context": shared,
        }

    def sample(self, key: Array, n: int) -> tuple[Int[Array, " n"], Int[Array, "n 2"]]:
        """N independent x, and the context and y of each."""
        joint, _ = self.table()
        flat = categorical(key, joint.reshape(1, -1), jnp.zeros(n, int))
        context, x, y = jnp.unravel_index(flat, joint.shape)
        return x, jnp.stack([context, y], axis=-1)

    def sample_context(self, key: Array, context: int, n: int) -> tuple[Int[Array, " n"], Int[Array, "n 2"]]:
        """N independent pairs within one context, in the form of `sample`."""
        x, y = self.contexts[context].sample(key, n)
        return x, jnp.stack([jnp.full_like(y, context), y], axis=-1)

    def score(self, x: ArrayLike, y: ArrayLike) -> Array:
        """The decoder's score l(c, x, y); y holds (c, y) on its last axis."""
        _, scores = self.table()
        y = jnp.asarray(y)
        return jnp.asarray(scores)[y[..., 0], jnp.asarray(x), y[..., 1]]
