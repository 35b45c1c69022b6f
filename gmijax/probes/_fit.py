"""Fitting probes, and reading them: l2 multinomial logistic regression on z-scored hidden states."""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from gmijax._checks import check_choice, is_concrete
from gmijax.probes._checks import AXES, Layout, check_hidden_states, check_labels, check_rows, layers_of
from gmijax.probes._solver import Solution, Standardised, solve, standardise
from gmijax.probes._stream import Source, check_alone, solve_stream
from gmijax.stats import Chunks

Method = Literal["path", "converged"]
TOLERANCES: dict[str, float] = {"path": 1e-4, "converged": 1e-5}
MAX_ITERATIONS = 2000


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Probe:
    """Fitted probes, one for each index of the leading axes (layers, label sets, penalties, splits).

    An axis that the arguments of `fit` did not have is left out; (...) stands for those that are there.

    Attributes:
      weight: of the z-scored features, one row a class, (..., K, d). Two classes have opposite rows.
      bias: (..., K); -inf where a set has fewer labels than the largest.
      mean: of the training rows, (..., d).
      scale: their standard deviation, 1 for a feature that is constant there (and has weight 0), (..., d).
      classes: the label of each row of `weight`, -1 where a set has fewer, (K,) or (label_sets, K).
      penalty: (...).
      objective: mean cross-entropy of the training rows + penalty |W|^2 / (2 rows), nats, (...). For two classes |W|
        is that of the difference of the rows: scikit-learn's objective in both cases.
      gradient_norm: the largest entry of the objective's gradient, (...).
      gap: how far `objective` is above the optimum, (...): |gradient of W|^2 / (2 penalty / rows), which bounds it by
        strong convexity, + the biases' gradient times their own size, which bounds their part unless they are off by
        more than that.
      iterations: L-BFGS steps, (...).
      converged: whether the stopping rule was met, (...).
      axes: the names of the leading axes, out of "layers", "label_sets", "penalties", "splits".
      method: "path" or "converged".
      tolerance: of the stopping rule.
    """

    weight: jax.Array
    bias: jax.Array
    mean: jax.Array
    scale: jax.Array
    classes: jax.Array
    penalty: jax.Array
    objective: jax.Array
    gradient_norm: jax.Array
    gap: jax.Array
    iterations: jax.Array
    converged: jax.Array
    axes: tuple[str, ...] = field(metadata={"static": True})
    method: str = field(metadata={"static": True})
    tolerance: float = field(metadata={"static": True})


class Targets(NamedTuple):
    """One set of labels as codes 0..K-1, and what they stand for."""

    codes: jax.Array  # (n,)
    classes: np.ndarray  # (K,)


def encode(labels: jax.Array | np.ndarray, classes: int | None = None) -> list[Targets]:
    """The codes of every set of labels (label_sets, n).

    Raises:
      ValueError: for a set with fewer than two labels, labels of `classes` or above, or traced labels without
        `classes`.
    """
    if classes is not None:
        if classes < 2:
            raise ValueError(f"classes must be at least 2, got {classes}")
        if is_concrete(labels) and (largest := int(np.asarray(labels).max())) >= classes:
            raise ValueError(f"labels holds {largest}, which is not below classes = {classes}")
        return [Targets(jnp.asarray(one, jnp.int32), np.arange(classes)) for one in labels]
    if not is_concrete(labels):
        raise ValueError("classes must be given where labels is traced: their number shapes the result")
    encoded = []
    for k, one in enumerate(np.asarray(labels)):
        kinds, codes = np.unique(one, return_inverse=True)
        if len(kinds) < 2:
            raise ValueError(f"labels are all {kinds[0]} (set {k}): a probe needs at least two classes")
        encoded.append(Targets(jnp.asarray(codes, jnp.int32), kinds))
    return encoded


