import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from gmijax import sensitivity
from gmijax.models import Llama, LlamaConfig, RopeScaling
from gmijax.scoring import (
    _generate,
    _matrix,
    generate,
    log_likelihoods,
    next_token_loss,
    score_matrix,
    soft_token_logits,
    soft_token_score,
    token_log_likelihoods,
)

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
WIDTH, VOCABULARY = 32, 61


def build(dtype=jnp.float32, **changes):
    config = dataclasses.replace(TINY, **changes)
    rng = np.random.default_rng(0)
    graph, state = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0), dtype=dtype)))

    def draw(leaf):
        spread = leaf.shape[-2] ** -0.5 if leaf.ndim > 1 else 0.2
        return jnp.asarray((leaf.ndim == 1) + spread * rng.standard_normal(leaf.shape), "f4")

    return nnx.merge(graph, jax.tree.map(draw, state))


@pytest.fixture(scope="module")
def model():
    return build()


def soft(rows=3, tokens=4, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, tokens, WIDTH)).astype("f4")


RAGGED = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1]])
HEAD, TAIL = (3, 4, 5), (7, 8)


def pad(targets):
    length = max(map(len, targets))
    mask = np.array([[1] * len(t) + [0] * (length - len(t)) for t in targets])
    return np.array([list(t) + [0] * (length - len(t)) for t in targets]), mask


@nnx.jit
def forward(model, embeddings):
    return model(soft_tokens=embeddings).logits


def plain_logits(model, embeddings):
    """The logits of one sequence without a mask; zeros to the right of it keep the shapes equal."""
    padded = np.pad(embeddings, ((0, 16 - len(embeddings)), (0, 0)))
    return np.asarray(forward(model, padded[None])[0, : len(embeddings)], "f8")


# The oracle


def test_log_likelihoods_equal_the_definition(model):
    """Against the logits of the plain sequence, unpadded, one row at a time."""
    targets = [(5, 6, 7), (9,), (1, 2)]
    ids, mask = pad(targets)
    arguments = {"soft_tokens": soft(), "soft_mask": RAGGED, "target_mask": mask}
    values = token_log_likelihoods(model, ids, head_ids=HEAD, tail_ids=TAIL, **arguments)
    sums = log_likelihoods(model, ids, head_ids=HEAD, tail_ids=TAIL, **arguments)
    np.testing.assert_allclose(sums, values.sum(1), rtol=1e-6)
    for row, target in enumerate(targets):
        z = soft()[row][RAGGED[row] > 0]
        embed = [np.asarray(model.embed_tokens(np.array(part))) for part in (HEAD, TAIL, target)]
        logits = plain_logits(model, np.concatenate([embed[0], z, embed[1], embed[2]]))[-len(target) - 1 : -1]
        expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        np.testing.assert_allclose(values[row, : len(target)], expected[range(len(target)), target], atol=1e-5)
        assert (np.asarray(values[row, len(target) :]) == 0).all()


def test_log_likelihoods_are_minus_the_training_loss(model):
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (2, 9))
    labels = np.where(np.arange(9) < 4, -100, ids)
    loss = next_token_loss(forward(model, model.embed_tokens(ids)), labels)
    values = log_likelihoods(model, ids[:, 4:], head_ids=ids[:, :4])
    np.testing.assert_allclose(-values.mean() / 5, loss, rtol=1e-6)


@pytest.mark.parametrize("config", [{}, {"tie_word_embeddings": True}])
def test_probabilities_sum_to_one(config):
    model = build(**config)
    everything = np.arange(VOCABULARY)[:, None]
    values = log_likelihoods(model, everything, soft_tokens=soft(1))
    np.testing.assert_allclose(np.exp(np.asarray(values, "f8")).sum(), 1, rtol=1e-5)


@pytest.mark.slow
def test_gradient_in_soft_tokens(model):
    z, direction = jnp.asarray(soft(2)), soft(2, seed=1)
    ids, mask = pad([(5, 6, 7), (9, 2)])

    @jax.jit
    def values(z):
        return log_likelihoods(model, ids, head_ids=HEAD, soft_tokens=z, target_mask=mask)

    slopes = jax.jacrev(values)(z)  # (rows, rows, tokens, width)
    near, far = (values(z + h * direction) - values(z - h * direction) for h in (5e-3, 1e-2))
    expected = (8 * near - far) / (12 * 5e-3)
    np.testing.assert_allclose(jnp.einsum("ijtw,jtw->i", slopes, direction), expected, rtol=2e-3)
    assert float(jnp.abs(slopes[0, 1]).max()) == float(jnp.abs(slopes[1, 0]).max()) == 0


