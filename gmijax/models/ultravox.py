"""Ultravox: Whisper's encoder, a projector that stacks frames, and Llama.

Numbers follow fixie-ai/ultravox (648efe7) under transformers 4.51.3; layouts of v0.3 to v0.6 are read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike

from gmijax.models import llama, whisper
from gmijax.models._composed import Composed, Layout, plain_layout
from gmijax.models._config import ConfigReader
from gmijax.models._errors import ConfigError
from gmijax.models._keys import KeyRule, prefixed
from gmijax.models._layers import RMSNorm, linear
from gmijax.models.llama import Llama, LlamaConfig
from gmijax.models.whisper import Count, WhisperEncoder, WhisperEncoderConfig, encoder_frames

KEY_MAP: tuple[KeyRule, ...] = (
    *prefixed(whisper.KEY_MAP, r"audio_tower\.", "audio_tower"),
    *(
        KeyRule(rf"multi_modal_projector\.{norm}\.weight", f"projector.{norm}.scale", transpose=False)
        for norm in ("ln_pre", "ln_mid", "ln_post")
    ),
    *(
        KeyRule(rf"multi_modal_projector\.linear_{i}\.weight", f"projector.linear_{i}.kernel", transpose=True)
        for i in (1, 2)
    ),
    *prefixed(llama.KEY_MAP, r"language_model\.", "language_model"),
)
"""From the published keys to our leaves. A rule whose leaf a model lacks (one of two norms) is void for it."""

RENAMES: tuple[tuple[str, str], ...] = tuple(
    (pattern.replace("^", r"^audio_tower\."), f"audio_tower.{replacement}") for pattern, replacement in whisper.RENAMES
)
"""From the keys of a whole Whisper, where the encoder lies in a folder of its own, to those of an encoder."""

IGNORED_KEYS: tuple[str, ...] = (
    *(r"audio_tower\." + pattern for pattern in whisper.IGNORED_KEYS),
    *(r"language_model\." + pattern for pattern in llama.IGNORED_KEYS),
)
"""Keys that may be left unread."""

_PROJECTOR_EPS = 1e-6  # whatever the language model's is

_ONE_VALUE: dict[str, Any] = {"ignore_index": -100, "model_type": "ultravox", "projector_act": "swiglu"}
_IRRELEVANT = (
    *("audio_token_index", "bos_token_id", "custom_pipelines", "eos_token_id", "llm_only_training", "norm_init"),
    *("pad_token_id", "tie_word_embeddings", "vocab_size"),
)


@dataclass(frozen=True)
class UltravoxConfig:
    """The parts and the constants of an Ultravox.

    Attributes:
      text: of the language model.
      audio: of the encoder; its `latency_block_size` is the published `audio_latency_block_size`.
      hidden_size: width of the projector before its gate, which halves it.
      stack_factor: how many encoder frames make one soft token.
      projector_ln_mid: whether the projector's second norm comes after the gate (v0.5 and later) or at the end.

    Raises:
      ConfigError: the values contradict each other.
    """

    text: LlamaConfig
    audio: WhisperEncoderConfig
    hidden_size: int = 4096
    stack_factor: int = 8
    projector_ln_mid: bool = False

    def __post_init__(self):
        problems = []
        if self.hidden_size <= 0 or self.hidden_size % 2:
            problems.append(f"hidden_size = {self.hidden_size}: must be positive and even, its halves gate each other")
        if self.stack_factor <= 0:
            problems.append(f"stack_factor = {self.stack_factor}: must be positive")
        if self.audio.pooled:
            problems.append("audio is pooled, as Qwen2-Audio's encoder is and Ultravox's is not")
        if problems:
            raise ConfigError("Ultravox", problems)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "UltravoxConfig":
        """Reads the content of a config.json whose `text_config` and `audio_config` are filled in.

        Absent fields take the original's defaults; `projector_ln_mid` is false where it is absent.

        Args:
          config: the decoded JSON object.

        Raises:
          ConfigError: listing every unknown field, every value that is not supported, and everything that is
            inconsistent, in the parts too.
        """
        reader = ConfigReader(config)
        block = reader.take("audio_latency_block_size", int, None)
        read_audio = partial(WhisperEncoderConfig.from_hf, latency_block_size=block)
        values = {
            "text": reader.part("text_config", LlamaConfig.from_hf),
            "audio": reader.part("audio_config", read_audio),
            "hidden_size": reader.take("hidden_size", int, 4096),
            "stack_factor": reader.take("stack_factor", int, 8),
            "projector_ln_mid": reader.take("projector_ln_mid", bool, False),
        }
        for name in ("audio_model_lora_config", "text_model_lora_config"):
            lora = config.get(name) or {}
            if not isinstance(lora, Mapping) or lora.get("r", 0) != 0:
                reader.problems.append(f"{name} = {lora!r}: only r = 0 is supported; merge the adapter")
        handled = (
            *("text_config", "audio_config", "text_model_id", "audio_model_id", "audio_latency_block_size"),
            *("audio_model_lora_config", "text_model_lora_config"),
        )
        reader.finish({*handled, *values}, _ONE_VALUE, _IRRELEVANT)
        return reader.build("Ultravox", cls, **values)

    def audio_tokens(self, mel_frames: Count) -> Count:
        """Soft tokens of a chunk of `mel_frames`, the length that `audio_token_len` has."""
        return -(-encoder_frames(mel_frames) // self.stack_factor)


class UltravoxMedia(NamedTuple):
    """Chunks of audio, numbered through the batch, and where they go.

    Attributes:
      audio_values: log-mel spectrograms, shape (chunks, bins, frames).
      audio_lens: mel frames of each chunk before its padding, shape (chunks,).
      audio_token_start_idx: the column of `input_ids` where each chunk's soft tokens begin, shape (chunks,). What
        `input_ids` hold there is overwritten.
      audio_token_len: how many of each chunk's soft tokens are merged, shape (chunks,).
      audio_batch_size: how many chunks belong to each row, shape (batch,) or (batch, 1); 0 for text alone.
    """

    audio_values: jax.Array
    audio_lens: jax.Array
    audio_token_start_idx: jax.Array
    audio_token_len: jax.Array
    audio_batch_size: jax.Array


class Ultravox(Composed):
    """An Ultravox.

    Args:
      config: the parts and constants.
      rngs: for the initial weights; unused under `nnx.eval_shape`.
      dtype: of the activations.
      param_dtype: of the weights.
    """

    Media = UltravoxMedia

    def __init__(
        self,
        config: UltravoxConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.audio_tower = WhisperEncoder(config.audio, **kinds)
        self.projector = _Projector(config, **kinds)
        self.language_model = Llama(config.text, **kinds)

    @property
    def encoder_hook_points(self) -> tuple[str, ...]:
        """As those of `WhisperEncoder`."""
        return self.audio_tower.hook_points

    def _layout(self, input_ids, mask, media, soft_mask) -> Layout:
        columns = media.audio_token_start_idx[:, None] + jnp.arange(soft_mask.shape[1])
        inside = soft_mask & (columns >= 0) & (columns < input_ids.shape[1])
        places = jnp.where(inside, _rows(media)[:, None] * input_ids.shape[1] + columns, input_ids.size)
        soft = jnp.arange(places.size).reshape(places.shape)
        soft = jnp.full(input_ids.size, -1).at[places].set(soft, mode="drop")
        return plain_layout(mask)._replace(soft=soft.reshape(input_ids.shape))

    def _encode(self, media, hooks, *, features, remat):
        values, lengths = self.audio_tower.check_features(media.audio_values, media.audio_lens)
        whole = features or "encoder_output" in hooks.wanted
        states = self.audio_tower.run(values, lengths=lengths, hooks=hooks, whole=whole, remat=remat)
        if states is None or not features:
            return None, None
        return states, jnp.arange(states.shape[1]) < encoder_frames(media.audio_lens)[:, None]

    def _adapt(self, features):
        return self.projector(features)

    def _soft_mask(self, media):
        tokens = self.config.audio_tokens(media.audio_values.shape[-1])
        return jnp.arange(tokens) < media.audio_token_len[:, None]

    def _check_places(self, input_ids, media):
        batch, length = input_ids.shape
        chunks, _, frames = media.audio_values.shape
        for name in ("audio_lens", "audio_token_start_idx", "audio_token_len"):
            if getattr(media, name).shape != (chunks,):
                raise ValueError(f"{name} has shape {getattr(media, name).shape}; give one for each of {chunks} chunks")
        if media.audio_batch_size.size != batch:
            raise ValueError(f"audio_batch_size has {media.audio_batch_size.size} entries for {batch} rows")
        if any(isinstance(array, Tracer) for array in media):
            return
        self.audio_tower.check_features(media.audio_values, media.audio_lens)
        total, tokens = int(media.audio_batch_size.sum()), self.config.audio_tokens(frames)
        if total != chunks or int(media.audio_batch_size.min()) < 0:
            raise ValueError(f"audio_batch_size adds up to {total} chunks, and there are {chunks}")
        taken = np.zeros(input_ids.shape, bool)
        places = (np.asarray(x) for x in (_rows(media), media.audio_token_start_idx, media.audio_token_len))
        for chunk, (row, start, count) in enumerate(zip(*places, strict=True)):
            if not 0 <= count <= tokens:
                raise ValueError(f"audio_token_len[{chunk}] = {count}: {frames} mel frames make {tokens} soft tokens")
            if start < 0 or start + count > length:
                raise ValueError(
                    f"chunk {chunk} of {count} soft tokens from column {start} does not fit in {length} columns"
                )
            if taken[row, start : start + count].any():
                raise ValueError(f"chunk {chunk} overlaps an earlier one, in row {row} from column {start}")
            taken[row, start : start + count] = True


def _rows(media: UltravoxMedia) -> jax.Array:
    """The row that each chunk belongs to."""
    chunks = jnp.arange(media.audio_values.shape[0])
    return jnp.searchsorted(jnp.cumsum(media.audio_batch_size.reshape(-1)), chunks, side="right")


class _Projector(nnx.Module):
    def __init__(self, config: UltravoxConfig, *, rngs, dtype, param_dtype):
        project = linear(rngs, dtype, param_dtype)
        stacked, half = config.audio.d_model * config.stack_factor, config.hidden_size // 2
        self.stack_factor = config.stack_factor
        self.middle = config.projector_ln_mid
        self.ln_pre = RMSNorm(stacked, _PROJECTOR_EPS, param_dtype)
        self.linear_1 = project(stacked, config.hidden_size)
        self.linear_2 = project(half, config.text.hidden_size)
        if self.middle:
            self.ln_mid = RMSNorm(half, _PROJECTOR_EPS, param_dtype)
        else:
            self.ln_post = RMSNorm(config.text.hidden_size, _PROJECTOR_EPS, param_dtype)

    def __call__(self, x):
        chunks, frames, width = x.shape
        x = jnp.pad(x, ((0, 0), (0, -frames % self.stack_factor), (0, 0)))
        x = self.ln_pre(x.reshape(chunks, -1, width * self.stack_factor))
        value, gate = jnp.split(self.linear_1(x), 2, axis=-1)
        x = jax.nn.silu(gate) * value
        if self.middle:
            return self.linear_2(self.ln_mid(x))
        return self.ln_post(self.linear_2(x))
