"""How often the intervals of the distances cover: of W1 by three of its kinds, and of every other distance.

Run: python experiments/distance_coverage.py            prints the tables of docs/distances.md
"""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from gmijax import distances

REPEATS, FRESH = 300, 2000
DRAWS = 100  # half-samples or bootstrap replicates of W1
INTERVALS = ("subsample", "dual", "bootstrap")
SETTINGS = [(n, d, shift) for d in (2, 32) for n in (50, 200) for shift in (0.0, 1.0)]
OTHERS = {
    "gaussian_w2": distances.gaussian_w2,
    "mmd2": partial(distances.mmd2, bandwidth=1.5),
    "mmd2, blocks of 10": partial(distances.mmd2, bandwidth=1.5, estimator="block", block_size=10),
    "energy": distances.energy,
    "sliced_w1": partial(distances.sliced_w1, directions=32),
    "max_sliced_w1": partial(distances.max_sliced_w1, starts=2, iterations=5),
    "sinkhorn": partial(distances.sinkhorn, epsilon=0.5, tolerance=1e-4),
    "sinkhorn_divergence": partial(distances.sinkhorn_divergence, epsilon=0.5, tolerance=1e-4),
}


def laws(number: int, n: int, d: int, shift: float, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of samples of N(0, I) and of N(shift e_1, I / 4), or of one law where the shift is 0; (number, n, d)."""
    x, y = np.random.default_rng(seed).normal(size=(2, number, n, d)).astype(np.float32)
    if shift:
        y = y / 2
        y[..., 0] += shift
    return x, y


def w1_row(n: int, d: int, shift: float) -> str:
    """Coverage of E value, the interval's own claim, by each kind."""
    number, fresh = (REPEATS, 1500) if n == 50 else (100, 300)
    values = [distances.w1_exact(x, y).value for x, y in zip(*laws(fresh, n, d, shift, seed=1), strict=True)]
    truth, scatter = np.mean(values), np.std(values)
    cells = []
    for interval in INTERVALS:
        inside, errors = [], []
        for k, (x, y) in enumerate(zip(*laws(number, n, d, shift, seed=2), strict=True)):
            result = distances.w1(x, y, interval=interval, draws=DRAWS, permutations=0, key=jax.random.key(k))
            inside.append(float(result.interval.lower) <= truth <= float(result.interval.upper))
            errors.append(float(result.standard_error))
        cells.append(f"{np.mean(inside):.3f} ({np.mean(errors) / scatter:.2f})")
    return f"| {d} | {n} | {shift:g} | {truth:.3f} | {scatter:.3f} | {number} | " + " | ".join(cells) + " |"


def other_row(name: str, estimate: Callable[..., distances.Distance], n: int, d: int) -> str:
    """Coverage of E value at a shift of 1; the mean over fresh samples stands for it."""

    def run(number, seed):
        def one(pair_and_key):
            return estimate(*pair_and_key[0], permutations=0, key=pair_and_key[1])

        keys = jax.random.split(jax.random.key(seed), number)  # directions and blocks differ as well
        return jax.jit(lambda *arguments: jax.lax.map(one, arguments))(laws(number, n, d, 1.0, seed=seed), keys)

    truth = float(np.mean(np.asarray(run(FRESH, 3).value, np.float64)))
    result = run(2 * REPEATS, 4)
    inside = np.mean((result.interval.lower <= truth) & (truth <= result.interval.upper))
    ratio = float(np.mean(result.standard_error) / np.std(result.value))
    return f"| {name} | {d} | {n} | {truth:.4f} | {inside:.3f} ({ratio:.2f}) |"


def main() -> None:
    print("| d | n = m | shift | E value | its scatter | repeats | " + " | ".join(INTERVALS) + " |")
    print("|---|---|---|---|---|---|" + "---|" * len(INTERVALS))
    for setting in SETTINGS:
        print(w1_row(*setting), flush=True)
    print("\n| distance | d | n = m | E value | coverage |\n|---|---|---|---|---|")
    for name, estimate in OTHERS.items():
        for n, d in ((50, 2), (50, 32)):
            print(other_row(name, estimate, n, d), flush=True)
    print(other_row("mmd2, blocks of 10", OTHERS["mmd2, blocks of 10"], 400, 2), flush=True)


if __name__ == "__main__":
    main()
