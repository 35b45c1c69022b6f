"""Bounds from a distance and a slope: B1, B2, the paper's theorem 2, and what caps them all."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from gmijax.distances import W1
from gmijax.sensitivity import LipschitzConstant

SHARED = "both laws have the same law of (C, Y)"
LARGEST_EXPONENT = 700.0  # beyond it exp overflows a float64


@dataclass(frozen=True)
class Bound:
    """A bound on how far I(s) can move, in nats.

    Attributes:
      value: the bound on the absolute change; inf where it exceeds a float64.
      kind: "bound", or "index" where a constant in it is not certified: the same formula, without the guarantee.
      terms: its parts by name.
      scale: s. Every term grows with s, so that the value holds for all smaller s too (B0: S is to be stated).
      assumptions: what must hold.
    """

    value: float
    kind: Literal["bound", "index"]
    terms: Mapping[str, float]
    scale: float
    assumptions: tuple[str, ...]


def _check(scale: float, lipschitz: LipschitzConstant, *distances: tuple[str, W1, str]) -> Literal["bound", "index"]:
    """Non-negative finite numbers, one space, and each distance conditioned as the theorem asks."""
    numbers = {"scale": scale, "lipschitz": lipschitz.value} | {name: d.value for name, d, _ in distances}
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number >= 0, got {value}")
    for name, distance, given in distances:
        if distance.given != given:
            raise ValueError(
                f"{name} is a distance given {distance.given!r} and the theorem needs one given {given!r}; "
                "neither may be put in the other's place"
            )
        if distance.space != lipschitz.space:
            raise ValueError(
                f"{name} was taken in {distance.space!r} and the slope in {lipschitz.space!r}: "
                "a distance and a slope of two spaces do not combine"
            )
    return "bound" if lipschitz.kind == "certified" else "index"


def consistent(distance: W1, diameter: float) -> bool:
    """Whether a transport distance fits into a support of this diameter; W1 > D is impossible in one space."""
    return distance.value <= diameter * (1 + 1e-9)


def messages(scale: float, lipschitz: LipschitzConstant, w1: W1) -> Bound:
    """B1, over messages and for the LM rate: |dI_msg(s)| <= 2 s L E W1, sharp and without an exponential.

    Args:
      scale: s; for suprema over s <= S, and for the LM rate, S.
      lipschitz: of l in z, on a convex set that holds both supports.
      w1: E W1 between the laws of Z given (C, Y), labelled `given="(c, y)"`.

    Returns:
      The bound, nats.

    Raises:
      ValueError: for numbers that are negative or not finite, another conditioning, or two spaces.
    """
    kind = _check(scale, lipschitz, ("w1", w1, "(c, y)"))
    value = 2 * scale * lipschitz.value * w1.value
    return Bound(value, kind, {"2 s L E W1": value}, scale, (SHARED, "L holds on a convex set with both supports"))


def inputs(
    scale: float,
    lipschitz: LipschitzConstant,
    w1_given_y: W1,
    w1_given_c: W1,
    diameter: float,
    *,
    w_inf: float | None = None,
) -> Bound:
    """B2, over inputs: a direct and a competition term, each the smallest of its valid forms.

    |dI(s)| <= s L min(W1|y, D) + min(log(1 + s L e^{sLD} W1|c), s L W_inf|c, s L D).

    Args:
      scale: s.
      lipschitz: of l in z, on a convex set of diameter D that holds both supports.
      w1_given_y: E W1 given (C, Y), labelled `given="(c, y)"`.
      w1_given_c: E W1 given C, labelled `given="c"`.
      diameter: D.
      w_inf: the bottleneck distance given C, if known.

    Returns:
      The bound, nats; `terms` has every form of the competition term.

    Raises:
      ValueError: as `messages`.
    """
    kind = _check(scale, lipschitz, ("w1_given_y", w1_given_y, "(c, y)"), ("w1_given_c", w1_given_c, "c"))
    if not (math.isfinite(diameter) and diameter >= 0):
        raise ValueError(f"diameter must be a finite number >= 0, got {diameter}")
    slope = scale * lipschitz.value
    direct = slope * min(w1_given_y.value, diameter)
    # log(1 + e^a) without overflow, a = log(s L W1) + s L D.
    exponent = slope * diameter + (math.log(slope * w1_given_c.value) if slope * w1_given_c.value > 0 else -math.inf)
    forms = {"competition, W1": float(np.logaddexp(0, exponent)), "competition, range": slope * diameter}
    if w_inf is not None:
        forms["competition, W_inf"] = slope * w_inf
    competition = min(forms.values())
    terms = {"direct": direct, "competition": competition} | forms
    assumptions = (SHARED, "L and D hold on a convex set with both supports")
    return Bound(direct + competition, kind, terms, scale, assumptions)


def paper(lipschitz: LipschitzConstant, diameter: float, w1: W1) -> Bound:
    """Theorem 2 of arXiv:2602.23136 as printed: (1 + e^{LD}) L E W1, for its equation 3 at s = 1.

    Vacuous wherever L D is large: scores in [-R, 0] move equation 3 by at most R. `terms["log10"]` is its decimal
    logarithm, finite where the value is not.

    Args:
      lipschitz: L.
      diameter: D.
      w1: E W1 given (C, Y), which the theorem needs (the paper reports a pooled one, which is smaller).

    Returns:
      The right-hand side, nats.

    Raises:
      ValueError: as `messages`.
    """
    kind = _check(1.0, lipschitz, ("w1", w1, "(c, y)"))
    exponent, product = lipschitz.value * diameter, lipschitz.value * w1.value
    log = float(np.logaddexp(0, exponent)) + (math.log(product) if product > 0 else -math.inf)
    value = math.exp(log) if log < LARGEST_EXPONENT else math.inf
    return Bound(value, kind, {"log10": log / math.log(10), "L W1": product}, 1.0, (SHARED,))


def caps(scale: float, scores_text: ArrayLike, scores_modal: ArrayLike, entropy: float) -> dict[str, float]:
    """What no shift can exceed: 2 s R for I(s), R the range of the scores, and H(Y | C) for the supremum over s.

    Args:
      scale: s.
      scores_text: all scores under the text law, any shape.
      scores_modal: all scores under the modal law, any shape.
      entropy: min(H(Y | C), H(Z | C)), nats.

    Returns:
      `change` (2 s R), `rate` (the entropy) and `paper` (R, the cap on equation 3).
    """
    everything = [np.asarray(scores, np.float64) for scores in (scores_text, scores_modal)]
    spread = max(scores.max() for scores in everything) - min(scores.min() for scores in everything)
    return {"change": 2 * scale * float(spread), "rate": entropy, "paper": float(spread)}
