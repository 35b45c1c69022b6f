"""The front door: figures beside scikit-learn's, intervals and their coverage, groups, retention, cross-fitting."""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

from gmijax import probes
from gmijax.probes import splits

LAW = np.array([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]])


def blobs(n=200, d=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % classes).astype(np.int32)
    return rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d)), y


def test_macro_f1_and_cross_entropy_are_scikit_learn_s():
    x, y = load_digits(return_X_y=True)
    x, y = x[:700], y[:700]
    result = probes.probe(x, y, seeds=(42, 43))
    scores, losses = [], []
    for seed in (42, 43):
        train, test = train_test_split(np.arange(700), test_size=0.2, stratify=y, random_state=seed)
        scaler = StandardScaler().fit(x[train])
        model = LogisticRegression(max_iter=2000).fit(scaler.transform(x[train]), y[train])
        z = scaler.transform(x[test])
        scores.append(f1_score(y[test], model.predict(z), average="macro"))
        losses.append(log_loss(y[test], model.predict_proba(z)))
    np.testing.assert_allclose(result.macro_f1.value, np.mean(scores), atol=1e-6)
    np.testing.assert_allclose(result.split_cross_entropy, losses, atol=5e-4)
    assert np.nanmin(result.log_likelihoods) > -20  # some pixels are lit in test rows alone, and must not count there


def test_float64_follows_scikit_learn_row_for_row(x64):
    x, y = blobs(seed=1)
    result = probes.probe(x, y)
    for k, seed in enumerate(splits.SEEDS):
        train, test = train_test_split(np.arange(len(y)), test_size=0.2, stratify=y, random_state=seed)
        scaler = StandardScaler().fit(x[train])
        model = LogisticRegression(max_iter=2000).fit(scaler.transform(x[train]), y[train])
        np.testing.assert_array_equal(result.predictions[k, test], model.predict(scaler.transform(x[test])))
        assert np.all(np.asarray(result.predictions)[k, train] == -1)
        assert np.all(np.isnan(np.asarray(result.log_likelihoods)[k, train]))


@pytest.mark.slow
def test_groups_widen_the_intervals_of_rows_that_belong_together():
    """A label that is the speaker's: rows of one speaker are right or wrong together."""
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(40), 10)
    y = (groups % 2).astype(np.int32)
    x = (y[:, None] - 0.5) + 1.5 * rng.normal(size=(40, 3))[groups] + 0.1 * rng.normal(size=(400, 3))
    masks = splits.grouped(groups, y)
    grouped = probes.probe(x, y, groups=groups)
    rows = probes.evaluate(probes.fit(x, y, weights=~masks), x, y, held_out=masks)
    np.testing.assert_allclose(grouped.accuracy.value, rows.accuracy.value, rtol=1e-6)
    assert float(grouped.accuracy.standard_error) > 2 * float(rows.accuracy.standard_error)
    assert grouped.accuracy.influence.shape == (40,)


