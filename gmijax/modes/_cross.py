"""Cross-fitted alignment: directions from one half of the rows, variances from the other."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gmijax.modes._eigenmodes import fit, mean_of, place
from gmijax.modes._measure import Sample, averages, linear_error, paired_products, products, sample
from gmijax.modes._paths import namespace, same_rows, total
from gmijax.modes._results import Estimate, positive_estimate, share_estimate, squared_correlation_estimate
from gmijax.stats import Chunks, chunks, moments


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CrossFitted:
    """Alignment with directions from one half of the rows and variances from the other, averaged over both ways.

    Mode k is the k-th of each half; there are as many as half the rows carry. Intervals hold the directions fixed:
    values are about the directions that half the rows find, which are the population's modes where `overlap` is near 1.
    Elsewhere they mix with their neighbours, which raises the alpha of a small mode beside a large one that text has.

    Attributes:
      alpha: text variance over modal variance, (k,); the interval is multiplicative.
      matched: the same after scaling the text law to the modal total variance.
      share: matched / (1 + matched), in [0, 1]; 1/2 where both laws put the same share of their variance.
      correlation: squared correlation of the paired rows' coordinates, in [0, 1]; None without pairs.
      eigenvalues: modal variances on rows that did not choose the directions, (k,).
      overlap: squared inner product of the whole sample's direction with the halves', their mean, (k,).
      converged: whether both halves' eigenproblems did.
    """

    alpha: Estimate
    matched: Estimate
    share: Estimate
    correlation: Estimate | None
    eigenvalues: jax.Array
    overlap: jax.Array
    converged: jax.Array


class Law(NamedTuple):
    """Rows where the work is done, with their mean and count."""

    source: Chunks
    mean: Any
    n: int
    top: int | None
    on_host: bool

    @classmethod
    def of(cls, source: Chunks, top: int | None, on_host: bool) -> "Law":
        """The rows with their mean, in one pass."""
        if source.whole is not None:
            rows = place(source.whole, top, on_host)
            return cls(chunks(rows, name=source.name), mean_of(rows), rows.shape[0], top, on_host)
        first = moments(source)
        return cls(source, first.mean.value, int(first.count), top, on_host)

    def half(self, second: bool) -> "Law":
        """Every other row."""
        return Law.of(self.source.half(second), self.top, self.on_host)

    def rows(self) -> Iterator[Any]:
        """One pass."""
        converted = (rows if self.source.whole is not None else jnp.asarray(rows) for rows in self.source)
        return same_rows(converted, self.n, self.source.name)


def _paired(modal: Law, text: Law) -> Iterator[tuple[Any, Any]]:
    """Chunks of both laws, row by row."""
    for first, second in zip(modal.rows(), text.rows(), strict=True):
        if first.shape[0] != second.shape[0]:
            raise ValueError(
                f"a chunk of modal has {first.shape[0]} rows and that of text {second.shape[0]}: paired rows need "
                "chunks of the same sizes"
            )
        yield first, second


def _measure_pairs(held: list[Law], texts: list[Law], directions: tuple, scale: Any, norm: Any) -> tuple[list, Any]:
    """Both folds' columns, and the mean of their covariances of both coordinates."""
    samples, covariance = [], 0
    for law, text, along in zip(held, texts, directions, strict=True):
        sums, crossed = total(
            paired_products(first, second, law.mean, text.mean, along, scale, norm)
            for first, second in _paired(law, text)
        )
        samples.append(sample(("modal", "text", "modal norm", "text norm"), sums, law.n))
        covariance = covariance + crossed / (2 * (law.n - 1))
    return samples, covariance


def _measure(held: list[Law], text: Law, directions: tuple, scale: Any, norm: Any) -> list[Sample]:
    """Both folds' columns, and those of all text rows along both folds' directions."""
    samples = []
    for law, along in zip(held, directions, strict=True):
        sums = total(products(rows, law.mean, (along,), scale, norm) for rows in law.rows())
        samples.append(sample(("modal", "modal norm"), sums, law.n))
    sums = total(products(rows, text.mean, directions, scale, norm) for rows in text.rows())
    return [*samples, sample(("text", "text norm"), sums, text.n)]


def cross_fitted(modal: Law, text: Law, whole: Any, *, tolerance: float, paired: bool, level: float) -> CrossFitted:
    """The cross-fitted forms; `whole` are the whole sample's directions (k, d)."""
    halves = [modal.half(False), modal.half(True)]
    if halves[1].n < 2:
        raise ValueError(f"modal has {modal.n} rows, and halves of two need four; or ask for cross_fit=False")
    top = None if modal.top is None else min(modal.top, halves[1].n - 1)
    found = [fit(half.source, top, tolerance, modal.on_host)[1] for half in halves]
    k = min(whole.shape[0], *(solution.eigenvalues.shape[0] for solution in found))
    directions = tuple(solution.directions[:k] for solution in found)
    scale = sum(solution.eigenvalues[:k] for solution in found) / 2
    norm = found[0].total_variance
    held = halves[::-1]
    xp = namespace(scale)
    covariance = None
    if paired:
        texts = [text.half(True), text.half(False)]
        samples, covariance = _measure_pairs(held, texts, directions, scale, norm)
    else:
        samples = _measure(held, text, directions, scale, norm)
    mean = averages(samples)
    # A direction without text variance has alpha 0 with the interval [0, 0].
    per_text = 1 / xp.where(mean["text"] > 0, mean["text"], 1)
    coefficients = {"modal": -1 / mean["modal"], "text": per_text}
    norms = {"modal norm": 1 / mean["modal norm"], "text norm": -1 / mean["text norm"]}
    ratio = mean["text"] / mean["modal"]
    matched = positive_estimate(
        ratio * mean["modal norm"] / mean["text norm"], linear_error(samples, coefficients | norms), level=level
    )
    correlation = None
    if paired:
        deviations = xp.sqrt(mean["modal"] / per_text)
        correlation = squared_correlation_estimate(covariance / deviations, n=modal.n, level=level)
    residual = xp.maximum(*(xp.max(solution.residuals) for solution in found))
    return CrossFitted(
        alpha=positive_estimate(ratio, linear_error(samples, coefficients), level=level),
        matched=matched,
        share=share_estimate(matched),
        correlation=correlation,
        eigenvalues=jnp.asarray(mean["modal"] * scale),
        overlap=jnp.asarray(sum(xp.square(xp.sum(each * whole[:k], axis=1)) for each in directions) / 2),
        converged=jnp.asarray(residual <= tolerance),
    )
