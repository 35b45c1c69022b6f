"""COCO as it is published: annotations/{captions,instances}_<split>.json and <split>/ (Lin et al., ECCV 2014)."""

from pathlib import Path
from typing import Any, NamedTuple

from gmijax.datasets._dataset import Dataset
from gmijax.datasets._errors import DatasetError
from gmijax.datasets._files import field, need_folder, need_split, read_json, relative_id
from gmijax.datasets._lexical import lexical_labels
from gmijax.datasets._media import ImageFile
from gmijax.datasets._objects import Box, box, object_labels
from gmijax.datasets._sample import Sample

_LAYOUT = (
    "COCO/annotations/instances_<split>.json, COCO/annotations/captions_<split>.json and COCO/<split>/*.jpg;"
    " give the folder COCO"
)
_NUMBER = (int, float)


class _Image(NamedTuple):
    file_name: str
    size: tuple[float, float]


def coco(root: Path, *, split: str = "val2017", captions: str = "first") -> Dataset:
    """Reads one split; see `gmijax.datasets.open`."""
    if captions not in ("first", "all"):
        raise ValueError(f"captions is {captions!r}; use 'first' or 'all'")
    need_folder(root, _LAYOUT)
    annotations = need_folder(root / "annotations", _LAYOUT)
    found = (path.stem.removeprefix("instances_") for path in annotations.glob("instances_*.json"))
    need_split(root, split, found, _LAYOUT)
    folder = need_folder(root / split, _LAYOUT)
    images, boxes, super_categories = _read_instances(annotations / f"instances_{split}.json")
    written = _read_captions(annotations / f"captions_{split}.json", images)
    labels = object_labels(boxes)
    for one in labels.values():
        if one:
            one["super_category"] = super_categories[str(one["object_category"])]

    rows: list[tuple[int, str, str | None]] = []
    for key, image in images.items():
        own = sorted(written.get(key, ()))
        name = relative_id(folder / image.file_name, root)
        if captions == "first" or not own:
            rows.append((key, name, own[0][1] if own else None))
        else:
            rows += [(key, f"{name}#{number}", text) for number, text in own]
    samples = []
    for (key, name, text), word in zip(rows, lexical_labels([text for _, _, text in rows]), strict=True):
        own_labels = labels[key] | ({} if word is None else {"lexical": word})
        samples.append(Sample(name, own_labels, text, image=ImageFile(folder / images[key].file_name)))
    return Dataset("coco", samples, root=annotations)


def _read_instances(path: Path) -> tuple[dict[int, _Image], dict[int, list[Box]], dict[str, str]]:
    """The images, the objects of each, and the super-category of every category.

    Crowds are left out: their box is around many objects, nobody counted how many.
    """
    data = read_json(path)
    images: dict[int, _Image] = {}
    for where, entry in _entries(data, "images", path):
        key = field(entry, "id", int, path, where)
        if key in images:
            raise DatasetError(path, f"{where} has the id {key} of another image")
        size = (field(entry, "width", _NUMBER, path, where), field(entry, "height", _NUMBER, path, where))
        if min(size) <= 0:
            raise DatasetError(path, f"{where} is {size[0]} x {size[1]} pixels; expected a positive size")
        images[key] = _Image(field(entry, "file_name", str, path, where), size)
    names: dict[int, str] = {}
    super_categories: dict[str, str] = {}
    for where, entry in _entries(data, "categories", path):
        name = field(entry, "name", str, path, where)
        names[field(entry, "id", int, path, where)] = name
        super_categories[name] = field(entry, "supercategory", str, path, where)
    boxes: dict[int, list[Box]] = {key: [] for key in images}
    for where, entry in _entries(data, "annotations", path):
        image = _known(entry, "image_id", images, path, where)
        category = _known(entry, "category_id", names, path, where)
        corner = field(entry, "bbox", list, path, where)
        if len(corner) != 4 or not all(_is_number(value) for value in corner) or min(corner[2:]) < 0:
            raise DatasetError(path, f"{where} has bbox {corner}; expected left, top, width and height in pixels")
        if not entry.get("iscrowd"):
            boxes[image].append(box(names[category], corner, images[image].size))
    return images, boxes, super_categories


def _read_captions(path: Path, images: dict[int, _Image]) -> dict[int, list[tuple[int, str]]]:
    """The captions of each image with their ids."""
    captions: dict[int, list[tuple[int, str]]] = {}
    for where, entry in _entries(read_json(path), "annotations", path):
        image = _known(entry, "image_id", images, path, where)
        text = " ".join(field(entry, "caption", str, path, where).split())  # some hold line ends
        captions.setdefault(image, []).append((field(entry, "id", int, path, where), text))
    return captions


def _entries(data: dict[str, Any], key: str, path: Path) -> list[tuple[str, Any]]:
    return [(f"{key}[{index}]", entry) for index, entry in enumerate(field(data, key, list, path, "the file"))]


def _known(entry: Any, key: str, known: dict[int, Any], path: Path, where: str) -> int:
    value = field(entry, key, int, path, where)
    if value not in known:
        raise DatasetError(path, f"{where} has {key} {value}, which instances_*.json does not list")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, _NUMBER) and not isinstance(value, bool) and abs(value) < float("inf")
