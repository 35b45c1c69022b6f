"""Bringing the parts of a composed model together: configs and weights that lie in several folders."""

import dataclasses
from pathlib import Path

from gmijax.checkpoints._errors import CheckpointError
from gmijax.checkpoints._joined import JoinedWeights, SelectedWeights
from gmijax.checkpoints._safetensors import read_json
from gmijax.checkpoints._source import Checkpoint, open_weights, scan_checkpoint

TEXT = "language_model."
VISION = "vision_backbone.featurizer."
_AUDIO = "audio_tower."


def alone(checkpoint: Checkpoint, text_model: Path | None, encoder_model: Path | None) -> Checkpoint:
    """A model that has no parts elsewhere.

    Raises:
      ValueError: if a part is given.
    """
    for name, part in (("text_model", text_model), ("encoder_model", encoder_model)):
        if part is not None:
            raise ValueError(f"{name} = {part}: the model of {checkpoint.path} has no such part elsewhere")
    return checkpoint


def with_text_model(checkpoint: Checkpoint, text_model: Path | None, encoder_model: Path | None) -> Checkpoint:
    """A composed model whose language model lies in its own file or elsewhere.

    Elsewhere is `text_model` or, if none is given and the file holds no language model, what the config's
    `text_model_id` names: a path from the checkpoint's folder. That place's config becomes the `text_config`.

    Args:
      checkpoint: of the composed model.
      text_model: a folder or file of a language model.
      encoder_model: must be None.

    Raises:
      CheckpointError: if the language model is nowhere, or in two places.
      ValueError: if an encoder is given.
    """
    alone(checkpoint, None, encoder_model)
    inside = any(
        TEXT in key or key.startswith("lm_head.") for key in (*checkpoint.weights.keys(), *checkpoint.weights.lost)
    )
    name = checkpoint.config.get("text_model_id")
    if text_model is None and name is not None and (not inside or "text_config" not in checkpoint.config):
        text_model = checkpoint.path / str(name)
        if not text_model.exists():
            message = f"its language model {name!r} is not at {text_model}; give text_model= a folder that holds it"
            raise CheckpointError(checkpoint.path, [*checkpoint.weights.problems, message])
    if text_model is None:
        return _tied_by_presence(checkpoint)
    text = scan_checkpoint(text_model)
    config = {**checkpoint.config, "text_config": text.config}
    parts = {"": checkpoint.weights} if inside else {"": checkpoint.weights, TEXT: text.weights}
    return _tied_by_presence(dataclasses.replace(checkpoint, config=config, weights=JoinedWeights(parts)))


def prismatic(checkpoint: Checkpoint, text_model: Path | None, encoder_model: Path | None) -> Checkpoint:
    """A Prismatic VLM: its run's folder, timm's weights of the encoder, and the config of its language model.

    Without `encoder_model`, timm's weights are those of the folder `vision_backbone`. As in the original they take
    precedence over an encoder in the checkpoint of the run, which is read if there are no others. The config of the
    language model is `config.json` of `text_model` or of the folder `llm`; without them it is the published one. Sizes
    that differ from the published encoder's are read from `tiny.json`.

    Raises:
      CheckpointError: if the encoder's weights are nowhere, or a config cannot be read.
    """
    folder = checkpoint.path
    config = checkpoint.config.get("model", checkpoint.config)
    if not isinstance(config, dict):
        raise CheckpointError(folder, [f"config.json holds a {type(config).__name__} under 'model', not an object"])
    text_model = text_model or (folder / "llm" if (folder / "llm").exists() else None)
    encoder_model = encoder_model or (folder / "vision_backbone" if (folder / "vision_backbone").exists() else None)
    if text_model is not None:
        config = {**config, "text_config": read_json(text_model / "config.json")}
    if (folder / "tiny.json").exists():
        config = {**config, "vision_config": read_json(folder / "tiny.json")}
    weights = checkpoint.weights
    if encoder_model is not None:
        parts = {
            "": SelectedWeights(weights, lambda key: not key.startswith(VISION)),
            VISION: open_weights(encoder_model),
        }
        weights = JoinedWeights(parts)
    elif not any(key.startswith(VISION) for key in weights.keys()):  # noqa: SIM118 - a source is no mapping
        message = "holds no weights of the encoder; give encoder_model= the file or folder of timm that has them"
        raise CheckpointError(folder, [*weights.problems, message])
    return dataclasses.replace(checkpoint, config=config, weights=weights)


def with_audio_and_text_model(
    checkpoint: Checkpoint, text_model: Path | None, encoder_model: Path | None
) -> Checkpoint:
    """A composed model whose language model and whose audio encoder lie in its own file or elsewhere.

    The encoder is sought as the language model is, by `encoder_model` and the config's `audio_model_id`. That place's
    config becomes the `audio_config`.

    Args:
      checkpoint: of the composed model.
      text_model: a folder or file of a language model.
      encoder_model: a folder or file of a Whisper.

    Raises:
      CheckpointError: if a part is nowhere, or in two places.
    """
    inside = any(key.startswith(_AUDIO) for key in (*checkpoint.weights.keys(), *checkpoint.weights.lost))
    name = checkpoint.config.get("audio_model_id")
    if encoder_model is None and name is not None and (not inside or "audio_config" not in checkpoint.config):
        encoder_model = checkpoint.path / str(name)
        if not encoder_model.exists():
            message = f"its encoder {name!r} is not at {encoder_model}; give encoder_model= a folder that holds it"
            raise CheckpointError(checkpoint.path, [*checkpoint.weights.problems, message])
    if encoder_model is not None:
        encoder = scan_checkpoint(encoder_model)
        config = {**checkpoint.config, "audio_config": encoder.config}
        parts = {"": checkpoint.weights} if inside else {"": checkpoint.weights, _AUDIO: encoder.weights}
        checkpoint = dataclasses.replace(checkpoint, config=config, weights=JoinedWeights(parts))
    return with_text_model(checkpoint, text_model, None)


def _tied_by_presence(checkpoint: Checkpoint) -> Checkpoint:
    """Reads a composed config's claim that the head is tied as the files bear it out.

    The classes of composed configs default to tied embeddings whatever their text config says, so that the claim at
    the top counts only where the files hold no head.
    """
    text = checkpoint.config.get("text_config") or {}
    head = any(key.endswith("lm_head.weight") for key in (*checkpoint.weights.keys(), *checkpoint.weights.lost))
    if checkpoint.config.get("tie_word_embeddings") and not head and isinstance(text, dict):
        config = {**checkpoint.config, "text_config": {**text, "tie_word_embeddings": True}}
        return dataclasses.replace(checkpoint, config=config)
    return checkpoint
