"""Batched l2 multinomial logistic regression by L-BFGS: problems that share their rows, solved together.

The rows are standardised once for all problems; each problem's own z-score is a shift and a factor folded into its
weights, its training rows are row weights, and every problem's columns meet the rows in one matrix product. Logits are
linear in the step, so that a line search costs no product: an iteration has two.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from gmijax.probes._line_search import search

MEMORY = 10  # pairs of steps and changes of the gradient, as scipy keeps them


class Solution(NamedTuple):
    """`solve`'s answer; features in units of their training spread.

    Attributes:
      weight: one row a class (a single one for two classes, of the second class), (problems, columns, d).
      bias: (problems, columns).
      objective: mean cross-entropy + penalty |W|^2 / (2 rows), nats, (problems,).
      gradient_norm: largest entry of its gradient, (problems,).
      gap: how far `objective` is above the optimum at most; see `Probe`, (problems,).
      iterations: (problems,).
      converged: (problems,).
    """

    weight: jax.Array
    bias: jax.Array
    objective: jax.Array
    gradient_norm: jax.Array
    gap: jax.Array
    iterations: jax.Array
    converged: jax.Array


class Standardised(NamedTuple):
    """Rows shared by all problems, and each problem's z-score of them.

    Attributes:
      rows: centred together, (n, d).
      shift: subtracted from the rows, (problems, d).
      factor: multiplies what is left, 0 for a feature that is constant in training, (problems, d).
      mean: of the training rows in the features' own units, (problems, d).
      scale: their standard deviation, 1 for a constant feature, (problems, d).
    """

    rows: jax.Array
    shift: jax.Array
    factor: jax.Array
    mean: jax.Array
    scale: jax.Array


class _Data(NamedTuple):
    """What the objective needs beside `Standardised`'s first three.

    Attributes:
      share: row weights that sum to 1, (problems, n).
      onehot: the targets, (problems, columns, n).
      ridge: the penalty's factor, 0 for the bias, (problems, 1, d + 1).
    """

    rows: jax.Array
    shift: jax.Array
    factor: jax.Array
    share: jax.Array
    onehot: jax.Array
    ridge: jax.Array


class _Memory(NamedTuple):
    """The last pairs, in a ring: `pairs[:, :MEMORY]` are steps, the others the gradient's changes.

    `products` holds the inner products of all pairs, so that a direction takes two passes over them.
    """

    pairs: jax.Array  # (problems, 2 MEMORY, columns * (d + 1))
    products: jax.Array  # (problems, 2 MEMORY, 2 MEMORY)
    used: jax.Array  # (problems, MEMORY)


class _State(NamedTuple):
    theta: jax.Array  # (problems, columns, d + 1)
    logits: jax.Array  # (problems, columns, n)
    gradient: jax.Array  # like theta
    memory: _Memory
    active: jax.Array  # (problems,)
    iterations: jax.Array  # (problems,)
    step: jax.Array  # ()


@jax.jit
def standardise(x: Float[Array, "n d"], weights: Float[Array, "problems n"]) -> Standardised:
    """The z-scores of every problem's training rows, from two passes over the rows for all of them.

    Args:
      x: the rows, float32 or float64.
      weights: row weights of each problem.

    Returns:
      The shared rows and what turns them into z-scores. A feature whose deviation is within rounding of its mean
      (16 epsilon of its mean, or sqrt(2 n epsilon) of its distance from the mean of all problems) is constant.
    """
    eps = jnp.finfo(x.dtype).eps
    share = weights / jnp.sum(weights, axis=1, keepdims=True)
    centre = jnp.mean(share, axis=0) @ x
    rows = x - centre  # large means would cost digits
    mean, square = share @ rows, share @ jnp.square(rows)
    variance = square - mean**2
    # Sums of n equal terms are off by up to n eps: a feature that is constant in training must not look alive.
    varies = variance > jnp.maximum(2 * x.shape[0] * eps * square, jnp.square(16 * eps * centre))
    deviation = jnp.sqrt(jnp.where(varies, variance, 1))
    return Standardised(
        rows=rows,
        shift=mean,
        factor=jnp.where(varies, 1 / deviation, 0),
        mean=centre + mean,
        scale=deviation,
    )


def _columns(classes: int) -> jax.Array:
    """The classes that have a column: all, or the second of two."""
    return jnp.arange(classes) if classes > 2 else jnp.ones(1, int)


def _apply(data: _Data, theta: jax.Array) -> jax.Array:
    """Logits (problems, columns, n) of weights and biases (problems, columns, d + 1)."""
    folded = theta[:, :, :-1] * data.factor[:, None, :]
    product = lax.dot_general(folded, data.rows, (((2,), (1,)), ((), ())))
    return product + (theta[:, :, -1] - jnp.einsum("pcd,pd->pc", folded, data.shift))[:, :, None]


def _normalised(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Probabilities of the columns, and the log normaliser (problems, n); a lone column faces a logit of 0."""
    peak = jnp.max(logits, axis=1, keepdims=True)
    rest = 0.0
    if logits.shape[1] == 1:
        peak = jnp.maximum(peak, 0)
        rest = jnp.exp(-peak)
    terms = jnp.exp(logits - peak)
    total = jnp.sum(terms, axis=1, keepdims=True) + rest
    return terms / total, (peak + jnp.log(total))[:, 0, :]


