"""Commands on arrays, as a user types them: tables, files, JSON, and errors with exit code 2."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from gmijax import cli


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(120) % 3)
    states = rng.normal(size=(3, 6))[labels] + rng.normal(size=(120, 6))
    np.savez(folder / "states.npz", early=rng.normal(size=(120, 6)), late=states)
    np.save(folder / "labels.npy", labels)
    np.save(folder / "modal.npy", states)
    np.save(folder / "text.npy", rng.normal(size=(120, 6)))
    np.save(folder / "scores.npy", np.eye(3)[labels] + rng.normal(size=(120, 3)))
    return folder


def run(*arguments):
    return CliRunner().invoke(cli.app, list(map(str, arguments)))


@pytest.mark.slow
def test_ladder_writes_what_people_and_scripts_read(files, tmp_path):
    names = (files / "scores.npy", files / "states.npz", files / "labels.npy")
    done = run("ladder", *names, "--folds", 3, "--title", "colour", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "best linear probe over layers" in done.output
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".svg", ".png"}
    result = json.loads((tmp_path / "ladder.json").read_text())
    assert list(result["rungs"]) == ["decoder", "gmi", "lm_rate", "read_out", "final_probe", "best_probe", "entropy"]
    assert result["layers"]["names"] == ["early", "late"]
    assert result["rungs"]["entropy"]["value"] == pytest.approx(np.log(3), rel=1e-5)


def test_probe_prints_json(files, tmp_path):
    done = run("probe", f"{files / 'states.npz'}:late", files / "labels.npy", "--json", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    result = json.loads(done.output)
    late = result["layers"]["late"]
    assert late["accuracy"]["value"] > 0.6
    assert np.shape(late["predictions"]) == (5, 120)


def test_modes_and_distance(files, tmp_path):
    labels = files / "labels.npy"
    done = run("modes", files / "modal.npy", files / "text.npy", "--top", 4, "--labels", labels, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    result = json.loads((tmp_path / "modes.json").read_text())
    assert len(result["eigenvalues"]) == 4
    assert 0 <= result["modality_specific"]["share"] <= 1
    assert (tmp_path / "modes.svg").exists()
    done = run("distance", files / "text.npy", files / "modal.npy", "--name", "energy", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "distance.json").read_text())["distances"]["energy"]
    assert found["lower"] <= found["value"] <= found["upper"]
    assert 0 < found["p_value"] <= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("distance", "{}/text.npy", "{}/modal.npy", "--name", "hamming"), "--name hamming is not known"),
        (("distance", "{}/nothing.npy", "{}/modal.npy"), "nothing.npy does not exist"),
        (("probe", "{}/states.npz", "{}/modal.npy"), "labels"),
        (("ladder", "{}/scores.npy", "{}/states.npz:none", "{}/labels.npy"), "holds no array 'none'"),
        (("modes", "{}/states.npz", "{}/text.npy"), "say which"),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_one_line(files, monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["gmijax", *(part.format(files) for part in arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
