"""Llama: the decoder of Llama 2 and 3, Vicuna and SmolLM2, and the text half of Ultravox and LLaVA.

Numbers follow the implementation in transformers 5.23. The parameters of all layers are stacked on a leading
layer axis and the forward pass is one scan over it, so that compile time does not grow with depth.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int

from gmijax.models._config import ConfigReader
from gmijax.models._errors import ConfigError
from gmijax.models._keys import KeyRule

_LAYER = r"model\.layers\.(?P<layer>\d+)\."
_ATTENTION = _LAYER + r"self_attn\."

KEY_MAP: tuple[KeyRule, ...] = (
    KeyRule(r"model\.embed_tokens\.weight", "embed.embedding", transpose=False),
    KeyRule(_LAYER + r"input_layernorm\.weight", "layers.attention_norm.scale", transpose=False),
    *(KeyRule(_ATTENTION + rf"{n}_proj\.weight", f"layers.attention.{n}.kernel", transpose=True) for n in "qkvo"),
    *(KeyRule(_ATTENTION + rf"{n}_proj\.bias", f"layers.attention.{n}.bias", transpose=False) for n in "qkv"),
    KeyRule(_LAYER + r"post_attention_layernorm\.weight", "layers.mlp_norm.scale", transpose=False),
    *(
        KeyRule(_LAYER + rf"mlp\.{n}_proj\.weight", f"layers.mlp.{n}.kernel", transpose=True)
        for n in ("gate", "up", "down")
    ),
    KeyRule(r"model\.norm\.weight", "norm.scale", transpose=False),
    KeyRule(r"lm_head\.weight", "head.kernel", transpose=True),
)
"""From Hugging Face's keys to our leaves. A rule whose leaf a model lacks (bias, tied head) is void for it."""

IGNORED_KEYS: tuple[str, ...] = (
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",  # stored by old checkpoints, computed here
    r"lm_head\.weight",  # a tied head stored twice
)
"""Keys that may be left unread where no rule of `KEY_MAP` gives them a leaf of the model."""

_ROPE_FIELDS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_RopeKind = Literal["linear", "dynamic", "llama3"]

# Fields of a config.json that have one value we can honour. Absent or null means that value.
_ONE_VALUE: dict[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "mlp_bias": False,
    "model_type": "llama",
    "partial_rotary_factor": 1.0,
    "pretraining_tp": 1,
    "rope_interleaved": False,
    "sliding_window": None,
}
_IRRELEVANT = ("is_llama_config", "max_sequence_length")

_POSITIVE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "rope_theta"),
)


