"""From a data set to a store: chunk by chunk, each read, run and committed whole."""

import math
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import ml_dtypes  # noqa: F401 - registers bfloat16 with numpy
import numpy as np

from gmijax import store
from gmijax._checks import check_choice, check_count
from gmijax.datasets import Sample
from gmijax.extraction._batches import Batches, Parts
from gmijax.extraction._encoder import Encoder, Piece, SampleError
from gmijax.store import Spec, Store

CHUNK = 256  # samples that a kill can cost; a multiple of every usual batch
READERS = 4  # threads: decoding and resizing release Python's lock
_AHEAD = 4  # batches that are read before they are needed

# What opening a file may raise. Anything else is a fault of the program, and stops it.
_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError)

Progress = Callable[[str, int, int], None]


class ExtractionError(ValueError):
    """A run that cannot begin or go on. What it has committed stays."""


@dataclass(frozen=True)
class Extraction:
    """What one run of `extract` did.

    Attributes:
      path: of the store.
      samples: how many the data set has.
      done: how many samples this run committed, those that failed among them.
      failed: by id, why samples have no states; of all runs so far.
      complete: whether no chunk is pending, for this process or for others.
      bytes: of the states of this run, before compression.
      seconds: from the first file to the last commit, with compilation.
    """

    path: Path
    samples: int
    done: int
    failed: dict[str, str]
    complete: bool
    bytes: int
    seconds: float

    @property
    def rate(self) -> float:
        """Samples a second."""
        return self.done / self.seconds if self.seconds else 0.0


