"""Fitted probes: scikit-learn's path and optimum, batches, weights, and what a probe refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gmijax import probes


def blobs(n=120, d=6, classes=3, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    return rng.normal(size=(classes, d))[y] * spread + rng.normal(size=(n, d)), y.astype(np.int32)


def objective(probe, x, y, penalty):
    """The definition, float64, as a plain loop over rows."""
    z = (x - np.asarray(probe.mean, np.float64)) / np.asarray(probe.scale, np.float64)
    weight, bias = np.asarray(probe.weight, np.float64), np.asarray(probe.bias, np.float64)
    total = 0.0
    for row, label in zip(z, y, strict=True):
        logits = weight @ row + bias
        total += np.logaddexp.reduce(logits) - logits[label]
    square = np.sum(weight**2) if len(weight) > 2 else np.sum((weight[1] - weight[0]) ** 2)
    return total / len(y) + penalty * square / (2 * len(y))


def sklearn_fit(x, y, penalty, tolerance):
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=1 / penalty, tol=tolerance, max_iter=20_000).fit(scaler.transform(x), y)
    return scaler, model


def sklearn_objective(scaler, model, x, y, penalty):
    log_p = model.predict_log_proba(scaler.transform(x))
    return -log_p[np.arange(len(y)), y].mean() + penalty * np.sum(model.coef_**2) / (2 * len(y))


@pytest.mark.parametrize("classes", [2, 3])
def test_path_takes_scikit_learn_s_steps(x64, classes):
    x, y = blobs(classes=classes, seed=1)
    probe = probes.fit(x, y)
    scaler, model = sklearn_fit(x, y, 1.0, 1e-4)
    assert int(probe.iterations) == model.n_iter_[0]
    np.testing.assert_allclose(
        probes.log_probabilities(probe, x), model.predict_log_proba(scaler.transform(x)), atol=1e-6
    )
    np.testing.assert_allclose(probe.objective, objective(probe, x, y, 1.0), rtol=1e-10)
    assert bool(probe.converged)


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("classes", [2, 4])
def test_converged_reaches_the_optimum(x64, classes, penalty):
    x, y = blobs(classes=classes, seed=2, spread=2.0)
    probe = probes.fit(x, y, penalty=penalty, method="converged", tolerance=1e-9)
    best = sklearn_objective(*sklearn_fit(x, y, penalty, 1e-10), x, y, penalty)
    np.testing.assert_allclose(objective(probe, x, y, penalty), best, rtol=1e-7)
    assert 0 <= float(probe.gap) <= 1e-9 * best
    assert float(probe.objective) - best <= float(probe.gap) + 1e-12


def test_converged_in_float32_on_the_digits_is_the_optimum_to_1e_5():
    x, y = load_digits(return_X_y=True)
    x, y = x[:600], y[:600]
    probe = probes.fit(x, y, method="converged")
    best = sklearn_objective(*sklearn_fit(x, y, 1.0, 1e-8), x, y, 1.0)
    assert bool(probe.converged)
    np.testing.assert_allclose(float(probe.objective), best, rtol=1e-5)


def test_optimum_is_that_of_optax_lbfgs(x64):
    x, y = blobs(seed=3)
    probe = probes.fit(x, y, penalty=2.0, method="converged", tolerance=1e-10)
    z = jnp.asarray((x - x.mean(0)) / x.std(0))

    def loss(theta):
        logits = z @ theta[:, :-1].T + theta[:, -1]
        fit = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(y)).mean()
        return fit + 2.0 * jnp.sum(theta[:, :-1] ** 2) / (2 * len(y))

    solver, theta = optax.lbfgs(), jnp.zeros((3, 7))
    state, step = solver.init(theta), optax.value_and_grad_from_state(loss)

    @jax.jit
    def advance(theta, state):
        value, gradient = step(theta, state=state)
        updates, state = solver.update(gradient, state, theta, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(theta, updates), state

    for _ in range(60):
        theta, state = advance(theta, state)
    np.testing.assert_allclose(probe.objective, loss(theta), rtol=1e-9)


@pytest.mark.slow
def test_one_batch_is_every_fit_alone(x64):
    """Layers, label sets with different numbers of classes, penalties and splits at once, and each by itself."""
    x = np.stack([blobs(seed=4)[0], blobs(seed=5)[0]])
    y = np.stack([np.arange(120) % 3, np.arange(120) // 7 % 2])
    weights = np.ones((2, 120))
    weights[0, :30] = weights[1, 60:90] = 0
    penalties = (0.5, 5.0)
    together = probes.fit(x, y, weights=weights, penalty=penalties)
    assert together.axes == ("layers", "label_sets", "penalties", "splits")
    for index in np.ndindex(2, 2, 2, 2):
        layer, labels, penalty, split = index
        alone = probes.fit(x[layer], y[labels], weights=weights[split], penalty=penalties[penalty])
        classes = len(alone.classes)
        np.testing.assert_allclose(together.weight[index][:classes], alone.weight, atol=1e-7)
        np.testing.assert_allclose(together.objective[index], alone.objective, rtol=1e-9)
        kept = weights[split] > 0
        subset = probes.fit(x[layer][kept], y[labels][kept], penalty=penalties[penalty])
        np.testing.assert_allclose(alone.weight, subset.weight, atol=1e-6)
    assert np.all(np.asarray(together.bias)[:, 1, :, :, 2] == -np.inf)
    assert probes.predict(together, x).shape == (2, 2, 2, 2, 120)


@pytest.mark.slow
@given(st.integers(0, 2**31), st.floats(0.1, 50), st.floats(-100, 100))
def test_scale_and_shift_of_the_features_change_nothing(seed, factor, shift):
    with jax.enable_x64(True):
        x, y = blobs(n=60, d=3, seed=seed % 1000)
        first, second = (probes.fit(values, y, penalty=3.0) for values in (x, factor * x + shift))
        np.testing.assert_allclose(
            probes.log_probabilities(first, x), probes.log_probabilities(second, factor * x + shift), atol=1e-6
        )


def test_a_row_of_weight_two_is_two_rows(x64):
    x, y = blobs(n=60, seed=6)
    weights = np.ones(60)
    weights[:20] = 2
    twice = probes.fit(np.concatenate([x, x[:20]]), np.concatenate([y, y[:20]]), method="converged", tolerance=1e-10)
    once = probes.fit(x, y, weights=weights, method="converged", tolerance=1e-10)
    np.testing.assert_allclose(once.weight, twice.weight, atol=1e-5)


def test_a_constant_column_gets_no_weight_and_duplicates_share_theirs(x64):
    x, y = blobs(n=90, seed=7)
    wide = np.concatenate([x, np.full((90, 1), 5.0), x[:, :1]], axis=1)
    probe = probes.fit(wide, y, method="converged", tolerance=1e-10)
    assert np.all(np.asarray(probe.weight)[:, 6] == 0)
    assert float(probe.scale[6]) == 1
    np.testing.assert_allclose(probe.weight[:, 0], probe.weight[:, 7], atol=1e-5)


def test_a_column_that_is_constant_in_training_alone_counts_nothing():
    """Its variance in a split is rounding, which must not become a scale."""
    x, y = blobs(n=1500, seed=10)
    x = np.concatenate([x, np.zeros((1500, 1))], axis=1)
    x[7, 6] = 1.0
    weights = np.ones((4, 1500))
    weights[0, 7] = 0
    probe = probes.fit(x, y, weights=weights)
    assert float(probe.scale[0, 6]) == 1
    assert np.all(np.asarray(probe.weight)[0, :, 6] == 0)
    assert np.all(np.asarray(probe.weight)[1:, :, 6] != 0)


def test_jit_and_vmap_agree_with_a_plain_call():
    x, y = blobs(n=60, seed=8)
    plain = probes.fit(x, y)
    jitted = jax.jit(lambda a, b: probes.fit(a, b, classes=3))(jnp.asarray(x, jnp.float32), jnp.asarray(y))
    np.testing.assert_allclose(jitted.weight, plain.weight, atol=1e-4)
    many = jax.vmap(lambda a: probes.fit(a, jnp.asarray(y), classes=3).objective)(
        jnp.stack([jnp.asarray(x, jnp.float32)] * 2)
    )
    np.testing.assert_allclose(many, plain.objective, rtol=1e-5)


def test_a_probe_that_may_take_one_step_says_that_it_did_not_converge():
    x, y = blobs(seed=9)
    assert not bool(probes.fit(x, y, max_iterations=1).converged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_states": np.zeros(4)}, "hidden_states must have shape"),
        ({"hidden_states": np.full((12, 2), np.nan)}, "holds 24 NaN or infinite values"),
        ({"labels": np.arange(11) % 2}, "labels has 11 entries and hidden_states has 12 rows"),
        ({"labels": np.arange(12) % 2 / 2}, "labels must be integers"),
        ({"labels": np.arange(12) % 2 - 1}, "labels must be 0 or above"),
        ({"labels": np.ones(12, int)}, "labels are all 1"),
        ({"weights": np.zeros(12)}, "without rows"),
        ({"weights": -np.ones(12)}, "finite and 0 or above"),
        ({"weights": (np.arange(12) % 2).astype(float)}, "leaves label 0 of set 0 without a training row"),
        ({"weights": np.ones(5)}, "weights must have shape"),
        ({"penalty": 0.0}, "penalty must be finite and above 0"),
        ({"method": "newton"}, "method must be one of 'path', 'converged'"),
        ({"tolerance": 0.0}, "tolerance must be above 0"),
        ({"max_iterations": 0}, "max_iterations"),
        ({"classes": 1}, "classes must be at least 2"),
    ],
)
def test_bad_input_is_named(change, message):
    rng = np.random.default_rng(0)
    good = {"hidden_states": rng.normal(size=(12, 2)), "labels": np.arange(12) % 2}
    with pytest.raises(ValueError, match=message):
        probes.fit(**(good | change))


def test_a_probe_reads_only_its_own_width():
    x, y = blobs(n=30)
    probe = probes.fit(x, y)
    with pytest.raises(ValueError, match="width 3 and the probe was fitted at width 6"):
        probes.predict(probe, x[:, :3])
