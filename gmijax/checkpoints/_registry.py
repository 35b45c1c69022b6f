"""Which model class a checkpoint asks for."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from flax import nnx

from gmijax.checkpoints._errors import CheckpointError
from gmijax.checkpoints._source import Checkpoint
from gmijax.models import KeyRule, Llama, LlamaConfig, llama


class Family(NamedTuple):
    """What is needed to build one model class and to fill it.

    Attributes:
      config: the config class, with `from_hf(mapping)`.
      model: the NNX module class, called as `model(config, rngs=, dtype=, param_dtype=)`.
      key_map: from the checkpoint's keys to the module's leaves.
      ignored: patterns of keys that may be left unread.
      copies: keys that may repeat another key's tensor, where the model has one leaf for both.
    """

    config: Any
    model: Callable[..., nnx.Module]
    key_map: tuple[KeyRule, ...]
    ignored: tuple[str, ...]
    copies: Mapping[str, str]


_LLAMA = Family(LlamaConfig, Llama, llama.KEY_MAP, llama.IGNORED_KEYS, {"lm_head.weight": "model.embed_tokens.weight"})
_BY_ARCHITECTURE = {"LlamaForCausalLM": _LLAMA}
_BY_MODEL_TYPE = {"llama": _LLAMA}


def find_family(checkpoint: Checkpoint) -> Family:
    """Finds the model family of a checkpoint by `architectures`, or by `model_type` where that is absent.

    Raises:
      CheckpointError: if the config names no family that is known.
    """
    architectures = checkpoint.config.get("architectures") or []
    for architecture in architectures:
        if architecture in _BY_ARCHITECTURE:
            return _BY_ARCHITECTURE[architecture]
    model_type = checkpoint.config.get("model_type")
    if not architectures and model_type in _BY_MODEL_TYPE:
        return _BY_MODEL_TYPE[model_type]
    message = (
        f"its config names the architectures {architectures} and the model_type {model_type!r}; known are the"
        f" architectures {', '.join(_BY_ARCHITECTURE)} and the model types {', '.join(_BY_MODEL_TYPE)}"
    )
    raise CheckpointError(checkpoint.path, [message])
