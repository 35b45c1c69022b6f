"""Checks that the front doors of all rooms share."""

from typing import Any

import numpy as np
from jax.core import Tracer


def is_concrete(*arrays: Any) -> bool:
    """Whether all values are known, that is, none is being traced."""
    return not any(isinstance(array, Tracer) for array in arrays)


def check_choice(value: Any, choices: tuple[str, ...], name: str) -> None:
    """One of a few words.

    Raises:
      ValueError: for any other.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_count(value: int, least: int, name: str) -> None:
    """A whole number of at least `least`.

    Raises:
      ValueError: for anything else.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")


def check_level(level: float) -> None:
    """A coverage strictly between 0 and 1.

    Raises:
      ValueError: for anything else.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
