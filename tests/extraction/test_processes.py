"""Extractions in processes of their own: beside each other, killed, and on a full disk."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy

from gmijax import extraction, store

RUN = """
import sys
sys.path.insert(0, sys.argv[1])
import toy
from gmijax import extraction
path, index, count, seconds = sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
process = (index, count) if count else None
print("ready", flush=True)
progress = lambda stage, done, total: print(done, flush=True)
done = extraction.extract(toy.samples(160), toy.Toy(seconds=seconds), path, batch_size=4, chunk_samples=8,
                          process=process, progress=progress)
print(done.done, flush=True)
"""
DISTRIBUTED = (
    """
import sys
import jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[6]}", num_processes=2, process_id=int(sys.argv[3]))
sys.argv[4] = "0"
"""
    + RUN
)


def start(path, index=0, count=1, seconds=0.0, code=RUN, port=0):
    arguments = [str(Path(__file__).parent), str(path), *map(str, (index, count, seconds, port))]
    return subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)


def finish(process):
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return int(said.split()[-1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The store of one undisturbed process."""
    path = tmp_path_factory.mktemp("whole") / "s"
    extraction.extract(toy.samples(160), toy.Toy(), path, batch_size=4, chunk_samples=8)
    return path


def assert_same(path, whole):
    assert store.open(path).complete
    assert store.verify(path).sound
    np.testing.assert_array_equal(store.open(path).numpy("encoder_output"), store.open(whole).numpy("encoder_output"))
    for record in (whole / "commits").iterdir():
        assert (path / "commits" / record.name).read_bytes() == record.read_bytes()


def kill_often(path, kills, whole):
    draw, interrupted = random.Random(1), 0
    committed = 0
    for _ in range(kills):
        process = start(path, seconds=0.02)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(draw.uniform(0.1, 1.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (path / "manifest.json").exists():
            opened = store.open(path)
            assert not opened.damaged
            assert len(opened) >= committed, "committed samples are lost"
            committed = len(opened)
            interrupted += bool(opened.pending)
    assert interrupted >= kills // 2, "too few kills came before the end; the test shows little"
    assert finish(start(path)) == 160 - committed
    assert_same(path, whole)


@pytest.mark.slow
def test_two_processes_write_one_store(tmp_path, whole):
    both = [start(tmp_path / "s", index, 2) for index in (0, 1)]
    assert [finish(process) for process in both] == [80, 80]
    assert_same(tmp_path / "s", whole)


def test_a_run_that_is_killed_and_goes_on(tmp_path, whole):
    process = start(tmp_path / "s", seconds=0.02)
    assert process.stdout is not None
    while process.stdout.readline().strip() != "80":
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    opened = store.open(tmp_path / "s")
    assert 80 <= len(opened) < 160
    result = extraction.extract(toy.samples(160), toy.Toy(), tmp_path / "s", batch_size=4)
    assert result.done == 160 - len(opened)
    assert_same(tmp_path / "s", whole)


@pytest.mark.slow
def test_a_run_that_is_killed_five_times_and_goes_on(tmp_path, whole):
    kill_often(tmp_path / "s", 5, whole)


@pytest.mark.slow
def test_processes_of_jax_distributed_share_the_chunks(tmp_path, whole):
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [start(tmp_path / "s", index, 2, code=DISTRIBUTED, port=port) for index in (0, 1)]
    assert [finish(process) for process in both] == [80, 80]
    assert_same(tmp_path / "s", whole)


@pytest.mark.slow
def test_a_disk_that_is_really_full(tmp_path, whole):
    code = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import toy
from gmijax import extraction

def fill(stage, done, total):
    if done >= 24:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

try:
    extraction.extract(toy.samples(160), toy.Toy(), sys.argv[2], batch_size=4, chunk_samples=8, progress=fill)
except OSError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    assert "cannot be written" in done.stdout
    assert "24 samples of this run are committed: make room and run it again" in done.stdout
    opened = store.open(tmp_path / "s")
    assert len(opened) == 24
    assert store.verify(tmp_path / "s").sound
    extraction.extract(toy.samples(160), toy.Toy(), tmp_path / "s", batch_size=4)
    assert_same(tmp_path / "s", whole)