@dataclass(frozen=True)
class RopeScaling:
    """How the frequencies of the rotary embedding are changed to reach longer contexts.

    Attributes:
      kind: "linear" divides every frequency by `factor`; "dynamic" (NTK) grows the base with the longest
        position of the call; "llama3" divides the low frequencies only.
      factor: by how much the context grows; at least 1.
      low_freq_factor: llama3: wavelengths above original / low are divided by `factor`.
      high_freq_factor: llama3: wavelengths below original / high are left alone.
      original_max_position_embeddings: llama3: the context length of pretraining.
    """

    kind: _RopeKind
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclass(frozen=True)
class LlamaConfig:
    """The shape and the constants of a Llama.

    `head_dim` need not be hidden_size / num_attention_heads. `qkv_bias` gives q, k and v a bias.

    Raises:
      ConfigError: the values contradict each other; the message lists all that do.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    bos_token_id: int | None = None
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None

    def __post_init__(self):
        problems = [f"{name} = {value}: must be positive" for name in _POSITIVE if (value := getattr(self, name)) <= 0]
        if not problems:
            problems = _contradictions(self)
        if problems:
            raise ConfigError("Llama", problems)

    @classmethod
    def from_hf(cls, config: Mapping[str, Any]) -> "LlamaConfig":
        """Reads the content of a Hugging Face config.json, as transformers 4 or 5 writes it.

        Absent fields take the defaults of transformers' LlamaConfig, as published sparse configs expect.
        A field that is neither handled nor known to be irrelevant is refused: a setting that is silently
        dropped gives a model that runs and is wrong.

        Args:
          config: the decoded JSON object.

        Raises:
          ConfigError: listing every unknown field, every value that is not supported, and everything that is
            missing or inconsistent.
        """
        reader = ConfigReader(config)
        hidden_size = reader.take("hidden_size", int, 4096)
        heads = reader.take("num_attention_heads", int, 32)
        max_positions = reader.take("max_position_embeddings", int, 2048)
        head_dim = reader.take("head_dim", int, None)
        if head_dim is None and heads > 0:
            head_dim, remainder = divmod(hidden_size, heads)
            if remainder:
                reader.problems.append(
                    f"hidden_size = {hidden_size} is not a multiple of num_attention_heads = {heads}; give head_dim"
                )
        kv_heads = reader.take("num_key_value_heads", int, None)
        eos = config.get("eos_token_id", 2)
        eos = [] if eos is None else eos if isinstance(eos, list) else [eos]
        if not all(isinstance(token, int) for token in eos):
            reader.problems.append(f"eos_token_id = {eos!r}: must be integers")
            eos = []
        rope_theta, rope_scaling = _read_rope(reader, max_positions)
        values = {
            "vocab_size": reader.take("vocab_size", int, 32000),
            "hidden_size": hidden_size,
            "intermediate_size": reader.take("intermediate_size", int, 11008),
            "num_hidden_layers": reader.take("num_hidden_layers", int, 32),
            "num_attention_heads": heads,
            "num_key_value_heads": heads if kv_heads is None else kv_heads,
            "head_dim": head_dim or 0,
            "rms_norm_eps": reader.take("rms_norm_eps", float, 1e-6),
            "max_position_embeddings": max_positions,
            "rope_theta": rope_theta,
            "rope_scaling": rope_scaling,
            "tie_word_embeddings": reader.take("tie_word_embeddings", bool, False),
            "bos_token_id": reader.take("bos_token_id", int, None if "bos_token_id" in config else 1),
            "eos_token_id": tuple(eos),
            "pad_token_id": reader.take("pad_token_id", int, None),
        }
        handled = {*cls.__dataclass_fields__, "rope_parameters"} - {"qkv_bias"}
        reader.finish(handled, _ONE_VALUE, _IRRELEVANT)
        try:
            resolved = cls(**values)
        except ConfigError as error:
            raise ConfigError("Llama", [*reader.problems, *error.problems]) from None
        if reader.problems:
            raise ConfigError("Llama", reader.problems)
        return resolved


def _read_rope(reader: ConfigReader, max_positions: int) -> tuple[float, RopeScaling | None]:
    """Theta and the scaling: `rope_theta` and `rope_scaling` of transformers 4, `rope_parameters` of 5."""
    config, problems = reader.config, reader.problems
    theta = reader.take("rope_theta", float, 10000.0)
    given = [name for name in ("rope_parameters", "rope_scaling") if config.get(name)]
    if not given:
        return theta, None
    name, rope = given[0], config[given[0]]
    if not isinstance(rope, Mapping):
        problems.append(f"{name} = {rope!r}: must be an object")
        return theta, None
    if len(given) == 2 and rope != config["rope_scaling"]:
        problems.append("rope_parameters and rope_scaling differ; keep one")
    inner_theta = reader.take("rope_theta", float, theta, within=name)
    if "rope_theta" in config and inner_theta != theta:
        problems.append(f"rope_theta is {theta} and, in {name}, {inner_theta}; keep one")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("type", kind) != kind:
        problems.append(f"{name} has type {rope['type']!r} and rope_type {kind!r}; keep one")
    if kind not in _ROPE_FIELDS:
        problems.append(f"{name}: rope_type = {kind!r} is not one of {', '.join(_ROPE_FIELDS)}")
        return inner_theta, None
    fields = _ROPE_FIELDS[kind]
    if rope.get("partial_rotary_factor", 1) != 1:
        problems.append(f"{name}.partial_rotary_factor = {rope['partial_rotary_factor']!r}: only 1 is supported")
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *fields}
    problems += [f"{name}.{field} is unknown to rope_type {kind!r}" for field in sorted({*rope} - known)]
    if kind == "default":
        return inner_theta, None
    values = {field: reader.take(field, float, None, within=name) for field in fields}
    if "original_max_position_embeddings" in fields:
        values["original_max_position_embeddings"] = reader.take(
            "original_max_position_embeddings", int, max_positions, within=name
        )
    missing = [field for field, value in values.items() if value is None]
    if missing:
        problems.append(f"{name}: rope_type {kind!r} needs {', '.join(missing)}")
        return inner_theta, None
    return inner_theta, RopeScaling(kind, **values)


def _contradictions(config: LlamaConfig) -> list[str]:
    problems = []
    if config.num_attention_heads % config.num_key_value_heads:
        problems.append(
            f"num_attention_heads = {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads = {config.num_key_value_heads}"
        )
    if config.head_dim % 2:
        problems.append(f"head_dim = {config.head_dim}: must be even, rotary embeddings turn pairs")
    scaling = config.rope_scaling
    if scaling is None:
        return problems
    if scaling.kind not in get_args(_RopeKind):
        problems.append(f"rope_scaling.kind = {scaling.kind!r} is not one of {', '.join(get_args(_RopeKind))}")
    if scaling.factor < 1:
        problems.append(f"rope_scaling.factor = {scaling.factor}: must be at least 1")
    if scaling.kind == "dynamic" and config.head_dim == 2:
        problems.append("rope_scaling.kind = 'dynamic' needs head_dim > 2")
    if not 0 < scaling.low_freq_factor < scaling.high_freq_factor:
        problems.append(
            f"rope_scaling needs 0 < low_freq_factor < high_freq_factor, not {scaling.low_freq_factor} and "
            f"{scaling.high_freq_factor}"
        )
    if scaling.original_max_position_embeddings <= 0:
        problems.append("rope_scaling.original_max_position_embeddings must be positive")
    return problems


class KVSegment(NamedTuple):
    """Keys and values of consecutive tokens, cached once for all the rows that share them.

    A segment of batch b serves an input of B = b * r rows: rows i * r to (i + 1) * r - 1 attend to its row i.

    Attributes:
      keys: shape (layers, b, tokens, kv heads, head_dim), already rotated.
      values: the same shape.
      mask: shape (b, tokens), true where a token may be attended to.
    """

    keys: jax.Array
    values: jax.Array
    mask: jax.Array


class LlamaOutput(NamedTuple):
    """What a call was asked for.

    Attributes:
      logits: shape (B, T, vocabulary), float32; None if not asked for.
      hidden_states: by hook point, each of shape (B, T, hidden_size).
      segment: the keys and values of the input, to be appended to the segments of a later call; else None.
    """

    logits: jax.Array | None
    hidden_states: dict[str, jax.Array]
    segment: KVSegment | None


class Llama(nnx.Module):
    """A Llama decoder.

    The weights are ordinary `nnx.Param` leaves; pass the module (or its state) through `jit` as an argument,
    never by closure, or they become constants of the program. On a GPU, set
    `jax_default_matmul_precision` to "highest" for the float32 numbers of the original.

    Args:
      config: the shape and constants.
      rngs: for the initial weights; unused under `nnx.eval_shape`.
      dtype: of the activations. Norms, the softmax and the angles of the rotary embedding are float32.
      param_dtype: of the weights.
    """

    KEY_MAP = KEY_MAP
    IGNORED_KEYS = IGNORED_KEYS

    def __init__(
        self,
        config: LlamaConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap
        def stacked_layers(rngs):
            return _Layer(config, rngs=rngs, dtype=self.dtype, param_dtype=param_dtype)

        self.embed = nnx.Embed(
            config.vocab_size, config.hidden_size, dtype=self.dtype, param_dtype=param_dtype, rngs=rngs
        )
        self.layers = stacked_layers(rngs)
        self.norm = _RMSNorm(config.hidden_size, config.rms_norm_eps, param_dtype)
        if not config.tie_word_embeddings:
            self.head = _linear(rngs, self.dtype, param_dtype)(config.hidden_size, config.vocab_size)

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Names of the hidden states that a call can return.

        `inputs_embeds` is the input of the first layer, `llm_hidden_k` the output of layer k counted from 0
        and before the final norm, `llm_final` the output of the final norm.
        """
        layers = (f"llm_hidden_{k}" for k in range(self.config.num_hidden_layers))
        return ("inputs_embeds", *layers, "llm_final")

    def embed_tokens(self, token_ids: Int[ArrayLike, "*shape"]) -> Float[Array, "*shape width"]:
        """Embeddings of token ids; an id outside the vocabulary gives NaN."""
        return self.embed(jnp.asarray(token_ids))

    def unembed(self, hidden: Float[ArrayLike, "*shape width"]) -> Float[Array, "*shape vocabulary"]:
        """Logits, in float32, of states after the final norm (hook point `llm_final`)."""
        hidden = jnp.asarray(hidden, self.dtype)
        if self.config.tie_word_embeddings:
            head, subscripts = self.embed.embedding[...], "...d,vd->...v"
        else:
            head, subscripts = self.head.kernel[...], "...d,dv->...v"
        return jnp.einsum(subscripts, hidden, head.astype(self.dtype), preferred_element_type=jnp.float32)

    def token_logits(
        self, hidden: Float[ArrayLike, "*shape width"], token_ids: Int[ArrayLike, "..."]
    ) -> Float[Array, "*shape"]:
        """As `unembed`, at one token for each state only.

        Args:
          hidden: states after the final norm.
          token_ids: of a shape that broadcasts against that of the states.
        """
        hidden = jnp.asarray(hidden, self.dtype)
        if self.config.tie_word_embeddings:
            head = self.embed.embedding[...][jnp.asarray(token_ids)]
        else:
            head = jnp.moveaxis(self.head.kernel[...][:, jnp.asarray(token_ids)], 0, -1)
        return jnp.sum(hidden.astype(jnp.float32) * head.astype(self.dtype).astype(jnp.float32), axis=-1)

    def __call__(
        self,
        input_ids: Int[ArrayLike, "batch length"] | None = None,
        *,
        soft_tokens: Float[ArrayLike, "batch length width"] | None = None,
        attention_mask: Bool[ArrayLike, "batch length"] | Int[ArrayLike, "batch length"] | None = None,
        positions: Int[ArrayLike, "batch length"] | None = None,
        segments: Sequence[KVSegment] = (),
        own_mask: Bool[ArrayLike, "rows length length"] | None = None,
        hook_points: Sequence[str] = (),
        logits: bool = True,
        return_segment: bool = False,
    ) -> LlamaOutput:
        """Runs the decoder.

        Rows whose every key is masked (left padding) hold finite values that mean nothing.

        With dynamic RoPE scaling the frequencies of a call are those of its largest position, padding and
        every row included; the keys of `segments` keep those of the calls that made them. The original has
        in addition a memory of the longest call so far, which is not imitated.

        Args:
          input_ids: token ids. Give these or `soft_tokens`.
          soft_tokens: embeddings in place of those of token ids.
          attention_mask: 1 at tokens, 0 at padding, on either side. All ones by default.
          positions: for the rotary embedding. By default 0 to T - 1 over the columns, padding included;
            required with `segments`.
          segments: cached keys and values that every own token may attend to.
          own_mask: true where own token i (rows) may attend to own token j (columns), in place of the causal
            mask; one for every row of the input or one for all. Padding is masked besides.
          hook_points: names of the hidden states to return.
          logits: whether to compute the logits. The pass ends at the last layer that something needs.
          return_segment: whether to return the keys and values of the input.

        Returns:
          The logits, hidden states and segment asked for.

        Raises:
          ValueError: inputs that do not fit together or with the config, or an unknown hook point.
        """
        config = self.config
        if (input_ids is None) == (soft_tokens is None):
            raise ValueError("give exactly one of input_ids and soft_tokens")
        x = jnp.asarray(soft_tokens, self.dtype) if input_ids is None else self.embed_tokens(input_ids)
        batch, length, width = x.shape
        if width != config.hidden_size:
            raise ValueError(f"soft_tokens have width {width}; this model takes {config.hidden_size}")
        if positions is None:
            if segments:
                raise ValueError("positions are required with segments: they must continue those of the cache")
            positions = jnp.arange(length)[None]
        self._check_segments(segments, batch)
        if own_mask is not None and np.shape(own_mask)[0] not in (1, batch):
            raise ValueError(f"own_mask has {np.shape(own_mask)[0]} rows; give 1 or the {batch} of the input")
        self._check_hook_points(hook_points)
        output = _forward(
            *nnx.split(self),
            x,
            valid=jnp.ones((batch, length), bool) if attention_mask is None else jnp.asarray(attention_mask, bool),
            positions=positions,
            segments=tuple(segments),
            own_mask=own_mask,
            hook_points=tuple(hook_points),
            logits=logits,
            return_segment=return_segment,
        )
        return output._replace(hidden_states={name: output.hidden_states[name] for name in hook_points})

    def _run(self, x, *, valid, positions, segments, own_mask, hook_points, logits, return_segment) -> LlamaOutput:
        config, length = self.config, x.shape[1]
        own = jnp.tril(jnp.ones((1, length, length), bool)) if own_mask is None else own_mask
        own = own & valid[:, None, :]
        rope = _rope(config, positions, self.dtype)
        wanted = sorted(int(name.removeprefix("llm_hidden_")) for name in hook_points if name[-1].isdigit())
        whole = logits or return_segment or "llm_final" in hook_points
        depth = config.num_hidden_layers if whole else max(wanted, default=-1) + 1

        graph, weights = nnx.split(self.layers)
        slots = np.full(config.num_hidden_layers, len(wanted))
        slots[wanted] = np.arange(len(wanted))
        # One slot for each wanted layer and, if any is wanted, a last one for the outputs of all the others.
        kept = jnp.zeros((len(wanted) + bool(wanted), *x.shape), x.dtype)
        scanned = (weights, jnp.asarray(slots), tuple((segment.keys, segment.values) for segment in segments))

        def layer_step(carry, layer):
            x, kept = carry
            weights, slot, cached = layer
            caches = [(*pair, segment.mask) for pair, segment in zip(cached, segments, strict=True)]
            x, own_cache = nnx.merge(graph, weights)(x, rope, own, caches)
            if wanted:
                kept = lax.dynamic_update_index_in_dim(kept, x, slot, 0)
            return (x, kept), own_cache if return_segment else None

        def indexed_step(carry, index):
            return layer_step(carry, jax.tree.map(lambda leaf: leaf[index], scanned))

        states = {"inputs_embeds": x}
        if whole:
            (x, kept), cache = lax.scan(layer_step, (x, kept), scanned)
            states["llm_final"] = self.norm(x)
        else:  # by index: slicing the stacked weights would copy those of the layers that are used
            (x, kept), cache = lax.scan(indexed_step, (x, kept), jnp.arange(depth))
        states |= {f"llm_hidden_{k}": kept[slot] for slot, k in enumerate(wanted)}
        return LlamaOutput(
            logits=self.unembed(states["llm_final"]) if logits else None,
            hidden_states={name: states[name] for name in hook_points},
            segment=None if cache is None else KVSegment(*cache, valid),
        )

    def _check_hook_points(self, names: Sequence[str]) -> None:
        unknown = sorted({*names} - {*self.hook_points})
        if unknown:
            raise ValueError(
                f"unknown hook_points {', '.join(map(repr, unknown))}; valid are 'inputs_embeds', 'llm_hidden_0' to "
                f"'llm_hidden_{self.config.num_hidden_layers - 1}', and 'llm_final'"
            )

    def _check_segments(self, segments: Sequence[KVSegment], batch: int) -> None:
        config = self.config
        for index, (keys, values, mask) in enumerate(segments):
            rows, tokens = mask.shape
            shape = (config.num_hidden_layers, rows, tokens, config.num_key_value_heads, config.head_dim)
            if keys.shape != shape or values.shape != shape:
                raise ValueError(
                    f"segments[{index}] has keys {keys.shape} and values {values.shape}; with its mask "
                    f"{mask.shape} this model needs {shape}"
                )
            if batch % rows:
                raise ValueError(f"segments[{index}] has {rows} rows, which do not divide the {batch} of the input")


