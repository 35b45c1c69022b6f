"""The vision transformer behind CLIP, SigLIP and DINOv2.

Blocks normalise before attention and before the MLP. The settings say how the originals differ: what stands before the
patches, whether it has positions, the activation, LayerScale, a norm before the first block.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float

from gmijax.models._attention import dot_product_attention
from gmijax.models._errors import ConfigError
from gmijax.models._hooks import Hooks, Intervention, as_pytrees, check_hook_points
from gmijax.models._layers import LayerNorm, linear
from gmijax.models._stack import run_layers

_ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}
_POSITIVE = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size"),
    *("num_channels", "layer_norm_eps"),
)


@dataclass(frozen=True)
class ViTConfig:
    """The shape and the constants of a vision transformer.

    Attributes:
      activation: of the MLP: "gelu", "gelu_tanh" (its approximation) or "quick_gelu", x * sigmoid(1.702 x).
      class_token: whether a learnt token stands before the patches.
      class_position: whether that token has a position of its own.
      num_register_tokens: learnt tokens without position, between the class token and the patches.
      patch_bias: whether the patch embedding has a bias.
      pre_norm: whether a norm comes before the first block.
      layer_scale: whether each branch is scaled by a learnt vector.
      final_norm: whether a norm comes after the last block.

    Raises:
      ConfigError: the values contradict each other; the message lists all that do.
    """

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    num_channels: int = 3
    activation: str = "gelu"
    layer_norm_eps: float = 1e-6
    class_token: bool = False
    class_position: bool = False
    num_register_tokens: int = 0
    patch_bias: bool = True
    pre_norm: bool = False
    layer_scale: bool = False
    final_norm: bool = True

    def __post_init__(self):
        problems = [f"{name} = {value}: must be positive" for name in _POSITIVE if (value := getattr(self, name)) <= 0]
        if not problems and self.hidden_size % self.num_attention_heads:
            width, heads = self.hidden_size, self.num_attention_heads
            problems.append(f"hidden_size = {width} is not a multiple of num_attention_heads = {heads}")
        if not problems and self.image_size < self.patch_size:
            problems.append(f"image_size = {self.image_size} is smaller than patch_size = {self.patch_size}")
        if self.activation not in _ACTIVATIONS:
            problems.append(f"activation = {self.activation!r} is not one of {', '.join(_ACTIVATIONS)}")
        if self.class_position and not self.class_token:
            problems.append("class_position without class_token")
        if problems:
            raise ConfigError("ViT", problems)

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def prefix(self) -> int:
        """How many tokens stand before the patches."""
        return self.class_token + self.num_register_tokens


class ViT(nnx.Module):
    """A vision transformer.

    Args:
      config: the shape and constants.
      rngs: for the initial weights; unused under `nnx.eval_shape`.
      dtype: of the activations. Norms and the softmax are float32.
      param_dtype: of the weights.
    """

    def __init__(
        self,
        config: ViTConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        width = config.hidden_size

        def learnt(*shape):
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, param_dtype))

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap
        def stacked_layers(rngs):
            return _Block(config, rngs=rngs, dtype=self.dtype, param_dtype=param_dtype)

        self.patch = _Patches(config, learnt, param_dtype)
        self.positions = learnt(config.patches + config.class_position, width)
        if config.class_token:
            self.class_token = learnt(width)
        if config.num_register_tokens:
            self.register_tokens = learnt(config.num_register_tokens, width)
        if config.pre_norm:
            self.pre_norm = LayerNorm(width, config.layer_norm_eps, param_dtype)
        self.layers = stacked_layers(rngs)
        if config.final_norm:
            self.norm = LayerNorm(width, config.layer_norm_eps, param_dtype)

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Names of the hidden states that a call can return.

        `encoder_inputs` is the input of the first block, `encoder_hidden_k` the output of block k counted from 0, and
        `encoder_output` that of the last block after the final norm, if there is one.
        """
        layers = (f"encoder_hidden_{k}" for k in range(self.config.num_hidden_layers))
        return ("encoder_inputs", *layers, "encoder_output")

    def __call__(
        self,
        pixel_values: Float[ArrayLike, "images channels height width"],
        *,
        hook_points: Sequence[str] = ("encoder_output",),
        interventions: Mapping[str, Intervention] | None = None,
        remat: bool = False,
    ) -> dict[str, Float[Array, "images tokens features"]]:
        """Runs the encoder as far as what is asked for needs.

        Args:
          pixel_values: preprocessed images.
          hook_points: names of the hidden states to return, as they are after any intervention.
          interventions: by hook point, a function from its states to states of the same shape.
          remat: recompute the blocks in a backward pass.

        Returns:
          The states by hook point, tokens before the patches included.

        Raises:
          ValueError: images of another shape, an unknown hook point, or an intervention that never fires.
        """
        check_hook_points(self.hook_points, hook_points, interventions)
        pixels = self.check_pixels(pixel_values)
        return _forward(
            *nnx.split(self), pixels, as_pytrees(interventions), hook_points=tuple(hook_points), remat=remat
        )

    def check_pixels(self, pixel_values: Float[ArrayLike, "..."]) -> Float[Array, "images channels height width"]:
        """The images in the type of the activations.

        Raises:
          ValueError: if their shape is not that of the config.
        """
        pixels = jnp.asarray(pixel_values, self.dtype)
        expected = (self.config.num_channels, self.config.image_size, self.config.image_size)
        if pixels.ndim != 4 or pixels.shape[1:] != expected:
            raise ValueError(f"pixel_values have shape {pixels.shape}; this model takes (images, {expected})")
        return pixels

    def run(self, pixels: Array, *, hooks: Hooks, depth: int, remat: bool = False) -> Array:
        """The output of the first `depth` blocks, inside the pass of a larger model; nothing is checked."""
        x = self._embed(pixels)
        mask = jnp.ones(x.shape[:2], bool)
        x, _ = run_layers(
            self.layers,
            hooks.visit("encoder_inputs", x, mask),
            lambda block, x, _: (block(x), None),
            hooks=hooks,
            prefix="encoder_hidden_",
            depth=depth,
            mask=mask,
            remat=remat,
        )
        return x

    def _embed(self, pixels):
        x = self.patch(pixels, self.dtype)
        positions = self.positions[...].astype(self.dtype)
        before = []
        if self.config.class_token:
            first = self.class_token[...].astype(self.dtype)
            if self.config.class_position:
                first, positions = first + positions[0], positions[1:]
            before.append(first[None])
        if self.config.num_register_tokens:
            before.append(self.register_tokens[...].astype(self.dtype))
        x = x + positions
        if before:
            prefix = jnp.concatenate(before)
            x = jnp.concatenate([jnp.broadcast_to(prefix, (len(x), *prefix.shape)), x], axis=1)
        return self.pre_norm(x) if self.config.pre_norm else x


