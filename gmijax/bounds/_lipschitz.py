"""From a distance and a slope to a bound: B1, B2, B5, the paper's theorems, B0, and what caps them all."""

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gmijax.bounds._consistency import Distance, check_distance, demotions
from gmijax.bounds._result import CONVEX, SHARED, SHARED_CONTEXTS, Bound, check_numbers
from gmijax.sensitivity import LipschitzConstant

LARGEST_EXPONENT = 700.0  # beyond it exp overflows a float64
ON_SUPPORTS = "L holds on a convex set with both supports"
PAPER_FORMS = {
    "theorem 2": CONVEX,
    "support-restricted": "L and D are taken on both supports, and the segments between their points stay in them",
    "probe": "L is the probe's, and D holds on a convex set with both supports",
}


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _exp(value: float) -> float:
    return math.exp(value) if value < LARGEST_EXPONENT else math.inf


def _message_laws(scale: float, total_variation: Any, oscillation: Any) -> tuple[float, float]:
    """TV between the laws of (C, Y), and s osc(l), which is needed where it is not 0."""
    variation, swing = check_numbers(
        total_variation=total_variation, oscillation=0.0 if oscillation is None else oscillation
    )
    if variation > 1:
        raise ValueError(f"total_variation must lie in [0, 1], got {variation}")
    if variation and oscillation is None:
        raise ValueError(
            f"total_variation is {variation}: two laws of (C, Y) cost up to 2 s osc(l) TV; give the oscillation of l"
        )
    return variation, scale * swing


def messages(
    scale: ArrayLike,
    lipschitz: LipschitzConstant,
    w1: Distance,
    *,
    total_variation: ArrayLike = 0.0,
    oscillation: ArrayLike | None = None,
) -> Bound:
    """B1, over messages and for the LM rate: |dI_msg(s)| <= 2 s L E W1, sharp and without an exponential.

    Where the laws of Y differ, `2 s osc TV + log(1 + TV (e^{s osc} - 1))` is added, the second part for the
    alternatives' law; the LM rate, whose biases have no range, is then not covered.

    Args:
      scale: s; for suprema over s <= S, and for the LM rate, S.
      lipschitz: of l in z, on a convex set that holds both supports.
      w1: E W1 between the laws of Z given (C, Y), labelled `given="(c, y)"`.
      total_variation: TV between the two laws of (C, Y), in [0, 1]; both must have one law of C.
      oscillation: max l - min l over all inputs and messages; needed where `total_variation` is not 0.

    Returns:
      The bound, nats.

    Raises:
      ValueError: for numbers that are negative or not finite, another conditioning, or two spaces.
    """
    (scale,) = check_numbers(scale=scale)
    variation, swing = _message_laws(scale, total_variation, oscillation)
    moved = check_distance("w1", w1, "(c, y)", lipschitz)
    terms = {"2 s L E W1": 2 * scale * float(lipschitz.value) * moved}
    if variation:
        # log(1 + TV (e^x - 1)); beyond the largest exponent the 1 - TV beside it is lost anyway.
        growth = math.expm1(swing) if swing < LARGEST_EXPONENT else math.inf
        alternatives = min(swing, math.log1p(variation * growth))
        terms["message law"] = 2 * swing * variation + alternatives
    kind, problems = demotions(lipschitz, w1=w1)
    assumptions = (SHARED_CONTEXTS if variation else SHARED, ON_SUPPORTS, *getattr(lipschitz, "assumptions", ()))
    return Bound(sum(terms.values()), kind, terms, scale, assumptions, problems)


def _over_inputs(
    scale: float,
    lipschitz: LipschitzConstant,
    diameter: float | None,
    distances: dict[str, Distance],
    direct: float,
    forms: dict[str, float],
    message_law: tuple[float, float],
    assumption: str,
) -> Bound:
    """The direct term, the smallest form of the competition term, and what two laws of (C, Y) cost."""
    variation, swing = message_law
    parts = {"direct": direct, "competition": min(forms.values())}
    if variation:
        parts["message law"] = 2 * swing * variation
    kind, problems = demotions(lipschitz, diameter, **distances)
    assumptions = (SHARED_CONTEXTS if variation else SHARED, assumption, *getattr(lipschitz, "assumptions", ()))
    return Bound(sum(parts.values()), kind, parts | forms, scale, assumptions, problems)


