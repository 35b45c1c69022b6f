"""Peak memory and time of a 50,000 x 50,000 score matrix that never exists (10 GB in float32).

Run: python benchmarks/rates_blockwise.py [--rows N]
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from gmijax import rates


def score_block(operands, rows, columns):
    """-|y_i - z_j|^2 / 2 for a block of rows and columns."""
    z, y = operands
    left, right = y[rows], z[columns]
    norms = jnp.sum(left**2, axis=1)[:, None] + jnp.sum(right**2, axis=1)[None, :]
    return left @ right.T - 0.5 * norms


def peak_mib() -> float:
    """The process's largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000)
    n = parser.parse_args().rows
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, 8)).astype(np.float32)
    y = z + 1.5 * rng.normal(size=(n, 8)).astype(np.float32)
    operands = jnp.asarray(z), jnp.asarray(y)
    before = peak_mib()
    start = time.perf_counter()
    rate = jax.block_until_ready(rates.gmi_blockwise(score_block, n, operands=operands))
    wall = time.perf_counter() - start
    # Matched direction and gain, wrong variance: the closed form is d/2 log(1 + 1/noise^2) at s* = 1/noise^2.
    truth = 4 * np.log(1 + 1 / 1.5**2)
    print(f"n = m = {n}: {n * n * 4 / 2**30:.1f} GiB of float32 scores that were never held")
    print(f"gmi {float(rate.value):.5f} +- {float(rate.standard_error):.5f} nats (closed form {truth:.5f})")
    print(f"s* {float(rate.scale):.4f} (closed form {1 / 1.5**2:.4f}), median ESS {float(rate.alternatives.ess):.0f}")
    print(f"wall time {wall:.1f} s with compilation; peak memory {peak_mib():.0f} MiB, {before:.0f} before the call")


if __name__ == "__main__":
    main()
