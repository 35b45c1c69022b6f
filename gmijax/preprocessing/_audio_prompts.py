"""The text around audio: chat templates, and the columns that soft tokens take."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Int

_ULTRAVOX = "<|audio|>"
_QWEN2_AUDIO = "<|AUDIO|>"


class AudioPrompts(NamedTuple):
    """A batch of prompts with places for soft tokens.

    Attributes:
      input_ids: shape (rows, columns), with a filler at every place.
      attention_mask: shape (rows, columns), 1 at tokens and 0 at padding.
      starts: the first column of each chunk, counted through the batch, shape (chunks,).
      lengths: the soft tokens of each chunk, shape (chunks,).
      chunks: how many chunks each row has, shape (rows,).
    """

    input_ids: Int[np.ndarray, "rows columns"]
    attention_mask: Int[np.ndarray, "rows columns"]
    starts: Int[np.ndarray, " chunks"]
    lengths: Int[np.ndarray, " chunks"]
    chunks: Int[np.ndarray, " rows"]


def ultravox_prompt(tokenizer: Any, text: str = _ULTRAVOX) -> list[list[int]]:
    """The prompt of Ultravox: one turn of the user in the chat template, and the opening of the answer.

    The paper's prompt is the default, audio alone.

    Args:
      tokenizer: of transformers, with the language model's chat template, which brings the first token.
      text: what the user says, with <|audio|> for each clip.

    Returns:
      The token ids before, between and after the clips.
    """
    return _pieces(tokenizer, text, _ULTRAVOX, None)


def qwen2_audio_prompt(
    tokenizer: Any, text: str = "Describe this audio.", *, clips: int = 1, chat_template: str | None = None
) -> list[list[int]]:
    """The prompt of Qwen2-Audio: clips and then a text in one turn of the user, and the opening of the answer.

    The paper's prompt is the default.

    Args:
      tokenizer: of transformers.
      text: what the user says after the clips.
      clips: how many clips there are.
      chat_template: of the model's processor, in which a clip is one <|AUDIO|>; by default the tokenizer's.

    Returns:
      The token ids before, between and after the clips.

    Raises:
      ValueError: the template does not put one placeholder for each clip.
    """
    content = [*({"type": "audio", "audio_url": ""} for _ in range(clips)), {"type": "text", "text": text}]
    pieces = _pieces(tokenizer, content, _QWEN2_AUDIO, chat_template)
    if len(pieces) != clips + 1:
        raise ValueError(
            f"the chat template puts {len(pieces) - 1} {_QWEN2_AUDIO} for {clips} clips; give the processor's as "
            "chat_template"
        )
    return pieces


def _pieces(tokenizer: Any, content: Any, placeholder: str, chat_template: str | None) -> list[list[int]]:
    message = {"role": "user", "content": content}
    options = {} if chat_template is None else {"chat_template": chat_template}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True, **options)
    # In pieces, as the originals do: special tokens come from the template alone.
    return [tokenizer.encode(piece, add_special_tokens=False) for piece in text.split(placeholder)]


def place_audio(
    pieces: Sequence[Sequence[Sequence[int]]],
    tokens: Sequence[Sequence[Sequence[int]]],
    *,
    filler_id: int,
    pad_id: int,
    padding: Literal["left", "right"] = "left",
) -> AudioPrompts:
    """Joins the pieces of prompts with places for soft tokens, and pads the rows to one length.

    Args:
      pieces: of each row, the token ids before, between and after its clips: one piece more than clips.
      tokens: of each row and each of its clips, the soft tokens of its chunks, as the model's config counts them
        (`audio_tokens`); their places follow each other.
      filler_id: what stands at the places: for Ultravox any id, its processor takes the end of text; for Qwen2-Audio
        the placeholder.
      pad_id: what stands at padding.
      padding: the side that is padded.

    Returns:
      The batch.

    Raises:
      ValueError: if rows differ in number, a row has not one piece more than clips, or a row is empty.
    """
    if len(pieces) != len(tokens):
        raise ValueError(f"pieces have {len(pieces)} rows and tokens {len(tokens)}")
    rows, starts, lengths = [], [], []
    for row, (texts, clips) in enumerate(zip(pieces, tokens, strict=True)):
        if len(texts) != len(clips) + 1:
            raise ValueError(f"row {row} has {len(texts)} pieces of text for {len(clips)} clips; give one piece more")
        ids = list(texts[0])
        for text, chunks in zip(texts[1:], clips, strict=True):
            for count in chunks:
                starts.append((row, len(ids)))
                lengths.append(count)
                ids += [filler_id] * count
            ids += text
        if not ids:
            raise ValueError(f"row {row} is empty")
        rows.append(ids)
    longest = max(map(len, rows), default=0)
    offsets = [longest - len(ids) if padding == "left" else 0 for ids in rows]
    input_ids = np.full((len(rows), longest), pad_id, np.int32)
    mask = np.zeros((len(rows), longest), np.int32)
    for row, (ids, offset) in enumerate(zip(rows, offsets, strict=True)):
        columns = slice(offset, offset + len(ids))
        input_ids[row, columns], mask[row, columns] = ids, 1
    owners = np.array([row for row, _ in starts], np.int32)
    return AudioPrompts(
        input_ids,
        mask,
        starts=np.array([column + offsets[row] for row, column in starts], np.int32),
        lengths=np.array(lengths, np.int32),
        chunks=np.bincount(owners, minlength=len(rows)).astype(np.int32),
    )
