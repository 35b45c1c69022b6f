"""From waves and images to what the encoders take, with the numbers of the originals' preprocessing."""

from gmijax.preprocessing._image_prompts import expand_placeholders, llava_prompt, prismatic_prompt
from gmijax.preprocessing._images import ImageTransform, clip_transform, dinov2_transform, siglip_transform

__all__ = [
    "ImageTransform",
    "clip_transform",
    "dinov2_transform",
    "expand_placeholders",
    "llava_prompt",
    "prismatic_prompt",
    "siglip_transform",
]
