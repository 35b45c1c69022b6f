import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gmijax.checkpoints import load_model
from gmijax.cli import app
from gmijax.models import Llama, catalogue
from gmijax.testing import parity_report

TINY = Path(__file__).parent / "fixtures" / "tiny"


def test_models_are_listed():
    done = CliRunner().invoke(app, ["models"])
    assert done.exit_code == 0
    for word in ("llava-hf/llava-1.5-7b-hf", "adapter_output", "llm_hidden_0..L-1", "float32"):
        assert word in done.stdout
    listed = json.loads(CliRunner().invoke(app, ["models", "--json"]).stdout)
    assert [entry["name"] for entry in listed] == [entry.name for entry in catalogue()]
    recorded = {entry.name: entry.parity for entry in catalogue()}
    for name in ("llama", "llama (qwen2)", "clip", "siglip", "dinov2", "llava", "prismatic"):
        assert 0 < recorded[name]["float32"] < 2e-5 < recorded[name]["bfloat16"], name


def test_a_checkpoint_is_converted(tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["convert", str(TINY / "qwen2"), str(out), "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    assert isinstance(load_model(out), Llama)
    assert isinstance(CliRunner().invoke(app, ["convert", str(TINY / "qwen2"), str(out)]).exception, FileExistsError)
    bad = CliRunner().invoke(app, ["convert", str(TINY / "qwen2"), str(tmp_path / "x"), "--dtype", "int8"])
    assert "int8 is not one of" in str(bad.exception)


@pytest.mark.slow
def test_parity_is_recorded(tmp_path):
    table, data = tmp_path / "parity.md", tmp_path / "parity.json"
    folders = [str(TINY / name) for name in ("qwen2", "clip")]
    assert parity_report.main([*folders, "--table", str(table), "--json", str(data)]) == 0
    rows = json.loads(data.read_text())
    assert [(row["model"], row["dtype"]) for row in rows] == [
        *(("llama (qwen2)", "float32"), ("llama (qwen2)", "bfloat16")),
        *(("clip", "float32"), ("clip", "bfloat16")),
    ]
    assert set(rows[0]["tensors"]) == {"inputs_embeds", "layers", "llm_final", "logits", "loss"}
    assert rows[0]["tensors"]["logits"]["share"] < 1e-5
    assert "## qwen2 (llama (qwen2))" in table.read_text()


def test_parity_that_cannot_be_measured_is_not_recorded(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        parity_report.main([str(tmp_path / "x"), "--table", str(tmp_path / "a"), "--json", str(tmp_path / "b")])
