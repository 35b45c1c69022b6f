"""Where classes differ: the between-class scatter of labelled rows along modes."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import check_level
from gmijax.modes._alignment import Alignment
from gmijax.modes._checks import check_directions, check_groups, check_same_space, space_of
from gmijax.modes._eigenmodes import Source
from gmijax.modes._paths import total
from gmijax.modes._results import Estimate
from gmijax.modes._within import group_means, with_groups
from gmijax.stats import chunks, moments, normal_interval


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassScatter:
    """Between-class scatter sum_c w_c |mu_c - mu|^2 along modes, w_c the classes' shares of the rows.

    Attributes:
      scatter: along every mode, (k,), the noise of the class means subtracted: unbiased, and so sometimes below 0.
      scatter_plug_in: the same from the class means as they are, biased up by their noise.
      total: over all directions, debiased, an `Estimate`.
      share: each mode's share of `total`, an `Estimate` of shape (k,).
      share_plug_in: each mode's share of the plug-in scatter, (k,).
      inside: the share in all modes together, an `Estimate`.
      weighted_alpha: the modes' alpha averaged with `scatter` as weights, an `Estimate`; alpha, cross-fitted where the
        alignment is, is taken as known. None without an alignment.
      weighted_alpha_plug_in: the paper's form, in-sample alpha and plug-in scatter.
      weighted_kappa: the decoder's alignment averaged in the same way, an `Estimate` that takes kappa as known, nats;
        None without kappa.
      n: rows.
      classes: number of classes.
      level: coverage of the intervals: normal, to first order, for class sizes as drawn.
      space: of the rows.
    """

    scatter: jax.Array
    scatter_plug_in: jax.Array
    total: Estimate
    share: Estimate
    share_plug_in: jax.Array
    inside: Estimate
    weighted_alpha: Estimate | None
    weighted_alpha_plug_in: jax.Array | None
    weighted_kappa: Estimate | None
    n: int = field(metadata={"static": True})
    classes: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})
    space: str = field(metadata={"static": True})

    @property
    def reliable(self) -> jax.Array:
        """Whether the classes differ at all, by four standard errors: shares of nothing mean nothing."""
        return self.total.value > 4 * self.total.standard_error


@partial(jax.jit, static_argnames="count")
def _within_sums(
    rows: Array,
    index: Array,
    origin: Array,
    means: Array,
    directions: Array,
    weights: Array,
    correction: Array,
    count: int,
) -> tuple[Array, ...]:
    """Of one chunk: each class's squares about its mean, along modes and in all; and the influences' products.

    A row's influence on the scatter along u is 2 (mu_c - mu)'u (x - mu_c)'u. Products are with its weighted sums over
    the modes (weights (k, w)) and, last, with the influence on the whole scatter. Classes count n_c / (n_c - 1) times,
    as strata do.
    """
    with jax.default_matmul_precision("highest"):
        about = (rows - origin[None, :]) - means[index]
        coordinates = about @ directions.T
        modes = 2 * (means @ directions.T)[index] * coordinates
        whole = 2 * jnp.sum(means[index] * about, axis=1)
        combined = jnp.concatenate([modes @ weights, whole[:, None]], axis=1)
        weighted = combined * correction[index][:, None]
        squares = jax.ops.segment_sum(jnp.square(coordinates), index, count)
        norms = jax.ops.segment_sum(jnp.sum(jnp.square(about), axis=1), index, count)
        own = jnp.sum(jnp.square(modes) * correction[index][:, None], axis=0)
        return squares, norms, own, modes.T @ weighted, combined.T @ weighted


def _ratio(numerator: Array, denominator: Array, own: Array, cross: Array, other: Array, n: int, level: float):
    """A ratio of two estimates from the sums over rows of their influences' products."""
    value = numerator / denominator
    variance = (own - 2 * value * cross + value**2 * other) / (n**2 * denominator**2)
    error = jnp.sqrt(jnp.maximum(variance, 0))
    return Estimate(value, error, normal_interval(value, error, level=level))


