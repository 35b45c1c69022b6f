"""Whisper's log-mel spectrogram, jitted and batched; equal to transformers' WhisperFeatureExtractor to 1e-4."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

SAMPLING_RATE = 16000
"""Samples a second that Whisper is trained on."""
HOP = 160
"""Samples from one frame to the next: 10 ms."""

_WINDOW = 400  # samples of a frame: 25 ms, two and a half hops
_SMALLEST_POWER = 1e-10
_RANGE = 8.0  # decades below the loudest value at which a clip is cut off


def mel_filters(num_mel_bins: int) -> Float[np.ndarray, "frequencies bins"]:
    """Triangular filters on Slaney's mel scale, each of unit area in hertz.

    Slaney's scale (Auditory Toolbox, Interval technical report 1998-010) is linear below 1 kHz and logarithmic above.

    Args:
      num_mel_bins: number of filters between 0 Hz and 8 kHz.

    Returns:
      The weight of each of the 201 frequencies in each bin, shape (201, num_mel_bins), float64.
    """
    if num_mel_bins < 1:
        raise ValueError(f"num_mel_bins = {num_mel_bins}: must be positive")
    return _filters(num_mel_bins).copy()


@cache
def _filters(num_mel_bins: int) -> np.ndarray:
    # 15 mels to 1 kHz, then 27 mels for a factor of 6.4.
    step = np.log(6.4) / 27
    top = 15 + np.log(SAMPLING_RATE / 2 / 1000) / step
    mels = np.linspace(0, top, num_mel_bins + 2)
    edges = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp(step * (mels - 15)))
    lower, centre, upper = edges[:-2], edges[1:-1], edges[2:]
    frequencies = np.linspace(0, SAMPLING_RATE / 2, _WINDOW // 2 + 1)[:, None]
    rising, falling = (frequencies - lower) / (centre - lower), (upper - frequencies) / (upper - centre)
    return np.maximum(0, np.minimum(rising, falling)) * 2 / (upper - lower)


def log_mel(
    waves: Float[ArrayLike, "clips samples"],
    *,
    num_mel_bins: int = 80,
    lengths: Int[ArrayLike, " rows"] | None = None,
) -> Float[Array, "clips {num_mel_bins} frames"]:
    """The log-mel spectrograms of clips of one length, scaled as Whisper takes them.

    Frame t is centred on sample 160 t; the clip is mirrored at its ends. Powers are cut off 8 decades below the
    loudest of the clip, padding included, and (log10 power + 4) / 4 is returned. Agrees with the torch path of
    transformers 5.23 to 3e-5.

    Args:
      waves: samples in -1 to 1 at 16 kHz, more than 200 of them.
      num_mel_bins: 80, or 128 for the encoders of Whisper large v3, Ultravox and Qwen2-Audio.
      lengths: frames of each clip, at least 2. The spectrogram is then that of so many frames alone, however long the
        padding after them: the clip is mirrored at its own end, and frames after it are 0.

    Returns:
      The spectrograms, of samples // 160 frames, in the type of `waves`, at least float32.

    Raises:
      ValueError: integers in place of samples in -1 to 1, clips that are too short, samples that are not finite, or
        lengths that are not one for each clip, below 2, or more than there are.
    """
    array = jnp.asarray(waves)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"waves are {array.dtype}; give floating-point samples in -1 to 1")
    if array.shape[1] <= _WINDOW // 2:
        raise ValueError(f"waves have {array.shape[1]} samples; a spectrogram needs more than {_WINDOW // 2}")
    if num_mel_bins < 1:
        raise ValueError(f"num_mel_bins = {num_mel_bins}: must be positive")
    if not isinstance(array, Tracer) and not bool(jnp.isfinite(array).all()):
        raise ValueError("waves hold NaN or infinity")
    if lengths is not None:
        lengths = _check_lengths(lengths, array.shape)
    return _log_mel(array.astype(jnp.promote_types(array.dtype, jnp.float32)), lengths, num_mel_bins=num_mel_bins)


def _check_lengths(lengths: ArrayLike, shape: tuple[int, ...]) -> Int[Array, " clips"]:
    clips, frames = shape[0], shape[1] // HOP
    if np.shape(lengths) != (clips,):
        raise ValueError(f"lengths have shape {np.shape(lengths)}; give one for each of the {clips} clips")
    if not isinstance(lengths, Tracer):
        outside = [int(length) for length in np.asarray(lengths) if not 2 <= length <= frames]
        if outside:
            raise ValueError(f"lengths hold {outside}; the {frames} frames of waves allow 2 to {frames}")
    return jnp.asarray(lengths)


@partial(jax.jit, static_argnames="num_mel_bins")
def _log_mel(
    waves: Float[Array, "clips samples"], lengths: Int[Array, " clips"] | None, *, num_mel_bins: int
) -> Float[Array, "clips bins frames"]:
    clips, samples = waves.shape
    frames = samples // HOP  # a last one, centred on the end, is left out in the original too
    if lengths is None:
        padded = jnp.pad(waves, ((0, 0), (_WINDOW // 2, _WINDOW // 2)), mode="reflect")
    else:
        padded = _mirrored(waves, lengths * HOP)
    hops = padded[:, : (frames + 2) * HOP].reshape(clips, frames + 2, HOP)
    framed = jnp.concatenate([hops[:, :-2], hops[:, 1:-1], hops[:, 2:, : _WINDOW - 2 * HOP]], axis=-1)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_WINDOW) / _WINDOW)
    spectrum = jnp.fft.rfft(framed * window.astype(waves.dtype))
    power = jnp.square(spectrum.real) + jnp.square(spectrum.imag)
    filters = _filters(num_mel_bins).astype(waves.dtype)
    mel = jnp.einsum("ctf,fm->cmt", power, filters, precision=lax.Precision.HIGHEST)
    log = jnp.log10(jnp.maximum(mel, _SMALLEST_POWER))
    own = None if lengths is None else (jnp.arange(frames) < lengths[:, None])[:, None]
    loudest = jnp.max(log, axis=(1, 2), keepdims=True, where=own, initial=-jnp.inf)
    scaled = (jnp.maximum(log, loudest - _RANGE) + 4) / 4
    return scaled if own is None else jnp.where(own, scaled, 0)


def _mirrored(waves: Float[Array, "clips samples"], ends: Int[Array, " clips"]) -> Float[Array, "clips padded"]:
    """Each clip with half a window before it and after its own end, mirrored; what follows means nothing."""
    places = jnp.abs(jnp.arange(waves.shape[1] + _WINDOW) - _WINDOW // 2)
    last = ends[:, None] - 1
    # As far as a frame of the clip reaches. Beyond lies padding, which no own frame sees.
    return jnp.take_along_axis(waves, jnp.clip(last - jnp.abs(last - places), 0, waves.shape[1] - 1), axis=1)
