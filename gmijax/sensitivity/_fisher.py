"""The Fisher pullback J' F J of a decoder: how far its predictions move, to second order, where its input moves.

F is the covariance diag(p) - p p' of the one-hot prediction under the decoder's own law, J the Jacobian of its logits.
For a small move v, KL(q(. | z) || q(. | z + v)) is v' J' F J v / 2 (THEORY.md, B7). Matrix-free: a product is one
forward-mode and one reverse-mode pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax import stats
from gmijax._checks import check_level, is_concrete
from gmijax.sensitivity._krylov import largest_pairs
from gmijax.sensitivity._samples import (
    Samples,
    batches,
    by_sample,
    check_directions,
    check_samples,
    check_vectors,
    keep_tokens,
    wide,
)

Logits = Callable[..., jax.Array]

LARGEST_DENSE = 4096


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FisherTrace:
    """The trace of an averaged Fisher form, nats a squared unit of the points.

    Attributes:
      value: the trace.
      standard_error: of `value` as the trace of these samples' average: the scatter of the probes alone.
      interval: of the same, at `level`.
      by_sample: each sample's own trace, shape (n,). For the mean over the law that the samples came from, take
        `stats.influence_standard_error` of them.
      n: number of samples.
      level: coverage of `interval`.
    """

    value: Array
    standard_error: Array
    interval: stats.Interval
    by_sample: Array
    n: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FisherEigenpairs:
    """The largest eigenvalues of an averaged Fisher form and their directions.

    Attributes:
      eigenvalues: largest first, shape (k,), nats a squared unit.
      directions: orthonormal, shape (k, *block).
      residuals: |F v - value v|, shape (k,): some eigenvalue lies at most this far from each value.
      converged: whether every residual is below the tolerance times the largest eigenvalue.
      products: how many block products were taken.
    """

    eigenvalues: np.ndarray
    directions: np.ndarray
    residuals: np.ndarray
    converged: bool
    products: int


def _centred(logits: Array, moves: Array) -> tuple[Array, Array]:
    """Probabilities over the last axis, and the moves of the logits less their mean under them.

    Moves are counted from that of the likeliest class: where it has nearly all of the probability, the mean would
    else cancel it down to rounding.
    """
    p = jax.nn.softmax(logits, axis=-1)
    likeliest = jnp.argmax(logits, axis=-1, keepdims=True)
    moves = moves - jnp.take_along_axis(moves, likeliest, axis=-1)
    return p, moves - jnp.sum(p * moves, axis=-1, keepdims=True)


def logits_of(logits: Logits, operands: Any, others: tuple[Any, ...], mask: Any) -> Callable[[Array], Array]:
    """A batch's logits as a function of its points, in at least float32."""

    def function(points):
        values = logits(operands, keep_tokens(points, mask), *others)
        if values.ndim < 2 or values.shape[0] != points.shape[0]:
            raise ValueError(
                f"logits returned shape {values.shape} for {points.shape[0]} points; it must return "
                f"({points.shape[0]}, ..., classes)"
            )
        return wide(values)

    return function


def _expand(direction: Array, points: Array) -> Array:
    """One direction, of a block or of each of its tokens, at every point."""
    return jnp.broadcast_to(direction, points.shape).astype(points.dtype)


@partial(jax.jit, static_argnames=("logits", "tokens"))
def _quadratics(logits, operands, points, others, mask, directions, tokens):
    """The form of each sample and direction, shape (b, k)."""
    values, push = jax.linearize(logits_of(logits, operands, others, mask), points)

    def form(move):
        p, centred = _centred(values, push(move))
        return jnp.sum(p * jnp.square(centred), axis=tuple(range(1, values.ndim)))

    def one(direction):
        if tokens == "together":
            return form(_expand(direction, points))
        blocks = np.prod(points.shape[1:-1], dtype=int)
        ones = jnp.eye(blocks, dtype=points.dtype).reshape(blocks, *points.shape[1:-1], 1)
        return jnp.sum(lax.map(lambda token: form(token * _expand(direction, points)), ones), axis=0)

    return lax.map(one, directions).T


@partial(jax.jit, static_argnames="logits")
def _products(logits, operands, points, others, mask, weights, vectors):
    """The weighted sum over samples of F v, shape (m, *block)."""
    values, push = jax.linearize(logits_of(logits, operands, others, mask), points)
    pull = jax.linear_transpose(push, points)
    weights = weights.reshape(-1, *(1 for _ in values.shape[1:])).astype(values.dtype)

    def one(vector):
        p, centred = _centred(values, push(_expand(vector, points)))
        (back,) = pull(weights * p * centred)
        return jnp.sum(wide(back), axis=0)

    return lax.map(one, vectors)