# Score matrices


def reference(model, z, targets, head=(), tail=(), mask=None):
    ids, target_mask = pad(targets)
    n = len(targets)
    prompt = {"head_ids": head, "tail_ids": tail, "target_mask": target_mask}
    rows = []
    for i in range(len(z)):
        soft_mask = None if mask is None else np.broadcast_to(mask[i], (n, len(mask[i])))
        soft_tokens = np.broadcast_to(z[i], (n, *z[i].shape))
        rows.append(log_likelihoods(model, ids, soft_tokens=soft_tokens, soft_mask=soft_mask, **prompt))
    return np.stack(rows)


TARGETS = [(1, 2, 3), (1, 2), (4,), (1, 2, 3), (9, 8, 7, 6, 5), (1, 2, 4, 4), (4, 4), (60, 0)]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"num_key_value_heads": 1, "tie_word_embeddings": True},
        pytest.param({"num_key_value_heads": 4, "head_dim": 12, "qkv_bias": True}, marks=pytest.mark.slow),
        pytest.param(
            {"rope_scaling": RopeScaling("llama3", 8.0, original_max_position_embeddings=16)}, marks=pytest.mark.slow
        ),
    ],
)
def test_score_matrix_equals_the_full_pass(config):
    model = build(**config)
    scores = score_matrix(model, soft(), TARGETS, head_ids=HEAD, tail_ids=TAIL, soft_mask=RAGGED, max_nodes=5)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, reference(model, soft(), TARGETS, HEAD, TAIL, RAGGED), rtol=0, atol=2e-5)
    np.testing.assert_array_equal(scores[:, 0], scores[:, 3])


@pytest.mark.slow
@pytest.mark.parametrize(("head", "tail"), [((), ()), (HEAD, ()), ((), TAIL)])
def test_score_matrix_without_head_or_tail(model, head, tail):
    scores = score_matrix(model, soft(), TARGETS, head_ids=head, tail_ids=tail, soft_mask=RAGGED)
    np.testing.assert_allclose(scores, reference(model, soft(), TARGETS, head, tail, RAGGED), rtol=0, atol=2e-5)


@pytest.mark.slow
def test_score_matrix_in_bfloat16_is_close(model):
    half = build(dtype=jnp.bfloat16)
    scores, full = (score_matrix(m, soft(), TARGETS, head_ids=HEAD) for m in (half, model))
    np.testing.assert_allclose(scores, full, rtol=0, atol=0.02 * np.abs(full).max())


def test_score_matrix_of_single_tokens_runs_no_target(model):
    targets = [(token,) for token in range(VOCABULARY)]
    scores = score_matrix(model, soft(), targets, head_ids=HEAD)
    np.testing.assert_allclose(np.exp(scores.astype("f8")).sum(1), 1, rtol=1e-5)


@settings(max_examples=10, deadline=None)
@given(
    targets=st.lists(st.lists(st.integers(0, 4), min_size=4, max_size=4), min_size=3, max_size=3, unique_by=tuple),
    seed=st.integers(0, 3),
)
def test_score_matrix_over_drawn_targets(model, targets, seed):
    """The first targets fix the sizes of the tries, so that what is drawn changes no shape."""
    targets = [(6, 6, 6, 6), (7, 7, 7, 7), (8, 8, 8, 8), *map(tuple, targets)]
    scores = score_matrix(model, soft(seed=seed), targets, max_nodes=3)
    np.testing.assert_allclose(scores, reference(model, soft(seed=seed), targets), rtol=0, atol=2e-5)


def minimum_budget(model, *args, **kwargs):
    with pytest.raises(ValueError, match="give at least") as caught:
        score_matrix(model, *args, memory_budget=1, **kwargs)
    return int(str(caught.value).split()[-1])


