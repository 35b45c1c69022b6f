"""Opening a checkpoint: what it says about its model, and its tensors one at a time."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from gmijax.checkpoints._errors import CheckpointError

ORBAX_FILE = "gmijax.json"
_CTRANSLATE2 = "model.bin"


@runtime_checkable
class WeightSource(Protocol):
    """Tensors by their HuggingFace key, read one at a time.

    `problems` says what is wrong with the files themselves, and `lost` names the keys that they promise and
    do not give; both are empty in a sound checkpoint.
    """

    problems: tuple[str, ...]
    lost: frozenset[str]

    def keys(self) -> Collection[str]:
        """The keys that can be read."""
        ...

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor as HuggingFace stores it: (out, in) for a linear layer. Reads no data."""
        ...

    def read(self, key: str) -> np.ndarray:
        """Reads one tensor from disk, in a floating-point type; nothing is kept.

        Raises:
          CheckpointError: if the tensor cannot be read or is not of a floating-point type.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; no weights have been read yet.

    Attributes:
      path: the folder or file.
      kind: "safetensors", "torch", "gguf" or "ctranslate2".
      config: what HuggingFace's `config.json` holds, or the same written from what the file says of its model.
      weights: the tensors.
    """

    path: Path
    kind: Literal["safetensors", "torch", "gguf", "ctranslate2"]
    config: dict[str, Any]
    weights: WeightSource


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint and checks that its files are whole. Reads headers only.

    Args:
      path: a folder with `config.json` and weights: `model.safetensors`, or `model.safetensors.index.json` and the
        shards that it names, or `pytorch_model.bin` in one file or in shards, or Prismatic's
        `checkpoints/latest-checkpoint.pt`; or a `.gguf` file of the llama or qwen2 architecture; or CTranslate2's
        `model.bin` of a Whisper, or its folder.

    Returns:
      The checkpoint. Its keys and shapes have not been compared with any model: `load_model` does that.

    Raises:
      CheckpointError: if something is absent, cut short, unreadable, or held twice; it lists all that is.
    """
    checkpoint = scan_checkpoint(path)
    if checkpoint.weights.problems:
        raise CheckpointError(checkpoint.path, checkpoint.weights.problems)
    return checkpoint


def scan_checkpoint(path: str | Path) -> Checkpoint:
    """As `open_checkpoint`, but leaves the problems of single shards in `weights.problems`.

    Raises:
      CheckpointError: if so much is wrong that no tensor can be named.
    """
    path = Path(path)
    if path.name == _CTRANSLATE2 and path.is_file():
        return _scan_ctranslate2(path)
    if path.is_dir():
        from gmijax.checkpoints._safetensors import SafetensorsWeights, read_json

        if (path / _CTRANSLATE2).exists() and not SafetensorsWeights.holds(path):
            return _scan_ctranslate2(path / _CTRANSLATE2)
        kind, weights = _open_folder(path)
        try:
            config = read_json(path / "config.json")
        except CheckpointError as error:
            raise CheckpointError(path, [*error.problems, *weights.problems]) from error
        return Checkpoint(path, kind, config, weights)
    if not path.exists():
        raise CheckpointError(path, ["no such file or folder"])
    if path.suffix != ".gguf":
        raise CheckpointError(path, ["not a folder, not a .gguf file and not a model.bin; only those can be read"])
    from gmijax.checkpoints._gguf import GGUFWeights, hf_config, read_gguf

    content = read_gguf(path)
    config = hf_config(content)
    return Checkpoint(path, "gguf", config, GGUFWeights(content, config))


def is_orbax(path: Path) -> bool:
    """Whether a folder is one that `convert` wrote."""
    return (path / ORBAX_FILE).is_file()


def _scan_ctranslate2(file: Path) -> Checkpoint:
    from gmijax.checkpoints._ctranslate2 import CTranslate2Weights, hf_config, read_ctranslate2

    content = read_ctranslate2(file)
    return Checkpoint(file, "ctranslate2", hf_config(content), CTranslate2Weights(content))


def open_weights(path: Path) -> WeightSource:
    """The tensors of a folder or of one file, whatever model they belong to. Reads headers only.

    Raises:
      CheckpointError: if so much is wrong that no tensor can be named.
    """
    from gmijax.checkpoints._safetensors import SafetensorsWeights
    from gmijax.checkpoints._torch import TorchWeights

    if path.is_dir():
        return _open_folder(path)[1]
    if not path.exists():
        raise CheckpointError(path, ["no such file or folder"])
    if path.suffix == ".safetensors":
        return SafetensorsWeights(path)
    if path.suffix in (".bin", ".pt", ".pth"):
        return TorchWeights(path.parent, [(path, ())])
    raise CheckpointError(path, ["not a folder and not a .safetensors, .bin or .pt file"])


def _open_folder(folder: Path) -> tuple[Literal["safetensors", "torch"], WeightSource]:
    from gmijax.checkpoints._safetensors import SafetensorsWeights
    from gmijax.checkpoints._torch import TorchWeights, open_torch_folder

    prismatic = folder / "checkpoints" / "latest-checkpoint.pt"
    if prismatic.exists():
        return "torch", TorchWeights(folder, [(prismatic, ("model",))])
    if not SafetensorsWeights.holds(folder) and (weights := open_torch_folder(folder)) is not None:
        return "torch", weights
    return "safetensors", SafetensorsWeights(folder)
