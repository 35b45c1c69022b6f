"""The accessibility ladder of an attribute: how much of it each kind of read-out reaches (THEORY.md, section 2)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax import probes, rates
from gmijax.bounds import CertifiedGap, certified_gap
from gmijax.stats import Interval, influence_standard_error, normal_interval

RUNGS = {
    "decoder": "decoder as it speaks",
    "gmi": "+ temperature (GMI)",
    "lm_rate": "+ a bias a label (LM rate)",
    "read_out": "+ affine read-out of the scores",
    "final_probe": "linear probe on the last layer",
    "best_probe": "best linear probe over layers",
    "entropy": "H(A)",
}
READ_OUT_PENALTIES = (1e-3, 0.1, 10.0)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Estimate:
    """An estimated quantity with its interval; all fields of one shape."""

    value: jax.Array
    standard_error: jax.Array
    interval: Interval


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ladder:
    """What each kind of read-out reaches of an attribute A, nats.

    Attributes:
      rungs: in the order of `names`, an `Estimate` of shape (7,).
      gaps: each rung less the one below, with paired intervals, an `Estimate` of shape (6,). The first two are >= 0 in
        population; cross-fitted estimates need not be.
      layers: the probe's rung of every layer, an `Estimate` of shape (layers,).
      accessibility: the LM rate over the best probe's rung, an `Estimate`.
      certified: B8: what the best probe reads beyond the LM rate, at least, at confidence `level`.
      lm_rate: the LM rate itself, cross-fitted.
      chosen: the layer that each fold's validation chose, (folds,).
      influence: of the rungs, (7, units).
      converged: whether every fit met its stopping rule.
      layer_names: names of the layers.
      n: rows.
      level: coverage of the intervals.
      names: of the rungs.
    """

    rungs: Estimate
    gaps: Estimate
    layers: Estimate
    accessibility: Estimate
    certified: CertifiedGap = field(metadata={"static": True})
    lm_rate: rates.Rate = field(repr=False)
    chosen: jax.Array
    influence: jax.Array = field(repr=False)
    converged: jax.Array
    layer_names: tuple[str, ...] = field(metadata={"static": True})
    n: int = field(metadata={"static": True})
    level: float = field(metadata={"static": True})
    names: tuple[str, ...] = field(default=tuple(RUNGS), metadata={"static": True})

    def rung(self, name: str) -> Estimate:
        """One rung by its name."""
        if name not in self.names:
            raise ValueError(f"name must be one of {', '.join(self.names)}, got {name!r}")
        return jax.tree.map(lambda part: part[self.names.index(name)], self.rungs)

    @property
    def bits(self) -> Estimate:
        """The rungs in bits."""
        return jax.tree.map(lambda part: part / math.log(2), self.rungs)

    @property
    def shares(self) -> jax.Array:
        """The rungs as shares of H(A), (7,)."""
        return self.rungs.value / self.rungs.value[-1]

    @property
    def reliable(self) -> jax.Array:
        """Whether every fit converged and the rates can be trusted."""
        return self.converged & self.lm_rate.reliable


def ladder(
    label_scores: ArrayLike,
    hidden_states: ArrayLike | Mapping[str, ArrayLike],
    labels: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    folds: int = 5,
    penalties: Sequence[float] = probes.PENALTIES,
    method: str = "path",
    level: float = 0.95,
    key: Array,
) -> Ladder:
    """How much of an attribute the decoder uses, and how much is there (THEORY.md, section 2).

    From the bottom: the decoder as it speaks, I_msg(1) = H(A) - CE(q); GMI_msg, after a temperature; the LM rate, after
    a temperature and a bias a label; an affine read-out of the label scores; a linear probe on the last layer; the best
    linear probe over the layers; H(A). Every rung but the last is evaluated on rows that did not fit it; penalties and
    layers are chosen on rows that they are not evaluated on. A probe's rung is H(A) - held-out cross-entropy
    (V-information: Xu et al. 2020, arXiv:2002.10689), not an accuracy. H(A) is that of the labels' frequencies, which
    is biased down by about (K - 1) / 2n and is the same in every rung.

    Args:
      label_scores: log q(k | z_i, c), nats, (n, K); an additive function of the row changes nothing.
      hidden_states: the layers to probe in order, the last one last: (n, d), (layers, n, d), or arrays (n, d) by name,
        which may differ in width.
      labels: the attribute, integers 0..K-1, (n,), every one of them present.
      groups: e.g. the speaker of every row, (n,): no group is then in training and test, and groups are the unit of
        the intervals.
      folds: of the cross-fits of read-outs and probes, at least 3.
      penalties: l2 penalties to choose from.
      method: of the probes: "path" or "converged", see `probes.fit`.
      level: coverage of the intervals.
      key: a PRNG key, for the folds.

    Returns:
      A `Ladder`.

    Raises:
      ValueError: for shapes that do not fit, values that are not finite, labels with fewer than `folds` rows (or
        groups), or an option out of range.
    """
    scores = jnp.asarray(label_scores)
    if scores.ndim != 2:
        raise ValueError(f"label_scores must have shape (n, K), got {scores.shape}")
    n, k = scores.shape
    index = _check_labels(labels, n, k)
    named = _check_layers(hidden_states, n)
    if folds < 3:
        raise ValueError(f"folds must be at least 3 (train, choose, test), got {folds}")
    fold = probes.splits.k_fold(index, groups=groups, folds=folds, seed=_seed(key))

    counts = np.bincount(index, minlength=k)
    log_prior = np.log(counts / n)
    surprise = -log_prior[index]
    # With the score l - log P(k) the prior enters once: I_msg(1) is then H(A) - CE(q) (F8).
    relative = scores - jax.nn.logsumexp(scores, axis=1, keepdims=True)
    pointwise = relative - jnp.asarray(log_prior, scores.dtype)
    spoken = rates.gmi_labels(pointwise, index, scale=1.0, level=level)
    gmi = rates.gmi_labels(pointwise, index, level=level)
    lm = rates.lm_rate(pointwise, index, level=level)
    certain = rates.lm_rate(pointwise, index, fit="in-sample", level=level)

    read_out = probes.cross_fit([relative], index, fold, penalties=READ_OUT_PENALTIES, method=method)
    probed = probes.cross_fit(list(named.values()), index, fold, penalties=penalties, method=method)
    fitted = np.stack([surprise + read_out.log_likelihoods[0], surprise + probed.log_likelihoods[-1]])
    fitted = np.concatenate([fitted, (surprise + probed.best)[None], surprise[None]])
    values = jnp.concatenate(
        [jnp.stack([spoken.value, gmi.value, lm.value]), jnp.asarray(fitted.mean(1), scores.dtype)]
    )
    terms = [np.asarray(rate.influence, np.float64) for rate in (spoken, gmi, lm)]
    influence = _by_unit(np.concatenate([np.stack(terms), fitted - fitted.mean(1, keepdims=True)]), groups)
    by_layer = surprise[None] + probed.log_likelihoods
    layer_influence = _by_unit(by_layer - by_layer.mean(1, keepdims=True), groups)

    best, rate = fitted.mean(1)[2], float(lm.value)
    ratio = rate / best
    ratio_influence = (influence[2] - ratio * influence[5]) / best
    information = _estimate(best, influence[5], level)
    return Ladder(
        rungs=_estimate(values, influence, level),
        gaps=_estimate(jnp.diff(values), np.diff(influence, axis=0), level),
        layers=_estimate(by_layer.mean(1), layer_influence, level),
        accessibility=_estimate(ratio, ratio_influence, level),
        certified=certified_gap(information, certain, level=level),
        lm_rate=lm,
        chosen=jnp.asarray(probed.chosen),
        influence=jnp.asarray(influence, jnp.float32),
        converged=jnp.asarray(read_out.converged and probed.converged and bool(gmi.converged & lm.converged)),
        layer_names=tuple(named),
        n=n,
        level=level,
    )


def _seed(key: Array) -> int:
    return int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max))


def _estimate(value: ArrayLike, influence: np.ndarray, level: float) -> Estimate:
    centre, terms = jnp.asarray(value, jnp.float32), jnp.asarray(influence, jnp.float32)
    error = influence_standard_error(terms)
    return Estimate(centre, error, normal_interval(centre, error, level=level))


def _by_unit(influence: np.ndarray, groups: ArrayLike | None) -> np.ndarray:
    """Influences of the resampling units: rows, or groups, whose rows' influences add up."""
    if groups is None:
        return influence
    _, unit = np.unique(np.asarray(groups), return_inverse=True)
    units = unit.max() + 1
    summed = np.stack([np.bincount(unit, row, units) for row in influence])
    return summed * units / influence.shape[1]


