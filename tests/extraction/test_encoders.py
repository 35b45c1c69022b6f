"""The encoders on tiny checkpoints: a stored row is what the model gives when it is called for that sample alone."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import PIL.Image
import pytest
from safetensors.numpy import load_file, save_file

from gmijax import checkpoints, extraction, models, store
from gmijax.datasets import Sample
from gmijax.preprocessing import clip_transform, log_mel, pad_waves, siglip_transform, ultravox_features

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"
WORDS = "hello world and once more the sea is blue red green a b c d e f g h".split()  # noqa: SIM905 - read as a line
TOLERANCE = 1e-5  # of the largest value: what other batches and lengths may change, in float32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """(name) -> a tiny checkpoint with a tokenizer of whole words beside it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("checkpoints")

    def make(name, special=("<|audio|>",), template=None):
        target = root / name
        if not target.exists():
            shutil.copytree(TINY / name, target)
            names = ["<s>", "</s>", *WORDS]
            vocabulary = {word: k for k, word in enumerate(names)}
            for token in special:
                vocabulary[token] = 39 if token == "<image>" else 40 if token == "<|AUDIO|>" else len(vocabulary)
            backend = Tokenizer(WordLevel(vocabulary, unk_token="</s>"))
            backend.pre_tokenizer = Whitespace()
            fast = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="</s>")
            fast.add_special_tokens({"additional_special_tokens": [*special]})
            fast.chat_template = template
            fast.save_pretrained(target)
        return target

    return make


def noise(seconds, seed):
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(seconds * 16000))).astype(np.float32)


def recordings(*seconds):
    return [Sample(f"s{k}", {}, "hello", audio=lambda k=k, s=s: noise(s, k)) for k, s in enumerate(seconds)]


def pictures(count=3):
    def image(k):
        return PIL.Image.fromarray(np.random.default_rng(k).integers(0, 255, (20 + k, 30, 3), np.uint8))

    return [Sample(f"s{k}", {}, "hello", image=lambda k=k: image(k)) for k in range(count)]


def texts(*own):
    return [Sample(f"s{k}", {}, text) for k, text in enumerate(own)]


def rows(path, samples, encoder, hook_points, *, pooling="mean", **options):
    """The stored states of samples by hook point: with pooling "none" a list."""
    result = extraction.extract(
        samples, encoder, path, hook_points=hook_points, pooling=pooling, **{"batch_size": 2, **options}
    )
    assert not result.failed
    opened = store.open(path)
    found = {name: opened.numpy(name) for name in hook_points}
    if pooling == "none":
        return {name: np.split(states, opened.offsets(name)[1:-1]) for name, states in found.items()}
    return found


class States(NamedTuple):
    """What the poolings take of one sample at a hook point, straight from the encoder."""

    own: np.ndarray
    whole: np.ndarray
    last: np.ndarray


def taken(encoder, samples, hook_points):
    """The states of samples of one piece each, one after the other."""
    program, found = jax.jit(encoder.states, static_argnums=2), []
    for sample in samples:
        (piece,) = encoder.read(sample)
        length = next(length for length in encoder.lengths if length >= piece.length)
        tokens = program(encoder.parameters, encoder.batch([piece], 2, length), hook_points)
        first = {name: jax.tree.map(lambda leaf: np.asarray(leaf)[0], tokens[name]) for name in hook_points}
        found.append({name: States(t.states[t.own], t.states[t.whole], t.states[t.last]) for name, t in first.items()})
    return found


def assert_close(found, wanted):
    wanted = np.asarray(wanted)
    assert np.shape(found) == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


# Whisper


@pytest.fixture(scope="module")
def whisper():
    return models.load(TINY / "whisper")


def direct(whisper, wave, name, frames=None):
    """The states of one window as the original makes them: filled up with silence, nothing masked."""
    padded, _ = pad_waves([wave], samples=(frames or whisper.config.max_mel_frames) * 160)
    features = log_mel(padded, num_mel_bins=whisper.config.num_mel_bins)
    return np.asarray(whisper(features, hook_points=(name,))[name][0])


