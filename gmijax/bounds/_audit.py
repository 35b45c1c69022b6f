"""An audit of reported slopes, diameters and distances: what they say of each other, and what a bound makes of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from gmijax.bounds._consistency import inconsistencies
from gmijax.bounds._lipschitz import inputs, messages, paper
from gmijax.sensitivity import LipschitzConstant

TABLE = "table8_sensitivity_and_distance"
# Where arXiv:2602.23136 takes them (its appendix B and public code).
SLOPE_SPACE = "adapter_output, whole token block"
DISTANCE_SPACE = "llm_hidden_16, mean-pooled"
VOCABULARY = {
    "ultravox": 128_256,
    "qwen2_audio": 156_032,
    "llava": 32_000,
    "prismatic_dinov2": 32_000,
    "prismatic_siglip": 32_000,
}
SLOPES = ("L_mean", "L_p95")
ROUNDED = 0.02  # three digits of two factors and of their product


class _Known(NamedTuple):
    """A reported distance, taken at its word."""

    value: float
    given: str
    space: str


@dataclass(frozen=True)
class AuditRow:
    """One row of a table, and what follows from it; nats.

    Attributes:
      name: model and data set.
      slope: L as reported, in the statistic that the audit was asked for.
      diameter: D as reported.
      w1: W1 as reported; None where it is not.
      slope_times_w1: L W1, the first-order size of everything below; None without W1.
      slope_times_diameter: L D, the exponent of the paper's theorem 2, and a cap of L W1 in one space.
      b1: 2 L W1, the formula of B1 at s = 1. An index: the slope is sampled and W1 is not the one it needs.
      b2: the formula of B2 at s = 1, likewise.
      paper_log10: decimal logarithm of the paper's (1 + e^{LD}) L W1.
      cap: log |V|: what equation 3 can change by at most when scores are clipped at log(1/|V|); None without |V|.
      beyond_cap: which of "L W1", "B1", "B2" and "theorem 2" exceed what no shift can exceed when scores are clipped
        at log(1/|V|): the cap, and twice the cap for I(1) (B1 and B2). They say nothing.
      consistent: whether nothing contradicts; None where no W1 is reported and so nothing can.
      problems: every contradiction, one sentence each.
      notes: what keeps any figure of this row from being a guarantee.
    """

    name: str
    slope: float
    diameter: float
    w1: float | None
    slope_times_w1: float | None
    slope_times_diameter: float
    b1: float | None
    b2: float | None
    paper_log10: float | None
    cap: float | None
    beyond_cap: tuple[str, ...]
    consistent: bool | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Audit:
    """The rows of an audited table.

    Attributes:
      rows: one a row of the table, in order.
      slope: which statistic of the gradient norms stood in for L.
    """

    rows: tuple[AuditRow, ...]
    slope: str

    @property
    def consistent(self) -> bool:
        """Whether no row contradicts itself."""
        return all(row.consistent is not False for row in self.rows)

    def markdown(self) -> str:
        """The table, then every problem and note by row."""
        columns = {
            "row": [row.name for row in self.rows],
            "L": [row.slope for row in self.rows],
            "D": [row.diameter for row in self.rows],
            "W1": [row.w1 for row in self.rows],
            "W1 <= D": [None if row.w1 is None else row.w1 <= row.diameter for row in self.rows],
            "L D": [row.slope_times_diameter for row in self.rows],
            "L W1": [row.slope_times_w1 for row in self.rows],
            "cap": [row.cap for row in self.rows],
            "B1 (index)": [row.b1 for row in self.rows],
            "B2 (index)": [row.b2 for row in self.rows],
            "paper, log10": [row.paper_log10 for row in self.rows],
            "beyond its cap": [", ".join(row.beyond_cap) or "-" for row in self.rows],
            "consistent": [row.consistent for row in self.rows],
        }
        lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
        lines += [f"| {' | '.join(map(_cell, cells))} |" for cells in zip(*columns.values(), strict=True)]
        lines += ["", f"L is {self.slope}; nats, s = 1. B1 and B2 are indices here: nothing in them is certified.", ""]
        for row in self.rows:
            lines += [f"- **{row.name}**", *(f"  - {sentence}" for sentence in (*row.problems, *row.notes))]
        return "\n".join(lines) + "\n"


def audit(
    reported: Any,
    *,
    slope: str = "L_mean",
    slope_space: str = SLOPE_SPACE,
    distance_space: str = DISTANCE_SPACE,
    given: str = "none",
    vocabulary: Mapping[str, int] | None = None,
) -> Audit:
    """Holds a table of reported slopes, diameters and distances against what they must satisfy.

    Flags W1 > D, a slope of one space beside a distance of another, a pooled W1 in the place of the one given (C, Y),
    a product L W1 that is not the product of its factors, and everything beyond the trivial cap log |V|. The defaults
    are those of arXiv:2602.23136, table 8; for another table, name its spaces.

    Args:
      reported: rows, or a mapping that holds them under "table8_sensitivity_and_distance". Of a row: "model" and
        "dataset" name it; "D" and the slope are needed; "W1", "L_times_W1" and "vocab" are optional; "L_space",
        "W1_space" and "W1_given" go before the keywords.
      slope: which statistic of the gradient norms stands in for L; the paper's L W1 uses their mean.
      slope_space: where L was taken.
      distance_space: where W1 was taken.
      given: what W1 was conditioned on: "(c, y)", "c" or "none".
      vocabulary: |V| by model, beside those of the paper's five.

    Returns:
      The audit; `markdown()` prints it.

    Raises:
      ValueError: for a table without rows, a row without a needed number, or numbers that are negative or not finite.
    """
    if slope not in SLOPES:
        raise ValueError(f"slope must be one of {', '.join(map(repr, SLOPES))}, got {slope!r}")
    if isinstance(reported, Mapping) and TABLE not in reported:
        raise ValueError(f"reported has no {TABLE!r}; give the rows themselves, or a mapping that holds them")
    table = reported[TABLE] if isinstance(reported, Mapping) else reported
    if isinstance(table, str) or not isinstance(table, Sequence) or not table:
        raise ValueError("reported must hold at least one row")
    sizes = VOCABULARY | dict(vocabulary or {})
    defaults = {"L_space": slope_space, "W1_space": distance_space, "W1_given": given}
    return Audit(tuple(_row(k, row, slope, defaults, sizes) for k, row in enumerate(table)), slope)


def _row(index: int, row: Any, slope: str, defaults: dict[str, str], sizes: Mapping[str, int]) -> AuditRow:
    if not isinstance(row, Mapping):
        raise ValueError(f"row {index} must be a mapping, got {type(row).__name__}")
    name = " / ".join(str(row[key]) for key in ("model", "dataset") if key in row) or f"row {index}"
    steepness, diameter = _number(row, slope, name), _number(row, "D", name)
    labels = {key: str(row.get(key, value)) for key, value in defaults.items()}
    size = row.get("vocab", sizes.get(str(row.get("model"))))
    cap = None if size is None else math.log(_number({"vocab": size}, "vocab", name, least=1))
    constant = LipschitzConstant(steepness, "sampled", labels["L_space"])
    shared = {"name": name, "slope": steepness, "diameter": diameter, "cap": cap}
    shared["slope_times_diameter"] = steepness * diameter
    notes = [f"{slope} is a statistic of sampled gradient norms, not a Lipschitz constant"]
    if row.get("W1") is None:
        notes.append("no W1 is reported, so no formula can be evaluated")
        nothing = dict.fromkeys(("w1", "slope_times_w1", "b1", "b2", "paper_log10", "consistent"))
        return AuditRow(**shared, **nothing, beyond_cap=(), problems=(), notes=tuple(notes))
    w1 = _number(row, "W1", name)
    distance = _Known(w1, labels["W1_given"], labels["W1_space"])
    problems = [*inconsistencies(constant, diameter, W1=distance)]
    if distance.given != "(c, y)":
        word = "pooled" if distance.given == "none" else f"given {distance.given}"
        problems.append(f"W1 is {word}, and the theorems need the one given (C, Y), which is at least as large")
    product = steepness * w1
    if row.get("L_times_W1") is not None:
        problems += _product(_number(row, "L_times_W1", name), row, w1, name)
    # What the formulas give if one takes the distance for the one that they need, in the slope's space.
    by_y, by_c = (_Known(w1, what, constant.space) for what in ("(c, y)", "c"))
    printed = paper(constant, diameter, by_y)
    # I(1) moves by at most twice the cap, equation 3 by at most the cap.
    halved = messages(1.0, constant, by_y).value / 2, inputs(1.0, constant, by_y, by_c, diameter).value / 2
    figures = {"L W1": product, "B1": halved[0], "B2": halved[1], "theorem 2": printed.value}
    beyond = () if cap is None else tuple(figure for figure, value in figures.items() if value > cap)
    return AuditRow(
        **shared,
        w1=w1,
        slope_times_w1=product,
        b1=2 * halved[0],
        b2=2 * halved[1],
        paper_log10=printed.terms["log10"],
        beyond_cap=beyond,
        consistent=not problems,
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _product(reported: float, row: Mapping[str, Any], w1: float, name: str) -> list[str]:
    """Whether a reported product is that of W1 and either statistic of the slope."""
    factors = {key: _number(row, key, name) for key in SLOPES if key in row}
    if any(math.isclose(reported, factor * w1, rel_tol=ROUNDED) for factor in factors.values()):
        return []
    products = ", ".join(f"{key} W1 = {factor * w1:.3g}" for key, factor in factors.items())
    return [f"L W1 is reported as {reported:g}, and {products}"]


def _number(row: Mapping[str, Any], key: str, name: str, least: float = 0.0) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < least:
        raise ValueError(f"{name}: {key} must be a finite number >= {least:g}, got {value!r}")
    return float(value)


def _cell(value: float | bool | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else f"{value:.3g}"
