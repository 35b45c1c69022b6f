"""`gmijax store ...`, and the commands on arrays when they are given stores."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from gmijax import cli, store
from gmijax._arrays import load_array, load_arrays


def run(*arguments):
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


def test_info(make):
    opened = make(failed=(3,), without=(5,), dtype="bfloat16")
    done = run("store", "info", opened.path)
    assert done.exit_code == 0, done.output
    for part in (
        "19 of 23 samples have states, 1 failed, 1 chunks pending",
        "19 x 7",
        "age, speaker",
        "1: broken file",
    ):
        assert part in done.output
    found = json.loads(run("store", "info", opened.path, "--json").output)
    assert found["hook_points"] == {"encoder_output": [19, 5], "llm_final": [19, 7]}
    assert found["failed"] == {"s00003": "broken file"}
    assert found["pending_chunks"] == [5]
    assert not found["complete"]


def test_verify(make):
    opened = make()
    assert run("store", "verify", opened.path).output == "6 of 6 chunks are committed and sound, 0 are damaged\n"
    path = opened.path / "states/llm_final/000003/c/0/0"
    path.write_bytes(path.read_bytes()[:-1])
    done = run("store", "verify", opened.path, "--forget")
    assert done.exit_code == 1
    assert "chunk 3: the file of 'llm_final' has" in done.output
    assert run("store", "verify", opened.path).exit_code == 0
    assert store.open(opened.path).pending == (3,)


def test_merge_and_export(make, tmp_path):
    first, second = make("a", without=(1,)), make("b", without=(0, 2))
    done = run("store", "merge", first.path, second.path, "--out", tmp_path / "m")
    assert done.output == f"23 samples in {tmp_path / 'm'}, 0 failed, 0 chunks pending\n"
    assert run("store", "export", tmp_path / "m", tmp_path / "m.npz").exit_code == 0
    with np.load(tmp_path / "m.npz") as found:
        np.testing.assert_array_equal(found["llm_final"], make("w").numpy("llm_final"))


def test_arrays_of_stores(make):
    opened = make(dtype="bfloat16")
    found = load_array(f"{opened.path}:llm_final")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, opened.numpy("llm_final").astype(np.float32))
    assert sorted(load_arrays(str(opened.path))) == ["encoder_output", "llm_final"]
    np.testing.assert_array_equal(load_array(f"{opened.path}:age"), np.arange(23) % 7)
    np.testing.assert_array_equal(load_array(f"{opened.path}:speaker"), np.arange(23) % 3)
    with pytest.raises(
        ValueError, match="no hook point or label 'logits', but encoder_output, llm_final, age, speaker"
    ):
        load_array(f"{opened.path}:logits")


def test_commands_take_stores(make, tmp_path):
    opened = make(count=120, size=32)
    path = opened.path
    np.save(tmp_path / "x.npy", opened.numpy("llm_final"))
    found = []
    for source in (f"{path}:llm_final", tmp_path / "x.npy"):
        done = run("distance", source, tmp_path / "x.npy", "--name", "energy", "--out", tmp_path, "--json")
        assert done.exit_code == 0, done.output
        found.append(json.loads(done.output)["distances"])
    assert found[0] == found[1]
    done = run("probe", path, f"{path}:speaker", "--out", tmp_path, "--json")
    assert done.exit_code == 0, done.output
    assert sorted(json.loads(done.output)["layers"]) == ["encoder_output", "llm_final"]
