"""Arrays that commands take from files (.npy, .npz, .safetensors) and from stores of hidden states."""

import zipfile
from pathlib import Path

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy, which safetensors then finds by name
import numpy as np

SUFFIXES = (".npy", ".npz", ".safetensors")
STORE_FILES = (".h5", ".hdf5")


def load_array(source: str) -> np.ndarray:
    """One array of a file.

    Args:
      source: `FILE`, or `FILE:NAME` for one of several in a .npz or .safetensors file; `STORE:NAME` for a hook point
        or a label of a store's folder or of the paper's HDF5 file.

    Raises:
      ValueError: for another kind of file, one that is cut short or damaged, a name that it lacks, no name where there
        are several, or an array of Python objects.
      FileNotFoundError: if there is no such file.
    """
    found = load_arrays(source)
    if len(found) > 1:
        raise ValueError(f"{source} holds {', '.join(sorted(found))}; say which, as {source}:{min(found)}")
    return next(iter(found.values()))


def load_arrays(source: str) -> dict[str, np.ndarray]:
    """All arrays of a file by name, or the one that is named; those of a .npy file go by the file's stem.

    Of a store these are the hook points, or the one hook point or label that is named.
    """
    path, name = Path(source), None
    if not path.exists() and ":" in source:
        before, name = source.rsplit(":", 1)
        path = Path(before)
    if path.is_dir() or path.suffix in STORE_FILES:
        return _read_store(path, name)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{source} is none of {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a .npy, .npz or .safetensors file, or FILE:NAME")
    try:
        arrays = _read(path, name)
    except KeyError as error:
        raise ValueError(f"{path} holds no array {name!r}, but {error.args[0]}") from None
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        if "allow_pickle" in str(error):
            raise ValueError(f"{path} holds Python objects, which could run code; save plain numbers") from None
        raise ValueError(f"{path} cannot be read: it is cut short or damaged ({error})") from None
    if not arrays:
        raise ValueError(f"{path} holds no arrays")
    return arrays


def _read_store(path: Path, name: str | None) -> dict[str, np.ndarray]:
    from gmijax import store  # imported here: other files need no tensorstore

    opened = store.open(path)
    names = opened.hook_points if name is None else (name,)
    if name is not None and name not in opened.hook_points:
        if name not in opened.label_names:
            known = ", ".join((*opened.hook_points, *opened.label_names))
            raise ValueError(f"{path} holds no hook point or label {name!r}, but {known}")
        labels = opened.labels(name)
        # Estimators take classes as numbers: texts are numbered in their alphabetical order.
        return {name: np.unique(labels, return_inverse=True)[1] if labels.dtype.kind == "U" else labels}
    arrays = {hook_point: opened.numpy(hook_point) for hook_point in names}
    # bfloat16 is a type of its own to numpy, and nothing below computes in it.
    return {key: array.astype(np.float32) if array.dtype.itemsize == 2 else array for key, array in arrays.items()}


def _read(path: Path, name: str | None) -> dict[str, np.ndarray]:
    if path.suffix == ".npy":
        if name is not None:
            raise KeyError(f"one array without a name; give {path} alone")
        return {path.stem: np.load(path, allow_pickle=False)}
    if path.suffix == ".npz":
        # Opened here: numpy leaves a file open that it cannot read.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {key: archive[key] for key in _chosen(archive.files, name)}
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as archive:
            return {key: archive.get_tensor(key) for key in _chosen(list(archive.keys()), name)}
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _chosen(names: list[str], name: str | None) -> list[str]:
    if name is not None and name not in names:
        raise KeyError(", ".join(sorted(names)) or "nothing")
    return names if name is None else [name]
