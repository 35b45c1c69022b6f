"""What every channel with known rates offers."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from gmijax.rates._finite import (
    ExactLMRate,
    ExactRate,
    Over,
    conditional_gmi_paper_exact,
    curve_exact,
    gmi_exact,
    lm_rate_exact,
    mutual_information,
)


@dataclasses.dataclass(frozen=True)
class ChannelRates:
    """The known rates of a channel and its decoder, nats; nan where a quantity is not defined or not known.

    Attributes:
      mutual_information: I(X; Y), or I(X; Y | C).
      gmi: sup over s of I(s), alternatives over inputs.
      gmi_scale: its argmax; inf where the supremum is only approached.
      gmi_at_one: I(1).
      gmi_messages: the same with alternatives over messages.
      gmi_messages_scale: its argmax.
      gmi_messages_at_one: I(1) over messages.
      lm_rate: the LM rate, the same number in both directions.
      lm_scale: its argmax.
      zero_test: g = I'(0).
      conditional_gmi_paper: equation 3 of arXiv 2602.23136v1 as written; never positive.
      extras: what only this family has, by name.
    """

    mutual_information: float
    gmi: float
    gmi_scale: float
    gmi_at_one: float
    gmi_messages: float
    gmi_messages_scale: float
    gmi_messages_at_one: float
    lm_rate: float
    lm_scale: float
    zero_test: float
    conditional_gmi_paper: float
    extras: Mapping[str, Any] = dataclasses.field(default_factory=dict)


class Channel(abc.ABC):
    """A law of (X, Y) and a decoder's score, with rates known to about ten digits and a sampler to test against.

    X stands for the representation z, Y for the message or continuation y, the score for log q(y | z).
    """

    @abc.abstractmethod
    def rates(self) -> ChannelRates:
        """All known rates, computed in float64 whatever JAX's default."""

    @abc.abstractmethod
    def curve(self, scales: ArrayLike, over: Over = "inputs") -> np.ndarray:
        """I(s) in nats at finite scales s >= 0, float64, of the shape of `scales`."""

    @abc.abstractmethod
    def sample(self, key: Array, n: int) -> tuple[Array, Array]:
        """N independent pairs (x, y), leading axis n."""

    @abc.abstractmethod
    def score(self, x: ArrayLike, y: ArrayLike) -> Array:
        """The decoder's score of y given x; batch axes broadcast, an axis of features comes last."""

    def score_matrix(self, x: Array, y: Array) -> Float[Array, "rows columns"]:
        """All scores of one sample: entry (i, j) is that of input j for message i, the positives on the diagonal."""
        return self.score(x[None], y[:, None])


class FiniteMessages(abc.ABC):
    """A channel whose messages are labels with a known prior: the inner mean over messages is exact."""

    @abc.abstractmethod
    def sample_label_scores(
        self, key: Array, n: int
    ) -> tuple[Float[Array, "n k"], Int[Array, " n"], Float[Array, " k"]]:
        """Scores of every label for n inputs, the true labels, and the labels' prior."""


@jax.jit
def _rates_of_table(joint, scores) -> tuple[jax.Array, ExactRate, ExactRate, ExactLMRate, tuple]:
    turned = jnp.swapaxes(joint, 1, 2), jnp.swapaxes(scores, 1, 2)
    return (
        mutual_information(joint),
        gmi_exact(joint, scores, over="inputs"),
        gmi_exact(joint, scores, over="messages"),
        lm_rate_exact(joint, scores),
        (conditional_gmi_paper_exact(joint, scores), conditional_gmi_paper_exact(*turned)),
    )


# Compiling costs seconds and padding milliseconds: few sizes, far apart.
SMALL = (8, 32, 64, 256)
LARGE = (8, 8192, 131072)


