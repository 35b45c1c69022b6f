"""A name for the weights of a model that depends on nothing but their files."""

import hashlib
import json
from pathlib import Path

from gmijax.checkpoints._errors import CheckpointError
from gmijax.checkpoints._source import is_orbax

_SUFFIXES = (".bin", ".gguf", ".pt", ".pth", ".safetensors")
_PARTS = ("text_model_id", "audio_model_id")  # of a config, where other parts of a composed model lie


def digest(path: str | Path, *, text_model: str | Path | None = None, encoder_model: str | Path | None = None) -> str:
    """SHA-256 over the files of a checkpoint's weights, read once and never held.

    Of one file it is that file's, of several that of what `sha256sum` prints of them in the order of their names. The
    same files give the same digest wherever they lie; the same weights in another format, or cut into other shards,
    give another.

    Args:
      path: what `load_model` takes.
      text_model: as `load_model`.
      encoder_model: as `load_model`.

    Raises:
      CheckpointError: if a path does not exist or holds no weights.
    """
    digests = []
    for root in _roots(Path(path), text_model, encoder_model):
        for file in _files(root):
            with file.open("rb") as stream:
                own = hashlib.file_digest(stream, "sha256").hexdigest()
            digests.append((file.relative_to(root).as_posix() if root.is_dir() else file.name, own))
    if len(digests) == 1:
        return digests[0][1]
    return hashlib.sha256("".join(f"{own}  {name}\n" for name, own in digests).encode()).hexdigest()


def _roots(path: Path, *parts: str | Path | None) -> list[Path]:
    roots = [path, *(Path(part) for part in parts if part is not None)]
    config = path / "config.json"
    if config.is_file():
        named = json.loads(config.read_text("utf-8"))
        roots += [path / str(named[key]) for key in _PARTS if named.get(key) and (path / str(named[key])).exists()]
    return roots


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    everything = is_orbax(root)
    files = [
        file
        for file in sorted(root.rglob("*"), key=lambda file: file.relative_to(root).as_posix())
        if file.is_file() and (everything or file.suffix in _SUFFIXES)
    ]
    if not files:
        raise CheckpointError(root, ["holds no weights" if root.exists() else "no such file or folder"])
    return files
