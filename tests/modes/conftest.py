"""Laws with chosen eigenmodes."""

import numpy as np
import pytest


class Law:
    """Gaussian modal and text laws that share the modes `directions` (d, d), with chosen variances and alphas."""

    def __init__(self, d, ratio=0.7, seed=0):
        rng = np.random.default_rng(seed)
        self.d = d
        self.directions = np.linalg.qr(rng.normal(size=(d, d)))[0]
        self.variances = 4.0 * ratio ** np.arange(d)
        self.alphas = np.where(np.arange(d) % 2 == 0, 1.5, 0.4)
        self.means = rng.normal(size=(2, d))

    def modal(self, n, rng):
        return rng.normal(size=(n, self.d)) * np.sqrt(self.variances) @ self.directions + self.means[0]

    def text(self, m, rng):
        spread = np.sqrt(self.alphas * self.variances)
        return rng.normal(size=(m, self.d)) * spread @ self.directions + self.means[1]


@pytest.fixture
def law():
    """Makes a `Law`."""
    return Law


@pytest.fixture
def pieces():
    """A chunk source that gives the rows of an array in pieces."""

    def make(x, size):
        return lambda: (x[start : start + size] for start in range(0, len(x), size))

    return make
