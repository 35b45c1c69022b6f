"""The GMI estimator over sampled inputs: closed forms, invariances, its own algebra, and bad input."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from gmijax import rates
from gmijax.rates import _gmi


def gaussian_scores(n, d=2, noise=1.0, seed=0, extra=0):
    """Scores -|y - z|^2 / 2 of z ~ N(0, I_d), y = z + noise N(0, I_d); (n, n + extra)."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n + extra, d))
    y = z[:n] + noise * rng.normal(size=(n, d))
    return -0.5 * ((y[:, None] - z[None]) ** 2).sum(-1)


def reference(scores, s, method, groups=None, positives=None):
    """Row terms of I(s) by the definitions, one loop a row, float64."""
    n, m = scores.shape
    positives = np.arange(n) if positives is None else positives
    groups = (np.zeros(n), np.zeros(m)) if groups is None else groups
    terms = []
    for i in range(n):
        others = [j for j in range(m) if j != positives[i] and groups[1][j] == groups[0][i]]
        own, rest = s * scores[i, positives[i]], s * scores[i, others]
        count = len(rest)
        if method == "include":
            terms.append(own - logsumexp(np.append(rest, own)) + np.log(count + 1))
        else:
            log_mean = logsumexp(rest) - np.log(count)
            if method == "jackknife":
                left_out = [logsumexp(np.delete(rest, k)) - np.log(count - 1) for k in range(count)]
                log_mean = count * log_mean - (count - 1) * np.mean(left_out)
            terms.append(own - log_mean)
    return np.array(terms)


@pytest.mark.parametrize("method", _gmi.METHODS)
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 4.0])
def test_estimators_follow_their_definitions(method, scale, x64):
    scores = gaussian_scores(24, extra=7)
    groups = np.arange(24) % 2, np.append(np.arange(24) % 2, [0, 1, 0, 1, 0, 1, 1])
    rate = rates.gmi(scores, method=method, scale=scale)
    np.testing.assert_allclose(getattr(rate.alternatives, method), reference(scores, scale, method).mean(), atol=1e-12)
    rate = rates.gmi(scores, contexts=groups[0], column_contexts=groups[1], method=method, scale=scale)
    expected = reference(scores, scale, method, groups).mean()
    np.testing.assert_allclose(getattr(rate.alternatives, method), expected, atol=1e-12)


def test_float32_agrees_with_float64():
    scores = gaussian_scores(300, d=4, noise=0.7)
    single = rates.gmi(scores)
    with jax.enable_x64(True):
        double = rates.gmi(scores)
    np.testing.assert_allclose(single.value, double.value, rtol=2e-6)
    np.testing.assert_allclose(single.scale, double.scale, rtol=2e-5)
    np.testing.assert_allclose(single.standard_error, double.standard_error, rtol=1e-5)
    np.testing.assert_allclose(single.alternatives.ess, double.alternatives.ess, rtol=1e-5)


def test_scale_is_the_maximiser_of_the_include_curve(x64):
    scores = gaussian_scores(80, noise=1.6)
    rate = rates.gmi(scores, method="include", scale="in-sample")
    best = minimize_scalar(lambda s: -reference(scores, s, "include").mean(), bounds=(0, 5), method="bounded")
    np.testing.assert_allclose(rate.scale, best.x, rtol=1e-4)
    np.testing.assert_allclose(rate.value, -best.fun, atol=1e-9)
    assert rate.converged


def test_cross_fit_evaluates_each_half_at_the_other_half_s_scale(x64):
    scores = gaussian_scores(60, noise=1.5)
    rate = rates.gmi(scores, method="exclude")
    first, second = np.arange(0, 60, 2), np.arange(1, 60, 2)
    for fold, fit in enumerate([second, first]):
        best = minimize_scalar(
            lambda s, fit=fit: -reference(scores, s, "include")[fit].mean(), bounds=(0, 5), method="bounded"
        )
        np.testing.assert_allclose(rate.fold_scales[fold], best.x, rtol=1e-4)
    terms = np.where(
        np.arange(60) % 2 == 0,
        reference(scores, float(rate.fold_scales[0]), "exclude"),
        reference(scores, float(rate.fold_scales[1]), "exclude"),
    )
    np.testing.assert_allclose(rate.alternatives.exclude, terms.mean(), atol=1e-12)


