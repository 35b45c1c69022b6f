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
CONVEX = "L and D hold on a convex set with both supports"
LARGEST_EXPONENT = 700.0  # beyond it exp overflows a float64


@dataclass(frozen=True)
class Bound:
    """A bound on how far I(s) can move, in nats.

    Attributes:
      value: the bound on the absolute change; inf where it exceeds a float64.
      kind: "bound"; "index" where a constant in it is not certified: the same formula, without the guarantee; or
        "exact", the change itself.
      terms: its parts by name.
      scale: s. Bounds and indices grow with s, so that they hold for all smaller s too, and for the change of the
        supremum where s is at least both laws' s* (B0). An exact change says nothing about other scales.
      assumptions: what must hold.
    """

    value: float
    kind: Literal["bound", "index", "exact"]
    terms: Mapping[str, float]
    scale: float
    assumptions: tuple[str, ...]


def check_numbers(**numbers: float) -> None:
    """Finite numbers >= 0, by name."""
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must be a finite number >= 0, got {value}")


def _check_distance(name: str, distance: W1, given: str, lipschitz: LipschitzConstant) -> None:
    """The slope and a distance in one space, the distance conditioned as the theorem asks."""
    check_numbers(**{"lipschitz": lipschitz.value, name: distance.value})
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


def _kind(lipschitz: LipschitzConstant, diameter: float = math.inf, *distances: W1) -> Literal["bound", "index"]:
    certified = lipschitz.kind == "certified" and all(consistent(distance, diameter) for distance in distances)
    return "bound" if certified else "index"


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def consistent(distance: W1, diameter: float) -> bool:
    """Whether a transport distance fits into a support of this diameter; W1 > D is impossible in one space."""
    return bool(distance.value <= diameter * (1 + 1e-9))


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
    check_numbers(scale=scale)
    _check_distance("w1", w1, "(c, y)", lipschitz)
    value = 2 * scale * lipschitz.value * w1.value
    assumptions = (SHARED, "L holds on a convex set with both supports")
    return Bound(value, _kind(lipschitz), {"2 s L E W1": value}, scale, assumptions)


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

    |dI(s)| <= s L min(W1|y, D) + min(log(1 + s L e^{sLD} W1|c), s L W_inf|c, s L D). At s = 1, and where W1|c does not
    exceed W1|y (it never does between the laws themselves), it is at most the paper's form.

    Args:
      scale: s.
      lipschitz: of l in z, on a convex set of diameter D that holds both supports.
      w1_given_y: E W1 given (C, Y), labelled `given="(c, y)"`.
      w1_given_c: E W1 given C, labelled `given="c"`.
      diameter: D, of a set that holds both supports. A sample's diameter is a lower estimate.
      w_inf: E W_inf given C, if known. A sample's is a lower estimate.

    Returns:
      The bound, nats; `terms` has every form of the competition term. An index also where a W1 exceeds D.

    Raises:
      ValueError: as `messages`.
    """
    check_numbers(scale=scale, diameter=diameter, w_inf=0.0 if w_inf is None else w_inf)
    _check_distance("w1_given_y", w1_given_y, "(c, y)", lipschitz)
    _check_distance("w1_given_c", w1_given_c, "c", lipschitz)
    slope = scale * lipschitz.value
    direct = slope * min(w1_given_y.value, diameter)
    forms = {
        "competition, W1": float(np.logaddexp(0, slope * diameter + _log(slope * w1_given_c.value))),
        "competition, range": slope * diameter,
    }
    if w_inf is not None:
        forms["competition, W_inf"] = slope * w_inf
    competition = min(forms.values())
    terms = {"direct": direct, "competition": competition} | forms
    kind = _kind(lipschitz, diameter, w1_given_y, w1_given_c)
    return Bound(direct + competition, kind, terms, scale, (SHARED, CONVEX))


def paper(lipschitz: LipschitzConstant, diameter: float, w1: W1) -> Bound:
    """Theorem 2 of arXiv:2602.23136 as printed: (1 + e^{LD}) L E W1, for its equation 3 at s = 1.

    Vacuous wherever L D is large: scores in [-R, 0] move equation 3 by at most R. `terms["log10"]` is its decimal
    logarithm, finite where the value is not.

    Args:
      lipschitz: L.
      diameter: D.
      w1: E W1 given (C, Y), which the theorem needs (the paper reports a pooled one, which is smaller).

    Returns:
      The right-hand side, nats. An index also where W1 exceeds D.

    Raises:
      ValueError: as `messages`.
    """
    check_numbers(diameter=diameter)
    _check_distance("w1", w1, "(c, y)", lipschitz)
    product = lipschitz.value * w1.value
    log = float(np.logaddexp(0, lipschitz.value * diameter)) + _log(product)
    value = math.exp(log) if log < LARGEST_EXPONENT else math.inf
    terms = {"log10": log / math.log(10), "L W1": product}
    return Bound(value, _kind(lipschitz, diameter, w1), terms, 1.0, (SHARED, CONVEX))


def caps(scale: float, scores_text: ArrayLike, scores_modal: ArrayLike, entropy: float) -> dict[str, float]:
    """What no shift can exceed, whatever the distance.

    Args:
      scale: s.
      scores_text: all scores under the text law, any shape.
      scores_modal: all scores under the modal law, any shape.
      entropy: min(H(Y | C), H(Z | C)) in nats, the logarithm of the number of atoms standing in for H(Z | C).

    Returns:
      `change`: 2 s R for I(s), R the range of the scores. `rate`: the entropy, for the supremum over s.
      `paper`: min(R, R^2 / 8) for equation 3, which lies in [-min(R, R^2 / 8), 0].

    Raises:
      ValueError: for scores that are missing or not finite, or a scale or entropy that is negative or not finite.
    """
    check_numbers(scale=scale, entropy=entropy)
    tables = {"scores_text": np.asarray(scores_text), "scores_modal": np.asarray(scores_modal)}
    for name, table in tables.items():
        if not table.size or not np.isfinite(table).all():
            raise ValueError(f"{name} must hold finite scores, got shape {table.shape}")
    spread = float(max(t.max() for t in tables.values())) - float(min(t.min() for t in tables.values()))
    return {"change": 2 * scale * spread, "rate": entropy, "paper": min(spread, spread**2 / 8)}
