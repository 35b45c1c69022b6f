"""A small encoder whose states are known, and whose padding would show; used in processes of their own too."""

import time

import jax.numpy as jnp
import numpy as np

from gmijax.datasets import Sample
from gmijax.extraction import Encoder, Identity, Piece, SampleError, Tokens

CONTEXT = 8  # tokens of a piece
WIDTH = 5


class Toy(Encoder):
    """Characters as tokens. Every state depends on all own characters of its piece, and on no other.

    Texts "missing", "broken", "nan" and "huge" fail in their own ways.
    """

    takes = "text"
    hook_points = ("encoder_output",)
    lengths = (2, 4, CONTEXT)
    parameters = np.float32(0.3)

    def __init__(self, *, filler=0, seconds=0.0):
        self.identity = Identity("toy", preprocessing="characters")
        self.filler, self.seconds, self.reads = filler, seconds, 0

    def read(self, sample):
        self.reads += 1
        time.sleep(self.seconds)
        if sample.text == "missing":
            raise FileNotFoundError("no such file")
        if not sample.text:
            raise SampleError("its text is empty")
        if sample.text == "bug":
            raise TypeError("a fault of the program")
        codes = np.array([ord(letter) for letter in sample.text], np.int32)
        codes = {"nan": np.array([-1], np.int32), "huge": np.array([-2], np.int32)}.get(sample.text, codes)
        parts = [codes[start : start + CONTEXT] for start in range(0, len(codes), CONTEXT)]
        return [Piece({"codes": part}, len(part)) for part in parts]

    def batch(self, pieces, rows, length):
        codes, lengths = np.full((rows, length), self.filler, np.int32), np.zeros(rows, np.int32)
        for row, piece in enumerate(pieces):
            own = piece.arrays["codes"]
            codes[row, : len(own)], lengths[row] = own, len(own)
        return {"codes": codes, "lengths": lengths}

    def states(self, parameters, batch, hook_points):
        unknown = {*hook_points} - {"encoder_output", "encoder_hidden_0"}
        if unknown:
            raise ValueError(f"unknown hook_points {unknown}; valid are encoder_output, encoder_hidden_0")
        codes, lengths = batch["codes"], batch["lengths"]
        own = jnp.arange(codes.shape[1]) < lengths[:, None]
        angles = codes[..., None] * parameters * jnp.arange(1, WIDTH + 1)
        hidden = jnp.where(codes[..., None] == -1, jnp.nan, jnp.where(codes[..., None] == -2, 1e6, jnp.sin(angles)))
        total = jnp.sum(jnp.where(own[..., None], hidden, 0), axis=1, keepdims=True)
        kept = {"encoder_hidden_0": hidden, "encoder_output": hidden + total[..., :3].sum(-1, keepdims=True)}
        last = jnp.maximum(lengths - 1, 0)
        return {name: Tokens(kept[name], own, own, last) for name in hook_points}


def known(text, hook_point="encoder_output"):
    """The states of a text in float64, one row a character."""
    rows = []
    for start in range(0, len(text), CONTEXT):
        part = [
            [np.sin(np.float64(np.float32(ord(letter) * np.float32(0.3)) * k)) for k in range(1, WIDTH + 1)]
            for letter in text[start : start + CONTEXT]
        ]
        total = sum(sum(row[:3]) for row in part)
        rows += [[value + total * (hook_point == "encoder_output") for value in row] for row in part]
    return np.array(rows)


def texts(count):
    """Of 1 to 20 characters, so that some are several pieces."""
    return ["abcdefghijklmnopqrstuvwxyz"[k % 7 : k % 7 + 1 + (k * 7) % 19] for k in range(count)]


def samples(count, special=None):
    """Samples with texts, some of them replaced by position."""
    own = texts(count)
    for position, text in (special or {}).items():
        own[position] = text
    return [Sample(f"s{k:04d}", {"speaker": f"p{k % 3}"}, text) for k, text in enumerate(own)]