def test_the_budget_changes_the_batches_and_not_the_scores(model):
    z = soft(7)
    least = minimum_budget(model, z, TARGETS)
    with pytest.raises(ValueError, match="does not suffice"):
        score_matrix(model, z, TARGETS, memory_budget=least // 2)
    seen = []
    one_by_one = score_matrix(model, z, TARGETS, memory_budget=least, progress=lambda *counts: seen.append(counts))
    together = score_matrix(model, z, TARGETS)
    np.testing.assert_allclose(one_by_one, together, rtol=0, atol=1e-5)
    assert [done for done, _ in seen] == [7 * (k + 1) for k in range(7)]
    assert {total for _, total in seen} == {49}  # 7 prefixes, 7 distinct targets


def test_few_programs_are_compiled(model):
    programs = (_matrix._run_head, _matrix._run_prefixes, _matrix._score_edges)
    before = [program._cache_size() for program in programs]
    z = soft(5, tokens=6)
    targets = list(np.random.default_rng(0).integers(0, VOCABULARY, (40, 5)))
    least = minimum_budget(model, z, targets, head_ids=(1, 2, 3, 4), max_nodes=16)
    for seed in range(2):
        score_matrix(model, soft(5, 6, seed), targets, head_ids=(1, 2, 3, 4), max_nodes=16, memory_budget=2 * least)
    assert [program._cache_size() - b for program, b in zip(programs, before, strict=True)] == [1, 1, 1]


@pytest.mark.slow
def test_the_budget_covers_what_the_programs_take():
    """XLA's own count of the temporaries of the largest step, against the budget it was planned for."""
    config = {"hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 8, "head_dim": 32}
    model = build(**config, num_key_value_heads=4, vocab_size=4096)
    sizes = _matrix._Sizes(head=10, prompt=40, nodes=64, edges=96)
    budget = 2**27
    together, rows = _matrix._plan(model.config, 4, sizes, budget)
    assert together > 1
    graph, state = nnx.split(model)
    ints, arrays = jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct

    def ids(*shape):
        return arrays(shape, ints.dtype)

    shared = (jax.eval_shape(lambda s: _matrix._run_head(graph, s, jnp.zeros((1, 10), jnp.int32)), state),)
    z, mask = arrays((together, 38, 256), jnp.float32), arrays((together, 38), bool)
    prompt_run = _matrix._run_prefixes.lower(graph, state, shared, z, mask, ids(2), rows=rows)
    prefix = jax.eval_shape(
        lambda *args: _matrix._run_prefixes(graph, *args, rows=rows), state, shared, z, mask, ids(2)
    )
    pack = (ids(64), ids(64), arrays((64, 64), bool), ids(96), ids(96))
    targets_run = _matrix._score_edges.lower(graph, state, shared, prefix, pack, rows=rows)
    kept = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((shared, prefix)))
    for run in (prompt_run, targets_run):
        taken = kept + run.compile().memory_analysis().temp_size_in_bytes
        assert 0.1 * budget < taken < budget


def test_bad_targets_and_prompts_are_told(model):
    z = soft()
    nothing = np.zeros((3, 4), int)
    for arguments, message in (
        ({"targets": []}, "targets is empty"),
        ({"targets": [(1,), ()]}, r"targets\[1\] is empty"),
        ({"targets": [(1, 61)]}, r"targets\[0\] holds 61; this model's vocabulary is 0 to 60"),
        ({"head_ids": (-1,)}, "head_ids holds -1"),
        ({"soft_tokens": z[..., :31]}, r"this model takes \(batch, tokens, 32\)"),
        ({"soft_tokens": np.where(np.arange(3)[:, None, None] == 1, np.nan, z)}, "first in row 1"),
        ({"soft_mask": nothing}, "nothing predicts the first token"),
        ({"soft_mask": nothing[:2]}, r"give \(3, 4\)"),
        ({"soft_tokens": z[:0]}, "nothing predicts the first token"),
    ):
        given = {"soft_tokens": z, "targets": TARGETS, **arguments}
        with pytest.raises(ValueError, match=message):
            score_matrix(model, given.pop("soft_tokens"), given.pop("targets"), **given)
    dynamic = build(rope_scaling=RopeScaling("dynamic", 2.0), max_position_embeddings=6)
    with pytest.raises(ValueError, match="dynamic RoPE"):
        score_matrix(dynamic, z, TARGETS)


def test_bad_rows_are_told(model):
    ids = np.array([[1, 2], [3, 4]])
    for arguments, message in (
        ({"head_ids": None}, "the prompt is empty"),
        ({"target_ids": ids + 60}, "target_ids holds 61"),
        ({"target_ids": ids[:, :0]}, "target_ids is empty in row 0"),
        ({"target_mask": [[1, 1], [0, 1]]}, "pad target_ids on the right"),
        ({"target_mask": [[1, 1], [0, 0]]}, "target_ids is empty in row 1"),
        ({"head_mask": [[1, 1], [0, 0]], "head_ids": ids}, "no token in row 1"),
        ({"head_mask": [[1, 1]], "head_ids": ids}, "the mask of head_ids has shape"),
        ({"soft_tokens": soft(3)}, "soft_tokens has 3 rows; give 1 or 2"),
    ):
        given = {"target_ids": ids, "head_ids": np.array([1]), **arguments}
        given = {k: np.array(v) if isinstance(v, list) else v for k, v in given.items()}
        with pytest.raises(ValueError, match=message):
            log_likelihoods(model, given.pop("target_ids"), **given)


# Differentiable forms


SOFT_TARGETS = [(5, 6, 7), (9,), (1, 2)]


def test_soft_token_forms_are_the_likelihoods_and_their_logits(model):
    ids, mask = pad(SOFT_TARGETS)
    prompt = {"head_ids": HEAD, "tail_ids": TAIL}
    expected = token_log_likelihoods(model, ids, soft_tokens=soft(), soft_mask=RAGGED, target_mask=mask, **prompt)
    score, weights = soft_token_score(model, **prompt)
    np.testing.assert_allclose(score(weights, soft(), ids, RAGGED, mask), expected.sum(1), rtol=1e-6)
    logits_of, weights = soft_token_logits(model, **prompt)
    logits = logits_of(weights, soft(), ids, RAGGED, mask)
    assert (np.asarray(logits)[mask == 0] == 0).all()
    values = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), ids[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(np.where(mask, values, 0), expected, atol=1e-5)
    whole = score(weights, soft(), ids[:, :1])
    np.testing.assert_allclose(whole, log_likelihoods(model, ids[:, :1], soft_tokens=soft(), **prompt), rtol=1e-6)


def test_padded_soft_tokens_have_no_gradient(model):
    """And the others have that of the sample alone and unpadded."""
    ids, mask = pad(SOFT_TARGETS)
    score, weights = soft_token_score(model, head_ids=HEAD, tail_ids=TAIL)
    padded = sensitivity.gradients(score, soft(), ids, RAGGED, mask, operands=weights)
    assert (padded[RAGGED == 0] == 0).all()
    alone = sensitivity.gradients(score, soft()[1:2, :2], ids[1:2, :1], operands=weights)
    np.testing.assert_allclose(padded[1, :2], alone[0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_fisher_form_of_a_decoder_against_whole_jacobians(model):
    ids, mask = pad(SOFT_TARGETS)
    logits_of, weights = soft_token_logits(model, head_ids=HEAD, tail_ids=TAIL)
    directions = np.random.default_rng(1).standard_normal((3, WIDTH)).astype("f4") / WIDTH**0.5
    pullback = sensitivity.fisher_pullback(logits_of, soft(), ids, RAGGED, mask, operands=weights, mask=RAGGED)
    together, apart = pullback.quadratic(directions), pullback.quadratic(directions, tokens="apart")

    @jax.jit
    def one(z, ids, soft_mask, target_mask):
        def function(z):
            return logits_of(weights, z[None], ids[None], soft_mask[None], target_mask[None])[0]

        return function(z), jax.jacrev(function)(z)

    for row in range(3):
        logits, jacobian = one(soft()[row], ids[row], jnp.asarray(RAGGED[row]), jnp.asarray(mask[row]))
        p = np.asarray(jax.nn.softmax(logits), "f8")
        moves = np.einsum("lvtd,kd->ktlv", np.asarray(jacobian, "f8"), directions)  # by token

        def form(moves, p=p):
            return np.sum(p * (moves - np.sum(p * moves, -1, keepdims=True)) ** 2, (-2, -1))

        np.testing.assert_allclose(together[row], form(moves.sum(1)), rtol=1e-4)
        np.testing.assert_allclose(apart[row], form(moves).sum(1), rtol=1e-4)


def test_equal_forms_share_a_program(model):
    ids, mask = pad(SOFT_TARGETS)
    sizes = []
    for scale in (1, 2):
        score, weights = soft_token_score(model, head_ids=HEAD, tail_ids=TAIL)
        sensitivity.gradients(score, scale * soft(), ids, RAGGED, mask, operands=weights)
        sizes.append(sensitivity._gradients._gradients._cache_size())
    assert sizes[0] == sizes[1]
    assert soft_token_score(model)[0] != soft_token_logits(model)[0]
    assert soft_token_score(model)[0] != score


@pytest.mark.slow
def test_the_search_climbs_through_a_decoder(model):
    ids, mask = pad(SOFT_TARGETS)
    score, weights = soft_token_score(model, head_ids=HEAD, tail_ids=TAIL)
    found = sensitivity.searched_slope(
        score,
        soft(),
        ids,
        RAGGED,
        mask,
        operands=weights,
        mask=RAGGED,
        space="soft tokens",
        starts=4,
        steps=12,
        key=jax.random.key(0),
    )
    assert found.value > 1.05 * found.sampled_maximum
    assert (found.point[RAGGED[found.sample] == 0] == 0).all()
    row = slice(found.sample, found.sample + 1)
    own = sensitivity.gradient_norms(score, found.point[None], ids[row], RAGGED[row], mask[row], operands=weights)
    assert own[0] == pytest.approx(found.value, rel=1e-4)


def test_bad_prompts_of_forms_are_told(model):
    for make in (soft_token_score, soft_token_logits):
        with pytest.raises(ValueError, match="head_ids holds 61"):
            make(model, head_ids=(61,))
        with pytest.raises(ValueError, match=r"tail_ids has shape \(1, 2\); give one sequence"):
            make(model, tail_ids=np.array([[1, 2]]))


# Generation


def greedy(model, embeddings, steps):
    """By a full pass for each token."""
    tokens = []
    for _ in range(steps):
        tokens.append(int(np.argmax(plain_logits(model, embeddings)[-1])))
        embeddings = np.concatenate([embeddings, model.embed_tokens(np.array(tokens[-1:]))])
    return tokens


def test_generation_equals_full_passes(model):
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (3, 5))
    masks = np.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])
    z = soft(3, 2)
    got = generate(model, head_ids=ids, head_mask=masks, soft_tokens=z, max_new_tokens=6)
    assert np.asarray(got.lengths).tolist() == [6, 6, 6]
    for row in range(3):
        prompt = np.concatenate([model.embed_tokens(ids[row][masks[row] > 0]), z[row]])
        assert np.asarray(got.tokens[row]).tolist() == greedy(model, prompt, 6)


