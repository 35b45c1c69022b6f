"""The decoder of a run and its prompt."""

from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from gmijax import checkpoints, models
from gmijax.models import Llama

REQUEST = "Repeat exactly what follows.\n\n"
_MARK = "\N{OBJECT REPLACEMENT CHARACTER}"


class Decoder(NamedTuple):
    """A language model with its tokenizer and the token ids before and after the soft tokens."""

    name: str
    model: Llama
    tokenizer: Any
    head_ids: tuple[int, ...]
    tail_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, without special tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)


def load_decoder(path: Path | None) -> Decoder:
    """Loads a checkpoint folder or GGUF file (the packaged SmolLM2-135M-Instruct if None), in float32.

    The context C is a request to repeat what follows: the chat template's user turn where there is one, plain text
    with the beginning-of-sequence token otherwise.

    Raises:
      FileNotFoundError: if the path or the package is absent.
      ValueError: if the checkpoint is refused.
    """
    source = checkpoints.bundled_decoder() if path is None else path
    if not Path(source).exists():
        raise FileNotFoundError(f"--decoder {source} does not exist; give a checkpoint folder or a .gguf file")
    tokenizer = checkpoints.load_tokenizer(source)
    model = models.load(source, dtype=jnp.float32)
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": REQUEST + _MARK}]
        text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
    else:
        text = f"{tokenizer.bos_token or ''}{REQUEST}{_MARK}\n\n"
    head, tail = text.split(_MARK)
    ids = [tuple(tokenizer.encode(part, add_special_tokens=False)) for part in (head, tail)]
    return Decoder(Path(source).name, model, tokenizer, *ids)
