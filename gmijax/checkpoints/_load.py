"""From a checkpoint to a model on the device, holding the weights once."""

import dataclasses
import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

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
from gmijax.checkpoints._source import Checkpoint, WeightSource, is_orbax, scan_checkpoint
from gmijax.models import KeyRule


class _Slot(NamedTuple):
    """A place for one tensor: a leaf, one layer of a stacked leaf, or one part of the last axis of either."""

    leaf: str
    layer: int | None
    part: tuple[int, int] | None = None

    def __str__(self) -> str:
        name = self.leaf if self.part is None else f"{self.leaf}, part {self.part[0] + 1} of {self.part[1]}"
        return name if self.layer is None else f"{name}, layer {self.layer}"


class _Fill(NamedTuple):
    """One tensor and where it goes.

    `wanted` is the shape that its place has in the layout of the file.
    """

    key: str
    slot: _Slot
    rule: KeyRule
    wanted: tuple[int, ...]


Placement = Sharding | Callable[[str, tuple[int, ...]], Sharding] | None


def load_model(
    path: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike | None = None,
    sharding: Placement = None,
    text_model: str | Path | None = None,
    encoder_model: str | Path | None = None,
) -> nnx.Module:
    """Loads the model of a checkpoint, accounting for every key of the file and every leaf of the model.

    The leaves are allocated on the device in their final type and filled one tensor at a time, so that beside the
    model no more than a few tensors are held.

    Args:
      path: what `open_checkpoint` takes, or a folder that `convert` wrote.
      dtype: type of the activations.
      param_dtype: type of the parameters; `dtype` if not given.
      sharding: where the leaves go: one sharding for all, or a function from a leaf's dotted path and shape to its
        sharding; the default device if not given. Meshes must have axes of type Auto.
      text_model: where the language model of a composed model is, if neither in its file nor where its config says.
      encoder_model: likewise for an encoder that is published apart.

    Returns:
      The NNX module that the checkpoint's config names, filled.

    Raises:
      CheckpointError: listing all that is wrong: files absent, cut short or damaged; leaves without a tensor, keys
        without a leaf, wrong shapes, two keys for one place, NaN or infinite weights (also those that overflow in
        `param_dtype`).
      ConfigError: if the config asks for something that the model does not do.
    """
    if is_orbax(Path(path)):
        from gmijax.checkpoints._orbax import restore  # takes a second to import

        return restore(path, dtype=dtype, param_dtype=param_dtype, sharding=sharding)
    checkpoint, family, config = resolve(path, text_model=text_model, encoder_model=encoder_model)
    graph, state = abstract_model(family, config, dtype, dtype if param_dtype is None else param_dtype)
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


def resolve(
    path: str | Path,
    *,
    text_model: str | Path | None = None,
    encoder_model: str | Path | None = None,
    config: dict[str, Any] | None = None,
) -> tuple[Checkpoint, Family, Any]:
    """The checkpoint with all of its parts, its family and its config. Reads no weights.

    Args:
      path: as `load_model`.
      text_model: as `load_model`.
      encoder_model: as `load_model`.
      config: in place of what the checkpoint's config.json holds.

    Raises:
      CheckpointError: if a part cannot be found, or so much is wrong that no tensor can be named.
      ConfigError: if the config asks for something that the model does not do.
    """
    checkpoint = scan_checkpoint(path)
    if config is not None:
        checkpoint = dataclasses.replace(checkpoint, config=config)
    family = find_family(checkpoint.path, checkpoint.config)
    parts = (None if part is None else Path(part) for part in (text_model, encoder_model))
    checkpoint = family.assemble(checkpoint, *parts)
    return checkpoint, family, family.read_config(checkpoint.config)


def abstract_model(family: Family, config: Any, dtype: DTypeLike, param_dtype: DTypeLike) -> tuple[Any, Any]:
    """The structure of a model and the shapes of its leaves; nothing is allocated."""
    return nnx.split(
        nnx.eval_shape(lambda: family.model(config, rngs=nnx.Rngs(0), dtype=dtype, param_dtype=param_dtype))
    )


