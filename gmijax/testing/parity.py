"""Compares ported models with recorded outputs of their originals.

    python -m gmijax.testing.parity FOLDER...

A folder holds a checkpoint, `inputs.safetensors` (what the original was called with), and `expected.safetensors` (what
it gave): tensors over tokens, of shape (batch, length, ...), the scalar `loss`, and `valid_mask`, of shape (batch,
length), which is 1 where tensors over tokens are to be compared. Names are our hook points, and `logits`.
A `config.v5.json` beside `config.json` holds the same config in the naming of transformers 5.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int
from safetensors.numpy import load_file

from gmijax.checkpoints import load_model
from gmijax.checkpoints._registry import find_family
from gmijax.checkpoints._safetensors import read_json
from gmijax.checkpoints._source import open_checkpoint
from gmijax.models import Llama

TOLERANCE = 1e-4


class Parity(NamedTuple):
    """How far a port is from its original on one folder.

    Attributes:
      folder: the folder.
      differences: the largest absolute difference of each expected tensor.
      errors: what could not be compared, in words.
      tolerance: the largest difference that passes.
    """

    folder: str
    differences: dict[str, float]
    errors: list[str]
    tolerance: float

    @property
    def worst(self) -> float:
        """The largest difference; NaN if nothing was compared."""
        return max(self.differences.values(), default=float("nan"))

    @property
    def passed(self) -> bool:
        """Whether everything was compared and lies within the tolerance."""
        return not self.errors and self.worst <= self.tolerance


def check_folder(folder: str | Path, *, tolerance: float = TOLERANCE) -> Parity:
    """Loads the checkpoint in float32, runs it on the recorded inputs and compares with the recorded outputs.

    Args:
      folder: see the module.
      tolerance: the largest absolute difference that passes.

    Returns:
      The differences; what cannot be read or run is in `errors`, and is not raised.
    """
    differences, errors = {}, []
    if not Path(folder).is_dir():
        return Parity(str(folder), differences, ["no such folder"], tolerance)
    try:
        errors += _config_differences(Path(folder))
        inputs = load_file(Path(folder) / "inputs.safetensors")
        expected = load_file(Path(folder) / "expected.safetensors")
        if "loss" in expected and expected["loss"].size == 1:
            expected["loss"] = expected["loss"].reshape(())  # stored as () or as (1,)
        valid = expected.pop("valid_mask", None)
        with jax.default_matmul_precision("highest"):
            found = _run(load_model(folder), inputs, expected)
        for name, reference in expected.items():
            if name not in found:
                errors.append(f"{name}: expected, but this model cannot produce it from these inputs")
            elif found[name].shape != reference.shape:
                errors.append(f"{name}: has shape {found[name].shape}, expected {reference.shape}")
            else:
                differences[name] = _largest_difference(found[name], reference, valid)
        if not expected:
            errors.append("expected.safetensors holds nothing to compare")
    except Exception as error:  # noqa: BLE001 - whatever fails in one folder, the others are still compared
        errors.append(f"{type(error).__name__}: {error}")
    return Parity(str(folder), differences, errors, tolerance)


def _config_differences(folder: Path) -> list[str]:
    """Whether config.json and config.v5.json, if there is one, resolve to the same config."""
    if not (folder / "config.v5.json").exists():
        return []
    family = find_family(open_checkpoint(folder))
    old, new = (family.config.from_hf(read_json(folder / name)) for name in ("config.json", "config.v5.json"))
    return [
        f"{name} is {value!r} by config.json and {getattr(new, name)!r} by config.v5.json"
        for name, value in vars(old).items()
        if value != getattr(new, name)
    ]


def _largest_difference(found: np.ndarray, reference: np.ndarray, valid: np.ndarray | None) -> float:
    difference = np.abs(found.astype(np.float64) - reference.astype(np.float64))
    if valid is not None and difference.shape[: valid.ndim] == valid.shape:
        difference = difference[valid.astype(bool)]
    largest = float(np.max(difference, initial=0.0))
    return float("inf") if np.isnan(largest) else largest


def _run(model: nnx.Module, inputs: dict[str, np.ndarray], names: Iterable[str]) -> dict[str, np.ndarray]:
    """Runs the model as its class is run, for those of the names that it can produce."""
    for kind, run in _RUNNERS.items():
        if isinstance(model, kind):
            return {name: np.asarray(value, np.float32) for name, value in run(model, inputs, set(names)).items()}
    known = ", ".join(kind.__name__ for kind in _RUNNERS)
    raise TypeError(f"no way is known to run a {type(model).__name__}, only {known}")


def _run_llama(model: Llama, inputs: dict[str, np.ndarray], names: set[str]) -> dict[str, Array]:
    unknown = inputs.keys() - {"input_ids", "attention_mask", "labels"}
    if unknown:
        raise ValueError(f"inputs.safetensors holds {', '.join(sorted(unknown))}, which a Llama is not called with")
    if "input_ids" not in inputs:
        raise ValueError("inputs.safetensors holds no input_ids")
    mask = inputs.get("attention_mask")
    output = model(
        jnp.asarray(inputs["input_ids"], jnp.int32),
        attention_mask=None if mask is None else jnp.asarray(mask, jnp.int32),
        hook_points=[name for name in model.hook_points if name in names],
    )
    assert output.logits is not None
    found = {**output.hidden_states, "logits": output.logits}
    if "labels" in inputs:
        found["loss"] = _next_token_loss(output.logits, jnp.asarray(inputs["labels"], jnp.int32))
    return found


def _next_token_loss(
    logits: Float[Array, "batch length vocabulary"], labels: Int[Array, "batch length"]
) -> Float[Array, ""]:
    """Mean cross-entropy in nats of the next label, over all that are not -100."""
    targets = labels[:, 1:]
    counted = targets != -100
    log_p = jax.nn.log_softmax(logits[:, :-1].astype(jnp.float32))
    chosen = jnp.take_along_axis(log_p, jnp.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    return -jnp.sum(chosen, where=counted) / jnp.sum(counted)


_RUNNERS: dict[type[nnx.Module], Callable] = {Llama: _run_llama}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, 0 only if every folder passes."""
    parser = argparse.ArgumentParser(
        prog="python -m gmijax.testing.parity",
        description="Compare ported models with recorded outputs of their originals.",
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="checkpoint with inputs and expected tensors")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="largest absolute difference that passes (%(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list, an object per folder")
    options = parser.parse_args(arguments)

    results = []
    for folder in options.folders:
        result = check_folder(folder, tolerance=options.tolerance)
        results.append(result)
        if not options.json:
            print(_in_words(result), flush=True)
    if options.json:
        print(json.dumps([_as_json(result) for result in results], indent=2))
    return 0 if all(result.passed for result in results) else 1


def _as_json(result: Parity) -> dict[str, Any]:
    """The result with null for what JSON has no number for: a worst or a difference that is not finite."""

    def finite(value: float) -> float | None:
        return value if np.isfinite(value) else None

    differences = {name: finite(value) for name, value in result.differences.items()}
    return {**result._asdict(), "differences": differences, "worst": finite(result.worst), "passed": result.passed}


def _in_words(result: Parity) -> str:
    width = max(map(len, result.differences), default=0)
    lines = [f"  {name:<{width}}  {value:.2e}" for name, value in result.differences.items()]
    lines += [f"  error: {error}" for error in result.errors]
    verdict = "passed" if result.passed else "FAILED"
    worst = f"worst {result.worst:.2e}" if result.differences else "nothing compared"
    lines.append(f"{result.folder}: {worst}, tolerance {result.tolerance:.0e}: {verdict}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
