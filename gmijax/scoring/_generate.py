"""Greedy generation with a cache of fixed size."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Float

from gmijax.models import KVSegment, Llama
from gmijax.scoring._prompt import Ids, Mask, Prompt, build_prompt, check_context


class Generation(NamedTuple):
    """Tokens that a model went on with.

    Attributes:
      tokens: shape (batch, max_new_tokens), int32; after the end of a row, its padding token.
      lengths: shape (batch,), how many tokens of each row count, an end-of-sequence token included.
    """

    tokens: jax.Array
    lengths: jax.Array


def generate(
    model: Llama,
    *,
    max_new_tokens: int,
    head_ids: Ids | None = None,
    soft_tokens: Float[ArrayLike, "rows tokens width"] | None = None,
    tail_ids: Ids | None = None,
    head_mask: Mask | None = None,
    soft_mask: Mask | None = None,
    eos_token_ids: tuple[int, ...] | None = None,
) -> Generation:
    """Continues prompts with the most probable token at each step.

    The prompt is as in `log_likelihoods`; padding on either side of a part changes nothing. One program is
    compiled for each shape of the prompt and each `max_new_tokens`.

    Args:
      model: the decoder.
      max_new_tokens: the most tokens to generate.
      head_ids: token ids, shape (T,) for all rows or (batch, T).
      soft_tokens: embeddings that enter in place of those of tokens.
      tail_ids: token ids after the soft tokens, as `head_ids`.
      head_mask: of the shape of 2-D `head_ids`; 1 at tokens, 0 at padding.
      soft_mask: of the shape of the first two axes of `soft_tokens`, likewise.
      eos_token_ids: tokens that end a row; by default those of the model's config. Empty: none does.

    Returns:
      The tokens and how many of each row count.

    Raises:
      ValueError: as `log_likelihoods`, or `max_new_tokens` is not positive.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens = {max_new_tokens}; give at least 1")
    prompt = build_prompt(
        model,
        head_ids=head_ids,
        soft_tokens=soft_tokens,
        tail_ids=tail_ids,
        head_mask=head_mask,
        soft_mask=soft_mask,
    )
    check_context(model, prompt.mask.shape[1] + max_new_tokens)
    ends = model.config.eos_token_id if eos_token_ids is None else eos_token_ids
    padding = model.config.pad_token_id
    if padding is None:
        padding = ends[0] if ends else 0
    graph, state = nnx.split(model)
    return _generate(graph, state, prompt, jnp.asarray(ends, jnp.int32), padding, max_new_tokens=max_new_tokens)


@partial(jax.jit, static_argnames=("graph", "max_new_tokens"))
def _generate(graph, state, prompt: Prompt, ends, padding, *, max_new_tokens) -> Generation:
    model: Llama = nnx.merge(graph, state)
    config, batch = model.config, len(prompt.mask)
    output = model(
        soft_tokens=prompt.embeddings,
        attention_mask=prompt.mask,
        positions=prompt.positions,
        hook_points=("llm_final",),
        logits=False,
        return_segment=True,
    )
    cached = output.segment
    assert cached is not None
    shape = (config.num_hidden_layers, batch, max_new_tokens, config.num_key_value_heads, config.head_dim)
    empty = KVSegment(
        jnp.zeros(shape, model.dtype), jnp.zeros(shape, model.dtype), jnp.zeros((batch, max_new_tokens), bool)
    )
    first = jnp.argmax(model.unembed(prompt.last(output.hidden_states["llm_final"])), axis=-1).astype(jnp.int32)
    tokens = jnp.full((batch, max_new_tokens), padding, jnp.int32).at[:, 0].set(first)
    lengths = jnp.ones(batch, jnp.int32)

    def unfinished(carry):
        step, _, _, _, done = carry
        return (step < max_new_tokens) & ~jnp.all(done)

    def extend(carry):
        step, tokens, lengths, grown, done = carry
        current = lax.dynamic_slice_in_dim(tokens, step - 1, 1, axis=1)
        result = model(
            current,
            positions=(prompt.lengths + step - 1)[:, None],
            segments=(cached, grown),
            return_segment=True,
        )
        assert result.segment is not None
        assert result.logits is not None
        grown = KVSegment(
            lax.dynamic_update_slice_in_dim(grown.keys, result.segment.keys, step - 1, axis=2),
            lax.dynamic_update_slice_in_dim(grown.values, result.segment.values, step - 1, axis=2),
            grown.mask.at[:, step - 1].set(True),
        )
        following = jnp.where(done, padding, jnp.argmax(result.logits[:, -1], axis=-1)).astype(jnp.int32)
        tokens = lax.dynamic_update_slice_in_dim(tokens, following[:, None], step, axis=1)
        return step + 1, tokens, lengths + ~done, grown, done | jnp.isin(following, ends)

    carry = (jnp.int32(1), tokens, lengths, empty, jnp.isin(first, ends))
    _, tokens, lengths, _, _ = lax.while_loop(unfinished, extend, carry)
    return Generation(tokens, lengths)
