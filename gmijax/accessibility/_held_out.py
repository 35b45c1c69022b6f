"""Held-out log-probabilities of an attribute, the penalty and the layer chosen on other data than what scores them."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmijax import probes


class HeldOut(NamedTuple):
    """Cross-fitted probes of several layers: every row is scored by probes that never saw it.

    Attributes:
      log_likelihoods: log P(own label | hidden state), nats, (layers, n).
      chosen: the layer with the least validation loss in every fold, (folds,).
      best: log-likelihoods at the chosen layers, (n,).
      penalties: the penalty of every layer and fold, (layers, folds).
      converged: whether every probe that scores a row met its stopping rule.
    """

    log_likelihoods: np.ndarray
    chosen: np.ndarray
    best: np.ndarray
    penalties: np.ndarray
    converged: bool


def _own(probe: probes.Probe, rows: jax.Array, labels: np.ndarray) -> np.ndarray:
    """Log P(own label) by every penalty and split, (penalties, splits, n)."""
    log_p = probes.log_probabilities(probe, rows)
    columns = np.searchsorted(np.asarray(probe.classes), labels)
    return np.asarray(jnp.take_along_axis(log_p, jnp.asarray(columns)[None, None, :, None], axis=-1)[..., 0])


def _mean_over(values: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Means over each split's rows, (penalties, splits)."""
    return np.sum(np.where(masks, values, 0), axis=-1) / masks.sum(axis=-1)


def held_out(
    layers: Sequence[jax.Array],
    labels: np.ndarray,
    folds: np.ndarray,
    penalties: Sequence[float],
    method: str,
) -> HeldOut:
    """Cross-fits probes of every layer.

    For the rows of a fold the probe is trained on all other folds. Its penalty, and the best layer, are those with the
    least cross-entropy on the next fold of a probe trained on the folds besides these two: no row helps to choose what
    scores it.

    Args:
      layers: hidden states, each (n, d).
      labels: (n,).
      folds: the fold of every row, (n,), at least three folds.
      penalties: to choose from.
      method: of `probes.fit`.
    """
    count = int(folds.max()) + 1
    test = np.arange(count)[:, None] == folds
    validation = np.roll(test, -1, axis=0)
    grid = np.unique(np.asarray(penalties, np.float64))
    scored, losses, picked, converged = [], [], [], True
    for rows in layers:
        inner = probes.fit(rows, labels, weights=~(test | validation), penalty=grid, method=method)
        loss = -_mean_over(_own(inner, rows, labels), validation)
        best = loss.argmin(axis=0)
        outer = probes.fit(rows, labels, weights=~test, penalty=grid[np.unique(best)], method=method)
        place = np.searchsorted(np.unique(best), best)
        own = _own(outer, rows, labels)[place, np.arange(count)]
        scored.append(np.sum(np.where(test, own, 0), axis=0))
        losses.append(loss.min(axis=0))
        picked.append(grid[best])
        converged &= bool(np.asarray(outer.converged)[place, np.arange(count)].all())
    chosen = np.argmin(losses, axis=0)
    log_likelihoods = np.stack(scored)
    best_rows = log_likelihoods[chosen[folds], np.arange(len(folds))]
    return HeldOut(log_likelihoods, chosen, best_rows, np.stack(picked), converged)
