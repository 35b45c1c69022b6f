"""GQA as it is unpacked: questions, scene graphs and images (Hudson and Manning, CVPR 2019)."""

from pathlib import Path
from typing import Any

from gmijax.datasets._dataset import Dataset
from gmijax.datasets._errors import DatasetError
from gmijax.datasets._files import field, files_below, need_folder, need_split, read_json
from gmijax.datasets._media import ImageFile
from gmijax.datasets._objects import Box, box, object_labels
from gmijax.datasets._sample import Sample

_LAYOUT = (
    "GQA/questions/<split>_questions.json (or questions1.2/), GQA/sceneGraphs/{train,val}_sceneGraphs.json and"
    " GQA/images/*.jpg; give the folder GQA"
)
_ENDING = "_questions"
_NUMBER = (int, float)
_TYPES = ("structural", "semantic", "detailed")


def gqa(root: Path, *, split: str = "val_balanced") -> Dataset:
    """Reads the questions of one split; see `gmijax.datasets.open`."""
    need_folder(root, _LAYOUT)
    folder = root / "questions1.2" if (root / "questions1.2").is_dir() else root / "questions"
    need_folder(folder, _LAYOUT)
    images = need_folder(root / "images", _LAYOUT)
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.is_dir() or path.suffix == ".json"}
    need_split(root, split, (stem.removesuffix(_ENDING) for stem in found if stem.endswith(_ENDING)), _LAYOUT)
    source = found[split + _ENDING]
    questions: list[tuple[Path, str, Any]] = []
    for path in files_below(source, {".json"}) if source.is_dir() else [source]:  # train_all is a folder of parts
        questions += [(path, key, entry) for key, entry in read_json(path).items()]

    asked = {field(entry, "imageId", str, path, f"question {key}") for path, key, entry in questions}
    graphs = root / "sceneGraphs" / f"{split.split('_')[0]}_sceneGraphs.json"
    shown = object_labels(_read_boxes(graphs, asked)) if graphs.is_file() else {}
    samples = []
    for path, key, entry in questions:
        where = f"question {key}"
        image = entry["imageId"]
        labels: dict[str, str | int | float] = {"image": image, **shown.get(image, {})}
        if "answer" in entry:  # the test splits have none
            labels["answer"] = field(entry, "answer", str, path, where)
        types = field(entry, "types", dict, path, where) if "types" in entry else {}
        labels |= {f"{kind}_type": types[kind] for kind in _TYPES if isinstance(types.get(kind), str)}
        text = field(entry, "question", str, path, where)
        samples.append(Sample(key, labels, text, image=ImageFile(images / f"{image}.jpg")))
    return Dataset("gqa", samples, root=source)


def _read_boxes(path: Path, asked: set[str]) -> dict[str, list[Box]]:
    """The objects of the images that questions ask about."""
    boxes: dict[str, list[Box]] = {}
    for image, graph in read_json(path).items():
        if image not in asked:
            continue
        where = f"image {image}"
        size = (field(graph, "width", _NUMBER, path, where), field(graph, "height", _NUMBER, path, where))
        if min(size) <= 0:
            raise DatasetError(path, f"{where} is {size[0]} x {size[1]} pixels; expected a positive size")
        boxes[image] = []
        for key, entry in field(graph, "objects", dict, path, where).items():
            place = f"{where}, object {key},"
            corner = [field(entry, side, _NUMBER, path, place) for side in "xywh"]
            if min(corner[2:]) < 0:
                raise DatasetError(path, f"{place} is {corner[2]} x {corner[3]} pixels; expected no negative size")
            boxes[image].append(box(field(entry, "name", str, path, place), corner, size))
    return boxes
