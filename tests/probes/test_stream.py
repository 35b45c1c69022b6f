"""Probes of chunks: the same probes as of the array, whatever the chunks, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from gmijax import probes


def blobs(n=150, d=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = (np.arange(n) % classes).astype(np.int32)
    return rng.normal(size=(classes, d))[y] + rng.normal(size=(n, d)) + 3, y


def pieces(x, *cuts):
    return lambda: iter(np.split(x, cuts))


@pytest.mark.parametrize("classes", [2, 4])
def test_chunks_take_scikit_learn_s_steps(x64, classes):
    x, y = blobs(classes=classes)
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=1 / 2, tol=1e-4, max_iter=1000).fit(scaler.transform(x), y)
    probe = probes.fit(pieces(x, 50, 100), y, penalty=2.0)
    assert int(probe.iterations) == model.n_iter_[0]
    assert bool(probe.converged)
    np.testing.assert_allclose(probe.mean, scaler.mean_, rtol=1e-12)
    np.testing.assert_allclose(probe.scale, scaler.scale_, rtol=1e-12)
    log_p = model.predict_log_proba(scaler.transform(x))
    np.testing.assert_allclose(probes.log_probabilities(probe, x), log_p, atol=1e-8)


@pytest.mark.parametrize("classes", [2, 3])
def test_chunks_reach_the_array_s_optimum(classes):
    x, y = blobs(classes=classes, seed=1)
    x = x.astype(np.float32)
    whole = probes.fit(x, y, method="converged")
    probe = probes.fit(pieces(x, 64), y, method="converged")
    assert bool(probe.converged)
    assert 0 <= float(probe.gap) <= 1e-5 * float(probe.objective)
    np.testing.assert_allclose(probe.objective, whole.objective, rtol=2e-5)
    assert probe.axes == whole.axes == ()
    assert probe.weight.shape == whole.weight.shape
    np.testing.assert_array_equal(probe.classes, whole.classes)
    np.testing.assert_allclose(probes.log_probabilities(probe, x), probes.log_probabilities(whole, x), atol=2e-2)


@pytest.mark.parametrize("cuts", [[], [1], [50, 51], [30, 60, 90, 120]])
def test_where_the_rows_are_cut_does_not_matter(x64, cuts):
    x, y = blobs(seed=2)
    one, several = probes.fit(x, y), probes.fit(pieces(x, *cuts), y)
    assert int(one.iterations) == int(several.iterations)
    np.testing.assert_allclose(several.weight, one.weight, atol=1e-6)
    np.testing.assert_allclose(several.bias, one.bias, atol=1e-6)


def test_a_constant_feature_has_no_weight():
    x, y = blobs(seed=3)
    x[:, 2] = 7
    probe = probes.fit(pieces(x.astype(np.float32), 70), y)
    assert float(probe.scale[2]) == 1
    np.testing.assert_array_equal(probe.weight[:, 2], 0)


def test_labels_keep_their_names_and_classes_may_be_given():
    x, y = blobs(seed=4)
    probe = probes.fit(pieces(x.astype(np.float32), 70), y * 3 + 1)
    np.testing.assert_array_equal(probe.classes, [1, 4, 7])
    np.testing.assert_array_equal(np.unique(probes.predict(probe, x)), [1, 4, 7])
    same = probes.fit(pieces(x.astype(np.float32), 70), y, classes=3)
    np.testing.assert_array_equal(same.weight, probe.weight)


def test_iterations_that_run_out_are_told():
    x, y = blobs(seed=5)
    probe = probes.fit(pieces(x.astype(np.float32)), y, max_iterations=2)
    assert not bool(probe.converged)
    assert int(probe.iterations) == 2


@pytest.mark.parametrize("source", [lambda x: x, lambda x: pieces(x, 50)])
def test_features_that_do_not_vary_leave_the_labels_entropy(source):
    """Only the biases are fitted; they begin at their optimum, as the gap's bound on their part is 0 at 0."""
    x, y = source(np.ones((100, 3), np.float32)), np.array([0, 1] * 40 + [2] * 20)
    probe = probes.fit(x, y, method="converged")
    np.testing.assert_allclose(float(probe.objective), -0.8 * np.log(0.4) - 0.2 * np.log(0.2), rtol=1e-6)
    two = probes.fit(x, 1 * (y == 2), method="converged")
    np.testing.assert_allclose(float(two.objective), -0.8 * np.log(0.8) - 0.2 * np.log(0.2), rtol=1e-6)


def test_what_chunks_cannot_do():
    x, y = blobs()
    x = x.astype(np.float32)
    with pytest.raises(ValueError, match=r"one set of labels and one penalty at a time"):
        probes.fit(pieces(x), np.stack([y, y]))
    with pytest.raises(ValueError, match=r"penalty of shape \(2,\): chunks are fitted with one"):
        probes.fit(pieces(x), y, penalty=[1.0, 2.0])
    with pytest.raises(ValueError, match="weights cannot be given with chunks; leave the rows"):
        probes.fit(pieces(x), y, weights=np.ones(len(y)))
    with pytest.raises(ValueError, match="labels has 149 entries and hidden_states has 150 rows"):
        probes.fit(pieces(x), y[1:])
    with pytest.raises(ValueError, match="labels leaves class 3 without a training row"):
        probes.fit(pieces(x), y, classes=4)
    with pytest.raises(ValueError, match=r"labels are all 1 \(set 0\): a probe needs at least two classes"):
        probes.fit(pieces(x), np.ones(len(x), int))
    with pytest.raises(
        ValueError, match="hidden_states, chunk 1, holds 1 NaN or infinite values, the first at row 5, column 3"
    ):
        probes.fit(pieces(np.where(np.arange(x.size).reshape(x.shape) == 403, np.nan, x), 75), y)
    with pytest.raises(ValueError, match="gave no rows; a chunk source is a callable"):
        probes.fit(lambda: iter(()), y)


@pytest.mark.parametrize(
    ("later", "message"), [(120, "gave 120 rows in a later pass"), (170, "gave more than the 150")]
)
def test_a_source_that_changes(later, message):
    x, y = blobs(n=170)
    passes = iter([150, later])
    with pytest.raises(ValueError, match=message):
        probes.fit(lambda: iter([x[: next(passes)].astype(np.float32)]), y[:150])


def test_jax_arrays_as_chunks():
    x, y = blobs(seed=6)
    host = probes.fit(pieces(x.astype(np.float32), 75), y)
    device = probes.fit(lambda: iter([jnp.asarray(x[:75], jnp.float32), jnp.asarray(x[75:], jnp.float32)]), y)
    np.testing.assert_array_equal(device.weight, host.weight)
