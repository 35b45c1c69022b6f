"""SmolLM2-135M: scoring tokens, and the gradient of a loss in soft tokens, beside transformers on torch.

Run: python benchmarks/decoder.py PYTHON, that of an environment with torch and transformers. Both sides are float32, on
one core and one thread, or on two with CORES=2 in the environment; the weights are those of the packaged file, written
for the peer as safetensors.
"""

from _bench import Row, measure, report  # first: it pins the process

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from gmijax import checkpoints
from gmijax.models import Llama, LlamaConfig
from gmijax.scoring import next_token_loss

ROWS, TOKENS, REPEATS = 4, 128, 5


def main(torch_python: str) -> None:
    source = checkpoints.open_checkpoint(checkpoints.bundled_decoder())
    graph, state = nnx.split(checkpoints.load_model(checkpoints.bundled_decoder()))
    ids = np.random.default_rng(0).integers(0, source.config["vocab_size"], (ROWS, TOKENS))
    with tempfile.TemporaryDirectory() as folder:
        tensors = {key: source.weights.read(key).astype(np.float32) for key in source.weights.keys()}  # noqa: SIM118
        save_file(tensors, Path(folder) / "model.safetensors", metadata={"format": "pt"})
        (Path(folder) / "config.json").write_text(json.dumps(source.config))
        np.save(Path(folder) / "ids.npy", ids)
        command = [
            torch_python,
            str(Path(__file__).parent / "_torch_peer.py"),
            folder,
            f"{folder}/ids.npy",
            str(REPEATS),
        ]
        peer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    @jax.jit
    def score(state):
        return next_token_loss(nnx.merge(graph, state)(ids).logits, ids)

    @jax.jit
    def gradient(state, soft):
        return jax.grad(lambda z: next_token_loss(nnx.merge(graph, state)(soft_tokens=z).logits, ids))(soft)

    soft = nnx.merge(graph, state).embed_tokens(ids)
    ours = {
        "score": measure(lambda: score(state), REPEATS),
        "gradient": measure(lambda: gradient(state, soft), REPEATS),
    }
    errors = {
        "score": abs(float(score(state)) - peer["loss"]),
        "gradient": abs(float(jnp.linalg.norm(gradient(state, soft))) - peer["norm"]) / peer["norm"],
    }
    rows = [
        Row(
            f"{name}, {ROWS * TOKENS / timing.seconds:.0f} tokens/s",
            *(timing.seconds, f"transformers, torch {peer['torch']}, {ROWS * TOKENS / peer[name]:.0f} tokens/s"),
            *(peer[name], peer[name] / timing.seconds, errors[name], timing.first, "", "float32 / float32"),
        )
        for name, timing in ours.items()
    ]
    report(f"SmolLM2-135M, {ROWS} rows of {TOKENS} tokens", rows, "benchmark_decoder.json")
    compile_time()


def compile_time() -> None:
    """How long a stack of 32 layers takes to compile, and one of 4: the scan makes them alike."""
    print("\n| layers | tracing, s | compiling, s |\n|---|---|---|")
    for layers in (4, 32):
        config = LlamaConfig(32000, 4096, 11008, layers, 32, 32, 128)
        graph, state = nnx.split(nnx.eval_shape(lambda c=config: Llama(c, rngs=nnx.Rngs(0))))
        start = time.process_time()
        lowered = jax.jit(lambda s, x, g=graph: nnx.merge(g, s)(x).logits).lower(
            state, jax.ShapeDtypeStruct((1, 128), jnp.int32)
        )
        traced = time.process_time()
        lowered.compile()
        print(f"| {layers} | {traced - start:.2f} | {time.process_time() - traced:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1])
