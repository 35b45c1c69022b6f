"""Recordings and images through a whole multimodal model: its encoder, its adapter and its language model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gmijax.datasets import Sample
from gmijax.extraction._audio import (
    FRAMES,
    SHORTEST,
    describe_limit,
    even_frames,
    log_spaced,
    pad_rows,
    read_wave,
)
from gmijax.extraction._encoder import Encoder, Identity, Piece, SampleError, Tokens, last_true
from gmijax.extraction._image import read_pixels, stack_pixels, vision_tokens
from gmijax.models import Composed, ComposedOutput, Llava, Prismatic, Qwen2Audio, Ultravox
from gmijax.preprocessing import HOP, SAMPLING_RATE, ImageTransform, log_mel

_LONGEST_CLIP = 20  # times the encoder's context, where the language model has room for more


class _ComposedEncoder(Encoder):
    """What the models share: the prompt, the hook points of the paper, and the tokens of the language model."""

    def __init__(
        self, model: Composed, identity: Identity, preprocessing: str, head: Sequence[int], tail: Sequence[int]
    ):
        graph, self.parameters = nnx.split(model)
        self.graph: Any = graph  # of whichever model it is
        self.head, self.tail = list(head), list(tail)
        self.config: Any = getattr(model, "config")  # noqa: B009 - every model has one, the base has no name for it
        self.decoder = frozenset(model.language_model.hook_points)
        middle = f"llm_hidden_{model.language_model.config.num_hidden_layers // 2}"
        self.hook_points = ("encoder_output", "adapter_output", middle, "llm_final")
        self.room = model.language_model.config.max_position_embeddings - len(self.head) - len(self.tail)
        self.identity = replace(identity, preprocessing=f"{preprocessing}; {model.dtype}")

    def _decoder_tokens(self, output: ComposedOutput, name: str) -> Tokens:
        """The soft tokens count; pooling "mean_all" takes the prompt too."""
        assert output.layout is not None  # a hook point of the decoder was passed
        whole = output.masks[name]
        return Tokens(output.hidden_states[name], whole & output.layout.modality, whole, last_true(whole))


class ImageModelEncoder(_ComposedEncoder):
    """LLaVA or Prismatic: an image between the tokens of a prompt.

    In the language model, pooling "mean" takes the soft tokens, "mean_all" the prompt too, "last" is the last token
    of the prompt. In the encoder, see `ImageEncoder`.

    Args:
      model: the model.
      identity: for the manifest; `preprocessing` is added.
      head_ids: token ids before the image. For Prismatic exactly the first token.
      tail_ids: token ids after it.
      transform: from an image to the model's pixels.

    Raises:
      ValueError: if the sequence is longer than the language model takes.
    """

    takes: ClassVar = "image"
    lengths = (1,)

    def __init__(
        self,
        model: Llava | Prismatic,
        identity: Identity,
        *,
        head_ids: Sequence[int],
        tail_ids: Sequence[int],
        transform: ImageTransform,
    ):
        super().__init__(model, identity, f"{transform} on PIL", head_ids, tail_ids)
        self.transform, self.vision = transform, model.config.vision
        if isinstance(model, Llava):
            soft = self.vision.patches + model.config.keep_class_token
            places = [model.config.image_token_id] * soft
        else:
            soft, places = self.vision.patches, []
        if soft > self.room:
            raise ValueError(f"the prompt and {soft} soft tokens are more than the language model's context")
        self.ids = np.array([*self.head, *places, *self.tail], np.int32)

    def read(self, sample: Sample) -> list[Piece]:
        """One piece: the pixels."""
        return [Piece({"pixels": read_pixels(sample, self.transform)}, 1)]

    def batch(self, pieces: Sequence[Piece], rows: int, length: int) -> dict[str, np.ndarray]:
        """The pixels, and one prompt for each."""
        pixels = stack_pixels(pieces, rows, self.vision.image_size)
        return {"pixels": pixels, "ids": np.tile(self.ids, (rows, 1))}

    def states(
        self, parameters: Any, batch: Mapping[str, jax.Array], hook_points: tuple[str, ...]
    ) -> dict[str, Tokens]:
        """The soft tokens count, and in the encoder the patches."""
        model = nnx.merge(self.graph, parameters)
        output = model(batch["ids"], model.Media(batch["pixels"]), hook_points=hook_points, logits=False)
        tokens = {}
        for name in hook_points:
            states = output.hidden_states[name]
            if name in self.decoder:
                tokens[name] = self._decoder_tokens(output, name)
            elif states.ndim == 2:  # LLaVA's class token alone
                one = jnp.ones((len(states), 1), bool)
                tokens[name] = Tokens(states[:, None], one, one, jnp.zeros(len(states), jnp.int32))
            else:
                tokens[name] = vision_tokens(states, self.vision.prefix, self.vision.patches)
        return tokens


class _AudioModelEncoder(_ComposedEncoder):
    takes: ClassVar = "audio"
    max_seconds: float | None

    def __init__(self, model: Ultravox | Qwen2Audio, identity: Identity, padding: str, head, tail, max_seconds):
        bins = model.config.audio.num_mel_bins
        made = f"log-mel of gmijax, {bins} bins, {padding}{describe_limit(max_seconds)}"
        super().__init__(model, identity, made, head, tail)
        self.max_seconds, self.bins, self.context = max_seconds, bins, model.config.audio.max_mel_frames

    def _text(self, counts: Sequence[int], most: int, filler: int) -> dict[str, np.ndarray]:
        """Token ids of prompts with `counts` places each, padded on the right to `most` places."""
        width = len(self.head) + most + len(self.tail)
        ids, mask = np.zeros((len(counts), width), np.int32), np.zeros((len(counts), width), bool)
        for row, count in enumerate(counts):
            whole = [*self.head, *[filler] * count, *self.tail]
            ids[row, : len(whole)], mask[row, : len(whole)] = whole, True
        return {"ids": ids, "mask": mask}


class UltravoxEncoder(_AudioModelEncoder):
    """Ultravox: a recording between the tokens of a prompt, at its own length, in chunks of 30 s.

    As in the original, the spectrogram is that of the whole recording, frames after its end are hidden from the
    encoder, and all chunks go into one sequence. Unlike it, the recording is padded with silence to 20 ms, so that its
    last state does not depend on the padding of its batch.

    Args:
      model: the model.
      identity: for the manifest; `preprocessing` is added.
      head_ids: token ids before the audio.
      tail_ids: token ids after it.
      max_seconds: a longer recording is a failed sample; by default one that the language model has no room for.
    """

    def __init__(
        self,
        model: Ultravox,
        identity: Identity,
        *,
        head_ids: Sequence[int],
        tail_ids: Sequence[int],
        max_seconds: float | None = None,
    ):
        super().__init__(model, identity, "masked, padded to 20 ms", head_ids, tail_ids, max_seconds)
        each = model.config.audio_tokens(self.context)
        chunks = min(max(self.room // each, 1), _LONGEST_CLIP)
        within = log_spaced(2 * FRAMES, self.context)
        self.lengths = (*within, *(self.context * count for count in log_counts(chunks)))

    def read(self, sample: Sample) -> list[Piece]:
        """One piece: the wave."""
        wave = read_wave(sample, self.max_seconds)
        frames = even_frames(wave.size)
        seconds = wave.size / SAMPLING_RATE
        if frames > self.lengths[-1]:
            raise SampleError(f"it lasts {seconds:.2f} s, and {self.lengths[-1] / FRAMES:g} s are taken")
        if sum(self._counts(frames, self._chunks(frames))) > self.room:
            raise SampleError(f"it lasts {seconds:.2f} s, for which the language model has no room")
        return [Piece({"wave": wave}, frames)]

    def _chunks(self, length: int) -> int:
        return -(-length // self.context)

    def _lengths(self, frames: int, chunks: int) -> list[int]:
        """Mel frames of each chunk; 0 for those that a recording does not fill."""
        return [min(max(frames - self.context * chunk, 0), self.context) for chunk in range(chunks)]

    def _counts(self, frames: int, chunks: int) -> list[int]:
        """Soft tokens of each chunk."""
        return [self.config.audio_tokens(n) if n else 0 for n in self._lengths(frames, chunks)]

    def batch(self, pieces: Sequence[Piece], rows: int, length: int) -> dict[str, np.ndarray]:
        """Waves, and prompts with places for the soft tokens of every chunk."""
        chunks = self._chunks(length)
        length = length if chunks == 1 else chunks * self.context
        batch = pad_rows(pieces, rows, length)
        batch["frames"] += batch["frames"] % 2
        lengths = np.array([self._lengths(n, chunks) for n in batch["frames"].tolist()], np.int32)
        counts = np.array([self._counts(n, chunks) for n in batch["frames"].tolist()], np.int32)
        starts = len(self.head) + np.cumsum(counts, axis=1) - counts
        most = sum(self._counts(length, chunks))
        text = self._text(counts.sum(axis=1).tolist(), most, filler=0)
        return {**batch, **text, "lengths": lengths, "counts": counts, "starts": starts.astype(np.int32)}

    def states(
        self, parameters: Any, batch: Mapping[str, jax.Array], hook_points: tuple[str, ...]
    ) -> dict[str, Tokens]:
        """The soft tokens count, and in the encoder the recording's own frames."""
        model: Ultravox = nnx.merge(self.graph, parameters)
        rows, chunks = batch["lengths"].shape
        features = log_mel(batch["waves"], num_mel_bins=self.bins, lengths=batch["frames"])
        features = features.reshape(rows, self.bins, chunks, -1).swapaxes(1, 2).reshape(rows * chunks, self.bins, -1)
        media = model.Media(
            audio_values=features,
            audio_lens=jnp.maximum(batch["lengths"].reshape(-1), 1),
            audio_token_start_idx=batch["starts"].reshape(-1),
            audio_token_len=batch["counts"].reshape(-1),
            audio_batch_size=jnp.full(rows, chunks),
        )
        output = model(batch["ids"], media, attention_mask=batch["mask"], hook_points=hook_points, logits=False)
        tokens = {}
        for name in hook_points:
            if name in self.decoder:
                tokens[name] = self._decoder_tokens(output, name)
                continue
            filled = (batch["lengths"] > 0).reshape(-1, 1)
            mask = (output.masks[name] & filled).reshape(rows, -1)
            states = output.hidden_states[name]
            states = states.reshape(rows, mask.shape[1], states.shape[-1])
            tokens[name] = Tokens(states, mask, mask, last_true(mask))
        return tokens


