"""From a checkpoint to a model on the device, holding the weights once."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Sharding
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from gmijax.checkpoints._errors import CheckpointError
from gmijax.checkpoints._registry import Family, find_family
from gmijax.checkpoints._source import WeightSource, scan_checkpoint


class _Slot(NamedTuple):
    """A place for one tensor: a leaf, or one layer of a stacked leaf."""

    leaf: str
    layer: int | None

    def __str__(self) -> str:
        return self.leaf if self.layer is None else f"{self.leaf}, layer {self.layer}"


class _Fill(NamedTuple):
    """One tensor and where it goes."""

    key: str
    slot: _Slot
    transpose: bool


Placement = Sharding | Callable[[str, tuple[int, ...]], Sharding] | None


def load_model(
    path: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike | None = None,
    sharding: Placement = None,
) -> nnx.Module:
    """Loads the model of a checkpoint, accounting for every key of the file and every leaf of the model.

    The leaves are allocated on the device in their final type and filled one tensor at a time, so that beside the
    model no more than a few tensors are held.

    Args:
      path: what `open_checkpoint` takes.
      dtype: type of the activations.
      param_dtype: type of the parameters; `dtype` if not given.
      sharding: where the leaves go: one sharding for all, or a function from a leaf's dotted path and shape to its
        sharding; the default device if not given. Meshes must have axes of type Auto.

    Returns:
      The NNX module that the checkpoint's config names, filled.

    Raises:
      CheckpointError: listing all that is wrong: files absent, cut short or damaged; leaves without a tensor, keys
        without a leaf, wrong shapes, two keys for one place, NaN or infinite weights (also those that overflow in
        `param_dtype`).
      ConfigError: if the config asks for something that the model does not do.
    """
    checkpoint = scan_checkpoint(path)
    family = find_family(checkpoint)
    config = family.config.from_hf(checkpoint.config)
    dtypes = {"dtype": dtype, "param_dtype": dtype if param_dtype is None else param_dtype}
    graph, state = nnx.split(nnx.eval_shape(lambda: family.model(config, rngs=nnx.Rngs(0), **dtypes)))
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]
    leaves = dict(zip(paths, jax.tree.leaves(state), strict=True))

    problems = list(checkpoint.weights.problems)
    fills = _plan(checkpoint.weights, family, leaves, problems)
    filled = {}
    if problems:
        _check_values(checkpoint.weights, fills, problems)
    else:
        filled = _fill(checkpoint.weights, fills, leaves, sharding, problems)
    if problems:
        raise CheckpointError(checkpoint.path, problems)
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), [filled[name] for name in leaves]))


def _plan(
    weights: WeightSource, family: Family, leaves: dict[str, jax.ShapeDtypeStruct], problems: list[str]
) -> list[_Fill]:
    """Gives every key its place, by names and shapes alone; adds what does not fit to `problems`."""
    rules = [rule for rule in family.key_map if rule.leaf in leaves]
    stacked = {rule.leaf for rule in rules if "(?P<layer>" in rule.pattern}
    fills, owners = [], {}
    for key in [*weights.keys(), *weights.lost]:
        rule, match = next(((r, m) for r in rules if (m := re.fullmatch(r.pattern, key))), (None, None))
        if rule is None or match is None:
            problems.extend(_leftover(weights, family, key))
            continue
        leaf = leaves[rule.leaf]
        slot = _Slot(rule.leaf, int(match["layer"]) if rule.leaf in stacked else None)
        if slot.layer is not None and slot.layer >= leaf.shape[0]:
            problems.append(f"surplus key {key}: the model has {leaf.shape[0]} layers, counted from 0")
            continue
        if slot in owners:
            problems.append(f"duplicate: {owners[slot]} and {key} both fill {slot}")
            continue
        owners[slot] = key
        if key in weights.lost:
            continue
        expected = leaf.shape if slot.layer is None else leaf.shape[1:]
        expected = expected[::-1] if rule.transpose else expected
        if weights.shape(key) == expected:
            fills.append(_Fill(key, slot, rule.transpose))
        else:
            problems.append(f"misshapen: {key} has shape {weights.shape(key)}, the model expects {expected}")

    for name, leaf in leaves.items():
        wanted = [_Slot(name, i) for i in range(leaf.shape[0])] if name in stacked else [_Slot(name, None)]
        absent = [slot.layer for slot in wanted if slot not in owners]
        if absent:
            # The patterns, made readable: model.layers.N.mlp.up_proj.weight.
            patterns = [r.pattern.replace(r"(?P<layer>\d+)", "N").replace("\\", "") for r in rules if r.leaf == name]
            layers = f" in layers {', '.join(map(str, absent))}" if name in stacked else ""
            problems.append(f"missing: no tensor for {name}{layers}; its key is {' or '.join(patterns) or 'unknown'}")
    return fills


def _leftover(weights: WeightSource, family: Family, key: str) -> list[str]:
    """What is wrong with a key that no leaf takes: nothing, if it may be left unread."""
    original = family.copies.get(key)
    if original is not None and {key, original} <= set(weights.keys()):
        if np.array_equal(weights.read(key), weights.read(original)):
            return []
        return [
            f"surplus key {key}: the config ties it to {original}, but their values differ; if the file is right,"
            " set tie_word_embeddings to false"
        ]
    if any(re.fullmatch(pattern, key) for pattern in family.ignored):
        return []
    return [f"surplus key {key}: no part of the model takes it"]


def _check_values(weights: WeightSource, fills: list[_Fill], problems: list[str]) -> None:
    """Reads every tensor and keeps none, to report bad values beside what is wrong otherwise."""
    for fill in fills:
        try:
            if not np.isfinite(weights.read(fill.key)).all():
                problems.append(f"{fill.key} holds NaN or infinity")
        except CheckpointError as error:
            problems.extend(error.problems)


def _fill(
    weights: WeightSource,
    fills: list[_Fill],
    leaves: dict[str, jax.ShapeDtypeStruct],
    sharding: Placement,
    problems: list[str],
) -> dict[str, Array]:
    """Allocates the leaves and fills them; adds tensors that cannot be read or are not finite to `problems`."""
    filled = {}
    for key, slot, transpose in fills:
        leaf = leaves[slot.leaf]
        place = sharding(slot.leaf, leaf.shape) if callable(sharding) else sharding
        try:
            tensor = weights.read(key)
        except CheckpointError as error:
            problems.extend(error.problems)
            continue
        if slot.layer is None:
            array, finite = _converter(leaf.dtype, transpose, place)(tensor)
        else:
            stack = filled.get(slot.leaf)
            if stack is None:
                stack = jnp.zeros(leaf.shape, leaf.dtype, device=place)
            array, finite = _inserter(transpose, place)(stack, tensor, slot.layer)
        filled[slot.leaf] = array
        if not finite:  # waits for the device, and so bounds the tensors in flight to one
            problems.append(
                f"{key} holds NaN or infinity, as {tensor.dtype} in the file or as {leaf.dtype} in the model"
            )
    return filled


@functools.cache
def _converter(dtype: jnp.dtype, transpose: bool, place: Sharding | None) -> Callable:
    """A compiled function that brings one tensor into its final type and place."""

    def convert(tensor: Float[Array, "..."]) -> tuple[Float[Array, "..."], Bool[Array, ""]]:
        value = (tensor.T if transpose else tensor).astype(dtype)
        return value, jnp.isfinite(value).all()

    return jax.jit(convert, out_shardings=(place, None))


@functools.cache
def _inserter(transpose: bool, place: Sharding | None) -> Callable:
    """A compiled function that writes one tensor into its layer of a stacked leaf, in the leaf's own memory."""

    def insert(
        stack: Float[Array, "layers ..."], tensor: Float[Array, "..."], layer: Int[Array, ""]
    ) -> tuple[Float[Array, "layers ..."], Bool[Array, ""]]:
        value = (tensor.T if transpose else tensor).astype(stack.dtype)
        return lax.dynamic_update_index_in_dim(stack, value, layer, axis=0), jnp.isfinite(value).all()

    return jax.jit(insert, donate_argnums=0, out_shardings=(place, None))
