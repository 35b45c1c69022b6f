import dataclasses
import json
import re
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.tree_util import Partial
from safetensors.numpy import load_file

from gmijax.models import ConfigError, KVSegment, Llama, LlamaConfig, RopeScaling, llama
from gmijax.scoring import next_token_loss
from gmijax.testing import parity

FIXTURES = Path(__file__).parents[1] / "fixtures"

TINY = LlamaConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rms_norm_eps=1e-5,
    max_position_embeddings=64,
)


def tiny(**changes):
    return dataclasses.replace(TINY, **changes)


def build(config, seed=0, **kwargs):
    """A model with random weights, norms and biases away from ones and zeros; numpy's, which compile nothing."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1]
        spread = leaf.shape[-2] ** -0.5 if name == "kernel" else leaf.shape[-1] ** -0.5
        return leaf.replace(jnp.asarray((name == "scale") + spread * rng.standard_normal(leaf.shape), leaf.dtype))

    graph, state = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0), **kwargs)))
    leaves = [(path, draw(path, leaf)) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def read_fixture(name, config_name="config.json"):
    """The model of a fixture, its inputs and expected outputs; every key and every leaf must be accounted for."""
    folder = FIXTURES / name
    config = LlamaConfig.from_hf(json.loads((folder / config_name).read_text()))
    graph, state = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    leaves = {".".join(path): np.full(leaf.shape, np.nan, "f4") for path, leaf in nnx.to_flat_state(state)}
    for key, tensor in load_file(folder / "model.safetensors").items():
        matches = [
            (m, rule) for rule in Llama.KEY_MAP if (m := re.fullmatch(rule.pattern, key)) and rule.leaf in leaves
        ]
        (match, rule), *others = matches
        assert not others
        index = int(match["layer"]) if "layer" in match.groupdict() else ...
        leaves[rule.leaf][index] = tensor.astype("f4").T if rule.transpose else tensor
    filled = nnx.from_flat_state(
        [(path, leaf.replace(jnp.asarray(leaves[".".join(path)]))) for path, leaf in nnx.to_flat_state(state)]
    )
    assert all(np.isfinite(leaf).all() for leaf in leaves.values())
    inputs = load_file(folder / "inputs.safetensors")
    return nnx.merge(graph, filled), inputs, load_file(folder / "expected.safetensors")


@nnx.jit(static_argnames=("hook_points", "logits", "return_segment"))
def forward(model, *args, **kwargs):
    return model(*args, **kwargs)


# Parity with the original implementation


@pytest.mark.parametrize(
    ("name", "config_name", "jitted"),
    [
        ("llama31", "config.json", True),
        ("llama31", "config.v5.json", False),
        ("llama31_shortrope", "config.json", False),
        ("llama31_shortrope", "config.v5.json", True),
    ],
)
def test_equals_the_original(name, config_name, jitted):
    model, inputs, expected = read_fixture(name, config_name)
    call = forward if jitted else Llama.__call__
    output = call(model, inputs["input_ids"], attention_mask=inputs["attention_mask"], hook_points=model.hook_points)
    got = {**output.hidden_states, "logits": output.logits}
    assert set(got) == set(expected) - {"loss", "valid_mask"}
    valid = expected["valid_mask"].astype(bool)
    for key, value in got.items():
        np.testing.assert_allclose(np.asarray(value)[valid], expected[key][valid], rtol=0, atol=5e-5, err_msg=key)
    loss = next_token_loss(output.logits, inputs["labels"])
    np.testing.assert_allclose(loss, expected["loss"][0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["llama_mqa_tied", "llama_mha_wide", "llama_linear", "llama_dynamic", "qwen2"])
def test_other_settings_equal_their_originals(name):
    result = parity.check_folder(FIXTURES / "tiny" / name, tolerance=1e-5)
    assert result.errors == []
    assert result.passed, result.differences
    assert {"llm_hidden_0", "llm_final", "logits", "loss"} <= result.differences.keys()


# An independent float64 forward pass, for configurations beyond the fixtures


def numpy_frequencies(config, positions):
    d, scaling = config.head_dim, config.rope_scaling
    theta = config.rope_theta
    if scaling is not None and scaling.kind == "dynamic":
        length = max(positions.max() + 1, config.max_position_embeddings)
        ratio = scaling.factor * length / config.max_position_embeddings - (scaling.factor - 1)
        theta = theta * ratio ** (d / (d - 2))
    frequencies = np.array([theta ** (-2 * i / d) for i in range(d // 2)])
    if scaling is not None and scaling.kind == "linear":
        frequencies = frequencies / scaling.factor
    if scaling is not None and scaling.kind == "llama3":
        for i, frequency in enumerate(frequencies):
            wavelength, original = 2 * np.pi / frequency, scaling.original_max_position_embeddings
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            if wavelength > original / low:
                frequencies[i] = frequency / scaling.factor
            elif wavelength >= original / high:
                smooth = (original / wavelength - low) / (high - low)
                frequencies[i] = (1 - smooth) * frequency / scaling.factor + smooth * frequency
    return frequencies


def numpy_forward(model, input_ids, mask, positions):
    """Logits by loops over layers, rows and heads."""
    config = model.config
    state = nnx.split(model)[1]
    p = {".".join(path): np.asarray(leaf[...], "f8") for path, leaf in nnx.to_flat_state(state)}

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * scale

    angles = positions[..., None] * numpy_frequencies(config, positions)
    turn = np.exp(1j * angles)  # (B, T, d / 2)
    half, length = config.head_dim // 2, input_ids.shape[1]

    def rotate(x, row):
        z = (x[:, :half] + 1j * x[:, half:]) * turn[row]
        return np.concatenate([z.real, z.imag], axis=1)

    x = p["embed.embedding"][input_ids]
    group = config.num_attention_heads // config.num_key_value_heads
    for k in range(config.num_hidden_layers):
        y = norm(x, p["layers.attention_norm.scale"][k])
        q, key, v = (
            y @ p[f"layers.attention.{n}.kernel"][k] + (p[f"layers.attention.{n}.bias"][k] if config.qkv_bias else 0)
            for n in "qkv"
        )
        attended = np.zeros_like(q)
        for row in range(len(x)):
            for head in range(config.num_attention_heads):
                own = slice(head * config.head_dim, (head + 1) * config.head_dim)
                shared = slice(head // group * config.head_dim, (head // group + 1) * config.head_dim)
                scores = rotate(q[row, :, own], row) @ rotate(key[row, :, shared], row).T / np.sqrt(config.head_dim)
                allowed = np.tril(np.ones((length, length), bool)) & mask[row].astype(bool)
                scores = np.where(allowed, scores, -1e30)
                weights = np.exp(scores - scores.max(-1, keepdims=True))
                attended[row, :, own] = weights / weights.sum(-1, keepdims=True) @ v[row, :, shared]
        x = x + attended @ p["layers.attention.o.kernel"][k]
        y = norm(x, p["layers.mlp_norm.scale"][k])
        gate = y @ p["layers.mlp.gate.kernel"][k]
        up = y @ p["layers.mlp.up.kernel"][k]
        x = x + (gate / (1 + np.exp(-gate)) * up) @ p["layers.mlp.down.kernel"][k]
    head = p["embed.embedding"].T if config.tie_word_embeddings else p["head.kernel"]
    return norm(x, p["norm.scale"]) @ head


FLAVOURS = {
    "grouped": tiny(),
    "multi-head, tied": tiny(num_key_value_heads=4, tie_word_embeddings=True),
    "multi-query, wide heads": tiny(num_key_value_heads=1, head_dim=12),
    "narrow odd heads, biases": tiny(num_attention_heads=3, num_key_value_heads=3, head_dim=6, qkv_bias=True),
    "linear rope": tiny(rope_scaling=RopeScaling("linear", 4.0)),
    "dynamic rope, beyond": tiny(rope_scaling=RopeScaling("dynamic", 2.0), max_position_embeddings=7),
    "dynamic rope, within": tiny(rope_scaling=RopeScaling("dynamic", 2.0), max_position_embeddings=12),
    "llama3 rope": tiny(rope_scaling=RopeScaling("llama3", 8.0, original_max_position_embeddings=16)),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_equals_float64(flavour):
    model = build(FLAVOURS[flavour])
    rng = np.random.default_rng(0)
    ids = rng.integers(0, model.config.vocab_size, (3, 12))
    mask = np.ones((3, 12), int)
    mask[1, :4], mask[2, 9:] = 0, 0
    positions = np.broadcast_to(np.arange(12), ids.shape)
    got = forward(model, ids, attention_mask=mask).logits
    expected = numpy_forward(model, ids, mask, positions)
    np.testing.assert_allclose(np.asarray(got)[mask > 0], expected[mask > 0], rtol=0, atol=2e-5)


def test_angles_are_right_far_out():
    model = build(tiny(num_hidden_layers=1, rope_theta=500000.0))
    ids = np.random.default_rng(0).integers(0, 61, (1, 8))
    positions = np.array([[0, 1, 1000, 1001, 30000, 30001, 131070, 131071]])
    got = forward(model, ids, positions=positions).logits
    expected = numpy_forward(model, ids, np.ones((1, 8)), positions)
    np.testing.assert_allclose(got, expected, rtol=0, atol=5e-3)  # a float32 angle of 1.3e5 is known to 4e-3


@pytest.mark.parametrize("flavour", ["multi-head, tied", "grouped"])
def test_bfloat16_is_close(flavour):
    model = build(FLAVOURS[flavour])
    half = build(model.config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    ids = np.random.default_rng(0).integers(0, 61, (2, 12))
    full, low = (forward(m, ids, hook_points=("llm_final",)) for m in (model, half))
    assert low.hidden_states["llm_final"].dtype == jnp.bfloat16
    assert low.logits.dtype == jnp.float32
    scale = float(jnp.abs(full.logits).max())
    np.testing.assert_allclose(low.logits, full.logits, rtol=0, atol=0.03 * scale)


# Padding and batching


@pytest.fixture(scope="module")
def grouped():
    return build(TINY)


@settings(max_examples=12, deadline=None)
@given(pads=st.lists(st.integers(0, 60), min_size=2, max_size=2), seed=st.integers(0, 9))
def test_padding_and_company_change_nothing(grouped, pads, seed):
    length, content = 68, 8
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 61, (4, content))
    alone = [forward(grouped, row[None], hook_points=("llm_final",)) for row in ids]
    batch, mask = rng.integers(0, 61, (4, length)), np.zeros((4, length), int)
    starts = [pads[0], 60 - pads[0], pads[1], 0]  # left, right, both, right only
    for row, start in enumerate(starts):
        batch[row, start : start + content] = ids[row]
        mask[row, start : start + content] = 1
    together = forward(grouped, batch, attention_mask=mask, hook_points=("llm_final",))
    for row, start in enumerate(starts):
        columns = slice(start, start + content)
        for got, expected in (
            (together.logits[row, columns], alone[row].logits[0]),
            (together.hidden_states["llm_final"][row, columns], alone[row].hidden_states["llm_final"][0]),
        ):
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))
    assert bool(jnp.isfinite(together.logits).all())


# Cached keys and values


@pytest.mark.parametrize("flavour", ["grouped", pytest.param("multi-query, wide heads", marks=pytest.mark.slow)])
def test_segments_stand_for_the_tokens_they_hold(flavour):
    """Two prefixes behind one head, three continuations of each, against whole sequences."""
    model = build(FLAVOURS[flavour])
    rng = np.random.default_rng(1)
    head, prefixes, tails = (rng.integers(0, 61, shape) for shape in ((1, 3), (2, 4), (6, 5)))
    mask = np.array([[1, 1, 1, 0], [0, 1, 1, 1]])
    positions = np.maximum(mask.cumsum(1) - 1, 0) + 3
    lengths = 3 + mask.sum(1)

    shared = forward(model, head, return_segment=True).segment
    own = forward(
        model, prefixes, attention_mask=mask, positions=positions, segments=(shared,), return_segment=True
    ).segment
    assert own.keys.shape == (3, 2, 4, model.config.num_key_value_heads, model.config.head_dim)
    cached = forward(
        model,
        tails,
        positions=np.repeat(lengths, 3)[:, None] + np.arange(5),
        segments=(shared, own),
        hook_points=("llm_hidden_1", "llm_final"),
    )
    before = [np.concatenate([head[0], prefix[valid > 0]]) for prefix, valid in zip(prefixes, mask, strict=True)]
    whole = np.concatenate([np.repeat(before, 3, axis=0), tails], axis=1)
    expected = forward(model, whole, hook_points=("llm_hidden_1", "llm_final"))
    np.testing.assert_allclose(cached.logits, expected.logits[:, -5:], rtol=0, atol=1e-5)
    for name, states in cached.hidden_states.items():
        np.testing.assert_allclose(states, expected.hidden_states[name][:, -5:], rtol=0, atol=1e-5)


def test_own_mask_makes_branches(grouped):
    """Two continuations of one token, packed behind it, do not see each other."""
    ids = np.array([[5, 6, 7, 8, 9]])  # 5 -> 6 -> 7 and 5 -> 8 -> 9
    own = np.eye(5, dtype=bool)
    own[:, 0] = own[2, 1] = own[4, 3] = True
    packed = forward(grouped, ids, positions=np.array([[0, 1, 2, 1, 2]]), own_mask=own[None]).logits[0]
    branches = np.array([[0, 1, 2], [0, 3, 4]])
    expected = forward(grouped, ids[0, branches]).logits
    np.testing.assert_allclose(packed[branches], expected, rtol=0, atol=1e-5)


def test_soft_tokens_stand_for_ids(grouped):
    ids = np.random.default_rng(0).integers(0, 61, (2, 7))
    soft = forward(grouped, soft_tokens=grouped.embed_tokens(ids))
    np.testing.assert_array_equal(soft.logits, forward(grouped, ids).logits)


def test_token_logits_are_those_of_unembed():
    for config in (TINY, tiny(tie_word_embeddings=True)):
        model = build(config)
        hidden = jax.random.normal(jax.random.key(0), (2, 5, 32))
        ids = np.array([3, 60, 0, 1, 3])
        chosen = jnp.take_along_axis(model.unembed(hidden), jnp.broadcast_to(ids, (2, 5))[..., None], -1)[..., 0]
        np.testing.assert_allclose(model.token_logits(hidden, ids), chosen, rtol=0, atol=1e-5)


# Hook points and interventions


def test_an_intervention_is_applied_where_it_says(grouped):
    """Replacing the output of a layer by that of another run makes the rest the other run's."""
    ids, others = np.random.default_rng(0).integers(0, 61, (2, 1, 7))
    donor = forward(grouped, others, hook_points=("llm_hidden_1",))
    swap = Partial(lambda new, _: new, donor.hidden_states["llm_hidden_1"])
    swapped = grouped(ids, hook_points=("llm_hidden_0", "llm_hidden_1"), interventions={"llm_hidden_1": swap})
    np.testing.assert_allclose(swapped.logits, donor.logits, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(swapped.hidden_states["llm_hidden_1"], donor.hidden_states["llm_hidden_1"])
    plain = forward(grouped, ids, hook_points=("llm_hidden_0",))
    np.testing.assert_allclose(swapped.hidden_states["llm_hidden_0"], plain.hidden_states["llm_hidden_0"], atol=1e-6)
    with pytest.raises(ValueError, match="'llm_hidden_2' never fire"):
        grouped(ids, hook_points=("llm_hidden_0",), logits=False, interventions={"llm_hidden_2": jnp.sin})


def test_rematerialisation_changes_no_gradient(grouped):
    soft = grouped.embed_tokens(np.random.default_rng(0).integers(0, 61, (1, 6)))

    def loss(z, remat):
        return jnp.tanh(grouped(soft_tokens=z, remat=remat).logits).sum()

    plain, spared = (jax.jit(jax.grad(loss), static_argnums=1)(soft, remat) for remat in (False, True))
    np.testing.assert_allclose(spared, plain, rtol=0, atol=1e-5 * float(jnp.abs(plain).max()))


def test_hook_points_return_what_is_asked_and_stop_early(grouped):
    ids = np.random.default_rng(0).integers(0, 61, (2, 7))
    everything = forward(grouped, ids, hook_points=grouped.hook_points)
    assert set(everything.hidden_states) == set(grouped.hook_points)
    for names in (("llm_hidden_0",), ("llm_hidden_1", "inputs_embeds"), ("llm_final",), ("inputs_embeds",)):
        some = forward(grouped, ids, hook_points=names, logits=False)
        assert some.logits is None
        assert some.segment is None
        assert set(some.hidden_states) == set(names)
        for name, value in some.hidden_states.items():
            np.testing.assert_allclose(value, everything.hidden_states[name], rtol=0, atol=1e-6)


def test_early_stop_spares_the_later_layers(grouped):
    broken = jax.tree.map(lambda leaf: leaf.at[2:].set(jnp.nan) if leaf.ndim == 3 else leaf, nnx.split(grouped)[1])
    poisoned = nnx.merge(nnx.split(grouped)[0], broken)
    states = forward(poisoned, np.zeros((1, 4), int), hook_points=("llm_hidden_1",), logits=False).hidden_states
    assert bool(jnp.isfinite(states["llm_hidden_1"]).all())


def test_unknown_hook_point_names_the_valid_ones(grouped):
    with pytest.raises(
        ValueError, match=r"'llm_hidden_3'; valid are 'inputs_embeds', 'llm_hidden_0' to 'llm_hidden_2'"
    ):
        grouped(np.zeros((1, 4), int), hook_points=("llm_hidden_3",))


# Differentiation and compilation


@pytest.mark.slow
def test_gradient_in_soft_tokens_is_the_slope(grouped):
    soft = grouped.embed_tokens(np.random.default_rng(0).integers(0, 61, (1, 6)))
    direction = jax.random.normal(jax.random.key(0), soft.shape)
    segment = forward(grouped, np.array([[1, 2]]), return_segment=True).segment

    def value(z):
        output = grouped(
            soft_tokens=z, segments=(segment,), positions=2 + jnp.arange(6)[None], hook_points=("llm_hidden_1",)
        )
        return jnp.tanh(output.logits).sum() + output.hidden_states["llm_hidden_1"].sum()

    value = jax.jit(value)
    slope = float(jnp.vdot(jax.jit(jax.grad(value))(soft), direction))
    near, far = (value(soft + h * direction) - value(soft - h * direction) for h in (5e-3, 1e-2))
    np.testing.assert_allclose(slope, (8 * near - far) / (12 * 5e-3), rtol=1e-3)


@pytest.mark.slow
def test_gradient_in_weights_exists_for_every_leaf():
    model = build(tiny(qkv_bias=True))
    ids = np.random.default_rng(0).integers(0, 61, (2, 7))
    graph, state = nnx.split(model)
    gradient = jax.jit(jax.grad(lambda s: next_token_loss(nnx.merge(graph, s)(ids).logits, ids)))(state)
    for path, leaf in nnx.to_flat_state(gradient):
        assert float(jnp.abs(leaf[...]).max()) > 0 or path[-2:] == ("k", "bias"), path  # softmax ignores k's bias


def test_one_shape_compiles_once(grouped):
    graph, state = nnx.split(grouped)

    @jax.jit
    @chex.assert_max_traces(n=1)
    def logits(state, ids, mask):
        return nnx.merge(graph, state)(ids, attention_mask=mask).logits

    for seed in range(3):
        rng = np.random.default_rng(seed)
        logits(state, rng.integers(0, 61, (2, 5)), rng.integers(0, 2, (2, 5)))


def test_a_call_outside_of_jit_compiles_once(grouped):
    before = llama._forward._cache_size()
    for seed in range(3):
        ids = np.random.default_rng(seed).integers(0, 61, (1, 9))
        output = grouped(ids, hook_points=("llm_hidden_2", "inputs_embeds"))
    assert llama._forward._cache_size() == before + 1
    assert tuple(output.hidden_states) == ("llm_hidden_2", "inputs_embeds")


def test_program_does_not_grow_with_depth():
    def size(layers):
        shapes = nnx.eval_shape(lambda: Llama(tiny(num_hidden_layers=layers), rngs=nnx.Rngs(0)))
        graph, state = nnx.split(shapes)
        run = jax.jit(lambda s, ids: nnx.merge(graph, s)(ids, hook_points=("llm_hidden_1",)))
        return len(run.lower(state, jax.ShapeDtypeStruct((1, 4), jnp.int32)).as_text().splitlines())

    assert size(12) == size(3)


def test_can_be_shaped_without_memory():
    config = tiny(hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, vocab_size=32000)
    model = nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0)))
    assert model.layers.mlp.gate.kernel.shape == (32, 4096, 11008)


