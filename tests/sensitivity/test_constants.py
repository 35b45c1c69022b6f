"""What a percentile of gradient norms is and is not; its interval."""

import numpy as np
import pytest

from gmijax import bounds, sensitivity
from gmijax.distances import known
from gmijax.sensitivity import lipschitz_index


def test_index_is_a_percentile_and_says_so():
    index = lipschitz_index(np.arange(101.0))
    assert (index.value, index.maximum, index.mean, index.n, index.kind) == (95.0, 100.0, 50.0, 101, "sampled")
    constant = index.constant("z")
    assert (constant.value, constant.kind, constant.space) == (95.0, "sampled", "z")
    assert constant.assumptions == ("the 0.95 quantile of 101 gradient norms",)
    bound = bounds.messages(1.0, constant, known(0.1, given="(c, y)", space="z"))
    assert (bound.value, bound.kind) == (pytest.approx(19.0), "index")


def test_only_a_certified_constant_makes_a_bound():
    moved = known(0.1, given="(c, y)", space="z")
    certified = sensitivity.certified_softmax([[1.0], [-1.0]], space="z")
    searched = sensitivity.SearchedConstant(2.0, "searched", "z")
    assert [bounds.messages(1.0, slope, moved).kind for slope in (certified, searched)] == ["bound", "index"]
    other = sensitivity.certified_linear([[1.0]], space="another layer")
    with pytest.raises(ValueError, match="two spaces"):
        bounds.messages(1.0, other, moved)


def test_interval_is_open_where_the_sample_cannot_close_it():
    """0.95^71 > 0.025 > 0.95^72: of fewer norms than 72 even the largest may well lie below the percentile."""
    assert lipschitz_index(np.arange(71.0)).interval.upper == np.inf
    assert lipschitz_index(np.arange(72.0)).interval.upper == 71.0
    whole = lipschitz_index(np.arange(200.0), quantile=1.0)
    assert (whole.interval.lower, whole.interval.upper) == (199.0, np.inf)
    assert lipschitz_index(np.ones(1)).interval == (0.0, np.inf)


def test_padding_never_enters_a_percentile():
    rng = np.random.default_rng(0)
    norms, mask = rng.exponential(size=(50, 6)), rng.random((50, 6)) < 0.7
    mask[:, 0] = True
    index = lipschitz_index(np.where(mask, norms, 0), mask=mask, quantile=0.1)
    assert index.value == np.quantile(norms[mask], 0.1)
    assert index.mean == pytest.approx(norms[mask].mean())
    assert (index.n, index.count) == (50, mask.sum())
    spoilt = lipschitz_index(np.where(mask, norms, np.nan), mask=mask, quantile=0.1)
    assert spoilt.value == index.value


def test_tokens_that_repeat_each_other_count_once():
    norms = np.random.default_rng(1).exponential(size=300)
    once, copied = lipschitz_index(norms), lipschitz_index(np.repeat(norms[:, None], 5, axis=1))
    np.testing.assert_allclose(copied.interval, once.interval, rtol=0.05)
    fresh = lipschitz_index(np.random.default_rng(1).exponential(size=(300, 5)))
    assert fresh.interval.upper - fresh.interval.lower < 0.7 * float(once.interval.upper - once.interval.lower)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_coverage_of_the_interval(shared):
    """Norms of 200 samples: exponential, and of 4 tokens each whose logarithms are correlated."""
    rng = np.random.default_rng(2)
    truth = {0.0: -np.log(0.1), 0.8: np.exp(1.2815515655446004)}[shared]
    inside = 0
    for _ in range(500):
        if shared:
            common, own = rng.normal(size=(200, 1)), rng.normal(size=(200, 4))
            norms = np.exp(np.sqrt(shared) * common + np.sqrt(1 - shared) * own)
        else:
            norms = rng.exponential(size=200)
        lower, upper = lipschitz_index(norms, quantile=0.9).interval
        inside += bool(lower <= truth <= upper)
    assert 0.92 <= inside / 500 <= 0.98


def test_bad_input_is_named():
    for arguments, message in (
        ({"norms": np.array([])}, "non-empty array"),
        ({"norms": np.ones((2, 2, 2))}, r"got shape \(2, 2, 2\)"),
        ({"norms": np.array([1.0, np.nan])}, "finite and >= 0"),
        ({"norms": np.array([1.0, -1.0])}, "finite and >= 0"),
        ({"quantile": 95}, r"quantile must lie in \(0, 1\], got 95"),
        ({"quantile": 0.0}, "quantile must lie"),
        ({"level": 1.0}, "level must lie strictly"),
        ({"mask": np.ones(2)}, "have the shape of norms"),
        ({"mask": np.zeros(3)}, "mask must be true somewhere"),
    ):
        with pytest.raises(ValueError, match=message):
            lipschitz_index(**{"norms": np.ones(3), **arguments})
    with pytest.raises((ValueError, TypeError), match="kind"):  # the type checker of the tests comes first
        sensitivity.LipschitzConstant(1.0, "bound", "z")
