"""Checks a file of known answers: rates against `gmijax.rates.channels`, bounds against `gmijax.bounds`.

    python -m gmijax.testing.oracles FILE [--skip FAMILY ...] [--json]

Every quantity of every entry must agree to `1e-6 * max(|value|, 1e-3)`, infinities exactly, with two exceptions:

- A scale s* must agree to `1e-5 * max(s*, 1e-2)`. I(s) is flat at its maximum: a scale that is off by a share e
  costs about `e^2 s^2 |I''| / 2`, so a rate that is right to 1e-6 fixes its scale only to about 1e-3.
- `argmax_accuracy` must agree to 5e-4 for classes on a line and 5e-3 in the plane. Here it is exact; in the files it
  is a sum over the nodes of a grid (of step 1e-3 and 1/16 standard deviations), which gives every node on the
  decision border to one side: off by up to half a step times the density on the border.

Exit code 0 where all agree, 1 where any is off or an entry's family is neither supported nor skipped, 2 where the
file cannot be read.
"""

import argparse
import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track

from gmijax.rates._expectation import estimator_expectation
from gmijax.rates._finite import Over
from gmijax.rates.channels import finite, gaussian, labels, modulation
from gmijax.rates.channels._base import Channel
from gmijax.testing import _bound_examples

TOLERANCE = 1e-6
FLOOR = 1e-3
SCALE_TOLERANCE = 1e-5
SCALE_FLOOR = 1e-2
ACCURACY_TOLERANCE = {"line": 5e-4, "plane": 5e-3}


class OracleFileError(Exception):
    """The file is missing, not JSON, or not in the schema."""


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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One number of the file beside ours; `error` is relative to max(|expected|, floor)."""

    entry: str
    quantity: str
    expected: Any
    got: Any
    error: float
    tolerance: float

    @property
    def off(self) -> bool:
        """Whether they differ by more than the tolerance (a nan does)."""
        return not self.error <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found."""

    comparisons: tuple[Comparison, ...]
    entries: int
    skipped: int
    unsupported: Mapping[str, int]

    @property
    def off(self) -> tuple[Comparison, ...]:
        """The comparisons beyond their tolerance."""
        return tuple(comparison for comparison in self.comparisons if comparison.off)

    def worst(self, tolerance: float = TOLERANCE) -> Comparison | None:
        """The largest error among the comparisons of one tolerance."""
        ranked = [c for c in self.comparisons if c.tolerance == tolerance]
        return max(ranked, key=lambda c: math.inf if math.isnan(c.error) else c.error, default=None)

    @property
    def passed(self) -> bool:
        """Whether nothing is off and nothing was left unchecked without being skipped by name."""
        return not self.off and not self.unsupported


