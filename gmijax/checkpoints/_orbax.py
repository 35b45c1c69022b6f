"""Weights out: Orbax checkpoints, which restore onto any number of devices."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Sharding, SingleDeviceSharding
from jax.typing import DTypeLike

from gmijax.checkpoints._errors import CheckpointError
from gmijax.checkpoints._load import Placement, abstract_model, load_model, resolve
from gmijax.checkpoints._registry import find_family
from gmijax.checkpoints._safetensors import read_json
from gmijax.checkpoints._source import ORBAX_FILE

_WEIGHTS = "weights"


def convert(
    path: str | Path,
    out: str | Path,
    *,
    dtype: DTypeLike = jnp.bfloat16,
    text_model: str | Path | None = None,
    encoder_model: str | Path | None = None,
    sharding: Placement = None,
) -> None:
    """Writes the model of a published checkpoint as an Orbax checkpoint, which `restore` and `load_model` read.

    Args:
      path: what `load_model` takes.
      out: a folder that does not exist yet.
      dtype: of the parameters.
      text_model: as `load_model`.
      encoder_model: as `load_model`.
      sharding: as `load_model`: where the parameters are held while they are written.

    Raises:
      FileExistsError: if there is something at `out`.
      CheckpointError: as `load_model`.
      ConfigError: as `load_model`.
    """
    import orbax.checkpoint as ocp  # takes a second to import

    out = Path(out).absolute()
    if out.exists():
        raise FileExistsError(f"{out} exists already; give a folder that does not")
    config = resolve(path, text_model=text_model, encoder_model=encoder_model)[0].config
    model = load_model(path, dtype=dtype, sharding=sharding, text_model=text_model, encoder_model=encoder_model)
    out.mkdir(parents=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(out / _WEIGHTS, _by_path(nnx.state(model)))
    # Written last: a folder that holds it is whole.
    (out / ORBAX_FILE).write_text(json.dumps({"format": 1, "config": config}, indent=1) + "\n")


def restore(
    path: str | Path,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike | None = None,
    sharding: Placement = None,
) -> nnx.Module:
    """Reads what `convert` wrote, onto any number of devices: each reads only what it holds.

    Args:
      path: the folder.
      dtype: type of the activations.
      param_dtype: type of the parameters; `dtype` if not given.
      sharding: as `load_model`.

    Raises:
      CheckpointError: if the folder is not whole or does not hold the model that it describes.
    """
    import orbax.checkpoint as ocp

    path = Path(path).absolute()
    content = read_json(path / ORBAX_FILE)
    if content.get("format") != 1:
        raise CheckpointError(path, [f"{ORBAX_FILE} has format {content.get('format')!r}; only 1 is read"])
    family = find_family(path, content["config"])
    config = family.read_config(content["config"])
    graph, state = abstract_model(family, config, dtype, dtype if param_dtype is None else param_dtype)
    default = SingleDeviceSharding(jax.devices()[0])

    def target(name: str, leaf: Any) -> jax.ShapeDtypeStruct:
        place = sharding(name, leaf.shape) if callable(sharding) else sharding
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place if isinstance(place, Sharding) else default)

    targets = {name: target(name, leaf) for name, leaf in _by_path(state).items()}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            weights = checkpointer.restore(path / _WEIGHTS, targets)
    except (ValueError, KeyError, OSError) as error:
        raise CheckpointError(path, [f"its weights cannot be restored: {error}"]) from error
    filled = [weights[name] for name in _by_path(state)]
    return nnx.merge(graph, jax.tree.unflatten(jax.tree.structure(state), filled))


def _by_path(state: Any) -> dict[str, Any]:
    """The leaves by dotted path, in the order of the tree."""
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]
    return dict(zip(paths, jax.tree.leaves(state), strict=True))
