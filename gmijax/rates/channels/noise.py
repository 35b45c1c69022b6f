"""Laws of additive noise: densities after smoothing, entropies, samples."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array

from gmijax.rates.channels._quadrature import panels


@dataclasses.dataclass(frozen=True)
class Noise:
    """A centred law of variance `variance`.

    Attributes:
      kind: "gaussian", "uniform", "laplace", "rademacher" (two values), or "mix:eps:r", the mixture
        (1 - eps) N(0, v) + eps N(0, r v).
      variance: of the law, > 0.
    """

    kind: str
    variance: float

    def __post_init__(self) -> None:
        if not self.variance > 0:
            raise ValueError(f"variance must be positive; got {self.variance}.")
        if self.kind not in ("gaussian", "uniform", "laplace", "rademacher"):
            try:
                name, share, ratio = self.kind.split(":")
                valid = name == "mix" and 0 <= float(share) <= 1 and float(ratio) > 0
            except ValueError:
                valid = False
            if not valid:
                raise ValueError(
                    "kind must be 'gaussian', 'uniform', 'laplace', 'rademacher' or 'mix:eps:r' with eps in [0, 1] "
                    f"and r > 0; got {self.kind!r}."
                )

    @property
    def _mixture(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Weights, means and variances of a law that is a finite mixture of (possibly degenerate) Gaussians."""
        if self.kind == "rademacher":
            deviation = math.sqrt(self.variance)
            return np.array([0.5, 0.5]), np.array([-deviation, deviation]), np.zeros(2)
        share, ratio = (0.0, 1.0) if self.kind == "gaussian" else map(float, self.kind.split(":")[1:])
        base = self.variance / (1 - share + share * ratio)
        return np.array([1 - share, share]), np.zeros(2), np.array([base, ratio * base])

    @property
    def width(self) -> float:
        """Half the support of a uniform law, the scale of a Laplace law, else the standard deviation."""
        return math.sqrt({"uniform": 3, "laplace": 0.5}.get(self.kind, 1) * self.variance)

    def log_smoothed_density(self, point: Array, variance: Array) -> Array:
        """Log density at `point` of the noise plus an independent N(0, variance); the shapes broadcast."""
        spread = jnp.sqrt(variance)
        size = jnp.abs(point)
        if self.kind == "uniform":
            inner = log_ndtr((self.width - size) / spread)
            outer = log_ndtr(-(self.width + size) / spread)
            return inner + jnp.log1p(-jnp.exp(outer - inner)) - math.log(2 * self.width)
        if self.kind == "laplace":
            ratio = spread / self.width
            left = -size / self.width + log_ndtr(size / spread - ratio)
            right = size / self.width + log_ndtr(-size / spread - ratio)
            return jnp.logaddexp(left, right) + ratio**2 / 2 - math.log(2 * self.width)
        weights, means, variances = self._mixture
        total = jnp.asarray(variances) + variance[..., None]
        gap = point[..., None] - means
        terms = -0.5 * (gap**2 / total + jnp.log(2 * jnp.pi * total))
        return jax.nn.logsumexp(terms, axis=-1, b=weights)

    def entropy(self) -> float:
        """Differential entropy in nats; -inf for two values."""
        match self.kind:
            case "gaussian":
                return 0.5 * math.log(2 * math.pi * math.e * self.variance)
            case "uniform":
                return math.log(2 * self.width)
            case "laplace":
                return 1 + math.log(2 * self.width)
            case "rademacher":
                return -math.inf
        weights, _, variances = self._mixture
        spreads = np.sqrt(variances[weights > 0])
        nodes, measure = panels(np.concatenate([spread * np.arange(-12, 12.1, 0.5) for spread in spreads]))
        with np.errstate(divide="ignore"):
            terms = np.log(weights) - 0.5 * (nodes[:, None] ** 2 / variances + np.log(2 * np.pi * variances))
        log_density = np.logaddexp(terms[:, 0], terms[:, 1])
        return float(-np.sum(measure * np.exp(log_density) * log_density))

    def fourth_moment(self) -> float:
        """E N^4."""
        factors = {"gaussian": 3.0, "uniform": 1.8, "laplace": 6.0, "rademacher": 1.0}
        if self.kind in factors:
            return factors[self.kind] * self.variance**2
        weights, _, variances = self._mixture
        return float(3 * weights @ variances**2)

    def edges(self, spread: float) -> np.ndarray:
        """Panel edges for integrals over the noise plus N(0, spread^2)."""
        fine = spread * np.arange(-12, 12.1, 0.5)
        if self.kind == "uniform":
            inside = self.width * np.linspace(-1, 1, 33)
            return np.concatenate([inside, fine - self.width, fine + self.width])
        if self.kind == "laplace":
            return np.concatenate([self.width * np.arange(-45, 45.1, 0.5), fine])
        weights, means, variances = self._mixture
        spreads = np.sqrt(variances + spread**2)
        grids = means[:, None] + spreads[:, None] * np.arange(-12, 12.1, 0.5)
        return grids[weights > 0].ravel()

    def sample(self, key: Array, n: int) -> Array:
        """N independent draws."""
        if self.kind == "uniform":
            return jax.random.uniform(key, (n,), minval=-self.width, maxval=self.width)
        if self.kind == "laplace":
            return self.width * jax.random.laplace(key, (n,))
        weights, means, variances = self._mixture
        key_part, key_value = jax.random.split(key)
        part = jax.random.categorical(key_part, jnp.log(jnp.asarray(weights)), shape=(n,))
        return jnp.asarray(means)[part] + jnp.sqrt(jnp.asarray(variances))[part] * jax.random.normal(key_value, (n,))
