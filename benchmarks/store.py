"""Reading and writing the store beside h5py: reopened for every row, as the paper's code does, and in bulk.

Everything is in the page cache; CPU seconds, in which the decompression that h5py's plain files need not do counts.

Run: python benchmarks/store.py [--rows N] [--width D]
"""

from _bench import measure, once, report, row  # first: it pins the process

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np

from gmijax import store


def write_store(folder: Path, states: np.ndarray) -> None:
    """All chunks of 1,024 samples."""
    spec = store.Spec("benchmark", {"h": states.shape[1]}, chunk_samples=1024)
    opened = store.create(folder, spec, [SimpleNamespace(id=str(k), labels={}, text=None) for k in range(len(states))])
    for chunk in opened.pending:
        opened.commit(chunk, {"h": states[chunk * 1024 : (chunk + 1) * 1024]})


def write_rows(path: Path, states: np.ndarray, rows: int) -> None:
    """The file opened, one row written, and closed, again and again."""
    for k in range(rows):
        with h5py.File(path, "a") as file:
            file["h"][k] = states[k]


def write_bulk(path: Path, states: np.ndarray) -> None:
    """One dataset, not compressed."""
    with h5py.File(path, "w") as file:
        file["h"] = states


def read_rows(path: Path, rows: int) -> np.ndarray:
    """The file opened anew for each row."""
    found = []
    for k in range(rows):
        with h5py.File(path, "r") as file:
            found.append(file["h"][k])
    return np.stack(found)


def read_bulk(path: Path) -> np.ndarray:
    """One read."""
    with h5py.File(path, "r") as file:
        return file["h"][:]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--width", type=int, default=1024)
    n, width = (arguments := parser.parse_args()).rows, arguments.width
    states = np.random.default_rng(0).standard_normal((n, width)).astype(np.float32)
    few = n // 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        count = iter(range(100))
        writing = measure(lambda: write_store(folder / f"s{next(count)}", states), 3)
        with h5py.File(folder / "rows.h5", "w") as file:
            file.create_dataset("h", states.shape, np.float32)
        _, written = once(lambda: write_rows(folder / "rows.h5", states, few))
        bulk_written = measure(lambda: write_bulk(folder / "bulk.h5", states), 3)
        reading = measure(lambda: store.open(folder / "s0").numpy("h"), 3)
        _, read = once(lambda: read_rows(folder / "bulk.h5", few))
        bulk_read = measure(lambda: read_bulk(folder / "bulk.h5"), 3)
        error = float(np.abs(store.open(folder / "s0").numpy("h") - states).max())
    table = []
    for what, ours, by_row, bulk in (("write", writing, written, bulk_written), ("read", reading, read, bulk_read)):
        name, note = f"{what} {n} x {width}", f"{few} of {n} rows measured"
        for peer, seconds, mark in (("reopened for every row", by_row * n / few, note), ("in bulk", bulk.seconds, "")):
            table.append(row(name, ours, f"h5py {peer}", seconds, error, mark, "float32 / float32"))
    report("Store of hidden states", table, "benchmark_store.json")


if __name__ == "__main__":
    main()
