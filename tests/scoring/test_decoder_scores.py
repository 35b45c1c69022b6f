"""A decoder as a function of soft tokens, and what interventions see of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gmijax import interventions as iv
from gmijax.models import Llama, LlamaConfig
from gmijax.scoring import DecoderScores, next_token_loss, score_matrix

TINY = LlamaConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
)
WIDTH, ROWS, TOKENS = 32, 8, 4
HEAD, TAIL = (3, 4, 5), (7, 8)
TARGETS = [(1, 2), (3, 4), (5, 6), (1, 6), (9, 2), (7, 7), (4, 1), (2, 8)]
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1], [1, 1, 1, 0], [0, 0, 0, 1]] + 3 * [[1, 1, 1, 1]], bool)
SOFT = np.random.default_rng(0).standard_normal((ROWS, TOKENS, WIDTH)).astype("f4")
SUBSPACE = np.linalg.qr(np.random.default_rng(1).normal(size=(WIDTH, 5)))[0].T.astype("f4")
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    graph, state = nnx.split(nnx.eval_shape(lambda: Llama(TINY, rngs=nnx.Rngs(0), dtype=jnp.float32)))

    def draw(leaf):
        spread = leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 0.2
        return jnp.asarray((leaf.ndim == 1) + spread * rng.standard_normal(leaf.shape), "f4")

    return nnx.merge(graph, jax.tree.map(draw, state))


@pytest.mark.slow
def test_is_the_score_matrix(model):
    scores = DecoderScores(model, TARGETS, HEAD, TAIL)
    expected = score_matrix(model, SOFT, TARGETS, head_ids=HEAD, tail_ids=TAIL, soft_mask=MASK)
    np.testing.assert_array_equal(scores(SOFT, MASK), expected)


@pytest.mark.parametrize(
    ("placeholder", "head", "tail"),
    [
        (None, HEAD, TAIL),
        (11, HEAD, TAIL),
        pytest.param(11, (), TAIL, marks=pytest.mark.slow),
        pytest.param(11, HEAD[:1], (), marks=pytest.mark.slow),
    ],
)
def test_prompt_losses_are_the_training_loss(model, placeholder, head, tail):
    """The loss of transformers with labels = input ids, each row alone and without padding."""
    scores = DecoderScores(model, TARGETS, head, tail, placeholder_id=placeholder, batch_size=4)
    got = scores.prompt_losses(SOFT, MASK)
    forward = nnx.jit(lambda model, x: model(soft_tokens=x).logits)
    for row in range(ROWS):
        soft = SOFT[row][MASK[row]]
        embed = [np.asarray(model.embed_tokens(np.array(ids, int))) for ids in (head, tail)]
        labels = np.array([*head, *[-100 if placeholder is None else placeholder] * len(soft), *tail])
        whole = np.concatenate([embed[0], soft, embed[1]])
        padding = 10 - len(whole)  # on the right, where a causal model does not see it
        logits = forward(model, np.pad(whole, ((0, padding), (0, 0)))[None])
        labels = np.pad(labels, (0, padding), constant_values=-100)
        np.testing.assert_allclose(got[row], next_token_loss(logits, labels[None]), rtol=2e-5)


@pytest.mark.slow
def test_ablations_run_on_a_decoder(model):
    """No edit changes nothing, padding stays out, and the size of the calls does not matter."""
    scores = DecoderScores(model, TARGETS, HEAD, TAIL)
    conditions = {
        "none": lambda x, mask: x,
        "out": partial(iv.project_out, subspace=SUBSPACE),
    }
    options = {"mask": MASK, "method": "include", "draws": 99, "key": KEY}
    got = iv.ablate(scores, SOFT, conditions, **options)
    none, out = got["none"], got["out"]
    np.testing.assert_allclose(none.loss_changes, 0, atol=2e-5)
    for change in (none.rate_inputs, none.rate_messages):
        np.testing.assert_allclose(change.value, 0, atol=2e-5)
    before, after = scores(SOFT, MASK), scores(iv.project_out(SOFT, SUBSPACE, mask=MASK), MASK)
    np.testing.assert_allclose(out.loss_changes, np.diag(before) - np.diag(after), atol=2e-5)
    assert np.abs(out.loss_changes).min() > 1e-3

    garbage = np.where(MASK[..., None], SOFT, 7.0).astype("f4")
    dirty = iv.ablate(scores, garbage, conditions, **options)
    chunked = iv.ablate(scores, SOFT, conditions, conditions_per_call=1, **options)
    for other in (dirty, chunked):
        for name in conditions:
            np.testing.assert_allclose(other[name].loss_changes, got[name].loss_changes, atol=2e-5)
            np.testing.assert_allclose(other[name].first_order, got[name].first_order, atol=2e-5)


def test_prompt_target_on_a_decoder(model):
    scores = DecoderScores(model, TARGETS, HEAD, TAIL, placeholder_id=11, batch_size=5)
    conditions = {"none": lambda x, mask: x, "out": partial(iv.project_out, subspace=SUBSPACE)}
    got = iv.ablate(scores, SOFT, conditions, mask=MASK, target="prompt", draws=99, key=KEY)
    np.testing.assert_allclose(got["none"].loss_changes, 0, atol=1e-6)
    edited = iv.project_out(SOFT, SUBSPACE, mask=MASK)
    expected = scores.prompt_losses(edited, MASK) - scores.prompt_losses(SOFT, MASK)
    np.testing.assert_allclose(got["out"].loss_changes, expected, atol=2e-6)


def test_bad_prompts_are_told(model):
    for changes, message in (
        ({"placeholder_id": 61}, "placeholder_id holds 61"),
        ({"head_ids": (99,)}, "head_ids holds 99"),
        ({"head_ids": (), "tail_ids": ()}, "no token to predict"),
    ):
        given = {"head_ids": HEAD, "tail_ids": TAIL, **changes}
        with pytest.raises(ValueError, match=message):
            DecoderScores(model, TARGETS, **given).prompt_losses(SOFT)
    scores = DecoderScores(model, TARGETS, HEAD, TAIL)
    with pytest.raises(ValueError, match="must hold a row"):
        scores.prompt_losses(SOFT[:0])
    with pytest.raises(ValueError, match="soft_mask its tokens"):
        scores.prompt_losses(SOFT, MASK[:2])
    with pytest.raises(ValueError, match="takes"):
        scores.prompt_losses(SOFT[..., :31])