def _gradient(data: _Data, theta: jax.Array, logits: jax.Array) -> jax.Array:
    residual = data.share[:, None, :] * (_normalised(logits)[0] - data.onehot)
    product = lax.dot_general(residual, data.rows, (((2,), (0,)), ((), ())))
    biases = jnp.sum(residual, axis=2, keepdims=True)
    weights = (product - data.shift[:, None, :] * biases) * data.factor[:, None, :]
    return jnp.concatenate([weights, biases], axis=2) + data.ridge * theta


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum("pcd,pcd->p", a, b)


def _direction(memory: _Memory, gradient: jax.Array, newest: jax.Array) -> jax.Array:
    """Minus the inverse Hessian's estimate times the gradient, as coefficients of the pairs and the gradient.

    The two loops of Nocedal (1980), DOI 10.1090/S0025-5718-1980-0572855-7, run on inner products alone.
    """
    m = MEMORY
    flat = gradient.reshape(gradient.shape[0], -1)
    along = jnp.einsum("pbx,px->pb", memory.pairs, flat)
    products, used = memory.products, memory.used
    curvature = jnp.diagonal(products[:, :m, m:], axis1=1, axis2=2)  # s'y
    curvature = jnp.where(used, curvature, 1)

    def backward(k, carry):
        weights, alphas = carry  # the gradient less `weights` of the changes y
        slot = (newest - k) % m
        inner = along[:, slot] - jnp.sum(products[:, slot, m:] * weights, axis=1)
        alpha = jnp.where(used[:, slot], inner / curvature[:, slot], 0)
        return weights.at[:, slot].add(alpha), alphas.at[:, slot].set(alpha)

    zeros = jnp.zeros_like(along[:, :m])
    weights, alphas = lax.fori_loop(0, m, backward, (zeros, zeros))
    # Scaled by the latest pair that is still used.
    age = jnp.where(used, (newest - jnp.arange(m)) % m, m)
    latest = jnp.argmin(age, axis=1)

    def take(a):
        return jnp.take_along_axis(a, latest[:, None], axis=1)[:, 0]

    sizes = take(jnp.diagonal(products[:, m:, m:], axis1=1, axis2=2))
    any_used = jnp.any(used, axis=1)
    gamma = jnp.where(any_used, take(curvature) / jnp.where(any_used, sizes, 1), 1)

    def forward(k, steps):
        slot = (newest + 1 + k) % m
        inner = gamma * (along[:, m + slot] - jnp.sum(products[:, m + slot, m:] * weights, axis=1))
        inner += jnp.sum(products[:, m + slot, :m] * steps, axis=1)
        beta = inner / curvature[:, slot]
        return steps.at[:, slot].add(jnp.where(used[:, slot], alphas[:, slot] - beta, 0))

    steps = lax.fori_loop(0, m, forward, zeros)
    mix = jnp.concatenate([steps, -gamma[:, None] * weights], axis=1)
    return -(gamma[:, None] * flat + jnp.einsum("pb,pbx->px", mix, memory.pairs)).reshape(gradient.shape)


def _remember(memory: _Memory, slot: jax.Array, step: jax.Array, change: jax.Array, kept: jax.Array) -> _Memory:
    problems = step.shape[0]
    new = jnp.stack([step.reshape(problems, -1), change.reshape(problems, -1)], axis=1)
    pairs = memory.pairs.at[:, jnp.stack([slot, MEMORY + slot])].set(new)
    inner = jnp.einsum("pkx,pbx->pkb", new, pairs)
    products = memory.products
    for k in range(2):
        at = slot + k * MEMORY
        products = products.at[:, at, :].set(inner[:, k]).at[:, :, at].set(inner[:, k])
    return _Memory(pairs, products, memory.used.at[:, slot].set(kept))


