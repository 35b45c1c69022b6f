"""What the commands on arrays do: load, call one room, and arrange its result for people and for scripts."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from gmijax import accessibility, distances, modes, probes
from gmijax._arrays import load_array, load_arrays
from gmijax.report import Table, number, with_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DISTANCES = {
    "w1": distances.w1,
    "sliced_w1": distances.sliced_w1,
    "max_sliced_w1": distances.max_sliced_w1,
    "sinkhorn": distances.sinkhorn,
    "sinkhorn_divergence": distances.sinkhorn_divergence,
    "gaussian_w2": distances.gaussian_w2,
    "mmd2": distances.mmd2,
    "energy": distances.energy,
    "cka": distances.cka,
}
LONGEST = 40  # rows of a table; the JSON has all


class Outcome(NamedTuple):
    """What a command leaves behind."""

    result: dict[str, Any]
    tables: list[Table]
    figure: "Figure | None"


def _estimate(estimate: Any) -> dict[str, Any]:
    """An estimate with its interval as plain values."""
    return {
        "value": np.asarray(estimate.value),
        "standard_error": np.asarray(estimate.standard_error),
        "lower": np.asarray(estimate.interval.lower),
        "upper": np.asarray(estimate.interval.upper),
    }


def _cell(estimate: Any, k: Any = ()) -> str:
    """An estimate's entry k with its interval, as a cell."""
    lower, upper = (float(np.asarray(end)[k]) for end in (estimate.interval.lower, estimate.interval.upper))
    return with_interval(float(np.asarray(estimate.value)[k]), lower, upper)


def compare_laws(text: str, modal: str, names: Sequence[str], projection: int | None, seed: int) -> Outcome:
    """`gmijax distance`."""
    unknown = [name for name in names if name not in DISTANCES]
    if unknown:
        raise ValueError(f"--name {unknown[0]} is not known; give some of {', '.join(DISTANCES)}")
    x, y = load_array(text), load_array(modal)
    records, rows = {}, []
    for k, name in enumerate(names):
        options = {} if projection is None or name in ("cka",) else {"projection": projection}
        found = DISTANCES[name](x, y, **options, key=jax.random.fold_in(jax.random.key(seed), k))
        record = {
            field: getattr(found, field) for field in ("value", "standard_error", "null", "split_half", "p_value")
        }
        ends = found.interval
        record |= {"lower": None, "upper": None} if ends is None else {"lower": ends.lower, "upper": ends.upper}
        record |= {"converged": found.converged, "discarded": found.discarded, "n": found.n, "m": found.m}
        records[name] = {"estimator": found.name} | {
            field: value if value is None or isinstance(value, int) else np.asarray(value)
            for field, value in record.items()
        }
        beside = ["-" if value is None else number(value) for value in (found.null, found.split_half, found.p_value)]
        cell = number(found.value) if ends is None else with_interval(found.value, ends.lower, ends.upper)
        rows.append([found.name, cell, *beside])
    note = (
        "Null: the same statistic over permuted labels (CKA: pairings). Noise floor: between halves of one law, at "
        "half the rows. A distance near its null says nothing."
    )
    table = Table(f"Distances of {text} and {modal}", note, ["distance", "estimate", "null", "noise floor", "p"], rows)
    return Outcome({"x": text, "y": modal, "distances": records}, [table], None)


