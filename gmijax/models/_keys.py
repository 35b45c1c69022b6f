"""How the keys of a published checkpoint name the leaves of one of our models."""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np

Shape = tuple[int, ...]


class Conversion(Protocol):
    """What is done to a stored tensor that is not of its leaf's shape."""

    def fits(self, stored: Shape, wanted: Shape) -> bool:
        """Whether a tensor of shape `stored` can be brought to shape `wanted`."""
        ...

    def __call__(self, tensor: np.ndarray, wanted: Shape) -> np.ndarray:
        """Brings it there."""
        ...


class KeyRule(NamedTuple):
    r"""One line of a model's key map.

    Attributes:
      pattern: a regular expression that the whole checkpoint key must match. A group `(?P<layer>\d+)` gives
        the index into the leading layer axis of the leaf.
      leaf: the dotted path of the parameter in the NNX module, e.g. "layers.attention.q.kernel".
      transpose: whether the axes are stored in reverse order: torch's linear layers are (out, in) and the leaf is
        (in, out), its convolutions (out, in, height, width) and the leaf (width, height, in, out).
      part: (i, n) if the tensor fills the i-th of n equal parts of the leaf's last axis.
      convert: what brings the tensor to the shape of its leaf, before it is transposed.
    """

    pattern: str
    leaf: str
    transpose: bool
    part: tuple[int, int] | None = None
    convert: Conversion | None = None


def affine(pattern: str, leaf: str) -> tuple[KeyRule, KeyRule]:
    """The two rules of a norm."""
    return (
        KeyRule(pattern + r"\.weight", f"{leaf}.scale", transpose=False),
        KeyRule(pattern + r"\.bias", f"{leaf}.bias", transpose=False),
    )


def dense(pattern: str, leaf: str, part: tuple[int, int] | None = None) -> tuple[KeyRule, KeyRule]:
    """The two rules of a linear layer or a convolution."""
    return (
        KeyRule(pattern + r"\.weight", f"{leaf}.kernel", transpose=True, part=part),
        KeyRule(pattern + r"\.bias", f"{leaf}.bias", transpose=False, part=part),
    )


class Flatten:
    """Drops leading axes of length 1, as timm stores them."""

    def fits(self, stored: Shape, wanted: Shape) -> bool:
        """Whether only ones are to be dropped."""
        lead = len(stored) - len(wanted)
        return lead >= 0 and stored[lead:] == wanted and set(stored[:lead]) <= {1}

    def __call__(self, tensor: np.ndarray, wanted: Shape) -> np.ndarray:
        """Drops them."""
        return tensor.reshape(wanted)


def prefixed(rules: Iterable[KeyRule], pattern: str, leaf: str) -> tuple[KeyRule, ...]:
    """The rules of a part of a model, with what stands before its keys and before its leaves."""
    return tuple(rule._replace(pattern=pattern + rule.pattern, leaf=f"{leaf}.{rule.leaf}") for rule in rules)
