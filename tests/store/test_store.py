"""Stores: what is written is what is read, whole, in parts, by label, and after anything went wrong."""

import json
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import hypothesis
import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from gmijax import modes, stats, store


def _named(name, labels=None, text=None):
    return SimpleNamespace(id=name, labels=labels or {}, text=text)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_round_trip(make, dtype, expected):
    opened = make(dtype=dtype)
    assert opened.complete
    assert len(opened) == opened.samples == 23
    for name, width in {"encoder_output": 5, "llm_final": 7}.items():
        rows = opened.read(name)
        assert rows.dtype == jax.numpy.dtype(dtype)
        np.testing.assert_array_equal(np.asarray(rows), expected(23, width).astype(dtype))
        assert opened.shape(name) == (23, width)
    widened = opened.read("encoder_output", slice(3, 9), dtype="float32")
    np.testing.assert_array_equal(widened, expected(23)[3:9].astype(dtype).astype(np.float32))
    assert opened.hook_points == ("encoder_output", "llm_final")
    np.testing.assert_array_equal(opened.ids, [f"s{k:05d}" for k in range(23)])
    np.testing.assert_array_equal(opened.labels("speaker"), [f"p{k % 3}" for k in range(23)])
    np.testing.assert_array_equal(opened.labels("age"), np.arange(23) % 7)
    assert opened.texts[22] == "text 22, é"
    assert opened.label_names == ("age", "speaker")


def test_rows_of_zeros_are_stored(tmp_path, samples):
    opened = store.create(tmp_path / "s", store.Spec("m", {"h": 3}), samples(2))
    opened.commit(0, {"h": np.zeros((2, 3))})
    np.testing.assert_array_equal(store.open(tmp_path / "s").read("h"), np.zeros((2, 3)))
    assert store.verify(tmp_path / "s").sound


ends = st.one_of(st.none(), st.integers(-30, 30))


def test_any_rows(make, expected):
    opened, whole = make(), expected(23)

    @hypothesis.given(ends, ends, st.one_of(st.none(), st.integers(1, 5), st.integers(-5, -1)))
    def slices(start, stop, step):
        rows = slice(start, stop, step)
        np.testing.assert_array_equal(opened.numpy("encoder_output", rows), whole[rows])
        pieces = [np.asarray(p) for p in opened.chunks("encoder_output", rows, size=5)]
        assert all(len(p) == 5 for p in pieces[:-1])
        np.testing.assert_array_equal(np.concatenate([whole[:0], *pieces]), whole[rows])

    @hypothesis.given(st.lists(st.integers(-23, 22), max_size=30))
    def indices(rows):
        rows = np.array(rows, int)
        np.testing.assert_array_equal(opened.numpy("encoder_output", rows), whole[rows])

    slices()
    indices()
    mask = np.arange(23) % 2 == 0
    np.testing.assert_array_equal(opened.read("encoder_output", mask), whole[mask])


def test_failed_samples_have_no_row_and_say_why(make, state):
    opened = make(failed=(0, 5, 8, 9, 10, 11))  # 8 to 11 are a whole chunk
    keep = [k for k in range(23) if k not in (0, 5, 8, 9, 10, 11)]
    assert opened.complete
    assert opened.samples == 23
    assert dict(opened.failed) == {f"s{k:05d}": "broken file" for k in (0, 5, 8, 9, 10, 11)}
    np.testing.assert_array_equal(opened.ids, [f"s{k:05d}" for k in keep])
    np.testing.assert_array_equal(opened.labels("age"), np.array(keep) % 7)
    np.testing.assert_array_equal(opened.read("llm_final"), np.concatenate([state(k, 7) for k in keep]))
    assert store.verify(opened.path).committed == 6


