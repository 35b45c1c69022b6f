"""Temperature and one bias a label, fitted to the optimum: the convex problem behind the LM rate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, ArrayLike, Bool, Float, Int

MAX_ITERATIONS = 128
_QUICK_ITERATIONS = 10


class Calibration(NamedTuple):
    """The fit `softmax_k(scale * scores + log_prior + biases)`; logits without a prior drop that term.

    Attributes:
      scale: s >= 0, the inverse temperature. Always finite; see `separable`.
      biases: one a label, shape (*contexts, k). -inf for a label that carries no weight (unless `ridge` > 0).
      loss: the weighted cross-entropy in nats, without the penalty.
      converged: whether the Newton decrement fell below the dtype's rounding.
      separable: whether the infimum is only approached as s grows; `loss` is then within rounding of it and
        `scale` is where the iteration stopped.
      iterations: Newton steps taken.
    """

    scale: Float[Array, ""]
    biases: Float[Array, "*contexts k"]
    loss: Float[Array, ""]
    converged: Bool[Array, ""]
    separable: Bool[Array, ""]
    iterations: Int[Array, ""]


class Problem(NamedTuple):
    """A fit reduced to what it depends on; scores of one unit of spread.

    Attributes:
      scores: (contexts, n, k), finite everywhere.
      allowed: (contexts, n, k), False where the alternative has probability 0.
      rows: weight of each row, (contexts, n).
      columns: weight of each label, (contexts, k).
      mean_score: the weighted mean of the scores, ().
      offset: fixed logits, (contexts, k).
      ridge: () penalty `ridge / 2 (s^2 + |biases|^2)`.
    """

    scores: jax.Array
    allowed: jax.Array
    rows: jax.Array
    columns: jax.Array
    mean_score: jax.Array
    offset: jax.Array
    ridge: jax.Array


class _Point(NamedTuple):
    """Parameters, with the penalised loss, its gradient and its Hessian (an arrow: one scale, many biases)."""

    scale: jax.Array  # ()
    biases: jax.Array  # (contexts, k)
    loss: jax.Array
    size: jax.Array  # of the terms that the loss is a difference of: what its rounding is relative to
    slope_scale: jax.Array  # ()
    slope_biases: jax.Array  # (contexts, k)
    hessian_scale: jax.Array  # ()
    hessian_cross: jax.Array  # (contexts, k)
    hessian_biases: jax.Array  # (contexts, k, k)


class Solution(NamedTuple):
    """`solve`'s answer in the units of its `Problem`."""

    scale: jax.Array
    biases: jax.Array
    loss: jax.Array
    converged: jax.Array
    iterations: jax.Array


def _evaluate(problem: Problem, scale: jax.Array, biases: jax.Array) -> _Point:
    scores, rows, columns = problem.scores, problem.rows, problem.columns
    logits = scale * scores + (problem.offset + biases)[:, None, :]
    logits = jnp.where(problem.allowed, logits, -jnp.inf)
    peak = jnp.max(logits, axis=-1, keepdims=True)
    peak = jnp.where(jnp.isfinite(peak), peak, 0)
    terms = jnp.exp(logits - peak)
    total = jnp.sum(terms, axis=-1, keepdims=True)
    total = jnp.where(total > 0, total, 1)
    probs = terms / total
    log_total = (jnp.log(total) + peak)[..., 0]
    mean = jnp.sum(probs * scores, axis=-1)
    weighted = rows[..., None] * probs
    centred = scores - mean[..., None]
    marginal = jnp.sum(weighted, axis=1)
    # The offset enters through `columns * (offset + biases)`; excluded labels carry offset 0 and weight 0.
    loss = jnp.sum(rows * log_total) - scale * problem.mean_score - jnp.sum(columns * (problem.offset + biases))
    penalty = 0.5 * problem.ridge * (scale**2 + jnp.sum(biases**2))
    eye = jnp.eye(columns.shape[-1], dtype=scores.dtype)
    return _Point(
        scale=scale,
        biases=biases,
        loss=loss + penalty,
        size=jnp.abs(scale * problem.mean_score) + jnp.sum(columns * jnp.abs(problem.offset + biases)),
        slope_scale=jnp.sum(rows * mean) - problem.mean_score + problem.ridge * scale,
        slope_biases=marginal - columns + problem.ridge * biases,
        hessian_scale=jnp.sum(weighted * centred**2) + problem.ridge,
        hessian_cross=jnp.sum(weighted * centred, axis=1),
        hessian_biases=marginal[..., None] * eye - jnp.einsum("cnk,cnj->ckj", weighted, probs) + problem.ridge * eye,
    )


