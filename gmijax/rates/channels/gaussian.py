"""Gaussian inputs through a linear channel, decoded by a wrong Gaussian likelihood."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike

from gmijax.rates._calibration import Problem, solve
from gmijax.rates._finite import Over
from gmijax.rates._scale import Curve, maximise_scale
from gmijax.rates.channels._base import LARGE, Channel, ChannelRates, pad_to, round_up
from gmijax.rates.channels._quadrature import panels
from gmijax.rates.channels.noise import Noise

_DIRECTIONS = ("inputs", "messages")


def _check_over(over: str) -> None:
    if over not in _DIRECTIONS:
        raise ValueError(f"over must be 'inputs' or 'messages'; got {over!r}.")


# --- I(s) of a Gaussian decoder: moments only ---------------------------------------------------------------------


def _moment_curve(values, powers, loss, scale):
    """I, I', I'' of 1/2 sum log(1 + s b) + 1/2 sum s v / (1 + s b) - s d / 2 (PROOFS, closed forms)."""
    shrink = 1 / (1 + scale * values)
    return Curve(
        value=0.5 * jnp.sum(jnp.log1p(scale * values) + scale * powers * shrink) - 0.5 * scale * loss,
        slope=0.5 * jnp.sum(values * shrink + powers * shrink**2) - 0.5 * loss,
        curvature=-0.5 * jnp.sum((values * shrink) ** 2 + 2 * values * powers * shrink**3),
    )


@jax.jit
def _moment_rate(values, powers, loss, zero_test):
    """The best scale, the GMI and I(1) of a `_moment_curve`."""
    curve = functools.partial(_moment_curve, values, powers, loss)
    limit = 0.5 * jnp.sum(jnp.where(values > 0, 0, powers)) - 0.5 * loss
    at_zero = curve(jnp.zeros_like(loss))._replace(slope=zero_test)
    # Only a decoder that hits every y exactly has no finite scale; rounding must not look like it.
    limit = jnp.where(jnp.abs(limit) <= 1e-13 * loss, jnp.where(loss > 0, -1e-300, 0), limit)
    scale = maximise_scale(curve, at_zero, limit).scale
    best = curve(jnp.where(jnp.isinf(scale), 1, scale)).value
    return scale, jnp.where(jnp.isinf(scale), jnp.inf, jnp.maximum(best, 0)), curve(jnp.ones_like(loss)).value


_moment_values = jax.jit(
    lambda values, powers, loss, scales: lax.map(lambda scale: _moment_curve(values, powers, loss, scale).value, scales)
)


@jax.jit
def _vector_lm(gains, target):
    """LM rate of a Gaussian pair: canonical correlations rho with rho / (1 - rho^2) = lambda m, sum m rho = target."""

    def correlations(scale):
        return 2 * scale * gains / (1 + jnp.sqrt(1 + 4 * (scale * gains) ** 2))

    def curve(scale):
        rho = correlations(scale)
        # The dual's value is not needed by the solver; d rho / d scale from the defining equation.
        slope = gains * (1 - rho**2) ** 2 / (1 + rho**2)
        return Curve(jnp.zeros_like(scale), target - jnp.sum(gains * rho), -jnp.sum(gains * slope))

    zero = jnp.zeros_like(target)
    scale = maximise_scale(curve, curve(zero), target - jnp.sum(gains)).scale
    rho = correlations(jnp.where(jnp.isinf(scale), 1, scale))
    value = -0.5 * jnp.sum(jnp.log1p(-(rho**2)))
    return scale, jnp.where(jnp.isinf(scale), jnp.inf, value)


# --- scalar -------------------------------------------------------------------------------------------------------


def _messages_curve(noise, points, weights, gain_hat, variance_hat, signal, loss, scale):
    """I(s) over messages: exp(s l) is a Gaussian in y, so its mean is a smoothed density of the noise."""
    variance = variance_hat / scale
    log_density = noise.log_smoothed_density(gain_hat * points, variance + signal)
    log_mean = 0.5 * jnp.log(2 * jnp.pi * variance) + log_density
    return -0.5 * scale * loss / variance_hat - jnp.sum(weights * log_mean)


