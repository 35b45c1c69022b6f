"""Files that torch has saved, read without torch and without executing anything.

A file of torch 1.6 or later is a zip archive of one pickle, which names tensors, and the raw bytes of their storages.
The pickle is read by an unpickler that knows how tensors and dictionaries are written, and nothing else: whatever else
it names is replaced by an inert stand-in and reported.
"""

import collections
import io
import math
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from gmijax.checkpoints._errors import CheckpointError
from gmijax.checkpoints._safetensors import read_json

_INDEX = "pytorch_model.bin.index.json"
_SINGLES = ("pytorch_model.bin", "open_clip_pytorch_model.bin")
_STORAGES = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
_FLOATS = frozenset(_STORAGES[f"{name}Storage"] for name in ("Double", "Float", "Half", "BFloat16"))


class _Storage(NamedTuple):
    """Numbers of one type, in one member of the archive."""

    member: str
    dtype: np.dtype
    size: int


class _Tensor(NamedTuple):
    """A view of a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class TorchFile:
    """The tensors of one archive under flat names: those of nested dictionaries are joined by dots.

    Args:
      file: the archive.
      root: keys that lead to the dictionary of tensors.

    Raises:
      CheckpointError: if it is no such archive, is cut short, or its pickle asks for anything but tensors.
    """

    def __init__(self, file: Path, root: tuple[str, ...] = ()):
        self.file = file
        try:
            with zipfile.ZipFile(file) as archive:
                self._members = {info.filename: info for info in archive.infolist()}
                pickles = [name for name in self._members if name.endswith("/data.pkl") or name == "data.pkl"]
                if len(pickles) != 1:
                    raise CheckpointError(file, [f"is a zip archive with {len(pickles)} data.pkl, not a file of torch"])
                self._folder = pickles[0].removesuffix("data.pkl")
                order = self._folder + "byteorder"
                if order in self._members and archive.read(order).strip() != b"little":
                    raise CheckpointError(file, ["was saved on a big-endian machine, which is not read"])
                content = archive.read(pickles[0])
        except OSError as error:
            raise CheckpointError(file, [f"cannot be read: {error.strerror}"]) from error
        except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
            message = f"is not a zip archive as torch 1.6 and later save it, or is cut short ({error})"
            raise CheckpointError(file, [message]) from error
        tree = _unpickle(file, content)
        for key in root:
            if not isinstance(tree, Mapping) or key not in tree:
                raise CheckpointError(file, [f"holds no dictionary under {'.'.join(root)}"])
            tree = tree[key]
        if not isinstance(tree, Mapping):
            raise CheckpointError(file, [f"holds a {type(tree).__name__}, not a dictionary of tensors"])
        self.tensors: dict[str, _Tensor] = {}
        self.broken: set[str] = set()  # named, and not readable
        self.problems = tuple(self._collect(tree, ""))

    def _collect(self, tree: Mapping, prefix: str) -> Iterator[str]:
        """Fills the table of tensors; yields what is wrong with them."""
        for name, value in tree.items():
            key = f"{prefix}{name}"
            if isinstance(value, Mapping):
                yield from self._collect(value, f"{key}.")
            elif isinstance(value, _Tensor):
                if key in self.tensors:
                    yield f"{key} is held twice by {self.file.name}"
                fault = self._fault(value)
                if fault:
                    yield f"{key} {fault}"
                    self.broken.add(key)
                else:
                    self.tensors[key] = value
            else:
                yield f"{key} is a {type(value).__name__}, not a tensor"

    def _fault(self, tensor: _Tensor) -> str | None:
        """What is wrong with a tensor's description."""
        storage = tensor.storage
        info = self._members.get(f"{self._folder}data/{storage.member}")
        if info is None:
            return f"lies in data/{storage.member}, which the archive does not hold"
        if info.file_size != storage.size * storage.dtype.itemsize:
            expected = storage.size * storage.dtype.itemsize
            return f"lies in data/{storage.member}, which has {info.file_size} bytes and should have {expected}"
        steps = [(size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True)]
        last = tensor.offset + sum(steps)
        if min([tensor.offset, *tensor.shape, *tensor.strides]) < 0 or (
            math.prod(tensor.shape) and last >= storage.size
        ):
            return "reaches beyond its storage"
        return None

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor."""
        storage, offset, shape, strides = self.tensors[key]
        try:
            with zipfile.ZipFile(self.file) as archive:
                raw = archive.read(f"{self._folder}data/{storage.member}")  # checks the sum that zip keeps
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise CheckpointError(self.file, [f"{key} in {self.file.name} cannot be read: {error}"]) from error
        flat = np.frombuffer(raw, storage.dtype)[offset:]
        steps = tuple(step * storage.dtype.itemsize for step in strides)
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False))


class TorchWeights:
    """The tensors of several archives under their keys; a `WeightSource`.

    Args:
      folder: for messages.
      files: the archives, each with the keys that lead to its tensors.
      promised: by key, the name of the file in which an index says that it is.
    """

    def __init__(
        self, folder: Path, files: Collection[tuple[Path, tuple[str, ...]]], promised: Mapping[str, str] | None = None
    ):
        self._folder = folder
        self._owners: dict[str, TorchFile] = {}
        problems: list[str] = []
        broken: set[str] = set()
        for file, root in files:
            if not file.exists():
                problems.append(f"{_INDEX} names the shard {file.name}, which is absent")
                continue
            try:
                opened = TorchFile(file, root)
            except CheckpointError as error:
                problems += [f"{file.name} {problem}" for problem in error.problems]
                continue
            problems += opened.problems
            broken |= opened.broken
            for key in opened.tensors:
                if key in self._owners:
                    problems.append(f"{key} is in two shards, {self._owners[key].file.name} and {file.name}")
                else:
                    self._owners[key] = opened
        for key, name in (promised or {}).items():
            owner = self._owners.get(key)
            if owner is not None and owner.file.name != name:
                problems.append(f"{key} is in {owner.file.name}, but {_INDEX} says {name}")
            elif owner is None and key not in broken and (folder / name).exists():
                problems.append(f"{key} is not in {name}, where {_INDEX} says it is")
        if promised is not None:
            problems += [f"{key} is not in {_INDEX}" for key in self._owners.keys() - promised.keys()]
        self.lost = frozenset({*(promised or ()), *broken} - self._owners.keys())
        self.problems = tuple(problems)
        if problems and not self._owners:
            raise CheckpointError(folder, problems)

    def keys(self) -> Collection[str]:
        return self._owners.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self._owners[key].tensors[key].shape

    def read(self, key: str) -> np.ndarray:
        dtype = self._owners[key].tensors[key].storage.dtype
        if dtype not in _FLOATS:
            raise CheckpointError(self._folder, [f"{key} is stored as {dtype}; only floating-point types are weights"])
        return self._owners[key].read(key)


def open_torch_folder(folder: Path) -> TorchWeights | None:
    """The `.bin` files of a folder, with their index if there is one; None if it holds none.

    Raises:
      CheckpointError: if so much is wrong that no tensor can be named.
    """
    if (folder / _INDEX).exists():
        promised = read_json(folder / _INDEX).get("weight_map")
        if not isinstance(promised, dict) or not all(isinstance(name, str) for name in promised.values()):
            raise CheckpointError(folder, [f"{_INDEX} has no weight_map from keys to file names"])
        return TorchWeights(folder, [(folder / name, ()) for name in sorted(set(promised.values()))], promised)
    for name in _SINGLES:
        if (folder / name).exists():
            return TorchWeights(folder, [(folder / name, ())])
    return None


class _Inert:
    """Stands for something that was not loaded: calling it or putting things into it does nothing."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __call__(self, *_: Any, **__: Any) -> "_Inert":
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Does nothing."""

    def extend(self, _: Any) -> None:
        """Does nothing."""


def _rebuild_tensor(storage, offset, shape, strides, *_) -> _Tensor:
    """As torch's `_rebuild_tensor_v2`, without the numbers."""
    whole = all(isinstance(n, int) for n in (offset, *shape, *strides))
    if not isinstance(storage, _Storage) or not whole or len(shape) != len(strides):
        raise pickle.UnpicklingError("a tensor is not described by a storage, an offset, a shape and strides")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Finds nothing but what `_KNOWN` holds; what else is asked for is noted, and an inert stand-in is given."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))
        self.refused: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        self.refused.append(f"{module}.{name}")
        return _Inert

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], np.dtype)):
            raise pickle.UnpicklingError("a storage of a kind that is not known")
        _, dtype, member, _, count = pid
        if not isinstance(member, str) or not isinstance(count, int):
            raise pickle.UnpicklingError("a storage without a name or a size")
        return _Storage(member, dtype, count)


def _unpickle(file: Path, content: bytes) -> Any:
    """Reads the pickle of an archive.

    Raises:
      CheckpointError: naming all that it asks for besides tensors.
    """
    unpickler = _Unpickler(content)
    fault = None
    try:
        tree = unpickler.load()
    except Exception as error:  # noqa: BLE001 - a damaged pickle can fail in any way; nothing of it is kept
        tree, fault = None, error
    problems = [
        f"its pickle asks for {name}; only tensors and dictionaries are read, and nothing was executed"
        for name in dict.fromkeys(unpickler.refused)
    ]
    if fault is not None and not problems:
        problems.append(f"its pickle is damaged ({fault})")
    if problems:
        raise CheckpointError(file, problems)
    return tree
