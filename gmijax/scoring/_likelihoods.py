"""Log-likelihoods of targets by one full forward pass: differentiable, and the oracle of the cached way."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from gmijax.models import Llama
from gmijax.scoring._prompt import Ids, Mask, Prompt, build_prompt, check_ids, is_concrete

_ROWS = 128  # logits of as many tokens are held at once


def log_likelihoods(
    model: Llama,
    target_ids: Int[ArrayLike, "batch length"],
    *,
    head_ids: Ids | None = None,
    soft_tokens: Float[ArrayLike, "rows tokens width"] | None = None,
    tail_ids: Ids | None = None,
    head_mask: Mask | None = None,
    soft_mask: Mask | None = None,
    target_mask: Mask | None = None,
) -> Float[Array, "batch"]:
    """The log-likelihood of each target after its prompt, log q(y | head, z, tail), in nats.

    The prompt of a row is `head_ids`, `soft_tokens`, `tail_ids`, in this order; at least one is needed. Rows are
    independent of each other and of padding. The function can be traced: `jax.grad` in the soft tokens works.

    Args:
      model: the decoder.
      target_ids: the targets.
      head_ids: token ids before the soft tokens, shape (T,) for all rows or (batch, T).
      soft_tokens: embeddings that enter in place of those of tokens; of one row for all, or of each.
      tail_ids: token ids after the soft tokens, as `head_ids`.
      head_mask: of the shape of 2-D `head_ids`; 1 at tokens, 0 at padding, on either side.
      soft_mask: of the shape of the first two axes of `soft_tokens`, likewise.
      target_mask: 1 at tokens, 0 at padding, which must be on the right.

    Returns:
      The sum of the log-probabilities of each target's tokens, float32.

    Raises:
      ValueError: an id outside the vocabulary, soft tokens of another width or not finite, an empty target or
        prompt, masks that do not fit. Values are not looked at under a JAX transformation.
    """
    values = token_log_likelihoods(
        model,
        target_ids,
        head_ids=head_ids,
        soft_tokens=soft_tokens,
        tail_ids=tail_ids,
        head_mask=head_mask,
        soft_mask=soft_mask,
        target_mask=target_mask,
    )
    return jnp.sum(values, axis=1)


def token_log_likelihoods(
    model: Llama,
    target_ids: Int[ArrayLike, "batch length"],
    *,
    head_ids: Ids | None = None,
    soft_tokens: Float[ArrayLike, "rows tokens width"] | None = None,
    tail_ids: Ids | None = None,
    head_mask: Mask | None = None,
    soft_mask: Mask | None = None,
    target_mask: Mask | None = None,
) -> Float[Array, "batch length"]:
    """As `log_likelihoods`, for each token given those before it; 0 at padding."""
    target_ids = check_ids("target_ids", target_ids, model.config.vocab_size)
    target_mask = jnp.ones(target_ids.shape, bool) if target_mask is None else jnp.asarray(target_mask, bool)
    if is_concrete(target_mask):
        mask = np.asarray(target_mask)
        if not mask.any(axis=1).all():
            raise ValueError(f"target_ids is empty in row {np.argmin(mask.any(axis=1))}; give at least one token")
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError("target_mask has padding before a token; pad target_ids on the right")
    prompt = build_prompt(
        model,
        batch=len(target_ids),
        head_ids=head_ids,
        soft_tokens=soft_tokens,
        tail_ids=tail_ids,
        head_mask=head_mask,
        soft_mask=soft_mask,
    )
    graph, state = nnx.split(model)
    return _token_log_likelihoods(graph, state, prompt, target_ids, target_mask)


@partial(jax.jit, static_argnames="graph")
def _token_log_likelihoods(graph, state, prompt: Prompt, target_ids, target_mask):
    model: Llama = nnx.merge(graph, state)
    hidden = target_states(model, prompt, target_ids, target_mask)
    values = model.token_logits(hidden, target_ids) - log_normalisers(model, hidden, _ROWS)
    return jnp.where(target_mask, values, 0)


def target_states(model: Llama, prompt: Prompt, target_ids: jax.Array, target_mask: jax.Array) -> jax.Array:
    """The states after the final norm that predict each target token, shape (B, length, width)."""
    columns = prompt.mask.shape[1]
    whole = Prompt(
        jnp.concatenate([prompt.embeddings, model.embed_tokens(target_ids[:, :-1])], axis=1),
        jnp.concatenate([prompt.mask, target_mask[:, :-1]], axis=1),
    )
    output = model(
        soft_tokens=whole.embeddings,
        attention_mask=whole.mask,
        positions=whole.positions,
        hook_points=("llm_final",),
        logits=False,
    )
    hidden = output.hidden_states["llm_final"]
    return jnp.concatenate([prompt.last(hidden)[:, None], hidden[:, columns:]], axis=1)


def log_normalisers(model: Llama, hidden: jax.Array, rows: int) -> jax.Array:
    """The logarithm of the sum of the exponentials of all logits, for each state.

    Args:
      model: the decoder.
      hidden: states after the final norm, shape (..., width).
      rows: of how many states the logits are held at once.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])
    rows = min(rows, len(flat))
    blocks = jnp.pad(flat, ((0, -len(flat) % rows), (0, 0))).reshape(-1, rows, flat.shape[-1])

    @jax.checkpoint  # a gradient computes the logits again rather than keep them
    def normalise(block):
        return jax.nn.logsumexp(model.unembed(block), axis=-1)

    return lax.map(normalise, blocks).reshape(-1)[: len(flat)].reshape(hidden.shape[:-1])


def next_token_loss(
    logits: Float[ArrayLike, "batch length vocabulary"],
    labels: Int[ArrayLike, "batch length"],
) -> Float[Array, ""]:
    """The loss that language models are trained with, as transformers computes it.

    Args:
      logits: of every position.
      labels: the tokens themselves, not shifted; those that are -100 do not count.

    Returns:
      The mean over all counted tokens of the batch, in nats, of minus their log-probability given what precedes.
    """
    logits = jnp.asarray(logits, jnp.float32)[:, :-1]
    labels = jnp.asarray(labels)[:, 1:]
    counted = labels != -100
    chosen = jnp.take_along_axis(logits, jnp.where(counted, labels, 0)[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.sum(jnp.where(counted, losses, 0)) / jnp.sum(counted)
