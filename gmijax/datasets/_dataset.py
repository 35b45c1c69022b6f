"""An immutable sequence of samples in one order."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import overload

from gmijax.datasets._errors import DatasetError
from gmijax.datasets._sample import Sample


class Dataset(Sequence[Sample]):
    """Samples sorted by their ids, in the order of Unicode code points.

    The order depends on the ids alone, never on the order in which a file system lists its files. A slice is a data
    set too, and may be empty. Nothing is opened until a sample's `audio` or `image` is called.

    Attributes:
      name: of the data set, as `open` takes it.
      ids: of the samples, in order.
      label_names: every label that some sample has, sorted.
    """

    __slots__ = ("_ids", "_label_names", "_name", "_samples")

    def __init__(self, name: str, samples: Iterable[Sample], *, root: Path | str):
        """Sorts the samples.

        Args:
          name: of the data set.
          samples: at least one, in any order.
          root: what the samples were read from, for messages.

        Raises:
          DatasetError: if there is no sample, or if two share an id.
        """
        ordered = tuple(sorted(samples, key=lambda sample: sample.id))
        if not ordered:
            raise DatasetError(root, f"holds no sample of {name}")
        for first, second in pairwise(ordered):
            if first.id == second.id:
                raise DatasetError(root, f"holds two samples with the id {first.id!r}; an id names one sample")
        self._fill(name, ordered)

    @property
    def name(self) -> str:
        return self._name

    @property
    def ids(self) -> tuple[str, ...]:
        return self._ids

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._label_names

    def __len__(self) -> int:
        return len(self._samples)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> "Dataset": ...
    def __getitem__(self, index: int | slice) -> "Sample | Dataset":
        if isinstance(index, slice):
            return self._slice(index)
        return self._samples[index]

    def _slice(self, index: slice) -> "Dataset":
        if index.step is not None and index.step < 1:
            raise ValueError(f"the slice's step is {index.step}; samples keep their order, so use a positive step")
        part = Dataset.__new__(Dataset)  # what was checked and sorted once stays so
        part._fill(self._name, self._samples[index])
        return part

    def _fill(self, name: str, samples: tuple[Sample, ...]) -> None:
        self._name = name
        self._samples = samples
        self._ids = tuple(sample.id for sample in samples)
        self._label_names = tuple(sorted({label for sample in samples for label in sample.labels}))

    def __repr__(self) -> str:
        labels = ", ".join(self._label_names) or "none"
        return f"Dataset({self._name!r}, {len(self)} samples, labels: {labels})"