def check_trained(targets: list[Targets], weights: jax.Array, name: str) -> None:
    """Refuses weights (label_sets, splits, n) that leave a class of some split without a training row."""
    for k, (codes, classes) in enumerate(targets):
        if not is_concrete(codes, weights):
            continue
        mass = np.asarray(weights[k], np.float64) @ np.eye(len(classes))[np.asarray(codes)]
        if (mass == 0).any():
            split, column = np.argwhere(mass == 0)[0]
            raise ValueError(
                f"{name} leaves label {classes[column]} of set {k} without a training row in split {split}; "
                "drop that label or split otherwise"
            )


def _columns_at_once() -> int:
    """Columns of one batch: enough to fill the matrix product, few enough that not all wait for the slowest.

    On the CPU 64 columns run at the machine's speed; the figure for accelerators is untested.
    """
    return 64 if jax.default_backend() == "cpu" else 512


def _batches(problems: int, columns: int) -> Iterator[np.ndarray]:
    """Equal batches of problem indices, the last filled up with repeats so that one program serves all."""
    limit = max(1, _columns_at_once() // columns)
    count = math.ceil(problems / limit)
    size = math.ceil(problems / count)
    for k in range(count):
        yield np.arange(k * size, (k + 1) * size) % problems


def _training_rows(weights: jax.Array) -> list[np.ndarray] | None:
    """Each problem's training rows, where all have equally many and the rest is worth leaving out."""
    if not is_concrete(weights):
        return None
    used = np.asarray(weights) > 0
    counts = used.sum(axis=1)
    if (counts != counts[0]).any() or counts[0] > 0.95 * used.shape[1]:
        return None
    return [np.flatnonzero(row) for row in used]


def _solve_all(data: Standardised, codes, weights, penalty, start, **options) -> Solution:
    """All problems of one number of classes, batch by batch; every argument but the rows is (problems, ...)."""
    problems = weights.shape[0]
    batches = list(_batches(problems, 1 if options["classes"] == 2 else options["classes"]))
    alone = _training_rows(weights) if len(batches[0]) == 1 else None
    parts = []
    for batch in batches:
        rows, own, mass = data.rows, codes[batch], weights[batch]
        if alone is not None:  # nobody else needs this problem's held-out rows
            kept = alone[batch[0]]
            rows, own, mass = rows[kept], own[:, kept], mass[:, kept]
        begin = None if start is None else start[batch]
        parts.append(
            solve(rows, data.shift[batch], data.factor[batch], own, mass, penalty[batch], start=begin, **options)
        )
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:problems], *parts)


def _solve_sets(data: Standardised, codes, weights, penalty, **options) -> Solution:
    """Sets of labels with equally many classes: codes (sets, n), weights (sets, splits, n), the result as `penalty`.

    Paths start at 0 by definition and go together. Converged fits walk along the penalties from the strongest, each
    from where the last ended.
    """
    sets, count, splits = penalty.shape
    problems = np.arange(sets * splits).reshape(sets, 1, splits)
    order = np.arange(count)
    if options["by_gap"] and is_concrete(penalty):
        order = np.argsort(-np.asarray(penalty[0, :, 0]), kind="stable")
    stages = order[:, None] if options["by_gap"] else order[None, :]
    parts, start = [], None
    for stage in stages:
        index = np.tile(problems, (1, len(stage), 1)).reshape(-1)
        own = data._replace(shift=data.shift[index], factor=data.factor[index])
        mass = weights.reshape(sets * splits, -1)[index]
        solution = _solve_all(own, codes[index // splits], mass, penalty[:, stage].reshape(-1), start, **options)
        start = jnp.concatenate([solution.weight, solution.bias[:, :, None]], axis=-1)
        parts.append(jax.tree.map(lambda a, own=stage: a.reshape(sets, own.size, splits, *a.shape[1:]), solution))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1)[:, np.argsort(order)], *parts)


