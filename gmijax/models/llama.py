"""Llama: the decoder of Llama 2 and 3, Vicuna and SmolLM2, and with Qwen2's biases that of Qwen2.

It is the text half of Ultravox, Qwen2-Audio, LLaVA and Prismatic.

Numbers follow the implementation in transformers 5.23. The parameters of all layers are stacked on a leading
layer axis and the forward pass is one scan over it, so that compile time does not grow with depth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Int

from gmijax.models._attention import Part, attend, dot_product_attention, joint_softmax
from gmijax.models._config import ConfigReader
from gmijax.models._errors import ConfigError
from gmijax.models._hooks import Hooks, Intervention, as_pytrees, check_hook_points
from gmijax.models._keys import KeyRule
from gmijax.models._layers import RMSNorm, linear
from gmijax.models._rope import RopeScaling, angles, read_rope, rotate, scaling_problems
from gmijax.models._stack import run_layers

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

# Fields of a config.json that have one value we can honour. Absent or null means that value.
_ONE_VALUE: dict[str, Any] = {
    "attention_bias": False,
    "hidden_act": "silu",
    "mlp_bias": False,
    "partial_rotary_factor": 1.0,
    "pretraining_tp": 1,
    "rope_interleaved": False,
    "sliding_window": None,
}
_IRRELEVANT = ("is_llama_config", "max_sequence_length", "max_window_layers", "use_mrope")

# What absent fields of a config.json mean, by its model_type.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "num_key_value_heads": None,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "qwen2": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "max_position_embeddings": 32768,
        "num_key_value_heads": 32,
        "bos_token_id": None,
        "eos_token_id": None,
    },
}

_POSITIVE = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "rope_theta"),
)


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

        Absent fields take the defaults of transformers' LlamaConfig, or of its Qwen2Config where model_type is
        "qwen2", as published sparse configs expect.
        A field that is neither handled nor known to be irrelevant is refused: a setting that is silently
        dropped gives a model that runs and is wrong.

        Args:
          config: the decoded JSON object.

        Raises:
          ConfigError: listing every unknown field, every value that is not supported, and everything that is
            missing or inconsistent.
        """
        reader = ConfigReader(config)
        kind = config.get("model_type") or "llama"
        if kind not in _DEFAULTS:
            reader.problems.append(f"model_type = {kind!r} is not one of {', '.join(_DEFAULTS)}")
        defaults = _DEFAULTS.get(kind, _DEFAULTS["llama"])
        hidden_size = reader.take("hidden_size", int, 4096)
        heads = reader.take("num_attention_heads", int, 32)
        max_positions = reader.take("max_position_embeddings", int, defaults["max_position_embeddings"])
        head_dim = reader.take("head_dim", int, None)
        if head_dim is None and heads > 0:
            head_dim, remainder = divmod(hidden_size, heads)
            if remainder:
                reader.problems.append(
                    f"hidden_size = {hidden_size} is not a multiple of num_attention_heads = {heads}; give head_dim"
                )
        kv_heads = reader.take("num_key_value_heads", int, None)
        if "num_key_value_heads" not in config:
            kv_heads = defaults["num_key_value_heads"]
        eos = config.get("eos_token_id", defaults["eos_token_id"])
        eos = [] if eos is None else eos if isinstance(eos, list) else [eos]
        if not all(isinstance(token, int) for token in eos):
            reader.problems.append(f"eos_token_id = {eos!r}: must be integers")
            eos = []
        one_value = dict(_ONE_VALUE)
        if kind == "qwen2":
            one_value["use_sliding_window"] = False
            del one_value["sliding_window"]  # published, and without effect while it is not used
            kinds = config.get("layer_types") or ()
            if any(layer != "full_attention" for layer in kinds):
                reader.problems.append(f"layer_types = {kinds!r}: only 'full_attention' is supported")
        rope_theta, rope_scaling = read_rope(reader, max_positions)
        values = {
            "vocab_size": reader.take("vocab_size", int, defaults["vocab_size"]),
            "hidden_size": hidden_size,
            "intermediate_size": reader.take("intermediate_size", int, defaults["intermediate_size"]),
            "num_hidden_layers": reader.take("num_hidden_layers", int, 32),
            "num_attention_heads": heads,
            "num_key_value_heads": heads if kv_heads is None else kv_heads,
            "head_dim": head_dim or 0,
            "rms_norm_eps": reader.take("rms_norm_eps", float, 1e-6),
            "max_position_embeddings": max_positions,
            "rope_theta": rope_theta,
            "rope_scaling": rope_scaling,
            "tie_word_embeddings": reader.take("tie_word_embeddings", bool, False),
            "qkv_bias": kind == "qwen2",
            "bos_token_id": reader.take(
                "bos_token_id", int, None if "bos_token_id" in config else defaults["bos_token_id"]
            ),
            "eos_token_id": tuple(eos),
            "pad_token_id": reader.take("pad_token_id", int, None),
        }
        handled = {*cls.__dataclass_fields__, "rope_parameters", "model_type"} - {"qkv_bias"}
        if kind == "qwen2":
            handled |= {"layer_types", "sliding_window"}
        reader.finish(handled, one_value, _IRRELEVANT)
        return reader.build("Llama", cls, **values)


