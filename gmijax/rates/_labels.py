"""Rates over K labels, where every alternative is known: exact inner means, nothing to saturate (THEORY.md, F7)."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import check_choice, check_level, is_concrete
from gmijax.rates._calibration import fit_calibration
from gmijax.rates._checks import check_index, check_scores
from gmijax.rates._gmi import ENDLESS
from gmijax.rates._rate import Rate, normal_p_value
from gmijax.rates._scale import Curve, maximise_scale
from gmijax.stats import influence_standard_error, normal_interval, split_in_two

# The Gaussian prior of a cross-fitted bias has this standard deviation, in nats: weak, but a label that one fold has
# never seen keeps its prior instead of an infinite loss.
BIAS_SPREAD = 10.0


class Labelled(NamedTuple):
    """Scores of all labels less the row's largest possible one, the label's own, and the labels' law."""

    scores: Array  # (n, K), -inf where the label has probability 0
    own: Array  # (n,)
    log_prior: Array  # (n, K)


def _arrange(scores: Array, labels: Array, log_prior: Array) -> Labelled:
    possible = jnp.isfinite(log_prior)
    top = jnp.max(jnp.where(possible, scores, -jnp.inf), axis=1, keepdims=True)
    relative = jnp.where(possible, scores - lax.stop_gradient(top), -jnp.inf)
    own = jnp.take_along_axis(relative, labels[:, None], axis=1)[:, 0]
    return Labelled(relative, own, jnp.broadcast_to(log_prior, scores.shape))


def _rows(data: Labelled, scale: Array) -> tuple[Curve, Array]:
    """Each row's s l - log sum_y P(y) e^{s l} with derivatives in s, and the tilted law of the label (n, K)."""
    possible = jnp.isfinite(data.scores)
    scores = jnp.where(possible, data.scores, 0)
    logits = jnp.where(possible, scale[:, None] * scores + data.log_prior, -jnp.inf)
    log_mean = jax.nn.logsumexp(logits, axis=1)
    tilt = jnp.exp(logits - log_mean[:, None])
    mean = jnp.sum(tilt * scores, axis=1)
    variance = jnp.sum(tilt * (scores - mean[:, None]) ** 2, axis=1)
    return Curve(scale * data.own - log_mean, data.own - mean, -variance), tilt


def _zero_test(data: Labelled, labels: Array, shared: bool) -> tuple[Array, Array]:
    """G and its one-sided p-value: label permutations where the law is shared, else a test of a mean."""
    n = labels.shape[0]
    scores = jnp.where(jnp.isfinite(data.scores), data.scores, 0)
    terms = data.own - jnp.sum(jnp.exp(data.log_prior) * scores, axis=1)
    if shared:
        counts = jnp.zeros((scores.shape[1],), scores.dtype).at[labels].add(1)
        centred = scores - (scores @ counts / n)[:, None]
        column = jnp.mean(centred, axis=0)
        variance = jnp.sum(counts[None, :] * (centred - column[None, :]) ** 2) / (n - 1)
        excess = jnp.sum(jnp.take_along_axis(centred, labels[:, None], axis=1))
    else:
        variance, excess = n * jnp.var(terms, ddof=1), jnp.sum(terms)
    z = jnp.where(variance > 0, excess / jnp.sqrt(jnp.where(variance > 0, variance, 1)), -jnp.inf)
    return jnp.mean(terms), normal_p_value(z)


def _folds(labels: Array, dtype) -> tuple[Array, Array]:
    """Membership of the second fold (n,), stratified by label, and both folds' row weights (2, n)."""
    second = split_in_two(labels)
    masks = jnp.stack([~second, second]).astype(dtype)
    return second, masks / jnp.sum(masks, axis=1, keepdims=True)


