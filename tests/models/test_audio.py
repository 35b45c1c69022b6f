"""Ultravox and Qwen2-Audio, against tiny checkpoints that the originals were run on."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from safetensors.numpy import load_file, save_file

from gmijax.checkpoints import CheckpointError, load_model
from gmijax.models import (
    ConfigError,
    Llama,
    Qwen2Audio,
    Qwen2AudioConfig,
    Ultravox,
    UltravoxConfig,
    UltravoxMedia,
    WhisperEncoder,
    WhisperEncoderConfig,
    llama,
)
from gmijax.scoring import next_token_loss
from gmijax.testing.parity import check_folder

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tiny"
NAMES = ("ultravox", "qwen2_audio")


class Case:
    """A model, what it is called with, and what the original gave."""

    def __init__(self, name: str):
        self.folder = FIXTURES / name
        self.model = load_model(self.folder)
        inputs = load_file(self.folder / "inputs.safetensors")
        self.labels = inputs.pop("labels")
        self.ids, self.mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        self.media = self.model.Media(**inputs)
        self.expected = load_file(self.folder / "expected.safetensors")

    @functools.cached_property
    def output(self):
        """Of one call for all tests, with every hook point."""
        return self(hook_points=self.model.hook_points)

    def __call__(self, media=None, **kwargs):
        return self.model(self.ids, self.media if media is None else media, attention_mask=self.mask, **kwargs)


@functools.cache
def open_case(name: str) -> Case:
    return Case(name)


@pytest.fixture(params=NAMES)
def case(request) -> Case:
    return open_case(request.param)


@pytest.fixture(params=["ultravox", pytest.param("qwen2_audio", marks=pytest.mark.slow)])
def costly(request) -> Case:
    """As `case`, for what takes seconds to compile: Qwen2-Audio, of which most is the same, only among the slow."""
    return open_case(request.param)


@pytest.fixture
def ultravox() -> Case:
    return open_case("ultravox")


@pytest.fixture
def qwen2_audio() -> Case:
    return open_case("qwen2_audio")


def leaves(model) -> dict[str, np.ndarray]:
    return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(nnx.state(model))}


# Parity


def test_equals_the_original(case):
    got = {**case.output.hidden_states, "logits": case.output.logits}
    got["loss"] = next_token_loss(case.output.logits, case.output.layout.place_labels(case.labels))[None]
    valid = case.expected["valid_mask"].astype(bool)
    assert {*case.expected} - {*got} == {"valid_mask", "grad_adapter_output"}
    for name in {*case.expected} & {*got}:
        chosen = valid if name.startswith(("llm_", "logits")) else ...
        value, expected = np.asarray(got[name])[chosen], case.expected[name][chosen]
        np.testing.assert_allclose(value, expected, rtol=0, atol=5e-5, err_msg=name)


def test_gradient_at_the_adapter_equals_the_original(costly):
    def loss(soft_tokens):
        output = costly(soft_tokens=soft_tokens)
        return next_token_loss(output.logits, output.layout.place_labels(costly.labels))

    gradient = jax.grad(loss)(jnp.asarray(costly.expected["adapter_output"]))
    np.testing.assert_allclose(gradient, costly.expected["grad_adapter_output"], rtol=0, atol=5e-5)
    unused = ~np.asarray(costly.output.masks["adapter_output"])
    assert not np.asarray(gradient)[unused].any()


@pytest.mark.slow
def test_the_parity_harness_runs_them():
    result = check_folder(FIXTURES / "ultravox", tolerance=5e-5)
    assert result.passed, result
    assert {*result.differences} == {*open_case("ultravox").expected} - {"valid_mask"}


def test_masks_and_spans_say_where_the_audio_is(case):
    output = case.output
    rows, starts, stops = np.nonzero(np.asarray(output.layout.modality)), output.spans.start, output.spans.stop
    if isinstance(case.model, Ultravox):
        np.testing.assert_array_equal(output.spans.row, [0, 0, 2])
        np.testing.assert_array_equal(starts, [2, 11, 6])
        np.testing.assert_array_equal(stops, [9, 14, 11])
        frames, tokens, own = [19, 7, 13], [7, 3, 5], 19
    else:
        np.testing.assert_array_equal(output.spans.row[:2], [0, 2])
        np.testing.assert_array_equal(starts[:2], [3, 7])
        np.testing.assert_array_equal(stops[:2], [13, 13])
        assert starts[2] == stops[2]  # a clip too short for a soft token
        frames, tokens, own = [20, 12, 1], [10, 6, 0], 20
    assert len(rows[0]) == sum(tokens)
    np.testing.assert_array_equal(output.masks["encoder_hidden_0"].sum(1), frames)
    assert output.masks["encoder_inputs"].shape == (3, own)
    np.testing.assert_array_equal(output.masks["adapter_output"].sum(1), tokens)
    np.testing.assert_array_equal(output.masks["llm_final"], case.mask.astype(bool))
    soft = np.asarray(output.hidden_states["adapter_output"])[np.asarray(output.masks["adapter_output"])]
    embedded = np.asarray(output.hidden_states["inputs_embeds"])
    np.testing.assert_array_equal(embedded[rows], soft)


@pytest.mark.slow
def test_each_row_alone_gives_the_same(case):
    """Row 1, without audio, as text alone."""
    fields = case.media._asdict()
    owners = np.repeat(np.arange(3), [2, 0, 1] if isinstance(case.model, Ultravox) else [1, 0, 2])
    for row in range(3):
        chosen = {
            name: np.asarray(value)[owners == row] for name, value in fields.items() if name != "audio_batch_size"
        }
        if "audio_batch_size" in fields:
            chosen["audio_batch_size"] = fields["audio_batch_size"][row : row + 1]
        media = case.model.Media(**chosen) if row != 1 else None
        output = case.model(case.ids[row : row + 1], media, attention_mask=case.mask[row : row + 1])
        valid = case.mask[row].astype(bool)
        expected = case.expected["logits"][row][valid]
        np.testing.assert_allclose(output.logits[0][valid], expected, rtol=0, atol=5e-5)


@pytest.mark.slow
def test_under_jit(case):
    @nnx.jit
    def run(model, ids, mask, media):
        return model(ids, media, attention_mask=mask, hook_points=("adapter_output",))

    output = run(case.model, case.ids, case.mask, case.media)
    valid = case.mask.astype(bool)
    np.testing.assert_allclose(output.logits[valid], case.expected["logits"][valid], rtol=0, atol=5e-5)
    adapted = output.hidden_states["adapter_output"]
    np.testing.assert_allclose(adapted, case.expected["adapter_output"], rtol=0, atol=5e-5)


def test_text_alone_is_the_language_model(costly):
    got = costly.model(costly.ids, attention_mask=costly.mask).logits
    expected = costly.model.language_model(costly.ids, attention_mask=costly.mask).logits
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_stages_make_up_the_whole(case):
    soft = case.model.soft_tokens(case.media)
    np.testing.assert_allclose(soft.values, case.expected["adapter_output"], rtol=0, atol=5e-5)
    merged = case.model.merge(case.ids, soft.values, case.media, attention_mask=case.mask)
    output = case.model.language_model(soft_tokens=merged.embeddings, attention_mask=merged.layout.mask)
    np.testing.assert_allclose(output.logits, case.output.logits, rtol=0, atol=1e-5)
    encoded = case.model.encode(case.media, hook_points=("encoder_output",))
    np.testing.assert_array_equal(encoded.features, encoded.hidden_states["encoder_output"])
    np.testing.assert_allclose(encoded.features, case.expected["encoder_output"], rtol=0, atol=5e-5)


@pytest.mark.slow
def test_remat_changes_no_gradient(ultravox):
    def loss(values, remat):
        return jnp.sum(ultravox(ultravox.media._replace(audio_values=values), remat=remat).logits[0, -3:] ** 2)

    plain, again = (jax.grad(loss)(jnp.asarray(ultravox.media.audio_values), remat) for remat in (False, True))
    assert float(jnp.abs(plain).max()) > 1e-3
    np.testing.assert_allclose(again, plain, rtol=0, atol=1e-4 * float(jnp.abs(plain).max()))


# Interventions


def shift(by, states):
    return states + by


def test_interventions_reach_the_logits(costly):
    plain = costly.output.logits
    rng = np.random.default_rng(0)
    by = {"encoder_hidden_0": rng.standard_normal(16, "f4"), "adapter_output": rng.standard_normal(24, "f4")}

    def edited(**scales):
        interventions = {name: Partial(shift, scales.get(name, 0.0) * jnp.asarray(by[name])) for name in by}
        return costly(interventions=interventions).logits

    np.testing.assert_allclose(edited(), plain, rtol=0, atol=1e-5)
    for name in by:
        moved = edited(**{name: 1.0})
        assert float(jnp.abs(moved - plain)[0, 13:17].max()) > 1e-2, name
        np.testing.assert_allclose(moved[1, 9:], plain[1, 9:], rtol=0, atol=1e-5)  # a row without audio


def test_an_intervention_that_never_fires_is_refused(case):
    with pytest.raises(ValueError, match="'encoder_hidden_1' never fire"):
        case(interventions={"encoder_hidden_1": shift}, hook_points=("encoder_hidden_0",), logits=False)


def test_the_pass_ends_at_the_last_hook_point(costly):
    broken = load_model(costly.folder)
    broken.language_model.norm.scale[...] = jnp.full(24, jnp.nan)
    broken.audio_tower.norm.scale[...] = jnp.full(16, jnp.nan)
    name = "encoder_hidden_1"
    output = broken(costly.ids, costly.media, attention_mask=costly.mask, hook_points=(name,), logits=False)
    np.testing.assert_allclose(output.hidden_states[name], costly.expected[name], rtol=0, atol=5e-5)
    assert output.layout is None


# Padding, batches, lengths


def test_odd_and_even_lengths_and_wider_padding(ultravox):
    """A chunk of an even number of frames does not depend on how far a batch is padded."""
    media = ultravox.media
    wide = np.pad(media.audio_values, ((0, 0), (0, 0), (0, 3)))
    got = ultravox.model.soft_tokens(media._replace(audio_values=wide))
    short = ultravox.model.soft_tokens(media._replace(audio_values=wide[:, :, :37]))
    np.testing.assert_allclose(got.values[1, :3], short.values[1, :3], rtol=0, atol=1e-5)


def test_tokens_of_ultravox_are_those_of_its_processor():
    mel = [1, 2, 3, 15, 16, 17, 31, 32, 33, 99, 101, 370, 999, 1500, 2999, 3000]
    expected = [1, 1, 1, 1, 1, 2, 2, 2, 3, 7, 7, 24, 63, 94, 188, 188]
    config = UltravoxConfig.from_hf({"text_config": {}, "audio_config": {}})
    np.testing.assert_array_equal(config.audio_tokens(np.array(mel)), expected)
    assert [config.audio_tokens(n) for n in mel] == expected


def test_tokens_of_qwen2_audio_are_those_of_its_processor():
    mel = [1, 2, 3, 4, 5, 6, 7, 9, 15, 17, 31, 33, 99, 101, 370, 999, 1500, 2999, 3000]
    expected = [0, 0, 1, 1, 1, 1, 2, 2, 4, 4, 8, 8, 25, 25, 92, 250, 375, 750, 750]
    config = Qwen2AudioConfig.from_hf({})
    np.testing.assert_array_equal(config.audio_tokens(np.array(mel)), expected)


def test_batch_sizes_may_be_a_column(ultravox):
    column = ultravox.media._replace(audio_batch_size=np.asarray(ultravox.media.audio_batch_size)[:, None])
    soft = ultravox.expected["adapter_output"]
    merged = [ultravox.model.merge(ultravox.ids, soft, media).embeddings for media in (column, ultravox.media)]
    np.testing.assert_array_equal(*merged)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "share"), [(jnp.bfloat16, 0.037), (jnp.float16, 0.0048)])
def test_half_precision_errs_no_more_than_the_original(case, dtype, share):
    """`share` is the root-mean-square error of the tiny Ultravox's logits that torch makes in these types."""
    half = load_model(case.folder, dtype=dtype)
    valid = case.mask.astype(bool)
    got = half(case.ids, case.media, attention_mask=case.mask).logits
    assert got.dtype == jnp.float32
    expected = case.expected["logits"][valid]
    error = np.asarray(got)[valid] - expected
    assert np.sqrt(np.mean(error**2)) < share * np.sqrt(np.mean(expected**2))


