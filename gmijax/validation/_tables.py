"""The numbers of a run as tables."""

from typing import Any

from gmijax.report import Table, number, with_interval


def _with_interval(rate: dict[str, Any] | None) -> str:
    if rate is None:
        return "-"
    mark = " sat." if rate.get("saturated") else ""
    if rate["standard_error"] == 0:
        return f"{rate['nats']:.3f}{mark}"
    return with_interval(rate["nats"], rate["lower"], rate["upper"]) + mark


def sweep_rows(result: dict[str, Any]) -> list[Table]:
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
                number(law["w1_given_y"]),
                *(_with_interval(rates.get(name)) for name in names),
                number(change["inputs"]),
                number(change["direct"]),
                number(change["competition"]),
            ]
        )
        b = law["bounds"]
        limits.append(
            [
                label,
                number(change["scale"]),
                number(change["inputs"]),
                f"[{number(b['b6_lower'])}, {number(b['b6_upper'])}]",
                number(b["b3_inputs"]),
                number(b["b2_inputs"]),
                "10^" + number(b["paper_log10"]),
                number(change["messages"]),
                number(b["b3_messages"]),
                number(b["b1_messages"]),
                number(b["cap_rate"]),
            ]
        )
    known = (
        f"Texts: all {len(result['texts'])} of a grammar, so H(Y) = {cap:.3f} nats caps every rate."
        if result["law_of_texts_known"]
        else f"{len(result['texts'])} sentences, a sample: 'sat.' marks saturated rates, which are lower bounds only."
    )
    index = result["lipschitz_index"]
    return [
        Table(
            f"What a shift of the soft tokens costs ({result['decoder']}, nats)",
            f"{known} Intervals: 95 %, over the draws of a random law. dI: of I(s) over inputs, s in the next table.",
            ["modal law", "W1 given y", "GMI inputs", "GMI messages", "LM rate", "dI(s)", "direct", "competition"],
            costs,
        ),
        Table(
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


def channel_rows(result: dict[str, Any]) -> list[Table]:
    """Known rates beside estimates, and shifts beside B1."""
    first = [
        [
            record["channel"],
            *(
                number(record["known"][name])
                for name in ("mutual_information", "lm_rate", "gmi_messages", "gmi_inputs")
            ),
            _with_interval(record["gmi_inputs"]),
            "yes" if record["covered"] else "no",
            number(record["known"]["scale"]),
            number(record["gmi_inputs"]["scale"]),
        ]
        for record in result["channels"]
    ]
    second = [
        [
            f"{record['shift']:g}",
            *(
                number(record[name])
                for name in ("change_gmi_inputs", "change_gmi_messages", "change_lm_rate", "b1", "entropy")
            ),
            "yes" if record["holds"] else "NO",
        ]
        for record in result["shifts"]
    ]
    return [
        Table(
            "Channels with known rates (nats)",
            f"Estimates from {result['rows']} sampled pairs; 95 % intervals.",
            ["channel", "I", "LM", "GMI messages", "GMI inputs", "estimate", "covers", "s*", "estimated s*"],
            first,
        ),
        Table(
            "Label decoder, inputs moved by d: W1 = d and a certified Lipschitz constant (nats)",
            "B1: |dGMI| over messages and |dLM| are at most 2 S L W1, S the larger of the two scales.",
            ["d", "dGMI inputs", "dGMI messages", "dLM", "B1", "H(Y)", "B1 holds"],
            second,
        ),
    ]
