"""Attributes among the modes: known places, known weights, the rank correlation, and bad input."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest

from gmijax import modes
from gmijax.accessibility import attribute_analysis

KEY = jax.random.key(0)
N, D = 3000, 8


@pytest.fixture(scope="module")
def world():
    """Eight axes of falling variance, the first four not shared by text; attribute k is the sign along axis k."""
    rng = np.random.default_rng(0)
    spread = np.geomspace(8.0, 1.0, D)  # far enough apart that modes do not mix
    modal = rng.normal(size=(N, D)) * spread
    labels = {f"axis {k}": (modal[:, k] > 0).astype(int) for k in range(D)}
    text = rng.normal(size=(N, D)) * spread * np.where(np.arange(D) < 4, 0.3, 1.0)
    alignment = modes.align(modal.astype(np.float32), text.astype(np.float32), top=D)
    return modal.astype(np.float32), labels, alignment


def test_each_attribute_is_found_in_its_own_mode(world):
    modal, labels, alignment = world
    kappa = np.arange(D) / D
    gaps = {name: 1.0 - k / D for k, name in enumerate(labels)}
    result = attribute_analysis(modal, labels, gaps, alignment, kappa=kappa, key=KEY)
    # Attribute k differs along axis k alone: mode u holds the share u[k]^2 of its scatter.
    held = np.asarray(alignment.directions, np.float64) ** 2
    alpha = np.asarray(alignment.cross.alpha.value)
    side = np.asarray(modes.split(alignment).modality_specific.indices)
    columns = {"weighted_kappa": kappa, "weighted_alpha": alpha, "modality_specific": np.isin(range(D), side)}
    for name, weights in columns.items():
        found, truth = getattr(result, name), weights @ held
        assert np.all((found.interval.lower - 0.02 <= truth) & (truth <= found.interval.upper + 0.02)), name
    assert np.all(np.asarray(result.modality_specific.value)[:4] > 0.9)
    assert np.all(np.asarray(result.modality_specific.value)[4:] < 0.1)
    np.testing.assert_allclose(result.modality_specific.value + result.text_aligned.value, 1, atol=1e-3)
    assert bool(np.all(result.reliable))
    assert result.names == tuple(labels)
    read = result.correlations["weighted_kappa"]
    assert float(read.value) < -0.9
    assert -1 <= read.interval.lower <= read.value <= read.interval.upper <= 1
    assert read.p_value < 0.01


def test_weighted_kappa_of_a_scatter_is_its_definition(world):
    modal, labels, alignment = world
    kappa = np.linspace(0, 2, D)
    found = modes.class_scatter(modal, labels["axis 2"], alignment, kappa=kappa)
    weights = np.asarray(found.scatter, np.float64)
    np.testing.assert_allclose(found.weighted_kappa.value, weights @ kappa / weights.sum(), rtol=1e-5)
    assert modes.class_scatter(modal, labels["axis 2"], alignment).weighted_kappa is None


def test_few_attributes_have_no_correlation_and_a_ladder_serves_as_a_gap(world):
    modal, labels, alignment = world

    class Rungs:
        def rung(self, name):
            return SimpleNamespace(value={"best_probe": 0.7, "lm_rate": 0.2}[name])

    two = {name: labels[name] for name in ("axis 0", "axis 7")}
    result = attribute_analysis(modal, two, {"axis 0": Rungs(), "axis 7": 0.1}, alignment, key=KEY)
    assert result.correlations == {}
    assert result.weighted_kappa is None
    np.testing.assert_allclose(result.gap, [0.5, 0.1], rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {}}, "labels is empty"),
        ({"gaps": {"b": 1.0}}, "a, b are in one alone"),
        ({"gaps": {"a": np.nan}}, r"gaps\['a'\] must be a finite number"),
        ({"labels": {"a": np.zeros(N, int)}}, "labels has one class"),
        ({"kappa": np.ones(3)}, "kappa must hold 8 finite values"),
    ],
)
def test_bad_input_is_named(world, change, message):
    modal, labels, alignment = world
    good = {"labels": {"a": labels["axis 0"]}, "gaps": {"a": 1.0}, "alignment": alignment}
    with pytest.raises(ValueError, match=message):
        attribute_analysis(modal, **(good | change), key=KEY)
