"""`gmijax extract`, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from gmijax import _extract_command, cli, extraction, report, store

TINY = Path(__file__).parents[1] / "fixtures" / "tiny"


@pytest.fixture
def recordings(tmp_path):
    """A folder of five recordings in two classes, and one file that is none."""
    root = tmp_path / "recordings"
    for k in range(5):
        path = root / ("low", "high")[k % 2] / f"{k}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * np.random.default_rng(k).standard_normal(1600 + 700 * k), 16000)
    (root / "low" / "broken.wav").write_bytes(b"no recording")
    return root


def run(*arguments):
    return CliRunner().invoke(cli.app, ["extract", *map(str, arguments)])


def test_a_folder_becomes_a_store(tmp_path, recordings):
    out = tmp_path / "s"
    arguments = ("folder", recordings, "--model", TINY / "whisper", "--out", out, "--hook-point", "encoder_hidden_0")
    done = run(*arguments, "--pooling", "none", "--dtype", "bfloat16", "--batch-size", 2, "--window", "clip")
    assert done.exit_code == 0, done.output
    assert "6 of 6 samples in " in done.output
    assert f"{out} is complete" in done.output
    assert "without states: 1\n" in done.output
    assert "6 of 6 samples are to be done: an unknown size of states\n" in done.stderr
    assert "broken.wav: cannot be read as audio" in done.output
    opened = store.open(out)
    assert (opened.spec.pooling, opened.spec.dtype, opened.hook_points) == ("none", "bfloat16", ("encoder_hidden_0",))
    assert opened.labels("label").tolist() == ["high", "high", "low", "low", "low"]
    again = run(*arguments, "--pooling", "none", "--dtype", "bfloat16", "--window", "clip", "--json")
    assert again.exit_code == 0, again.output
    found = json.loads(again.stdout)
    assert (found["done"], found["complete"], [*found["failed"]]) == (0, True, ["low/broken.wav"])
    other = run(*arguments, "--pooling", "last", "--window", "clip")
    assert isinstance(other.exception, store.StoreError)


def test_an_estimate_writes_nothing(tmp_path, recordings):
    arguments = ("folder", recordings, "--model", TINY / "whisper", "--out", tmp_path / "s", "--estimate")
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert done.output.startswith("6 of 6 samples are to be done: 384 bytes of states, about ")
    assert not (tmp_path / "s").exists()
    found = json.loads(run(*arguments, "--json", "--limit", 2).output)
    assert (found["samples"], found["rows"]) == (2, 2)


def test_a_long_run_begins_with_an_estimate(tmp_path, recordings, monkeypatch):
    monkeypatch.setattr(_extract_command, "_WORTH_TIMING", 2)
    arguments = ("folder", recordings, "--model", TINY / "whisper", "--out", tmp_path / "s", "--window", "clip")
    assert " samples timed)\n" in run(*arguments, "--batch-size", 2).stderr
    assert run(*arguments, "--batch-size", 2).stderr.startswith("0 of 6 samples are to be done: 0 bytes of states\n")


def test_processes_and_a_limit(tmp_path, recordings):
    arguments = ("folder", recordings, "--model", TINY / "whisper", "--out", tmp_path / "s", "--limit", 2)
    done = run(*arguments, "--process", "1/2", "--batch-size", 2)
    assert "0 of 2 samples" in done.output  # one chunk, which is the other's
    assert "chunks are pending" in done.output
    assert "2 of 2 samples" in run(*arguments, "--process", "0/2", "--batch-size", 2).output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--strict",), "sample 'low/broken.wav': .* cannot be read as audio"),
        (("--hook-point", "llm_final"), "unknown hook_points 'llm_final'; valid are 'encoder_inputs'"),
        (("--window", "long"), "--window 'long' is neither a number of seconds nor 'full' or 'clip'"),
        (("--option", "split"), "--option 'split' is not NAME=VALUE"),
        (("--option", "split=dev"), "folder has no option 'split'"),
        (("--process", "one"), "--process 'one' is not I/N"),
        (("--text",), "text is for language models"),
    ],
)
def test_what_is_wrong_is_said_in_words(tmp_path, recordings, arguments, words):
    done = run("folder", recordings, "--model", TINY / "whisper", "--out", tmp_path / "s", *arguments)
    assert done.exit_code == 1
    with pytest.raises(ValueError, match=words):
        raise done.exception


def test_errors_end_without_a_traceback(tmp_path):
    command = ["extract", "folder", tmp_path / "none", "--model", "no-such-model", "--out", tmp_path / "s"]
    done = subprocess.run(
        [sys.executable, "-m", "gmijax", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("gmijax: ")
    assert "Traceback" not in done.stderr


def test_an_interrupt_says_how_to_go_on(tmp_path, recordings, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "extract", interrupt)
    done = run("folder", recordings, "--model", TINY / "whisper", "--out", tmp_path / "s")
    assert done.exit_code == 130
    assert "what is committed stays" in done.output


def test_a_terminal_shows_the_rate(capfd, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with report.progress_bars() as progress:
        for done in range(4):
            progress("samples", done, 3)
    shown = capfd.readouterr().err
    assert "3/3" in shown
    assert "/s" in shown
    assert "eta" in shown