def test_what_a_killed_run_left_opens(make, state):
    opened = make(without=(1, 5))
    assert not opened.complete
    assert opened.pending == (1, 5)
    keep = [k for k in range(23) if k // 4 not in (1, 5)]
    np.testing.assert_array_equal(opened.kept, keep)
    np.testing.assert_array_equal(opened.read("encoder_output"), np.concatenate([state(k) for k in keep]))
    assert opened.texts == [f"text {k}, é" for k in keep]


def test_every_token_with_offsets(tmp_path, samples, state):
    spec = store.Spec("m", {"h": 3, "g": 2}, pooling="none", chunk_samples=3)
    opened = store.create(tmp_path / "s", spec, samples(5))
    lengths = {"h": [2, 4, 0, 1, 3], "g": [1, 1, 0, 5, 2]}
    rows = {
        name: [state(k, width, count) for k, count in enumerate(lengths[name])]
        for name, width in spec.hook_points.items()
    }
    for chunk, span in enumerate([slice(0, 3), slice(3, 5)]):
        opened.commit(
            chunk,
            {name: np.concatenate(rows[name][span]) for name in rows},
            lengths={name: lengths[name][span] for name in lengths},
            failed={2: "text is empty"} if chunk == 0 else None,
        )
    opened = store.open(tmp_path / "s")
    assert len(opened) == 4
    np.testing.assert_array_equal(opened.offsets("h"), [0, 2, 6, 7, 10])
    np.testing.assert_array_equal(opened.offsets("g"), [0, 1, 2, 7, 9])
    for name in rows:
        offsets = opened.offsets(name)
        for place, k in enumerate([0, 1, 3, 4]):
            found = opened.numpy(name, slice(int(offsets[place]), int(offsets[place + 1])))
            np.testing.assert_array_equal(found, rows[name][k])


def test_streams_feed_estimators(make, expected):
    opened = make(count=40, size=16)
    moments = stats.Moments.empty(5)
    for rows in opened.chunks("encoder_output", size=16):
        moments = moments.update(rows)
    np.testing.assert_allclose(moments.mean.total + moments.mean.rest, expected(40).mean(0), atol=1e-6)
    streamed = modes.eigenmodes(lambda: opened.chunks("encoder_output", size=16), top=3)
    whole = modes.eigenmodes(opened.read("encoder_output"), top=3)
    np.testing.assert_allclose(streamed.eigenvalues, whole.eigenvalues, rtol=1e-5)


def test_sharded_reading(make):
    opened = make(count=24)
    code = """
import sys, jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from gmijax import store
mesh = jax.make_mesh((2, 1), ("n", "d"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
s = store.open(sys.argv[1])
rows = s.read("encoder_output", slice(2, 22), sharding=NamedSharding(mesh, P("n", None)))
assert len(rows.addressable_shards) == 2 and rows.addressable_shards[0].data.shape == (10, 5)
assert np.array_equal(rows, s.numpy("encoder_output", slice(2, 22)))
picked = s.read("encoder_output", [3, 1, 20, 7], sharding=NamedSharding(mesh, P("n", None)), dtype="bfloat16")
assert np.array_equal(picked, s.read("encoder_output", [3, 1, 20, 7], dtype="bfloat16"))
print("same")
"""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(opened.path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.stdout.strip() == "same", done.stderr


def test_same_run_resumes_and_another_is_refused(make, tmp_path, samples, write, expected):
    opened = make(without=(2,))
    again = store.create(opened.path, opened.spec, samples(23))
    assert again.pending == (2,)
    write(again, 2)
    assert store.open(opened.path).complete
    np.testing.assert_array_equal(store.open(opened.path).read("encoder_output"), expected(23))
    with pytest.raises(store.StoreError, match=r"dtype is 'float32', not 'float16'.*give another folder"):
        store.create(
            opened.path, store.Spec("tiny", opened.spec.hook_points, dtype="float16", chunk_samples=4), samples(23)
        )
    with pytest.raises(store.StoreError, match="it holds 23 samples, and the 23 given are others"):
        store.create(opened.path, opened.spec, samples(23)[::-1])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(store.StoreError, match=r"holds thesis.tex and no manifest.json"):
        store.create(tmp_path / "mine", opened.spec, samples(2))


def test_bytes_do_not_depend_on_the_order_of_writing(make, write):
    one, other = make("a"), make("b", without=range(6))
    for chunk in (5, 3, 0, 1, 4, 2):
        write(other, chunk)
    files = [sorted(p.relative_to(s.path) for p in s.path.rglob("*") if p.is_file()) for s in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        assert (one.path / name).read_bytes() == (other.path / name).read_bytes(), name


def _cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "where", "opens_without", "message"),
    [
        (_cut, "states/encoder_output/000001/c/0/0", True, "has .* bytes"),
        (os.unlink, "states/llm_final/000001/c/0/0", True, "is missing"),
        (_cut, "commits/000001.json", True, "record is damaged"),
        (_flip, "states/encoder_output/000001/c/0/0", False, "cannot be read|are not those"),
    ],
)
def test_damage_is_found_and_redone(make, harm, where, opens_without, message, write, expected):
    opened = make()
    harm(opened.path / where)
    found = store.verify(opened.path)
    assert list(found.damaged) == [1]
    assert re.search(message, found.damaged[1])
    assert not found.sound
    assert found.committed == 5
    if opens_without:  # its size tells, so that a resume needs no verification
        assert store.open(opened.path).pending == (1,)
        assert list(store.open(opened.path).damaged) == [1]
    store.verify(opened.path, forget=True)
    again = store.open(opened.path)
    assert again.pending == (1,)
    assert not again.damaged
    write(again, 1)
    assert store.verify(opened.path).sound
    np.testing.assert_array_equal(store.open(opened.path).read("encoder_output"), expected(23))


def test_other_states_of_the_same_size_are_found(make):
    opened = make()
    path = opened.path / "commits/000002.json"
    record = json.loads(path.read_text())
    record["arrays"]["llm_final"]["sha256"] = record["arrays"]["encoder_output"]["sha256"]
    path.write_text(json.dumps(record))
    assert store.verify(opened.path).damaged == {2: "the states of 'llm_final' are not those that were written"}


def test_damaged_manifests(make):
    opened = make()
    (opened.path / "samples.jsonl").write_text("{}\n")
    with pytest.raises(store.StoreError, match=r"samples.jsonl is damaged"):
        store.verify(opened.path)
    with pytest.raises(store.StoreError, match=r"samples.jsonl is damaged"):
        _ = store.open(opened.path).ids
    path = opened.path / "manifest.json"
    plain = json.loads(path.read_text())
    for change, message in [
        ({"version": 2}, "not of version 1"),
        ({"spec": {**plain["spec"], "colour": 1}}, "unknown fields colour"),
        ({"samples": None, "extra": 1}, "is damaged"),
    ]:
        path.write_text(json.dumps(plain | change))
        with pytest.raises(store.StoreError, match=message):
            store.open(opened.path)
    path.write_text("{")
    with pytest.raises(store.StoreError, match="is damaged"):
        store.open(opened.path)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="is no store"):
        store.open(opened.path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hook_points": {}}, "hook_points is empty"),
        ({"hook_points": {"../up": 3}}, "use letters"),
        ({"hook_points": {"h": 0}}, "width 0 must be positive"),
        ({"pooling": "max"}, "'max' is not one of mean, mean_all, last, none"),
        ({"dtype": "float64"}, "'float64' is not one of bfloat16"),
        ({"chunk_samples": 0}, "chunk_samples = 0"),
    ],
)
def test_specs_that_cannot_be(options, message):
    with pytest.raises(store.StoreError, match=message):
        store.Spec("m", **{"hook_points": {"h": 2}, **options})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "samples are empty"),
        ([_named("a"), _named("a")], "ids must be unique"),
        ([_named("")], "text that is not empty"),
        ([_named("a", {"x": float("nan")})], "label 'x' of sample 'a' is nan"),
        ([_named("a", {"x": [1]})], "give text or a number"),
        ([_named("a", {"x": True})], "give text or a number"),
    ],
)
def test_samples_that_cannot_be(tmp_path, given, message):
    with pytest.raises(store.StoreError, match=message):
        store.create(tmp_path / "s", store.Spec("m", {"h": 2}), given)