@pytest.mark.slow
def test_layers_label_sets_and_chosen_penalties_are_each_by_itself():
    x, y = blobs(seed=3)
    stack, sets = np.stack([x, x[:, ::-1] + 0.5]), np.stack([y, np.arange(200) // 3 % 2])
    options = {"penalty": (1.0, 50.0), "seeds": (1, 2), "select": "cross-entropy"}
    together = probes.probe(stack, sets, **options)
    assert together.accuracy.value.shape == (2, 2)
    for layer in range(2):
        for k in range(2):
            alone = probes.probe(stack[layer], sets[k], **options)
            np.testing.assert_array_equal(together.penalty[layer, k], alone.penalty)
            np.testing.assert_allclose(together.accuracy.value[layer, k], alone.accuracy.value, atol=1e-6)
            np.testing.assert_allclose(
                together.v_information.standard_error[layer, k], alone.v_information.standard_error, rtol=1e-3
            )
            np.testing.assert_array_equal(together.predictions[layer, k], alone.predictions)


def test_labels_that_say_nothing_have_no_information():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(400, 4)), (rng.permutation(400) % 3).astype(np.int32)
    result = probes.probe(x, y, penalty=100.0, method="converged")
    assert result.v_information.interval.lower <= 0.0
    assert abs(float(result.accuracy.value) - 1 / 3) < 0.1
    assert abs(float(result.chance.majority) - 1 / 3) < 0.05


@pytest.mark.slow
def test_retention_is_a_paired_ratio():
    x, y = blobs(n=400, seed=6)
    before, after = probes.probe(x, y, seeds=(1, 2)), probes.probe(x[:, :2], y, seeds=(1, 2))
    kept = probes.retention(after, before)
    np.testing.assert_allclose(kept.value, after.accuracy.value / before.accuracy.value)
    apart = kept.value * np.hypot(
        after.accuracy.standard_error / after.accuracy.value, before.accuracy.standard_error / before.accuracy.value
    )
    assert 0 < kept.standard_error < apart
    with pytest.raises(ValueError, match="same rows in the same order"):
        probes.retention(probes.probe(x[:300], y[:300], seeds=(1, 2)), before)


@pytest.mark.slow
@pytest.mark.parametrize("spread", [1.0, 2.0])
def test_intervals_cover_what_fixed_probes_reach_on_the_law(spread):
    """500 held-out samples: the truth is what the probe reaches on 200,000 rows, and H of the known law of labels."""
    rng = np.random.default_rng(7)
    prior = np.array([0.5, 0.3, 0.2])

    def draw(n):
        y = rng.choice(3, n, p=prior).astype(np.int32)
        return (LAW[y] + spread * rng.normal(size=(n, 2))).astype(np.float32), y

    probe = probes.fit(*draw(300))
    far, labels = draw(200_000)
    log_p = np.asarray(probes.log_probabilities(probe, far), np.float64)
    guesses, loss = log_p.argmax(1), -np.mean(log_p[np.arange(len(far)), labels])
    f1 = [2 * np.sum((guesses == k) & (labels == k)) / (np.sum(guesses == k) + np.sum(labels == k)) for k in range(3)]
    truths = {
        "accuracy": np.mean(guesses == labels),
        "macro_f1": np.mean(f1),
        "cross_entropy": loss,
        "v_information": -np.sum(prior * np.log(prior)) - loss,
    }
    covered = dict.fromkeys(truths, 0)
    for _ in range(500):
        rows, y = draw(250)
        result = probes.evaluate(probe, rows, y, held_out=np.ones(250, bool))
        for name, truth in truths.items():
            interval = getattr(result, name).interval
            covered[name] += bool(interval.lower <= truth <= interval.upper)
    assert all(0.92 <= count / 500 <= 0.98 for count in covered.values()), covered


@pytest.mark.parametrize("groups", [None, np.repeat(np.arange(50), 4)])
def test_k_folds_test_every_row_once(groups):
    y = np.arange(200) % 4
    fold = splits.k_fold(y, groups=groups, folds=5, seed=3)
    np.testing.assert_array_equal(fold, splits.k_fold(y, groups=groups, folds=5, seed=3))
    assert np.bincount(fold).min() >= 36
    if groups is None:
        counts = np.array([np.bincount(fold[y == k], minlength=5) for k in range(4)])
        assert np.ptp(counts) <= 1
    else:
        assert all(len(set(fold[groups == g])) == 1 for g in range(50))


@pytest.mark.slow
def test_cross_fit_chooses_on_other_rows_than_it_scores():
    """The layer with the labels is chosen; labels made of noise score no better than their entropy."""
    x, y = blobs(n=240, seed=9)
    noise = np.random.default_rng(9).normal(size=x.shape)
    fold = splits.k_fold(y, folds=4, seed=0)
    result = probes.cross_fit([noise, x], y, fold, penalties=(1.0, 100.0))
    assert set(result.chosen.tolist()) == {1}
    np.testing.assert_array_equal(result.best, result.log_likelihoods[1])
    assert result.converged
    for k in range(4):
        test, validation = fold == k, fold == (k + 1) % 4
        losses = []
        for penalty in (1.0, 100.0):
            inner = probes.fit(x, y, weights=~(test | validation), penalty=penalty)
            losses.append(-np.asarray(probes.log_probabilities(inner, x))[validation, y[validation]].mean())
        best = (1.0, 100.0)[int(np.argmin(losses))]
        assert result.penalties[1, k] == best
        outer = probes.fit(x, y, weights=~test, penalty=best)
        own = np.asarray(probes.log_probabilities(outer, x))[test, y[test]]
        np.testing.assert_allclose(result.log_likelihoods[1, test], own, atol=1e-4)
    nothing = probes.cross_fit([noise], y, fold, penalties=(1.0, 10.0, 1000.0))
    assert -nothing.best.mean() > np.log(3) - 0.03


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        (np.arange(40) % 2, "at least three folds"),
        (np.arange(39) % 3, "folds must give every row"),
        (np.array([]), "folds must give every row"),
    ],
)
def test_cross_fit_needs_three_folds(folds, message):
    x, y = blobs(n=40)
    with pytest.raises(ValueError, match=message):
        probes.cross_fit([x], y, folds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be at least 2"),
        ({"folds": 30}, "fewer than 30 folds"),
        ({"groups": np.arange(40) % 3, "folds": 5}, "3 groups for 5 folds"),
        ({"groups": np.arange(40) % 2, "folds": 2}, "none of 1000 draws"),
    ],
)
def test_k_fold_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        splits.k_fold(np.arange(40) % 2, seed=0, **options)
