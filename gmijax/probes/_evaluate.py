"""What probes read on rows they were not trained on: accuracy, macro-F1, cross-entropy and V-information."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from gmijax._checks import check_level, is_concrete
from gmijax.probes._checks import AXES, Layout, check_hidden_states, check_labels, check_rows, layers_of
from gmijax.probes._fit import Probe, layer_log_probabilities, per_problem
from gmijax.stats import Interval, influence_standard_error, normal_interval


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate:
    """A figure with its uncertainty; nats where it is an information.

    Attributes:
      value: (...).
      standard_error: clustered over sampling units, given the fitted probes, (...).
      interval: confidence interval of `value` at `level`.
      influence: each sampling unit's influence, (..., units); their mean is `value` less its limit to first order. A
        paired difference of two figures of the same units has the influence of their difference.
      level: coverage of `interval`.
    """

    value: jax.Array
    standard_error: jax.Array
    interval: Interval
    influence: jax.Array
    level: float = field(metadata={"static": True})

    @property
    def bits(self) -> jax.Array:
        """`value` in bits, where it is an information."""
        return self.value / math.log(2)


class Chance(NamedTuple):
    """Accuracy without hidden states, (...).

    Attributes:
      majority: of always saying the most frequent label.
      uniform: 1 / K, of a random label.
    """

    majority: jax.Array
    uniform: jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ProbeResult:
    """Probes on held-out rows; (...) stands for the leading axes (layers, label sets, penalties) that there are.

    Every figure is the mean over splits of its value on the split's test rows. Intervals count a row (or group) that
    several splits hold out as one unit, and hold for the probes as fitted: what other training rows would have given
    is not in them.

    Attributes:
      accuracy: share of right predictions; its interval is Wilson's, at the number of rows that the standard error
        corresponds to.
      macro_f1: mean over labels of the harmonic mean of precision and recall, labels that are neither present nor
        predicted left out.
      cross_entropy: held-out mean of -log P(label), nats.
      v_information: `entropy` less `cross_entropy`, nats; negative where a probe is overconfident. Its interval counts
        the estimation of both. The entropy's bias, about -(K - 1) / 2n, is not removed.
      entropy: H(A), plug-in, of all labels, nats, (...).
      chance: accuracies without hidden states, (...).
      selectivity: accuracy less its mean on shuffled labels, or None without shuffles.
      control_accuracy: on shuffled labels, (..., shuffles), or None.
      p_value: of the accuracy among those, one-sided and exact for independent rows, (...); None without shuffles or
        with groups.
      split_accuracy: (..., splits).
      split_cross_entropy: nats, (..., splits).
      predictions: (..., splits, n); -1 for training rows.
      log_likelihoods: of the true label, nats, (..., splits, n); NaN for training rows.
      penalty: that of each probe, (..., splits).
      gap: of each probe, how far its objective is from the optimum at most, (..., splits).
      converged: whether each probe met its stopping rule, (..., splits).
      n: number of rows.
      units: number of sampling units.
      level: coverage of the intervals.
      method: of the fit.
    """

    accuracy: Estimate
    macro_f1: Estimate
    cross_entropy: Estimate
    v_information: Estimate
    entropy: jax.Array
    chance: Chance
    selectivity: Estimate | None
    control_accuracy: jax.Array | None
    p_value: jax.Array | None
    split_accuracy: jax.Array
    split_cross_entropy: jax.Array
    predictions: jax.Array
    log_likelihoods: jax.Array
    penalty: jax.Array
    gap: jax.Array
    converged: jax.Array
    n: int = field(metadata={"static": True})
    units: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})
    method: str = field(metadata={"static": True})

    @property
    def reliable(self) -> jax.Array:
        """Whether every split's probe met its stopping rule, (...)."""
        return jnp.all(self.converged, axis=-1)


class Scores(NamedTuple):
    """What a summary needs of every problem; leading axes (layers, sets, penalties)."""

    log_likelihoods: jax.Array  # of the true label, (..., splits, n)
    predictions: jax.Array  # codes, (..., splits, n)


def estimate(value: Array, influence: Array, level: float) -> Estimate:
    """An estimate with a normal interval."""
    error = influence_standard_error(influence)
    return Estimate(value, error, normal_interval(value, error, level=level), influence, level)


