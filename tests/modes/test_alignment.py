"""Alignment: the definition as a loop, chosen alphas recovered, the in-sample bias, and forms without scale."""

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from gmijax import modes


def plain_halves(modal, text, paired):
    """Cross-fitted alpha, its logarithm's standard error and the held-out variances, as plain loops in float64."""
    chosen = [np.linalg.eigh(np.cov(modal[fold::2], rowvar=False))[1][:, ::-1].T for fold in (0, 1)]
    alphas, errors, variances = [], [], []
    for j in range(modal.shape[1]):
        v, t, squares, text_squares = 0.0, 0.0, [], []
        for fold in (0, 1):
            held = slice(1 - fold, None, 2)
            own = text[held] if paired else text
            squares.append(((modal[held] - modal[held].mean(0)) @ chosen[fold][j]) ** 2)
            text_squares.append(((own - own.mean(0)) @ chosen[fold][j]) ** 2)
            v += squares[fold].sum() / (len(squares[fold]) - 1) / 2
            t += text_squares[fold].sum() / (len(own) - 1) / 2
        if paired:  # both folds' rows are independent, and a pair counts together
            parts = [(q / t - p / v) / 2 for p, q in zip(squares, text_squares, strict=True)]
        else:
            parts = [squares[0] / (2 * v), squares[1] / (2 * v), (text_squares[0] + text_squares[1]) / (2 * t)]
        errors.append(np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts)))
        alphas.append(t / v)
        variances.append(v)
    return np.array(alphas), np.array(errors), np.array(variances)


@pytest.mark.parametrize("path", ["host", "device"])
def test_alpha_is_the_papers_definition(x64, law, path):
    rng = np.random.default_rng(0)
    chosen = law(6)
    modal, text = chosen.modal(40, rng), chosen.text(30, rng)
    found = modes.align(modal, text, path=path, cross_fit=False)
    values, vectors = np.linalg.eigh(np.cov(modal, rowvar=False))
    text_covariance = np.cov(text, rowvar=False)
    for k in range(6):
        u = vectors[:, 5 - k]
        alpha = u @ text_covariance @ u / values[5 - k]
        np.testing.assert_allclose(found.alpha[k], alpha, rtol=1e-10)
        matched = alpha * np.trace(np.cov(modal, rowvar=False)) / np.trace(text_covariance)
        np.testing.assert_allclose(found.alpha_matched[k], matched, rtol=1e-10)
        np.testing.assert_allclose(found.alpha_share[k], matched / (1 + matched), rtol=1e-10)
        np.testing.assert_allclose(found.text_variance[k], u @ text_covariance @ u, rtol=1e-10)
    np.testing.assert_allclose(found.total_variance_text, np.trace(text_covariance), rtol=1e-12)
    np.testing.assert_allclose(found.share, values[::-1] / values.sum(), rtol=1e-10)
    assert found.cross is None
    assert (found.n, found.m) == (40, 30)


@pytest.mark.parametrize("path", ["host", "device"])
@pytest.mark.parametrize("paired", [False, True])
def test_cross_fitting_is_its_definition(x64, law, path, paired):
    rng = np.random.default_rng(1)
    chosen = law(5)
    modal = chosen.modal(41, rng)
    text = chosen.text(41 if paired else 30, rng) + (0.5 * modal if paired else 0)
    cross = modes.align(modal, text, path=path, paired=paired).cross
    alpha, error, variances = plain_halves(modal, text, paired)
    np.testing.assert_allclose(cross.alpha.value, alpha, rtol=1e-9)
    np.testing.assert_allclose(cross.eigenvalues, variances, rtol=1e-9)
    np.testing.assert_allclose(cross.alpha.standard_error, alpha * error, rtol=1e-9)
    np.testing.assert_allclose(
        cross.alpha.interval.upper / cross.alpha.value,
        np.exp(1.959964 * cross.alpha.standard_error / cross.alpha.value),
        rtol=1e-6,
    )
    np.testing.assert_allclose(cross.share.value, cross.matched.value / (1 + cross.matched.value), rtol=1e-12)
    np.testing.assert_allclose(cross.share.interval.lower, expit(np.log(cross.matched.interval.lower)), rtol=1e-9)
    assert (cross.correlation is not None) == paired


