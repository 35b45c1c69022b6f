"""How the keys of a published checkpoint name the leaves of one of our models."""

from typing import NamedTuple


class KeyRule(NamedTuple):
    r"""One line of a model's key map.

    Attributes:
      pattern: a regular expression that the whole checkpoint key must match. A group `(?P<layer>\d+)` gives
        the index into the leading layer axis of the leaf.
      leaf: the dotted path of the parameter in the NNX module, e.g. "layers.attention.q.kernel".
      transpose: whether the stored matrix is (out, in), as torch's linear layers are, and the leaf (in, out).
    """

    pattern: str
    leaf: str
    transpose: bool
