"""A store: hidden states by hook point, with the ids, labels and texts of their samples."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np
import tensorstore as ts

from gmijax.store._chunks import Commit, open_arrays, read_commit, write_chunk
from gmijax.store._manifest import Columns, Record, Spec, StoreError, read_columns, read_manifest, write_manifest

if TYPE_CHECKING:
    import jax
    from jax.sharding import Sharding
    from jax.typing import DTypeLike

Rows = slice | Sequence[int] | np.ndarray


@runtime_checkable
class Lazy(Protocol):
    """Rows that are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, width)."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Of the values."""
        ...

    def start(self, rows: slice | np.ndarray) -> Callable[[], np.ndarray]:
        """Begins to read, and returns what waits for the result."""
        ...


@dataclass(frozen=True, eq=False)
class Store:
    """Hidden states on disk. Nothing is read before it is asked for.

    Samples are those that have states: committed, and not failed. Ids, labels and texts are in their order, and so are
    the rows, of which a sample has one, or with pooling "none" one for each token (`offsets`).

    Attributes:
      path: the folder or file.
      spec: where the states come from; of files that do not say, only what they show.
      samples: how many samples there are in all, with those that failed and those still to come.
      failed: by id, why a sample has no states.
      damaged: by chunk, why what was committed cannot be used; a resumed extraction writes it anew.
      pending: the chunks that are not committed, the damaged among them.
      kept: positions, among all samples, of those that have states.
    """

    path: Path
    spec: Spec
    samples: int
    failed: Mapping[str, str]
    damaged: Mapping[int, str]
    pending: tuple[int, ...]
    kept: np.ndarray = field(repr=False)
    _lengths: Mapping[str, np.ndarray] = field(repr=False)
    _columns: Callable[[], Columns] = field(repr=False)
    _open: Callable[[str], Lazy] = field(repr=False)

    def __len__(self) -> int:
        """How many samples have states."""
        return len(self.kept)

    @property
    def complete(self) -> bool:
        """Whether every sample has states or a reason for having none."""
        return not self.pending

    @property
    def hook_points(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.spec.hook_points)

    @cached_property
    def _own(self) -> Columns:
        columns = self._columns()
        return columns if len(self) == len(columns.ids) else columns.take(self.kept)

    @property
    def ids(self) -> np.ndarray:
        """Shape (samples,)."""
        return self._own.ids

    @property
    def texts(self) -> list[str | None]:
        """One for each sample."""
        return self._own.texts

    @property
    def label_names(self) -> tuple[str, ...]:
        """What `labels` takes."""
        return tuple(sorted(self._own.labels))

    def labels(self, name: str) -> np.ndarray:
        """A label of every sample.

        Args:
          name: one of `label_names`.

        Returns:
          Shape (samples,): text, integers or floats.

        Raises:
          StoreError: for an unknown name, or a label that some samples lack.
        """
        if name not in self._own.labels:
            raise StoreError(f"{self.path} has no label {name!r}, but {', '.join(self.label_names) or 'none'}")
        column = self._own.labels[name]
        absent = [k for k, value in enumerate(column) if value is None]
        if absent:
            raise StoreError(
                f"{len(absent)} of {len(column)} samples have no label {name!r}, "
                f"the first is {str(self.ids[absent[0]])!r}"
            )
        kinds = {isinstance(value, str) for value in column}
        if len(kinds) > 1:
            raise StoreError(f"label {name!r} is text in some samples and a number in others")
        return np.array(column)

    def offsets(self, hook_point: str) -> np.ndarray:
        """Where the rows of each sample begin, shape (samples + 1,): sample i has rows offsets[i] to offsets[i + 1].

        Args:
          hook_point: its name.
        """
        self._check(hook_point)
        return np.concatenate([[0], np.cumsum(self._lengths[hook_point])]).astype(np.int64)

    def shape(self, hook_point: str) -> tuple[int, int]:
        """Rows and width of a hook point."""
        self._check(hook_point)
        return int(self._lengths[hook_point].sum()), self.spec.hook_points[hook_point]

    def read(
        self,
        hook_point: str,
        rows: Rows = slice(None),
        *,
        dtype: "DTypeLike | None" = None,
        sharding: "Sharding | None" = None,
    ) -> "jax.Array":
        """Rows on the device.

        Args:
          hook_point: its name.
          rows: a slice, indices, or a mask over the rows.
          dtype: of the result; as stored by default.
          sharding: where it goes; every device's rows are read on their own. The default device if not given.

        Returns:
          Shape (rows, width).

        Raises:
          StoreError: for an unknown hook point, or rows that do not exist.
        """
        import jax  # imported here: writers need none

        chosen = self._rows(hook_point, rows)
        if sharding is None:
            return jax.numpy.asarray(self._fetch(hook_point, chosen), dtype)

        def part(index):
            values = self._fetch(hook_point, _part(chosen, index[0]))[:, index[1]]
            return values if dtype is None else values.astype(dtype)

        return jax.make_array_from_callback((_count(chosen), self.spec.hook_points[hook_point]), sharding, part)

    def numpy(self, hook_point: str, rows: Rows = slice(None)) -> np.ndarray:
        """As `read`, on the host and in the type that is stored."""
        return self._fetch(hook_point, self._rows(hook_point, rows))

    def chunks(
        self,
        hook_point: str,
        rows: Rows = slice(None),
        *,
        size: int = 4096,
        dtype: "DTypeLike | None" = None,
    ) -> "Iterator[jax.Array]":
        """Consecutive rows, for estimators that stream; the next piece is read while one is used.

        Args:
          hook_point: its name.
          rows: as `read`.
          size: rows of a piece; the last may have fewer.
          dtype: of the pieces; as stored by default.

        Yields:
          Shape (up to size, width).

        Raises:
          StoreError: for an unknown hook point, or a size that is not positive.
        """
        if size < 1:
            raise StoreError(f"size = {size}: must be positive")
        import jax

        chosen, ahead = self._rows(hook_point, rows), None
        for begin in range(0, _count(chosen), size):
            piece = self._open(hook_point).start(_part(chosen, slice(begin, begin + size)))
            if ahead is not None:
                yield jax.numpy.asarray(ahead(), dtype)
            ahead = piece
        if ahead is not None:
            yield jax.numpy.asarray(ahead(), dtype)

    def commit(
        self,
        chunk: int,
        states: Mapping[str, np.ndarray],
        *,
        lengths: Mapping[str, Sequence[int]] | None = None,
        failed: Mapping[int, str] | None = None,
    ) -> None:
        """Writes a chunk whole; once this returns no kill can lose it. This object keeps what it knew when opened.

        Args:
          chunk: its number. Only one process may write it.
          states: shape (rows, width) by hook point: the rows of its samples in order, without those that failed.
          lengths: with pooling "none", how many rows each sample has, 0 for those that failed.
          failed: by position among all samples, why one has no states.

        Raises:
          StoreError: if the rows are not those that the samples need, or hold NaN or infinity.
          OSError: if they cannot be written.
        """
        manifest, failed = read_manifest(self.path), dict(failed or {})
        if not 0 <= chunk < manifest.chunks:
            raise StoreError(f"chunk = {chunk}: the store has {manifest.chunks} chunks, counted from 0")
        span = manifest.span(chunk)
        if not all(index in span for index in failed):
            raise StoreError(
                f"failed holds {sorted(failed)}; chunk {chunk} has samples {span.start} to {span.stop - 1}"
            )
        if (lengths is not None) != (self.spec.pooling == "none"):
            raise StoreError("lengths go with pooling 'none', and with no other")
        if {*states} != {*self.hook_points}:
            raise StoreError(f"states are of {sorted(states)}; the store has hook points {sorted(self.hook_points)}")
        with np.errstate(over="ignore"):  # what overflows is not finite, and told below
            own = {name: np.asarray(values).astype(self.spec.dtype, copy=False) for name, values in states.items()}
        counts = None if lengths is None else {name: [int(n) for n in lengths[name]] for name in own}
        for name, values in own.items():
            count = len(span) - len(failed) if counts is None else sum(counts[name])
            if counts is not None and len(counts[name]) != len(span):
                raise StoreError(f"lengths of {name!r} are {len(counts[name])}; chunk {chunk} has {len(span)} samples")
            if values.shape != (count, self.spec.hook_points[name]):
                raise StoreError(
                    f"states of {name!r} have shape {values.shape}; chunk {chunk} needs "
                    f"{(count, self.spec.hook_points[name])}"
                )
            if not np.isfinite(values.astype(np.float32, copy=False)).all():
                raise StoreError(f"states of {name!r} in chunk {chunk} are not finite in {self.spec.dtype}")
        write_chunk(self.path, chunk, own, counts, failed)

    def _check(self, hook_point: str) -> None:
        if hook_point not in self.spec.hook_points:
            raise StoreError(f"{self.path} has no hook point {hook_point!r}, but {', '.join(self.hook_points)}")

    def _rows(self, hook_point: str, rows: Rows) -> slice | np.ndarray:
        """Checked: a slice from a start to a stop, or indices that are not negative."""
        count, _ = self.shape(hook_point)
        if isinstance(rows, slice):
            picked = range(count)[rows]
            return slice(picked.start, max(picked.start, picked.stop)) if picked.step == 1 else np.array(picked, int)
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            if chosen.shape != (count,):
                raise StoreError(f"rows are a mask of shape {chosen.shape}; {hook_point!r} has {count} rows")
            return np.flatnonzero(chosen)
        if chosen.ndim != 1 or not np.issubdtype(chosen.dtype, np.integer):
            raise StoreError(f"rows have shape {chosen.shape} and type {chosen.dtype}; give a slice, indices or a mask")
        if chosen.size and not -count <= chosen.min() <= chosen.max() < count:
            raise StoreError(f"rows hold {chosen.min()} to {chosen.max()}; {hook_point!r} has {count} rows")
        return np.where(chosen < 0, chosen + count, chosen)

    def _fetch(self, hook_point: str, rows: slice | np.ndarray) -> np.ndarray:
        return self._open(hook_point).start(rows)()


