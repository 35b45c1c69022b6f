"""CKA where its value is known."""

import jax
import numpy as np
import pytest

from gmijax import distances

KEY = jax.random.key(0)


@pytest.mark.parametrize("debiased", [True, False])
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_of_rotated_and_scaled_rows_is_1(kernel, debiased):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 6)) * np.arange(1, 7)
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    result = distances.cka(x, 3 * x @ rotation + 1, kernel=kernel, debiased=debiased, permutations=0, key=KEY)
    assert float(result.value) == pytest.approx(1, abs=1e-5)


def test_of_independent_rows_only_the_debiased_form_is_0():
    """With fewer rows than dimensions the biased form is far from 0."""
    values = {True: [], False: []}
    for seed in range(20):
        x, y = np.random.default_rng(seed).normal(size=(2, 50, 60))
        for debiased in values:
            result = distances.cka(x, y, debiased=debiased, permutations=0, key=KEY)
            values[debiased].append(float(result.value))
    fair = np.array(values[True])
    assert abs(fair.mean()) < 3 * fair.std(ddof=1) / np.sqrt(len(fair))
    assert min(values[False]) > 0.4


def test_is_its_definition():
    """Biased: <HKH, HLH> over the norms, Gram matrices centred twice, in float64."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 5))
    y = x @ rng.normal(size=(5, 7)) + rng.normal(size=(30, 7))
    centre = np.eye(30) - 1 / 30
    k, m = (centre @ (a @ a.T) @ centre for a in (x, y))
    expected = np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))
    result = distances.cka(x, y, debiased=False, permutations=0, key=KEY)
    assert float(result.value) == pytest.approx(expected, rel=2e-5)


def test_more_rows_than_an_int32_counts_pairs_of():
    x = np.random.default_rng(2).normal(size=(46_342, 3)).astype(np.float32)
    result = distances.cka(x, x + 1, permutations=0, key=KEY)
    assert float(result.value) == pytest.approx(1, abs=1e-4)
    assert np.isfinite(result.standard_error)


def test_unpaired_rows_are_refused():
    with pytest.raises(ValueError, match="pair"):
        distances.cka(np.ones((4, 2)), np.ones((5, 2)), key=KEY)


@pytest.mark.parametrize(
    ("x", "message"),
    [(np.ones((1, 2)), "row"), (np.full((5, 2), np.nan), "NaN"), (np.ones(5), "first axis")],
)
def test_bad_rows_are_named(x, message):
    with pytest.raises(ValueError, match=message):
        distances.cka(x, np.random.default_rng(0).normal(size=(len(x), 3)), key=KEY)
