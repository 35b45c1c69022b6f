"""Weights in: published checkpoints, read tensor by tensor with every key and every leaf accounted for."""

from gmijax.checkpoints._bundled import bundled, bundled_decoder, bundled_speech_encoder
from gmijax.checkpoints._digest import digest
from gmijax.checkpoints._errors import CheckpointError
from gmijax.checkpoints._load import load_model
from gmijax.checkpoints._orbax import convert, restore
from gmijax.checkpoints._source import Checkpoint, WeightSource, open_checkpoint
from gmijax.checkpoints._tokenizer import load_tokenizer

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "WeightSource",
    "bundled",
    "bundled_decoder",
    "bundled_speech_encoder",
    "convert",
    "digest",
    "load_model",
    "load_tokenizer",
    "open_checkpoint",
    "restore",
]
