"""The generalized mutual information of sampled scores, over inputs (THEORY.md, sections 1 and 5)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import check_choice, check_level, is_concrete
from gmijax.rates._checks import check_index, check_scores
from gmijax.rates._rate import Rate, SampledAlternatives, normal_p_value
from gmijax.rates._scale import Curve, ScaleSolution, maximise_scale
from gmijax.rates._tiles import (
    Extremes,
    Moments,
    Pairing,
    Plain,
    Tiles,
    callable_tiles,
    dense_tiles,
    extremes,
    plain_sums,
    shares,
    tilted_moments,
)
from gmijax.stats import influence_standard_error, normal_interval, split_in_two

METHODS = ("jackknife", "exclude", "include")
# Stands for s = inf where exponentials are evaluated: e^{s d} is 1 at d = 0 and 0 elsewhere, and nothing overflows.
ENDLESS = 1e25
LEAST_ESS = 10.0


class RowRates(NamedTuple):
    """Each row's term of I(s), by estimator, and its alternatives' effective number; (n,)."""

    exclude: Array
    include: Array
    jackknife: Array
    ess: Array

    def by(self, method: str) -> Array:
        """The terms of one estimator."""
        return getattr(self, method)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clusters:
    """The resampling unit of each column, (m,), and how many there are."""

    index: Array
    units: int = field(metadata={"static": True})


def include_curve(moments: Moments, gap: Array, scale: Array, count: Array) -> Curve:
    """Each row's include-positive term of I(s) with its derivatives: a mixture of alternatives and positive.

    Args:
      moments: of the alternatives at `scale`.
      gap: the positive's score less the largest alternative's, (n,).
      scale: one s a row, (n,).
      count: number of alternatives, (n,).
    """
    beside = moments.log_sum - scale * gap
    share = jax.nn.sigmoid(-beside)  # of the positive
    mean = (1 - share) * moments.mean + share * gap
    variance = (1 - share) * moments.variance + share * (1 - share) * (gap - moments.mean) ** 2
    return Curve(jnp.log1p(count) - jax.nn.softplus(beside), gap - mean, -variance)


def exclude_curve(moments: Moments, gap: Array, scale: Array, count: Array) -> Curve:
    """Each row's exclude-positive term of I(s) with its derivatives; arguments as in `include_curve`."""
    return Curve(jnp.log(count) + scale * gap - moments.log_sum, gap - moments.mean, -moments.variance)


def row_rates(
    tiles: Tiles, pairing: Pairing, ends: Extremes, scale: Array, count: Array
) -> tuple[RowRates, Array, Array]:
    """All estimators' row terms at one s a row, and the columns' excess weights (exclude, include)."""
    scale = jnp.minimum(scale, ENDLESS)
    log_sum = tilted_moments(tiles, pairing, ends.top, scale).log_sum
    beside = log_sum - scale * (ends.positive - ends.top)  # alternatives' weight beside the positive's
    share = shares(tiles, pairing, ends.top, scale, log_sum, count, jax.nn.sigmoid(beside))
    exclude = jnp.log(count) - beside
    include = jnp.log1p(count) - jax.nn.softplus(beside)
    # K L_K - (K - 1) mean L_{K-1}, written so that nothing of size K log K cancels.
    fewer = count - 1
    jackknife = exclude - fewer * jnp.log1p(-1 / count) + fewer / count * share.log_rest
    # At s = 0 every term is 0; rounding would leave a little, with no standard error to show for it.
    exclude, include, jackknife = (jnp.where(scale > 0, term, 0) for term in (exclude, include, jackknife))
    rows = RowRates(exclude, include, jackknife, 1 / share.concentration)
    at_positive = jnp.zeros_like(share.include_excess).at[pairing.positives]
    include_excess = share.include_excess + at_positive.add(jax.nn.sigmoid(-beside) - 1 / (count + 1))
    return rows, share.exclude_excess, include_excess


