"""From two score matrices, text and modal, to rates, parts of the loss and bounds."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from gmijax import rates, stats

LEVEL = 0.95


class Scored(NamedTuple):
    """The scores of one law: l(z, y) of every soft-token block with every text.

    Attributes:
      scores: nats, shape (draws * texts, texts), draw by draw.
      messages: the text that each block carries, shape (draws * texts,).
      known_law: whether the texts are all messages there are, equally likely.
    """

    scores: np.ndarray
    messages: np.ndarray
    known_law: bool

    @property
    def by_input(self) -> np.ndarray:
        """l(z_j, y_i) for the message y_i of block i, shape (blocks, blocks): rows are targets, columns inputs."""
        return self.scores[:, self.messages].T


def estimate(value: Any, standard_error: Any, **others: Any) -> dict[str, Any]:
    """A rate as plain numbers with its interval."""
    interval = stats.normal_interval(jnp.asarray(value), jnp.asarray(standard_error), level=LEVEL)
    record = {
        "nats": float(value),
        "standard_error": float(standard_error),
        "lower": float(interval.lower),
        "upper": float(interval.upper),
        "bits": float(value) / math.log(2),
    }
    return record | {name: value if isinstance(value, bool) else float(value) for name, value in others.items()}


def _alternatives(rate: rates.Rate) -> dict[str, float]:
    """The diagnostics of sampled alternatives that THEORY.md, section 5, asks to be reported."""
    if rate.alternatives is None:
        return {}
    return {name: float(getattr(rate.alternatives, name)) for name in ("ess", "margin", "log_alternatives")}


def measure_rates(law: Scored) -> dict[str, Any]:
    """GMI in both directions and the LM rate of one law.

    With a known law of messages the soft-token blocks drawn are taken as the law of Z: every inner mean is then
    exact and nothing saturates. The intervals say how far another draw of the noise would move the numbers; under a
    deterministic shift they have no width. Otherwise texts are a sample, and saturation is flagged.
    """
    if not law.known_law:
        over_inputs = rates.gmi(law.by_input, level=LEVEL)
        over_messages = rates.gmi(law.scores, positives=law.messages, level=LEVEL)
        return {
            name: estimate(
                rate.value,
                rate.standard_error,
                scale=rate.scale,
                at_one=rate.at_one,
                zero_test=rate.zero_test,
                p_value=rate.p_value,
                saturated=bool(rate.saturated),
                **_alternatives(rate),
            )
            for name, rate in (("gmi_inputs", over_inputs), ("gmi_messages", over_messages))
        }
    texts, messages = law.scores.shape[1], jnp.asarray(law.messages, jnp.int32)
    prior = jnp.full((texts,), 1 / texts)
    over_inputs = rates.gmi(law.by_input, method="include", scale="in-sample", level=LEVEL)
    over_messages = rates.gmi_labels(law.scores, messages, prior=prior, scale="in-sample", level=LEVEL)
    lm = rates.lm_rate(law.scores, messages, prior=prior, fit="in-sample", level=LEVEL)
    named = (("gmi_inputs", over_inputs), ("gmi_messages", over_messages), ("lm_rate", lm))
    return {
        name: estimate(
            rate.value,
            stats.influence_standard_error(rate.influence, messages),
            scale=rate.scale,
            at_one=rate.at_one,
            zero_test=rate.zero_test,
            p_value=rate.p_value,
            saturated=False,
        )
        for name, rate in named
    }


def information_at(law: Scored, scale: float) -> dict[str, float]:
    """I(s) in both directions of the finite law, and its two parts over inputs, at one scale; nats, float64."""
    n, own = len(law.messages), law.scores[np.arange(len(law.messages)), law.messages].astype(np.float64)
    by_input = scale * law.by_input.astype(np.float64)
    by_message = scale * law.scores.astype(np.float64)
    log_mean_inputs = np.logaddexp.reduce(by_input, axis=1) - math.log(n)
    log_mean_messages = np.logaddexp.reduce(by_message, axis=1) - math.log(law.scores.shape[1])
    direct = scale * own.mean()
    return {
        "inputs": float(direct - log_mean_inputs.mean()),
        "messages": float(direct - log_mean_messages.mean()),
        "direct": float(direct),
        "competition": float(-log_mean_inputs.mean()),
    }
