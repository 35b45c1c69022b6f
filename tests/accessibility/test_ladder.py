"""The ladder: known rungs, the paper's phenomenon, groups, pairing, and bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmijax import accessibility, report
from gmijax.accessibility import ladder, ladder_figure
from gmijax.rates import channels

PENALTIES = (1.0, 100.0)
KEY = jax.random.key(0)
MEANS = np.array([[-1.2, 0.3], [0.0, 1.0], [1.2, -0.6]])
BIASED = channels.GaussianLabels(
    MEANS, np.array([0.4, 0.3, 0.3]), bias=np.array([0.0, 1.5, -0.5]), temperature=0.5, pmi_score=True
)


def sample(n, seed=0):
    """Rows, labels and the label scores log q(k | z) of a biased and overconfident decoder."""
    z, y = (np.asarray(part) for part in BIASED.sample(jax.random.key(seed), n))
    slopes, offsets = BIASED._linear
    return z, y.astype(np.int32), z @ slopes.T + offsets


@pytest.mark.slow
def test_first_three_rungs_are_the_known_rates_and_rise():
    z, y, scores = sample(3000)
    known, result = BIASED.rates(), ladder(scores, z, y, penalties=PENALTIES, key=KEY)
    spoken = float(BIASED.curve(np.ones(1), "messages")[0])
    entropy = float(-(np.asarray(BIASED.priors) @ np.log(BIASED.priors)))
    truths = {
        "decoder": spoken,
        "gmi": known.gmi_messages,
        "lm_rate": known.lm_rate,
        "read_out": known.mutual_information,
        "final_probe": known.mutual_information,
        "best_probe": known.mutual_information,
        "entropy": entropy,
    }
    for name, truth in truths.items():
        rung = result.rung(name)
        assert rung.interval.lower - 0.003 <= truth <= rung.interval.upper + 0.003, name
    values = np.asarray(result.rungs.value)
    assert np.all(np.diff(values[:3]) > 0)
    assert bool(result.reliable)
    np.testing.assert_allclose(result.bits.value, values / np.log(2), rtol=1e-6)
    np.testing.assert_allclose(result.shares[-1], 1)


@pytest.mark.slow
def test_an_attribute_that_the_decoder_cannot_read_and_a_probe_can():
    """The paper's phenomenon: a speaker's voice in directions that the decoder ignores."""
    rng = np.random.default_rng(1)
    n, speakers = 600, 4
    y = rng.permutation(np.arange(n) % speakers)
    content = rng.normal(size=(n, 6))
    voice = 6 * np.eye(speakers)[y] + rng.normal(size=(n, speakers))
    scores = content @ rng.normal(size=(6, speakers))  # reads content alone
    result = ladder(scores, {"encoder": np.concatenate([content, voice], 1), "llm_final": content}, y, key=KEY)
    gmi, probe, entropy = (result.rung(name) for name in ("gmi", "best_probe", "entropy"))
    assert gmi.interval.lower <= 0 <= gmi.interval.upper + 1e-6
    assert result.lm_rate.p_value > 0.01
    assert probe.value > 0.97 * entropy.value
    assert result.rung("final_probe").value < 0.02
    assert result.layer_names == ("encoder", "llm_final")
    assert np.all(np.asarray(result.chosen) == 0)
    assert result.certified.kind == "bound"
    assert result.certified.lower > 0.9 * float(entropy.value)
    assert result.accessibility.interval.lower <= 0 <= result.accessibility.interval.upper


def test_gaps_are_paired():
    """The read-outs share their rows, so that gaps are known better than the rungs' own intervals would say."""
    z, y, scores = sample(800, seed=3)
    result = ladder(scores, z, y, penalties=PENALTIES, key=KEY)
    np.testing.assert_allclose(result.gaps.value, np.diff(result.rungs.value), atol=1e-7)
    apart = np.hypot(result.rungs.standard_error[2:5], result.rungs.standard_error[3:6])
    assert np.all(np.asarray(result.gaps.standard_error)[2:5] < 0.7 * apart)


