"""Decoders and encoders as Flax NNX modules, one model per file, with the numbers of the originals."""

from pathlib import Path
from typing import cast

import jax.numpy as jnp
from jax.typing import DTypeLike

from gmijax.models._errors import ConfigError
from gmijax.models._keys import KeyRule
from gmijax.models.llama import KVSegment, Llama, LlamaConfig, LlamaOutput, RopeScaling
from gmijax.models.whisper import WhisperEncoder, WhisperEncoderConfig

__all__ = [
    "ConfigError",
    "KVSegment",
    "KeyRule",
    "Llama",
    "LlamaConfig",
    "LlamaOutput",
    "RopeScaling",
    "WhisperEncoder",
    "WhisperEncoderConfig",
    "load",
]


def load(path: str | Path, *, dtype: DTypeLike = jnp.float32) -> Llama:
    """Loads a published checkpoint.

    Args:
      path: a folder that holds a config.json and its weights.
      dtype: of the parameters and the activations.

    Returns:
      The model, its weights on the default device.

    Raises:
      ConfigError: the config asks for something that the model does not do.
    """
    from gmijax import checkpoints  # reading weights needs libraries that running a model does not

    return cast(Llama, checkpoints.load_model(path, dtype=dtype))