# Compiled once for each shape, so that a call outside of any `jit` is not compiled anew.
@partial(jax.jit, static_argnames=("graph", "hook_points", "logits", "return_segment"))
def _forward(graph, state, x, **arguments) -> LlamaOutput:
    return nnx.merge(graph, state)._run(x, **arguments)


class _Layer(nnx.Module):
    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        linear = _linear(rngs, dtype, param_dtype)
        self.attention_norm = _RMSNorm(config.hidden_size, config.rms_norm_eps, param_dtype)
        self.attention = _Attention(config, linear)
        self.mlp_norm = _RMSNorm(config.hidden_size, config.rms_norm_eps, param_dtype)
        self.mlp = _MLP(config, linear)

    def __call__(self, x, rope, own_mask, caches):
        attended, own_cache = self.attention(self.attention_norm(x), rope, own_mask, caches)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), own_cache


def _linear(rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike) -> Callable[..., nnx.Linear]:
    return partial(nnx.Linear, use_bias=False, dtype=dtype, param_dtype=param_dtype, rngs=rngs)


class _RMSNorm(nnx.Module):
    def __init__(self, width: int, epsilon: float, param_dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones(width, param_dtype))
        self.epsilon = epsilon

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y * lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.epsilon)
        return self.scale[...].astype(x.dtype) * y.astype(x.dtype)  # the cast comes first in the original too


