"""Listing folders and reading tables, with errors that name the file and the line."""

import csv
import io
import json
import math
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from gmijax.datasets._errors import DatasetError

_SHOWN = 8  # names that a message lists before it stops


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """All files below a folder whose names end so, in any case, sorted.

    Files and folders whose names begin with a dot are left out, as systems litter data sets with them. Links are
    followed, except those to a folder that they lie in.
    """
    found = []
    for here, folders, files in os.walk(folder, followlinks=True, onerror=_cannot_list):
        folders[:] = [name for name in folders if not name.startswith(".") and not _leads_back(Path(here, name))]
        found += [
            Path(here, name)
            for name in files
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes
        ]
    return sorted(found)


def _leads_back(folder: Path) -> bool:
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def _cannot_list(error: OSError) -> None:
    raise DatasetError(error.filename, f"cannot be listed: {error.strerror}") from error


def relative_id(path: Path, root: Path) -> str:
    """The path below the root with forward slashes, composed (NFC): file systems differ in how they store accents."""
    if not path.is_relative_to(root):
        raise DatasetError(path, f"is not below {root}")
    relative = unicodedata.normalize("NFC", path.relative_to(root).as_posix())
    try:
        relative.encode()
    except UnicodeEncodeError as error:
        raise DatasetError(root, f"holds a file whose name is not UTF-8: {relative!r}") from error
    return relative


def need_folder(path: Path, layout: str) -> Path:
    """The folder itself, if it is one.

    Raises:
      DatasetError: otherwise, with the layout that was expected.
    """
    if path.is_dir():
        return path
    raise DatasetError(path, f"is {'a file' if path.exists() else 'missing'}; expected a folder, as in {layout}")


def need_split(root: Path, split: str, available: Iterable[str], layout: str) -> None:
    """Checks that a split is there.

    Raises:
      DatasetError: otherwise, with the splits that are.
    """
    splits = sorted(available)
    if split not in splits:
        shown = ", ".join(splits[:_SHOWN]) + (", ..." if len(splits) > _SHOWN else "")
        raise DatasetError(root, f"has no split {split!r}; it has {shown or 'none'}; the layout is {layout}")


def read_text(path: Path) -> str:
    """All of a UTF-8 file, without a byte order mark.

    Raises:
      DatasetError: if it is missing, cannot be read, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DatasetError(path, f"cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DatasetError(path, f"is not UTF-8 at byte {error.start}", line=line) from error


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a file that are not blank, each with its number."""
    # Not `splitlines`, which also ends a line at the separators that may stand inside a JSON string.
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line.strip():
            yield number, line.strip()


def read_table(path: Path, columns: Collection[str], *, delimiter: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, each with the number of its last line.

    Raises:
      DatasetError: if a column is not in the header, or a row has more or fewer fields than that.
    """
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        header = reader.fieldnames or ()
        missing = [column for column in columns if column not in header]
        if missing:
            raise DatasetError(
                path, f"has no column {', '.join(missing)}; it has {', '.join(header) or 'none'}", line=1
            )
        for row in reader:
            fields = len(header) - list(row.values()).count(None) + len(row.get(None, ()))  # pyright: ignore
            if fields != len(header):
                problem = f"has {fields} fields; the header has {len(header)}"
                raise DatasetError(path, problem, line=reader.line_num)
            yield reader.line_num, {key: value.strip() for key, value in row.items()}
    except csv.Error as error:
        raise DatasetError(path, f"is no CSV: {error}", line=reader.line_num + 1) from error  # after the last good row


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds, which must be an object.

    Raises:
      DatasetError: if it is no JSON, no object, or an object in it has a key twice.
    """
    return parse_json(read_text(path), path)


def parse_json(text: str, path: Path, *, line: int | None = None) -> dict[str, Any]:
    """Parses one object; `line` is its number where the file holds one a line."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        place = error.lineno if line is None else line
        raise DatasetError(path, f"is no JSON: {error.msg}, column {error.colno}", line=place) from error
    except _TwiceError as error:
        raise DatasetError(path, f"has the key {error.args[0]!r} twice in one object", line=line) from error
    if not isinstance(value, dict):
        raise DatasetError(path, f"holds a {type(value).__name__}; expected an object in braces", line=line)
    return value


class _TwiceError(Exception):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        raise _TwiceError(next(key for key in keys if keys.count(key) > 1))
    return value


def field(entry: Any, key: str, kind: type | tuple[type, ...], path: Path, where: str) -> Any:
    """One value of an object of a JSON file, of a kind.

    Args:
      entry: the object.
      key: of the value.
      kind: the type that it must have. A truth value is no number here, and no number is NaN or infinite.
      path: of the file, for the message.
      where: the place of the object in the file, for the message.

    Raises:
      DatasetError: if there is no such value.
    """
    if not isinstance(entry, dict) or key not in entry:
        raise DatasetError(path, f"{where} has no {key}")
    value = entry[key]
    good = isinstance(value, kind) and not isinstance(value, bool)
    if isinstance(value, float):
        good = good and math.isfinite(value)
    if not good:
        expected = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise DatasetError(path, f"{where} has {key} {value!r}; expected {expected}")
    return value