def _plan(
    weights: WeightSource, family: Family, leaves: dict[str, jax.ShapeDtypeStruct], problems: list[str]
) -> list[_Fill]:
    """Gives every key its place, by names and shapes alone; adds what does not fit to `problems`."""
    rules = [rule for rule in family.key_map if rule.leaf in leaves]
    stacked = {rule.leaf for rule in rules if "(?P<layer>" in rule.pattern}
    names = {family.canonical(key): key for key in weights.keys()}  # noqa: SIM118 - a source is no mapping
    fills, owners = [], {}
    for key in [*weights.keys(), *weights.lost]:
        name = family.canonical(key)
        rule, match = next(((r, m) for r in rules if (m := re.fullmatch(r.pattern, name))), (None, None))
        if rule is None or match is None:
            problems.extend(_leftover(weights, family, key, names))
            continue
        leaf = leaves[rule.leaf]
        slot = _Slot(rule.leaf, int(match["layer"]) if rule.leaf in stacked else None, rule.part)
        if slot.layer is not None and slot.layer >= leaf.shape[0]:
            problems.append(f"surplus key {key}: the model has {leaf.shape[0]} layers, counted from 0")
            continue
        if slot in owners:
            problems.append(f"duplicate: {owners[slot]} and {key} both fill {slot}")
            continue
        owners[slot] = key
        if key in weights.lost:
            continue
        wanted = leaf.shape if slot.layer is None else leaf.shape[1:]
        if rule.part is not None:
            wanted = (*wanted[:-1], wanted[-1] // rule.part[1])
        wanted = wanted[::-1] if rule.transpose else wanted
        stored = weights.shape(key)
        if stored == wanted or (rule.convert is not None and rule.convert.fits(stored, wanted)):
            fills.append(_Fill(key, slot, rule, wanted))
        else:
            problems.append(f"misshapen: {key} has shape {stored}, the model expects {wanted}")
    problems += _missing(rules, leaves, stacked, owners)
    return fills


def _missing(
    rules: list[KeyRule], leaves: dict[str, jax.ShapeDtypeStruct], stacked: set[str], owners: dict[_Slot, str]
) -> list[str]:
    """One problem for each leaf, or part of one, that has no tensor."""
    problems = []
    for name, leaf in leaves.items():
        own = [rule for rule in rules if rule.leaf == name]
        for part in dict.fromkeys(rule.part for rule in own) or (None,):
            layers = range(leaf.shape[0]) if name in stacked else (None,)
            absent = [layer for layer in layers if _Slot(name, layer, part) not in owners]
            if not absent:
                continue
            # The patterns, made readable: model.layers.N.mlp.up_proj.weight.
            patterns = [r.pattern.replace(r"(?P<layer>\d+)", "N").replace("\\", "") for r in own if r.part == part]
            where = f" in layers {', '.join(map(str, absent))}" if name in stacked else ""
            leaf_name = str(_Slot(name, None, part))
            problems.append(
                f"missing: no tensor for {leaf_name}{where}; its key is {' or '.join(patterns) or 'unknown'}"
            )
    return problems


def _leftover(weights: WeightSource, family: Family, key: str, names: dict[str, str]) -> list[str]:
    """What is wrong with a key that no leaf takes: nothing, if it may be left unread."""
    name = family.canonical(key)
    original = names.get(family.copies.get(name, ""))
    if original is not None and key in weights.keys():  # noqa: SIM118 - a source is no mapping
        if np.array_equal(weights.read(key), weights.read(original)):
            return []
        return [
            f"surplus key {key}: the config ties it to {original}, but their values differ; if the file is right,"
            " set tie_word_embeddings to false"
        ]
    if any(re.fullmatch(pattern, name) for pattern in family.ignored):
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
    for key, slot, rule, wanted in fills:
        leaf = leaves[slot.leaf]
        place = sharding(slot.leaf, leaf.shape) if callable(sharding) else sharding
        try:
            tensor = weights.read(key)
        except CheckpointError as error:
            problems.extend(error.problems)
            continue
        stored = tensor.dtype
        if rule.convert is not None:
            tensor = rule.convert(tensor, wanted)
        if slot.layer is None and slot.part is None:
            array, finite = _converter(leaf.dtype, rule.transpose, place)(tensor)
        else:
            whole = filled.get(slot.leaf)
            if whole is None:
                whole = jnp.zeros(leaf.shape, leaf.dtype, device=place)
            start = [0] * leaf.ndim
            if slot.layer is not None:
                start[0] = slot.layer
            if slot.part is not None:
                start[-1] = slot.part[0] * (leaf.shape[-1] // slot.part[1])
            array, finite = _inserter(rule.transpose, place)(whole, tensor, np.asarray(start, np.int32))
        filled[slot.leaf] = array
        if not finite:  # waits for the device, and so bounds the tensors in flight to one
            problems.append(f"{key} holds NaN or infinity, as {stored} in the file or as {leaf.dtype} in the model")
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
    """A compiled function that writes one tensor into its place in a leaf, in the leaf's own memory."""

    def insert(
        whole: Float[Array, "..."], tensor: Float[Array, "..."], start: Int[Array, "axes"]
    ) -> tuple[Float[Array, "..."], Bool[Array, ""]]:
        value = (tensor.T if transpose else tensor).astype(whole.dtype)
        block = value.reshape((1,) * (whole.ndim - value.ndim) + value.shape)
        return lax.dynamic_update_slice(whole, block, tuple(start)), jnp.isfinite(value).all()

    return jax.jit(insert, donate_argnums=0, out_shardings=(place, None))
