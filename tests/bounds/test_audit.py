"""The audit of reported tables: every contradiction by name, every cap, and what a clean table looks like."""

import math

import pytest

from gmijax import bounds

KEYS = ("model", "dataset", "L_mean", "L_p95", "D", "W1", "L_times_W1")
ULTRAVOX, QWEN, LLAVA = (
    dict(zip(KEYS, row, strict=True))
    for row in (
        ("ultravox", "librispeech", 9.08, 14.58, 10.3, 17.8, 162),
        ("qwen2_audio", "librispeech", 0.49, 0.67, 122.2, 38.9, 19.1),
        ("llava", "coco", 0.29, 0.36, 28.5, 46.3, 13.4),
    )
)
BARE = {"model": "ultravox", "dataset": "crema_d", "L_mean": 5.82, "L_p95": 9.70, "D": 17.0}
CLEAN = {"model": "ours", "L_mean": 0.5, "D": 4.0, "W1": 1.0, "vocab": 100}
CLEAN |= {"L_space": "a", "W1_space": "a", "W1_given": "(c, y)"}


def test_contradictions_are_named():
    audit = bounds.audit([ULTRAVOX, QWEN, BARE])
    first, second, third = audit.rows
    assert not audit.consistent
    assert [row.consistent for row in audit.rows] == [False, False, None]
    assert "W1 = 17.8 exceeds the diameter D = 10.3" in first.problems[0]
    assert "'adapter_output, whole token block' and W1 in 'llm_hidden_16, mean-pooled'" in first.problems[1]
    assert "pooled" in first.problems[2]
    assert len(first.problems) == 3
    assert [problem.split()[0] for problem in second.problems] == ["L", "W1"]  # W1 <= D there
    assert (third.w1, third.b1, third.b2, third.paper_log10, third.problems) == (None, None, None, None, ())
    assert "no W1 is reported" in third.notes[-1]


def test_figures_and_caps():
    row, qwen, llava = bounds.audit({"table8_sensitivity_and_distance": [ULTRAVOX, QWEN, LLAVA]}).rows
    assert row.slope_times_w1 == pytest.approx(161.624)
    assert row.b1 == pytest.approx(2 * 161.624)
    assert row.b2 == pytest.approx(2 * 9.08 * 10.3)
    assert row.slope_times_diameter == pytest.approx(93.524)
    assert row.paper_log10 == pytest.approx((93.524 + math.log(161.624)) / math.log(10))
    assert row.cap == pytest.approx(math.log(128256))
    assert row.beyond_cap == qwen.beyond_cap == ("L W1", "B1", "B2", "theorem 2")
    assert llava.beyond_cap == ("L W1", "B1", "theorem 2")  # 2 L D is below 2 log |V| there
    assert llava.paper_log10 == pytest.approx(4.72, abs=0.01)
    steeper = bounds.audit([ULTRAVOX], slope="L_p95").rows[0]
    assert steeper.slope == 14.58
    assert steeper.problems == row.problems


def test_a_clean_table_is_consistent():
    audit = bounds.audit([CLEAN])
    assert audit.consistent
    (row,) = audit.rows
    assert (row.name, row.consistent, row.problems, row.beyond_cap) == ("ours", True, (), ())
    assert row.b1 == 1.0
    named = {key: CLEAN[key] for key in ("model", "L_mean", "D", "W1")}
    elsewhere = bounds.audit([named], slope_space="a", distance_space="a", given="(c, y)", vocabulary={"ours": 2})
    assert elsewhere.rows[0].problems == ()
    assert elsewhere.rows[0].cap == pytest.approx(math.log(2))
    unknown = bounds.audit([named], slope_space="a", distance_space="a", given="(c, y)").rows[0]
    assert (unknown.cap, unknown.beyond_cap) == (None, ())


def test_a_product_that_is_none_is_named():
    (row,) = bounds.audit([CLEAN | {"L_times_W1": 5.0}]).rows
    assert row.problems == ("L W1 is reported as 5, and L_mean W1 = 0.5",)
    (row,) = bounds.audit([CLEAN | {"W1_given": "c"}]).rows
    assert "W1 is given c" in row.problems[0]


def test_markdown():
    text = bounds.audit([ULTRAVOX, BARE, LLAVA]).markdown()
    lines = text.splitlines()
    assert lines[0].startswith("| row | L | D | W1 | W1 <= D |")
    assert len({line.count("|") for line in lines[:5]}) == 1
    assert lines[2] == (
        "| ultravox / librispeech | 9.08 | 10.3 | 17.8 | no | 93.5 | 162 | 11.8 | 323 | 187 | 42.8 | "
        "L W1, B1, B2, theorem 2 | no |"
    )
    assert "| ultravox / crema_d | 5.82 | 17 | - | - |" in lines[3]
    assert "bound" not in text  # nothing here is one
    assert "  - W1 = 46.3 exceeds the diameter D = 28.5, impossible in one space" in lines


@pytest.mark.parametrize(
    ("reported", "message"),
    [
        ([], "at least one row"),
        ("table", "at least one row"),
        ({"rows": [CLEAN]}, "has no 'table8_sensitivity_and_distance'"),
        ([3], "row 0 must be a mapping, got int"),
        ([{"model": "a", "D": 1.0}], "a: L_mean must be a finite number >= 0, got None"),
        ([{"L_mean": 1.0}], "row 0: D must be"),
        ([CLEAN | {"W1": "1.0"}], "ours: W1 must be a finite number >= 0, got '1.0'"),
        ([CLEAN | {"W1": -1.0}], "ours: W1 must be"),
        ([CLEAN | {"D": math.nan}], "ours: D must be"),
        ([CLEAN | {"vocab": 0}], "ours: vocab must be a finite number >= 1, got 0"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(reported, message):
    with pytest.raises(ValueError, match=message):
        bounds.audit(reported)


def test_another_slope_is_refused():
    with pytest.raises(ValueError, match="slope must be one of 'L_mean', 'L_p95'"):
        bounds.audit([CLEAN], slope="L_max")
