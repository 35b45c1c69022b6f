"""Whisper's encoder, as Whisper, Ultravox and Qwen2-Audio run it.

Numbers follow the implementations in transformers 5.23 (Whisper and Qwen2-Audio) and in Ultravox, which lets clips be
shorter than 30 s and hides padded frames. The parameters of all layers are stacked on a leading layer axis and the
forward pass is one scan over it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Int

from gmijax.models._attention import dot_product_attention
from gmijax.models._config import ConfigReader
from gmijax.models._errors import ConfigError
from gmijax.models._hooks import Hooks, Intervention, as_pytrees, check_hook_points
from gmijax.models._keys import KeyRule
from gmijax.models._layers import LayerNorm, linear
from gmijax.models._stack import run_layers

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
    *(rule for n in "qkv" for rule in _affine(_LAYER + rf"self_attn\.{n}_proj", f"layers.{n}", _LINEAR)),
    *_affine(_LAYER + r"self_attn\.out_proj", "layers.out", _LINEAR),
    *_affine(_LAYER + "final_layer_norm", "layers.mlp_norm", _NORM),
    *_affine(_LAYER + "fc1", "layers.fc1", _LINEAR),
    *_affine(_LAYER + "fc2", "layers.fc2", _LINEAR),
    *_affine("layer_norm", "norm", _NORM),
)
"""From Hugging Face's keys to our leaves. A rule whose leaf the model lacks (the bias of k) is void."""

RENAMES: tuple[tuple[str, str], ...] = ((r"^model\.encoder\.", ""),)
"""From the keys of a whole Whisper to those of its encoder."""

IGNORED_KEYS: tuple[str, ...] = (r"model\.decoder\..*", r"proj_out\.weight")
"""Keys of a whole Whisper that may be left unread: its decoder."""

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


