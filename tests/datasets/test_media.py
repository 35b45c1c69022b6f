"""Recordings and images: what comes out, and what is said of files that cannot be read."""

import builtins
import contextlib
import io
import sys

import numpy as np
import PIL.Image
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmijax.datasets import DatasetError
from gmijax.datasets._media import AudioFile, ImageFile


def encoded(form: str, **options) -> bytes:
    """A small image whose pixels differ."""
    pixels = np.arange(12 * 9 * 3, dtype="u1").reshape(9, 12, 3)
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, form, **options)
    return stream.getvalue()


def test_samples_are_as_written(tmp_path):
    wave = np.random.default_rng(0).integers(-32768, 32768, 4000).astype("i2")
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, wave, 16000, subtype="PCM_16")
        got = AudioFile(tmp_path / name)()
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, wave / np.float32(32768))


def test_channels_are_averaged(tmp_path):
    left, right = np.random.default_rng(1).uniform(-1, 1, (2, 500)).astype("f4")
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 16000, subtype="FLOAT")
    np.testing.assert_allclose(AudioFile(tmp_path / "a.wav")(), (left + right) / 2, rtol=0, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_other_rates_become_16_khz(tmp_path, rate):
    """A tone stays that tone, sample by sample, away from the ends of the recording."""
    seconds = np.arange(rate) / rate
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * seconds), rate, subtype="FLOAT")
    got = AudioFile(tmp_path / "a.wav")()
    assert got.dtype == np.float32
    assert got.shape == (16000,)
    want = 0.5 * np.sin(2 * np.pi * 440 * np.arange(16000) / 16000)
    np.testing.assert_allclose(got[200:-200], want[200:-200], rtol=0, atol=1e-3)


def test_what_16_khz_cannot_hold_is_filtered_out(tmp_path):
    tone = 0.5 * np.sin(2 * np.pi * 15000 * np.arange(48000) / 48000)  # would come back as 1 kHz
    soundfile.write(tmp_path / "a.wav", tone, 48000, subtype="FLOAT")
    assert np.abs(AudioFile(tmp_path / "a.wav")()[200:-200]).max() < 1e-3


def test_the_length_is_rounded_up(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(1001), 44100)
    assert AudioFile(tmp_path / "a.wav")().shape == (-(-1001 * 16000 // 44100),)


def test_recordings_that_cannot_be_used(tmp_path, write):
    with pytest.raises(DatasetError, match=r"none\.wav: is missing; the data set lists it"):
        AudioFile(tmp_path / "none.wav")()
    for name in ("a.flac", "a.raw"):
        path = write(tmp_path / name, b"no recording")
        with pytest.raises(DatasetError, match=rf"{name}: cannot be read as audio: ") as caught:
            AudioFile(path)()
        assert caught.value.path == path
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16000)
    with pytest.raises(DatasetError, match=r"empty\.wav: holds no samples"):
        AudioFile(tmp_path / "empty.wav")()
    soundfile.write(tmp_path / "nan.wav", np.array([0.0, np.nan]), 16000, subtype="FLOAT")
    with pytest.raises(DatasetError, match=r"nan\.wav: holds samples that are NaN or infinite"):
        AudioFile(tmp_path / "nan.wav")()


def test_without_soundfile(tmp_path, write, monkeypatch):
    path = write(tmp_path / "a.wav")
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"reading audio needs soundfile \(.*\); run: pip install gmijax\[audio\]"):
        AudioFile(path)()


def test_with_soundfile_but_without_its_library(tmp_path, write, monkeypatch):
    path = write(tmp_path / "a.wav")
    original = builtins.__import__

    def no_library(name, *rest):
        if name == "soundfile":
            raise OSError("sndfile library not found")
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", no_library)
    with pytest.raises(ImportError, match=r"needs soundfile \(sndfile library not found\); run: pip install"):
        AudioFile(path)()


def test_pixels_are_as_written(tmp_path, write):
    image = ImageFile(write(tmp_path / "a.png", encoded("PNG")))()
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), np.arange(12 * 9 * 3, dtype="u1").reshape(9, 12, 3))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_mode_of_8_bits_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    PIL.Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(path)
    image = ImageFile(path)()
    assert (image.mode, image.size) == ("RGB", (5, 4))
    assert np.asarray(image).min() == 255


def test_a_palette_with_transparency_does_not_warn(tmp_path):
    image = PIL.Image.new("P", (2, 1), 1)
    image.putpalette([0, 0, 0, 7, 8, 9])
    image.save(tmp_path / "a.png", transparency=bytes([0, 128]))
    assert ImageFile(tmp_path / "a.png")().getpixel((0, 0)) == (7, 8, 9)


def test_orientation_is_not_applied(tmp_path):
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    PIL.Image.new("RGB", (8, 6)).save(tmp_path / "a.jpg", exif=exif)
    assert ImageFile(tmp_path / "a.jpg")().size == (8, 6)


def test_images_that_cannot_be_used(tmp_path, write, monkeypatch):
    with pytest.raises(DatasetError, match=r"none\.png: is missing; the data set lists it"):
        ImageFile(tmp_path / "none.png")()
    with pytest.raises(DatasetError, match=r"a\.png: cannot be read as an image: "):
        ImageFile(write(tmp_path / "a.png", b"no image"))()
    with pytest.raises(DatasetError, match=r"cut\.png: cannot be read as an image: "):
        ImageFile(write(tmp_path / "cut.png", encoded("PNG")[:-40]))()
    PIL.Image.fromarray(np.full((2, 2), 1000, "u2")).save(tmp_path / "deep.png")
    with pytest.raises(DatasetError, match=r"deep\.png: has the mode I;16; save it with 8 bits a channel"):
        ImageFile(tmp_path / "deep.png")()
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(DatasetError, match=r"large\.png: is too large: "):
        ImageFile(write(tmp_path / "large.png", encoded("PNG")))()


@pytest.mark.filterwarnings("ignore")  # PIL warns of some damage; here only what is raised matters
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    st.floats(0.02, 1),
)
def test_damage_raises_nothing_else(tmp_path, form, changes, kept):
    data = bytearray(encoded(form))
    for place, value in changes:
        data[int(place * len(data))] = value
    path = tmp_path / "damaged"
    path.write_bytes(data[: int(kept * len(data))])
    with contextlib.suppress(DatasetError):  # anything else fails the test
        assert ImageFile(path)().mode == "RGB"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["FLAC", "WAV", "OGG"]), st.floats(0, 1, exclude_max=True), st.integers(0, 255), st.floats(0, 1))
def test_damaged_audio_raises_nothing_else(tmp_path, form, place, value, kept):
    stream = io.BytesIO()
    soundfile.write(stream, np.sin(np.arange(4000)), 16000, format=form)
    data = bytearray(stream.getvalue())
    data[int(place * len(data))] = value
    path = tmp_path / f"damaged.{form.lower()}"
    path.write_bytes(data[: int(kept * len(data))])
    with contextlib.suppress(DatasetError):
        assert np.isfinite(AudioFile(path)()).all()
