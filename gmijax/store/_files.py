"""Files that others wrote, opened as stores: the paper's HDF5, and .npz with ids and labels beside the states."""

import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gmijax.store._manifest import Columns, Spec, StoreError
from gmijax.store._store import Lazy, Store

_IDS = ("sample_ids", "ids", "id", "sample_id")
_TEXTS = ("text", "texts", "transcript", "transcripts", "caption", "captions", "sentence", "question")


class _Matrix:
    """Rows of a file: those that count, of a matrix that is read piece by piece."""

    def __init__(self, read: Callable[[slice], np.ndarray], kept: np.ndarray, width: int, dtype: np.dtype):
        self.shape, self.dtype = (len(kept), width), dtype
        self._read, self._kept = read, kept

    def start(self, rows: slice | np.ndarray) -> Callable[[], np.ndarray]:
        wanted = self._kept[rows]
        if not len(wanted):
            return lambda: np.zeros((0, self.shape[1]), self.dtype)
        # One read of the whole span: HDF5 takes a list of rows only in order, and is slow at it.
        first, last = int(wanted.min()), int(wanted.max()) + 1
        return lambda: self._read(slice(first, last))[wanted - first]


def open_file(path: Path) -> Store:
    """As `open`, for a file.

    Rows that are zero throughout at some hook point are left out: the paper's code makes its files of zeros, and that
    is what a sample leaves that failed.

    Raises:
      StoreError: if it is damaged, of another kind, or holds no hidden states.
      FileNotFoundError: if there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a store's folder, or an .h5, .hdf5 or .npz file")
    if path.suffix in (".h5", ".hdf5"):
        return _assemble(path, *_hdf5(path))
    if path.suffix == ".npz":
        return _assemble(path, *_npz(path))
    raise StoreError(f"{path} is neither a store's folder nor an .h5, .hdf5 or .npz file")


def _hdf5(path: Path) -> tuple[dict[str, Any], dict[str, Callable[[slice], np.ndarray]]]:
    """Of each array its shape and type, and what reads rows of it."""
    try:
        import h5py
    except ImportError:
        raise StoreError(f"{path} needs h5py to be read; run: pip install 'gmijax[hdf5]'") from None

    def reader(name: str) -> Callable[[slice], np.ndarray]:
        def read(rows: slice) -> np.ndarray:
            with h5py.File(path, "r") as file:
                dataset: Any = file[name]
                return dataset.asstr()[rows] if h5py.check_string_dtype(dataset.dtype) else dataset[rows]

        return read

    found: dict[str, Any] = {}
    try:
        with h5py.File(path, "r") as file:

            def visit(name: str, entry: Any) -> None:
                if isinstance(entry, h5py.Dataset):
                    found[name] = (entry.shape, entry.dtype)

            file.visititems(visit)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: it is cut short or damaged ({error})") from None
    return found, {name: reader(name) for name in found}


def _npz(path: Path) -> tuple[dict[str, Any], dict[str, Callable[[slice], np.ndarray]]]:
    """As `_hdf5`; a .npz file is read whole."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        if "Object arrays" in str(error):
            raise StoreError(f"{path} holds Python objects, which could run code; save plain arrays") from None
        raise StoreError(f"{path} cannot be read: it is cut short or damaged ({error})") from None
    return (
        {name: (array.shape, array.dtype) for name, array in arrays.items()},
        {name: array.__getitem__ for name, array in arrays.items()},
    )


def _assemble(path: Path, found: Mapping[str, Any], readers: Mapping[str, Callable[[slice], np.ndarray]]) -> Store:
    matrices = {name: entry for name, entry in found.items() if len(entry[0]) == 2 and entry[1].kind == "f"}
    if not matrices:
        raise StoreError(f"{path} holds no matrix of floats (samples, width), but {', '.join(found) or 'nothing'}")
    counts = {name: shape[0] for name, (shape, _) in matrices.items()}
    if len({*counts.values()}) > 1:
        raise StoreError(f"hook points of {path} differ in rows: {', '.join(f'{k} {v}' for k, v in counts.items())}")
    count = next(iter(counts.values()))
    filled = np.ones(count, bool)
    for name in matrices:
        for begin in range(0, count, 4096):
            rows = slice(begin, min(begin + 4096, count))
            filled[rows] &= np.any(readers[name](rows) != 0, axis=1)
    kept = np.flatnonzero(filled)
    vectors = [name for name, (shape, _) in found.items() if shape == (count,)]

    @cache
    def columns() -> Columns:
        values = {name: _plain(readers[name](slice(0, count))) for name in vectors}
        by_leaf = {name.rsplit("/", 1)[-1]: column for name, column in values.items()}
        ids = next((by_leaf[name] for name in _IDS if name in by_leaf), np.arange(count)).astype(str)
        texts = next((by_leaf[name] for name in _TEXTS if name in by_leaf), None)
        labels = {name: column.tolist() for name, column in by_leaf.items() if name not in _IDS}
        return Columns(ids, labels, [None] * count if texts is None else [str(text) for text in texts])

    # A name in a group keeps its last part where that says which it is.
    leaves = [name.rsplit("/", 1)[-1] for name in matrices]
    names = dict(zip(leaves if len({*leaves}) == len(leaves) else [n.replace("/", ".") for n in matrices], matrices))  # noqa: B905

    def open_hook_point(name: str) -> Lazy:
        shape, dtype = matrices[names[name]]
        return _Matrix(readers[names[name]], kept, shape[1], dtype)

    dtypes = {np.dtype(dtype).name for _, dtype in matrices.values()}
    widths = {name: matrices[original][0][1] for name, original in names.items()}
    return Store(
        path=path,
        spec=Spec(model="", hook_points=widths, dtype="float16" if dtypes == {"float16"} else "float32"),
        samples=count,
        failed={str(columns().ids[row]): "its states are all zero" for row in np.flatnonzero(~filled)},
        damaged={},
        pending=(),
        kept=kept,
        _lengths=dict.fromkeys(names, np.ones(len(kept), np.int64)),
        _columns=columns,
        _open=cache(open_hook_point),
    )


def _plain(column: np.ndarray) -> np.ndarray:
    """Bytes as text."""
    return np.char.decode(column, "utf-8") if column.dtype.kind == "S" else column