def _count(rows: slice | np.ndarray) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _part(rows: slice | np.ndarray, part: slice) -> slice | np.ndarray:
    """Of checked rows, those that a slice without a step takes."""
    if isinstance(rows, np.ndarray):
        return rows[part]
    start, stop, _ = part.indices(_count(rows))
    return slice(rows.start + start, rows.start + stop)


class _Chunked:
    """The chunks of one hook point as one array."""

    def __init__(self, arrays: list[ts.TensorStore], width: int, dtype: str):
        self.dtype = np.dtype(dtype)
        self._array = ts.concat(arrays, axis=0) if arrays else None
        self.shape = (0, width) if self._array is None else tuple(self._array.shape)

    def start(self, rows: slice | np.ndarray) -> Callable[[], np.ndarray]:
        if isinstance(rows, slice):
            return self._read(lambda array: array[rows.start : rows.stop], rows.stop - rows.start)
        return self._read(lambda array: array[np.asarray(rows, np.int64)], len(rows))

    def _read(self, choose: Callable[[Any], Any], count: int) -> Callable[[], np.ndarray]:
        if not count or self._array is None:
            return lambda: np.zeros((0, self.shape[1]), self.dtype)
        pending = choose(self._array).read()

        def wait() -> np.ndarray:
            try:
                return pending.result()
            except ValueError as error:
                raise StoreError(f"states cannot be read; `verify` says which are damaged ({error})") from None

        return wait


