"""A decoder's score and logits as functions of soft tokens alone, in the form that `gmijax.sensitivity` takes."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gmijax.models import Llama
from gmijax.scoring._likelihoods import log_likelihoods, target_states
from gmijax.scoring._prompt import Ids, build_prompt, check_ids


@dataclass(frozen=True)
class _OfSoftTokens:
    """A model without its weights, and the prompt around the soft tokens.

    Two of the same model and prompt are equal, so that a program compiled for one serves the other.
    """

    graph: Any
    head_ids: tuple[int, ...]
    tail_ids: tuple[int, ...]


@dataclass(frozen=True)
class SoftTokenScore(_OfSoftTokens):
    """log q(y | head, z, tail) as a function of the soft tokens z; made by `soft_token_score`."""

    def __call__(self, weights, soft_tokens, target_ids, soft_mask=None, target_mask=None) -> jax.Array:
        """Scores in nats, shape (b,).

        Args:
          weights: of the model.
          soft_tokens: shape (b, tokens, width).
          target_ids: shape (b, length), padded on the right.
          soft_mask: shape (b, tokens), true at soft tokens.
          target_mask: shape (b, length), true at target tokens.
        """
        return log_likelihoods(
            nnx.merge(self.graph, weights),
            target_ids,
            head_ids=self.head_ids,
            soft_tokens=soft_tokens,
            tail_ids=self.tail_ids,
            soft_mask=soft_mask,
            target_mask=target_mask,
        )


@dataclass(frozen=True)
class SoftTokenLogits(_OfSoftTokens):
    """The next token's logits at each target position, as a function of z; made by `soft_token_logits`."""

    def __call__(self, weights, soft_tokens, target_ids, soft_mask=None, target_mask=None) -> jax.Array:
        """Logits, shape (b, length, vocabulary), each given the target tokens before it; 0 at padding.

        Padding is constant, so that it adds nothing to a Fisher form. Arguments as in `SoftTokenScore`.
        """
        model: Llama = nnx.merge(self.graph, weights)
        target_ids = jnp.asarray(target_ids)
        mask = jnp.ones(target_ids.shape, bool) if target_mask is None else jnp.asarray(target_mask, bool)
        prompt = build_prompt(
            model,
            batch=len(target_ids),
            head_ids=self.head_ids,
            soft_tokens=soft_tokens,
            tail_ids=self.tail_ids,
            soft_mask=soft_mask,
        )
        logits = model.unembed(target_states(model, prompt, target_ids, mask))
        return jnp.where(mask[..., None], logits, 0)


def soft_token_score(model: Llama, *, head_ids: Ids = (), tail_ids: Ids = ()) -> tuple[SoftTokenScore, Any]:
    """The score of targets as a differentiable function of soft tokens, and the weights it takes as operands.

        score, weights = soft_token_score(model, head_ids=head, tail_ids=tail)
        sensitivity.gradient_norms(score, z, targets, soft_mask, target_mask, operands=weights, mask=soft_mask)

    Targets are `target_ids`, shape (n, length); the two masks may be left out. Logits are computed at target positions
    only, a block at a time, and again on the way back. Under differentiation the values of ids are not looked at:
    check them beforehand.

    Args:
      model: the decoder.
      head_ids: token ids before the soft tokens, shape (T,).
      tail_ids: token ids after the soft tokens, shape (T,).

    Returns:
      The score and the weights.

    Raises:
      ValueError: an id outside the vocabulary, or ids that are not one sequence.
    """
    graph, weights = nnx.split(model)
    return SoftTokenScore(graph, *_prompt_ids(model, head_ids, tail_ids)), weights


def soft_token_logits(model: Llama, *, head_ids: Ids = (), tail_ids: Ids = ()) -> tuple[SoftTokenLogits, Any]:
    """As `soft_token_score`, for the next-token logits at target positions, which the Fisher pullback takes.

    The logits of a whole batch are held at once: batch x length x vocabulary numbers, and as many for their moves.
    """
    graph, weights = nnx.split(model)
    return SoftTokenLogits(graph, *_prompt_ids(model, head_ids, tail_ids)), weights


def _prompt_ids(model: Llama, head_ids: Ids, tail_ids: Ids) -> tuple[tuple[int, ...], tuple[int, ...]]:
    parts = []
    for name, ids in (("head_ids", head_ids), ("tail_ids", tail_ids)):
        array = np.asarray(check_ids(name, ids, model.config.vocab_size))
        if array.ndim != 1:
            raise ValueError(f"{name} has shape {array.shape}; give one sequence (T,), the same for all samples")
        parts.append(tuple(array.tolist()))
    return parts[0], parts[1]
