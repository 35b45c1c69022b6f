"""B8: the limits, what they join, and what makes the gap an index."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from gmijax import bounds, rates


def estimate(value, standard_error, **more):
    return SimpleNamespace(value=value, standard_error=standard_error, **more)


def test_limits_are_one_sided_and_bonferroni():
    gap = bounds.certified_gap(estimate(1.0, 0.1), estimate(0.4, 0.05), level=0.9)
    quantile = 1.6448536269514722  # of 95 %, one-sided
    assert gap.one_sided_level == pytest.approx(0.95)
    assert gap.information_lower == pytest.approx(1.0 - 0.1 * quantile, abs=1e-9)
    assert gap.rate_upper == pytest.approx(0.4 + 0.05 * quantile, abs=1e-9)
    assert gap.lower == pytest.approx(0.6 - 0.15 * quantile, abs=1e-9)
    assert (gap.value, gap.kind, gap.problems, gap.level) == (pytest.approx(0.6), "bound", (), 0.9)
    assert gap.bits == pytest.approx(gap.lower / math.log(2))


def test_the_in_sample_rate_counts_where_it_is_larger():
    plain = bounds.certified_gap(estimate(1.0, 0.0), estimate(0.4, 0.0))
    assert plain.lower == pytest.approx(0.6)
    fitted = bounds.certified_gap(estimate(1.0, 0.0), estimate(0.4, 0.0, in_sample=np.float32(0.45)))
    assert fitted.lower == pytest.approx(0.55)
    assert bounds.certified_gap(estimate(1.0, 0.0), estimate(0.4, 0.0, in_sample=0.3)).lower == plain.lower
    assert bounds.certified_gap(estimate(1.0, 0.0), estimate(-0.2, 0.0)).rate_upper == 0  # no rate is negative


def test_what_is_not_reliable_certifies_nothing():
    gap = bounds.certified_gap(estimate(1.0, 0.1), estimate(0.4, 0.1, reliable=np.bool_(False)))
    assert gap.kind == "index"
    assert "rate is not reliable" in gap.problems[0]
    assert bounds.certified_gap(estimate(1.0, 0.1, reliable=False), estimate(0.4, 0.1)).kind == "index"


@pytest.mark.slow
def test_of_estimates_from_samples():
    """A decoder that ignores half of what is there: four labels, of which it tells two pairs apart."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 2000)
    hits = rng.uniform(size=2000) < 0.95
    seen = np.where(hits, labels, rng.integers(0, 4, 2000))
    scores = np.where((seen // 2)[:, None] == np.arange(4) // 2, 0.0, -3.0).astype(np.float32)
    rate = rates.lm_rate(scores, labels)
    posterior = np.where(seen == labels, 0.95 + 0.05 / 4, 0.05 / 4)  # the probe: the channel's own
    losses = -np.log(posterior)
    information = estimate(math.log(4) - losses.mean(), losses.std() / math.sqrt(2000))
    gap = bounds.certified_gap(information, rate)
    pair = 0.95 + 0.05 / 2
    decoder = math.log(2) + pair * math.log(pair) + (1 - pair) * math.log(1 - pair)
    one = 0.95 + 0.05 / 4
    probe = math.log(4) + one * math.log(one) + 3 * (0.05 / 4) * math.log(0.05 / 4)
    assert gap.kind == "bound"
    assert 0.45 < gap.lower < probe - decoder < gap.lower + 0.2


@pytest.mark.slow
def test_the_gap_is_below_the_truth_as_often_as_stated():
    """Normal estimates of a gap of 0.3 at 80 %: Bonferroni makes the coverage at least that, here 1 - P(miss)."""
    rng = np.random.default_rng(1)
    draws = rng.normal(size=(2000, 2)) * [0.2, 0.1] + [0.8, 0.5]
    limits = [bounds.certified_gap(estimate(i, 0.2), estimate(r, 0.1), level=0.8).lower for i, r in draws]
    covered = np.mean(np.array(limits) <= 0.3)
    # The difference is normal with sd 0.2236 and the margin is 1.2816 (0.2 + 0.1): covered with P(N <= 1.719).
    assert covered == pytest.approx(0.9572, abs=4 * math.sqrt(0.0428 * 0.9572 / 2000))


def test_what_cannot_be_used_is_refused():
    good = estimate(1.0, 0.1)
    with pytest.raises(ValueError, match=r"level must lie in \(0, 1\), got 1"):
        bounds.certified_gap(good, good, level=1.0)
    with pytest.raises(ValueError, match=r"information\.value must be a finite number, got nan"):
        bounds.certified_gap(estimate(math.nan, 0.1), good)
    with pytest.raises(ValueError, match=r"rate\.standard_error must be a finite number >= 0"):
        bounds.certified_gap(good, estimate(1.0, -0.1))
    with pytest.raises(ValueError, match=r"rate\.value must be a finite number"):
        bounds.certified_gap(good, estimate(np.ones(2), 0.1))