def _fit_layer(rows, targets: list[Targets], weights, penalty, **options) -> tuple[Solution, jax.Array, jax.Array]:
    """One layer: its solutions (sets, penalties, splits, ...) and the features' means and scales (sets, splits, d)."""
    sets, splits, n = weights.shape
    data = standardise(rows, weights.reshape(-1, n))
    sizes = [len(one.classes) for one in targets]
    solved: dict[int, Solution] = {}
    for classes in sorted(set(sizes)):
        members = np.flatnonzero(np.array(sizes) == classes)
        index = (members[:, None] * splits + np.arange(splits)).reshape(-1)
        part = data._replace(shift=data.shift[index], factor=data.factor[index])
        codes = jnp.stack([targets[k].codes for k in members])
        solution = _solve_sets(part, codes, weights[members], penalty[members], classes=classes, **options)
        for place, k in enumerate(members):
            solved[int(k)] = _widen(jax.tree.map(lambda a, at=place: a[at], solution), classes, max(sizes))
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(solved[k] for k in range(sets)))
    return together, data.mean.reshape(sets, splits, -1), data.scale.reshape(sets, splits, -1)


def fit_problems(
    layers: Sequence[Float[Array, "n d"]],
    targets: list[Targets],
    weights: Float[Array, "sets splits n"],
    penalty: Float[ArrayLike, "layers sets penalties splits"],
    *,
    method: str,
    tolerance: float,
    max_iterations: int,
) -> Probe:
    """`fit` on checked arguments; every axis is there, and `penalty` may differ by problem.

    Layers share nothing and go one by one.
    """
    width, dtype = layers[0].shape[-1], weights.dtype
    penalty = jnp.asarray(penalty, dtype)
    options = {
        "tolerance": jnp.asarray(tolerance, dtype),
        "by_gap": method == "converged",
        "max_iterations": max_iterations,
    }
    fits = [_fit_layer(rows, targets, weights, own, **options) for rows, own in zip(layers, penalty, strict=True)]
    solution, mean, scale = jax.tree.map(lambda *leaves: jnp.stack(leaves), *fits)
    widest = max(len(one.classes) for one in targets)
    classes = np.stack([np.pad(one.classes, (0, widest - len(one.classes)), constant_values=-1) for one in targets])
    wide = (*penalty.shape, width)
    return Probe(
        **solution._asdict(),
        mean=jnp.broadcast_to(mean[:, :, None], wide),
        scale=jnp.broadcast_to(scale[:, :, None], wide),
        classes=jnp.asarray(classes, jnp.int32),
        penalty=penalty,
        axes=AXES,
        method=method,
        tolerance=tolerance,
    )


def _widen(solution: Solution, width: int, widest: int) -> Solution:
    """One row a class, and rows of probability 0 up to the widest set's."""
    weight, bias = solution.weight, solution.bias
    if width == 2:
        weight = jnp.concatenate([-weight, weight], axis=-2) / 2
        bias = jnp.concatenate([-bias, bias], axis=-1) / 2
    extra = widest - width
    weight = jnp.pad(weight, [(0, 0)] * (weight.ndim - 2) + [(0, extra), (0, 0)])
    bias = jnp.pad(bias, [(0, 0)] * (bias.ndim - 1) + [(0, extra)], constant_values=-jnp.inf)
    return solution._replace(weight=weight, bias=bias)


def _fit_stream(
    source: Source,
    labels: np.ndarray,
    penalty: float,
    classes: int | None,
    *,
    method: str,
    tolerance: float,
    max_iterations: int,
) -> Probe:
    """`fit` of one problem on checked arguments, by passes over chunks."""
    codes, kinds = encode(labels[None], classes)[0]
    if (absent := np.bincount(np.asarray(codes), minlength=len(kinds)) == 0).any():
        raise ValueError(f"labels leaves class {kinds[absent][0]} without a training row")
    solution, mean, scale = solve_stream(
        source,
        np.asarray(codes),
        len(kinds),
        penalty,
        tolerance=tolerance,
        by_gap=method == "converged",
        iterations=max_iterations,
    )
    return Probe(
        **_widen(solution, len(kinds), len(kinds))._asdict(),
        mean=jnp.asarray(mean),
        scale=jnp.asarray(scale),
        classes=jnp.asarray(kinds, jnp.int32),
        penalty=jnp.asarray(penalty, mean.dtype),
        axes=(),
        method=method,
        tolerance=tolerance,
    )