def pad_to(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The array in the leading corner of zeros of this shape."""
    return np.pad(array, [(0, wanted - had) for had, wanted in zip(array.shape, shape, strict=True)])


def round_up(size: int, sizes: tuple[int, ...] = SMALL) -> int:
    """The size to pad an axis to."""
    return next((bound for bound in sizes if size <= bound), size)


class TableChannel(Channel):
    """A channel whose rates are those of a finite table: finite alphabets, or the nodes of a quadrature rule.

    A quadrature rule over y turns P(x) p(y | x) dy into a table that obeys every identity of the theory exactly, so
    that one set of formulas serves all.
    """

    @abc.abstractmethod
    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """The joint law and the scores, (k_x, k_y) or (contexts, k_x, k_y), float64."""

    @property
    def uses(self) -> int:
        """How many independent copies of the table make one channel use."""
        return 1

    def extras(self, rates: ChannelRates) -> dict[str, Any]:
        """What only this family has, given the common rates."""
        del rates
        return {}

    def _padded_table(self) -> tuple[np.ndarray, np.ndarray, bool]:
        joint, scores = self.table()
        joint = joint.reshape(-1, *joint.shape[-2:])
        scores = scores.reshape(joint.shape)
        flipped = joint.shape[1] > joint.shape[2]
        if flipped:  # the smaller alphabet first, again for the sake of few shapes
            joint, scores = joint.swapaxes(1, 2), scores.swapaxes(1, 2)
        small, large = round_up(joint.shape[1]), round_up(joint.shape[2], LARGE)
        contexts = 1 if joint.shape[0] == 1 and large > 8 else round_up(joint.shape[0])
        shape = (contexts, small, large)
        return pad_to(joint, shape), pad_to(scores, shape), flipped

    def rates(self) -> ChannelRates:
        """All known rates, computed in float64 whatever JAX's default."""
        joint, scores, flipped = self._padded_table()
        with jax.enable_x64(True):
            information, inputs, messages, lm, (paper, paper_flipped) = _rates_of_table(joint, scores)
        if flipped:
            inputs, messages, paper = messages, inputs, paper_flipped
        uses = self.uses
        rates = ChannelRates(
            mutual_information=uses * float(information),
            gmi=uses * float(inputs.value),
            gmi_scale=float(inputs.scale),
            gmi_at_one=uses * float(inputs.at_one),
            gmi_messages=uses * float(messages.value),
            gmi_messages_scale=float(messages.scale),
            gmi_messages_at_one=uses * float(messages.at_one),
            lm_rate=uses * float(lm.value),
            lm_scale=float(lm.scale),
            zero_test=uses * float(inputs.zero_test),
            conditional_gmi_paper=uses * float(paper),
        )
        return dataclasses.replace(rates, extras=self.extras(rates))

    def curve(self, scales: ArrayLike, over: Over = "inputs") -> np.ndarray:
        """I(s) in nats at finite scales s >= 0, float64, of the shape of `scales`."""
        scales = np.asarray(scales, float)
        joint, scores, flipped = self._padded_table()
        if flipped and over in ("inputs", "messages"):
            over = "messages" if over == "inputs" else "inputs"
        padded = pad_to(scales.ravel(), (round_up(max(scales.size, 1)),))
        with jax.enable_x64(True):
            values = curve_exact(joint, scores, padded, over=over)
            return self.uses * np.asarray(values)[: scales.size].reshape(scales.shape)


def namespace(array: Any) -> Any:
    """NumPy for its arrays, else jax.numpy: tables are made by numpy, since eager JAX compiles every new shape."""
    return np if isinstance(array, np.ndarray) else jnp


def log_sum_exp(array: Any) -> Any:
    """Over the last axis, which must hold a finite entry everywhere."""
    xp = namespace(array)
    peak = xp.max(array, axis=-1, keepdims=True)
    return xp.log(xp.sum(xp.exp(array - peak), axis=-1)) + peak[..., 0]


def as_law(name: str, values: ArrayLike) -> np.ndarray:
    """Checks that the last axis of an array holds probabilities, and returns it in float64.

    Raises:
      ValueError: an entry is negative or not finite, or a sum is not 1.
    """
    law = np.asarray(values, float)
    if not np.all(np.isfinite(law)) or np.any(law < 0) or np.any(np.abs(law.sum(-1) - 1) > 1e-9):
        raise ValueError(
            f"{name} must hold non-negative probabilities that sum to 1 over the last axis; got {law.tolist()}."
        )
    return law


def categorical(key: Array, law: ArrayLike, rows: Array) -> Array:
    """One draw from each row `law[rows]` of a table of probabilities, which may be 0."""
    return jax.random.categorical(key, jnp.log(jnp.asarray(law))[rows], axis=-1)
