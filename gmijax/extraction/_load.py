"""From a checkpoint to the encoder that its model asks for."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp

from gmijax import checkpoints, models
from gmijax.extraction._audio import AudioEncoder
from gmijax.extraction._composed import ImageModelEncoder, Qwen2AudioEncoder, UltravoxEncoder
from gmijax.extraction._encoder import Encoder, Identity
from gmijax.extraction._image import ImageEncoder
from gmijax.extraction._text import CONTENT, TextEncoder, prompt_ids
from gmijax.models import Llama, Llava, Prismatic, Qwen2Audio, Ultravox, ViT, WhisperEncoder
from gmijax.preprocessing import (
    ImageTransform,
    clip_transform,
    dinov2_transform,
    prismatic_prompt,
    qwen2_audio_prompt,
    siglip_transform,
    ultravox_prompt,
)

_LLAVA_IMAGE = "<image>"
_ULTRAVOX_AUDIO = "<|audio|>"
_DTYPES = ("bfloat16", "float16", "float32")

# What the user says, where no prompt is given: as in the paper, where it has one.
_PROMPTS = {
    Llama: CONTENT,
    Llava: f"{CONTENT}\nDescribe this image.",
    Prismatic: "Describe this image.",
    Qwen2Audio: "Describe this audio.",
    Ultravox: CONTENT,
}
_FITS = {"letterbox": "letterbox", "resize-crop": "crop", "resize-naive": "squash"}


def load(
    path: str | Path,
    *,
    text: bool = False,
    prompt: str | None = None,
    window: float | Literal["full", "clip"] = "full",
    max_seconds: float | None = None,
    dtype: str = "float32",
    text_model: str | Path | None = None,
    encoder_model: str | Path | None = None,
) -> Encoder:
    """Loads a checkpoint and makes it an encoder for `extract`.

    Args:
      path: "whisper-tiny.en" or "smollm2", the packaged ones; or what `gmijax.models.load` takes.
      text: whether the samples' texts go through the language model of a multimodal model, at the place of the media
        in the same prompt. A language model takes texts in any case.
      prompt: what the user says, with {} where the media or the text goes. In Prismatic and Qwen2-Audio the model says
        where that is, and the prompt is without. By default that of the paper, and for a language model the text alone.
      window: of a speech encoder alone, see `AudioEncoder`.
      max_seconds: a longer recording is a failed sample.
      dtype: of the weights and of what the model computes: float32, bfloat16 or float16.
      text_model: as `gmijax.models.load`.
      encoder_model: as `gmijax.models.load`.

    Returns:
      The encoder; its class says what the poolings take.

    Raises:
      ValueError: for options that the model has not.
      gmijax.checkpoints.CheckpointError: if the files are not whole.
      FileNotFoundError: if a package is not installed.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype {dtype!r} is not one of {', '.join(_DTYPES)}")
    packaged = checkpoints.bundled(str(path))
    source = Path(path) if packaged is None else packaged
    parts: dict[str, Any] = {"text_model": text_model, "encoder_model": encoder_model}
    model = models.load(source, dtype=jnp.dtype(dtype), **parts)
    has_decoder = isinstance(model, (Llama, Llava, Prismatic, Qwen2Audio, Ultravox))
    if not has_decoder:
        for name, given in (("text", text), ("prompt", prompt is not None)):
            if given:
                raise ValueError(f"{name} is for language models, and {path} holds a {type(model).__name__}")
    if window != "full" and not isinstance(model, WhisperEncoder):
        raise ValueError(f"window is for speech encoders alone, and {path} holds a {type(model).__name__}")
    if max_seconds is not None and (text or not isinstance(model, (WhisperEncoder, Ultravox, Qwen2Audio))):
        raise ValueError(f"max_seconds is for recordings, which are not what this encoder of {path} takes")
    identity = Identity(
        model=str(path) if packaged is not None else source.name,
        checkpoint=checkpoints.digest(source, **parts),
        config=config_digest(model),
    )
    if isinstance(model, WhisperEncoder):
        return AudioEncoder(model, identity, window=window, max_seconds=max_seconds)
    if isinstance(model, ViT):
        return ImageEncoder(model, identity, _transform(source, model))
    if not has_decoder:
        raise ValueError(f"{path} holds a {type(model).__name__}, which no encoder is made of")
    asked = _PROMPTS[type(model)] if prompt is None else prompt
    tokenizer = _tokenizer(source, text_model)
    head, tail = _pieces(model, tokenizer, asked, source)
    identity = dataclasses.replace(identity, prompt=tokenizer.decode(head) + CONTENT + tokenizer.decode(tail))
    ids: dict[str, Any] = {"head_ids": head, "tail_ids": tail}
    if isinstance(model, Llama):
        return TextEncoder(model, tokenizer, identity, **ids)
    if text:
        return TextEncoder(model.language_model, tokenizer, identity, **ids)
    if isinstance(model, Ultravox):
        return UltravoxEncoder(model, identity, **ids, max_seconds=max_seconds)
    if isinstance(model, Qwen2Audio):
        return Qwen2AudioEncoder(model, identity, **ids, max_seconds=max_seconds)
    if isinstance(model, Llava):
        return ImageModelEncoder(model, identity, **ids, transform=clip_transform(model.config.vision.image_size))
    transform = dinov2_transform if model.config.vision.class_token else siglip_transform
    own = transform(model.config.vision.image_size, _FITS[model.config.resize_strategy])
    return ImageModelEncoder(model, identity, **ids, transform=own)