@functools.partial(jax.jit, static_argnames="noise")
def _messages_rate(noise, points, weights, gain_hat, variance_hat, signal, loss, zero_test, curvature):
    value = functools.partial(_messages_curve, noise, points, weights, gain_hat, variance_hat, signal, loss)
    slope = jax.grad(value)

    def curve(scale):
        slope_here, curvature_here = jax.value_and_grad(slope)(scale)
        return Curve(jnp.zeros_like(scale), slope_here, curvature_here)

    at_zero = Curve(jnp.zeros_like(loss), zero_test, curvature)
    scale = maximise_scale(curve, at_zero, -loss / (2 * variance_hat)).scale
    positive = scale > 0
    best = jnp.where(positive, value(jnp.where(positive, scale, 1)), 0)
    return scale, jnp.maximum(best, 0), value(jnp.ones_like(loss))


@functools.partial(jax.jit, static_argnames="noise")
def _messages_values(noise, points, weights, gain_hat, variance_hat, signal, loss, scales):
    value = functools.partial(_messages_curve, noise, points, weights, gain_hat, variance_hat, signal, loss)
    safe = jnp.where(scales > 0, scales, 1)
    return jnp.where(scales > 0, lax.map(value, safe), 0)


@jax.jit
def _bilinear_lm(x, x_weights, y, y_weights, correlation):
    """LM rate of the score x y: the Schroedinger problem with a bilinear cost, biases on the nodes of x."""
    count = x.shape[0]
    used = x_weights > 0
    problem = Problem(
        scores=(y[:, None] * x)[None],
        allowed=jnp.broadcast_to(used, (1, y.shape[0], count)),
        rows=y_weights[None],
        columns=x_weights[None],
        mean_score=correlation,
        offset=jnp.where(used, jnp.log(jnp.where(used, x_weights, 1)), 0)[None],
        ridge=jnp.zeros_like(correlation),
    )
    solution = solve(problem)
    return solution.scale, -jnp.sum(x_weights * problem.offset[0]) - solution.loss


