"""From a store to one file that any tool reads."""

import os
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np

from gmijax.store._manifest import StoreError
from gmijax.store._store import Store

SUFFIXES = (".npz", ".safetensors")


def export(store: Store, path: str | Path) -> Path:
    """Writes the states of all hook points with ids, labels and texts.

    Arrays go by the hook point's name; with pooling "none" also `NAME.offsets`. A .npz file holds `ids`, `texts` and
    the labels as arrays, and bfloat16 as float32, which it lacks; a .safetensors file holds numbers alone, and only
    the labels that are numbers. All states are in memory at once.

    Args:
      store: what `open` returned.
      path: ends in .npz or .safetensors.

    Returns:
      The path.

    Raises:
      StoreError: for another ending, or a label with the name of a hook point.
      OSError: if it cannot be written.
    """
    target = Path(path)
    if target.suffix not in SUFFIXES:
        raise StoreError(f"{target} ends in none of {', '.join(SUFFIXES)}")
    arrays = {name: store.numpy(name) for name in store.hook_points}
    if store.spec.pooling == "none":
        arrays |= {f"{name}.offsets": store.offsets(name) for name in store.hook_points}
    labels = {}
    for name in store.label_names:
        try:
            labels[name] = store.labels(name)
        except StoreError:
            continue  # some samples lack it, and an array has no place for that
    clash = sorted({*arrays, "ids", "texts"} & {*labels} - {"ids", "texts"})
    if clash:
        raise StoreError(f"label {clash[0]!r} has the name of a hook point; rename it")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
    os.close(handle)
    try:
        if target.suffix == ".npz":
            wide = {n: a.astype(np.float32) if a.dtype == ml_dtypes.bfloat16 else a for n, a in arrays.items()}
            texts = np.array([text or "" for text in store.texts])
            np.savez(temporary, **{**labels, **wide, "ids": store.ids, "texts": texts})
        else:
            from safetensors.numpy import save_file

            numbers = {name: column for name, column in labels.items() if column.dtype.kind in "if"}
            save_file({**numbers, **arrays}, temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
    return target
