"""Whisper's encoder, as Whisper, Ultravox and Qwen2-Audio run it.

Numbers follow the implementations in transformers 5.23 (Whisper and Qwen2-Audio) and in Ultravox, which lets clips be
shorter than 30 s and masks padded frames. The parameters of all layers are stacked on a leading layer axis and the
forward pass is one scan over it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from gmijax.models._config import ConfigReader
from gmijax.models._errors import ConfigError
from gmijax.models._keys import KeyRule

_LAYER = r"layers\.(?P<layer>\d+)\."


def _affine(key: str, leaf: str, names: Mapping[str, str]) -> tuple[KeyRule, ...]:
    """Rules for a weight and a bias; `names` says what our module calls them."""
    return tuple(
        KeyRule(rf"{key}\.{theirs}", f"{leaf}.{ours}", transpose=ours == "kernel") for theirs, ours in names.items()
    )


_LINEAR = {"weight": "kernel", "bias": "bias"}
_NORM = {"weight": "scale", "bias": "bias"}

KEY_MAP: tuple[KeyRule, ...] = (
    *_affine("conv1", "conv1", _LINEAR),
    *_affine("conv2", "conv2", _LINEAR),
    KeyRule(r"embed_positions\.weight", "positions", transpose=False),
    *_affine(_LAYER + "self_attn_layer_norm", "layers.attention_norm", _NORM),
    *(rule for n in "qv" for rule in _affine(_LAYER + rf"self_attn\.{n}_proj", f"layers.attention.{n}", _LINEAR)),
    KeyRule(_LAYER + r"self_attn\.k_proj\.weight", "layers.attention.k.kernel", transpose=True),
    *_affine(_LAYER + r"self_attn\.out_proj", "layers.attention.o", _LINEAR),
    *_affine(_LAYER + "final_layer_norm", "layers.mlp_norm", _NORM),
    *_affine(_LAYER + "fc1", "layers.mlp.up", _LINEAR),
    *_affine(_LAYER + "fc2", "layers.mlp.down", _LINEAR),
    *_affine("layer_norm", "norm", _NORM),
)
"""From Hugging Face's keys, without the prefix that names the encoder in a larger model, to our leaves."""

_LAYER_NORM_EPS = 1e-5  # torch's default, which no config names
_FLOAT16_BOUND = float(jnp.finfo(jnp.float16).max) - 1000  # to which the originals clip a float16 layer's output

_MODEL_TYPES = ("whisper", "qwen2_audio_encoder")
_DEFAULTS = {  # of the config classes of transformers
    "whisper": {
        "num_mel_bins": 80,
        "d_model": 384,
        "encoder_layers": 4,
        "encoder_attention_heads": 6,
        "encoder_ffn_dim": 1536,
        "max_source_positions": 1500,
    },
    "qwen2_audio_encoder": {
        "num_mel_bins": 128,
        "d_model": 1280,
        "encoder_layers": 32,
        "encoder_attention_heads": 20,
        "encoder_ffn_dim": 5120,
        "max_source_positions": 1500,
    },
}

# Fields of a config.json that have one value we can honour. Absent or null means that value.
_ONE_VALUE: dict[str, Any] = {"activation_function": "gelu", "scale_embedding": False, "use_weighted_layer_sum": False}
# The decoder, dropout, masking of training data, and generation.
_IRRELEVANT = (
    *("activation_dropout", "alignment_heads", "apply_spec_augment", "bos_token_id", "classifier_proj_size"),
    *("decoder_attention_heads", "decoder_ffn_dim", "decoder_layerdrop", "decoder_layers", "dropout"),
    *("encoder_layerdrop", "eos_token_id", "forced_decoder_ids", "init_std", "lang_ids", "mask_feature_length"),
    *("mask_feature_min_masks", "mask_feature_prob", "mask_time_length", "mask_time_min_masks", "mask_time_prob"),
    *("max_target_positions", "median_filter_width", "pad_token_id", "tie_word_embeddings", "vocab_size"),
)

Count = TypeVar("Count", int, np.ndarray, jax.Array)


def encoder_frames(mel_frames: Count) -> Count:
    """Frames that the two convolutions make of `mel_frames`: one for two, rounded up."""
    return (mel_frames - 1) // 2 + 1


