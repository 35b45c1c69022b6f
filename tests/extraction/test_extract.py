"""What a store holds after an extraction, whatever happened on the way; with an encoder whose states are known."""

import errno
import json
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from gmijax import extraction, store
from gmijax.extraction import _extract

OPTIONS = {"chunk_samples": 6, "batch_size": 4, "process": (0, 1)}
BOTH = ("encoder_output", "encoder_hidden_0")


def run(path, count=23, *, special=None, encoder=None, **options):
    return extraction.extract(toy.samples(count, special), encoder or toy.Toy(), path, **{**OPTIONS, **options})


def expected(rows, hook_point, pooling):
    """The rows of some texts by their definition."""
    states = [toy.known(text, hook_point) for text in rows]
    if pooling == "none":
        return np.concatenate(states)
    return np.stack([own[-1] if pooling == "last" else own.mean(axis=0) for own in states])


def content(path):
    opened = store.open(path)
    return {name: opened.numpy(name) for name in opened.hook_points}


# What is written


@pytest.mark.parametrize("pooling", store.POOLINGS)
def test_states_are_those_of_the_definition(tmp_path, pooling):
    result = run(tmp_path / "s", hook_points=BOTH, pooling=pooling)
    assert (result.samples, result.done, result.failed, result.complete) == (23, 23, {}, True)
    opened = store.open(tmp_path / "s")
    texts = toy.texts(23)
    assert max(map(len, texts)) > 2 * toy.CONTEXT  # some are three pieces
    for name in BOTH:
        found, wanted = opened.numpy(name), expected(texts, name, pooling)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.abs(wanted).max())
        assert result.bytes == sum(opened.numpy(n).nbytes for n in BOTH)
        lengths = [len(text) if pooling == "none" else 1 for text in texts]
        np.testing.assert_array_equal(np.diff(opened.offsets(name)), lengths)
    assert opened.ids.tolist() == [f"s{k:04d}" for k in range(23)]
    assert opened.texts == texts
    assert opened.spec.model == "toy"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_types_on_disk_are_rounded_once(tmp_path, dtype):
    run(tmp_path / "wide")
    run(tmp_path / "s", dtype=dtype)
    wanted = store.open(tmp_path / "wide").numpy("encoder_output").astype(dtype)
    found = store.open(tmp_path / "s").numpy("encoder_output")
    # The mean is rounded from float64; through float32 it may differ by one step where that falls on a tie.
    np.testing.assert_allclose(found.astype("f4"), wanted.astype("f4"), rtol=2**-7 if dtype == "bfloat16" else 2**-10)


FILLED = toy.Toy()  # one for all examples: its programs are compiled once


@settings(max_examples=10)
@given(st.sampled_from([-1, -2]) | st.integers(-100, 100))
def test_padding_never_enters(filler):
    """Whatever stands in the padding, also what is NaN (-1) or far out (-2) once it is a state."""
    with tempfile.TemporaryDirectory() as folder:
        FILLED.filler = 0
        run(Path(folder) / "a", 8, hook_points=BOTH, encoder=FILLED)
        FILLED.filler = filler
        run(Path(folder) / "b", 8, hook_points=BOTH, encoder=FILLED)
        a, b = content(Path(folder) / "a"), content(Path(folder) / "b")
    for name in BOTH:
        np.testing.assert_array_equal(a[name], b[name])


def test_at_most_one_program_a_bucket(tmp_path):
    class Counted(toy.Toy):
        def states(self, parameters, batch, hook_points):
            traced.append(batch["codes"].shape)
            return super().states(parameters, batch, hook_points)

    traced, encoder = [], Counted()
    run(tmp_path / "s", 60, encoder=encoder)
    widths = (1, 2)  # the pass that only asks for the widths of the states
    assert sorted(traced) == [widths, (4, 2), (4, 4), (4, 8)]
    run(tmp_path / "t", 60, encoder=encoder)  # the programs are the encoder's, and serve the next run too
    assert sorted(traced) == [widths, widths, (4, 2), (4, 4), (4, 8)]