def extract(
    dataset: Sequence[Sample],
    encoder: Encoder,
    path: str | Path,
    *,
    hook_points: Sequence[str] | None = None,
    pooling: str = "mean",
    dtype: str = "float32",
    batch_size: int = 16,
    buckets: Sequence[int] | None = None,
    chunk_samples: int | None = None,
    strict: bool = False,
    retry: bool = False,
    process: tuple[int, int] | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Runs a data set through an encoder and writes its states to a store, or goes on where an earlier run ended.

    A run that ended in any way, killed or without room on the disk, is taken up by the same call: committed chunks are
    kept, all others written. Another number of processes, batch size or buckets may then be given, the rest may not:
    it decides the states, and the store refuses it.

    Args:
      dataset: the samples, e.g. of `gmijax.datasets.open`.
      encoder: from `load`, or a subclass of `Encoder`.
      path: the store's folder.
      hook_points: which states; the encoder's choice by default.
      pooling: one of `gmijax.store.POOLINGS`. What "mean", "mean_all" and "last" take is said by the encoder's class.
      dtype: of the states on disk: float32, bfloat16 or float16.
      batch_size: rows of every batch.
      buckets: lengths to which rows are padded, in mel frames or tokens; at most so many programs are compiled. By
        default the encoder's. Its longest is always one of them.
      chunk_samples: consecutive samples that are committed at once, and lost by a kill; by default as in the store,
        or 256.
      strict: whether a sample that cannot be used ends the run.
      retry: whether chunks with failed samples are run again, e.g. once a missing file is there.
      process: (index, count): of the pending chunks those are taken whose number leaves index when divided by count.
        By default those of jax.distributed, which is one process where it was not initialised.
      progress: called with "samples", how many are done and how many there are for this process.

    Returns:
      What was done.

    Raises:
      ExtractionError: if no sample has what the encoder takes; under `strict`, for the first sample that fails.
      ValueError: for options that there are not, or hook points that the encoder has not.
      gmijax.store.StoreError: if the folder holds another run's store, naming what differs.
      OSError: if states cannot be written, as when the disk is full; nothing committed is lost.
    """
    index, count = _share(process)
    lengths = fit_buckets(encoder, buckets)
    check_count(batch_size, 1, "batch_size")
    spec = make_spec(
        dataset, encoder, path, hook_points=hook_points, pooling=pooling, dtype=dtype, chunk_samples=chunk_samples
    )
    opened = store.create(path, spec, dataset)
    todo = [chunk for chunk in pending_chunks(opened, retry=retry) if chunk % count == index]
    run = _Run(dataset, encoder, opened, strict, lengths, batch_size)
    start = time.perf_counter()
    run.chunks(todo, index, count, progress or (lambda stage, done, total: None))
    seconds = time.perf_counter() - start
    result = store.open(path)
    return Extraction(
        path=result.path,
        samples=result.samples,
        done=run.done,
        failed=dict(result.failed),
        complete=result.complete,
        bytes=run.bytes,
        seconds=seconds,
    )


def make_spec(
    dataset: Sequence[Sample],
    encoder: Encoder,
    path: str | Path,
    *,
    hook_points: Sequence[str] | None,
    pooling: str,
    dtype: str,
    chunk_samples: int | None,
) -> Spec:
    """The store's spec, once the data set and the encoder are seen to fit."""
    check_choice(pooling, store.POOLINGS, "pooling")
    if not len(dataset):
        raise ExtractionError("the data set has no samples")
    if not any(getattr(sample, encoder.takes) is not None for sample in dataset):
        raise ExtractionError(f"no sample of the data set has {_PHRASES[encoder.takes]}, which the encoder takes")
    names = tuple(encoder.hook_points if hook_points is None else dict.fromkeys(hook_points))
    if not names:
        raise ExtractionError("hook_points are empty; name at least one, or leave them out")
    if chunk_samples is None:
        present = Path(path) / "manifest.json"
        chunk_samples = store.open(path).spec.chunk_samples if present.exists() else CHUNK
    return Spec(
        **vars(encoder.identity),
        hook_points=encoder.widths(names),
        pooling=pooling,
        dtype=dtype,
        chunk_samples=chunk_samples,
    )


_PHRASES = {"audio": "a recording", "image": "an image", "text": "a text"}


def fit_buckets(encoder: Encoder, buckets: Sequence[int] | None) -> tuple[int, ...]:
    """The padded lengths, ascending, to the encoder's longest."""
    if buckets is None:
        return encoder.lengths
    longest = encoder.lengths[-1]
    for length in buckets:
        check_count(length, 1, "every one of buckets")
        if length > longest:
            raise ValueError(f"buckets hold {length}; the encoder takes up to {longest}")
    return tuple(sorted({*map(int, buckets), longest}))


def pending_chunks(opened: Store, *, retry: bool = False) -> list[int]:
    """The chunks that are to be written: those that are not committed, and on request those with failed samples."""
    again = set()
    if retry and opened.failed:
        everywhere = np.setdiff1d(np.arange(opened.samples), opened.kept)
        again = {int(index) // opened.spec.chunk_samples for index in everywhere}
    return sorted({*opened.pending, *again})


def _share(process: tuple[int, int] | None) -> tuple[int, int]:
    if process is None:
        import jax

        return jax.process_index(), jax.process_count()
    index, count = process
    if not 0 <= index < count:
        raise ValueError(f"process = ({index}, {count}): the index must lie between 0 and {count - 1}")
    return index, count


Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Item], Result], items: Iterable[Item], *, readers: int, ahead: int
) -> Generator[tuple[Item, Future[Result]], None, None]:
    """Applies `read` to items on threads, a few before they are needed; yields them in their order with what comes."""
    waiting: deque[tuple[Item, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(readers, thread_name_prefix="gmijax-read")
    try:
        for item in items:
            waiting.append((item, pool.submit(read, item)))
            if len(waiting) > ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:  # also where the consumer stopped early
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class _Run:
    """One run over some chunks of a store."""

    dataset: Sequence[Sample]
    encoder: Encoder
    store: Store
    strict: bool
    lengths: tuple[int, ...]
    batch_size: int
    done: int = 0
    bytes: int = 0
    _parts: dict[int, list[Parts | None]] = field(default_factory=dict)
    _failed: dict[int, str] = field(default_factory=dict)

    def chunks(self, todo: Sequence[int], index: int, count: int, progress: Progress) -> None:
        spec, samples = self.store.spec, len(self.dataset)
        spans = {
            chunk: range(chunk * spec.chunk_samples, min((chunk + 1) * spec.chunk_samples, samples)) for chunk in todo
        }
        own = range(index, math.ceil(samples / spec.chunk_samples), count)
        total = sum(min(spec.chunk_samples, samples - chunk * spec.chunk_samples) for chunk in own)
        before = total - sum(map(len, spans.values()))
        progress("samples", before, total)
        stream = read_ahead(
            lambda position: self.encoder.read(self.dataset[position]),
            (position for span in spans.values() for position in span),
            readers=READERS,
            ahead=_AHEAD * self.batch_size,
        )
        try:
            for chunk, span in spans.items():
                self._fill(span, stream, lambda seen: progress("samples", before + self.done + seen, total))
                self._commit(chunk, span)
                progress("samples", before + self.done, total)
        finally:
            stream.close()  # ends the threads

    def _fill(
        self, span: range, stream: Iterator[tuple[int, Future[list[Piece]]]], seen: Callable[[int], None]
    ) -> None:
        """Runs the samples of a chunk. Its batches hold no others, so that its states are the same in any run."""
        spec = self.store.spec
        batches: Batches[tuple[int, int]] = Batches(
            self.encoder,
            hook_points=tuple(spec.hook_points),
            pooling=spec.pooling,
            batch_size=self.batch_size,
            lengths=self.lengths,
        )
        self._parts, self._failed = {}, {}
        for number, (position, future) in enumerate(islice(stream, len(span))):
            try:
                pieces = future.result()
            except _UNREADABLE as error:
                self._fail(position, str(error) or type(error).__name__, error)
                continue
            self._parts[position] = [None] * len(pieces)
            for k, piece in enumerate(pieces):
                self._take(batches.put((position, k), piece))
            seen(number)
        self._take(batches.finish())

    def _take(self, finished: Iterator[tuple[tuple[int, int], Parts]]) -> None:
        for (position, k), parts in finished:
            self._parts[position][k] = parts

    def _fail(self, position: int, reason: str, cause: Exception | None = None) -> None:
        if self.strict:
            name = self.dataset[position].id
            raise ExtractionError(
                f"sample {name!r}: {reason}; {self.done} samples of this run are committed"
            ) from cause
        self._failed[position] = reason

    def _commit(self, chunk: int, span: range) -> None:
        """Joins the pieces of every sample and writes the chunk."""
        spec = self.store.spec
        joined: dict[int, dict[str, np.ndarray]] = {}
        for position, pieces in self._parts.items():
            try:
                joined[position] = {name: self._join(pieces, name) for name in spec.hook_points}
            except SampleError as error:
                self._fail(position, str(error))
        order = sorted(joined)
        rows = {
            name: np.concatenate([np.zeros((0, width), spec.dtype), *(joined[position][name] for position in order)])
            for name, width in spec.hook_points.items()
        }
        lengths = None
        if spec.pooling == "none":
            lengths = {
                name: [len(joined[position][name]) if position in joined else 0 for position in span]
                for name in spec.hook_points
            }
        try:
            self.store.commit(chunk, rows, lengths=lengths, failed=self._failed)
        except OSError as error:
            raise OSError(
                f"{error}; {self.done} samples of this run are committed: make room and run it again to go on"
            ) from error
        self.done += len(span)
        self.bytes += sum(values.nbytes for values in rows.values())

    def _join(self, pieces: list[Parts | None], name: str) -> np.ndarray:
        """The rows of a sample in the type of the store, shape (rows, width).

        Raises:
          SampleError: if no token counts, or a state is not finite.
        """
        spec = self.store.spec
        parts = [piece[name] for piece in pieces if piece is not None]
        assert len(parts) == len(pieces)  # all have run
        tokens = sum(part.tokens for part in parts)
        if not tokens:
            raise SampleError(f"it has no token at {name!r}")
        if spec.pooling == "none":
            rows = np.concatenate([part.values for part in parts])
        elif spec.pooling == "last":
            rows = next(part.values for part in reversed(parts) if part.tokens)[None]
        else:
            rows = np.sum([part.values for part in parts], axis=0, dtype=np.float64, keepdims=True) / tokens
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is not finite, and told below
            rows = rows.astype(spec.dtype)
        if not np.isfinite(rows.astype(np.float32, copy=False)).all():
            raise SampleError(f"its states at {name!r} are not finite in {spec.dtype}")
        return rows