def wilson_interval(accuracy: Array, standard_error: Array, units: Array, *, level: float) -> Interval:
    """Wilson's score interval of a proportion, at the number of trials that its standard error corresponds to.

    Unlike value +- z error it stays within [0, 1] and has a width where no error was seen: there every unit counts as
    one trial. Wilson (1927), DOI 10.1080/01621459.1927.10502953.

    Args:
      accuracy: (...).
      standard_error: (...).
      units: sampling units that were seen, (...) or ().
      level: the coverage asked for.

    Returns:
      Both ends, (...).
    """
    variance = accuracy * (1 - accuracy)
    known = (variance > 0) & (standard_error > 0)
    trials = jnp.where(known, variance / jnp.where(known, standard_error, 1) ** 2, units)
    z = ndtri(jnp.asarray(0.5 + 0.5 * level, accuracy.dtype))
    spread = z**2 / trials
    middle = (accuracy + spread / 2) / (1 + spread)
    half = jnp.sqrt(spread * (variance + spread / 4)) / (1 + spread)
    return Interval(jnp.maximum(middle - half, 0), jnp.minimum(middle + half, 1))


def _row_influence(values: Array, share: Array, targets: Array, classes: int, stratified: bool) -> Array:
    """Each row's term of a mean over splits of weighted means of `values` (splits, n); (n,), summing to about 0.

    Where the splits are stratified, the test rows' label frequencies are the sample's: the part that follows the label
    is then a mean over all rows, and only what varies within a label depends on which rows were held out.
    """
    n, splits = share.shape[1], share.shape[0]
    mean = jnp.sum(share * values, axis=1, keepdims=True)
    if not stratified:
        return jnp.sum(share * (values - mean), axis=0) / splits
    onehot = jax.nn.one_hot(targets, classes, dtype=values.dtype)
    mass, count = share @ onehot, (share > 0) @ onehot  # (splits, classes)
    by_label = (share * values) @ onehot / jnp.where(mass > 0, mass, 1)
    by_label = jnp.where(count > 1, by_label, mean)
    correction = jnp.where(count > 1, jnp.sqrt(count / jnp.where(count > 1, count - 1, 1)), 1)
    own, widen = by_label[:, targets], correction[:, targets]
    within = jnp.sum(share * widen * (values - own), axis=0)
    return (jnp.sum(own - mean, axis=0) / n + within) / splits


def _f1_values(predictions: Array, share: Array, targets: Array, classes: int) -> tuple[Array, Array]:
    """One split's macro-F1 and each row's influence on it, (n,): F = 2 T / (P + Q) by label."""

    def count(codes, mass):
        return jnp.zeros((classes,), share.dtype).at[codes].add(mass)

    right = (predictions == targets).astype(share.dtype)
    total = count(targets, share) + count(predictions, share)
    seen = total > 0
    total = jnp.where(seen, total, 1)
    f1 = 2 * count(targets, share * right) / total
    labels = jnp.sum(seen)
    rate = f1 / total
    values = (2 * right / total[targets] - rate[targets] - rate[predictions]) / labels
    return jnp.sum(jnp.where(seen, f1, 0)) / labels, values


