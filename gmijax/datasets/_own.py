"""Your own files: a plain folder, or one JSON object a line."""

import math
from pathlib import Path, PurePosixPath
from typing import Any

from gmijax.datasets._dataset import Dataset
from gmijax.datasets._errors import DatasetError
from gmijax.datasets._files import files_below, need_folder, parse_json, read_lines, read_text, relative_id
from gmijax.datasets._media import AUDIO_SUFFIXES, IMAGE_SUFFIXES, AudioFile, ImageFile
from gmijax.datasets._sample import Sample

_KEYS = ("id", "audio", "image", "text", "labels")


def folder(root: Path) -> Dataset:
    """Reads all recordings and images below a folder; see `gmijax.datasets.open`."""
    need_folder(root, "<root>/<label>/<file>")
    samples = []
    for path in files_below(root, AUDIO_SUFFIXES | IMAGE_SUFFIXES):
        name = relative_id(path, root)
        labels: dict[str, str | int | float] = {"label": str(PurePosixPath(name).parent)} if "/" in name else {}
        beside = path.with_suffix(".txt")
        text = read_text(beside).strip() if beside.is_file() else None
        if path.suffix.lower() in AUDIO_SUFFIXES:
            samples.append(Sample(name, labels, text, audio=AudioFile(path)))
        else:
            samples.append(Sample(name, labels, text, image=ImageFile(path)))
    if not samples:
        suffixes = ", ".join(sorted(AUDIO_SUFFIXES | IMAGE_SUFFIXES))
        raise DatasetError(root, f"holds no recording and no image; names that end in {suffixes} are read")
    return Dataset("folder", samples, root=root)


def jsonl(root: Path) -> Dataset:
    """Reads a file of one JSON object a line; see `gmijax.datasets.open`."""
    if not root.is_file():
        raise DatasetError(root, "is no file; give the .jsonl file itself")
    seen: dict[str, int] = {}
    samples = []
    for number, line in read_lines(root):
        sample = _sample(parse_json(line, root, line=number), root, number)
        if sample.id in seen:
            raise DatasetError(root, f"has the id {sample.id!r} of line {seen[sample.id]} again", line=number)
        seen[sample.id] = number
        samples.append(sample)
    return Dataset("jsonl", samples, root=root)


def _sample(entry: dict[str, Any], root: Path, line: int) -> Sample:
    unknown = sorted(set(entry) - set(_KEYS))
    if unknown:
        raise DatasetError(root, f"has the key {unknown[0]!r}; known are {', '.join(_KEYS)}", line=line)
    for key in ("id", "audio", "image", "text"):
        value = entry.get(key)
        if value is not None and (not isinstance(value, str) or (key != "text" and not value)):
            raise DatasetError(root, f"has {key} {value!r}; expected a string that is not empty", line=line)
    name = entry.get("id")
    if name is None:
        name = entry.get("audio") or entry.get("image")
        if name is None or Path(name).is_absolute():
            raise DatasetError(root, "has no id, and no path below the file's folder to take for one", line=line)
    audio, image = (entry.get(key) and root.parent / entry[key] for key in ("audio", "image"))
    return Sample(
        name,
        _labels(entry.get("labels", {}), root, line),
        entry.get("text"),
        AudioFile(audio) if audio else None,
        ImageFile(image) if image else None,
    )


def _labels(labels: Any, root: Path, line: int) -> dict[str, str | int | float]:
    if not isinstance(labels, dict):
        raise DatasetError(root, f"has labels {labels!r}; expected an object in braces", line=line)
    for key, value in labels.items():
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not isinstance(value, str) and not number:
            raise DatasetError(root, f"has the label {key} {value!r}; expected a string or a finite number", line=line)
    return labels
