"""Merging, exporting, and files that others wrote."""

import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from safetensors.numpy import load_file

from gmijax import store


def _named(name, labels=None, text=None):
    return SimpleNamespace(id=name, labels=labels or {}, text=text)


def test_merge_of_parts(make, tmp_path, expected):
    first, second = make("a", count=10), make("b", count=9, start=10, failed=(0,))
    merged = store.merge([first.path, second.path], tmp_path / "m")
    assert merged.complete
    # The states of a sample are drawn by its place in its own store.
    np.testing.assert_array_equal(
        merged.ids, [*(f"s{k:05d}" for k in range(10)), *(f"s{k:05d}" for k in range(11, 19))]
    )
    np.testing.assert_array_equal(merged.read("llm_final"), expected([*range(10), *range(1, 9)], 7))
    assert dict(merged.failed) == {"s00010": "broken file"}
    np.testing.assert_array_equal(merged.labels("age"), [k % 7 for k in range(19) if k != 10])
    assert store.verify(merged.path).sound


def test_merge_of_what_two_machines_wrote(make, tmp_path):
    first, second = make("a", without=(0, 2, 4)), make("b", without=(1, 3, 5))
    merged = store.merge([first.path, second.path], tmp_path / "m")
    whole = make("w")
    assert merged.complete
    for path in sorted((whole.path / "states").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (merged.path / path.relative_to(whole.path)).read_bytes()


def test_merge_leaves_pending_what_nobody_has(make, tmp_path):
    merged = store.merge([make("a", without=(0, 2)).path, make("b", without=(2, 4)).path], tmp_path / "m")
    assert merged.pending == (2,)


def test_merge_of_tokens(tmp_path, samples, state):
    spec = store.Spec("m", {"h": 3}, pooling="none", chunk_samples=2)
    for name, start in (("a", 0), ("b", 3)):
        part = store.create(tmp_path / name, spec, samples(3, start))
        for chunk, span in enumerate(([0, 1], [2])):
            rows = [state(start + k, 3, 1 + (start + k) % 4) for k in span]
            part.commit(chunk, {"h": np.concatenate(rows)}, lengths={"h": [len(r) for r in rows]})
    merged = store.merge([tmp_path / "a", tmp_path / "b"], tmp_path / "m")
    np.testing.assert_array_equal(merged.offsets("h"), np.cumsum([0, 1, 2, 3, 4, 1, 2]))
    np.testing.assert_array_equal(merged.numpy("h"), np.concatenate([state(k, 3, 1 + k % 4) for k in range(6)]))


def test_merges_that_cannot_be(make, tmp_path):
    first = make("a", count=4)
    with pytest.raises(store.StoreError, match="paths are empty"):
        store.merge([], tmp_path / "m")
    with pytest.raises(store.StoreError, match=r"is of another run.*dtype is 'float32', not 'bfloat16'"):
        store.merge([first.path, make("b", dtype="bfloat16").path], tmp_path / "m")
    other = store.create(tmp_path / "c", first.spec, [_named("s00000", {"speaker": "another"})])
    with pytest.raises(store.StoreError, match="sample 's00000' has other labels or another text"):
        store.merge([first.path, other.path], tmp_path / "m")


def test_export(make, tmp_path):
    opened = make(dtype="bfloat16", failed=(3,))
    store.export(opened, tmp_path / "out" / "x.npz")
    with np.load(tmp_path / "out" / "x.npz") as found:
        assert found["encoder_output"].dtype == np.float32
        np.testing.assert_array_equal(found["encoder_output"], opened.numpy("encoder_output").astype(np.float32))
        np.testing.assert_array_equal(found["ids"], opened.ids)
        np.testing.assert_array_equal(found["speaker"], opened.labels("speaker"))
        assert found["texts"].tolist() == opened.texts
    store.export(opened, tmp_path / "out" / "x.safetensors")
    found = load_file(tmp_path / "out" / "x.safetensors")
    np.testing.assert_array_equal(found["llm_final"], opened.numpy("llm_final"))
    np.testing.assert_array_equal(found["age"], opened.labels("age"))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x.npz", "x.safetensors"]
    with pytest.raises(store.StoreError, match="ends in none of"):
        store.export(opened, tmp_path / "x.csv")


def test_exported_files_open_as_stores(make, tmp_path):
    opened = make(failed=(3,))
    again = store.open(store.export(opened, tmp_path / "x.npz"))
    np.testing.assert_array_equal(again.read("llm_final"), opened.read("llm_final"))
    np.testing.assert_array_equal(again.ids, opened.ids)
    np.testing.assert_array_equal(again.labels("age"), opened.labels("age"))
    assert again.texts == opened.texts


def test_the_papers_hdf5(tmp_path, expected):
    rows = expected(range(6), 4)
    rows[2] = 0  # a sample that failed
    with h5py.File(tmp_path / "paper.h5", "w") as file:
        file["adapter_output"] = rows
        file["llm_final"] = rows.astype(np.float16)
        file["sample_ids"] = np.array([f"u{k}" for k in range(6)], object)
        file["transcript"] = [f"words {k}" for k in range(6)]
        file["emotion"] = np.array([f"e{k % 2}" for k in range(6)], "S")
        file["object_count"] = np.arange(6)
    opened = store.open(tmp_path / "paper.h5")
    keep = [0, 1, 3, 4, 5]
    assert opened.hook_points == ("adapter_output", "llm_final")
    np.testing.assert_array_equal(opened.read("adapter_output"), rows[keep])
    np.testing.assert_array_equal(opened.read("adapter_output", [4, 0]), rows[[5, 0]])
    np.testing.assert_array_equal(np.concatenate(list(opened.chunks("adapter_output", size=2))), rows[keep])
    assert opened.numpy("llm_final").dtype == np.float16
    assert opened.ids.tolist() == [f"u{k}" for k in keep]
    assert opened.texts == [f"words {k}" for k in keep]
    assert opened.labels("emotion").tolist() == [f"e{k % 2}" for k in keep]
    assert opened.labels("object_count").tolist() == keep
    assert dict(opened.failed) == {"u2": "its states are all zero"}


def test_an_npz_with_embeddings(tmp_path):
    np.savez(tmp_path / "e.npz", embeddings=np.ones((3, 2), np.float16), labels=[0, 1, 1])
    opened = store.open(tmp_path / "e.npz")
    assert opened.ids.tolist() == ["0", "1", "2"]
    assert opened.labels("labels").tolist() == [0, 1, 1]
    assert opened.read("embeddings").dtype == np.float16


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.h5", b"nothing", "cut short or damaged"),
        ("a.npz", b"nothing", "cut short or damaged"),
        ("a.txt", b"nothing", "neither a store's folder nor"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(store.StoreError, match=message):
        store.open(tmp_path / name)


def test_files_without_states(tmp_path, monkeypatch):
    np.savez(tmp_path / "v.npz", x=np.ones(3))
    with pytest.raises(store.StoreError, match=r"no matrix of floats .*, but x"):
        store.open(tmp_path / "v.npz")
    np.savez(tmp_path / "o.npz", x=np.array([{}], object))
    with pytest.raises(store.StoreError, match="Python objects"):
        store.open(tmp_path / "o.npz")
    np.savez(tmp_path / "d.npz", x=np.ones((3, 2)), y=np.ones((4, 2)))
    with pytest.raises(store.StoreError, match="differ in rows: x 3, y 4"):
        store.open(tmp_path / "d.npz")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        store.open(tmp_path / "none.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    (tmp_path / "a.h5").write_bytes(b"")
    with pytest.raises(store.StoreError, match="pip install 'gmijax\\[hdf5\\]'"):
        store.open(tmp_path / "a.h5")