# The same store on other ways


def test_any_number_of_processes_writes_the_same_bits(tmp_path):
    run(tmp_path / "one", hook_points=BOTH)
    done = [run(tmp_path / "two", hook_points=BOTH, process=(index, 2)) for index in (1, 0)]
    assert [part.done for part in done] == [11, 12]
    assert [part.complete for part in done] == [False, True]
    first = run(tmp_path / "mixed", hook_points=BOTH, process=(2, 3))
    assert first.done == 6
    run(tmp_path / "mixed", hook_points=BOTH, process=(1, 2))
    last = run(tmp_path / "mixed", hook_points=BOTH)
    assert last.complete
    one = content(tmp_path / "one")
    for other in ("two", "mixed"):
        for name, states in content(tmp_path / other).items():
            np.testing.assert_array_equal(states, one[name])
        for chunk in range(4):
            record = f"commits/{chunk:06d}.json"
            assert (tmp_path / other / record).read_bytes() == (tmp_path / "one" / record).read_bytes()


@pytest.mark.parametrize("pooling", ["mean", "none"])
@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 7}, {"buckets": [3]}, {"buckets": []}])
def test_batches_and_buckets_change_rounding_alone(tmp_path, pooling, options):
    run(tmp_path / "a", hook_points=BOTH, pooling=pooling)
    run(tmp_path / "b", hook_points=BOTH, pooling=pooling, **options)
    a, b = content(tmp_path / "a"), content(tmp_path / "b")
    for name in BOTH:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=1e-6 * np.abs(a[name]).max())


def test_a_run_goes_on_with_other_batches_and_its_chunks(tmp_path):
    run(tmp_path / "s", process=(0, 2))
    opened = store.open(tmp_path / "s")
    assert opened.pending == (1, 3)
    stamp = (tmp_path / "s/commits/000000.json").stat().st_mtime_ns
    extraction.extract(toy.samples(23), toy.Toy(), tmp_path / "s", batch_size=3, buckets=[4])
    assert store.open(tmp_path / "s").complete
    assert (tmp_path / "s/commits/000000.json").stat().st_mtime_ns == stamp
    found = store.open(tmp_path / "s").numpy("encoder_output")
    np.testing.assert_allclose(found, expected(toy.texts(23), "encoder_output", "mean"), atol=1e-5)


def test_a_complete_store_is_left_alone(tmp_path):
    run(tmp_path / "s")
    encoder = toy.Toy()
    result = run(tmp_path / "s", encoder=encoder)
    assert (result.done, result.bytes, encoder.reads) == (0, 0, 0)
    assert result.complete


# Faults


def test_a_bad_sample_is_told_and_the_rest_goes_on(tmp_path):
    special = {0: "missing", 7: "", 8: "nan", 22: "missing"}
    for pooling in ("mean", "none"):
        result = run(tmp_path / pooling, special=special, pooling=pooling)
        assert result.failed == {
            "s0000": "no such file",
            "s0007": "its text is empty",
            "s0008": "its states at 'encoder_output' are not finite in float32",
            "s0022": "no such file",
        }
        opened = store.open(tmp_path / pooling)
        assert opened.complete
        assert dict(opened.failed) == result.failed
        kept = [text for k, text in enumerate(toy.texts(23)) if k not in special]
        np.testing.assert_allclose(opened.numpy("encoder_output"), expected(kept, "encoder_output", pooling), atol=1e-5)


def test_a_chunk_may_fail_whole(tmp_path):
    result = run(tmp_path / "s", 12, special=dict.fromkeys(range(6), "missing"))
    assert len(result.failed) == 6
    assert store.open(tmp_path / "s").shape("encoder_output") == (6, toy.WIDTH)


def test_what_overflows_on_disk_is_a_failed_sample(tmp_path):
    assert not run(tmp_path / "wide", special={3: "huge"}).failed
    result = run(tmp_path / "s", special={3: "huge"}, dtype="float16")
    assert result.failed == {"s0003": "its states at 'encoder_output' are not finite in float16"}