# Inputs that do not fit


def test_inputs_are_checked(grouped):
    ids = np.zeros((3, 4), int)
    segment = KVSegment(jnp.zeros((3, 2, 5, 2, 8)), jnp.zeros((3, 2, 5, 2, 8)), jnp.ones((2, 5), bool))
    positions = np.broadcast_to(np.arange(4), (3, 4))
    with pytest.raises(ValueError, match="exactly one of input_ids and soft_tokens"):
        grouped()
    with pytest.raises(ValueError, match="width 31; this model takes 32"):
        grouped(soft_tokens=jnp.zeros((1, 2, 31)))
    with pytest.raises(ValueError, match="positions are required"):
        grouped(ids, segments=(segment,))
    with pytest.raises(ValueError, match="2 rows, which do not divide the 3"):
        grouped(ids, positions=positions, segments=(segment,))
    with pytest.raises(ValueError, match=r"segments\[0\] has keys"):
        grouped(ids, positions=positions, segments=(segment._replace(keys=segment.keys[:, :, :, :1]),))
    with pytest.raises(ValueError, match="own_mask has 2 rows; give 1 or the 3"):
        grouped(ids, own_mask=np.ones((2, 4, 4), bool))


def test_an_id_outside_the_vocabulary_is_loud(grouped):
    assert bool(jnp.isnan(grouped.embed_tokens(np.array([61]))).all())


