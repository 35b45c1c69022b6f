"""The picture of a ladder: one bar a rung."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from gmijax.accessibility._ladder import RUNGS, Ladder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {"decoder": "#3b6ea8", "gmi": "#3b6ea8", "lm_rate": "#3b6ea8", "read_out": "#8a7fb5", "entropy": "0.75"}


def _scale(factor: float) -> Any:
    return lambda x: factor * x


def ladder_figure(result: Ladder, *, title: str = "") -> "Figure":
    """One bar a rung with its interval, in bits below and as a share of H(A) above, the lowest rung at the bottom.

    Args:
      result: from `ladder`.
      title: e.g. the attribute's name.

    Returns:
      A matplotlib figure; `report.save_figure` writes it.
    """
    from matplotlib.figure import Figure

    bits, entropy = result.bits, float(result.rungs.value[-1]) / math.log(2)
    values = np.asarray(bits.value)
    errors = np.abs(np.stack([values - np.asarray(bits.interval.lower), np.asarray(bits.interval.upper) - values]))
    figure = Figure(figsize=(7.2, 3.6), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(values))
    colours = [_COLOURS.get(name, "#c46a3f") for name in result.names]
    axes.barh(place, values, xerr=errors, color=colours, error_kw={"lw": 1, "capsize": 2}, height=0.72)
    axes.set_yticks(place, [RUNGS[name] for name in result.names])
    axes.axvline(0, color="0.3", lw=0.8)
    left = min(0.0, float(np.asarray(bits.interval.lower).min()))
    axes.set_xlim(1.08 * left, 1.2 * max(entropy, float(np.asarray(bits.interval.upper).max())))
    for y, value, upper in zip(place, values, values + errors[1], strict=True):
        axes.text(max(float(upper), 0) + 0.015 * entropy, float(y), f"{value:.2f}", va="center", fontsize=8)
    axes.set_xlabel(f"bits of the attribute (n = {result.n}, {result.level:.0%} intervals)")
    share = axes.secondary_xaxis("top", functions=(_scale(100 / entropy), _scale(entropy / 100)))
    share.set_xlabel("% of H(A)")
    axes.spines[["right"]].set_visible(False)
    if title:
        figure.suptitle(title)
    return figure