@dataclasses.dataclass(frozen=True)
class ScalarGaussian(Channel):
    """X ~ N(0, P), Y = h X + N, scored by log N(y; h_hat x, v_hat) up to its constant.

    GMI depends on the noise law through its variance alone (Lapidoth 1996, doi:10.1109/18.532892); I(X; Y), the LM
    rate and the rates over messages do not.

    Attributes:
      gain: h.
      power: P > 0.
      noise: the law of N.
      gain_hat: the decoder's gain.
      variance_hat: the decoder's noise variance, > 0.
    """

    gain: float
    power: float
    noise: Noise
    gain_hat: float
    variance_hat: float

    def __post_init__(self) -> None:
        for name in ("power", "variance_hat"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}.")

    @property
    def _signal(self) -> float:
        return self.gain**2 * self.power

    @property
    def _received(self) -> float:
        return self._signal + self.noise.variance

    @property
    def _loss(self) -> float:
        """E (Y - h_hat X)^2."""
        return (self.gain - self.gain_hat) ** 2 * self.power + self.noise.variance

    def _moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The arguments of `_moment_curve`, over inputs."""
        values = np.array([self.gain_hat**2 * self.power / self.variance_hat])
        return values, np.array([self._received / self.variance_hat]), np.array(self._loss / self.variance_hat)

    def _messages_arguments(self) -> tuple:
        points = np.linspace(-10, 10, 2049)
        weights = np.exp(-(points**2) / 2)
        # In units of the noise, so that its law alone decides what is compiled.
        unit = self.noise.variance
        return (
            Noise(self.noise.kind, 1.0),
            math.sqrt(self.power / unit) * points,
            weights / weights.sum(),
            float(self.gain_hat),
            self.variance_hat / unit,
            self._signal / unit,
            self._loss / unit,
        )

    def rates(self) -> ChannelRates:
        """All known rates; equation 3 of the paper for Gaussian noise only."""
        correlation = self.gain * self.power / math.sqrt(self.power * self._received)
        zero_test = self.gain * self.gain_hat * self.power / self.variance_hat
        offset = self.gain_hat**2 * self.power
        fourth = 3 * self._signal**2 + 6 * self._signal * self.noise.variance + self.noise.fourth_moment()
        variance = fourth - self._received**2 + 4 * offset * self._received
        with jax.enable_x64(True):
            scale, gmi, at_one = _moment_rate(*self._moments(), np.array(zero_test))
            messages_scale, messages, messages_at_one = _messages_rate(
                *self._messages_arguments(), zero_test, -variance / (4 * self.variance_hat**2)
            )
            information, lm, lm_scale = self._information_and_lm(correlation)
        if zero_test <= 0:
            scale = messages_scale = lm = lm_scale = gmi = messages = 0.0
        paper = math.nan
        if self.noise.kind == "gaussian":
            covariance, gain, noise, gain_hat, noise_hat = (
                np.full((1, 1), value)
                for value in (self.power, self.gain, self.noise.variance, self.gain_hat, self.variance_hat)
            )
            paper = _paper_rate(covariance, gain, noise, gain_hat, noise_hat, np.zeros(1))
        return ChannelRates(
            mutual_information=information,
            gmi=float(gmi),
            gmi_scale=float(scale),
            gmi_at_one=float(at_one),
            gmi_messages=float(messages),
            gmi_messages_scale=float(messages_scale),
            gmi_messages_at_one=float(messages_at_one),
            lm_rate=float(lm),
            lm_scale=float(lm_scale),
            zero_test=zero_test,
            conditional_gmi_paper=paper,
            extras={"best_gain_gmi": -0.5 * math.log1p(-(correlation**2))},
        )

    def _information_and_lm(self, correlation: float) -> tuple[float, float, float]:
        """I(X; Y), the LM rate for a gain of the right sign, and its scale."""
        if correlation == 0:
            return 0.0, 0.0, 0.0
        unit = self.variance_hat / (abs(self.gain_hat) or 1) / math.sqrt(self.power * self._received)
        if self.noise.kind == "gaussian":
            rate = -0.5 * math.log1p(-(correlation**2))
            return rate, rate, unit * abs(correlation) / (1 - correlation**2)
        spread = math.sqrt(self._signal)
        y, measure = panels(self.noise.edges(spread))
        log_density = np.asarray(self.noise.log_smoothed_density(jnp.asarray(y), jnp.asarray(self._signal)))
        weights = measure * np.exp(log_density)
        kept = weights > 1e-30
        information = -float(weights[kept] @ log_density[kept]) - self.noise.entropy()
        # Nodes finer than the law of X given Y: the trapezoid rule is then exact to rounding.
        step = min(0.5, 0.6 * math.sqrt(1 - correlation**2))
        x = np.arange(-math.ceil(8.5 / step), math.ceil(8.5 / step) + 1) * step
        x_weights = np.exp(-(x**2) / 2)
        rows, columns = round_up(int(kept.sum()), LARGE), -(-x.size // 128) * 128
        scale, lm = _bilinear_lm(
            pad_to(x, (columns,)),
            pad_to(x_weights / x_weights.sum(), (columns,)),
            pad_to(y[kept] / math.sqrt(self._received), (rows,)),
            pad_to(weights[kept] / weights[kept].sum(), (rows,)),
            abs(correlation),
        )
        return information, float(lm), unit * float(scale)

    def curve(self, scales: ArrayLike, over: Over = "inputs") -> np.ndarray:
        """I(s) in nats at finite scales s >= 0, float64, of the shape of `scales`."""
        _check_over(over)
        scales = np.asarray(scales, float)
        padded = pad_to(scales.ravel(), (round_up(max(scales.size, 1)),))
        with jax.enable_x64(True):
            if over == "inputs":
                values = _moment_values(*self._moments(), padded)
            else:
                values = _messages_values(*self._messages_arguments(), padded)
            return np.asarray(values)[: scales.size].reshape(scales.shape)

    def sample(self, key: Array, n: int) -> tuple[Array, Array]:
        """N independent pairs (x, y), each (n,)."""
        key_x, key_noise = jax.random.split(key)
        x = math.sqrt(self.power) * jax.random.normal(key_x, (n,))
        return x, self.gain * x + self.noise.sample(key_noise, n)

    def score(self, x: ArrayLike, y: ArrayLike) -> Array:
        """-(y - h_hat x)^2 / (2 v_hat); the shapes broadcast."""
        return -((jnp.asarray(y) - self.gain_hat * jnp.asarray(x)) ** 2) / (2 * self.variance_hat)


# --- vector -------------------------------------------------------------------------------------------------------


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def _paper_rate(covariance, gain, noise, gain_hat, noise_hat, mean) -> float:
    """Equation 3 of the paper for Gaussian laws: Z' from the posterior, of covariance K, at s = 1."""
    received = gain @ covariance @ gain.T + noise
    wiener = np.linalg.solve(received, gain @ covariance).T
    posterior = covariance - wiener @ gain @ covariance
    shift = (gain - gain_hat) @ mean
    loss = (gain - gain_hat) @ covariance @ (gain - gain_hat).T + noise + np.outer(shift, shift)
    spread = gain_hat @ posterior @ gain_hat.T
    residual = np.eye(len(noise)) - gain_hat @ wiener
    residual = residual @ received @ residual.T + np.outer(shift, shift)
    _, log_ratio = np.linalg.slogdet(np.eye(len(noise)) + np.linalg.solve(noise_hat, spread))
    return float(
        0.5 * log_ratio
        + 0.5 * np.trace(np.linalg.solve(noise_hat + spread, residual))
        - 0.5 * np.trace(np.linalg.solve(noise_hat, loss))
    )


