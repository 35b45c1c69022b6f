"""How the time of distances grows with rows and dimensions, and what memory they take beyond their inputs."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from _bench import measure  # first: it pins the process

import jax
import numpy as np
from modes import laws_of

from gmijax import distances

KEY = jax.random.key(0)
ROWS, DIMENSIONS = (250, 500, 1000, 2000), (128, 256, 512, 1024)
AT = 512  # rows or dimensions held fixed
LIMIT = 2**30  # bytes beyond the inputs
CALLS: dict[str, Any] = {
    "mmd2": distances.mmd2,
    "energy": distances.energy,
    "cka": distances.cka,
    "w1": partial(distances.w1, interval="dual"),
    "sliced_w1": distances.sliced_w1,
    "max_sliced_w1": distances.max_sliced_w1,
    "sinkhorn": distances.sinkhorn,
    "gaussian_w2": distances.gaussian_w2,
}
MEASURED = ("mmd2", "energy", "cka", "sliced_w1")  # whose memory must not grow with the square of the rows


def _exponent(sizes: tuple[int, ...], seconds: list[float]) -> float:
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def _write(path: str, content: Any) -> None:
    out = Path("results") / path
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(content, indent=1))


def growth(quick: bool) -> None:
    """Times of one value and interval at several sizes, with the exponents fitted by least squares in log-log."""
    rows, dimensions, at = ((50, 100, 200), (32, 64, 128), 64) if quick else (ROWS, DIMENSIONS, AT)
    results = {}
    for name, call in CALLS.items():
        print(f"\n{name}: CPU seconds, value and interval\n")
        print("| | size: seconds | exponent |")
        print("|---|---|---|")
        for what, sizes in (("n", rows), ("d", dimensions)):
            seconds = []
            for size in sizes:
                x, y = laws_of(*((size, at) if what == "n" else (at, size)))
                seconds.append(measure(partial(call, x, y, permutations=0, key=KEY), 3).seconds)
            power = _exponent(sizes, seconds)
            results[f"{name} by {what}"] = {"sizes": sizes, "seconds": seconds, "exponent": power}
            cells = ", ".join(f"{size}: {s:.3g}" for size, s in zip(sizes, seconds, strict=True))
            fixed = f"d = {at}" if what == "n" else f"n = {at}"
            print(f"| {what}, {fixed} | {cells} | {power:.2f} |")
        jax.clear_caches()
    _write("benchmark_estimators_growth.json", results)


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def _peak_of(name: str, n: int, d: int) -> None:
    """Prints the highest level of resident memory above start plus both inputs, and the wall seconds.

    What the runtime keeps of making the inputs counts too: the figure errs upwards.
    """
    jax.block_until_ready(jax.random.normal(KEY, (8,)))  # the runtime itself is no part of the measure
    before = _resident("VmRSS")
    rng = np.random.default_rng(0)
    laws = [jax.device_put(k + rng.standard_normal((n, d), np.float32)) for k in range(2)]
    jax.block_until_ready(laws)
    before += sum(law.nbytes for law in laws)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    start = time.perf_counter()
    jax.block_until_ready(CALLS[name](*laws, permutations=19, key=KEY))
    print(json.dumps({"peak": _resident("VmHWM") - before, "seconds": time.perf_counter() - start}))


def memory(quick: bool) -> None:
    """Peak memory of each kernel in a process of its own (Linux only)."""
    results = []
    print("\n| what | peak above the inputs, MiB | seconds | below 1 GiB |\n|---|---|---|---|")
    names = [sys.argv[sys.argv.index("--only") + 1]] if "--only" in sys.argv else MEASURED
    sizes = ((4000, 64), (8000, 64)) if quick else ((10_000, 1024), (30_000, 1024), (100_000, 1024))
    for name in names:
        for n, d in sizes:
            command = [sys.executable, __file__, name, str(n), str(d)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            one = {"name": name, "n": n, "d": d, **json.loads(done.stdout.splitlines()[-1])}
            results.append(one)
            verdict = "yes" if one["peak"] < LIMIT else "NO"
            what = f"{name}, n = {n:,}, d = {d:,}"
            print(f"| {what} | {one['peak'] / 2**20:.0f} | {one['seconds']:.1f} | {verdict} |", flush=True)
            _write("benchmark_estimators_memory.json", results)


if __name__ == "__main__":
    _peak_of(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
