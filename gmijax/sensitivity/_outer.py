"""The Fisher form as a mean of outer products of gradients, E[g g']: y drawn from the decoder, or the true y."""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax import stats
from gmijax._checks import check_level
from gmijax.sensitivity._fisher import LARGEST_DENSE, FisherEigenpairs, FisherTrace, Logits, fisher_trace, logits_of
from gmijax.sensitivity._gradients import Score, gradients
from gmijax.sensitivity._samples import by_sample, check_directions, check_samples, check_vectors, wide


@dataclass(frozen=True, eq=False)
class OuterProductFisher:
    """The mean of g g' over samples and draws, with the methods of `FisherPullback`, in float64 on the host.

    Attributes:
      gradients: shape (n, draws, *block).
      kind: "monte carlo", unbiased for the Fisher pullback, or "empirical", with the true targets: equal to it only
        where the decoder is calibrated (PROOFS, part ii).
    """

    gradients: np.ndarray
    kind: Literal["monte carlo", "empirical"]

    @property
    def _rows(self) -> np.ndarray:
        return np.asarray(self.gradients, np.float64).reshape(-1, self.size)

    @property
    def block(self) -> tuple[int, ...]:
        """The shape of one point."""
        return self.gradients.shape[2:]

    @property
    def size(self) -> int:
        """The number of coordinates of a point."""
        return int(np.prod(self.block))

    def product(self, vectors: ArrayLike) -> np.ndarray:
        """The matrix times vectors, shape (*block) or (m, *block)."""
        array, single = check_vectors(vectors, self.block)
        rows = self._rows
        out = (np.asarray(array, np.float64).reshape(-1, self.size) @ rows.T) @ rows / len(rows)
        return out.reshape(self.block if single else (-1, *self.block))

    def quadratic(self, directions: ArrayLike) -> np.ndarray:
        """Each sample's mean of (g'u)^2, shape (n, k); directions (k, *block), or (k, width) at every token."""
        array, of_a_token = check_directions(directions, self.block)
        moves, slopes = np.asarray(array, np.float64), np.asarray(self.gradients, np.float64)
        if of_a_token:
            slopes = slopes.sum(axis=tuple(range(2, slopes.ndim - 1)))
        along = slopes.reshape(*slopes.shape[:2], -1) @ moves.reshape(len(moves), -1).T
        return np.square(along).mean(axis=1)

    def trace(self, *, level: float = 0.95) -> FisherTrace:
        """The mean of |g|^2.

        Its standard error is the scatter of the draws around the form of these samples. A single draw, or the true
        target, has no such scatter: the error is then that between samples.
        """
        check_level(level)
        squares = jnp.asarray(np.square(self._rows).sum(axis=1).reshape(self.gradients.shape[:2]))
        n, draws = squares.shape
        traces = jnp.mean(squares, axis=1)
        if draws > 1:
            error = jnp.sqrt(jnp.sum(jnp.var(squares, axis=1, ddof=1)) / draws) / n
        else:
            error = stats.influence_standard_error(traces)
        return fisher_trace(traces, error, level)

    def top(self, count: int) -> FisherEigenpairs:
        """The largest eigenpairs, from the singular vectors of the gradients: exact up to float64 rounding.

        Raises:
          ValueError: for a count above the number of coordinates or of gradients, beyond which all are zero.
        """
        rows = self._rows / np.sqrt(len(self._rows))
        if not 1 <= count <= min(rows.shape):
            raise ValueError(
                f"count must lie in 1 to {min(rows.shape)}, the rank that {rows.shape[0]} gradients of "
                f"{rows.shape[1]} coordinates can have, got {count}"
            )
        _, singular, directions = np.linalg.svd(rows, full_matrices=False)
        values, vectors = np.square(singular[:count]), directions[:count]
        residuals = np.linalg.norm(vectors @ rows.T @ rows - values[:, None] * vectors, axis=1)
        return FisherEigenpairs(values, vectors.reshape(-1, *self.block), residuals, True, 1)

    def dense(self) -> np.ndarray:
        """The matrix itself, shape (size, size), for points of at most 4096 coordinates."""
        if self.size > LARGEST_DENSE:
            raise ValueError(
                f"a point has {self.size} coordinates; a dense form takes at most {LARGEST_DENSE}: use product or top"
            )
        rows = self._rows
        return rows.T @ rows / len(rows)


@partial(jax.jit, static_argnames=("logits", "draws"))
def _drawn_gradients(logits, operands, points, others, mask, keys, draws):
    """Gradients of log q(y | z) for y drawn from q, at every position given what precedes; (b, draws, *block)."""
    values, pull = jax.vjp(logits_of(logits, operands, others, mask), points)
    p = jax.nn.softmax(values, axis=-1)

    def one(count):
        y = jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, count), row))(keys, values)
        (gradient,) = pull(jax.nn.one_hot(y, values.shape[-1], dtype=values.dtype) - p)
        return wide(gradient)

    return jnp.moveaxis(lax.map(one, jnp.arange(draws)), 0, 1)


def monte_carlo_fisher(
    logits: Logits,
    points: ArrayLike,
    *args: ArrayLike,
    draws: int = 8,
    operands: Any = (),
    mask: ArrayLike | None = None,
    batch_size: int = 16,
    key: Array,
) -> OuterProductFisher:
    """The Fisher pullback by draws: E[g g'] with g the gradient of log q(y | z) and y ~ q(. | z). Unbiased.

    With positions, each draws its own y given what precedes in `args`: the cross terms of a sum of such gradients have
    mean zero, so that one backward pass a draw serves all positions.

    Args:
      logits: as in `fisher_quadratic`.
      points: shape (n, *block).
      *args: as in `fisher_quadratic`.
      draws: of y for each sample; every gradient is kept, n times draws points in all.
      operands: as in `fisher_quadratic`.
      mask: as in `fisher_quadratic`.
      batch_size: samples a pass.
      key: a PRNG key; the draws do not depend on the batch size.

    Returns:
      An `OuterProductFisher` of kind "monte carlo".

    Raises:
      ValueError: as `fisher_quadratic`, or for no draw.
    """
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    samples = check_samples(points, args, mask, batch_size)
    keys = jax.random.split(key, len(samples))
    drawn = by_sample(samples, lambda batch: _drawn_gradients(logits, operands, *batch.arrays, keys[batch.rows], draws))
    return OuterProductFisher(drawn, "monte carlo")


def empirical_fisher(
    score: Score,
    points: ArrayLike,
    *args: ArrayLike,
    operands: Any = (),
    mask: ArrayLike | None = None,
    batch_size: int = 16,
) -> OuterProductFisher:
    """The mean of g g' with the samples' own targets, g the gradient of the score; arguments as in `gradient_norms`.

    It is the Fisher pullback only where the decoder is calibrated, q(y | z) = P(y | z); elsewhere it says how much the
    score of what was there reacts, not how much the prediction does. Kunstner et al. (2019), arXiv:1905.12558.
    """
    found = gradients(score, points, *args, operands=operands, mask=mask, batch_size=batch_size)
    return OuterProductFisher(np.asarray(found)[:, None], "empirical")
