"""Images as the originals prepare them, on PIL: its resampling rounds to 8 bits after each pass, and so must ours."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ImageLike: TypeAlias = Image.Image | NDArray
_FITS = ("crop", "letterbox", "squash")

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ImageTransform:
    """How an image of any size becomes the pixels of a model.

    Attributes:
      size: edge of the square that comes out.
      mean: of the colours, subtracted after scaling to [0, 1].
      std: divides what is left.
      fit: "crop" resizes the shorter edge and crops the centre; "letterbox" first pads the image to a square with the
        mean colour; "squash" resizes both edges, whatever the proportions.

    Raises:
      ValueError: an unknown fit, or a size that is not positive.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: str = "crop"

    def __post_init__(self):
        if self.fit not in _FITS:
            raise ValueError(f"fit = {self.fit!r} is not one of {', '.join(_FITS)}")
        if self.size < 1:
            raise ValueError(f"size = {self.size}: must be positive")

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> NDArray[np.float32]:
        """Prepares images.

        Args:
          images: one or several, of PIL or uint8 arrays of shape (height, width, 3). PIL images of other modes are
            converted to RGB.

        Returns:
          Shape (images, 3, size, size), float32.

        Raises:
          ValueError: an array of another shape or type, or no image.
        """
        one = isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim != 4)
        several = [images] if one else list(cast(Sequence[ImageLike], images))
        if not several:
            raise ValueError("no images were given")
        return np.stack([self._prepare(_as_pil(cast(ImageLike, image))) for image in several])

    def _prepare(self, image: Image.Image) -> NDArray[np.float32]:
        if self.fit == "letterbox":
            image = _letterbox(image, self.mean)
        if self.fit == "squash":
            image = image.resize((self.size, self.size), Image.Resampling.BICUBIC)
        else:
            rounded = round if self.fit == "letterbox" else math.floor  # as torchvision, and as transformers
            image = _centre(_resize_shorter(image, self.size), self.size, rounded)
        pixels = np.asarray(image, np.float32) / np.float32(255)
        pixels = (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        return pixels.transpose(2, 0, 1)


def clip_transform(size: int = 336) -> ImageTransform:
    """That of CLIP's processor in transformers 4 (PIL), which LLaVA 1.5 uses at 336."""
    return ImageTransform(size, CLIP_MEAN, CLIP_STD)


def dinov2_transform(size: int = 224, fit: str = "letterbox") -> ImageTransform:
    """That of Prismatic's DINOv2."""
    return ImageTransform(size, IMAGENET_MEAN, IMAGENET_STD, fit)


def siglip_transform(size: int = 224, fit: str = "letterbox") -> ImageTransform:
    """That of Prismatic's SigLIP."""
    return ImageTransform(size, HALF, HALF, fit)


def _as_pil(image: ImageLike) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise ValueError(f"an image is {array.dtype} of shape {array.shape}; give uint8 of shape (height, width, 3)")
    return Image.fromarray(array)


def _letterbox(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """Pads both sides alike to a square; as in the original, an odd difference leaves it one pixel off."""
    width, height = image.size
    across, down = (max(width, height) - width) // 2, (max(width, height) - height) // 2
    padded = Image.new("RGB", (width + 2 * across, height + 2 * down), tuple(int(255 * value) for value in mean))
    padded.paste(image, (across, down))
    return padded


def _resize_shorter(image: Image.Image, size: int) -> Image.Image:
    width, height = image.size
    if width <= height:
        return image.resize((size, int(size * height / width)), Image.Resampling.BICUBIC)
    return image.resize((int(size * width / height), size), Image.Resampling.BICUBIC)


def _centre(image: Image.Image, size: int, rounded: Callable[[float], int]) -> Image.Image:
    left, top = rounded((image.size[0] - size) / 2), rounded((image.size[1] - size) / 2)
    return image.crop((left, top, left + size, top + size))