class _MLP(nnx.Module):
    def __init__(self, config: LlamaConfig, linear: Callable[..., nnx.Linear]):
        self.gate = linear(config.hidden_size, config.intermediate_size)
        self.up = linear(config.hidden_size, config.intermediate_size)
        self.down = linear(config.intermediate_size, config.hidden_size)

    def __call__(self, x):
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class _Attention(nnx.Module):
    def __init__(self, config: LlamaConfig, linear: Callable[..., nnx.Linear]):
        width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.config = config
        self.q = linear(config.hidden_size, width, use_bias=config.qkv_bias)
        self.k = linear(config.hidden_size, kv_width, use_bias=config.qkv_bias)
        self.v = linear(config.hidden_size, kv_width, use_bias=config.qkv_bias)
        self.o = linear(width, config.hidden_size)

    def __call__(self, x, rope, own_mask, caches):
        kv_heads, head_dim = self.config.num_key_value_heads, self.config.head_dim
        batch, length, _ = x.shape
        q = _rotate(self.q(x).reshape(batch, length, -1, head_dim), rope)
        k = _rotate(self.k(x).reshape(batch, length, kv_heads, head_dim), rope)
        v = self.v(x).reshape(batch, length, kv_heads, head_dim)
        q = q.reshape(batch, length, kv_heads, -1, head_dim)  # heads that share keys are neighbours
        parts = [_attend(q, k, v, own_mask)]
        for keys, values, mask in caches:
            # All rows that share a row of the cache become queries of it, so that it is never repeated.
            shared = q.reshape(keys.shape[0], -1, *q.shape[2:])
            part = _attend(shared, keys, values, mask[:, None, :])
            parts.append(_Part(*(array.reshape(batch, length, *array.shape[2:]) for array in part)))
        attended = _joint_softmax(parts).astype(x.dtype)
        return self.o(attended.reshape(batch, length, -1)), (k, v)