def create(path: str | Path, spec: Spec, samples: Iterable[Record]) -> Store:
    """Makes a store without states, or opens the one that the same spec and samples made before.

    Several processes may do so at once.

    Args:
      path: its folder.
      spec: where the states will come from.
      samples: ids, labels and texts, in order.

    Raises:
      StoreError: if the folder holds another store or other files, or ids or labels are not as `Record` says.
    """
    folder = Path(path)
    if folder.is_dir() and not (folder / "manifest.json").exists():
        foreign = sorted({entry.name for entry in folder.iterdir() if not entry.name.startswith(".")})
        if foreign and foreign != ["samples.jsonl"]:
            raise StoreError(f"{folder} holds {foreign[0]} and no manifest.json; give an empty or a new folder")
    write_manifest(folder, spec, samples)
    return open_folder(folder)


def open(path: str | Path) -> Store:
    """Opens a store, or a file of the paper's code or of Hugging Face's as one.

    What a killed run left opens too: `complete` says whether anything is missing, `pending` what.

    Args:
      path: a store's folder; an HDF5 file (.h5, .hdf5; needs h5py); or a .npz file. In files every matrix of floats is
        a hook point, and every vector of its length a label, but for ids and texts.

    Raises:
      StoreError: if it is damaged or nothing of these.
      FileNotFoundError: if there is nothing.
    """
    source = Path(path)
    if source.is_dir():
        return open_folder(source)
    from gmijax.store._files import open_file

    return open_file(source)


def open_folder(folder: Path) -> Store:
    """Opens a store of ours."""
    manifest = read_manifest(folder)
    spec = manifest.spec
    found = {chunk: read_commit(folder, chunk, tuple(spec.hook_points)) for chunk in range(manifest.chunks)}
    commits = {chunk: commit for chunk, commit in found.items() if isinstance(commit, Commit)}
    columns = cache(lambda: read_columns(folder, manifest))
    failures = {index: reason for commit in commits.values() for index, reason in commit.failed.items()}
    spans = [np.arange(manifest.span(chunk).start, manifest.span(chunk).stop) for chunk in commits]
    covered = np.concatenate([np.zeros(0, np.int64), *spans])
    kept = covered[~np.isin(covered, list(failures))] if failures else covered

    def open_hook_point(name: str) -> Lazy:
        rows = {chunk: commit.arrays[name].rows for chunk, commit in commits.items() if commit.arrays[name].rows}
        width = spec.hook_points[name]
        return _Chunked(open_arrays(folder, name, rows, width, spec.dtype), width, spec.dtype)

    def lengths(name: str) -> np.ndarray:
        if spec.pooling != "none":
            return np.ones(len(kept), np.int64)
        own = [np.asarray(commit.arrays[name].lengths, np.int64) for commit in commits.values()]
        counts = np.concatenate([np.zeros(0, np.int64), *own])
        return counts[~np.isin(covered, list(failures))]

    return Store(
        path=folder,
        spec=spec,
        samples=manifest.samples,
        failed={str(columns().ids[index]): reason for index, reason in sorted(failures.items())},
        damaged={chunk: reason for chunk, reason in found.items() if isinstance(reason, str)},
        pending=tuple(chunk for chunk in found if chunk not in commits),
        kept=kept,
        _lengths={name: lengths(name) for name in spec.hook_points},
        _columns=columns,
        _open=cache(open_hook_point),
    )
