"""Whisper files of CTranslate2, written here as its converter writes them, and the packaged one."""

import struct
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from gmijax.checkpoints import CheckpointError, bundled_speech_encoder, load_model, open_checkpoint
from gmijax.models import WhisperEncoder, WhisperEncoderConfig
from gmijax.preprocessing import log_mel, pad_waves

FIXTURES = Path(__file__).parents[1] / "fixtures"
CODES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}
WIDTH, MELS, INNER, POSITIONS, LAYERS = 8, 5, 12, 10, 2


def variables(dtype="float32") -> dict[str, np.ndarray]:
    """A tiny Whisper, of whose decoder there is one variable."""
    rng = np.random.default_rng(0)
    shapes = {"encoder/position_encodings/encodings": (POSITIONS, WIDTH), "decoder/embeddings/weight": (7, WIDTH)}
    linears = {"conv1": (WIDTH, MELS, 3), "conv2": (WIDTH, WIDTH, 3)}
    norms = ["layer_norm"]
    for k in range(LAYERS):
        stem = f"layer_{k}/"
        linears |= {
            stem + "self_attention/linear_0": (3 * WIDTH, WIDTH),
            stem + "self_attention/linear_1": (WIDTH, WIDTH),
        }
        linears |= {stem + "ffn/linear_0": (INNER, WIDTH), stem + "ffn/linear_1": (WIDTH, INNER)}
        norms += [stem + "self_attention/layer_norm", stem + "ffn/layer_norm"]
    for name, shape in linears.items():
        shapes |= {f"encoder/{name}/weight": shape, f"encoder/{name}/bias": shape[:1]}
    shapes |= {f"encoder/{name}/{kind}": (WIDTH,) for name in norms for kind in ("gamma", "beta")}
    tensors = {name: rng.standard_normal(shape).astype(dtype) for name, shape in sorted(shapes.items())}
    for k in range(LAYERS):
        tensors[f"encoder/layer_{k}/self_attention/linear_0/bias"][WIDTH : 2 * WIDTH] = 0
    return {**tensors, "encoder/num_heads": np.array(2, np.int16)}


def encode(
    tensors, *, version=6, name="WhisperSpec", aliases=(("decoder/projection/weight", "decoder/embeddings/weight"),)
):
    def string(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", version), string(name), struct.pack("<II", 3, len(tensors))]
    for key, tensor in tensors.items():
        header = struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        parts += [string(key), header, struct.pack("<BI", CODES[tensor.dtype.name], tensor.nbytes), tensor.tobytes()]
    parts.append(struct.pack("<I", len(aliases)))
    parts += [string(alias) + string(target) for alias, target in aliases]
    return b"".join(parts)


@pytest.fixture
def write(tmp_path):
    def write(content: bytes | dict) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "config.json").write_text('{"alignment_heads": []}')  # as CTranslate2 writes it, of no use to us
        (folder / "model.bin").write_bytes(encode(content) if isinstance(content, dict) else content)
        return folder

    return write


def leaves(model) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}


def test_every_leaf_holds_its_tensor(write):
    tensors = variables()
    folder = write(tensors)
    model = load_model(folder)
    assert isinstance(model, WhisperEncoder)
    assert model.config == WhisperEncoderConfig(MELS, WIDTH, LAYERS, 2, INNER, POSITIONS)
    found = leaves(model)

    def stacked(name, rows=slice(None)):
        return np.stack([tensors[f"encoder/layer_{k}/{name}"][rows].T for k in range(LAYERS)])

    expected = {"positions": tensors["encoder/position_encodings/encodings"]}
    for name in ("conv1", "conv2"):
        expected[f"{name}.kernel"] = tensors[f"encoder/{name}/weight"].transpose(2, 1, 0)
        expected[f"{name}.bias"] = tensors[f"encoder/{name}/bias"]
    expected["norm.scale"], expected["norm.bias"] = (
        tensors[f"encoder/layer_norm/{kind}"] for kind in ("gamma", "beta")
    )
    for i, n in enumerate("qkv"):
        rows = slice(i * WIDTH, (i + 1) * WIDTH)
        expected[f"layers.{n}.kernel"] = stacked("self_attention/linear_0/weight", rows)
        if n != "k":
            expected[f"layers.{n}.bias"] = stacked("self_attention/linear_0/bias", rows)
    names = {"out": "self_attention/linear_1", "fc1": "ffn/linear_0", "fc2": "ffn/linear_1"}
    for leaf, name in names.items():
        expected[f"layers.{leaf}.kernel"] = stacked(f"{name}/weight")
        expected[f"layers.{leaf}.bias"] = stacked(f"{name}/bias")
    for leaf, name in {"attention_norm": "self_attention/layer_norm", "mlp_norm": "ffn/layer_norm"}.items():
        expected[f"layers.{leaf}.scale"], expected[f"layers.{leaf}.bias"] = (
            stacked(f"{name}/gamma"),
            stacked(f"{name}/beta"),
        )
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    again = leaves(load_model(folder / "model.bin"))
    for name, value in found.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_exactly(write, dtype):
    halves = variables(dtype)
    checkpoint = open_checkpoint(write(halves))
    assert checkpoint.kind == "ctranslate2"
    read = checkpoint.weights.read("model.encoder.layers.1.fc1.weight")
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, halves["encoder/layer_1/ffn/linear_0/weight"])
    for key in checkpoint.weights.keys():  # noqa: SIM118 - a source is no mapping
        assert checkpoint.weights.read(key).shape == checkpoint.weights.shape(key)


