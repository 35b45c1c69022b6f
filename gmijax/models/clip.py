"""CLIP's vision tower, the encoder of LLaVA, in Hugging Face's layout.

Numbers follow the implementation in transformers 5.23.
"""

from collections.abc import Mapping
from typing import Any

from gmijax.models._config import ConfigReader
from gmijax.models._keys import KeyRule, affine, dense
from gmijax.models.vit import ViTConfig

_ROOT = r"vision_model\."
_LAYER = _ROOT + r"encoder\.layers\.(?P<layer>\d+)\."


KEY_MAP: tuple[KeyRule, ...] = (
    KeyRule(_ROOT + r"embeddings\.class_embedding", "class_token", transpose=False),
    *dense(_ROOT + r"embeddings\.patch_embedding", "patch"),
    KeyRule(_ROOT + r"embeddings\.position_embedding\.weight", "positions", transpose=False),
    *affine(_ROOT + r"pre_layrnorm", "pre_norm"),
    *affine(_LAYER + r"layer_norm1", "layers.attention_norm"),
    *(rule for i, n in enumerate("qkv") for rule in dense(_LAYER + rf"self_attn\.{n}_proj", "layers.qkv", (i, 3))),
    *dense(_LAYER + r"self_attn\.out_proj", "layers.out"),
    *affine(_LAYER + r"layer_norm2", "layers.mlp_norm"),
    *(rule for n in ("fc1", "fc2") for rule in dense(_LAYER + rf"mlp\.{n}", f"layers.{n}")),
    *affine(_ROOT + r"post_layernorm", "norm"),
)
"""From Hugging Face's keys to our leaves, for CLIP and SigLIP. A rule whose leaf a model lacks is void for it."""

IGNORED_KEYS: tuple[str, ...] = (
    r"vision_model\.embeddings\.position_ids",  # 0 to n, stored by old checkpoints
    r"text_model\..*",  # the other half of a whole model
    r"(text|visual)_projection\.weight",
    r"logit_(scale|bias)",
)
"""Keys that may be left unread."""

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^(embeddings|encoder|pre_layrnorm|post_layernorm|head)\.", r"vision_model.\1."),
)
"""From the names of the modules in transformers 5 to the published ones."""

_ONE_VALUE: dict[str, Any] = {"model_type": "clip_vision_model"}
_IRRELEVANT = ("dropout", "initializer_factor", "projection_dim", "vocab_size")


def read_config(config: Mapping[str, Any]) -> ViTConfig:
    """Reads a vision_config; absent fields take the defaults of transformers' CLIPVisionConfig.

    Args:
      config: a vision_config, or a config that holds one.

    Raises:
      ConfigError: listing every field that is unknown or not supported.
    """
    config = config.get("vision_config", config)
    reader = ConfigReader(config)
    activation = reader.choose("hidden_act", "quick_gelu", {"quick_gelu": "quick_gelu", "gelu": "gelu"})
    values = {
        "hidden_size": reader.take("hidden_size", int, 768),
        "intermediate_size": reader.take("intermediate_size", int, 3072),
        "num_hidden_layers": reader.take("num_hidden_layers", int, 12),
        "num_attention_heads": reader.take("num_attention_heads", int, 12),
        "num_channels": reader.take("num_channels", int, 3),
        "image_size": reader.take("image_size", int, 224),
        "patch_size": reader.take("patch_size", int, 32),
        "layer_norm_eps": reader.take("layer_norm_eps", float, 1e-5),
    }
    reader.finish({*values, "hidden_act"}, _ONE_VALUE, _IRRELEVANT)
    fixed = {"class_token": True, "class_position": True, "patch_bias": False, "pre_norm": True}
    return reader.build("CLIP", ViTConfig, activation=activation, **fixed, **values)
