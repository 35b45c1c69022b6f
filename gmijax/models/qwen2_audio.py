"""Qwen2-Audio: Whisper's encoder with pooled frames, one linear layer, and Qwen2.

Numbers follow the implementation in transformers 5.23.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gmijax.models import llama, whisper
from gmijax.models._composed import Composed, Layout, check_placeholders, placeholder_layout
from gmijax.models._config import ConfigReader
from gmijax.models._errors import ConfigError
from gmijax.models._keys import KeyRule, prefixed
from gmijax.models._layers import linear
from gmijax.models.llama import Llama, LlamaConfig
from gmijax.models.whisper import Count, WhisperEncoder, WhisperEncoderConfig, pooled_frames

KEY_MAP: tuple[KeyRule, ...] = (
    *prefixed(whisper.KEY_MAP, r"audio_tower\.", "audio_tower"),
    KeyRule(r"multi_modal_projector\.linear\.weight", "projector.kernel", transpose=True),
    KeyRule(r"multi_modal_projector\.linear\.bias", "projector.bias", transpose=False),
    *prefixed(llama.KEY_MAP, r"language_model\.", "language_model"),
)
"""From the published keys to our leaves."""

IGNORED_KEYS: tuple[str, ...] = tuple(r"language_model\." + pattern for pattern in llama.IGNORED_KEYS)
"""Keys that may be left unread."""

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^model\.(language_model|audio_tower|multi_modal_projector)\.", r"\1."),
    (r"^language_model\.(?!model\.|lm_head\.)", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
)
"""From the names of the modules in transformers 5 to the published ones."""

_ONE_VALUE: dict[str, Any] = {"ignore_index": -100, "model_type": "qwen2_audio"}
_IRRELEVANT = ("bos_token_id", "eos_token_id", "pad_token_id", "vocab_size")


@dataclass(frozen=True)
class Qwen2AudioConfig:
    """The parts and the constants of a Qwen2-Audio.

    Attributes:
      text: of the language model.
      audio: of the encoder.
      audio_token_id: the placeholder in `input_ids`, one for each soft token.

    Raises:
      ConfigError: the values contradict each other.
    """

    text: LlamaConfig
    audio: WhisperEncoderConfig
    audio_token_id: int = 151646

    def __post_init__(self):
        problems = []
        if not self.audio.pooled:
            problems.append("audio is not pooled, as Qwen2-Audio's encoder is")
        if self.audio.latency_block_size is not None:
            problems.append("audio has a latency_block_size, which only Ultravox's encoder has")
        if self.audio_token_id < 0:
            problems.append(f"audio_token_index = {self.audio_token_id}: must not be negative")
        if problems:
            raise ConfigError("Qwen2-Audio", problems)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "Qwen2AudioConfig":
        """Reads the content of a Hugging Face config.json, as transformers 4 or 5 writes it.

        Args:
          config: the decoded JSON object.

        Raises:
          ConfigError: listing every unknown field, every value that is not supported, and everything that is
            missing or inconsistent, in the parts too.
        """
        reader = ConfigReader(config)

        def read_text(part: Mapping[str, Any]) -> LlamaConfig:
            return LlamaConfig.from_hf({"model_type": "qwen2", **part})

        def read_audio(part: Mapping[str, Any]) -> WhisperEncoderConfig:
            return WhisperEncoderConfig.from_hf({"model_type": "qwen2_audio_encoder", **part})

        values = {
            "text": reader.part("text_config", read_text),
            "audio": reader.part("audio_config", read_audio),
            "audio_token_id": reader.either("audio_token_id", "audio_token_index", int, 151646),
        }
        handled = ("text_config", "audio_config", "audio_token_id", "audio_token_index", "tie_word_embeddings")
        reader.finish(handled, _ONE_VALUE, _IRRELEVANT)
        return reader.build("Qwen2-Audio", cls, **values)

    def audio_tokens(self, mel_frames: Count) -> Count:
        """Soft tokens of a clip of `mel_frames` before its padding; clips of 1 or 2 frames have none."""
        return pooled_frames(mel_frames)


class Qwen2AudioMedia(NamedTuple):
    """Clips, in the order of their placeholders.

    Attributes:
      input_features: log-mel spectrograms, shape (clips, bins, frames), padded to the full length.
      feature_attention_mask: shape (clips, frames), 1 at the frames of a clip and 0 at its padding, on the right.
    """

    input_features: jax.Array
    feature_attention_mask: jax.Array


class Qwen2Audio(Composed):
    """A Qwen2-Audio.

    A clip needs one placeholder for each of its soft tokens: the original's older form, one placeholder a clip, is
    refused.

    Args:
      config: the parts and constants.
      rngs: for the initial weights; unused under `nnx.eval_shape`.
      dtype: of the activations.
      param_dtype: of the weights.
    """

    Media = Qwen2AudioMedia

    def __init__(
        self,
        config: Qwen2AudioConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.audio_tower = WhisperEncoder(config.audio, **kinds)
        self.projector = linear(**kinds, use_bias=True)(config.audio.d_model, config.text.hidden_size)
        self.language_model = Llama(config.text, **kinds)

    @property
    def encoder_hook_points(self) -> tuple[str, ...]:
        """As those of `WhisperEncoder`; `encoder_output` is pooled."""
        return self.audio_tower.hook_points

    def _layout(self, input_ids, mask, media, soft_mask) -> Layout:
        return placeholder_layout(input_ids, mask, self.config.audio_token_id, soft_mask)

    def _encode(self, media, hooks, *, features, remat):
        values, lengths = self.audio_tower.check_features(media.input_features, _lengths(media))
        whole = features or "encoder_output" in hooks.wanted
        states = self.audio_tower.run(values, lengths=lengths, hooks=hooks, whole=whole, remat=remat)
        return (states, self._soft_mask(media)) if features else (None, None)

    def _adapt(self, features):
        return self.projector(features)

    def _soft_mask(self, media):
        tokens = self.config.audio.max_source_positions // 2
        return jnp.arange(tokens) < self.config.audio_tokens(_lengths(media))[:, None]

    def _check_places(self, input_ids, media):
        self.audio_tower.check_features(media.input_features, _lengths(media))
        check_placeholders(input_ids, self.config.audio_token_id, self._soft_mask(media), "the clips")


def _lengths(media: Qwen2AudioMedia) -> jax.Array:
    """Mel frames of each clip before its padding."""
    return jnp.sum(media.feature_attention_mask, axis=1)
