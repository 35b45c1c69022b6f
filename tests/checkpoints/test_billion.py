"""A random checkpoint of 1.1 billion parameters in bfloat16 shards: loaded within 1.3 times its size, and run."""

import json
import sys

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

WIDTH, INNER, VOCABULARY, LAYERS, HEADS, KV_HEADS = 2048, 5632, 32000, 22, 32, 4
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS,
    "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 2048,
    "tie_word_embeddings": False, "hidden_act": "silu", "torch_dtype": "bfloat16",
}  # fmt: skip


def shapes() -> dict[str, tuple[int, ...]]:
    narrow = WIDTH // HEADS * KV_HEADS
    result = {f"{name}.weight": (VOCABULARY, WIDTH) for name in ("model.embed_tokens", "lm_head")}
    result["model.norm.weight"] = (WIDTH,)
    for i in range(LAYERS):
        stem = f"model.layers.{i}."
        result |= {f"{stem}self_attn.{n}_proj.weight": (WIDTH, WIDTH) for n in "qo"}
        result |= {f"{stem}self_attn.{n}_proj.weight": (narrow, WIDTH) for n in "kv"}
        result |= {f"{stem}mlp.{n}_proj.weight": (INNER, WIDTH) for n in ("gate", "up")}
        result[f"{stem}mlp.down_proj.weight"] = (WIDTH, INNER)
        result |= {f"{stem}{n}_layernorm.weight": (WIDTH,) for n in ("input", "post_attention")}
    return result


def write(folder) -> None:
    """Two shards; every tensor is another stretch of one random vector, since drawing a billion numbers takes long."""
    rng, names = np.random.default_rng(0), list(shapes())
    pool = (0.02 * rng.standard_normal(VOCABULARY * WIDTH + 2**16, np.float32)).astype(ml_dtypes.bfloat16)
    index = {}
    for part, half in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        file = f"model-{part + 1:05}-of-00002.safetensors"
        tensors = {}
        for name in half:
            shape, start = shapes()[name], int(rng.integers(2**16))
            values = pool[start : start + int(np.prod(shape))].reshape(shape)
            tensors[name] = np.ones_like(values) if len(shape) == 1 else values
            index[name] = file
        save_file(tensors, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "config.json").write_text(json.dumps(CONFIG))


def test_a_billion_parameters_load_in_1_3_times_their_size_and_run(tmp_path, measure_loading):
    write(tmp_path)
    try:
        grown, size, (*shape, spread) = measure_loading(tmp_path, "bfloat16")
    finally:
        for file in tmp_path.iterdir():  # 2.2 GB that nobody wants to find later
            file.unlink()
    assert size == 2 * sum(int(np.prod(shape)) for shape in shapes().values())
    assert size > 2 * 1.09e9
    assert grown <= 1.3 * size, f"{grown / size:.2f} times the parameters"
    assert shape == [1, 8, VOCABULARY]
    assert 0.1 < spread < np.inf  # no NaN among them either