def permutation_z(plain: Plain, pairing: Pairing, gap: Array, multiplicity: Array) -> Array:
    """The mean positive score, standardised by its exact mean and variance under re-pairing within context.

    Asymptotically N(0, 1) where scores and targets are independent: Hoeffding's combinatorial central limit
    theorem (1951), DOI 10.1214/aoms/1177729545.
    """
    rows = plain.pairs  # rows of the row's context
    row_mean = plain.pair_first / rows
    weight = 1 / jnp.maximum(rows - 1, 1)
    by_rows = jnp.sum(weight * (plain.pair_second - rows * row_mean**2))
    if pairing.row_contexts is None:
        centre = jnp.mean(row_mean)
        column_weight = multiplicity * weight[0]
    else:
        n = gap.shape[0]
        spread = jnp.zeros((n,), gap.dtype).at[pairing.row_contexts]
        centre = (spread.add(row_mean) / jnp.maximum(spread.add(1), 1))[pairing.column_contexts]
        column_weight = multiplicity / jnp.maximum(plain.column_pairs - 1, 1)
    column_mean = plain.column_first / jnp.maximum(plain.column_pairs, 1) - centre
    by_columns = jnp.sum(column_weight * plain.column_pairs * column_mean**2)
    deviation = jnp.sqrt(jnp.maximum(by_rows - by_columns, 0))
    excess = jnp.sum(gap - row_mean)
    return jnp.where(deviation > 0, excess / jnp.where(deviation > 0, deviation, 1), -jnp.inf)


def estimate(
    tiles: Tiles,
    pairing: Pairing,
    multiplicity: Array,
    clusters: Clusters | None,
    fixed_scale: Array | None,
    *,
    method: str,
    cross_fit: bool,
    level: float,
) -> Rate:
    """The kernel behind `gmi` and `gmi_blockwise`: pure, one matrix of scores, vmapped and sharded by the caller.

    The scale is found on stopped gradients: by the envelope theorem the rate's gradient needs no derivative of s*.
    """
    n, dtype = tiles.rows, multiplicity.dtype
    frozen = tiles._replace(read=lambda i, j: lax.stop_gradient(tiles.read(i, j)))
    ends = extremes(tiles, pairing, dtype)
    ends = ends._replace(top=lax.stop_gradient(ends.top))
    gap = ends.positive - ends.top
    plain = plain_sums(frozen, pairing, ends.top, multiplicity)
    count, first = plain.number, plain.first / plain.number
    still = lax.stop_gradient(gap)
    at_zero = Moments(jnp.log(count), first, jnp.maximum(plain.second / count - first**2, 0))

    def solve(weights: Array, start: Array | None) -> ScaleSolution:
        """The best scale for each row of weights, (problems, n); the rows of one problem serve no other."""

        def averaged(curve: Curve) -> Curve:
            return Curve(*(jnp.sum(weights * part[None, :], axis=1) for part in curve))

        def curve(scale: Array) -> Curve:
            spread = jnp.sum(jnp.where(weights > 0, scale[:, None], 0), axis=0)
            return averaged(include_curve(tilted_moments(frozen, pairing, ends.top, spread), still, spread, count))

        zero = averaged(include_curve(at_zero, still, jnp.zeros((n,), dtype), count))
        limit = jnp.sum(weights * jnp.minimum(still, 0)[None, :], axis=1)
        return maximise_scale(curve, zero, limit, start=start)

    if fixed_scale is not None:
        scale, converged = jnp.asarray(fixed_scale, dtype), jnp.asarray(True)
        fold_scales, row_scale = jnp.stack([scale, scale]), jnp.full((n,), scale)
    elif cross_fit:
        groups = jnp.zeros((n,), jnp.int32) if pairing.row_contexts is None else pairing.row_contexts
        second = split_in_two(groups)
        folds = jnp.stack([~second, second]).astype(dtype)
        fitted = solve(folds / jnp.sum(folds, axis=1, keepdims=True), None)
        whole = solve(jnp.full((1, n), 1 / n, dtype), jnp.mean(fitted.scale)[None])
        scale, converged = whole.scale[0], whole.converged[0] & jnp.all(fitted.converged)
        # Each fold is evaluated at the other's scale; a separable fold has none to give, and the sample's stands in.
        fold_scales = jnp.where(jnp.isinf(fitted.scale), scale, fitted.scale)[::-1]
        row_scale = jnp.where(second, fold_scales[1], fold_scales[0])
    else:
        whole = solve(jnp.full((1, n), 1 / n, dtype), None)
        scale, converged = whole.scale[0], whole.converged[0]
        fold_scales, row_scale = jnp.stack([scale, scale]), jnp.full((n,), scale)

    # The fitted scales, the whole sample's and s = 1 share one program.
    three = jnp.stack([row_scale, jnp.full((n,), scale), jnp.ones((n,), dtype)])
    all_terms, *excesses = lax.map(lambda s: row_rates(tiles, pairing, ends, s, count), three)
    terms, means = (
        jax.tree.map(lambda part: part[0], all_terms),
        jax.tree.map(lambda part: jnp.mean(part, 1), all_terms),
    )
    exclude_excess, include_excess = (excess[0] for excess in excesses)
    margin, ess = jnp.mean(gap), jnp.median(terms.ess)
    cap = jnp.log1p(jnp.min(count))
    saturated = (margin > 0) | (ess < LEAST_ESS) | (means.by(method)[0] > cap - 1) | jnp.isinf(scale)

    bounded = saturated | (method == "include")
    own = jnp.where(bounded, terms.include, terms.exclude)
    excess = jnp.where(bounded, include_excess, exclude_excess)
    influence = jnp.zeros_like(excess).at[pairing.positives].add(own - jnp.mean(own)) - excess
    influence = influence * (tiles.columns / n)
    if clusters is not None:
        units = clusters.units
        influence = jnp.zeros((units,), dtype).at[clusters.index].add(influence) * (units / tiles.columns)
    value, in_sample, at_one = jnp.where(saturated, means.include, means.by(method))
    standard_error = influence_standard_error(influence)

    return Rate(
        value=value,
        standard_error=standard_error,
        interval=normal_interval(value, standard_error, level=level),
        scale=scale,
        fold_scales=fold_scales,
        in_sample=in_sample,
        at_one=at_one,
        zero_test=jnp.mean(gap - first),
        p_value=normal_p_value(permutation_z(plain, pairing, still, multiplicity)),
        saturated=saturated,
        converged=converged,
        influence=influence,
        alternatives=SampledAlternatives(
            exclude=means.exclude[0],
            include=means.include[0],
            jackknife=means.jackknife[0],
            ess=ess,
            margin=margin,
            log_alternatives=cap,
            hub=1 + (jnp.mean(count) + 1) * jnp.max(exclude_excess / jnp.maximum(plain.column_pairs, 1)),
        ),
        biases=None,
        n=n,
        level=level,
        method=method,
    )