def refusal(folder) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    return str(caught.value)


def test_a_short_file_is_refused_wherever_it_ends(write):
    content = encode(variables())
    for kept in (0, 3, 20, 60, len(content) // 2, len(content) - 60, len(content) - 1):
        assert "cut short" in refusal(write(content[:kept])), kept
    assert "3 bytes follow its end" in refusal(write(content + b"abc"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (encode({}, version=5), "its binary version is 5, and only 6 is read"),
        (encode({}, name="TransformerSpec"), "its specification is 'TransformerSpec', and only 'WhisperSpec'"),
        (encode({}, aliases=(("a", "b"),)), "the alias a stands for b, which is absent"),
        (encode({"a": np.ones(2, "f4")}, aliases=(("a", "a"),)), "the variable a occurs twice"),
        (encode({}, aliases=()), "4 problems"),
        (b"PK\x03\x04" + bytes(40), "not a CTranslate2 file"),
    ],
)
def test_other_files_are_refused(write, content, words):
    assert words in refusal(write(content))


def test_sizes_that_do_not_agree_are_refused(write):
    content = encode({"a": np.ones((2, 3), "f4")}, aliases=())
    assert "a has 24 bytes; its shape (2, 4) in float32 makes 32" in refusal(
        write(content.replace(b"\2\0\0\0\3", b"\2\0\0\0\4"))
    )
    broken = bytearray(content)
    broken[content.index(b"\0\x18\0\0\0")] = 9  # the type's code, before the number of bytes
    assert "a has the type 9, of which nothing is known" in refusal(write(bytes(broken)))


def test_everything_wrong_is_told_at_once(write):
    tensors = variables()
    del tensors["encoder/layer_1/ffn/linear_1/bias"]
    tensors["encoder/gate/weight"] = np.ones((2, 2), "f4")
    tensors["encoder/layer_0/ffn/linear_0/weight_scale"] = np.ones(INNER, "f4")
    tensors["encoder/conv2/weight"] = tensors["encoder/conv2/weight"][:, :, :2]
    tensors["encoder/layer_norm/beta"][2] = np.nan
    tensors["encoder/layer_0/self_attention/linear_0/bias"][WIDTH] = 1
    tensors["encoder/layer_1/ffn/linear_0/weight"] = np.ones((INNER, WIDTH), np.int8)
    message = refusal(write(tensors))
    words = (
        *(
            "layers.fc2.bias in layers 1",
            "surplus key encoder/gate/weight",
            "linear_0/weight_scale",
            "conv2.weight has shape",
        ),
        *("layer_norm.bias holds NaN", "linear_0/bias holds a bias of the keys", "is stored as int8; only float32"),
    )
    for word in words:
        assert message.count(word) == 1, word
    assert f"{len(words)} problems" in message


def test_absent_variables_that_give_the_sizes(write):
    tensors = variables()
    del tensors["encoder/num_heads"]
    tensors["encoder/conv1/weight"] = tensors["encoder/conv1/weight"][0]
    message = refusal(write(tensors))
    assert "the variable encoder/num_heads is absent" in message
    assert "encoder/conv1/weight has shape (5, 3); it must have 3 axes" in message


# The packaged weights


@pytest.fixture(scope="module")
def tiny_en() -> WhisperEncoder:
    try:
        return load_model(bundled_speech_encoder())
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("window", "frames", "step"), [("5s", 500, 2), ("30s", 3000, 13)])
def test_the_packaged_whisper_equals_ctranslate2(tiny_en, window, frames, step):
    """On speech, from the wave on; CTranslate2's own output was recorded by make_whisper_golden.py."""
    golden = load_file(FIXTURES / "whisper_tiny_en.safetensors")
    features = log_mel(pad_waves([golden["wave"] / np.float32(32768)], samples=160 * frames)[0])
    states = tiny_en(features, hook_points=tiny_en.hook_points)
    assert [*states] == ["encoder_inputs", *(f"encoder_hidden_{k}" for k in range(4)), "encoder_output"]
    assert {state.shape for state in states.values()} == {(1, frames // 2, 384)}
    got = np.asarray(states["encoder_output"])[0, ::step]
    np.testing.assert_allclose(got, golden[f"encoder_output_{window}"], rtol=0, atol=1e-4)


def test_the_packaged_whisper_has_the_published_shape(tiny_en):
    assert tiny_en.config == WhisperEncoderConfig.from_hf({})
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(tiny_en))) == 8_208_384