def _contradictions(config: LlamaConfig) -> list[str]:
    problems = []
    if config.num_attention_heads % config.num_key_value_heads:
        problems.append(
            f"num_attention_heads = {config.num_attention_heads} is not a multiple of "
            f"num_key_value_heads = {config.num_key_value_heads}"
        )
    if config.head_dim % 2:
        problems.append(f"head_dim = {config.head_dim}: must be even, rotary embeddings turn pairs")
    return problems + scaling_problems(config.rope_scaling, config.head_dim)


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
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, param_dtype)
        if not config.tie_word_embeddings:
            self.head = linear(rngs, self.dtype, param_dtype)(config.hidden_size, config.vocab_size)

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
        interventions: Mapping[str, Intervention] | None = None,
        return_segment: bool = False,
        remat: bool = False,
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
          hook_points: names of the hidden states to return, as they are after any intervention.
          logits: whether to compute the logits. The pass ends at the last layer that something needs.
          interventions: by hook point, a function from its states to states of the same shape, applied on the way.
            Pass arrays that vary as leaves of a `jax.tree_util.Partial`: any other function is compiled anew.
          return_segment: whether to return the keys and values of the input.
          remat: recompute the layers in a backward pass, which then holds the input of each layer and no more.

        Returns:
          The logits, hidden states and segment asked for.

        Raises:
          ValueError: inputs that do not fit together or with the config, an unknown hook point, or an intervention
            that never fires because nothing that was asked for needs its hook point.
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
        check_hook_points(self.hook_points, hook_points, interventions)
        output = _forward(
            *nnx.split(self),
            x,
            valid=jnp.ones((batch, length), bool) if attention_mask is None else jnp.asarray(attention_mask, bool),
            positions=positions,
            segments=tuple(segments),
            own_mask=own_mask,
            hook_points=tuple(hook_points),
            logits=logits,
            interventions=as_pytrees(interventions),
            return_segment=return_segment,
            remat=remat,
        )
        return output._replace(hidden_states={name: output.hidden_states[name] for name in hook_points})

    def run(
        self,
        x: jax.Array,
        *,
        hooks: Hooks,
        valid: jax.Array,
        positions: ArrayLike | None = None,
        segments: Sequence[KVSegment] = (),
        own_mask: ArrayLike | None = None,
        logits: bool = True,
        return_segment: bool = False,
        remat: bool = False,
    ) -> LlamaOutput:
        """As a call, inside the pass of a larger model whose `hooks` it shares; nothing is checked."""
        config, length = self.config, x.shape[1]
        positions = jnp.arange(length)[None] if positions is None else jnp.asarray(positions)
        own = jnp.tril(jnp.ones((1, length, length), bool)) if own_mask is None else own_mask
        own = own & valid[:, None, :]
        rope = angles(
            positions,
            head_dim=config.head_dim,
            theta=config.rope_theta,
            scaling=config.rope_scaling,
            max_positions=config.max_position_embeddings,
            dtype=self.dtype,
        )
        whole = logits or return_segment or "llm_final" in hooks.wanted
        depth = config.num_hidden_layers if whole else hooks.deepest("llm_hidden_") + 1

        def step(layer, x, cached):
            caches = [(*pair, segment.mask) for pair, segment in zip(cached, segments, strict=True)]
            x, own_cache = layer(x, rope, own, caches)
            return x, own_cache if return_segment else None

        x, cache = run_layers(
            self.layers,
            hooks.visit("inputs_embeds", x, valid),
            step,
            hooks=hooks,
            prefix="llm_hidden_",
            depth=depth,
            per_layer=tuple((segment.keys, segment.values) for segment in segments),
            mask=valid,
            remat=remat,
        )
        if whole:
            x = hooks.visit("llm_final", self.norm(x), valid)
        return LlamaOutput(
            logits=self.unembed(x) if logits else None,
            hidden_states=hooks.states,
            segment=None if cache is None else KVSegment(cache[0], cache[1], valid),
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
@partial(jax.jit, static_argnames=("graph", "hook_points", "logits", "return_segment", "remat"))
def _forward(graph, state, x, *, hook_points, interventions, **arguments) -> LlamaOutput:
    hooks = Hooks(hook_points, interventions)
    output = nnx.merge(graph, state).run(x, hooks=hooks, **arguments)
    hooks.finish()
    return output


class _Layer(nnx.Module):
    def __init__(self, config: LlamaConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, param_dtype: DTypeLike):
        project = linear(rngs, dtype, param_dtype)
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, param_dtype)
        self.attention = _Attention(config, project)
        self.mlp_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, param_dtype)
        self.mlp = _MLP(config, project)

    def __call__(self, x, rope, own_mask, caches):
        attended, own_cache = self.attention(self.attention_norm(x), rope, own_mask, caches)
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), own_cache