# Checkpoints


@pytest.fixture
def write(tmp_path):
    """Writes a changed copy of a fixture's checkpoint."""

    def write(case, tensors=None, config=None, name="copy") -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = json.loads((case.folder / "config.json").read_text()) if config is None else config
        (folder / "config.json").write_text(json.dumps(config))
        save_file(
            load_file(case.folder / "model.safetensors") if tensors is None else tensors, folder / "model.safetensors"
        )
        return folder

    return write


def stored(case) -> tuple[dict[str, np.ndarray], dict]:
    return load_file(case.folder / "model.safetensors"), json.loads((case.folder / "config.json").read_text())


def assert_same_weights(first, second):
    first, second = leaves(first), leaves(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def split_off(tensors, prefix):
    inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    return inside, {key: value for key, value in tensors.items() if not key.startswith(prefix)}


def test_the_language_model_may_lie_elsewhere(ultravox, write, tmp_path):
    tensors, config = stored(ultravox)
    text, rest = split_off(tensors, "language_model.")
    text_config = config.pop("text_config")
    folder = write(ultravox, rest, {**config, "text_model_id": "../text"})
    with pytest.raises(CheckpointError, match=r"its language model '\.\./text' is not at .* give text_model="):
        load_model(folder)
    write(ultravox, text, {**text_config, "architectures": ["LlamaForCausalLM"]}, name="text")
    assert_same_weights(load_model(folder), ultravox.model)
    (tmp_path / "text").rename(tmp_path / "moved")
    assert_same_weights(load_model(folder, text_model=tmp_path / "moved"), ultravox.model)


def test_the_encoder_may_lie_elsewhere(ultravox, write, tmp_path):
    """As in early releases, whose file holds the projector alone: there it is a whole Whisper with its decoder."""
    tensors, config = stored(ultravox)
    audio, rest = split_off(tensors, "audio_tower.")
    whisper = {f"model.encoder.{key}": value for key, value in audio.items()}
    whisper["model.decoder.layer_norm.weight"] = np.ones(16, np.float32)
    audio_config = {**config.pop("audio_config"), "architectures": ["WhisperForConditionalGeneration"]}
    folder = write(ultravox, rest, {**config, "audio_model_id": "../whisper"})
    with pytest.raises(CheckpointError, match=r"its encoder '\.\./whisper' is not at .* give encoder_model="):
        load_model(folder)
    write(ultravox, whisper, audio_config, name="whisper")
    assert_same_weights(load_model(folder), ultravox.model)
    alone = load_model(tmp_path / "whisper")
    assert isinstance(alone, WhisperEncoder)
    states = nnx.state(ultravox.model.audio_tower)
    assert_same_weights(alone, nnx.merge(nnx.graphdef(ultravox.model.audio_tower), states))


def test_the_norm_in_the_middle(ultravox, write):
    """Of v0.5 and later; its parameters are not those of the norm at the end, and the config decides."""
    tensors, config = stored(ultravox)
    end = tensors.pop("multi_modal_projector.ln_post.weight")
    tensors["multi_modal_projector.ln_mid.weight"] = middle = np.linspace(0.5, 1.5, 14, dtype=np.float32)
    model = load_model(write(ultravox, tensors, {**config, "projector_ln_mid": True}))

    def norm(x, scale):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale

    x = np.pad(ultravox.expected["encoder_output"].astype("f8"), ((0, 0), (0, 2), (0, 0))).reshape(3, 7, 48)
    x = norm(x, tensors["multi_modal_projector.ln_pre.weight"]) @ tensors["multi_modal_projector.linear_1.weight"].T
    x = x[..., 14:] / (1 + np.exp(-x[..., 14:])) * x[..., :14]
    x = norm(x, middle) @ tensors["multi_modal_projector.linear_2.weight"].T
    np.testing.assert_allclose(model.soft_tokens(ultravox.media).values, x, rtol=0, atol=2e-5)
    tensors["multi_modal_projector.ln_post.weight"] = end
    with pytest.raises(CheckpointError, match=r"surplus key multi_modal_projector\.ln_post\.weight"):
        load_model(write(ultravox, tensors, {**config, "projector_ln_mid": True}, name="both"))
    with pytest.raises(CheckpointError, match=r"surplus key multi_modal_projector\.ln_mid\.weight"):
        load_model(
            write(ultravox, tensors, {k: v for k, v in config.items() if k != "projector_ln_mid"}, name="absent")
        )


def test_names_of_transformers_5(qwen2_audio, write):
    tensors, config = stored(qwen2_audio)
    renamed = {}
    for key, value in tensors.items():
        key = re.sub(r"^language_model\.model\.", "model.language_model.", key)
        key = re.sub(r"^language_model\.lm_head\.", "lm_head.", key)
        renamed[re.sub(r"^(audio_tower|multi_modal_projector)\.", r"model.\1.", key)] = value
    config["audio_token_id"] = config.pop("audio_token_index")
    theta = config["text_config"].pop("rope_theta")
    config["text_config"]["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    assert_same_weights(load_model(write(qwen2_audio, renamed, config)), qwen2_audio.model)


def test_bfloat16_files_and_tied_embeddings(ultravox, write):
    tensors, config = stored(ultravox)
    del tensors["language_model.lm_head.weight"]
    config["text_config"] |= {"tie_word_embeddings": True}
    halves = {key: value.astype(ml_dtypes.bfloat16) for key, value in tensors.items()}
    rounded = {key: value.astype(np.float32) for key, value in halves.items()}
    first, second = (load_model(write(ultravox, t, config, name=n)) for n, t in (("bf16", halves), ("f32", rounded)))
    assert_same_weights(first, second)
    assert "language_model.head.kernel" not in leaves(first)


def test_everything_wrong_is_told_at_once(case, write):
    tensors, config = stored(case)
    del tensors["audio_tower.layers.1.fc1.bias"], tensors["language_model.model.norm.weight"]
    tensors["audio_tower.layers.0.self_attn.k_proj.bias"] = np.zeros(16, np.float32)  # Whisper has none
    tensors["audio_tower.conv1.weight"] = np.ascontiguousarray(tensors["audio_tower.conv1.weight"].transpose(1, 0, 2))
    tensors["audio_tower.embed_positions.weight"][3, 2] = np.nan
    tensors["audio_tower.layers.01.fc2.bias"] = tensors["audio_tower.layers.1.fc2.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_model(write(case, tensors, config))
    problems = caught.value.problems
    words = (
        *(
            "audio_tower.layers.fc1.bias in layers 1",
            "language_model.norm.scale",
            "surplus key audio_tower.layers.0.self",
        ),
        *("misshapen: audio_tower.conv1.weight", "embed_positions.weight holds NaN", "duplicate: audio_tower.layers"),
    )
    for word in words:
        assert sum(word in problem for problem in problems) == 1, word
    assert len(problems) == len(words)


def test_a_short_file_is_refused(case, write):
    folder = write(case)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-5])
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        load_model(folder)


def test_a_part_that_the_model_does_not_have_elsewhere_is_refused(qwen2_audio):
    with pytest.raises(ValueError, match=r"encoder_model = .* no such part"):
        load_model(qwen2_audio.folder, encoder_model=qwen2_audio.folder)


# Configs


def test_published_configs_resolve():
    """Qwen2-Audio-7B-Instruct's, whose parts are sparse, and the shape of Ultravox v0.6's."""
    text = {"bos_token_id": 151643, "eos_token_id": 151645, "intermediate_size": 11008, "rope_theta": 10000}
    text |= {"max_position_embeddings": 8192, "model_type": "qwen2", "rms_norm_eps": 1e-05, "sliding_window": 32768}
    config = Qwen2AudioConfig.from_hf({"text_config": {**text, "use_mrope": False, "vocab_size": 156032}})
    assert config.audio == WhisperEncoderConfig(128, 1280, 32, 20, 5120, pooled=True)
    assert config.audio_token_id == 151646
    assert (config.text.hidden_size, config.text.num_hidden_layers, config.text.num_key_value_heads) == (4096, 32, 32)
    assert config.text.qkv_bias
    audio = {"model_type": "whisper", "d_model": 1280, "encoder_layers": 32, "encoder_attention_heads": 20}
    audio |= {"encoder_ffn_dim": 5120, "num_mel_bins": 128, "decoder_layers": 4}
    config = UltravoxConfig.from_hf({"audio_config": audio, "projector_ln_mid": True, "text_config": {}})
    assert (config.hidden_size, config.stack_factor, config.projector_ln_mid) == (4096, 8, True)
    assert config.audio.latency_block_size is None


def test_unknown_fields_and_values_are_listed_in_the_parts_too():
    wrong = {
        "projector_act": "gelu",
        "text_model_lora_config": {"r": 8},
        "audio_config": {"activation_function": "relu"},
        "text_config": {"sinks": 4},
        "beam": 2,
    }
    with pytest.raises(ConfigError) as caught:
        UltravoxConfig.from_hf(wrong)
    for word in ("'gelu': only 'swiglu'", "text_model_lora_config", "audio_config: activation", "sinks", "beam"):
        assert sum(word in problem for problem in caught.value.problems) == 1, word
    assert len(caught.value.problems) == 5
    with pytest.raises(ConfigError, match="stack_factor = 0: must be positive"):
        UltravoxConfig.from_hf({"stack_factor": 0})
    with pytest.raises(ConfigError, match="audio_config: latency_block_size = 7: must divide"):
        UltravoxConfig.from_hf({"audio_latency_block_size": 7})
    with pytest.raises(ConfigError, match="hidden_size = 5: must be positive and even"):
        UltravoxConfig.from_hf({"hidden_size": 5})
    with pytest.raises(ConfigError, match="audio_token_index = -1: must not be negative"):
        Qwen2AudioConfig.from_hf({"audio_token_index": -1})
    with pytest.raises(ConfigError, match="audio_token_id is 5 and audio_token_index 6; keep one"):
        Qwen2AudioConfig.from_hf({"audio_token_index": 6, "audio_token_id": 5})


def test_encoders_are_not_interchangeable():
    plain = WhisperEncoderConfig(6, 16, 2, 2, 20, 20)
    text = llama.LlamaConfig(48, 24, 32, 2, 4, 2, 6)
    with pytest.raises(ConfigError, match="audio is not pooled"):
        Qwen2AudioConfig(text, plain)
    with pytest.raises(ConfigError, match="audio is pooled"):
        UltravoxConfig(text, dataclasses.replace(plain, pooled=True))
    with pytest.raises(ConfigError, match="latency_block_size"):
        Qwen2AudioConfig(text, dataclasses.replace(plain, pooled=True, latency_block_size=4))


# Refusals of inputs


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("audio_token_start_idx", [2, 11, 16], "chunk 2 of 5 soft tokens from column 16 does not fit in 20 columns"),
        ("audio_token_start_idx", [-1, 11, 6], "chunk 0 of 7 soft tokens from column -1 does not fit"),
        ("audio_token_start_idx", [2, 8, 6], "chunk 1 overlaps an earlier one, in row 0 from column 8"),
        ("audio_token_len", [8, 3, 5], r"audio_token_len\[0\] = 8: 37 mel frames make 7 soft tokens"),
        ("audio_token_len", [7, 3], r"audio_token_len has shape \(2,\); give one for each of 3 chunks"),
        ("audio_batch_size", [2, 1, 1], "audio_batch_size adds up to 4 chunks, and there are 3"),
        ("audio_batch_size", [4, -1, 0], "audio_batch_size adds up to 3 chunks"),
        ("audio_batch_size", [2, 1], "audio_batch_size has 2 entries for 3 rows"),
        ("audio_lens", [38, 14, 25], r"lengths hold \[38\]"),
    ],
)
def test_ultravox_refuses_media_that_do_not_fit(ultravox, field, value, words):
    with pytest.raises(ValueError, match=words):
        ultravox(ultravox.media._replace(**{field: np.array(value)}))


