"""DINOv2, with or without registers, in Hugging Face's layout.

Numbers follow the implementation in transformers 5.23, at the image size of the config. timm's DINOv2, which Prismatic
takes, keeps its positions for another size and gives the class token none: its weights are those of
`gmijax.models.prismatic`.
"""

from collections.abc import Mapping
from typing import Any

from gmijax.models._config import ConfigReader
from gmijax.models._keys import Flatten, KeyRule, affine, dense
from gmijax.models.vit import ViTConfig

_LAYER = r"encoder\.layer\.(?P<layer>\d+)\."
_QKV = ("query", "key", "value")

KEY_MAP: tuple[KeyRule, ...] = (
    KeyRule(r"embeddings\.cls_token", "class_token", transpose=False, convert=Flatten()),
    KeyRule(r"embeddings\.register_tokens", "register_tokens", transpose=False, convert=Flatten()),
    KeyRule(r"embeddings\.position_embeddings", "positions", transpose=False, convert=Flatten()),
    *dense(r"embeddings\.patch_embeddings\.projection", "patch"),
    *affine(_LAYER + "norm1", "layers.attention_norm"),
    *(rule for i, n in enumerate(_QKV) for rule in dense(_LAYER + rf"attention\.attention\.{n}", "layers.qkv", (i, 3))),
    *dense(_LAYER + r"attention\.output\.dense", "layers.out"),
    KeyRule(_LAYER + r"layer_scale1\.lambda1", "layers.attention_scale", transpose=False),
    *affine(_LAYER + "norm2", "layers.mlp_norm"),
    *dense(_LAYER + r"mlp\.fc1", "layers.fc1"),
    *dense(_LAYER + r"mlp\.fc2", "layers.fc2"),
    KeyRule(_LAYER + r"layer_scale2\.lambda1", "layers.mlp_scale", transpose=False),
    *affine("layernorm", "norm"),
)
"""From Hugging Face's keys to our leaves."""

IGNORED_KEYS: tuple[str, ...] = (r"embeddings\.mask_token", r"classifier\..*")
"""Keys that may be left unread."""

RENAMES: tuple[tuple[str, str], ...] = ((r"^dinov2(_with_registers)?\.", ""),)

_ONE_VALUE: dict[str, Any] = {"qkv_bias": True, "use_swiglu_ffn": False}
_IRRELEVANT = (
    *("apply_layernorm", "attention_probs_dropout_prob", "drop_path_rate", "hidden_dropout_prob", "layerscale_value"),
    *("out_features", "out_indices", "reshape_hidden_states", "stage_names", "use_mask_token"),
)


def read_config(config: Mapping[str, Any]) -> ViTConfig:
    """Reads a config; absent fields take the defaults of transformers' classes.

    Args:
      config: of the model_type "dinov2" or "dinov2_with_registers".

    Raises:
      ConfigError: listing every field that is unknown or not supported.
    """
    reader = ConfigReader(config)
    kind = reader.choose("model_type", "dinov2", {"dinov2": "", "dinov2_with_registers": "registers"})
    width = reader.take("hidden_size", int, 768)
    ratio = reader.take("mlp_ratio", float, 4.0)
    values = {
        "hidden_size": width,
        "intermediate_size": int(width * ratio),
        "num_hidden_layers": reader.take("num_hidden_layers", int, 12),
        "num_attention_heads": reader.take("num_attention_heads", int, 12),
        "num_channels": reader.take("num_channels", int, 3),
        "image_size": reader.take("image_size", int, 224),
        "patch_size": reader.take("patch_size", int, 16 if kind else 14),
        "layer_norm_eps": reader.take("layer_norm_eps", float, 1e-6),
        "num_register_tokens": reader.take("num_register_tokens", int, 4 if kind else 0),
    }
    activation = reader.choose("hidden_act", "gelu", {"gelu": "gelu"})
    reader.finish({*values, "hidden_act", "mlp_ratio", "model_type"} - {"intermediate_size"}, _ONE_VALUE, _IRRELEVANT)
    fixed = {"class_token": True, "class_position": True, "layer_scale": True}
    return reader.build("DINOv2", ViTConfig, activation=activation, **fixed, **values)