class _Part(NamedTuple):
    """Attention to one source of keys, its softmax left open; float32.

    Attributes:
      values: the sum of the values, each times exp(score - largest); shape (b, n, kv heads, group, head_dim).
      largest: the largest score; shape (b, n, kv heads, group, 1).
      total: the sum of the exponentials; as `largest`.
    """

    values: jax.Array
    largest: jax.Array
    total: jax.Array


def _attend(q, k, v, mask) -> _Part:
    """Attends from q, shape (b, n, kv heads, group, head_dim), to k and v, shape (b, s, kv heads, head_dim).

    The mask, shape (b or 1, n or 1, s), is true where attention is allowed.
    """
    scores = jnp.einsum("bnhgd,bshd->bhgns", q, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores / math.sqrt(q.shape[-1]), jnp.finfo(jnp.float32).min)
    largest = lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
    weights = jnp.exp(scores - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    values = jnp.einsum("bhgns,bshd->bnhgd", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    return _Part(values, jnp.moveaxis(largest, 3, 1), jnp.moveaxis(total, 3, 1))


def _joint_softmax(parts: Sequence[_Part]) -> jax.Array:
    """Closes the softmax over the keys of all sources together."""
    largest = reduce(jnp.maximum, [part.largest for part in parts])
    weights = [jnp.exp(part.largest - largest) for part in parts]
    values = reduce(jnp.add, [weight * part.values for weight, part in zip(weights, parts, strict=True)])
    return values / reduce(jnp.add, [weight * part.total for weight, part in zip(weights, parts, strict=True)])


def _rotate(x, rope):
    """Turns the pairs (i, i + head_dim / 2) of x, shape (b, t, heads, head_dim)."""
    cos, sin = rope
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _rope(config: LlamaConfig, positions, dtype):
    """Cosines and sines of the angles, in the dtype asked for; each of shape (b or 1, t, 1, head_dim / 2)."""
    angles = positions[..., None, None].astype(jnp.float32) * _frequencies(config, positions)
    return jnp.cos(angles).astype(dtype), jnp.sin(angles).astype(dtype)


def _frequencies(config: LlamaConfig, positions):
    """Radians per position of each pair, shape (head_dim / 2,), float32."""
    exponents = np.arange(0, config.head_dim, 2) / config.head_dim
    frequencies = config.rope_theta**-exponents
    scaling = config.rope_scaling
    if scaling is None:
        return jnp.asarray(frequencies, jnp.float32)
    if scaling.kind == "linear":
        return jnp.asarray(frequencies / scaling.factor, jnp.float32)
    if scaling.kind == "dynamic":
        longest = jnp.maximum(jnp.max(positions) + 1, config.max_position_embeddings).astype(jnp.float32)
        growth = scaling.factor * longest / config.max_position_embeddings - (scaling.factor - 1)
        # theta grows by growth^(d / (d - 2)); what that does to each frequency is a power of growth alone
        powers = exponents * config.head_dim / (config.head_dim - 2)
        return jnp.asarray(frequencies, jnp.float32) * growth ** -jnp.asarray(powers, jnp.float32)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_position_embeddings * frequencies / (2 * np.pi)  # in the context of pretraining
    kept = np.clip((turns - low) / (high - low), 0, 1)  # 1 for the fast pairs, 0 for the slow ones
    return jnp.asarray(frequencies * (kept + (1 - kept) / scaling.factor), jnp.float32)