# Configurations


@pytest.mark.parametrize("name", ["llama-3.1-8b", "vicuna-7b-v1.5", "llava-1.5-7b-hf", "qwen2-audio-7b"])
def test_published_configs_resolve_as_in_transformers(name):
    """They are sparse: what they leave out are the defaults of transformers' classes."""
    folder = FIXTURES / "config_parsing"
    given = json.loads((folder / f"{name}.json").read_text())
    expected = json.loads((folder / "expected.json").read_text())[name]["text"]
    config = LlamaConfig.from_hf(given.get("text_config", given))
    scaling = expected.pop("rope_scaling")
    assert (expected.pop("hidden_act"), expected.pop("use_sliding_window")) == ("silu", False)
    assert {field: getattr(config, field) for field in expected} == expected
    if scaling is None:
        assert config.rope_scaling is None
    else:
        assert config.rope_scaling == RopeScaling(scaling.pop("rope_type"), **scaling)


def test_an_empty_config_has_the_defaults():
    assert LlamaConfig.from_hf({}).rms_norm_eps == 1e-6
    assert LlamaConfig.from_hf({}).eos_token_id == (2,)
    qwen2 = LlamaConfig.from_hf({"model_type": "qwen2"})
    assert (qwen2.vocab_size, qwen2.intermediate_size, qwen2.num_key_value_heads) == (151936, 22016, 32)
    assert (qwen2.qkv_bias, qwen2.bos_token_id, qwen2.eos_token_id) == (True, None, ())


