"""SigLIP's vision tower in Hugging Face's layout.

Numbers follow the implementation in transformers 5.23, whose MLP uses the tanh form of the GELU. timm's SigLIP, which
Prismatic takes, uses the exact one: its weights are those of `gmijax.models.prismatic`.
"""

from collections.abc import Mapping
from typing import Any

from gmijax.models import clip
from gmijax.models._config import ConfigReader
from gmijax.models._keys import KeyRule
from gmijax.models.vit import ViTConfig

KEY_MAP: tuple[KeyRule, ...] = clip.KEY_MAP
"""From Hugging Face's keys to our leaves: CLIP's, without the rules whose leaves SigLIP lacks."""

IGNORED_KEYS: tuple[str, ...] = (*clip.IGNORED_KEYS, r"vision_model\.head\..*")
"""Keys that may be left unread: among others the pooling for classification."""

RENAMES = clip.RENAMES

_ONE_VALUE: dict[str, Any] = {"model_type": "siglip_vision_model"}
_IRRELEVANT = ("initializer_factor", "vision_use_head")


def read_config(config: Mapping[str, Any]) -> ViTConfig:
    """Reads a vision_config; absent fields take the defaults of transformers' SiglipVisionConfig.

    Args:
      config: a vision_config, or a config that holds one.

    Raises:
      ConfigError: listing every field that is unknown or not supported.
    """
    config = config.get("vision_config", config)
    reader = ConfigReader(config)
    values = {
        "hidden_size": reader.take("hidden_size", int, 768),
        "intermediate_size": reader.take("intermediate_size", int, 3072),
        "num_hidden_layers": reader.take("num_hidden_layers", int, 12),
        "num_attention_heads": reader.take("num_attention_heads", int, 12),
        "num_channels": reader.take("num_channels", int, 3),
        "image_size": reader.take("image_size", int, 224),
        "patch_size": reader.take("patch_size", int, 16),
        "layer_norm_eps": reader.take("layer_norm_eps", float, 1e-6),
    }
    activation = reader.choose("hidden_act", "gelu_pytorch_tanh", {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"})
    reader.finish({*values, "hidden_act"}, _ONE_VALUE, _IRRELEVANT)
    return reader.build("SigLIP", ViTConfig, activation=activation, **values)
