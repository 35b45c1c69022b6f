"""Linear probes of SmolLM2's hidden states of real sentences, layer by layer, beside scikit-learn's.

The shipped public-domain sentences run through the packaged decoder; hidden states are pooled over each sentence's
tokens. Attributes that need no annotation are probed at several layers: length (tertiles of the number of words), a
comma, speech in quotation marks, and the first person. Accuracies are those of the paper's definition, on
scikit-learn's own test rows, and scikit-learn fits the same.

Run: python experiments/probe_smollm2.py [folder]      writes probe_smollm2.json and .md there
"""

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gmijax import probes, report
from gmijax.validation._decoder import load_decoder
from gmijax.validation._texts import file_texts

BATCH = 16
LAYERS = ("llm_hidden_0", "llm_hidden_9", "llm_hidden_19", "llm_final")


def pooled_states(decoder, ids: list[tuple[int, ...]]) -> np.ndarray:
    """Means over each sentence's tokens at every layer, (layers, n, d)."""
    longest, order, parts = max(map(len, ids)), np.argsort([len(own) for own in ids]), []
    for start in range(0, len(ids), BATCH):
        own = [ids[k] for k in order[start : start + BATCH]]
        width = min(longest, -(-max(map(len, own)) // 16) * 16)  # few lengths, few compilations
        tokens = np.array([row + (0,) * (width - len(row)) for row in own])
        mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in own])
        output = decoder.model(jnp.asarray(tokens), attention_mask=jnp.asarray(mask), hook_points=LAYERS, logits=False)
        states = np.stack([np.asarray(output.hidden_states[name]) for name in LAYERS])
        parts.append(np.sum(states * mask[..., None], axis=2) / mask.sum(1)[:, None])
    pooled = np.empty((len(LAYERS), len(ids), parts[0].shape[-1]), np.float32)
    pooled[:, order] = np.concatenate(parts, axis=1)
    return pooled


def attributes(sentences: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Labels that a sentence's own characters decide."""
    words = [sentence.replace(",", " ").split() for sentence in sentences]
    length = np.array(list(map(len, words)))
    first = [bool({"I", "me", "my", "My", "we", "We", "our", "us"} & set(own)) for own in words]
    return {
        "length": np.searchsorted(np.quantile(length, [1 / 3, 2 / 3]), length),
        "comma": np.array(["," in sentence for sentence in sentences], int),
        "quotation": np.array([any(mark in sentence for mark in '"\u201c') for sentence in sentences], int),
        "first person": np.array(first, int),
    }


def reference(x: np.ndarray, y: np.ndarray) -> float:
    """scikit-learn's accuracy on the same rows."""
    found = []
    for test in probes.splits.stratified(y):
        scaler = StandardScaler().fit(x[~test].astype(np.float64))
        z = scaler.transform(x.astype(np.float64))
        model = LogisticRegression(max_iter=5000).fit(z[~test], y[~test])
        found.append(model.score(z[test], y[test]))
    return float(np.mean(found))


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "results")
    decoder = load_decoder(None)
    texts = file_texts(None, decoder.encode, 10_000)
    states = pooled_states(decoder, list(texts.ids))
    records, rows = [], []
    for name, labels in attributes(texts.texts).items():
        if np.bincount(labels, minlength=2).min() < 10:
            print(f"{name}: fewer than 10 sentences of one label, left out")
            continue
        result = probes.probe(states, labels)
        for k, layer in enumerate(LAYERS):
            peer, accuracy = reference(states[k], labels), result.accuracy
            records.append(
                {
                    "attribute": name,
                    "layer": layer,
                    "accuracy": accuracy.value[k],
                    "lower": accuracy.interval.lower[k],
                    "upper": accuracy.interval.upper[k],
                    "scikit_learn": peer,
                    "majority": result.chance.majority[k],
                    "v_information_bits": result.v_information.bits[k],
                    "n": result.n,
                }
            )
            cell = report.with_interval(accuracy.value[k], accuracy.interval.lower[k], accuracy.interval.upper[k])
            difference = f"{100 * abs(float(accuracy.value[k]) - peer):.2f}"
            rows.append([name, layer, cell, report.number(peer), difference, report.number(result.chance.majority[k])])
    header = ["attribute", "layer", "accuracy", "scikit-learn", "difference, points", "majority"]
    note = f"{len(texts.texts)} sentences, 5 splits 80/20, C = 1."
    table = report.Table("Linear probes of SmolLM2-135M-Instruct", note, header, rows)
    report.publish({"probes": records}, [table], None, folder / "probe_smollm2")


if __name__ == "__main__":
    main()
