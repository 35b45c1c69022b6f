"""Prismatic VLMs: a vision transformer of timm (DINOv2 or SigLIP), a projector, and Vicuna.

Numbers follow TRI-ML/prismatic-vlms at 874c5bb with timm 0.9.10.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike

from gmijax.models import _timm, llama
from gmijax.models._composed import Composed, Layout
from gmijax.models._config import ConfigReader
from gmijax.models._errors import ConfigError
from gmijax.models._keys import KeyRule, dense, prefixed
from gmijax.models._layers import linear
from gmijax.models.llama import Llama, LlamaConfig
from gmijax.models.vit import ViT, ViTConfig

KEY_MAP: tuple[KeyRule, ...] = (
    *prefixed(_timm.KEY_MAP, r"vision_backbone\.", "vision_backbone"),
    *dense(r"projector\.projector", "projector.linear_0"),
    *(rule for i in range(3) for rule in dense(rf"projector\.projector\.{2 * i}", f"projector.linear_{i}")),
    *prefixed(llama.KEY_MAP, r"language_model\.", "language_model"),
)
"""From the published keys, after `RENAMES`, to our leaves."""

IGNORED_KEYS: tuple[str, ...] = (
    *(r"vision_backbone\." + pattern for pattern in _timm.IGNORED_KEYS),
    *(r"language_model\." + pattern for pattern in llama.IGNORED_KEYS),
)
"""Keys that may be left unread."""

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^vision_backbone\.featurizer\.(visual\.trunk\.)?", "vision_backbone."),
    (r"^llm_backbone\.llm\.", "language_model."),
)
"""From the published keys, and open_clip's, to those of `KEY_MAP`."""

VISION_BACKBONES: dict[str, tuple[str, int]] = {
    "dinov2-vit-l": ("vit_large_patch14_reg4_dinov2.lvd142m", 224),
    "siglip-vit-so400m": ("vit_so400m_patch14_siglip_224", 224),
    "siglip-vit-so400m-384px": ("vit_so400m_patch14_siglip_384", 384),
}
"""By Prismatic's name, timm's name and the image size at which it is run."""

LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "vicuna-v15-7b": {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "pad_token_id": 0},
}
"""By Prismatic's name, the published config of the language model before a token is added to it."""

_PROJECTORS = ("linear", "gelu-mlp", "fused-gelu-mlp")
_VOCABULARY_STEP = 64  # one token is added, and the table padded to a multiple of this


@dataclass(frozen=True)
class PrismaticConfig:
    """The parts and the constants of a Prismatic VLM.

    Attributes:
      text: of the language model.
      vision: of the encoder. The adapter receives the patches of its last block but one, not normed.
      projector: "linear", "gelu-mlp" or "fused-gelu-mlp": one, two or three linear layers with GELUs between them.
      resize_strategy: how images are prepared; the model itself does not read it.

    Raises:
      ConfigError: the values contradict each other.
    """

    text: LlamaConfig
    vision: ViTConfig
    projector: str = "gelu-mlp"
    resize_strategy: str = "letterbox"

    def __post_init__(self):
        problems = []
        if self.vision.num_hidden_layers < 2:
            problems.append(f"the encoder has {self.vision.num_hidden_layers} blocks; its last but one is read")
        if self.projector not in _PROJECTORS:
            problems.append(f"projector = {self.projector!r} is not one of {', '.join(_PROJECTORS)}")
        if problems:
            raise ConfigError("Prismatic", problems)

    @classmethod
    def from_prismatic(cls, config: Mapping[str, Any]) -> "PrismaticConfig":
        """Reads what Prismatic's config.json holds under "model".

        Args:
          config: the decoded JSON object; besides it may hold `text_config`, the Hugging Face config of the language
            model before the padding token is added, and `vision_config`, with timm's `timm_name`, `timm_overrides`
            and the `default_image_size` at which it is run. By default both are those that the names stand for.

        Raises:
          ConfigError: listing every field that is unknown or not supported, in the parts too.
        """
        reader = ConfigReader(config)
        arch = str(config.get("arch_specifier", "no-align+gelu-mlp"))
        kind = next((kind for kind in sorted(_PROJECTORS, key=len, reverse=True) if arch.endswith(kind)), None)
        if kind is None:
            reader.problems.append(f"arch_specifier = {arch!r}: ends in none of {', '.join(_PROJECTORS)}")
            kind = "gelu-mlp"
        values = {
            "text": reader.part("text_config", lambda part: _read_text(part, config.get("llm_backbone_id"))),
            "vision": reader.part("vision_config", lambda part: _read_vision(part, config.get("vision_backbone_id"))),
            "resize_strategy": str(config.get("image_resize_strategy", "letterbox")),
        }
        if values["resize_strategy"] not in ("letterbox", "resize-naive", "resize-crop"):
            reader.problems.append(f"image_resize_strategy = {values['resize_strategy']!r} is not known")
        handled = ("arch_specifier", "image_resize_strategy", "llm_backbone_id", "text_config", "tie_word_embeddings")
        training = [name for name in config if name.startswith(("align_", "finetune_", "enable_"))]
        noise = (*training, "llm_max_length", "model_id", "reduce_in_full_precision", "type")
        reader.finish((*handled, "vision_backbone_id", "vision_config"), {}, noise)
        return reader.build("Prismatic", cls, projector=kind, **values)