@partial(jax.jit, static_argnames=("method", "cross_fit", "level"))
def _estimate_dense(scores, pairing, multiplicity, clusters, fixed_scale, *, method, cross_fit, level):
    return estimate(
        dense_tiles(scores), pairing, multiplicity, clusters, fixed_scale,
        method=method, cross_fit=cross_fit, level=level,
    )  # fmt: skip


@partial(jax.jit, static_argnames=("score_block", "shape", "block", "method", "cross_fit", "level"))
def _estimate_blockwise(
    score_block,
    operands,
    pairing,
    multiplicity,
    clusters,
    fixed_scale,
    *,
    shape,
    block,
    method,
    cross_fit,
    level,
):
    return estimate(
        callable_tiles(score_block, operands, shape[0], shape[1], block), pairing, multiplicity, clusters, fixed_scale,
        method=method, cross_fit=cross_fit, level=level,
    )  # fmt: skip


def gmi(
    scores: ArrayLike,
    *,
    positives: ArrayLike | None = None,
    contexts: ArrayLike | None = None,
    column_contexts: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    method: str = "jackknife",
    scale: str | ArrayLike = "cross-fit",
    level: float = 0.95,
) -> Rate:
    """Generalized mutual information over inputs, from a matrix of scores.

    Estimates GMI = sup over s >= 0 of E[s l(C, Z, Y) - log E_{Z'|C} exp(s l(C, Z', Y))] (THEORY.md, section 1) with
    the other columns of the row's context as draws of Z'. For alternatives over messages exchange the roles:
    rows are then inputs and columns messages; where their law is known, `gmi_labels` is exact in them.

    Args:
      scores: log-likelihoods l(c_i, z_j, y_i) in nats, shape (n, m). Adding a function of the row changes nothing.
      positives: the column of each row's own input, shape (n,); row i's is column i where it is None.
      contexts: the context of each row, integers of shape (n,). Alternatives come from the same context, since pooled
        ones can exceed I(Z; Y | C) (F10). With one column a context the conditional rate is not identified, and
        this raises. Under `jax.jit` they must lie in 0..n-1.
      column_contexts: the context of each column, shape (m,); needed only where some column is nobody's positive.
      clusters: the resampling unit of each column, shape (m,), for the standard error: give the contexts here too
        if these were sampled and hold several inputs each. Every column is its own where it is None.
      method: `jackknife` (bias O(1/K^2)), `exclude` (biased up by about E chi2 / 2K) or `include` (a lower bound in
        expectation, capped at log(K + 1)); K is the number of alternatives.
      scale: `cross-fit` takes each half's s from the other half, `in-sample` maximises on all rows, a number fixes s.
      level: coverage of the interval.

    Returns:
      A `Rate`. If it is `saturated` its value is the `include` lower bound, whatever the method.

    Raises:
      ValueError: for scores that are not finite or not (n >= 2, m >= 2), a positive outside the columns, contexts of
        too few columns, or an unknown option.
    """
    array = check_scores(scores)
    pairing, multiplicity, units, fixed, cross_fit = front_door(
        array.shape, array.dtype, positives, contexts, column_contexts, clusters, method, scale, level
    )
    return _estimate_dense(array, pairing, multiplicity, units, fixed, method=method, cross_fit=cross_fit, level=level)


