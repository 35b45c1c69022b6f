"""The whole way from labels to a result: splits, fits, choices on data apart, and controls."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import check_choice, check_level
from gmijax.probes import splits
from gmijax.probes._checks import AXES, Layout, check_hidden_states, check_labels, layers_of
from gmijax.probes._evaluate import (
    Estimate,
    ProbeResult,
    Scores,
    assemble,
    check_units,
    scores,
    summarise,
)
from gmijax.probes._fit import (
    MAX_ITERATIONS,
    Targets,
    check_options,
    check_penalty,
    check_trained,
    encode,
    fit_problems,
    per_problem,
)
from gmijax.stats import Interval, normal_interval, permutation_p_value, permutations_within


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class BestLayer:
    """A probe whose layer and penalty were chosen on rows apart from those that measure it.

    Attributes:
      result: of the chosen probes on rows that neither the fit nor the choice saw.
      layer: the choice of each split, (splits,).
      validation_cross_entropy: what it was chosen by, nats, (layers, penalties, splits).
    """

    result: ProbeResult
    layer: jax.Array
    validation_cross_entropy: jax.Array


def _split_rows(labels, groups, seeds, test_share) -> np.ndarray:
    """Test rows (label_sets, splits, n): stratified by label, or by group alike for all sets."""
    if groups is None:
        return np.stack([splits.stratified(one, seeds=seeds, test_share=test_share) for one in labels])
    one = splits.grouped(groups, labels, seeds=seeds, test_share=test_share)
    return np.broadcast_to(one, (len(labels), *one.shape))


def _split_training(labels, groups, held_out, seeds, test_share) -> np.ndarray:
    """Validation rows (label_sets, splits, n), drawn in the same way from the rows that are not held out."""
    validation = np.zeros_like(held_out)
    for k, own in enumerate(labels):
        for s, seed in enumerate(seeds):
            rows = np.flatnonzero(~held_out[k, s])
            inner = None if groups is None else np.asarray(groups)[rows]
            try:
                validation[k, s, rows] = _split_rows(own[None, rows], inner, [seed], test_share)[0, 0]
            except ValueError as error:
                raise ValueError(
                    f"the training rows of split {s} cannot be split again to choose on: {error}"
                ) from None
    return validation


def _validation_losses(layers, targets: list[Targets], codes, train, validation, penalty, **options) -> jax.Array:
    """Mean losses on rows apart, (layers, sets, penalties, splits)."""
    weights = jnp.asarray(train, layers[0].dtype)
    full = (len(layers), weights.shape[0], len(penalty), weights.shape[1])
    probe = fit_problems(layers, targets, weights, jnp.broadcast_to(penalty[:, None], full), **options)
    share = jnp.asarray(validation / validation.sum(axis=-1, keepdims=True), weights.dtype)[None, :, None]
    return -jnp.sum(jnp.where(share > 0, share * scores(probe, layers, codes).log_likelihoods, 0), axis=-1)


def _controls(layers, codes, classes, held_out, penalty, shuffles, key, **options) -> jax.Array:
    """Accuracies on shuffled labels of one set, (layers, penalties, shuffles).

    A row's label moves together with its place in the splits, so that every shuffle is as stratified as the truth and
    is as likely as it where hidden states and labels are independent.
    """
    orders = np.asarray(permutations_within(jnp.zeros(codes.shape, jnp.int32), shuffles, key=key))
    moved, tested = np.asarray(codes)[orders], np.moveaxis(held_out[:, orders], 1, 0)
    targets = [Targets(jnp.asarray(one), classes) for one in moved]
    weights = jnp.asarray(~tested, layers[0].dtype)
    strength = jnp.broadcast_to(penalty, (len(layers), shuffles, *penalty.shape[2:]))
    probe = fit_problems(layers, targets, weights, strength, **options)
    right = scores(probe, layers, jnp.asarray(moved)).predictions == moved[None, :, None, None]
    share = tested / tested.sum(axis=-1, keepdims=True)
    accuracy = jnp.mean(jnp.sum(right * jnp.asarray(share, weights.dtype)[None, :, None], axis=-1), axis=-1)
    return jnp.swapaxes(accuracy, 1, 2)


def _selectivity(accuracy: Estimate, control: Array, level: float) -> Estimate:
    """Accuracy less the control's mean, whose scatter over shuffles adds to the error."""
    value = accuracy.value - jnp.mean(control, axis=-1)
    error = jnp.sqrt(accuracy.standard_error**2 + jnp.var(control, axis=-1, ddof=1) / control.shape[-1])
    interval: Interval = normal_interval(value, error, level=level)
    return Estimate(value, error, interval, accuracy.influence, level)