def config_digest(model: Any) -> str:
    """SHA-256 of what a model's config says."""
    content = json.dumps(dataclasses.asdict(model.config), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _tokenizer(source: Path, text_model: str | Path | None) -> Any:
    """Of the checkpoint, or of its language model where that lies elsewhere and the checkpoint has none."""
    try:
        return checkpoints.load_tokenizer(source)
    except checkpoints.CheckpointError:
        if text_model is None:
            raise
        return checkpoints.load_tokenizer(text_model)


def _pieces(model: Any, tokenizer: Any, prompt: str, source: Path) -> tuple[list[int], list[int]]:
    """Token ids before and after the content."""
    if isinstance(model, Llama):
        return prompt_ids(tokenizer, prompt)
    if isinstance(model, (Prismatic, Qwen2Audio)) == (CONTENT in prompt):
        fixed = "holds {}, and this model says itself where the media go" if CONTENT in prompt else "has no {}"
        raise ValueError(f"prompt {prompt!r} {fixed}")
    if isinstance(model, Prismatic):
        ids = tokenizer.encode(prismatic_prompt(prompt))
        return ids[:1], ids[1:]
    if isinstance(model, Qwen2Audio):
        head, tail = qwen2_audio_prompt(tokenizer, prompt, chat_template=_processor_template(source))
        return head, tail
    if isinstance(model, Ultravox):
        found = ultravox_prompt(tokenizer, prompt.replace(CONTENT, _ULTRAVOX_AUDIO))
    else:
        # Whole, as the original does: what the tokenizer makes of a text depends on what stands before it.
        ids = tokenizer.encode(prompt.replace(CONTENT, _LLAVA_IMAGE))
        token = model.config.image_token_id
        places = [k for k, own in enumerate(ids) if own == token]
        found = [ids[: places[0]], ids[places[0] + 1 :]] if len(places) == 1 else [ids] * (1 + len(places))
    if len(found) != 2:
        raise ValueError(f"prompt {prompt!r} has {len(found) - 1} places for the media; give one {CONTENT}")
    return found[0], found[1]


def _processor_template(source: Path) -> str | None:
    """The chat template of a processor, which may lie in a file of its own."""
    plain, wrapped = source / "chat_template.jinja", source / "chat_template.json"
    if plain.is_file():
        return plain.read_text("utf-8")
    if wrapped.is_file():
        return json.loads(wrapped.read_text("utf-8"))["chat_template"]
    return None


def _transform(source: Path, model: ViT) -> ImageTransform:
    """That of the originals' processors, by the family that the config names."""
    config = json.loads((source / "config.json").read_text("utf-8")) if source.is_dir() else {}
    kind = str(config.get("model_type") or config.get("architecture") or "")
    size = model.config.image_size
    if kind.startswith("clip"):
        return clip_transform(size)
    if "siglip" in kind:
        return siglip_transform(size, "squash")
    return dinov2_transform(size, "crop")
