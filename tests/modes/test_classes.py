"""Between-class scatter: its definition, its noise, its intervals, and what it gives with alpha as values."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax import modes

MEANS = np.array([[2.0, 0.0, 1.0, 0.0], [-1.0, 0.5, 0.0, 0.0], [0.0, -1.0, -2.0, 0.0]])


def draw(n, rng, spread=1.0, means=MEANS):
    labels = np.concatenate([np.arange(3), np.arange(3), rng.integers(0, 3, n - 6)])
    return means[labels] + spread * (1 + labels[:, None]) * rng.normal(size=(n, 4)), labels


def population(labels, means=MEANS):
    """Scatter of these class means in each coordinate, with these class sizes."""
    weights = np.bincount(labels) / len(labels)
    return weights @ (means - weights @ means) ** 2


def plain(x, labels):
    """Plug-in and debiased scatter by coordinate, as a loop."""
    n, mean = len(x), x.mean(0)
    plug_in, noise = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for label in np.unique(labels):
        rows = x[labels == label]
        share = len(rows) / n
        plug_in += share * (rows.mean(0) - mean) ** 2
        noise += (1 - share) * rows.var(0, ddof=1) / n
    return plug_in, plug_in - noise


@pytest.mark.parametrize("size", [None, 17])
def test_scatter_is_its_definition(x64, pieces, size):
    x, labels = draw(60, np.random.default_rng(0))
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    names = np.array(["a", "b", "c"])[labels]
    found = modes.class_scatter(x if size is None else pieces(x, size), names, rotation[:2])
    plug_in, debiased = plain(x @ rotation.T, labels)
    np.testing.assert_allclose(found.scatter_plug_in, plug_in[:2], rtol=1e-10)
    np.testing.assert_allclose(found.scatter, debiased[:2], rtol=1e-10)
    np.testing.assert_allclose(found.total.value, debiased.sum(), rtol=1e-10)
    np.testing.assert_allclose(found.share.value, debiased[:2] / debiased.sum(), rtol=1e-10)
    np.testing.assert_allclose(found.share_plug_in, plug_in[:2] / plug_in.sum(), rtol=1e-10)
    np.testing.assert_allclose(found.inside.value, debiased[:2].sum() / debiased.sum(), rtol=1e-10)
    assert (found.n, found.classes, found.weighted_alpha) == (60, 3, None)


def test_standard_errors_are_those_of_the_class_means(x64):
    """By moving each class's mean: d S / d mu_c times the noise of mu_c."""
    x, labels = draw(60, np.random.default_rng(2))
    found = modes.class_scatter(x, labels, np.eye(4)[:2])
    means = np.array([x[labels == c].mean(0) for c in range(3)])
    base = population(labels, means)
    noise = plain(x, labels)[0] - plain(x, labels)[1]
    gradients = np.zeros((3, 3, 4))  # of share 0, total and inside, by class and coordinate

    def statistics(moved):
        scatter = population(labels, moved) - noise
        return np.array([scatter[0] / scatter.sum(), scatter.sum(), scatter[:2].sum() / scatter.sum()])

    for c in range(3):
        for j in range(4):
            step = np.zeros((3, 4))
            step[c, j] = 1e-6
            gradients[:, c, j] = (statistics(means + step) - statistics(means - step)) / 2e-6
    covariances = [np.cov(x[labels == c], rowvar=False) / np.sum(labels == c) for c in range(3)]
    errors = [np.sqrt(sum(g[c] @ covariances[c] @ g[c] for c in range(3))) for g in gradients]
    np.testing.assert_allclose(found.share.standard_error[0], errors[0], rtol=1e-6)
    np.testing.assert_allclose(found.total.standard_error, errors[1], rtol=1e-6)
    np.testing.assert_allclose(found.inside.standard_error, errors[2], rtol=1e-6)
    assert base.shape == (4,)


@pytest.mark.slow
def test_the_plug_in_scatter_is_biased_and_the_debiased_one_is_not():
    rng = np.random.default_rng(3)
    plug_in, debiased = [], []
    for _ in range(200):
        x, labels = draw(60, rng, means=0.3 * MEANS)
        found = modes.class_scatter(x, labels, np.eye(4))
        truth = population(labels, 0.3 * MEANS)
        plug_in.append(found.scatter_plug_in - truth)
        debiased.append(found.scatter - truth)
    error = np.std(debiased, axis=0) / np.sqrt(200)
    assert np.all(np.abs(np.mean(debiased, axis=0)) < 3.5 * error)
    assert np.all(np.mean(plug_in, axis=0) > 3.5 * error)


def test_all_of_space_holds_all_scatter(x64):
    x, labels = draw(60, np.random.default_rng(4))
    found = modes.class_scatter(x, labels, np.eye(4))
    np.testing.assert_allclose(found.inside.value, 1, rtol=1e-12)
    np.testing.assert_allclose(found.inside.standard_error, 0, atol=1e-7)


