"""The decoder's own alignment through a real decoder: kappa is what removing a mode does to SmolLM2's predictions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import checkpoints, modes, scoring, sensitivity

pytestmark = pytest.mark.slow

STEP = 0.0025  # of the length of a token's embedding
ROWS, TOKENS = 8, 6


def test_kappa_is_the_divergence_that_a_removal_causes():
    """mean KL(q(.|z) || q(.|z without u)) = kappa + O(step^3): removals in pairs of opposite sign cancel the cubes."""
    model = checkpoints.load_model(checkpoints.bundled_decoder())
    rng = np.random.default_rng(0)
    ids = rng.integers(0, model.config.vocab_size, (ROWS // 2, TOKENS))
    text = np.repeat(np.asarray(model.embed_tokens(ids)), 2, axis=0)
    length = float(np.sqrt(np.mean(np.sum(text**2, axis=-1))))
    used = np.linalg.svd(text.reshape(-1, text.shape[-1]), full_matrices=False)[2][0]  # the texts' first direction
    other = rng.normal(size=used.shape)
    other -= (other @ used) * used
    directions = np.stack([used, other / np.linalg.norm(other)]).astype(np.float32)
    signs = STEP * length * np.tile([1, -1], ROWS // 2).astype(np.float32)
    targets = ids[:, :3].repeat(2, axis=0)
    logits, weights = scoring.soft_token_logits(model)
    evaluate = jax.jit(lambda weights, z: jax.nn.log_softmax(logits(weights, z, jnp.asarray(targets))))

    for k, u in enumerate(directions):
        z = text + signs[:, None, None] * u
        forms = sensitivity.fisher_quadratic(logits, z, directions[k : k + 1], targets, operands=weights)
        # The same coordinate at every token, so one square a row; its mean is the variance along u.
        result = modes.kappa(None, forms, squares=np.square(signs)[:, None])
        before, after = evaluate(weights, z), evaluate(weights, text)
        divergence = float(jnp.mean(jnp.sum(jnp.exp(before) * (before - after), axis=(1, 2))))
        assert divergence > 3e-4
        assert float(result.together[0]) == pytest.approx(divergence, rel=0.01)
        assert float(result.value[0]) == pytest.approx(float(result.together[0]), rel=1e-5)  # all squares are equal
