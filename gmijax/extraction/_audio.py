"""Recordings through a speech encoder of Whisper's kind."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gmijax.datasets import Sample
from gmijax.extraction._encoder import Encoder, Identity, Piece, SampleError, Tokens
from gmijax.models import WhisperEncoder
from gmijax.models.whisper import encoder_frames
from gmijax.preprocessing import HOP, SAMPLING_RATE, log_mel

FRAMES = SAMPLING_RATE // HOP  # a second of a spectrogram
SHORTEST = 2  # mel frames: one of the encoder


def read_wave(sample: Sample, max_seconds: float | None) -> np.ndarray:
    """The recording of a sample, checked.

    Raises:
      SampleError: if there is none, it is no recording, or it is longer than `max_seconds`.
    """
    if sample.audio is None:
        raise SampleError("it has no audio")
    wave = np.asarray(sample.audio())
    if wave.ndim != 1 or not wave.size or not np.issubdtype(wave.dtype, np.floating):
        raise SampleError(f"its audio has shape {wave.shape} and type {wave.dtype}; one axis of floats is taken")
    if not np.isfinite(wave).all():
        raise SampleError("its audio holds NaN or infinity")
    seconds = wave.size / SAMPLING_RATE
    if max_seconds is not None and seconds > max_seconds:
        raise SampleError(f"it lasts {seconds:.2f} s, and max_seconds is {max_seconds:g}")
    return wave.astype(np.float32, copy=False)


def even_frames(samples: int) -> int:
    """Mel frames of a recording that is padded with silence to a whole number of the encoder's frames of 20 ms.

    An odd last mel frame would be convolved with whatever follows it, and so with the padding of its bucket.
    """
    return max(SHORTEST, 2 * -(-samples // (2 * HOP)))


def pad_rows(pieces: Sequence[Piece], rows: int, length: int) -> dict[str, np.ndarray]:
    """Waves of `length` mel frames, shape (rows, samples), and the mel frames of each before its padding."""
    waves = np.zeros((rows, length * HOP), np.float32)
    frames = np.full(rows, SHORTEST, np.int32)
    for row, piece in enumerate(pieces):
        wave = piece.arrays["wave"]
        waves[row, : wave.size] = wave
        frames[row] = -(-wave.size // HOP)
    return {"waves": waves, "frames": np.maximum(frames, SHORTEST)}


def describe_limit(max_seconds: float | None) -> str:
    """For the manifest."""
    return "" if max_seconds is None else f", at most {max_seconds:g} s"


def log_spaced(shortest: int, longest: int) -> tuple[int, ...]:
    """Even lengths from about `shortest`, each twice the last, up to `longest`."""
    lengths, length = [], max(2, shortest - shortest % 2)
    while length < longest:
        lengths.append(length)
        length *= 2
    return (*lengths, longest)


class AudioEncoder(Encoder):
    """Whisper's encoder alone, by the clip or by windows.

    Whisper has no mask: it is trained on windows of 30 s filled up with silence, which every frame sees. So by default
    a clip is padded to the full window as in the original, longer ones are cut into windows, each with a spectrogram of
    its own, and the frames of the clip alone are pooled. A shorter window costs less and gives other states, as does
    "clip": each clip at its own length, with a mask instead of silence, in buckets. Both are named in the manifest.

    Pooling "mean" takes the clip's own frames, "mean_all" the silence too, as the paper does, "last" the clip's last.

    Args:
      model: the encoder.
      identity: for the manifest; `preprocessing` is added.
      window: seconds; "full" for all that the encoder takes, "clip" for each clip's own length.
      max_seconds: a longer clip is a failed sample; None for no limit.

    Raises:
      ValueError: if the window is not one that the encoder takes, or the encoder is Qwen2-Audio's.
    """

    takes: ClassVar = "audio"

    def __init__(
        self,
        model: WhisperEncoder,
        identity: Identity,
        *,
        window: float | Literal["full", "clip"] = "full",
        max_seconds: float | None = None,
    ):
        config, longest = model.config, model.config.max_mel_frames
        frames = longest if isinstance(window, str) else round(window * FRAMES)
        if not SHORTEST <= frames <= longest or (isinstance(window, str) and window not in ("full", "clip")):
            reach = f"{SHORTEST / FRAMES:g} to {longest / FRAMES:g} s"
            raise ValueError(f"window = {window!r}: this encoder takes {reach}, 'full' or 'clip'")
        if config.pooled:
            raise ValueError("this encoder is a part of Qwen2-Audio; extract from the whole model")
        self.graph, self.parameters = nnx.split(model)
        self.hook_points = ("encoder_output",)
        self.windowed, self.frames, self.max_seconds = window != "clip", frames, max_seconds
        self.lengths = (frames,) if self.windowed else log_spaced(2 * FRAMES, frames)
        self.bins = config.num_mel_bins
        padding = f"windows of {frames / FRAMES:g} s with silence" if self.windowed else "masked, padded to 20 ms"
        limit = describe_limit(max_seconds)
        made = f"log-mel of gmijax, {self.bins} bins, {padding}{limit}; {model.dtype}"
        self.identity = replace(identity, preprocessing=made)

    def read(self, sample: Sample) -> list[Piece]:
        """One piece for each window."""
        wave, size = read_wave(sample, self.max_seconds), self.frames * HOP
        parts = [wave[start : start + size] for start in range(0, wave.size, size)]
        return [Piece({"wave": part}, self.frames if self.windowed else even_frames(part.size)) for part in parts]

    def batch(self, pieces: Sequence[Piece], rows: int, length: int) -> dict[str, np.ndarray]:
        """Waves and mel frames."""
        batch = pad_rows(pieces, rows, length)
        if not self.windowed:
            batch["frames"] += batch["frames"] % 2
        return batch

    def states(
        self, parameters: Any, batch: Mapping[str, jax.Array], hook_points: tuple[str, ...]
    ) -> dict[str, Tokens]:
        """The clip's own frames count; pooling "mean_all" takes the window's silence too."""
        model: WhisperEncoder = nnx.merge(self.graph, parameters)
        lengths = None if self.windowed else batch["frames"]
        features = log_mel(batch["waves"], num_mel_bins=self.bins, lengths=lengths)
        states = model(features, lengths=lengths, hook_points=hook_points)
        count = encoder_frames(batch["frames"])
        own = jnp.arange(encoder_frames(features.shape[2])) < count[:, None]
        whole = jnp.ones_like(own) if self.windowed else own
        return {name: Tokens(states[name], own, whole, count - 1) for name in hook_points}
