"""What is known of an oracle file's entry: from its parameters to a channel, and from that to its quantities."""

import dataclasses
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from gmijax.rates._expectation import estimator_expectation
from gmijax.rates._finite import Over
from gmijax.rates.channels import finite, gaussian, labels, modulation, noise, subspaces
from gmijax.rates.channels._base import Channel
from gmijax.testing import _bound_examples

ACCURACY_TOLERANCE = {"line": 5e-4, "plane": 5e-3}


class Rate(NamedTuple):
    """A computed rate in nats, and its scale where it has one."""

    nats: float
    scale: float | None = None


class Accuracy(NamedTuple):
    """A computed probability, and the tolerance that its counterpart in a file deserves."""

    value: float
    tolerance: float


@dataclasses.dataclass(frozen=True)
class Answer:
    """What was computed for an entry: quantities by their name in the file, and I(s) at any scale."""

    quantities: Mapping[str, Any]
    curve: Callable[[np.ndarray, Over], np.ndarray] | None = None


def number(value: Any) -> float:
    """A parameter as a float: a number, or a string such as "0.1", "379/833" or "1e-7"."""
    return float(Fraction(value)) if isinstance(value, str) else float(value)


def _numbers(values: Any) -> np.ndarray:
    return np.array([_numbers(value) if isinstance(value, list) else number(value) for value in values])


def _binary_symmetric(params: Mapping[str, Any]) -> Channel:
    return finite.BinarySymmetric(number(params["p"]), number(params["p_hat"]), number(params.get("p_x1", "1/2")))


def _binary_asymmetric(params: Mapping[str, Any]) -> Channel:
    metric = None
    if params.get("metric") is not None:
        (a, b), (c, d) = _numbers(params["metric"]).tolist()
        metric = ((a, b), (c, d))
    return finite.BinaryAsymmetric(
        number(params["w01"]),
        number(params["w10"]),
        crossover_hat=number(params["p_hat"]) if metric is None else None,
        metric=metric,
        prior_one=number(params.get("px1", "1/2")),
    )


def _discrete(params: Mapping[str, Any]) -> finite.DiscreteMemoryless:
    return finite.DiscreteMemoryless(_numbers(params["PX"]), _numbers(params["W"]), _numbers(params["logq"]))


def _conditional(params: Mapping[str, Any]) -> Channel:
    return finite.ConditionalDiscrete(_numbers(params["PC"]), tuple(map(_discrete, params["channels"])))


def _scalar_gaussian(params: Mapping[str, Any]) -> Channel:
    return gaussian.ScalarGaussian(
        gain=number(params["h"]),
        power=number(params["P"]),
        noise=noise.Noise(params.get("noise", "gaussian"), number(params["sigma2"])),
        gain_hat=number(params["h_hat"]),
        variance_hat=number(params["sigma2_hat"]),
    )


def _vector_gaussian(params: Mapping[str, Any]) -> Channel:
    kind, dimension, read = params["kind"], int(params["d"]), int(params["k"])
    common = {
        "decay": number(params.get("alpha", 0)),
        "scale": number(params["lam0"]),
        "variance": number(params["sigma2"]),
        "shift": number(params.get("shift", 0)),
    }
    correlation = number(params.get("rho_hat", 0))
    if kind == "coords":
        return subspaces.coordinates(dimension, read, **common)
    if kind == "readout":
        variance_hat = None if params.get("marginalised") else number(params["sigma2_hat"])
        return subspaces.readout(
            dimension,
            int(params["m"]),
            read,
            gain=number(params.get("gain", 1)),
            variance_hat=variance_hat,
            correlation_hat=correlation,
            **common,
        )
    variance_hat = number(params["sigma2_hat"])
    if kind == "spurious":
        return subspaces.spurious(
            dimension,
            int(params["m"]),
            read,
            gain=number(params.get("gain", 1)),
            weight=number(params["beta"]),
            variance_hat=variance_hat,
            **common,
        )
    if kind == "rotated_subspace":
        return subspaces.rotated_subspace(dimension, read, variance_hat=variance_hat, **common)
    if kind in ("coords_overconfident", "coords_wrongcov"):
        correlation = correlation if kind == "coords_wrongcov" else 0.0
        return subspaces.coordinates(dimension, read, variance_hat=variance_hat, correlation_hat=correlation, **common)
    raise ValueError(f"unknown kind {kind!r}")


def _modulation(params: Mapping[str, Any], quadrature: bool) -> Channel:
    return modulation.Modulation(
        bits_per_dimension=int(params["bits_per_dim"]),
        snr_db=number(params["snr_db"]),
        metric=params.get("metric", "symbol"),
        labeling=params.get("labeling", "gray"),
        noise=params.get("noise", "gaussian"),
        gain_hat=number(params.get("gain_hat", 1)),
        variance_ratio_hat=number(params.get("sigma2_hat_ratio", 1)),
        quadrature=bool(params.get("qam", quadrature)),
    )


def _rotated_qam(params: Mapping[str, Any]) -> Channel:
    return modulation.RotatedQAM(
        int(params["bits_per_dim"]),
        number(params["snr_db"]),
        number(params["phase_deg"]),
        number(params.get("gain", 1)),
    )


