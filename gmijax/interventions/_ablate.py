"""Conditions side by side through one decoder: what each does to the loss and to the rates."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax import bounds, rates
from gmijax._checks import check_choice, check_level
from gmijax.interventions._checks import check_states
from gmijax.interventions._effects import Ablation, Effect, RateChange, by_unit, paired_changes
from gmijax.rates._checks import check_index, check_scores
from gmijax.rates._gmi import front_door
from gmijax.stats import influence_standard_error, normal_interval

Scores: TypeAlias = Callable[[Any, Any], ArrayLike]
TARGETS = ("message", "prompt")


@jax.jit
def _movement(before: ArrayLike, after: ArrayLike, mask: ArrayLike) -> tuple[Array, Array]:
    """The share of variance removed, and the mean squared displacement, over the positions of the mask."""
    before, after, mask = jnp.asarray(before), jnp.asarray(after), jnp.asarray(mask)
    dtype = jnp.promote_types(before.dtype, jnp.float32)
    weight = mask[..., None].astype(dtype)
    count, axes = jnp.sum(mask), tuple(range(mask.ndim))

    def variance(x):
        mean = jnp.sum(weight * x, axis=axes) / count
        return jnp.sum(weight * jnp.square(x - mean)) / count

    before, after = (jnp.where(mask[..., None], x.astype(dtype), 0) for x in (before, after))
    total = variance(before)
    removed = jnp.where(total > 0, 1 - variance(after) / jnp.where(total > 0, total, 1), 0)
    return removed, jnp.sum(jnp.square(after - before)) / count


class _Problem(NamedTuple):
    """What turns score matrices into rates."""

    messages: np.ndarray  # (n,)
    contexts: np.ndarray | None  # (n,)
    clusters: Array | None  # (n,)
    prior: ArrayLike | None
    scale: float
    method: str
    level: float

    def over_inputs(self, scores: ArrayLike, method: str | None = None) -> rates.Rate:
        return self._sampled(jnp.asarray(scores)[:, self.messages].T, method)

    def over_messages(self, scores: ArrayLike, method: str | None = None) -> rates.Rate:
        if self.prior is None:
            return self._sampled(jnp.asarray(scores)[:, self.messages], method)
        options = {"prior": self.prior, "scale": self.scale, "level": self.level}
        return self._clustered(rates.gmi_labels(scores, self.messages, **options))

    def _sampled(self, table: Array, method: str | None) -> rates.Rate:
        options = {"contexts": self.contexts, "scale": self.scale, "level": self.level}
        return self._clustered(rates.gmi(table, method=method or self.method, **options))

    def _clustered(self, rate: rates.Rate) -> rates.Rate:
        """The rate with the clusters as its resampling units."""
        if self.clusters is None:
            return rate
        influence = by_unit(rate.influence, self.clusters)
        standard_error = influence_standard_error(influence)
        interval = normal_interval(rate.value, standard_error, level=self.level)
        return replace(rate, influence=influence, standard_error=standard_error, interval=interval)

    def bracket(self, before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
        """B6's first- and second-order terms, contexts weighted by their samples."""
        contexts = np.zeros(len(before), int) if self.contexts is None else self.contexts
        first = second = 0.0
        for context in np.unique(contexts):
            rows = np.flatnonzero(contexts == context)
            columns, own = np.unique(self.messages[rows], return_inverse=True)
            inside = np.ix_(rows, columns)
            terms = bounds.edit_bracket(before[inside].T, after[inside].T, own.reshape(-1), scale=self.scale).terms
            first += len(rows) / len(before) * terms["first_order"]
            second += len(rows) / len(before) * terms["second_order"]
        return first, second

    def change(self, direction: str, first: rates.Rate, before: np.ndarray, after: np.ndarray) -> RateChange:
        """The change from `first`, the rate of `before`, over inputs or over messages."""
        rate = getattr(self, direction)
        second = rate(after)
        saturated = first.saturated | second.saturated
        if bool(saturated):  # one may be a bound and the other not: compare like with like
            first, second = rate(before, "include"), rate(after, "include")
        change = rates.difference(second, first, level=self.level)
        return RateChange(change.value, change.standard_error, change.interval, saturated)


def _edited(name: str, edit: Any, states: Array, mask: np.ndarray) -> np.ndarray:
    """The states under one condition, checked to be states of the same samples with the padding as it was."""
    if not callable(edit):
        raise ValueError(f"condition {name!r} must be an edit, called with states and mask=, got {type(edit).__name__}")
    after = np.asarray(edit(states, mask=mask))
    if after.shape != states.shape:
        raise ValueError(f"condition {name!r} turned states of shape {states.shape} into {after.shape}")
    if not np.isfinite(after[mask]).all():
        raise ValueError(f"condition {name!r} made states that are NaN or infinite")
    if not mask.all() and not np.array_equal(after[~mask], np.asarray(states)[~mask], equal_nan=True):
        raise ValueError(f"condition {name!r} changed padding; an edit must leave positions outside its mask alone")
    return after


