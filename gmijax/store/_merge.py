"""One store from several: of parts of a data set, or of one that several machines shared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmijax.store._manifest import Label, StoreError, read_manifest
from gmijax.store._store import Store, create, open_folder


@dataclass(frozen=True)
class _Sample:
    id: str
    labels: dict[str, Label]
    text: str | None


def merge(paths: Sequence[str | Path], out: str | Path) -> Store:
    """Writes one store with the samples of several, in their order, each once.

    A sample's states come from the first store that has them. Where none has, a reason for its failure is kept; where
    there is none either, its chunk stays pending, and an extraction with the same samples completes it. A merge that
    was killed is taken up by another call.

    Args:
      paths: folders of stores with one spec.
      out: folder of the new store.

    Returns:
      The new store.

    Raises:
      StoreError: if there is no store, their specs differ, or one sample differs in labels or text between them.
    """
    stores = [open_folder(Path(path)) for path in paths]
    if not stores:
        raise StoreError("paths are empty; give the folders of at least one store")
    spec = stores[0].spec
    for store in stores[1:]:
        problems = spec.differences(store.spec)
        if problems:
            raise StoreError(f"{store.path} is of another run than {stores[0].path}: {'; '.join(problems)}")
    samples: dict[str, _Sample] = {}
    place: dict[str, tuple[int, int]] = {}  # by id, the store and the position among its samples that have states
    failed: dict[str, str] = {}
    for number, store in enumerate(stores):
        columns = store._columns()
        for index, name in enumerate(columns.ids.tolist()):
            labels = {label: column[index] for label, column in columns.labels.items()}
            labels = {label: value for label, value in labels.items() if value is not None}
            sample = _Sample(name, labels, columns.texts[index])
            if samples.setdefault(name, sample) != sample:
                raise StoreError(f"sample {name!r} has other labels or another text in {store.path}")
        for position, name in enumerate(store.ids.tolist()):
            place.setdefault(name, (number, position))
        failed |= {name: reason for name, reason in store.failed.items() if name not in failed}
    result = create(out, spec, samples.values())
    manifest, names = read_manifest(result.path), list(samples)
    offsets = [{name: store.offsets(name) for name in spec.hook_points} for store in stores]
    for chunk in result.pending:
        span = manifest.span(chunk)
        if not all(names[index] in place or names[index] in failed for index in span):
            continue
        reasons = {index: failed[names[index]] for index in span if names[index] not in place}
        found = [place.get(names[index]) for index in span]
        states, lengths = {}, {}
        for hook_point, width in spec.hook_points.items():
            bounds: list[tuple[int, int, int] | None] = []
            for at in found:
                start, stop = (0, 0) if at is None else offsets[at[0]][hook_point][at[1] : at[1] + 2].tolist()
                bounds.append(None if at is None else (at[0], start, stop))
            lengths[hook_point] = [0 if bound is None else bound[2] - bound[1] for bound in bounds]
            runs = _runs([bound for bound in bounds if bound is not None])
            pieces = [stores[number].numpy(hook_point, slice(start, stop)) for number, start, stop in runs]
            states[hook_point] = np.concatenate([np.zeros((0, width), spec.dtype), *pieces])
        result.commit(chunk, states, lengths=lengths if spec.pooling == "none" else None, failed=reasons)
    return open_folder(result.path)


def _runs(bounds: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Neighbours in one store joined, so that a chunk is a few reads and not one for each sample."""
    joined: list[tuple[int, int, int]] = []
    for store, start, stop in bounds:
        if joined and joined[-1][0] == store and joined[-1][2] == start:
            joined[-1] = (store, joined[-1][1], stop)
        else:
            joined.append((store, start, stop))
    return joined
