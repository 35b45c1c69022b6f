"""Labels of an image that its caption need not tell: how many objects it shows, how large, how far apart."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)

_COUNTS = ((1, "1"), (4, "2-4"), (10, "5-10"))
_MORE = "11+"
_SIZES = ("small", "medium", "large")
_SPREADS = ("tight", "medium", "wide")


class Box(NamedTuple):
    """An object, in shares of the image's width and height.

    Attributes:
      category: of the object.
      x: of the box's centre.
      y: of the box's centre.
      area: of the box.
    """

    category: str
    x: float
    y: float
    area: float


def box(category: str, corner: Sequence[float], image: tuple[float, float]) -> Box:
    """The object in a box.

    Args:
      category: of the object.
      corner: left, top, width and height of the box, pixels.
      image: width and height of the image, pixels.
    """
    left, top, width, height = corner
    return Box(
        category, (left + width / 2) / image[0], (top + height / 2) / image[1], width * height / (image[0] * image[1])
    )


def object_labels(images: Mapping[Key, Sequence[Box]]) -> dict[Key, dict[str, str | int | float]]:
    """Labels of images from the boxes of their objects.

    The classes are those of arXiv:2602.23136, table 10. Where the paper leaves it open:

    - `object_category` is the category whose boxes have the largest area in all; of equal ones the one with more
      objects, then the alphabetically first. Where boxes overlap, both count.
    - `object_size` is the mean over objects of the box's share of the image.
    - `spatial_spread` is the root of the mean squared distance of the boxes' centres from their mean, in shares of
      the image's width and height: 0 for one object.
    - Tertiles are cut at the 1/3 and 2/3 quantiles over the images given that show an object (linear between order
      statistics). A value at a cut belongs below it, so that equal values share a class and the classes may be unequal.

    Args:
      images: the objects of each image.

    Returns:
      For each image the three classes and the category, and the numbers behind the classes: `objects`,
      `mean_object_area`, `center_spread`. An image without objects has none of them.
    """
    # Sorted, so that rounding does not depend on the order in a file, and equal values stay equal.
    shown = {key: sorted(boxes) for key, boxes in images.items() if boxes}
    areas = {key: float(np.mean([one.area for one in boxes])) for key, boxes in shown.items()}
    spreads = {key: _spread(boxes) for key, boxes in shown.items()}
    sizes = _tertiles(areas, _SIZES)
    spread_classes = _tertiles(spreads, _SPREADS)
    labels: dict[Key, dict[str, str | int | float]] = {key: {} for key in images}
    for key, boxes in shown.items():
        labels[key] = {
            "object_category": _dominant(boxes),
            "object_count": _count_class(len(boxes)),
            "object_size": sizes[key],
            "spatial_spread": spread_classes[key],
            "objects": len(boxes),
            "mean_object_area": areas[key],
            "center_spread": spreads[key],
        }
    return labels


def _dominant(boxes: Sequence[Box]) -> str:
    areas: dict[str, float] = defaultdict(float)
    for one in boxes:
        areas[one.category] += one.area
    counts = Counter(one.category for one in boxes)
    return min(areas, key=lambda category: (-areas[category], -counts[category], category))


def _count_class(objects: int) -> str:
    return next((name for most, name in _COUNTS if objects <= most), _MORE)


def _spread(boxes: Sequence[Box]) -> float:
    centers = np.array([(one.x, one.y) for one in boxes])
    return float(np.sqrt(centers.var(axis=0).sum()))


def _tertiles(values: Mapping[Key, float], names: tuple[str, str, str]) -> dict[Key, str]:
    if not values:
        return {}
    cuts = np.quantile(list(values.values()), [1 / 3, 2 / 3])
    return {key: names[int(np.searchsorted(cuts, value))] for key, value in values.items()}
