"""Ablate noisy modes of SmolLM2's soft tokens beside matched controls: what the paper's table 2 leaves out.

Soft tokens are the embeddings of a grammar's texts plus Gaussian noise in a few directions: modes that carry much of
the variance and nothing of the text, as the paper says of modality-specific ones. Taking them out should help, and by
B6's first-order term alone; the controls (as many text-aligned modes, the same variance, random rotations of the span)
should not. The loss of the prompt's own tokens, which the paper's code takes, is shown beside that of the text.

Run: python experiments/ablation_smollm2.py [folder]      writes ablation.json, ablation.svg and ablation.png there
"""

import sys
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from gmijax import interventions, report, scoring
from gmijax.validation._decoder import load_decoder
from gmijax.validation._texts import grammar_texts

NOISY, STRENGTH, COPIES, DRAWS = 4, 0.8, 3, 3
CHOICES = (2, 2, 2, 2)
FAMILIES = {"as many aligned modes": "count", "same variance": "variance", "rotation": "rotation"}


def modal_states(text: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """COPIES noisy versions of every text: STRENGTH times their variance, in NOISY directions that no text uses."""
    flat = text.reshape(-1, text.shape[-1])
    used = np.unique(flat, axis=0)
    directions = np.linalg.qr(np.concatenate([used.T, rng.normal(size=(len(used[0]), NOISY))], axis=1))[0][:, -NOISY:].T
    variance = flat.var(0).sum()
    noise = rng.normal(size=(COPIES, *text.shape[:-1], NOISY)) * np.sqrt(STRENGTH * variance / NOISY)
    return (text + noise @ directions).reshape(-1, *text.shape[1:]).astype(np.float32)


def eigenmodes(states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variances and directions of all modes that are more than rounding."""
    flat = states.reshape(-1, states.shape[-1]).astype(np.float64)
    mean = flat.mean(0)
    _, singular, directions = np.linalg.svd(flat - mean, full_matrices=False)
    variances = singular**2 / len(flat)
    kept = variances > 1e-6 * variances[0]
    return mean.astype(np.float32), variances[kept], directions[kept]


def record(effect: interventions.Effect) -> dict:
    """The numbers of one condition."""
    numbers = {
        "loss": effect.value,
        "loss_interval": effect.interval,
        "p_value": effect.p_value,
        "relative": effect.relative,
        "variance_removed": effect.variance_removed,
    }
    if effect.first_order is not None:
        numbers |= {
            "first_order": effect.first_order,
            "second_order": effect.second_order,
            "rate_messages": effect.rate_messages.value,
            "rate_messages_interval": effect.rate_messages.interval,
        }
    return jax.tree.map(lambda x: round(float(x), 6), numbers)


def figure(records: dict, prompt: dict) -> Figure:
    """One row a condition: change of the text's loss, B6's two terms, and the loss of the prompt."""
    names = list(records)
    rows = np.arange(len(names))[::-1]
    picture = Figure(figsize=(11, 0.36 * len(names) + 1.6), layout="constrained")
    left, middle, right = picture.subplots(1, 3, sharey=True)
    colours = ["C3" if name.startswith("MS") else f"C{list(FAMILIES).index(name.rsplit(' ', 1)[0])}" for name in names]

    def points(axes, values, intervals, where):
        spread = np.abs(np.asarray(intervals).T - np.asarray(values))
        for k, row in enumerate(where):
            axes.errorbar(values[k], row, xerr=spread[:, k : k + 1], fmt="o", color=colours[names.index(order[k])])
        axes.axvline(0, color="0.6", lw=0.8)

    order = names
    points(left, [r["loss"] for r in records.values()], [r["loss_interval"] for r in records.values()], rows)
    left.set_yticks(
        rows, [f"{n} ({100 * records[n]['variance_removed']:.0f} % of variance)" for n in names], fontsize=8
    )
    left.set_xlabel("change of the text's loss, nats")
    first, second = ([r[name] for r in records.values()] for name in ("first_order", "second_order"))
    middle.barh(rows + 0.18, first, 0.34, color="C4", label="first order: mismatch")
    middle.barh(rows - 0.18, second, 0.34, color="0.6", label="second order: content")
    middle.plot(np.add(first, second), rows, "k|", ms=9, label="sum: change of I(1) over inputs")
    middle.axvline(0, color="0.6", lw=0.8)
    middle.set_xlabel("B6's terms, nats")
    middle.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    order = list(prompt)
    where = [rows[names.index(name)] for name in order]
    points(right, [r["loss"] for r in prompt.values()], [r["loss_interval"] for r in prompt.values()], where)
    right.set_xlabel("change of the prompt's own loss\n(the paper's code), nats a token")
    picture.suptitle("Taking modes out of SmolLM2's soft tokens, beside matched controls", fontsize=11)
    return picture


def main() -> None:
    out, start = Path(sys.argv[1] if len(sys.argv) > 1 else "results"), time.perf_counter()
    decoder = load_decoder(None)
    texts = grammar_texts(decoder.encode, CHOICES)
    text = np.asarray(decoder.model.embed_tokens(np.asarray(texts.ids)), np.float32)
    states = modal_states(text, np.random.default_rng(0))
    messages = np.tile(np.arange(len(texts.ids)), COPIES)

    mean, variances, directions = eigenmodes(states)
    flat = text.reshape(-1, text.shape[-1])
    alpha = np.sum(((flat - flat.mean(0)) @ directions.T) ** 2, axis=0) / len(flat) / variances
    specific = np.flatnonzero(alpha < 0.5)
    out_of = partial(interventions.project_out, subspace=directions[specific])
    conditions = {"MS modes, about zero": out_of, "MS modes, about the mean": partial(out_of, centre=mean)}
    for k, (name, match) in enumerate(FAMILIES.items()):
        controls = interventions.matched_controls(
            directions, variances, specific, match=match, draws=DRAWS, key=jax.random.key(k)
        )
        conditions |= controls.conditions(name, centre=mean)

    scores = scoring.DecoderScores(
        decoder.model, texts.ids, decoder.head_ids, decoder.tail_ids, placeholder_id=decoder.tokenizer.eos_token_id
    )
    uniform = np.full(len(texts.ids), 1 / len(texts.ids))
    options = {"clusters": messages, "key": jax.random.key(9)}  # the copies of a text are no independent samples
    ablation = interventions.ablate(scores, states, conditions, messages, prior=uniform, **options)
    few = {name: edit for name, edit in conditions.items() if name.startswith("MS") or name.endswith(" 0")}
    prompt = interventions.ablate(scores, states, few, target="prompt", **options)

    contrasts = {}
    for name in FAMILIES:
        gap = interventions.contrast(
            ablation, "MS modes, about the mean", [c for c in conditions if c.startswith(name)], key=jax.random.key(9)
        )
        contrasts[name] = {"loss": float(gap.value), "interval": [float(e) for e in gap.interval]}
    records = {name: record(ablation[name]) for name in conditions}
    prompts = {name: record(prompt[name]) for name in few}
    result = {
        "texts": len(texts.ids),
        "samples": len(states),
        "modes": {"variances": variances, "alpha": alpha, "modality_specific": specific},
        "loss": float(ablation.losses.mean()),
        "rate_messages": float(ablation.rate_messages.value),
        "conditions": records,
        "MS modes less controls": contrasts,
        "prompt_loss": float(prompt.losses.mean()),
        "prompt": prompts,
        "seconds": round(time.perf_counter() - start, 1),
    }
    report.write_json(out / "ablation.json", result)
    report.save_figure(figure(records, prompts), out / "ablation")
    print("| condition | variance removed | loss | first order | second order | I(1) over messages |")
    print("|---|---|---|---|---|---|")
    for name, r in records.items():
        cells = " | ".join(f"{r[c]:+.3f}" for c in ("loss", "first_order", "second_order", "rate_messages"))
        print(f"| {name} | {100 * r['variance_removed']:.0f} % | {cells} |")
    print(f"{result['seconds']} s; {out}/ablation.json, .svg and .png")


if __name__ == "__main__":
    main()
