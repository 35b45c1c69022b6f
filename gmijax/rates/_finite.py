"""Exact rates of a mismatched decoder on finite alphabets (THEORY.md, section 1)."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

from gmijax.rates._calibration import fit_calibration
from gmijax.rates._scale import Curve, maximise_scale

Over = Literal["inputs", "messages"]


class ExactRate(NamedTuple):
    """A GMI in nats.

    Attributes:
      value: sup over s >= 0 of I(s).
      scale: its argmax; inf where the supremum is only approached (`value` is then the limit).
      at_one: I(1), the decoder as it speaks; may be negative or -inf.
      zero_test: g = I'(0); `value` > 0 if and only if g > 0 (F2). The same number in both directions.
      converged: whether the scale was found to the square root of the dtype's rounding.
    """

    value: Float[Array, ""]
    scale: Float[Array, ""]
    at_one: Float[Array, ""]
    zero_test: Float[Array, ""]
    converged: Bool[Array, ""]


class ExactLMRate(NamedTuple):
    """An LM rate in nats.

    Attributes:
      value: sup over s >= 0 and a(c, .) of the rate with biases; at least both GMIs, at most I(X; Y | C).
      scale: its argmax; inf where the supremum is only approached (`value` is then the limit).
      biases: a(c, y) such that `softmax_y(scale * scores + biases)` is the calibrated decoder; -inf for a
        message of probability 0, and those of the last iterate where `scale` is inf.
      converged: whether the convex fit reached the dtype's rounding.
    """

    value: Float[Array, ""]
    scale: Float[Array, ""]
    biases: Float[Array, "*contexts k_y"]
    converged: Bool[Array, ""]


class _Terms(NamedTuple):
    """What I(s) is made of, the alternatives on axis 1.

    Attributes:
      scores: (contexts, alternatives, others), shifted so that each best possible alternative has 0 (F8).
      log_alternatives: log P(alternative | c), -inf where the score is -inf.
      others: P(c, other), (contexts, others).
      mean_score: E l of the shifted scores.
      zero_test: g.
      impossible: whether the joint law puts mass on a score of -inf: I(s) = -inf for every s > 0.
    """

    scores: jax.Array
    log_alternatives: jax.Array
    others: jax.Array
    mean_score: jax.Array
    zero_test: jax.Array
    impossible: jax.Array


def _as_tables(joint: ArrayLike, scores: ArrayLike) -> tuple[jax.Array, jax.Array]:
    joint, scores = jnp.asarray(joint), jnp.asarray(scores)
    if joint.ndim < 2 or joint.shape != scores.shape:
        raise ValueError(
            f"joint and scores must share one shape (*contexts, k_x, k_y); got {joint.shape} and "
            f"{scores.shape}. Pad contexts of smaller alphabets with zeros in joint."
        )
    dtype = jnp.result_type(joint, scores, jnp.float32)
    return joint.astype(dtype).reshape(-1, *joint.shape[-2:]), scores.astype(dtype).reshape(-1, *joint.shape[-2:])


def _orient(joint: jax.Array, scores: jax.Array, over: Over) -> tuple[jax.Array, jax.Array]:
    if over == "inputs":
        return joint, scores
    if over == "messages":
        return jnp.swapaxes(joint, -1, -2), jnp.swapaxes(scores, -1, -2)
    raise ValueError(f"over must be 'inputs' or 'messages'; got {over!r}.")


def _log(probability: jax.Array) -> jax.Array:
    """The logarithm, -inf at 0, with a gradient of 0 there."""
    positive = probability > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, probability, 1)), -jnp.inf)


def _xlogy(weight: jax.Array, probability: jax.Array) -> jax.Array:
    return weight * jnp.log(jnp.where(weight > 0, probability, 1))


def _terms(joint: jax.Array, scores: jax.Array, alternatives: jax.Array | None = None) -> _Terms:
    """Prepares I(s); `alternatives` (contexts, alternatives) is their law, the joint's own by default."""
    others = jnp.sum(joint, axis=1)
    if alternatives is None:
        context = jnp.sum(others, axis=-1)[:, None]
        alternatives = jnp.sum(joint, axis=-1) / jnp.where(context > 0, context, 1)
    possible = jnp.isfinite(scores)
    present = (alternatives > 0)[:, :, None]
    peak = jnp.max(jnp.where(possible & present, scores, -jnp.inf), axis=1, keepdims=True)
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    shifted = jnp.where(possible & (present | (joint > 0)), scores - peak, 0)
    product = alternatives[:, :, None] * others[:, None, :]
    zero_test = jnp.sum((joint - product) * shifted)
    rounding = 8 * jnp.finfo(joint.dtype).eps * jnp.sum((joint + product) * jnp.where(present, jnp.abs(scores), 0))
    zero_test = jnp.where(jnp.abs(zero_test) <= rounding, 0, zero_test)
    impossible = jnp.any((joint > 0) & ~possible)
    zero_test = jnp.where(jnp.any((product > 0) & ~possible), jnp.inf, zero_test)
    return _Terms(
        scores=shifted,
        log_alternatives=jnp.where(possible, _log(alternatives)[:, :, None], -jnp.inf),
        others=others,
        mean_score=jnp.sum(joint * shifted),
        zero_test=jnp.where(impossible, -jnp.inf, zero_test),
        impossible=impossible,
    )