def solve(problem: Problem) -> Solution:
    """Minimises the penalised cross-entropy over s >= 0 and the biases by damped Newton steps.

    The problem is convex, and where its infimum is only approached every Newton step divides the remaining loss
    by about e, so a few dozen steps reach rounding there too. A step that does not lower the loss is refused and
    retried with a larger Levenberg term.

    Args:
      problem: see `Problem`. Pure; jits and vmaps.

    Returns:
      The minimiser (or the last iterate), the loss without the penalty, and whether it converged.
    """
    dtype = problem.scores.dtype
    eps = jnp.finfo(dtype).eps
    used = problem.columns > 0
    eye = jnp.eye(problem.columns.shape[-1], dtype=dtype)
    context = jnp.sum(problem.columns, axis=-1)[:, None, None]
    # Adding a constant to all biases changes nothing: fix it, unless the penalty already does.
    gauge = problem.columns[:, :, None] * problem.columns[:, None, :] / jnp.where(context > 0, context, 1)
    gauge = jnp.where(problem.ridge > 0, 0, gauge) + jnp.where(used | (problem.ridge > 0), 0, 1)[..., None] * eye

    def newton(point: _Point, damping):
        matrix = point.hessian_biases + gauge + damping * problem.columns[..., None] * eye
        right = jnp.stack([point.hessian_cross, point.slope_biases], axis=-1)
        cross, gradient = jnp.moveaxis(cho_solve(cho_factor(matrix), right), -1, 0)
        schur = point.hessian_scale + damping - jnp.sum(point.hessian_cross * cross)
        schur = jnp.maximum(schur, 4 * eps * point.hessian_scale + jnp.finfo(dtype).tiny)
        step = -(point.slope_scale - jnp.sum(point.hessian_cross * gradient)) / schur
        step = jnp.maximum(step, -point.scale)  # the quadratic model's minimiser over s >= 0
        step = jnp.where(point.scale > 0, jnp.minimum(step, 8 * point.scale), step)  # rounding must not fling it
        step_biases = -(gradient + cross * step)
        decrement = -(point.slope_scale * step + jnp.sum(point.slope_biases * step_biases))
        return step, step_biases, decrement

    def unfinished(state):
        *_, done, iteration = state
        return ~done & (iteration < MAX_ITERATIONS)

    def advance(state):
        point, scale, biases, decrement, damping, _, iteration = state
        proposal = _evaluate(problem, scale, biases)
        size = 1 + proposal.size
        accepted = proposal.loss <= point.loss + 4 * eps * size
        done = accepted & (decrement <= 2 * eps * size) & (damping < 1)
        point = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), proposal, point)
        damping = jnp.where(accepted, damping / 16, jnp.maximum(10 * damping, 1e-3))
        damping = jnp.where(damping < eps, 0, damping)
        step, step_biases, decrement = newton(point, damping)
        return point, point.scale + step, point.biases + step_biases, decrement, damping, done, iteration + 1

    zero, zeros = jnp.zeros((), dtype), jnp.zeros_like(problem.columns)
    worst = _Point(zero, zeros, jnp.inf + zero, zero, zero, zeros, zero, zeros, zeros[..., None] * eye)
    initial = (worst, zero, zeros, jnp.inf + zero, zero, jnp.zeros((), bool), jnp.zeros((), jnp.int32))
    point, *_, done, iterations = lax.while_loop(unfinished, advance, initial)
    penalty = 0.5 * problem.ridge * (point.scale**2 + jnp.sum(point.biases**2))
    return Solution(point.scale, point.biases, point.loss - penalty, done, iterations)


def _cyclically_monotone(scores: jax.Array, allowed: jax.Array, weights: jax.Array) -> jax.Array:
    """Whether some biases make every weighted label win its row, in every context, ties included.

    Biases b exist iff `b[j] - b[k] <= min over rows with weight on k of scores[k] - scores[j]` is a feasible
    system of difference constraints, that is, iff its graph has no negative cycle.
    """
    masked = jnp.where(allowed, scores, -jnp.inf)

    def slack(label):
        own = jnp.take(scores, label, axis=-1)
        own = jnp.where(jnp.take(weights, label, axis=-1) > 0, own, jnp.inf)
        return jnp.min(own[..., None] - masked, axis=1)  # (contexts, k)

    size = scores.shape[-1]
    distance = jnp.moveaxis(lax.map(slack, jnp.arange(size)), 0, 1)  # (contexts, k, k)

    def relax(middle, distance):
        through = jnp.take(distance, middle, axis=-1)[..., None] + jnp.take(distance, middle, axis=-2)[:, None, :]
        return jnp.minimum(distance, through)

    distance = lax.fori_loop(0, size, relax, distance)
    tolerance = 16 * size * jnp.finfo(scores.dtype).eps * jnp.max(jnp.abs(scores))
    return jnp.all(jnp.diagonal(distance, axis1=-2, axis2=-1) >= -tolerance)


