"""Fisher pullbacks: closed forms, loops, sequences, padding, operators, and the forms from gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax.sensitivity import (
    directional_derivatives,
    empirical_fisher,
    fisher_pullback,
    fisher_quadratic,
    gradient_norms,
    monte_carlo_fisher,
)

KEY = jax.random.key(0)
LABELS, WIDTH = 5, 6


def linear_logits(weights, z):
    matrix, bias = weights
    return z.reshape(len(z), -1) @ matrix.T + bias


def network_logits(weights, z, shift):
    """Three positions of four classes, from blocks of tokens."""
    first, last = weights
    hidden = jnp.tanh(z.reshape(len(z), -1) @ first + shift[:, None])
    return jnp.einsum("bh,hpk->bpk", hidden, last)


def label_score(weights, z, y):
    return jnp.take_along_axis(jax.nn.log_softmax(linear_logits(weights, z)), y[:, None], axis=1)[:, 0]


def linear_decoder(seed=0, n=9, scale=1.0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    weights = (scale * rng.normal(size=(LABELS, WIDTH)).astype(dtype), rng.normal(size=LABELS).astype(dtype))
    return weights, rng.normal(size=(n, WIDTH)).astype(dtype)


def linear_forms(weights, points):
    """W' (diag p - p p') W of every sample, a loop in float64."""
    matrix, bias = (np.asarray(part, np.float64) for part in weights)
    forms = []
    for z in np.asarray(points, np.float64).reshape(len(points), -1):
        logits = matrix @ z + bias
        p = np.exp(logits - logits.max())
        p /= p.sum()
        forms.append(matrix.T @ (np.diag(p) - np.outer(p, p)) @ matrix)
    return np.array(forms)


def network(seed=1, n=4):
    rng = np.random.default_rng(seed)
    weights = (rng.normal(size=(6, 8)), rng.normal(size=(8, 3, 4)))
    return weights, rng.normal(size=(n, 3, 2)), rng.normal(size=n)


def network_forms(weights, points, shift):
    """J' F J summed over positions, from whole Jacobians."""
    forms = []
    for k in range(len(points)):

        def one(z, k=k):
            return network_logits(weights, z[None], shift[k : k + 1])[0]

        logits, jacobian = np.asarray(one(points[k])), np.asarray(jax.jacrev(one)(points[k])).reshape(3, 4, 6)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        forms.append(sum(j.T @ (np.diag(q) - np.outer(q, q)) @ j for j, q in zip(jacobian, p, strict=True)))
    return np.array(forms)


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 4))
def test_softmax_linear_decoder_is_exact_in_float32(seed, scale):
    """To 1e-5 of the form's norm: matrix, products, quadratic forms, per sample and averaged."""
    weights, points = linear_decoder(seed, scale=scale)
    forms = linear_forms(weights, points)
    pullback = fisher_pullback(linear_logits, points, operands=weights, batch_size=4)
    mean = forms.mean(0)
    size = np.linalg.norm(mean, 2)
    np.testing.assert_allclose(pullback.dense(), mean, rtol=0, atol=1e-5 * size)
    np.testing.assert_allclose(pullback[2].dense(), forms[2], rtol=0, atol=1e-5 * np.linalg.norm(forms[2], 2))
    directions = np.random.default_rng(seed).normal(size=(3, WIDTH)).astype("f4")
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    np.testing.assert_allclose(pullback.product(directions), directions @ mean, rtol=0, atol=1e-5 * size)
    expected = np.einsum("kd,nde,ke->nk", directions, forms, directions)
    got = fisher_quadratic(linear_logits, points, directions, operands=weights, batch_size=4)
    largest = np.linalg.norm(forms, 2, axis=(1, 2))[:, None]
    assert (abs(got - expected) <= 1e-5 * largest).all()
    assert (got >= 0).all()


