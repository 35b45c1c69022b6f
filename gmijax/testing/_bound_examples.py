"""The worked examples of the bounds: their quantities from `gmijax.bounds` and quadrature."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

from gmijax import bounds, distances
from gmijax.bounds._kernels import Law, tilted_sandwich
from gmijax.rates import channels
from gmijax.sensitivity import LipschitzConstant

QUANTILES = 200_000  # midpoints of equal masses, the grid on which the files take distances between pooled laws
STEP = 1 / 64  # of the trapezoid rule, in standard deviations, or in widths of the sigmoid where that is narrower
REACH = 10.0


class _Exact(NamedTuple):
    """A distance that is known."""

    value: float
    given: str
    space: str = "z"


def three_point(params: Mapping[str, Any]) -> dict[str, Any]:
    """Mass eps moves from D - delta to D, the rest stays at 0; the score is L z."""
    slope, width, scale, eps, delta = (params[key] for key in ("L", "D", "s", "eps", "delta"))
    text, modal = np.array([[0.0, width - delta]]), np.array([[0.0, width]])
    masses, both = np.array([1 - eps, eps]), np.zeros(2, int)
    shift = bounds.shift_bracket(
        slope * text, slope * modal, both, both, scale=scale, weights_text=masses, weights_modal=masses
    )
    certified = LipschitzConstant(slope, "certified", "z")
    still, moved = _Exact(0.0, "(c, y)"), _Exact(eps * delta, "c")
    forms = bounds.inputs(scale, certified, still, moved, width, w_inf=delta).terms
    exponential = math.expm1(forms["competition, W1"])  # the file's form is without the logarithm
    with jax.enable_x64(True):
        w1 = float(distances.w1_line(text[0], modal[0], masses, masses))
    return {
        "delta_log_mgf": shift.terms["competition"],
        "W1": w1,
        "W_inf": delta,
        "bound_expLD_W1": exponential,
        "bound_Winf": forms["competition, W_inf"],
        "bound_range": forms["competition, range"],
        "ratio_to_expLD": shift.terms["competition"] / exponential,
    }


def _pooled_quantiles(means: np.ndarray) -> np.ndarray:
    """Quantiles of an equal mixture of two unit normals: interpolated, then by Newton steps."""

    def level(point: np.ndarray) -> np.ndarray:
        return np.mean([ndtr(point - mean) for mean in means], axis=0)

    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    grid = np.arange(means.min() - REACH, means.max() + REACH, STEP)
    point = np.interp(levels, level(grid), grid)
    for _ in range(5):
        density = np.mean([np.exp(-0.5 * (point - mean) ** 2) for mean in means], axis=0) / math.sqrt(2 * math.pi)
        point = point - (level(point) - levels) / density
    return point


def logistic_shift(params: Mapping[str, Any]) -> dict[str, Any]:
    """Fair Y = +-1, Z | Y normal about m Y, moved to m gain Y + shift; the score is log sigmoid(L y z)."""
    slope, mean, gain, shift = (params[key] for key in ("L", "m", "gain", "shift"))
    signs = np.array([1.0, -1.0])
    before, after = mean * signs, gain * mean * signs + shift  # the means of Z given Y

    def score(z: np.ndarray) -> np.ndarray:
        return -np.logaddexp(0, -slope * signs[:, None] * z)

    step = STEP / max(1.0, slope)
    nodes = np.arange(-REACH, REACH + step, step)
    masses, own = np.tile(np.exp(-0.5 * nodes**2), 2), np.repeat([0, 1], len(nodes))
    masses /= masses.sum()
    tables = [score((means[:, None] + nodes).ravel()) for means in (before, after)]
    law = {"weights_text": masses, "weights_modal": masses}
    parts = bounds.shift_bracket(tables[0], tables[1], own, own, scale=1.0, **law).terms
    with jax.enable_x64(True):
        laws = [Law(jnp.asarray(table), jnp.asarray(own), jnp.asarray(masses)) for table in tables]
        first, second = (np.array([law.log_means(power) for law in laws]) for power in (1, 2))
        matched = np.array([law.matched for law in laws])
    kappa = float(np.exp(np.max(second / 2 - first)))  # of the law and the message where it is largest
    information = matched @ masses - first.mean(axis=1)
    # Given Y the map of Z is a shift and the score monotone: the coupling that moves every node is the best one.
    positive = float(masses @ np.abs(matched[1] - matched[0]))

    quantiles = [_pooled_quantiles(means) for means in (before, after)]
    pooled = [score(points) for points in quantiles]
    gaps = np.abs(pooled[1] - pooled[0])
    even = np.full(QUANTILES, 1 / QUANTILES)
    with jax.enable_x64(True):
        lower, upper = np.mean([tilted_sandwich(x, y, even, 1.0) for x, y in zip(*pooled, strict=True)], axis=0)
    given_y = float(np.mean(np.abs(after - before)))
    pooled_w1 = float(np.mean(np.abs(quantiles[1] - quantiles[0])))
    pooled_w2 = float(np.mean(np.sqrt(np.mean(gaps**2, axis=1))))
    width = 2 * (mean + abs(shift) + 4)
    certified = LipschitzConstant(slope, "certified", "z")
    b2 = bounds.inputs(1.0, certified, _Exact(given_y, "(c, y)"), _Exact(pooled_w1, "c"), width).terms
    direct = parts["direct"]
    return {
        "I_text": float(information[0]),
        "I_modal": float(information[1]),
        "true_change": parts["change"],
        "direct_term_change": direct,
        "competition_term_change": parts["competition"],
        "bound_score_W1_plus_essW2": positive + kappa * pooled_w2,
        "bound_score_W1_plus_scoreWinf": positive + float(np.mean(gaps.max(axis=1))),
        "bound_direct_mean": float(abs(direct) + max(abs(lower), abs(upper))),
        "sandwich_competition": [float(lower), float(upper)],
        "sandwich_change_interval": [float(direct - upper), float(direct - lower)],
        "kappa_sqrt_inverse_ess": kappa,
        "W1_conditional": given_y,
        "W1_marginal": pooled_w1,
        "W1_score_pos": positive,
        "W1_score_neg": float(np.mean(gaps)),
        "W2_score_neg": pooled_w2,
        # The file's form of the competition term is without the logarithm.
        "bound_L_W1_then_expLD": slope * given_y + math.expm1(b2["competition, W1"]),
        "D_used_4sigma": width,
    }


def matched_perturbation(params: Mapping[str, Any]) -> dict[str, Any]:
    """Z standard normal, Y = Z + N(0, v), the matched decoder reading (1 - eps) Z."""
    variance, eps = params["v"], params["eps"]
    noise = channels.Noise("gaussian", variance)
    matched, perturbed = (
        float(channels.ScalarGaussian(1.0, 1.0, noise, gain, variance).curve(np.ones(1))[0]) for gain in (1.0, 1 - eps)
    )
    # delta = (a z^2 + b y z) / v up to a function of y, and Z | Y is normal with mean y / (1 + v).
    spread, square = variance / (1 + variance), 1 + variance
    a, b = eps - eps**2 / 2, -eps
    mean_square = square / (1 + variance) ** 2
    total = a**2 * (2 * spread**2 + 4 * mean_square * spread)
    total += 4 * a * b * spread * square / (1 + variance) + b**2 * square * spread
    half_variance = total / (2 * variance**2)
    removal = bounds.local_removal(np.array([[1 / variance]]), np.ones((1, 1)))
    return {
        "I_matched": matched,
        "I_perturbed_s1": perturbed,
        "loss": matched - perturbed,
        "second_order_half_var": half_variance,
        "crude_half_tr_F_Sigma_eps2": float(removal.cost) * eps**2,
        "ratio_loss_to_second_order": (matched - perturbed) / half_variance,
    }


def vocabulary_cap(params: Mapping[str, Any]) -> dict[str, Any]:
    """Reported products L W1 beside log |V|, and W1 beside D."""
    table = [
        {"model": row["model"], "vocab": row["vocab"], "W1": row["W1"], "D": row["D"], "L_mean": row["LW1"] / row["W1"]}
        for row in params["rows"]
    ]
    audited = bounds.audit(table).rows
    return {
        "rows": [
            {
                "model": row["model"],
                "L_W1": audit.slope_times_w1,
                "trivial_cap_nats": audit.cap,
                "vacuous": "L W1" in audit.beyond_cap,
                "W1": audit.w1,
                "D": audit.diameter,
                "W1_exceeds_D": any("exceeds the diameter" in problem for problem in audit.problems),
            }
            for row, audit in zip(params["rows"], audited, strict=True)
        ]
    }


KINDS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "logistic_shift": logistic_shift,
    "matched_perturbation": matched_perturbation,
    "three_point": three_point,
    "vocab_vacuous": vocabulary_cap,
}
