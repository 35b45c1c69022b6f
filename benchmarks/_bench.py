"""One pinned core, one thread a pool, CPU seconds, medians, first calls stated apart. Import before jax or numpy.

The environment variable CORES asks for more cores than one; then wall seconds count, and only a quiet machine will do.
"""

import os

CORES = int(os.environ.get("CORES", "1"))
for pool in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[pool] = str(CORES)
# A machine may set these to work around an old OpenBLAS; they would slow the numpy peers.
for setting in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"):
    os.environ.pop(setting, None)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1" if CORES == 1 else ""
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-CORES:])

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np


clock = time.process_time if CORES == 1 else time.perf_counter


@dataclass(frozen=True)
class Timing:
    """Median seconds of `repeats` calls; `first` is the wall time of the first, compilation included."""

    seconds: float
    repeats: int
    first: float


@dataclass(frozen=True)
class Row:
    """A kernel beside a peer. `extrapolated` says from how many measured repetitions the peer's time was scaled up."""

    name: str
    ours: float
    peer_name: str
    peer: float
    ratio: float
    error: float
    first: float
    extrapolated: str = ""
    types: str = "float32 / float64"  # ours / the peer's
    target: str = ""  # the ratio asked for


def measure(function: Callable[[], Any], repeats: int) -> Timing:
    """Warm-up once, then the median of the time of each call."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    first = time.perf_counter() - start
    times = []
    for _ in range(repeats):
        start = clock()
        jax.block_until_ready(function())
        times.append(clock() - start)
    return Timing(float(np.median(times)), repeats, first)


def once(function: Callable[[], Any]) -> tuple[Any, float]:
    """One result and its time."""
    start = clock()
    result = function()
    return result, clock() - start


def row(
    name: str,
    ours: Timing,
    peer_name: str,
    peer: float,
    error: float,
    extrapolated: str = "",
    types: str = Row.types,
    target: str = "",
) -> Row:
    """One line of the table."""
    return Row(name, ours.seconds, peer_name, peer, peer / ours.seconds, error, ours.first, extrapolated, types, target)


def report(title: str, rows: list[Row], path: str) -> None:
    """Prints the rows as a Markdown table and writes them as JSON, beside the rows of other names there."""
    print(f"\n{title}\n")
    print("| what | gmijax, s | peer | peer, s | ratio | target | largest difference | first call, s | types |")
    print("|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        mark = f" (E, {r.extrapolated})" if r.extrapolated else ""
        print(
            f"| {r.name} | {r.ours:.3g} | {r.peer_name} | {r.peer:.3g}{mark} | {r.ratio:.3g}x "
            f"| {r.target} | {r.error:.1e} | {r.first:.1f} | {r.types} |"
        )
    how = "One pinned core, one thread" if CORES == 1 else f"{CORES} cores, wall seconds"
    print(f"\n{how}. E: extrapolated from the measured repetitions named. First call: wall time with")
    print("compilation, not in the other columns. Types: ours / the peer's.", flush=True)
    out = Path("results") / path
    out.parent.mkdir(exist_ok=True)
    fresh = [asdict(r) for r in rows]
    kept = json.loads(out.read_text())["rows"] if out.exists() else []
    names = {(r["name"], r["peer_name"]) for r in fresh}
    kept = [r for r in kept if (r["name"], r["peer_name"]) not in names]
    out.write_text(json.dumps({"machine": platform.machine(), "rows": kept + fresh}, indent=1))