def test_diagnostics_follow_their_definitions(x64):
    scores = gaussian_scores(50, noise=1.2)
    rate = rates.gmi(scores, scale=0.8, method="exclude")
    off = scores[~np.eye(50, dtype=bool)].reshape(50, 49)
    weights = np.exp(0.8 * (off - off.max(1, keepdims=True)))
    weights /= weights.sum(1, keepdims=True)
    full = np.zeros((50, 50))
    full[~np.eye(50, dtype=bool)] = weights.ravel()
    np.testing.assert_allclose(rate.alternatives.ess, np.median(1 / (weights**2).sum(1)), rtol=1e-10)
    np.testing.assert_allclose(rate.alternatives.margin, np.mean(np.diag(scores) - off.max(1)), rtol=1e-10)
    np.testing.assert_allclose(rate.alternatives.log_alternatives, np.log(50), rtol=1e-12)
    np.testing.assert_allclose(rate.zero_test, np.mean(np.diag(scores) - off.mean(1)), rtol=1e-10)
    terms = reference(scores, 0.8, "exclude")
    rho = full.sum(0) - 1
    psi = terms - terms.mean() - rho
    np.testing.assert_allclose(rate.influence, psi, atol=1e-10)
    np.testing.assert_allclose(rate.standard_error, psi.std(ddof=1) / np.sqrt(50), rtol=1e-10)
    np.testing.assert_allclose(rate.alternatives.hub, 1 + rho.max() * 50 / 50, rtol=1e-10)


