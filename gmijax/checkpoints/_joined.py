"""Weights that lie in several places, as one source."""

from collections.abc import Callable, Collection, Mapping

import numpy as np

from gmijax.checkpoints._source import WeightSource


class JoinedWeights:
    """Several sources, each under a prefix of its own; a `WeightSource`.

    Args:
      parts: the sources by prefix, which is put before their keys. A key that two of them give is a problem.
    """

    def __init__(self, parts: Mapping[str, WeightSource]):
        self._owners: dict[str, tuple[WeightSource, str]] = {}
        problems: list[str] = []
        lost: set[str] = set()
        for prefix, source in parts.items():
            problems += source.problems
            lost |= {prefix + key for key in source.lost}
            for key in source.keys():  # noqa: SIM118 - a source is no mapping
                if prefix + key in self._owners:
                    problems.append(f"{prefix + key} is held twice, by two parts of the checkpoint")
                self._owners[prefix + key] = (source, key)
        self.problems = tuple(problems)
        self.lost = frozenset(lost)

    def keys(self) -> Collection[str]:
        return self._owners.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        source, inner = self._owners[key]
        return source.shape(inner)

    def read(self, key: str) -> np.ndarray:
        source, inner = self._owners[key]
        return source.read(inner)


class SelectedWeights:
    """Some of the tensors of a source; a `WeightSource`.

    Args:
      source: where they are.
      wanted: which keys to keep; the others are as if they were not there.
    """

    def __init__(self, source: WeightSource, wanted: Callable[[str], bool]):
        self._source = source
        self._keys = [key for key in source.keys() if wanted(key)]  # noqa: SIM118 - a source is no mapping
        self.problems = source.problems
        self.lost = frozenset(key for key in source.lost if wanted(key))

    def keys(self) -> Collection[str]:
        return self._keys

    def shape(self, key: str) -> tuple[int, ...]:
        return self._source.shape(key)

    def read(self, key: str) -> np.ndarray:
        return self._source.read(key)
