"""Gaussian classes read by a softmax decoder: a decoder over labels with every kind of miscalibration."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int
from scipy.special import ndtr

from gmijax.rates._finite import gmi_exact
from gmijax.rates.channels._base import (
    LARGE,
    ChannelRates,
    FiniteMessages,
    TableChannel,
    as_law,
    categorical,
    log_sum_exp,
    namespace,
    pad_to,
    round_up,
)
from gmijax.rates.channels._quadrature import panels, trapezoid, uniform_edges

_MOST_NODES = 4_000_000


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianLabels(TableChannel, FiniteMessages):
    """Y ~ priors, Z | Y = k ~ N(means[k], sigma^2 I); score log softmax_k of the decoder's logits.

    `logit_k(z) = (log priors_hat_k - |z - means_hat_k|^2 / (2 sigma_hat^2) + bias_k) / temperature`. What is left
    out is as in the true law, so that the decoder is the true posterior by default.

    Attributes:
      means: (k, d), or (k,) for d = 1.
      priors: P(y), (k,).
      sigma: the standard deviation of each class in every direction, > 0.
      means_hat: the decoder's means.
      priors_hat: the decoder's prior, positive (not necessarily summing to 1).
      sigma_hat: the decoder's standard deviation, > 0.
      bias: added to the decoder's logits, (k,).
      temperature: divides them, > 0.
      pmi_score: whether log P(y) is taken off the score, so that both directions are exact for the true posterior.
    """

    means: ArrayLike
    priors: ArrayLike
    sigma: float = 1.0
    means_hat: ArrayLike | None = None
    priors_hat: ArrayLike | None = None
    sigma_hat: float | None = None
    bias: ArrayLike | None = None
    temperature: float = 1.0
    pmi_score: bool = False

    def __post_init__(self) -> None:
        def as_points(values):
            points = np.asarray(values, float)
            return points[:, None] if points.ndim == 1 else points

        priors = as_law("priors", self.priors)
        means = as_points(self.means)
        filled = {
            "means": means,
            "priors": priors,
            "means_hat": means if self.means_hat is None else as_points(self.means_hat),
            "priors_hat": priors if self.priors_hat is None else np.asarray(self.priors_hat, float),
            "sigma_hat": self.sigma if self.sigma_hat is None else self.sigma_hat,
            "bias": np.zeros(len(priors)) if self.bias is None else np.asarray(self.bias, float),
        }
        for name in ("means", "means_hat"):
            if filled[name].shape != (len(priors), means.shape[-1]):
                raise ValueError(f"{name} must hold one mean a label of priors; got {filled[name].shape}.")
        for name in ("priors_hat", "bias"):
            if filled[name].shape != priors.shape:
                raise ValueError(f"{name} must be {priors.shape} like priors; got {filled[name].shape}.")
        if np.any(priors == 0) and self.pmi_score:
            raise ValueError("priors must be positive where pmi_score takes their logarithm off the score.")
        for name in ("sigma", "sigma_hat", "temperature"):
            value = filled.get(name, getattr(self, name))
            if not value > 0:
                raise ValueError(f"{name} must be positive; got {value}.")
        for name, value in filled.items():
            object.__setattr__(self, name, value)

    @functools.cached_property
    def _linear(self) -> tuple[np.ndarray, np.ndarray]:
        """Logits up to a function of z: slopes (k, d) and offsets (k,)."""
        means_hat, variance = np.asarray(self.means_hat), float(self.sigma_hat or 0) ** 2
        with np.errstate(divide="ignore"):
            log_prior = np.log(np.asarray(self.priors_hat))
        offsets = log_prior - np.sum(means_hat**2, axis=-1) / (2 * variance) + np.asarray(self.bias)
        return means_hat / variance / self.temperature, offsets / self.temperature

    def _all_scores(self, z: Any) -> Any:
        """The scores of every label, (..., k)."""
        slopes, offsets = self._linear
        xp = namespace(z)
        logits = z @ xp.asarray(slopes).T + xp.asarray(offsets)
        scores = logits - log_sum_exp(logits)[..., None]
        return scores - xp.log(xp.asarray(self.priors)) if self.pmi_score else scores

    @staticmethod
    def _span(*vectors: np.ndarray) -> np.ndarray:
        """An orthonormal basis of the span of the differences from the first vector of each set, (d, rank)."""
        differences = np.concatenate([points - points[0] for points in vectors])
        _, sizes, rows = np.linalg.svd(differences, full_matrices=False)
        return rows[sizes > 1e-12 * max(1.0, sizes[0])].T

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """The joint law of quadrature node and label, (nodes, k), and the scores.

        Raises:
          ValueError: the means span more directions than a grid can cover.
        """
        return self._table

    @functools.cached_property
    def _table(self) -> tuple[np.ndarray, np.ndarray]:
        means, priors = np.asarray(self.means), np.asarray(self.priors)
        # Off the span of both sets of means, z is noise that neither the law nor the decoder sees.
        basis = self._span(means, np.asarray(self.means_hat))
        centres = (means - means[0]) @ basis
        slopes = self._linear[0] @ basis
        low, high = centres.min(0) - 9.5 * self.sigma, centres.max(0) + 9.5 * self.sigma
        steepest = max(np.linalg.norm(slopes[:, None] - slopes, axis=-1).max(), 1e-12)
        poles = np.pi / steepest  # the distance of the softmax's nearest poles from real z
        if basis.shape[1] == 0:
            nodes, measure = np.zeros((1, 0)), np.ones(1)
        elif basis.shape[1] == 1:
            width = min(0.5 * self.sigma, 1.3 * poles)
            line, measure = panels(uniform_edges(low[0], high[0], width, limit=8192))
            nodes = line[:, None]
        else:
            step = min(0.25 * self.sigma, poles / 6)
            wanted = np.prod((high - low) / step)
            if wanted > _MOST_NODES:
                step *= (wanted / _MOST_NODES) ** (1 / basis.shape[1])
            if step > 0.6 * self.sigma:
                raise ValueError(
                    f"means and means_hat span {basis.shape[1]} directions, too many for a quadrature grid; "
                    "use fewer classes, or means in a plane."
                )
            axes = [trapezoid(a, b, step) for a, b in zip(low, high, strict=True)]
            nodes = np.stack(np.meshgrid(*(axis for axis, _ in axes), indexing="ij"), axis=-1)
            nodes = nodes.reshape(-1, basis.shape[1])
            measure = functools.reduce(np.multiply.outer, (weights for _, weights in axes)).ravel()
        distance = np.sum((nodes[:, None] - centres) ** 2, axis=-1) / self.sigma**2
        kept = distance.min(1) < 9.5**2
        nodes, measure, distance = nodes[kept], measure[kept], distance[kept]
        norm = (2 * np.pi * self.sigma**2) ** (-basis.shape[1] / 2)
        joint = norm * np.exp(-distance / 2) * priors * measure[:, None]
        return joint, self._all_scores(means[0] + nodes @ basis.T)

    def extras(self, rates: ChannelRates) -> dict[str, Any]:
        """Cross-entropies and accuracy.

        `label_entropy`; `cross_entropy`, E[-log q]; `cross_entropy_temperature_scaled` and its `_scale`, the least
        of E[-log softmax(s l)] over s, without the prior; `decoder_marginal`, E exp(l) by label; and
        `argmax_accuracy`, ties to the first label (nan where the decoder's means span more than a plane).
        """
        del rates
        joint, scores = self.table()
        priors = np.asarray(self.priors)
        count = len(priors)
        shape = (1, round_up(count), round_up(len(joint), LARGE))
        uniform = pad_to(np.full((1, count), 1 / count), shape[:2])
        with jax.enable_x64(True):
            fit = gmi_exact(pad_to(joint.T[None], shape), pad_to(scores.T[None], shape), alternatives=uniform)
        normalised = scores + np.log(priors) if self.pmi_score else scores
        positive = priors[priors > 0]
        return {
            "label_entropy": float(-np.sum(positive * np.log(positive))),
            "cross_entropy": float(-np.sum(joint * np.where(joint > 0, normalised, 0))),
            "cross_entropy_temperature_scaled": math.log(count) - float(fit.value),
            "cross_entropy_temperature_scale": float(fit.scale),
            "decoder_marginal": tuple((joint.sum(1) @ np.exp(scores)).tolist()),
            "argmax_accuracy": self._accuracy(),
        }

    def _accuracy(self) -> float:
        slopes, offsets = self._linear
        means, priors, count = np.asarray(self.means), np.asarray(self.priors), len(self._linear[1])
        if self.pmi_score:
            offsets = offsets - np.log(priors)
        offsets = np.maximum(offsets, -1e9)  # a prior of 0: finite, so that differences of offsets are numbers
        basis = self._span(slopes)
        if basis.shape[1] > 2:
            return math.nan
        # Two coordinates, the second of which may be idle: the winner is then sought along the first.
        slopes, means = (
            np.pad(vectors @ basis, ((0, 0), (0, 2 - basis.shape[1]))) / scale
            for vectors, scale in ((slopes, 1 / self.sigma), (means, self.sigma))
        )
        gaps = slopes[:, None] - slopes, offsets[:, None] - offsets
        # Regions' corners and borders across the second axis: the inner integral has kinks there.
        first, second = (index.ravel() for index in np.triu_indices(count, 1))
        normals, levels = gaps[0][first, second], gaps[1][first, second]
        determinants = normals[:, None, 0] * normals[:, 1] - normals[:, None, 1] * normals[:, 0]
        with np.errstate(divide="ignore", invalid="ignore"):
            corners = -(levels[:, None] * normals[:, 1] - normals[:, None, 1] * levels) / determinants
            borders = np.where(np.abs(normals[:, 1]) < 1e-12, -levels / normals[:, 0], np.nan)
        low, high = means[:, 0].min() - 9.5, means[:, 0].max() + 9.5
        edges = np.concatenate([corners.ravel(), borders])
        edges = edges[np.isfinite(edges) & (edges > low) & (edges < high)]
        nodes, measure = panels(np.concatenate([edges, uniform_edges(low, high, 0.5)]))
        # Label k wins against j where rate * t + level >= 0; the first of two identical labels wins.
        total = 0.0
        for k in range(count):
            rate = gaps[0][k, :, 1]
            level = gaps[0][k, :, 0] * nodes[:, None] + gaps[1][k]
            with np.errstate(divide="ignore", invalid="ignore"):
                bound = -level / rate
            flat = np.abs(rate) < 1e-12
            same = np.arange(count) < k
            lost = np.any(flat & np.where(same, level <= 0, level < 0), axis=1)
            above = np.max(np.where(~flat & (rate > 0), bound, -np.inf), axis=1)
            below = np.min(np.where(~flat & (rate < 0), bound, np.inf), axis=1)
            inner = ndtr(below - means[k, 1]) - ndtr(above - means[k, 1])
            density = np.exp(-((nodes - means[k, 0]) ** 2) / 2) / math.sqrt(2 * math.pi)
            total += priors[k] * float(measure @ np.where(lost, 0, density * np.maximum(inner, 0)))
        return total

    def sample(self, key: Array, n: int) -> tuple[Float[Array, "n d"], Int[Array, " n"]]:
        """N independent pairs of a representation (d,) and a label."""
        key_y, key_z = jax.random.split(key)
        y = categorical(key_y, np.asarray(self.priors)[None], jnp.zeros(n, int))
        means = jnp.asarray(self.means)
        return means[y] + self.sigma * jax.random.normal(key_z, (n, means.shape[-1])), y

    def score(self, x: ArrayLike, y: ArrayLike) -> Array:
        """The score of label y at representation x (..., d); axes before the last of x broadcast with y."""
        scores, y = self._all_scores(jnp.asarray(x)), jnp.asarray(y)
        shape = jnp.broadcast_shapes(scores.shape[:-1], y.shape)
        scores = jnp.broadcast_to(scores, (*shape, scores.shape[-1]))
        return jnp.take_along_axis(scores, jnp.broadcast_to(y, shape)[..., None], axis=-1)[..., 0]

    def sample_label_scores(
        self, key: Array, n: int
    ) -> tuple[Float[Array, "n k"], Int[Array, " n"], Float[Array, " k"]]:
        """Scores of every label for n representations, the true labels, and P(y)."""
        z, y = self.sample(key, n)
        return self._all_scores(z), y, jnp.asarray(self.priors)
