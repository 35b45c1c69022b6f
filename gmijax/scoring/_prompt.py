"""The prompt: head tokens, soft tokens, tail tokens; its checks and its place in the sequence."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Int

from gmijax._checks import is_concrete
from gmijax.models import Llama

Ids: TypeAlias = Int[ArrayLike, "..."] | Sequence[int]
Mask: TypeAlias = Bool[ArrayLike, "..."] | Int[ArrayLike, "..."]


class Prompt(NamedTuple):
    """Embeddings of shape (B, T, width) and their mask, shape (B, T), true at tokens."""

    embeddings: jax.Array
    mask: jax.Array

    @property
    def positions(self) -> jax.Array:
        """Shape (B, T): tokens are numbered without regard to the padding between them."""
        return jnp.maximum(jnp.cumsum(self.mask, axis=1) - 1, 0)

    @property
    def lengths(self) -> jax.Array:
        """Shape (B,): how many tokens each row holds, hence the position of the next."""
        return jnp.sum(self.mask, axis=1)

    def last(self, hidden: jax.Array) -> jax.Array:
        """The states, shape (B, width), at the last token of each row of `hidden`, shape (B, T, width)."""
        columns = self.mask.shape[1] - 1 - jnp.argmax(self.mask[:, ::-1], axis=1)
        return jnp.take_along_axis(hidden, columns[:, None, None], axis=1)[:, 0]


def build_prompt(
    model: Llama,
    *,
    batch: int | None = None,
    head_ids: Ids | None = None,
    soft_tokens: ArrayLike | None = None,
    tail_ids: Ids | None = None,
    head_mask: Mask | None = None,
    soft_mask: Mask | None = None,
) -> Prompt:
    """Checks the parts of a prompt and joins them.

    Args:
      model: gives the embeddings of ids.
      batch: how many rows there must be; by default, as many as the part that has most.
      head_ids: shape (T,) for all rows or (B, T).
      soft_tokens: shape (B, T, width).
      tail_ids: as `head_ids`.
      head_mask: shape (B, T), true at tokens, for padding anywhere; all by default.
      soft_mask: as `head_mask`.

    Raises:
      ValueError: a part is ill-formed, a row holds no token, or the parts differ in their number of rows.
    """
    soft = None if soft_tokens is None else check_soft_tokens(soft_tokens, model.config.hidden_size)
    head, tail = (
        None if ids is None else jnp.atleast_2d(check_ids(name, ids, model.config.vocab_size))
        for name, ids in (("head_ids", head_ids), ("tail_ids", tail_ids))
    )
    parts = [
        (name, jnp.asarray(part, model.dtype) if part.ndim == 3 else model.embed_tokens(part), mask)
        for name, part, mask in (
            ("head_ids", head, head_mask),
            ("soft_tokens", soft, soft_mask),
            ("tail_ids", tail, None),
        )
        if part is not None and part.size
    ]
    if not parts:
        raise ValueError("the prompt is empty; give head_ids, soft_tokens or tail_ids, the first token needs one")
    rows = batch if batch is not None else max(len(embeddings) for _, embeddings, _ in parts)
    masks = []
    for name, embeddings, mask in parts:
        if len(embeddings) not in (1, rows):
            raise ValueError(f"{name} has {len(embeddings)} rows; give 1 or {rows}")
        masks.append(jnp.ones(embeddings.shape[:2], bool) if mask is None else jnp.asarray(mask, bool))
        if masks[-1].shape != embeddings.shape[:2]:
            raise ValueError(f"the mask of {name} has shape {masks[-1].shape}; give {embeddings.shape[:2]}")
    joined = Prompt(
        jnp.concatenate([jnp.broadcast_to(e, (rows, *e.shape[1:])) for _, e, _ in parts], axis=1),
        jnp.concatenate([jnp.broadcast_to(m, (rows, *m.shape[1:])) for m in masks], axis=1),
    )
    if is_concrete(joined.mask):
        empty = np.flatnonzero(np.asarray(joined.lengths) == 0)
        if empty.size:
            raise ValueError(f"the prompt has no token in row {empty[0]}; its masks hide all of them")
    return joined


def check_ids(name: str, ids: Ids, vocab_size: int) -> jax.Array:
    """Returns ids as an int32 array; raises where one lies outside the vocabulary."""
    if is_concrete(ids):
        ids = np.asarray(ids)
        if ids.size and not np.issubdtype(ids.dtype, np.integer):
            raise ValueError(f"{name} has dtype {ids.dtype}; give integers")
        outside = ids[(ids < 0) | (ids >= vocab_size)]
        if outside.size:
            raise ValueError(f"{name} holds {outside[0]}; this model's vocabulary is 0 to {vocab_size - 1}")
    return jnp.asarray(ids, jnp.int32)


def check_soft_tokens(soft_tokens: ArrayLike, width: int) -> jax.Array | np.ndarray:
    """Returns soft tokens as an array, on the host if that is where they are.

    Raises:
      ValueError: the shape is not (B, T, width), or a value is NaN or infinite.
    """
    array = soft_tokens if isinstance(soft_tokens, jax.Array) else np.asarray(soft_tokens)
    if array.ndim != 3 or array.shape[-1] != width:
        raise ValueError(f"soft_tokens has shape {array.shape}; this model takes (batch, tokens, {width})")
    if is_concrete(array):
        finite = np.asarray((np if isinstance(array, np.ndarray) else jnp).isfinite(array).all(axis=(1, 2)))
        if not finite.all():
            raise ValueError(f"soft_tokens holds NaN or infinity, first in row {finite.argmin()}; set padding to zero")
    return array


def check_context(model: Llama, length: int) -> None:
    """Raises where a cache would hold keys of other frequencies than one long pass would give them."""
    scaling, longest = model.config.rope_scaling, model.config.max_position_embeddings
    if scaling is not None and scaling.kind == "dynamic" and length > longest:
        raise ValueError(
            f"up to {length} tokens are needed, and with dynamic RoPE scaling the keys cached for fewer than them "
            f"are no longer right beyond max_position_embeddings = {longest}; use log_likelihoods, or shorten"
        )