@partial(jax.jit, static_argnames=("estimated", "cross_fit", "level"))
def _gmi_labels(scores, labels, log_prior, fixed_scale, *, estimated, cross_fit, level) -> Rate:
    n, dtype = scores.shape[0], scores.dtype
    data = _arrange(scores, labels, log_prior)
    frozen = jax.tree.map(lax.stop_gradient, data)

    def solve(weights):
        def averaged(scale_by_row):
            return Curve(*(jnp.sum(weights * part[None, :], axis=1) for part in _rows(frozen, scale_by_row)[0]))

        def curve(scale):
            return averaged(jnp.sum(jnp.where(weights > 0, scale[:, None], 0), axis=0))

        limit = jnp.sum(weights * frozen.own[None, :], axis=1)
        return maximise_scale(curve, averaged(jnp.zeros((n,), dtype)), limit)

    everyone = jnp.full((1, n), 1 / n, dtype)
    if fixed_scale is not None:
        scale, converged = jnp.asarray(fixed_scale, dtype), jnp.asarray(True)
        fold_scales, row_scale = jnp.stack([scale, scale]), jnp.full((n,), scale)
    else:
        whole = solve(everyone)
        scale, converged = whole.scale[0], whole.converged[0]
        fold_scales, row_scale = jnp.stack([scale, scale]), jnp.full((n,), scale)
        if cross_fit:
            second, weights = _folds(labels, dtype)
            fitted = solve(weights)
            fold_scales = jnp.where(jnp.isinf(fitted.scale), scale, fitted.scale)[::-1]
            converged &= jnp.all(fitted.converged)
            row_scale = jnp.where(second, fold_scales[1], fold_scales[0])

    def evaluate(scale_by_row):
        curve, tilt = _rows(data, jnp.minimum(scale_by_row, ENDLESS))
        return curve.value, tilt

    terms, tilt = evaluate(row_scale)
    value = jnp.mean(terms)
    influence = terms - value
    if estimated:  # the empirical prior is estimated from the same rows: rho(y) - 1, as for sampled alternatives
        prior = jnp.exp(log_prior)
        hub = jnp.mean(tilt, axis=0) / jnp.where(prior > 0, prior, 1)
        influence = influence - (hub[labels] - 1)
    standard_error = influence_standard_error(influence)
    zero, p_value = _zero_test(data, labels, log_prior.ndim == 1)
    return Rate(
        value=value,
        standard_error=standard_error,
        interval=normal_interval(value, standard_error, level=level),
        scale=scale,
        fold_scales=fold_scales,
        in_sample=jnp.mean(evaluate(jnp.full((n,), scale))[0]),
        at_one=jnp.mean(evaluate(jnp.ones((n,), dtype))[0]),
        zero_test=zero,
        p_value=p_value,
        saturated=jnp.asarray(False),
        converged=converged,
        influence=influence,
        alternatives=None,
        biases=None,
        n=n,
        level=level,
        method="gmi over known alternatives",
    )


@partial(jax.jit, static_argnames=("cross_fit", "level"))
def _lm_rate(scores, labels, log_prior, *, cross_fit, level) -> Rate:
    (n, k), dtype = scores.shape, scores.dtype
    data = _arrange(scores, labels, log_prior)
    target = jax.nn.one_hot(labels, k, dtype=dtype)
    surprise = -log_prior[labels]
    whole = fit_calibration(scores, target / n, log_prior=log_prior)
    scale = jnp.where(whole.separable, jnp.inf, whole.scale)
    in_sample = jnp.mean(surprise) - whole.loss

    def terms(scale, biases):
        logits = scale * scores + (biases + log_prior)[None, :]
        return jnp.sum(jnp.where(target > 0, jax.nn.log_softmax(logits, axis=1), 0), axis=1) + surprise

    if cross_fit:
        second, weights = _folds(labels, dtype)
        ridge = jnp.asarray(2 / (n * BIAS_SPREAD**2), dtype)
        fit = jax.vmap(lambda w: fit_calibration(scores, target * w[:, None], log_prior=log_prior, ridge=ridge))
        fitted = fit(weights)
        by_fold = jax.vmap(terms)(fitted.scale, fitted.biases)
        rows = jnp.where(second, by_fold[0], by_fold[1])  # each fold is evaluated with the other's fit
        fold_scales, converged = fitted.scale[::-1], whole.converged & jnp.all(fitted.converged)
    else:
        rows = terms(whole.scale, jnp.where(jnp.isfinite(whole.biases), whole.biases, 0))
        fold_scales, converged = jnp.stack([scale, scale]), whole.converged
    value = jnp.mean(rows) if cross_fit else in_sample
    influence = rows - jnp.mean(rows)
    standard_error = influence_standard_error(influence)
    zero, p_value = _zero_test(data, labels, True)
    return Rate(
        value=value,
        standard_error=standard_error,
        interval=normal_interval(value, standard_error, level=level),
        scale=scale,
        fold_scales=fold_scales,
        in_sample=in_sample,
        at_one=jnp.mean(_rows(data, jnp.ones((n,), dtype))[0].value),
        zero_test=zero,
        p_value=p_value,
        saturated=jnp.asarray(False),
        converged=converged,
        influence=influence,
        alternatives=None,
        biases=whole.biases,
        n=n,
        level=level,
        method="lm rate",
    )