def test_generation_stops_at_an_end_token(model):
    ids = np.random.default_rng(1).integers(0, VOCABULARY, (3, 5))
    free = np.asarray(generate(model, head_ids=ids, max_new_tokens=6).tokens)
    ends = (int(free[0, 2]), int(free[1, 0]))
    before = _generate._generate._cache_size()
    got = generate(model, head_ids=ids, max_new_tokens=6, eos_token_ids=ends)
    for row in range(3):
        stop = next((k + 1 for k in range(6) if free[row, k] in ends), 6)
        assert int(got.lengths[row]) == stop
        np.testing.assert_array_equal(got.tokens[row, :stop], free[row, :stop])
        assert (np.asarray(got.tokens[row, stop:]) == ends[0]).all()
    generate(model, head_ids=ids[::-1], max_new_tokens=6, eos_token_ids=ends)
    assert _generate._generate._cache_size() == before + 1


def test_generation_of_one_token_and_none(model):
    one = generate(model, tail_ids=np.array([1, 2]), max_new_tokens=1)
    assert one.tokens.shape == (1, 1)
    assert int(one.tokens[0, 0]) == int(jnp.argmax(model(np.array([[1, 2]])).logits[0, -1]))
    with pytest.raises(ValueError, match="max_new_tokens = 0"):
        generate(model, tail_ids=np.array([1, 2]), max_new_tokens=0)