def _check_classes(labels: ArrayLike, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers of every row, and the classes' sizes."""
    index, count = check_groups(labels, n, "labels")
    sizes = np.bincount(index, minlength=count)
    if count < 2:
        raise ValueError("labels has one class: between-class scatter needs two")
    if sizes.min() < 2:
        alone = np.unique(np.asarray(labels))[np.argmin(sizes)]
        raise ValueError(
            f"labels has one row of class {alone!r}, and a class mean's noise needs two; drop or merge such classes"
        )
    return index, sizes


@partial(jax.jit, static_argnames=("with_kappa", "n", "level", "space"))
def _assemble(
    sums: tuple[Array, ...],
    means: Array,
    directions: Array,
    weights: Array,
    in_sample: Array | None,
    sizes: Array,
    *,
    with_kappa: bool,
    n: int,
    level: float,
    space: str,
) -> ClassScatter:
    """All results from the sums over rows, the class means and the in-sample alpha."""
    squares, norms, own, mixed, combined = sums
    shares = sizes / n
    with jax.default_matmul_precision("highest"):
        plug_in = shares @ jnp.square(means @ directions.T)
        plug_in_total = shares @ jnp.sum(jnp.square(means), axis=1)
        noise = (1 - shares) / ((sizes - 1) * n)
        scatter = plug_in - noise @ squares
        whole = plug_in_total - noise @ norms
        weighted_sums = scatter @ weights
    error = jnp.sqrt(combined[-1, -1]) / n
    inside = weighted_sums[0]
    weighted = weighted_plug_in = weighted_kappa = None
    if with_kappa:  # in the last column of the weights, and so before the whole scatter's
        weighted_kappa = _ratio(weighted_sums[-1], inside, combined[-2, -2], combined[-2, 0], combined[0, 0], n, level)
    if in_sample is not None:
        over_modes, over_alpha = weighted_sums[1:3]
        weighted = _ratio(over_alpha, over_modes, combined[2, 2], combined[2, 1], combined[1, 1], n, level)
        weighted_plug_in = jnp.sum(plug_in * in_sample) / jnp.sum(plug_in)
    return ClassScatter(
        scatter=scatter,
        scatter_plug_in=plug_in,
        total=Estimate(whole, error, normal_interval(whole, error, level=level)),
        share=_ratio(scatter, whole, own, mixed[:, -1], combined[-1, -1], n, level),
        share_plug_in=plug_in / plug_in_total,
        inside=_ratio(inside, whole, combined[0, 0], combined[0, -1], combined[-1, -1], n, level),
        weighted_alpha=weighted,
        weighted_alpha_plug_in=weighted_plug_in,
        weighted_kappa=weighted_kappa,
        n=n,
        classes=sizes.shape[0],
        level=level,
        space=space,
    )


def class_scatter(
    x: Source,
    labels: ArrayLike,
    directions: Any,
    *,
    kappa: ArrayLike | None = None,
    level: float = 0.95,
    space: str = "",
) -> ClassScatter:
    """The share of the between-class scatter in every mode, and the scatter-weighted alpha.

    The plug-in scatter of a sample holds the noise of its class means, sum_c (1 - w_c) s_c^2 / n in every direction;
    the debiased forms subtract it. Shares are ratios of unbiased estimates. Where classes hardly differ (`reliable`
    False) neither the shares nor their first-order intervals mean much.

    Args:
      x: rows (n, d), or a callable that returns a fresh iterable of such arrays on every call.
      labels: the class of every row, (n,), any values.
      directions: orthonormal rows (k, d), or an object that carries them; an `Alignment` adds `weighted_alpha`, a
        `Subspace` gives its own share as `inside`.
      kappa: the decoder's alignment of every mode, (k,), such as `kappa(...).value`.
      level: coverage of the intervals.
      space: the rows' space; that of `x.space` where it has one. Must be that of the directions.

    Returns:
      A `ClassScatter`.

    Raises:
      ValueError: for two spaces, labels or kappa that do not fit, one class, a class of one row, or directions that
        are not orthonormal rows of the same width.
    """
    check_level(level)
    space = space_of(x, space, "x")
    if hasattr(directions, "space"):
        check_same_space(space, directions.space, ("x", "directions"))
    source = chunks(x)
    first = moments(source)
    n, origin = int(first.count), first.mean.value
    index, sizes = _check_classes(labels, n)
    along = check_directions(directions, origin.shape[0]).astype(origin.dtype)
    count, k = len(sizes), along.shape[0]
    means = group_means(source, index, count, origin)
    alignment = directions if isinstance(directions, Alignment) else None
    weights = jnp.ones((k, 1), along.dtype)
    if alignment is not None:  # the modes that have an alpha, and alpha itself
        alpha = alignment.alpha if alignment.cross is None else alignment.cross.alpha.value
        missing = (0, k - alpha.shape[0])
        weights = jnp.stack([weights[:, 0], jnp.pad(jnp.ones_like(alpha), missing), jnp.pad(alpha, missing)], axis=1)
    if kappa is not None:  # the last column
        read = jnp.asarray(kappa, along.dtype)
        if read.shape != (k,) or not bool(jnp.isfinite(read).all()):
            raise ValueError(f"kappa must hold {k} finite values, one a direction, got shape {read.shape}")
        weights = jnp.concatenate([weights, read[:, None]], axis=1)
    correction = jnp.asarray(sizes / (sizes - 1), along.dtype)
    sums = total(
        _within_sums(jnp.asarray(rows), jnp.asarray(mine), origin, means, along, weights, correction, count)
        for rows, mine in with_groups(source, index)
    )
    in_sample = None if alignment is None else alignment.alpha
    labelled = {"n": n, "level": level, "space": space}
    counts = jnp.asarray(sizes, along.dtype)
    return _assemble(sums, means, along, weights, in_sample, counts, with_kappa=kappa is not None, **labelled)