@jax.jit
def fit_calibration(
    scores: Float[ArrayLike, "*contexts n k"],
    weights: Float[ArrayLike, "*contexts n k"],
    *,
    log_prior: Float[ArrayLike, "*contexts k"] | None = None,
    ridge: Float[ArrayLike, ""] | float = 0.0,
) -> Calibration:
    """Fits one temperature and one bias a label by weighted cross-entropy (THEORY.md, F7; Platt scaling).

    `min over s >= 0, a of - sum_ik weights_ik log softmax_k(s scores_i + a)_k`. With the target weights
    `P(x, y)`, H(Y) minus this loss is the LM rate. Axes before n are contexts: they share s, and each has its
    own biases. For independent problems use `jax.vmap`.

    Memory: a few arrays of the size of `scores`, and k x k a context.

    Args:
      scores: nats; -inf marks an alternative of probability 0.
      weights: of label k as the target of row i, non-negative, summing to 1 over all axes (one-hot / n for data).
      log_prior: fixed logits added to the scaled scores; the biases then count from them.
      ridge: penalty `ridge / 2 (|biases|^2 + (s sd)^2)`, sd the root mean square of the scores centred by row
        and by label, biases those of the centred scores: it does not depend on the scores' unit or offsets.

    Returns:
      See `Calibration`. The loss is inf where a positive weight lies on a score of -inf.
    """
    scores, weights = jnp.asarray(scores), jnp.asarray(weights)
    dtype = jnp.result_type(scores, weights, jnp.float32)
    *contexts, n, k = scores.shape
    scores = scores.astype(dtype).reshape(-1, n, k)
    weights = weights.astype(dtype).reshape(-1, n, k)
    ridge = jnp.asarray(ridge, dtype)
    rows, columns = jnp.sum(weights, axis=-1), jnp.sum(weights, axis=-2)
    context = jnp.sum(columns, axis=-1, keepdims=True)
    possible = jnp.isfinite(scores)
    kept = (columns > 0) | (ridge > 0)
    allowed = possible & kept[:, None, :]

    # Centre by row and by label and scale to one: the optimum is the same, and float32 keeps its digits.
    count = jnp.maximum(jnp.sum(allowed, axis=-1, keepdims=True), 1)
    centred = jnp.where(allowed, scores, 0)
    centred = jnp.where(allowed, centred - jnp.sum(centred, axis=-1, keepdims=True) / count, 0)
    mass = jnp.sum(rows[..., None] * allowed, axis=1)
    shift = jnp.sum(rows[..., None] * centred, axis=1) / jnp.where(mass > 0, mass, 1)
    centred = jnp.where(allowed, centred - shift[:, None, :], 0)
    spread = jnp.sqrt(jnp.sum(rows[..., None] * centred**2 / count))
    # A score that ignores the row leaves only rounding here.
    flat = spread <= 16 * jnp.finfo(dtype).eps * jnp.max(jnp.where(allowed, jnp.abs(scores), 0))
    unit = jnp.where(flat, 1, spread)
    centred = jnp.where(flat, 0, centred / unit)

    if log_prior is None:
        share = columns / jnp.where(context > 0, context, 1)
        offset = jnp.where(columns > 0, jnp.log(jnp.where(columns > 0, share, 1)), 0)
    else:
        offset = jnp.asarray(log_prior, dtype).reshape(-1, k)
        allowed = allowed & jnp.isfinite(offset)[:, None, :]
        offset = jnp.where(jnp.isfinite(offset), offset, 0)
    problem = Problem(centred, allowed, rows, columns, jnp.sum(weights * centred), offset, ridge)
    solution = solve(problem)
    separable = lax.cond(
        solution.iterations > _QUICK_ITERATIONS,  # a minimum that exists is found sooner, but for rare cases
        lambda: _cyclically_monotone(centred, allowed, weights) & ~flat & (ridge == 0),
        lambda: jnp.zeros((), bool),
    )
    logits = jnp.where(allowed, solution.scale * centred + (offset + solution.biases)[:, None, :], -jnp.inf)
    logits = jnp.where((rows > 0)[..., None], logits, 0)
    # Summed over positive terms: the solver's own loss is a difference of means.
    surprise = jax.nn.logsumexp(logits, axis=-1, keepdims=True) - jnp.where(weights > 0, logits, 0)
    loss = jnp.sum(jnp.where(weights > 0, weights * surprise, 0))
    biases = solution.biases - solution.scale * shift / unit + (offset if log_prior is None else 0)
    return Calibration(
        scale=solution.scale / unit,
        biases=jnp.where(kept, biases, -jnp.inf).reshape(*contexts, k),
        loss=loss,
        converged=solution.converged,
        separable=separable,
        iterations=solution.iterations,
    )
