"""Real speech from files, end to end: the packaged Whisper encoder, SmolLM2 on the transcripts, and their rates."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
from safetensors.numpy import load_file

from gmijax import checkpoints, datasets, extraction, models, store
from gmijax.preprocessing import log_mel, pad_waves

FIXTURES = Path(__file__).parents[1] / "fixtures"
TRANSCRIPT = "THE BIRCH CANOE SLID ON THE SMOOTH PLANKS"


@pytest.fixture(scope="module")
def librispeech(tmp_path_factory):
    """Speech as LibriSpeech is published: one sentence whole, in halves, and said over and over for 35 s."""
    wave = load_file(FIXTURES / "whisper_tiny_en.safetensors")["wave"] / np.float32(32768)
    own = [wave, wave[: len(wave) // 2], wave[len(wave) // 2 :], np.tile(wave, 14)[: 35 * 16000]]
    root = tmp_path_factory.mktemp("data") / "LibriSpeech"
    chapter = root / "test-clean" / "61" / "70968"
    chapter.mkdir(parents=True)
    for k, clip in enumerate(own):
        soundfile.write(chapter / f"61-70968-{k:04}.flac", clip, 16000)
    words = TRANSCRIPT.split()
    said = [TRANSCRIPT, " ".join(words[:4]), " ".join(words[4:]), " ".join([TRANSCRIPT] * 14)]
    lines = [f"61-70968-{k:04} {text}\n" for k, text in enumerate(said)]
    (chapter / "61-70968.trans.txt").write_text("".join(lines))
    return datasets.open("librispeech", root)


def packaged(name, **options):
    try:
        return extraction.load(name, **options)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.slow
def test_speech_through_the_packaged_whisper(tmp_path, librispeech, record_property):
    encoder = packaged("whisper-tiny.en")
    result = extraction.extract(librispeech, encoder, tmp_path / "s", pooling="none", batch_size=5)
    assert not result.failed
    assert result.complete
    record_property("clips a second, Whisper tiny.en", result.rate)
    opened = store.open(tmp_path / "s")
    frames = [-(-sample.audio().size // 320) for sample in librispeech]
    assert np.diff(opened.offsets("encoder_output")).tolist() == frames  # 35 s keep all their 1,750 rows
    model = models.load(checkpoints.bundled_speech_encoder())
    for position in (0, 3):  # a clip, and the last window of one of two
        wave = librispeech[position].audio()
        padded, _ = pad_waves([wave[30 * 16000 :] if position == 3 else wave], samples=480000)
        wanted = np.asarray(model(log_mel(padded))["encoder_output"][0])
        stop = opened.offsets("encoder_output")[position + 1]
        count = frames[position] - 1500 * (position == 3)
        found = opened.numpy("encoder_output", slice(stop - count, stop))
        np.testing.assert_allclose(found, wanted[:count], rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.slow
def test_their_own_length_costs_less(tmp_path, librispeech, record_property):
    encoder = packaged("whisper-tiny.en", window="clip")
    one = extraction.extract(librispeech[:3], encoder, tmp_path / "a", batch_size=2)
    record_property("clips a second, Whisper tiny.en at their own length", one.rate)
    extraction.extract(librispeech[:3], encoder, tmp_path / "b", batch_size=3, buckets=[300])
    a, b = (store.open(tmp_path / name).numpy("encoder_output") for name in "ab")
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(a).max())


@pytest.mark.slow
def test_transcripts_through_the_packaged_language_model(tmp_path, librispeech, record_property):
    encoder = packaged("smollm2", prompt="Repeat:\n{}")
    hook_points = ("llm_hidden_15", "llm_final")
    result = extraction.extract(librispeech[:3], encoder, tmp_path / "s", hook_points=hook_points, batch_size=3)
    record_property("transcripts a second, SmolLM2", result.rate)
    assert not result.failed
    opened = store.open(tmp_path / "s")
    assert "Repeat:\n{}" in opened.spec.prompt
    assert opened.labels("speaker").tolist() == ["61"] * 3
    path = checkpoints.bundled_decoder()
    model, tokenizer = models.load(path), checkpoints.load_tokenizer(path)
    turn = [{"role": "user", "content": f"Repeat:\n{TRANSCRIPT}"}]
    ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=False)
    output = model(jnp.asarray([ids]), hook_points=hook_points, logits=False)
    head = len(encoder.head)
    own = slice(head, len(ids) - len(encoder.tail))
    assert tokenizer.decode(ids[own]) == TRANSCRIPT
    for name in hook_points:
        wanted = np.asarray(output.hidden_states[name][0, own]).mean(axis=0)
        found = opened.numpy(name)[0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