def test_sequences_and_blocks_against_whole_jacobians(x64):
    weights, points, shift = network()
    forms = network_forms(weights, points, shift)
    pullback = fisher_pullback(network_logits, points, shift, operands=weights, batch_size=3)
    np.testing.assert_allclose(pullback.dense(), forms.mean(0), rtol=1e-12, atol=1e-12)
    for index in (0, [1, 3], slice(1, None), np.array([True, False, False, True])):
        np.testing.assert_allclose(
            pullback[index].dense(), np.atleast_3d(forms[index].T).T.mean(0), rtol=1e-12, atol=1e-12
        )
    vector = np.random.default_rng(2).normal(size=(3, 2))
    single, several = pullback.product(vector), pullback.product(np.stack([vector, 2 * vector]))
    assert single.shape == (3, 2)
    np.testing.assert_allclose(single.ravel(), forms.mean(0) @ vector.ravel(), rtol=1e-12)
    np.testing.assert_allclose(several, np.stack([single, 2 * single]), rtol=1e-12)


def test_token_directions_together_and_apart(x64):
    weights, points, shift = network()
    forms = network_forms(weights, points, shift).reshape(4, 3, 2, 3, 2)
    directions = np.random.default_rng(3).normal(size=(5, 2))
    pullback = fisher_pullback(network_logits, points, shift, operands=weights)
    together, apart = pullback.quadratic(directions), pullback.quadratic(directions, tokens="apart")
    np.testing.assert_allclose(together, np.einsum("kd,ntdse,ke->nk", directions, forms, directions), rtol=1e-11)
    np.testing.assert_allclose(apart, np.einsum("kd,ntdte,ke->nk", directions, forms, directions), rtol=1e-11)


def test_padding_moves_nothing(x64):
    """Soft tokens that are masked, and target positions whose logits are constant."""
    weights, points, shift = network()
    mask = np.array([[1, 1, 1], [1, 1, 0], [0, 1, 0], [1, 0, 1]])
    spoilt = np.where(mask[..., None], points, np.nan)
    forms = network_forms(weights, np.where(mask[..., None], points, 0), shift).reshape(4, 3, 2, 3, 2)
    forms = forms * mask[:, :, None, None, None] * mask[:, None, None, :, None]
    pullback = fisher_pullback(network_logits, spoilt, shift, operands=weights, mask=mask)
    np.testing.assert_allclose(pullback.dense(), forms.reshape(4, 6, 6).mean(0), rtol=1e-12, atol=1e-12)
    directions = np.eye(2)
    np.testing.assert_allclose(
        pullback.quadratic(directions, tokens="apart"), np.einsum("ntktk->nk", forms), rtol=1e-11
    )
    drawn = monte_carlo_fisher(network_logits, spoilt, shift, operands=weights, mask=mask, draws=3, key=KEY)
    assert (drawn.gradients[np.broadcast_to((mask == 0)[:, None], (4, 3, 3))] == 0).all()

    def shorter(weights, z, shift):
        return network_logits(weights, z, shift)[:, :2]

    def padded(weights, z, shift):
        logits = network_logits(weights, z, shift)
        return jnp.where(jnp.arange(3)[:, None] < 2, logits, 7.0)

    few, same = (fisher_quadratic(f, points, directions, shift, operands=weights) for f in (shorter, padded))
    np.testing.assert_allclose(few, same, rtol=1e-12)


def test_half_the_form_is_the_divergence_of_a_small_move(x64):
    """KL(q(. | z) || q(. | z + e v)) / e^2 tends to v' F v / 2."""
    weights, points = linear_decoder(dtype=np.float64)
    direction = np.random.default_rng(4).normal(size=WIDTH)
    form = fisher_quadratic(linear_logits, points, direction[None], operands=weights)[:, 0]
    for step in (1e-2, 1e-3):
        here = jax.nn.log_softmax(linear_logits(weights, points))
        there = jax.nn.log_softmax(linear_logits(weights, points + step * direction))
        divergence = np.asarray(jnp.sum(jnp.exp(here) * (here - there), axis=1)) / step**2
        np.testing.assert_allclose(divergence, form / 2, rtol=5 * step)