@dataclass(frozen=True)
class WhisperEncoderConfig:
    """The shape and the constants of an encoder; names are those of Hugging Face's config.

    Attributes:
      num_mel_bins: bins of the log-mel spectrogram.
      d_model: width of the hidden states.
      encoder_layers: number of layers.
      encoder_attention_heads: number of heads, which divide `d_model`.
      encoder_ffn_dim: inner width of the MLPs.
      max_source_positions: the longest clip, in encoder frames; half of its mel frames.
      pooled: whether pairs of neighbouring frames are averaged before the final norm, and every clip must have
        the full length, as in Qwen2-Audio.
      latency_block_size: frames of 20 ms see their own block of this many and the blocks before it, as in Ultravox
        for streaming; None for no such limit.

    Raises:
      ConfigError: the values contradict each other; the message lists all that do.
    """

    num_mel_bins: int
    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    max_source_positions: int = 1500
    pooled: bool = False
    latency_block_size: int | None = None

    def __post_init__(self):
        names = _DEFAULTS["whisper"]
        problems = [f"{name} = {value}: must be positive" for name in names if (value := getattr(self, name)) <= 0]
        if not problems:
            if self.d_model % self.encoder_attention_heads:
                problems.append(
                    f"d_model = {self.d_model} is not a multiple of "
                    f"encoder_attention_heads = {self.encoder_attention_heads}"
                )
            block = self.latency_block_size
            if block is not None and (block <= 0 or 2 * self.max_source_positions % block):
                problems.append(
                    f"latency_block_size = {block}: must divide 2 * max_source_positions = "
                    f"{2 * self.max_source_positions}"
                )
        if problems:
            raise ConfigError("Whisper encoder", problems)

    @property
    def max_mel_frames(self) -> int:
        """The longest clip in mel frames."""
        return 2 * self.max_source_positions

    @classmethod
    def from_hf(cls, config: Mapping[str, Any], *, latency_block_size: int | None = None) -> "WhisperEncoderConfig":
        """Reads a Whisper config.json or the `audio_config` of a larger model's, as transformers 4 or 5 writes it.

        Absent fields take the defaults of transformers' config class. A field that is neither handled nor known to
        be irrelevant to an encoder is refused.

        Args:
          config: the decoded JSON object; its `model_type` is "whisper" (also if absent) or "qwen2_audio_encoder".
          latency_block_size: which the larger model's config holds.

        Raises:
          ConfigError: listing every unknown field, every value that is not supported, and everything that is
            inconsistent.
        """
        reader = ConfigReader(config)
        model_type = config.get("model_type", "whisper")
        if model_type not in _MODEL_TYPES:
            raise ConfigError("Whisper encoder", [f"model_type = {model_type!r} is not one of {_MODEL_TYPES}"])
        values = {name: reader.take(name, int, default) for name, default in _DEFAULTS[model_type].items()}
        layers = reader.take("num_hidden_layers", int, values["encoder_layers"])
        if layers != values["encoder_layers"]:
            reader.problems.append(f"encoder_layers is {values['encoder_layers']} and num_hidden_layers {layers}")
        # A Whisper config says of the whole model that it has a decoder, of which nothing is used here.
        one_value = {**_ONE_VALUE, "is_encoder_decoder": config.get("is_encoder_decoder")}
        reader.finish({*values, "model_type", "num_hidden_layers"}, one_value, _IRRELEVANT)
        try:
            pooled = model_type == "qwen2_audio_encoder"
            resolved = cls(**values, pooled=pooled, latency_block_size=latency_block_size)
        except ConfigError as error:
            raise ConfigError("Whisper encoder", [*reader.problems, *error.problems]) from None
        if reader.problems:
            raise ConfigError("Whisper encoder", reader.problems)
        return resolved