def test_groups_are_never_split_and_are_the_unit_of_intervals():
    """Every row twice: with the copies as groups the standard errors are those of half as many rows, and no probe
    has seen the copy of what it is tested on."""
    z, y, scores = sample(400, seed=4)
    twice = [np.repeat(part, 2, axis=0) for part in (scores, z, y)]
    groups = np.repeat(np.arange(400), 2)
    options = {"penalties": PENALTIES, "key": KEY}
    grouped, rows = ladder(*twice, groups=groups, **options), ladder(*twice, **options)
    ratio = np.asarray(grouped.rungs.standard_error / rows.rungs.standard_error)
    known = [0, 1, 2, 6]
    np.testing.assert_allclose(ratio[known], np.sqrt(2), rtol=0.03)
    leaked = np.asarray(rows.rungs.value - grouped.rungs.value)
    assert np.all(leaked[3:6] > 0)
    np.testing.assert_allclose(leaked[6], 0, atol=1e-6)
    assert grouped.influence.shape == (7, 400)


@pytest.mark.slow
def test_shifting_the_scores_of_a_row_changes_nothing():
    z, y, scores = sample(300, seed=5)
    shifted = scores + np.linspace(-3, 3, 300)[:, None]
    first, second = (ladder(s, z, y, penalties=PENALTIES, key=KEY) for s in (scores, shifted))
    np.testing.assert_allclose(first.rungs.value, second.rungs.value, atol=2e-4)


def test_same_key_same_ladder():
    z, y, scores = sample(300, seed=6)
    first, second = (ladder(scores, z, y, penalties=PENALTIES, key=KEY) for _ in range(2))
    np.testing.assert_array_equal(first.rungs.value, second.rungs.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label_scores": np.zeros(30)}, r"label_scores must have shape \(n, K\)"),
        ({"label_scores": np.full((30, 3), np.nan)}, "scores holds 90 NaN"),
        ({"labels": np.arange(29) % 3}, "labels must be 30 integers"),
        ({"labels": np.arange(30) % 3 / 1.0}, "labels must be 30 integers"),
        ({"labels": np.arange(30) % 4}, r"labels must lie in 0\.\.2"),
        ({"labels": np.arange(30) % 2}, "label 2 has no row"),
        ({"labels": np.array([0, 0] + [1, 2] * 14)}, "label 0 has 2 rows, fewer than 5 folds"),
        ({"hidden_states": np.zeros((29, 4))}, "one row a label"),
        ({"hidden_states": np.full((30, 4), np.inf)}, "NaN or infinite"),
        ({"hidden_states": {}}, "hidden_states holds no layer"),
        ({"hidden_states": np.zeros(30)}, r"\(n, d\) or \(layers, n, d\)"),
        ({"folds": 2}, "folds must be at least 3"),
        ({"groups": np.arange(30) % 3}, "3 groups for 5 folds"),
        ({"groups": np.arange(30) % 6 - np.arange(30) % 3}, "groups"),
        ({"level": 1.0}, "level"),
    ],
)
def test_bad_input_is_named(change, message):
    rng = np.random.default_rng(0)
    good = {
        "label_scores": rng.normal(size=(30, 3)),
        "hidden_states": rng.normal(size=(30, 4)),
        "labels": np.arange(30) % 3,
    }
    with pytest.raises(ValueError, match=message):
        ladder(**(good | change), key=KEY)


def test_unknown_rung_is_named():
    z, y, scores = sample(300, seed=6)
    with pytest.raises(ValueError, match="name must be one of decoder, gmi"):
        ladder(scores, z, y, penalties=PENALTIES, key=KEY).rung("mi")


def test_figure_has_a_bar_a_rung(tmp_path):
    z, y, scores = sample(300, seed=6)
    result = ladder(scores, z, y, penalties=PENALTIES, key=KEY)
    figure = ladder_figure(result, title="a")
    bars = [patch for patch in figure.axes[0].patches if patch.get_width() > 0 or patch.get_height() > 0]
    assert len(bars) >= 7
    paths = report.save_figure(figure, tmp_path / "ladder")
    text = paths[0].read_text()
    assert all(label in text for label in accessibility.RUNGS.values())
    assert jnp.isfinite(result.influence).all()
