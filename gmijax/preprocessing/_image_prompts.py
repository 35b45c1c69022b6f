"""The text around images: the paper's prompts, and placeholders for soft tokens."""

from collections.abc import Sequence

import numpy as np
from jax.typing import ArrayLike
from numpy.typing import NDArray

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IMAGE_REQUEST = "Describe this image."


def llava_prompt(request: str = IMAGE_REQUEST) -> str:
    """The bare string that the paper gives LLaVA, without turns; `<image>` is the placeholder."""
    return f"<image>\n{request}"


def prismatic_prompt(request: str = IMAGE_REQUEST) -> str:
    """Vicuna's turn as Prismatic writes it; the tokenizer puts a first token before it, behind which the image goes."""
    return f"{VICUNA_SYSTEM} USER: {request} ASSISTANT:"


def expand_placeholders(input_ids: ArrayLike | Sequence[int], token: int, counts: Sequence[int]) -> NDArray[np.int32]:
    """Repeats each placeholder of a text as often as its item has soft tokens.

    Args:
      input_ids: shape (length,), with one placeholder for each item.
      token: the placeholder.
      counts: how many soft tokens each item has.

    Returns:
      Shape (length - placeholders + sum of the counts,).

    Raises:
      ValueError: if the placeholders are not as many as the counts, or a count is negative.
    """
    ids = np.asarray(input_ids, np.int32)
    places = ids == token
    if ids.ndim != 1 or int(places.sum()) != len(counts):
        raise ValueError(
            f"input_ids have shape {ids.shape} and hold {int(places.sum())} placeholders (id {token}); "
            f"give one row with {len(counts)}, one for each count"
        )
    if min(counts, default=0) < 0:
        raise ValueError(f"counts = {list(counts)}: must not be negative")
    repeats = np.ones(len(ids), int)
    repeats[places] = counts
    return np.repeat(ids, repeats)
