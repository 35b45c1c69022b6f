"""Rotary position embeddings: their settings in a config, and their angles.

Numbers follow the implementation in transformers 5.23.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np

from gmijax.models._config import ConfigReader

_ROPE_FIELDS = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
_RopeKind = Literal["linear", "dynamic", "llama3"]


@dataclass(frozen=True)
class RopeScaling:
    """How the frequencies of the rotary embedding are changed to reach longer contexts.

    Attributes:
      kind: "linear" divides every frequency by `factor`; "dynamic" (NTK) grows the base with the longest
        position of the call; "llama3" divides the low frequencies only.
      factor: by how much the context grows; at least 1.
      low_freq_factor: llama3: wavelengths above original / low are divided by `factor`.
      high_freq_factor: llama3: wavelengths below original / high are left alone.
      original_max_position_embeddings: llama3: the context length of pretraining.
    """

    kind: _RopeKind
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


def read_rope(reader: ConfigReader, max_positions: int) -> tuple[float, RopeScaling | None]:
    """Theta and the scaling: `rope_theta` and `rope_scaling` of transformers 4, `rope_parameters` of 5."""
    config, problems = reader.config, reader.problems
    theta = reader.take("rope_theta", float, 10000.0)
    given = [name for name in ("rope_parameters", "rope_scaling") if config.get(name)]
    if not given:
        return theta, None
    name, rope = given[0], config[given[0]]
    if not isinstance(rope, Mapping):
        problems.append(f"{name} = {rope!r}: must be an object")
        return theta, None
    if len(given) == 2 and rope != config["rope_scaling"]:
        problems.append("rope_parameters and rope_scaling differ; keep one")
    inner_theta = reader.take("rope_theta", float, theta, within=name)
    if "rope_theta" in config and inner_theta != theta:
        problems.append(f"rope_theta is {theta} and, in {name}, {inner_theta}; keep one")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if rope.get("type", kind) != kind:
        problems.append(f"{name} has type {rope['type']!r} and rope_type {kind!r}; keep one")
    if kind not in _ROPE_FIELDS:
        problems.append(f"{name}: rope_type = {kind!r} is not one of {', '.join(_ROPE_FIELDS)}")
        return inner_theta, None
    fields = _ROPE_FIELDS[kind]
    if rope.get("partial_rotary_factor", 1) != 1:
        problems.append(f"{name}.partial_rotary_factor = {rope['partial_rotary_factor']!r}: only 1 is supported")
    known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *fields}
    problems += [f"{name}.{field} is unknown to rope_type {kind!r}" for field in sorted({*rope} - known)]
    if kind == "default":
        return inner_theta, None
    values = {field: reader.take(field, float, None, within=name) for field in fields}
    if "original_max_position_embeddings" in fields:
        values["original_max_position_embeddings"] = reader.take(
            "original_max_position_embeddings", int, max_positions, within=name
        )
    missing = [field for field, value in values.items() if value is None]
    if missing:
        problems.append(f"{name}: rope_type {kind!r} needs {', '.join(missing)}")
        return inner_theta, None
    return inner_theta, RopeScaling(kind, **values)


def scaling_problems(scaling: RopeScaling | None, head_dim: int) -> list[str]:
    """What contradicts itself in a scaling."""
    problems = []
    if scaling is None:
        return problems
    if scaling.kind not in get_args(_RopeKind):
        problems.append(f"rope_scaling.kind = {scaling.kind!r} is not one of {', '.join(get_args(_RopeKind))}")
    if scaling.factor < 1:
        problems.append(f"rope_scaling.factor = {scaling.factor}: must be at least 1")
    if scaling.kind == "dynamic" and head_dim == 2:
        problems.append("rope_scaling.kind = 'dynamic' needs head_dim > 2")
    if not 0 < scaling.low_freq_factor < scaling.high_freq_factor:
        problems.append(
            f"rope_scaling needs 0 < low_freq_factor < high_freq_factor, not {scaling.low_freq_factor} and "
            f"{scaling.high_freq_factor}"
        )
    if scaling.original_max_position_embeddings <= 0:
        problems.append("rope_scaling.original_max_position_embeddings must be positive")
    return problems


def rotate(x, rope):
    """Turns the pairs (i, i + head_dim / 2) of x, shape (b, t, heads, head_dim)."""
    cos, sin = rope
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def angles(positions, *, head_dim: int, theta: float, scaling: RopeScaling | None, max_positions: int, dtype):
    """Cosines and sines of the angles, in the dtype asked for; each of shape (b or 1, t, 1, head_dim / 2)."""
    frequencies = _frequencies(positions, head_dim, theta, scaling, max_positions)
    turns = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(turns).astype(dtype), jnp.sin(turns).astype(dtype)


def _frequencies(positions, head_dim, theta, scaling, max_positions):
    """Radians per position of each pair, shape (head_dim / 2,), float32."""
    exponents = np.arange(0, head_dim, 2) / head_dim
    frequencies = theta**-exponents
    if scaling is None:
        return jnp.asarray(frequencies, jnp.float32)
    if scaling.kind == "linear":
        return jnp.asarray(frequencies / scaling.factor, jnp.float32)
    if scaling.kind == "dynamic":
        longest = jnp.maximum(jnp.max(positions) + 1, max_positions).astype(jnp.float32)
        growth = scaling.factor * longest / max_positions - (scaling.factor - 1)
        # theta grows by growth^(d / (d - 2)); what that does to each frequency is a power of growth alone
        powers = exponents * head_dim / (head_dim - 2)
        return jnp.asarray(frequencies, jnp.float32) * growth ** -jnp.asarray(powers, jnp.float32)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_position_embeddings * frequencies / (2 * np.pi)  # in the context of pretraining
    kept = np.clip((turns - low) / (high - low), 0, 1)  # 1 for the fast pairs, 0 for the slow ones
    return jnp.asarray(frequencies * (kept + (1 - kept) / scaling.factor), jnp.float32)
