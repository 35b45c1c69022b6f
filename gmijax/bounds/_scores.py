"""Bounds that need only scores: B3 in score space and the bracket B6. Certified without L, D or a distance."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from gmijax.bounds._bounds import SHARED, Bound, check_numbers
from gmijax.distances import w1_line, w2_line, w_inf_line


@dataclass(frozen=True)
class Bracket:
    """Two-sided: the change of I(s) over inputs lies in [lower, upper], nats.

    Attributes:
      lower: its lower end.
      upper: its upper end.
      terms: `change`, the change itself; `first_order`, the mismatch term (zero at a matched decoder and s = 1), which
        is the upper end; `second_order`, what is left of the change, always a loss; `half_variance`, the leading part
        of that loss, -s^2 / 2 E Var_tilt_old(delta); and `lower`, `upper`.
      scale: s.
      assumptions: what must hold.
    """

    lower: float
    upper: float
    terms: Mapping[str, float]
    scale: float
    assumptions: tuple[str, ...]


class _Law(NamedTuple):
    """A finite law of inputs seen through its scores, float64; every atom has positive mass."""

    scores: np.ndarray  # (messages, atoms)
    own: np.ndarray  # the message of each atom
    masses: np.ndarray  # of the atoms, summing to 1
    uniform: bool

    @property
    def prior(self) -> np.ndarray:
        return np.bincount(self.own, self.masses, len(self.scores))

    @property
    def matched(self) -> np.ndarray:
        """The score of each atom with its own message."""
        return self.scores[self.own, np.arange(len(self.own))]

    def log_means(self, scale: float) -> np.ndarray:
        """The log-mean of exp(s l) over the alternatives, by message."""
        return np.logaddexp.reduce(scale * self.scores + np.log(self.masses), axis=1)


def _law(scores: ArrayLike, messages: ArrayLike, weights: ArrayLike | None, suffix: str) -> _Law:
    table, own = np.asarray(scores, np.float64), np.asarray(messages)
    if table.ndim != 2 or not table.size or not np.isfinite(table).all():
        raise ValueError(f"scores{suffix} must be a finite matrix (messages, atoms), got shape {table.shape}")
    count, atoms = table.shape
    integers = own.shape == (atoms,) and np.issubdtype(own.dtype, np.integer)
    if not integers or own.min() < 0 or own.max() >= count:
        raise ValueError(
            f"messages{suffix} must name the message of each of the {atoms} atoms by integers from 0 to {count - 1}, "
            f"got shape {own.shape} and type {own.dtype}"
        )
    if weights is None:
        return _Law(table, own, np.full(atoms, 1 / atoms), True)
    masses = np.asarray(weights, np.float64)
    if masses.shape != (atoms,) or not (np.isfinite(masses).all() and (masses >= 0).all() and masses.sum() > 0):
        raise ValueError(
            f"weights{suffix} must be ({atoms},), one an atom, finite and >= 0 with a positive sum; "
            f"got shape {masses.shape}"
        )
    kept = masses > 0
    return _Law(table[:, kept], own[kept], masses[kept] / masses.sum(), False)


@jax.jit
def _line_distances(text, modal, masses, own_text, own_modal):
    """By message: W1 of the scores given it, and W1, W2 and W_inf of the scores without it."""
    direct = w1_line(text, modal, own_text, own_modal)
    return direct, *(distance(text, modal, *masses) for distance in (w1_line, w2_line, w_inf_line))


def _masses_by_message(law: _Law, prior: np.ndarray) -> np.ndarray:
    """The masses of each message's own atoms, (messages, atoms); all atoms' where it never occurs and counts 0."""
    own = (law.own == np.arange(len(prior))[:, None]) | (prior == 0)[:, None]
    return own * law.masses


def score_shift(
    scores_text: ArrayLike,
    scores_modal: ArrayLike,
    messages_text: ArrayLike,
    messages_modal: ArrayLike,
    *,
    scale: float,
    over: str = "inputs",
    weights_text: ArrayLike | None = None,
    weights_modal: ArrayLike | None = None,
) -> Bound:
    """B3: the change of I(s) between two finite laws of inputs, bounded by the laws of the scores alone.

    Over inputs: s E W1(nu+) + E min(log(1 + s W1(nu-) / w), s W_inf(nu-), s rho W2(nu-)), with nu+ the law of l(Z, y)
    given y, nu- the one without; w the smaller mean of e^{s (l - max l)}, at least e^{-s range}; rho^2 the larger
    n / ESS of the alternatives' weights (B4). Exact by sorting, and never above B2.

    Over messages the integrand h depends on all scores of an input, and the change E_M h - E_T h is exact.

    Args:
      scores_text: l(z, y) of messages and atoms of the text law, shape (messages, atoms), nats.
      scores_modal: likewise under the modal law, shape (messages, other atoms).
      messages_text: the message that each atom of the text law carries, shape (atoms,).
      messages_modal: likewise for the modal law. Every message must have the same share under both.
      scale: s.
      over: "inputs" or "messages".
      weights_text: masses of the atoms of the text law, shape (atoms,), >= 0; equal where None.
      weights_modal: likewise for the modal law.

    Returns:
      A `Bound`, nats: of kind "bound" over inputs, with the means of all forms in `terms`, and "exact" over messages.

    Raises:
      ValueError: for scores that are not finite, messages or weights that do not fit, different shares of the messages,
        or a scale that is negative or not finite.
    """
    check_numbers(scale=scale)
    text = _law(scores_text, messages_text, weights_text, "_text")
    modal = _law(scores_modal, messages_modal, weights_modal, "_modal")
    if len(text.scores) != len(modal.scores) or not np.allclose(text.prior, modal.prior, rtol=0, atol=1e-9):
        raise ValueError("the two laws must give the same messages the same shares: the bound assumes one law of Y")
    prior = text.prior
    if over == "messages":
        change = _mean_integrand(modal, prior, scale) - _mean_integrand(text, prior, scale)
        return Bound(abs(change), "exact", {"E_M h - E_T h": change}, scale, (SHARED,))
    if over != "inputs":
        raise ValueError(f"over must be 'inputs' or 'messages', got {over!r}")

    masses = (None, None) if text.uniform and modal.uniform else (text.masses, modal.masses)
    own = _masses_by_message(text, prior), _masses_by_message(modal, prior)
    with jax.enable_x64(True):
        distances = [np.asarray(d) for d in _line_distances(text.scores, modal.scores, masses, *own)]
    direct, first, second, farthest = distances
    log_means = np.stack([law.log_means(scale) for law in (text, modal)])
    log_squares = np.stack([law.log_means(2 * scale) for law in (text, modal)])
    rho = np.exp(np.max(log_squares / 2 - log_means, axis=0))
    top = scale * np.maximum(text.scores.max(axis=1), modal.scores.max(axis=1))
    with np.errstate(divide="ignore"):  # equal laws have log 0
        log_form = np.logaddexp(0, np.log(scale * first) + top - log_means.min(axis=0))
    forms = {
        "competition, W1": log_form,
        "competition, W_inf": scale * farthest,
        "competition, W2": scale * rho * second,
    }
    terms = {
        "direct": scale * float(prior @ direct),
        "competition": float(prior @ np.min(list(forms.values()), axis=0)),
        "rho": float(prior @ rho),
    } | {name: float(prior @ form) for name, form in forms.items()}
    return Bound(terms["direct"] + terms["competition"], "bound", terms, scale, (SHARED,))


def _mean_integrand(law: _Law, prior: np.ndarray, scale: float) -> float:
    """E h of THEORY.md's B1: I(s) over messages."""
    occurs = prior > 0
    log_mean = np.logaddexp.reduce(scale * law.scores[occurs] + np.log(prior[occurs])[:, None], axis=0)
    return float(law.masses @ (scale * law.matched - log_mean))


