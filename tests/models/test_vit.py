import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf

from gmijax.models import ConfigError, ViT, ViTConfig, _timm
from gmijax.models._positions import resample_positions
from gmijax.testing import parity

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"
PLAIN = ViTConfig(
    hidden_size=12, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3, image_size=14, patch_size=7
)
FLAVOURS = {
    "plain": PLAIN,
    "clip": dataclasses.replace(
        PLAIN,
        **{"activation": "quick_gelu", "class_token": True, "class_position": True, "patch_bias": False},
        **{"pre_norm": True, "layer_norm_eps": 1e-5},
    ),
    "dinov2": dataclasses.replace(PLAIN, class_token=True, num_register_tokens=2, layer_scale=True),
    "tanh, no final norm, one channel": dataclasses.replace(
        PLAIN, activation="gelu_tanh", final_norm=False, num_channels=1, image_size=16
    ),
}


def build(config):
    """A model whose every leaf is random, norms and biases too."""
    rng = np.random.default_rng(0)
    graph, state = nnx.split(nnx.eval_shape(lambda: ViT(config, rngs=nnx.Rngs(0))))

    def draw(leaf):
        return jnp.asarray(rng.standard_normal(leaf.shape) * leaf.shape[-1] ** -0.5 + 0.1, leaf.dtype)

    return nnx.merge(graph, jax.tree.map(draw, state))


def numpy_states(model, pixels):
    """The states at all hook points, by loops over images, tokens and heads, in float64."""
    config = model.config
    p = {".".join(path): np.asarray(leaf[...], "f8") for path, leaf in nnx.to_flat_state(nnx.state(model))}
    size, grid, width = config.patch_size, config.image_size // config.patch_size, config.hidden_size

    def norm(x, name, layer=...):
        scale, bias = p[f"{name}.scale"][layer], p[f"{name}.bias"][layer]
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_eps) * scale + bias

    def activate(x):
        if config.activation == "quick_gelu":
            return x / (1 + np.exp(-1.702 * x))
        if config.activation == "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return 0.5 * x * (1 + erf(x / np.sqrt(2)))

    kernel = p["patch.kernel"].transpose(3, 2, 1, 0)  # (out, in, height, width), as torch has it
    tokens = []
    for image in pixels.astype("f8"):
        patches = []
        for row in range(grid):
            for column in range(grid):
                window = image[:, row * size : (row + 1) * size, column * size : (column + 1) * size]
                patches.append([(window * weight).sum() for weight in kernel])
        x = np.array(patches) + (p["patch.bias"] if config.patch_bias else 0)
        before, positions = [], p["positions"]
        if config.class_token:
            before.append(p["class_token"] + (positions[0] if config.class_position else 0))
            positions = positions[1:] if config.class_position else positions
        before += list(p["register_tokens"]) if config.num_register_tokens else []
        tokens.append(np.concatenate([np.reshape(before, (-1, width)), x + positions]))
    x = np.stack(tokens)
    if config.pre_norm:
        x = norm(x, "pre_norm")
    states = {"encoder_inputs": x}
    head = width // config.num_attention_heads
    for k in range(config.num_hidden_layers):
        y = norm(x, "layers.attention_norm", k) @ p["layers.qkv.kernel"][k] + p["layers.qkv.bias"][k]
        q, key, v = np.split(y, 3, axis=-1)
        attended = np.zeros_like(q)
        for row in range(len(x)):
            for h in range(config.num_attention_heads):
                own = slice(h * head, (h + 1) * head)
                weights = np.exp(q[row, :, own] @ key[row, :, own].T / np.sqrt(head))
                attended[row, :, own] = weights / weights.sum(-1, keepdims=True) @ v[row, :, own]
        y = attended @ p["layers.out.kernel"][k] + p["layers.out.bias"][k]
        x = x + (y * p["layers.attention_scale"][k] if config.layer_scale else y)
        y = activate(norm(x, "layers.mlp_norm", k) @ p["layers.fc1.kernel"][k] + p["layers.fc1.bias"][k])
        y = y @ p["layers.fc2.kernel"][k] + p["layers.fc2.bias"][k]
        x = x + (y * p["layers.mlp_scale"][k] if config.layer_scale else y)
        states[f"encoder_hidden_{k}"] = x
    return states | {"encoder_output": norm(x, "norm") if config.final_norm else x}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_equals_float64(flavour):
    model = build(FLAVOURS[flavour])
    config = model.config
    shape = (2, config.num_channels, config.image_size, config.image_size)
    pixels = np.random.default_rng(1).standard_normal(shape).astype("f4")
    found, expected = model(pixels, hook_points=model.hook_points), numpy_states(model, pixels)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-5 * np.abs(value).max(), err_msg=name)