def inputs(
    scale: ArrayLike,
    lipschitz: LipschitzConstant,
    w1_given_y: Distance,
    w1_given_c: Distance,
    diameter: ArrayLike,
    *,
    w_inf: ArrayLike | None = None,
    total_variation: ArrayLike = 0.0,
    oscillation: ArrayLike | None = None,
) -> Bound:
    """B2, over inputs: a direct and a competition term, each the smallest of its valid forms.

    |dI(s)| <= s L min(W1|y, D) + min(log(1 + s L e^{sLD} W1|c), s L W_inf|c, s L D) + 2 s osc(l) TV. At s = 1, where
    the laws of Y agree and W1|c does not exceed W1|y (it never does between the laws themselves), it is at most the
    paper's form.

    Args:
      scale: s.
      lipschitz: of l in z, on a convex set of diameter D that holds both supports.
      w1_given_y: E W1 given (C, Y), labelled `given="(c, y)"`.
      w1_given_c: E W1 given C, labelled `given="c"`.
      diameter: D, of a set that holds both supports. A sample's diameter is a lower estimate.
      w_inf: E W_inf given C, if known. A sample's is a lower estimate.
      total_variation: TV between the two laws of (C, Y), in [0, 1].
      oscillation: max over messages of max l - min l over inputs; needed where `total_variation` is not 0.

    Returns:
      The bound, nats; `terms` has every form of the competition term. An index also where a W1 exceeds D.

    Raises:
      ValueError: as `messages`.
    """
    scale, diameter, farthest = check_numbers(scale=scale, diameter=diameter, w_inf=0.0 if w_inf is None else w_inf)
    message_law = _message_laws(scale, total_variation, oscillation)
    given_y = check_distance("w1_given_y", w1_given_y, "(c, y)", lipschitz)
    given_c = check_distance("w1_given_c", w1_given_c, "c", lipschitz)
    slope = scale * float(lipschitz.value)
    forms = {
        "competition, W1": float(np.logaddexp(0, slope * diameter + _log(slope * given_c))),
        "competition, range": slope * diameter,
    }
    if w_inf is not None:
        forms["competition, W_inf"] = slope * farthest
    distances = {"w1_given_y": w1_given_y, "w1_given_c": w1_given_c}
    direct = slope * min(given_y, diameter)
    return _over_inputs(scale, lipschitz, diameter, distances, direct, forms, message_law, CONVEX)


def sub_gaussian(
    scale: ArrayLike,
    lipschitz: LipschitzConstant,
    sigma: ArrayLike,
    w1_given_y: Distance,
    w1_given_c: Distance,
    *,
    w2_given_c: Distance | None = None,
    total_variation: ArrayLike = 0.0,
    oscillation: ArrayLike | None = None,
) -> Bound:
    """B5, over inputs and without a diameter: sigma is of order 1 where D grows like the root of the dimension.

    |dI(s)| <= s L W1|y + min(s L W1|c + (s L sigma)^2 / 2, s L e^{(s L sigma)^2} W2|c). The first form does not vanish
    as the laws meet, the second does. Equality: Gaussian laws and a score linear in z.

    Args:
      scale: s.
      lipschitz: of l in z.
      sigma: both laws of Z given C satisfy log E e^{t (g - E g)} <= t^2 sigma^2 / 2 for every 1-Lipschitz g and real t
        (T1(sigma^2); Bobkov and Goetze 1999, DOI 10.1006/jfan.1998.3326). For a Gaussian, the root of the largest
        eigenvalue of its covariance.
      w1_given_y: E W1 given (C, Y), labelled `given="(c, y)"`.
      w1_given_c: E W1 given C, labelled `given="c"`.
      w2_given_c: E W2 given C, labelled `given="c"`, if known.
      total_variation: TV between the two laws of (C, Y), in [0, 1].
      oscillation: as for `inputs`.

    Returns:
      The bound, nats; `terms` has both forms of the competition term.

    Raises:
      ValueError: as `messages`.
    """
    scale, sigma = check_numbers(scale=scale, sigma=sigma)
    message_law = _message_laws(scale, total_variation, oscillation)
    distances = {"w1_given_y": w1_given_y, "w1_given_c": w1_given_c}
    given_y = check_distance("w1_given_y", w1_given_y, "(c, y)", lipschitz)
    given_c = check_distance("w1_given_c", w1_given_c, "c", lipschitz)
    slope = scale * float(lipschitz.value)
    spread = (slope * sigma) ** 2
    forms = {"competition, W1": slope * given_c + spread / 2}
    if w2_given_c is not None:
        distances["w2_given_c"] = w2_given_c
        farther = check_distance("w2_given_c", w2_given_c, "c", lipschitz)
        forms["competition, W2"] = _exp(spread + _log(slope * farther))
    assumption = "both laws of Z given C satisfy T1(sigma^2)"
    return _over_inputs(scale, lipschitz, None, distances, slope * given_y, forms, message_law, assumption)


