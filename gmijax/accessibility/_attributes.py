"""Where attributes live among the modes, beside how much of them the decoder leaves unread."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax import modes
from gmijax.stats import RankCorrelation, rank_correlation

FEWEST = 4  # attributes that a rank correlation needs


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class AttributeAnalysis:
    """Several attributes of the same rows: where each one's classes differ, and its accessibility gap.

    Attributes:
      modality_specific: the share of the between-class scatter in modality-specific modes, a `modes.Estimate` of shape
        (attributes,); debiased, as all that follows.
      text_aligned: the share in text-aligned modes; the rest lies outside the modes.
      weighted_alpha: alpha averaged with the scatter along each mode as weight.
      weighted_kappa: the decoder's own alignment in the same way, nats; None without kappa.
      gap: the measured accessibility gap of every attribute, nats, (attributes,).
      correlations: Spearman's rank correlation of the gap with each of the above over attributes, by name, with its
        interval; empty where there are fewer than four attributes.
      reliable: whether an attribute's classes differ at all, (attributes,).
      names: of the attributes.
      n: rows.
      level: coverage of the intervals.
    """

    modality_specific: modes.Estimate
    text_aligned: modes.Estimate
    weighted_alpha: modes.Estimate
    weighted_kappa: modes.Estimate | None
    gap: jax.Array
    correlations: dict[str, RankCorrelation]
    reliable: jax.Array
    names: tuple[str, ...] = field(metadata={"static": True})
    n: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})


def attribute_analysis(
    hidden_states: ArrayLike,
    labels: Mapping[str, ArrayLike],
    gaps: Mapping[str, Any],
    alignment: modes.Alignment,
    *,
    kappa: ArrayLike | None = None,
    threshold: float = 0.5,
    level: float = 0.95,
    key: Array,
) -> AttributeAnalysis:
    """Holds each attribute's place among the modes against its measured accessibility gap.

    The paper's per-type analysis (its section 5.5): if text alignment decided what a decoder can use, attributes whose
    classes differ in modality-specific modes would have the larger gaps; if the decoder's own alignment does
    (THEORY.md, B7), those whose scatter has little kappa. A correlation over a handful of attributes has a wide
    interval, and says nothing of causes.

    Args:
      hidden_states: modal rows, (n, d), of the alignment's space.
      labels: by attribute, the class of every row, (n,).
      gaps: by attribute, the accessibility gap in nats, a number or a `Ladder` (best probe less LM rate).
      alignment: from `modes.align(..., cross_fit=True)`.
      kappa: the decoder's alignment of every mode, (k,), such as `modes.kappa(...).value`.
      threshold: of the cross-fitted alpha, between modality-specific and text-aligned modes.
      level: coverage of the intervals.
      key: a PRNG key, for the permutation tests of the correlations.

    Returns:
      An `AttributeAnalysis`.

    Raises:
      ValueError: for no attributes, names that differ between labels and gaps, gaps that are not finite, or as
        `modes.class_scatter` and `modes.split`.
    """
    if not labels:
        raise ValueError("labels is empty; give at least one attribute")
    if set(labels) != set(gaps):
        differ = sorted(set(labels) ^ set(gaps))
        raise ValueError(f"labels and gaps must have the same attributes; {', '.join(differ)} are in one alone")
    parts = modes.split(alignment, threshold)
    space = alignment.space
    sides = {"modality_specific": parts.modality_specific, "text_aligned": parts.text_aligned}
    columns: dict[str, list[modes.Estimate]] = {}
    reliable = []
    for values in labels.values():
        whole = modes.class_scatter(hidden_states, values, alignment, kappa=kappa, level=level, space=space)
        reliable.append(whole.reliable)
        columns.setdefault("weighted_alpha", []).append(_known(whole.weighted_alpha))
        if kappa is not None:
            columns.setdefault("weighted_kappa", []).append(_known(whole.weighted_kappa))
        for side, subspace in sides.items():
            columns.setdefault(side, []).append(_share(hidden_states, values, subspace, whole, level, space))
    stacked = {name: jax.tree.map(lambda *leaves: jnp.stack(leaves), *column) for name, column in columns.items()}
    gap = jnp.asarray([_gap(gaps[name], name) for name in labels], jnp.float32)
    correlations = {}
    if len(labels) >= FEWEST:
        for k, (name, estimate) in enumerate(stacked.items()):
            if float(jnp.ptp(estimate.value)) > 0 and float(jnp.ptp(gap)) > 0:
                correlations[name] = rank_correlation(estimate.value, gap, level=level, key=jax.random.fold_in(key, k))
    return AttributeAnalysis(
        modality_specific=stacked["modality_specific"],
        text_aligned=stacked["text_aligned"],
        weighted_alpha=stacked["weighted_alpha"],
        weighted_kappa=stacked.get("weighted_kappa"),
        gap=gap,
        correlations=correlations,
        reliable=jnp.stack(reliable),
        names=tuple(labels),
        n=len(np.asarray(next(iter(labels.values())))),
        level=level,
    )


def _known(estimate: modes.Estimate | None) -> modes.Estimate:
    assert estimate is not None
    return estimate


def _share(hidden_states, labels, subspace: modes.Subspace, whole: modes.ClassScatter, level, space) -> modes.Estimate:
    """The share inside a subspace; 0, exactly, inside none."""
    if not subspace.count:
        return jax.tree.map(jnp.zeros_like, whole.inside)
    return modes.class_scatter(hidden_states, labels, subspace, level=level, space=space).inside


def _gap(gap: Any, name: str) -> float:
    rung = getattr(gap, "rung", None)
    value = float(gap) if rung is None else float(rung("best_probe").value - rung("lm_rate").value)
    if not np.isfinite(value):
        raise ValueError(f"gaps[{name!r}] must be a finite number of nats, got {value}")
    return value
