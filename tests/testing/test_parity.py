import json
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gmijax.testing import parity

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ["llama31", "llama31_shortrope"]


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(FIXTURES / "llama31", tmp_path / "llama31"))


def rewrite(file: Path, **changes) -> None:
    content = {**load_file(file), **changes}
    save_file({name: tensor for name, tensor in content.items() if tensor is not None}, file)


@pytest.mark.parametrize("name", NAMES)
def test_llama_equals_its_original(name, capsys):
    assert parity.main([str(FIXTURES / name), "--tolerance", "5e-5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    layers = 4 if name == "llama31" else 3
    expected = {"inputs_embeds", "llm_final", "logits", "loss", *(f"llm_hidden_{k}" for k in range(layers))}
    assert {line.split()[0] for line in lines[:-1]} == expected
    assert lines[-1].endswith("passed")


def test_json(capsys, tmp_path):
    assert parity.main(["--json", str(FIXTURES / "llama31"), str(tmp_path)]) == 1
    good, bad = json.loads(capsys.readouterr().out)
    assert good["passed"]
    assert good["worst"] == max(good["differences"].values()) < 1e-4
    assert (bad["passed"], bad["worst"], len(bad["errors"])) == (False, None, 1)


def test_one_perturbed_weight_fails(folder):
    weight = load_file(folder / "model.safetensors")["model.layers.2.mlp.up_proj.weight"]
    weight[0, 0] += 1.0
    rewrite(folder / "model.safetensors", **{"model.layers.2.mlp.up_proj.weight": weight})
    result = parity.check_folder(folder)
    assert not result.passed
    assert not result.errors
    assert result.differences["llm_hidden_1"] < 1e-4 < result.differences["llm_hidden_2"]


def test_bfloat16_shards_are_compared_in_float32(folder):
    tensors = load_file(folder / "model.safetensors")
    rounded = {key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in tensors.items()}
    save_file({key: tensor.astype(np.float32) for key, tensor in rounded.items()}, folder / "model.safetensors")
    reference = parity.check_folder(folder)
    (folder / "model.safetensors").unlink()
    index = {}
    for name, keys in (("a.safetensors", list(rounded)[::2]), ("b.safetensors", list(rounded)[1::2])):
        save_file({key: rounded[key] for key in keys}, folder / name)
        index |= dict.fromkeys(keys, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    assert parity.check_folder(folder).differences == reference.differences


def test_what_cannot_be_compared_fails_by_name(folder):
    rewrite(folder / "expected.safetensors", llm_hidden_9=np.zeros((2, 87, 64), np.float32))
    rewrite(folder / "expected.safetensors", logits=np.zeros((2, 87, 3), np.float32))
    result = parity.check_folder(folder)
    assert not result.passed
    assert result.errors == [
        "llm_hidden_9: expected, but this model cannot produce it from these inputs",
        "logits: has shape (2, 87, 512), expected (2, 87, 3)",
    ]
    rewrite(folder / "inputs.safetensors", labels=None)
    assert any(error.startswith("loss:") for error in parity.check_folder(folder).errors)
    rewrite(folder / "inputs.safetensors", pixel_values=np.zeros(3, np.float32))
    assert "pixel_values" in parity.check_folder(folder).errors[0]


def test_not_a_number_fails(folder):
    logits = load_file(folder / "expected.safetensors")["logits"]
    logits[0, 0, 0] = np.nan
    rewrite(folder / "expected.safetensors", logits=logits)
    result = parity.check_folder(folder)
    assert result.differences["logits"] == np.inf
    assert not result.passed


def test_only_valid_places_are_compared(folder):
    expected = load_file(folder / "expected.safetensors")
    expected["logits"][expected["valid_mask"] == 0] = 1e6
    rewrite(folder / "expected.safetensors", logits=expected["logits"])
    assert parity.check_folder(folder).passed


def test_both_configs_must_say_the_same(folder):
    config = json.loads((folder / "config.v5.json").read_text())
    (folder / "config.v5.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-6}))
    (error,) = parity.check_folder(folder).errors
    assert error == "rms_norm_eps is 1e-05 by config.json and 1e-06 by config.v5.json"


@pytest.mark.slow
def test_command_reports_errors_without_a_traceback(folder, tmp_path):
    (folder / "model.safetensors").write_bytes(b"short")
    command = [
        sys.executable,
        "-m",
        "gmijax.testing.parity",
        str(folder),
        str(tmp_path / "none"),
        str(FIXTURES / NAMES[1]),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "model.safetensors cannot be read" in done.stdout
    assert "no such folder" in done.stdout
    assert done.stdout.rstrip().endswith("passed")
