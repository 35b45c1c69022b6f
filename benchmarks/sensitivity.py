"""Gradient norms on SmolLM2: one backward pass of a batch's sum against one a sample.

Run: python benchmarks/sensitivity.py [--quick]
"""

import sys
from functools import partial

from _bench import Row, measure, report  # first: it pins the process

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gmijax import checkpoints, scoring, sensitivity

SOFT_TOKENS, TARGET_TOKENS, BATCH = 80, 12, 12


@partial(jax.jit, static_argnums=1)
def capture(weights, graph, soft_tokens, ids):
    """A forward pass of its own for the hidden states, as hooks take them; the logits come with it."""
    model = nnx.merge(graph, weights)
    embeddings = jnp.concatenate([soft_tokens, model.embed_tokens(ids)], axis=1)
    output = model(soft_tokens=embeddings, hook_points=("llm_final",))
    return output.logits, output.hidden_states["llm_final"]


def plain_score(soft_tokens, weights, graph, ids):
    """The score of one sample from the logits of every position."""
    model = nnx.merge(graph, weights)
    embeddings = jnp.concatenate([soft_tokens, model.embed_tokens(ids)], axis=1)
    log_p = jax.nn.log_softmax(model(soft_tokens=embeddings).logits)[:, SOFT_TOKENS - 1 : -1]
    return jnp.sum(jnp.take_along_axis(log_p, ids[..., None], axis=-1))


plain_gradient = jax.jit(jax.value_and_grad(plain_score), static_argnums=2)


def main() -> None:
    samples, repeats = (12, 3) if "--quick" in sys.argv else (24, 6)
    model = checkpoints.load_model(checkpoints.bundled_decoder())
    graph, weights = nnx.split(model)
    rng = np.random.default_rng(0)
    vocabulary = model.config.vocab_size
    z = np.asarray(model.embed_tokens(rng.integers(0, vocabulary, (samples, SOFT_TOKENS))))
    ids = rng.integers(0, vocabulary, (samples, TARGET_TOKENS))

    def backward(k=0):
        return plain_gradient(jnp.asarray(z[k : k + 1]), weights, graph, jnp.asarray(ids[k : k + 1]))[1]

    def captured():
        return capture(weights, graph, jnp.asarray(z[:1]), jnp.asarray(ids[:1])), backward()

    peers = {
        "capture forward, then one backward a sample": measure(captured, repeats),
        "one backward a sample": measure(backward, repeats),
    }
    expected = np.array([np.linalg.norm(np.asarray(backward(k), np.float64)) for k in range(3)])

    score, operands = scoring.soft_token_score(model)
    ours = measure(
        lambda: sensitivity.gradient_norms(score, z, ids, operands=operands, batch_size=BATCH),
        repeats=max(1, repeats // 3),
    )
    norms = sensitivity.gradient_norms(score, z, ids, operands=operands, batch_size=BATCH)
    error = float(np.abs(norms[:3] / expected - 1).max())
    what = f"{samples} gradient norms, {SOFT_TOKENS} soft tokens, {TARGET_TOKENS}-token targets"
    mark = f"{repeats} of {samples} samples measured"
    rows = [
        Row(
            what,
            ours.seconds,
            name,
            one.seconds * samples,
            one.seconds * samples / ours.seconds,
            error,
            ours.first,
            mark,
            "float32 / float32",
        )
        for name, one in peers.items()
    ]
    report("Sensitivity on SmolLM2-135M-Instruct (differences are relative)", rows, "benchmark_sensitivity.json")
    jax.clear_caches()


if __name__ == "__main__":
    main()