def edit_bracket(
    scores_before: ArrayLike,
    scores_after: ArrayLike,
    messages: ArrayLike,
    *,
    scale: float,
    weights: ArrayLike | None = None,
) -> Bracket:
    """B6: any edit z -> T(z) changes I(s) over inputs by an amount between two tilted means of the score change.

    With delta = l(Tz, y) - l(z, y): s (E delta - E_tilt_new delta) <= dI(s) <= s (E delta - E_tilt_old delta). The
    upper end is the first-order term; what is below it is always a loss.

    Args:
      scores_before: l(z, y) of messages and atoms, shape (messages, atoms), nats.
      scores_after: l(Tz, y) of the same atoms in the same order.
      messages: the message that each atom carries, shape (atoms,).
      scale: s.
      weights: masses of the atoms, shape (atoms,), >= 0; equal where None.

    Returns:
      The bracket and the change itself, nats.

    Raises:
      ValueError: for scores that are not finite, shapes that differ, messages or weights that do not fit, or a scale
        that is negative or not finite.
    """
    check_numbers(scale=scale)
    before = _law(scores_before, messages, weights, "_before")
    after = _law(scores_after, messages, weights, "_after")
    if before.scores.shape != after.scores.shape:
        raise ValueError(
            f"scores_before and scores_after must have the same atoms, got shapes {np.shape(scores_before)} and "
            f"{np.shape(scores_after)}"
        )
    prior, delta = before.prior, after.scores - before.scores
    paired = float(before.masses @ (after.matched - before.matched))

    def tilt(law: _Law) -> np.ndarray:
        return np.exp(scale * law.scores + np.log(law.masses) - law.log_means(scale)[:, None])

    old = tilt(before)
    old_mean, new_mean = (old * delta).sum(axis=1), (tilt(after) * delta).sum(axis=1)
    lower, upper = (float(scale * (paired - prior @ mean)) for mean in (new_mean, old_mean))
    change = float(scale * paired - prior @ (after.log_means(scale) - before.log_means(scale)))
    variance = float(prior @ (old * (delta - old_mean[:, None]) ** 2).sum(axis=1))
    terms = {
        "lower": lower,
        "upper": upper,
        "first_order": upper,
        "second_order": change - upper,
        "half_variance": -0.5 * scale**2 * variance,
        "change": change,
    }
    return Bracket(lower, upper, terms, scale, (SHARED, "the atoms of both laws correspond one to one"))
