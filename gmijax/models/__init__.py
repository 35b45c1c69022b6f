"""Decoders and encoders as Flax NNX modules, one model per file, with the numbers of the originals."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from gmijax.models._catalogue import catalogue
from gmijax.models._composed import Composed, ComposedOutput, EncoderOutput, Layout, Merged, SoftTokens, Spans
from gmijax.models._errors import ConfigError
from gmijax.models._keys import KeyRule
from gmijax.models._sharding import tensor_sharding
from gmijax.models.llama import KVSegment, Llama, LlamaConfig, LlamaOutput, RopeScaling
from gmijax.models.llava import Llava, LlavaConfig, LlavaMedia
from gmijax.models.prismatic import Prismatic, PrismaticConfig, PrismaticMedia
from gmijax.models.qwen2_audio import Qwen2Audio, Qwen2AudioConfig, Qwen2AudioMedia
from gmijax.models.ultravox import Ultravox, UltravoxConfig, UltravoxMedia
from gmijax.models.vit import ViT, ViTConfig
from gmijax.models.whisper import WhisperEncoder, WhisperEncoderConfig

__all__ = [
    "Composed",
    "ComposedOutput",
    "ConfigError",
    "EncoderOutput",
    "KVSegment",
    "KeyRule",
    "Layout",
    "Llama",
    "LlamaConfig",
    "LlamaOutput",
    "Llava",
    "LlavaConfig",
    "LlavaMedia",
    "Merged",
    "Prismatic",
    "PrismaticConfig",
    "PrismaticMedia",
    "Qwen2Audio",
    "Qwen2AudioConfig",
    "Qwen2AudioMedia",
    "RopeScaling",
    "SoftTokens",
    "Spans",
    "Ultravox",
    "UltravoxConfig",
    "UltravoxMedia",
    "ViT",
    "ViTConfig",
    "WhisperEncoder",
    "WhisperEncoderConfig",
    "catalogue",
    "load",
    "tensor_sharding",
]


def load(
    path: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    text_model: str | Path | None = None,
    encoder_model: str | Path | None = None,
) -> Any:
    """Loads a published checkpoint.

    Args:
      path: a folder that holds a config.json and its weights, or a GGUF file.
      dtype: of the parameters and the activations.
      text_model: where the language model of a composed model is, if neither in its file nor where its config says.
      encoder_model: likewise for an encoder that is published apart.

    Returns:
      The model, its weights on the default device: a `Llama`, an encoder, or one of the `Composed`.

    Raises:
      CheckpointError: the files are not whole, or do not hold the model that the config describes.
      ConfigError: the config asks for something that the model does not do.
    """
    from gmijax import checkpoints  # reading weights needs libraries that running a model does not

    return checkpoints.load_model(path, dtype=dtype, text_model=text_model, encoder_model=encoder_model)