@pytest.mark.parametrize(("text", "reason"), [("missing", "no such file"), ("nan", "its states at 'encoder_output'")])
def test_strict_stops_at_the_sample(tmp_path, text, reason):
    with pytest.raises(extraction.ExtractionError, match=f"sample 's0014': {reason}.*12 samples of this run are comm"):
        run(tmp_path / "s", special={14: text}, strict=True)
    opened = store.open(tmp_path / "s")
    assert opened.pending == (2, 3)
    assert not opened.failed
    assert run(tmp_path / "s", special={14: text}).complete


def test_failed_samples_are_run_again_on_request(tmp_path):
    class Mended(toy.Toy):
        def read(self, sample):
            return super().read(toy.Sample(sample.id, sample.labels, "found") if sample.text == "missing" else sample)

    run(tmp_path / "s", special={7: "missing"})
    assert run(tmp_path / "s", special={7: "missing"}, encoder=Mended()).failed  # committed is committed
    result = run(tmp_path / "s", special={7: "missing"}, encoder=Mended(), retry=True)
    assert (result.done, result.failed) == (6, {})
    texts = toy.texts(23)
    texts[7] = "found"
    np.testing.assert_allclose(
        store.open(tmp_path / "s").numpy("encoder_output"), expected(texts, "encoder_output", "mean"), atol=1e-5
    )


def test_a_fault_of_the_program_is_no_failed_sample(tmp_path):
    with pytest.raises(TypeError, match="a fault of the program"):
        run(tmp_path / "s", special={8: "bug"})
    assert store.open(tmp_path / "s").pending == (1, 2, 3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gmijax-read")]


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_chunk_is_found_and_redone(tmp_path, damage):
    run(tmp_path / "s")
    before = content(tmp_path / "s")["encoder_output"]
    file = tmp_path / "s/states/encoder_output/000002/c/0/0"
    whole = bytearray(file.read_bytes())
    if damage == "cut":
        whole = whole[: len(whole) // 2]
    else:
        whole[len(whole) // 2] ^= 255
    file.write_bytes(whole)
    assert [*store.verify(tmp_path / "s", forget=True).damaged] == [2]
    assert run(tmp_path / "s").done == 6
    assert store.verify(tmp_path / "s").sound
    np.testing.assert_array_equal(content(tmp_path / "s")["encoder_output"], before)


def test_a_chunk_that_was_cut_short_is_redone_without_verify(tmp_path):
    run(tmp_path / "s")
    file = tmp_path / "s/states/encoder_output/000001/c/0/0"
    file.write_bytes(file.read_bytes()[:-3])
    assert run(tmp_path / "s").done == 6
    assert store.verify(tmp_path / "s").sound


def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path, monkeypatch):
    commit, calls = store.Store.commit, []

    def full(self, chunk, states, **options):
        calls.append(chunk)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        commit(self, chunk, states, **options)

    monkeypatch.setattr(store.Store, "commit", full)
    with pytest.raises(OSError, match="No space left on device; 12 samples of this run are committed: make room"):
        run(tmp_path / "s")
    monkeypatch.undo()
    assert store.open(tmp_path / "s").pending == (2, 3)
    assert run(tmp_path / "s").done == 11
    assert store.verify(tmp_path / "s").sound


def test_an_interrupt_leaves_what_is_committed(tmp_path):
    def interrupt(stage, done, total):
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "s", progress=interrupt)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("gmijax-read")]
    assert store.open(tmp_path / "s").pending == (2, 3)
    assert run(tmp_path / "s").complete


# Reading and telling


def test_reading_is_ahead_by_so_much_and_no_more():
    read, gate = [], threading.Event()

    def slow(item):
        read.append(item)
        return item

    stream = _extract.read_ahead(slow, range(100), readers=2, ahead=5)
    first = next(stream)
    assert first[1].result() == 0
    gate.wait(0.05)
    assert len(read) <= 6
    assert [first[0], *(item for item, _ in stream)] == [*range(100)]


