"""Small stores, and what their states should be."""

from types import SimpleNamespace

import numpy as np
import pytest

from gmijax import store


def _samples(count, start=0):
    return [
        SimpleNamespace(id=f"s{k:05d}", labels={"speaker": f"p{k % 3}", "age": k % 7}, text=f"text {k}, é")
        for k in range(start, start + count)
    ]


def _state(index, width=5, tokens=1):
    """The rows of a sample: other numbers for each, and the same at every call."""
    return np.random.default_rng(index).standard_normal((tokens, width)).astype(np.float32)


def _write(opened, chunk, failed=()):
    """Commits a chunk of pooled states."""
    span = range(chunk * opened.spec.chunk_samples, min((chunk + 1) * opened.spec.chunk_samples, opened.samples))
    rows = {
        name: np.concatenate([np.zeros((0, width), np.float32)] + [_state(k, width) for k in span if k not in failed])
        for name, width in opened.spec.hook_points.items()
    }
    opened.commit(chunk, rows, failed={k: "broken file" for k in failed if k in span})


@pytest.fixture
def samples():
    """(count, start=0) -> samples with labels and texts."""
    return _samples


@pytest.fixture
def state():
    """(index, width=5, tokens=1) -> the rows of a sample."""
    return _state


@pytest.fixture
def expected():
    """(indices or count, width=5) -> the pooled states of samples."""

    def rows(which, width=5):
        return np.concatenate([_state(k, width) for k in (range(which) if isinstance(which, int) else which)])

    return rows


@pytest.fixture
def write():
    """(store, chunk, failed=()) -> None; commits a chunk of pooled states."""
    return _write


@pytest.fixture
def make(tmp_path):
    """Makes a store of pooled states; chunks that are not to be written stay pending."""

    def build(name="store", count=23, size=4, dtype="float32", failed=(), without=(), start=0):
        spec = store.Spec("tiny", {"encoder_output": 5, "llm_final": 7}, dtype=dtype, chunk_samples=size)
        opened = store.create(tmp_path / name, spec, _samples(count, start))
        for chunk in opened.pending:
            if chunk not in without:
                _write(opened, chunk, failed)
        return store.open(opened.path)

    return build