def test_a_law_is_aligned_with_itself(x64, law):
    modal = law(6).modal(60, np.random.default_rng(2))
    found = modes.align(modal, modal, paired=True)
    for ones in (found.alpha, found.alpha_matched, found.cross.alpha.value, found.cross.matched.value):
        np.testing.assert_allclose(ones, 1, rtol=1e-9)
    np.testing.assert_allclose(found.cross.correlation.value, 1, rtol=1e-9)
    np.testing.assert_allclose(found.cross.alpha.standard_error, 0, atol=1e-6)  # the pairs cancel
    np.testing.assert_allclose(found.cross.share.value, 0.5, rtol=1e-9)


def test_chosen_alphas_come_back(law):
    rng = np.random.default_rng(3)
    chosen = law(6, ratio=0.3)
    modal, text = chosen.modal(4000, rng), chosen.text(3000, rng)
    found = modes.align(modal, text, level=0.999)
    cross = found.cross
    ratio = chosen.variances.sum() / (chosen.alphas * chosen.variances).sum()
    for estimate, truth in ((cross.alpha, chosen.alphas), (cross.matched, chosen.alphas * ratio)):
        assert np.all((estimate.interval.lower <= truth) & (truth <= estimate.interval.upper))
        assert np.all(estimate.standard_error < 0.05 * estimate.value)
    np.testing.assert_allclose(found.alpha, chosen.alphas, rtol=0.12)
    np.testing.assert_allclose(np.abs(np.sum(found.directions * chosen.directions, axis=1)), 1, atol=1e-3)
    assert np.min(cross.overlap) > 0.999
    np.testing.assert_allclose(cross.eigenvalues, chosen.variances, rtol=0.1)  # four standard errors


def test_in_sample_alpha_is_biased_where_rows_are_few_and_the_cross_fitted_one_is_not():
    """Both laws have one covariance, so that alpha is 1 along every direction, whichever a sample picks."""
    rng = np.random.default_rng(4)
    spread = np.arange(1, 201) ** -0.3
    inside, across = [], []
    for _ in range(12):
        modal, text = rng.normal(size=(2, 60, 200)) * spread
        found = modes.align(modal, text, top=10)
        inside.append(np.asarray(found.alpha))
        across.append(np.asarray(found.cross.alpha.value))
    inside, across = np.array(inside), np.array(across)
    assert inside.mean() < 0.5
    assert abs(across.mean() - 1) < 3 * across.mean(1).std(ddof=1) / np.sqrt(12) + 2 / 60  # the ratio's own 1/n


def test_correlation_of_pairs(x64, law):
    rng = np.random.default_rng(5)
    chosen = law(4, ratio=0.4)
    modal = chosen.modal(2000, rng)
    coordinates = (modal - chosen.means[0]) @ chosen.directions.T
    slopes, noise = np.array([1.0, 0.5, 0.0, 2.0]), 0.3
    text = (slopes * coordinates + noise * rng.normal(size=(2000, 4))) @ chosen.directions
    truth = slopes**2 * chosen.variances / (slopes**2 * chosen.variances + noise**2)
    correlation = modes.align(modal, text, paired=True).cross.correlation
    np.testing.assert_allclose(correlation.value, truth, atol=0.03)
    assert np.all((correlation.interval.lower <= truth + 0.01) & (truth - 0.01 <= correlation.interval.upper))
    assert np.all((correlation.value >= 0) & (correlation.value <= 1))