def pooled_frames(mel_frames: Count) -> Count:
    """Frames of Qwen2-Audio's encoder that are made of a clip's own: half of `encoder_frames`, rounded down."""
    return (encoder_frames(mel_frames) - 2) // 2 + 1


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
        pooled = model_type == "qwen2_audio_encoder"
        return reader.build("Whisper encoder", cls, pooled=pooled, latency_block_size=latency_block_size, **values)


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
        kinds = {"rngs": rngs, "dtype": self.dtype, "param_dtype": param_dtype}

        @nnx.split_rngs(splits=config.encoder_layers)
        @nnx.vmap
        def stacked_layers(rngs):
            return _Layer(config, rngs=rngs, dtype=self.dtype, param_dtype=param_dtype)

        convolution = partial(nnx.Conv, kernel_size=(3,), padding=((1, 1),), **kinds)
        self.conv1 = convolution(config.num_mel_bins, config.d_model)
        self.conv2 = convolution(config.d_model, config.d_model, strides=(2,))
        self.positions = nnx.Param(jnp.asarray(_sinusoids(config.max_source_positions, config.d_model), param_dtype))
        self.layers = stacked_layers(rngs)
        self.norm = LayerNorm(config.d_model, _LAYER_NORM_EPS, param_dtype)

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Names of the hidden states that a call can return.

        `encoder_inputs` is the input of the first layer, `encoder_hidden_k` the output of layer k counted from 0, and
        `encoder_output` that of the final norm.
        """
        layers = (f"encoder_hidden_{k}" for k in range(self.config.encoder_layers))
        return ("encoder_inputs", *layers, "encoder_output")

    def __call__(
        self,
        features: Float[ArrayLike, "clips mels frames"],
        *,
        lengths: Int[ArrayLike, " rows"] | None = None,
        hook_points: Sequence[str] = ("encoder_output",),
        interventions: Mapping[str, Intervention] | None = None,
        remat: bool = False,
    ) -> dict[str, Float[Array, "clips positions width"]]:
        """Encodes a batch of clips, as far as what is asked for needs.

        Frames after a clip's own are hidden from all others. They hold well-defined values of their own, as in the
        originals. So may the last frame of a clip depend on them: through the second convolution where the clip has
        an odd number of mel frames, and through the average where the config is `pooled`.

        Args:
          features: log-mel spectrograms. A config that is `pooled` takes `max_mel_frames` frames, others up to
            that many.
          lengths: mel frames of each clip before its padding, 1 to the frames of `features`; by default all.
          hook_points: names of the hidden states to return, as they are after any intervention.
          interventions: by hook point, a function from its states to states of the same shape.
          remat: recompute the layers in a backward pass.

        Returns:
          The states by hook point. Of F mel frames they have (F - 1) // 2 + 1 positions; `encoder_output` has half as
          many where the config is `pooled`.

        Raises:
          ValueError: inputs that do not fit together or with the config, an unknown hook point, or an intervention
            that never fires.
        """
        check_hook_points(self.hook_points, hook_points, interventions)
        features, lengths = self.check_features(features, lengths)
        states = _forward(
            *nnx.split(self),
            features,
            lengths,
            as_pytrees(interventions),
            hook_points=tuple(hook_points),
            remat=remat,
        )
        return {name: states[name] for name in hook_points}  # `jit` returns them sorted

    def check_features(
        self, features: Float[ArrayLike, "clips mels frames"], lengths: Int[ArrayLike, " rows"] | None
    ) -> tuple[Float[Array, "clips mels frames"], Int[Array, " clips"] | None]:
        """The arguments of a call, as arrays.

        Raises:
          ValueError: if they do not fit together or with the config.
        """
        config, features = self.config, jnp.asarray(features)
        if features.ndim != 3 or features.shape[1] != config.num_mel_bins:
            raise ValueError(f"features have shape {features.shape}; give (clips, {config.num_mel_bins}, frames)")
        clips, _, frames = features.shape
        if not 0 < frames <= config.max_mel_frames:
            raise ValueError(f"features have {frames} frames; this encoder takes 1 to {config.max_mel_frames}")
        if config.pooled and frames != config.max_mel_frames:
            raise ValueError(f"features have {frames} frames; this encoder takes {config.max_mel_frames}, so pad them")
        if lengths is None:
            return features, None
        if np.shape(lengths) != (clips,):
            raise ValueError(f"lengths have shape {np.shape(lengths)}; give one for each of the {clips} clips")
        if not isinstance(lengths, Tracer):
            outside = [int(length) for length in np.asarray(lengths) if not 1 <= length <= frames]
            if outside:
                raise ValueError(f"lengths hold {outside}; the {frames} frames of features allow 1 to {frames}")
        return features, jnp.asarray(lengths)

    def run(
        self,
        features: Float[Array, "clips mels frames"],
        *,
        lengths: Int[Array, " clips"] | None,
        hooks: Hooks,
        whole: bool,
        remat: bool = False,
    ) -> Float[Array, "clips positions width"] | None:
        """As a call, inside the pass of a larger model whose `hooks` it shares; nothing is checked.

        Args:
          features: as in a call.
          lengths: as in a call.
          hooks: what to keep and to edit.
          whole: whether the output is needed; otherwise the pass ends at the last layer that is to be kept.
          remat: as in a call.

        Returns:
          The output of the final norm, if the pass reaches it.
        """
        config = self.config
        x = jnp.swapaxes(features, 1, 2).astype(self.dtype)
        x = _gelu(self.conv2(_gelu(self.conv1(x))))
        x = x + self.positions[: x.shape[1]].astype(self.dtype)
        positions = jnp.arange(x.shape[1])
        own = jnp.ones(x.shape[:2], bool) if lengths is None else positions < encoder_frames(lengths)[:, None]
        seen = None if lengths is None else own[:, None, None]
        if config.latency_block_size is not None:
            block = positions // config.latency_block_size
            earlier = (block[:, None] >= block)[None, None]
            seen = earlier if seen is None else seen & earlier
        x, _ = run_layers(
            self.layers,
            hooks.visit("encoder_inputs", x, own),
            lambda layer, x, _: (layer(x, seen), None),
            hooks=hooks,
            prefix="encoder_hidden_",
            depth=config.encoder_layers if whole else hooks.deepest("encoder_hidden_") + 1,
            mask=own,
            remat=remat,
        )
        if not whole:
            return None
        if config.pooled:
            pooled = jnp.arange(x.shape[1] // 2)
            own = own[:, : len(pooled)] if lengths is None else pooled < pooled_frames(lengths)[:, None]
            x = _average_pairs(x)
        return hooks.visit("encoder_output", self.norm(x), own)


@partial(jax.jit, static_argnames=("graph", "hook_points", "remat"))
def _forward(graph, state, features, lengths, interventions, *, hook_points, remat):
    hooks = Hooks(hook_points, interventions)
    whole = "encoder_output" in hook_points
    nnx.merge(graph, state).run(features, lengths=lengths, hooks=hooks, whole=whole, remat=remat)
    hooks.finish()
    return hooks.states


class _Layer(nnx.Module):
    def __init__(self, config: WhisperEncoderConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        width, project = config.d_model, linear(rngs, dtype, param_dtype, use_bias=True)
        self.heads = config.encoder_attention_heads
        self.attention_norm = LayerNorm(width, _LAYER_NORM_EPS, param_dtype)
        self.q, self.k, self.v = project(width, width), project(width, width, use_bias=False), project(width, width)
        self.out = project(width, width)
        self.mlp_norm = LayerNorm(width, _LAYER_NORM_EPS, param_dtype)
        self.fc1 = project(width, config.encoder_ffn_dim)
        self.fc2 = project(config.encoder_ffn_dim, width)

    def __call__(self, x, mask):
        x = x + self._attend(self.attention_norm(x), mask)
        x = x + self.fc2(_gelu(self.fc1(self.mlp_norm(x))))
        return jnp.clip(x, -_FLOAT16_BOUND, _FLOAT16_BOUND) if x.dtype == jnp.float16 else x

    def _attend(self, x, mask):
        q, k, v = (part(x).reshape(*x.shape[:2], self.heads, -1) for part in (self.q, self.k, self.v))
        return self.out(dot_product_attention(q, k, v, mask).reshape(x.shape))


def _gelu(x):
    return jax.nn.gelu(x.astype(jnp.float32), approximate=False).astype(x.dtype)


def _average_pairs(x):
    """Means of neighbouring frames of x, shape (clips, positions, width); a last odd one is dropped."""
    clips, positions, width = x.shape
    pairs = x[:, : positions // 2 * 2].reshape(clips, positions // 2, 2, width)
    return jnp.mean(pairs, axis=2, dtype=jnp.float32).astype(x.dtype)


def _sinusoids(positions: int, width: int) -> np.ndarray:
    """Whisper's table of sines and cosines: the first value of the positions, which checkpoints hold too."""
    rates = np.exp(-np.log(10000) / max(width // 2 - 1, 1) * np.arange(width // 2))
    angles = np.arange(positions)[:, None] * rates
    table = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    return np.pad(table, ((0, 0), (0, width - table.shape[1])))