def ablate(
    scores: Scores,
    soft_tokens: ArrayLike,
    conditions: Mapping[str, Any],
    messages: ArrayLike | None = None,
    *,
    mask: ArrayLike | None = None,
    contexts: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    prior: ArrayLike | None = None,
    target: str = "message",
    scale: float = 1.0,
    method: str = "jackknife",
    level: float = 0.95,
    draws: int = 9999,
    conditions_per_call: int | None = None,
    key: Array,
) -> Ablation:
    """Runs edits side by side through a decoder: change of the target's loss, and of the rates.

    All conditions, and the states as they are, go through `scores` in one call, so that what their prompts share is
    run once. The loss is that of the sample's own message, -l(z_i, y_i), which the paper's code never takes: it scores
    the prompt's own tokens, and `target="prompt"` repeats that. A change of loss is no change of information, since it
    also moves where nothing competes with the message; the changes of I(s) are information, and B6's terms
    (THEORY.md, section 4) tell a gain by mismatch from a loss of content.

    Args:
      scores: the decoder, such as `scoring.DecoderScores`; called with states (rows, tokens, width) and their mask
        (rows, tokens), it returns l(z, y) of every message y, shape (rows, m), nats. For `target="prompt"` it needs a
        method `prompt_losses` of the same arguments: the mean cross-entropy of each row's prompt, shape (rows,).
      soft_tokens: states, shape (n, tokens, width), n >= 2.
      conditions: edits by name; each is called as `edit(soft_tokens, mask=mask)`, on all samples at once, such as
        `functools.partial(project_out, subspace=rows)`.
      messages: the column of `scores` that holds each sample's message, integers of shape (n,); column i for sample i
        where None.
      mask: true at soft tokens, false at padding, shape (n, tokens); no edit may change padding.
      contexts: the context of each sample, integers of shape (n,), as in `rates.gmi`: alternatives come from the same.
      clusters: the resampling unit of each sample, such as its speaker, shape (n,), at least 2 of them; every sample is
        its own where None.
      prior: law of the messages, shape (m,) or (n, m), if the columns are all there are: the rate over messages is then
        exact in its alternatives. Where None, the other samples' messages stand for it.
      target: "message", or "prompt" as the paper's code.
      scale: s > 0 of the rates and of B6; 1 is the decoder as it speaks.
      method: of `rates.gmi`; `include` where the samples are the whole law of inputs.
      level: coverage of all intervals.
      draws: sign patterns of the tests.
      conditions_per_call: most conditions in one call of `scores`; bounds the memory, and repeats little but the head.
      key: a PRNG key.

    Returns:
      An `Ablation`. Intervals and tests take samples (or clusters) as independent, and are not adjusted for the number
      of conditions.

    Raises:
      ValueError: for no conditions, one sample, an edit that fits no position, changes padding, or makes states of
        another shape or not finite, scores that are not finite or of another shape, messages or contexts that do not
        fit, or an unknown option.
      TypeError: if `target` is "prompt" and `scores` has no `prompt_losses`.
    """
    check_choice(target, TARGETS, "target")
    check_level(level)
    if not (np.ndim(scale) == 0 and np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be one finite number > 0, got {scale}")
    if not conditions:
        raise ValueError("conditions is empty; give at least one edit by name")
    if conditions_per_call is not None and conditions_per_call < 1:
        raise ValueError(f"conditions_per_call must be at least 1, got {conditions_per_call}")
    states, matched = check_states(soft_tokens, mask)
    if states.ndim != 3 or len(states) < 2:
        raise ValueError(
            f"soft_tokens must be (n, tokens, width) with n >= 2: paired intervals need 2 samples, got {states.shape}"
        )
    count = len(states)
    positions = np.ones(states.shape[:2], bool) if matched is None else np.asarray(matched)
    run, units, problem = _runner(scores, target), _units(clusters, count), None
    if target == "message":
        # Every check that needs no scores comes before the decoder runs.
        front_door((count, count), jnp.float32, None, contexts, None, None, method, scale, level)
        groups = None if contexts is None else np.asarray(contexts)
        own = np.asarray(check_index(np.arange(count) if messages is None else messages, count, 2**31, "messages", ""))
        problem = _Problem(own, groups, units, prior, float(scale), method, level)
    elif messages is not None or contexts is not None or prior is not None:
        raise ValueError('messages, contexts and prior are of no use for target="prompt": it has no message')
    base, after, moved = _side_by_side(run, conditions, states, positions, conditions_per_call or len(conditions))

    losses, after_losses, rate_before, changed = base, after, {}, [{} for _ in after]
    if problem is not None:
        columns = base.shape[1]
        if messages is None and columns != count:
            raise ValueError(
                f"messages must be given: sample i's message would be column i, but there are {count} samples and "
                f"{columns} columns"
            )
        check_index(problem.messages, count, columns, "messages", "columns")
        positive = np.arange(count), problem.messages
        losses, after_losses = -base[positive], [-table[positive] for table in after]
        rate_before, changed = _informed(problem, base, after)
    changes = jnp.asarray(np.stack(after_losses) - losses)
    paired, mean_loss = paired_changes(changes, units, level, draws, key), jnp.mean(jnp.asarray(losses))
    effects = {}
    for i, name in enumerate(conditions):
        value, standard_error, interval, p_value = jax.tree.map(lambda part, i=i: part[i], paired)
        removed, displaced = moved[i]
        effects[name] = Effect(
            value, standard_error, interval, p_value, changes[i], value / mean_loss, removed, displaced, **changed[i]
        )  # fmt: skip
    static = {"n": count, "scale": float(scale), "target": target, "level": level}
    return Ablation(effects, jnp.asarray(losses), **rate_before, clusters=units, **static)


def _units(clusters: ArrayLike | None, count: int) -> Array | None:
    """Clusters renumbered 0, 1, ..."""
    if clusters is None:
        return None
    labels, index = np.unique(np.asarray(clusters), return_inverse=True)
    if np.shape(clusters) != (count,) or len(labels) < 2:
        raise ValueError(
            f"clusters must give one of at least 2 units to each of the {count} samples, got shape "
            f"{np.shape(clusters)} and {len(labels)} units"
        )
    return jnp.asarray(index.reshape(-1), jnp.int32)


def _informed(
    problem: _Problem, before: np.ndarray, after: list[np.ndarray]
) -> tuple[dict[str, rates.Rate], list[dict[str, Any]]]:
    """The rates without an edit, and under each condition their changes and B6's terms."""
    base = {f"rate_{over}": getattr(problem, f"over_{over}")(before) for over in ("inputs", "messages")}
    changed = []
    for table in after:
        first, second = problem.bracket(before, table)
        change = {name: problem.change(name.replace("rate", "over"), base[name], before, table) for name in base}
        changed.append({**change, "first_order": jnp.asarray(first), "second_order": jnp.asarray(second)})
    return base, changed


def _side_by_side(
    run: Callable[[list[np.ndarray], np.ndarray], list[np.ndarray]],
    conditions: Mapping[str, Any],
    states: Array,
    mask: np.ndarray,
    together: int,
) -> tuple[np.ndarray, list[np.ndarray], list[tuple[Array, Array]]]:
    """The decoder's tables without an edit and under each condition, and how far each moved the states."""
    names, tables, moved, whole = list(conditions), [], [], np.asarray(states)
    for start in range(0, len(names), together):
        edited = [_edited(name, conditions[name], states, mask) for name in names[start : start + together]]
        moved += [_movement(states, after, mask) for after in edited]
        tables += run(edited if start else [whole, *edited], mask)
    return tables[0], tables[1:], moved


def _runner(scores: Scores, target: str) -> Callable[[list[np.ndarray], np.ndarray], list[np.ndarray]]:
    """A function from several versions of the states to the scores, or prompt losses, of each, checked."""
    prompt_losses = getattr(scores, "prompt_losses", None)
    if target == "prompt" and prompt_losses is None:
        raise TypeError(
            'target="prompt" needs scores with a method prompt_losses(soft_tokens, mask), as scoring.DecoderScores has'
        )

    def run(versions: list[np.ndarray], mask: np.ndarray) -> list[np.ndarray]:
        stack = np.concatenate(versions)
        masks = np.tile(mask, (len(versions), 1))
        if prompt_losses is not None and target == "prompt":
            values = np.asarray(prompt_losses(stack, masks))
            if values.shape != (len(stack),) or not np.isfinite(values).all():
                raise ValueError(f"prompt_losses must return {len(stack)} finite losses, got shape {values.shape}")
        else:
            values = np.asarray(check_scores(scores(stack, masks)))
            if len(values) != len(stack):
                raise ValueError(f"scores must return one row for each of {len(stack)} inputs, got {values.shape}")
        return np.split(values, len(versions))

    return run
