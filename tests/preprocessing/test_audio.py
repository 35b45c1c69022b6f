from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from gmijax.preprocessing import log_mel, mel_filters, pad_waves, qwen2_audio_features, ultravox_features

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """2.67 s of speech."""
    return load_file(FIXTURES / "whisper_tiny_en.safetensors")["wave"] / np.float32(32768)


def extractor(num_mel_bins: int):
    from transformers import WhisperFeatureExtractor  # costs seconds to import

    return WhisperFeatureExtractor(feature_size=num_mel_bins)


def numpy_log_mel(wave: np.ndarray, num_mel_bins: int) -> np.ndarray:
    """The definition in float64: a loop over frames and a discrete Fourier transform written out."""
    padded = np.concatenate([wave[200:0:-1], wave, wave[-2:-202:-1]]).astype("f8")
    n, k = np.arange(400), np.arange(201)[:, None]
    transform = np.exp(-2j * np.pi * k * n / 400) * (0.5 - 0.5 * np.cos(2 * np.pi * n / 400))
    frames = [np.abs(transform @ padded[160 * t : 160 * t + 400]) ** 2 for t in range(len(wave) // 160)]
    log = np.log10(np.maximum(np.array(frames) @ slaney(num_mel_bins), 1e-10)).T
    return (np.maximum(log, log.max() - 8) + 4) / 4


def slaney(bins: int) -> np.ndarray:
    """Filters by loops, from the mel scale of the Auditory Toolbox: 13.33 bins a kilohertz step, then log steps."""

    def to_hertz(mel):
        return 200 * mel / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)

    top = 15 + 27 * np.log(8) / np.log(6.4)
    edges = [to_hertz(top * i / (bins + 1)) for i in range(bins + 2)]
    filters = np.zeros((201, bins))
    for j in range(bins):
        low, middle, high = edges[j : j + 3]
        for i in range(201):
            hertz = 40.0 * i
            if low < hertz <= middle:
                filters[i, j] = (hertz - low) / (middle - low)
            elif middle < hertz < high:
                filters[i, j] = (high - hertz) / (high - middle)
        filters[:, j] *= 2 / (high - low)
    return filters


@pytest.mark.parametrize("bins", [1, 80, 128])
def test_filters_are_slaneys(bins):
    np.testing.assert_allclose(mel_filters(bins), slaney(bins), rtol=0, atol=1e-15)


@pytest.mark.parametrize(("bins", "samples"), [(80, 42720), (128, 19752), (80, 201)])
def test_equals_float64(speech, bins, samples):
    wave = speech[5000:][:samples]
    got = log_mel(wave[None], num_mel_bins=bins)
    assert got.shape == (1, bins, wave.size // 160)
    np.testing.assert_allclose(got[0], numpy_log_mel(wave, bins), rtol=0, atol=3e-5)


def test_float64_input_is_computed_in_float64(x64, speech):
    wave = speech[5000:15000].astype("f8")
    got = log_mel(wave[None])
    assert got.dtype == np.float64
    np.testing.assert_allclose(got[0], numpy_log_mel(wave, 80), rtol=0, atol=1e-11)


@pytest.mark.parametrize("bins", [80, pytest.param(128, marks=pytest.mark.slow)])
def test_equals_transformers_with_the_padding_of_ultravox(speech, bins):
    waves = [speech, speech[3000:22752]]
    padded, lengths = pad_waves(waves)
    got = log_mel(padded, num_mel_bins=bins)
    expected = extractor(bins)(
        waves, sampling_rate=16000, padding="longest", pad_to_multiple_of=160, truncation=False,
        return_attention_mask=True, return_tensors="np",
    )  # fmt: skip
    np.testing.assert_allclose(got, expected["input_features"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(lengths, expected["attention_mask"].sum(1))
    np.testing.assert_array_equal(lengths, [267, 124])


@pytest.mark.parametrize("bins", [128, pytest.param(80, marks=pytest.mark.slow)])
def test_equals_transformers_with_the_padding_of_qwen2_audio(speech, bins):
    got = qwen2_audio_features([speech], num_mel_bins=bins)
    expected = extractor(bins)(
        [speech], sampling_rate=16000, padding="max_length", return_attention_mask=True, return_tensors="np"
    )
    assert got.features.shape == (1, bins, 3000)
    np.testing.assert_allclose(got.features, expected["input_features"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(got.lengths, expected["attention_mask"].sum(1))
    tail = np.asarray(got.features[0, :, 270:])
    assert (tail == tail[0, 0]).all()  # silence lies on the floor


def test_batch_is_its_clips(speech):
    waves = np.stack([speech[:16000], speech[9000:25000], np.zeros(16000, "f4")])
    together = log_mel(waves)
    for wave, got in zip(waves, together, strict=True):
        np.testing.assert_allclose(got, log_mel(wave[None])[0], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(together[2]), np.full((80, 100), -1.5, "f4"))
    mapped = jax.vmap(lambda wave: log_mel(wave[None])[0])(waves)
    np.testing.assert_allclose(mapped, together, rtol=0, atol=1e-6)


def test_lengths_make_it_the_spectrogram_of_the_clip_alone(speech):
    """However long the padding, and whatever it holds: the loudest value and the mirrored end are the clip's."""
    frames = [2, 33, 150, 266]
    rng = np.random.default_rng(0)
    for room in (266, 300):
        waves = rng.standard_normal((4, 160 * room)).astype("f4")  # louder than the speech
        for wave, n in zip(waves, frames, strict=True):
            wave[: 160 * n] = speech[: 160 * n]
        found = np.asarray(log_mel(waves, lengths=np.array(frames)))
        assert found.shape == (4, 80, room)
        for k, n in enumerate(frames):
            alone = log_mel(speech[None, : 160 * n])[0]
            np.testing.assert_allclose(found[k, :, :n], alone, rtol=0, atol=2e-6)
            assert not found[k, :, n:].any()


def test_compiles_once_for_each_shape(speech):
    kernel = jax.jit(chex.assert_max_traces(log_mel, n=1), static_argnames="num_mel_bins")
    for start in (0, 7000):
        wave = speech[start:][None, :16000]
        np.testing.assert_allclose(kernel(wave), log_mel(wave), rtol=0, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(gain=st.floats(0.01, 50), seed=st.integers(0, 99))
def test_gain_is_a_shift(gain, seed):
    """Power times gain^2 is log10 gain / 2 more everywhere, above the smallest power and below nothing else."""
    wave = np.random.default_rng(seed).standard_normal((1, 3200)).astype("f4")
    shifted = np.asarray(log_mel(wave)) + 0.5 * np.log10(gain)
    np.testing.assert_allclose(log_mel(wave * np.float32(gain)), shifted, rtol=0, atol=5e-5)


@settings(max_examples=10, deadline=None)
@given(shift=st.integers(0, 8), seed=st.integers(0, 99))
def test_a_delay_of_hops_moves_frames(shift, seed):
    sound = np.random.default_rng(seed).standard_normal(6400).astype("f4")
    early, late = np.zeros((2, 1, 12800), "f4")
    early[0, 1600:8000], late[0, 1600 + 160 * shift : 8000 + 160 * shift] = sound, sound
    before, after = np.asarray(log_mel(early)), np.asarray(log_mel(late))
    np.testing.assert_allclose(after[..., shift:], before[..., : 80 - shift], rtol=0, atol=1e-5)


def test_a_tone_is_loudest_in_its_own_bin():
    time = np.arange(16000) / 16000
    for hertz in (300, 1000, 5000):
        mel = np.asarray(log_mel(np.sin(2 * np.pi * hertz * time)[None].astype("f4"))[0, :, 50])
        assert mel.argmax() == mel_filters(80)[hertz // 40].argmax()


def test_gradient_is_that_of_the_definition(x64):
    wave, direction = np.random.default_rng(0).standard_normal((2, 800))
    probe = np.random.default_rng(1).standard_normal((80, 5))
    gradient = jax.grad(lambda w: jnp.sum(probe * log_mel(w[None])[0]))(jnp.asarray(wave))
    ends = [np.sum(probe * numpy_log_mel(wave + t * direction, 80)) for t in (-1e-6, 1e-6)]
    np.testing.assert_allclose(gradient @ direction, (ends[1] - ends[0]) / 2e-6, rtol=1e-5)


# Chunks


def test_ultravox_chunks_are_cut_and_padded_in_the_spectrogram(speech):
    short, long = speech[:9610], speech  # 61 and 267 frames
    got = ultravox_features([[long, short], [], [short]], max_mel_frames=100)
    assert got.features.shape == (5, 128, 100)
    np.testing.assert_array_equal(got.lengths, [100, 100, 67, 61, 61])
    np.testing.assert_array_equal(got.sample, [0, 0, 0, 0, 2])
    np.testing.assert_array_equal(got.clip, [0, 0, 0, 1, 0])
    whole = np.asarray(log_mel(np.stack([long, np.pad(short, (0, long.size - short.size))]), num_mel_bins=128))
    for i in range(3):
        np.testing.assert_allclose(
            got.features[i, :, : got.lengths[i]], whole[0, :, 100 * i : 100 * i + got.lengths[i]], rtol=0, atol=1e-6
        )
    assert not np.asarray(got.features[2, :, 67:]).any()
    # Beside a longer clip of the same sample silence was added, alone a zero of the spectrogram.
    np.testing.assert_allclose(got.features[3], whole[1, :, :100], rtol=0, atol=1e-6)
    assert np.asarray(got.features[3, :, 64:]).max() < -0.1
    assert not np.asarray(got.features[4, :, 61:]).any()


def test_ultravox_batches_are_as_long_as_the_longest_chunk(speech):
    got = ultravox_features([[speech[:3200]], [speech[:8000]]])
    assert got.features.shape == (2, 128, 50)
    np.testing.assert_array_equal(got.lengths, [20, 50])
    np.testing.assert_array_equal(ultravox_features([[speech[:7]]]).lengths, [2])  # at least 320 samples


def test_qwen2_audio_cuts_what_is_too_long(speech):
    got = qwen2_audio_features([speech, speech[:1000]], max_mel_frames=50)
    np.testing.assert_array_equal(got.lengths, [50, 7])
    expected = log_mel(speech[None, :8000], num_mel_bins=128)
    np.testing.assert_allclose(got.features[:1], expected, rtol=0, atol=1e-6)


# Refusals


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: log_mel(np.zeros((1, 200), "f4")), "200 samples; a spectrogram needs more than 200"),
        (lambda: log_mel(np.full((1, 400), np.nan, "f4")), "waves hold NaN or infinity"),
        (lambda: log_mel(np.zeros((1, 400), "f4"), num_mel_bins=0), "num_mel_bins = 0: must be positive"),
        (
            lambda: log_mel(np.zeros((2, 400), "f4"), lengths=np.array([2])),
            r"lengths have shape \(1,\); give one for each of the 2",
        ),
        (
            lambda: log_mel(np.zeros((2, 400), "f4"), lengths=np.array([1, 3])),
            r"lengths hold \[1, 3\]; the 2 frames .* allow 2 to 2",
        ),
        (lambda: mel_filters(0), "num_mel_bins = 0: must be positive"),
        (lambda: pad_waves([]), "waves is empty"),
        (lambda: pad_waves([np.zeros(300, "f4"), np.zeros(0, "f4")]), r"waves\[1\] has shape \(0,\)"),
        (lambda: pad_waves([np.zeros((2, 300), "f4")]), r"waves\[0\] has shape \(2, 300\); give one axis"),
        (lambda: pad_waves([np.zeros(300, np.int16)]), r"waves\[0\] is int16; give floating-point samples"),
        (lambda: ultravox_features([[], []]), "samples hold no clip"),
        (lambda: ultravox_features([[np.zeros((2, 300), "f4")]]), r"waves\[0\] has shape \(2, 300\)"),
        (lambda: qwen2_audio_features([np.full(9, np.inf, "f4")]), "NaN or infinity"),
    ],
)
def test_bad_input_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