def log_counts(most: int) -> tuple[int, ...]:
    """2, 4, 8 ... chunks, up to `most`; none where one is the most."""
    counts = [2**power for power in range(1, most.bit_length()) if 2**power < most]
    return (*counts, most) if most > 1 else ()


class Qwen2AudioEncoder(_AudioModelEncoder):
    """Qwen2-Audio: a recording between the tokens of a prompt, padded with silence to the encoder's 30 s.

    The encoder hides the silence from the recording's frames; its pooling "mean_all" takes it. A recording over 30 s,
    which the original cuts, is a failed sample.

    Args:
      model: the model.
      identity: for the manifest; `preprocessing` is added.
      head_ids: token ids before the audio.
      tail_ids: token ids after it.
      max_seconds: a longer recording is a failed sample.
    """

    def __init__(
        self,
        model: Qwen2Audio,
        identity: Identity,
        *,
        head_ids: Sequence[int],
        tail_ids: Sequence[int],
        max_seconds: float | None = None,
    ):
        context = model.config.audio.max_mel_frames
        super().__init__(
            model, identity, f"masked, {context / FRAMES:g} s with silence", head_ids, tail_ids, max_seconds
        )
        if model.config.audio_tokens(context) > self.room:
            raise ValueError("the prompt and the soft tokens are more than the language model's context")
        self.lengths = log_spaced(2 * FRAMES, context)  # of the text: the audio has one length

    def read(self, sample: Sample) -> list[Piece]:
        """One piece: the wave."""
        wave = read_wave(sample, self.max_seconds)
        frames = -(-wave.size // HOP)
        if frames > self.context:
            raise SampleError(
                f"it lasts {wave.size / SAMPLING_RATE:.2f} s, and the model takes {self.context / FRAMES:g} s"
            )
        return [Piece({"wave": wave}, max(frames, SHORTEST))]

    def batch(self, pieces: Sequence[Piece], rows: int, length: int) -> dict[str, np.ndarray]:
        """Waves of the full length, and prompts with places for the soft tokens."""
        batch = pad_rows(pieces, rows, self.context)
        counts = [int(self.config.audio_tokens(n)) for n in batch["frames"].tolist()]
        text = self._text(counts, self.config.audio_tokens(length), self.config.audio_token_id)
        return {**batch, **text}

    def states(
        self, parameters: Any, batch: Mapping[str, jax.Array], hook_points: tuple[str, ...]
    ) -> dict[str, Tokens]:
        """The soft tokens count, and in the encoder the recording's own frames."""
        model: Qwen2Audio = nnx.merge(self.graph, parameters)
        features = log_mel(batch["waves"], num_mel_bins=self.bins)
        own = jnp.arange(self.context) < batch["frames"][:, None]
        media = model.Media(features, own.astype(jnp.int32))
        output = model(batch["ids"], media, attention_mask=batch["mask"], hook_points=hook_points, logits=False)
        tokens = {}
        for name in hook_points:
            if name in self.decoder:
                tokens[name] = self._decoder_tokens(output, name)
            else:
                mask = output.masks[name]
                tokens[name] = Tokens(output.hidden_states[name], mask, jnp.ones_like(mask), last_true(mask))
        return tokens
