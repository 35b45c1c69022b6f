"""The split at a threshold: who falls where, and with which variance."""

import numpy as np
import pytest

from gmijax import modes


@pytest.fixture
def aligned(law):
    rng = np.random.default_rng(0)
    chosen = law(6, ratio=0.4)
    return chosen, modes.align(chosen.modal(2000, rng), chosen.text(2000, rng), space_modal="s", space_text="s")


@pytest.mark.parametrize("by", ["cross", "alpha"])
def test_chosen_alphas_fall_on_their_sides(aligned, by):
    chosen, alignment = aligned
    sides = modes.split(alignment, 0.8, by=by)
    specific, common = sides.modality_specific, sides.text_aligned
    assert specific.indices.tolist() == [1, 3, 5]
    assert common.indices.tolist() == [0, 2, 4]
    assert (specific.count, common.count) == (3, 3)
    np.testing.assert_allclose(specific.directions, alignment.directions[1::2])
    np.testing.assert_allclose(specific.variance, np.sum(alignment.eigenvalues[1::2]), rtol=1e-6)
    np.testing.assert_allclose(specific.share + common.share, 1, rtol=1e-5)
    np.testing.assert_allclose(specific.text_share + common.text_share, 1, rtol=1e-5)
    np.testing.assert_allclose(common.share, chosen.variances[::2].sum() / chosen.variances.sum(), rtol=0.1)
    assert sides.decided.all()
    assert specific.space == "s"
    assert (sides.threshold, sides.by) == (0.8, by)


def test_a_side_may_be_empty_and_a_mode_undecided(aligned):
    _, alignment = aligned
    sides = modes.split(alignment, 1e-3)
    assert sides.modality_specific.directions.shape == (0, 6)
    assert sides.modality_specific.variance == 0
    assert not modes.split(alignment, float(alignment.cross.alpha.value[0])).decided[0]


def test_matched_alphas_are_compared_with_the_threshold():
    rng = np.random.default_rng(1)
    modal, text = rng.normal(size=(2, 400, 3)) * [3.0, 2.0, 1.0]
    alignment = modes.align(modal, 0.1 * text)
    assert modes.split(alignment).modality_specific.count == 3
    assert modes.split(alignment, by="matched").text_aligned.count == 3


def test_modes_beyond_the_halves_take_no_part_in_the_cross_fitted_split():
    rng = np.random.default_rng(2)
    alignment = modes.align(rng.normal(size=(20, 30)), rng.normal(size=(20, 30)))
    sides = modes.split(alignment)
    assert sides.modality_specific.count + sides.text_aligned.count == 9
    assert sides.decided.shape == (19,)
    assert not sides.decided[9:].any()


def test_bad_input_is_named(aligned):
    alignment = aligned[1]
    rng = np.random.default_rng(3)
    alone = modes.align(rng.normal(size=(9, 3)), rng.normal(size=(9, 3)), cross_fit=False)
    with pytest.raises(ValueError, match="threshold must be a positive number, got 0"):
        modes.split(alignment, 0.0)
    with pytest.raises(ValueError, match="by must be one of 'cross', 'alpha', 'matched', got 'kappa'"):
        modes.split(alignment, by="kappa")
    with pytest.raises(ValueError, match=r"needs align\(..., cross_fit=True\)"):
        modes.split(alone)
    assert not modes.split(alone, by="alpha").decided.any()