def gap_bound(ridge: jax.Array, theta: jax.Array, gradient: jax.Array) -> jax.Array:
    """Strong convexity's bound on objective - optimum, plus what the biases' residual could add.

    Args:
      ridge: the penalty's factor on the squared weights, (problems,).
      theta: weights and, as the last of the features, biases, (problems, columns, d + 1).
      gradient: of the objective there.
    """
    ridge = jnp.maximum(ridge, jnp.finfo(theta.dtype).tiny)
    weights, biases = gradient[:, :, :-1], theta[:, :, -1]
    reach = jnp.max(jnp.abs(biases - (jnp.mean(biases, axis=1, keepdims=True) if biases.shape[1] > 1 else 0)), axis=1)
    return _dot(weights, weights) / (2 * ridge) + jnp.sum(jnp.abs(gradient[:, :, -1]), axis=1) * reach


def _objective(data: _Data, theta: jax.Array, logits: jax.Array) -> jax.Array:
    own = jnp.sum(data.onehot * logits, axis=1)
    return jnp.sum(data.share * (_normalised(logits)[1] - own), axis=1) + 0.5 * _dot(data.ridge * theta, theta)


def prior_biases(share: jax.Array) -> jax.Array:
    """The best biases of W = 0 for shares of the columns' classes (..., columns); a lone column's is a log-odds."""
    share = jnp.maximum(share, jnp.finfo(share.dtype).tiny)
    if share.shape[-1] == 1:
        return jnp.log(share) - jnp.log(jnp.maximum(1 - share, jnp.finfo(share.dtype).tiny))
    return jnp.log(share) - jnp.mean(jnp.log(share), axis=-1, keepdims=True)


@partial(jax.jit, static_argnames="classes")
def add_rows(
    theta: Float[Array, "columns features"],
    rows: Float[Array, "n d"],
    mean: Float[Array, " d"],
    factor: Float[Array, " d"],
    targets: Int[Array, " n"],
    *,
    classes: int,
) -> tuple[Float[Array, ""], Float[Array, "columns features"]]:
    """The sum over some rows of the cross-entropy of one problem, and its gradient.

    Args:
      theta: weights and, as the last of the features, biases.
      rows: as they are.
      mean: subtracted from them.
      factor: multiplies what is left.
      targets: classes 0..classes - 1.
      classes: K >= 2; two classes have one column.
    """
    dtype = rows.dtype
    data = _Data(
        rows=rows - mean,
        shift=jnp.zeros((1, rows.shape[1]), dtype),
        factor=factor[None],
        share=jnp.ones((1, rows.shape[0]), dtype),
        onehot=(targets[None, None, :] == _columns(classes)[:, None]).astype(dtype),
        ridge=jnp.zeros((1, 1, theta.shape[1]), dtype),
    )
    logits = _apply(data, theta[None])
    return _objective(data, theta[None], logits)[0], _gradient(data, theta[None], logits)[0]


