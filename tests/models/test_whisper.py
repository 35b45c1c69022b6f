import dataclasses
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from gmijax.models import ConfigError, WhisperEncoder, WhisperEncoderConfig, whisper
from gmijax.testing.parity import check_folder

TINY = WhisperEncoderConfig(
    num_mel_bins=10,
    d_model=24,
    encoder_layers=3,
    encoder_attention_heads=4,
    encoder_ffn_dim=40,
    max_source_positions=20,
)
FLAVOURS = {
    "plain": TINY,
    "pooled": dataclasses.replace(TINY, pooled=True, max_source_positions=12),
    "one head, odd mels": dataclasses.replace(TINY, num_mel_bins=7, encoder_attention_heads=1, encoder_layers=1),
    "latency of 8": dataclasses.replace(TINY, latency_block_size=8),
}


def build(config, seed=0, **kwargs):
    """An encoder with random weights, norms and biases away from ones and zeros; numpy's, which compile nothing."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1]
        fan_in = np.prod(leaf.shape[-2:-1] if "layers" in path else leaf.shape[:-1]) if name == "kernel" else 16
        return leaf.replace(jnp.asarray((name == "scale") + fan_in**-0.5 * rng.standard_normal(leaf.shape), leaf.dtype))

    graph, state = nnx.split(nnx.eval_shape(lambda: WhisperEncoder(config, rngs=nnx.Rngs(0), **kwargs)))
    leaves = [(path, draw(path, leaf)) for path, leaf in nnx.to_flat_state(state)]
    return nnx.merge(graph, nnx.from_flat_state(leaves))


def parameters(model):
    return {".".join(path): np.asarray(leaf[...], "f8") for path, leaf in nnx.to_flat_state(nnx.state(model))}


def numpy_encoder(model, features, lengths):
    """All states in float64, by loops over clips, positions and heads."""
    config, p = model.config, parameters(model)

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}.scale"] + p[f"{name}.bias"]

    def layer_norm(x, name, k):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[f"layers.{name}.scale"][k] + p[f"layers.{name}.bias"][k]

    def gelu(x):
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def convolve(x, name, stride):
        padded = np.pad(x, ((1, 1), (0, 0)))
        rows = [
            sum(padded[t + offset] @ p[f"{name}.kernel"][offset] for offset in range(3))
            for t in range(0, len(x), stride)
        ]
        return np.array(rows) + p[f"{name}.bias"]

    states: dict[str, list] = {name: [] for name in model.hook_points}
    for clip, length in zip(features, lengths, strict=True):
        x = gelu(convolve(gelu(convolve(clip.T.astype("f8"), "conv1", 1)), "conv2", 2))
        x = x + p["positions"][: len(x)]
        states["encoder_inputs"].append(x)
        valid = -(-int(length) // 2)
        for k in range(config.encoder_layers):
            y = layer_norm(x, "attention_norm", k)
            q, key, v = (y @ p[f"layers.{n}.kernel"][k] for n in "qkv")
            q, v = q + p["layers.q.bias"][k], v + p["layers.v.bias"][k]
            attended = np.zeros_like(q)
            width = config.d_model // config.encoder_attention_heads
            for head in range(config.encoder_attention_heads):
                own = slice(head * width, (head + 1) * width)
                for t in range(len(x)):
                    end = valid
                    if config.latency_block_size is not None:
                        block = config.latency_block_size
                        end = min(valid, (t // block + 1) * block)
                    scores = key[:end, own] @ q[t, own] / np.sqrt(width)
                    weights = np.exp(scores - scores.max())
                    attended[t, own] = weights / weights.sum() @ v[:end, own]
            x = x + attended @ p["layers.out.kernel"][k] + p["layers.out.bias"][k]
            y = gelu(layer_norm(x, "mlp_norm", k) @ p["layers.fc1.kernel"][k] + p["layers.fc1.bias"][k])
            x = x + y @ p["layers.fc2.kernel"][k] + p["layers.fc2.bias"][k]
            states[f"encoder_hidden_{k}"].append(x)
        if config.pooled:
            x = np.array([(x[t] + x[t + 1]) / 2 for t in range(0, len(x) - 1, 2)])
        states["encoder_output"].append(norm(x, "norm"))
    return {name: np.array(rows) for name, rows in states.items()}


@pytest.mark.parametrize(
    ("flavour", "frames", "lengths"),
    [
        ("plain", 40, (40, 1, 27)),
        ("plain", 31, (31, 30, 2)),
        ("pooled", 24, (24, 19, 6)),
        ("one head, odd mels", 17, (17, 9)),
        ("latency of 8", 37, (37, 20)),
    ],
)
def test_equals_float64(flavour, frames, lengths):
    model = build(FLAVOURS[flavour])
    features = np.random.default_rng(1).standard_normal((len(lengths), model.config.num_mel_bins, frames), "f4")
    got = model(features, lengths=np.array(lengths), hook_points=model.hook_points)
    expected = numpy_encoder(model, features, lengths)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=2e-5, err_msg=name)


def test_equals_the_original():
    """The encoder of a whole Whisper, whose config.json holds every field that transformers writes."""
    result = check_folder(Path(__file__).parents[1] / "fixtures" / "tiny" / "whisper", tolerance=1e-5)
    assert result.passed, result
    assert {*result.differences} == {"encoder_inputs", "encoder_hidden_0", "encoder_output"}


def test_no_lengths_means_that_every_frame_is_valid():
    model = build(TINY)
    features = np.random.default_rng(1).standard_normal((2, 10, 21), "f4")
    plain, explicit = model(features), model(features, lengths=np.array([21, 21]))
    np.testing.assert_allclose(plain["encoder_output"], explicit["encoder_output"], rtol=0, atol=1e-5)


def test_large_features_in_the_norms_keep_their_digits():
    model = build(dataclasses.replace(TINY, encoder_layers=1))
    model.positions[...] = model.positions[...].at[:, 0].set(1000.0)  # as some features of Whisper are
    features = np.random.default_rng(1).standard_normal((1, 10, 16), "f4")
    expected = numpy_encoder(model, features, [16])["encoder_output"]
    np.testing.assert_allclose(model(features)["encoder_output"], expected, rtol=0, atol=2e-4)


# Padding and batching


@pytest.fixture(scope="module")
def plain():
    return build(TINY)


@settings(max_examples=15, deadline=None)
@given(half=st.integers(1, 16), seed=st.integers(0, 9), length=st.integers(1, 32))
def test_padding_and_company_change_nothing(plain, half, seed, length):
    """Nor do frames after the end of a clip, where it has an even number of them and they are 0.

    The last frame of an odd clip sees the first frame after it through the second convolution, as in the originals.
    """
    rng = np.random.default_rng(seed)
    batch = rng.standard_normal((3, 10, 32)).astype("f4")
    batch[0, :, 2 * half :] = 0
    together = plain(batch, lengths=np.array([2 * half, length, 32]))["encoder_output"]
    wide = plain(np.pad(batch[:1], ((0, 0), (0, 0), (0, 8))), lengths=np.array([2 * half]))["encoder_output"]
    alone = plain(batch[1:2], lengths=np.array([length]))["encoder_output"]
    scale = float(jnp.abs(together).max())
    np.testing.assert_allclose(together[0, :half], wide[0, :half], rtol=0, atol=1e-5 * scale)
    np.testing.assert_allclose(together[1], alone[0], rtol=0, atol=1e-5 * scale)


def test_later_audio_does_not_reach_earlier_blocks():
    model = build(FLAVOURS["latency of 8"])
    features = np.random.default_rng(1).standard_normal((1, 10, 40), "f4")
    changed = features.copy()
    changed[:, :, 34:] += 1  # encoder frame 16, the first of the third block, sees mel frames 30 to 34
    first, second = (np.asarray(model(f)["encoder_output"][0]) for f in (features, changed))
    np.testing.assert_array_equal(first[:16], second[:16])
    assert (np.abs(first[16:] - second[16:]).max(-1) > 1e-3).all()


# Hook points


def test_the_pass_ends_at_the_last_hook_point(plain):
    model = build(TINY)
    model.layers.fc1.kernel[...] = model.layers.fc1.kernel[...].at[2].set(jnp.nan)
    features = np.random.default_rng(1).standard_normal((1, 10, 16), "f4")
    got = model(features, hook_points=("encoder_hidden_1", "encoder_hidden_0"))
    assert [*got] == ["encoder_hidden_1", "encoder_hidden_0"]
    expected = plain(features, hook_points=plain.hook_points)
    for name, value in got.items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-6)
    assert model(features, hook_points=()) == {}


def test_interventions_are_applied_on_the_way(plain):
    features = np.random.default_rng(1).standard_normal((1, 10, 16), "f4")
    expected = plain(features, hook_points=plain.hook_points)
    for name in ("encoder_inputs", "encoder_hidden_1"):
        moved = plain(features, hook_points=plain.hook_points, interventions={name: lambda x: x.at[:, 0].set(0)})
        assert not np.asarray(moved[name][:, 0]).any()
        np.testing.assert_allclose(moved[name][:, 1:], expected[name][:, 1:], rtol=0, atol=1e-5)
        assert float(jnp.abs(moved["encoder_output"] - expected["encoder_output"])[:, 1:].max()) > 1e-3
    with pytest.raises(ValueError, match="'encoder_output' never fire"):
        plain(features, hook_points=("encoder_inputs",), interventions={"encoder_output": lambda x: x})


@pytest.mark.slow
def test_remat_changes_no_gradient(plain):
    features = np.random.default_rng(1).standard_normal((1, 10, 16), "f4")

    def value(features, remat):
        return jnp.sum(plain(features, remat=remat)["encoder_output"] ** 3)

    first, second = (jax.grad(value)(jnp.asarray(features), remat) for remat in (False, True))
    np.testing.assert_allclose(first, second, rtol=0, atol=1e-5 * float(jnp.abs(first).max()))


def test_compiles_once_for_each_shape(plain):
    calls = chex.assert_max_traces(lambda model, *args, **kwargs: model(*args, **kwargs), n=1)
    jitted = nnx.jit(calls)
    features = np.random.default_rng(1).standard_normal((2, 10, 16), "f4")
    for lengths in ((16, 3), (9, 16)):
        got = jitted(plain, features, lengths=jnp.array(lengths))["encoder_output"]
        expected = plain(features, lengths=np.array(lengths))["encoder_output"]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_vmap_over_batches_is_one_larger_batch(plain):
    features = np.random.default_rng(1).standard_normal((2, 3, 10, 16), "f4")
    lengths = np.array([[16, 3, 8], [5, 16, 12]])
    got = jax.vmap(lambda f, n: plain(f, lengths=n)["encoder_output"])(features, lengths)
    expected = plain(features.reshape(6, 10, 16), lengths=lengths.reshape(6))["encoder_output"]
    np.testing.assert_allclose(got.reshape(expected.shape), expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_gradient_is_that_of_finite_differences(plain):
    rng = np.random.default_rng(1)
    features, direction = rng.standard_normal((2, 1, 10, 16)).astype("f4")
    probe = rng.standard_normal((1, 8, 24)).astype("f4")

    def value(t):
        return jnp.sum(probe * plain(features + t * direction, lengths=np.array([11]))["encoder_output"])

    gradient = float(jax.grad(value)(0.0))
    reference = [
        np.sum(probe * numpy_encoder(plain, features + t * direction.astype("f8"), [11])["encoder_output"])
        for t in (-1e-4, 1e-4)
    ]
    np.testing.assert_allclose(gradient, (reference[1] - reference[0]) / 2e-4, rtol=1e-3)


# Types


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "share"), [(jnp.bfloat16, 0.03), (jnp.float16, 0.004)])
def test_half_precision_is_close(plain, dtype, share):
    half = build(TINY, dtype=dtype, param_dtype=dtype)
    features = np.random.default_rng(1).standard_normal((2, 10, 33), "f4")
    full, low = (model(features, lengths=np.array([33, 14]))["encoder_output"] for model in (plain, half))
    assert low.dtype == dtype
    np.testing.assert_allclose(low.astype("f4"), full, rtol=0, atol=share * float(jnp.abs(full).max()))


@pytest.mark.slow
def test_float16_layers_are_clipped_as_in_the_original():
    model = build(dataclasses.replace(TINY, encoder_layers=1), dtype=jnp.float16, param_dtype=jnp.float16)
    model.layers.fc2.bias[...] = jnp.where(jnp.arange(24) % 2, 65504, -65504).astype("f2")[None]
    model.layers.out.bias[...] = model.layers.fc2.bias[...]
    features = np.random.default_rng(1).standard_normal((1, 10, 8), "f4")
    got = np.asarray(model(features, hook_points=("encoder_hidden_0",))["encoder_hidden_0"], "f4")
    assert np.abs(got).max() == np.float16(65504 - 1000)


# Configs and refusals


def test_sparse_configs_take_the_defaults_of_their_class():
    assert WhisperEncoderConfig.from_hf({}) == WhisperEncoderConfig(80, 384, 4, 6, 1536)
    config = WhisperEncoderConfig.from_hf({"model_type": "qwen2_audio_encoder"}, latency_block_size=None)
    assert config == WhisperEncoderConfig(128, 1280, 32, 20, 5120, pooled=True)
    whole = {"is_encoder_decoder": True, "decoder_layers": 4, "vocab_size": 51864, "num_hidden_layers": 4}
    assert WhisperEncoderConfig.from_hf(whole) == WhisperEncoderConfig.from_hf({})


def test_everything_wrong_with_a_config_is_told_at_once():
    wrong = {"d_model": "wide", "activation_function": "relu", "new_field": 1, "num_hidden_layers": 7}
    with pytest.raises(ConfigError) as caught:
        WhisperEncoderConfig.from_hf(wrong)
    problems = caught.value.problems
    for words in (
        "d_model = 'wide'",
        "'relu': only 'gelu'",
        "new_field",
        "encoder_layers is 4 and num_hidden_layers 7",
    ):
        assert sum(words in problem for problem in problems) == 1, words
    assert len(problems) == 4
    with pytest.raises(ConfigError, match="'wav2vec2' is not one of"):
        WhisperEncoderConfig.from_hf({"model_type": "wav2vec2"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"d_model": 0, "encoder_layers": -1}, "d_model = 0: must be positive\n  - encoder_layers = -1: must be"),
        ({"encoder_attention_heads": 5}, "d_model = 24 is not a multiple of encoder_attention_heads = 5"),
        ({"latency_block_size": 7}, "latency_block_size = 7: must divide 2 \\* max_source_positions = 40"),
        ({"latency_block_size": 0}, "latency_block_size = 0: must divide"),
    ],
)
def test_contradictions_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize(
    ("flavour", "shape", "arguments", "words"),
    [
        ("plain", (1, 80, 16), {}, r"shape \(1, 80, 16\); give \(clips, 10, frames\)"),
        ("plain", (1, 10, 41), {}, "41 frames; this encoder takes 1 to 40"),
        ("plain", (1, 10, 0), {}, "0 frames"),
        ("pooled", (1, 10, 20), {}, "20 frames; this encoder takes 24, so pad them"),
        ("plain", (2, 10, 16), {"lengths": np.array([3])}, r"lengths have shape \(1,\); give one for each of the 2"),
        ("plain", (2, 10, 16), {"lengths": np.array([0, 17])}, r"lengths hold \[0, 17\]; the 16 frames"),
        ("plain", (1, 10, 16), {"hook_points": ("encoder_hidden_3",)}, "unknown hook_points 'encoder_hidden_3'"),
    ],
)
def test_bad_inputs_are_refused(flavour, shape, arguments, words):
    with pytest.raises(ValueError, match=words):
        build(FLAVOURS[flavour])(np.zeros(shape, "f4"), **arguments)


def test_positions_start_as_whispers_sinusoids():
    table = whisper._sinusoids(20, 8)
    for t in range(20):
        for i in range(4):
            angle = t / 10000 ** (i / 3)
            np.testing.assert_allclose([table[t, i], table[t, 4 + i]], [np.sin(angle), np.cos(angle)], atol=1e-12)


def test_frames_after_the_convolutions():
    mel = np.arange(1, 3001)
    frames = whisper.encoder_frames(mel)
    assert [whisper.encoder_frames(n) for n in (1, 2, 3, 370, 2999, 3000)] == [1, 1, 2, 185, 1500, 1500]
    np.testing.assert_array_equal(frames, np.ceil(mel / 2))
