"""What turns samples into hidden states: reading on the host, a batch of one shape, a pass on the device, pooling."""

import abc
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gmijax.datasets import Sample


class SampleError(ValueError):
    """Why one sample has no states; the others go on."""


class Piece(NamedTuple):
    """What one row of a batch takes from a sample; most samples are one piece, a long recording is several.

    Attributes:
      arrays: what `Encoder.batch` puts together.
      length: decides the bucket: mel frames or tokens.
    """

    arrays: Mapping[str, np.ndarray]
    length: int


class Tokens(NamedTuple):
    """The states of a batch at one hook point.

    Attributes:
      states: shape (rows, tokens, width).
      own: shape (rows, tokens), true where a state belongs to the modality: to the clip and not to its silence, to the
        image or the text and not to the prompt.
      whole: shape (rows, tokens), true at what pooling "mean_all" takes: everything that the original's sequence has,
        never the padding of a bucket.
      last: shape (rows,), the place of the last valid token.
    """

    states: Float[Array, "rows tokens width"]
    own: Bool[Array, "rows tokens"]
    whole: Bool[Array, "rows tokens"]
    last: Int[Array, " rows"]


class Pooled(NamedTuple):
    """What leaves the device: sums over tokens and how many were added, or every state and which of them count.

    Attributes:
      values: shape (rows, width) in float32, or with pooling "none" (rows, tokens, width).
      counts: shape (rows,), or with pooling "none" (rows, tokens), true where a state counts.
    """

    values: Float[Array, "rows *tokens width"]
    counts: Int[Array, " rows"] | Bool[Array, "rows tokens"]


@dataclass(frozen=True)
class Identity:
    """What a store's manifest says of an encoder: everything that decides its states.

    Attributes:
      model: its name.
      checkpoint: hash of the weights.
      config: hash of the model's config.
      prompt: the text around the media or the sample's text.
      preprocessing: what makes the model's input, and in which type the model computes.
    """

    model: str
    checkpoint: str = ""
    config: str = ""
    prompt: str = ""
    preprocessing: str = ""


class Encoder(abc.ABC):
    """Base of what `extract` takes. A subclass supplies the attributes and the three methods that are abstract.

    The states of a sample must not depend on the length that its batch is padded to, but for rounding: buckets are a
    matter of speed. Where a model sees its padding (Whisper sees 30 s of it), the padding is part of the input and has
    one length.

    Attributes:
      takes: what a sample must have.
      identity: for the manifest.
      hook_points: taken where none are named.
      lengths: padded lengths, ascending, at most so many programs are compiled; no piece is longer than the last.
      parameters: the pytree that `states` is given.
    """

    takes: ClassVar[Literal["audio", "image", "text"]]
    identity: Identity
    hook_points: tuple[str, ...]
    lengths: tuple[int, ...]
    parameters: Any

    @abc.abstractmethod
    def read(self, sample: Sample) -> list[Piece]:
        """Opens a sample and prepares it, on a thread of the host.

        Returns:
          At least one piece.

        Raises:
          SampleError: saying why this sample cannot be used.
        """

    @abc.abstractmethod
    def batch(self, pieces: Sequence[Piece], rows: int, length: int) -> dict[str, np.ndarray]:
        """Arrays of one shape, whatever the pieces.

        Args:
          pieces: up to `rows` of them, none longer than `length`.
          rows: of the batch; those after the pieces are filled with anything that is finite.
          length: one of the buckets.
        """

    @abc.abstractmethod
    def states(
        self, parameters: Any, batch: Mapping[str, jax.Array], hook_points: tuple[str, ...]
    ) -> dict[str, Tokens]:
        """The pass of the model, pure: it is compiled once for each length.

        Raises:
          ValueError: for an unknown hook point, naming those there are.
        """

    def pooled(
        self, batch: Mapping[str, np.ndarray], *, hook_points: tuple[str, ...], pooling: str
    ) -> dict[str, Pooled]:
        """Starts the pass on the device and returns at once."""
        # As the originals: float32 is not rounded to fewer bits on accelerators that could be faster so.
        with jax.default_matmul_precision("highest"):
            return self._program(self.parameters, dict(batch), hook_points=hook_points, pooling=pooling)

    def widths(self, hook_points: tuple[str, ...]) -> dict[str, int]:
        """The width of the states by hook point; nothing is computed.

        Raises:
          ValueError: for an unknown hook point.
        """
        batch = self.batch([], 1, self.lengths[0])
        shapes = jax.eval_shape(lambda p, b: self.states(p, b, hook_points), self.parameters, batch)
        return {name: shapes[name].states.shape[-1] for name in hook_points}

    @functools.cached_property
    def _program(self) -> Callable[..., dict[str, Pooled]]:
        def run(parameters, batch, *, hook_points, pooling):
            states = self.states(parameters, batch, hook_points)
            return {name: pool(states[name], pooling) for name in hook_points}

        return jax.jit(run, static_argnames=("hook_points", "pooling"))


def pool(tokens: Tokens, pooling: str) -> Pooled:
    """Sums the states that a pooling of `gmijax.store.POOLINGS` takes; the host divides, once all pieces are there."""
    if pooling == "none":
        return Pooled(tokens.states, tokens.own)
    if pooling == "last":
        last = jnp.take_along_axis(tokens.states, tokens.last[:, None, None], axis=1)[:, 0]
        return Pooled(last.astype(jnp.float32), jnp.any(tokens.own, axis=1).astype(jnp.int32))
    mask = tokens.own if pooling == "mean" else tokens.whole
    # Chosen and not multiplied by the mask: whatever padding holds, even NaN, does not enter.
    chosen = jnp.where(mask[..., None], tokens.states, 0)
    return Pooled(jnp.sum(chosen, axis=1, dtype=jnp.float32), jnp.sum(mask, axis=1, dtype=jnp.int32))


def last_true(mask: Bool[Array, "rows tokens"]) -> Int[Array, " rows"]:
    """The place of the last true value of each row; the last place where there is none."""
    return mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
