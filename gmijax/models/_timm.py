"""Vision transformers as timm names, sizes and stores them."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gmijax.models._config import ConfigReader
from gmijax.models._errors import ConfigError
from gmijax.models._keys import Flatten, KeyRule, affine, dense
from gmijax.models._positions import Resampled
from gmijax.models.vit import ViTConfig

_BLOCK = r"blocks\.(?P<layer>\d+)\."

KEY_MAP: tuple[KeyRule, ...] = (
    KeyRule(r"cls_token", "class_token", transpose=False, convert=Flatten()),
    KeyRule(r"reg_token", "register_tokens", transpose=False, convert=Flatten()),
    KeyRule(r"pos_embed", "positions", transpose=False, convert=Resampled()),
    *dense(r"patch_embed\.proj", "patch"),
    *affine(_BLOCK + "norm1", "layers.attention_norm"),
    *dense(_BLOCK + r"attn\.qkv", "layers.qkv"),
    *dense(_BLOCK + r"attn\.proj", "layers.out"),
    KeyRule(_BLOCK + r"ls1\.gamma", "layers.attention_scale", transpose=False),
    *affine(_BLOCK + "norm2", "layers.mlp_norm"),
    *dense(_BLOCK + r"mlp\.fc1", "layers.fc1"),
    *dense(_BLOCK + r"mlp\.fc2", "layers.fc2"),
    KeyRule(_BLOCK + r"ls2\.gamma", "layers.mlp_scale", transpose=False),
    *affine("norm", "norm"),
)
"""From timm's keys to our leaves."""

IGNORED_KEYS: tuple[str, ...] = (
    r"attn_pool\..*",  # pools the tokens for classification
    r"text\..*",  # the other half of an open_clip file
    r"logit_(scale|bias)",
)
"""Keys that may be left unread."""

RENAMES: tuple[tuple[str, str], ...] = ((r"^visual\.trunk\.", ""),)
"""From open_clip's names to timm's."""

_DINOV2 = ViTConfig(
    hidden_size=1024,
    intermediate_size=4096,
    num_hidden_layers=24,
    num_attention_heads=16,
    image_size=518,
    patch_size=14,
    class_token=True,
    num_register_tokens=4,
    layer_scale=True,
)
_SIGLIP = ViTConfig(
    hidden_size=1152,
    intermediate_size=4304,
    num_hidden_layers=27,
    num_attention_heads=16,
    image_size=224,
    patch_size=14,
)
CONFIGS: dict[str, ViTConfig] = {
    "vit_large_patch14_reg4_dinov2": _DINOV2,
    "vit_so400m_patch14_siglip_224": _SIGLIP,
    "vit_so400m_patch14_siglip_384": replace(_SIGLIP, image_size=384),
}
"""By timm's name of the architecture, at the image size of its weights. The activation is the exact GELU in all."""

_MLP_RATIOS = {"vit_large_patch14_reg4_dinov2": 4.0}
_SIGLIP_RATIO = 3.7362
_OVERRIDES = {"depth": "num_hidden_layers", "embed_dim": "hidden_size", "num_heads": "num_attention_heads"}


def named_config(name: str, *, image_size: int | None = None, overrides: Mapping[str, int] | None = None) -> ViTConfig:
    """The config of an architecture of timm.

    Args:
      name: as timm's, with or without the tag of the weights behind a dot.
      image_size: other than that of the weights, whose positions are then resampled.
      overrides: timm's `depth`, `embed_dim` and `num_heads`, for other sizes.

    Raises:
      ConfigError: if the name or an override is not known.
    """
    name = name.partition(".")[0]
    unknown = sorted({*(overrides or {})} - _OVERRIDES.keys())
    problems = [f"{field}: of a timm model only {', '.join(_OVERRIDES)} can be overridden" for field in unknown]
    if name not in CONFIGS:
        problems.append(f"the timm architecture {name!r} is not one of {', '.join(CONFIGS)}")
    if problems:
        raise ConfigError("timm", problems)
    changes: dict[str, Any] = {_OVERRIDES[field]: value for field, value in (overrides or {}).items()}
    if "hidden_size" in changes:
        changes["intermediate_size"] = int(changes["hidden_size"] * _MLP_RATIOS.get(name, _SIGLIP_RATIO))
    return replace(CONFIGS[name], image_size=image_size or CONFIGS[name].image_size, **changes)


def read_config(config: Mapping[str, Any]) -> ViTConfig:
    """Reads the config.json of a timm repository: its `architecture`.

    Raises:
      ConfigError: if the architecture is not known.
    """
    reader = ConfigReader(config)
    noise = ("global_pool", "num_classes", "num_features", "pretrained_cfg", "model_args")
    reader.finish(("architecture",), {"model_args": None}, noise)
    return reader.build("timm", lambda: named_config(str(config.get("architecture"))))