def align_modes(modal: str, text: str, top: int, threshold: float, labels: str | None) -> Outcome:
    """`gmijax modes`."""
    x, y = load_array(modal), load_array(text)
    top = min(top, *(size - 1 for size in x.shape[:1]), x.shape[-1])
    alignment = modes.align(x, y, top=top)
    parts = modes.split(alignment, threshold)
    cross = alignment.cross
    assert cross is not None  # asked for by default
    specific, aligned = parts.modality_specific, parts.text_aligned
    result = {
        "n": alignment.n,
        "m": alignment.m,
        "eigenvalues": np.asarray(alignment.eigenvalues),
        "share": np.asarray(alignment.share),
        "alpha_in_sample": np.asarray(alignment.alpha),
        "alpha": _estimate(cross.alpha),
        "alpha_matched": _estimate(cross.matched),
        "overlap": np.asarray(cross.overlap),
        "threshold": threshold,
        "modality_specific": {"modes": np.asarray(specific.indices), "share": float(specific.share)},
        "text_aligned": {"modes": np.asarray(aligned.indices), "share": float(aligned.share)},
        "converged": bool(alignment.converged),
    }
    count = len(np.asarray(cross.alpha.value))
    rows = [
        [
            str(k),
            number(alignment.eigenvalues[k]),
            f"{100 * float(alignment.share[k]):.1f} %",
            number(alignment.alpha[k]),
            _cell(cross.alpha, k),
            number(cross.overlap[k]),
            "MS" if k in np.asarray(specific.indices) else "TA",
        ]
        for k in range(min(count, LONGEST))
    ]
    header = ["mode", "variance", "share", "alpha, in-sample", "alpha, cross-fitted", "overlap", "side"]
    note = (
        f"MS: modality-specific, cross-fitted alpha below {threshold:g}: {specific.count} modes with "
        f"{100 * float(specific.share):.1f} % of the variance; TA: text-aligned, {aligned.count} modes with "
        f"{100 * float(aligned.share):.1f} %. Overlap: of the halves' directions with the whole sample's."
    )
    tables = [Table(f"Modes of {modal} beside {text}", note, header, rows)]
    if labels is not None:
        scatter = modes.class_scatter(x, load_array(labels), specific)
        whole = modes.class_scatter(x, load_array(labels), alignment)
        result["class_scatter"] = {
            "inside_modality_specific": _estimate(scatter.inside),
            "weighted_alpha": _estimate(whole.weighted_alpha),
            "reliable": bool(whole.reliable),
        }
        cells = [[labels, _cell(scatter.inside), _cell(whole.weighted_alpha), "yes" if whole.reliable else "no"]]
        header = ["labels", "between-class scatter in MS modes", "scatter-weighted alpha", "classes differ"]
        tables.append(
            Table("Where the classes differ", "Debiased: the class means' noise is taken off.", header, cells)
        )
    return Outcome(result, tables, _alignment_figure(alignment, parts, threshold))


def _alignment_figure(alignment: modes.Alignment, parts: modes.Split, threshold: float) -> "Figure":
    """Cross-fitted alpha of every mode with its interval, and the modes' variances below."""
    from matplotlib.figure import Figure

    assert alignment.cross is not None
    alpha = alignment.cross.alpha
    values = np.asarray(alpha.value)
    place = np.arange(len(values))
    specific = np.isin(place, np.asarray(parts.modality_specific.indices))
    figure = Figure(figsize=(7.2, 4.8), layout="constrained")
    upper, lower = figure.subplots(2, sharex=True, height_ratios=(2, 1))
    floor = max(values[values > 0].min(initial=1) / 3, 1e-6)
    for chosen, colour, label in ((specific, "#c46a3f", "MS"), (~specific, "#3b6ea8", "TA")):
        if chosen.any():
            ends = np.stack([values - np.asarray(alpha.interval.lower), np.asarray(alpha.interval.upper) - values])
            shown = np.maximum(values[chosen], floor)
            upper.errorbar(place[chosen], shown, np.maximum(ends[:, chosen], 0), fmt="o", ms=3, lw=0.8, color=colour)
            upper.plot([], [], "o", ms=3, color=colour, label=f"{label} ({chosen.sum()})")
    upper.plot(place, np.maximum(np.asarray(alignment.alpha)[: len(place)], floor), "x", ms=3, color="0.6", zorder=0)
    upper.plot([], [], "x", ms=3, color="0.6", label="in-sample")
    upper.axhline(threshold, color="0.4", lw=0.8, ls="--")
    upper.set_yscale("log")
    upper.set_ylabel("alpha")
    upper.legend(frameon=False, fontsize=8, ncols=3)
    lower.bar(place, 100 * np.asarray(alignment.share)[: len(place)], color=np.where(specific, "#c46a3f", "#3b6ea8"))
    lower.set_ylabel("% of variance")
    lower.set_xlabel("mode of the modal law")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def read_out(
    states: str,
    labels: str,
    groups: str | None,
    method: str,
    penalty: float,
    test_share: float,
    shuffles: int,
    seed: int,
) -> Outcome:
    """`gmijax probe`."""
    layers, own = _layers(states), load_array(labels)
    options: dict[str, Any] = {} if not shuffles else {"shuffles": shuffles, "key": jax.random.key(seed)}
    records, rows = {}, []
    for name, layer in layers.items():
        found = probes.probe(
            layer,
            own,
            groups=None if groups is None else load_array(groups),
            method=method,
            penalty=penalty,
            test_share=test_share,
            **options,
        )
        bits = jax.tree.map(lambda part: part / math.log(2), found.v_information)
        records[name] = {
            "accuracy": _estimate(found.accuracy),
            "macro_f1": _estimate(found.macro_f1),
            "cross_entropy_nats": _estimate(found.cross_entropy),
            "v_information_nats": _estimate(found.v_information),
            "chance": {"majority": float(found.chance.majority), "uniform": float(found.chance.uniform)},
            "selectivity": None if found.selectivity is None else _estimate(found.selectivity),
            "predictions": np.asarray(found.predictions),
            "log_likelihoods": np.asarray(found.log_likelihoods),
            "converged": bool(found.reliable),
        }
        rows.append(
            [
                name,
                _cell(found.accuracy),
                _cell(found.macro_f1),
                number(found.chance.majority),
                "-" if found.selectivity is None else _cell(found.selectivity),
                _cell(bits),
                "yes" if found.reliable else "NO",
            ]
        )
    header = ["layer", "accuracy", "macro-F1", "majority", "selectivity", "V-information, bits", "converged"]
    note = (
        f"{len(own)} rows, {len(np.unique(own))} labels; method {method}, penalty {penalty:g}. Intervals are over "
        "held-out rows, for the probes as fitted."
    )
    table = Table(f"Linear probes of {states}", note, header, rows)
    return Outcome({"labels": labels, "method": method, "layers": records}, [table], None)


