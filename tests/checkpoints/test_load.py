import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.sharding import SingleDeviceSharding

from gmijax.checkpoints import CheckpointError, load_model, open_checkpoint
from gmijax.models import ConfigError, Llama

UP = "model.layers.{}.mlp.up_proj.weight"
EMBED, HEAD, NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


def leaves(model) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}


def split(tensors) -> tuple[dict, dict]:
    keys = list(tensors)
    return {k: tensors[k] for k in keys[::2]}, {k: tensors[k] for k in keys[1::2]}


def refusal(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_open_checkpoint_reads_headers_and_single_tensors(llama31, config, tensors):
    checkpoint = open_checkpoint(llama31)
    assert (checkpoint.path, checkpoint.kind, checkpoint.config) == (llama31, "safetensors", config)
    assert set(checkpoint.weights.keys()) == set(tensors)
    for key, tensor in tensors.items():
        assert checkpoint.weights.shape(key) == tensor.shape
        np.testing.assert_array_equal(checkpoint.weights.read(key), tensor)


def test_every_leaf_holds_its_tensor(llama31, tensors):
    model = load_model(llama31)
    assert isinstance(model, Llama)
    found = leaves(model)
    expected = {"embed.embedding": tensors[EMBED], "norm.scale": tensors[NORM], "head.kernel": tensors[HEAD].T}
    parts = {
        "attention_norm.scale": "input_layernorm",
        "mlp_norm.scale": "post_attention_layernorm",
        **{f"attention.{n}.kernel": f"self_attn.{n}_proj" for n in "qkvo"},
        **{f"mlp.{n}.kernel": f"mlp.{n}_proj" for n in ("gate", "up", "down")},
    }
    for leaf, stem in parts.items():
        expected[f"layers.{leaf}"] = np.stack([tensors[f"model.layers.{i}.{stem}.weight"].T for i in range(4)])
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_shards_give_the_same_model_as_one_file(write_folder, tensors, llama31):
    sharded, single = leaves(load_model(write_folder(*split(tensors)))), leaves(load_model(llama31))
    for name, value in single.items():
        np.testing.assert_array_equal(sharded[name], value, err_msg=name)


def test_bfloat16_shards_are_read_exactly(write_folder, tensors):
    halves = {key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in tensors.items()}
    rounded = {key: tensor.astype(np.float32) for key, tensor in halves.items()}
    found, expected = leaves(load_model(write_folder(*split(halves)))), leaves(load_model(write_folder(rounded)))
    for name, value in expected.items():
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(("dtype", "param_dtype"), [("bfloat16", None), ("float32", "bfloat16"), ("float16", None)])
def test_parameters_have_the_type_asked_for(llama31, dtype, param_dtype):
    model = load_model(llama31, dtype=dtype, param_dtype=param_dtype)
    assert {leaf.dtype for leaf in leaves(model).values()} == {jnp.dtype(param_dtype or dtype)}
    assert model.dtype == jnp.dtype(dtype)


def test_sharding_is_asked_for_every_leaf(llama31):
    device = SingleDeviceSharding(jax.devices()[0])
    asked = {}

    def place(name, shape):
        asked[name] = shape
        return device

    model = load_model(llama31, sharding=place)
    assert asked == {name: leaf.shape for name, leaf in leaves(model).items()}
    assert all(leaf.sharding == device for leaf in jax.tree.leaves(nnx.state(load_model(llama31, sharding=device))))


def test_tied_head(write_folder, config, tensors):
    tied = {**config, "tie_word_embeddings": True}
    without = {key: tensor for key, tensor in tensors.items() if key != HEAD}
    assert "head.kernel" not in leaves(load_model(write_folder(without, config=tied)))
    load_model(write_folder({**tensors, HEAD: tensors[EMBED]}, config=tied))  # stored twice, and the same
    assert "their values differ" in refusal(write_folder(tensors, config=tied))


def test_keys_that_old_files_carry_are_ignored(write_folder, tensors):
    load_model(write_folder({**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}))


def missing_layer(tensors):
    del tensors[UP.format(1)], tensors[UP.format(3)]


def missing_head(tensors):
    del tensors[HEAD]


def surplus(tensors):
    tensors["model.layers.0.mlp.router.weight"] = np.ones((2, 3), np.float32)


def surplus_layer(tensors):
    tensors[UP.format(4)] = tensors[UP.format(3)]


def misshapen(tensors):
    tensors[UP.format(2)] = np.ascontiguousarray(tensors[UP.format(2)].T)


def same_slot(tensors):
    tensors["model.layers.01.mlp.up_proj.weight"] = tensors[UP.format(1)]


def not_a_number(tensors):
    tensors[UP.format(2)][3, 5] = np.nan


def infinite(tensors):
    tensors[NORM][7] = -np.inf


def integers(tensors):
    tensors[NORM] = tensors[NORM].astype(np.int32)


MUTATIONS = [
    (missing_layer, ["missing", "layers.mlp.up.kernel in layers 1, 3", UP.format("N")]),
    (missing_head, ["missing", "head.kernel", HEAD]),
    (surplus, ["surplus key model.layers.0.mlp.router.weight"]),
    (surplus_layer, [f"surplus key {UP.format(4)}", "4 layers"]),
    (misshapen, [f"misshapen: {UP.format(2)} has shape (64, 176), the model expects (176, 64)"]),
    (same_slot, ["duplicate", UP.format(1), UP.format("01"), "layers.mlp.up.kernel, layer 1"]),
    (not_a_number, [f"{UP.format(2)} holds NaN or infinity"]),
    (infinite, [f"{NORM} holds NaN or infinity"]),
    (integers, [f"{NORM} is stored as I32"]),
]


@pytest.mark.parametrize(("mutate", "words"), MUTATIONS, ids=[mutate.__name__ for mutate, _ in MUTATIONS])
def test_a_mutated_checkpoint_is_refused(write_folder, tensors, mutate, words):
    mutate(tensors)
    message = refusal(write_folder(tensors))
    assert "\n" not in message  # one thing wrong, one sentence
    for word in words:
        assert word in message


def test_everything_wrong_is_told_at_once(write_folder, tensors):
    for mutate in (surplus, surplus_layer, missing_layer, missing_head, misshapen, infinite):
        mutate(tensors)
    first, second = split(tensors)
    folder = write_folder(first, {**second, EMBED: tensors[EMBED]})
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    problems = caught.value.problems
    assert len(problems) == 7
    for word in ("two shards", "up.kernel in layers 1, 3", "head.kernel", "router", UP.format(4), "misshapen", NORM):
        assert sum(word in problem for problem in problems) == 1, word


def test_overflow_in_the_asked_type_is_refused(write_folder, tensors):
    tensors[NORM][0] = 1e30
    folder = write_folder(tensors)
    load_model(folder)
    with pytest.raises(CheckpointError, match=f"{NORM} holds .* as float16 in the model"):
        load_model(folder, dtype=jnp.float16)


def test_index_and_shards_must_agree(write_folder, tensors):
    first, second = split(tensors)
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    index = {**dict.fromkeys(first, one), **dict.fromkeys(second, two)}
    moved = next(iter(second))

    message = refusal(write_folder({**first, moved: second[moved]}, second, index=index))
    assert f"{moved} is in two shards, {one} and {two}" in message

    message = refusal(write_folder(first, {k: v for k, v in second.items() if k != moved}, index=index))
    assert f"{moved} is not in {two}" in message
    assert "missing" not in message  # said once, and by its cause

    folder = write_folder(first, second, index=index)
    (folder / two).unlink()
    message = refusal(folder)
    assert f"names the shard {two}, which is absent" in message
    assert "missing" not in message

    message = refusal(write_folder(first, second, index={k: v for k, v in index.items() if k != moved}))
    assert f"{moved} is in {two}, but not in model.safetensors.index.json" in message

    message = refusal(write_folder(first, second, index={**index, moved: one}))
    assert f"{moved} is in {two}, but model.safetensors.index.json says {one}" in message


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_a_short_file_is_refused(write_folder, tensors, kept):
    folder = write_folder(tensors)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    assert "model.safetensors cannot be read as safetensors" in refusal(folder)
    with pytest.raises(CheckpointError):
        open_checkpoint(folder)


def test_a_short_shard_is_refused_by_name(write_folder, tensors):
    folder = write_folder(*split(tensors))
    shard = folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    message = refusal(folder)
    assert f"{shard.name} cannot be read as safetensors" in message
    assert "missing" not in message


@pytest.mark.parametrize("content", ["{", "[1]", '{"model_type": "llama", "model_type": "llama"}', "\udc80"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_damaged_json_is_refused_by_name(write_folder, tensors, name, content):
    folder = write_folder(*split(tensors))
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    assert name in refusal(folder)


def test_absent_parts_are_named(tmp_path, write_folder, tensors):
    assert "no such file or folder" in refusal(tmp_path / "nowhere")
    assert "neither model.safetensors nor" in refusal(tmp_path)
    folder = write_folder(tensors)
    (folder / "config.json").unlink()
    assert "config.json" in refusal(folder)
    other = tmp_path / "weights.bin"
    other.write_bytes(b"x")
    assert "not a .gguf file" in refusal(other)


def test_a_stale_single_file_beside_an_index_is_refused(write_folder, tensors):
    folder = write_folder(*split(tensors))
    (folder / "model.safetensors").write_bytes((folder / "model-00001-of-00002.safetensors").read_bytes())
    assert "out of date" in refusal(folder)


def test_config_that_no_model_honours(write_folder, config, tensors):
    message = refusal(write_folder(tensors, config={**config, "architectures": ["MambaForCausalLM"]}))
    assert "MambaForCausalLM" in message
    assert "LlamaForCausalLM" in message.split("known are the architectures")[1]
    with pytest.raises(ConfigError, match="attention_sinks"):
        load_model(write_folder(tensors, config={**config, "attention_sinks": 4}))
    by_type = {key: value for key, value in config.items() if key != "architectures"}
    assert isinstance(load_model(write_folder(tensors, config=by_type)), Llama)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_loading_holds_the_weights_once(write_folder, measure_loading, config, dtype):
    width, inner, vocabulary, layers = 512, 1536, 8000, 16
    config |= {"hidden_size": width, "intermediate_size": inner, "vocab_size": vocabulary}
    config |= {"num_hidden_layers": layers, "head_dim": 64, "num_attention_heads": 8, "num_key_value_heads": 8}
    shapes = {EMBED: (vocabulary, width), HEAD: (vocabulary, width), NORM: (width,)}
    for i in range(layers):
        stem = f"model.layers.{i}."
        shapes |= {f"{stem}self_attn.{n}_proj.weight": (width, width) for n in "qkvo"}
        shapes |= {f"{stem}mlp.{n}_proj.weight": (inner, width) for n in ("gate", "up")}
        shapes |= {f"{stem}mlp.down_proj.weight": (width, inner)}
        shapes |= {f"{stem}{n}_layernorm.weight": (width,) for n in ("input", "post_attention")}
    folder = write_folder({key: np.ones(shape, dtype) for key, shape in shapes.items()}, config=config)
    grown, parameters, _ = measure_loading(folder)
    assert parameters > 200e6
    largest = 4 * vocabulary * width
    assert grown <= 1.35 * parameters + largest, f"{grown / parameters:.2f} times the parameters"


SHARDED = """
    import jax, numpy as np, sys
    from flax import nnx
    from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
    from gmijax.checkpoints import load_model

    mesh = jax.make_mesh((2,), ("model",), axis_types=(AxisType.Auto,))
    place = lambda name, shape: NamedSharding(mesh, P(*[None] * (len(shape) - 1), "model"))
    split, whole = load_model(sys.argv[1], sharding=place), load_model(sys.argv[1])
    for a, b in zip(jax.tree.leaves(nnx.state(split)), jax.tree.leaves(nnx.state(whole)), strict=True):
        assert len(a.sharding.device_set) == 2 and not a.sharding.is_fully_replicated
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
"""


@pytest.mark.slow
def test_leaves_go_to_the_devices_asked_for(llama31, run_program):
    run_program(SHARDED, llama31, devices=2)
