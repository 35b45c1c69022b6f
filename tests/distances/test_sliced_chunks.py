"""Sliced W1 of rows in chunks: what the arrays give, for any cuts and any block of directions."""

import jax
import numpy as np
import pytest

from gmijax import distances
from gmijax.distances import _sliced

KEY = jax.random.key(0)


def laws(n=40, m=30, d=5):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, d)).astype(np.float32), rng.normal(size=(m, d)).astype(np.float32) + 1


def pieces(x, *cuts):
    return lambda: iter(np.split(x, cuts))


@pytest.mark.parametrize("held", [1, 3 * 70, 2**26])
@pytest.mark.parametrize("cuts", [(), (7,), (10, 20)])
def test_chunks_are_the_array(monkeypatch, cuts, held):
    x, y = laws()
    monkeypatch.setattr(_sliced, "HELD", held)
    whole = distances.sliced_w1(x, y, directions=8, permutations=19, key=KEY)
    for first, second in ((pieces(x, *cuts), pieces(y, *cuts)), (x, pieces(y, *cuts))):
        cut = distances.sliced_w1(first, second, directions=8, permutations=19, key=KEY)
        assert (cut.n, cut.m, cut.name, cut.discarded) == (whole.n, whole.m, whole.name, None)
        for field in ("value", "standard_error", "null", "split_half"):
            np.testing.assert_allclose(getattr(cut, field), getattr(whole, field), rtol=2e-6)
        assert float(cut.p_value) == float(whole.p_value)


def test_float64_stays(x64):
    x, y = (law.astype(np.float64) for law in laws())
    whole = distances.sliced_w1(x, y, directions=8, permutations=0, key=KEY)
    cut = distances.sliced_w1(pieces(x, 10), pieces(y, 5), directions=8, permutations=0, key=KEY)
    assert cut.value.dtype == np.float64
    np.testing.assert_allclose(cut.value, whole.value, rtol=1e-12)


def test_rows_are_read_once_a_block_and_once_to_count():
    x, y = laws()
    passes = []

    def source():
        passes.append(1)
        return iter([x])

    distances.sliced_w1(source, y, directions=8, permutations=0, key=KEY)
    assert len(passes) == 2


def test_what_chunks_cannot_do():
    x, y = laws()
    with pytest.raises(ValueError, match="weights_y cannot be given where rows come in chunks"):
        distances.sliced_w1(pieces(x), y, weights_y=np.ones(len(y)), key=KEY)
    with pytest.raises(ValueError, match="projection cannot be given where rows come in chunks"):
        distances.sliced_w1(pieces(x), y, projection=2, key=KEY)
    with pytest.raises(ValueError, match="x has 5 columns and y 4: take both laws at one hook point"):
        distances.sliced_w1(pieces(x), y[:, 1:], key=KEY)
    y[20, 3] = np.inf
    with pytest.raises(ValueError, match="y, chunk 1, holds 1 NaN or infinite values"):
        distances.sliced_w1(pieces(x), pieces(y, 15), key=KEY)