class WhisperEncoder(nnx.Module):
    """Whisper's encoder.

    The weights are ordinary `nnx.Param` leaves; pass the module (or its state) through `jit` as an argument, never by
    closure. On a GPU, set `jax_default_matmul_precision` to "highest" for the float32 numbers of the originals.

    Args:
      config: the shape and constants.
      rngs: for the initial weights; unused under `nnx.eval_shape`.
      dtype: of the activations. Norms, the softmax and GELU are computed in float32.
      param_dtype: of the weights.
    """

    KEY_MAP = KEY_MAP

    def __init__(
        self,
        config: WhisperEncoderConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        types = {"dtype": self.dtype, "param_dtype": param_dtype}

        @nnx.split_rngs(splits=config.encoder_layers)
        @nnx.vmap
        def stacked_layers(rngs):
            return _Layer(config, rngs=rngs, **types)

        convolution = partial(nnx.Conv, kernel_size=(3,), padding=((1, 1),), rngs=rngs, **types)
        self.conv1 = convolution(config.num_mel_bins, config.d_model)
        self.conv2 = convolution(config.d_model, config.d_model, strides=(2,))
        self.positions = nnx.Param(jnp.asarray(_sinusoids(config.max_source_positions, config.d_model), param_dtype))
        self.layers = stacked_layers(rngs)
        self.norm = _layer_norm(rngs, **types)(config.d_model)

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Names of the states that a call can return.

        `encoder_hidden_k` is the output of layer k counted from 0, and `encoder_output` that of the final norm.
        """
        return (*(f"encoder_hidden_{k}" for k in range(self.config.encoder_layers)), "encoder_output")

    def __call__(
        self,
        features: Float[ArrayLike, "clips mels frames"],
        *,
        lengths: Int[ArrayLike, " rows"] | None = None,
        hook_points: Sequence[str] = ("encoder_output",),
    ) -> dict[str, Float[Array, "clips positions width"]]:
        """Encodes a batch of clips.

        Frames after a clip's own are hidden from all others. They hold well-defined values of their own, as in the
        originals, and a pooled frame may average the last frame of a clip with one of them.

        Args:
          features: log-mel spectrograms. A config that is `pooled` takes `max_mel_frames` frames, others up to
            that many.
          lengths: mel frames of each clip before its padding, 1 to the frames of `features`; by default all.
          hook_points: names of the states to return. The pass ends at the last layer that one of them needs.

        Returns:
          The states by hook point. Of F mel frames `encoder_hidden_k` has (F - 1) // 2 + 1 positions, and so has
          `encoder_output`, or half as many where the config is `pooled`.

        Raises:
          ValueError: inputs that do not fit together or with the config, or an unknown hook point.
        """
        config = self.config
        features = jnp.asarray(features)
        clips, mels, frames = features.shape
        if mels != config.num_mel_bins:
            raise ValueError(f"features have {mels} mel bins; this encoder takes {config.num_mel_bins}")
        if not 0 < frames <= config.max_mel_frames:
            raise ValueError(f"features have {frames} frames; this encoder takes 1 to {config.max_mel_frames}")
        if config.pooled and frames != config.max_mel_frames:
            raise ValueError(f"features have {frames} frames; this encoder takes {config.max_mel_frames}, so pad them")
        unknown = sorted({*hook_points} - {*self.hook_points})
        if unknown:
            raise ValueError(
                f"unknown hook_points {', '.join(map(repr, unknown))}; valid are 'encoder_hidden_0' to "
                f"'encoder_hidden_{config.encoder_layers - 1}', and 'encoder_output'"
            )
        if lengths is not None and np.shape(lengths) != (clips,):
            raise ValueError(f"lengths have shape {np.shape(lengths)}; give one for each of the {clips} clips")
        if lengths is not None and not isinstance(lengths, Tracer):
            outside = [int(length) for length in np.asarray(lengths) if not 1 <= length <= frames]
            if outside:
                raise ValueError(f"lengths hold {outside}; the {frames} frames of features allow 1 to {frames}")
        lengths = None if lengths is None else jnp.asarray(lengths)
        states = _forward(*nnx.split(self), features, lengths=lengths, hook_points=tuple(hook_points))
        return {name: states[name] for name in hook_points}

    def _run(self, features, *, lengths, hook_points) -> dict[str, jax.Array]:
        config = self.config
        x = jnp.swapaxes(features, 1, 2).astype(self.dtype)
        x = _gelu(self.conv2(_gelu(self.conv1(x))))
        x = x + self.positions[: x.shape[1]].astype(self.dtype)
        mask = _mask(config, x.shape[1], lengths)
        wanted = sorted(int(name.removeprefix("encoder_hidden_")) for name in hook_points if name[-1].isdigit())
        whole = "encoder_output" in hook_points
        depth = config.encoder_layers if whole else max(wanted, default=-1) + 1

        graph, weights = nnx.split(self.layers)
        slots = np.full(config.encoder_layers, len(wanted))
        slots[wanted] = np.arange(len(wanted))
        # One slot for each wanted layer and, if any is wanted, a last one for the outputs of all the others.
        kept = jnp.zeros((len(wanted) + bool(wanted), *x.shape), x.dtype)

        def layer_step(carry, layer):
            x, kept = carry
            weights, slot = layer
            x = nnx.merge(graph, weights)(x, mask)
            if wanted:
                kept = lax.dynamic_update_index_in_dim(kept, x, slot, 0)
            return (x, kept), None

        scanned = (weights, jnp.asarray(slots))
        if whole:
            (x, kept), _ = lax.scan(layer_step, (x, kept), scanned)
        else:  # by index: slicing the stacked weights would copy those of the layers that are used
            (x, kept), _ = lax.scan(
                lambda carry, index: layer_step(carry, jax.tree.map(lambda leaf: leaf[index], scanned)),
                (x, kept),
                jnp.arange(depth),
            )
        states = {f"encoder_hidden_{k}": kept[slot] for slot, k in enumerate(wanted)}
        if whole:
            states["encoder_output"] = self.norm(_average_pairs(x) if config.pooled else x)
        return states


# Compiled once for each shape, so that a call outside of any `jit` is not compiled anew.
@partial(jax.jit, static_argnames=("graph", "hook_points"))
def _forward(graph, state, features, **arguments) -> dict[str, jax.Array]:
    return nnx.merge(graph, state)._run(features, **arguments)


class _Layer(nnx.Module):
    def __init__(self, config: WhisperEncoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        norm = _layer_norm(rngs, dtype, param_dtype)
        linear = partial(nnx.Linear, dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.attention_norm = norm(config.d_model)
        self.attention = _Attention(config, linear)
        self.mlp_norm = norm(config.d_model)
        self.mlp = _MLP(config, linear)

    def __call__(self, x, mask):
        x = x + self.attention(self.attention_norm(x), mask)
        x = x + self.mlp(self.mlp_norm(x))
        return jnp.clip(x, -_FLOAT16_BOUND, _FLOAT16_BOUND) if x.dtype == jnp.float16 else x


class _Attention(nnx.Module):
    def __init__(self, config: WhisperEncoderConfig, linear: Callable[..., nnx.Linear]):
        self.heads = config.encoder_attention_heads
        self.q = linear(config.d_model, config.d_model)
        self.k = linear(config.d_model, config.d_model, use_bias=False)
        self.v = linear(config.d_model, config.d_model)
        self.o = linear(config.d_model, config.d_model)

    def __call__(self, x, mask):
        # dot_product_attention takes no float16 on a CPU.
        wide = jnp.float32 if x.dtype == jnp.float16 else x.dtype
        q, k, v = (part(x).astype(wide).reshape(*x.shape[:2], self.heads, -1) for part in (self.q, self.k, self.v))
        return self.o(jax.nn.dot_product_attention(q, k, v, mask=mask).astype(x.dtype).reshape(x.shape))


class _MLP(nnx.Module):
    def __init__(self, config: WhisperEncoderConfig, linear: Callable[..., nnx.Linear]):
        self.up = linear(config.d_model, config.encoder_ffn_dim)
        self.down = linear(config.encoder_ffn_dim, config.d_model)

    def __call__(self, x):
        return self.down(_gelu(self.up(x)))


def _layer_norm(rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike) -> Callable[..., nnx.LayerNorm]:
    # The fast variance, E[x^2] - E[x]^2, loses digits where a few features are large, as they are in Whisper.
    return partial(
        nnx.LayerNorm,
        epsilon=_LAYER_NORM_EPS,
        use_fast_variance=False,
        dtype=dtype,
        param_dtype=param_dtype,
        rngs=rngs,
    )


def _gelu(x):
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


def _average_pairs(x):
    """Means of neighbouring frames of x, shape (clips, positions, width); a last odd one is dropped."""
    clips, positions, width = x.shape
    pairs = x[:, : positions // 2 * 2].reshape(clips, positions // 2, 2, width)
    return jnp.mean(pairs, axis=2, dtype=jnp.float32).astype(x.dtype)


def _mask(config: WhisperEncoderConfig, positions: int, lengths: jax.Array | None) -> jax.Array | None:
    """Which frame (third axis) may attend to which (fourth axis); None if every one may attend to all."""
    frame = jnp.arange(positions)
    mask = None
    if lengths is not None:
        mask = (frame < encoder_frames(lengths)[:, None])[:, None, None]
    if config.latency_block_size is not None:
        block = frame // config.latency_block_size
        seen = (block[:, None] >= block)[None, None]
        mask = seen if mask is None else mask & seen
    return mask


def _sinusoids(positions: int, width: int) -> np.ndarray:
    """Whisper's table of sines and cosines: the first value of the positions, which checkpoints hold too."""
    rates = np.exp(-np.log(10000) / max(width // 2 - 1, 1) * np.arange(width // 2))
    angles = np.arange(positions)[:, None] * rates
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.pad(table, ((0, 0), (0, width - table.shape[1])))