def test_qwen2_audio_refuses_media_that_do_not_fit(qwen2_audio):
    media = qwen2_audio.media
    with pytest.raises(ValueError, match=r"15 placeholders .* for the 16 soft tokens of the clips"):
        qwen2_audio.model(np.where(np.arange(20) == 3, 5, qwen2_audio.ids), media)
    with pytest.raises(ValueError, match="this encoder takes 40, so pad them"):
        qwen2_audio(media._replace(input_features=media.input_features[:, :, :30]))
    with pytest.raises(ValueError, match=r"lengths hold \[0\]"):
        qwen2_audio(media._replace(feature_attention_mask=media.feature_attention_mask * [[1], [1], [0]]))
    with pytest.raises(ValueError, match=r"give Qwen2Audio\.Media"):
        qwen2_audio(UltravoxMedia(*[np.zeros(1)] * 5))


def test_parts_of_a_model_can_be_built_without_a_file():
    text = llama.LlamaConfig(48, 24, 32, 1, 4, 2, 6)
    audio = WhisperEncoderConfig(6, 16, 1, 2, 20, 20)
    for model, config in (
        (Ultravox, UltravoxConfig(text, audio, hidden_size=8)),
        (Qwen2Audio, Qwen2AudioConfig(text, dataclasses.replace(audio, pooled=True), 40)),
    ):
        shape = nnx.eval_shape(lambda model=model, config=config: model(config, rngs=nnx.Rngs(0)))
        assert isinstance(shape.language_model, Llama)
        assert shape.hook_points[:2] == ("encoder_inputs", "encoder_hidden_0")
        assert shape.hook_points[-1] == "llm_final"