def test_a_window_of_whisper_is_the_originals(tmp_path, whisper):
    encoder = extraction.load(TINY / "whisper")
    context = whisper.config.max_mel_frames / 100
    seconds = (0.05, 0.123, context, 2.5 * context)
    samples = recordings(*seconds)
    names = ("encoder_output", "encoder_hidden_0")
    poolings = ("none", "mean", "mean_all")
    found = {p: rows(tmp_path / p, samples, encoder, names, pooling=p) for p in poolings}
    for name in names:
        for k, length in enumerate(seconds):
            wave, size = noise(length, k), whisper.config.max_mel_frames * 160
            windows = [wave[start : start + size] for start in range(0, len(wave), size)]
            states = [direct(whisper, window, name) for window in windows]
            own = [part[: -(-len(window) // 320)] for part, window in zip(states, windows, strict=True)]
            assert len(windows) == (3 if k == 3 else 1)
            joined = np.concatenate(own)
            assert_close(found["none"][name][k], joined)
            assert_close(found["mean"][name][k], joined.mean(axis=0))
            assert_close(found["mean_all"][name][k], np.concatenate(states).mean(axis=0))
    assert not np.allclose(found["mean"]["encoder_output"][0], found["mean_all"]["encoder_output"][0], atol=1e-3)


def test_a_shorter_window_is_another_input_and_says_so(tmp_path, whisper):
    encoder = extraction.load(TINY / "whisper", window=0.2)
    assert "windows of 0.2 s with silence" in encoder.identity.preprocessing
    found = rows(tmp_path / "s", recordings(0.1), encoder, ("encoder_output",))["encoder_output"][0]
    assert_close(found, direct(whisper, noise(0.1, 0), "encoder_output", 20)[:5].mean(axis=0))


def test_a_clips_own_length_does_not_depend_on_its_bucket(tmp_path, whisper):
    encoder = extraction.load(TINY / "whisper", window="clip")
    assert "masked" in encoder.identity.preprocessing
    seconds = (0.03, 0.1, 0.113, 0.2, 0.31, 0.9)  # odd and even numbers of mel frames, and pieces
    names = ("encoder_output", "encoder_hidden_1")
    few = rows(tmp_path / "a", recordings(*seconds), encoder, names, pooling="none")
    other = {"buckets": [12, 22], "batch_size": 3}
    many = rows(tmp_path / "b", recordings(*seconds), encoder, names, pooling="none", **other)
    assert len(few["encoder_output"][5]) == 45
    for name in names:
        for a, b in zip(few[name], many[name], strict=True):
            assert_close(a, b)
    # And is what the encoder gives for that length without any padding or mask.
    wave, _ = pad_waves([noise(0.113, 2)], multiple_of=320)
    features = log_mel(wave, num_mel_bins=whisper.config.num_mel_bins)
    assert_close(many["encoder_output"][2], whisper(features)["encoder_output"][0])


@pytest.mark.parametrize("window", [0.0, 0.01, 31.0, -1.0])
def test_bad_windows_are_refused(window):
    with pytest.raises(ValueError, match=f"window = {window}: this encoder takes 0.02 to 0.4 s, 'full' or 'clip'"):
        extraction.load(TINY / "whisper", window=window)


def test_recordings_that_cannot_be_used_fail_with_their_reason(tmp_path):
    encoder = extraction.load(TINY / "whisper", max_seconds=0.5)
    bad = {
        "long": lambda: noise(0.6, 0),
        "empty": lambda: np.zeros(0, np.float32),
        "stereo": lambda: np.zeros((9, 2), np.float32),
        "integers": lambda: np.zeros(99, np.int16),
        "nan": lambda: np.full(999, np.nan, np.float32),
    }
    samples = [Sample(name, {}, audio=audio) for name, audio in bad.items()]
    samples += [Sample("none", {}), Sample("good", {}, audio=lambda: noise(0.1, 0))]
    result = extraction.extract(samples, encoder, tmp_path / "s", batch_size=2)
    assert result.failed == {
        "long": "it lasts 0.60 s, and max_seconds is 0.5",
        "empty": "its audio has shape (0,) and type float32; one axis of floats is taken",
        "stereo": "its audio has shape (9, 2) and type float32; one axis of floats is taken",
        "integers": "its audio has shape (99,) and type int16; one axis of floats is taken",
        "nan": "its audio holds NaN or infinity",
        "none": "it has no audio",
    }
    assert store.open(tmp_path / "s").ids.tolist() == ["good"]
    assert "at most 0.5 s" in store.open(tmp_path / "s").spec.preprocessing


# A language model


def test_a_text_stands_in_its_prompt(tmp_path, folder):
    path = folder("llama_mqa_tied")
    encoder = extraction.load(path, prompt="the {} is blue")
    assert encoder.identity.prompt == "<s> the{}is blue"
    own = ("sea", "a b c d e f g h")
    names = ("llm_final", "llm_hidden_0")
    model, tokenizer = models.load(path), checkpoints.load_tokenizer(path)
    found = taken(encoder, texts(*own), names)
    for text, states in zip(own, found, strict=True):
        middle = tokenizer.encode(text, add_special_tokens=False)
        ids = [*tokenizer.encode("<s> the", add_special_tokens=False), *middle]
        first, stop = len(ids) - len(middle), len(ids)
        ids += tokenizer.encode("is blue", add_special_tokens=False)
        output = model(np.array([ids]), hook_points=names, logits=False)
        for name in names:
            wanted = np.asarray(output.hidden_states[name][0])
            assert_close(states[name].own, wanted[first:stop])
            assert_close(states[name].whole, wanted)
            assert_close(states[name].last, wanted[-1])
    stored = rows(tmp_path / "b", texts(*own), encoder, names, batch_size=3, buckets=[12])
    for name in names:
        assert_close(stored[name], [states[name].own.mean(axis=0) for states in found])


def test_texts_that_cannot_be_used_fail_with_their_reason(tmp_path, folder):
    encoder = extraction.load(folder("llama_mqa_tied"))
    longest = encoder.lengths[-1]
    samples = texts("sea", "", "  ", None, "sea " * longest)
    result = extraction.extract(samples, encoder, tmp_path / "s", batch_size=2)
    assert result.failed == {
        "s1": "its text is empty",
        "s2": "its text is empty",
        "s3": "it has no text",
        "s4": f"it has {longest + 1} tokens with the prompt, and {longest} are taken",
    }


def test_a_chat_template_makes_the_prompt_a_turn(folder):
    template = "{% for m in messages %}<s> a {{ m.content }} b{% endfor %}{% if add_generation_prompt %} c{% endif %}"
    encoder = extraction.load(folder("llama_mha_wide", template=template), prompt="the {} is")
    assert encoder.identity.prompt == "<s> a the{}is b c"


# Images


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "dinov2_registers"])
def test_an_image_in_a_tower(tmp_path, name):
    encoder, model = extraction.load(TINY / name), models.load(TINY / name)
    assert encoder.lengths == (1,)
    names = ("encoder_output", "encoder_hidden_0")
    samples, prefix = pictures(), model.config.prefix
    found, stored = taken(encoder, samples, names), rows(tmp_path / "s", samples, encoder, names)
    output = model(encoder.transform([sample.image() for sample in samples]), hook_points=names)
    for hook_point in names:
        wanted = np.asarray(output[hook_point])
        assert_close(stored[hook_point], wanted[:, prefix:].mean(axis=1))
        assert_close([states[hook_point].own for states in found], wanted[:, prefix:])
        assert_close([states[hook_point].whole for states in found], wanted)
        assert_close([states[hook_point].last for states in found], wanted[:, -1])


def test_transforms_are_those_of_the_families():
    assert extraction.load(TINY / "clip").transform == clip_transform(models.load(TINY / "clip").config.image_size)
    siglip = extraction.load(TINY / "siglip").transform
    assert siglip == siglip_transform(siglip.size, "squash")
    assert extraction.load(TINY / "dinov2").transform.fit == "crop"


# Composed models


COMPOSED = ("encoder_output", "adapter_input", "adapter_output", "inputs_embeds", "llm_hidden_1", "llm_final")
DECODER = COMPOSED[3:]
TURN = "{% for m in messages %}<s> {{ m.content }}{% endfor %}"


@pytest.mark.slow
def test_an_image_in_llava(folder):
    path = folder("llava_full", special=("<image>",))
    encoder, model = extraction.load(path, prompt="a {} the sea"), models.load(path)
    samples, soft = pictures(2), model.config.vision.patches + model.config.keep_class_token
    tokenizer = checkpoints.load_tokenizer(path)
    head, tail = (tokenizer.encode(part, add_special_tokens=False) for part in ("a", "the sea"))
    for sample, states in zip(samples, taken(encoder, samples, COMPOSED), strict=True):
        ids = np.array([[*head, *[39] * soft, *tail]])
        media = model.Media(clip_transform(model.config.vision.image_size)(sample.image()))
        output = model(ids, media, hook_points=COMPOSED, logits=False)
        for name in DECODER:
            wanted = np.asarray(output.hidden_states[name][0])
            assert_close(states[name].own, wanted[len(head) : len(head) + soft])
            assert_close(states[name].whole, wanted)
            assert_close(states[name].last, wanted[-1])
        assert_close(states["adapter_output"].whole, output.hidden_states["adapter_output"][0])
        for part in states["encoder_output"].own, states["encoder_output"].last[None]:  # one vector: the class token
            assert_close(part, output.hidden_states["encoder_output"])


@pytest.mark.slow
def test_an_image_in_prismatic(tmp_path, folder):
    path = folder("prismatic_siglip_rows")
    encoder, model = extraction.load(path, prompt="the sea"), models.load(path)
    assert encoder.transform == siglip_transform(model.config.vision.image_size, "letterbox")
    samples = pictures(2)
    found = rows(tmp_path / "s", samples, encoder, COMPOSED)
    ids = np.array([[*encoder.head, *encoder.tail]] * 2)
    assert len(encoder.head) == 1
    pixels = encoder.transform([sample.image() for sample in samples])
    output = model(ids, model.Media(pixels), hook_points=COMPOSED, logits=False)
    for name in COMPOSED:
        states, patches = np.asarray(output.hidden_states[name]), model.config.vision.patches
        own = states[:, 1 : 1 + patches] if name in DECODER else states
        assert_close(found[name], own.mean(axis=1))


@pytest.mark.slow
def test_a_recording_in_ultravox(tmp_path, folder):
    path = folder("ultravox", template=TURN)
    encoder, model = extraction.load(path, prompt="the {} is"), models.load(path)
    seconds = (0.111, 0.95)  # an odd number of mel frames; three chunks of at most 0.4 s
    found = taken(encoder, recordings(*seconds), COMPOSED)
    for k, (length, states) in enumerate(zip(seconds, found, strict=True)):
        wave, _ = pad_waves([noise(length, k)], multiple_of=320)
        chunks = ultravox_features([[wave[0]]], num_mel_bins=6, max_mel_frames=40)
        counts = np.asarray(model.config.audio_tokens(chunks.lengths))
        first, soft = len(encoder.head), int(counts.sum())
        starts = first + np.cumsum(counts) - counts
        media = model.Media(chunks.features, chunks.lengths, starts, counts, np.array([len(counts)]))
        ids = np.array([[*encoder.head, *[0] * soft, *encoder.tail]])
        output = model(ids, media, hook_points=COMPOSED, logits=False)
        assert len(counts) == (1, 3)[k]
        for name in COMPOSED:
            wanted, mask = np.asarray(output.hidden_states[name]), np.asarray(output.masks[name])
            assert_close(states[name].own, wanted[0, first : first + soft] if name in DECODER else wanted[mask])
            assert_close(states[name].whole, wanted[mask])
            assert_close(states[name].last, wanted[mask][-1])
    stored = rows(tmp_path / "s", recordings(*seconds), encoder, COMPOSED, batch_size=3, buckets=[22])
    for name in COMPOSED:
        assert_close(stored[name], [states[name].own.mean(axis=0) for states in found])


@pytest.mark.slow
def test_a_recording_in_qwen2_audio(tmp_path, folder):
    template = "{% for m in messages %}<s> a <|AUDIO|> {{ m.content[-1].text }}{% endfor %}"
    path = folder("qwen2_audio", special=("<|AUDIO|>",), template=template)
    encoder, model = extraction.load(path, prompt="the sea"), models.load(path)
    seconds = (0.111,)
    found = taken(encoder, recordings(*seconds), COMPOSED)
    for k, (length, states) in enumerate(zip(seconds, found, strict=True)):
        padded, frames = pad_waves([noise(length, k)], samples=40 * 160)
        soft, first = int(model.config.audio_tokens(frames)[0]), len(encoder.head)
        media = model.Media(log_mel(padded, num_mel_bins=6), np.arange(40)[None] < frames[:, None])
        ids = np.array([[*encoder.head, *[40] * soft, *encoder.tail]])
        output = model(ids, media, hook_points=COMPOSED, logits=False)
        for name in COMPOSED:
            wanted, mask = np.asarray(output.hidden_states[name]), np.asarray(output.masks[name])
            assert_close(states[name].own, wanted[0, first : first + soft] if name in DECODER else wanted[mask])
            assert_close(states[name].whole, wanted[0])
    stored = rows(tmp_path / "b", recordings(*seconds), encoder, COMPOSED, batch_size=3, buckets=[22])
    for name in COMPOSED:
        assert_close(stored[name], [states[name].own.mean(axis=0) for states in found])
    result = extraction.extract(recordings(0.1, 0.41), encoder, tmp_path / "c")
    assert result.failed == {"s1": "it lasts 0.41 s, and the model takes 0.4 s"}


@pytest.mark.parametrize("name", ["ultravox", "llava_full"])
def test_the_text_baseline_has_the_same_prompt(folder, name):
    special = ("<image>",) if name == "llava_full" else ("<|audio|>",)
    path = folder(name, special=special, template=TURN if name == "ultravox" else None)
    media, text = extraction.load(path, prompt="the {} is"), extraction.load(path, prompt="the {} is", text=True)
    assert (media.takes != "text", text.takes) == (True, "text")
    assert media.identity.prompt == text.identity.prompt
    assert (media.head, media.tail) == (text.head, text.tail)


def test_the_text_baseline_is_the_language_model_of_the_whole(tmp_path, folder):
    path = folder("ultravox", template=TURN)
    encoder = extraction.load(path, prompt="the {} is", text=True)
    found = rows(tmp_path / "s", texts("red sea"), encoder, ("llm_final",))["llm_final"][0]
    model, tokenizer = models.load(path), checkpoints.load_tokenizer(path)
    ids = np.array([[*encoder.head, *tokenizer.encode("red sea", add_special_tokens=False), *encoder.tail]])
    states = model(ids, hook_points=("llm_final",), logits=False).hidden_states["llm_final"][0]
    assert_close(found, np.asarray(states)[len(encoder.head) : len(encoder.head) + 2].mean(axis=0))


# Loading


def test_the_identity_names_weights_and_config(tmp_path):
    first = extraction.load(TINY / "whisper").identity
    assert first.checkpoint == checkpoints.digest(TINY / "whisper")
    shutil.copytree(TINY / "whisper", tmp_path / "whisper")
    assert extraction.load(tmp_path / "whisper").identity == first
    tensors = load_file(tmp_path / "whisper" / "model.safetensors")
    tensors[next(iter(tensors))] *= 2
    save_file(tensors, tmp_path / "whisper" / "model.safetensors")
    other = extraction.load(tmp_path / "whisper").identity
    assert (other.checkpoint != first.checkpoint, other.config) == (True, first.config)
    half = extraction.load(TINY / "whisper", dtype="bfloat16").identity
    assert half == dataclasses.replace(first, preprocessing=first.preprocessing.replace("float32", "bfloat16"))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("whisper", {"text": True}, "text is for language models, and .* holds a WhisperEncoder"),
        ("clip", {"prompt": "{}"}, "prompt is for language models"),
        ("clip", {"window": 5.0}, "window is for speech encoders alone"),
        ("clip", {"max_seconds": 5.0}, "max_seconds is for recordings"),
        ("whisper", {"dtype": "int8"}, "dtype 'int8' is not one of"),
        ("llama_mqa_tied", {"prompt": "the sea"}, "has 0 places {} for the content; give one"),
        ("llama_mqa_tied", {"prompt": "{} {}"}, "has 2 places {} for the content; give one"),
        ("ultravox", {"prompt": "the sea"}, "has no {}"),
        ("ultravox", {"prompt": "{} and {}"}, "has 2 places for the media; give one {}"),
        ("llava_full", {"prompt": "{} and {}"}, "has 2 places for the media"),
        ("prismatic_siglip_rows", {"prompt": "{} sea"}, "holds {}, and this model says itself"),
    ],
)
def test_options_that_a_model_has_not_are_refused(folder, name, options, words):
    special = ("<image>",) if name == "llava_full" else ("<|audio|>",)
    path = (
        TINY / name
        if name in ("whisper", "clip")
        else folder(name, special=special, template=TURN if name == "ultravox" else None)
    )
    with pytest.raises(ValueError, match=words):
        extraction.load(path, **options)


def test_a_prompt_longer_than_the_context_is_refused(folder):
    with pytest.raises(ValueError, match="more than the language model's context"):
        extraction.load(folder("llava_full", special=("<image>",)), prompt="sea " * 64 + "{}")


def test_a_prompt_that_leaves_no_room_is_refused(folder):
    with pytest.raises(ValueError, match=r"the prompt has 6[0-9] tokens, and 64 are taken in all"):
        extraction.load(folder("llama_mqa_tied"), prompt="sea " * 64 + "{}")


def test_what_the_manifest_says(tmp_path):
    extraction.extract(recordings(0.1), extraction.load(TINY / "whisper"), tmp_path / "s")
    spec = json.loads((tmp_path / "s/manifest.json").read_text())["spec"]
    assert spec["model"] == "whisper"
    assert spec["hook_points"] == {"encoder_output": models.load(TINY / "whisper").config.d_model}
    assert len(spec["checkpoint"]) == len(spec["config"]) == 64
    assert spec["preprocessing"].startswith("log-mel of gmijax, ")
