"""Running a stack of layers whose parameters share a leading layer axis."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from gmijax.models._hooks import Hooks


def run_layers(
    layers: nnx.Module,
    x: jax.Array,
    step: Callable[[Any, jax.Array, Any], tuple[jax.Array, Any]],
    *,
    hooks: Hooks,
    prefix: str,
    depth: int,
    per_layer: Any = (),
    mask: jax.Array | None = None,
    remat: bool = False,
) -> tuple[jax.Array, Any]:
    """Runs the first layers of a stack in one scan, so that compile time does not grow with depth.

    Args:
      layers: the stack.
      x: the input of the first layer.
      step: from a layer, its input and its slice of `per_layer` to its output and whatever else is to be stacked.
      hooks: what to keep and to edit at the outputs of the layers.
      prefix: name of the hook points; layer k, counted from 0, is at `prefix` followed by k.
      depth: how many layers to run.
      per_layer: a pytree with a leading layer axis.
      mask: of the states at all these hook points.
      remat: recompute the layers in the backward pass, so that it holds the input of each layer and no more.

    Returns:
      The output of the last layer run, and what the steps returned besides, stacked.
    """
    graph, weights = nnx.split(layers)
    count = jax.tree.leaves(weights)[0].shape[0]
    wanted = [k for k in hooks.indices(prefix) if k < depth]
    slots = np.full(count, len(wanted))
    slots[wanted] = np.arange(len(wanted))
    # One slot for each wanted layer and, if any is wanted, a last one for the outputs of all the others.
    kept = jnp.zeros((len(wanted) + bool(wanted), *x.shape), x.dtype)
    edits = {k: edit for k in range(depth) if (edit := hooks.edit(f"{prefix}{k}")) is not None}
    branches = [lambda x: x, *edits.values()]
    chosen = np.zeros(count, int)
    chosen[[*edits]] = np.arange(1, len(branches))
    scanned = (weights, jnp.asarray(slots), jnp.asarray(chosen), per_layer)

    def layer_step(carry, layer):
        x, kept = carry
        weights, slot, branch, own = layer
        x, extra = step(nnx.merge(graph, weights), x, own)
        if edits:
            x = lax.switch(branch, branches, x)
        if wanted:
            kept = lax.dynamic_update_index_in_dim(kept, x, slot, 0)
        return (x, kept), extra

    def indexed_step(carry, index):
        return layer_step(carry, jax.tree.map(lambda leaf: leaf[index], scanned))

    whole = depth == count
    body = layer_step if whole else indexed_step
    if remat:
        body = jax.checkpoint(body, prevent_cse=False)
    # By index where layers are left out: slicing the stacked weights would copy those of the layers that are used.
    (x, kept), extras = lax.scan(body, (x, kept), scanned if whole else jnp.arange(depth))
    for slot, k in enumerate(wanted):
        hooks.keep(f"{prefix}{k}", kept[slot], mask)
    return x, extras