def test_progress_counts_this_processs_samples(tmp_path):
    seen = []
    run(tmp_path / "s", process=(0, 2), progress=lambda *state: seen.append(state))
    assert seen[0] == ("samples", 0, 12)
    assert seen[-1] == ("samples", 12, 12)
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    seen.clear()
    run(tmp_path / "s", progress=lambda *state: seen.append(state))
    assert seen[0] == ("samples", 12, 23)


def test_the_estimate_says_what_is_written(tmp_path):
    arguments = (toy.samples(23, {5: "missing"}), toy.Toy(), tmp_path / "s")
    sizes = {"hook_points": BOTH, "dtype": "bfloat16", "batch_size": 23}
    before = extraction.estimate(*arguments, **sizes)
    assert not (tmp_path / "s").exists()
    assert (before.samples, before.pending, before.rows, before.bytes) == (23, 23, 23, 23 * 2 * toy.WIDTH * 2)
    assert before.timed == 22
    assert before.seconds > 0
    assert before.compile_seconds >= 0
    untimed = extraction.estimate(*arguments, **sizes, time_batch=False)
    assert (untimed.bytes, untimed.seconds, untimed.timed) == (before.bytes, None, 0)
    tokens = extraction.estimate(*arguments, **sizes, pooling="none")
    assert tokens.rows == pytest.approx(sum(map(len, toy.texts(23))), rel=0.1)
    assert extraction.estimate(*arguments, **sizes, pooling="none", time_batch=False).bytes is None
    run(tmp_path / "s", special={5: "missing"}, hook_points=BOTH, dtype="bfloat16", process=(0, 2))
    after = extraction.estimate(*arguments, **sizes)
    assert (after.pending, after.rows) == (11, 11)


# What is refused


def test_another_runs_store_is_refused(tmp_path):
    run(tmp_path / "s")
    with pytest.raises(store.StoreError, match="pooling is 'mean', not 'last'"):
        run(tmp_path / "s", pooling="last")
    with pytest.raises(store.StoreError, match="it holds 23 samples, and the 24 given are others"):
        run(tmp_path / "s", 24)
    other = toy.Toy()
    other.identity = extraction.Identity("toy", checkpoint="f00d", preprocessing="characters")
    with pytest.raises(store.StoreError, match="checkpoint is '', not 'f00d'"):
        run(tmp_path / "s", encoder=other)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pooling": "max"}, "pooling must be one of 'mean'"),
        ({"dtype": "int8"}, "dtype 'int8' is not one of bfloat16"),
        ({"hook_points": ["llm_final"]}, "unknown hook_points.*valid are encoder_output"),
        ({"hook_points": []}, "hook_points are empty; name at least one"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"buckets": [0]}, "every one of buckets must be a whole number"),
        ({"buckets": [9]}, "buckets hold 9; the encoder takes up to 8"),
        ({"chunk_samples": 0}, "chunk_samples = 0: must be positive"),
        ({"process": (2, 2)}, r"process = \(2, 2\): the index must lie between 0 and 1"),
    ],
)
def test_bad_options_are_refused(tmp_path, options, words):
    with pytest.raises(ValueError, match=words):
        run(tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_a_data_set_without_what_is_taken_is_refused(tmp_path):
    silent = [toy.Sample("a", {}, None)]
    with pytest.raises(extraction.ExtractionError, match="no sample of the data set has a text"):
        extraction.extract(silent, toy.Toy(), tmp_path / "s")
    with pytest.raises(extraction.ExtractionError, match="has no samples"):
        extraction.extract([], toy.Toy(), tmp_path / "s")
    with pytest.raises(extraction.ExtractionError, match="none of 2 samples can be read; the last was sample 's0001'"):
        extraction.estimate(toy.samples(2, {0: "missing", 1: "missing"}), toy.Toy(), tmp_path / "s")


def test_the_manifest_says_nothing_of_speed(tmp_path):
    run(tmp_path / "s")
    spec = json.loads((tmp_path / "s/manifest.json").read_text())["spec"]
    assert not {"batch_size", "buckets", "process"} & {*spec}
