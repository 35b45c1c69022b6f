"""Score matrices: every target after every prefix, with what they share computed once."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike
from jaxtyping import Float

from gmijax.models import KVSegment, Llama, LlamaConfig
from gmijax.scoring._likelihoods import log_normalisers
from gmijax.scoring._packing import Pack, pack_targets
from gmijax.scoring._prompt import Ids, Mask, Prompt, check_context, check_ids, check_soft_tokens

MAX_EDGES = 1024


def score_matrix(
    model: Llama,
    soft_tokens: Float[ArrayLike, "prefixes tokens width"],
    targets: Sequence[Sequence[int] | np.ndarray],
    *,
    head_ids: Ids = (),
    tail_ids: Ids = (),
    soft_mask: Mask | None = None,
    memory_budget: int = 2**31,
    max_nodes: int = 128,
    progress: Callable[[int, int], object] | None = None,
) -> Float[np.ndarray, "prefixes targets"]:
    """Log-likelihoods of every target after every prefix, in nats.

    The prompt of prefix i is `head_ids`, `soft_tokens[i]`, `tail_ids`. The head is run once, the rest of each
    prompt once, and the targets against its cached keys and values: packed into tries, so that a beginning
    that several targets share is run once, and without their last tokens, which predict nothing. Equal to
    `log_likelihoods` of each pair up to rounding.

    Args:
      model: the decoder.
      soft_tokens: the prefixes.
      targets: token ids of each target; repeated ones cost nothing.
      head_ids: token ids before the soft tokens, shape (T,).
      tail_ids: token ids after the soft tokens, likewise.
      soft_mask: shape (prefixes, tokens); 1 at soft tokens, 0 at padding, which may be anywhere.
      memory_budget: bytes that a step may take beside the weights of the model; it decides how many prefixes run
        together. Counted are the keys and values, the widest activations, the attention scores, the states at
        the tries' edges, and the logits, of which only a block is held at a time.
      max_nodes: most tokens in a trie. Larger ones share more and waste more attention between targets.
      progress: called after each step with the number of distinct pairs scored and of all.

    Returns:
      Scores of the prefixes (rows) and targets (columns), float32.

    Raises:
      ValueError: an empty target or prompt, an id outside the vocabulary, soft tokens of another width or not
        finite, or a budget that does not suffice for one prefix (the message says what would).
    """
    config = model.config
    soft_array = check_soft_tokens(soft_tokens, config.hidden_size)
    count, width, _ = soft_array.shape
    mask = np.ones((count, width), bool) if soft_mask is None else np.asarray(soft_mask, bool)
    head, tail = (
        np.asarray(check_ids(name, ids, config.vocab_size))
        for name, ids in (("head_ids", head_ids), ("tail_ids", tail_ids))
    )
    if mask.shape != (count, width):
        raise ValueError(f"soft_mask has shape {mask.shape}; give {(count, width)}, that of soft_tokens")
    if not count or not (tail.size or mask.any(axis=1).all()):
        row = f"row {np.argmin(mask.any(axis=1))} of " if count else ""
        raise ValueError(f"{row}soft_tokens is empty and there are no tail_ids; nothing predicts the first token")
    unique, column_of = _distinct(targets, config.vocab_size)
    packs = pack_targets(unique, max_nodes=max_nodes, max_edges=MAX_EDGES)
    check_context(model, len(head) + width + len(tail) + max(map(len, unique)))

    sizes = _Sizes(
        head=len(head),
        prompt=width + len(tail),
        nodes=max(len(pack.tokens) for pack in packs),
        edges=max(len(pack.edge_tokens) for pack in packs),
    )
    together, rows = _plan(config, model.dtype.itemsize, sizes, memory_budget)
    steps = -(-count // together)
    together = -(-count // steps)  # the smallest batch that needs no more steps
    padded = [_pad(pack, sizes) for pack in packs]

    graph, state = nnx.split(model)
    shared = (_run_head(graph, state, head[None]),) if head.size else ()
    scores = np.empty((count, len(unique)), np.float32)
    for start in range(0, count, together):
        indices = np.minimum(np.arange(start, start + together), count - 1)  # the last step repeats its last row
        prefix = _run_prefixes(graph, state, shared, soft_array[indices], mask[indices], tail, rows=rows)
        stop = min(start + together, count)
        done = 0
        for pack, arrays in zip(packs, padded, strict=True):
            edges = np.asarray(_score_edges(graph, state, shared, prefix, arrays, rows=rows))[: stop - start]
            scores[start:stop, pack.targets] = np.stack([edges[:, path].sum(1) for path in pack.paths], axis=1)
            done += len(pack.targets)
            if progress is not None:
                pairs = start * len(unique) + (stop - start) * done
                progress(pairs, count * len(unique))
    return scores[:, column_of]


class _Sizes(NamedTuple):
    """Token counts: of the shared head, of the rest of the prompt, and of the largest trie."""

    head: int
    prompt: int
    nodes: int
    edges: int


class _Prefix(NamedTuple):
    """What a batch of prompts leaves behind for its targets.

    Attributes:
      segment: keys and values of the prompt after the head.
      hidden: shape (prefixes, width), the final state of the last token.
      normaliser: shape (prefixes,), that of the logits of `hidden`.
      length: shape (prefixes,), the tokens of the whole prompt.
    """

    segment: KVSegment
    hidden: jax.Array
    normaliser: jax.Array
    length: jax.Array


def soft_prompt(model: Llama, soft_tokens: jax.Array, soft_mask: jax.Array, tail_ids: jax.Array) -> Prompt:
    """The part of a prompt that differs between rows, its soft tokens, and the tail that follows them."""
    tail = jnp.broadcast_to(model.embed_tokens(tail_ids), (len(soft_tokens), len(tail_ids), soft_tokens.shape[-1]))
    return Prompt(
        jnp.concatenate([soft_tokens.astype(model.dtype), tail], axis=1),
        jnp.pad(soft_mask, ((0, 0), (0, len(tail_ids))), constant_values=True),
    )


@partial(jax.jit, static_argnames="graph")
def _run_head(graph, state, head_ids):
    return nnx.merge(graph, state)(head_ids, logits=False, return_segment=True).segment


@partial(jax.jit, static_argnames=("graph", "rows"))
def _run_prefixes(graph, state, shared, soft_tokens, soft_mask, tail_ids, *, rows) -> _Prefix:
    model: Llama = nnx.merge(graph, state)
    head = sum(segment.mask.shape[1] for segment in shared)
    prompt = soft_prompt(model, soft_tokens, soft_mask, tail_ids)
    output = model(
        soft_tokens=prompt.embeddings,
        attention_mask=prompt.mask,
        positions=head + prompt.positions,
        segments=shared,
        hook_points=("llm_final",),
        logits=False,
        return_segment=True,
    )
    assert output.segment is not None
    hidden = prompt.last(output.hidden_states["llm_final"])
    return _Prefix(output.segment, hidden, log_normalisers(model, hidden, rows), head + prompt.lengths)


@partial(jax.jit, static_argnames=("graph", "rows"))
def _score_edges(graph, state, shared, prefix: _Prefix, pack, *, rows) -> jax.Array:
    """Log-probabilities of the tokens that the edges of a trie lead to, shape (prefixes, edges)."""
    model: Llama = nnx.merge(graph, state)
    tokens, depths, ancestors, edge_parents, edge_tokens = pack
    hidden, normalisers = prefix.hidden[:, None], prefix.normaliser[:, None]
    if len(tokens):
        output = model(
            jnp.broadcast_to(tokens, (len(hidden), len(tokens))),
            positions=prefix.length[:, None] + depths,
            segments=(*shared, prefix.segment),
            own_mask=ancestors[None],
            hook_points=("llm_final",),
            logits=False,
        )
        nodes = output.hidden_states["llm_final"]
        hidden = jnp.concatenate([hidden, nodes], axis=1)
        normalisers = jnp.concatenate([normalisers, log_normalisers(model, nodes, rows)], axis=1)
    return model.token_logits(hidden[:, edge_parents], edge_tokens) - normalisers[:, edge_parents]


def _pad(pack: Pack, sizes: _Sizes) -> tuple[np.ndarray, ...]:
    """The arrays of a trie, in the shapes that all tries of a call share."""
    nodes, edges = sizes.nodes - len(pack.tokens), sizes.edges - len(pack.edge_tokens)
    return (
        np.pad(pack.tokens, (0, nodes)),
        np.pad(pack.depths, (0, nodes)),
        np.pad(pack.ancestors, (0, nodes)),
        np.pad(pack.edge_parents, (0, edges)),
        np.pad(pack.edge_tokens, (0, edges)),
    )


def _distinct(
    targets: Sequence[Sequence[int] | np.ndarray], vocab_size: int
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The distinct targets, and the index among them of each target."""
    if not len(targets):
        raise ValueError("targets is empty; give at least one sequence of token ids")
    index_of: dict[tuple[int, ...], int] = {}
    columns = []
    for index, target in enumerate(targets):
        if not len(target):
            raise ValueError(f"targets[{index}] is empty; give at least one token id")
        ids = tuple(np.asarray(check_ids(f"targets[{index}]", np.asarray(target), vocab_size)).tolist())
        columns.append(index_of.setdefault(ids, len(index_of)))
    return list(index_of), columns


