"""Probes against scikit-learn on its digits: splits, paths and optima; bad input by name."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupShuffleSplit, train_test_split
from sklearn.preprocessing import StandardScaler

from gmijax import probes

X, Y = load_digits(return_X_y=True)
X = X.astype(np.float32)
SEEDS = probes.splits.SEEDS


def reference(train, tolerance):
    scaler = StandardScaler().fit(X[train].astype(np.float64))
    z = scaler.transform(X.astype(np.float64))
    model = LogisticRegression(C=1, tol=tolerance, max_iter=5000).fit(z[train], Y[train])
    log_p = model.predict_log_proba(z)[np.arange(len(Y)), Y]
    objective = -log_p[train].mean() + (model.coef_**2).sum() / (2 * train.sum())
    return model.predict(z), log_p, objective


def test_splits_are_scikit_learns():
    groups = np.arange(len(Y)) // 13
    stratified, grouped = probes.splits.stratified(Y), probes.splits.grouped(groups, Y)
    for k, seed in enumerate(SEEDS):
        _, test = train_test_split(np.arange(len(Y)), test_size=0.2, random_state=seed, stratify=Y)
        assert set(test) == set(np.flatnonzero(stratified[k]))
        _, test = next(GroupShuffleSplit(1, test_size=0.2, random_state=seed).split(X, Y, groups))
        assert set(test) == set(np.flatnonzero(grouped[k]))
        assert not set(groups[grouped[k]]) & set(groups[~grouped[k]])


def test_path_reads_the_digits_as_scikit_learn_does():
    result = probes.probe(X, Y)
    held_out = probes.splits.stratified(Y)
    for k, test in enumerate(held_out):
        predictions, log_p, _ = reference(~test, 1e-4)
        assert abs(float(result.split_accuracy[k]) - (predictions == Y)[test].mean()) <= 0.002
        np.testing.assert_allclose(result.split_cross_entropy[k], -log_p[test].mean(), rtol=5e-3)
    assert result.reliable


def test_converged_reaches_the_optimum():
    held_out = probes.splits.stratified(Y, seeds=[42])
    fitted = probes.fit(X, Y, weights=~held_out, method="converged")
    _, _, best = reference(~held_out[0], 1e-9)
    assert fitted.converged.all()
    assert abs(float(fitted.objective[0]) - best) <= 1e-5 * best
    assert float(fitted.objective[0]) - best <= float(fitted.gap[0]) + 1e-6 * best


def test_figures_are_their_definitions():
    result = probes.probe(X, Y, seeds=[42, 43])
    held_out = probes.splits.stratified(Y, seeds=[42, 43])
    log_p, guesses = np.asarray(result.log_likelihoods), np.asarray(result.predictions)
    accuracy = np.mean([(guesses[s] == Y)[held_out[s]].mean() for s in range(2)])
    loss = np.mean([-log_p[s][held_out[s]].mean() for s in range(2)])
    share = np.bincount(Y) / len(Y)
    np.testing.assert_allclose(result.accuracy.value, accuracy, rtol=1e-6)
    np.testing.assert_allclose(result.cross_entropy.value, loss, rtol=1e-5)
    np.testing.assert_allclose(result.v_information.value, -(share * np.log(share)).sum() - loss, rtol=1e-5)
    assert np.isnan(log_p[~held_out]).all()
    np.testing.assert_allclose(np.asarray(result.accuracy.influence).mean(), 0, atol=1e-5)
    np.testing.assert_allclose(probes.retention(result, result).value, 1)
    np.testing.assert_allclose(probes.retention(result, result).standard_error, 0, atol=1e-6)


def test_evaluate_jits_to_the_front_door():
    held_out = probes.splits.stratified(Y, seeds=[42])
    fitted = jax.jit(lambda x, y, w: probes.fit(x, y, weights=w, classes=10))(X, Y, ~held_out)
    plain = probes.fit(X, Y, weights=~held_out)
    np.testing.assert_allclose(fitted.weight, plain.weight, atol=2e-3)
    np.testing.assert_array_equal(fitted.iterations, plain.iterations)


@pytest.mark.slow
def test_shuffled_labels_are_at_chance():
    result = probes.probe(X[:400], Y[:400], seeds=[0], shuffles=4, key=jax.random.key(0))
    assert np.asarray(result.control_accuracy).max() < 0.3
    assert result.selectivity.interval.lower > 0.5
    assert result.p_value == pytest.approx(1 / 5)


def test_best_layer_is_the_one_that_knows():
    noise = np.random.default_rng(0).normal(size=X.shape).astype(np.float32)
    best = probes.best_layer(np.stack([noise, X]), Y, seeds=[0, 1])
    assert best.layer.tolist() == [1, 1]
    assert best.result.v_information.bits > 2.5


def test_constant_features_have_no_weight():
    x = np.concatenate([X, np.full((len(X), 1), 0.1, np.float32)], axis=1)
    fitted = probes.fit(x, Y)
    assert np.all(np.asarray(fitted.weight)[:, -1] == 0)
    assert fitted.scale[-1] == 1


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (X[:30], np.zeros(30, int), {}, "a probe needs at least two classes"),
        (X[:30], np.r_[1, np.zeros(29, int)], {}, "label 1 occurs once"),
        (X[:30], Y[:29], {}, "labels has 29 entries and hidden_states has 30 rows"),
        (np.full((30, 3), np.nan), Y[:30], {}, "90 NaN or infinite"),
        (X[:8], np.arange(8) // 2, {}, "fewer than the 4"),
        (X[:30], Y[:30], {"groups": Y[:30]}, "occur in one group"),
        (X[:30], Y[:30], {"groups": np.zeros(30, int)}, "groups are all 0"),
        (X[:30], Y[:30] / 2, {}, "labels must be integers"),
        (X[:300], Y[:300], {"shuffles": 2}, "key must be given"),
        (X[:300], Y[:300], {"method": "best"}, "method must be one of"),
        (X[:300], Y[:300], {"penalty": 0.0}, "penalty must be finite and above 0"),
        (X[:300], Y[:300], {"select": "cross-entropy"}, "at least two"),
    ],
)
def test_bad_input_is_named(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        probes.probe(x, y, **options)


def test_fit_names_a_class_without_training_rows():
    with pytest.raises(ValueError, match="leaves label 9 of set 0 without a training row"):
        probes.fit(X, Y, weights=Y != 9)