def gmi_blockwise(
    score_block: Callable[[Any, Array, Array], Array],
    rows: int,
    columns: int | None = None,
    *,
    operands: Any = (),
    block: tuple[int, int] = (512, 2048),
    positives: ArrayLike | None = None,
    contexts: ArrayLike | None = None,
    column_contexts: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    method: str = "jackknife",
    scale: str | ArrayLike = "cross-fit",
    level: float = 0.95,
) -> Rate:
    """`gmi` of scores that are computed block by block and never held together.

    Every pass (about a dozen) calls `score_block` for all blocks again; memory is a few blocks and a few vectors.

    Args:
      score_block: maps (operands, row indices (h,), column indices (w,)) to the scores (h, w). It is traced once; keep
        it the same object between calls, for each new one compiles again.
      rows: n.
      columns: m; n where it is None.
      operands: pytree of arrays for `score_block`, so that they are arguments and not constants of the program.
      block: (h, w), the largest block.
      positives: as in `gmi`, like all that follow.
      contexts: as in `gmi`.
      column_contexts: as in `gmi`.
      clusters: as in `gmi`.
      method: as in `gmi`.
      scale: as in `gmi`.
      level: as in `gmi`.

    Returns:
      The `Rate` that `gmi` gives for the whole matrix, to rounding.

    Raises:
      ValueError: as `gmi`; scores that are not finite are found once the passes are done.
    """
    columns = rows if columns is None else columns
    if rows < 2 or columns < 2:
        raise ValueError(f"rows and columns must be at least 2, got {rows} and {columns}")
    if min(block) < 1:
        raise ValueError(f"block must be two positive sizes, got {block}")
    dtype = jax.eval_shape(
        score_block,
        operands,
        *(jax.ShapeDtypeStruct((min(b, s),), jnp.int32) for b, s in zip(block, (rows, columns), strict=True)),
    ).dtype
    if dtype not in (jnp.float32, jnp.float64):
        raise ValueError(f"score_block must return float32 or float64 scores, got {dtype}")
    pairing, multiplicity, units, fixed, cross_fit = front_door(
        (rows, columns), dtype, positives, contexts, column_contexts, clusters, method, scale, level
    )
    rate = _estimate_blockwise(
        score_block, operands, pairing, multiplicity, units, fixed,
        shape=(rows, columns), block=tuple(block), method=method, cross_fit=cross_fit, level=level,
    )  # fmt: skip
    if is_concrete(rate.zero_test) and not bool(jnp.isfinite(rate.zero_test)):
        raise ValueError("score_block returned NaN or infinite scores; clip them to a finite floor and say so")
    return rate