class _Task:
    """The checked arguments that `probe` and `best_layer` share."""

    def __init__(
        self, hidden_states, labels, groups, seeds, test_share, penalty, method, tolerance, max_iterations, level
    ):
        self.x = check_hidden_states(hidden_states)
        self.n = self.x.shape[-2]
        self.labels = np.asarray(check_labels(labels, self.n))
        self.sets = self.labels.reshape(-1, self.n)
        self.unit, self.units = check_units(groups, self.n)
        check_level(level)
        strength = check_penalty(penalty)
        self.one_penalty = strength.ndim == 0
        self.penalty = jnp.asarray(strength, self.x.dtype).reshape(-1)
        self.options: dict[str, Any] = {
            "method": method,
            "tolerance": check_options(method, tolerance, max_iterations),
            "max_iterations": max_iterations,
        }
        self.targets = encode(self.sets)
        self.codes = jnp.stack([one.codes for one in self.targets])
        self.held_out = _split_rows(self.sets, groups, seeds, test_share)
        self.layers = layers_of(self.x)
        self.full = (len(self.layers), len(self.sets), len(self.penalty), len(seeds))
        check_trained(self.targets, jnp.asarray(~self.held_out, self.x.dtype), "groups")

    def figures(self, score: Scores, classes: jax.Array, *, stratified: bool, level: float) -> dict:
        return summarise(
            score,
            self.codes,
            [len(one.classes) for one in self.targets],
            classes,
            jnp.asarray(self.held_out, self.x.dtype),
            jnp.asarray(self.unit),
            self.units,
            stratified=stratified,
            level=level,
        )


def probe(
    hidden_states: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seeds: Sequence[int] = splits.SEEDS,
    test_share: float = 0.2,
    penalty: ArrayLike | Sequence[float] = 1.0,
    method: str = "path",
    tolerance: float | None = None,
    max_iterations: int = MAX_ITERATIONS,
    select: str | None = None,
    shuffles: int = 0,
    level: float = 0.95,
    key: Array | None = None,
) -> ProbeResult:
    """Fits and measures linear probes: the paper's by default (C = 1, z-scores, seeds 42-46, 80/20 stratified).

    Its test rows and stopping rule are scikit-learn's, so that accuracies agree sample for sample up to rounding.

    Args:
      hidden_states: (n, d) or (layers, n, d).
      labels: integers >= 0, (n,) or (label_sets, n).
      groups: one a row (speakers), none of which is on both sides of a split; stratified by label where None. (n,)
      seeds: of the splits, see `splits`.
      test_share: of the rows, or groups.
      penalty: a number, or several.
      method: "path" or "converged", see `fit`.
      tolerance: of the method's stopping rule.
      max_iterations: where a fit gives up.
      select: "cross-entropy" chooses one of the penalties for each split on training rows set apart (the same share,
        split in the same way), and fits again on all training rows; None keeps an axis of penalties.
      shuffles: number of shuffled labellings for the selectivity (Hewitt and Liang 2019, DOI 10.18653/v1/D19-1275),
        0 or at least 2.
      level: coverage of the intervals.
      key: a PRNG key for the shuffles; needed with them, and by nothing else.

    Returns:
      A `ProbeResult` with leading axes (layers, label sets, penalties), those that the arguments have.

    Raises:
      ValueError: as `fit` and `splits`; for shuffles without a key; or a choice without penalties to choose from.
    """
    task = _Task(hidden_states, labels, groups, seeds, test_share, penalty, method, tolerance, max_iterations, level)
    if shuffles < 0 or shuffles == 1:
        raise ValueError(f"shuffles must be 0 or at least 2, got {shuffles}")
    if shuffles and key is None:
        raise ValueError("key must be given with shuffles: it draws them")
    train = ~task.held_out
    strength = jnp.broadcast_to(task.penalty[:, None], task.full)
    if select is not None:
        check_choice(select, ("cross-entropy",), "select")
        if len(task.penalty) < 2:
            raise ValueError("select chooses among penalties: give at least two")
        apart = _split_training(task.sets, groups, task.held_out, seeds, test_share)
        losses = _validation_losses(
            task.layers, task.targets, task.codes, train & ~apart, apart, task.penalty, **task.options
        )
        strength = task.penalty[jnp.argmin(losses, axis=2)][:, :, None]
    fitted = fit_problems(task.layers, task.targets, jnp.asarray(train, task.x.dtype), strength, **task.options)
    figures = task.figures(
        scores(fitted, task.layers, task.codes), fitted.classes, stratified=groups is None, level=level
    )
    if shuffles and key is not None:
        by_set = [
            _controls(
                task.layers,
                task.codes[k],
                task.targets[k].classes,
                task.held_out[k],
                strength[:, k : k + 1],
                shuffles,
                one,
                **task.options,
            )
            for k, one in enumerate(jax.random.split(key, len(task.sets)))
        ]
        control = jnp.stack(by_set, axis=1)  # (layers, sets, penalties, shuffles)
        figures["control_accuracy"] = control
        figures["selectivity"] = _selectivity(figures["accuracy"], control, level)
        if groups is None:
            figures["p_value"] = permutation_p_value(figures["accuracy"].value, jnp.moveaxis(control, -1, 0))
    layout = Layout(
        layers=task.full[0] if task.x.ndim == 3 else None,
        label_sets=task.full[1] if task.labels.ndim == 2 else None,
        penalties=None if task.one_penalty or select is not None else task.full[2],
        splits=None,
    )
    return assemble(figures, fitted, layout, n=task.n, units=task.units, level=level)