@given(seed=st.integers(0, 10_000), shift=st.floats(-50, 50))
def test_invariances(seed, shift):
    """A constant in all logits changes nothing, a scale enters squared, what ignores its input has no form."""
    weights, points = linear_decoder(seed)
    directions = np.eye(WIDTH, dtype="f4")[:2]

    def forms(weights, points):
        return fisher_quadratic(linear_logits, points, directions, operands=weights)

    plain = forms(weights, points)
    np.testing.assert_allclose(forms((weights[0], weights[1] + np.float32(shift)), points), plain, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(forms((2 * weights[0], weights[1]), points / 2), 4 * plain, rtol=1e-4, atol=1e-6)
    assert (forms((0 * weights[0], weights[1]), points) == 0).all()


def test_top_pairs_are_the_largest(x64):
    weights, points = linear_decoder(n=12, dtype=np.float64)
    pullback = fisher_pullback(linear_logits, points, operands=weights)
    values, vectors = np.linalg.eigh(linear_forms(weights, points).mean(0))
    pairs = pullback.top(3, tolerance=1e-10, key=KEY)
    assert pairs.converged
    np.testing.assert_allclose(pairs.eigenvalues, values[::-1][:3], rtol=1e-10)
    np.testing.assert_allclose(abs(np.sum(pairs.directions * vectors[:, ::-1][:, :3].T, axis=1)), 1, rtol=1e-8)
    whole = pullback.top(WIDTH, key=KEY)
    np.testing.assert_allclose(whole.eigenvalues, values[::-1], rtol=0, atol=1e-12)
    np.testing.assert_allclose(whole.directions @ whole.directions.T, np.eye(WIDTH), atol=1e-12)


def wide_logits(scales, z):
    return scales * z.reshape(len(z), -1)


def test_top_pairs_of_a_wide_form_converge_and_residuals_are_honest():
    """300 coordinates whose eigenvalues fall slowly: few products leave residuals, and they are told."""
    scales = (1.0 / np.arange(1, 301) ** 0.25).astype("f4")
    points = np.zeros((2, 150, 2), "f4")
    pullback = fisher_pullback(wide_logits, points, operands=scales)
    matrix = np.diag(scales.astype(float)) @ (np.eye(300) / 300 - np.ones((300, 300)) / 300**2) @ np.diag(scales)
    values = np.linalg.eigvalsh(matrix)[::-1]
    short, long = pullback.top(4, iterations=2, key=KEY), pullback.top(4, key=KEY)
    assert not short.converged
    assert long.converged
    assert (short.products, long.directions.shape) == (2, (4, 150, 2))
    np.testing.assert_allclose(long.eigenvalues, values[:4], rtol=1e-5)
    for pairs in (short, long):
        flat = pairs.directions.reshape(4, -1)
        true = np.linalg.norm(flat @ matrix - pairs.eigenvalues[:, None] * flat, axis=1)
        np.testing.assert_allclose(pairs.residuals, true, rtol=1e-2, atol=1e-6 * values[0])
        nearest = abs(values[:, None] - pairs.eigenvalues).min(0)
        assert (nearest <= pairs.residuals + 1e-6 * values[0]).all()
        assert (pairs.eigenvalues <= values[:4] * (1 + 1e-5)).all()


def test_a_decoder_that_ignores_its_input_has_zero_pairs():
    pairs = fisher_pullback(wide_logits, np.ones((2, 3, 2), "f4"), operands=np.zeros(6, "f4")).top(2, key=KEY)
    assert (pairs.eigenvalues == 0).all()
    assert pairs.converged


def test_trace_of_a_diagonal_form_needs_no_luck():
    """Random signs are exact where the form is diagonal: two classes read by one coordinate."""

    def logits(_, z):
        return jnp.stack([z[:, 0], -z[:, 0]], axis=1)

    points = np.random.default_rng(5).normal(size=(6, 3)).astype("f4")
    trace = fisher_pullback(logits, points).trace(probes=2, key=KEY)
    expected = 4 * np.exp(2 * points[:, 0]) / (1 + np.exp(2 * points[:, 0])) ** 2
    np.testing.assert_allclose(trace.by_sample, expected, rtol=1e-5)
    assert trace.value == pytest.approx(expected.mean(), rel=1e-5)
    assert trace.standard_error < 1e-6
    assert trace.n == 6


def test_trace_does_not_depend_on_batches_but_on_its_key():
    weights, points = linear_decoder()
    few, all_at_once = (
        fisher_pullback(linear_logits, points, operands=weights, batch_size=b).trace(probes=4, key=KEY) for b in (4, 16)
    )
    np.testing.assert_allclose(few.by_sample, all_at_once.by_sample, rtol=1e-5)
    other = fisher_pullback(linear_logits, points, operands=weights).trace(probes=4, key=jax.random.key(1))
    assert other.value != few.value


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_coverage_of_the_trace(scale):
    weights, points = linear_decoder(scale=scale, n=16)
    truth = np.trace(linear_forms(weights, points).mean(0))
    pullback = fisher_pullback(linear_logits, points, operands=weights)
    inside = 0
    for key in jax.random.split(KEY, 500):
        lower, upper = pullback.trace(probes=16, key=key).interval
        inside += bool(lower <= truth <= upper)
    assert 0.92 <= inside / 500 <= 0.98


def test_monte_carlo_form_tends_to_the_exact_one(x64):
    weights, points, shift = network()
    forms = network_forms(weights, points, shift)
    drawn = monte_carlo_fisher(network_logits, points, shift, draws=4000, operands=weights, batch_size=3, key=KEY)
    assert drawn.kind == "monte carlo"
    assert drawn.gradients.shape == (4, 4000, 3, 2)
    # Each entry's own standard error, from the draws.
    rows = drawn.gradients.reshape(4, 4000, 6)
    errors = np.sqrt(sum(np.var(rows[k][:, :, None] * rows[k][:, None, :], axis=0) for k in range(4)) / 4000) / 4
    assert (abs(drawn.dense() - forms.mean(0)) <= 4.5 * errors).all()
    mean = rows.mean(1) / (rows.std(1) / 4000**0.5)  # the score has mean zero under the decoder's own law
    assert abs(mean).max() < 4.5
    trace = drawn.trace()
    assert abs(float(trace.value) - np.trace(forms.mean(0))) <= 4.5 * float(trace.standard_error)
    directions = np.random.default_rng(6).normal(size=(2, 2))
    block = np.broadcast_to(directions[:, None], (2, 3, 2))
    np.testing.assert_allclose(drawn.quadratic(directions), drawn.quadratic(block), rtol=1e-12)
    np.testing.assert_allclose(
        drawn.quadratic(block).mean(0), np.einsum("ktd,tdse,kse->k", block, drawn.dense().reshape(3, 2, 3, 2), block)
    )


def test_empirical_form_is_the_pullback_only_of_a_calibrated_decoder(x64):
    """Targets drawn from the decoder's own law, and targets that it never expects."""
    weights, points = linear_decoder(n=6, dtype=np.float64)
    many = np.repeat(points, 4000, axis=0)
    log_p = np.asarray(jax.nn.log_softmax(linear_logits(weights, many)))
    own = np.asarray(jax.random.categorical(KEY, log_p))
    form = linear_forms(weights, points).mean(0)
    calibrated = empirical_fisher(label_score, many, own, operands=weights, batch_size=24_000)
    assert calibrated.kind == "empirical"
    np.testing.assert_allclose(calibrated.dense(), form, atol=0.02 * np.linalg.norm(form, 2))
    surprised = empirical_fisher(label_score, many, log_p.argmin(1), operands=weights, batch_size=24_000)
    assert surprised.trace().value > 2 * np.trace(form)
    slopes = directional_derivatives(label_score, many, np.eye(WIDTH), own, operands=weights, batch_size=24_000)
    np.testing.assert_allclose(calibrated.quadratic(np.eye(WIDTH)), slopes**2, rtol=1e-10)
    norms = gradient_norms(label_score, many, own, operands=weights, batch_size=24_000)
    np.testing.assert_allclose(calibrated.trace().by_sample, norms**2, rtol=1e-10)


def test_outer_products_as_an_operator(x64):
    weights, points, shift = network(n=5)
    drawn = monte_carlo_fisher(network_logits, points, shift, draws=2, operands=weights, key=KEY)
    rows = drawn.gradients.reshape(10, 6)
    matrix = rows.T @ rows / 10
    np.testing.assert_allclose(drawn.dense(), matrix, rtol=1e-12, atol=1e-14)
    vectors = np.random.default_rng(7).normal(size=(2, 3, 2))
    np.testing.assert_allclose(drawn.product(vectors).reshape(2, 6), vectors.reshape(2, 6) @ matrix, rtol=1e-12)
    np.testing.assert_allclose(drawn.product(vectors[0]), drawn.product(vectors)[0], rtol=1e-12)
    pairs = drawn.top(4)
    np.testing.assert_allclose(pairs.eigenvalues, np.linalg.eigvalsh(matrix)[::-1][:4], rtol=1e-10, atol=1e-13)
    assert pairs.residuals.max() < 1e-12 * pairs.eigenvalues[0] * 10


def test_under_jit_and_vmap_as_outside():
    weights, points = linear_decoder(n=8)
    directions = np.eye(WIDTH, dtype="f4")[:3]

    def forms(z):
        return fisher_quadratic(linear_logits, z, directions, operands=weights)

    def products(z):
        return fisher_pullback(linear_logits, z, operands=weights).product(directions)

    for function in (forms, products):
        outside = jax.tree.leaves(function(points))
        inside = jax.tree.leaves(jax.jit(function)(points))
        for one, other in zip(outside, inside, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    stacked = jax.vmap(forms)(points.reshape(2, 4, WIDTH))
    np.testing.assert_allclose(stacked.reshape(8, 3), forms(points), rtol=1e-5, atol=1e-6)


def test_one_program_serves_all_batches_and_calls():
    traces = []

    def counted(_, z):
        traces.append(z.shape)
        return z

    for n in (7, 12):
        fisher_quadratic(counted, np.ones((n, 3), "f4"), np.eye(3, dtype="f4"), batch_size=5)
    assert traces == [(5, 3)]


def test_bad_input_is_named():
    weights, points = linear_decoder()
    pullback = fisher_pullback(linear_logits, points, operands=weights)
    blocks = points.reshape(9, 3, 2)
    eye = np.eye(WIDTH, dtype="f4")

    def quadratic(directions, tokens="together", logits=linear_logits):
        return fisher_quadratic(logits, points, directions, operands=weights, tokens=tokens)

    def draw(draws=1):
        return monte_carlo_fisher(linear_logits, points, operands=weights, draws=draws, key=KEY)

    for call, message in (
        (lambda: quadratic(eye[:, :4]), r"directions must have shape \(k, 6\), got \(6, 4\)"),
        (lambda: quadratic(eye, tokens="both"), "tokens must be 'together' or 'apart', got 'both'"),
        (lambda: quadratic(eye, tokens="apart"), r"needs directions \(k, width\) of a token"),
        (lambda: quadratic(eye, logits=lambda _, z: jnp.sum(z, axis=1)), r"logits returned shape \(9,\)"),
        (lambda: quadratic(eye, logits=lambda _, z: z[:1]), r"logits returned shape \(1, 6\) for 9"),
        (lambda: fisher_pullback(linear_logits, points[:0], operands=weights), "points is empty"),
        (lambda: pullback.product(eye[:, :5]), r"\(6\) or \(m, 6\), got \(6, 5\)"),
        (lambda: pullback.product(np.nan * eye), "vectors holds NaN"),
        (lambda: fisher_pullback(linear_logits, blocks).product(eye[:, :2]), r"\(3, 2\) or \(m, 3, 2\), got \(6, 2\)"),
        (lambda: draw().product(eye[:, :5]), r"\(6\) or \(m, 6\), got \(6, 5\)"),
        (lambda: pullback.trace(probes=1, key=KEY), "probes must be at least 2"),
        (lambda: pullback.trace(level=1.0, key=KEY), "level must lie strictly"),
        (lambda: pullback.top(0, key=KEY), "count must lie in 1 to 6"),
        (lambda: pullback.top(7, key=KEY), "count must lie in 1 to 6, .* got 7"),
        (lambda: pullback.top(2, tolerance=0.0, key=KEY), "tolerance and iterations must be positive"),
        (lambda: pullback[[]], "chooses no sample"),
        (lambda: fisher_pullback(wide_logits, np.ones((1, 4097), "f4")).dense(), "at most 4096"),
        (lambda: draw(0), "draws must be at least 1"),
        (lambda: draw().top(7), "count must lie in 1 to 6"),
        (lambda: draw().trace(level=2.0), "level must lie strictly"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