@partial(jax.jit, static_argnames=("logits", "probes"))
def _probed_traces(logits, operands, points, others, mask, keys, probes):
    """The forms of random signs, each sample with its own, shape (b, probes)."""
    values, push = jax.linearize(logits_of(logits, operands, others, mask), points)

    def one(count):
        draw = jax.vmap(lambda key: jax.random.rademacher(jax.random.fold_in(key, count), points.shape[1:]))
        p, centred = _centred(values, push(draw(keys).astype(points.dtype)))
        return jnp.sum(p * jnp.square(centred), axis=tuple(range(1, values.ndim)))

    return lax.map(one, jnp.arange(probes)).T


def fisher_quadratic(
    logits: Logits,
    points: ArrayLike,
    directions: ArrayLike,
    *args: ArrayLike,
    operands: Any = (),
    mask: ArrayLike | None = None,
    batch_size: int = 16,
    tokens: str = "together",
) -> Any:
    """Each sample's u' F u, the Fisher pullback along each direction, exact and by one forward-mode pass a direction.

    Half its mean times the variance along u is what removing u costs a matched decoder (THEORY.md, B7): kappa_k =
    lambda_k u_k' F u_k / 2.

    Args:
      logits: maps (operands, points (b, *block), the batch's slices of `args`) to logits (b, ..., classes). Axes in
        between are positions of a sequence given what precedes each, whose forms add up. Logits that do not depend on
        the points (padding) add nothing.
      points: shape (n, *block).
      directions: shape (k, *block); or (k, width) for blocks (tokens, width), one direction for every token.
      *args: arrays with leading axis n that go with the points.
      operands: pytree handed to `logits` whole, such as a decoder's weights.
      mask: shape (n, tokens), true at tokens; padding moves nothing.
      batch_size: samples a pass.
      tokens: what a direction (k, width) means. "together": all tokens move by the same u, v = (u, ..., u). "apart":
        each token moves by itself and the forms add up, sum_t u' F_tt u, as for variances that are independent
        between tokens; one pass a token.

    Returns:
      Shape (n, k), nats a squared unit times the directions' squared lengths.

    Raises:
      ValueError: as `gradient_norms`, for directions that do not fit, or "apart" with directions of a whole block.
    """
    samples = check_samples(points, args, mask, batch_size)
    array, of_a_token = check_directions(directions, samples.block)
    if tokens not in ("together", "apart"):
        raise ValueError(f"tokens must be 'together' or 'apart', got {tokens!r}")
    if tokens == "apart" and not of_a_token:
        raise ValueError(
            f"tokens = 'apart' needs directions (k, width) of a token for points (n, tokens, width), got "
            f"{array.shape} for {samples.points.shape}"
        )
    moves = jnp.asarray(array)
    if of_a_token:
        moves = moves.reshape(len(moves), *(1 for _ in samples.block[:-1]), -1)
    return by_sample(samples, lambda batch: _quadratics(logits, operands, *batch.arrays, moves, tokens))


