"""The picture of a run."""

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RATES = (
    ("gmi_inputs", "GMI over inputs", "C0"),
    ("gmi_messages", "GMI over messages", "C1"),
    ("lm_rate", "LM rate", "C2"),
)
BOUNDS = (
    ("b2_inputs", "B2 (index)", "C4", "--"),
    ("b1_messages", "B1, messages (index)", "C1", "--"),
    ("b3_inputs", "B3 (bound)", "C0", "-"),
    ("cap_change", "cap 2 s R", "0.6", ":"),
)


def sweep_figure(result: dict[str, Any]) -> "Figure":
    """One column a family of laws: rates above, the measured change and the bounds below."""
    from matplotlib.figure import Figure

    families = list(dict.fromkeys(law["law"] for law in result["laws"]))
    figure = Figure(figsize=(3.6 * len(families), 6.6), layout="constrained")
    axes = figure.subplots(2, len(families), sharey="row", squeeze=False)
    text, cap = result["text_law"]["rates"], result["entropy_cap_nats"]
    for column, family in enumerate(families):
        laws = [law for law in result["laws"] if law["law"] == family]
        strengths = np.array([0.0] + [law["strength"] for law in laws])
        top, bottom = axes[:, column]
        for name, label, colour in RATES:
            points = [text.get(name)] + [law["rates"].get(name) for law in laws]
            if points[0] is None:
                continue
            top.plot(strengths, [p["nats"] for p in points], color=colour, marker="o", markersize=3, label=label)
            top.fill_between(
                strengths, [p["lower"] for p in points], [p["upper"] for p in points], color=colour, alpha=0.2, lw=0
            )
        top.axhline(cap, color="0.6", ls=":", lw=1)
        top.set_title(family)
        top.set_ylim(bottom=min(-0.05, top.get_ylim()[0]), top=1.12 * cap)
        x = strengths[1:]
        change = np.array([abs(law["change"]["inputs"]) for law in laws])
        for name, label, colour, style in BOUNDS:
            values = np.array([float(law["bounds"][name]) for law in laws])
            bottom.plot(
                x,
                np.log10(np.maximum(values, 1e-12)),
                color=colour,
                ls=style,
                lw=1.2,
                marker=".",
                markersize=3,
                label=label,
            )
        bottom.plot(
            x,
            np.log10(np.maximum(change, 1e-12)),
            color="k",
            marker="o",
            markersize=4,
            label="measured |dI| over inputs",
        )
        low = np.array([max(-law["bounds"]["b6_upper"], 1e-12) for law in laws])
        high = np.array([max(-law["bounds"]["b6_lower"], 1e-12) for law in laws])
        bottom.fill_between(x, np.log10(low), np.log10(high), color="k", alpha=0.15, lw=0, label="B6 bracket")
        bottom.set_xlabel(f"{family}: {laws[0]['unit']}", fontsize=8)
        paper = [law["bounds"]["paper_log10"] for law in laws]
        note = f"paper's theorem 2 (index): 10^{min(paper):.0f} to 10^{max(paper):.0f}"
        bottom.annotate(note, (0.03, 0.74), xycoords="axes fraction", color="C3", fontsize=8)
        bottom.set_ylim(-3, 6)
    axes[0, 0].set_ylabel("nats")
    axes[1, 0].set_ylabel("log10 of nats")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    axes[1, 0].legend(fontsize=7, loc="upper left", ncols=2)
    axes[0, -1].annotate("H(Y)", (1, cap), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    figure.suptitle(f"What a shift of the soft tokens costs {result['decoder']}", fontsize=11)
    return figure


def channel_figure(result: dict[str, Any]) -> "Figure":
    """Known rates against estimates, and shifts against B1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.6, 1])
    records = result["channels"]
    rows = np.arange(len(records))[::-1]
    for name, label, marker, colour in (
        ("mutual_information", "mutual information", "|", "k"),
        ("lm_rate", "LM rate", "d", "C2"),
        ("gmi_inputs", "GMI over inputs", "o", "C0"),
    ):
        left.scatter(
            [r["known"][name] for r in records],
            rows,
            marker=marker,
            s=50,
            color=colour,
            label=f"{label}, exact",
            facecolors="none" if marker != "|" else colour,
        )
    centre = np.array([r["gmi_inputs"]["nats"] for r in records])
    spread = np.array(
        [[c - r["gmi_inputs"]["lower"], r["gmi_inputs"]["upper"] - c] for c, r in zip(centre, records, strict=True)]
    ).T
    left.errorbar(centre, rows - 0.25, xerr=spread, fmt=".", color="C3", label="GMI estimated, 95 %")
    left.set_yticks(rows, [r["channel"] for r in records], fontsize=8)
    left.set_xlabel("nats")
    left.legend(fontsize=8)
    shifts = result["shifts"]
    x = [r["shift"] for r in shifts]
    for name, label, colour in (
        ("change_gmi_messages", "|dGMI| over messages", "C1"),
        ("change_lm_rate", "|dLM|", "C2"),
        ("change_gmi_inputs", "|dGMI| over inputs", "C0"),
    ):
        right.plot(x, [abs(r[name]) for r in shifts], marker="o", markersize=3, color=colour, label=label)
    right.plot(x, [r["b1"] for r in shifts], color="C1", ls="--", label="B1, certified")
    right.axhline(shifts[0]["entropy"], color="0.6", ls=":", label="H(Y)")
    right.set_ylim(0, 1.5 * shifts[0]["entropy"])
    right.set_xlabel("shift of a label decoder's input")
    right.set_ylabel("nats")
    right.legend(fontsize=8)
    return figure