def _plan(config: LlamaConfig, itemsize: int, sizes: _Sizes, budget: int) -> tuple[int, int]:
    """How many prefixes fit the budget together, and the logits of how many tokens are held at once."""
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    kv = 2 * config.num_key_value_heads * config.head_dim * itemsize

    def activations(tokens, keys):
        attention = 4 * (4 * heads + 2 * config.num_attention_heads * keys) + kv
        mlp = itemsize * 3 * config.intermediate_size
        return tokens * (itemsize * 4 * width + max(attention, mlp))

    cache = kv * config.num_hidden_layers
    prompt_run = activations(sizes.prompt, sizes.head + sizes.prompt) + cache * sizes.prompt
    targets_run = activations(sizes.nodes, sizes.head + sizes.prompt + sizes.nodes)
    edges = sizes.edges * width * (itemsize + 4)
    per_prefix = cache * sizes.prompt + max(prompt_run, targets_run + edges)
    row = 12 * config.vocab_size
    fixed = cache * sizes.head + edges
    rows = max(1, min(1024, budget // 8 // row))
    together = (budget - fixed - rows * row) // per_prefix
    if together < 1:
        needed = 8 * (fixed + row + per_prefix) // 7 + 1
        raise ValueError(f"memory_budget = {budget} bytes does not suffice for one prefix; give at least {needed}")
    return together, rows
