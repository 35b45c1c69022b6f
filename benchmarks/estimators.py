"""Every kernel of `gmijax.distances` beside the plain way with numpy, scipy, scikit-learn, POT and ott-jax.

Run: python benchmarks/estimators.py [--quick] [--only NAME] [--growth] [--memory]
NAME is one of `KERNELS`. --growth and --memory print how time and memory grow, instead of the peers.
"""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from _bench import Row, measure, once, report, row  # first: it pins the process

import _distance_peers as plain
import jax
import jax.numpy as jnp
import numpy as np
import ot
from _distance_scaling import growth, memory
from modes import laws_of
from ott.geometry import costs, pointcloud
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn as ott_sinkhorn
from scipy.stats import energy_distance

from gmijax import distances
from gmijax.distances._sliced import random_directions  # the peers must take the same directions

KEY = jax.random.key(0)
DRAWS = 200
AXES = 256


def relative(value: Any, expected: float) -> float:
    """The relative difference from a float64 evaluation of the same statistic."""
    return abs(float(value) / expected - 1)


def per_resample(function: Callable[[np.ndarray, np.ndarray], float], x, y, repeats: int) -> float:
    """Median CPU seconds of a plain statistic over resamples."""
    rng = np.random.default_rng(1)
    draws = [(rng.integers(0, len(x), len(x)), rng.integers(0, len(y), len(y))) for _ in range(repeats)]
    return float(np.median([once(lambda i=i, j=j: function(x[i], y[j]))[1] for i, j in draws]))


def wide(*laws: np.ndarray) -> list[np.ndarray]:
    return [law.astype(np.float64) for law in laws]


def mmd2(quick: bool) -> list[Row]:
    rows = []
    for n, d, target in ((200, 64, ""),) if quick else ((1000, 512, "1500x"), (1000, 4096, "2500x")):
        x, y = laws_of(n, d)
        x64, y64 = wide(x, y)
        bandwidth, heuristic = once(lambda a=x64, b=y64: plain.median_bandwidth(a, b))
        expected = plain.mmd2(x64, y64, bandwidth)
        each = per_resample(lambda a, b, width=bandwidth: plain.mmd2(a, b, width), x64, y64, 5)
        for name, options, resamples, goal in (
            (f"{DRAWS} bootstraps", {"interval": "bootstrap", "draws": DRAWS, "permutations": 0}, DRAWS, target),
            ("jackknife, 199 permutations", {}, 199, ""),
        ):
            run = partial(distances.mmd2, x, y, **options, key=KEY)
            ours = measure(run, 5)
            peer = heuristic + (1 + resamples) * each
            what = f"mmd2, n = {n}, d = {d}, {name}"
            error = relative(run().value, expected)
            rows.append(row(what, ours, "cdist a resample", peer, error, f"5 of {resamples} measured", target=goal))
    return rows


def cka(quick: bool) -> list[Row]:
    rows = []
    for n, d in ((200, 256),) if quick else ((2620, 4096), (1000, 4096), (1000, 512)):
        x, y = laws_of(n, d)
        y = y + x  # paired rows
        x64, y64 = wide(x, y)
        expected = plain.cka(x64, y64)
        narrow = measure(lambda a=x, b=y: plain.cka(a, b), 5).seconds
        double = measure(lambda a=x64, b=y64: plain.cka(a, b), 3).seconds
        call = partial(distances.cka, debiased=False, key=KEY)
        traced = jax.jit(lambda a, b, call=call: call(a, b, permutations=0, interval="none").value)
        at_target = (n, d) == (1000, 4096)
        for name, run, goal in (
            ("value, host", lambda a=x, b=y, f=call: f(a, b, permutations=0, interval="none").value, "12x"),
            ("value, XLA", partial(traced, jnp.asarray(x), jnp.asarray(y)), "3.5x"),
            ("value and interval, host", lambda a=x, b=y, f=call: f(a, b, permutations=0).value, ""),
        ):
            ours, error = measure(run, 5), relative(run(), expected)
            for peer, types in ((narrow, "float32 / float32"), (double, "float32 / float64")):
                what, goal = f"cka, n = {n}, d = {d}, {name}", goal if at_target else ""
                rows.append(row(what, ours, f"X'Y, X'X, Y'Y, {types[-7:]}", peer, error, types=types, target=goal))
        run = partial(call, x, y, permutations=199)
        what, peer_name = f"cka, n = {n}, d = {d}, interval, 199 permutations", "X'Y, X'X, Y'Y, float32"
        ours, error = measure(run, 2), relative(run().value, expected)
        rows.append(row(what, ours, peer_name, 200 * narrow, error, "1 value x 200", "float32 / float32"))
    return rows