def climb(
    scores: str, states: str, labels: str, groups: str | None, folds: int, method: str, title: str, seed: int
) -> Outcome:
    """`gmijax ladder`."""
    result = accessibility.ladder(
        load_array(scores),
        _layers(states),
        load_array(labels),
        groups=None if groups is None else load_array(groups),
        folds=folds,
        method=method,
        key=jax.random.key(seed),
    )
    bits, certified = result.bits, result.certified
    values, names = np.asarray(bits.value), list(result.names)
    gaps = jax.tree.map(lambda part: part / math.log(2), result.gaps)
    rows = [
        [
            accessibility.RUNGS[name],
            _cell(bits, k),
            f"{100 * values[k] / values[-1]:.1f} %",
            _cell(gaps, k - 1) if k else "",
        ]
        for k, name in enumerate(names)
    ]
    note = (
        f"n = {result.n}. Accessibility, LM rate over best probe: {_cell(result.accessibility)}. At {result.level:.0%} "
        f"confidence a probe reads at least {certified.lower / math.log(2):.3f} bits more than the LM rate (B8, a "
        f"{certified.kind}). {'Every fit converged.' if result.converged else 'NOT every fit converged.'}"
    )
    layers = [
        [name, _cell(jax.tree.map(lambda part: part / math.log(2), result.layers), k)]
        for k, name in enumerate(result.layer_names)
    ]
    tables = [
        Table(
            title or "The accessibility ladder, bits", note, ["rung", "bits", "of H(A)", "above the rung below"], rows
        ),
        Table("Linear probes by layer, bits", "V-information on held-out rows.", ["layer", "bits"], layers),
    ]
    record = {
        "rungs": {name: _estimate(result.rung(name)) for name in names},
        "gaps": _estimate(result.gaps),
        "layers": {"names": list(result.layer_names)} | _estimate(result.layers),
        "accessibility": _estimate(result.accessibility),
        "certified_gap": {"lower": certified.lower, "kind": certified.kind, "level": certified.level},
        "unit": "nats",
        "n": result.n,
        "converged": bool(result.converged),
    }
    return Outcome(record, tables, accessibility.ladder_figure(result, title=title))


def _layers(source: str) -> dict[str, np.ndarray]:
    """The layers of a file by name: its arrays (n, d), or those of one array (layers, n, d)."""
    found = load_arrays(source)
    if len(found) == 1 and next(iter(found.values())).ndim == 3:
        return {f"layer {k}": layer for k, layer in enumerate(next(iter(found.values())))}
    return found
