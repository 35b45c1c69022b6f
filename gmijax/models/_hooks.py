"""Named places of a forward pass where states are kept and edited."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import Partial

Intervention = Callable[[Array], Array]
"""A function from the states at a hook point to states of the same shape."""


class Hooks:
    """What one forward pass is asked to keep and to edit; it lives as long as the pass is traced.

    Args:
      wanted: names of the states to keep.
      interventions: functions by the name of the hook point at which they are applied.
    """

    def __init__(self, wanted: Sequence[str], interventions: Mapping[str, Intervention]):
        self.wanted = tuple(wanted)
        self.states: dict[str, Array] = {}
        self.masks: dict[str, Array] = {}
        self._interventions = interventions
        self._fired: set[str] = set()

    def visit(self, name: str, state: Array, mask: Array | None = None) -> Array:
        """Edits the state of a hook point and keeps it, as it is after the edit, if either is asked for.

        Args:
          name: the hook point.
          state: the states, shape (B, T, width) or (B, width).
          mask: true where the states are those of an input and not of padding; its axes are the first of `state`.
        """
        edit = self.edit(name)
        state = state if edit is None else edit(state)
        if name in self.wanted:
            self.keep(name, state, mask)
        return state

    def keep(self, name: str, state: Array, mask: Array | None = None) -> None:
        """Keeps a state that was asked for."""
        self.states[name] = state
        if mask is not None:
            self.masks[name] = mask

    def edit(self, name: str) -> Intervention | None:
        """The intervention at a hook point, checked when it is applied; None if there is none."""
        if name not in self._interventions:
            return None
        self._fired.add(name)

        def apply(state):
            edited = jnp.asarray(self._interventions[name](state))
            if edited.shape != state.shape:
                raise ValueError(
                    f"the intervention at {name!r} returns shape {edited.shape} for states of shape {state.shape}; "
                    "it must keep the shape"
                )
            return edited.astype(state.dtype)

        return apply

    @contextlib.contextmanager
    def also(self, *names: str) -> Iterator[None]:
        """Keeps these states too, for the model's own use, while the context lasts."""
        asked = self.wanted
        self.wanted = (*asked, *(name for name in names if name not in asked))
        yield
        self.wanted = asked

    def deepest(self, prefix: str) -> int:
        """The largest k for which `prefix` followed by k is to be kept; -1 if there is none."""
        return max(self.indices(prefix), default=-1)

    def indices(self, prefix: str) -> list[int]:
        """The k for which `prefix` followed by k is to be kept, in order."""
        return sorted(int(n.removeprefix(prefix)) for n in self.wanted if n.startswith(prefix))

    def finish(self) -> None:
        """Checks, at the end of the pass, that every intervention was applied.

        Raises:
          ValueError: naming those that were not.
        """
        silent = [name for name in self._interventions if name not in self._fired]
        if silent:
            raise ValueError(
                f"the interventions at {', '.join(map(repr, silent))} never fire: nothing that was asked for needs "
                "these hook points; ask for logits or for a later hook point"
            )


def check_hook_points(valid: Sequence[str], wanted: Sequence[str], interventions: Mapping[str, Any] | None) -> None:
    """Checks names against the hook points of a model.

    Args:
      valid: all hook points.
      wanted: those to keep.
      interventions: those to edit.

    Raises:
      ValueError: naming what is unknown and what is valid.
    """
    for argument, names in (("hook_points", wanted), ("interventions", interventions or ())):
        unknown = sorted({*names} - {*valid})
        if unknown:
            raise ValueError(f"unknown {argument} {', '.join(map(repr, unknown))}; valid are {_in_words(valid)}")


def _in_words(names: Sequence[str]) -> str:
    """The names, those that are numbered from 0 to n as a range."""
    words = []
    for name in names:
        stem = name.rstrip("0123456789")
        count = sum(other.rstrip("0123456789") == stem for other in names) if stem != name else 1
        if name == f"{stem}0" and count > 1:
            words.append(f"'{name}' to '{stem}{count - 1}'")
        elif stem == name or count == 1:
            words.append(repr(name))
    return ", ".join(words)


def as_pytrees(interventions: Mapping[str, Intervention] | None) -> dict[str, Any]:
    """Interventions in a form that `jit` takes as an argument.

    A callable that is a pytree (such as `jax.tree_util.Partial`) keeps its arrays as leaves, so that other arrays
    compile nothing anew; any other function is part of the program, which is compiled once for each.
    """
    result = {}
    for name, function in (interventions or {}).items():
        if not callable(function):
            raise TypeError(f"the intervention at {name!r} is a {type(function).__name__}, not a function")
        leaves = jax.tree.leaves(function)
        opaque = len(leaves) == 1 and leaves[0] is function
        result[name] = Partial(function) if opaque else function
    return result
