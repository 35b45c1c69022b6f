"""Exact expectations of the estimators of I(s), on the one channel where they are sums (THEORY.md, section 5)."""

import dataclasses

import numpy as np
from scipy.special import gammaln, xlogy


@dataclasses.dataclass(frozen=True)
class EstimatorExpectation:
    """What each estimator of I(s) over inputs gives on average, nats; nan where it needs more alternatives.

    Attributes:
      truth: I(s).
      exclude: alternatives without the positive; biased up, uncapped.
      include: the positive among the alternatives; at most `cap`.
      jackknife: K L_K - (K - 1) mean L_{K-1} on the log-mean of `exclude`; K >= 2.
      delta: the second-order correction var / (2 K mean^2) of it; K >= 2.
      variance_exclude: of one row's term.
      variance_include: of one row's term.
      chi2: E chi^2(tilt || P(X)) = n / ESS - 1.
      first_order_exclude: the bias of `exclude` to order 1 / K.
      first_order_include: the bias of `include` to order 1 / K.
      cap: log(K + 1).
      mutual_information: I(X; Y).
    """

    truth: float
    exclude: float
    include: float
    jackknife: float
    delta: float
    variance_exclude: float
    variance_include: float
    chi2: float
    first_order_exclude: float
    first_order_include: float
    cap: float
    mutual_information: float


def estimator_expectation(
    crossover: float, crossover_hat: float, scale: float, alternatives: int, prior_one: float = 0.5
) -> EstimatorExpectation:
    """Expectations over one positive pair and K independent alternatives, by binomial sums in float64.

    The channel is `BinarySymmetric(crossover, crossover_hat, prior_one)`. The estimator from an n x n matrix with
    the diagonal left out has K = n - 1 and the same expectation.

    Args:
      crossover: p in [0, 1].
      crossover_hat: the decoder's p, in (0, 1).
      scale: s >= 0.
      alternatives: K >= 1.
      prior_one: P(X = 1).

    Returns:
      See `EstimatorExpectation`.

    Raises:
      ValueError: an argument is out of its range.
    """
    for name, value in (("crossover", crossover), ("prior_one", prior_one)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name} must lie in [0, 1]; got {value}.")
    if not 0 < crossover_hat < 1:
        raise ValueError(f"crossover_hat must lie in (0, 1), so that scores are finite; got {crossover_hat}.")
    if not (alternatives >= 1 and scale >= 0):
        raise ValueError(f"alternatives must be >= 1 and scale >= 0; got {alternatives} and {scale}.")
    count = int(alternatives)
    prior = np.array([1 - prior_one, prior_one])
    joint = prior[:, None] * np.array([[1 - crossover, crossover], [crossover, 1 - crossover]])  # (x, y)
    right, wrong = scale * np.log1p(-crossover_hat), scale * np.log(crossover_hat)
    own = np.where(np.eye(2, dtype=bool), right, wrong)  # s l(x, y)
    received = joint.sum(0)
    high, low = np.exp(right), np.exp(wrong)
    # An alternative agrees with y with probability P_X(y), as both alphabets are {0, 1}.
    mean = prior * high + (1 - prior) * low
    second = prior * high**2 + (1 - prior) * low**2
    mean_own = np.sum(joint * own)

    agree = np.arange(count + 1)  # how many alternatives agree with y
    law = _binomial(count, prior)  # (y, agree)
    totals = agree * high + (count - agree) * low
    logs = np.log(totals / count)
    exclude_terms = own[..., None] - logs  # (x, y, agree)
    include_terms = own[..., None] - np.log((np.exp(own)[..., None] + totals) / (count + 1))
    weights = joint[..., None] * law
    exclude, include = np.sum(weights * exclude_terms), np.sum(weights * include_terms)

    jackknife = delta = np.nan
    if count > 1:
        fewer = np.arange(count)
        fewer_logs = np.log((fewer * high + (count - 1 - fewer) * low) / (count - 1))
        log_mean, fewer_log_mean = received @ law @ logs, received @ _binomial(count - 1, prior) @ fewer_logs
        jackknife = mean_own - count * log_mean + (count - 1) * fewer_log_mean
        variance = agree / count * (1 - agree / count) * (high - low) ** 2 * count / (count - 1)
        delta = exclude - received @ law @ (variance / (2 * count * (totals / count) ** 2))

    chi2 = np.sum(received * (second / mean**2 - 1))
    excess = np.sum(joint * np.exp(own) / mean) - 1
    product = prior[:, None] * received
    return EstimatorExpectation(
        truth=float(mean_own - received @ np.log(mean)),
        exclude=float(exclude),
        include=float(include),
        jackknife=float(jackknife),
        delta=float(delta),
        variance_exclude=float(np.sum(weights * (exclude_terms - exclude) ** 2)),
        variance_include=float(np.sum(weights * (include_terms - include) ** 2)),
        chi2=float(chi2),
        first_order_exclude=float(chi2 / (2 * count)),
        first_order_include=float((chi2 / 2 - excess) / count),
        cap=float(np.log1p(count)),
        mutual_information=float(np.sum(xlogy(joint, joint / np.where(joint > 0, product, 1)))),
    )


def _binomial(count: int, probability: np.ndarray) -> np.ndarray:
    """P(m) for m = 0..count by rows of `probability`, from log-binomials; exact at probabilities 0 and 1."""
    m, p = np.arange(count + 1), probability[:, None]
    log_choose = gammaln(count + 1) - gammaln(m + 1) - gammaln(count - m + 1)
    return np.exp(log_choose + xlogy(m, p) + xlogy(count - m, 1 - p))
