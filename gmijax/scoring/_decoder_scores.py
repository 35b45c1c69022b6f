"""A decoder with its prompt and targets as a function of soft tokens: what interventions run."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Float

from gmijax.models import Llama
from gmijax.scoring._likelihoods import log_normalisers
from gmijax.scoring._matrix import score_matrix
from gmijax.scoring._prompt import Ids, Mask, Prompt, build_prompt, check_ids

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
        soft = np.asarray(soft_tokens)
        if soft.ndim != 3 or not len(soft):
            raise ValueError(f"soft_tokens must be (rows, tokens, width) with at least one row, got {soft.shape}")
        count, tokens = soft.shape[:2]
        mask = np.ones((count, tokens), bool) if soft_mask is None else np.asarray(soft_mask, bool)
        head, tail = (
            np.asarray(check_ids(name, ids, self.model.config.vocab_size))
            for name, ids in (("head_ids", self.head_ids), ("tail_ids", self.tail_ids))
        )
        own = 0 if self.placeholder_id is None else self.placeholder_id
        check_ids("placeholder_id", np.asarray([own]), self.model.config.vocab_size)
        labels = np.concatenate([head, np.full(tokens, own), tail]).astype(np.int32)
        counted = np.concatenate([head >= 0, np.full(tokens, self.placeholder_id is not None), tail >= 0])

        graph, state = nnx.split(self.model)
        batch, losses = min(self.batch_size, count), []
        for start in range(0, count, batch):
            rows = np.minimum(np.arange(start, start + batch), count - 1)  # one program serves all batches
            prompt = build_prompt(
                self.model,
                batch=batch,
                head_ids=head if head.size else None,
                soft_tokens=soft[rows],
                tail_ids=tail if tail.size else None,
                soft_mask=mask[rows],
            )
            losses.append(np.asarray(_prompt_losses(graph, state, prompt, labels, counted))[: count - start])
        values = np.concatenate(losses)
        if not np.isfinite(values).all():
            raise ValueError(
                f"the prompt of row {int(np.argmin(np.isfinite(values)))} has no token to predict from one before it; "
                "give head_ids and tail_ids, or a placeholder_id"
            )
        return values


@partial(jax.jit, static_argnames="graph")
def _prompt_losses(graph, state, prompt: Prompt, labels: jax.Array, counted: jax.Array) -> jax.Array:
    model: Llama = nnx.merge(graph, state)
    output = model(
        soft_tokens=prompt.embeddings,
        attention_mask=prompt.mask,
        positions=prompt.positions,
        hook_points=("llm_final",),
        logits=False,
    )
    hidden = output.hidden_states["llm_final"]
    # The token before, over the padding between them; -1 where there is none.
    columns = jnp.where(prompt.mask, jnp.arange(prompt.mask.shape[1]), -1)
    before = jnp.pad(jax.lax.cummax(columns, axis=1)[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
    hidden = jnp.take_along_axis(hidden, jnp.maximum(before, 0)[..., None], axis=1)
    values = model.token_logits(hidden, labels) - log_normalisers(model, hidden, _ROWS)
    counts = prompt.mask & counted & (before >= 0)
    return -jnp.sum(jnp.where(counts, values, 0), axis=1) / jnp.sum(counts, axis=1)
