"""Pulse-amplitude and square quadrature-amplitude modulation under wrong likelihoods and bit metrics."""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from gmijax.rates._finite import curve_exact
from gmijax.rates.channels._base import (
    LARGE,
    ChannelRates,
    FiniteMessages,
    TableChannel,
    log_sum_exp,
    namespace,
    pad_to,
    round_up,
)
from gmijax.rates.channels._quadrature import panels, trapezoid, uniform_edges
from gmijax.rates.channels.noise import Noise


def amplitudes(bits: int) -> np.ndarray:
    """The 2^bits equidistant points of unit mean energy, ascending.

    Raises:
      ValueError: bits is not in 1..8.
    """
    if not (isinstance(bits, int) and 1 <= bits <= 8):
        raise ValueError(f"bits_per_dimension must be an integer in 1..8; got {bits!r}.")
    points = 2.0 * np.arange(2**bits) - 2**bits + 1
    return points / np.sqrt(np.mean(points**2))


def _check_positive(channel: Any, *names: str) -> None:
    for name in names:
        if not getattr(channel, name) > 0:
            raise ValueError(f"{name} must be positive; got {getattr(channel, name)}.")


@dataclasses.dataclass(frozen=True)
class Modulation(TableChannel, FiniteMessages):
    """PAM, or square QAM as two independent PAM dimensions, with a wrong likelihood or a bit-wise metric.

    X is uniform on the points. Noise has variance 10^(-snr_db / 10) per unit-energy dimension; the decoder's
    log-likelihood of a point is `-(y - gain_hat x)^2 / (2 variance variance_ratio_hat)`. The symbol metric is that.
    A bit metric replaces it by a sum over the bits of a label, each with the log of the sum ("bicm") or the maximum
    ("maxlog") of the likelihoods of the points that share the bit (Martinez, Guillen i Fabregas, Caire and Willems
    2009, doi:10.1109/TIT.2009.2018329).

    Attributes:
      bits_per_dimension: of the label of a point.
      snr_db: Es / N0 for QAM, Es / variance for PAM.
      metric: "symbol", "bicm" or "maxlog".
      labeling: "gray" or "natural", ascending; used by the bit metrics.
      noise: "gaussian", "laplace", or another `Noise` kind with a density.
      gain_hat: the decoder's gain; the channel's is 1.
      variance_ratio_hat: the decoder's noise variance over the true one, > 0.
      quadrature: whether a use has two dimensions; x and y are then complex, and rates are per complex symbol.
    """

    bits_per_dimension: int
    snr_db: float
    metric: Literal["symbol", "bicm", "maxlog"] = "symbol"
    labeling: Literal["gray", "natural"] = "gray"
    noise: str = "gaussian"
    gain_hat: float = 1.0
    variance_ratio_hat: float = 1.0
    quadrature: bool = True

    def __post_init__(self) -> None:
        amplitudes(self.bits_per_dimension)
        _check_positive(self, "variance_ratio_hat")
        for name, choices in (("metric", ("symbol", "bicm", "maxlog")), ("labeling", ("gray", "natural"))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}.")
        if Noise(self.noise, 1.0).kind == "rademacher":
            raise ValueError("noise must have a density; got 'rademacher'.")

    @property
    def uses(self) -> int:
        """Two dimensions make one use of QAM."""
        return 2 if self.quadrature else 1

    @property
    def _law(self) -> Noise:
        return Noise(self.noise, 10 ** (-self.snr_db / 10))

    @property
    def _bits(self) -> np.ndarray:
        """The bits of each point's label, least significant first, (points, bits)."""
        index = np.arange(2**self.bits_per_dimension)
        label = index ^ (index >> 1) if self.labeling == "gray" else index
        return (label[:, None] >> np.arange(self.bits_per_dimension)) & 1

    def _likelihoods(self, y: Any) -> Any:
        """The decoder's log-likelihoods of all points at real y, (..., points)."""
        variance = self._law.variance * self.variance_ratio_hat
        points = namespace(y).asarray(self.gain_hat * amplitudes(self.bits_per_dimension))
        return -((y[..., None] - points) ** 2) / (2 * variance)

    def _bit_scores(self, y: Any) -> Any:
        """The metric of each value of each bit at real y, (..., bits, 2)."""
        member = self._bits.T[:, None] == np.arange(2)[:, None]  # (bits, 2, points)
        terms = namespace(y).where(member, self._likelihoods(y)[..., None, None, :], -np.inf)
        return log_sum_exp(terms) if self.metric == "bicm" else terms.max(axis=-1)

    def _point_scores(self, y: Any) -> Any:
        """The score of every point at real y, (..., points)."""
        if self.metric == "symbol":
            return self._likelihoods(y)
        # Bits are independent and uniform, so the sum over bits has the rates of the parallel bit channels.
        bits = self._bits
        return self._bit_scores(y)[..., np.arange(bits.shape[1]), bits].sum(axis=-1)

    def _grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Nodes of y, and P(x) p(y | x) dy on them, (points, nodes)."""
        points, law = amplitudes(self.bits_per_dimension), self._law
        deviation = math.sqrt(law.variance)
        reach = 34 if self.noise == "laplace" else 10
        if self.noise.startswith("mix"):
            deviation, reach = float(np.max(law.edges(0.0))) / 12, 12
        low, high = points[0] - reach * deviation, points[-1] + reach * deviation
        edges = [uniform_edges(low, high, 0.5 * math.sqrt(law.variance)), points]
        if law.kind == "uniform":
            edges += [points - law.width, points + law.width]
        if self.metric == "maxlog":
            # Kinks lie where two points of one subset are equally likely.
            edges.append((self.gain_hat * (points[:, None] + points) / 2).ravel())
        y, measure = panels(np.concatenate(edges))
        offset = y - points[:, None]
        match law.kind:
            case "laplace":
                density = np.exp(-np.abs(offset) / law.width) / (2 * law.width)
            case "uniform":
                density = (np.abs(offset) < law.width) / (2 * law.width)
            case _:
                weights, _, variances = law._mixture
                spread = np.where(weights > 0, variances, 1)
                terms = np.exp(-(offset[..., None] ** 2) / (2 * spread)) / np.sqrt(2 * np.pi * spread)
                density = terms @ weights
        joint = density * measure / len(points)
        kept = joint.sum(0) > 1e-20
        return y[kept], joint[:, kept]

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """One dimension's joint law of point and quadrature node, and the scores."""
        y, joint = self._grid()
        return joint, self._point_scores(y).T

    def extras(self, rates: ChannelRates) -> dict[str, Any]:
        """`per_bit_level`: each bit's part of the GMI of one dimension, least significant first (bit metrics)."""
        if self.metric == "symbol":
            return {}
        y, joint = self._grid()
        bits = self._bits
        scores = self._bit_scores(y)  # (nodes, bits, 2)
        levels = []
        with jax.enable_x64(True):
            for level in range(bits.shape[1]):
                table = np.stack([joint[bits[:, level] == value].sum(0) for value in (0, 1)])
                shape = (1, 8, round_up(table.shape[1], LARGE))
                padded = pad_to(table[None], shape), pad_to(scores[None, :, level].swapaxes(1, 2), shape)
                scale = np.full(8, rates.gmi_scale)
                levels.append(float(curve_exact(*padded, scale, over="inputs")[0]))
        return {"per_bit_level": tuple(levels)}

    def sample(self, key: Array, n: int) -> tuple[Array, Array]:
        """N independent pairs (x, y): complex for QAM, real for PAM."""
        key_x, key_noise = jax.random.split(key)
        count = n * self.uses
        points = jnp.asarray(amplitudes(self.bits_per_dimension))
        x = points[jax.random.randint(key_x, (count,), 0, len(points))]
        y = x + self._law.sample(key_noise, count)
        if not self.quadrature:
            return x, y
        return jax.lax.complex(x[:n], x[n:]), jax.lax.complex(y[:n], y[n:])

    def score(self, x: ArrayLike, y: ArrayLike) -> Array:
        """The metric of x at y; the shapes broadcast, and the two dimensions add."""
        x, y = jnp.asarray(x), jnp.asarray(y)
        if self.quadrature:
            real = self._score_dimension(jnp.real(x), jnp.real(y))
            return real + self._score_dimension(jnp.imag(x), jnp.imag(y))
        return self._score_dimension(x, y)

    def _score_dimension(self, x: Array, y: Array) -> Array:
        index = jnp.argmin(jnp.abs(x[..., None] - jnp.asarray(amplitudes(self.bits_per_dimension))), axis=-1)
        scores = self._point_scores(y)
        shape = jnp.broadcast_shapes(index.shape, y.shape)
        index, scores = jnp.broadcast_to(index, shape), jnp.broadcast_to(scores, (*shape, scores.shape[-1]))
        return jnp.take_along_axis(scores, index[..., None], axis=-1)[..., 0]

    def sample_label_scores(
        self, key: Array, n: int
    ) -> tuple[Float[Array, "n k"], Int[Array, " n"], Float[Array, " k"]]:
        """Scores of every symbol for n received y, the sent symbol, and the uniform prior.

        The symbols are the inputs here: exact means over them estimate `gmi`, not `gmi_messages`.
        """
        x, y = self.sample(key, n)
        points = jnp.asarray(amplitudes(self.bits_per_dimension))
        if self.quadrature:
            symbols = jax.lax.complex(*(axis.ravel() for axis in jnp.meshgrid(points, points, indexing="ij")))
        else:
            symbols = points
        labels = jnp.argmin(jnp.abs(x[:, None] - symbols), axis=-1)
        return self.score(symbols, y[:, None]), labels, jnp.full(symbols.shape, 1 / symbols.size)


