"""Processes that are really killed, and a disk that is really full."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gmijax import store

WRITER = """
import sys, time
import numpy as np
from gmijax import store
opened = store.open(sys.argv[1])
size = opened.spec.chunk_samples
print("ready", flush=True)
for chunk in opened.pending:
    rows = np.concatenate([np.random.default_rng(k).standard_normal((1, 64)).astype(np.float32)
                           for k in range(chunk * size, min((chunk + 1) * size, opened.samples))])
    opened.commit(chunk, {"h": rows})
    print(chunk, flush=True)
"""


def _run_and_kill(path, seconds):
    """Writes for a while after it is ready, and returns the chunks that it said were committed."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    said, _ = process.communicate()
    return {int(line) for line in said.splitlines() if line.strip() and line.endswith(line.strip())}


def _kill_often(tmp_path, kills, chunks, samples, state):
    spec = store.Spec("m", {"h": 64}, chunk_samples=8)
    store.create(tmp_path / "s", spec, samples(8 * chunks - 3))
    draw, said, interrupted = random.Random(0), set(), 0
    for _ in range(kills):
        said |= _run_and_kill(tmp_path / "s", draw.uniform(0, 0.08))
        opened = store.open(tmp_path / "s")
        assert not said & {*opened.pending}, "a chunk that was said to be committed is lost"
        assert not opened.damaged
        interrupted += bool(opened.pending)
        assert store.verify(tmp_path / "s").sound
    assert interrupted >= kills // 2, "too few kills came before the end; the test shows little"
    subprocess.run([sys.executable, "-c", WRITER, str(tmp_path / "s")], capture_output=True, check=True)
    opened = store.open(tmp_path / "s")
    assert opened.complete
    expected = np.concatenate([state(k, 64) for k in range(opened.samples)])
    np.testing.assert_array_equal(opened.numpy("h"), expected)
    assert store.verify(tmp_path / "s").sound


def test_kills_lose_nothing_committed(tmp_path, samples, state):
    _kill_often(tmp_path, 3, 400, samples, state)


@pytest.mark.slow
def test_twenty_kills_lose_nothing_committed(tmp_path, samples, state):
    _kill_often(tmp_path, 20, 1000, samples, state)


def test_a_full_disk_keeps_what_is_committed(tmp_path, samples):
    spec = store.Spec("m", {"h": 64}, chunk_samples=8)
    opened = store.create(tmp_path / "s", spec, samples(16))
    opened.commit(0, {"h": np.ones((8, 64))})
    code = """
import resource, sys
import numpy as np
from gmijax import store
opened = store.open(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    opened.commit(1, {"h": np.random.default_rng(0).standard_normal((8, 64))})
except OSError as error:
    print("told:", error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "s")], capture_output=True, text=True, check=True)
    assert "told: chunk 1" in done.stdout
    assert "cannot be written" in done.stdout
    opened = store.open(tmp_path / "s")
    assert opened.pending == (1,)
    assert store.verify(opened.path).sound
    opened.commit(1, {"h": np.full((8, 64), 2.0)})
    np.testing.assert_array_equal(store.open(opened.path).numpy("h")[:, 0], [1.0] * 8 + [2.0] * 8)


def test_a_killed_creation_is_taken_up(tmp_path, samples):
    spec = store.Spec("m", {"h": 2})
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "samples.jsonl").write_text("half")
    (tmp_path / "s" / ".manifest.json.x1").write_text("half")
    opened = store.create(tmp_path / "s", spec, samples(2))
    opened.commit(0, {"h": np.ones((2, 2))})
    assert store.verify(opened.path).sound
    assert os.listdir(tmp_path / "s" / "commits") == ["000000.json"]