def _read_text(part: Mapping[str, Any], name: Any) -> LlamaConfig:
    if not part:
        if name not in LANGUAGE_MODELS:
            known = ", ".join(LANGUAGE_MODELS)
            raise ConfigError("Prismatic", [f"llm_backbone_id = {name!r} is not one of {known}; give its config"])
        part = LANGUAGE_MODELS[name]
    base = LlamaConfig.from_hf(part).vocab_size
    return LlamaConfig.from_hf({**part, "vocab_size": -(-(base + 1) // _VOCABULARY_STEP) * _VOCABULARY_STEP})


def _read_vision(part: Mapping[str, Any], name: Any) -> ViTConfig:
    timm_name, size = VISION_BACKBONES.get(name, (None, None))
    unknown = sorted({*part} - {"timm_name", "timm_overrides", "default_image_size", "native_image_size"})
    problems = [f"{field} is not known" for field in unknown]
    timm_name = part.get("timm_name", timm_name)
    if timm_name is None:
        problems.append(f"vision_backbone_id = {name!r} is not one of {', '.join(VISION_BACKBONES)}")
    if problems:
        raise ConfigError("Prismatic", problems)
    size = part.get("default_image_size", size)
    return _timm.named_config(str(timm_name), image_size=size, overrides=part.get("timm_overrides"))


class PrismaticMedia(NamedTuple):
    """Images.

    Attributes:
      pixel_values: shape (B, 3, height, width), preprocessed: one image for each row of `input_ids`.
      multimodal_indices: the rows that get their image; None for all. Only these become items, in this order.
    """

    pixel_values: jax.Array
    multimodal_indices: jax.Array | None = None


class Prismatic(Composed):
    """A Prismatic VLM.

    There is no placeholder: the patches follow the first token of their row. As in the original, the rows of
    `multimodal_indices` come first in every output, then those of text alone; `layout.rows` says which is which.
    With padding on the left the original puts the patches behind the first column; here they follow the first token,
    so that padding changes nothing on either side.

    Args:
      config: the parts and constants.
      rngs: for the initial weights; unused under `nnx.eval_shape`.
      dtype: of the activations.
      param_dtype: of the weights.
    """

    Media = PrismaticMedia

    def __init__(
        self,
        config: PrismaticConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.vision_backbone = ViT(config.vision, **kinds)
        self.projector = _Projector(config, **kinds)
        self.language_model = Llama(config.text, **kinds)

    @property
    def encoder_hook_points(self) -> tuple[str, ...]:
        """As those of `ViT`, except that `encoder_output` is what the adapter receives."""
        return self.vision_backbone.hook_points

    def _encode(self, media, hooks, *, features, remat):
        vision = self.config.vision
        source = f"encoder_hidden_{vision.num_hidden_layers - 2}"
        needed = features or "encoder_output" in hooks.wanted
        pixels = self.vision_backbone.check_pixels(media.pixel_values)
        pixels = pixels if media.multimodal_indices is None else pixels[media.multimodal_indices]
        with hooks.also(*[source] * needed):
            depth = hooks.deepest("encoder_hidden_") + 1
            self.vision_backbone.run(pixels, hooks=hooks, depth=depth, remat=remat)
        if not needed:
            return None, None
        states = hooks.states[source][:, vision.prefix :]
        mask = jnp.ones(states.shape[:2], bool)
        return hooks.visit("encoder_output", states, mask), mask

    def _adapt(self, features):
        return self.projector(features)

    def _soft_mask(self, media):
        items = media.pixel_values if media.multimodal_indices is None else media.multimodal_indices
        return jnp.ones((len(items), self.config.vision.patches), bool)

    def _layout(self, input_ids, mask, media, soft_mask) -> Layout:
        (batch, length), (items, patches) = input_ids.shape, soft_mask.shape
        chosen = jnp.arange(batch) if media.multimodal_indices is None else media.multimodal_indices
        others = jnp.nonzero(~jnp.isin(jnp.arange(batch), chosen), size=batch - items)[0]
        rows = jnp.concatenate([chosen, others])
        # The image goes behind the first token; in a row of text alone, its columns are empty and at the end.
        start = jnp.where(jnp.arange(batch) < items, jnp.argmax(mask[rows], axis=1) + 1, length)[:, None]
        column = jnp.arange(length + patches)[None]
        behind = column >= start + patches
        columns = jnp.where(column < start, column, jnp.where(behind, column - patches, -1))
        patch = jnp.arange(batch)[:, None] * patches + column - start
        soft = jnp.where((columns < 0) & (jnp.arange(batch) < items)[:, None], patch, -1)
        attended = jnp.take_along_axis(mask[rows], jnp.maximum(columns, 0), axis=1)
        return Layout(rows, columns, soft, jnp.where(columns >= 0, attended, soft >= 0))

    def _check_places(self, input_ids, media):
        rows, images, chosen = len(input_ids), len(media.pixel_values), media.multimodal_indices
        if images != rows:
            raise ValueError(f"pixel_values hold {images} images for the {rows} rows of input_ids; give one for each")
        if chosen is None or isinstance(chosen, Tracer):
            return
        values = np.asarray(chosen)
        if values.ndim != 1 or len(np.unique(values)) < len(values) or not ((values >= 0) & (values < rows)).all():
            raise ValueError(f"multimodal_indices = {values.tolist()}: give different rows of the {rows} of input_ids")


class _Projector(nnx.Module):
    def __init__(self, config: PrismaticConfig, *, rngs, dtype, param_dtype):
        project = linear(rngs, dtype, param_dtype, use_bias=True)
        vision, text = config.vision.hidden_size, config.text.hidden_size
        inner = {"linear": (), "gelu-mlp": (text,), "fused-gelu-mlp": (4 * vision, text)}[config.projector]
        widths = (vision, *inner, text)
        self.depth = len(widths) - 1
        for i in range(self.depth):
            setattr(self, f"linear_{i}", project(widths[i], widths[i + 1]))

    def __call__(self, x):
        for i in range(self.depth):
            x = jax.nn.gelu(x, approximate=False) if i else x
            x = getattr(self, f"linear_{i}")(x)
        return x