# --- from an entry's parameters to a channel ----------------------------------------------------------------------


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
        noise=gaussian.Noise(params.get("noise", "gaussian"), number(params["sigma2"])),
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
        return gaussian.coordinates(dimension, read, **common)
    if kind == "readout":
        variance_hat = None if params.get("marginalised") else number(params["sigma2_hat"])
        return gaussian.readout(
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
        return gaussian.spurious(
            dimension,
            int(params["m"]),
            read,
            gain=number(params.get("gain", 1)),
            weight=number(params["beta"]),
            variance_hat=variance_hat,
            **common,
        )
    if kind == "rotated_subspace":
        return gaussian.rotated_subspace(dimension, read, variance_hat=variance_hat, **common)
    if kind in ("coords_overconfident", "coords_wrongcov"):
        correlation = correlation if kind == "coords_wrongcov" else 0.0
        return gaussian.coordinates(dimension, read, variance_hat=variance_hat, correlation_hat=correlation, **common)
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


_CHANNELS: Mapping[str, Callable[[Mapping[str, Any]], Channel]] = {
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
FAMILIES = tuple(sorted([*_CHANNELS, _BOUNDS, _EXPECTATION]))


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
    channel = _CHANNELS[family](params)
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


# --- from a file's value and ours to comparisons ------------------------------------------------------------------

_NATS = ("nats", "nats_str", "lm_from_reverse_dual", "bruteforce_dual_nats")
_SCALES = ("s_star", "s_star_str")


def _error(expected: float, got: float, floor: float) -> float:
    if math.isinf(expected) or math.isinf(got):
        return 0.0 if expected == got else math.inf
    return abs(got - expected) / max(abs(expected), floor)


def _compare(entry: str, name: str, expected: Any, got: Any, result: Answer) -> Iterator[Comparison]:
    """Walks a value of the file beside ours."""

    def compared(label: str, value: Any, ours: Any, floor=FLOOR, tolerance=TOLERANCE) -> Comparison:
        if isinstance(value, str) and isinstance(ours, str):
            return Comparison(entry, label, value, ours, 0.0 if value == ours else math.inf, tolerance)
        ours = float(ours)
        return Comparison(entry, label, value, ours, _error(float(value), ours, floor), tolerance)

    def unknown(label: str) -> Comparison:
        return Comparison(entry, label, "unknown quantity", None, math.inf, TOLERANCE)

    if name == "gmi_s" and result.curve is not None:
        scales = np.array([float(point["s"]) for point in expected])
        directions: tuple[tuple[str, Over], ...] = (("nats", "inputs"), ("nats_rev", "messages"))
        for key, over in directions:
            wanted = [index for index, point in enumerate(expected) if key in point]
            if wanted:
                values = result.curve(scales[wanted], over)
                for index, value in zip(wanted, values, strict=True):
                    yield compared(f"gmi_s[s={scales[index]:g}].{key}", expected[index][key], value)
    elif got is None:
        yield unknown(name)
    elif isinstance(got, Accuracy):
        yield compared(name, expected, got.value, floor=1.0, tolerance=got.tolerance)
    elif isinstance(got, Rate):
        stored = expected if isinstance(expected, dict) else {"nats": expected}
        if "nats" not in stored and "nats_str" not in stored:
            raise ValueError(f"{name} has neither nats nor nats_str")
        for key in _NATS:
            if key in stored:
                yield compared(name if key == "nats" else f"{name}.{key}", stored[key], got.nats)
        if "bits" in stored:
            yield compared(f"{name}.bits", stored["bits"], got.nats / math.log(2))
        for key in _SCALES:
            if key in stored:
                scale = math.nan if got.scale is None else got.scale
                yield compared(f"{name}.{key}", stored[key], scale, SCALE_FLOOR, SCALE_TOLERANCE)
    elif isinstance(got, Mapping):
        for key, value in expected.items():
            yield compared(f"{name}.{key}", value, got[key]) if key in got else unknown(f"{name}.{key}")
    elif isinstance(got, Sequence):
        if len(expected) != len(got):
            raise ValueError(f"{name} has {len(expected)} values, not {len(got)}")
        for index, (value, ours) in enumerate(zip(expected, got, strict=True)):
            label = f"{name}[{index}]"
            if isinstance(ours, Mapping):
                yield from _compare(entry, label, value, ours, result)
            else:
                yield compared(label, value, ours)
    else:
        yield compared(name, expected, got)


def check_entry(entry: Mapping[str, Any]) -> list[Comparison]:
    """Compares every quantity of an entry of a supported family; what cannot be computed is a comparison off."""
    try:
        result = answer(entry["family"], entry["params"])
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        return [Comparison(entry["id"], "params", "usable parameters", f"{error!r}", math.inf, TOLERANCE)]
    comparisons: list[Comparison] = []
    for name, expected in entry["quantities"].items():
        try:
            comparisons += _compare(entry["id"], name, expected, result.quantities.get(name), result)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            comparisons.append(Comparison(entry["id"], name, expected, f"{error!r}", math.inf, TOLERANCE))
    return comparisons


def read(path: str | Path) -> list[dict[str, Any]]:
    """Reads the entries of a file.

    Raises:
      OracleFileError: the file is missing, cut off, or not in the schema.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise OracleFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise OracleFileError(f"{path} is not JSON, or is cut off: {error}") from error
    entries = document.get("entries") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise OracleFileError(f'{path} is not an oracle file: it has no list "entries"')
    if document.get("n_entries", len(entries)) != len(entries):
        raise OracleFileError(f"{path} announces {document['n_entries']} entries and holds {len(entries)}")
    kinds = {"id": str, "family": str, "params": dict, "quantities": dict}
    for index, entry in enumerate(entries):
        for key, kind in kinds.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(key), kind):
                raise OracleFileError(f"{path}: entry {index} has no {key!r} of type {kind.__name__}")
    return entries


def check(entries: Sequence[Mapping[str, Any]], skip: Sequence[str] = (), *, progress: bool = False) -> Report:
    """Checks entries as read by `read`.

    Args:
      entries: of a file.
      skip: families to leave out.
      progress: whether to show a bar on stderr.

    Returns:
      All comparisons, and what was not compared.
    """
    chosen = [entry for entry in entries if entry["family"] not in skip]
    supported = [entry for entry in chosen if entry["family"] in FAMILIES]
    unsupported: dict[str, int] = {}
    for entry in chosen:
        if entry["family"] not in FAMILIES:
            unsupported[entry["family"]] = unsupported.get(entry["family"], 0) + 1
    comparisons: list[Comparison] = []
    for entry in track(supported, "checking", console=Console(stderr=True), transient=True, disable=not progress):
        comparisons += check_entry(entry)
    return Report(tuple(comparisons), len(supported), len(entries) - len(chosen), unsupported)


def _print_text(report: Report) -> None:
    for c in report.off:
        print(f"{c.entry}  {c.quantity}  expected {c.expected}  got {c.got}  error {c.error:.2e}")
    for family, count in report.unsupported.items():
        print(f"family {family!r} is not supported: {count} entries unchecked (--skip {family} leaves them out)")
    summary = f"{report.entries} entries, {len(report.comparisons)} values, {len(report.off)} off"
    summary += f", {report.skipped} entries skipped" if report.skipped else ""
    for tolerance in sorted({c.tolerance for c in report.comparisons} - {TOLERANCE}):
        worst = report.worst(tolerance)
        if worst is not None:
            print(f"largest error where {tolerance:.0e} is allowed: {worst.error:.2e} ({worst.entry} {worst.quantity})")
    worst = report.worst()
    if worst is not None:
        summary += f"; worst error {worst.error:.2e} ({worst.entry} {worst.quantity}), allowed {TOLERANCE:.0e}"
    print(summary)


def _print_json(report: Report) -> None:
    def as_dict(comparison: Comparison | None) -> dict[str, Any] | None:
        if comparison is None:
            return None
        fields = dataclasses.asdict(comparison)
        return {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in fields.items()}

    print(
        json.dumps(
            {
                "passed": report.passed,
                "entries": report.entries,
                "values": len(report.comparisons),
                "skipped": report.skipped,
                "unsupported": dict(report.unsupported),
                "off": [as_dict(comparison) for comparison in report.off],
                "worst": as_dict(report.worst()),
            },
            indent=2,
        )
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gmijax.testing.oracles", description="Checks a file of known rates."
    )
    parser.add_argument("file", metavar="FILE", help="a file in the schema of oracles.json")
    parser.add_argument(
        "--skip", metavar="FAMILY", action="extend", nargs="+", default=[], help="families to leave out"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    options = parser.parse_args(arguments)
    try:
        entries = read(options.file)
    except OracleFileError as error:
        print(error, file=sys.stderr)
        return 2
    report = check(entries, options.skip, progress=True)
    (_print_json if options.json else _print_text)(report)
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
