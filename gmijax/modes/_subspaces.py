"""Subspaces spanned by modes: modality-specific against text-aligned ones, at a threshold of alpha."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from gmijax.modes._alignment import Alignment
from gmijax.modes._results import Estimate

BY = ("cross", "alpha", "matched")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Subspace:
    """Some modes of a law.

    Attributes:
      directions: orthonormal rows, (k, d).
      indices: their places among the alignment's modes, (k,).
      variance: modal variance in the subspace, in-sample.
      share: of the modal law's total variance.
      text_variance: the text law's variance in it.
      text_share: of the text law's total variance.
      space: of the rows.
    """

    directions: jax.Array
    indices: jax.Array
    variance: jax.Array
    share: jax.Array
    text_variance: jax.Array
    text_share: jax.Array
    space: str = field(metadata={"static": True})

    @property
    def count(self) -> int:
        """Number of modes."""
        return self.directions.shape[0]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Split:
    """Modes on either side of a threshold.

    The variances of the two sides differ, often by much: compare what their removal does with controls of the same
    variance, not of the same number of modes.

    Attributes:
      modality_specific: modes with alpha below the threshold (MS).
      text_aligned: the other ones (TA).
      decided: whether the cross-fitted interval of a mode's alpha lies on one side, (k,); False where there is none.
      threshold: of alpha.
      by: which alpha.
    """

    modality_specific: Subspace
    text_aligned: Subspace
    decided: jax.Array
    threshold: float = field(metadata={"static": True})
    by: str = field(metadata={"static": True})


def _subspace(alignment: Alignment, chosen: np.ndarray) -> Subspace:
    indices = jnp.asarray(np.flatnonzero(chosen), jnp.int32)
    variance = jnp.sum(alignment.eigenvalues[indices])
    text_variance = jnp.sum(alignment.text_variance[indices])
    return Subspace(
        directions=alignment.directions[indices],
        indices=indices,
        variance=variance,
        share=variance / alignment.total_variance,
        text_variance=text_variance,
        text_share=text_variance / alignment.total_variance_text,
        space=alignment.space,
    )


def split(alignment: Alignment, threshold: float = 0.5, *, by: str = "cross") -> Split:
    """Modality-specific (alpha below the threshold) and text-aligned modes.

    Args:
      alignment: from `align`. Not under a trace: how many modes fall on a side decides shapes.
      threshold: of alpha; the paper takes 0.5.
      by: "cross" for the cross-fitted alpha, where only modes that half the rows carry take part; "alpha" for the
        paper's in-sample one; "matched" for the cross-fitted one after matching total variances.

    Returns:
      A `Split`; a side may be empty, its directions then have shape (0, d).

    Raises:
      ValueError: for a threshold that is not positive, another word, or cross-fitted forms that are not there.
    """
    if not 0 < threshold < np.inf:
        raise ValueError(f"threshold must be a positive number, got {threshold}")
    if by not in BY:
        raise ValueError(f"by must be one of {', '.join(map(repr, BY))}, got {by!r}")
    cross = alignment.cross
    if by != "alpha" and cross is None:
        raise ValueError(f"by={by!r} needs align(..., cross_fit=True); by='alpha' takes the in-sample alpha")
    estimate: Estimate | None = None if cross is None else (cross.matched if by == "matched" else cross.alpha)
    values = np.asarray(alignment.alpha if by == "alpha" or estimate is None else estimate.value)
    decided = np.zeros(alignment.alpha.shape, bool)
    if estimate is not None:
        outside = (estimate.interval.lower > threshold) | (estimate.interval.upper < threshold)
        decided[: outside.shape[0]] = np.asarray(outside)
    below = np.zeros(decided.shape, bool)
    below[: len(values)] = values < threshold
    above = np.zeros(decided.shape, bool)
    above[: len(values)] = values >= threshold
    return Split(
        modality_specific=_subspace(alignment, below),
        text_aligned=_subspace(alignment, above),
        decided=jnp.asarray(decided),
        threshold=float(threshold),
        by=by,
    )