def w1(quick: bool) -> list[Row]:
    rows = []
    for n, d, axes in ((100, 64, 16),) if quick else ((1000, 4096, AXES), (1000, 512, AXES)):
        x, y = laws_of(n, d)
        x64, y64 = wide(x, y)
        expected = plain.projected_w1(x64, y64, axes, "full")
        each = per_resample(lambda a, b, k=axes: plain.projected_w1(a, b, k, "auto"), x, y, 5)
        for interval, target in (("bootstrap", 10), ("bootstrap-refitted", 3.5), ("dual", 200)):
            run = partial(distances.w1, x, y, projection=axes, interval=interval, draws=DRAWS, permutations=0, key=KEY)
            ours = measure(run, 1)
            what = f"w1, n = {n}, d = {d}, {interval}"
            error = relative(run().value if interval == "dual" else ours_value(x, y, axes), expected)
            mark = f"5 of {DRAWS} measured"
            peer = (1 + DRAWS) * each
            rows.append(row(what, ours, "PCA, cdist, emd2 a bootstrap", peer, error, mark, target=f"{target}x"))
    return rows


def ours_value(x: np.ndarray, y: np.ndarray, axes: int) -> Any:
    """The value does not depend on the interval, and "dual" has it soonest."""
    return distances.w1(x, y, projection=axes, interval="dual", permutations=0, key=KEY).value


def sliced_w1(quick: bool) -> list[Row]:
    rows = []
    for n, d in ((200, 64),) if quick else ((1000, 512), (1000, 4096)):
        x, y = laws_of(n, d)
        run = partial(distances.sliced_w1, x, y, permutations=0, key=KEY)
        lines = np.asarray(random_directions(256, d, jnp.float32, key=jax.random.split(KEY)[1]))
        x64, y64 = wide(x, y)
        expected = float(ot.sliced_wasserstein_distance(x64, y64, p=1, projections=lines.T.astype(np.float64)))
        ours = measure(run, 5)
        peer = measure(lambda a=x, b=y, p=lines.T: ot.sliced_wasserstein_distance(a, b, p=1, projections=p), 5).seconds
        error = relative(run().value, expected)
        what = f"sliced_w1, n = {n}, d = {d}, 256 directions and interval"
        rows.append(row(what, ours, "POT, value only", peer, error, types="float32 / float32", target="1x"))
        starts = np.asarray(random_directions(3, d, jnp.float32, key=jax.random.split(KEY)[1]), np.float64)
        expected, peer = once(lambda a=x64, b=y64, s=starts: plain.max_sliced_w1(a, b, s, 20))
        run = partial(distances.max_sliced_w1, x, y, permutations=0, key=KEY)
        error = relative(run().value, expected)
        ours = measure(run, 3)
        what = f"max_sliced_w1, n = {n}, d = {d}"
        rows.append(row(what, ours, "a loop over the same starts and steps", peer, error))
        drawn = measure(
            lambda a=x, b=y: ot.max_sliced_wasserstein_distance(a, b, n_projections=256, p=1, seed=0), 3
        ).seconds
        peer = "POT, best of 256 random directions: another value"
        rows.append(row(what, ours, peer, drawn, error, types="float32 / float32"))
    return rows


