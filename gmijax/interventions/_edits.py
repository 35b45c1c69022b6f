"""Edits of soft tokens and hidden states inside a subspace: pure, and blind to padding."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array
from numpy.typing import ArrayLike

from gmijax._checks import is_concrete
from gmijax.interventions._checks import check_states, check_subspace, masked, readable, working


def _project(x: Array, subspace: Array) -> Array:
    """The component of x, shape (..., width), inside the span of the rows of `subspace`."""
    subspace = subspace.astype(x.dtype)
    inside = jnp.matmul(x, subspace.T, precision=lax.Precision.HIGHEST)
    return jnp.matmul(inside, subspace, precision=lax.Precision.HIGHEST)


def _from_centre(x: Array, centre: Array | None) -> Array:
    return x if centre is None else x - centre.astype(x.dtype)


@jax.jit
def _project_out(x: Array, subspace: Array, centre: Array | None, mask: Array | None) -> Array:
    states = readable(x, mask)
    return masked(x, mask, states - _project(_from_centre(states, centre), subspace))


@jax.jit
def _keep_only(x: Array, subspace: Array, centre: Array | None, mask: Array | None) -> Array:
    states = readable(x, mask)
    kept = _project(_from_centre(states, centre), subspace)
    return masked(x, mask, kept if centre is None else kept + centre.astype(kept.dtype))


@jax.jit
def _swap_means(x: Array, subspace: Array, groups: Array, partner: Array, mask: Array | None) -> Array:
    states = readable(x, mask)
    counted = jnp.ones(x.shape[:-1], states.dtype) if mask is None else mask.astype(states.dtype)
    inner = tuple(range(1, counted.ndim))
    size = (partner.shape[0],)
    totals = jnp.zeros((*size, x.shape[-1]), states.dtype).at[groups].add(jnp.sum(states, axis=inner))
    numbers = jnp.zeros(size, states.dtype).at[groups].add(jnp.sum(counted, axis=inner))
    means = totals / jnp.maximum(numbers, 1)[:, None]
    shift = _project(means[partner] - means, subspace)[groups]
    return masked(x, mask, states + jnp.expand_dims(shift, inner))


@jax.jit
def _add_noise(x: Array, subspace: Array, scale: Array, mask: Array | None, key: Array) -> Array:
    states = readable(x, mask)
    noise = jax.random.normal(key, (*x.shape[:-1], subspace.shape[0]), states.dtype)
    noise = noise * jnp.broadcast_to(scale.astype(states.dtype), noise.shape)
    inside = jnp.matmul(noise, subspace.astype(states.dtype), precision=lax.Precision.HIGHEST)
    return masked(x, mask, states + inside)


def _check_centre(centre: ArrayLike | None, states: Array) -> Array | None:
    if centre is None:
        return None
    array = jnp.asarray(centre)
    shape = states.shape
    if not array.ndim or array.shape[-1] != shape[-1]:
        raise ValueError(f"centre has shape {array.shape} and the states have width {shape[-1]}")
    if array.ndim > len(shape) or any(
        given not in (1, needed) for given, needed in zip(array.shape[::-1], shape[::-1], strict=False)
    ):
        raise ValueError(f"centre has shape {array.shape}, which does not broadcast to the states' {shape}")
    if is_concrete(array) and not np.isfinite(np.asarray(array)).all():
        raise ValueError("centre holds NaN or infinite values")
    return jnp.reshape(array, (1,) * (len(shape) - array.ndim) + array.shape).astype(working(states.dtype))


def project_out(
    x: ArrayLike,
    subspace: ArrayLike,
    *,
    centre: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Removes what the states hold inside a subspace: x - U'U (x - centre), with U the subspace's rows.

    About zero (no centre), as arXiv:2602.23136 does, this also removes the mean, which no input varies and the decoder
    may rely on; about the mean only the variation goes. The loss of B7 (THEORY.md, section 4) is about E[Z | C]: give
    every row the mean of its context.

    Args:
      x: states, shape (..., width), such as soft tokens (n, tokens, width); edited in at least float32.
      subspace: orthonormal rows, shape (k, width).
      centre: broadcasts against `x`, such as (width,) or (n, 1, width); zero where None.
      mask: true at the positions to edit, shape (...); all where None. Other positions come back bit by bit.

    Returns:
      The edited states, of the shape and type of `x`.

    Raises:
      ValueError: for a subspace that is not orthonormal or of another width, a centre or mask that does not fit, a mask
        that matches no position, or states that are not finite where they are edited. Under a trace only shapes are
        checked.
    """
    states, matched = check_states(x, mask)
    rows = check_subspace(subspace, states.shape[-1])
    return _project_out(states, rows, _check_centre(centre, states), matched)


