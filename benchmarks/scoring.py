"""A 64 x 64 score matrix on SmolLM2: shared prefixes against one plain forward a pair.

Run: python benchmarks/scoring.py
"""

from _bench import Row, measure, once, report  # first: it pins the process

import jax
import numpy as np

from gmijax import checkpoints, scoring

PREFIXES, TARGETS, PREFIX_TOKENS, TARGET_TOKENS, PEER_PAIRS = 64, 64, 80, 12, 8


def main() -> None:
    model = checkpoints.load_model(checkpoints.bundled_decoder())
    rng = np.random.default_rng(0)
    vocabulary = model.config.vocab_size
    soft_tokens = np.asarray(model.embed_tokens(rng.integers(0, vocabulary, (PREFIXES, PREFIX_TOKENS))))
    targets = rng.integers(0, vocabulary, (TARGETS, TARGET_TOKENS))  # unrelated: nothing for the tries to share

    plain = scoring.log_likelihoods  # a pair at a time, as a loop over pairs does it
    pair = measure(lambda: plain(model, targets[:1], soft_tokens=soft_tokens[:1]), repeats=PEER_PAIRS)
    reference, _ = once(
        lambda: np.array([plain(model, targets[j : j + 1], soft_tokens=soft_tokens[:1])[0] for j in range(PEER_PAIRS)])
    )
    batched = measure(lambda: plain(model, targets[:16], soft_tokens=np.repeat(soft_tokens[:1], 16, axis=0)), repeats=1)
    ours = measure(lambda: scoring.score_matrix(model, soft_tokens, targets), repeats=1)
    # The first rows again, for the error alone.
    few = scoring.score_matrix(model, soft_tokens[:2], targets)
    error = float(np.abs(few[0, :PEER_PAIRS] - reference).max())
    total, in_batches = pair.seconds * PREFIXES * TARGETS, batched.seconds * PREFIXES * TARGETS / 16
    what = f"{PREFIXES} x {TARGETS} scores, {PREFIX_TOKENS}-token prefixes, {TARGET_TOKENS}-token targets"
    rows = [
        Row(what, ours.seconds, "one forward a pair", total, total / ours.seconds, error, ours.first,
            f"{PEER_PAIRS} of {PREFIXES * TARGETS} pairs measured", "float32 / float32"),
        Row(what, ours.seconds, "forwards in batches of 16 pairs", in_batches, in_batches / ours.seconds, error,
            ours.first, f"16 of {PREFIXES * TARGETS} pairs measured", "float32 / float32"),
    ]  # fmt: skip
    report("Scoring on SmolLM2-135M-Instruct", rows, "benchmark_scoring.json")
    jax.clear_caches()


if __name__ == "__main__":
    main()
