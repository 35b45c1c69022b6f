"""Every bound against the exact change of I(1) on random finite laws, and how tight constructed worst cases make it.

Run: python experiments/bound_sweep.py [--instances N] [--out DIR]
Writes bound_sweep.json, .svg and .png: violations, how far each bound lies below the paper's by decade of L D, and the
share of each bound that a change reaches. All bounds depend on s and L through s L alone, so s = 1 loses nothing.
"""

import argparse
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track

from gmijax import bounds, distances, rates, report, sensitivity

ATOMS, MESSAGES, BATCH = 12, 3, 2_000
OWN = np.arange(ATOMS) % MESSAGES
DECADES = np.arange(-2, 4)  # of L D: from 0.01 to 1000
ROUNDING = 1e-10
QUANTILES = (0.05, 0.5, 0.95, 1.0)


class Known(NamedTuple):
    """An exactly known distance on the line."""

    value: float
    given: str
    space: str = "z"


def draw(count, rng):
    """Laws on the line with scores L g_y(z), each g_y a line bent by a sine; every other pair has two laws of Y."""
    text = rng.normal(size=(count, ATOMS))
    strength = 10 ** rng.uniform(-3, 0.5, (count, 1))
    modal = text * (1 - rng.uniform(0, 1, (count, 1)) * np.minimum(strength, 1))
    modal += strength * (rng.normal(size=(count, 1)) + rng.normal(size=(count, ATOMS)))
    masses = rng.dirichlet(np.ones(ATOMS), (count, 2))
    onehot = OWN[:, None] == np.arange(MESSAGES)
    prior = masses @ onehot
    shared = np.arange(count) % 2 == 0
    matched = masses[:, 1] * ((prior[:, 0] / prior[:, 1]) @ onehot.T)
    masses[:, 1] = np.where(shared[:, None], matched, masses[:, 1])
    line, bend = rng.normal(size=(2, count, MESSAGES))
    total = (np.abs(line) + np.abs(bend)).max(axis=1, keepdims=True)
    width = np.ptp(np.concatenate([text, modal], axis=1), axis=1)
    slope = 10 ** rng.uniform(DECADES[0], DECADES[-1], count) / width
    scores = [
        slope[:, None, None] * ((line / total)[..., None] * z[:, None] + (bend / total)[..., None] * np.sin(z[:, None]))
        for z in (text, modal)
    ]
    return {"points": (text, modal), "masses": masses, "scores": scores}, slope, width, shared


@jax.jit
@jax.vmap
def exact(points, masses, scores):
    """What the theorems speak of, and the score-space bounds, of one pair of laws."""
    own = jnp.arange(MESSAGES)[:, None] == OWN
    weights = {"weights_text": masses[0], "weights_modal": masses[1]}
    b3 = bounds.score_shift(*scores, OWN, OWN, scale=1.0, **weights)
    b4 = bounds.shift_bracket(*scores, OWN, OWN, scale=1.0, **weights)
    b6 = bounds.edit_bracket(*scores, OWN, scale=1.0, weights=masses[0])

    def change(over, masses):
        tables = zip(masses, scores, strict=True)
        before, after = (rates.curve_exact(m[:, None] * own.T, table.T, 1.0, over=over) for m, table in tables)
        return after - before

    given_y = jax.vmap(lambda mine: distances.w1_line(*points, masses[0] * mine, masses[1] * mine))(own)
    prior = own @ masses.T
    spread = jnp.concatenate(scores, axis=1)
    return {
        "inputs": change("inputs", masses),
        "messages": change("messages", masses),
        "edit": change("inputs", masses[jnp.array([0, 0])]),
        "w1_given_y": jnp.sum(given_y * jnp.min(prior, axis=1)),  # all that the theorems count
        "w1_given_c": distances.w1_line(*points, *masses),
        "w2_given_c": distances.w2_line(*points, *masses),
        "w_inf": distances.w_inf_line(*points, *masses),
        "variation": 0.5 * jnp.sum(jnp.abs(prior[:, 1] - prior[:, 0])),
        "range": jnp.ptp(spread),
        "range_by_message": jnp.max(jnp.ptp(spread, axis=1)),
        "B3": b3.value,
        "B4": jnp.stack([b4.lower, b4.upper]),
        "B6": jnp.stack([b6.lower, b6.upper]),
    }


