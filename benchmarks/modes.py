"""`modes.align` against the plain way: covariances, a full eigendecomposition and a loop of u' S u over the modes.

Run: python benchmarks/modes.py [--quick]
"""

import sys

from _bench import measure, once, report, row  # first: it pins the process

import jax
import numpy as np

from gmijax import modes

LOOPED = 64  # modes of the peer's loop that are timed
NULL = 1e-10  # relative variance up to which the peer's modes are null: they are not compared


def laws_of(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two laws with the spectrum k^-1.1 and different means; half their eigenvectors have the same variance in both."""
    rng = np.random.default_rng(0)
    deviations = np.arange(1, d + 1, dtype=np.float32) ** -0.55
    rotation = np.linalg.qr(rng.normal(size=(d, d)).astype(np.float32))[0]
    moved = rng.permutation(d)[: d // 2]
    shuffled = deviations.copy()
    shuffled[moved] = deviations[rng.permutation(moved)]
    shift = 0.1 * rng.normal(size=(2, d)).astype(np.float32)
    modal = rng.normal(size=(n, d)).astype(np.float32) * deviations @ rotation + shift[0]
    text = rng.normal(size=(n, d)).astype(np.float32) * shuffled @ rotation + shift[1]
    return modal, text


def plain_eigenmodes(modal: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Modal eigenvalues and eigenvectors, largest first, and the text covariance."""
    values, vectors = np.linalg.eigh(np.cov(modal, rowvar=False))
    return values[::-1], vectors[:, ::-1], np.cov(text, rowvar=False)


def plain_alpha(values: np.ndarray, vectors: np.ndarray, text: np.ndarray, count: int) -> np.ndarray:
    """One product with the text covariance a mode."""
    return np.array([vectors[:, k] @ text @ vectors[:, k] / values[k] for k in range(count)])


def all_modes(n: int, d: int, repeats: int) -> list:
    modal, text = laws_of(n, d)
    (values, vectors, covariance), solved = once(lambda: plain_eigenmodes(modal, text))
    looped = [once(lambda k=k: plain_alpha(values[k:], vectors[:, k:], covariance, 1))[1] for k in range(LOOPED)]
    k = int((values > NULL * values[0]).sum())
    (alpha, product) = once(lambda: np.einsum("dk,dk->k", vectors, covariance @ vectors) / values)
    alpha = alpha[:k]
    peers = (
        (
            "cov, eigh, a loop over all d modes",
            solved + d * float(np.median(looped)),
            f"loop: {LOOPED} of {d} measured",
        ),
        ("cov, eigh, one product V' S V", solved + product, ""),
    )
    rows = []
    with jax.enable_x64(True):
        wide = modal.astype(np.float64), text.astype(np.float64)
        for name, given, path, cross_fit in (
            ("host, float64", (modal, text), "host", False),
            ("XLA, float64", wide, "device", False),
            ("host, float64, cross-fitted too", (modal, text), "host", True),
        ):

            def run(given=given, path=path, cross_fit=cross_fit):
                return modes.align(*given, path=path, cross_fit=cross_fit)

            ours = measure(run, repeats)
            error = float(np.max(np.abs(np.asarray(run().alpha)[:k] / alpha - 1)))
            for peer, seconds, mark in peers:
                rows.append(
                    row(f"all modes, n = {n}, d = {d}, {name}", ours, peer, seconds, error, mark, "float64 / float64")
                )
    return rows


def top_modes(n: int, d: int, top: int, repeats: int) -> list:
    modal, text = laws_of(n, d)

    def plain():
        return plain_alpha(*plain_eigenmodes(modal, text), top)

    alpha, seconds = once(plain)
    rows = []
    for name, path, cross_fit in (
        ("host", "host", False),
        ("XLA", "device", False),
        ("host, cross-fitted too", "host", True),
        ("XLA, cross-fitted too", "device", True),
    ):

        def run(path=path, cross_fit=cross_fit):
            return modes.align(modal, text, top=top, path=path, cross_fit=cross_fit)

        ours = measure(run, repeats)
        error = float(np.max(np.abs(np.asarray(run().alpha) / alpha - 1)))
        rows.append(row(f"top {top}, n = {n}, d = {d}, {name}", ours, "cov, eigh, a loop", seconds, error))
    return rows


def main() -> None:
    if "--quick" in sys.argv:
        rows = top_modes(655, 1024, 100, 3) + all_modes(655, 1024, 3)
    else:
        rows = top_modes(2620, 4096, 100, 5) + all_modes(2620, 4096, 2) + all_modes(1000, 512, 5)
    report("Alignment (largest difference: of alpha, relative)", rows, "benchmark_modes.json")


if __name__ == "__main__":
    main()