@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(0.1, 10), st.floats(-20, 20))
def test_what_scales_and_shifts_change(seed, modal_scale, text_scale, shift):
    rng = np.random.default_rng(seed)
    modal, text = rng.normal(size=(2, 24, 4)) * 0.5 ** np.arange(4)
    with jax.enable_x64(True):
        base = modes.align(modal, text)
        moved = modes.align(modal_scale * modal + shift, text_scale * text - shift)
        factor = (text_scale / modal_scale) ** 2
        np.testing.assert_allclose(moved.alpha, factor * base.alpha, rtol=1e-7)
        np.testing.assert_allclose(moved.cross.alpha.value, factor * base.cross.alpha.value, rtol=1e-7)
        for name in ("matched", "share"):
            first, second = getattr(base.cross, name), getattr(moved.cross, name)
            np.testing.assert_allclose(second.value, first.value, rtol=1e-7)
            np.testing.assert_allclose(second.interval.lower, first.interval.lower, rtol=1e-6)
        assert np.all((base.cross.share.interval.lower >= 0) & (base.cross.share.interval.upper <= 1))


@pytest.mark.slow
@pytest.mark.parametrize("paired", [False, True])
def test_chunks_give_the_alignment_of_the_whole(law, pieces, paired):
    rng = np.random.default_rng(6)
    chosen = law(160, ratio=0.9)
    modal, text = chosen.modal(200, rng).astype(np.float32), chosen.text(200, rng).astype(np.float32)
    settings = {"top": 3, "paired": paired, "tolerance": 1e-4}
    whole = modes.align(modal, text, **settings)
    streamed = modes.align(pieces(modal, 64), pieces(text, 64), **settings)
    np.testing.assert_allclose(streamed.alpha, whole.alpha, rtol=1e-3)
    np.testing.assert_allclose(streamed.cross.alpha.value, whole.cross.alpha.value, rtol=1e-3)
    np.testing.assert_allclose(streamed.cross.matched.standard_error, whole.cross.matched.standard_error, rtol=1e-3)
    assert bool(whole.converged)
    assert bool(streamed.converged)
    if paired:
        with pytest.raises(ValueError, match=r"a chunk of modal has 32 rows and that of text 8: .* of the same sizes"):
            modes.align(pieces(modal, 64), pieces(text, 16), **settings)


def test_jit_agrees_and_compiles_once(law):
    rng = np.random.default_rng(7)
    chosen = law(5)
    modal, text = (chosen.modal(30, rng).astype(np.float32), chosen.text(20, rng).astype(np.float32))
    chex.clear_trace_counter()
    compiled = jax.jit(chex.assert_max_traces(lambda x, y: modes.align(x, y, top=3), n=1))
    for shift in (0, 1):
        inside, alone = compiled(modal + shift, text), modes.align(modal + shift, text, top=3)
        np.testing.assert_allclose(inside.alpha, alone.alpha, rtol=1e-4)
        np.testing.assert_allclose(inside.cross.alpha.interval.upper, alone.cross.alpha.interval.upper, rtol=1e-4)


def test_a_mode_without_text_variance_has_alpha_0(x64):
    rng = np.random.default_rng(8)
    modal = np.repeat(rng.normal(size=(15, 3)) * [3.0, 2.0, 1.0], 2, axis=0)  # both halves have the same modes
    first = np.linalg.eigh(np.cov(modal, rowvar=False))[1][:, -1]
    found = modes.align(modal, rng.normal(size=(20, 1)) * first)
    assert found.alpha[0] > 0.01
    np.testing.assert_allclose(found.alpha[1:], 0, atol=1e-12)
    np.testing.assert_allclose(found.cross.alpha.interval.upper[1:], 0, atol=1e-12)
    flat = modes.align(rng.normal(size=(30, 2)) * [3.0, 1.0], rng.normal(size=(20, 2)) * [1.0, 0.0])
    assert np.isfinite(flat.cross.alpha.interval.upper).all()


