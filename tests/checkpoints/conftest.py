import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="session")
def llama31() -> Path:
    return FIXTURES / "llama31"


@pytest.fixture
def config(llama31) -> dict:
    return json.loads((llama31 / "config.json").read_text())


@pytest.fixture
def tensors(llama31) -> dict[str, np.ndarray]:
    return load_file(llama31 / "model.safetensors")


@pytest.fixture
def write_folder(tmp_path, config) -> Callable[..., Path]:
    """Writes shards (one: a single file; more: with an index) and the config to a new folder."""

    def write(*shards: dict[str, np.ndarray], config: dict = config, index: dict[str, str] | None = None) -> Path:
        folder = tmp_path / f"checkpoint{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        if len(shards) == 1 and index is None:
            save_file(shards[0], folder / "model.safetensors")
            return folder
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        for name, shard in zip(names, shards, strict=True):
            save_file(shard, folder / name)
        if index is None:
            index = {key: name for name, shard in zip(names, shards, strict=True) for key in shard}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
        return folder

    return write


@pytest.fixture
def write_gguf(tmp_path) -> Callable[..., Path]:
    """Writes a GGUF file of any metadata and tensors; a tensor is an array, or (bytes, type) if quantised."""

    def write(fields: dict, tensors: dict | None = None, architecture: str = "llama") -> Path:
        path = tmp_path / f"model{len(list(tmp_path.iterdir()))}.gguf"
        writer = gguf.GGUFWriter(path, architecture)
        for key, value in fields.items():
            kind = gguf.GGUFValueType.get_type(value)
            element = gguf.GGUFValueType.get_type(value[0]) if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, value, kind, element)
        for name, tensor in (tensors or {}).items():
            array, raw = tensor if isinstance(tensor, tuple) else (tensor, None)
            writer.add_tensor(name, array, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture(scope="session")
def smollm2() -> Path:
    from gmijax.checkpoints import bundled_decoder

    try:
        return bundled_decoder()
    except FileNotFoundError as error:
        pytest.skip(str(error))


MEASURE = """
    import json, sys
    import jax, jax.numpy as jnp, numpy as np
    from flax import nnx
    from gmijax.checkpoints import load_model

    def resident(name):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(name))

    load_model(sys.argv[1])  # imports, compilers and thread pools are no part of the measure
    before = resident("VmRSS")
    model = load_model(sys.argv[2], dtype=jnp.dtype(sys.argv[3]))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model)))
    grown = resident("VmHWM") - before
    logits = np.asarray(model(jnp.arange(8)[None]).logits, np.float32)
    print(json.dumps([grown, size, [*logits.shape, float(logits.std())]]))
"""


@pytest.fixture
def measure_loading(llama31, run_program) -> Callable[..., list]:
    """Loads a folder in a process of its own: by how many bytes it grew at most, those of the weights, and the shape
    and spread of the logits of 8 tokens."""
    return lambda folder, dtype="float32": json.loads(run_program(MEASURE, llama31, folder, dtype))