def test_alike_classes_are_not_reliable():
    rng = np.random.default_rng(5)
    labels = np.arange(60) % 3
    assert not modes.class_scatter(rng.normal(size=(60, 4)), labels, np.eye(4)).reliable
    assert modes.class_scatter(10 * MEANS[labels] + rng.normal(size=(60, 4)), labels, np.eye(4)).reliable


@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(-20, 20))
def test_shift_and_scale(seed, scale, shift):
    x, labels = draw(60, np.random.default_rng(seed), spread=0.2)
    first = modes.class_scatter(x.astype(np.float32), labels, np.eye(4))
    second = modes.class_scatter((scale * x + shift).astype(np.float32), 7 - labels, np.eye(4))
    np.testing.assert_allclose(second.share.value, first.share.value, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(second.total.value, scale**2 * first.total.value, rtol=1e-3)


@pytest.mark.parametrize("cross_fit", [False, True])
def test_weighted_alpha(x64, law, cross_fit):
    rng = np.random.default_rng(6)
    x, labels = draw(400, rng, spread=0.5)
    alignment = modes.align(x, rng.normal(size=(300, 4)) * [1.0, 2.0, 3.0, 1.0], cross_fit=cross_fit)
    found = modes.class_scatter(x, labels, alignment)
    alpha = np.asarray(alignment.cross.alpha.value if cross_fit else alignment.alpha)
    plug_in, debiased = plain(x @ np.asarray(alignment.directions).T, labels)
    np.testing.assert_allclose(found.weighted_alpha.value, debiased @ alpha / debiased.sum(), rtol=1e-9)
    np.testing.assert_allclose(
        found.weighted_alpha_plug_in, plug_in @ np.asarray(alignment.alpha) / plug_in.sum(), rtol=1e-9
    )
    assert found.weighted_alpha.standard_error > 0
    side = modes.split(alignment, float(np.median(alpha)), by="cross" if cross_fit else "alpha").modality_specific
    inside = modes.class_scatter(x, labels, side).inside.value
    np.testing.assert_allclose(inside, np.sum(found.share.value[side.indices]), rtol=1e-9)


@pytest.mark.slow
def test_weighted_alpha_leaves_out_modes_that_halves_do_not_carry():
    rng = np.random.default_rng(7)
    labels = np.arange(20) % 2
    x = rng.normal(size=(20, 30)) + 5 * labels[:, None]
    alignment = modes.align(x, rng.normal(size=(20, 30)))
    found = modes.class_scatter(x, labels, alignment)
    scatter, alpha = np.asarray(found.scatter[:9]), np.asarray(alignment.cross.alpha.value)
    np.testing.assert_allclose(found.weighted_alpha.value, scatter @ alpha / scatter.sum(), rtol=1e-4)


@pytest.mark.parametrize(
    ("labels", "directions", "options", "message"),
    [
        (np.zeros(6, int), np.eye(3), {}, "labels has one class"),
        (np.array([0, 0, 1, 1, 1, 2]), np.eye(3), {}, r"one row of class .*2.*; drop or merge|one row of class"),
        (np.zeros(5, int), np.eye(3), {}, r"labels must have one entry a row, shape \(6,\), got \(5,\)"),
        (np.arange(6) % 2, np.eye(4), {}, "directions have 4 columns and the rows 3"),
        (np.arange(6) % 2, 2 * np.eye(3), {}, "must be orthonormal rows"),
        (np.arange(6) % 2, np.eye(3), {"level": 2.0}, "level must lie strictly between"),
    ],
)
def test_bad_input_is_named(labels, directions, options, message):
    with pytest.raises(ValueError, match=message):
        modes.class_scatter(np.random.default_rng(8).normal(size=(6, 3)), labels, directions, **options)


def test_two_spaces_do_not_combine():
    x = np.random.default_rng(9).normal(size=(8, 3))
    found = modes.eigenmodes(x, space="llm_final")
    assert modes.class_scatter(x, np.arange(8) % 2, found, space="llm_final").space == "llm_final"
    with pytest.raises(ValueError, match="x is of the space 'adapter_output' and directions of 'llm_final'"):
        modes.class_scatter(x, np.arange(8) % 2, found, space="adapter_output")


@pytest.mark.slow
def test_intervals_cover():
    rng = np.random.default_rng(10)
    hits = np.zeros(3)
    for _ in range(500):
        x, labels = draw(300, rng, spread=0.5)
        found, truth = modes.class_scatter(x, labels, np.eye(4)[:2]), population(labels)
        pairs = (
            (found.share.interval, truth[:2] / truth.sum()),
            (found.total.interval, truth.sum()),
            (found.inside.interval, truth[:2].sum() / truth.sum()),
        )
        hits += [np.mean((interval.lower <= value) & (value <= interval.upper)) for interval, value in pairs]
    assert np.all(np.abs(hits / 500 - 0.95) < 0.03)
