"""A decoder with its prompt and targets as a function of soft tokens: what interventions run."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Float

from gmijax.models import KVSegment, Llama
from gmijax.scoring._likelihoods import log_normalisers
from gmijax.scoring._matrix import score_matrix, soft_prompt
from gmijax.scoring._prompt import Ids, Mask, check_context, check_ids, check_soft_tokens

_ROWS = 128  # logits of as many tokens are held at once


@dataclass(frozen=True, eq=False)
class DecoderScores:
    """Scores of fixed targets after a fixed head and tail, as a function of the soft tokens alone.

    Estimators know nothing of models; what they need of one is such a function.

    Attributes:
      model: the decoder.
      targets: token ids of each target.
      head_ids: token ids before the soft tokens, shape (T,).
      tail_ids: token ids after them, likewise.
      placeholder_id: what stands for a soft token among the prompt's ids (such as Ultravox's end token); then soft
        tokens count as targets in `prompt_losses`, as in the code of arXiv:2602.23136. Where None they do not.
      memory_budget: as in `score_matrix`.
      batch_size: rows that `prompt_losses` runs together.
    """

    model: Llama
    targets: Sequence[Sequence[int] | np.ndarray]
    head_ids: Ids = ()
    tail_ids: Ids = ()
    placeholder_id: int | None = None
    memory_budget: int = 2**31
    batch_size: int = 16

    def __call__(
        self, soft_tokens: Float[ArrayLike, "rows tokens width"], soft_mask: Mask | None = None
    ) -> Float[np.ndarray, "rows targets"]:
        """Log-likelihoods of every target after every row of soft tokens, nats: `score_matrix`."""
        return score_matrix(
            self.model,
            soft_tokens,
            self.targets,
            head_ids=self.head_ids,
            tail_ids=self.tail_ids,
            soft_mask=soft_mask,
            memory_budget=self.memory_budget,
        )

    def prompt_losses(
        self, soft_tokens: Float[ArrayLike, "rows tokens width"], soft_mask: Mask | None = None
    ) -> Float[np.ndarray, "rows"]:
        """The mean cross-entropy of each prompt's own tokens, nats a token, as the paper's code takes it.

        Its labels are the prompt's ids, without a target: it asks how well the decoder foresees its own instructions.
        Kept to compare with that code.

        Args:
          soft_tokens: shape (rows, tokens, width).
          soft_mask: 1 at soft tokens, 0 at padding, shape (rows, tokens).

        Raises:
          ValueError: as `score_matrix`, and if no token of the prompt has one before it.
        """
        config = self.model.config
        soft = check_soft_tokens(soft_tokens, config.hidden_size)
        count, tokens = soft.shape[:2]
        mask = np.ones((count, tokens), bool) if soft_mask is None else np.asarray(soft_mask, bool)
        if not count or mask.shape != (count, tokens):
            raise ValueError(f"soft_tokens must hold a row and soft_mask its tokens, got {soft.shape} and {mask.shape}")
        head, tail = (
            np.asarray(check_ids(name, ids, config.vocab_size))
            for name, ids in (("head_ids", self.head_ids), ("tail_ids", self.tail_ids))
        )
        placeholder = -1 if self.placeholder_id is None else self.placeholder_id
        check_ids("placeholder_id", np.maximum([placeholder], 0), config.vocab_size)
        labels = np.concatenate([np.full(tokens, placeholder), tail]).astype(np.int32)
        check_context(self.model, len(head) + len(labels))

        graph, state = nnx.split(self.model)
        shared = _run_head(graph, state, head[None]) if head.size else None
        batch, losses = min(self.batch_size, count), []
        for start in range(0, count, batch):
            rows = np.minimum(np.arange(start, start + batch), count - 1)  # one program serves all batches
            values = _prompt_losses(graph, state, shared, soft[rows], mask[rows], tail, labels)
            losses.append(np.asarray(values)[: count - start])
        values = np.concatenate(losses)
        if not np.isfinite(values).all():
            raise ValueError(
                f"the prompt of row {int(np.argmin(np.isfinite(values)))} has no token to predict from one before it; "
                "give head_ids and tail_ids, or a placeholder_id"
            )
        return values


class _Head(NamedTuple):
    """What the head leaves behind: its keys and values, its last state (1, width), and its own loss."""

    segment: KVSegment
    last: jax.Array
    loss: jax.Array


@partial(jax.jit, static_argnames="graph")
def _run_head(graph, state, head_ids) -> _Head:
    model: Llama = nnx.merge(graph, state)
    output = model(head_ids, hook_points=("llm_final",), logits=False, return_segment=True)
    hidden = output.hidden_states["llm_final"]
    assert output.segment is not None
    loss = jnp.zeros(())
    if head_ids.shape[1] > 1:
        values = model.token_logits(hidden[:, :-1], head_ids[:, 1:]) - log_normalisers(model, hidden[:, :-1], _ROWS)
        loss = -jnp.sum(values)
    return _Head(output.segment, hidden[:, -1], loss)


@partial(jax.jit, static_argnames="graph")
def _prompt_losses(graph, state, head: _Head | None, soft_tokens, soft_mask, tail_ids, labels) -> jax.Array:
    model: Llama = nnx.merge(graph, state)
    length = 0 if head is None else head.segment.mask.shape[1]
    prompt = soft_prompt(model, soft_tokens, soft_mask, tail_ids)
    output = model(
        soft_tokens=prompt.embeddings,
        attention_mask=prompt.mask,
        positions=length + prompt.positions,
        segments=() if head is None else (head.segment,),
        hook_points=("llm_final",),
        logits=False,
    )
    hidden = output.hidden_states["llm_final"]
    last = jnp.zeros_like(hidden[:, 0]) if head is None else jnp.broadcast_to(head.last, hidden[:, 0].shape)
    hidden = jnp.concatenate([last[:, None], hidden], axis=1)
    # The column of the token before, over the padding between them; 0 is the head, which may be empty.
    columns = jnp.where(prompt.mask, 1 + jnp.arange(prompt.mask.shape[1]), 0)
    before = jnp.pad(lax.cummax(columns, axis=1)[:, :-1], ((0, 0), (1, 0)))
    hidden = jnp.take_along_axis(hidden, before[..., None], axis=1)
    values = model.token_logits(hidden, jnp.maximum(labels, 0)) - log_normalisers(model, hidden, _ROWS)
    counted = prompt.mask & (labels >= 0) & ((before > 0) | (length > 0))
    total = -jnp.sum(jnp.where(counted, values, 0), axis=1) + (0 if head is None else head.loss)
    return total / (jnp.sum(counted, axis=1) + max(length - 1, 0))
