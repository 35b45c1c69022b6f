"""Bounds that need only scores: B3 and B4 between two laws, B6 of an edit. Certified without L, D or a distance."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete
from gmijax.bounds._kernels import Law, coupled_shift, edit, inputs_shift, messages_shift
from gmijax.bounds._result import SHARED, SHARED_CONTEXTS, Bound, Bracket, check_numbers

SAME_SHARES = 1e-9
LABELS = {
    "by_w1": "competition, W1",
    "by_w_inf": "competition, W_inf",
    "by_w2": "competition, W2",
    "message_law": "message law",
}
Parts = TypeVar("Parts", bound=tuple)


def _holds(condition: Callable[[np.ndarray], Any], values: Any) -> bool:
    """Whether all values satisfy a condition; values that cannot be seen are given the benefit of the doubt."""
    return not is_concrete(values) or bool(np.all(condition(np.asarray(values))))


def _law(scores: Any, messages: Any, weights: Any, suffix: str) -> Law:
    """A checked law."""
    scores = scores if isinstance(scores, Tracer) else np.asarray(scores)
    if scores.ndim != 2 or not scores.size or not _holds(lambda x: np.isfinite(x.astype(np.float64)), scores):
        raise ValueError(f"scores{suffix} must be a finite matrix (messages, atoms), got shape {scores.shape}")
    count, atoms = scores.shape
    if messages is None:
        if count != atoms:
            raise ValueError(
                f"messages{suffix} may be left out only where column j carries message j; scores{suffix} have "
                f"{count} messages and {atoms} atoms: name the message of each atom"
            )
        messages = np.arange(atoms)
    carried: Any = messages if isinstance(messages, Tracer) else np.asarray(messages)
    integers = carried.shape == (atoms,) and np.issubdtype(carried.dtype, np.integer)
    if not integers or not _holds(lambda x: (x >= 0) & (x < count), carried):
        raise ValueError(
            f"messages{suffix} must name the message of each of the {atoms} atoms by integers from 0 to {count - 1}, "
            f"got shape {carried.shape} and type {carried.dtype}"
        )
    if weights is None:
        weights = np.ones(atoms)
    masses: Any = weights if isinstance(weights, Tracer) else np.asarray(weights, np.float64)
    if masses.shape != (atoms,) or not _holds(lambda x: np.isfinite(x) & (x >= 0) & (x.sum() > 0), masses):
        raise ValueError(
            f"weights{suffix} must be ({atoms},), one an atom, finite and >= 0 with a positive sum; "
            f"got shape {masses.shape}"
        )
    return Law(scores, carried, masses / masses.sum())


def _evaluate(kernel: Callable[..., Parts], first: Law, second: Law, scale: Any, **options: bool) -> Parts:
    """The kernel in float64 with plain numbers where values can be seen; under a trace, in the traced dtype."""
    if is_concrete(*first, *second, scale):
        laws = (law._replace(scores=np.asarray(law.scores, np.float64)) for law in (first, second))
        with jax.enable_x64(True):
            return jax.tree.map(float, kernel(*laws, np.float64(scale), **options))
    dtype = jnp.result_type(first.scores, second.scores, scale, jnp.float32)
    laws = [
        Law(jnp.asarray(law.scores, dtype), jnp.asarray(law.carried), jnp.asarray(law.masses, dtype))
        for law in (first, second)
    ]
    return kernel(*laws, jnp.asarray(scale, dtype), **options)


def _check_scale(scale: Any) -> Any:
    if not is_concrete(scale):
        return scale
    return check_numbers(scale=scale)[0]


def _pair(scores: tuple[Any, Any], messages: tuple[Any, Any], weights: tuple[Any, Any]) -> tuple[Law, Law, bool | None]:
    """Two laws over the same messages, and whether they give these the same shares (None where it cannot be seen)."""
    text, modal = (_law(scores[k], messages[k], weights[k], suffix) for k, suffix in enumerate(("_text", "_modal")))
    if len(text.scores) != len(modal.scores):
        raise ValueError(
            f"scores_text has {len(text.scores)} messages and scores_modal {len(modal.scores)}: rows are messages, "
            "the same ones under both laws"
        )
    if not is_concrete(*text, *modal):
        return text, modal, None
    before, after = (np.bincount(law.carried, law.masses, len(law.scores)) for law in (text, modal))
    return text, modal, bool(np.allclose(before, after, rtol=0, atol=SAME_SHARES))


def score_shift(
    scores_text: ArrayLike,
    scores_modal: ArrayLike,
    messages_text: ArrayLike | None = None,
    messages_modal: ArrayLike | None = None,
    *,
    scale: ArrayLike,
    over: str = "inputs",
    weights_text: ArrayLike | None = None,
    weights_modal: ArrayLike | None = None,
) -> Bound:
    """B3: the change of I(s) between two finite laws of inputs, bounded by the laws of the scores alone.

    Rows are messages and columns inputs, as for `rates.gmi`: `score_shift(text, modal, scale=rate.scale)` compares
    two square matrices whose column j carries message j.

    Over inputs: s E W1(nu+) + E min(log(1 + s W1(nu-) / w), s W_inf(nu-), s rho W2(nu-)), with nu+ the law of l(Z, y)
    given y, nu- the one without; w the smaller mean of e^{s (l - max l)}, at least e^{-s range}; rho^2 the larger
    n / ESS of the alternatives' weights (B4). Exact by sorting, and never above B2. Where the laws give a message
    different shares, E counts what they share and `terms["message law"]` the rest, s osc(l) of it: at most 2 s osc TV.

    Over messages the integrand h depends on all scores of an input, and the change E_M h - E_T h is exact;
    `terms["message law"]` is the part that is due to different shares of the messages.

    One context; for several, average `value` with P(c) at one s. Differentiates, jits and vmaps, then in the traced
    dtype and without looking at values: float64 wants `jax.enable_x64`. Called outright, it computes in float64.

    Args:
      scores_text: l(z, y) of messages and atoms of the text law, shape (messages, atoms), nats.
      scores_modal: likewise under the modal law, shape (messages, other atoms).
      messages_text: the message that each atom of the text law carries, shape (atoms,); j for column j where None.
      messages_modal: likewise for the modal law.
      scale: s.
      over: "inputs" or "messages".
      weights_text: masses of the atoms of the text law, shape (atoms,), >= 0; equal where None.
      weights_modal: likewise for the modal law.

    Returns:
      A `Bound`, nats: of kind "bound" over inputs, with the means of all forms in `terms`, and "exact" over messages.

    Raises:
      ValueError: for scores that are not finite, messages or weights that do not fit, or a scale that is negative or
        not finite.
    """
    scale = _check_scale(scale)
    if over not in ("inputs", "messages"):
        raise ValueError(f"over must be 'inputs' or 'messages', got {over!r}")
    text, modal, shared = _pair(
        (scores_text, scores_modal), (messages_text, messages_modal), (weights_text, weights_modal)
    )
    assumptions = (SHARED if shared else SHARED_CONTEXTS,)
    if over == "messages":
        exact = _evaluate(messages_shift, text, modal, scale)
        return Bound(abs(exact.change), "exact", _named(exact), scale, assumptions)
    uniform = weights_text is None and weights_modal is None
    parts = _named(_evaluate(inputs_shift, text, modal, scale, uniform=uniform))
    return Bound(parts.pop("value"), "bound", parts, scale, assumptions)


def _named(parts: Any) -> dict[str, Any]:
    return {LABELS.get(name) or name: value for name, value in parts._asdict().items()}


def shift_bracket(
    scores_text: ArrayLike,
    scores_modal: ArrayLike,
    messages_text: ArrayLike | None = None,
    messages_modal: ArrayLike | None = None,
    *,
    scale: ArrayLike,
    weights_text: ArrayLike | None = None,
    weights_modal: ArrayLike | None = None,
) -> Bracket:
    """B4: the change of I(s) over inputs between two laws whose atoms need not correspond, as a bracket.

    The competition term B(y) = log E e^{s l(Z, y)} is sandwiched by tilted means over any coupling of the two laws;
    the one taken here joins equal quantiles of each message's scores. With d = l(Z_M, y) - l(Z_T, y) along it:
    s E_{tilt by Z_T} d <= B_M - B_T <= s E_{tilt by Z_M} d. The direct term is exact.

    Args:
      scores_text: as for `score_shift`.
      scores_modal: as for `score_shift`.
      messages_text: as for `score_shift`.
      messages_modal: as for `score_shift`. Every message must have the same share under both laws.
      scale: s.
      weights_text: as for `score_shift`.
      weights_modal: as for `score_shift`.

    Returns:
      The bracket; `terms` has `change`, its parts `direct` and `competition`, and the sandwich of the latter,
      `competition, lower` and `competition, upper`.

    Raises:
      ValueError: as `score_shift`, and for different shares of the messages (under a trace these are not seen).
    """
    scale = _check_scale(scale)
    text, modal, shared = _pair(
        (scores_text, scores_modal), (messages_text, messages_modal), (weights_text, weights_modal)
    )
    if shared is False:
        raise ValueError("the two laws must give the same messages the same shares: the bracket assumes one law of Y")
    parts = _evaluate(coupled_shift, text, modal, scale)
    terms = {
        "change": parts.direct - parts.competition,
        "direct": parts.direct,
        "competition": parts.competition,
        "competition, lower": parts.lower,
        "competition, upper": parts.upper,
    }
    return Bracket(parts.direct - parts.upper, parts.direct - parts.lower, terms, scale, (SHARED,))


def edit_bracket(
    scores_before: ArrayLike,
    scores_after: ArrayLike,
    messages: ArrayLike | None = None,
    *,
    scale: ArrayLike,
    weights: ArrayLike | None = None,
) -> Bracket:
    """B6: any edit z -> T(z) changes I(s) over inputs by an amount between two tilted means of the score change.

    With delta = l(Tz, y) - l(z, y): s (E delta - E_tilt_new delta) <= dI(s) <= s (E delta - E_tilt_old delta). The
    upper end is the first-order term, zero at a matched decoder and s = 1; what is below it is always a loss, which B7
    brackets by phi(-+R) E Var_tilt_old(s delta), R the range of s delta and phi(r) = (e^r - 1 - r) / r^2.

    Args:
      scores_before: l(z, y) of messages and atoms, shape (messages, atoms), nats.
      scores_after: l(Tz, y) of the same atoms in the same order.
      messages: the message that each atom carries, shape (atoms,); j for column j where None.
      scale: s.
      weights: masses of the atoms, shape (atoms,), >= 0; equal where None.

    Returns:
      The bracket; `terms` has `change`, the change itself; `first_order`, the mismatch term, which is the upper end;
      `second_order`, what is left of the change; `half_variance`, its leading part -s^2 / 2 E Var_tilt_old(delta);
      `second_order, lower` and `second_order, upper`, B7's ends of it.

    Raises:
      ValueError: for scores that are not finite, shapes that differ, messages or weights that do not fit, or a scale
        that is negative or not finite.
    """
    scale = _check_scale(scale)
    before = _law(scores_before, messages, weights, "_before")
    after = _law(scores_after, messages, weights, "_after")
    if np.shape(scores_before) != np.shape(scores_after):
        raise ValueError(
            f"scores_before and scores_after must have the same atoms, got shapes {np.shape(scores_before)} and "
            f"{np.shape(scores_after)}"
        )
    parts = _evaluate(edit, before, after, scale)
    terms = {
        "change": parts.change,
        "first_order": parts.upper,
        "second_order": parts.change - parts.upper,
        "half_variance": parts.half_variance,
        "second_order, lower": parts.second_order_lower,
        "second_order, upper": parts.second_order_upper,
    }
    assumptions = (SHARED, "the atoms of both laws correspond one to one")
    return Bracket(parts.lower, parts.upper, terms, scale, assumptions)
