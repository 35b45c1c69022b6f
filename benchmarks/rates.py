"""`rates.gmi` and its bootstrap against numpy + scipy, and against a good per-bootstrap Newton solve.

Run: python benchmarks/rates.py [--quick]
"""

import sys

from _bench import measure, once, report, row  # first: it pins the process

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from gmijax import rates

DRAWS = 1000


def scores_of(n: int, d: int = 8, noise: float = 1.5) -> np.ndarray:
    """-|y - z|^2 / 2 of Gaussian pairs: a decoder with a wrong variance, so that s* is not 1."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, d))
    y = z + noise * rng.normal(size=(n, d))
    return -0.5 * ((y**2).sum(1)[:, None] - 2 * y @ z.T + (z**2).sum(1)[None])


def scipy_point(scores: np.ndarray) -> float:
    """The plain way: scipy's bounded search over the log-mean-exp of the whole matrix."""
    own, log_n = np.diag(scores).mean(), np.log(len(scores))

    def negative(s):
        return -(s * own - (logsumexp(s * scores, axis=1) - log_n).mean())

    return -minimize_scalar(negative, bounds=(0, 5), method="bounded").fun


def scipy_replicate(scores: np.ndarray, weights: np.ndarray) -> float:
    """The plain way for one weighted replicate."""
    own, log_weights, total = np.diag(scores), np.log(weights), weights.sum()

    def negative(s):
        terms = s * own - logsumexp(s * scores + log_weights[None, :], axis=1) + np.log(total)
        return -(weights @ terms) / total

    return -minimize_scalar(negative, bounds=(0, 5), method="bounded").fun


def newton_replicate(centred: np.ndarray, weights: np.ndarray, start: float) -> float:
    """A good per-replicate solve: row maxima taken once, Newton from the sample's own optimum, float64."""
    own, total, s = np.diag(centred), weights.sum(), start
    for _ in range(2):
        tilt = np.exp(s * centred)
        zeroth, first = tilt @ weights, (tilt * centred) @ weights
        second = (tilt * centred * centred) @ weights
        mean = first / zeroth
        s += (weights @ (own - mean)) / (weights @ (second / zeroth - mean**2))
    return (weights @ (s * own - np.log(np.exp(s * centred) @ weights / total))) / total


def main() -> None:
    n = 512 if "--quick" in sys.argv else 2000
    scores = scores_of(n)
    device = jnp.asarray(scores, jnp.float32)
    rows = []

    peer, seconds = once(lambda: scipy_point(scores))
    point = rates.gmi(device, method="include", scale="in-sample")
    ours = measure(lambda: rates.gmi(device), repeats=7)
    error = abs(float(point.in_sample) - peer)
    rows.append(row(f"gmi, everything reported, n = {n}", ours, "numpy + scipy.optimize, point only", seconds, error))

    key = jax.random.key(0)
    ours = measure(lambda: rates.gmi_bootstrap(device, draws=DRAWS, key=key), repeats=3)
    boot = rates.gmi_bootstrap(device, draws=DRAWS, key=key)
    weights = np.asarray(jax.random.exponential(key, (DRAWS, n), jnp.float32), np.float64)
    centred = scores - scores.max(axis=1, keepdims=True)
    naive, good = [], []
    errors = []
    for k in range(5):
        value, seconds = once(lambda k=k: scipy_replicate(scores, weights[k]))
        naive.append(seconds)
        errors.append(abs(value - float(boot.draws[k])))
    for k in range(12):
        value, seconds = once(lambda k=k: newton_replicate(centred, weights[k], float(point.scale)))
        good.append(seconds)
        errors.append(abs(value - float(boot.draws[k])))
    for name, times in (("scipy.optimize a replicate", naive), ("good Newton a replicate", good)):
        total = DRAWS * float(np.median(times))
        what = f"gmi + {DRAWS} bootstraps, n = {n}"
        rows.append(row(what, ours, name, total, max(errors), f"{len(times)} of {DRAWS} measured"))
    report("Rates", rows, "benchmark_rates.json")


if __name__ == "__main__":
    main()