@dataclass(frozen=True, eq=False)
class FisherPullback:
    """The average over samples of J' (diag p - p p') J, as an operator; made by `fisher_pullback`.

    `pullback[index]` is the operator of some samples, `pullback[i]` that of one.

    Attributes:
      logits: as in `fisher_quadratic`.
      samples: the points and what goes with them.
      operands: as in `fisher_quadratic`.
    """

    logits: Logits
    samples: Samples
    operands: Any

    def __getitem__(self, index: Any) -> "FisherPullback":
        chosen = np.atleast_1d(np.arange(len(self.samples))[index])
        if not chosen.size:
            raise ValueError("the index chooses no sample; an average needs at least one")
        return FisherPullback(self.logits, self.samples.take(chosen), self.operands)

    @property
    def size(self) -> int:
        """The number of coordinates of a point."""
        return int(np.prod(self.samples.block))

    def product(self, vectors: ArrayLike) -> Any:
        """F v, averaged over the samples, which are streamed in batches.

        Args:
          vectors: shape (*block) or (m, *block).

        Returns:
          The same shape; summed over batches in float64 unless traced.

        Raises:
          ValueError: for vectors of another shape or not finite.
        """
        array, single = check_vectors(vectors, self.samples.block)
        moves = jnp.asarray(array)
        total: Any = 0.0
        for batch in batches(self.samples):
            weights = jnp.arange(len(batch.rows)) < batch.fresh
            part = _products(self.logits, self.operands, *batch.arrays, weights, moves)
            total = total + (np.asarray(part, np.float64) if is_concrete(part) else part)
        mean = total / len(self.samples)
        return mean[0] if single else mean

    def quadratic(self, directions: ArrayLike, *, tokens: str = "together") -> Any:
        """Each sample's u' F u, shape (n, k); `fisher_quadratic` of these samples."""
        samples = self.samples
        return fisher_quadratic(
            self.logits,
            samples.points,
            directions,
            *samples.others,
            operands=self.operands,
            mask=samples.mask,
            batch_size=samples.batch_size,
            tokens=tokens,
        )

    def trace(self, *, probes: int = 32, level: float = 0.95, key: Array) -> FisherTrace:
        """The trace by Hutchinson's estimator: the mean of v' F v over random signs, unbiased.

        Every sample has its own probes, so that their errors average out over samples too, and they do not depend on
        the batch size. Hutchinson (1990), DOI 10.1080/03610919008812866.

        Args:
          probes: random vectors a sample; one forward-mode pass each.
          level: coverage of the interval.
          key: a PRNG key.

        Returns:
          A `FisherTrace`.

        Raises:
          ValueError: for fewer than two probes, which have no scatter, or a level outside (0, 1).
        """
        if probes < 2:
            raise ValueError(f"probes must be at least 2 to tell their scatter, got {probes}")
        check_level(level)
        samples, keys = self.samples, jax.random.split(key, len(self.samples))
        forms = by_sample(
            samples,
            lambda batch: _probed_traces(self.logits, self.operands, *batch.arrays, keys[batch.rows], probes),
        )
        forms = jnp.asarray(forms)
        traces = jnp.mean(forms, axis=1)
        error = jnp.sqrt(jnp.sum(jnp.var(forms, axis=1, ddof=1)) / probes) / len(samples)
        return fisher_trace(traces, error, level)

    def top(self, count: int, *, tolerance: float = 1e-4, iterations: int = 20, key: Array) -> FisherEigenpairs:
        """The largest eigenpairs, by block Lanczos with full orthogonalisation.

        Memory: `iterations (count + 4)` vectors of the size of a point, twice, in float64 on the host.

        Args:
          count: how many; at most the number of coordinates.
          tolerance: of the residuals, as a share of the largest eigenvalue. float32 products reach about 1e-6.
          iterations: most block products; each costs `count + 4` products.
          key: a PRNG key, for the first block.

        Returns:
          The pairs with their residuals and whether they met the tolerance.

        Raises:
          ValueError: for a count out of range, or a tolerance or number of iterations that is not positive.
        """
        if not 1 <= count <= self.size:
            raise ValueError(f"count must lie in 1 to {self.size}, the coordinates of a point, got {count}")
        if not tolerance > 0 or iterations < 1:
            raise ValueError(f"tolerance and iterations must be positive, got {tolerance} and {iterations}")
        block = self.samples.block

        def product(columns):
            return self.product(columns.T.reshape(-1, *block)).reshape(columns.shape[1], -1).T

        pairs = largest_pairs(product, self.size, count, tolerance=tolerance, iterations=iterations, key=key)
        return FisherEigenpairs(
            pairs.values,
            pairs.vectors.T.reshape(-1, *block),
            pairs.residuals,
            bool((pairs.residuals <= tolerance * pairs.values[0]).all()),
            pairs.products,
        )

    def dense(self) -> np.ndarray:
        """The matrix itself, shape (size, size), for small points.

        Raises:
          ValueError: for points of more than 4096 coordinates; `product` needs no matrix.
        """
        if self.size > LARGEST_DENSE:
            raise ValueError(
                f"a point has {self.size} coordinates; a dense form takes at most {LARGEST_DENSE}: use product or top"
            )
        whole = self.product(np.eye(self.size, dtype=self.samples.points.dtype).reshape(self.size, *self.samples.block))
        matrix = whole.reshape(self.size, self.size)
        return (matrix + matrix.T) / 2


def fisher_trace(traces: Array, standard_error: Array, level: float) -> FisherTrace:
    """The mean of the samples' traces with a standard error that is known."""
    value = jnp.mean(traces)
    interval = stats.normal_interval(value, standard_error, level=level)
    return FisherTrace(value, standard_error, interval, traces, len(traces), level)


def fisher_pullback(
    logits: Logits,
    points: ArrayLike,
    *args: ArrayLike,
    operands: Any = (),
    mask: ArrayLike | None = None,
    batch_size: int = 16,
) -> FisherPullback:
    """The average Fisher pullback of a decoder over samples, as a matrix-free operator.

    Arguments and errors as in `fisher_quadratic`. It is the form under the decoder's own law, y ~ q. Two forms from
    gradients stand beside it: `monte_carlo_fisher`, the same by draws y ~ q, and `empirical_fisher`, with the samples'
    true y, equal to it only where the decoder is calibrated.
    """
    return FisherPullback(logits, check_samples(points, args, mask, batch_size), operands)
