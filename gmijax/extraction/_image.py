"""Images through a vision transformer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gmijax.datasets import Sample
from gmijax.extraction._encoder import Encoder, Identity, Piece, SampleError, Tokens
from gmijax.models import ViT
from gmijax.preprocessing import ImageTransform


def read_pixels(sample: Sample, transform: Callable[[Any], np.ndarray]) -> np.ndarray:
    """The prepared image of a sample, shape (3, height, width).

    Raises:
      SampleError: if it has none.
    """
    if sample.image is None:
        raise SampleError("it has no image")
    return transform(sample.image())[0]


def stack_pixels(pieces: Sequence[Piece], rows: int, size: int) -> np.ndarray:
    """Images of a batch, with zeros for those that are missing."""
    pixels = np.zeros((rows, 3, size, size), np.float32)
    for row, piece in enumerate(pieces):
        pixels[row] = piece.arrays["pixels"]
    return pixels


def vision_tokens(states: jax.Array, prefix: int, patches: int) -> Tokens:
    """All tokens are valid, and the patches are the image's; class and register tokens before them are not."""
    own = jnp.ones(states.shape[:2], bool)
    if states.shape[1] == prefix + patches:
        own = own & (jnp.arange(states.shape[1]) >= prefix)
    return Tokens(states, own, jnp.ones_like(own), jnp.full(len(states), states.shape[1] - 1))


class ImageEncoder(Encoder):
    """CLIP's, SigLIP's or DINOv2's tower. Images have one size, and so there is one program.

    Pooling "mean" takes the patches, "mean_all" the class token and the registers too, "last" the last patch.

    Args:
      model: the tower.
      identity: for the manifest; `preprocessing` is added.
      transform: from an image to the model's pixels.
    """

    takes: ClassVar = "image"
    hook_points = ("encoder_output",)
    lengths = (1,)

    def __init__(self, model: ViT, identity: Identity, transform: ImageTransform):
        self.graph, self.parameters = nnx.split(model)
        self.config, self.transform = model.config, transform
        self.identity = replace(identity, preprocessing=f"{transform} on PIL; {model.dtype}")

    def read(self, sample: Sample) -> list[Piece]:
        """One piece: the pixels."""
        return [Piece({"pixels": read_pixels(sample, self.transform)}, 1)]

    def batch(self, pieces: Sequence[Piece], rows: int, length: int) -> dict[str, np.ndarray]:
        """The pixels."""
        return {"pixels": stack_pixels(pieces, rows, self.config.image_size)}

    def states(
        self, parameters: Any, batch: Mapping[str, jax.Array], hook_points: tuple[str, ...]
    ) -> dict[str, Tokens]:
        """The patches count."""
        states = nnx.merge(self.graph, parameters)(batch["pixels"], hook_points=hook_points)
        return {name: vision_tokens(states[name], self.config.prefix, self.config.patches) for name in hook_points}