@pytest.mark.parametrize("name", ["llama31", "llama31_shortrope"])
def test_both_namings_give_one_config(name):
    old, new = (
        LlamaConfig.from_hf(json.loads((FIXTURES / name / file).read_text()))
        for file in ("config.json", "config.v5.json")
    )
    assert old == new


@pytest.mark.parametrize(
    ("given", "resolved"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, RopeScaling("linear", 2.0)),
        ({"rope_scaling": {"type": "dynamic", "rope_type": "dynamic", "factor": 2.0}}, RopeScaling("dynamic", 2.0)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}, None),
        ({"rope_scaling": None, "eos_token_id": [1, 2], "num_key_value_heads": None}, None),
        (
            {
                "max_position_embeddings": 99,
                "rope_scaling": {"rope_type": "llama3", "factor": 2, "low_freq_factor": 1, "high_freq_factor": 4},
            },
            RopeScaling("llama3", 2.0, 1.0, 4.0, 99),
        ),
    ],
)
def test_rope_settings_are_read(given, resolved):
    config = LlamaConfig.from_hf(given)
    assert config.rope_scaling == resolved
    assert config.rope_theta == 10000.0


def test_a_bad_config_is_told_in_full():
    bad = {
        "model_type": "mistral",
        "sliding_window": 4096,
        "attention_bias": True,
        "num_key_value_heads": 5,
        "hidden_size": "big",
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0},
        "logit_scale": 0.1,
    }
    with pytest.raises(ConfigError) as caught:
        LlamaConfig.from_hf(bad)
    assert len(caught.value.problems) == 7
    for word in ("mistral", "4096", "attention_bias", "num_key_value_heads = 5", "'big'", "yarn", "logit_scale"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rope_scaling": {"rope_type": "linear"}}, "needs factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta_fast": 1}}, "rope_scaling.beta_fast is unknown"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "needs low_freq_factor, high_freq_factor"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 0.5}}, "must be at least 1"),
        ({"rope_scaling": "linear"}, "must be an object"),
        ({"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}}, "keep one"),
        ({"rope_theta": 1.0, "rope_parameters": {"rope_type": "default", "rope_theta": 2.0}}, "keep one"),
        ({"rope_scaling": {"type": "linear", "factor": 2}, "rope_parameters": {"rope_theta": 1.0}}, "differ; keep one"),
        ({"rope_parameters": {"rope_theta": 1.0, "partial_rotary_factor": 0.5}}, "only 1 is supported"),
        ({"hidden_size": 100, "num_attention_heads": 32}, "not a multiple of num_attention_heads"),
        ({"head_dim": 7}, "must be even"),
        ({"num_hidden_layers": 0}, "must be positive"),
        ({"num_hidden_layers": None}, "must be a int"),
        ({"tie_word_embeddings": 1}, "must be a bool"),
        ({"eos_token_id": ["2"]}, "eos_token_id"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "only False is supported"),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"]}, "only 'full_attention' is supported"),
    ],
)
def test_contradictions_are_told(given, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        LlamaConfig.from_hf(given)


def test_a_contradictory_config_cannot_be_built():
    with pytest.raises(ConfigError, match="num_key_value_heads = 3"):
        tiny(num_key_value_heads=3)
