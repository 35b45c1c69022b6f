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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from gmijax.rates._finite import Over
from gmijax.testing._oracle_answers import FAMILIES, Accuracy, Answer, Rate, answer

TOLERANCE = 1e-6
FLOOR = 1e-3
SCALE_TOLERANCE = 1e-5
SCALE_FLOOR = 1e-2


class OracleFileError(Exception):
    """The file is missing, not JSON, or not in the schema."""


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