def keep_only(
    x: ArrayLike,
    subspace: ArrayLike,
    *,
    centre: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Keeps nothing but a subspace: centre + U'U (x - centre), with U the subspace's rows.

    The complement of `project_out`: the two add up to x + centre.

    Args:
      x: states, shape (..., width).
      subspace: orthonormal rows, shape (k, width).
      centre: as in `project_out`.
      mask: as in `project_out`.

    Returns:
      The edited states, of the shape and type of `x`.

    Raises:
      ValueError: as `project_out`.
    """
    states, matched = check_states(x, mask)
    rows = check_subspace(subspace, states.shape[-1])
    return _keep_only(states, rows, _check_centre(centre, states), matched)


def add_noise(
    x: ArrayLike,
    subspace: ArrayLike,
    scale: ArrayLike,
    *,
    mask: ArrayLike | None = None,
    key: Array,
) -> Array:
    """Adds independent Gaussian noise inside a subspace, at every position.

    Args:
      x: states, shape (..., width).
      subspace: orthonormal rows, shape (k, width).
      scale: standard deviation along every direction, or of each, shape (k,); such as the roots of the eigenvalues.
      mask: as in `project_out`.
      key: a PRNG key.

    Returns:
      The edited states, of the shape and type of `x`.

    Raises:
      ValueError: as `project_out`, and for a scale that is negative, not finite, or of another shape.
    """
    states, matched = check_states(x, mask)
    rows = check_subspace(subspace, states.shape[-1])
    spread = jnp.asarray(scale)
    if spread.shape not in ((), (len(rows),)):
        raise ValueError(f"scale must be one number or one of each of the {len(rows)} directions, got {spread.shape}")
    if is_concrete(spread) and not (np.isfinite(np.asarray(spread)).all() and (np.asarray(spread) >= 0).all()):
        raise ValueError("scale must be finite and >= 0")
    return _add_noise(states, rows, spread.astype(working(states.dtype)), matched, key)


def swap_means(
    x: ArrayLike,
    subspace: ArrayLike,
    *,
    partner: ArrayLike,
    groups: ArrayLike | None = None,
    mask: ArrayLike | None = None,
) -> Array:
    """Moves the mean of every group, inside a subspace, to where another group has its own.

    Every position of group g is shifted by U'U (mean of partner[g] - mean of g); what varies within the group stays.
    With every sample a group of its own this is the swap of arXiv:2602.23136's code: a clip gets the mean MS (or TA)
    component of another speaker's (`draw_partners` chooses it).

    Args:
      x: states, shape (n, ..., width); means run over all axes but the last, within the mask.
      subspace: orthonormal rows, shape (k, width).
      partner: the group whose mean each group gets, integers of shape (number of groups,).
      groups: the group of every sample, integers from 0, shape (n,); every sample is its own where None.
      mask: as in `project_out`; also what the means run over.

    Returns:
      The edited states, of the shape and type of `x`.

    Raises:
      ValueError: as `project_out`; for groups or partners out of range, or a partner without a position.
    """
    states, matched = check_states(x, mask)
    if states.ndim < 2:
        raise ValueError(f"x must be states (n, ..., width) to swap means between samples, got shape {states.shape}")
    rows, count = check_subspace(subspace, states.shape[-1]), len(states)
    group = jnp.arange(count) if groups is None else jnp.asarray(groups)
    other = jnp.asarray(partner)
    if other.ndim != 1 or not other.size or not jnp.issubdtype(other.dtype, jnp.integer):
        raise ValueError(f"partner must be integers, one a group, got shape {other.shape} and type {other.dtype}")
    if group.shape != (count,) or not jnp.issubdtype(group.dtype, jnp.integer):
        raise ValueError(f"groups must be integers of shape ({count},), got shape {group.shape} and type {group.dtype}")
    if groups is None and len(other) != count:
        raise ValueError(f"partner must name one for each of the {count} samples, got {len(other)}; or give groups")
    for name, index in (("groups", group), ("partner", other)):
        if is_concrete(index) and not np.isin(np.asarray(index), np.arange(len(other))).all():
            raise ValueError(f"{name} must lie in 0..{len(other) - 1}, the groups that partner lists")
    if is_concrete(group, other, matched):
        positions = np.ones(count) if matched is None else np.asarray(matched).reshape(count, -1).sum(1)
        held = np.bincount(np.asarray(group), positions, len(other))
        wanting = np.flatnonzero((held > 0) & (held[np.asarray(other)] == 0))
        if wanting.size:
            name = int(wanting[0])
            raise ValueError(
                f"the partner of group {name}, group {int(other[name])}, has no position to take a mean of"
            )
    return _swap_means(states, rows, group.astype(jnp.int32), other.astype(jnp.int32), matched)


@jax.jit
def _draw_partners(groups: Array, key: Array) -> Array:
    count = groups.shape[0]
    order = jnp.argsort(groups, stable=True)
    start, end = (jnp.searchsorted(groups[order], groups, side=side) for side in ("left", "right"))
    step = jnp.floor(jax.random.uniform(key, (count,)) * (count - (end - start))).astype(jnp.int32)
    step = jnp.minimum(step, count - (end - start) - 1)  # a uniform number times a large count may round up to it
    return order[(end + step) % count]


def draw_partners(groups: ArrayLike, *, key: Array) -> Array:
    """Draws for every sample a sample of another group, such as another speaker, uniformly among all of them.

    Args:
      groups: the group of every sample, integers of shape (n,).
      key: a PRNG key.

    Returns:
      Indices of samples, shape (n,): what `swap_means` takes as `partner`.

    Raises:
      ValueError: if all samples are of one group, or groups are not integers of shape (n,).
    """
    array = jnp.asarray(groups)
    if array.ndim != 1 or not jnp.issubdtype(array.dtype, jnp.integer):
        raise ValueError(f"groups must be integers of shape (n,), got shape {array.shape} and type {array.dtype}")
    if array.size < 2 or (is_concrete(array) and np.ptp(np.asarray(array)) == 0):
        raise ValueError("groups must hold at least two groups: there is no other sample to swap with")
    return _draw_partners(array, key)
