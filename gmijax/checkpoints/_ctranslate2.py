"""Whisper files of CTranslate2, in HuggingFace's terms; of these models only the encoder is read.

A `model.bin` of binary version 6 is a header (version, name and revision of the specification, number of variables),
the variables one after the other (name, shape, type, bytes), and the aliases (name, name of a variable).
All numbers are little-endian and strings end with a zero, which their length counts.
"""

import math
import os
import re
import struct
from collections.abc import Collection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from gmijax.checkpoints._errors import CheckpointError

_VERSION = 6
_SPECIFICATION = "WhisperSpec"
_TYPES = {0: "float32", 1: "int8", 2: "int16", 3: "int32", 4: "float16", 5: "bfloat16"}
_FLOATS = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
_ITEM_SIZES = {"float32": 4, "int8": 1, "int16": 2, "int32": 4, "float16": 2, "bfloat16": 2}

_PREFIX = "model.encoder."
_PARTS = {  # theirs: HuggingFace's
    "conv1": "conv1",
    "conv2": "conv2",
    "layer_norm": "layer_norm",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
_KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
_FUSED = "self_attention/linear_0"  # the rows of the query, key and value projections, in this order


class CTranslate2Variable(NamedTuple):
    """Where a variable lies: its shape, the name of its type, its first byte in the file, its length."""

    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


class CTranslate2Content(NamedTuple):
    """The variables of a file by name; an alias is a second name of one."""

    path: Path
    variables: dict[str, CTranslate2Variable]


def read_ctranslate2(path: Path) -> CTranslate2Content:
    """Reads where the variables of a Whisper `model.bin` lie, and none of their data.

    Raises:
      CheckpointError: if the file is not one of CTranslate2's, of version 6 and of Whisper, is cut short, has bytes
        after its end, or names something twice.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            variables = _Reader(file, size).parse()
    except EOFError as error:
        raise CheckpointError(path, [f"cut short: its {size} bytes end {error}"]) from error
    except ValueError as error:  # includes UnicodeDecodeError
        raise CheckpointError(path, [f"not a CTranslate2 file that can be read: {error}"]) from error
    return CTranslate2Content(path, variables)


class _Reader:
    """Walks through a file, past the data of its variables."""

    def __init__(self, file: BinaryIO, size: int):
        self._file = file
        self._size = size

    def parse(self) -> dict[str, CTranslate2Variable]:
        version = self._number("I", "inside the header")
        if version != _VERSION:
            raise ValueError(f"its binary version is {version}, and only {_VERSION} is read")
        name = self._string("inside the header")
        if name != _SPECIFICATION:
            raise ValueError(f"its specification is {name!r}, and only {_SPECIFICATION!r} is read")
        self._number("I", "inside the header")  # the revision, which adds variables and changes none of the encoder's
        variables: dict[str, CTranslate2Variable] = {}
        for index in range(self._number("I", "inside the header")):
            where = f"at variable {index}"
            name = self._string(where)
            if name in variables:
                raise ValueError(f"the variable {name} occurs twice")
            variables[name] = self._variable(name, where)
        for index in range(self._number("I", "before the aliases")):
            alias, target = self._string(f"at alias {index}"), self._string(f"at alias {index}")
            if alias in variables:
                raise ValueError(f"the variable {alias} occurs twice")
            if target not in variables:
                raise ValueError(f"the alias {alias} stands for {target}, which is absent")
            variables[alias] = variables[target]
        if self._file.tell() != self._size:
            raise ValueError(f"{self._size - self._file.tell()} bytes follow its end")
        return variables

    def _variable(self, name: str, where: str) -> CTranslate2Variable:
        shape = tuple(self._number("I", where) for _ in range(self._number("B", where)))
        code, nbytes = self._number("B", where), self._number("I", where)
        if code not in _TYPES:
            raise ValueError(f"{name} has the type {code}, of which nothing is known")
        expected = math.prod(shape) * _ITEM_SIZES[_TYPES[code]]
        if nbytes != expected:
            raise ValueError(f"{name} has {nbytes} bytes; its shape {shape} in {_TYPES[code]} makes {expected}")
        offset = self._file.tell()
        if offset + nbytes > self._size:
            raise EOFError(f"inside {name}")
        self._file.seek(nbytes, os.SEEK_CUR)
        return CTranslate2Variable(shape, _TYPES[code], offset, nbytes)

    def _number(self, code: str, where: str) -> int:
        return struct.unpack(f"<{code}", self._take(struct.calcsize(code), where))[0]

    def _string(self, where: str) -> str:
        return self._take(self._number("H", where), where).removesuffix(b"\0").decode("utf-8")

    def _take(self, count: int, where: str) -> bytes:
        taken = self._file.read(count)
        if len(taken) < count:
            raise EOFError(where)
        return taken


class _Rows(NamedTuple):
    """A variable, or the third of its rows that is one of the three fused projections."""

    variable: str
    part: int | None = None


class CTranslate2Weights:
    """The tensors of the encoder under HuggingFace's keys; a `WeightSource`."""

    def __init__(self, content: CTranslate2Content):
        self._content = content
        self._rows: dict[str, _Rows] = {}
        problems = []
        for name in content.variables:
            if name.startswith("encoder/") and name != "encoder/num_heads":
                self._rows |= _hf_keys(name)
        for key in [key for key in self._rows if key.endswith("k_proj.bias")]:
            # HuggingFace has no such key. In a file of ours it is there, as zeros, because the projections are fused.
            if self._content.variables[self._rows[key].variable].type in _FLOATS and self.read(key).any():
                problems.append(f"{self._rows[key].variable} holds a bias of the keys, which Whisper does not have")
            del self._rows[key]
        self.problems = tuple(problems)
        self.lost = frozenset()

    def keys(self) -> Collection[str]:
        return self._rows.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        rows = self._rows[key]
        shape = self._content.variables[rows.variable].shape
        return shape if rows.part is None else (shape[0] // 3, *shape[1:])

    def read(self, key: str) -> np.ndarray:
        rows = self._rows[key]
        variable = self._content.variables[rows.variable]
        if variable.type not in _FLOATS:
            message = f"{rows.variable} is stored as {variable.type}; only {', '.join(_FLOATS)} are read as weights"
            raise CheckpointError(self._content.path, [message])
        dtype = _FLOATS[variable.type]
        # Not a memory map: the pages of one that stays open count as memory in use.
        raw = np.fromfile(self._content.path, dtype, variable.nbytes // dtype.itemsize, offset=variable.offset)
        tensor = raw.reshape(variable.shape)
        if rows.part is None:
            return tensor
        third = tensor.shape[0] // 3
        return tensor[rows.part * third : (rows.part + 1) * third]


def _hf_keys(name: str) -> dict[str, _Rows]:
    """The HuggingFace keys of a variable. A name that is not known stays, and so is reported as surplus."""
    if name == "encoder/position_encodings/encodings":
        return {_PREFIX + "embed_positions.weight": _Rows(name)}
    match = re.fullmatch(r"encoder/(?:layer_(?P<layer>\d+)/)?(?P<part>.+)/(?P<kind>\w+)", name)
    if match is None or match["kind"] not in _KINDS:
        return {name: _Rows(name)}
    stem = _PREFIX + (f"layers.{match['layer']}." if match["layer"] else "")
    if match["part"] == _FUSED:
        return {f"{stem}self_attn.{n}_proj.{match['kind']}": _Rows(name, part) for part, n in enumerate("qkv")}
    if match["part"] not in _PARTS:
        return {name: _Rows(name)}
    return {f"{stem}{_PARTS[match['part']]}.{_KINDS[match['kind']]}": _Rows(name)}


def hf_config(content: CTranslate2Content) -> dict[str, Any]:
    """Writes what the variables show of the encoder as HuggingFace's `config.json` would have it.

    Raises:
      CheckpointError: if a variable is absent that shows it, or has a rank that it cannot have.
    """
    problems = []

    def shape(name: str, rank: int) -> tuple[int, ...]:
        found = content.variables.get(name)
        if found is None:
            problems.append(f"the variable {name} is absent")
        elif len(found.shape) != rank:
            problems.append(f"{name} has shape {found.shape}; it must have {rank} axes")
        else:
            return found.shape
        return (0,) * rank

    width, mels, _ = shape("encoder/conv1/weight", 3)
    positions, _ = shape("encoder/position_encodings/encodings", 2)
    inner, _ = shape("encoder/layer_0/ffn/linear_0/weight", 2)
    shape("encoder/num_heads", 0)
    if problems:
        raise CheckpointError(content.path, problems)
    layers = {int(m[1]) for name in content.variables if (m := re.match(r"encoder/layer_(\d+)/", name))}
    heads = content.variables["encoder/num_heads"]
    with content.path.open("rb") as file:
        file.seek(heads.offset)
        head_count = int.from_bytes(file.read(heads.nbytes), "little")
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "num_mel_bins": mels,
        "d_model": width,
        "encoder_layers": max(layers) + 1,
        "encoder_attention_heads": head_count,
        "encoder_ffn_dim": inner,
        "max_source_positions": positions,
    }
