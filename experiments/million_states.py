"""A million pooled states of 1,024 dimensions: written to a store, and analysed from it in less memory than they take.

Two laws with a spectrum k^-1.1, half the rows each; the modal law is shifted, and its variance along every other
direction is a quarter of the text law's. Eight classes have means of their own, so that the best probe is known.

Run: python experiments/million_states.py FOLDER [--rows N] [--width D] [--json FILE]
A folder that a killed run left is completed first. Prints seconds, CPU seconds and the peak memory up to each stage.
"""

import argparse
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from gmijax import distances, modes, probes, report, store

CHUNK = 4096
CLASSES = 8
HELD_OUT = 16  # one chunk in so many is kept from the probe
SUBSAMPLE = 1000
TOP = 32

screen = Console(stderr=True)


class World:
    """The two laws, chunk by chunk."""

    def __init__(self, rows: int, width: int):
        self.rows, self.width = rows, width
        self.deviation = np.arange(1, width + 1, dtype=np.float32) ** -0.55
        self.ratio = np.where(np.arange(width) % 2, 0.5, 1).astype(np.float32)  # modal deviation over the text law's
        self.means = np.random.default_rng(1).normal(size=(CLASSES, width)).astype(np.float32) * self.deviation / 8
        self.shift = 0.5 * self.deviation

    def modal(self, chunk: int) -> bool:
        """Whether a chunk is of the modal law: the second half of them."""
        return chunk >= -(-self.rows // CHUNK) // 2

    def labels(self, chunk: int) -> np.ndarray:
        """Classes of a chunk's samples."""
        size = min(CHUNK, self.rows - chunk * CHUNK)
        return np.random.default_rng((2, chunk)).integers(CLASSES, size=size)

    def states(self, chunk: int) -> np.ndarray:
        """A chunk's hidden states."""
        labels = self.labels(chunk)
        noise = np.random.default_rng((3, chunk)).standard_normal((len(labels), self.width), np.float32)
        noise *= self.deviation * self.ratio if self.modal(chunk) else self.deviation
        noise += self.means[labels]
        return noise + self.shift if self.modal(chunk) else noise

    def samples(self) -> Iterator[SimpleNamespace]:
        """What the store keeps beside the states."""
        for chunk in range(-(-self.rows // CHUNK)):
            law = "modal" if self.modal(chunk) else "text"
            for k, label in enumerate(self.labels(chunk)):
                name = f"{chunk:04d}/{k:04d}"
                yield SimpleNamespace(id=name, labels={"class": int(label), "law": law}, text=None)


class Stages:
    """Seconds and peak memory of one stage after another."""

    def __init__(self):
        self.table: list[dict[str, Any]] = []

    def run(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        """One stage; `work` returns what it found."""
        screen.print(f"{name} ...")
        wall, cpu = time.perf_counter(), time.process_time()
        found = work()
        seconds, busy = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        self.table.append({"stage": name, "seconds": seconds, "cpu_seconds": busy, "peak_gib": peak, **found})
        screen.print(f"  {seconds:.0f} s, {busy:.0f} CPU-s, peak {peak:.2f} GiB: {found}", markup=False)


def write(world: World, folder: Path) -> dict[str, Any]:
    """Commits what is not committed yet."""
    opened = store.create(folder, store.Spec("two Gaussians", {"h": world.width}, chunk_samples=CHUNK), world.samples())
    for chunk in track(opened.pending, "chunks", console=screen, transient=True):
        opened.commit(chunk, {"h": world.states(chunk)})
    return {"chunks": len(opened.pending)}


def analyse(world: World, opened: store.Store, stages: Stages) -> None:
    """Every stage reads the store anew and keeps a few chunks of it."""
    rows = len(opened)
    middle = next(k for k in range(rows // CHUNK + 1) if world.modal(k)) * CHUNK
    text, modal = (
        lambda part=part: opened.chunks("h", part, size=CHUNK) for part in (slice(middle), slice(middle, rows))
    )

    def aligned() -> dict[str, Any]:
        found = modes.align(modal, text, top=TOP)
        assert found.cross is not None
        spread = np.diag((world.deviation * world.ratio).astype(np.float64) ** 2) + np.cov(world.means.T, bias=True)
        truth = np.linalg.eigvalsh(spread)[::-1][:TOP]
        off = np.max(np.abs(np.asarray(found.eigenvalues) / truth - 1))
        alpha = np.asarray(found.cross.alpha.value)
        return {
            "converged": bool(found.converged),
            "eigenvalues_off": float(off),
            "alpha": [float(alpha.min()), float(alpha.max())],
        }

    def sliced() -> dict[str, Any]:
        found = distances.sliced_w1(text, modal, permutations=0, key=jax.random.key(0))
        return {"value": float(found.value), "standard_error": float(found.standard_error)}

    def subsampled() -> dict[str, Any]:
        rng = np.random.default_rng(4)
        x, y = (
            opened.read("h", np.sort(rng.choice(np.arange(*ends), SUBSAMPLE, replace=False)))
            for ends in ((0, middle), (middle, rows))
        )
        found = distances.w1(x, y, projection=64, key=jax.random.key(1))
        return {"value": float(found.value), "noise_floor": float(found.split_half), "p": float(found.p_value)}

    def probed() -> dict[str, Any]:
        labels = opened.labels("class")
        held = np.arange(rows) // CHUNK % HELD_OUT == 0
        spans = [slice(start, min(start + CHUNK, rows)) for start in range(0, rows, CHUNK)]
        trained = [span for span in spans if not held[span.start]]
        tested = [span for span in spans if held[span.start]]
        passes = 0

        def training() -> Iterator[jax.Array]:
            nonlocal passes
            passes += 1
            for span in track(trained, f"pass {passes}", console=screen, transient=True):
                yield opened.read("h", span)

        probe = probes.fit(training, labels[~held])
        right = sum(
            int(np.sum(np.asarray(probes.predict(probe, opened.read("h", span))) == labels[span])) for span in tested
        )
        return {
            "accuracy": right / int(held.sum()),
            "iterations": int(probe.iterations),
            "passes": passes,
            "converged": bool(probe.converged),
        }

    stages.run(f"modes: the first {TOP}, aligned and cross-fitted", aligned)
    stages.run("sliced W1 along 256 directions", sliced)
    stages.run(f"W1 of {SUBSAMPLE} + {SUBSAMPLE} rows on 64 axes", subsampled)
    stages.run("probe of 8 classes", probed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    world, stages = World(options.rows, options.width), Stages()
    stages.run("write", lambda: write(world, options.folder))
    analyse(world, store.open(options.folder), stages)
    size = options.rows * options.width * 4 / 2**30
    cells = [
        [line["stage"], f"{line['seconds']:.0f}", f"{line['cpu_seconds']:.0f}", f"{line['peak_gib']:.2f}"]
        for line in stages.table
    ]
    header = ["stage", "s", "CPU-s", "peak memory so far, GiB"]
    print(
        report.markdown([report.Table(f"{options.rows} states of {options.width}: {size:.2f} GiB", "", header, cells)])
    )
    if options.json is not None:
        report.write_json(options.json, stages.table)


if __name__ == "__main__":
    main()