def front_door(shape, dtype, positives, contexts, column_contexts, clusters, method, scale, level):
    """Checked and completed arguments: pairing, multiplicity of the columns, clusters, fixed scale, cross-fit."""
    n, m = shape
    check_choice(method, METHODS, "method")
    check_level(level)
    cross_fit, fixed = scale == "cross-fit" if isinstance(scale, str) else False, None
    if isinstance(scale, str):
        check_choice(scale, ("cross-fit", "in-sample"), "scale")
    else:
        fixed = jnp.asarray(scale, dtype)
        if fixed.ndim or (is_concrete(fixed) and not float(fixed) >= 0):
            raise ValueError(f"scale must be 'cross-fit', 'in-sample' or one number >= 0, got {scale}")
    if positives is None:
        if m < n:
            raise ValueError(
                f"positives must be given: row i's positive would be column i, but there are {n} rows and {m} columns"
            )
        positives = jnp.arange(n, dtype=jnp.int32)
    positives = check_index(positives, n, m, "positives", "columns")
    row_contexts, column_contexts = _contexts(contexts, column_contexts, positives, n, m)
    _check_alternatives(row_contexts, column_contexts, m, method)
    units = None
    if clusters is not None:
        if not is_concrete(clusters):
            raise ValueError("clusters must be concrete: their number is a shape; close over them under jit")
        labels, index = np.unique(np.asarray(clusters), return_inverse=True)
        if index.shape != (m,) or len(labels) < 2:
            raise ValueError(f"clusters must give one of at least 2 units to each of the {m} columns")
        units = Clusters(jnp.asarray(index, jnp.int32), len(labels))
    multiplicity = jnp.zeros((m,), dtype).at[positives].add(1)
    return Pairing(positives, row_contexts, column_contexts), multiplicity, units, fixed, cross_fit


def _contexts(contexts, column_contexts, positives, n, m):
    """Contexts of rows and columns, relabelled 0, 1, ... where their values can be looked at."""
    if contexts is None:
        if column_contexts is not None:
            raise ValueError("column_contexts needs contexts, the context of each row")
        return None, None
    contexts = jnp.asarray(contexts)
    if contexts.shape != (n,):
        raise ValueError(f"contexts must have shape ({n},), one entry a row, got {contexts.shape}")
    if column_contexts is None:
        covered = jnp.zeros((m,), bool).at[positives].set(True)
        if (not is_concrete(covered) or not bool(covered.all())) and not (n == m and not is_concrete(covered)):
            raise ValueError(
                "column_contexts must be given: some column is no row's positive, so its context is unknown"
            )
        column_contexts = jnp.zeros((m,), contexts.dtype).at[positives].set(contexts)
    column_contexts = jnp.asarray(column_contexts)
    if column_contexts.shape != (m,):
        raise ValueError(f"column_contexts must have shape ({m},), got {column_contexts.shape}")
    if is_concrete(contexts, column_contexts, positives):
        rows, columns = np.asarray(contexts), np.asarray(column_contexts)
        wrong = np.flatnonzero(columns[np.asarray(positives)] != rows)
        if len(wrong):
            raise ValueError(
                f"row {wrong[0]} has context {rows[wrong[0]]} but its positive, column "
                f"{int(positives[wrong[0]])}, has {columns[int(positives[wrong[0]])]}; {len(wrong)} rows differ"
            )
        _, index = np.unique(np.concatenate([rows, columns]), return_inverse=True)
        return jnp.asarray(index[:n], jnp.int32), jnp.asarray(index[n:], jnp.int32)
    return contexts.astype(jnp.int32), column_contexts.astype(jnp.int32)


def _check_alternatives(row_contexts, column_contexts, m, method):
    """Every context needs two columns, and three for the jackknife."""
    least = 3 if method == "jackknife" else 2
    if row_contexts is None:
        smallest, where = m, "scores"
    elif is_concrete(row_contexts, column_contexts):
        held = np.bincount(np.asarray(column_contexts))[np.asarray(row_contexts)]
        smallest, where = int(held.min()), f"the context of row {int(held.argmin())}"
    else:
        return
    if smallest < 2:
        raise ValueError(
            f"{where} holds {smallest} column: a group of one has no alternatives, so the conditional rate is not "
            "identified; sample several inputs a context, or drop the contexts if they are independent of the inputs"
        )
    if smallest < least:
        raise ValueError(
            f"{where} holds {smallest} columns and the jackknife needs 3; use method='exclude' or 'include'"
        )