def test_commits_that_cannot_be(make):
    opened = make(without=(0,))
    good = {"encoder_output": np.ones((4, 5)), "llm_final": np.ones((4, 7))}
    for arguments, options, message in [
        ((6, good), {}, "chunk = 6: the store has 6 chunks"),
        ((0, {"llm_final": good["llm_final"]}), {}, "states are of"),
        ((0, good | {"llm_final": np.ones((3, 7))}), {}, r"have shape \(3, 7\); chunk 0 needs \(4, 7\)"),
        ((0, good), {"failed": {1: "x"}}, r"needs \(3, 5\)"),
        ((0, good), {"failed": {9: "x"}}, "chunk 0 has samples 0 to 3"),
        ((0, good), {"lengths": {"encoder_output": [1] * 4}}, "lengths go with pooling 'none'"),
        ((0, good | {"llm_final": np.full((4, 7), np.nan)}), {}, "not finite in float32"),
    ]:
        with pytest.raises(store.StoreError, match=message):
            opened.commit(*arguments, **options)
    assert store.open(opened.path).pending == (0,)


def test_overflow_is_told(tmp_path, samples):
    opened = store.create(tmp_path / "s", store.Spec("m", {"h": 2}, dtype="float16"), samples(1))
    with pytest.raises(store.StoreError, match="not finite in float16"):
        opened.commit(0, {"h": np.full((1, 2), 1e6, np.float32)})


def test_questions_without_an_answer(make):
    opened = make()
    for ask, message in [
        (lambda: opened.read("logits"), "no hook point 'logits', but encoder_output, llm_final"),
        (lambda: opened.labels("colour"), "no label 'colour', but age, speaker"),
        (lambda: opened.read("llm_final", [0, 23]), "rows hold 0 to 23; 'llm_final' has 23 rows"),
        (lambda: opened.read("llm_final", np.ones(4, bool)), "mask of shape"),
        (lambda: opened.read("llm_final", np.ones(4)), "give a slice, indices or a mask"),
        (lambda: next(opened.chunks("llm_final", size=0)), "size = 0"),
    ]:
        with pytest.raises(store.StoreError, match=message):
            ask()


def test_labels_that_some_lack(tmp_path):
    given = [_named("a", {"x": 1, "y": "t"}), _named("b", {"y": 2})]
    opened = store.create(tmp_path / "s", store.Spec("m", {"h": 2}), given)
    opened.commit(0, {"h": np.ones((2, 2))})
    opened = store.open(tmp_path / "s")
    with pytest.raises(store.StoreError, match="1 of 2 samples have no label 'x', the first is 'b'"):
        opened.labels("x")
    with pytest.raises(store.StoreError, match="text in some samples and a number in others"):
        opened.labels("y")


def test_importing_the_store_imports_no_jax():
    code = "import sys, gmijax.store; print(sorted({'jax', 'h5py', 'flax', 'matplotlib'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_bfloat16_is_native(make):
    opened = make(dtype="bfloat16")
    assert opened.numpy("encoder_output").dtype == ml_dtypes.bfloat16