def _check_labels(labels: ArrayLike, n: int, k: int) -> np.ndarray:
    index = np.asarray(labels)
    if index.shape != (n,) or not np.issubdtype(index.dtype, np.integer):
        raise ValueError(
            f"labels must be {n} integers, one a row of label_scores, got shape {index.shape} and type {index.dtype}"
        )
    if index.min() < 0 or index.max() >= k:
        raise ValueError(
            f"labels must lie in 0..{k - 1}, the columns of label_scores, got {index.min()}..{index.max()}"
        )
    absent = np.flatnonzero(np.bincount(index, minlength=k) == 0)
    if len(absent):
        raise ValueError(
            f"label {absent[0]} has no row ({len(absent)} labels have none): nothing can be read of it; leave its "
            "column out of label_scores"
        )
    return index


def _check_layers(hidden_states: ArrayLike | Mapping[str, ArrayLike], n: int) -> dict[str, jax.Array]:
    if not isinstance(hidden_states, Mapping):
        array = jnp.asarray(hidden_states)
        if array.ndim not in (2, 3):
            raise ValueError(f"hidden_states must have shape (n, d) or (layers, n, d), got {array.shape}")
        layers = array.reshape(-1, *array.shape[-2:])
        hidden_states = {f"layer {k}": layer for k, layer in enumerate(layers)}
    named = {name: jnp.asarray(layer) for name, layer in hidden_states.items()}
    if not named:
        raise ValueError("hidden_states holds no layer; give at least one array (n, d)")
    for name, layer in named.items():
        if layer.ndim != 2 or layer.shape[0] != n:
            raise ValueError(f"hidden_states[{name!r}] must have shape ({n}, d), one row a label, got {layer.shape}")
        if not bool(jnp.isfinite(layer).all()):
            raise ValueError(f"hidden_states[{name!r}] holds NaN or infinite values; drop these samples")
    return named