@partial(jax.jit, static_argnames=("graph", "hook_points", "remat"))
def _forward(graph, state, pixels, interventions, *, hook_points, remat):
    model: ViT = nnx.merge(graph, state)
    hooks = Hooks(hook_points, interventions)
    whole = "encoder_output" in hook_points
    depth = model.config.num_hidden_layers if whole else hooks.deepest("encoder_hidden_") + 1
    x = model.run(pixels, hooks=hooks, depth=depth, remat=remat)
    if whole:
        hooks.visit("encoder_output", model.norm(x) if model.config.final_norm else x)
    hooks.finish()
    return {name: hooks.states[name] for name in hook_points}


class _Patches(nnx.Module):
    def __init__(self, config: ViTConfig, learnt, param_dtype):
        self.kernel = learnt(config.patch_size, config.patch_size, config.num_channels, config.hidden_size)
        if config.patch_bias:
            self.bias = nnx.Param(jnp.zeros(config.hidden_size, param_dtype))
        self.stride = config.patch_size
        self.use_bias = config.patch_bias

    def __call__(self, pixels, dtype):
        kernel = self.kernel[...].astype(dtype)
        strides = (self.stride, self.stride)
        x = lax.conv_general_dilated(pixels, kernel, strides, "VALID", dimension_numbers=("NCHW", "WHIO", "NHWC"))
        x = x.reshape(len(x), -1, x.shape[-1])
        return x + self.bias[...].astype(dtype) if self.use_bias else x


class _Block(nnx.Module):
    def __init__(self, config: ViTConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        width, project = config.hidden_size, linear(rngs, dtype, param_dtype, use_bias=True)
        self.config = config
        self.attention_norm = LayerNorm(width, config.layer_norm_eps, param_dtype)
        self.qkv = project(width, 3 * width)
        self.out = project(width, width)
        self.mlp_norm = LayerNorm(width, config.layer_norm_eps, param_dtype)
        self.fc1 = project(width, config.intermediate_size)
        self.fc2 = project(config.intermediate_size, width)
        if config.layer_scale:
            self.attention_scale = nnx.Param(jnp.ones(width, param_dtype))
            self.mlp_scale = nnx.Param(jnp.ones(width, param_dtype))

    def __call__(self, x):
        y = self._attend(self.attention_norm(x))
        x = x + (y * self.attention_scale[...].astype(y.dtype) if self.config.layer_scale else y)
        y = self.fc2(_ACTIVATIONS[self.config.activation](self.fc1(self.mlp_norm(x))))
        return x + (y * self.mlp_scale[...].astype(y.dtype) if self.config.layer_scale else y)

    def _attend(self, x):
        heads = self.qkv(x).reshape(*x.shape[:2], 3, self.config.num_attention_heads, -1)
        q, k, v = heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]
        return self.out(dot_product_attention(q, k, v).reshape(x.shape))
