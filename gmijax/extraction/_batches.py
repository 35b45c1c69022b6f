"""Pieces of any length in, batches of few shapes on the device, results in whatever order they finish."""

from collections import deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from gmijax.extraction._encoder import Encoder, Piece, Pooled

Key = TypeVar("Key", bound=Hashable)


class Part(NamedTuple):
    """What one piece adds to its sample at one hook point.

    Attributes:
      values: the sum of the states that count, shape (width,), or with pooling "none" themselves, shape (n, width).
      tokens: how many they are.
    """

    values: np.ndarray
    tokens: int


Parts = dict[str, Part]


class Batches(Generic[Key]):
    """Fills one batch for each padded length, and keeps two on the device, so that it never waits for the host.

    A batch starts when it is full, so that no more pieces wait than `batch_size` for each length, and nothing need be
    sorted: in one bucket all rows are padded to one length anyway.

    Args:
      encoder: makes and runs the batches.
      hook_points: of the states.
      pooling: one of `gmijax.store.POOLINGS`.
      batch_size: rows of every batch; the last ones are filled up.
      lengths: to which pieces are padded, ascending.

    Attributes:
      started: how many batches have been started.
    """

    def __init__(
        self, encoder: Encoder, *, hook_points: tuple[str, ...], pooling: str, batch_size: int, lengths: Sequence[int]
    ):
        self._encoder, self._batch_size, self._lengths = encoder, batch_size, tuple(lengths)
        self.started = 0
        self._options: dict[str, Any] = {"hook_points": hook_points, "pooling": pooling}
        self._waiting: dict[int, list[tuple[Key, Piece]]] = {length: [] for length in self._lengths}
        self._running: deque[tuple[list[Key], Mapping[str, Pooled]]] = deque()

    def put(self, key: Key, piece: Piece) -> Iterator[tuple[Key, Parts]]:
        """Takes a piece; yields those that have finished meanwhile."""
        length = next(length for length in self._lengths if piece.length <= length)
        self._waiting[length].append((key, piece))
        if len(self._waiting[length]) == self._batch_size:
            yield from self._start(length)

    def finish(self) -> Iterator[tuple[Key, Parts]]:
        """Runs what waits, and yields all that has not finished yet."""
        for length, waiting in self._waiting.items():
            if waiting:
                yield from self._start(length)
        while self._running:
            yield from self._collect()

    def _start(self, length: int) -> Iterator[tuple[Key, Parts]]:
        waiting, self._waiting[length] = self._waiting[length], []
        self.started += 1
        batch = self._encoder.batch([piece for _, piece in waiting], self._batch_size, length)
        self._running.append(([key for key, _ in waiting], self._encoder.pooled(batch, **self._options)))
        if len(self._running) > 1:
            yield from self._collect()

    def _collect(self) -> Iterator[tuple[Key, Parts]]:
        keys, pooled = self._running.popleft()
        arrays = {name: (np.asarray(values), np.asarray(counts)) for name, (values, counts) in pooled.items()}
        for row, key in enumerate(keys):
            yield key, {name: _part(values[row], counts[row]) for name, (values, counts) in arrays.items()}


def _part(values: np.ndarray, counts: np.ndarray | np.integer) -> Part:
    """Of one row: what was pooled, or the states that count."""
    if values.ndim == 1:
        return Part(values, int(counts))
    return Part(values[counts], int(counts.sum()))
