"""Bounds that need only scores: B3 in score space and the bracket B6. Certified without L, D or a distance."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from gmijax.bounds._bounds import SHARED, Bound
from gmijax.distances import w1_line, w2_line, w_inf_line


@dataclass(frozen=True)
class Bracket:
    """Two-sided: the change lies in [lower, upper], nats.

    Attributes:
      lower: its lower end.
      upper: its upper end.
      terms: `first_order`, the mismatch term (zero at a matched decoder and s = 1), and `second_order`, always a loss.
      scale: s.
      assumptions: what must hold.
    """

    lower: float
    upper: float
    terms: Mapping[str, float]
    scale: float
    assumptions: tuple[str, ...]


def _table(scores: ArrayLike, messages: ArrayLike, name: str) -> tuple[np.ndarray, np.ndarray]:
    table, index = np.asarray(scores, np.float64), np.asarray(messages)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(f"{name} must be a finite matrix (messages, atoms), got shape {table.shape}")
    if index.shape != (table.shape[1],) or index.min() < 0 or index.max() >= len(table):
        raise ValueError(f"the messages of {name} must name one of its {len(table)} rows for each of its atoms")
    return table, index


def _own_by_message(table: np.ndarray, index: np.ndarray) -> list[np.ndarray]:
    return [table[message, index == message] for message in range(len(table))]


def score_shift(
    scores_text: ArrayLike,
    scores_modal: ArrayLike,
    messages_text: ArrayLike,
    messages_modal: ArrayLike,
    *,
    scale: float,
    over: str = "inputs",
) -> Bound:
    """B3: the change of I(s) between two finite laws of inputs, bounded by the laws of the scores alone.

    Over inputs: s E_y W1(nu+) + E_y min(s W_inf(nu-), s rho W2(nu-)), with nu+ the law of l(Z, y) given y, nu- the
    one without, and rho^2 the larger n / ESS of the alternatives' weights (B4). One-dimensional, exact by sorting, and
    never above B2. Over messages the integrand h depends on all scores of an input, and |E_M h - E_T h| is exact.

    Args:
      scores_text: l(z, y) of messages and atoms of the text law, shape (messages, atoms), nats; atoms weigh the same.
      scores_modal: likewise under the modal law, shape (messages, other atoms).
      messages_text: the message that each atom of the text law carries, shape (atoms,).
      messages_modal: likewise for the modal law. Every message must have the same share under both.
      scale: s.
      over: "inputs" or "messages".

    Returns:
      A `Bound` of kind "bound", nats.

    Raises:
      ValueError: for scores that are not finite, messages that do not fit, or different shares of the messages.
    """
    text, own_text = _table(scores_text, messages_text, "scores_text")
    modal, own_modal = _table(scores_modal, messages_modal, "scores_modal")
    shares = [np.bincount(own, minlength=len(text)) / len(own) for own in (own_text, own_modal)]
    if text.shape[0] != modal.shape[0] or not np.allclose(shares[0], shares[1]):
        raise ValueError("the two laws must give the same messages the same shares: the bound assumes one law of Y")
    prior = shares[0]
    if over == "messages":
        values = []
        for table, own in ((text, own_text), (modal, own_modal)):
            logits = scale * table + np.log(np.where(prior > 0, prior, 1))[:, None]
            logits = np.where(prior[:, None] > 0, logits, -np.inf)
            values.append(np.mean(scale * table[own, np.arange(len(own))] - np.logaddexp.reduce(logits, axis=0)))
        change = abs(float(values[1] - values[0]))
        return Bound(change, "bound", {"E_M h - E_T h": float(values[1] - values[0])}, scale, (SHARED,))
    if over != "inputs":
        raise ValueError(f"over must be 'inputs' or 'messages', got {over!r}")
    with jax.enable_x64(True):
        pairs = zip(_own_by_message(text, own_text), _own_by_message(modal, own_modal), strict=True)
        direct = [float(w1_line(jnp.asarray(a), jnp.asarray(b))) if len(a) else 0.0 for a, b in pairs]
        first, second = jnp.asarray(text), jnp.asarray(modal)
        farthest = np.asarray(jax.vmap(w_inf_line)(first, second))
        quadratic = np.asarray(jax.vmap(w2_line)(first, second))
    rho = np.maximum(*(_inverse_share(scale * table) for table in (text, modal)))
    competition = np.minimum(scale * farthest, scale * rho * quadratic)
    terms = {
        "direct": float(scale * prior @ np.array(direct)),
        "competition": float(prior @ competition),
        "competition, W_inf": float(scale * prior @ farthest),
        "competition, W2": float(scale * prior @ (rho * quadratic)),
        "rho": float(prior @ rho),
    }
    return Bound(terms["direct"] + terms["competition"], "bound", terms, scale, (SHARED,))


def _inverse_share(scaled: np.ndarray) -> np.ndarray:
    """Rho = sqrt(n / ESS) of the weights e^{s l} along each row."""
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.sqrt((weights**2).mean(axis=1)) / weights.mean(axis=1)


def edit_bracket(scores_before: ArrayLike, scores_after: ArrayLike, messages: ArrayLike, *, scale: float) -> Bracket:
    """B6: any edit z -> T(z) changes I(s) over inputs by an amount between two tilted means of the score change.

    With delta = l(Tz, y) - l(z, y): s (E delta - E_tilt_new delta) <= dI(s) <= s (E delta - E_tilt_old delta). The
    upper end is the first-order term; what is below it is always a loss.

    Args:
      scores_before: l(z, y) of messages and atoms, shape (messages, atoms), nats; atoms weigh the same.
      scores_after: l(Tz, y) of the same atoms in the same order.
      messages: the message that each atom carries, shape (atoms,).
      scale: s.

    Returns:
      The bracket and the change itself, nats.

    Raises:
      ValueError: for scores that are not finite or shapes that differ.
    """
    before, own = _table(scores_before, messages, "scores_before")
    after, _ = _table(scores_after, messages, "scores_after")
    if before.shape != after.shape:
        raise ValueError(f"scores_before {before.shape} and scores_after {after.shape} must have the same atoms")
    prior = np.bincount(own, minlength=len(before)) / len(own)
    delta = after - before
    paired = np.mean(delta[own, np.arange(len(own))])

    def tilted(table: np.ndarray) -> float:
        weights = np.exp(scale * (table - table.max(axis=1, keepdims=True)))
        return float(prior @ ((weights * delta).sum(axis=1) / weights.sum(axis=1)))

    def log_mean(table: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(scale * table, axis=1)

    lower, upper = (float(scale * (paired - tilted(table))) for table in (after, before))
    change = float(scale * paired - prior @ (log_mean(after) - log_mean(before)))
    terms = {"lower": lower, "upper": upper, "first_order": upper, "second_order": change - upper, "change": change}
    return Bracket(lower, upper, terms, scale, (SHARED, "the atoms of both laws correspond one to one"))
