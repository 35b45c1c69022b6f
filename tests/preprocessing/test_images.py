from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from gmijax.preprocessing import ImageTransform, clip_transform, dinov2_transform, siglip_transform

GOLDEN = load_file(Path(__file__).parents[1] / "fixtures" / "tiny" / "images.safetensors")
IMAGES = [GOLDEN[f"image_{i}"] for i in range(4)]  # wide, tall, an odd difference, square


@pytest.mark.parametrize(
    ("name", "transform"),
    [("clip", clip_transform(24)), ("dinov2", dinov2_transform(24)), ("siglip", siglip_transform(24))],
)
def test_pixels_equal_the_originals(name, transform):
    found = transform(IMAGES)
    assert found.dtype == np.float32
    for i, pixels in enumerate(found):
        np.testing.assert_allclose(pixels, GOLDEN[f"{name}_{i}"], rtol=0, atol=1e-6)  # a step of 8 bits is 0.008


def test_one_image_several_and_pil_are_alike():
    transform = clip_transform(24)
    together = transform(IMAGES[:2])
    np.testing.assert_array_equal(transform(IMAGES[1])[0], together[1])
    np.testing.assert_array_equal(transform(Image.fromarray(IMAGES[0])), together[:1])
    np.testing.assert_array_equal(transform(np.stack([IMAGES[3]] * 2)), transform([IMAGES[3]] * 2))


def test_squash_ignores_proportions():
    image = np.zeros((6, 30, 3), np.uint8)
    image[:, 15:] = 255
    (pixels,) = siglip_transform(12, fit="squash")(image)
    np.testing.assert_array_equal(pixels[:, :, 0], -1)
    np.testing.assert_array_equal(pixels[:, :, -1], 1)


def test_letterbox_pads_with_the_mean_colour():
    (pixels,) = dinov2_transform(8)(np.full((8, 4, 3), 255, np.uint8))
    assert np.abs(pixels[:, :, 0]).max() < 0.02  # the mean, rounded to 8 bits
    assert pixels[:, :, 4].min() > 2


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"uint8 of shape \(4, 4\); give uint8"),
        (np.zeros((4, 4, 3), np.float32), "float32 of shape"),
        (np.zeros((0, 4, 3), np.uint8), "shape \\(0, 4, 3\\)"),
        ([], "no images"),
    ],
)
def test_what_is_no_image_is_refused(image, message):
    with pytest.raises(ValueError, match=message):
        clip_transform(8)(image)


def test_settings_are_checked():
    with pytest.raises(ValueError, match="fit = 'pad' is not one of crop, letterbox, squash"):
        ImageTransform(8, (0, 0, 0), (1, 1, 1), fit="pad")
    with pytest.raises(ValueError, match="size = 0"):
        clip_transform(0)