def shape_probe(probe: Probe, layout: Layout) -> Probe:
    """Drops the axes that the caller did not have."""
    leaves = per_problem(probe, lambda a: a.reshape(*layout.shape, *a.shape[len(AXES) :]))
    classes = probe.classes if layout.label_sets is not None else probe.classes[0]
    return dataclasses.replace(probe, **leaves, classes=classes, axes=layout.axes)


def per_problem(probe: Probe, change: Callable[[jax.Array], jax.Array]) -> dict[str, jax.Array]:
    """The probe's arrays that have the leading axes, changed."""
    return {name: change(getattr(probe, name)) for name in (*Solution._fields, "mean", "scale", "penalty")}


def check_options(method: str, tolerance: float | None, max_iterations: int) -> float:
    """The tolerance to use."""
    check_choice(method, get_args(Method), "method")
    tolerance = TOLERANCES[method] if tolerance is None else tolerance
    if not tolerance > 0:
        raise ValueError(f"tolerance must be above 0, got {tolerance}")
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}")
    return float(tolerance)


def check_penalty(penalty: ArrayLike | Sequence[float]) -> np.ndarray | jax.Array:
    """One or several penalties above 0."""
    array = penalty if isinstance(penalty, jax.Array) else np.asarray(penalty, np.float64)
    if array.ndim > 1 or not array.size:
        raise ValueError(f"penalty must be a number or a vector of numbers, got shape {array.shape}")
    if is_concrete(array) and not (np.isfinite(np.asarray(array)) & (np.asarray(array) > 0)).all():
        raise ValueError(f"penalty must be finite and above 0, got {penalty}")
    return array


