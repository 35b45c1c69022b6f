"""Controls for an ablation: as many modes, the same variance, or any rotation within the span."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import check_choice, is_concrete
from gmijax.interventions._checks import check_subspace
from gmijax.interventions._edits import project_out

MATCHES = ("count", "variance", "rotation")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Controls:
    """Subspaces to set beside one that is ablated.

    Attributes:
      subspaces: orthonormal rows, shape (draws, count, width).
      variances: the law's variance inside each, shape (draws,), in the unit of the eigenvalues.
      target_variance: the variance inside the ablated subspace.
      residuals: variances / target_variance - 1, shape (draws,): 0 to rounding where the variance is matched.
      match: what was matched: "count", "variance" or "rotation".
    """

    subspaces: jax.Array
    variances: jax.Array
    target_variance: jax.Array
    residuals: jax.Array
    match: str = field(metadata={"static": True})

    def conditions(self, name: str, edit: Callable[..., Array] = project_out, **options: Any) -> dict[str, Any]:
        """The draws as conditions of `ablate`, named "name 0", "name 1", ...

        Args:
          name: what their names begin with.
          edit: an edit that takes a `subspace`.
          **options: its other options, such as `centre`.
        """
        return {f"{name} {i}": partial(edit, subspace=rows, **options) for i, rows in enumerate(self.subspaces)}


def _subset(others: int, count: int, key: Array) -> Array:
    """Coefficients of a random subset of the other modes, (count, others)."""
    chosen = jax.random.permutation(key, others)[:count]
    return jax.nn.one_hot(chosen, others)


def _same_variance(eigenvalues: Array, target: Array, count: int, key: Array) -> Array:
    """A random subset of modes, turned towards the extreme subset just far enough to hold the target variance.

    Its modes are paired with those of the extreme subset (the largest if it holds too little, else the smallest), and
    all pairs are turned by one angle: cos u_a + sin u_b. The variance is linear in sin^2, so the angle is known.
    """
    others = eigenvalues.shape[0]
    key_subset, key_pairs = jax.random.split(key)
    chosen = jax.random.permutation(key_subset, others)[:count]
    held = jnp.sum(eigenvalues[chosen])
    falling = jnp.argsort(-eigenvalues)
    extreme = jnp.where(held < target, falling[:count], falling[others - count :])
    # Modes that are in both come first, in one order, and are their own partners; the rest are paired at random.
    in_both = [jnp.any(a[:, None] == b[None, :], axis=1) for a, b in ((chosen, extreme), (extreme, chosen))]
    noise = others + jax.random.uniform(key_pairs, (2, count))
    first, second = (
        indices[jnp.argsort(jnp.where(both, indices, random))]
        for indices, both, random in zip((chosen, extreme), in_both, noise, strict=True)
    )
    span = jnp.sum(eigenvalues[second]) - held
    share = jnp.clip(jnp.where(span == 0, 0, (target - held) / jnp.where(span == 0, 1, span)), 0, 1)
    turned = (first != second)[:, None]
    start, end = jax.nn.one_hot(first, others), jax.nn.one_hot(second, others)
    return jnp.where(turned, jnp.sqrt(1 - share) * start + jnp.sqrt(share) * end, start)


def _rotation(modes: int, count: int, key: Array) -> Array:
    """Coefficients of a uniformly random subspace of the span, (count, modes)."""
    return jnp.linalg.qr(jax.random.normal(key, (modes, count)))[0].T


@partial(jax.jit, static_argnames=("match", "count", "draws"))
def _controls(directions, eigenvalues, pool, target_variance, *, match, count, draws, key) -> Controls:
    values, keys = eigenvalues[pool], jax.random.split(key, draws)
    build = {
        "count": lambda k: _subset(len(pool), count, k),
        "variance": lambda k: _same_variance(values, target_variance, count, k),
        "rotation": lambda k: _rotation(len(pool), count, k),
    }[match]
    coefficients = jax.vmap(build)(keys).astype(directions.dtype)
    subspaces = jnp.einsum("rcm,md->rcd", coefficients, directions[pool], precision=lax.Precision.HIGHEST)
    variances = jnp.einsum("rcm,m->r", coefficients**2, values, precision=lax.Precision.HIGHEST)
    return Controls(subspaces, variances, target_variance, variances / target_variance - 1, match)


def matched_controls(
    directions: ArrayLike,
    eigenvalues: ArrayLike,
    target: ArrayLike,
    *,
    match: str,
    draws: int = 20,
    key: Array,
) -> Controls:
    """Subspaces to ablate beside the target modes, so that what is special about these shows.

    Removing modes that carry 64 % of the variance beside modes that carry 3 % tells nothing about the modes. With

    - `count`, a control is a random subset of the other modes, as many as the target has;
    - `variance`, it lies in the span of the other modes and holds the target's variance as well: a random subset,
      turned pairwise by one angle towards the largest (or smallest) modes until the variance is equal. Where so many
      of the other modes cannot hold as much, the least number that can is taken; where all cannot, `residuals` says
      what is missing;
    - `rotation`, it is a uniformly random subspace, as large as the target, of the span of all modes given.

    Args:
      directions: eigenmodes, orthonormal rows, shape (K, width).
      eigenvalues: variance along each, >= 0, shape (K,).
      target: indices of the modes to be ablated, shape (k,), or a mask, shape (K,). Known values, not traced ones.
      match: `count`, `variance` or `rotation`.
      draws: number of controls.
      key: a PRNG key.

    Returns:
      `Controls`. Draws are independent, so that two may coincide where there are few modes.

    Raises:
      ValueError: for directions that are not orthonormal, eigenvalues that do not fit, targets that are repeated, out
        of range or none, fewer other modes than asked, a target without variance, or an unknown `match`.
    """
    check_choice(match, MATCHES, "match")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    shape = np.shape(directions)
    rows = check_subspace(directions, shape[-1] if shape else 0, "directions")
    values, modes = jnp.asarray(eigenvalues, rows.dtype), len(rows)
    if values.shape != (modes,):
        raise ValueError(f"eigenvalues must have shape ({modes},), one a direction, got {values.shape}")
    if is_concrete(values) and not (np.isfinite(np.asarray(values)).all() and (np.asarray(values) >= 0).all()):
        raise ValueError("eigenvalues must be finite and >= 0")
    chosen = _target(target, modes)
    others = np.setdiff1d(np.arange(modes), chosen)
    count = len(chosen)
    pool = np.arange(modes) if match == "rotation" else others
    if len(pool) < count:
        raise ValueError(
            f"{count} modes are to be ablated and only {len(pool)} others are given: fewer modes than a control of "
            "the same number needs; give more modes"
        )
    if is_concrete(values):
        known = np.asarray(values)
        if not known[chosen].sum() > 0:
            raise ValueError("the target modes have no variance, so that there is none to match")
        if match == "variance":
            enough = np.flatnonzero(np.cumsum(np.sort(known[others])[::-1]) >= known[chosen].sum())
            count = max(count, int(enough[0]) + 1 if enough.size else len(others))
    target_variance = jnp.sum(values[chosen])
    return _controls(rows, values, pool, target_variance, match=match, count=count, draws=draws, key=key)


def _target(target: ArrayLike, modes: int) -> np.ndarray:
    """The indices of the target modes, sorted."""
    array = np.asarray(target)
    if array.dtype == bool:
        if array.shape != (modes,):
            raise ValueError(f"a target mask must have shape ({modes},), one entry a mode, got {array.shape}")
        array = np.flatnonzero(array)
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"target must name at least one mode by integers or a mask, got {target}")
    if array.min() < 0 or array.max() >= modes or len(np.unique(array)) < len(array):
        raise ValueError(f"target must be distinct modes in 0..{modes - 1}, got {array}")
    return np.sort(array)