def with_a_slope(record, slope, width, k):
    """B1, B2, B5 (a support of width D is sub-Gaussian with sigma = D / 2) and the paper's, of one pair."""
    certified = sensitivity.LipschitzConstant(float(slope[k]), "certified", "z")
    given_y, given_c, second = (
        Known(float(record[name][k]), given)
        for name, given in (("w1_given_y", "(c, y)"), ("w1_given_c", "c"), ("w2_given_c", "c"))
    )
    variation = float(record["variation"][k])
    variation = variation if variation > 1e-12 else 0.0
    law = {"total_variation": variation, "oscillation": float(record["range_by_message"][k])}
    messages = {"total_variation": variation, "oscillation": float(record["range"][k])}
    diameter, farthest = float(width[k]), float(record["w_inf"][k])
    return (
        bounds.messages(1.0, certified, given_y, **messages).value,
        bounds.inputs(1.0, certified, given_y, given_c, diameter, w_inf=farthest, **law).value,
        bounds.sub_gaussian(1.0, certified, diameter / 2, given_y, given_c, w2_given_c=second, **law).value,
        bounds.paper(certified, diameter, given_y).terms["log10"],
    )


def sweep(instances, seed=0, progress=lambda batches: batches):
    """All instances: exact changes, bounds and L D."""
    rng, parts = np.random.default_rng(seed), []
    for start in progress(range(0, instances, BATCH)):
        pair, slope, width, shared = draw(min(BATCH, instances - start), rng)
        with jax.enable_x64(True):
            record = {name: np.asarray(value) for name, value in exact(**pair).items()}
        simple = np.array([with_a_slope(record, slope, width, k) for k in range(len(slope))])
        record |= dict(zip(("B1", "B2", "B5", "paper_log10"), simple.T, strict=True))
        parts.append(record | {"product": slope * width, "shared": shared})
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def worst_cases(product, messages):
    """The shares of B1 and B2 that a constructed pair of laws reaches, by L D.

    One atom a message, evenly spaced; all move by d. A message's score falls by L d at its own atom, where it is low,
    and rises by L d at the others: what its input loses, its competitors gain.
    """
    step = 1e-4 * product / messages
    gap = (product - step) / (messages - 1)
    signs = 1 - 2 * np.eye(messages)
    text = signs * (gap - 2 * step) / 2  # any two points differ by at most their distance
    modal = text + signs * step
    unit, given_y, given_c = (
        sensitivity.LipschitzConstant(1.0, "certified", "z"),
        Known(step, "(c, y)"),
        Known(step, "c"),
    )
    b1 = bounds.messages(1.0, unit, given_y).value
    b2 = bounds.inputs(1.0, unit, given_y, given_c, product, w_inf=step).value
    over_messages = bounds.score_shift(text, modal, scale=1.0, over="messages").value
    over_inputs = abs(bounds.shift_bracket(text, modal, scale=1.0).terms["change"])
    return over_messages / b1, over_inputs / b2


