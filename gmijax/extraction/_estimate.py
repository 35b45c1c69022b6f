"""How long an extraction will take, and how much it will write, before it starts."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmijax import store
from gmijax._checks import check_count
from gmijax.datasets import Sample
from gmijax.extraction._batches import Batches
from gmijax.extraction._encoder import Encoder, Piece
from gmijax.extraction._extract import _UNREADABLE, READERS, ExtractionError, fit_buckets, make_spec, read_ahead


@dataclass(frozen=True)
class Estimate:
    """What is to come.

    Attributes:
      samples: how many the data set has.
      pending: how many of them have no states yet.
      rows: of states to be written at each hook point; None where it depends on lengths that were not looked at.
      bytes: of the states to be written, before compression; None likewise. Noise in the mantissas hardly compresses.
      seconds: that the pending samples take on one process as fast as this; None if nothing was timed.
      compile_seconds: that the programs of the timed batches took to compile; None likewise.
      timed: samples that were timed.
    """

    samples: int
    pending: int
    rows: int | None
    bytes: int | None
    seconds: float | None
    compile_seconds: float | None
    timed: int


def estimate(
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
    time_batch: bool = True,
) -> Estimate:
    """Says what `extract` with these arguments would write, and from one batch how long it would take.

    The batch holds samples from all over the data set. It runs twice: once to compile and once to be timed. Samples
    that cannot be read are taken for average ones.

    Args:
      dataset: as `extract`.
      encoder: as `extract`.
      path: as `extract`; nothing is written there.
      hook_points: as `extract`.
      pooling: as `extract`.
      dtype: as `extract`.
      batch_size: as `extract`; so many samples are timed.
      buckets: as `extract`.
      chunk_samples: as `extract`.
      time_batch: whether to run a batch; without it, times are not known, nor sizes with pooling "none".

    Returns:
      The estimate.

    Raises:
      ExtractionError: as `extract`, or if none of the samples of the batch can be read.
      ValueError: as `extract`.
      gmijax.store.StoreError: as `extract`.
    """
    check_count(batch_size, 1, "batch_size")
    lengths = fit_buckets(encoder, buckets)
    spec = make_spec(
        dataset, encoder, path, hook_points=hook_points, pooling=pooling, dtype=dtype, chunk_samples=chunk_samples
    )
    present = (Path(path) / "manifest.json").exists()
    pending = len(dataset)
    if present:
        opened = store.open(path)
        pending -= len(opened) + len(opened.failed)
    per_sample = None if pooling == "none" else 1.0
    seconds = compile_seconds = None
    timed = 0
    if time_batch and pending:
        places = np.unique(np.linspace(0, len(dataset) - 1, batch_size).round().astype(int)).tolist()
        own = [dataset[place] for place in places]
        with contextlib.suppress(ExtractionError):
            _read(encoder, own[:1])  # the first imports what opens files, and is not timed
        start = time.perf_counter()
        read = _read(encoder, own)
        reading = time.perf_counter() - start
        timed = len(read)
        batches: Batches[int] = Batches(
            encoder, hook_points=tuple(spec.hook_points), pooling=pooling, batch_size=batch_size, lengths=lengths
        )
        durations, rows = [], 0
        for _ in range(2):
            start = time.perf_counter()
            finished = [result for k, pieces in enumerate(read) for piece in pieces for result in batches.put(k, piece)]
            finished += batches.finish()
            durations.append(time.perf_counter() - start)
            rows = sum(next(iter(parts.values())).tokens for _, parts in finished)
        if per_sample is None:
            per_sample = rows / timed
        # A few samples leave the batches of several lengths emptier than a run does, and empty rows cost as much.
        filled = sum(map(len, read)) / (batches.started / len(durations) * batch_size)
        # Files are read while the device works: the slower of the two decides.
        seconds = max(reading, durations[1] * filled) / timed * pending
        compile_seconds = max(durations[0] - durations[1], 0.0)
    rows_to_come = None if per_sample is None else round(per_sample * pending)
    size = None if rows_to_come is None else rows_to_come * sum(spec.hook_points.values()) * np.dtype(dtype).itemsize
    return Estimate(len(dataset), pending, rows_to_come, size, seconds, compile_seconds, timed)


def _read(encoder: Encoder, samples: Sequence[Sample]) -> list[list[Piece]]:
    read, problem = [], ""
    for sample, future in read_ahead(encoder.read, samples, readers=READERS, ahead=len(samples)):
        try:
            read.append(future.result())
        except _UNREADABLE as error:
            problem = f"sample {sample.id!r}: {error}"
    if not read:
        raise ExtractionError(f"none of {len(samples)} samples can be read; the last was {problem}")
    return read
