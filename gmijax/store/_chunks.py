"""Chunks on disk: the states of consecutive samples, written whole, and the small record that commits them.

A chunk is the unit of everything that can go wrong: one process writes it, and it counts once its record is there. The
record is renamed into place after the states are on disk, so that a kill at any moment leaves a chunk that is either
committed or to be written anew.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np
import tensorstore as ts

from gmijax.report import write_json

_BLOCK_BYTES = 1 << 18  # what a random row reads: small enough to be quick, large enough to compress
_LEVEL = 1  # of zstd; states are noise in their mantissas, and higher levels gain a percent for twice the time


@dataclass(frozen=True)
class ChunkArray:
    """What a commit record says of the states of one hook point.

    Attributes:
      rows: how many.
      bytes: size of the file.
      sha256: of the values in row-major order, little-endian.
      lengths: rows of each sample of the chunk, where they differ from one.
    """

    rows: int
    bytes: int
    sha256: str
    lengths: list[int] | None = None


@dataclass(frozen=True)
class Commit:
    """A commit record.

    Attributes:
      arrays: by hook point.
      failed: by the index of a sample in the store, why it has no states.
    """

    arrays: dict[str, ChunkArray]
    failed: dict[int, str]


def commit_path(folder: Path, chunk: int) -> Path:
    """Of a chunk's record."""
    return folder / "commits" / f"{chunk:06d}.json"


def _array_folder(folder: Path, hook_point: str, chunk: int) -> Path:
    return folder / "states" / hook_point / f"{chunk:06d}"


def shard_path(folder: Path, hook_point: str, chunk: int) -> Path:
    """Of the one file that holds the states of a chunk."""
    return _array_folder(folder, hook_point, chunk) / "c" / "0" / "0"


def _spec(folder: Path, hook_point: str, chunk: int, shape: Sequence[int], dtype: str) -> dict[str, Any]:
    """Tensorstore's description of a chunk: one shard of compressed blocks of rows."""
    rows, width = map(int, shape)
    block = max(1, min(rows, _BLOCK_BYTES // (width * np.dtype(dtype).itemsize)))
    whole = -(-rows // block) * block  # a shard is a whole number of blocks
    blocks = {
        "chunk_shape": [block, width],
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": _LEVEL}},
        ],
    }
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": str(_array_folder(folder, hook_point, chunk)) + "/"},
        "metadata": {
            "shape": [rows, width],
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [whole, width]}},
            "codecs": [{"name": "sharding_indexed", "configuration": blocks}],
        },
        "store_data_equal_to_fill_value": True,  # else a chunk of zeros would have no file
    }


def open_arrays(folder: Path, hook_point: str, rows: Mapping[int, int], width: int, dtype: str) -> list[ts.TensorStore]:
    """The states of chunks, lazily; nothing is read.

    Args:
      folder: of the store.
      hook_point: its name.
      rows: how many each chunk has, by chunk.
      width: of a row.
      dtype: on disk.
    """
    pending = [
        ts.open(_spec(folder, hook_point, chunk, (count, width), dtype), open=True, read=True, assume_metadata=True)
        for chunk, count in rows.items()
    ]
    return [array.result() for array in pending]


def digest(states: np.ndarray) -> str:
    """SHA-256 of the values."""
    return hashlib.sha256(np.ascontiguousarray(states).view(np.uint8).data).hexdigest()


def write_chunk(
    folder: Path,
    chunk: int,
    states: Mapping[str, np.ndarray],
    lengths: Mapping[str, list[int]] | None,
    failed: Mapping[int, str],
) -> Commit:
    """Writes the states of a chunk and then its record.

    Args:
      folder: of the store.
      chunk: its number.
      states: shape (rows, width) by hook point, in the type that is stored.
      lengths: rows of each sample by hook point; None if each has one.
      failed: see `Commit`.

    Raises:
      OSError: if they cannot be written, as when the disk is full; the chunk is then not committed.
    """
    path = commit_path(folder, chunk)
    path.unlink(missing_ok=True)
    writes = []
    try:
        for name, rows in states.items():
            shutil.rmtree(_array_folder(folder, name, chunk), ignore_errors=True)
            if len(rows):
                spec = _spec(folder, name, chunk, rows.shape, rows.dtype.name)
                writes.append(ts.open(spec, create=True).result().write(rows))
        for write in writes:
            write.result()
    except ValueError as error:  # tensorstore's word for whatever the file system says
        raise OSError(f"chunk {chunk} of {folder} cannot be written: {error}") from None
    arrays = {
        name: ChunkArray(
            rows=len(rows),
            bytes=shard_path(folder, name, chunk).stat().st_size if len(rows) else 0,
            sha256=digest(rows),
            lengths=None if lengths is None else lengths[name],
        )
        for name, rows in states.items()
    }
    commit = Commit(arrays, dict(failed))
    write_json(path, {"arrays": {name: asdict(array) for name, array in arrays.items()}, "failed": commit.failed})
    return commit


def read_commit(folder: Path, chunk: int, hook_points: Sequence[str]) -> Commit | str | None:
    """The record of a chunk; None if it is not committed, and why in words if it is damaged.

    The sizes of its files are compared, which finds what was cut short; `verify` reads the values too.
    """
    try:
        plain = json.loads(commit_path(folder, chunk).read_text())
        arrays = {name: ChunkArray(**plain["arrays"][name]) for name in hook_points}
        commit = Commit(arrays, {int(index): str(reason) for index, reason in plain["failed"].items()})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        return f"its record is damaged ({error})"
    for name, array in arrays.items():
        path = shard_path(folder, name, chunk)
        size = path.stat().st_size if path.is_file() else None
        if array.rows and size != array.bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            return f"the file of {name!r} {found}; {array.bytes} were written"
    return commit