def summary(record):
    """Violations, and by half decade of L D how much tighter each bound is and which share of it was reached."""
    inputs, messages = np.abs(record["inputs"]), np.abs(record["messages"])
    over = {"B1": messages, "B2": inputs, "B3": inputs, "B5": inputs}
    excess = {name: change - record[name] for name, change in over.items()}
    for name, change, rows in (("B4", "inputs", record["shared"]), ("B6", "edit", slice(None))):
        low, high = record[name][rows].T
        excess[name] = np.maximum(low - record[change][rows], record[change][rows] - high)
    edges = 10.0 ** np.arange(DECADES[0], DECADES[-1] + 0.25, 0.5)
    bins = np.clip(np.digitize(record["product"], edges) - 1, 0, len(edges) - 2)
    shared, tighter, reached = record["shared"], {}, {}
    for name in ("B1", "B2", "B3", "B5"):
        with np.errstate(divide="ignore"):
            orders = record["paper_log10"] - np.log10(record[name])
            share = over[name] / record[name]
        tighter[name] = [np.quantile(orders[(bins == b) & shared], QUANTILES) for b in range(len(edges) - 1)]
        reached[name] = [np.quantile(share[bins == b], QUANTILES) for b in range(len(edges) - 1)]
    products = np.geomspace(edges[0], edges[-1], 61)
    constructed = np.array([[worst_cases(product, count) for count in (2, 64)] for product in products]).max(axis=1)
    return {
        "instances": len(shared),
        "with_one_law_of_y": int(shared.sum()),
        "violations": {name: int((values > ROUNDING).sum()) for name, values in excess.items()},
        "largest_excess": {name: float(values.max()) for name, values in excess.items()},
        "quantiles": QUANTILES,
        "edges": edges,
        "orders_below_paper": tighter,
        "share_reached": reached,
        "worst_cases": {"L D": products, "B1": constructed[:, 0], "B2": constructed[:, 1]},
    }


def figure(result):
    """Left, how far below the paper's each bound lies; right, how much of it changes reach."""
    from matplotlib.figure import Figure

    canvas = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = canvas.subplots(1, 2)
    middle = np.sqrt(result["edges"][1:] * result["edges"][:-1])
    for name, label, colour, mark in (
        ("B3", "B3, from scores alone", "C0", "v"),
        ("B1", "B1, over messages", "C1", "s"),
        ("B2", "B2, over inputs", "C4", "o"),
    ):
        low, median, high, _ = np.array(result["orders_below_paper"][name]).T
        left.plot(middle, median, color=colour, label=label)
        left.fill_between(middle, low, high, color=colour, alpha=0.2, lw=0)
        _, median, _, most = np.array(result["share_reached"][name]).T
        right.plot(middle, most, color=colour, marker=mark, markersize=4, lw=0, label=f"{name}, largest")
        right.plot(middle, median, color=colour, lw=1, ls=":", label=f"{name}, median")
    worst = result["worst_cases"]
    right.plot(worst["L D"], worst["B1"], color="C1", lw=3, alpha=0.5, label="B1, constructed")
    right.plot(worst["L D"], worst["B2"], color="C4", lw=1.2, ls="--", label="B2, constructed")
    left.plot(middle, middle / math.log(10), color="0.4", lw=0.8, ls="--", label="L D / log 10")
    left.set_yscale("symlog", linthresh=1)
    left.set_ylim(0, 600)
    left.set_yticks([0, 1, 10, 100], ["0", "1", "10", "100"])
    left.set_ylabel(r"orders of magnitude below $(1 + e^{LD})\, L\, W_1$")
    left.legend(fontsize=8, loc="upper left")
    left.set_title("How much tighter than the paper's theorem 2 (median, 5 to 95 %)", fontsize=10)
    right.axhline(1, color="k", lw=0.8)
    right.set_yscale("log")
    right.set_ylim(8e-3, 1.5)
    right.set_ylabel("|change of I(1)| / bound")
    right.legend(fontsize=7, loc="lower center", ncols=3)
    broken = sum(result["violations"].values())
    right.set_title(f"{result['instances']:,} random pairs of laws: {broken} violations of B1 to B6", fontsize=10)
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_xlabel(r"$L D$, nats")
    return canvas


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instances", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("results/bound_sweep"))
    options = parser.parse_args()
    console = Console(stderr=True)
    record = sweep(
        options.instances, progress=lambda batches: track(batches, "sweeping", console=console, transient=True)
    )
    result = summary(record)
    stem = options.out / "bound_sweep"
    report.write_json(stem.with_suffix(".json"), result)
    report.save_figure(figure(result), stem)
    print(f"{result['instances']} pairs of laws, {result['with_one_law_of_y']} of them with one law of Y")
    for name, count in result["violations"].items():
        print(f"{name}: {count} violations, largest excess {result['largest_excess'][name]:.1e}")
    for name in ("B1", "B2"):
        print(f"{name}: constructed laws reach {max(result['worst_cases'][name]):.6f} of it")


if __name__ == "__main__":
    main()
