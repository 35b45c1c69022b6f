"""Compares ported models with recorded outputs of their originals.

    python -m gmijax.testing.parity FOLDER...

A folder holds a checkpoint, `inputs.safetensors` (what the original was called with), and `expected.safetensors` (what
it gave). Names are our hook points (`vision_hidden_i`, `vision_block_i` and `vision_features` are understood too), and
  - `logits`, and the scalar `loss`: the mean next-token cross-entropy over all labels that are not -100;
  - `grad_adapter_output`: its gradient with respect to `adapter_output`;
  - `fused_labels`: the labels at their columns of the merged sequence;
  - `valid_mask`, of shape (batch, length), which is 1 where `logits` and the states of the decoder are to be compared.
A `config.v5.json` beside `config.json` holds the same config in the naming of transformers 5.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array
from safetensors.numpy import load_file

from gmijax.checkpoints import load_model
from gmijax.checkpoints._load import resolve
from gmijax.checkpoints._safetensors import read_json
from gmijax.models import Composed, Llama, ViT, WhisperEncoder
from gmijax.scoring import next_token_loss

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


def check_folder(folder: str | Path, *, tolerance: float = TOLERANCE, dtype: str = "float32") -> Parity:
    """Loads the checkpoint, runs it on the recorded inputs and compares with the recorded outputs.

    Args:
      folder: see the module.
      tolerance: the largest absolute difference that passes.
      dtype: of the parameters and the activations.

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
            found = _run(load_model(folder, dtype=dtype), inputs, expected)
        for name, reference in expected.items():
            if name not in found:
                errors.append(f"{name}: expected, but this model cannot produce it from these inputs")
            elif found[name].shape != reference.shape:
                errors.append(f"{name}: has shape {found[name].shape}, expected {reference.shape}")
            else:
                over_text = name in ("inputs_embeds", "logits") or name.startswith("llm_")
                differences[name] = _largest_difference(found[name], reference, valid if over_text else None)
        if not expected:
            errors.append("expected.safetensors holds nothing to compare")
    except Exception as error:  # noqa: BLE001 - whatever fails in one folder, the others are still compared
        errors.append(f"{type(error).__name__}: {error}")
    return Parity(str(folder), differences, errors, tolerance)


def _config_differences(folder: Path) -> list[str]:
    """Whether config.json and config.v5.json, if there is one, resolve to the same config."""
    if not (folder / "config.v5.json").exists():
        return []
    old = resolve(folder)[-1]
    new = resolve(folder, config=read_json(folder / "config.v5.json"))[-1]
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
    text = _take_text(model, inputs)
    labels = text.pop("labels", None)
    output = model(**text, hook_points=[name for name in model.hook_points if name in names])
    assert output.logits is not None
    found = {**output.hidden_states, "logits": output.logits}
    if labels is not None:
        found["loss"] = next_token_loss(output.logits, labels)
    return found


def _run_composed(model: Composed, inputs: dict[str, np.ndarray], names: set[str]) -> dict[str, Array]:
    text = _take_text(model, inputs, model.Media._fields)
    labels = text.pop("labels", None)
    given = {name: jnp.asarray(inputs[name]) for name in model.Media._fields if name in inputs}
    media = model.Media(**given) if given else None
    places = {name: _hook_point(name) for name in names if _hook_point(name) in model.hook_points}
    output = model(**text, media=media, hook_points=sorted({*places.values()}))
    assert output.logits is not None
    assert output.layout is not None
    found = {name: output.hidden_states[place] for name, place in places.items()}
    found["logits"] = output.logits
    if labels is None:
        return found
    found["fused_labels"] = output.layout.place_labels(labels)
    found["loss"] = next_token_loss(output.logits, found["fused_labels"])
    if media is not None and "grad_adapter_output" in names:

        def loss(soft_tokens):
            result = model(**text, media=media, soft_tokens=soft_tokens)
            assert result.logits is not None
            assert result.layout is not None
            return next_token_loss(result.logits, result.layout.place_labels(labels))

        found["grad_adapter_output"] = jax.grad(loss)(model.soft_tokens(media).values)
    return found


def _take_text(model: nnx.Module, inputs: dict[str, np.ndarray], others: Iterable[str] = ()) -> dict[str, Any]:
    """The inputs that every model has."""
    text = ("input_ids", "attention_mask", "labels")
    unknown = inputs.keys() - {*text, *others}
    kind = type(model).__name__
    if unknown:
        raise ValueError(f"inputs.safetensors holds {', '.join(sorted(unknown))}, which a {kind} is not called with")
    if "input_ids" not in inputs:
        raise ValueError("inputs.safetensors holds no input_ids")
    return {name: jnp.asarray(inputs[name], jnp.int32) for name in text if name in inputs}


def _hook_point(name: str) -> str:
    """Our name of a place that the fixtures name as transformers or timm count."""
    if name == "vision_features":
        return "adapter_input"
    if name == "vision_hidden_0":
        return "encoder_inputs"
    if hidden := re.fullmatch(r"vision_hidden_(\d+)", name):
        return f"encoder_hidden_{int(hidden[1]) - 1}"
    return re.sub(r"^vision_block_(\d+)$", r"encoder_hidden_\1", name)


def _run_encoder(model: ViT | WhisperEncoder, inputs: dict[str, np.ndarray], names: set[str]) -> dict[str, Array]:
    argument = "pixel_values" if isinstance(model, ViT) else "input_features"
    unknown, kind = inputs.keys() ^ {argument}, type(model).__name__
    if unknown:
        raise ValueError(
            f"inputs.safetensors differs by {', '.join(sorted(unknown))} from what a {kind} is called with"
        )
    return model(inputs[argument], hook_points=[name for name in model.hook_points if name in names])


_RUNNERS: dict[type[nnx.Module], Callable] = {
    Llama: _run_llama,
    Composed: _run_composed,
    ViT: _run_encoder,
    WhisperEncoder: _run_encoder,
}


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
