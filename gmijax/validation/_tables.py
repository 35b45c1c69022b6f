"""The numbers of a run as tables."""

import math
from typing import Any

Tables = list[tuple[str, str, list[str], list[list[str]]]]


def _with_interval(rate: dict[str, Any] | None) -> str:
    if rate is None:
        return "-"
    mark = " sat." if rate.get("saturated") else ""
    if rate["standard_error"] == 0:
        return f"{rate['nats']:.3f}{mark}"
    return f"{rate['nats']:.3f} [{rate['lower']:.3f}, {rate['upper']:.3f}]{mark}"


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "inf" if value > 0 else "-inf" if value < 0 else "nan"
    if value != 0 and (abs(value) >= 1e4 or abs(value) < 1e-3):
        return f"{value:.1e}"
    return f"{value:.3f}"


def sweep_rows(result: dict[str, Any]) -> Tables:
    """Two tables: what each shift costs, and what the bounds say of it."""
    text, cap = result["text_law"]["rates"], result["entropy_cap_nats"]
    names = ("gmi_inputs", "gmi_messages", "lm_rate")
    costs = [["text law", "", *(_with_interval(text.get(name)) for name in names), "", "", ""]]
    limits = []
    for law in result["laws"]:
        rates, change = law["rates"], law["change"]
        label = f"{law['law']} {law['strength']:g}"
        costs.append(
            [
                label,
                _number(law["w1_given_y"]),
                *(_with_interval(rates.get(name)) for name in names),
                _number(change["inputs"]),
                _number(change["direct"]),
                _number(change["competition"]),
            ]
        )
        b = law["bounds"]
        limits.append(
            [
                label,
                _number(change["scale"]),
                _number(change["inputs"]),
                f"[{_number(b['b6_lower'])}, {_number(b['b6_upper'])}]",
                _number(b["b3_inputs"]),
                _number(b["b2_inputs"]),
                "10^" + _number(b["paper_log10"]),
                _number(change["messages"]),
                _number(b["b3_messages"]),
                _number(b["b1_messages"]),
                _number(b["cap_rate"]),
            ]
        )
    known = (
        f"Texts: all {len(result['texts'])} of a grammar, so H(Y) = {cap:.3f} nats caps every rate."
        if result["law_of_texts_known"]
        else f"{len(result['texts'])} sentences, a sample: 'sat.' marks saturated rates, which are lower bounds only."
    )
    index = result["lipschitz_index"]
    return [
        (
            f"What a shift of the soft tokens costs ({result['decoder']}, nats)",
            f"{known} Intervals: 95 %, over the draws of a random law. dI: of I(s) over inputs, s in the next table.",
            ["modal law", "W1 given y", "GMI inputs", "GMI messages", "LM rate", "dI(s)", "direct", "competition"],
            costs,
        ),
        (
            "The measured change of I(s) beside the bounds (nats)",
            "B6 brackets the change over inputs and B3 bounds it, from scores alone; B1, B2 and the paper's use the "
            f"sampled Lipschitz index {index['value']:.2f}, so they are indices, not bounds.",
            [
                "modal law",
                "s",
                "dI inputs",
                "B6 bracket",
                "B3",
                "B2",
                "paper",
                "dI messages",
                "B3 exact",
                "B1",
                "cap on dGMI",
            ],
            limits,
        ),
    ]


def channel_rows(result: dict[str, Any]) -> Tables:
    """Known rates beside estimates, and shifts beside B1."""
    first = [
        [
            record["channel"],
            *(
                _number(record["known"][name])
                for name in ("mutual_information", "lm_rate", "gmi_messages", "gmi_inputs")
            ),
            _with_interval(record["gmi_inputs"]),
            "yes" if record["covered"] else "no",
            _number(record["known"]["scale"]),
            _number(record["gmi_inputs"]["scale"]),
        ]
        for record in result["channels"]
    ]
    second = [
        [
            f"{record['shift']:g}",
            *(
                _number(record[name])
                for name in ("change_gmi_inputs", "change_gmi_messages", "change_lm_rate", "b1", "entropy")
            ),
            "yes" if record["holds"] else "NO",
        ]
        for record in result["shifts"]
    ]
    return [
        (
            "Channels with known rates (nats)",
            f"Estimates from {result['rows']} sampled pairs; 95 % intervals.",
            ["channel", "I", "LM", "GMI messages", "GMI inputs", "estimate", "covers", "s*", "estimated s*"],
            first,
        ),
        (
            "Label decoder, inputs moved by d: W1 = d and a certified Lipschitz constant (nats)",
            "B1: |dGMI| over messages and |dLM| are at most 2 S L W1, S the larger of the two scales.",
            ["d", "dGMI inputs", "dGMI messages", "dLM", "B1", "H(Y)", "B1 holds"],
            second,
        ),
    ]


def markdown(tables: Tables) -> str:
    """The tables as Markdown."""
    parts = []
    for title, note, header, rows in tables:
        lines = [f"## {title}", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
        lines += [f"| {' | '.join(cells)} |" for cells in rows]
        parts.append("\n".join([*lines, "", note, ""]))
    return "\n".join(parts)
