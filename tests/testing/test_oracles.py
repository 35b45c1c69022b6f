import json
import math
from pathlib import Path

import pytest

from gmijax.testing import oracles

FILE = Path(__file__).parents[1] / "fixtures" / "oracles.json"


@pytest.fixture(scope="module")
def entries():
    return oracles.read(FILE)


def write(path, entries):
    path.write_text(json.dumps({"entries": entries, "n_entries": len(entries)}))
    return str(path)


def named(entries, name):
    return json.loads(json.dumps(next(entry for entry in entries if entry["id"] == name)))


@pytest.mark.parametrize("family", [f for f in oracles.FAMILIES if f not in ("qam_phase", "scalar_gaussian")])
def test_first_entry_of_each_family(entries, family):
    report = oracles.check([next(entry for entry in entries if entry["family"] == family)])
    assert report.off == ()
    assert report.passed
    assert len(report.comparisons) > 5


@pytest.mark.slow
def test_whole_file(entries):
    report = oracles.check(entries)
    assert report.off == ()
    assert report.passed
    assert report.entries == 123
    assert report.worst().error < 1e-7


def test_every_quantity_is_compared(entries):
    """A changed value of any name is seen."""
    for name in ("bsc_p0.1_ph0.2_px0.2", "c2_bias", "est_K16", "cond_3ctx", "b_logistic_small", "b_table8"):
        entry = named(entries, name)
        clean = oracles.check([entry])
        assert clean.passed
        compared = {comparison.quantity.split(".")[0].split("[")[0] for comparison in clean.comparisons}
        assert compared == set(entry["quantities"])


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("mi", "nats"), 0.24797445),
        (("mi", "bits"), 0.3577513),
        (("gmi", "s_star"), 1.5851),
        (("gmi", "s_star"), "inf"),
        (("slope0",), 0.3548925),
        (("eq3", "nats"), "inf"),
        (("gmi_s", 2, "nats_rev"), 0.1968378),
        (("novel",), 1.0),
    ],
)
def test_what_is_off_is_named(entries, tmp_path, capsys, path, value):
    entry = named(entries, "bsc_p0.1_ph0.2_px0.2")
    place = entry["quantities"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert oracles.main([write(tmp_path / "file.json", [entry])]) == 1
    output = capsys.readouterr().out
    assert output.startswith("bsc_p0.1_ph0.2_px0.2  " + path[0])
    assert "1 off" in output.splitlines()[-1]


@pytest.mark.parametrize("name", ["b_three_point_typical", "b_matched_eps01", "b_table8"])
def test_bound_examples(entries, name):
    report = oracles.check([named(entries, name)])
    assert report.passed
    assert report.worst().error < 1e-12


def test_bound_examples_that_are_off_are_named(entries):
    """A changed number, a changed truth value, a renamed row and an unknown kind are all seen."""
    changed = [named(entries, name) for name in ("b_three_point_typical", "b_table8", "b_table8", "b_matched_eps01")]
    changed[0]["quantities"]["delta_log_mgf"]["nats"] *= 1 + 1e-5
    changed[1]["quantities"]["rows"][1]["vacuous"] = False
    changed[2]["quantities"]["rows"][0]["model"] = "another"
    changed[3]["params"]["kind"] = "novel"
    off = [comparison.quantity for comparison in oracles.check(changed).off]
    assert off == ["delta_log_mgf", "rows[1].vacuous", "rows[0].model", "params"]


def test_bound_examples_of_other_parameters(tmp_path):
    """Gaussian laws with closed forms: equal laws cost nothing, and a shift by one moves every distance by it."""
    still = {"kind": "logistic_shift", "L": "1", "m": 0.7, "gain": 1, "shift": 0}
    zero = dict.fromkeys(("true_change", "W1_conditional", "W1_marginal", "W1_score_neg", "W2_score_neg"), 0)
    rare = {"kind": "three_point", "L": 2, "D": "1", "s": 0.5, "eps": "1/2", "delta": "1/4"}
    exact = math.log((1 + math.e) / (1 + math.exp(0.75)))
    entries = [
        {"id": "still", "family": "bound_example", "params": still, "quantities": zero | {"D_used_4sigma": 9.4}},
        {"id": "rare", "family": "bound_example", "params": rare, "quantities": {"delta_log_mgf": exact, "W1": 0.125}},
    ]
    assert oracles.main([write(tmp_path / "file.json", entries)]) == 0


def test_other_parameters(tmp_path):
    """Same schema, extreme values: a useless and a perfect channel."""
    log_two = 0.6931471805599453
    entries = [
        {
            "id": name,
            "family": "bsc",
            "params": {"p": p, "p_hat": 0.25, "p_x1": "1/2"},
            "quantities": {"mi": {"nats": mi}, "gmi": {"nats": mi, "s_star": scale}, "lm": {"nats": mi}},
        }
        for name, p, mi, scale in (("useless", "1/2", 0.0, 0.0), ("perfect", 0, log_two, "inf"))
    ]
    assert oracles.main([write(tmp_path / "file.json", entries)]) == 0


def test_unsupported_family_must_be_skipped_by_name(entries, tmp_path, capsys):
    chosen = [named(entries, "const_score"), named(entries, "b_table8") | {"family": "novel"}]
    path = write(tmp_path / "file.json", chosen)
    assert oracles.main([path]) == 1
    assert "family 'novel' is not supported: 1 entries" in capsys.readouterr().out
    assert oracles.main([path, "--skip", "novel"]) == 0
    assert "1 entries skipped" in capsys.readouterr().out


def test_parameters_that_cannot_be_used_are_off(entries, tmp_path, capsys):
    entry = named(entries, "bsc_p0.1_ph0.2_px0.2")
    entry["params"]["p"] = "seven"
    assert oracles.main([write(tmp_path / "file.json", [entry])]) == 1
    assert "bsc_p0.1_ph0.2_px0.2  params" in capsys.readouterr().out


def test_json(entries, tmp_path, capsys):
    path = write(tmp_path / "file.json", [named(entries, "const_score")])
    assert oracles.main([path, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"]
    assert document["entries"] == 1
    assert document["off"] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("", "is not JSON, or is cut off"),
        (FILE.read_text()[:1000], "is not JSON, or is cut off"),
        ("[]", 'no list "entries"'),
        ('{"entries": [], "n_entries": 3}', "announces 3 entries and holds 0"),
        ('{"entries": [{"id": "a"}]}', "entry 0 has no 'family'"),
    ],
)
def test_unreadable_files_exit_with_two(tmp_path, capsys, text, message):
    path = tmp_path / "file.json"
    if text is not None:
        path.write_text(text)
    assert oracles.main([str(path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