def best_layer(
    hidden_states: ArrayLike,
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    seeds: Sequence[int] = splits.SEEDS,
    test_share: float = 0.2,
    penalty: ArrayLike | Sequence[float] = 1.0,
    method: str = "path",
    tolerance: float | None = None,
    max_iterations: int = MAX_ITERATIONS,
    level: float = 0.95,
) -> BestLayer:
    """The best probe over layers and penalties, measured on rows that had no part in the choice.

    Three ways: each split's training rows are split again, the layer and penalty of the least cross-entropy on the
    rows set apart are fitted on all training rows, and the test rows measure them. Its V-information is what the
    certified gap (THEORY.md, B8) starts from: choosing by the test rows themselves would be biased up.

    Args:
      hidden_states: (layers, n, d).
      labels: integers >= 0, (n,).
      groups: as `probe`; kept whole in both splits.
      seeds: of the splits.
      test_share: of the rows, and again of the training rows.
      penalty: a number, or several to choose from.
      method: as `fit`.
      tolerance: as `fit`.
      max_iterations: as `fit`.
      level: coverage of the intervals.

    Returns:
      A `BestLayer`; its result has no leading axis.

    Raises:
      ValueError: as `probe`; or without an axis of layers, or with several sets of labels.
    """
    task = _Task(hidden_states, labels, groups, seeds, test_share, penalty, method, tolerance, max_iterations, level)
    if task.x.ndim != 3 or task.labels.ndim != 1:
        raise ValueError(
            f"best_layer takes hidden_states (layers, n, d) and labels (n,), got {task.x.shape} and {task.labels.shape}"
        )
    train = ~task.held_out
    apart = _split_training(task.sets, groups, task.held_out, seeds, test_share)
    losses = _validation_losses(
        task.layers, task.targets, task.codes, train & ~apart, apart, task.penalty, **task.options
    )[:, 0]
    choice = np.asarray(jnp.argmin(losses.reshape(-1, losses.shape[-1]), axis=0))
    layer, strength = np.divmod(choice, len(task.penalty))
    chosen, found = [], []
    for s in range(len(seeds)):  # one layer each: nothing is shared but the program
        rows = [task.layers[layer[s]]]
        own = task.penalty[strength[s]].reshape(1, 1, 1, 1)
        one = fit_problems(rows, task.targets, jnp.asarray(train[:, s : s + 1], task.x.dtype), own, **task.options)
        chosen.append(one)
        found.append(scores(one, rows, task.codes))
    score = Scores(*(jnp.concatenate(parts, axis=3) for parts in zip(*found, strict=True)))
    joined = {
        name: jnp.concatenate([per_problem(one, lambda a: a)[name] for one in chosen], axis=len(AXES) - 1)
        for name in ("penalty", "gap", "converged")
    }
    figures = task.figures(score, chosen[0].classes, stratified=groups is None, level=level)
    result = assemble(
        figures,
        dataclasses.replace(chosen[0], **joined),
        Layout(None, None, None, None),
        n=task.n,
        units=task.units,
        level=level,
    )
    return BestLayer(result, jnp.asarray(layer), losses)