@pytest.mark.parametrize("name", ["clip", "siglip", "dinov2", "dinov2_registers"])
def test_equals_transformers(name):
    result = parity.check_folder(TINY / name, tolerance=2e-5)
    assert result.errors == []
    assert result.passed, result.differences
    assert set(result.differences) == {"encoder_hidden_2" if name == "clip" else "encoder_output"}


def test_the_pass_stops_at_the_last_hook_point_and_edits_on_the_way():
    model = build(FLAVOURS["dinov2"])
    graph, state = nnx.split(model)
    leaves = [(path, leaf[...]) for path, leaf in nnx.to_flat_state(state)]
    broken = [leaf.at[1:].set(jnp.nan) if path[0] == "layers" else leaf for path, leaf in leaves]
    poisoned = nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), broken))
    pixels = np.ones((1, 3, 14, 14), "f4")
    (states,) = poisoned(pixels, hook_points=("encoder_hidden_0",)).values()
    assert bool(jnp.isfinite(states).all())
    edited = model(pixels, hook_points=("encoder_inputs",), interventions={"encoder_inputs": lambda x: 2 * x})
    plain = model(pixels, hook_points=("encoder_inputs",))
    np.testing.assert_array_equal(edited["encoder_inputs"], 2 * plain["encoder_inputs"])
    with pytest.raises(ValueError, match="'encoder_hidden_1' never fire"):
        model(pixels, hook_points=("encoder_hidden_0",), interventions={"encoder_hidden_1": jnp.sin})
    with pytest.raises(ValueError, match="'encoder_hidden_0' to 'encoder_hidden_1', 'encoder_output'"):
        model(pixels, hook_points=("encoder_hidden_2",))
    with pytest.raises(ValueError, match=r"pixel_values have shape \(1, 3, 13, 14\)"):
        model(pixels[:, :, 1:])


def test_bad_configs_are_told_in_full():
    with pytest.raises(ConfigError) as caught:
        dataclasses.replace(PLAIN, num_attention_heads=5, activation="relu", class_position=True)
    assert len(caught.value.problems) == 3
    with pytest.raises(ConfigError, match="patch_size = 0"):
        dataclasses.replace(PLAIN, patch_size=0)


# Position tables


def numpy_resample(table, size):
    """The definition, entry by entry: a = -0.5, support widened by the scale, weights renormalised."""
    edge = int(len(table) ** 0.5)
    grid = table.reshape(edge, edge, -1).astype("f8")
    scale = edge / size
    stretch = max(scale, 1.0)

    def kernel(t):
        t = abs(t)
        if t < 1:
            return 1.5 * t**3 - 2.5 * t**2 + 1
        return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0

    weights = np.zeros((size, edge))
    for i in range(size):
        for j in range(edge):
            weights[i, j] = kernel((j + 0.5 - (i + 0.5) * scale) / stretch)
        weights[i] /= weights[i].sum()
    result = np.zeros((size, size, grid.shape[2]))
    for i in range(size):
        for j in range(size):
            result[i, j] = sum(weights[i, a] * weights[j, b] * grid[a, b] for a in range(edge) for b in range(edge))
    return result.reshape(size * size, -1)


@pytest.mark.parametrize(("edge", "size"), [(9, 4), (4, 9), (5, 5), (6, 3), (7, 1)])
def test_resampling_is_its_definition(edge, size):
    table = np.random.default_rng(0).standard_normal((edge * edge, 3))
    np.testing.assert_allclose(resample_positions(table, size), numpy_resample(table, size), rtol=0, atol=2e-6)


@given(value=st.floats(-4, 4), size=st.integers(1, 12))
def test_resampling_keeps_constants(value, size):
    table = np.full((49, 2), value)
    np.testing.assert_allclose(resample_positions(table, size), np.full((size * size, 2), value), rtol=0, atol=1e-5)


def test_timm_names():
    config = _timm.named_config("vit_large_patch14_reg4_dinov2.lvd142m", image_size=224)
    assert (config.patches, config.prefix, config.hidden_size) == (256, 5, 1024)
    small = _timm.named_config("vit_so400m_patch14_siglip_224", overrides={"embed_dim": 48, "num_heads": 4})
    assert small.intermediate_size == 179
    with pytest.raises(ConfigError, match=r"(?s)mlp_ratio.*'resnet50' is not one of"):
        _timm.named_config("resnet50", overrides={"mlp_ratio": 4})
