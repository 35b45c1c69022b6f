"""Gradients of a score in its input: their norms, and the slopes along given directions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from gmijax.sensitivity._samples import (
    by_sample,
    check_directions,
    check_samples,
    keep_tokens,
    wide,
)

Score = Callable[..., jax.Array]


def total_score(score: Score, operands: Any, others: tuple[Any, ...], mask: Any) -> Callable[[jax.Array], jax.Array]:
    """The sum of a batch's scores as a function of its points."""

    def total(points):
        values = score(operands, keep_tokens(points, mask), *others)
        if values.shape != points.shape[:1]:
            raise ValueError(
                f"score returned shape {values.shape} for {points.shape[0]} points; it must return one score each, "
                f"shape ({points.shape[0]},)"
            )
        return jnp.sum(values)

    return total


@partial(jax.jit, static_argnames="score")
def _gradients(score, operands, points, others, mask):
    return jax.grad(total_score(score, operands, others, mask))(points)


@partial(jax.jit, static_argnames=("score", "per_token"))
def _norms(score, operands, points, others, mask, per_token):
    gradient = wide(_gradients(score, operands, points, others, mask))
    return jnp.sqrt(jnp.sum(jnp.square(gradient), axis=-1 if per_token else tuple(range(1, gradient.ndim))))


@partial(jax.jit, static_argnames=("score", "of_a_token"))
def _along(score, operands, points, others, mask, directions, of_a_token):
    gradient = wide(_gradients(score, operands, points, others, mask))
    if of_a_token:
        gradient = jnp.sum(gradient, axis=tuple(range(1, gradient.ndim - 1)))
    flat = directions.reshape(len(directions), -1).astype(gradient.dtype)
    return jnp.matmul(gradient.reshape(len(gradient), -1), flat.T, precision="highest")


def gradients(
    score: Score,
    points: ArrayLike,
    *args: ArrayLike,
    operands: Any = (),
    mask: ArrayLike | None = None,
    batch_size: int = 16,
) -> Any:
    """Each sample's gradient of its score; arguments as in `gradient_norms`.

    Returns:
      Gradients in nats a unit of the points, of the shape and dtype of the points; zero at padding.
    """
    samples = check_samples(points, args, mask, batch_size)
    return by_sample(samples, lambda batch: _gradients(score, operands, *batch.arrays))


def gradient_norms(
    score: Score,
    points: ArrayLike,
    *args: ArrayLike,
    operands: Any = (),
    mask: ArrayLike | None = None,
    batch_size: int = 16,
    per_token: bool = False,
) -> Any:
    """The Euclidean norm of each sample's gradient of its score.

    One backward pass of the sum serves a batch, since a sample's score depends on its own point alone. A score that
    mixes its samples (say, through statistics of the batch) has no gradient of one sample, and this cannot be seen
    from here.

    Args:
      score: maps (operands, points (b, ...), the batch's slices of `args`) to scores (b,), differentiably. The
        program is compiled once for each score, so pass the same function again rather than a new lambda.
      points: shape (n, ...), e.g. soft-token blocks (n, tokens, width).
      *args: arrays with leading axis n that go with the points.
      operands: pytree handed to `score` whole, such as a decoder's weights: as arguments they are not constants of
        the program, which would take long to compile.
      mask: shape (n, tokens), true at tokens. Padding reaches the score as zeros, whatever it holds, and its
        gradient is exactly zero.
      batch_size: samples a pass; the last batch is filled up with repeats, so that one program serves all. Under a
        trace everything is one pass.
      per_token: norms over the last axis only, shape (n, ...) without it, instead of over the whole point.

    Returns:
      Norms in nats a unit of the points, shape (n,) or by token, float32 or wider; 0 at padding.

    Raises:
      ValueError: if there are no points, they are not finite floating-point numbers, an argument has another leading
        axis, the mask does not fit, `batch_size` is below 1, or the score does not return one value a sample.
    """
    samples = check_samples(points, args, mask, batch_size)
    return by_sample(samples, lambda batch: _norms(score, operands, *batch.arrays, per_token))


def directional_derivatives(
    score: Score,
    points: ArrayLike,
    directions: ArrayLike,
    *args: ArrayLike,
    operands: Any = (),
    mask: ArrayLike | None = None,
    batch_size: int = 16,
) -> Any:
    """The slope of each sample's score along each direction, from one backward pass a batch and a matrix product.

    The square's mean over samples is u' E[g g'] u with the samples' own targets, the *empirical* Fisher form: equal
    to the decoder's (`fisher_quadratic`) only where the decoder is calibrated (PROOFS, part ii).

    Args:
      score: as in `gradient_norms`.
      points: shape (n, *block).
      directions: shape (k, *block); or (k, width) for blocks (tokens, width): the same direction at every token, so
        that the slopes of the tokens (padding left out) add up. Not normalised here.
      *args: as in `gradient_norms`.
      operands: as in `gradient_norms`.
      mask: as in `gradient_norms`.
      batch_size: as in `gradient_norms`.

    Returns:
      Derivatives, nats a unit of the points times the directions' lengths, shape (n, k).

    Raises:
      ValueError: as `gradient_norms`, and for directions of another shape or not finite.
    """
    samples = check_samples(points, args, mask, batch_size)
    array, of_a_token = check_directions(directions, samples.block)
    moves = jnp.asarray(array)
    return by_sample(samples, lambda batch: _along(score, operands, *batch.arrays, moves, of_a_token))
