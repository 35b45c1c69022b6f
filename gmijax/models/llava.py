"""LLaVA 1.5: CLIP, a projector of two layers, and Vicuna.

Numbers follow the implementation in transformers 5.23.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gmijax.models import clip, llama
from gmijax.models._composed import Composed, Layout, check_placeholders, placeholder_layout
from gmijax.models._config import ConfigReader
from gmijax.models._errors import ConfigError
from gmijax.models._keys import KeyRule, dense, prefixed
from gmijax.models._layers import linear
from gmijax.models.llama import Llama, LlamaConfig
from gmijax.models.vit import ViT, ViTConfig

KEY_MAP: tuple[KeyRule, ...] = (
    *prefixed(clip.KEY_MAP, r"vision_tower\.", "vision_tower"),
    *(rule for i in (1, 2) for rule in dense(rf"multi_modal_projector\.linear_{i}", f"projector.linear_{i}")),
    *prefixed(llama.KEY_MAP, r"language_model\.", "language_model"),
)
"""From the published keys to our leaves."""

IGNORED_KEYS: tuple[str, ...] = (
    r"vision_tower\.vision_model\.embeddings\.position_ids",
    *(r"language_model\." + pattern for pattern in llama.IGNORED_KEYS),
)
"""Keys that may be left unread."""

RENAMES: tuple[tuple[str, str], ...] = (
    (r"^model\.(language_model|vision_tower|multi_modal_projector)\.", r"\1."),
    (r"^language_model\.(?!model\.|lm_head\.)", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
)
"""From the names of the modules in transformers 5 to the published ones."""

_ONE_VALUE: dict[str, Any] = {"ignore_index": -100, "model_type": "llava", "projector_hidden_act": "gelu"}
_IRRELEVANT = ("bos_token_id", "eos_token_id", "image_seq_length", "pad_token_id", "vocab_size")


@dataclass(frozen=True)
class LlavaConfig:
    """The parts and the constants of a LLaVA.

    Attributes:
      text: of the language model.
      vision: of the encoder.
      image_token_id: the placeholder in `input_ids`, one for each soft token.
      feature_layers: counted as in transformers' hidden_states: 0 is the input of the first block, i the output of
        block i - 1, negative ones count from the end. The features of several are put side by side.
      keep_class_token: whether the adapter receives the class token too ("full").
      projector_bias: whether its layers have biases.

    Raises:
      ConfigError: the values contradict each other.
    """

    text: LlamaConfig
    vision: ViTConfig
    image_token_id: int
    feature_layers: tuple[int, ...] = (-2,)
    keep_class_token: bool = False
    projector_bias: bool = True

    def __post_init__(self):
        depth = self.vision.num_hidden_layers
        problems = [
            f"vision_feature_layer = {k}: there are {depth + 1} hidden states, {-depth - 1} to {depth}"
            for k in self.feature_layers
            if not -depth - 1 <= k <= depth
        ]
        if not self.feature_layers:
            problems.append("vision_feature_layer is empty")
        if self.image_token_id < 0:
            problems.append(f"image_token_index = {self.image_token_id}: must not be negative")
        if problems:
            raise ConfigError("LLaVA", problems)

    @property
    def depths(self) -> tuple[int, ...]:
        """How many blocks lie before each feature layer."""
        return tuple(k % (self.vision.num_hidden_layers + 1) for k in self.feature_layers)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LlavaConfig":
        """Reads the content of a Hugging Face config.json, as transformers 4 or 5 writes it.

        Args:
          config: the decoded JSON object.

        Raises:
          ConfigError: listing every unknown field, every value that is not supported, and everything that is
            missing or inconsistent, in the parts too.
        """
        reader = ConfigReader(config)
        layers = config.get("vision_feature_layer", -2)
        layers = tuple(layers) if isinstance(layers, list) else (layers,)
        if not all(isinstance(layer, int) for layer in layers):
            reader.problems.append(f"vision_feature_layer = {layers!r}: must be integers")
            layers = (-2,)
        keep = reader.choose("vision_feature_select_strategy", "default", {"default": False, "full": True})
        values = {
            "text": reader.part("text_config", LlamaConfig.from_hf),
            "vision": reader.part("vision_config", clip.read_config),
            "image_token_id": reader.either("image_token_id", "image_token_index", int, 32000),
            "projector_bias": reader.take("multimodal_projector_bias", bool, True),
        }
        handled = ("text_config", "vision_config", "image_token_id", "image_token_index", "multimodal_projector_bias")
        handled = (*handled, "vision_feature_layer", "vision_feature_select_strategy", "tie_word_embeddings")
        reader.finish(handled, _ONE_VALUE, _IRRELEVANT)
        return reader.build("LLaVA", cls, feature_layers=layers, keep_class_token=keep, **values)


class LlavaMedia(NamedTuple):
    """Images.

    Attributes:
      pixel_values: shape (images, 3, height, width), preprocessed; in the order of their placeholders.
    """

    pixel_values: jax.Array


class Llava(Composed):
    """A LLaVA.

    Args:
      config: the parts and constants.
      rngs: for the initial weights; unused under `nnx.eval_shape`.
      dtype: of the activations.
      param_dtype: of the weights.
    """

    Media = LlavaMedia
    DEAD_ENDS: ClassVar = {
        "encoder_output": "it is the normed class token of the last block, which the adapter never sees; intervene at "
        "'adapter_input'"
    }

    def __init__(
        self,
        config: LlavaConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        kinds = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.config = config
        self.vision_tower = ViT(config.vision, **kinds)
        self.projector = _Projector(config, **kinds)
        self.language_model = Llama(config.text, **kinds)

    @property
    def encoder_hook_points(self) -> tuple[str, ...]:
        """As those of `ViT`, except that `encoder_output` is the normed class token alone, shape (images, width)."""
        return self.vision_tower.hook_points

    def _layout(self, input_ids, mask, media, soft_mask) -> Layout:
        return placeholder_layout(input_ids, mask, self.config.image_token_id, soft_mask)

    def _encode(self, media, hooks, *, features, remat):
        config = self.config
        names = [f"encoder_hidden_{k - 1}" if k else "encoder_inputs" for k in config.depths] if features else []
        whole = "encoder_output" in hooks.wanted
        with hooks.also(*names):
            depth = config.vision.num_hidden_layers if whole else hooks.deepest("encoder_hidden_") + 1
            pixels = self.vision_tower.check_pixels(media.pixel_values)
            x = self.vision_tower.run(pixels, hooks=hooks, depth=depth, remat=remat)
        if whole:
            hooks.visit("encoder_output", self.vision_tower.norm(x[:, 0]), jnp.ones(len(x), bool))
        if not features:
            return None, None
        first = 0 if config.keep_class_token else 1
        states = jnp.concatenate([hooks.states[name][:, first:] for name in names], axis=-1)
        return states, jnp.ones(states.shape[:2], bool)

    def _adapt(self, features):
        return self.projector(features)

    def _soft_mask(self, media):
        patches = self.config.vision.patches + self.config.keep_class_token
        return jnp.ones((len(media.pixel_values), patches), bool)

    def _check_places(self, input_ids, media):
        check_placeholders(input_ids, self.config.image_token_id, self._soft_mask(media), "the images")


class _Projector(nnx.Module):
    def __init__(self, config: LlavaConfig, *, rngs, dtype, param_dtype):
        project = linear(rngs, dtype, param_dtype, use_bias=config.projector_bias)
        self.linear_1 = project(config.vision.hidden_size * len(config.feature_layers), config.text.hidden_size)
        self.linear_2 = project(config.text.hidden_size, config.text.hidden_size)

    def __call__(self, x):
        return self.linear_2(jax.nn.gelu(self.linear_1(x), approximate=False))
