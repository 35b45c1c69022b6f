"""Bias of the three estimators of I(s) by the number of columns: exact on a binary channel, simulated on a Gaussian.

Run: python experiments/bias_table.py            prints the table of docs/bias.md
"""

import jax
import jax.numpy as jnp
import numpy as np

from gmijax import rates
from gmijax.rates import channels
from gmijax.rates._expectation import estimator_expectation

COLUMNS = (16, 64, 256)
METHODS = ("exclude", "include", "jackknife")


def binary(columns: int, crossover: float, crossover_hat: float, prior_one: float) -> dict[str, float]:
    """Exact biases at s = 1."""
    exact = estimator_expectation(crossover, crossover_hat, 1.0, columns - 1, prior_one)
    return {method: getattr(exact, method) - exact.truth for method in METHODS}


def gaussian(columns: int, repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Simulated biases at s = 1 of z ~ N(0, I_2), y = z + N(0, I_2), matched decoder: I(1) = log 2."""

    def one(key):
        first, second = jax.random.split(key)
        z = jax.random.normal(first, (columns, 2))
        y = z + jax.random.normal(second, (columns, 2))
        scores = -0.5 * jnp.sum((y[:, None] - z[None, :]) ** 2, axis=-1)
        parts = rates.gmi(scores, scale=1.0, method="exclude").alternatives
        return [getattr(parts, method) for method in METHODS]

    keys = jax.random.split(jax.random.key(columns), repeats)
    draws = [np.asarray(values, np.float64) for values in jax.jit(lambda k: jax.lax.map(one, k))(keys)]
    bias = {method: values.mean() - np.log(2) for method, values in zip(METHODS, draws, strict=True)}
    error = {method: values.std() / np.sqrt(repeats) for method, values in zip(METHODS, draws, strict=True)}
    return bias, error


def main() -> None:
    print("| law | m | " + " | ".join(METHODS) + " |")
    print("|---|---|---|---|---|")
    for name, crossover, crossover_hat, prior_one in (
        ("BSC 0.1 read as 0.2", 0.1, 0.2, 0.5),
        ("BSC 0.05 read as 0.01, P(1) = 0.05", 0.05, 0.01, 0.05),
        ("BSC 0.5 (says nothing) read as 0.1", 0.5, 0.1, 0.5),
    ):
        for columns in COLUMNS:
            bias = binary(columns, crossover, crossover_hat, prior_one)
            print(f"| {name} | {columns} | " + " | ".join(f"{bias[m]:+.5f}" for m in METHODS) + " |")
    truth = channels.coordinates(2, 2, decay=0.0, scale=1.0, variance=1.0).rates().gmi
    assert abs(truth - np.log(2)) < 1e-9
    for columns in COLUMNS:
        bias, error = gaussian(columns, 16_000 // columns * 4)
        cells = " | ".join(f"{bias[m]:+.4f} (se {error[m]:.4f})" for m in METHODS)
        print(f"| Gaussian in 2 dimensions, matched | {columns} | {cells} |")


if __name__ == "__main__":
    main()