def fit(
    hidden_states: ArrayLike | Source,
    labels: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    penalty: ArrayLike | Sequence[float] = 1.0,
    method: str = "path",
    tolerance: float | None = None,
    max_iterations: int = MAX_ITERATIONS,
    classes: int | None = None,
) -> Probe:
    """Fits l2 multinomial logistic regressions on z-scored features: all layers, label sets, penalties and splits.

    Minimises mean_i CE_i + penalty |W|^2 / (2 rows) over weights W and unpenalised biases; `penalty` is scikit-learn's
    1 / C. There are two definitions, and on separable data they are different probes:

    - "path" is where scikit-learn's default solver stops: L-BFGS from W = 0 until the largest entry of the gradient is
      `tolerance` (1e-4) or below. Stopping early regularises, and the paper's accuracies include it.
    - "converged" is the optimum: until `gap` is below `tolerance` (1e-5) times the objective.

    Args:
      hidden_states: rows, (n, d) or (layers, n, d). float64 stays, all else becomes float32. Or a callable that
        returns a fresh iterable of arrays (n_i, d) on every call, for more rows than memory holds: every step is then
        a pass over them, the optimiser is scipy's, and labels, penalty and weights are (n,), a number and None.
      labels: integers >= 0, (n,) or (label_sets, n).
      weights: training weight of each row, 0 for held-out rows: (n,), (splits, n) or (label_sets, splits, n). All rows
        are trained on where it is None.
      penalty: a number, or several, (penalties,).
      method: "path" or "converged".
      tolerance: of the method's stopping rule.
      max_iterations: where the iteration gives up; `converged` tells.
      classes: number of classes, if labels are codes 0..classes - 1. Needed under jit; else what occurs is counted.

    Returns:
      A `Probe` with leading axes (layers, label sets, penalties, splits), those that the arguments have.

    Raises:
      ValueError: for shapes that do not fit, hidden states that are not finite, labels that are no integers >= 0 or all
        the same, a class without a training row, or an option out of range.
    """
    if isinstance(hidden_states, Chunks) or callable(hidden_states):
        return _fit_stream(
            hidden_states,
            check_alone(labels, penalty, weights),
            float(check_penalty(penalty)),
            classes,
            method=method,
            tolerance=check_options(method, tolerance, max_iterations),
            max_iterations=max_iterations,
        )
    x = check_hidden_states(hidden_states)
    checked = check_labels(labels, x.shape[-2])
    rows, has_splits = check_rows(jnp.ones(x.shape[-2]) if weights is None else weights, checked, "weights")
    strength = check_penalty(penalty)
    tolerance = check_options(method, tolerance, max_iterations)
    layout = Layout(
        layers=x.shape[0] if x.ndim == 3 else None,
        label_sets=checked.shape[0] if checked.ndim == 2 else None,
        penalties=strength.shape[0] if strength.ndim else None,
        splits=rows.shape[1] if has_splits else None,
    )
    targets = encode(checked.reshape(-1, checked.shape[-1]), classes)
    check_trained(targets, rows, "weights")
    strength = jnp.broadcast_to(jnp.asarray(strength, x.dtype).reshape(1, 1, -1, 1), layout.full)
    probe = fit_problems(
        layers_of(x),
        targets,
        rows.astype(x.dtype),
        strength,
        method=method,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return shape_probe(probe, layout)


@jax.jit
def _log_probabilities(weight, bias, mean, scale, x):
    """(problems, K, d), (problems, K), (problems, d), (problems, d) and (n, d) to (problems, n, K)."""
    centre = jnp.mean(mean, axis=0)
    folded = weight / scale[:, None, :]
    logits = lax.dot_general(folded, x - centre, (((2,), (1,)), ((), ())))
    offset = bias - jnp.einsum("pkd,pd->pk", folded, mean - centre)
    return jax.nn.log_softmax(jnp.swapaxes(logits, 1, 2) + offset[:, None, :], axis=-1)


def layer_log_probabilities(probe: Probe, layers: Sequence[Float[Array, "n d"]]) -> Float[Array, "*batch n k"]:
    """`log_probabilities` on checked layers."""
    batch, (k, d) = probe.weight.shape[:-2], probe.weight.shape[-2:]

    def flat(a, tail):
        return a.reshape(len(layers), -1, *tail)

    parts = [
        _log_probabilities(*arguments)
        for arguments in zip(
            flat(probe.weight, (k, d)),
            flat(probe.bias, (k,)),
            flat(probe.mean, (d,)),
            flat(probe.scale, (d,)),
            layers,
            strict=True,
        )
    ]
    return jnp.stack(parts).reshape(*batch, layers[0].shape[0], k)


def log_probabilities(probe: Probe, hidden_states: ArrayLike) -> Float[Array, "*batch n k"]:
    """Log P(class | hidden state) of every row by every probe. Jits, vmaps, and is differentiable in the rows.

    Args:
      probe: fitted probes.
      hidden_states: rows of the same space, (n, d), or (layers, n, d) for a probe with an axis of layers.

    Returns:
      Nats, (..., n, K); the columns are `probe.classes`.

    Raises:
      ValueError: if the width or the number of layers is not the probe's.
    """
    x = check_hidden_states(hidden_states)
    batch, d = probe.weight.shape[:-2], probe.weight.shape[-1]
    if x.shape[-1] != d:
        raise ValueError(f"hidden_states has width {x.shape[-1]} and the probe was fitted at width {d}")
    layers = batch[0] if "layers" in probe.axes else 1
    if x.ndim != 2 + ("layers" in probe.axes) or (x.ndim == 3 and x.shape[0] != layers):
        raise ValueError(f"hidden_states has shape {x.shape} and the probe leading axes {probe.axes} of sizes {batch}")

    return layer_log_probabilities(probe, layers_of(x))


def predict(probe: Probe, hidden_states: ArrayLike) -> Int[Array, "*batch n"]:
    """The most probable label of every row, (..., n); arguments as `log_probabilities`."""
    best = jnp.argmax(log_probabilities(probe, hidden_states), axis=-1)
    if "label_sets" not in probe.axes:
        return probe.classes[best]
    axis = probe.axes.index("label_sets")
    sets, k = probe.classes.shape
    classes = probe.classes.reshape(sets, *(1,) * (best.ndim - axis - 2), k)
    return jnp.take_along_axis(jnp.broadcast_to(classes, (*best.shape[:-1], k)), best, axis=-1)