def _classifier(params: Mapping[str, Any]) -> Channel:
    def optional(name: str) -> Any:
        return None if params.get(name) is None else _numbers(params[name])

    return labels.GaussianLabels(
        means=_numbers(params["means"]),
        priors=_numbers(params["priors"]),
        sigma=number(params.get("sigma", 1)),
        means_hat=optional("means_hat"),
        priors_hat=optional("priors_hat"),
        sigma_hat=number(params["sigma_hat"]) if params.get("sigma_hat") is not None else None,
        bias=optional("bias"),
        temperature=number(params.get("T", 1)),
        pmi_score=bool(params.get("pmi_score", False)),
    )


CHANNELS: Mapping[str, Callable[[Mapping[str, Any]], Channel]] = {
    "asymmetric_binary": _binary_asymmetric,
    "bsc": _binary_symmetric,
    "classifier": _classifier,
    "conditional_dmc": _conditional,
    "degenerate": _discrete,
    "dmc": _discrete,
    "pam": lambda params: _modulation(params, quadrature=False),
    "qam": lambda params: _modulation(params, quadrature=True),
    "qam_phase": _rotated_qam,
    "scalar_gaussian": _scalar_gaussian,
    "vector_gaussian": _vector_gaussian,
}
_EXPECTATION = "estimator_expectation"
_BOUNDS = "bound_example"
FAMILIES = tuple(sorted([*CHANNELS, _BOUNDS, _EXPECTATION]))


def answer(family: str, params: Mapping[str, Any]) -> Answer:
    """Computes everything that is known about an entry.

    Args:
      family: one of `FAMILIES`.
      params: the entry's parameters as stored.

    Returns:
      The quantities under their names in the file, and the curve.
    """
    if family == _EXPECTATION:
        return Answer(_expectation(params))
    if family == _BOUNDS:
        return Answer(_bound_example(params))
    channel = CHANNELS[family](params)
    rates = channel.rates()
    quantities: dict[str, Any] = {
        "mi": Rate(rates.mutual_information),
        "gmi": Rate(rates.gmi, rates.gmi_scale),
        "gmi_s1": Rate(rates.gmi_at_one),
        "gmi_rev": Rate(rates.gmi_messages, rates.gmi_messages_scale),
        "gmi_rev_s1": Rate(rates.gmi_messages_at_one),
        "lm": Rate(rates.lm_rate, rates.lm_scale),
        "slope0": rates.zero_test,
        "eq3": Rate(rates.conditional_gmi_paper),
    }
    renamed = {
        "best_gain_gmi": ("best_gain_gmi", None),
        "gmi_per_context": ("gmi_per_context_then_average", None),
        "gmi_pooled": ("pooled_negatives_WRONG", "gmi_pooled_scale"),
        "mutual_information_inputs_context": ("mi_x_context", None),
        "mi_subspace": ("mi_subspace", None),
        "label_entropy": ("label_entropy", None),
        "cross_entropy": ("cross_entropy", None),
        "cross_entropy_temperature_scaled": (
            "cross_entropy_temperature_scaled",
            "cross_entropy_temperature_scale",
        ),
    }
    extras = rates.extras
    for ours, (theirs, scale) in renamed.items():
        if ours in extras:
            quantities[theirs] = Rate(extras[ours], extras[scale] if scale else None)
    if "per_bit_level" in extras:
        quantities["per_bit_level_nats_at_s_star"] = extras["per_bit_level"]
    if "decoder_marginal" in extras:
        quantities["decoder_marginal_qbar"] = extras["decoder_marginal"]
    if "argmax_accuracy" in extras:
        flat = np.ndim(params["means"]) == 1 or np.shape(params["means"])[-1] == 1
        tolerance = ACCURACY_TOLERANCE["line" if flat else "plane"]
        quantities["argmax_accuracy"] = Accuracy(extras["argmax_accuracy"], tolerance)
    return Answer(quantities, channel.curve)


def _bound_example(params: Mapping[str, Any]) -> dict[str, Any]:
    kind = params["kind"]
    if kind not in _bound_examples.KINDS:
        raise ValueError(f"unknown kind {kind!r}")
    numbers = {key: value if key in ("id", "kind", "rows") else number(value) for key, value in params.items()}
    quantities = _bound_examples.KINDS[kind](numbers)
    return {name: Rate(value) if isinstance(value, float) else value for name, value in quantities.items()}


def _expectation(params: Mapping[str, Any]) -> dict[str, Any]:
    result = estimator_expectation(
        crossover=number(params["p"]),
        crossover_hat=number(params["p_hat"]),
        scale=number(params["s"]),
        alternatives=int(params["K"]),
        prior_one=number(params.get("px1", "1/2")),
    )
    estimators = {
        "exclude_positive": result.exclude,
        "include_positive": result.include,
        "jackknife": result.jackknife,
        "delta_corrected": result.delta,
    }
    return {
        **{name: Rate(value) for name, value in estimators.items()},
        "mi": Rate(result.mutual_information),
        "truth_gmi_s": Rate(result.truth),
        "bias": {
            **{name: value - result.truth for name, value in estimators.items()},
            "first_order_exclude": result.first_order_exclude,
            "first_order_include": result.first_order_include,
        },
        "var_single_term": {
            "exclude_positive": result.variance_exclude,
            "include_positive": result.variance_include,
        },
        "chi2_mean": result.chi2,
        "cap_include_nats": result.cap,
    }
