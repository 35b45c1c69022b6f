"""Which model class a checkpoint asks for."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from flax import nnx

from gmijax.checkpoints._assemble import alone, prismatic, with_audio_and_text_model, with_text_model
from gmijax.checkpoints._errors import CheckpointError
from gmijax.checkpoints._source import Checkpoint
from gmijax.models import (
    KeyRule,
    Llama,
    LlamaConfig,
    Llava,
    LlavaConfig,
    Prismatic,
    PrismaticConfig,
    Qwen2Audio,
    Qwen2AudioConfig,
    Ultravox,
    UltravoxConfig,
    ViT,
    WhisperEncoder,
    WhisperEncoderConfig,
    _timm,
    clip,
    dinov2,
    llama,
    llava,
    qwen2_audio,
    siglip,
    ultravox,
    whisper,
)
from gmijax.models import prismatic as prismatic_model


class Family(NamedTuple):
    """What is needed to build one model class and to fill it.

    Attributes:
      read_config: from what the checkpoint's config holds to the model's config.
      model: the NNX module class, called as `model(config, rngs=, dtype=, param_dtype=)`.
      key_map: from the checkpoint's keys to the module's leaves.
      ignored: patterns of keys that may be left unread.
      copies: keys that may repeat another key's tensor, where the model has one leaf for both.
      renames: regular expressions and what to put for them, applied to every key in turn: other namings of the same
        layout. `key_map`, `ignored` and `copies` know one naming only.
      assemble: finds the parts of the model that lie elsewhere; called with the checkpoint, `text_model` and
        `encoder_model`.
    """

    read_config: Callable[[Mapping[str, Any]], Any]
    model: Callable[..., nnx.Module]
    key_map: tuple[KeyRule, ...]
    ignored: tuple[str, ...]
    copies: Mapping[str, str] = {}
    renames: tuple[tuple[str, str], ...] = ()
    assemble: Callable[[Checkpoint, Path | None, Path | None], Checkpoint] = alone

    def canonical(self, key: str) -> str:
        """The key in the naming that `key_map` knows."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key


_TIED = {"lm_head.weight": "model.embed_tokens.weight"}
_TIED_INSIDE = {f"language_model.{copy}": f"language_model.{original}" for copy, original in _TIED.items()}

_LLAMA = Family(LlamaConfig.from_hf, Llama, llama.KEY_MAP, llama.IGNORED_KEYS, _TIED)
_LLAVA = Family(
    LlavaConfig.from_hf, Llava, llava.KEY_MAP, llava.IGNORED_KEYS, _TIED_INSIDE, llava.RENAMES, with_text_model
)
_PRISMATIC = Family(
    PrismaticConfig.from_prismatic,
    Prismatic,
    prismatic_model.KEY_MAP,
    prismatic_model.IGNORED_KEYS,
    _TIED_INSIDE,
    prismatic_model.RENAMES,
    prismatic,
)
_QWEN2_AUDIO = Family(
    Qwen2AudioConfig.from_hf,
    Qwen2Audio,
    qwen2_audio.KEY_MAP,
    qwen2_audio.IGNORED_KEYS,
    _TIED_INSIDE,
    qwen2_audio.RENAMES,
    with_text_model,
)
_ULTRAVOX = Family(
    UltravoxConfig.from_hf,
    Ultravox,
    ultravox.KEY_MAP,
    ultravox.IGNORED_KEYS,
    _TIED_INSIDE,
    ultravox.RENAMES,
    with_audio_and_text_model,
)
_WHISPER = Family(
    WhisperEncoderConfig.from_hf, WhisperEncoder, whisper.KEY_MAP, whisper.IGNORED_KEYS, renames=whisper.RENAMES
)
_CLIP = Family(clip.read_config, ViT, clip.KEY_MAP, clip.IGNORED_KEYS, renames=clip.RENAMES)
_SIGLIP = Family(siglip.read_config, ViT, siglip.KEY_MAP, siglip.IGNORED_KEYS, renames=siglip.RENAMES)
_DINOV2 = Family(dinov2.read_config, ViT, dinov2.KEY_MAP, dinov2.IGNORED_KEYS, renames=dinov2.RENAMES)
_TIMM = Family(_timm.read_config, ViT, _timm.KEY_MAP, _timm.IGNORED_KEYS, renames=_timm.RENAMES)
_BY_ARCHITECTURE = {
    "CLIPModel": _CLIP,
    "CLIPVisionModel": _CLIP,
    "Dinov2Model": _DINOV2,
    "Dinov2WithRegistersModel": _DINOV2,
    "LlamaForCausalLM": _LLAMA,
    "LlavaForConditionalGeneration": _LLAVA,
    "Qwen2AudioForConditionalGeneration": _QWEN2_AUDIO,
    "Qwen2ForCausalLM": _LLAMA,
    "SiglipModel": _SIGLIP,
    "SiglipVisionModel": _SIGLIP,
    "UltravoxModel": _ULTRAVOX,
    "WhisperForConditionalGeneration": _WHISPER,
}
_BY_MODEL_TYPE = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "llama": _LLAMA,
    "llava": _LLAVA,
    "qwen2": _LLAMA,
    "qwen2_audio": _QWEN2_AUDIO,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "ultravox": _ULTRAVOX,
    "whisper": _WHISPER,
}


def find_family(path: Path, config: Mapping[str, Any]) -> Family:
    """Finds the model family of a config by `architectures`, or by `model_type` where that is absent.

    Args:
      path: of the checkpoint, for the message.
      config: what its config.json holds.

    Raises:
      CheckpointError: if the config names no family that is known.
    """
    if "vision_backbone_id" in (config.get("model") or config):
        return _PRISMATIC
    if "architecture" in config:
        return _TIMM
    architectures = config.get("architectures") or []
    for architecture in architectures:
        if architecture in _BY_ARCHITECTURE:
            return _BY_ARCHITECTURE[architecture]
    model_type = config.get("model_type")
    if not architectures and model_type in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[model_type]
    message = (
        f"its config names the architectures {architectures} and the model_type {model_type!r}; known are the"
        f" architectures {', '.join(_BY_ARCHITECTURE)}, the model types {', '.join(_BY_MODEL_TYPE)}, and the configs"
        " of Prismatic and of timm"
    )
    raise CheckpointError(path, [message])