class _MLP(nnx.Module):
    def __init__(self, config: LlamaConfig, project: Callable[..., nnx.Linear]):
        self.gate = project(config.hidden_size, config.intermediate_size)
        self.up = project(config.hidden_size, config.intermediate_size)
        self.down = project(config.intermediate_size, config.hidden_size)

    def __call__(self, x):
        return self.down(jax.nn.silu(self.gate(x)) * self.up(x))


class _Attention(nnx.Module):
    def __init__(self, config: LlamaConfig, project: Callable[..., nnx.Linear]):
        width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.config = config
        self.q = project(config.hidden_size, width, use_bias=config.qkv_bias)
        self.k = project(config.hidden_size, kv_width, use_bias=config.qkv_bias)
        self.v = project(config.hidden_size, kv_width, use_bias=config.qkv_bias)
        self.o = project(width, config.hidden_size)

    def __call__(self, x, rope, own_mask, caches):
        kv_heads, head_dim = self.config.num_key_value_heads, self.config.head_dim
        batch, length, _ = x.shape
        q = rotate(self.q(x).reshape(batch, length, -1, head_dim), rope)
        k = rotate(self.k(x).reshape(batch, length, kv_heads, head_dim), rope)
        v = self.v(x).reshape(batch, length, kv_heads, head_dim)
        if not caches:
            attended = dot_product_attention(q, k, v, mask=own_mask[:, None])
            return self.o(attended.reshape(batch, length, -1)), (k, v)
        q = q.reshape(batch, length, kv_heads, -1, head_dim)  # heads that share keys are neighbours
        parts = [attend(q, k, v, own_mask)]
        for keys, values, mask in caches:
            # All rows that share a row of the cache become queries of it, so that it is never repeated.
            shared = q.reshape(keys.shape[0], -1, *q.shape[2:])
            part = attend(shared, keys, values, mask[:, None, :])
            parts.append(Part(*(array.reshape(batch, length, *array.shape[2:]) for array in part)))
        attended = joint_softmax(parts).astype(x.dtype)
        return self.o(attended.reshape(batch, length, -1)), (k, v)