@partial(jax.jit, static_argnames=("classes", "units", "stratified", "level"))
def _summarise(
    log_likelihoods: Float[Array, "splits n"],
    predictions: Int[Array, "splits n"],
    targets: Int[Array, " n"],
    held_out: Float[Array, "splits n"],
    unit: Int[Array, " n"],
    *,
    classes: int,
    units: int,
    stratified: bool,
    level: float,
) -> dict[str, Estimate | Array | Chance]:
    """The figures of one layer, set of labels and penalty."""
    dtype = log_likelihoods.dtype
    n = targets.shape[0]
    share = held_out / jnp.sum(held_out, axis=1, keepdims=True)
    tested = held_out > 0

    def clustered(rows):
        return units * jnp.zeros((units,), dtype).at[unit].add(rows)

    spread = partial(_row_influence, share=share, targets=targets, classes=classes, stratified=stratified)
    right = (predictions == targets).astype(dtype)
    losses = jnp.where(tested, -log_likelihoods, 0)
    split_accuracy = jnp.sum(share * right, axis=1)
    split_cross_entropy = jnp.sum(jnp.where(tested, share * losses, 0), axis=1)
    split_f1, f1_values = jax.vmap(partial(_f1_values, targets=targets, classes=classes))(predictions, share)

    frequency = jnp.zeros((classes,), dtype).at[targets].add(1) / n
    surprise = -jnp.log(frequency[targets])
    entropy = jnp.mean(surprise)
    loss_rows = spread(losses)
    accuracy = estimate(jnp.mean(split_accuracy), clustered(spread(right)), level)
    seen = jnp.sum(jnp.zeros((units,), dtype).at[unit].max(jnp.any(tested, axis=0).astype(dtype)))
    wilson = wilson_interval(accuracy.value, accuracy.standard_error, seen, level=level)
    cross_entropy = jnp.mean(split_cross_entropy)
    return {
        "accuracy": Estimate(accuracy.value, accuracy.standard_error, wilson, accuracy.influence, level),
        "macro_f1": estimate(jnp.mean(split_f1), clustered(spread(f1_values)), level),
        "cross_entropy": estimate(cross_entropy, clustered(loss_rows), level),
        "v_information": estimate(entropy - cross_entropy, clustered((surprise - entropy) / n - loss_rows), level),
        "entropy": entropy,
        "chance": Chance(jnp.max(frequency), jnp.asarray(1 / classes, dtype)),
        "split_accuracy": split_accuracy,
        "split_cross_entropy": split_cross_entropy,
    }


def scores(probe: Probe, layers: Sequence[Float[Array, "n d"]], codes: Int[Array, "sets n"]) -> Scores:
    """Log-likelihoods of the true classes and predictions, of a probe that has every axis."""
    table = layer_log_probabilities(probe, layers)  # (layers, sets, penalties, splits, n, K)
    index = jnp.broadcast_to(codes[:, None, None, :], table.shape[:-1])
    own = jnp.take_along_axis(table, index[..., None], axis=-1)[..., 0]
    return Scores(own, jnp.argmax(table, axis=-1))


def summarise(
    score: Scores,
    codes: Int[Array, "sets n"],
    sizes: list[int],
    classes: Int[Array, "sets k"],
    held_out: Float[Array, "sets splits n"],
    unit: Int[Array, " n"],
    units: int,
    *,
    stratified: bool,
    level: float,
) -> dict:
    """Every figure of a `ProbeResult` that follows from scores, with leading axes (layers, sets, penalties)."""
    by_set = []
    for k, size in enumerate(sizes):
        run = partial(_summarise, classes=size, units=units, stratified=stratified, level=level)
        over = jax.vmap(jax.vmap(run, in_axes=(0, 0, None, None, None)), in_axes=(0, 0, None, None, None))
        one = over(score.log_likelihoods[:, k], score.predictions[:, k], codes[k], held_out[k], unit)
        by_set.append(one)
    figures = jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), *by_set)
    tested = (held_out > 0)[None, :, None]
    named = jax.vmap(lambda kinds, best: kinds[best], in_axes=(0, 1), out_axes=1)(classes, score.predictions)
    figures["predictions"] = jnp.where(tested, named, -1)
    figures["log_likelihoods"] = jnp.where(tested, score.log_likelihoods, jnp.nan)
    return figures


def assemble(figures: dict, probe: Probe, layout: Layout, **static) -> ProbeResult:
    """The result with the caller's axes; `layout.splits` is not one of them."""
    shape = layout._replace(splits=None).shape

    def keep(a):
        return a.reshape(*shape, *a.shape[3:])

    figures = {"selectivity": None, "control_accuracy": None, "p_value": None, **figures}
    tree = {**figures, "penalty": probe.penalty, "gap": probe.gap, "converged": probe.converged}
    return ProbeResult(**jax.tree.map(keep, tree), method=probe.method, **static)


def check_units(groups: ArrayLike | None, n: int) -> tuple[np.ndarray, int]:
    """The sampling unit of every row, and their number: rows, or groups."""
    if groups is None:
        return np.arange(n), n
    array = np.asarray(groups)
    if array.shape != (n,):
        raise ValueError(f"groups must have shape ({n},), one a row, got {array.shape}")
    names, unit = np.unique(array, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"groups are all {names[0]}: intervals over groups need at least two")
    return unit, len(names)