@dataclasses.dataclass(frozen=True)
class RotatedQAM(TableChannel, FiniteMessages):
    """Square QAM of unit energy with an unknown rotation: Y = gain e^{j phase} X + N, scored by -|y - x|^2 / N0.

    Attributes:
      bits_per_dimension: of the label of a point; the alphabet has 4^bits points.
      snr_db: Es / N0, N complex of variance N0.
      phase_degrees: the rotation.
      gain: the channel's gain, unknown to the decoder too.
    """

    bits_per_dimension: int
    snr_db: float
    phase_degrees: float
    gain: float = 1.0

    def __post_init__(self) -> None:
        amplitudes(self.bits_per_dimension)

    @property
    def _noise_variance(self) -> float:
        return 10 ** (-self.snr_db / 10)

    @property
    def _points(self) -> np.ndarray:
        points = amplitudes(self.bits_per_dimension) / np.sqrt(2)
        return (points[:, None] + 1j * points).ravel()

    @property
    def _centres(self) -> np.ndarray:
        return np.asarray(self.gain * np.exp(1j * np.deg2rad(self.phase_degrees)) * self._points)

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """The joint law of point and grid node, and the scores."""
        deviation = math.sqrt(self._noise_variance / 2)
        reach = np.abs(np.real(self._centres)).max() + 8.5 * deviation
        # The log-mean has its poles where two neighbours tie, pi variance / (s distance) off the real plane.
        poles = np.pi * deviation**2 / (2 * np.abs(self._points[1] - self._points[0]))
        nodes, weights = trapezoid(-reach, reach, min(0.25 * deviation, poles / 3.5), limit=1024)
        y = (nodes[:, None] + 1j * nodes).ravel()
        measure = (weights[:, None] * weights).ravel()
        centres, n0 = self._centres, self._noise_variance
        y, measure = (array[np.min(np.abs(y[:, None] - centres), axis=1) < 8.5 * deviation] for array in (y, measure))
        joint = np.exp(-(np.abs(y - centres[:, None]) ** 2) / n0) / (np.pi * n0) * measure / len(centres)
        return joint, -(np.abs(y - self._points[:, None]) ** 2) / n0

    def sample(self, key: Array, n: int) -> tuple[Array, Array]:
        """N independent pairs (x, y), complex."""
        key_x, key_noise = jax.random.split(key)
        index = jax.random.randint(key_x, (n,), 0, len(self._points))
        parts = math.sqrt(self._noise_variance / 2) * jax.random.normal(key_noise, (2, n))
        return jnp.asarray(self._points)[index], jnp.asarray(self._centres)[index] + jax.lax.complex(*parts)

    def score(self, x: ArrayLike, y: ArrayLike) -> Array:
        """-|y - x|^2 / N0; the shapes broadcast."""
        return -(jnp.abs(jnp.asarray(y) - jnp.asarray(x)) ** 2) / self._noise_variance

    def sample_label_scores(
        self, key: Array, n: int
    ) -> tuple[Float[Array, "n k"], Int[Array, " n"], Float[Array, " k"]]:
        """Scores of every symbol for n received y, the sent symbol, and the uniform prior.

        The symbols are the inputs here: exact means over them estimate `gmi`, not `gmi_messages`.
        """
        x, y = self.sample(key, n)
        symbols = jnp.asarray(self._points)
        labels = jnp.argmin(jnp.abs(x[:, None] - symbols), axis=-1)
        return self.score(symbols, y[:, None]), labels, jnp.full(symbols.shape, 1 / symbols.size)
