"""The main job: texts, laws, the command line and its errors, and a real run."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from gmijax import checkpoints, report
from gmijax.validation import _laws, _measure, _texts
from gmijax.validation._channels import run_channels


def words(text):
    """A tokenizer of one token a word."""
    return [abs(hash(word)) % 1000 for word in text.split()]


def test_grammar_is_complete_and_of_one_length():
    texts = _texts.grammar_texts(words, (3, 3, 2, 2))
    assert len(set(texts.texts)) == 36
    assert {len(tokens) for tokens in texts.ids} == {5}
    assert texts.known_law


def test_grammar_chooses_fillers_of_one_length_or_says_so():
    def uneven(text):
        return [1] * sum(2 if word in ("old", "king") else 1 for word in text.split())

    texts = _texts.grammar_texts(uneven, (2, 2, 2, 2))
    assert not any("old" in text or "king" in text for text in texts.texts)
    with pytest.raises(ValueError, match="so unevenly"):
        _texts.grammar_texts(lambda text: [1] * len(text), (8, 2, 2, 2))


def test_shipped_sentences_have_a_source_and_are_enough():
    everything = _texts.file_texts(None, words, 10_000)
    assert len(everything.texts) >= 200
    assert not any(text.startswith("#") for text in everything.texts)
    few = _texts.file_texts(None, words, 12)
    assert len(few.texts) == 12
    assert not few.known_law


@pytest.mark.parametrize("content", ["", "# only a comment\n\n", "One sentence.\n", "Twice.\nTwice.\n"])
def test_sentence_files_that_are_too_short(tmp_path, content):
    path = tmp_path / "few.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"few.txt holds [01] sentences"):
        _texts.file_texts(path, words, 12)


@pytest.mark.parametrize("name", list(_laws.FAMILIES))
def test_laws_shift_more_with_strength_and_leave_padding_alone(name):
    rng = np.random.default_rng(0)
    mask = np.array([[True] * 5, [True] * 3 + [False] * 2])
    z = np.where(mask[..., None], rng.normal(size=(2, 5, 48)), 0)
    family = _laws.FAMILIES[name]
    moved = []
    for strength in family.full:
        law = _laws.Law(name, strength, 2 if family.random else 1)
        blocks = _laws.shift(z, law, mask, seed=3)
        assert blocks.shape == (2 * law.draws, 5, 48)
        assert np.all(blocks[1, 3:] == 0)
        np.testing.assert_array_equal(blocks, _laws.shift(z, law, mask, seed=3))
        moved.append(np.linalg.norm(blocks[:2] - z))
    assert np.all(np.diff(moved) > 0)
    if name == "rotation":
        np.testing.assert_allclose(np.linalg.norm(blocks[0]), np.linalg.norm(z[0]), rtol=1e-6)


def test_rates_of_a_finite_law_are_exact_and_bounded():
    """A decoder that always knows reaches H(Y); one that ignores its input reaches 0; both without an interval."""
    always = _measure.Scored(5 * np.eye(4, dtype=np.float32), np.arange(4), known_law=True)
    ignores = _measure.Scored(np.tile(np.arange(4, dtype=np.float32), (4, 1)), np.arange(4), known_law=True)
    for name in ("gmi_inputs", "gmi_messages", "lm_rate"):
        assert _measure.measure_rates(always)[name]["nats"] == pytest.approx(math.log(4), abs=1e-5)
        assert _measure.measure_rates(ignores)[name]["nats"] == pytest.approx(0, abs=1e-6)
        assert _measure.measure_rates(always)[name]["standard_error"] == 0
    at_one = _measure.information_at(always, 1.0)
    assert at_one["inputs"] == pytest.approx(at_one["direct"] + at_one["competition"])


def test_files_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "result.json"
    report.write_json(target, {"a": [1.0, math.inf, math.nan], "b": np.float32(2)})
    assert json.loads(target.read_text()) == {"a": [1.0, "inf", "nan"], "b": 2.0}
    with pytest.raises(TypeError):
        report.write_json(target, {"a": object()})
    assert json.loads(target.read_text())["b"] == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def gmijax(*arguments):
    return subprocess.run([sys.executable, "-m", "gmijax", *arguments], capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("validate", "--decoder", "nowhere"), "nowhere does not exist"),
        (("validate", "--texts", "1"), "texts"),
        (("validate", "--nonsense"), "No such option"),
    ],
)
def test_bad_arguments_exit_with_2_and_no_traceback(arguments, message):
    done = gmijax(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_fast_to_read_and_names_the_command():
    done = gmijax("--help")
    assert done.returncode == 0
    assert "validate" in done.stdout


@pytest.mark.slow
def test_channels_agree_with_their_estimates():
    result = run_channels(0, lambda *_: None)
    assert sum(record["covered"] for record in result["channels"]) >= len(result["channels"]) - 1
    assert all(record["holds"] for record in result["shifts"])


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "One.\n"])
def test_empty_sentence_file_ends_the_command_with_2(tmp_path, content):
    path = tmp_path / "empty.txt"
    path.write_text(content)
    done = gmijax("validate", "--sentences", str(path))
    assert done.returncode == 2
    assert "holds" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_quick_run_on_the_packaged_decoder(tmp_path):
    """Theorems on a real model: rates in [0, H(Y)], LM the largest, B3 and B6 never violated, caps kept."""
    try:
        checkpoints.bundled_decoder()
    except FileNotFoundError as error:
        pytest.skip(f"the data-only package with SmolLM2 is not installed: {error}")
    done = gmijax("validate", "--quick", "--json", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {path.name for path in tmp_path.iterdir()} == {f"validate.{s}" for s in ("json", "md", "svg", "png")}
    assert len(result["laws"]) == 12
    cap = result["entropy_cap_nats"]
    assert cap == pytest.approx(math.log(16))
    for law in result["laws"]:
        rates, change, bounds = law["rates"], law["change"], law["bounds"]
        for name in ("gmi_inputs", "gmi_messages"):
            assert -1e-5 <= rates[name]["nats"] <= rates["lm_rate"]["nats"] + 1e-3
        assert rates["lm_rate"]["nats"] <= cap + 1e-5
        assert bounds["b6_lower"] - 1e-9 <= change["inputs"] <= bounds["b6_upper"] + 1e-9
        assert abs(change["inputs"]) <= bounds["b3_inputs"] + 1e-9
        assert abs(change["messages"]) == pytest.approx(bounds["b3_messages"], abs=1e-9)
        assert abs(change["inputs"]) <= bounds["cap_change"]
        assert law["w1_given_c"] <= law["w1_given_y"] + 1e-6
        assert law["w1_given_y"] <= law["diameter"]
    strongest = {law["law"]: law["rates"]["gmi_inputs"]["nats"] for law in result["laws"]}
    assert strongest["noise"] < 0.8 * cap