def evaluate(
    probe: Probe,
    hidden_states: ArrayLike,
    labels: ArrayLike,
    *,
    held_out: ArrayLike,
    groups: ArrayLike | None = None,
    stratified: bool = False,
    level: float = 0.95,
) -> ProbeResult:
    """Measures fitted probes on the rows that each split held out.

    V-information is H(A) less the held-out cross-entropy (THEORY.md, section 2; Xu et al. 2020, arXiv:2002.10689).

    Args:
      probe: from `fit`.
      hidden_states: (n, d) or (layers, n, d), as in the fit.
      labels: (n,) or (label_sets, n), as in the fit; H(A) and chance are of all of them.
      held_out: the test rows, True or a weight: (n,), (splits, n) or (label_sets, splits, n) as the fit's `weights`.
        They must not have been trained on.
      groups: sampling units larger than a row (speakers), one a row, (n,).
      stratified: whether every split tests each label in its share of all rows, which narrows the intervals.
      level: coverage of the intervals.

    Returns:
      A `ProbeResult` without selectivity.

    Raises:
      ValueError: for shapes that do not fit the probe, or a label that it does not have.
    """
    x = check_hidden_states(hidden_states)
    checked = check_labels(labels, x.shape[-2])
    rows, has_splits = check_rows(held_out, checked, "held_out")
    check_level(level)
    present = {"layers": x.ndim == 3, "label_sets": checked.ndim == 2, "splits": has_splits}
    for name, there in present.items():
        if there != (name in probe.axes):
            raise ValueError(
                f"the arguments have {'an' if there else 'no'} axis of {name}, but the probe has {probe.axes}"
            )
    sizes = dict(zip(probe.axes, probe.converged.shape, strict=True))
    layout = Layout(*(sizes.get(name) for name in Layout._fields))
    if (rows.shape[0], rows.shape[1]) != (layout.full[1], layout.full[3]):
        raise ValueError(f"held_out makes {rows.shape[:2]} label sets and splits, but the probe has {sizes}")
    tail = len(probe.axes)
    kinds = probe.classes.reshape(layout.full[1], -1)
    leaves = per_problem(probe, lambda a: a.reshape(*layout.full, *a.shape[tail:]))
    whole = dataclasses.replace(probe, **leaves, classes=kinds, axes=AXES)
    matches = checked.reshape(layout.full[1], -1)[:, :, None] == kinds[:, None, :]
    if is_concrete(matches) and not bool(matches.any(axis=-1).all()):
        k, row = np.argwhere(~np.asarray(matches.any(axis=-1)))[0]
        raise ValueError(f"labels holds {np.asarray(checked).reshape(len(kinds), -1)[k, row]}, which the probe lacks")
    codes = jnp.argmax(matches, axis=-1)
    unit, units = check_units(groups, x.shape[-2])
    found = scores(whole, layers_of(x), codes)
    count = [int((np.asarray(one) >= 0).sum()) for one in kinds] if is_concrete(kinds) else [kinds.shape[1]]
    figures = summarise(
        found,
        codes,
        count * (len(kinds) // len(count)),
        kinds,
        rows.astype(x.dtype),
        jnp.asarray(unit),
        units,
        stratified=stratified,
        level=level,
    )
    return assemble(figures, whole, layout, n=x.shape[-2], units=units, level=level)


def retention(after: ProbeResult, before: ProbeResult, *, level: float = 0.95) -> Estimate:
    """The share of a probe's accuracy that is left: accuracy through the language model over that before it.

    Args:
      after: at the later hook point, say `llm_final`.
      before: at the earlier one, of the same rows, splits and leading axes.
      level: coverage of the interval.

    Returns:
      The ratio, with the interval of paired influence functions (a row counts in both).

    Raises:
      ValueError: if the two differ in their rows or axes.
    """
    check_level(level)
    first, second = before.accuracy, after.accuracy
    if first.influence.shape != second.influence.shape:
        raise ValueError(
            f"after has {second.influence.shape} (axes, units) and before {first.influence.shape}: a ratio needs the "
            "same rows in the same order"
        )
    value = second.value / first.value
    influence = (second.influence - value[..., None] * first.influence) / first.value[..., None]
    return estimate(value, influence, level)
