"""Records how far the ports are from their originals, per model, tensor and type.

    python -m gmijax.testing.parity_report FOLDER... --table docs/parity.md --json gmijax/data/parity.json

The folders are those of `gmijax.testing.parity`. The table is for people; `gmijax models` reads the JSON.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from gmijax.checkpoints._load import resolve
from gmijax.models import LlamaConfig
from gmijax.report import to_json, write_text
from gmijax.testing.parity import check_folder

_DTYPES = ("float32", "bfloat16")
_ORDER = ("encoder", "encoder_output", "adapter_input", "adapter_output", "inputs_embeds", "layers", "llm_final")
_HEADER = """\
# Parity with the originals

Written by `python -m gmijax.testing.parity_report`. Every folder holds a checkpoint of random weights, and what the
original implementation gave for it in float32. For each tensor: the largest absolute difference of the port, and in
brackets its share of the tensor's largest value. In float32 the matrix products are exact to float32; in bfloat16 both
parameters and activations are, and the difference is that of the type. `encoder` stands for the input and the output of
every block of the encoder, `layers` for the output of every layer of the decoder.
"""


def record(folder: Path, dtype: str) -> dict[str, Any]:
    """The differences of one folder, those of layers as their largest.

    Raises:
      ValueError: if something could not be compared.
    """
    result = check_folder(folder, dtype=dtype)
    if result.errors:
        raise ValueError(f"{folder}: {'; '.join(result.errors)}")
    expected = load_file(folder / "expected.safetensors")
    tensors: dict[str, dict[str, float]] = {}
    for name, difference in result.differences.items():
        group, scale = _group(name), float(np.abs(expected[name]).max())
        if group == "fused_labels":
            continue
        entry = {"difference": difference, "share": difference / scale}
        tensors[group] = max(tensors.get(group, entry), entry, key=lambda e: e["share"])
    return {"folder": folder.name, "model": _model(folder), "dtype": dtype, "tensors": tensors}


def _group(name: str) -> str:
    if re.match(r"(vision_(hidden|block)_|encoder_hidden_)\d+$", name) or name == "encoder_inputs":
        return "encoder"
    if name == "vision_features":
        return "adapter_input"
    return "layers" if name.startswith("llm_hidden_") else name


def _model(folder: Path) -> str:
    _, family, config = resolve(folder)
    name = family.read_config.__module__.rpartition(".")[2]
    return "llama (qwen2)" if isinstance(config, LlamaConfig) and config.qkv_bias else name


def table(records: Sequence[dict[str, Any]]) -> str:
    """The records as Markdown."""
    lines = [_HEADER]
    for folder in dict.fromkeys(row["folder"] for row in records):
        rows = {row["dtype"]: row for row in records if row["folder"] == folder}
        names = {name for row in rows.values() for name in row["tensors"]}
        lines += [f"## {folder} ({next(iter(rows.values()))['model']})", ""]
        lines += [f"| tensor | {' | '.join(rows)} |", f"|---|{'---|' * len(rows)}"]
        for name in sorted(names, key=lambda n: (_ORDER.index(n) if n in _ORDER else len(_ORDER), n)):
            cells = [row["tensors"][name] for row in rows.values()]
            cells = " | ".join(f"{cell['difference']:.1e} ({cell['share']:.1e})" for cell in cells)
            lines.append(f"| {name} | {cells} |")
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m gmijax.testing.parity_report", description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--table", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--json", type=Path, required=True, help="JSON file to write")
    options = parser.parse_args(arguments)
    records = [record(folder, dtype) for folder in options.folders for dtype in _DTYPES]
    write_text(options.table, table(records))
    write_text(options.json, to_json(records))
    return 0


if __name__ == "__main__":
    sys.exit(main())