def test_clusters_sum_influences_and_columns_without_rows_count(x64):
    scores = gaussian_scores(40, extra=8)
    alone = rates.gmi(scores, scale=0.5)
    assert alone.influence.shape == (48,)
    grouped = rates.gmi(scores, scale=0.5, clusters=np.arange(48) // 4)
    np.testing.assert_allclose(grouped.influence, np.asarray(alone.influence).reshape(12, 4).mean(1), atol=1e-12)


@pytest.mark.parametrize("shape", [(17, 40), pytest.param((1024, 17), marks=pytest.mark.slow)])
def test_blockwise_is_the_same_estimate(shape):
    rows, columns = shape
    rng = np.random.default_rng(3)
    scores = jnp.asarray(rng.normal(size=shape), jnp.float32)
    positives = rng.integers(0, columns, rows) if rows > columns else np.arange(rows)

    def block(operands, i, j):
        return operands[i][:, j]

    whole = rates.gmi(scores, positives=positives)
    blocks = rates.gmi_blockwise(block, rows, columns, operands=scores, block=(8, 6), positives=positives)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(blocks), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_blockwise_refuses_scores_that_are_not_finite():
    def block(operands, i, j):
        return jnp.where(i[:, None] == 3, jnp.nan, operands[i][:, j])

    with pytest.raises(ValueError, match="NaN or infinite"):
        rates.gmi_blockwise(block, 16, operands=jnp.ones((16, 16)) * jnp.arange(16.0))


@given(st.floats(0.05, 20), st.lists(st.floats(-30, 30), min_size=12, max_size=12), st.integers(0, 10_000))
def test_invariances(slope, offsets, seed):
    """F8: over inputs, a positive factor and a function of the target change nothing but s."""
    with jax.enable_x64(True):
        scores = np.random.default_rng(seed).normal(size=(12, 12)) + 1.5 * np.eye(12)
        before = rates.gmi(scores, method="exclude")
        after = rates.gmi(slope * scores + np.array(offsets)[:, None], method="exclude")
        for name in ("exclude", "include", "jackknife"):
            np.testing.assert_allclose(
                getattr(after.alternatives, name), getattr(before.alternatives, name), rtol=1e-6, atol=1e-8
            )
        if np.isfinite(before.scale) and before.scale > 0:
            np.testing.assert_allclose(after.scale * slope, before.scale, rtol=1e-5)
        np.testing.assert_allclose(after.p_value, before.p_value, atol=1e-9)


@given(st.integers(0, 10_000), st.floats(0, 3))
def test_order_and_bounds(seed, strength):
    """include <= exclude row by row; include <= log m; the curve is concave and 0 at 0; jackknife <= exclude."""
    scores = np.random.default_rng(seed).normal(size=(16, 16)) + strength * np.eye(16)
    with jax.enable_x64(True):
        curve = rates.gmi_curve(scores, np.linspace(0, 4, 21))
        assert np.all(np.asarray(curve.include) <= np.log(16) + 1e-12)
        assert np.all(np.asarray(curve.jackknife) <= np.asarray(curve.exclude) + 1e-12)
        for values in (curve.include, curve.exclude):
            assert abs(values[0]) < 1e-12
            assert np.all(np.diff(np.asarray(values), 2) <= 1e-10)
        rate = rates.gmi(scores, method="include", scale="in-sample")
        assert rate.value >= -1e-12
        assert rate.value >= np.max(np.asarray(curve.include)) - 1e-9


@given(st.permutations(list(range(10))), st.integers(0, 1000))
def test_order_of_the_samples_does_not_matter(order, seed):
    scores = np.random.default_rng(seed).normal(size=(10, 10)) + np.eye(10)
    with jax.enable_x64(True):
        before = rates.gmi(scores, scale="in-sample")
        after = rates.gmi(scores[np.ix_(order, order)], scale="in-sample")
        np.testing.assert_allclose(after.value, before.value, atol=1e-10)
        np.testing.assert_allclose(after.standard_error, before.standard_error, atol=1e-10)


def test_separable_scores_report_the_limit_and_say_so(x64):
    scores = 4 * np.eye(20) + np.random.default_rng(0).uniform(0, 1, (20, 20))
    rate = rates.gmi(scores)
    assert np.isinf(rate.scale)
    assert rate.saturated
    assert not rate.reliable
    np.testing.assert_allclose(rate.value, np.log(20), atol=1e-12)
    ties = np.where(np.eye(6), 1.0, 0.0)
    ties[:, 5] = 1.0  # every row's best alternative ties with its positive
    tied = rates.gmi(ties, method="include", scale="in-sample")
    np.testing.assert_allclose(tied.value, (5 * np.log(3) + np.log(6)) / 6, atol=1e-12)


def test_one_separable_fold_costs_nothing_infinite():
    scores = np.where(np.eye(12), 4.0, 0.0)
    scores[3, 3] = -1.0  # one row of the second fold is wrong, so the first has no finite scale of its own
    rate = rates.gmi(scores, method="include")
    assert np.isfinite(rate.scale)
    assert -10 < rate.value <= np.log(12)
    labels = np.arange(12) % 3
    table = np.where(np.eye(3)[labels] > 0, 4.0, 0.0)
    table[4, labels[4]] = -1.0
    assert -10 < rates.gmi_labels(table, labels).value <= np.log(3)


def test_scores_that_say_nothing(x64):
    rate = rates.gmi(np.zeros((12, 12)))
    assert rate.value == pytest.approx(0, abs=1e-12)
    assert rate.scale == 0
    assert rate.p_value == 1
    inverted = rates.gmi(-gaussian_scores(64, noise=0.5))
    assert inverted.scale == 0
    assert inverted.value == pytest.approx(0, abs=1e-12)
    assert inverted.p_value > 0.99


@pytest.mark.parametrize("factor", [1e-6, 1e4])
def test_extreme_units_of_score(factor):
    scores = gaussian_scores(200, noise=1.3)
    one, other = rates.gmi(scores), rates.gmi((factor * scores).astype(np.float32))
    assert other.converged
    np.testing.assert_allclose(other.value, one.value, rtol=1e-4)
    np.testing.assert_allclose(other.scale * factor, one.scale, rtol=1e-3)


def test_jit_vmap_and_traces(strict):
    chex.clear_trace_counter()
    batch = jnp.asarray(np.stack([gaussian_scores(32, noise=1.4, seed=k) for k in range(3)]), jnp.float32)
    together = jax.vmap(rates.gmi)(batch)
    for k in range(3):
        alone = rates.gmi(batch[k])
        np.testing.assert_allclose(together.value[k], alone.value, rtol=1e-5)
        np.testing.assert_allclose(together.scale[k], alone.scale, rtol=1e-4)
    contexts = jnp.arange(32) % 2
    grouped = jax.jit(lambda s, c: rates.gmi(s, contexts=c))(batch[0], contexts)
    np.testing.assert_allclose(grouped.value, rates.gmi(batch[0], contexts=contexts).value, rtol=1e-5)
    counted = jax.jit(chex.assert_max_traces(lambda s: rates.gmi(s).value, n=1))
    for k in range(3):
        counted(batch[k])


def test_gradient_is_that_of_the_envelope(x64):
    scores = jnp.asarray(gaussian_scores(14, noise=1.5))

    def value(s):
        return rates.gmi(s, method="include", scale="in-sample").in_sample

    gradient = jax.grad(value)(scores)
    for i, j in [(0, 0), (3, 7), (13, 2)]:
        step = jnp.zeros_like(scores).at[i, j].set(1e-5)
        central = (value(scores + step) - value(scores - step)) / 2e-5
        np.testing.assert_allclose(gradient[i, j], central, atol=1e-7)


@pytest.mark.slow
def test_permutation_z_is_the_permutation_distribution(x64):
    rng = np.random.default_rng(5)
    scores, contexts = rng.normal(size=(40, 40)), np.arange(40) % 3
    scores += 0.4 * np.eye(40)
    for groups in (None, contexts):
        rate = rates.gmi(scores, contexts=groups)
        test = rates.zero_test(scores, contexts=groups, draws=20_000, key=jax.random.key(0))
        np.testing.assert_allclose(test.value, rate.zero_test, rtol=1e-9)
        assert abs(float(test.p_value) - float(rate.p_value)) < 0.01
    labels = rng.integers(0, 3, 60)
    table = rng.normal(size=(60, 3)) + 0.3 * np.eye(3)[labels]
    exact = rates.zero_test(table, positives=labels, draws=20_000, key=jax.random.key(1))
    assert abs(float(exact.p_value) - float(rates.gmi_labels(table, labels).p_value)) < 0.01


@pytest.mark.slow
def test_zero_test_has_its_size():
    def p_value(key):
        sample, permute = jax.random.split(key)
        return rates.zero_test(jax.random.normal(sample, (24, 24)), draws=99, key=permute).p_value

    p_values = np.asarray(jax.lax.map(p_value, jax.random.split(jax.random.key(2), 1000)))
    assert abs(np.mean(p_values <= 0.05) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 1000)
    assert abs(np.mean(p_values <= 0.5) - 0.5) < 3 * np.sqrt(0.25 / 1000)


def test_paper_s_equation_3_is_never_positive():
    rng = np.random.default_rng(0)
    messages = np.arange(60) % 6
    scores = rng.normal(size=(60, 60)) + 3 * (messages[:, None] == messages[None, :])
    paper = rates.conditional_gmi_paper(scores, messages)
    spread = np.ptp(scores)
    assert -(spread**2) / 8 <= paper.value <= 0
    assert rates.gmi(scores).value > 0.3
    ignores = np.repeat(rng.normal(size=(60, 1)), 60, axis=1)
    assert rates.conditional_gmi_paper(ignores, messages).value == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (np.full((4, 4), np.nan), {}, "16 NaN or infinite values, the first at row 0, column 0"),
        (np.where(np.eye(4), -np.inf, 0.0), {}, "4 NaN or infinite"),
        (np.ones((1, 4)), {}, "has 1 rows"),
        (np.ones((4, 1)), {"positives": [0, 0, 0, 0]}, "has 1 columns"),
        (np.ones(4), {}, "must be a matrix"),
        (np.ones((0, 0)), {}, "has 0 rows"),
        (np.ones((5, 4)), {}, "positives must be given"),
        (np.ones((4, 4)), {"positives": [0, 1, 2, 4]}, r"positives\[3\] = 4 is outside the 4 columns"),
        (np.ones((4, 4)), {"positives": [0.0, 1, 2, 3]}, "must be integers"),
        (np.ones((4, 4)), {"positives": [0, 1]}, r"shape \(4,\)"),
        (np.ones((4, 4)), {"contexts": [0, 0, 0, 1]}, "group of one"),
        (np.ones((4, 4)), {"contexts": [0, 0, 1, 1]}, "jackknife needs 3"),
        (np.ones((4, 6)), {"contexts": [0, 0, 1, 1]}, "column_contexts must be given"),
        (np.ones((4, 4)), {"contexts": [0, 0, 1, 1], "column_contexts": [0, 0, 0, 1]}, "row 2 has context 1"),
        (np.ones((4, 4)), {"column_contexts": [0, 0, 0, 1]}, "needs contexts"),
        (np.ones((4, 4)), {"method": "plain"}, "method must be one of 'jackknife'"),
        (np.ones((4, 4)), {"scale": "best"}, "scale must be one of"),
        (np.ones((4, 4)), {"scale": -1.0}, "one number >= 0"),
        (np.ones((4, 4)), {"level": 1.5}, "level must lie"),
        (np.ones((4, 4)), {"clusters": [0, 0, 0, 0]}, "at least 2 units"),
    ],
)  # fmt: skip
def test_bad_input_is_named(scores, options, message):
    with pytest.raises(ValueError, match=message):
        rates.gmi(scores, **options)


def test_paired_difference_needs_the_same_rows():
    a, b = rates.gmi(gaussian_scores(20), scale=1.0), rates.gmi(gaussian_scores(24), scale=1.0)
    with pytest.raises(ValueError, match="24 resampling units and before 20"):
        rates.difference(b, a)
    same = rates.difference(a, a)
    assert same.value == 0
    assert same.standard_error == 0


def test_a_rate_reads_as_one_line_and_hides_its_long_arrays():
    rate = rates.gmi(gaussian_scores(64, noise=1.3))
    assert str(rate).startswith(f"jackknife: {float(rate.value):.4g} nats [")
    assert str(rate).endswith("n = 64, reliable")
    assert "influence" not in repr(rate)
    batch = jax.vmap(lambda s: rates.gmi(s))(jnp.stack([gaussian_scores(8, noise=1.3)] * 2))
    assert str(batch) == repr(batch)
    assert "n = 2, saturated: a lower bound" in str(rates.gmi(10 * np.eye(2), method="include"))