def paper(lipschitz: LipschitzConstant, diameter: ArrayLike, w1: Distance, *, form: str = "theorem 2") -> Bound:
    """The right-hand side of arXiv:2602.23136 as printed: (1 + e^{LD}) L E W1, for its equation 3 at s = 1.

    Vacuous wherever L D is large: scores in [-R, 0] move equation 3 by at most R. `terms["log10"]` is its decimal
    logarithm, finite where the value is not. Its three forms differ in where L and D are taken: anywhere
    ("theorem 2"), on both supports alone ("support-restricted"), or for a probe's log-probability in the decoder's
    place ("probe", its theorem 3).

    Args:
      lipschitz: L, of the decoder's score, or the probe's.
      diameter: D.
      w1: E W1 given (C, Y), which the theorem needs (the paper reports a pooled one, which is smaller).
      form: which of them; it changes what is assumed.

    Returns:
      The right-hand side, nats. An index also where W1 exceeds D.

    Raises:
      ValueError: as `messages`, or for another form.
    """
    if form not in PAPER_FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, PAPER_FORMS))}, got {form!r}")
    (diameter,) = check_numbers(diameter=diameter)
    product = float(lipschitz.value) * check_distance("w1", w1, "(c, y)", lipschitz)
    log = float(np.logaddexp(0, float(lipschitz.value) * diameter)) + _log(product)
    terms = {"log10": log / math.log(10), "L W1": product}
    kind, problems = demotions(lipschitz, diameter, w1=w1)
    return Bound(_exp(log), kind, terms, 1.0, (SHARED, PAPER_FORMS[form]), problems)


def supremum(bound: Bound, *, scale_text: ArrayLike, scale_modal: ArrayLike) -> Bound:
    """B0: what holds for I(s) at every s <= S holds for the change of the GMI, if both s* are at most S.

    Args:
      bound: from any function of this room that returns one, made at s = S.
      scale_text: the text law's s*, such as `rate.scale`.
      scale_modal: the modal law's s*.

    Returns:
      The same figure, for |GMI_M - GMI_T|.

    Raises:
      ValueError: if an s* exceeds S or is infinite, or `bound` is an exact change at one scale.
    """
    if bound.kind == "exact":
        raise ValueError("bound is an exact change at one scale and says nothing of the others; compare the rates")
    for name, value in (("scale_text", scale_text), ("scale_modal", scale_modal)):
        (best,) = check_numbers(**{name: value})
        if best > bound.scale:
            raise ValueError(f"{name} is {best:g} and the bound was made for s <= {bound.scale:g}: raise S")
    return dataclasses.replace(
        bound, assumptions=(*bound.assumptions, f"both maximising scales are at most S = {bound.scale:g}")
    )


def caps(scale: ArrayLike, scores_text: ArrayLike, scores_modal: ArrayLike, entropy: ArrayLike) -> dict[str, float]:
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
    scale, entropy = check_numbers(scale=scale, entropy=entropy)
    tables = {"scores_text": np.asarray(scores_text), "scores_modal": np.asarray(scores_modal)}
    for name, table in tables.items():
        if not table.size or not np.isfinite(table).all():
            raise ValueError(f"{name} must hold finite scores, got shape {table.shape}")
    spread = float(max(t.max() for t in tables.values())) - float(min(t.min() for t in tables.values()))
    return {"change": 2 * scale * spread, "rate": entropy, "paper": min(spread, spread**2 / 8)}