def test_fewer_modes_from_halves():
    rng = np.random.default_rng(9)
    found = modes.align(rng.normal(size=(20, 30)), rng.normal(size=(20, 30)), top=15)
    assert found.alpha.shape == (15,)
    assert found.cross.alpha.value.shape == found.cross.overlap.shape == (9,)


class Stored:
    """Rows that know their space."""

    def __init__(self, rows, space):
        self.rows, self.space = rows, space

    def __array__(self, dtype=None, copy=None):
        return self.rows


def test_two_spaces_do_not_combine():
    first, second = np.random.default_rng(0).normal(size=(2, 12, 3))
    assert modes.align(Stored(first, "llm_final"), Stored(second, "llm_final")).space == "llm_final"
    assert modes.align(first, Stored(second, "llm_final"), space_modal="llm_final").space == "llm_final"
    for modal, text, spaces in (
        (Stored(first, "adapter_output"), Stored(second, "llm_final"), {}),
        (first, second, {"space_modal": "adapter_output", "space_text": "llm_final"}),
        (first, second, {"space_modal": "adapter_output"}),
    ):
        with pytest.raises(ValueError, match=r"modal is of the space 'adapter_output' and text of .* do not combine"):
            modes.align(modal, text, **spaces)


@pytest.mark.parametrize(
    ("modal", "text", "options", "message"),
    [
        (np.eye(6), np.eye(5), {}, "modal has 6 columns and text 5: not one space"),
        (np.eye(6), np.eye(6)[:1], {}, "text has 1 row"),
        (np.eye(6), np.ones((4, 6)), {}, "text does not vary: all 4 rows are the same"),
        (np.ones((4, 6)), np.eye(6), {}, "modal does not vary"),
        (np.eye(6)[:3], np.eye(6), {}, "modal has 3 rows, and halves of two need four"),
        (np.eye(6), np.eye(6)[:4], {"paired": True}, "modal has 6 rows and text 4: paired"),
        (np.eye(6), np.eye(6), {"top": 6}, "top must lie in 1..5, got 6"),
        (np.eye(6), np.eye(6), {"level": 1.0}, "level must lie strictly between 0 and 1"),
        (np.eye(6), np.full((6, 6), np.inf), {}, "text holds 36 NaN or infinite"),
    ],
)
def test_bad_input_is_named(modal, text, options, message):
    with pytest.raises(ValueError, match=message):
        modes.align(modal, text, **options)


@pytest.mark.slow
@pytest.mark.parametrize("heavy", [False, True])
def test_intervals_cover(heavy):
    """500 repeats on laws whose every direction has alpha 1.7: normal, and with the tails of a t of 10 degrees."""
    rng = np.random.default_rng(10)
    spread = np.arange(1, 9) ** -0.5
    hits = {"alpha": 0.0, "matched": 0.0}
    for _ in range(500):
        modal, text = rng.normal(size=(2, 200, 8)) * spread
        if heavy:
            modal, text = (x / np.sqrt(rng.chisquare(10, size=(200, 1)) / 8) for x in (modal, text))
        cross = modes.align(modal, np.sqrt(1.7) * text).cross
        for name, truth in (("alpha", 1.7), ("matched", 1.0)):
            interval = getattr(cross, name).interval
            hits[name] += np.mean((interval.lower <= truth) & (truth <= interval.upper)) / 500
    for share in hits.values():
        assert 0.92 <= share <= 0.98


@pytest.mark.slow
def test_intervals_cover_the_alphas_of_separated_modes(law):
    """With 1,200 rows; with 300 the halves' directions still mix enough to cover the last mode in 91 % only."""
    rng, chosen = np.random.default_rng(11), law(4, ratio=0.2)
    hits = np.zeros(4)
    for _ in range(500):
        interval = modes.align(chosen.modal(1200, rng), chosen.text(1200, rng)).cross.alpha.interval
        hits += (interval.lower <= chosen.alphas) & (chosen.alphas <= interval.upper)
    assert np.all(np.abs(hits / 500 - 0.95) < 0.03)