@dataclasses.dataclass(frozen=True, eq=False)
class VectorGaussian(Channel):
    """Z ~ N(mean, Sigma) in R^d, Y = A Z + N(0, S), scored by log N(y; A_hat z, S_hat) up to its constant.

    A decoder that reads a coordinate subspace correctly has GMI = I(subspace; Y) at s = 1; directions that it
    ignores cost what they carry, spurious weights and mean shifts in directions that it reads cost more. The LM rate
    does not see the mean shift (PROOFS, closed forms).

    Attributes:
      mean: (d,).
      covariance: Sigma, (d, d), positive definite.
      gain: A, (m, d).
      noise_covariance: S, (m, m), positive definite.
      gain_hat: A_hat, (m, d).
      noise_covariance_hat: S_hat, (m, m), positive definite.
      subspace: k, such that the first k coordinates are those the decoder reads; adds I(first k; Y) to the extras.
    """

    mean: ArrayLike
    covariance: ArrayLike
    gain: ArrayLike
    noise_covariance: ArrayLike
    gain_hat: ArrayLike
    noise_covariance_hat: ArrayLike
    subspace: int | None = None

    def __post_init__(self) -> None:
        names = [field.name for field in dataclasses.fields(self) if field.name != "subspace"]
        arrays = {name: np.asarray(getattr(self, name), float) for name in names}
        m, d = arrays["gain"].shape if arrays["gain"].ndim == 2 else (0, 0)
        expected = dict(zip(names, [(d,), (d, d), (m, d), (m, m), (m, d), (m, m)], strict=True))
        for name, array in arrays.items():
            if array.shape != expected[name] or not array.size:
                raise ValueError(f"{name} must be {expected[name]} for a gain (m, d) = {(m, d)}; got {array.shape}.")
            if not np.all(np.isfinite(array)):
                raise ValueError(f"{name} must be finite; got nan or inf.")
            if "covariance" in name and np.linalg.eigvalsh((array + array.T) / 2)[0] <= 0:
                raise ValueError(f"{name} must be positive definite; its least eigenvalue is not positive.")
            object.__setattr__(self, name, array)
        if self.subspace is not None and not 0 <= self.subspace <= d:
            raise ValueError(f"subspace must lie in 0..{d}; got {self.subspace}.")

    def _arrays(self) -> tuple[np.ndarray, ...]:
        fields = (self.covariance, self.gain, self.noise_covariance, self.gain_hat, self.noise_covariance_hat)
        return tuple(np.asarray(field) for field in (*fields, self.mean))

    @functools.cached_property
    def _moments(self) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The arguments of `_moment_curve` in each direction, in the basis that diagonalises both forms."""
        covariance, gain, noise, gain_hat, noise_hat, mean = self._arrays()
        error = gain - gain_hat
        shift = np.outer(error @ mean, error @ mean)
        decoded = gain_hat @ covariance @ gain_hat.T
        received = gain @ covariance @ gain.T + noise
        lower = np.linalg.cholesky(noise_hat)

        def whiten(form):
            return np.linalg.solve(lower, np.linalg.solve(lower, form).T)

        loss = np.array(np.trace(whiten(error @ covariance @ error.T + noise + shift)))

        def moments(of_alternatives, power):
            values, vectors = np.linalg.eigh(whiten(of_alternatives))
            # Directions that the decoder ignores have eigenvalue 0, and rounding must not make it negative.
            values = np.where(values > 1e-13 * max(values[-1], 0), values, 0)
            return values, np.einsum("ik,ij,jk->k", vectors, whiten(power), vectors, optimize=True), loss

        return {
            "inputs": moments(decoded, received + shift),
            "messages": moments(received, decoded + shift),
        }

    def _padded_moments(self, over: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, powers, loss = self._moments[over]
        size = (-(-values.size // 512) * 512,)
        return pad_to(values, size), pad_to(powers, size), loss

    def rates(self) -> ChannelRates:
        """All known rates, in closed form."""
        covariance, gain, noise, gain_hat, noise_hat, _ = self._arrays()
        signal = gain @ covariance @ gain.T
        received = signal + noise
        agreement = np.linalg.solve(noise_hat, gain_hat @ covariance @ gain.T)
        zero_test = float(np.trace(agreement))
        if abs(zero_test) <= 1e-14 * np.abs(agreement).sum():
            zero_test = 0.0
        root = _symmetric_root(received) @ np.linalg.solve(noise_hat, gain_hat @ np.linalg.cholesky(covariance))
        gains = np.linalg.svd(root, compute_uv=False)
        gains = pad_to(gains, (-(-gains.size // 512) * 512,))
        with jax.enable_x64(True):
            inputs = _moment_rate(*self._padded_moments("inputs"), zero_test)
            messages = _moment_rate(*self._padded_moments("messages"), zero_test)
            lm_scale, lm = _vector_lm(gains, np.array(zero_test)) if zero_test > 0 else (0.0, 0.0)
        log_received = np.linalg.slogdet(received)[1]
        extras: dict[str, Any] = {}
        if self.subspace is not None:
            read, covered = gain[:, self.subspace :], covariance[self.subspace :, :]
            known = covariance[: self.subspace, : self.subspace]
            cross = covered[:, : self.subspace]
            rest = covered[:, self.subspace :]
            if self.subspace:
                rest = rest - cross @ np.linalg.solve(known, cross.T)
            log_rest = np.linalg.slogdet(read @ rest @ read.T + noise)[1]
            extras["mi_subspace"] = float(0.5 * (log_received - log_rest))
        return ChannelRates(
            mutual_information=float(0.5 * (log_received - np.linalg.slogdet(noise)[1])),
            gmi=float(inputs[1]),
            gmi_scale=float(inputs[0]),
            gmi_at_one=float(inputs[2]),
            gmi_messages=float(messages[1]),
            gmi_messages_scale=float(messages[0]),
            gmi_messages_at_one=float(messages[2]),
            lm_rate=float(lm),
            lm_scale=float(lm_scale),
            zero_test=zero_test,
            conditional_gmi_paper=_paper_rate(*self._arrays()),
            extras=extras,
        )

    def curve(self, scales: ArrayLike, over: Over = "inputs") -> np.ndarray:
        """I(s) in nats at finite scales s >= 0, float64, of the shape of `scales`."""
        _check_over(over)
        scales = np.asarray(scales, float)
        padded = pad_to(scales.ravel(), (round_up(max(scales.size, 1)),))
        with jax.enable_x64(True):
            values = _moment_values(*self._padded_moments(over), padded)
            return np.asarray(values)[: scales.size].reshape(scales.shape)

    def sample(self, key: Array, n: int) -> tuple[Array, Array]:
        """N independent pairs: z (n, d) and y (n, m)."""
        covariance, gain, noise, _, _, mean = map(jnp.asarray, self._arrays())
        key_z, key_noise = jax.random.split(key)
        z = mean + jax.random.normal(key_z, (n, mean.size)) @ jnp.linalg.cholesky(covariance).T
        return z, z @ gain.T + jax.random.normal(key_noise, (n, len(noise))) @ jnp.linalg.cholesky(noise).T

    def score(self, x: ArrayLike, y: ArrayLike) -> Array:
        """-1/2 |y - A_hat z|^2 in the metric of S_hat; axes before the last broadcast."""
        _, _, _, gain_hat, noise_hat, _ = self._arrays()
        whiten = jnp.asarray(np.linalg.inv(np.linalg.cholesky(noise_hat)))
        # Whitened before they meet: a matrix of scores then needs no (rows, columns, m, d) intermediate.
        residual = jnp.asarray(y) @ whiten.T - jnp.asarray(x) @ (whiten @ jnp.asarray(gain_hat)).T
        return -0.5 * jnp.sum(residual**2, axis=-1)
