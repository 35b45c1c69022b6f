"""What a theorem returns: a number, its parts, what it assumes, and whether it guarantees anything."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import numpy as np

Kind = Literal["bound", "index", "exact"]

SHARED = "both laws have the same law of (C, Y)"
SHARED_CONTEXTS = "both laws have the same law of C; the term 'message law' pays for their laws of Y"
CONVEX = "L and D hold on a convex set with both supports"


@jax.tree_util.register_dataclass
@dataclass(frozen=True, repr=False)
class Bound:
    """How far I(s) can move between two laws, in nats.

    Attributes:
      value: the bound on the absolute change; inf where it exceeds a float64.
      kind: "bound"; "index" where something in it is not guaranteed: the same formula, without the guarantee; or
        "exact", the absolute change itself.
      terms: its parts by name, and every form that competed for the smallest.
      scale: s. Bounds and indices grow with s, so that they hold for all smaller s too, and for the change of the
        supremum where s is at least both laws' s* (B0, `supremum`). An exact change says nothing about other scales.
      assumptions: what must hold.
      problems: why it is only an index; empty otherwise.
    """

    value: Any
    kind: Kind = field(metadata={"static": True})
    terms: Mapping[str, Any]
    scale: Any
    assumptions: tuple[str, ...] = field(metadata={"static": True})
    problems: tuple[str, ...] = field(default=(), metadata={"static": True})

    @property
    def bits(self) -> Any:
        """`value` in bits."""
        return self.value / math.log(2)

    def describe(self) -> str:
        """The result in words. An index is never called more than that."""
        number, scale = _number(self.value), _number(self.scale)
        if self.kind == "exact":
            head = f"The change of I(s) at s = {scale} is {number} nats in absolute value, exactly."
        elif self.kind == "bound":
            head = f"I(s) changes by at most {number} nats at every s up to {scale}: a bound."
        else:
            reasons = "; ".join(self.problems)
            head = f"An index of {number} nats at s = {scale}. It guarantees nothing: {reasons}."
        parts = ", ".join(f"{name} {_number(term)}" for name, term in self.terms.items())
        return f"{head} Terms: {parts}. Assumed: {'; '.join(self.assumptions)}."

    def __repr__(self) -> str:
        name = {"bound": "Bound", "index": "Index", "exact": "Exact"}[self.kind]
        note = "".join(f", {problem}" for problem in self.problems)
        return f"{name}({_number(self.value)} nats, s={_number(self.scale)}{note})"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Bracket:
    """Two-sided: the change of I(s) over inputs lies in [lower, upper], nats.

    Attributes:
      lower: its lower end.
      upper: its upper end.
      terms: `change`, the change itself, and the parts that the function names.
      scale: s. A bracket holds at this scale alone.
      assumptions: what must hold.
    """

    lower: Any
    upper: Any
    terms: Mapping[str, Any]
    scale: Any
    assumptions: tuple[str, ...] = field(metadata={"static": True})


def _number(value: Any) -> str:
    try:
        return f"{float(value):.6g}"
    except TypeError:  # a tracer, or a batch
        return str(value)


def check_numbers(**numbers: Any) -> tuple[float, ...]:
    """Finite numbers >= 0, by name, as floats."""
    for name, value in numbers.items():
        array = np.asarray(value)
        if array.shape or not np.isreal(array) or not (np.isfinite(array) and array >= 0):
            hint = "; s* is inf where the sample is separable: state a finite S" if name == "scale" else ""
            raise ValueError(f"{name} must be a finite number >= 0, got {value}{hint}")
    return tuple(float(value) for value in numbers.values())
