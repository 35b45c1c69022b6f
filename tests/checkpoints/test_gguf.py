import dataclasses
from pathlib import Path

import gguf
import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from gmijax.checkpoints import CheckpointError, load_model, open_checkpoint
from gmijax.checkpoints._gguf import llama3_scaling, unpermute

Q8_0 = gguf.GGMLQuantizationType.Q8_0
HEADS = {"attn_q": 4, "attn_k": 2}
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order, one row at a time: in each head, row i and row i + d/2 become rows 2i and 2i + 1."""
    result = np.empty_like(rows)
    width = len(rows) // heads
    for head in range(heads):
        for i in range(width // 2):
            result[head * width + 2 * i] = rows[head * width + i]
            result[head * width + 2 * i + 1] = rows[head * width + width // 2 + i]
    return result


def gguf_tensors(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    result = {}
    for key, tensor in tensors.items():
        if key.startswith("model.layers."):
            _, _, layer, stem = key.removesuffix(".weight").split(".", 3)
            name = NAMES[stem]
            rows = permuted(tensor, HEADS[name]) if name in HEADS else tensor
            result[f"blk.{layer}.{name}.weight"] = rows
        else:
            outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
            result[outer[key.removesuffix(".weight")] + ".weight"] = tensor
    return result


def rope_divisors(theta: float, head_dim: int, scaling: dict) -> np.ndarray:
    """What llama.cpp stores for a llama3 scaling: by how much each inverse frequency is divided."""
    divisors = []
    for i in range(head_dim // 2):
        wavelength = 2 * np.pi * theta ** (2 * i / head_dim)
        original = scaling["original_max_position_embeddings"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        if wavelength < original / high:
            divisors.append(1.0)
        elif wavelength > original / low:
            divisors.append(scaling["factor"])
        else:
            smooth = (original / wavelength - low) / (high - low)
            divisors.append(1 / ((1 - smooth) / scaling["factor"] + smooth))
    return np.array(divisors, np.float32)


@pytest.fixture
def fields(config) -> dict:
    """The fixture's config as the metadata of a GGUF file."""
    return {
        "llama.block_count": 4,
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 176,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": config["rope_theta"],
        "llama.rope.dimension_count": 16,
        "llama.vocab_size": 512,
        "llama.expert_count": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


@pytest.fixture
def content(config, tensors) -> dict[str, np.ndarray]:
    divisors = rope_divisors(config["rope_theta"], 16, config["rope_scaling"])
    return {"rope_freqs.weight": divisors, **gguf_tensors(tensors)}


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("stored", ["F32", "F16", "Q8_0"])
def test_the_weights_are_those_of_the_original(write_gguf, fields, content, tensors, stored):
    expected = dict(tensors)
    kept = {name: tensor for name, tensor in content.items() if tensor.ndim == 1}
    for name, tensor in content.items():
        if stored == "Q8_0" and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            kept[name] = (gguf.quantize(tensor, Q8_0), Q8_0)
        elif tensor.ndim == 2:
            kept[name] = tensor if stored == "F32" else tensor.astype(np.float16)
    for key, tensor in tensors.items():
        if stored == "Q8_0" and tensor.ndim == 2 and tensor.shape[1] % 32 == 0:
            expected[key] = gguf.dequantize(gguf.quantize(tensor, Q8_0), Q8_0)
        elif tensor.ndim == 2 and stored != "F32":
            expected[key] = tensor.astype(np.float16)

    weights = open_checkpoint(write_gguf(fields, kept)).weights
    assert set(weights.keys()) == set(expected)
    for key, tensor in expected.items():
        assert weights.shape(key) == tensor.shape
        np.testing.assert_array_equal(weights.read(key), tensor, err_msg=key)


def test_the_model_is_that_of_the_original(write_gguf, fields, content, llama31):
    found, original = load_model(write_gguf(fields, content)), load_model(llama31)
    assert found.config == dataclasses.replace(original.config, eos_token_id=(2,))  # GGUF has room for one
    leaves = [jax.tree.leaves_with_path(nnx.state(model)) for model in (found, original)]
    for (path, leaf), (other, expected) in zip(*leaves, strict=True):
        assert path == other
        np.testing.assert_array_equal(leaf, expected, err_msg=str(path))


def test_qwen2_keeps_its_rows_and_has_biases(write_gguf):
    """llama.cpp leaves Qwen2's rows in HuggingFace's order; embeddings are tied in this one."""
    folder = Path(__file__).parents[1] / "fixtures" / "tiny" / "qwen2"
    stored = load_file(folder / "model.safetensors")
    content = {}
    for key, tensor in stored.items():
        stem, kind = key.rsplit(".", 1)
        if stem.startswith("model.layers."):
            _, _, layer, inner = stem.split(".", 3)
            content[f"blk.{layer}.{NAMES[inner]}.{kind}"] = tensor
        else:
            content[{"model.embed_tokens": "token_embd", "model.norm": "output_norm"}[stem] + f".{kind}"] = tensor
    fields = {
        "qwen2.block_count": 2,
        "qwen2.context_length": 64,
        "qwen2.embedding_length": 16,
        "qwen2.feed_forward_length": 24,
        "qwen2.attention.head_count": 4,
        "qwen2.attention.head_count_kv": 2,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-5,
        "qwen2.rope.freq_base": 10000.0,
        "tokenizer.ggml.padding_token_id": 0,
    }
    found, original = load_model(write_gguf(fields, content, architecture="qwen2")), load_model(folder)
    assert found.config == original.config
    for a, b in zip(*(jax.tree.leaves(nnx.state(model)) for model in (found, original)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_config(write_gguf, fields, content, config):
    found = open_checkpoint(write_gguf(fields, content)).config
    shared = {key: config[key] for key in found if key in config and key != "eos_token_id"}
    assert {key: found[key] for key in shared} == shared
    assert (found["eos_token_id"], found["pad_token_id"]) == (2, None)


def test_the_head_is_tied_where_none_is_stored(write_gguf, fields, content):
    del content["output.weight"]
    path = write_gguf(fields, content)
    assert open_checkpoint(path).config["tie_word_embeddings"]
    assert not hasattr(load_model(path), "head")


def test_linear_rope_scaling(write_gguf, fields, content):
    del content["rope_freqs.weight"]
    linear = {"rope_type": "linear", "factor": 4.0}
    new = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}
    for more in (new, {"llama.rope.scale_linear": 4.0}):
        assert open_checkpoint(write_gguf(fields | more, content)).config["rope_scaling"] == linear
    assert open_checkpoint(write_gguf(fields, content)).config["rope_scaling"] is None


@given(
    theta=st.sampled_from([1e4, 5e5]),
    head_dim=st.sampled_from([16, 64, 128]),
    factor=st.sampled_from([2.0, 8.0, 32.0]),
    power=st.integers(7, 15),
)
def test_rope_divisors_are_recognised(theta, head_dim, factor, power):
    scaling = {"factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    divisors = rope_divisors(theta, head_dim, scaling | {"original_max_position_embeddings": 2**power})
    found = llama3_scaling(divisors, theta=theta, head_dim=head_dim, context=131072)
    if divisors.max() == factor:
        # The context may go by another name where too few frequencies tell, but it gives the same rotations.
        assert found is not None
        np.testing.assert_allclose(rope_divisors(theta, head_dim, found), divisors, rtol=1e-5)
    divisors[-1] *= 1.01
    assert llama3_scaling(divisors, theta=theta, head_dim=head_dim, context=131072) is None


def test_other_rope_divisors_are_refused(write_gguf, fields, content):
    content["rope_freqs.weight"] = np.linspace(1, 3, 8, dtype=np.float32)
    assert "rope_freqs.weight holds factors" in refusal(write_gguf(fields, content))
    content["rope_freqs.weight"] = np.ones(5, np.float32)
    assert "rope_freqs.weight holds factors" in refusal(write_gguf(fields, content))


def test_metadata_that_no_llama_honours_is_refused_at_once(write_gguf, fields, content):
    del fields["llama.embedding_length"]
    fields |= {"llama.expert_count": 8, "llama.attention.value_length": 32, "llama.feed_forward_length": [1, 2]}
    message = refusal(write_gguf(fields, content))
    for words in ("embedding_length is absent", "expert_count = 8", "value_length is 32", "differs by layer"):
        assert words in message


def test_other_rope_scalings_are_refused(write_gguf, fields, content):
    fields |= {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}
    assert "has both rope_freqs.weight and llama.rope.scaling.type 'yarn'" in refusal(write_gguf(fields, content))
    del content["rope_freqs.weight"]
    assert "rope scaling {'type': 'yarn', 'factor': 4.0} is not read" in refusal(write_gguf(fields, content))


def test_other_architectures_are_refused(write_gguf, fields, content):
    assert "'gemma3'" in refusal(write_gguf(fields, content, architecture="gemma3"))


def test_mutated_tensors_are_refused(write_gguf, fields, content):
    content["blk.2.ffn_gate_inp.weight"] = np.ones((2, 64), np.float32)
    del content["blk.1.attn_q.weight"]
    content["blk.0.attn_k.weight"] = content["blk.0.attn_k.weight"][:31]
    content["output_norm.weight"] = content["output_norm.weight"] * np.nan
    message = refusal(write_gguf(fields, content))
    for words in ("4 problems", "surplus key blk.2.ffn_gate_inp.weight", "q.kernel in layers 1", "(31, 64)", "NaN"):
        assert words in message


@pytest.mark.parametrize("kept", [0, 3, 20, 200, 1500, 0.5, -1])
def test_a_short_file_is_refused(write_gguf, fields, content, kept):
    path = write_gguf(fields, content)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    message = refusal(path)
    assert "cut short" in message or (kept == 0 and "empty" in message)


def test_a_foreign_file_is_refused(tmp_path, write_gguf, fields, content):
    path = write_gguf(fields, content)
    whole = path.read_bytes()
    for damaged, words in [(b"GGML" + whole[4:], "GGUF"), (whole[:4] + b"\0\0\0\3" + whole[8:], "version")]:
        path.write_bytes(damaged)
        assert words in refusal(path)


@given(heads=st.integers(1, 6), half=st.integers(1, 5), rank=st.integers(1, 3))
def test_unpermute_undoes_the_permutation(heads, half, rank):
    rows = np.arange(heads * 2 * half * 3 ** (rank - 1)).reshape(heads * 2 * half, *[3] * (rank - 1))
    np.testing.assert_array_equal(unpermute(permuted(rows, heads), heads), rows)
