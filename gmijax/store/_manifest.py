"""What a store says of itself: where its states come from, and which samples they are of."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

import gmijax
from gmijax.report import write_json, write_text

FORMAT = "gmijax hidden states"
VERSION = 1
DTYPES = ("bfloat16", "float16", "float32")
POOLINGS = ("mean", "mean_all", "last", "none")
"""How a sample's tokens become rows: the mean of its valid tokens, of all tokens with the padding, its last one, or all
of its valid tokens, one row each."""

Label = str | int | float
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class StoreError(ValueError):
    """A store that cannot be used, or not for this."""


@runtime_checkable
class Record(Protocol):
    """What a store keeps of a sample beside its states."""

    @property
    def id(self) -> str:
        """Unique in the store."""
        ...

    @property
    def labels(self) -> Mapping[str, Label]:
        """By name."""
        ...

    @property
    def text(self) -> str | None:
        """The transcript or caption."""
        ...


@dataclass(frozen=True)
class Spec:
    """Where the states of a store come from. Two runs with one spec and the same samples write the same store.

    Attributes:
      model: its name.
      hook_points: the width of the states by hook point.
      pooling: one of `POOLINGS`.
      dtype: of the states on disk: bfloat16, float16 or float32.
      checkpoint: hash of the weights.
      config: hash of the model's config.
      prompt: the text around the media or the sample's text.
      preprocessing: what made the model's input, and by which backend.
      chunk_samples: how many consecutive samples are written and committed at once.

    Raises:
      StoreError: listing every value that a store cannot have.
    """

    model: str
    hook_points: Mapping[str, int]
    pooling: str = "mean"
    dtype: str = "float32"
    checkpoint: str = ""
    config: str = ""
    prompt: str = ""
    preprocessing: str = ""
    chunk_samples: int = 1024

    def __post_init__(self):
        problems = []
        if not self.hook_points:
            problems.append("hook_points is empty; name at least one with its width")
        for name, width in self.hook_points.items():
            if not _NAME.fullmatch(name):
                problems.append(f"hook_points {name!r}: use letters, digits, and _ . - inside")
            if width < 1:
                problems.append(f"hook_points {name!r}: width {width} must be positive")
        if self.pooling not in POOLINGS:
            problems.append(f"pooling {self.pooling!r} is not one of {', '.join(POOLINGS)}")
        if self.dtype not in DTYPES:
            problems.append(f"dtype {self.dtype!r} is not one of {', '.join(DTYPES)}")
        if self.chunk_samples < 1:
            problems.append(f"chunk_samples = {self.chunk_samples}: must be positive")
        if problems:
            raise StoreError("; ".join(problems))

    def differences(self, other: "Spec") -> list[str]:
        """In words, the fields in which another spec differs."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{name} is {mine[name]!r}, not {theirs[name]!r}" for name in mine if mine[name] != theirs[name]]


@dataclass(frozen=True)
class Manifest:
    """The content of manifest.json.

    Attributes:
      spec: where the states come from.
      samples: how many there are.
      digest: SHA-256 of samples.jsonl.
      written_by: the version of gmijax that created the store.
    """

    spec: Spec
    samples: int
    digest: str
    written_by: str = field(default_factory=lambda: gmijax.__version__)

    @property
    def chunks(self) -> int:
        """How many chunks hold all samples."""
        return -(-self.samples // self.spec.chunk_samples)

    def span(self, chunk: int) -> range:
        """The samples of a chunk."""
        size = self.spec.chunk_samples
        return range(chunk * size, min((chunk + 1) * size, self.samples))


class Columns(NamedTuple):
    """What samples are beside their states; entries that a sample lacks are None."""

    ids: np.ndarray
    labels: dict[str, list[Label | None]]
    texts: list[str | None]

    def take(self, rows: np.ndarray) -> "Columns":
        """Those of some samples."""
        labels = {name: [column[row] for row in rows] for name, column in self.labels.items()}
        return Columns(self.ids[rows], labels, [self.texts[row] for row in rows])


def sample_lines(samples: Iterable[Record]) -> Iterator[str]:
    """One line of JSON a sample.

    Raises:
      StoreError: for an id that is empty or occurs twice, or a label that is no text or number.
    """
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode  # json.dumps would make one a line
    seen = set()
    for index, sample in enumerate(samples):
        if not isinstance(sample.id, str) or not sample.id:
            raise StoreError(f"sample {index} has the id {sample.id!r}; give text that is not empty")
        if sample.id in seen:
            raise StoreError(f"sample {index} has the id {sample.id!r} of an earlier one; ids must be unique")
        seen.add(sample.id)
        labels = {name: _plain(value, sample.id, name) for name, value in sample.labels.items()}
        record = {"id": sample.id, "labels": labels, "text": sample.text}
        yield encode(record) + "\n"


def _plain(value: Any, owner: str, name: str) -> Label:
    """A label as JSON has it: numpy's numbers become Python's."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value != value:
        raise StoreError(f"label {name!r} of sample {owner!r} is {value!r}; give text or a number")
    return value


def write_manifest(folder: Path, spec: Spec, samples: Iterable[Record]) -> Manifest:
    """Writes samples.jsonl and then manifest.json, each whole or not at all."""
    content = "".join(sample_lines(samples))
    if not content:
        raise StoreError("samples are empty; a store needs at least one")
    manifest = Manifest(spec, content.count("\n"), hashlib.sha256(content.encode()).hexdigest())
    present = folder / "manifest.json"
    if present.exists():
        _check_same(read_manifest(folder), manifest, folder)
        return read_manifest(folder)
    write_text(folder / "samples.jsonl", content)
    plain = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    write_json(present, plain)
    return manifest


def _check_same(old: Manifest, new: Manifest, folder: Path) -> None:
    problems = old.spec.differences(new.spec)
    if (old.samples, old.digest) != (new.samples, new.digest):
        problems.append(f"it holds {old.samples} samples, and the {new.samples} given are others or in another order")
    if problems:
        raise StoreError(f"{folder} is the store of another run: {'; '.join(problems)}; give another folder")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a store.

    Raises:
      StoreError: if it is damaged or of another version.
      FileNotFoundError: if there is none.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no store: it has no manifest.json")
    try:
        plain = json.loads(path.read_text())
        if plain.pop("format") != FORMAT or plain.pop("version") != VERSION:
            raise StoreError(f"{path} is not of version {VERSION} of the format {FORMAT!r}")
        spec = plain.pop("spec")
        unknown = sorted({*spec} - {entry.name for entry in fields(Spec)})
        if unknown:
            raise StoreError(f"{path} holds unknown fields {', '.join(unknown)}; a later gmijax wrote it")
        return Manifest(Spec(**spec), **plain)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{path} is damaged ({error})") from None


def read_columns(folder: Path, manifest: Manifest) -> Columns:
    """The columns of all samples.

    Raises:
      StoreError: if samples.jsonl is not the file that the manifest was written with.
    """
    path = folder / "samples.jsonl"
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != manifest.digest:
        raise StoreError(f"{path} is damaged: its SHA-256 is not that of the manifest")
    ids, labels, texts = [], {}, []
    with path.open(encoding="utf-8") as file:
        for index, line in enumerate(file):
            record = json.loads(line)
            ids.append(record["id"])
            texts.append(record["text"])
            for name, value in record["labels"].items():
                if name not in labels:  # not setdefault, which would make a column for every line
                    labels[name] = [None] * manifest.samples
                labels[name][index] = value
    return Columns(np.array(ids), labels, texts)