def energy(quick: bool) -> list[Row]:
    rows = []
    for n, d in ((200, 64),) if quick else ((1000, 512), (2620, 4096)):
        x, y = laws_of(n, d)
        x64, y64 = wide(x, y)
        expected, peer = once(lambda a=x64, b=y64: plain.energy(a, b))
        for permutations in (0, 199):
            run = partial(distances.energy, x, y, permutations=permutations, key=KEY)
            what = f"energy, n = {n}, d = {d}, {permutations} permutations"
            mark = "1 value x 200" if permutations else ""
            ours = measure(run, 3)
            seconds = (1 + permutations) * peer
            rows.append(row(what, ours, "cdist a labelling", seconds, relative(run().value, expected), mark))
    x, y = laws_of(1000, 1)
    expected = plain.energy(*wide(x, y))
    run = partial(distances.energy, x, y, permutations=0, key=KEY)
    peer = measure(lambda: energy_distance(x[:, 0], y[:, 0]), 5).seconds
    name = "scipy's sort, biased, value only"
    rows.append(row("energy, n = 1000, d = 1", measure(run, 5), name, peer, relative(run().value, expected)))
    return rows


@jax.jit
def ott_cost(x, y, epsilon):
    geometry = pointcloud.PointCloud(x, y, cost_fn=costs.Euclidean(), epsilon=epsilon)
    solver = ott_sinkhorn.Sinkhorn(threshold=1e-5, max_iterations=5000)
    return solver(linear_problem.LinearProblem(geometry)).reg_ot_cost


def sinkhorn(quick: bool) -> list[Row]:
    n, d = (200, 64) if quick else (1000, 512)
    x, y = laws_of(n, d)
    x64, y64 = wide(x, y)
    rows = []
    for share in (0.05, 0.02):
        epsilon = share * float(plain.cdist(x64, y64).mean())
        transport, entropic = plain.sinkhorn(x64, y64, epsilon, 1e-10)
        for convention, expected, peer_name, peer, types in (
            (
                "transport", transport, "POT, value only",
                lambda e=epsilon: plain.sinkhorn(x64, y64, e, 1e-5), "float32 / float64",
            ),
            (
                "entropic", entropic, "ott-jax, value only",
                lambda e=epsilon: ott_cost(jnp.asarray(x), jnp.asarray(y), e), "float32 / float32",
            ),
        ):  # fmt: skip
            run = partial(distances.sinkhorn, x, y, convention=convention, epsilon=epsilon, permutations=0, key=KEY)
            result = run()
            state = "" if bool(result.converged) else ", NOT converged"
            what = f"sinkhorn, n = {n}, d = {d}, {convention}, epsilon {share} of the mean cost{state}"
            error = relative(result.value, expected)
            rows.append(row(what, measure(run, 3), peer_name, measure(peer, 3).seconds, error, types=types))
    return rows


def gaussian_w2(quick: bool) -> list[Row]:
    rows = []
    n, d = (300, 64) if quick else (2620, 512)
    x, y = laws_of(n, d)
    x64, y64 = wide(x, y)
    expected = plain.gaussian_w2(x64, y64)
    run = partial(distances.gaussian_w2, x, y, permutations=0, key=KEY)
    ours, error = measure(run, 3), relative(run().value, expected)
    for name, function in (("scipy's sqrtm", plain.gaussian_w2), ("POT's bures", plain.pot_gaussian_w2)):
        peer = measure(lambda f=function: f(x64, y64), 3).seconds
        rows.append(row(f"gaussian_w2, n = {n}, d = {d}, with interval", ours, name, peer, error))
    return rows


KERNELS = {f.__name__: f for f in (mmd2, cka, w1, sliced_w1, energy, sinkhorn, gaussian_w2)}


def main() -> None:
    quick, arguments = "--quick" in sys.argv, sys.argv
    names = [arguments[arguments.index("--only") + 1]] if "--only" in arguments else list(KERNELS)
    if "--growth" in arguments:
        return growth(quick)
    if "--memory" in arguments:
        return memory(quick)
    rows = []
    for name in names:
        rows += KERNELS[name](quick)
        jax.clear_caches()
    title = "Distances (largest difference: relative, from a float64 evaluation of the same statistic)"
    return report(title, rows, "benchmark_estimators.json")


if __name__ == "__main__":
    main()
