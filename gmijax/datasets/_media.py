"""Recordings and images that are opened when they are called."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gmijax.datasets._errors import DatasetError

if TYPE_CHECKING:
    import PIL.Image

SAMPLE_RATE = 16_000

AUDIO_SUFFIXES = frozenset({".aif", ".aiff", ".flac", ".mp3", ".ogg", ".opus", ".wav"})
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# What PIL raises for damaged files, depending on their format.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


@dataclass(frozen=True)
class AudioFile:
    """A recording on disk; calling it reads it.

    Channels are averaged. Other rates are brought to 16 kHz by scipy's polyphase filter, a Kaiser window of beta 5:
    n samples become n * 16000 / rate, rounded up.
    """

    path: Path

    def __call__(self) -> np.ndarray:
        """Reads the recording.

        Returns:
          Samples in float32 at 16 kHz, one axis.

        Raises:
          DatasetError: if the file is missing, is no recording, is empty, or holds NaN or infinity.
          ImportError: if soundfile is not installed.
        """
        try:
            import soundfile
        except (ImportError, OSError) as error:  # OSError: it does not find its library
            raise ImportError(f"reading audio needs soundfile ({error}); run: pip install gmijax[audio]") from error

        if not self.path.is_file():
            raise DatasetError(self.path, "is missing; the data set lists it")
        try:
            wave, rate = soundfile.read(self.path, dtype="float32", always_2d=True)
        except (soundfile.SoundFileError, OSError, TypeError) as error:
            raise DatasetError(self.path, f"cannot be read as audio: {error}") from error
        wave = wave.mean(axis=1)
        if not wave.size:
            raise DatasetError(self.path, "holds no samples")
        if not np.isfinite(wave).all():
            raise DatasetError(self.path, "holds samples that are NaN or infinite")
        return _resampled(wave, rate)


@dataclass(frozen=True)
class ImageFile:
    """An image on disk; calling it reads it.

    The pixels are as stored: an orientation in the metadata is not applied, since the boxes of published data sets
    refer to the pixels. Transparency is dropped. Of several frames, the first is taken.
    """

    path: Path

    def __call__(self) -> PIL.Image.Image:
        """Reads the image.

        Returns:
          All of its pixels in RGB.

        Raises:
          DatasetError: if the file is missing, is no image, is cut short, or has more than 8 bits a channel.
        """
        import PIL.Image

        if not self.path.is_file():
            raise DatasetError(self.path, "is missing; the data set lists it")
        try:
            with PIL.Image.open(self.path) as image:
                image.load()
                return _rgb(image, self.path)
        except DatasetError:
            raise
        except _UNREADABLE as error:
            raise DatasetError(self.path, f"cannot be read as an image: {error}") from error
        except PIL.Image.DecompressionBombError as error:
            raise DatasetError(self.path, f"is too large: {error}") from error


def _rgb(image: PIL.Image.Image, path: Path) -> PIL.Image.Image:
    if image.mode.startswith(("I", "F")):  # PIL would cut these at 255
        raise DatasetError(path, f"has the mode {image.mode}; save it with 8 bits a channel")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, PIL warns
    return image.convert("RGB")


def _resampled(wave: np.ndarray, rate: int) -> np.ndarray:
    if rate == SAMPLE_RATE:
        return wave
    from scipy.signal import resample_poly

    common = math.gcd(rate, SAMPLE_RATE)
    return resample_poly(wave, SAMPLE_RATE // common, rate // common).astype(np.float32, copy=False)
