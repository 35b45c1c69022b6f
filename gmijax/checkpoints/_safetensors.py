"""Folders in HuggingFace's layout, weights in safetensors."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy, which safetensors then finds by name
import numpy as np
from safetensors import SafetensorError, safe_open

from gmijax.checkpoints._errors import CheckpointError

_FLOATS = ("BF16", "F16", "F32", "F64")
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class _Entry(NamedTuple):
    file: Path
    shape: tuple[int, ...]
    dtype: str


class SafetensorsWeights:
    """The tensors of a folder, `model.safetensors` or shards with their index, or of one file; a `WeightSource`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._entries: dict[str, _Entry] = {}
        self._twice: set[str] = set()
        self.lost = frozenset()
        problems = list(self._scan())
        self.problems = tuple(problems)
        if problems and not self._entries:
            raise CheckpointError(folder, problems)

    @staticmethod
    def holds(folder: Path) -> bool:
        """Whether a folder holds such files."""
        return (folder / _SINGLE).exists() or (folder / _INDEX).exists()

    def keys(self) -> Collection[str]:
        return self._entries.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._entries[key].shape

    def read(self, key: str) -> np.ndarray:
        entry = self._entries[key]
        if entry.dtype not in _FLOATS:
            message = f"{key} is stored as {entry.dtype}; only {', '.join(_FLOATS)} are read as weights"
            raise CheckpointError(self._folder, [message])
        try:
            # Opened anew for each tensor: the pages of a mapping that stays open count as memory in use.
            with safe_open(entry.file, framework="numpy") as file:
                return file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(self._folder, [f"{key} in {entry.file.name} cannot be read: {error}"]) from error

    def _scan(self) -> Iterator[str]:
        """Fills the table of entries; yields what is wrong."""
        if self._folder.is_file():
            yield from self._scan_file(self._folder)
            return
        single, index = self._folder / _SINGLE, self._folder / _INDEX
        if not index.exists():
            if single.exists():
                yield from self._scan_file(single)
            else:
                held = sorted(p.name for p in self._folder.iterdir())
                yield f"holds neither {_SINGLE} nor {_INDEX} nor weights of torch, but {', '.join(held) or 'nothing'}"
            return
        promised = read_json(index).get("weight_map")
        if not isinstance(promised, dict) or not all(isinstance(name, str) for name in promised.values()):
            yield f"{_INDEX} has no weight_map from keys to file names"
            return
        names = sorted(set(promised.values()))
        if single.exists() and _SINGLE not in names:
            yield f"holds {_SINGLE} beside {_INDEX}, which does not name it; remove the one that is out of date"
        for name in names:
            if (self._folder / name).exists():
                yield from self._scan_file(self._folder / name)
            else:
                yield f"{_INDEX} names the shard {name}, which is absent"
        for key, name in promised.items():
            found = self._entries.get(key)
            if found is not None and found.file.name != name and key not in self._twice:
                yield f"{key} is in {found.file.name}, but {_INDEX} says {name}"
            elif found is None and (self._folder / name).exists():
                yield f"{key} is not in {name}, where {_INDEX} says it is"
        for key in self._entries.keys() - promised.keys():
            yield f"{key} is in {self._entries[key].file.name}, but not in {_INDEX}"
        self.lost = frozenset(promised.keys() - self._entries.keys())

    def _scan_file(self, file: Path) -> Iterator[str]:
        try:
            with safe_open(file, framework="numpy") as opened:
                for key in opened.keys():  # noqa: SIM118 - the handle is no mapping
                    if key in self._entries:
                        self._twice.add(key)
                        yield f"{key} is in two shards, {self._entries[key].file.name} and {file.name}"
                        continue
                    view = opened.get_slice(key)
                    self._entries[key] = _Entry(file, tuple(view.get_shape()), view.get_dtype())
        except (OSError, SafetensorError) as error:
            yield f"{file.name} cannot be read as safetensors ({error}); it is cut short or damaged"


def read_json(file: Path) -> dict[str, Any]:
    """Reads a JSON object, refusing a key held twice.

    Raises:
      CheckpointError: if the file is absent or is not one JSON object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice")
        return result

    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except OSError as error:
        raise CheckpointError(file.parent, [f"{file.name} cannot be read: {error.strerror}"]) from error
    except ValueError as error:  # includes JSONDecodeError and UnicodeDecodeError
        raise CheckpointError(file.parent, [f"{file.name} is not valid JSON: {error}"]) from error
    if not isinstance(content, dict):
        raise CheckpointError(file.parent, [f"{file.name} holds a {type(content).__name__}, not an object"])
    return content