def gmi_labels(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    prior: ArrayLike | None = None,
    scale: str | ArrayLike = "cross-fit",
    level: float = 0.95,
) -> Rate:
    """GMI where the alternatives are K known things: labels, messages of a grammar, or the atoms of a law of inputs.

    Estimates sup over s >= 0 of E[s l(C, Z, Y) - log sum_y P(y) exp(s l(C, Z, y))] (THEORY.md, section 1 and F7): over
    messages when rows are inputs and columns messages, over inputs when rows are messages and columns the inputs'
    atoms. It is H(Y) less the cross-entropy after temperature scaling with the prior kept.

    Args:
      scores: l(c_i, z_i, k) in nats, shape (n, K). For labels, subtract log P(k) if `at_one` is to be the information
        of the decoder as it speaks (F8).
      labels: the true label of each row, integers of shape (n,).
      prior: P(k), shape (K,), or P(k | c_i) by row, shape (n, K); the labels' frequencies where it is None, which
        biases the label entropy down by about (K - 1) / 2n.
      scale: `cross-fit` takes each half's s from the other half (stratified by label), `in-sample` maximises on all
        rows, a number fixes s.
      level: coverage of the interval.

    Returns:
      A `Rate`; `alternatives` is None and nothing saturates, for the inner mean is exact.

    Raises:
      ValueError: for scores that are not finite, labels outside the columns, a prior that is not a law or gives an
        observed label probability 0, or an unknown option.
    """
    array = check_scores(scores)
    n, k = array.shape
    check_level(level)
    fixed, cross_fit = None, False
    if isinstance(scale, str):
        check_choice(scale, ("cross-fit", "in-sample"), "scale")
        cross_fit = scale == "cross-fit"
    else:
        fixed = jnp.asarray(scale, array.dtype)
    index = check_index(labels, n, k, "labels", "label columns")
    log_prior = _log_prior(prior, index, n, k, array.dtype)
    return _gmi_labels(array, index, log_prior, fixed, estimated=prior is None, cross_fit=cross_fit, level=level)


def lm_rate(
    scores: ArrayLike,
    labels: ArrayLike,
    *,
    prior: ArrayLike | None = None,
    fit: str = "cross-fit",
    level: float = 0.95,
) -> Rate:
    """LM rate of a K-label decoder: H(Y) less the cross-entropy after one temperature and one bias a label.

    LM = sup over s >= 0 and a of E[log softmax_y(s l + a)] + H(Y) (THEORY.md, F6 and F7), the same number in both
    directions. Fitted by damped Newton steps; cross-fitted, so that the biases' optimism (about K / 2n) is not
    counted. The cross-fits carry a weak Gaussian prior on the biases (standard deviation 10 nats); the in-sample fit
    carries none, and is what an upper confidence limit of LM starts from. For finite alphabets `lm_rate_exact` is
    exact.

    Args:
      scores: l(c_i, z_i, k) in nats, shape (n, K).
      labels: the true label of each row, integers of shape (n,).
      prior: P(k), shape (K,); the labels' frequencies where it is None.
      fit: `cross-fit` or `in-sample`.
      level: coverage of the interval.

    Returns:
      A `Rate`; `biases` are the in-sample ones, counted from log P(k), and `at_one` is I_msg(1) without biases.

    Raises:
      ValueError: as `gmi_labels`.
    """
    array = check_scores(scores)
    n, k = array.shape
    check_level(level)
    check_choice(fit, ("cross-fit", "in-sample"), "fit")
    index = check_index(labels, n, k, "labels", "label columns")
    log_prior = _log_prior(prior, index, n, k, array.dtype)
    if log_prior.ndim != 1:
        raise ValueError(f"prior must have shape ({k},): the biases are one a label, got {log_prior.shape}")
    return _lm_rate(array, index, log_prior, cross_fit=fit == "cross-fit", level=level)


def _log_prior(prior: ArrayLike | None, labels: Array, n: int, k: int, dtype) -> Array:
    """Log P(k), checked, or the labels' log frequencies."""
    if prior is None:
        return jnp.log(jnp.zeros((k,), dtype).at[labels].add(1) / n)
    array = jnp.asarray(prior, dtype)
    if array.shape not in ((k,), (n, k)):
        raise ValueError(f"prior must have shape ({k},) or ({n}, {k}), got {array.shape}")
    if is_concrete(array, labels):
        values, index = np.asarray(array, np.float64), np.asarray(labels)
        if not np.isfinite(values).all() or (values < 0).any() or np.abs(values.sum(-1) - 1).max() > 1e-4:
            raise ValueError("prior must be probabilities that sum to 1 over the labels")
        own = values[index] if values.ndim == 1 else values[np.arange(n), index]
        if (own == 0).any():
            row = int(np.flatnonzero(own == 0)[0])
            raise ValueError(f"prior gives probability 0 to the label {index[row]} of row {row}")
    return jnp.log(array)
