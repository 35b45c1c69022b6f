"""From recordings of any length to batches of log-mel spectrograms, as the processors of the originals make them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from gmijax.preprocessing._log_mel import HOP, log_mel

_ULTRAVOX_SHORTEST = 320  # samples to which Ultravox's processor pads what is shorter


class LogMel(NamedTuple):
    """Spectrograms of clips.

    Attributes:
      features: shape (clips, bins, frames).
      lengths: frames of each clip before its padding, shape (clips,).
    """

    features: Float[Array, "clips bins frames"]
    lengths: Int[np.ndarray, " clips"]


class ChunkedLogMel(NamedTuple):
    """What Ultravox is called with, for a batch of samples with any number of clips each.

    Clips longer than the encoder's context are cut into chunks. Chunks are numbered through the batch, in the order
    of the samples and of the clips in each.

    Attributes:
      features: shape (chunks, bins, frames); after the end of the longest chunk of a sample they are 0.
      lengths: frames of each chunk before its padding, shape (chunks,).
      sample: the sample that each chunk belongs to, shape (chunks,).
      clip: the clip of that sample, shape (chunks,).
    """

    features: Float[Array, "chunks bins frames"]
    lengths: Int[np.ndarray, " chunks"]
    sample: Int[np.ndarray, " chunks"]
    clip: Int[np.ndarray, " chunks"]


def pad_waves(
    waves: Sequence[ArrayLike], *, samples: int | None = None, multiple_of: int = HOP
) -> tuple[Float[np.ndarray, "clips samples"], Int[np.ndarray, " clips"]]:
    """Brings recordings to one length with zeros after their end.

    Args:
      waves: samples in -1 to 1 at 16 kHz, one axis each.
      samples: the length; what is longer is cut. By default the longest, rounded up to `multiple_of`.
      multiple_of: see `samples`.

    Returns:
      The padded waves in float32, and how many frames of 160 samples each had before its padding, rounded up.

    Raises:
      ValueError: no wave, one that is empty, has not one axis, or holds integers.
    """
    if not len(waves):
        raise ValueError("waves is empty; give at least one recording")
    arrays = [np.asarray(wave) for wave in waves]
    for index, array in enumerate(arrays):
        if array.ndim != 1 or not array.size:
            raise ValueError(f"waves[{index}] has shape {array.shape}; give one axis of at least one sample")
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"waves[{index}] is {array.dtype}; give floating-point samples in -1 to 1")
    if samples is None:
        samples = -(-max(array.size for array in arrays) // multiple_of) * multiple_of
    padded = np.zeros((len(arrays), samples), np.float32)
    for row, array in zip(padded, arrays, strict=True):
        row[: array.size] = array[:samples]
    kept = np.array([min(array.size, samples) for array in arrays])
    return padded, -(-kept // HOP)


def qwen2_audio_features(waves: Sequence[ArrayLike], *, num_mel_bins: int = 128, max_mel_frames: int = 3000) -> LogMel:
    """Spectrograms as Qwen2-Audio takes them: each padded with silence, or cut, to the full length.

    Args:
      waves: samples in -1 to 1 at 16 kHz, one axis each.
      num_mel_bins: of the encoder's config.
      max_mel_frames: of the encoder's config; 3000 are 30 s.

    Returns:
      The spectrograms, of `max_mel_frames` frames.

    Raises:
      ValueError: see `pad_waves` and `log_mel`.
    """
    padded, lengths = pad_waves(waves, samples=max_mel_frames * HOP)
    return LogMel(log_mel(padded, num_mel_bins=num_mel_bins), lengths)


def ultravox_features(
    samples: Sequence[Sequence[ArrayLike]], *, num_mel_bins: int = 128, max_mel_frames: int = 3000
) -> ChunkedLogMel:
    """Spectrograms as Ultravox takes them: as long as the longest clip, and long clips in chunks.

    As in the original processor, the clips of one sample are padded with silence to the longest of them before their
    spectrograms are made, while chunks are padded in the spectrogram, with 0.

    Args:
      samples: for each sample its clips, samples in -1 to 1 at 16 kHz, one axis each; none for text alone.
      num_mel_bins: of the encoder's config.
      max_mel_frames: of the encoder's config, the length of a chunk; 3000 are 30 s.

    Returns:
      The chunks of the batch.

    Raises:
      ValueError: if no sample has a clip; see also `pad_waves` and `log_mel`.
    """
    chunks, lengths, sample, clip = [], [], [], []
    for i, waves in enumerate(samples):
        if not len(waves):
            continue
        padded, frames = pad_waves([_at_least(np.asarray(wave), _ULTRAVOX_SHORTEST) for wave in waves])
        features = log_mel(padded, num_mel_bins=num_mel_bins)
        for j, length in enumerate(frames):
            for start in range(0, length, max_mel_frames):
                chunks.append(features[j, :, start : start + max_mel_frames])
                lengths.append(min(length - start, max_mel_frames))
                sample.append(i)
                clip.append(j)
    if not chunks:
        raise ValueError("samples hold no clip; Ultravox needs no features for text alone")
    longest = max(chunk.shape[1] for chunk in chunks)
    features = jnp.stack([jnp.pad(chunk, ((0, 0), (0, longest - chunk.shape[1]))) for chunk in chunks])
    return ChunkedLogMel(features, *(np.array(values) for values in (lengths, sample, clip)))


def _at_least(wave: np.ndarray, samples: int) -> np.ndarray:
    return np.pad(wave, (0, max(0, samples - wave.size))) if wave.ndim == 1 else wave