def _log_mean(terms: _Terms, scale: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The log-mean of exp(s l) over the alternatives, (contexts, others), and the tilted law."""
    # The shift of the scores keeps every exponent at or below 0, with one term at log P: no peak to subtract.
    weights = jnp.exp(terms.log_alternatives + scale * terms.scores)
    total = jnp.sum(weights, axis=1)
    total = jnp.where((terms.others > 0) & (total > 0), total, 1)
    return jnp.log(total), weights / total[:, None, :]


def _curve(terms: _Terms, scale: jax.Array) -> Curve:
    log_mean, tilt = _log_mean(terms, scale)
    mean = jnp.sum(tilt * terms.scores, axis=1)
    variance = jnp.sum(tilt * (terms.scores - mean[:, None, :]) ** 2, axis=1)
    return Curve(
        value=scale * terms.mean_score - jnp.sum(terms.others * log_mean),
        slope=terms.mean_score - jnp.sum(terms.others * mean),
        curvature=-jnp.sum(terms.others * variance),
    )


def _value(terms: _Terms, scale: jax.Array) -> jax.Array:
    """I(s), with 0 * -inf = 0 in I(0)."""
    log_mean, _ = _log_mean(terms, scale)
    value = scale * terms.mean_score - jnp.sum(terms.others * log_mean)
    return jnp.where(scale == 0, 0, jnp.where(terms.impossible, -jnp.inf, value))


def _limit(terms: _Terms) -> jax.Array:
    """The limit of I(s) where no alternative beats the positive: -E log P(tie with the best)."""
    tied = jnp.sum(jnp.where(terms.scores == 0, jnp.exp(terms.log_alternatives), 0), axis=1)
    return -jnp.sum(_xlogy(terms.others, tied))


def _supremum(terms: _Terms) -> ExactRate:
    frozen = lax.stop_gradient(terms)
    at_zero = _curve(frozen, jnp.zeros((), _dtype(frozen)))
    slope = jnp.where(jnp.isfinite(frozen.zero_test), frozen.zero_test, at_zero.slope)
    slope = jnp.where(frozen.impossible, -jnp.inf, slope)
    solution = maximise_scale(lambda scale: _curve(frozen, scale), at_zero._replace(slope=slope), frozen.mean_score)
    finite = jnp.where(jnp.isinf(solution.scale), 1, solution.scale)
    # With scores of -inf, I jumps at 0; `_curve` holds the limit from the right, which the supremum may be.
    value, at_one = lax.map(lambda scale: _curve(terms, scale).value, jnp.stack([finite, jnp.ones_like(finite)]))
    value = jnp.where(jnp.isinf(solution.scale), _limit(terms), value)
    value = jnp.where(terms.zero_test > 0, jnp.maximum(value, 0), 0)
    at_one = jnp.where(terms.impossible, -jnp.inf, at_one)
    return ExactRate(value, solution.scale, at_one, terms.zero_test, solution.converged)


def _dtype(terms: _Terms) -> jnp.dtype:
    """The dtype that the rates of these terms are computed in."""
    return terms.scores.dtype


@jax.jit
def mutual_information(joint: Float[ArrayLike, "*contexts k_x k_y"]) -> Float[Array, ""]:
    """I(X; Y | C) in nats of a joint law P(c, x, y).

    Args:
      joint: non-negative, summing to 1 over all axes; axes before the last two are contexts.

    Returns:
      The conditional mutual information; I(X; Y) for a table of two axes.
    """
    joint, _ = _as_tables(joint, joint)
    context = jnp.sum(joint, axis=(-2, -1), keepdims=True)
    product = jnp.sum(joint, axis=-1, keepdims=True) * jnp.sum(joint, axis=-2, keepdims=True)
    positive = joint > 0
    ratio = jnp.where(positive, joint * context, 1) / jnp.where(positive, product, 1)
    return jnp.sum(joint * jnp.log(ratio))


@functools.partial(jax.jit, static_argnames="over")
def gmi_exact(
    joint: Float[ArrayLike, "*contexts k_x k_y"],
    scores: Float[ArrayLike, "*contexts k_x k_y"],
    *,
    over: Over = "inputs",
    alternatives: Float[ArrayLike, "*leading k"] | None = None,
) -> ExactRate:
    """The generalized mutual information of a decoder on a finite law, one scale for all contexts.

    `sup over s >= 0 of E[s l(C,X,Y) - log E exp(s l)]`, the inner mean over X' ~ P(X | C) ("inputs") or over
    Y' ~ P(Y | C) ("messages"). THEORY.md section 1; Merhav, Kaplan, Lapidoth and Shamai 1994,
    doi:10.1109/18.340469. Jits, vmaps, and differentiates with respect to both tables (the envelope theorem).

    Args:
      joint: P(c, x, y), summing to 1 over all axes; contexts of smaller alphabets padded with zeros.
      scores: l(c, x, y) in nats; -inf means that the decoder gives probability 0.
      over: which variable has the alternatives.
      alternatives: their law, (k,) or (*contexts, k), where it is not the joint's own given the context. The
        result is then not a GMI: pooled over contexts it can exceed I(X; Y | C) (THEORY.md, F10).

    Returns:
      See `ExactRate`. 0 at scale 0 where the joint puts mass on a score of -inf.

    Raises:
      ValueError: the tables differ in shape, or `over` is neither direction.
    """
    joint, scores = _orient(*_as_tables(joint, scores), over)
    if alternatives is not None:
        alternatives = jnp.broadcast_to(jnp.asarray(alternatives, joint.dtype), joint.shape[:-1])
    return _supremum(_terms(joint, scores, alternatives))


@functools.partial(jax.jit, static_argnames="over")
def curve_exact(
    joint: Float[ArrayLike, "*contexts k_x k_y"],
    scores: Float[ArrayLike, "*contexts k_x k_y"],
    scales: Float[ArrayLike, "*s"],
    *,
    over: Over = "inputs",
) -> Float[Array, "*s"]:
    """I(s) in nats at the scales asked for (finite, >= 0); arguments otherwise as `gmi_exact`."""
    terms = _terms(*_orient(*_as_tables(joint, scores), over))
    scales = jnp.asarray(scales, _dtype(terms))
    return lax.map(lambda scale: _value(terms, scale), scales.ravel()).reshape(scales.shape)


@jax.jit
def conditional_gmi_paper_exact(
    joint: Float[ArrayLike, "*contexts k_x k_y"], scores: Float[ArrayLike, "*contexts k_x k_y"]
) -> Float[Array, ""]:
    """Equation 3 of arXiv 2602.23136v1 as written: alternatives X' ~ P(X | C, Y), s = 1.

    It lies in [-R^2 / 8, 0], R the range of the scores, and is 0 for a decoder that ignores X (THEORY.md,
    section 1): it does not measure information. -inf where the joint puts mass on a score of -inf.

    Args:
      joint: P(c, x, y), summing to 1 over all axes.
      scores: l(c, x, y) in nats.

    Returns:
      E[l(C,X,Y) - log E exp(l(C,X',Y))] in nats.
    """
    joint, scores = _as_tables(joint, scores)
    others = jnp.sum(joint, axis=1, keepdims=True)
    possible = jnp.isfinite(scores)
    peak = jnp.max(jnp.where(possible & (joint > 0), scores, -jnp.inf), axis=1, keepdims=True)
    shifted = jnp.where(possible & (joint > 0), scores - jnp.where(jnp.isfinite(peak), peak, 0), 0)
    posterior = joint / jnp.where(others > 0, others, 1)
    inner = jnp.sum(jnp.where(possible, posterior * jnp.exp(shifted), 0), axis=1, keepdims=True)
    value = jnp.sum(joint * shifted) - jnp.sum(_xlogy(others, inner))
    return jnp.where(jnp.any((joint > 0) & ~possible), -jnp.inf, value)


@jax.jit
def lm_rate_exact(
    joint: Float[ArrayLike, "*contexts k_x k_y"], scores: Float[ArrayLike, "*contexts k_x k_y"]
) -> ExactLMRate:
    """The LM rate of a decoder on a finite law: one scale, and one bias a value and context.

    `H(Y | C) - min over s, a of CE(softmax_y(s l + a(c, y)))` (THEORY.md, F7), the same number with the biases
    on x (F6). Csiszar and Narayan, "Channel capacity for a given decoding metric", IEEE Transactions on Information
    Theory 41(1), 1995. Jits, vmaps, and differentiates.

    Args:
      joint: P(c, x, y), summing to 1 over all axes; contexts of smaller alphabets padded with zeros.
      scores: l(c, x, y) in nats; -inf means that the decoder gives probability 0.

    Returns:
      See `ExactLMRate`. Exactly 0 where the zero test g is not positive.

    Raises:
      ValueError: the tables differ in shape.
    """
    contexts = jnp.shape(joint)[:-2]
    joint, scores = _as_tables(joint, scores)
    zero_test = _terms(joint, scores).zero_test
    flip = joint.shape[1] < joint.shape[2]  # biases on the smaller alphabet: a smaller Hessian, the same optimum
    if flip:
        joint, scores = jnp.swapaxes(joint, 1, 2), jnp.swapaxes(scores, 1, 2)
    rows, columns = jnp.sum(joint, axis=2), jnp.sum(joint, axis=1)
    useful = zero_test > 0
    possible = jnp.isfinite(scores)
    fit = fit_calibration(lax.stop_gradient(scores), lax.stop_gradient(joint))
    context = jnp.sum(columns, axis=-1)[:, None]
    share = columns / jnp.where(context > 0, context, 1)
    tilt = jnp.where(jnp.isfinite(fit.biases), fit.biases, 0) - _xlogy(
        jnp.ones_like(share), jnp.where(share > 0, share, 1)
    )
    peak = lax.stop_gradient(jnp.max(jnp.where(possible, scores, -jnp.inf), axis=2, keepdims=True))
    shifted = jnp.where(possible, scores - jnp.where(jnp.isfinite(peak), peak, 0), 0)
    exponent = fit.scale * shifted + tilt[:, None, :]
    logits = jnp.where(possible, exponent + _log(share)[:, None, :], -jnp.inf)
    normaliser = jax.nn.logsumexp(jnp.where((rows > 0)[:, :, None], logits, 0), axis=2)
    value = jnp.sum(jnp.where(joint > 0, joint * (exponent - normaliser[:, :, None]), 0))
    biases = fit.biases
    if flip:  # P(y) exp(-log normaliser) is the bias of the other dual
        share = rows / jnp.where(context > 0, context, 1)
        total = normaliser + fit.scale * jnp.where(jnp.isfinite(peak), peak, 0)[:, :, 0]
        biases = jnp.where(rows > 0, _log(share) - total, -jnp.inf)
    neutral = _log((rows if flip else columns) / jnp.where(context > 0, context, 1))
    scale = jnp.where(fit.separable, jnp.inf, fit.scale)
    return ExactLMRate(
        value=jnp.where(useful, jnp.maximum(value, 0), 0),
        scale=jnp.where(useful, scale, 0),
        biases=jnp.where(useful, biases, neutral).reshape(*contexts, -1),
        converged=fit.converged | ~useful,
    )
