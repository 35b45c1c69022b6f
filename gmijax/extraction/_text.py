"""Transcripts and captions through a language model alone: the text law, beside which a modality is measured."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gmijax.datasets import Sample
from gmijax.extraction._encoder import Encoder, Identity, Piece, SampleError, Tokens
from gmijax.models import Llama

CONTENT = "{}"
"""Stands in a prompt for the media or the text."""

_LONGEST = 4096  # tokens; a sequence longer than that is hardly a caption, and its attention fills the memory


def prompt_ids(tokenizer: Any, prompt: str) -> tuple[list[int], list[int]]:
    """Token ids before and after the content of a prompt for a language model.

    The prompt is one turn of the user where the tokenizer has a chat template, and plain text behind the first token
    of the model otherwise. What stands before the content, the content and what follows are tokenised apart, as they
    are around soft tokens; a prompt that ends its first part with a line break and not a space is then tokenised as if
    it were whole.

    Raises:
      ValueError: if the prompt has not one place for the content.
    """
    if prompt.count(CONTENT) != 1:
        raise ValueError(f"prompt {prompt!r} has {prompt.count(CONTENT)} places {CONTENT} for the content; give one")
    text = prompt
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": prompt}]
        text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    elif tokenizer.bos_token:
        text = tokenizer.bos_token + text
    head, _, tail = text.partition(CONTENT)
    # In pieces, as the content will be: special tokens come from the template alone.
    return tokenizer.encode(head, add_special_tokens=False), tokenizer.encode(tail, add_special_tokens=False)


class TextEncoder(Encoder):
    """The text of a sample in a language model, between the tokens of a prompt.

    Rows are padded on the right, where a causal model's tokens see nothing. Pooling "mean" takes the tokens of the
    text, "mean_all" those of the prompt too, "last" is the last token of the prompt's end.

    Args:
      model: the language model.
      tokenizer: of transformers.
      identity: for the manifest; `preprocessing` is added.
      head_ids: token ids before the text.
      tail_ids: token ids after it.

    Raises:
      ValueError: if the prompt leaves no room for a text.
    """

    takes: ClassVar = "text"

    def __init__(
        self, model: Llama, tokenizer: Any, identity: Identity, *, head_ids: Sequence[int], tail_ids: Sequence[int]
    ):
        self.graph, self.parameters = nnx.split(model)
        self.tokenizer, self.head, self.tail = tokenizer, list(head_ids), list(tail_ids)
        self.hook_points = (f"llm_hidden_{model.config.num_hidden_layers // 2}", "llm_final")
        longest = min(model.config.max_position_embeddings, _LONGEST)
        if len(self.head) + len(self.tail) >= longest:
            raise ValueError(f"the prompt has {len(self.head) + len(self.tail)} tokens, and {longest} are taken in all")
        self.lengths = text_lengths(len(self.head) + len(self.tail), longest)
        self.identity = replace(identity, preprocessing=f"tokenizer of {len(tokenizer)} tokens; {model.dtype}")
        self._lock = threading.Lock()  # the fast tokenizers of transformers are not safe for threads

    def read(self, sample: Sample) -> list[Piece]:
        """One piece: the tokens of the text."""
        if sample.text is None:
            raise SampleError("it has no text")
        if not sample.text.strip():
            raise SampleError("its text is empty")
        with self._lock:
            ids = np.array(self.tokenizer.encode(sample.text, add_special_tokens=False), np.int32)
        if not ids.size:
            raise SampleError("its text has no token")
        length = len(self.head) + ids.size + len(self.tail)
        if length > self.lengths[-1]:
            raise SampleError(f"it has {length} tokens with the prompt, and {self.lengths[-1]} are taken")
        return [Piece({"ids": ids}, length)]

    def batch(self, pieces: Sequence[Piece], rows: int, length: int) -> dict[str, np.ndarray]:
        """Token ids with zeros after them, and how many there are."""
        ids, lengths = np.zeros((rows, length), np.int32), np.zeros(rows, np.int32)
        for row, piece in enumerate(pieces):
            whole = [*self.head, *piece.arrays["ids"], *self.tail]
            ids[row, : len(whole)], lengths[row] = whole, len(whole)
        return {"ids": ids, "lengths": lengths}

    def states(
        self, parameters: Any, batch: Mapping[str, jax.Array], hook_points: tuple[str, ...]
    ) -> dict[str, Tokens]:
        """The tokens of the text count."""
        model: Llama = nnx.merge(self.graph, parameters)
        column, lengths = jnp.arange(batch["ids"].shape[1]), batch["lengths"][:, None]
        whole = column < lengths
        own = (column >= len(self.head)) & (column < lengths - len(self.tail))
        output = model(batch["ids"], attention_mask=whole, hook_points=hook_points, logits=False)
        last = jnp.maximum(batch["lengths"] - 1, 0)
        return {name: Tokens(output.hidden_states[name], own, whole, last) for name in hook_points}


def text_lengths(prompt: int, longest: int) -> tuple[int, ...]:
    """Padded lengths for texts in a prompt of so many tokens: 16, 32, 64 ... more than it, up to `longest`."""
    lengths, room = [], 16
    while prompt + room < longest:
        lengths.append(prompt + room)
        room *= 2
    return (*lengths, longest)