@partial(jax.jit, static_argnames=("classes", "by_gap", "max_iterations"))
def solve(
    rows: Float[Array, "n d"],
    shift: Float[Array, "problems d"],
    factor: Float[Array, "problems d"],
    targets: Int[Array, "problems n"],
    weights: Float[Array, "problems n"],
    penalty: Float[Array, " problems"],
    tolerance: Float[Array, ""],
    start: Float[Array, "problems columns features"] | None = None,
    *,
    classes: int,
    by_gap: bool,
    max_iterations: int,
) -> Solution:
    """Minimises mean_i w_i CE_i + penalty |W|^2 / (2 sum w) for every problem, from W = 0 or from `start`.

    Without a start the biases begin at 0, or with `by_gap` where they are best for W = 0: the gap's bound on their part
    would be 0 at 0.

    L-BFGS with ten pairs, a first trial step of length 1 and then unit steps, and More and Thuente's line search: the
    iterates of scikit-learn's default solver, to rounding. Finished problems stand still.

    Args:
      rows: from `standardise`, as are the next two; (n, d).
      shift: (problems, d).
      factor: (problems, d).
      targets: classes 0..classes - 1.
      weights: row weights; 0 leaves a row out.
      penalty: on the squared weights of z-scored features, not on the biases; scikit-learn's 1 / C.
      tolerance: see `by_gap`.
      start: weights and, as the last of the features, biases to start from, (problems, columns, d + 1).
      classes: K >= 2; two classes have one column, as in scikit-learn.
      by_gap: stop where the gap is below `tolerance` times the objective, instead of where the largest entry of the
        gradient is below `tolerance`.
      max_iterations: of the L-BFGS.

    Returns:
      A `Solution`.
    """
    dtype, features = rows.dtype, rows.shape[1] + 1  # the last is the bias
    total = jnp.sum(weights, axis=1, keepdims=True)
    penalised = jnp.arange(features) < features - 1
    data = _Data(
        rows=rows,
        shift=shift,
        factor=factor,
        share=weights / total,
        onehot=(targets[:, None, :] == _columns(classes)[:, None]).astype(dtype),
        ridge=((penalty / total[:, 0])[:, None] * penalised)[:, None, :],
    )
    problems, columns, _ = data.onehot.shape
    eps = jnp.finfo(dtype).eps
    size = columns * features

    def finished(theta, logits, gradient):
        if by_gap:
            return gap_bound(data.ridge[:, 0, 0], theta, gradient) <= tolerance * _objective(data, theta, logits)
        return jnp.max(jnp.abs(gradient), axis=(1, 2)) <= tolerance

    def advance(state: _State) -> _State:
        theta, logits, gradient, memory = state.theta, state.logits, state.gradient, state.memory
        direction = _direction(memory, gradient, state.step - 1)
        slope = _dot(gradient, direction)
        fresh = ~jnp.any(memory.used, axis=1)
        direction = jnp.where((slope < 0)[:, None, None], direction, -gradient)
        slope = jnp.where(slope < 0, slope, -_dot(gradient, gradient))
        length = jnp.sqrt(_dot(direction, direction))
        first = jnp.where(fresh, 1 / jnp.where(length > 0, length, 1), 1)

        change_of_logits = _apply(data, direction)
        before = _normalised(logits)[1]
        linear = jnp.sum(data.share * jnp.sum(data.onehot * change_of_logits, axis=1), axis=1)
        cross, square = _dot(data.ridge * theta, direction), _dot(data.ridge * direction, direction)

        def along(step):
            probabilities, after = _normalised(logits + step[:, None, None] * change_of_logits)
            change = jnp.sum(data.share * (after - before), axis=1) + step * (cross - linear + step * square / 2)
            expected = jnp.sum(data.share * jnp.sum(probabilities * change_of_logits, axis=1), axis=1)
            return change, expected - linear + cross + step * square

        noise = eps * jnp.sum(data.share * jnp.abs(before), axis=1)
        step = search(along, slope, first, state.active, noise)

        moved = step[:, None, None] * direction
        theta, logits = theta + moved, logits + step[:, None, None] * change_of_logits
        new_gradient = _gradient(data, theta, logits)
        change = new_gradient - gradient
        found = step > 0
        kept = found & (_dot(moved, change) > eps * -slope * step)
        slot = state.step % MEMORY
        memory = _remember(memory, slot, moved, change, kept)
        # A direction without an acceptable step is forgotten with its memory; steepest descent has the last word.
        memory = memory._replace(used=memory.used & found[:, None])
        active = state.active & ~finished(theta, logits, new_gradient) & (found | ~fresh)
        return _State(theta, logits, new_gradient, memory, active, state.iterations + state.active, state.step + 1)

    theta = jnp.zeros((problems, columns, features), dtype) if start is None else start
    if start is None and by_gap:
        theta = theta.at[:, :, -1].set(prior_biases(jnp.einsum("pcn,pn->pc", data.onehot, data.share)))
    # Zeros that depend on an argument: XLA would spend seconds on folding what follows from constant ones.
    logits = theta[:, :, -1:] + 0 * data.share[:, None, :] if start is None else _apply(data, theta)
    gradient = _gradient(data, theta, logits)
    initial = _State(
        theta=theta,
        logits=logits,
        gradient=gradient,
        memory=_Memory(
            jnp.zeros((problems, 2 * MEMORY, size), dtype),
            jnp.zeros((problems, 2 * MEMORY, 2 * MEMORY), dtype),
            jnp.zeros((problems, MEMORY), bool),
        ),
        active=~finished(theta, logits, gradient),
        iterations=jnp.zeros((problems,), jnp.int32),
        step=jnp.zeros((), jnp.int32),
    )

    def unfinished(state):
        return jnp.any(state.active) & (state.step < max_iterations)

    last = lax.while_loop(unfinished, advance, initial)
    return Solution(
        weight=last.theta[:, :, :-1],
        bias=last.theta[:, :, -1],
        objective=_objective(data, last.theta, last.logits),
        gradient_norm=jnp.max(jnp.abs(last.gradient), axis=(1, 2)),
        gap=gap_bound(data.ridge[:, 0, 0], last.theta, last.gradient),
        iterations=last.iterations,
        converged=finished(last.theta, last.logits, last.gradient),
    )
