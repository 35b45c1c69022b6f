"""Labels against their definitions, written out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmijax.datasets import lexical_labels
from gmijax.datasets._objects import box, object_labels

WORDS = st.lists(st.sampled_from(["the", "a", "Dog", "dog", "runs", "RUNS", "now"]), max_size=6)


def test_the_first_frequent_word_is_taken():
    # Counts: the 3, cat 2, dog 1, sat 1, ran 1.
    texts = ["dog the cat", "THE cat sat", "Ran, the", "sat"]
    assert lexical_labels(texts, top=2) == ["the", "the", "the", None]
    assert lexical_labels(texts, top=1) == ["the", "the", "the", None]
    assert lexical_labels(["sat the cat", "cat", "the"], top=2) == ["the", "cat", "the"]


def test_ties_go_by_the_alphabet():
    assert lexical_labels(["pear", "fig", "apple"], top=2) == [None, "fig", "apple"]
    assert lexical_labels(["apple", "fig", "pear"], top=2) == ["apple", "fig", None]


def test_fifty_words_are_kept():
    texts = [f"w{i:02}" for i in range(60)]
    assert lexical_labels(texts) == texts[:50] + [None] * 10


def test_case_apostrophes_and_accents():
    texts = ["DON'T", "don\u2019t", "'don't'", "Caf\u00e9", "cafe\u0301", "--", "", None, "snake_case"]
    assert lexical_labels(texts) == ["don't"] * 3 + ["caf\u00e9"] * 2 + [None] * 3 + ["snake"]


def test_top_must_be_positive():
    with pytest.raises(ValueError, match="top is 0; keep at least one word"):
        lexical_labels(["a"], top=0)


@given(st.lists(WORDS, max_size=8), st.integers(1, 4))
def test_lexical_labels_equal_a_loop(lines, top):
    counts = {}
    for line in lines:
        for word in line:
            counts[word.lower()] = counts.get(word.lower(), 0) + 1
    kept = []
    while counts and len(kept) < top:
        most = max(counts.values())
        kept.append(min(word for word in counts if counts[word] == most))
        del counts[kept[-1]]
    want = []
    for line in lines:
        hits = [word.lower() for word in line if word.lower() in kept]
        want.append(hits[0] if hits else None)
    assert lexical_labels([" ".join(line) for line in lines], top=top) == want


@given(st.lists(WORDS, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_the_order_of_texts_does_not_matter(lines, random):
    texts = [" ".join(line) for line in lines]
    labels = lexical_labels(texts, top=2)
    order = list(range(len(texts)))
    random.shuffle(order)
    assert lexical_labels([texts[i] for i in order], top=2) == [labels[i] for i in order]


@pytest.mark.parametrize(
    ("objects", "want"), [(1, "1"), (2, "2-4"), (4, "2-4"), (5, "5-10"), (10, "5-10"), (11, "11+"), (40, "11+")]
)
def test_object_count(objects, want):
    assert object_labels({0: [box("a", (0, 0, 1, 1), (9, 9))] * objects})[0]["object_count"] == want


def test_no_objects():
    assert object_labels({}) == {}
    assert object_labels({"a": []}) == {"a": {}}


def test_the_larger_category_wins_then_the_more_frequent_then_the_first():
    def category(*boxes):
        return object_labels({0: [box(name, (0, 0, width, 1), (8, 8)) for name, width in boxes]})[0]["object_category"]

    assert category(("a", 2), ("a", 2), ("b", 5)) == "b"
    assert category(("a", 4), ("b", 2), ("b", 2)) == "b"
    assert category(("b", 4), ("a", 4)) == "a"


def test_tertiles_of_distinct_values_are_equal_thirds():
    sizes = [3, 8, 1, 9, 5, 2, 7, 4, 6]
    labels = object_labels({i: [box("a", (0, 0, size, 1), (10, 1))] for i, size in enumerate(sizes)})
    names = {i: labels[i]["object_size"] for i in labels}
    assert [names[i] for i in np.argsort(sizes)] == ["small"] * 3 + ["medium"] * 3 + ["large"] * 3


def test_equal_values_share_a_class():
    labels = object_labels({i: [box("a", (i, 0, 1, 1), (9, 9))] for i in range(5)})
    assert {one["object_size"] for one in labels.values()} == {"small"}
    assert {one["spatial_spread"] for one in labels.values()} == {"tight"}


CORNERS = st.lists(st.tuples(*[st.integers(0, 40)] * 4), min_size=1, max_size=6)


@given(st.lists(CORNERS, min_size=1, max_size=7))
def test_object_labels_equal_loops(images):
    width, height = 80, 50
    labels = object_labels(
        {i: [box("a", corner, (width, height)) for corner in corners] for i, corners in enumerate(images)}
    )
    for i, corners in enumerate(images):
        area = math.fsum(w * h for _, _, w, h in corners) / len(corners) / (width * height)
        xs = [(left + w / 2) / width for left, _, w, _ in corners]
        ys = [(top + h / 2) / height for _, top, _, h in corners]
        mean_x, mean_y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
        square = math.fsum((x - mean_x) ** 2 + (y - mean_y) ** 2 for x, y in zip(xs, ys, strict=True)) / len(xs)
        assert labels[i]["objects"] == len(corners)
        assert labels[i]["mean_object_area"] == pytest.approx(area, rel=1e-12, abs=1e-15)
        assert labels[i]["center_spread"] == pytest.approx(math.sqrt(square), rel=1e-12, abs=1e-15)
    for value, name, order in (
        ("mean_object_area", "object_size", ("small", "medium", "large")),
        ("center_spread", "spatial_spread", ("tight", "medium", "wide")),
    ):
        values = sorted(one[value] for one in labels.values())
        cuts = [at_rank(values, (len(values) - 1) * third / 3) for third in (1, 2)]
        for one in labels.values():
            if min(abs(one[value] - cut) for cut in cuts) > 1e-12:  # else rounding decides
                assert one[name] == order[sum(one[value] > cut for cut in cuts)]


def at_rank(values, rank):
    """The value at a rank that need not be whole, linear between its neighbours."""
    low = int(rank + 1e-9)
    high = min(low + 1, len(values) - 1)
    return values[low] + (rank - low) * (values[high] - values[low])


@given(CORNERS, st.integers(2, 5))
def test_object_labels_do_not_depend_on_the_resolution(corners, factor):
    small = object_labels({0: [box("a", corner, (80, 50)) for corner in corners]})[0]
    scaled = [[value * factor for value in corner] for corner in corners]
    large = object_labels({0: [box("a", corner, (80 * factor, 50 * factor)) for corner in scaled]})[0]
    for name, value in small.items():
        if isinstance(value, float):
            value = pytest.approx(value, rel=1e-12, abs=1e-15)
        assert large[name] == value
